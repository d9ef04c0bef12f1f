//! Time, memory and size: long texts of one kind, buffers that are too small, the size of a
//! section.

use std::time::Instant;

use pocketlm::Error;
use pocketlm::text::{nfc_scratch_len, scratch_len};

use super::*;

const MEGABYTE: usize = 1 << 20;

#[test]
fn a_megabyte_of_one_kind_is_encoded_in_linear_time() {
    let Some(folder) = shared("goldens/tokenizers") else {
        return;
    };
    for family in FAMILIES {
        let tokenizer = open(folder.join(family));
        for unit in [
            "a",
            " ",
            "\n",
            "\u{301}",
            "\u{334}\u{345}\u{301}",
            "=",
            "1",
            "<",
            "<|im_end|",
            "▁",
            "e\u{301}",
            "ab",
            " \n",
            "'",
        ] {
            let text = unit.repeat(MEGABYTE / unit.len());
            let mut scratch = vec![0; tokenizer.scratch_len(text.len())];
            let mut ids = vec![0; text.len() + 8];
            let start = Instant::now();
            let count = tokenizer
                .encode(&text, WITH_SPECIAL, &mut scratch, &mut ids)
                .unwrap();
            let encoded = start.elapsed();
            assert!(encoded < SOON, "{family}, {unit:?}: {encoded:?}");

            let start = Instant::now();
            decode(&tokenizer, &ids[..count], true);
            let decoded = start.elapsed();
            assert!(
                decoded < SOON,
                "{family}, {unit:?}: decoding took {decoded:?}"
            );
            eprintln!("{family}, {unit:?}: {count} ids in {encoded:?}, decoded in {decoded:?}");
        }
    }
}

#[test]
fn whitespace_tokens_that_strip_whitespace_take_linear_time() {
    let mut json: serde_json::Value =
        serde_json::from_str(include_str!("../data/tokenizers/abc.json")).unwrap();
    json["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({
        "id": 9, "content": "\n", "lstrip": true, "rstrip": true, "normalized": false,
            "single_word": false, "special": false}));
    let folder = scratch();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let start = Instant::now();
    let ids = encode(&open(&path), &"\n".repeat(MEGABYTE), PARSED);
    assert_eq!(ids.len(), MEGABYTE);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[test]
fn too_little_scratch_is_an_error_that_says_how_much_is_enough() {
    let Some(folder) = shared("goldens/tokenizers") else {
        return;
    };
    let text = " Ünïcöde e\u{345}\u{301} text, 12 words\n".repeat(20);
    for family in FAMILIES {
        let tokenizer = open(folder.join(family));
        let expected = encode(&tokenizer, &text, PARSED);
        let mut ids = vec![0; expected.len()];
        let needed = tokenizer.scratch_len(text.len());
        let mut worked = false;
        for given in 0..=needed {
            match tokenizer.encode(&text, PARSED, &mut vec![0; given], &mut ids) {
                Ok(count) => {
                    worked = true;
                    assert_eq!(ids[..count], expected);
                }
                Err(error) => {
                    assert!(!worked, "{family}: {given} words are not enough, fewer are");
                    assert_eq!(
                        error,
                        Error::ScratchTooSmall {
                            needed,
                            found: given
                        }
                    );
                }
            }
        }
        assert!(worked, "{family}: {needed} words are not enough");
    }
}

#[test]
fn too_little_output_is_an_error_that_says_how_many_ids_there_are() {
    let tokenizer = open("tests/data/tokenizers/abc.json");
    let mut scratch = [0; scratch_len(6)];
    let mut ids = [u32::MAX; 3];
    // ▁ab, c, ▁ab
    assert_eq!(
        tokenizer.encode("abc ab", PARSED, &mut scratch, &mut ids),
        Ok(3)
    );
    assert_eq!(ids, [6, 4, 6]);
    let mut ids = [u32::MAX; 2];
    let error = Error::OutputTooSmall {
        needed: 3,
        found: 2,
    };
    assert_eq!(
        tokenizer.encode("abc ab", PARSED, &mut scratch, &mut ids),
        Err(error)
    );
    assert_eq!(ids, [6, 4]);
    assert_eq!(
        error.to_string(),
        "output too small: the text has 3 tokens, the output holds 2"
    );
}

#[test]
fn scratch_is_three_words_a_byte_and_a_bit() {
    assert_eq!(scratch_len(0), 3);
    // Symbols: 1,001. Minima: 63, 4.
    assert_eq!(scratch_len(1_000), 3_003 + 67);
    assert_eq!(nfc_scratch_len(1_000), 751 + 9_003 + 188 + 12);
    assert_eq!(scratch_len(usize::MAX), usize::MAX);
}

#[test]
fn the_worst_growth_under_nfc_fits_the_scratch() {
    let Some(path) = shared("goldens/tokenizers/tok-qwen2") else {
        return;
    };
    let tokenizer = open(path);
    // U+1D160 becomes three characters of four bytes, U+FB2C two of two bytes, U+0390 one of its
    // three parts' composites.
    for unit in [
        "\u{1D160}",
        "\u{FB2C}",
        "\u{390}",
        "\u{344}",
        "\u{1D15F}\u{1D165}",
        "각",
    ] {
        let text = unit.repeat(3_000);
        encode(&tokenizer, &text, PARSED);
    }
}

#[test]
fn a_section_costs_about_as_much_as_the_vocabulary_file_packed() {
    let Some(folder) = shared("goldens/tokenizers") else {
        return;
    };
    let sizes = FAMILIES.map(|family| section(folder.join(family)).len());
    // Pieces, index, merges; for byte-level tokenizers 7 KB of character classes, for Qwen 30 KB of
    // NFC.
    assert_eq!(sizes.map(|size| size.div_ceil(1024)), [13, 13, 45, 6, 6]);
}

#[test]
fn user_text_cannot_write_special_tokens_when_they_are_text() {
    let Some(folder) = shared("goldens/tokenizers") else {
        return;
    };
    for (family, text) in [
        ("tok-llama3", "<|eot_id|>"),
        ("tok-qwen2", "<|im_end|>"),
        ("tok-spm-llama", "</s>"),
        ("tok-spm-gemma", "<end_of_turn>"),
    ] {
        let tokenizer = open(folder.join(family));
        let special = tokenizer.token_to_id(text.as_bytes()).unwrap();
        assert!(tokenizer.is_special(special));
        assert!(
            encode(&tokenizer, text, PARSED).contains(&special),
            "{family}"
        );
        let as_text = encode(&tokenizer, &format!("hi {text} there"), AS_TEXT);
        assert!(
            as_text.iter().all(|id| !tokenizer.is_special(*id)),
            "{family}: {as_text:?}"
        );
        let stripped = decode(&tokenizer, &as_text, false);
        assert_eq!(stripped, format!("hi {text} there"), "{family}");
    }
}
