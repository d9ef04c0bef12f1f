//! Damaged sections and files: refused, or harmless.

use std::time::Instant;

use pocketlm::Error;
use pocketlm::import::tokenizer::{GgufTokenizer, from_gguf, from_llama2c, from_path};

use super::*;

/// Uses whatever has opened: anything may come out, but no panic and no hang.
pub fn exercise(section: &[u8]) {
    let Ok(tokenizer) = Tokenizer::open(section) else {
        return;
    };
    let mut scratch = [0; 2_000];
    let mut ids = [0; 64];
    for text in [
        "",
        " ab<s>c  b\u{345}\u{334}é\n12 ab",
        "각e\u{301}\u{1D160}'s <l>word <r> a b",
        "ababababab",
    ] {
        for options in [WITH_SPECIAL, AS_TEXT] {
            let _ = tokenizer.encode(text, options, &mut scratch, &mut ids);
        }
    }
    let mut decoder = Decoder::new(&tokenizer).skip_special(true);
    for id in (0..tokenizer.vocab_size().min(40)).chain([u32::MAX, 0xFFFF]) {
        tokenizer.piece(id);
        if let Ok(text) = decoder.push(id) {
            let _ = text.to_string();
        }
    }
    let _ = decoder.finish().to_string();
    tokenizer
        .eos_ids()
        .for_each(|id| assert!(id < tokenizer.vocab_size()));
}

#[test]
fn a_section_cut_short_anywhere_is_refused() {
    for file in ["abc.json", "normalized.json", "bytes.json"] {
        let section = section(Path::new("tests/data/tokenizers").join(file));
        for len in 0..section.len() {
            assert!(
                matches!(
                    Tokenizer::open(&section[..len]).unwrap_err(),
                    Error::TokenizerTruncated { .. }
                ),
                "{file} at {len}"
            );
        }
        let longer = [section, &[0]].concat();
        assert_eq!(
            Tokenizer::open(&longer).unwrap_err(),
            Error::TokenizerInvalid {
                offset: section.len()
            }
        );
    }
}

#[test]
fn a_section_with_any_byte_changed_is_refused_or_harmless() {
    for file in [
        "abc.json",
        "flags.json",
        "normalized.json",
        "metaspace.json",
        "bytes.json",
    ] {
        let section = section(Path::new("tests/data/tokenizers").join(file));
        // The Unicode tables are long and all alike; a part of the places is enough there.
        let step = |at: usize| if at < 1_000 { 1 } else { 97 };
        let mut at = 0;
        while at < section.len() {
            for change in [0x01, 0x80, 0xFF, 0x10] {
                let mut damaged = section.to_vec();
                damaged[at] ^= change;
                exercise(&damaged);
            }
            at += step(at);
        }
    }
}

#[test]
fn random_bytes_behind_a_header_are_refused_or_harmless() {
    let section = section("tests/data/tokenizers/abc.json");
    let mut state = 1_u32;
    for _ in 0..20_000 {
        let mut damaged = section.to_vec();
        for _ in 0..4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (state >> 8) as usize % damaged.len();
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            damaged[at] = (state >> 24) as u8;
        }
        exercise(&damaged);
    }
}

/// The importer's answer to a file with these bytes.
fn import(name: &str, bytes: &[u8]) -> String {
    let folder = scratch();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    from_path(&path)
        .map(|_| "accepted".to_owned())
        .unwrap_or_else(|error| {
            assert_eq!(
                error.path.as_deref(),
                Some(path.as_path()),
                "the error names the file"
            );
            error
                .to_string()
                .replace(&format!("{}: ", path.display()), "")
        })
}

#[test]
fn what_a_tokenizer_asks_for_and_is_not_supported_is_named() {
    let original: serde_json::Value =
        serde_json::from_str(include_str!("../data/tokenizers/abc.json")).unwrap();
    let with = |pointer: &str, value: serde_json::Value| {
        let mut json = original.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        import("tokenizer.json", json.to_string().as_bytes())
    };
    use serde_json::json;
    assert_eq!(
        with("/model/type", "Unigram".into()),
        "model `Unigram` is not supported"
    );
    assert_eq!(
        with("/pre_tokenizer", json!({"type": "BertPreTokenizer"})),
        "pre_tokenizer `BertPreTokenizer` is not supported"
    );
    assert_eq!(
        with("/normalizer", json!({"type": "NFKC"})),
        "normalizer `NFKC` is not supported"
    );
    assert_eq!(
        with("/post_processor", json!({"type": "BertProcessing"})),
        "post_processor `BertProcessing` is not supported"
    );
    assert_eq!(
        with("/model/merges", json!([["a", "x"]])),
        r#"model: merge 0, ["a","x"]: `ax` is not in the vocabulary"#
    );
    assert_eq!(
        with("/model/merges", json!(["a"])),
        r#"model: merge 0, "a": not two tokens"#
    );
    assert_eq!(
        with("/model/vocab/c", json!(2)),
        "model: tokens `a` and `c` both have id 2"
    );
    assert_eq!(
        with("/model/vocab/c", json!(4_000_000_000_u32)),
        "token id 4000000000 in a vocabulary of 9 tokens"
    );
    assert_eq!(
        with("/model/vocab/c", json!(-1)),
        "model: the id of token `c` is -1"
    );
    assert_eq!(
        with("/added_tokens/0/content", "x".repeat(256).into()),
        format!(
            "added token `{}…`: 256 bytes, at most 255 are supported",
            "x".repeat(40)
        )
    );
    let split = json!({"type": "Split", "pattern": {"Regex": "\\w+"}, "behavior": "Isolated",
        "invert": false});
    assert_eq!(
        with("/pre_tokenizer", split),
        "`Split` in a tokenizer that is not byte-level is not supported"
    );
    assert_eq!(
        import("tokenizer.json", b"{\"model\""),
        "not JSON: EOF while parsing an object at line 1 column 8"
    );
    assert_eq!(
        import("tokenizer.json", b"{}"),
        "a tokenizer with neither `ByteLevel`, `Metaspace` nor `Replace` of spaces by ▁ is not \
         supported"
    );
    assert_eq!(
        import("tokenizer.json", &b"{\"model\":".repeat(100_000)),
        "not JSON: recursion limit exceeded at line 1 column 1144"
    );
}

