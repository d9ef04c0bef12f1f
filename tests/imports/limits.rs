//! Files that were made to take more than they are worth: what the advisories against other
//! runtimes describe, a test each. A refusal asks for little memory and comes at once.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::common::SOON;
use crate::common::folder::{self, Folder};
use pocketlm::import::{self, ImportError, PackOptions, tokenizer};
use serde_json::json;
use tempfile::TempDir;

/// Opens and packs; must be over [`SOON`].
fn pack(path: &Path) -> Result<usize, ImportError> {
    let start = Instant::now();
    let image = import::open(path).and_then(|checkpoint| {
        import::pack_to_memory(&*checkpoint, &PackOptions::default(), &mut |_, _| {})
    });
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    image.map(|image| image.len())
}

fn refused(path: &Path) -> String {
    pack(path).expect_err("accepted").reason
}

/// A file of these bytes, on a disk: holes that are read take memory where files are in memory.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn refused_folder(folder: &Folder) -> String {
    refused(folder.write("model.safetensors").path())
}

/// What GGUF readers elsewhere fell over: a string or an array that says it is longer than the
/// file.
#[test]
fn a_file_of_37_bytes_is_refused_whatever_it_says() {
    for count in [0, 1, 1 << 16, 1 << 32, i64::MAX as u64, u64::MAX] {
        let words = [
            &b"GGUF\x03\0\0\0"[..],
            &count.to_le_bytes(),
            &count.to_le_bytes(),
            &count.to_le_bytes(),
        ]
        .concat();
        let (_folder, path) = file("model.gguf", &[&words[..], &[0; 5]].concat());
        refused(&path);
        let (_folder, path) = file("model.bin", &[&words[..], &[0xff; 5]].concat());
        refused(&path);
    }
}

#[test]
fn dimensions_that_multiply_to_a_small_number_by_overflow_are_refused() {
    for key in [
        "num_attention_heads",
        "head_dim",
        "hidden_size",
        "intermediate_size",
        "vocab_size",
    ] {
        for size in [1u64 << 31, u32::MAX.into(), 1 << 32, 1 << 63] {
            refused_folder(&folder::llama().set(key, json!(size)));
        }
    }
}

#[test]
fn a_number_of_layers_without_tensors_is_refused() {
    assert!(
        refused_folder(&folder::llama().set("num_hidden_layers", json!(u32::MAX)))
            .contains("num_hidden_layers")
    );
    refused_folder(&folder::llamalike(1, 1, 1, false).set("num_decoder_blocks", json!(u32::MAX)));
    refused_folder(&folder::llamalike(1, 1, 1, true).set("num_decoder_blocks", json!(u32::MAX)));
    // No tensor bears out a stack of nothing, either.
    let mut llama2c = [8u32, 6, i32::MAX as u32, 2, 1, 7, 16]
        .map(u32::to_le_bytes)
        .concat();
    llama2c.resize(4000, 0);
    refused(&file("model.bin", &llama2c).1);
}

#[test]
fn a_key_or_a_tensor_that_is_given_twice_is_refused_or_counts_once() {
    let whole = folder::llama();
    let weights = whole.weights();
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&weights[8..8 + header])
        .unwrap()
        .trim_end();
    let entry = format!(
        "\"model.norm.weight\":{}",
        &text[text.find("\"model.norm.weight\":").unwrap() + 20..]
    );
    let entry = &entry[..=entry.find('}').unwrap()];
    let twice = format!("{},{entry}}}", &text[..text.len() - 1]);
    let bytes = [
        &(twice.len() as u64).to_le_bytes(),
        twice.as_bytes(),
        &weights[8 + header..],
    ]
    .concat();
    let folder = whole.write("model.safetensors");
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    // The same entry twice is one tensor; another place for it would leave a hole or overlap, which
    // is refused.
    assert_eq!(
        pack(folder.path()).unwrap(),
        pack(whole.write("model.safetensors").path()).unwrap()
    );
    // In JSON the last one counts, as in Python.
    let config = whole
        .config
        .to_string()
        .replacen('{', "{\"hidden_size\": 77,", 1);
    let folder = whole.write("model.safetensors");
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    assert!(pack(folder.path()).is_ok());
}

