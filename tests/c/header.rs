//! `include/pocketlm.h`: what cbindgen makes of the Rust files, and what compilers say to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/c");
/// In the order of the header.
const FILES: [&str; 9] = [
    "status.rs",
    "model.rs",
    "source.rs",
    "session.rs",
    "sampler.rs",
    "text.rs",
    "constraint.rs",
    "grammar.rs",
    "generation.rs",
];

/// The header as cbindgen makes it.
fn made() -> String {
    let package = Path::new(PACKAGE);
    let config = cbindgen::Config::from_file(package.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in FILES {
        builder = builder.with_src(package.join(file));
    }
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    String::from_utf8(header).unwrap()
}

#[test]
fn the_header_is_what_the_sources_say() {
    let path = Path::new(PACKAGE).join("include/pocketlm.h");
    let made = made();
    if std::env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&path, &made).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == made,
        "{} is out of date: UPDATE_HEADER=1 cargo test --features cli --test c header",
        path.display()
    );
}

#[test]
fn compilers_of_c_and_cpp_accept_the_header_without_a_warning() {
    let folder = crate::build::folder("header");
    // Both headers, and that the sizes are those of the structures.
    crate::build::plan(&folder, &["--context", "64"]);
    let mut source = String::from("#include \"pocketlm.h\"\n#include \"plan.h\"\n");
    for handle in HANDLES {
        let size = format!("PLM_{}_BYTES", handle.to_uppercase());
        writeln!(
            source,
            "typedef char {handle}_has_its_size[sizeof(plm_{handle}) == {size} ? 1 : -1];"
        )
        .unwrap();
    }
    source.push_str("extern plm_limits limits;\nplm_limits limits = PLM_LIMITS;\n");
    source.push_str("extern plm_sizes sizes;\nplm_sizes sizes = PLM_SIZES;\n");
    source.push_str("extern unsigned char arena[PLM_ARENA_BYTES];\n");
    let compilers = [
        ("gcc", "c99", "c"),
        ("gcc", "c11", "c"),
        ("g++", "c++98", "cpp"),
        ("g++", "c++20", "cpp"),
        ("arm-none-eabi-gcc", "c99", "c"),
        ("riscv64-unknown-elf-gcc", "c99", "c"),
    ];
    for (compiler, standard, extension) in compilers {
        let file = folder.join(format!("header.{extension}"));
        fs::write(&file, &source).unwrap();
        let mut arguments = crate::build::flags(standard);
        if standard == "c++98" {
            // `long long`, and with it 64 bits, are younger.
            arguments.push("-Wno-long-long".into());
        }
        if compiler.starts_with("riscv") {
            arguments
                .extend(["-march=rv32imac", "-mabi=ilp32", "-ffreestanding"].map(String::from));
        }
        arguments.push(format!("-I{}", folder.display()));
        arguments.push("-fsyntax-only".into());
        arguments.push(crate::build::text(&file));
        crate::build::run(compiler, &arguments);
    }
}

/// The handles, without the prefix.
const HANDLES: [&str; 8] = [
    "model",
    "session",
    "sampler",
    "choice",
    "tokenizer",
    "decoder",
    "constraint",
    "generation",
];

/// The first number of the interface's own errors.
const OWN: u32 = 500;

/// The statuses and errors of the header, and their numbers.
pub fn numbers() -> BTreeMap<String, u32> {
    let header = made();
    let defines = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define "));
    let defines = defines.filter_map(|define| define.split_once(' '));
    let starts = ["PLM_OK", "PLM_PENDING", "PLM_ENDED_", "PLM_ERROR_"];
    defines
        .filter(|(name, _)| starts.iter().any(|start| name.starts_with(start)))
        .map(|(name, number)| (name.into(), number.parse().unwrap()))
        .collect()
}

/// The errors of `Error::code`, by the names that they have in C.
fn errors_of_the_core() -> BTreeMap<String, u32> {
    let errors = fs::read_to_string(Path::new(PACKAGE).join("../error.rs")).unwrap();
    let codes = errors.split("fn code(").nth(1).unwrap();
    let codes = codes.split("fn fmt(").next().unwrap();
    let arms = codes.lines().filter_map(|line| line.split_once(" => "));
    let named = |(name, code): (&str, &str)| {
        let name = name.trim().strip_prefix("Error::").unwrap();
        let name = name.split(['(', ' ']).next().unwrap();
        let mut upper = String::from("PLM_ERROR");
        for character in name.chars() {
            if character.is_uppercase() {
                upper.push('_');
            }
            upper.push(character.to_ascii_uppercase());
        }
        (upper, code.trim_end_matches(',').parse().unwrap())
    };
    arms.map(named).collect()
}

#[test]
fn the_header_has_the_errors_of_the_core_and_no_others() {
    let mut found = numbers();
    found.retain(|name, number| name.starts_with("PLM_ERROR_") && *number < OWN);
    assert_eq!(found, errors_of_the_core());
}

#[test]
fn the_scratch_of_the_header_is_enough_for_any_text() {
    use pocketlm::text::{nfc_scratch_len, scratch_len};

    let program = crate::build::folder("host").join("scratch");
    let file = "../../tests/c/scratch.c";
    crate::build::link("gcc", &crate::build::flags("c11"), &[file], &program);
    let lengths: Vec<usize> = (0..5000).chain([1 << 20, (1 << 28) + 7]).collect();
    let arguments: Vec<String> = lengths.iter().map(usize::to_string).collect();
    let printed = crate::build::run(&crate::build::text(&program), &arguments);
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(printed.lines().count(), lengths.len());
    for (line, bytes) in printed.lines().zip(lengths) {
        let (words, nfc_words) = line.split_once(' ').unwrap();
        let [words, nfc_words] = [words, nfc_words].map(|words| words.parse::<usize>().unwrap());
        assert!(words >= scratch_len(bytes), "{bytes} bytes: {words}");
        assert!(
            nfc_words >= nfc_scratch_len(bytes),
            "{bytes} bytes, NFC: {nfc_words}"
        );
    }
}
