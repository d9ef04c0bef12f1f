//! The vocabulary that comes along with a model.

use std::path::Path;

use pocketlm::import::{Checkpoint, gguf, llama2c, tokenizer};
use pocketlm::text::{EncodeOptions, Tokenizer};

use crate::common::shared;

const TEXT: &str = "The function returns a value, naïve 你好 42!\n";

fn encode(section: &[u8], text: &str) -> Vec<u32> {
    let tokenizer = Tokenizer::open(section).unwrap();
    let mut scratch = vec![0; tokenizer.scratch_len(text.len())];
    let mut ids = vec![0; text.len() + 8];
    let count = tokenizer
        .encode(text, EncodeOptions::default(), &mut scratch, &mut ids)
        .unwrap();
    ids.truncate(count);
    ids
}

#[test]
fn gguf_files_encode_the_prompt_of_their_case() {
    let Some(folder) = shared("goldens") else {
        return;
    };
    let mut checked = 0;
    for case in (folder.join("hf")).read_dir().unwrap() {
        let case = case.unwrap().path();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let file = folder.join(format!("gguf/{name}.q8_0.gguf"));
        let Ok(json) = std::fs::read_to_string(case.join("case.json")) else {
            continue;
        };
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let text = &json["text"];
        if !file.exists() || text.is_null() {
            continue;
        }
        let checkpoint = gguf::open(&file).unwrap();
        let ids = encode(
            &checkpoint.description().tokenizer.clone().unwrap().unwrap(),
            text["prompt"].as_str().unwrap(),
        );
        let expected: Vec<u32> = serde_json::from_value(text["prompt_ids"].clone()).unwrap();
        assert_eq!(ids, expected, "{name}");
        assert_eq!(
            gguf::tokenizer(&file).unwrap(),
            checkpoint.description().tokenizer.clone().unwrap().unwrap()
        );
        checked += 1;
    }
    assert_eq!(checked, 9);
    // Converted without tokenizer files.
    let none = gguf::open(&folder.join("gguf/llama-bias-sharded.q8_0.gguf")).unwrap();
    assert!(none.description().tokenizer.is_none());
    let error = gguf::tokenizer(&folder.join("gguf/llama-bias-sharded.q8_0.gguf")).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("llama-bias-sharded.q8_0.gguf: the file has no vocabulary"),
        "{error}"
    );
}

#[test]
fn stories260k_encodes_alike_from_its_three_formats() {
    let Some(folder) = shared("fetched") else {
        return;
    };
    let bin = llama2c::open(&folder.join("stories260K/stories260K.bin")).unwrap();
    let file = gguf::open(&folder.join("stories260K/stories260K.f32.gguf")).unwrap();
    let hf = tokenizer::from_path(folder.join("stories260K_hf")).unwrap();
    for text in [TEXT, "Once upon a time, there was a little girl", ""] {
        let expected = encode(&hf, text);
        assert_eq!(
            encode(&bin.description().tokenizer.clone().unwrap().unwrap(), text),
            expected,
            "{text:?}"
        );
        assert_eq!(
            encode(
                &file.description().tokenizer.clone().unwrap().unwrap(),
                text
            ),
            expected,
            "{text:?}"
        );
    }
}

/// llama.cpp's own test files: texts, and the ids it makes of them, without BOS.
#[test]
fn vocabulary_files_encode_as_llama_cpp_does() {
    let Some(folder) = shared("fetched/tokenizers") else {
        return;
    };
    for name in ["gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"] {
        let path = |end: &str| folder.join(format!("ggml-vocab-{name}.gguf{end}"));
        if !path("").exists() {
            eprintln!("not checked, {} is missing: its ids", path("").display());
            continue;
        }
        let read = |path: &Path| String::from_utf8(std::fs::read(path).unwrap()).unwrap();
        let texts = read(&path(".inp"));
        let expected = read(&path(".out"));
        let section = gguf::tokenizer(&path("")).unwrap();
        let mut count = 0;
        for (text, line) in texts.split("\n__ggml_vocab_test__\n").zip(expected.lines()) {
            let expected: Vec<u32> = line
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            let tokenizer = Tokenizer::open(&section).unwrap();
            let mut ids = encode(&section, text);
            if tokenizer.add_bos() {
                assert_eq!(Some(ids.remove(0)), tokenizer.bos(), "{name}");
            }
            assert_eq!(ids, expected, "{name}: {text:?}");
            count += 1;
        }
        assert!(count > 40, "{name}: {count} texts");
        let error = gguf::open(&path("")).err().unwrap().to_string();
        assert!(
            error.contains("ggml-vocab-"),
            "a vocabulary is no model: {error}"
        );
    }
}
