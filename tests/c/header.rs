//! `include/pocketlm.h`: what cbindgen makes of the Rust files, and what compilers say to it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/c");
/// In the order of the header.
const FILES: [&str; 7] = [
    "status.rs",
    "model.rs",
    "source.rs",
    "session.rs",
    "sampler.rs",
    "text.rs",
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
const HANDLES: [&str; 7] = [
    "model",
    "session",
    "sampler",
    "choice",
    "tokenizer",
    "decoder",
    "generation",
];

/// The number of a `#define`.
fn defined(header: &str, name: &str) -> Option<String> {
    let mut lines = header.lines();
    lines.find_map(|line| {
        line.strip_prefix(&format!("#define {name} "))
            .map(Into::into)
    })
}

#[test]
fn every_error_of_the_core_has_its_number_in_the_header() {
    let header = made();
    let errors = fs::read_to_string(Path::new(PACKAGE).join("../error.rs")).unwrap();
    let codes = errors.split("fn code(").nth(1).unwrap();
    let codes = codes.split("fn fmt(").next().unwrap();
    let mut found = 0;
    for line in codes.lines().filter(|line| line.contains(" => ")) {
        let (name, code) = line.split_once(" => ").unwrap();
        let name: String = name.trim().chars().skip("Error::".len()).collect();
        let name = name.split(['(', ' ']).next().unwrap();
        let mut upper = String::from("PLM_ERROR");
        for character in name.chars() {
            if character.is_uppercase() {
                upper.push('_');
            }
            upper.push(character.to_ascii_uppercase());
        }
        let code = code.trim_end_matches(',');
        assert_eq!(defined(&header, &upper).as_deref(), Some(code), "{upper}");
        found += 1;
    }
    assert!(found >= 38, "{found} errors");
}

#[test]
fn the_scratch_of_the_header_is_enough_for_any_text() {
    use pocketlm::text::{nfc_scratch_len, scratch_len};
    let header = made();
    let expected = "#define PLM_SCRATCH_WORDS(bytes) \
                    (3 * ((size_t)(bytes) + 1) + ((size_t)(bytes) + 1) / 15 + 16)";
    assert!(header.contains(expected));
    let words = |bytes: usize| 3 * (bytes + 1) + (bytes + 1) / 15 + 16;
    for bytes in (0..100_000).chain([1 << 20, 1 << 28]) {
        assert!(words(bytes) >= scratch_len(bytes), "{bytes}");
        assert!(
            words(3 * bytes) + 3 * bytes / 4 + 1 >= nfc_scratch_len(bytes),
            "{bytes}"
        );
    }
}