#[test]
fn deeply_nested_json_is_refused() {
    for text in ["[".repeat(1 << 20), "{\"a\":".repeat(1 << 18)] {
        let (_folder, path) = file("tokenizer.json", text.as_bytes());
        assert!(
            tokenizer::from_path(&path)
                .unwrap_err()
                .reason
                .contains("recursion limit")
        );
        let folder = folder::llama().write("model.safetensors");
        std::fs::write(folder.path().join("config.json"), format!("{{\"a\":{text}")).unwrap();
        assert!(refused(folder.path()).contains("recursion limit"));
        let header = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let folder = folder::llama().write("model.safetensors");
        std::fs::write(folder.path().join("model.safetensors"), header).unwrap();
        assert!(refused(folder.path()).starts_with("not a whole safetensors file"));
    }
}

#[test]
fn a_string_of_a_megabyte_is_not_repeated_to_the_user() {
    let long = "x".repeat(1 << 20);
    let (_folder, path) = file(
        "tokenizer.json",
        json!({"model": {"type": &long}}).to_string().as_bytes(),
    );
    assert!(tokenizer::from_path(&path).unwrap_err().to_string().len() < 1000);
    for key in ["model_type", "hidden_size", "hidden_act", "rope_scaling"] {
        assert!(
            refused_folder(&folder::llama().set(key, json!(&long))).len() < 1000,
            "{key}"
        );
    }
}

/// A pipe waits for a writer; a device never ends.
#[cfg(unix)]
#[test]
fn a_vocabulary_that_is_a_pipe_or_a_device_is_refused() {
    let folder = crate::common::scratch();
    let pipe = folder.path().join("tokenizer.json");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    for path in [&pipe, Path::new("/dev/zero")] {
        assert_eq!(
            tokenizer::from_path(path).unwrap_err().reason,
            "not a regular file"
        );
        assert_eq!(
            tokenizer::from_llama2c(path, 10).unwrap_err().reason,
            "not a regular file"
        );
    }
}

#[test]
fn an_implausibly_large_vocabulary_is_refused_unread() {
    let (_folder, path) = file("tokenizer.json", b"{");
    // Holes take no space on the disk.
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len((256 << 20) + 1)
        .unwrap();
    let error = tokenizer::from_path(&path).unwrap_err();
    assert_eq!(
        error.reason,
        "longer than 268435456 bytes, which no such file is"
    );
}

/// A file of these bytes, and zeros up to a terabyte: holes take no space on the disk, but count in
/// its size, which is what bounds memory and time elsewhere.
fn sparse(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let (folder, path) = file(name, bytes);
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    (folder, path)
}

