//! Compiled patterns cut text as the `tokenizers` crate does, in linear time; what cannot be
//! compiled is refused by name.

use std::time::Instant;

use pocketlm::import::tokenizer::{GgufTokenizer, from_gguf};
use serde_json::{Value, json};

use super::random::{Pair, Random, Trying};
use super::*;

/// GPT-2's letters for bytes.
fn letters() -> Vec<char> {
    let mut others = '\u{100}'..;
    (0..=255_u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => others.next().unwrap(),
        })
        .collect()
}

/// A vocabulary in which any two of some bytes are a token: where text is cut shows in the ids.
fn pairs(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
    let letters = letters();
    let mut tokens: Vec<String> = letters.iter().map(char::to_string).collect();
    let mut merges = vec![];
    for first in bytes {
        for second in bytes {
            let first = letters[usize::from(*first)];
            let second = letters[usize::from(*second)];
            tokens.push(format!("{first}{second}"));
            merges.push(format!("{first} {second}"));
        }
    }
    // In some order that has nothing to do with the bytes.
    let mut random = Random::new(1);
    for at in (1..merges.len()).rev() {
        merges.swap(at, random.below(at + 1));
    }
    (tokens, merges)
}

/// A `tokenizer.json` with these pre-tokenizers.
fn tokenizer_json(bytes: &[u8], pre_tokenizers: &[Value]) -> String {
    let (tokens, merges) = pairs(bytes);
    let vocab: serde_json::Map<String, Value> = tokens
        .into_iter()
        .zip(0..)
        .map(|(token, id)| (token, json!(id)))
        .collect();
    let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": pre_tokenizers});
    json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
        "pre_tokenizer": pre_tokenizer,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                "merges": merges},
    })
    .to_string()
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": use_regex})
}

/// Writes a file in a folder of its own.
fn write(json: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = scratch();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json).unwrap();
    (folder, path)
}

const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s",
    r"|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s",
    r"|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)",
    r"|\s+",
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r##"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
);
const POSSESSIVE: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+",
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
);
const KIMI: &str = concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s",
    r"|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]",
    r"+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s",
    r"|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)",
    r"|\s+",
);

/// Pre-tokenizers of model families, by the family's name.
fn families() -> Vec<(&'static str, Vec<Value>)> {
    let digits = |individual: bool| json!({"type": "Digits", "individual_digits": individual});
    let removed = |pattern: &str| {
        json!({"type": "Split", "pattern": {"Regex": pattern},
        "behavior": "Removed", "invert": true})
    };
    let punctuation = |behavior: &str| json!({"type": "Punctuation", "behavior": behavior});
    vec![
        ("o200k", vec![removed(O200K), byte_level(false)]),
        ("tekken", vec![split(TEKKEN), byte_level(false)]),
        (
            "deepseek-v3",
            vec![
                split(r"\p{N}{1,3}"),
                split("[一-龥\u{3040}-ゟ゠-ヿ]+"),
                split(DEEPSEEK3),
                byte_level(false),
            ],
        ),
        ("possessive", vec![split(POSSESSIVE), byte_level(false)]),
        ("kimi", vec![split(KIMI), byte_level(false)]),
        (
            "deepseek-llm",
            vec![
                split(r"[\r\n]"),
                split(r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯ]+"),
                split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
                split(r"\s+$"),
                split(r"[一-龥ࠀ-一가-퟿]+"),
                digits(true),
                byte_level(false),
            ],
        ),
        (
            "deepseek-coder",
            vec![
                split(r"[\r\n]"),
                split(r"\s?\p{L}+"),
                split(r"\s?\p{P}+"),
                split(r"[一-龥ࠀ-一가-퟿]+"),
                digits(true),
                byte_level(false),
            ],
        ),
        ("smollm", vec![digits(true), byte_level(true)]),
        ("digits together", vec![digits(false), byte_level(true)]),
        (
            "falcon's punctuation",
            vec![punctuation("Contiguous"), byte_level(true)],
        ),
        (
            "punctuation alone",
            vec![punctuation("Isolated"), byte_level(false)],
        ),
        (
            "exaone-moe",
            vec![
                split(concat!(
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
                    r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
                    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
                )),
                byte_level(false),
            ],
        ),
        (
            "bloom",
            vec![split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), byte_level(false)],
        ),
        (
            "letter classes",
            vec![
                split(r"\w+|[^\w\s]+|\d{2,}|\h|\s"),
                split(r"[[:alpha:]]{2}|[[:^space:]][[:digit:]]?"),
                byte_level(false),
            ],
        ),
        (
            "a string",
            vec![
                json!({"type": "Split", "pattern": {"String": "a.b"}, "behavior": "Isolated",
                    "invert": false}),
                byte_level(true),
            ],
        ),
        ("none", vec![byte_level(false)]),
        (
            "space in front",
            vec![
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true}),
            ],
        ),
    ]
}