#[test]
fn a_sentencepiece_model_cut_short_or_changed_is_refused_or_harmless() {
    let Some(path) = shared("goldens/tokenizers/tok-spm-llama/tokenizer.model") else {
        return;
    };
    let model = std::fs::read(path).unwrap();
    let none =
        "no pieces: not a sentencepiece model; expected a tokenizer.json or a tokenizer.model";
    assert_eq!(import("tokenizer.model", b""), none);
    let mut refused = 0;
    let folder = scratch();
    let path = folder.path().join("tokenizer.model");
    for len in (0..model.len()).step_by(31) {
        std::fs::write(&path, &model[..len]).unwrap();
        refused += usize::from(from_path(&path).is_err());
        let mut changed = model.clone();
        changed[len] ^= 0xFF;
        std::fs::write(&path, changed).unwrap();
        if let Ok(section) = from_path(&path) {
            exercise(&section);
        }
    }
    // A cut between two fields cannot be seen.
    assert!(refused > 200, "{refused}");
}

#[test]
fn a_long_piece_is_refused_before_it_takes_quadratic_time() {
    let long = "a".repeat(10_000_000);
    let tokens = vec!["<unk>", "a", &long];
    let vocabulary = GgufTokenizer {
        model: "llama",
        tokens,
        scores: vec![0.0; 3],
        ..GgufTokenizer::default()
    };
    let start = Instant::now();
    let error = from_gguf(&vocabulary).unwrap_err().to_string();
    assert_eq!(
        error,
        "token 2 has 10000000 bytes, at most 256 are supported"
    );
    assert!(start.elapsed() < SOON);
}

#[test]
fn a_llama2c_file_says_where_it_ends_too_soon() {
    let folder = scratch();
    let path = folder.path().join("tokenizer.bin");
    let refusal = |bytes: &[u8], vocab_size: usize| {
        std::fs::write(&path, bytes).unwrap();
        from_llama2c(&path, vocab_size)
            .unwrap_err()
            .to_string()
            .replace(&format!("{}: ", path.display()), "")
    };
    let token = [0, 0, 0, 0, 1, 0, 0, 0, b'a'];
    let four = [&[1, 0, 0, 0], token.repeat(4).as_slice()].concat();
    assert_eq!(
        refusal(&four, 5),
        "token 4 of 5 at byte 40: 8 bytes wanted, 0 left"
    );
    assert_eq!(
        refusal(&four[..39], 4),
        "text of token 3 of 4 at byte 39: 1 bytes wanted, 0 left"
    );
    assert_eq!(
        refusal(&four, 3),
        "9 bytes after token 3, the last of the model; is this the tokenizer of this model?"
    );
    assert_eq!(
        refusal(&four, usize::MAX),
        format!(
            "token 4 of {} at byte 40: 8 bytes wanted, 0 left",
            usize::MAX
        )
    );
}

#[test]
fn an_id_outside_the_vocabulary_is_an_error_and_changes_nothing() {
    let tokenizer = open("tests/data/tokenizers/abc.json");
    let mut decoder = Decoder::new(&tokenizer);
    // é in two byte tokens, an error in between.
    assert_eq!(decoder.push(7).unwrap().to_string(), "");
    assert_eq!(
        decoder.push(9).unwrap_err(),
        Error::TokenOutOfRange {
            token: 9,
            vocab_size: 9
        }
    );
    assert_eq!(decoder.push(8).unwrap().to_string(), "é");
    assert_eq!(decoder.push(7).unwrap().to_string(), "");
    assert_eq!(decoder.finish().to_string(), "\u{FFFD}");
    assert_eq!(decoder.finish().to_string(), "");
}