#[test]
fn a_sparse_file_of_a_terabyte_is_refused_at_once() {
    let gguf = |tensors: u64, keys: u64, rest: &[u8]| {
        let bytes = [
            &b"GGUF\x03\0\0\0"[..],
            &tensors.to_le_bytes(),
            &keys.to_le_bytes(),
            rest,
        ]
        .concat();
        let (_folder, path) = sparse("model.gguf", &bytes);
        refused(&path)
    };
    gguf(0, 1 << 36, &[]);
    gguf(1 << 36, 0, &[]);
    // A key "a" whose value is an array: of bytes, of strings, of arrays.
    for (kind, count) in [(0u32, 1u64 << 39), (8, 1 << 36), (9, 1 << 36)] {
        let array = [
            &1u64.to_le_bytes()[..],
            b"a",
            &9u32.to_le_bytes(),
            &kind.to_le_bytes(),
            &count.to_le_bytes(),
        ];
        gguf(1, 1, &array.concat());
    }
    // A key, and a name of a tensor, of half a terabyte.
    gguf(0, 1, &(1u64 << 39).to_le_bytes());
    gguf(1, 0, &(1u64 << 39).to_le_bytes());
    for bytes in [&[][..], &[1, 0, 0, 0], b"ak42\x01\0\0\0"] {
        refused(&sparse("model.bin", bytes).1);
    }
    for name in ["tokenizer.json", "tokenizer.model"] {
        assert!(tokenizer::from_path(&sparse(name, b"{").1).is_err());
    }
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        for bytes in [
            &b"{"[..],
            &(1u64 << 39).to_le_bytes(),
            &(1u64 << 26).to_le_bytes(),
        ] {
            let folder = folder::llama().write("model.safetensors");
            std::fs::write(folder.path().join(name), bytes).unwrap();
            std::fs::File::options()
                .write(true)
                .open(folder.path().join(name))
                .unwrap()
                .set_len(1 << 40)
                .unwrap();
            if name.starts_with("tokenizer") {
                // A tokenizer or template that cannot be read stops only what needs one.
                pack(folder.path()).unwrap();
                let checkpoint = import::open(folder.path()).unwrap();
                let description = checkpoint.description();
                let tokenizer = matches!(description.tokenizer, Some(Err(_)));
                assert!(tokenizer || matches!(description.chat_template, Some(Err(_))));
            } else {
                refused(folder.path());
            }
        }
    }
}

/// Links that lead back to where they are, and to what has no end.
#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_refused() {
    use std::os::unix::fs::symlink;
    let folder = crate::common::scratch();
    symlink(folder.path(), folder.path().join("model")).unwrap();
    symlink("loop.gguf", folder.path().join("loop.gguf")).unwrap();
    symlink("/dev/zero", folder.path().join("zero.gguf")).unwrap();
    for name in [
        "",
        "model",
        "model/model/model",
        "loop.gguf",
        "zero.gguf",
        "absent.gguf",
    ] {
        refused(&folder.path().join(name));
    }
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ] {
        for target in ["/dev/zero", "/dev/null", "/dev/tty", name, "."] {
            let folder = folder::llama().write("model.safetensors");
            _ = std::fs::remove_file(folder.path().join(name));
            symlink(target, folder.path().join(name)).unwrap();
            // What leads nowhere may count as missing, and a tokenizer may be missing.
            assert!(
                pack(folder.path()).is_err() || name.starts_with("tokenizer"),
                "{name} to {target}"
            );
        }
    }
}

/// Bits of the config and of the header of the weights: one in 37, or all of them with
/// `POCKETLM_FLIPS=1`.
#[test]
fn flipped_bits_of_three_small_folders_are_refused_or_packed() {
    let step = std::env::var("POCKETLM_FLIPS").map_or(37, |step| step.parse().unwrap());
    let mut packed = 0;
    let mut refusals = 0;
    for whole in [
        folder::llama(),
        folder::gemma("gemma3_text"),
        folder::llamalike(2, 2, 1, true),
    ] {
        let weights = whole.weights();
        let config = whole.config.to_string().into_bytes();
        let seed_form = whole.config.get("num_decoder_blocks").is_some();
        let name = if seed_form {
            "weights.safetensors"
        } else {
            "model.safetensors"
        };
        let folder = whole.write(name);
        let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
        for (name, bytes, until) in [
            ("config.json", &config, config.len()),
            (name, &weights, header),
        ] {
            let path = folder.path().join(name);
            let mut bytes = bytes.clone();
            for bit in (0..8 * until).step_by(step) {
                bytes[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(&path, &bytes).unwrap();
                match pack(folder.path()) {
                    Ok(length) => {
                        assert!(length < 1 << 18, "{length} bytes");
                        packed += 1;
                    }
                    Err(_) => refusals += 1,
                }
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            std::fs::write(&path, &bytes).unwrap();
        }
    }
    println!("{refusals} refused, {packed} packed");
    assert!(
        packed > 10 && refusals > 100,
        "{refusals} refused, {packed} packed"
    );
}
