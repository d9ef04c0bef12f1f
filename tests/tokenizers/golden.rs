//! Every case of the golden tokenizers, in every file form.

use std::path::Path;

use serde_json::Value;

use super::*;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

/// Calls `check` with each file of cases: the cases, and the tokenizer file that they are for.
fn for_each_file(check: impl Fn(&Value, &Path)) {
    let Some(folder) = shared("goldens/tokenizers") else {
        return;
    };
    let mut files = 0;
    for family in FAMILIES {
        for entry in std::fs::read_dir(folder.join(family)).unwrap() {
            let path = entry.unwrap().path();
            if path
                .file_name()
                .is_some_and(|name| name.to_str().unwrap().contains("_cases"))
            {
                let cases = json(&path);
                check(
                    &cases,
                    &path.with_file_name(cases["file"].as_str().unwrap()),
                );
                files += 1;
            }
        }
    }
    assert_eq!(files, 15);
}

#[test]
fn golden_texts_give_the_same_ids() {
    for_each_file(|cases, file| {
        let tokenizer = open(file);
        assert_eq!(
            u64::from(tokenizer.vocab_size()),
            vocabulary_size(cases),
            "{}",
            file.display()
        );
        for case in cases["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(
                encode(&tokenizer, text, PARSED),
                ids(&case["ids"]),
                "{}: {text:?}",
                file.display()
            );
            assert_eq!(
                encode(&tokenizer, text, WITH_SPECIAL),
                ids(&case["ids_special"]),
                "{}: {text:?}",
                file.display()
            );
        }
    });
}

fn vocabulary_size(cases: &Value) -> u64 {
    cases["vocab_size"].as_u64().unwrap()
}

/// On byte runs that are not valid UTF-8, `tokenizers` replaces what is valid, too; there, our text
/// is compared with sentencepiece's rule applied to the same tokens. That the rules differ in
/// nothing else is checked along the way, and the cases of sentencepiece itself are compared as
/// they are.
#[test]
fn golden_ids_give_the_same_text() {
    for_each_file(|cases, file| {
        let tokenizer = open(file);
        let texts = cases["cases"].as_array().unwrap().iter();
        let all = texts.map(|case| (case, "ids_special")).chain(
            cases["decode_cases"]
                .as_array()
                .unwrap()
                .iter()
                .map(|case| (case, "ids")),
        );
        for (case, for_skip) in all {
            let check = |key: &str, ids: &[u32], skip: bool| {
                let expected = case[key].as_str().unwrap();
                let found = decode(&tokenizer, ids, skip);
                assert!(
                    found == keep_valid(file, ids, skip, expected),
                    "{} {key} {case}\n found {found:?}",
                    file.display()
                );
            };
            let plain = ids(&case["ids"]);
            if case.get("decode_skip").is_some() {
                check("decode", &plain, false);
                check("decode_skip", &ids(&case[for_skip]), true);
            } else {
                // sentencepiece never shows control tokens, asked or not.
                check("decode", &plain, true);
                check("decode", &plain, false);
            }
        }
    });
}

/// The text that `tokenizers` gives, with valid characters in invalid byte runs kept.
fn keep_valid(file: &Path, ids: &[u32], skip_special: bool, expected: &str) -> String {
    let file_json = if file
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        json(file)
    } else {
        Value::Null
    };
    if file_json["model"]["byte_fallback"] != true {
        return expected.to_owned();
    }
    let added = file_json["added_tokens"].as_array().unwrap();
    let special = |id: u32| {
        added
            .iter()
            .any(|token| token["id"] == id && token["special"] == true)
    };
    let token = |id: u32| {
        let vocab = file_json["model"]["vocab"].as_object().unwrap();
        let found = vocab
            .iter()
            .find(|(_, other)| **other == id)
            .map(|(token, _)| token.clone());
        found
            .or_else(|| {
                Some(
                    added.iter().find(|token| token["id"] == id)?["content"]
                        .as_str()?
                        .to_owned(),
                )
            })
            .unwrap()
    };
    let tokens: Vec<String> = ids
        .iter()
        .filter(|id| !(skip_special && special(**id)))
        .map(|id| token(*id))
        .collect();
    let strip = file_json["decoder"]["decoders"]
        .as_array()
        .unwrap()
        .iter()
        .any(|decoder| decoder["type"] == "Strip");
    assert_eq!(
        decode_by_rule(&tokens, strip, InvalidRun::ReplaceAll),
        expected,
        "the rule of tokenizers is another"
    );
    decode_by_rule(&tokens, strip, InvalidRun::KeepValid)
}

#[test]
fn golden_folders_know_their_special_tokens() {
    let Some(folder) = shared("goldens/tokenizers") else {
        return;
    };
    let facts = |family: &str| {
        let tokenizer = open(folder.join(family));
        (
            tokenizer.bos(),
            tokenizer.add_bos(),
            tokenizer.eos_ids().collect::<Vec<_>>(),
        )
    };
    assert_eq!(facts("tok-gpt2"), (Some(0), false, vec![2]));
    assert_eq!(facts("tok-llama3"), (Some(504), true, vec![511]));
    assert_eq!(facts("tok-qwen2"), (None, false, vec![495]));
    assert_eq!(facts("tok-spm-gemma"), (Some(2), true, vec![1]));
    assert_eq!(facts("tok-spm-llama"), (Some(1), true, vec![2]));
}

#[test]
fn a_token_is_found_by_its_piece() {
    let tokenizer = open("tests/data/tokenizers/abc.json");
    assert_eq!(tokenizer.piece(6), Some(b" ab".as_slice()));
    assert_eq!(tokenizer.token_to_id(b" ab"), Some(6));
    assert_eq!(tokenizer.token_to_id(b"<s>"), Some(0));
    assert_eq!(tokenizer.token_to_id(b"abc"), None);
    // A byte token is its byte, and not what text becomes.
    assert_eq!(tokenizer.piece(7), Some([0xC3].as_slice()));
    assert_eq!(tokenizer.token_to_id(&[0xC3]), None);
    assert_eq!(tokenizer.piece(9), None);

    let Some(folder) = shared("goldens/tokenizers") else {
        return;
    };
    for family in FAMILIES {
        let tokenizer = open(folder.join(family));
        let found = (0..tokenizer.vocab_size()).filter(|id| {
            let piece = tokenizer.piece(*id).unwrap();
            let same = tokenizer.token_to_id(piece);
            assert!(
                same.is_none_or(|same| tokenizer.piece(same) == Some(piece)),
                "{family}, token {id}"
            );
            same == Some(*id)
        });
        // All but byte tokens; in Gemma, U+0009 is an ordinary one.
        let expected = match family {
            "tok-spm-gemma" => 512 - 255,
            "tok-spm-llama" => 512 - 256,
            _ => tokenizer.vocab_size() as usize,
        };
        assert_eq!(found.count(), expected, "{family}");
    }
}
