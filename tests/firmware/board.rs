//! The boards: whether they are here, building for them, running on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// The features of all types of weights.
macro_rules! all_types {
    () => {
        "f32,f16,bf16,q8,q6,q5,q4,nl4,nl3"
    };
}

/// What `check` and `partition` need.
pub const ALL_TYPES: &str = concat!(all_types!(), ",convolution");
/// All types of weights and all tokenizers.
pub const EVERYTHING: &str = concat!(all_types!(), ",nfc");
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/firmware");

/// A board, which `boards/` in the package says how to build for and how to run.
pub struct Board {
    pub name: &'static str,
    pub target: &'static str,
    /// Where the region `IMAGE` lies; WebAssembly has none.
    partition: Option<u32>,
    /// The feature of the kernels, where the portable ones are not meant.
    kernels: Option<&'static str>,
}

const fn board(name: &'static str, target: &'static str, partition: Option<u32>) -> Board {
    Board {
        name,
        target,
        partition,
        kernels: None,
    }
}

pub const M0: Board = board("mps2_an385_armv6m", "thumbv6m-none-eabi", Some(0x2100_0000));
pub const M3: Board = board("mps2_an385", "thumbv7m-none-eabi", Some(0x2100_0000));
pub const M4F: Board = board("mps2_an386", "thumbv7em-none-eabihf", Some(0x2100_0000));
pub const M7: Board = board("mps2_an500", "thumbv7em-none-eabihf", Some(0x6000_0000));
pub const M33: Board = board("mps2_an521", "thumbv8m.main-none-eabihf", Some(0x8000_0000));
pub const M55: Board = board("mps3_an547", "thumbv8m.main-none-eabihf", Some(0x7000_0000));
pub const RV32IMAC: Board = board(
    "virt_riscv32imac",
    "riscv32imac-unknown-none-elf",
    Some(0x8100_0000),
);
pub const RV32IMAFC: Board = board(
    "virt_riscv32imafc",
    "riscv32imafc-unknown-none-elf",
    Some(0x8100_0000),
);
pub const RV64GC: Board = board(
    "virt_riscv64gc",
    "riscv64gc-unknown-none-elf",
    Some(0x8100_0000),
);
pub const AARCH64: Board = board("virt_aarch64", "aarch64-unknown-none", Some(0x4400_0000));
pub const WASM: Board = board("wasm32", "wasm32-unknown-unknown", None);

pub const ALL: [Board; 11] = [
    M0, M3, M4F, M7, M33, M55, RV32IMAC, RV32IMAFC, RV64GC, AARCH64, WASM,
];

/// A target folder that nobody else builds in until the guard is dropped: the next build may put
/// another program at the same place. There are two: a program is linked on one core, and meanwhile
/// another can be built.
fn target_folder() -> (PathBuf, MutexGuard<'static, ()>) {
    static BUILDS: [Mutex<()>; 2] = [const { Mutex::new(()) }; 2];
    let free = |build: &'static Mutex<()>| match build.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    match free(&BUILDS[1]) {
        Some(guard) => (folder.join("firmware-2"), guard),
        None => {
            let guard = BUILDS[0].lock().unwrap_or_else(PoisonError::into_inner);
            (folder.join("firmware"), guard)
        }
    }
}

impl Board {
    /// The board with the kernels of a feature.
    pub const fn with(self, kernels: &'static str) -> Board {
        Board {
            kernels: Some(kernels),
            ..self
        }
    }

    /// The board's name, and its kernels where they are not the portable ones.
    pub fn title(&self) -> String {
        self.kernels.map_or_else(
            || self.name.into(),
            |kernels| format!("{}-{kernels}", self.name),
        )
    }

