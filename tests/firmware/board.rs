//! The boards: whether they are here, building for them, running on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What `check` and `partition` need.
pub const ALL_TYPES: &str = "f32,f16,bf16,q8,q4";
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/firmware");

/// A target and where it runs.
pub struct Board {
    pub target: &'static str,
    /// Where the region `IMAGE` lies.
    pub partition: u32,
    /// Without a floating-point unit, a model of a megabyte whose weights are floating-point numbers takes minutes.
    pub float_unit: bool,
}

pub const M0: Board = Board { target: "thumbv6m-none-eabi", partition: 0x2100_0000, float_unit: false };
pub const M3: Board = Board { target: "thumbv7m-none-eabi", partition: 0x2100_0000, float_unit: false };
pub const M4F: Board = Board { target: "thumbv7em-none-eabihf", partition: 0x2100_0000, float_unit: true };
pub const RV32IMAC: Board = Board { target: "riscv32imac-unknown-none-elf", partition: 0x8100_0000, float_unit: false };
pub const RV32IMAFC: Board =
    Board { target: "riscv32imafc-unknown-none-elf", partition: 0x8100_0000, float_unit: true };

impl Board {
    /// Whether this machine can build for the board and run it. If not, that is said; in CI it fails.
    pub fn is_here(&self, what: &str) -> bool {
        let qemu = &self.runner()[0];
        let answer = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).current_dir(PACKAGE).output().ok();
            output.filter(|output| output.status.success())
        };
        let library = answer("rustc", &["--print", "target-libdir", "--target", self.target])
            .map(|output| PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()));
        let missing = match library {
            Some(library) if library.is_dir() && answer(qemu, &["--version"]).is_some() => return true,
            Some(library) if library.is_dir() => qemu.clone(),
            _ => format!("the Rust target {}", self.target),
        };
        assert!(std::env::var_os("CI").is_none(), "{missing} is missing, and CI is set");
        eprintln!("not checked, {missing} is missing: {what}");
        false
    }

    /// The command that runs a program on the board, as `cargo run` in the package does it.
    fn runner(&self) -> Vec<String> {
        let config = fs::read_to_string(format!("{PACKAGE}/.cargo/config.toml")).unwrap();
        let (_, section) = config.split_once(&format!("[target.{}]", self.target)).unwrap();
        let command = section.lines().find_map(|line| line.strip_prefix("runner = ")).unwrap();
        command.trim_matches('"').split(' ').map(String::from).collect()
    }

    /// Builds a program and returns where it is, or what the compiler and the linker said.
    pub fn build(&self, program: &str, opt_level: &str, features: &str) -> Result<PathBuf, String> {
        // One build at a time: the next one may put another program at the same place.
        static BUILDS: Mutex<()> = Mutex::new(());
        let _build = BUILDS.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("firmware");
        let output = Command::new(env!("CARGO"))
            .args(["build", "--release", "--locked", "--quiet", "--no-default-features"])
            .args(["--features", features, "--target", self.target, "--bin", program, "--target-dir"])
            .arg(&folder)
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", opt_level)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("POCKETLM_IMAGE")
            .current_dir(PACKAGE)
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let copy = folder.join(format!("{}-{program}-{opt_level}", self.target));
        fs::copy(folder.join(self.target).join("release").join(program), &copy).unwrap();
        Ok(copy)
    }

    /// Runs a program to its end, with `images` in the partition, and returns what it printed.
    pub fn run(&self, program: &str, images: &[u8]) -> String {
        let features = if program == "blocks" { "f32,f16,bf16,q8,q4,blocks" } else { ALL_TYPES };
        let elf = self.build(program, "s", features).unwrap_or_else(|error| panic!("{error}"));
        let (printed, loaded) = (elf.with_extension("out"), elf.with_extension("images"));
        let mut command = self.runner();
        if !images.is_empty() {
            fs::write(&loaded, images).unwrap();
            let device = format!("loader,file={},addr={:#x},force-raw=on", loaded.display(), self.partition);
            command.splice(command.len() - 1..command.len() - 1, [String::from("-device"), device]);
        }
        let mut qemu = Command::new(&command[0])
            .args(&command[1..])
            .arg(&elf)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&printed).unwrap())
            .spawn()
            .unwrap();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = qemu.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > Duration::from_secs(600) {
                qemu.kill().unwrap();
                qemu.wait().unwrap();
                panic!("{program} on {} does not end", self.target);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let printed = fs::read_to_string(printed).unwrap();
        assert!(status.success(), "{program} on {}: {status}\n{printed}", self.target);
        printed
    }
}
