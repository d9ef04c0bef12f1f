//! C programs on this machine and on boards: they compute what the Rust programs compute.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::board::{EVERYTHING, M4F, RV32IMAC, RV32IMAFC};
use crate::build::{ROOT, STORY, flags, folder, library, link, plan, plan_for, run, text};

/// What is linked beside the library on this machine.
const HOST: [&str; 4] = ["-lpthread", "-ldl", "-lm", "-g"];
const SANITIZERS: &str = "-fsanitize=address,undefined";

static HOST_LIBRARY: LazyLock<PathBuf> =
    LazyLock::new(|| library(None, &format!("{EVERYTHING},grammar,source,std")));

/// Builds a program for this machine, with the sanitizers in the program and in the library. It may
/// include what is in the folder of its name.
fn host_program(files: &[&str], name: &str) -> PathBuf {
    let mut arguments = flags("c11");
    arguments.push(format!("-I{}", folder(name).display()));
    arguments.extend(["-O1", SANITIZERS, "-fno-sanitize-recover=all"].map(String::from));
    arguments.push(text(&HOST_LIBRARY));
    arguments.extend(HOST.map(String::from));
    let program = folder("host").join(name);
    link("gcc", &arguments, files, &program);
    program
}

#[test]
fn a_c_program_on_the_host_tells_the_story() {
    let program = host_program(&["story.c"], "story");
    let told = run(&text(&program), &[STORY]);
    let expected = fs::read_to_string(Path::new(ROOT).join("tests/data/story.txt")).unwrap();
    assert_eq!(String::from_utf8(told.stdout).unwrap(), expected);
    assert_eq!(String::from_utf8(told.stderr).unwrap(), "");
}

#[test]
fn the_functions_do_what_the_header_says_with_threads_a_source_and_a_grammar_too() {
    use pocketlm::generate::{End, Generation};
    use pocketlm::grammar::{Constraint, Grammar, Vocabulary};
    use pocketlm::model::{Kv, Model};
    use pocketlm::run::{Digest, Plan};
    use pocketlm::sample::Sampler;

    const PROMPT: [u32; 6] = [2, 17, 40, 5, 7, 600];
    let compiled =
        pocketlm::import::grammar::from_regex("(Lily|Tom|The dog) (ran|sat) [a-z]{2,8}[.!]")
            .unwrap();
    let file = folder("host").join("fly.plg");
    fs::write(&file, &compiled).unwrap();
    let limits = ["--context", "64", "--batch", "4", "--kv", "q8"];
    plan(&folder("same"), &limits);
    let program = host_program(&["../../tests/c/same.c"], "same");
    let printed = run(&text(&program), &[STORY, &text(&file)]);

    let story = crate::common::session::STORY;
    let model = Model::open(story).unwrap();
    let plan = Plan::of(story).context(64).batch(4).kv(Kv::Q8);
    let mut arena = crate::common::session::arena_for(&plan);
    let mut session = crate::common::session::session_in(&model, &plan, &mut arena);
    let mut digest = Digest::new();
    digest.update(session.feed(&PROMPT).unwrap());
    session.reset();

    let tokenizer = model.tokenizer().unwrap();
    let grammar = Grammar::open(&compiled).unwrap();
    let vocabulary = Vocabulary::new(&tokenizer);
    let constraint = Constraint::new(&grammar, &vocabulary);
    let mut sampler = Sampler::greedy();
    let generation = Generation::new(&mut session, &mut sampler, &tokenizer, &PROMPT);
    let mut generation = generation.grammar(constraint);
    let mut written = String::new();
    let end = loop {
        if let Some(end) = generation.next(|chunk| written += chunk).unwrap() {
            break end;
        }
    };
    assert_eq!(end, End::Complete);
    let expected = format!("{:016x}\n{written}\n", digest.value());
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), expected);
}

#[test]
fn every_number_of_the_header_has_a_sentence_of_its_own() {
    let program = host_program(&["../../tests/c/errors.c"], "errors");
    let numbers = crate::header::numbers();
    let arguments: Vec<String> = numbers.values().map(u32::to_string).collect();
    let printed = run(&text(&program), &arguments);
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(printed.lines().count(), numbers.len());
    let sentences: BTreeSet<&str> = printed.lines().collect();
    assert_eq!(sentences.len(), numbers.len(), "{printed}");
    assert!(!sentences.contains("unknown number"), "{printed}");
}

