//! The firmware in `examples/firmware`, in QEMU: what a board computes is, bit for bit, what this machine computes; the
//! story is the same text; and no panic can be reached in what is linked.
#![cfg(feature = "std")]

mod common;
#[path = "../examples/firmware/src/sequence.rs"]
mod sequence;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::random::{self, Memory, Numbers};
use object::{Object, ObjectSection, ObjectSymbol};
use pocketlm::host::AlignedBytes;
use pocketlm::import::{self, PackOptions};
use pocketlm::model::{DType, Kv, Model};
use pocketlm::run::{Digest, Plan, Session, Solo, Step};
use sequence::{BATCH, BUDGET, CONTEXT, tokens};

static STORY: &[u8] = pocketlm::include_image!("../src/bin/pocketlm/story/story.plm");
const ALL_TYPES: &str = "f32,f16,bf16,q8,q4";
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/firmware");

struct Board {
    target: &'static str,
    /// Where the region `IMAGE` lies.
    partition: u32,
    /// Without a floating-point unit, a model of a megabyte whose weights are floating-point numbers takes minutes.
    float_unit: bool,
}

const M0: Board = Board { target: "thumbv6m-none-eabi", partition: 0x2100_0000, float_unit: false };
const M3: Board = Board { target: "thumbv7m-none-eabi", partition: 0x2100_0000, float_unit: false };
const M4F: Board = Board { target: "thumbv7em-none-eabihf", partition: 0x2100_0000, float_unit: true };
const RV32IMAC: Board = Board { target: "riscv32imac-unknown-none-elf", partition: 0x8100_0000, float_unit: false };
const RV32IMAFC: Board = Board { target: "riscv32imafc-unknown-none-elf", partition: 0x8100_0000, float_unit: true };

impl Board {
    /// Whether this machine can build for the board and run it. If not, that is said; in CI it fails.
    fn is_here(&self, what: &str) -> bool {
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
    fn build(&self, program: &str, opt_level: &str, features: &str) -> Result<PathBuf, String> {
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
    fn run(&self, program: &str, images: &[u8]) -> String {
        let elf = self.build(program, "s", ALL_TYPES).unwrap_or_else(|error| panic!("{error}"));
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

/// The lines that `report.rs` prints, computed here.
fn expected(image: &[u8]) -> Vec<String> {
    let model = Model::open(image).unwrap();
    let tokens = tokens(model.config().vocab_size);
    let mut lines = vec![format!("image {:08x}", model.checksum())];
    for kv in Kv::ALL {
        let name = kv.dtype().name();
        let plan = Plan::new(model.header()).context(CONTEXT).batch(BATCH).kv(kv);
        lines.push(format!("arena {name} {}", plan.bytes()));
        let mut arena = AlignedBytes::zeroed(plan.bytes());
        let mut session = Session::new(&model, &plan, &mut arena, &Solo).unwrap();
        let digest = |logits: &[f32]| {
            let mut digest = Digest::new();
            digest.update(logits);
            digest.value()
        };
        let each = |index, logits: &mut [f32]| lines.push(format!("logits {name} {index} {:016x}", digest(logits)));
        session.feed_each(&tokens, each).unwrap();
        session.reset();
        session.start(&tokens).unwrap();
        let sliced = loop {
            if let Step::Done(logits) = session.step(BUDGET).unwrap() {
                break digest(logits);
            }
        };
        lines.push(format!("sliced {name} {sliced:016x}"));
    }
    lines
}

/// The most stack that opening an image, or any call of a session, may take.
const STACK_LIMIT: usize = 2560;

/// Parts what a board printed into the lines that must be the host's, and the costs, which are printed and, as to the
/// stack, checked.
fn results(board: &Board, printed: &str) -> Vec<String> {
    let (costs, results): (Vec<&str>, Vec<&str>) = printed.lines().partition(|line| line.starts_with("cost "));
    for cost in costs {
        println!("{}: {cost}", board.target);
        if let Some((_, stack)) = cost.split_once(" stack ") {
            assert!(stack.parse::<usize>().unwrap() <= STACK_LIMIT, "{}: {cost}", board.target);
        }
    }
    results.into_iter().map(String::from).collect()
}

/// Small models with every knob of the config, in every type of weights.
fn small_images() -> Vec<AlignedBytes> {
    let seeds = 0..10_u64;
    seeds
        .map(|seed| {
            let checkpoint = Memory::new(random::any(&mut Numbers::new(seed)), seed);
            checkpoint.pack(DType::ALL[seed as usize % DType::ALL.len()])
        })
        .collect()
}

/// The story model in the types it was not built in with.
fn story_images(board: &Board) -> Vec<AlignedBytes> {
    let Some(shared) = common::shared("the story model in other types of weights on boards") else { return Vec::new() };
    let checkpoint = import::open(&shared.join("models/story")).unwrap();
    let types: &[DType] = if board.float_unit { &[DType::Q4, DType::F16, DType::F32] } else { &[DType::Q4] };
    let pack = |&dtype: &DType| {
        let options = PackOptions { dtype: Some(dtype), ..PackOptions::default() };
        import::pack_to_memory(&*checkpoint, &options, &mut |_, _| ()).unwrap()
    };
    types.iter().map(pack).collect()
}

fn computes_the_bits_of_the_host(board: &Board) {
    if !board.is_here("digests of the logits on a board") {
        return;
    }
    assert_eq!(results(board, &board.run("check", &[])), expected(STORY), "{}: the image in the program", board.target);

    let images: Vec<AlignedBytes> = small_images().into_iter().chain(story_images(board)).collect();
    let expected: Vec<String> = images.iter().flat_map(|image| expected(image)).collect();
    let found =
        results(board, &board.run("partition", &images.iter().map(|image| &image[..]).collect::<Vec<_>>().concat()));
    assert_eq!(found, expected, "{}: images in a partition", board.target);
}

fn tells_the_story_of_the_host(board: &Board) {
    if board.is_here("the story on a board") {
        assert_eq!(board.run("story", &[]), include_str!("data/story.txt"), "{}", board.target);
    }
}

#[test]
fn armv6m_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&M0);
}

#[test]
fn a_cortex_m3_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&M3);
}