#[test]
fn patterns_of_families_cut_text_as_the_tokenizers_crate_does() {
    let all: Vec<u8> = (0..=255).collect();
    for (name, pre_tokenizers) in families() {
        let (_folder, path) = write(&tokenizer_json(&all, &pre_tokenizers));
        let mut pair = Pair::open(&path);
        pair.specials.push("a.b a.b".into());
        let _name = Trying(name);
        for seed in 0..2_000 {
            let text = Random::new(seed + 1).text(&pair.specials);
            pair.check_text(&text, PARSED);
        }
    }
}

/// Sixteen characters a text, each where it makes a difference.
#[test]
fn every_character_is_cut_as_the_tokenizers_crate_does() {
    let all: Vec<u8> = (0..=255).collect();
    // `Digits` is as new as the compiler, so the digits of Unicode 17 are left out. Of the planes
    // with nothing but private or unassigned characters, a sample.
    let is_wanted = |character: &char| {
        !matches!(character, '\u{11DE0}'..='\u{11DE9}' | '\u{16FF4}'..='\u{16FF6}')
            && matches!(character, '\0'..'\u{33480}' | '\u{E0000}'..'\u{E0200}')
            || u32::from(*character) % 97 == 0
    };
    let characters: Vec<char> = ('\0'..=char::MAX).filter(is_wanted).collect();
    for (name, pre_tokenizers) in families() {
        if !matches!(
            name,
            "o200k"
                | "deepseek-v3"
                | "kimi"
                | "letter classes"
                | "punctuation alone"
                | "digits together"
        ) {
            continue;
        }
        let (_folder, path) = write(&tokenizer_json(&all, &pre_tokenizers));
        let mut pair = Pair::open(&path);
        let _name = Trying(name);
        for some in characters.chunks(16) {
            let text: String = some
                .iter()
                .map(|c| format!("a{c}bB{c}{c}1{c} {c}.{c}\n{c}A"))
                .collect();
            pair.check_text(&text, PARSED);
        }
    }
}

/// A random expression of what tokenizers are made of.
fn random_expression(random: &mut Random, depth: usize) -> String {
    let atoms = [
        "a",
        "b",
        "A",
        " ",
        r"\n",
        "'",
        "1",
        r"\s",
        r"\S",
        r"\d",
        r"\w",
        r"\p{L}",
        r"\p{N}",
        r"\p{Lu}",
        r"\p{Ll}",
        r"\p{M}",
        r"\P{L}",
        "[ab]",
        r"[^\s\p{L}\p{N}]",
        r"[^\r\n\p{L}]",
        "[a-z&&[^s]]",
        r"[\p{Lo}é1]",
        ".",
        "中",
        r"[\r\n]",
        "(?i:s|ll)",
        r"[^a]",
    ];
    let mut expression = String::new();
    for _ in 0..=random.below(3) {
        let atom = match random.below(8) {
            0 if depth > 0 => format!("(?:{})", random_expression(random, depth - 1)),
            1 if depth > 0 => format!("(?i:{})", random_expression(random, depth - 1)),
            2 if expression.is_empty() => (*random.pick(&["a", " "])).into(),
            2 => {
                expression += *random.pick(&[r"(?!\S)", "(?=a)", r"(?!\p{L})", "$", r"(?=\s|$)"]);
                continue;
            }
            _ => (*random.pick(&atoms)).to_owned(),
        };
        let repeat = random.pick(&[
            "", "", "", "", "+", "*", "?", "{1,3}", "{2}", "++", "?+", "+?", "{2,}", "*+", "??",
        ]);
        expression += &(atom + repeat);
    }
    if random.below(3) == 0 {
        expression = format!(
            "{expression}|{}",
            random_expression(random, depth.saturating_sub(1))
        );
    }
    expression
}