/// A board, and how C programs are built for it.
struct Board {
    board: crate::board::Board,
    name: &'static str,
    compiler: &'static str,
    start: &'static str,
    flags: &'static [&'static str],
    /// `memcpy` and its kin, if not those of a library.
    memory: &'static [&'static str],
    /// After the library.
    libraries: &'static [&'static str],
}

const ARM: Board = Board {
    board: M4F,
    name: "mps2_an386",
    compiler: "arm-none-eabi-gcc",
    start: "board/start_arm.c",
    flags: &[
        "-mcpu=cortex-m4",
        "-mthumb",
        "-mfloat-abi=hard",
        "-mfpu=fpv4-sp-d16",
        "--specs=nano.specs",
    ],
    // Those of the C library are larger, and those of our library larger still.
    memory: &["board/memory.S"],
    libraries: &[],
};

const RISCV: Board = Board {
    board: RV32IMAC,
    name: "virt_riscv32",
    compiler: "riscv64-unknown-elf-gcc",
    start: "board/start_riscv.c",
    flags: &[
        "-march=rv32imac_zicsr",
        "-mabi=ilp32",
        "-mcmodel=medany",
        "-ffreestanding",
        "-nostdlib",
    ],
    memory: &[],
    libraries: &["-lgcc"],
};

/// With a floating-point unit, in whose registers floats are passed.
const RISCV_FLOATS: Board = Board {
    board: RV32IMAFC,
    flags: &[
        "-march=rv32imafc_zicsr",
        "-mabi=ilp32f",
        "-mcmodel=medany",
        "-ffreestanding",
        "-nostdlib",
    ],
    ..RISCV
};

impl Board {
    /// Builds a program of `examples/c/board` with a plan for `context`.
    fn build(&self, program: &str, features: &str, more: &[&str], options: &[&str]) -> PathBuf {
        let more_features = more.first().unwrap_or(&"");
        let folder = folder(&format!(
            "{}-{program}-{features}{more_features}",
            self.board.target
        ));
        plan(&folder, options);
        let mut arguments = flags("c11");
        arguments.extend(self.flags.iter().chain(more).map(|flag| flag.to_string()));
        arguments.extend(["-Os", "-ffunction-sections", "-fdata-sections"].map(String::from));
        arguments.extend(["-nostartfiles", "-Wl,--gc-sections"].map(String::from));
        arguments.push(format!("-I{}", folder.display()));
        arguments.push(format!("-I{ROOT}/examples/c/board"));
        arguments.push(format!("-DIMAGE=\"{STORY}\""));
        arguments.push(format!("-L{ROOT}/examples/c/board"));
        arguments.push(format!("-T{}.ld", self.name));
        arguments.push(text(&library(Some(self.board.target), features)));
        arguments.extend(self.libraries.iter().map(|flag| flag.to_string()));
        let elf = folder.join(format!("{program}.elf"));
        let source = format!("board/{program}.c");
        let files = [&source, "board/image.S", "board/semihosting.c", self.start];
        let files = [&files[..], self.memory].concat();
        link(self.compiler, &arguments, &files, &elf);
        elf
    }
}

/// The lines of `check` are those of the Rust program on the same board.
fn computes_what_the_rust_program_computes(board: &Board) {
    let options = ["--context", "80", "--batch", "8"];
    let elf = board.build("check", EVERYTHING, &[], &options);
    let found = String::from_utf8(board.board.run_built(&elf, &[])).unwrap();
    let rust = board.board.run("check", &[]);
    let lines = rust.lines().filter(|line| !line.starts_with("cost "));
    assert_eq!(
        found.lines().collect::<Vec<_>>(),
        lines.collect::<Vec<_>>(),
        "{}",
        board.name
    );
    assert_eq!(found.lines().count(), 1 + 4 * 74);
}

#[test]
fn a_c_program_on_a_cortex_m4f_computes_the_bits_of_the_rust_program() {
    computes_what_the_rust_program_computes(&ARM);
}

#[test]
fn a_c_program_on_rv32imac_computes_the_bits_of_the_rust_program() {
    computes_what_the_rust_program_computes(&RISCV);
}

#[test]
fn a_c_program_on_rv32imafc_computes_the_bits_of_the_rust_program() {
    computes_what_the_rust_program_computes(&RISCV_FLOATS);
}

/// The code of a C firmware may have so many bytes more than that of a Rust firmware, whose
/// references need no checks, and whose calls are inlined.
const MORE: u64 = 2000;

