//! Tokenizers against the golden cases, against the `tokenizers` crate on random text, and against hostile input.
#![cfg(feature = "std")]

use std::path::{Path, PathBuf};

use pocketlm::import::vocabulary;
use pocketlm::text::{Decoder, EncodeOptions, Tokenizer};
use serde_json::Value;

/// The folder of shared test data, or a line that says what was not checked. In CI it has to be there.
fn shared(what: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("POCKETLM_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from)
        .join(what);
    if folder.exists() {
        return Some(folder);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing", folder.display());
    eprintln!("not checked, for {} is missing", folder.display());
    None
}

const WITH_SPECIAL: EncodeOptions = EncodeOptions { add_special_tokens: true, parse_special: true };
const TEXT_ONLY: EncodeOptions = EncodeOptions { add_special_tokens: false, parse_special: true };

fn encode(tokenizer: &Tokenizer, text: &str, options: EncodeOptions) -> Vec<u32> {
    let mut scratch = vec![0; tokenizer.scratch_len(text.len())];
    let mut ids = vec![0; text.len() + 8];
    let count = tokenizer.encode(text, options, &mut scratch, &mut ids).unwrap();
    ids.truncate(count);
    ids
}

fn decode(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut decoder = Decoder::new(tokenizer).skip_special(skip_special);
    let mut text: String = ids.iter().map(|id| decoder.push(*id).unwrap().to_string()).collect();
    text += &decoder.finish().to_string();
    text
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn every_golden_case_gives_the_same_ids_and_text() {
    let Some(folder) = shared("goldens/tokenizers") else { return };
    let mut failures = vec![];
    let mut files = 0;
    for family in ["tok-gpt2", "tok-llama3", "tok-qwen2", "tok-spm-gemma", "tok-spm-llama"] {
        for entry in std::fs::read_dir(folder.join(family)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !name.starts_with("tokenizer") || !name.contains("_cases") {
                continue;
            }
            files += 1;
            let cases: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let file = path.with_file_name(cases["file"].as_str().unwrap());
            let section = vocabulary::from_path(&file).unwrap_or_else(|error| panic!("{error}"));
            let tokenizer = Tokenizer::open(&section).unwrap();
            eprintln!("{family}/{name}: {} bytes for {} tokens", section.len(), tokenizer.vocab_size());
            let mut check = |what: &str, case: &Value, expected: String, found: String| {
                if expected != found {
                    failures.push(format!("{family}/{name} {what} of {case}\n  expected {expected}\n     found {found}"));
                }
            };
            for case in cases["cases"].as_array().unwrap() {
                let text = case["text"].as_str().unwrap();
                let plain = ids(&case["ids"]);
                let special = ids(&case["ids_special"]);
                check("ids", &case["text"], format!("{plain:?}"), format!("{:?}", encode(&tokenizer, text, TEXT_ONLY)));
                check("ids_special", &case["text"], format!("{special:?}"), format!("{:?}", encode(&tokenizer, text, WITH_SPECIAL)));
                let sentencepiece = case["decode_skip"].is_null();
                check("decode", &case["text"], format!("{:?}", case["decode"].as_str().unwrap()), format!("{:?}", decode(&tokenizer, &plain, sentencepiece)));
                if let Some(text) = case["decode_skip"].as_str() {
                    check("decode_skip", &case["text"], format!("{text:?}"), format!("{:?}", decode(&tokenizer, &special, true)));
                }
            }
            for case in cases["decode_cases"].as_array().unwrap() {
                let tokens = ids(&case["ids"]);
                let sentencepiece = case["decode_skip"].is_null();
                check("decode", case, format!("{:?}", case["decode"].as_str().unwrap()), format!("{:?}", decode(&tokenizer, &tokens, sentencepiece)));
                if let Some(text) = case["decode_skip"].as_str() {
                    check("decode_skip", case, format!("{text:?}"), format!("{:?}", decode(&tokenizer, &tokens, true)));
                }
            }
        }
    }
    eprintln!("{files} files");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures[..failures.len().min(40)].join("\n"));
}