    /// Whether this machine can build for the board and run it. If not, that is said; in CI it
    /// fails.
    pub fn is_here(&self, what: &str) -> bool {
        let machine = &self.runner()[0];
        let answer = |program: &str, arguments: &[&str]| {
            let output = Command::new(program)
                .args(arguments)
                .current_dir(PACKAGE)
                .output()
                .ok();
            output.filter(|output| output.status.success())
        };
        let library = answer(
            "rustc",
            &["--print", "target-libdir", "--target", self.target],
        )
        .map(|output| PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()));
        let missing = match library {
            Some(library) if library.is_dir() && answer(machine, &["--version"]).is_some() => {
                return true;
            }
            Some(library) if library.is_dir() => machine.clone(),
            _ => format!("the Rust target {}", self.target),
        };
        assert!(
            std::env::var_os("CI").is_none(),
            "{missing} is missing, and CI is set"
        );
        eprintln!("not checked, {missing} is missing: {what}");
        false
    }

    /// What cargo is told about the board.
    fn config(&self) -> String {
        format!("{PACKAGE}/boards/{}.toml", self.name)
    }

    /// The command that runs a program on the board, as `cargo run` in the package does it.
    fn runner(&self) -> Vec<String> {
        let config = fs::read_to_string(self.config()).unwrap();
        let command = config
            .lines()
            .find_map(|line| line.split_once(".runner = "))
            .unwrap()
            .1;
        command
            .trim_matches('"')
            .split(' ')
            .map(String::from)
            .collect()
    }

    /// Builds a program and returns where it is, or what the compiler and the linker said.
    pub fn build(&self, program: &str, opt_level: &str, features: &str) -> Result<PathBuf, String> {
        self.build_with(None, program, opt_level, features)
    }

    /// The same with an image in place of the story.
    pub fn build_with(
        &self,
        image: Option<&Path>,
        program: &str,
        opt_level: &str,
        features: &str,
    ) -> Result<PathBuf, String> {
        let (folder, _build) = target_folder();
        let features = [features, self.kernels.unwrap_or_default()].join(",");
        let mut command = Command::new(env!("CARGO"));
        command
            .args([
                "rustc",
                "--release",
                "--locked",
                "--quiet",
                "--no-default-features",
            ])
            .args([
                "--features",
                &features,
                "--bin",
                program,
                "--config",
                &self.config(),
                "--target-dir",
            ])
            .arg(&folder)
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", opt_level)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("POCKETLM_BOARD")
            .env_remove("POCKETLM_IMAGE")
            .envs(image.map(|image| ("POCKETLM_IMAGE", image)))
            .current_dir(PACKAGE);
        if program == "proof" {
            // The proof asks which constants are addresses.
            command.args(["--", "-Clink-arg=--emit-relocs"]);
        }
        let output = command.output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let features = features.replace(',', "_");
        let copy = format!("{}-{program}-{opt_level}-{features}", self.title());
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(copy);
        let built = folder.join(self.target).join("release").join(program);
        let extension = if self.target.starts_with("wasm32") {
            "wasm"
        } else {
            ""
        };
        fs::copy(built.with_extension(extension), &copy).unwrap();
        Ok(copy)
    }

    /// Runs a program to its end, with `images` in the partition, and returns what it printed.
    pub fn run(&self, program: &str, images: &[u8]) -> String {
        let features = if program == "blocks" {
            concat!(all_types!(), ",convolution,blocks")
        } else {
            ALL_TYPES
        };
        let elf = self
            .build(program, "s", features)
            .unwrap_or_else(|error| panic!("{error}"));
        String::from_utf8(self.run_built(&elf, images)).unwrap()
    }

    /// Runs what [`build`](Board::build) returned. The machine counts instructions, so a run is
    /// the same each time: a program with the images and the machine of its last run is not run
    /// again.
    pub fn run_built(&self, elf: &Path, images: &[u8]) -> Vec<u8> {
        let loaded = elf.with_extension("images");
        let command = self.command(elf, (!images.is_empty()).then_some(&*loaded));
        let version = Command::new(&command[0]).arg("--version").output().unwrap();
        let machine = [command.join(" ").into_bytes(), version.stdout].concat();
        let printed = elf.with_extension("out");
        let inputs = [
            (elf.with_extension("ran"), fs::read(elf).unwrap()),
            (elf.with_extension("machine"), machine),
            (loaded, images.to_vec()),
        ];
        let is_last =
            |(path, bytes): &(PathBuf, Vec<u8>)| fs::read(path).ok().as_ref() == Some(bytes);
        // What Node runs is short, and a script is part of that machine.
        if self.partition.is_some()
            && inputs.iter().all(is_last)
            && let Ok(printed) = fs::read(&printed)
        {
            return printed;
        }
        _ = fs::remove_file(&printed);
        for (path, bytes) in inputs {
            fs::write(path, bytes).unwrap();
        }
        let output = self.run_machine(&command, &elf.with_extension("printing"));
        fs::write(printed, &output).unwrap();
        output
    }

    /// The command that runs a program with the images of a file.
    fn command(&self, elf: &Path, images: Option<&Path>) -> Vec<String> {
        let mut command = self.runner();
        command.push(elf.display().to_string());
        let Some(images) = images.map(Path::display) else {
            return command;
        };
        match self.partition {
            Some(at) => {
                let device = format!("loader,file={images},addr={at:#x},force-raw=on");
                command.splice(1..1, [String::from("-device"), device]);
            }
            None => command.push(images.to_string()),
        }
        command
    }

    /// Runs a command to its end and returns what it printed.
    fn run_machine(&self, command: &[String], printed: &Path) -> Vec<u8> {
        let mut machine = Command::new(&command[0])
            .args(&command[1..])
            .current_dir(PACKAGE)
            .stdin(Stdio::null())
            .stdout(fs::File::create(printed).unwrap())
            .spawn()
            .unwrap();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = machine.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > Duration::from_secs(900) {
                machine.kill().unwrap();
                machine.wait().unwrap();
                panic!("{} does not end: {}", self.title(), command.join(" "));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let printed = fs::read(printed).unwrap();
        assert!(
            status.success(),
            "{}: {status}: {}\n{}",
            self.title(),
            command.join(" "),
            String::from_utf8_lossy(&printed)
        );
        printed
    }
}