fn has_little_more_code_than_the_rust_program(features: &str, rust_features: &str, more: &[&str]) {
    use object::{Object, ObjectSection, ObjectSymbol};

    let options = ["--context", "256", "--batch", "8"];
    let c = fs::read(ARM.build("proof", features, more, &options)).unwrap();
    let rust = M4F.build("proof", "s", rust_features).unwrap();
    let rust = fs::read(rust).unwrap();
    let [c, rust] = [&c, &rust].map(|bytes| object::File::parse(&**bytes).unwrap());
    let size = |elf: &object::File| {
        let section = elf.section_by_name(".text").unwrap();
        section.size()
    };
    println!(
        "{features}: .text {} in C, {} in Rust",
        size(&c),
        size(&rust)
    );
    assert!(
        size(&c) <= size(&rust) + MORE,
        "{features}: .text has {} bytes in C, {} in Rust",
        size(&c),
        size(&rust)
    );
    let names: Vec<&str> = c
        .symbols()
        .filter_map(|symbol| symbol.name().ok())
        .collect();
    assert!(names.contains(&"plm_open"));
    for word in ["panic", "alloc", "unwind", "3fmt", "sbrk", "printf"] {
        let found: Vec<_> = names.iter().filter(|name| name.contains(word)).collect();
        assert!(found.is_empty(), "{features}: {found:?}");
    }
}

#[test]
fn a_c_firmware_has_no_panic_no_heap_no_formatting_and_little_more_code_than_a_rust_firmware() {
    has_little_more_code_than_the_rust_program(EVERYTHING, EVERYTHING, &[]);
    has_little_more_code_than_the_rust_program("q8", "q8", &[]);
    has_little_more_code_than_the_rust_program("q8", "q8,generate", &["-DGENERATE"]);
}

#[test]
fn a_library_without_sources_refuses_what_needs_one() {
    let check = format!("{ROOT}/tests/c/no_source.c");
    let more = ["-DNO_SOURCE", "-Wl,--wrap=program", &check];
    let elf = ARM.build("proof", "q8", &more, &["--context", "64", "--kv", "q8"]);
    assert_eq!(ARM.board.run_built(&elf, &[]), b"done\n");
}

#[test]
fn memcpy_and_its_kin_of_the_board_do_what_those_of_c_do() {
    let check = format!("{ROOT}/tests/c/memory.c");
    let more = ["-fno-builtin", "-Wl,--wrap=program", &check];
    let elf = ARM.build("proof", "q8", &more, &["--context", "64", "--kv", "q8"]);
    assert_eq!(ARM.board.run_built(&elf, &[]), b"done\n");
}

#[test]
fn a_c_firmware_takes_little_stack() {
    let stack = format!("{ROOT}/tests/c/stack.c");
    for generate in ["-DLOOP", "-DGENERATE"] {
        let more = [generate, "-Wl,--wrap=program", &stack];
        let elf = ARM.build(
            "proof",
            EVERYTHING,
            &more,
            &["--context", "64", "--batch", "8"],
        );
        let printed = String::from_utf8(ARM.board.run_built(&elf, &[])).unwrap();
        println!("{generate}: {printed}");
        let bytes = printed.trim().strip_prefix("stack ").expect(&printed);
        assert!(
            bytes.parse::<usize>().unwrap() <= 2048,
            "{generate}: {printed}"
        );
    }
}

/// The whole library, called or not: no function of the interface can panic on a device. It shows
/// no names but its own, so another library in Rust can be in the same program.
#[test]
fn no_function_of_the_library_can_panic_and_no_other_names_are_seen() {
    use object::{Object, ObjectSymbol};

    for target in [
        "thumbv6m-none-eabi",
        "thumbv7em-none-eabihf",
        "riscv32imac-unknown-none-elf",
    ] {
        let bytes = fs::read(library(
            Some(target),
            &format!("{EVERYTHING},grammar,source"),
        ))
        .unwrap();
        let archive = object::read::archive::ArchiveFile::parse(&*bytes).unwrap();
        let mut functions = 0;
        for member in archive.members().map(|member| member.unwrap()) {
            let name = String::from_utf8_lossy(member.name()).into_owned();
            let Ok(elf) = object::File::parse(member.data(&*bytes).unwrap()) else {
                continue;
            };
            let is_own = elf
                .symbols()
                .any(|symbol| symbol.name() == Ok("plm_open") && symbol.is_definition());
            for symbol in elf.symbols() {
                let symbol_name = symbol.name().unwrap_or_default();
                functions += usize::from(symbol_name.starts_with("plm_"));
                assert!(
                    !symbol_name.contains("panic") && !symbol_name.contains("rust_alloc"),
                    "{target}, {name}: {symbol_name}"
                );
                if is_own && symbol.is_global() && symbol.is_definition() {
                    assert!(
                        ["plm_", "pocketlm_"]
                            .iter()
                            .any(|own| symbol_name.starts_with(own)),
                        "{target}: {symbol_name}"
                    );
                }
            }
        }
        assert!(functions > 30, "{target}: {functions} functions");
    }
}