#[test]
fn a_cortex_m4f_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&M4F);
}

#[test]
fn rv32imac_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&RV32IMAC);
}

#[test]
fn rv32imafc_computes_the_bits_of_the_host() {
    computes_the_bits_of_the_host(&RV32IMAFC);
}

#[test]
fn every_board_tells_the_story_of_the_host() {
    for board in [M0, M3, M4F, RV32IMAC, RV32IMAFC] {
        tells_the_story_of_the_host(&board);
    }
}

/// Links the program that links only without a panic, and returns its bytes of code: core, tokenizer, sampler, startup.
fn linked_without_a_panic(board: &Board, opt_level: &str, features: &str) -> Option<u64> {
    if !board.is_here("that no panic can be reached in linked firmware") {
        return None;
    }
    let elf = board.build("proof", opt_level, features).unwrap_or_else(|error| {
        panic!("a panic can be reached on {} at opt-level {opt_level}, or it does not build:\n{error}", board.target)
    });
    let bytes = fs::read(elf).unwrap();
    let elf = object::File::parse(&*bytes).unwrap();
    let names: Vec<&str> = elf.symbols().filter_map(|symbol| symbol.name().ok()).collect();
    assert!(names.iter().any(|name| name.contains("pocketlm")), "the program has no symbols");
    for word in ["panic", "rust_alloc", "rust_realloc", "malloc", "unwind"] {
        let found: Vec<_> = names.iter().filter(|name| name.contains(word)).collect();
        assert!(found.is_empty(), "{} at opt-level {opt_level}: {found:?}", board.target);
    }
    let text = elf.section_by_name(".text").unwrap().size();
    println!("{}: {features} at opt-level {opt_level}: .text {text}", board.target);
    Some(text)
}

#[test]
fn no_panic_and_no_allocator_is_linked_for_armv6m() {
    for opt_level in ["s", "3"] {
        linked_without_a_panic(&M0, opt_level, ALL_TYPES);
    }
}

#[test]
fn no_panic_and_no_allocator_is_linked_for_a_cortex_m4f_and_the_code_stays_below_its_limit() {
    for opt_level in ["s", "3"] {
        linked_without_a_panic(&M4F, opt_level, ALL_TYPES);
    }
    // Weights in q8, keys and values in f32.
    if let Some(text) = linked_without_a_panic(&M4F, "s", "f32,q8") {
        assert!(text <= 60 * 1024, ".text is {text} bytes");
    }
}

#[test]
fn no_panic_and_no_allocator_is_linked_for_rv32imac() {
    for opt_level in ["s", "3"] {
        linked_without_a_panic(&RV32IMAC, opt_level, ALL_TYPES);
    }
}