#[test]
fn random_patterns_cut_text_as_the_tokenizers_crate_does() {
    let characters = [
        "a", "b", "A", "s", "S", "l", "L", "1", "2", " ", " ", "\n", "\r", "\t", "'", ".", "$",
        "é", "ǅ", "ʰ", "中", "の", "\u{301}", "²", "ſ", "\u{3000}", "😀",
    ];
    let mut bytes: Vec<u8> = characters.concat().into_bytes();
    bytes.sort();
    bytes.dedup();
    let count = std::env::var("POCKETLM_PATTERNS").map_or(400, |count| count.parse().unwrap());
    let mut compiled = 0;
    for seed in 0..count {
        let mut random = Random::new(seed + 1);
        let mut patterns: Vec<Value> = (0..=random.below(3))
            .map(|_| split(&random_expression(&mut random, 2)))
            .collect();
        patterns.push(byte_level(random.below(4) == 0));
        let (_folder, path) = write(&tokenizer_json(&bytes, &patterns));
        // It matches the empty text, or takes quadratic time, for example.
        if tokenizer::from_path(&path).is_err() {
            continue;
        }
        compiled += 1;
        let mut pair = Pair::open(&path);
        let tried = format!("seed {seed}: {patterns:?}");
        let _patterns = Trying(&tried);
        for _ in 0..200 {
            let text: String = (0..random.below(20))
                .map(|_| *random.pick(&characters))
                .collect();
            pair.check_text(&text, PARSED);
        }
    }
    eprintln!("{compiled} of {count} sequences are supported");
    assert!(compiled * 8 > count, "only {compiled} of {count}");
}

/// The importer's answer to a pattern.
fn answer(pattern: &str) -> String {
    let (_folder, path) = write(&tokenizer_json(b"ab", &[split(pattern), byte_level(false)]));
    match tokenizer::from_path(&path) {
        Ok(_) => "accepted".into(),
        Err(error) => error
            .reason
            .replace(&format!("pre-tokenizer pattern `{pattern}`: "), ""),
    }
}