/// Calls in the test, for each seed. `FUZZ_CALLS` asks for more.
const CALLS: &str = "100000";

#[test]
fn random_calls_with_wrong_arguments_return_a_number_and_do_nothing_else() {
    let checkpoint = crate::model::chatting();
    let image = folder("fuzz").join("tiny.plm");
    let model = text(checkpoint.path());
    run(
        env!("CARGO_BIN_EXE_pocketlm"),
        &["pack", &model, "-o", &text(&image), "--dtype", "q8"],
    );
    let limits = ["--context", "16", "--batch", "4", "--kv", "q8"];
    plan_for(&text(&image), &folder("fuzz"), &limits);
    let program = host_program(&["../../tests/c/fuzz.c"], "fuzz");
    let calls = std::env::var("FUZZ_CALLS").unwrap_or_else(|_| CALLS.into());
    let grammar = pocketlm::import::grammar::from_regex("([a-z ]|[0-9]{2,4})+").unwrap();
    let compiled = folder("fuzz").join("words.plg");
    fs::write(&compiled, grammar).unwrap();
    for seed in ["1", "2"] {
        let printed = run(
            &text(&program),
            &[&text(&image), &text(&compiled), &calls, seed],
        );
        let printed = String::from_utf8(printed.stdout).unwrap();
        println!("{printed}");
        for line in printed.lines() {
            // The name of a function, calls, and how many of these succeeded.
            if let [name, _, successes] = line.split(' ').collect::<Vec<_>>()[..] {
                assert_ne!(successes, "0", "seed {seed}: plm_{name} never succeeds");
            }
        }
    }
}

#[test]
fn cmake_builds_the_story_from_the_sources_and_from_an_installed_library() {
    let expected = fs::read_to_string(Path::new(ROOT).join("tests/data/story.txt")).unwrap();
    let folder = folder("cmake");
    let part = |name: &str| text(&folder.join(name));
    let configure = |build: &str, prefix: &str| {
        _ = fs::remove_file(folder.join(build).join("CMakeCache.txt"));
        let (source, build) = (format!("{ROOT}/examples/c"), part(build));
        let prefix = format!("-DCMAKE_PREFIX_PATH={prefix}");
        run("cmake", &["-S", &source, "-B", &build, &prefix]);
        run("cmake", &["--build", &build]);
        let told = run(&format!("{build}/story"), &[STORY]);
        assert_eq!(String::from_utf8(told.stdout).unwrap(), expected);
    };
    configure("sources", "");
    let (build, prefix) = (part("sources"), part("installed"));
    run("cmake", &["--install", &build, "--prefix", &prefix]);
    configure("with-package", &prefix);
    let built = folder.join("with-package/pocketlm");
    assert!(!built.exists(), "the installed library was not used");
}

#[test]
fn the_plan_of_the_board_is_the_one_that_the_command_line_writes() {
    let folder = folder("board-plan");
    plan(&folder, &["--context", "256", "--batch", "8"]);
    let [written, kept] = [&folder, &Path::new(ROOT).join("examples/c/board/plan")]
        .map(|folder| fs::read_to_string(folder.join("plan.h")).unwrap());
    assert_eq!(kept, written, "copy it to examples/c/board/plan");
}

#[test]
fn cmake_builds_the_story_for_a_board() {
    let folder = folder("cmake-board");
    let build = text(&folder.join("build"));
    let source = format!("{ROOT}/examples/c/board");
    let toolchain = "-DCMAKE_TOOLCHAIN_FILE=arm.cmake";
    _ = fs::remove_file(folder.join("build/CMakeCache.txt"));
    run("cmake", &["-S", &source, "-B", &build, toolchain]);
    run("cmake", &["--build", &build, "--target", "story"]);
    let told = M4F.run_built(&folder.join("build/story"), &[]);
    let expected = fs::read_to_string(Path::new(ROOT).join("tests/data/story.txt")).unwrap();
    assert_eq!(String::from_utf8(told).unwrap(), expected);
}