#[test]
fn what_a_pattern_needs_and_is_not_supported_is_named() {
    for (pattern, expected) in [
        (r"(a)\1", r"the back-reference `\1` is not supported"),
        (r"(?<=a)b", "look-behind `(?<=` is not supported"),
        (r"(?<!a)b", "look-behind `(?<!` is not supported"),
        (r"(?>a+)b", "the atomic group `(?>` is not supported"),
        (
            r"\d+(?=(\d{3})+(?!\d))",
            "look-ahead of more than one character is not supported",
        ),
        (r"(?<name>a)", "the group `(?<name` is not supported"),
        (r"(?m:a)", "the group `(?m` is not supported"),
        (r"\ba", r"the word boundary `\b` is not supported"),
        (r"^a", "`^` is not supported"),
        (r"a\Z", r"the anchor `\Z` is not supported"),
        (r"\X", r"the escape `\X` is not supported"),
        (r"\p{Klingon}", r"the property `\p{Klingon}` is not known"),
        (
            r"(?:ab)++",
            "a possessive repeat of more than one set of characters is not supported",
        ),
        (r"a*", "it matches the empty text, which is not supported"),
        (
            r"a*b|a",
            "it can read far ahead for every match, which takes quadratic time",
        ),
        (
            r"(?i:ss)",
            "`(?i:…)` with the letters `ss` is not supported",
        ),
        (r"[a", "a `[` without a `]`"),
        (r"(a", "a `(` without a `)`"),
        (r"a)", "a `)` without a `(`"),
        (r"a{5000}", "the count `{5000}` is too large"),
        (r"(?:(?:a{100}){100}){100}", "it is too large"),
        (
            r"(?:a?){2,3}b",
            "a repeat of what can be empty is not supported",
        ),
    ] {
        assert_eq!(answer(pattern), expected, "{pattern}");
    }
    let deep = "(?:".repeat(100_000) + "a";
    assert_eq!(answer(&deep), "more than 50 groups within each other");
    let removed =
        json!({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Removed", "invert": false});
    let (_folder, path) = write(&tokenizer_json(b"ab", &[removed, byte_level(false)]));
    assert_eq!(
        tokenizer::from_path(&path).unwrap_err().reason,
        "pre_tokenizer `Split` that removes text is not supported: pattern `a`"
    );
}

#[test]
fn a_megabyte_is_cut_in_linear_time() {
    for (name, pre_tokenizers) in families() {
        let (_folder, path) = write(&tokenizer_json(b" ab\n1.", &pre_tokenizers));
        let tokenizer = open(&path);
        for unit in [
            "a", "A", " ", "\n", "1", "中", "'", "'l", ".", " \n", "\n ", "aA", "\u{301}", " a",
            "\u{3000}",
        ] {
            let text = unit.repeat((1 << 20) / unit.len()) + "x";
            let mut scratch = vec![0; tokenizer.scratch_len(text.len())];
            let mut ids = vec![0; text.len() + 1];
            let start = Instant::now();
            tokenizer
                .encode(&text, PARSED, &mut scratch, &mut ids)
                .unwrap();
            assert!(
                start.elapsed() < SOON,
                "{name}, {unit:?}: {:?}",
                start.elapsed()
            );
        }
    }
}

#[test]
fn a_section_with_patterns_and_any_byte_changed_is_refused_or_harmless() {
    for (name, pre_tokenizers) in families() {
        if !matches!(name, "o200k" | "deepseek-v3" | "smollm") {
            continue;
        }
        let (_folder, path) = write(&tokenizer_json(b"ab", &pre_tokenizers));
        let section = section(&path);
        // The header, and the patterns at the end; what is between others look at.
        for at in (0..100).chain(section.len() - 1_400..section.len()) {
            for change in [0x01, 0x10, 0x80, 0xFF] {
                let mut damaged = section.to_vec();
                damaged[at] ^= change;
                super::hostile::exercise(&damaged);
            }
        }
        for len in section.len() - 1_400..section.len() {
            assert!(
                Tokenizer::open(&section[..len]).is_err(),
                "{name}, {len} bytes"
            );
        }
        // A row that there is not, a kind that there is not.
        let rows = u16::from_le_bytes([section[46], section[47]]);
        for (back, value) in [(2, rows + 1), (2, 0x3FFF)] {
            let mut damaged = section.to_vec();
            let at = section.len() - back;
            damaged[at..at + 2].copy_from_slice(&value.to_le_bytes());
            assert!(Tokenizer::open(&damaged).is_err(), "{name}, row {value}");
        }
        let ascii = section.len()
            - usize::from(rows) * 2 * (usize::from(section[10]) + 1)
            - 2 * usize::from(section[11])
            - 128;
        let mut damaged = section.to_vec();
        damaged[ascii] = section[10];
        assert!(Tokenizer::open(&damaged).is_err(), "{name}");
    }
}

/// GGUF files name their pre-tokenizer instead of saying what it is.
fn gguf(pre: &str) -> Result<Vec<u8>, String> {
    let all: Vec<u8> = (0..=255).collect();
    let (tokens, merges) = pairs(&all);
    let vocabulary = GgufTokenizer {
        model: "gpt2",
        pre: Some(pre),
        tokens: tokens.iter().map(String::as_str).collect(),
        merges: merges.iter().map(String::as_str).collect(),
        ..GgufTokenizer::default()
    };
    from_gguf(&vocabulary).map_err(|error| error.to_string())
}

#[test]
fn a_gguf_and_a_folder_cut_text_alike() {
    let all: Vec<u8> = (0..=255).collect();
    let families = families();
    for (pre, name) in [
        ("deepseek-v3", "deepseek-v3"),
        ("smollm", "smollm"),
        ("kimi-k2", "kimi"),
        ("exaone-moe", "exaone-moe"),
    ] {
        let (_, pre_tokenizers) = families.iter().find(|(other, _)| *other == name).unwrap();
        let (_folder, path) = write(&tokenizer_json(&all, pre_tokenizers));
        let folder = open(&path);
        let section = gguf(pre).unwrap();
        let gguf = Tokenizer::open(&section).unwrap();
        for seed in 0..1_000 {
            let text = Random::new(seed + 1).text(&["'LL".into()]);
            // llama.cpp does not know that ſ is an s without regard to case.
            let text = text.replace('ſ', "s");
            assert_eq!(
                encode(&gguf, &text, PARSED),
                encode(&folder, &text, PARSED),
                "{pre}: {text:?}"
            );
        }
    }
}

#[test]
fn a_gguf_with_an_unknown_pre_tokenizer_is_refused_with_advice() {
    for name in ["superbpe", "tiny_aya", "afmoe", "gemma4", "nonsense"] {
        assert_eq!(
            gguf(name).unwrap_err(),
            format!(
                "tokenizer.ggml.pre `{name}` is not supported; import the Hugging Face folder that \
                 the file was made from: its tokenizer.json says itself how text is cut"
            )
        );
    }
    // Other names of what is known.
    let same = [
        ["llama-bpe", "falcon3", "pixtral", "lfm2", "midm-2.0"],
        ["gpt-2", "jina-v2-de", "olmo", "mpt", "trillion"],
        ["gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie"],
        ["smollm", "starcoder", "refact", "command-r", "exaone"],
        ["qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"],
    ];
    for [first, others @ ..] in same {
        for other in others {
            assert!(gguf(first).unwrap() == gguf(other).unwrap(), "{other}");
        }
    }
}
