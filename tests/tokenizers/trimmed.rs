//! Tokenizers with fewer tokens: texts that need only kept tokens are encoded as before, and any
//! other text can still be written.

use std::collections::HashSet;
use std::sync::OnceLock;

use pocketlm::import::tokenizer::{KeepTokens, Script, trim};

use super::*;

const CORPUS: &str = include_str!("../../README.md");

/// Text in many scripts that the corpus does not hold.
const OTHER: &str = "Ёлка 木の葉 नमस्ते 🙂 naïve façade \u{1F9D1}\u{200D}\u{1F680} x\u{0}\ty";

fn corpus(text: &str) -> KeepTokens {
    KeepTokens {
        corpora: vec![text.into()],
        ..KeepTokens::default()
    }
}

/// Every tokenizer that there is here: those of this repository, the golden ones and the real ones.
fn sections() -> &'static [(String, &'static [u8])] {
    static SECTIONS: OnceLock<Vec<(String, &'static [u8])>> = OnceLock::new();
    SECTIONS.get_or_init(read_sections)
}

/// Those that have tokens for the corpus.
fn large_sections() -> impl Iterator<Item = &'static (String, &'static [u8])> {
    let is_large = |section| Tokenizer::open(section).unwrap().vocab_size() >= 256;
    sections()
        .iter()
        .filter(move |(_, section)| is_large(section))
}

fn read_sections() -> Vec<(String, &'static [u8])> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers");
    let own = own.read_dir().unwrap().flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = own.collect();
    if let Some(goldens) = shared("goldens/tokenizers") {
        paths.extend(FAMILIES.map(|name| goldens.join(name)));
    }
    let real = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/pocketlm"));
    if let Some(entries) = real.and_then(|cache| cache.join("tokenizers").read_dir().ok()) {
        paths.extend(entries.flatten().map(|entry| entry.path()));
    }
    paths.sort();
    let named = |path: PathBuf| (path.display().to_string(), section(&path));
    paths.into_iter().map(named).collect()
}

/// Pieces of the corpus, cut anywhere and put together anew.
fn texts() -> impl Iterator<Item = String> {
    let characters: Vec<char> = CORPUS.chars().collect();
    let mut random = random::Random::new(1);
    (0..2000).map(move |_| {
        let mut text = String::new();
        for _ in 0..1 + random.below(4) {
            let start = random.below(characters.len() - 40);
            text.extend(&characters[start..start + 1 + random.below(39)]);
        }
        text
    })
}

#[test]
fn a_tokenizer_that_keeps_every_token_encodes_as_before() {
    let mut unchanged = 0;
    for (name, section) in sections() {
        let everything = KeepTokens {
            size: Some(u32::MAX),
            ..KeepTokens::default()
        };
        let whole = Tokenizer::open(section).unwrap();
        let trimmed = trim(section, "", &everything).unwrap();
        assert!(trimmed.section.len() <= section.len(), "{name}");
        // Only merges that never happen are left out.
        if trimmed.section.len() == section.len() {
            assert!(trimmed.section == *section, "{name}");
            unchanged += 1;
        }
        let mut compared = 0;
        let tokenizer = Tokenizer::open(&trimmed.section).unwrap();
        // Every piece and its neighbour: each token is made, next to others that it could merge
        // with.
        let piece = |id| String::from_utf8_lossy(whole.piece(id).unwrap_or_default());
        let pairs = (0..whole.vocab_size()).map(|id| format!("{}{}", piece(id), piece(id + 1)));
        let own = [CORPUS, OTHER].map(str::to_owned).into_iter();
        for text in own.chain(texts()).chain(pairs) {
            let before = encode(&whole, &text, AS_TEXT);
            // Unused and reserved tokens go all the same.
            if before
                .iter()
                .all(|id| trimmed.kept.binary_search(id).is_ok())
            {
                let ids = encode(&tokenizer, &text, AS_TEXT).into_iter();
                let after: Vec<u32> = ids.map(|id| trimmed.kept[id as usize]).collect();
                assert_eq!(after, before, "{name}: {text:?}");
                compared += 1;
            }
        }
        assert!(compared > 10, "{name}: {compared}");
    }
    assert!(unchanged > 0);
}

#[test]
fn merges_that_never_happen_take_no_space() {
    let with_merges = |merges: &str| {
        let vocab = r#""a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5"#;
        let model = format!(r#"{{"type": "BPE", "vocab": {{{vocab}}}, "merges": [{merges}]}}"#);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let normalizer = r#"{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}"#;
        let spaces = r#"{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}"#;
        let decoders = format!(r#"[{spaces}, {{"type": "Fuse"}}]"#);
        let decoder = format!(r#"{{"type": "Sequence", "decoders": {decoders}}}"#);
        let json =
            format!(r#"{{"normalizer": {normalizer}, "decoder": {decoder}, "model": {model}}}"#);
        std::fs::write(&path, json).unwrap();
        trim(section(path), "", &KeepTokens::default()).unwrap()
    };
    let needed = with_merges(r#"["a", "b"], ["b", "c"], ["ab", "c"]"#);
    // `ab` comes first, so there is never an `a` before `bc`.
    let every = with_merges(r#"["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"]"#);
    assert_eq!(every.section, needed.section);
    let tokenizer = Tokenizer::open(&every.section).unwrap();
    assert_eq!(encode(&tokenizer, "abcbcab", AS_TEXT), [5, 4, 3]);
}

#[test]
fn a_text_of_kept_tokens_has_the_same_tokens() {
    for (name, section) in large_sections() {
        let whole = Tokenizer::open(section).unwrap();
        let trimmed = trim(section, "", &corpus(CORPUS)).unwrap();
        let tokenizer = Tokenizer::open(&trimmed.section).unwrap();
        let kept: HashSet<u32> = trimmed.kept.iter().copied().collect();
        assert!(kept.len() < whole.vocab_size() as usize, "{name}");
        let as_before = |text: &str| {
            let ids = encode(&whole, text, WITH_SPECIAL);
            let is_of_kept_tokens = ids.iter().all(|id| kept.contains(id));
            let new = encode(&tokenizer, text, WITH_SPECIAL).into_iter();
            let new: Vec<u32> = new.map(|id| trimmed.kept[id as usize]).collect();
            if is_of_kept_tokens {
                assert_eq!(new, ids, "{name}: {text:?}");
            }
            is_of_kept_tokens
        };
        assert!(as_before(CORPUS), "{name}");
        let checked = texts().filter(|text| as_before(text)).count();
        assert!(checked > 100, "{name}: {checked}");
    }
}

#[test]
fn any_text_can_still_be_written() {
    for (name, section) in large_sections() {
        let whole = Tokenizer::open(section).unwrap();
        let trimmed = trim(section, "", &corpus("one two")).unwrap();
        let tokenizer = Tokenizer::open(&trimmed.section).unwrap();
        for text in [CORPUS, OTHER] {
            let before = decode(&whole, &encode(&whole, text, AS_TEXT), false);
            let after = decode(&tokenizer, &encode(&tokenizer, text, AS_TEXT), false);
            assert_eq!(after, before, "{name}");
        }
        assert_eq!(tokenizer.bos().is_some(), whole.bos().is_some(), "{name}");
        assert_eq!(
            tokenizer.eos_ids().count(),
            whole.eos_ids().count(),
            "{name}"
        );
        assert_eq!(tokenizer.add_bos(), whole.add_bos(), "{name}");
    }
}

#[test]
fn an_added_token_that_nothing_else_can_write_is_kept() {
    let section = section("tests/data/tokenizers/flags.json");
    let whole = Tokenizer::open(section).unwrap();
    let trimmed = trim(section, "", &corpus("ab c")).unwrap();
    let tokenizer = Tokenizer::open(&trimmed.section).unwrap();
    let written = |tokenizer| decode(tokenizer, &encode(tokenizer, "a word", AS_TEXT), false);
    assert!(written(&whole).contains("word"));
    assert_eq!(written(&tokenizer), written(&whole));
}

#[test]
fn scripts_and_sizes_choose_tokens() {
    for (name, section) in large_sections() {
        let keep = |scripts: &[&str], size| KeepTokens {
            scripts: scripts.iter().map(|name| name.parse().unwrap()).collect(),
            size,
            ..KeepTokens::default()
        };
        let count = |keep: KeepTokens| trim(section, "", &keep).unwrap().kept.len();
        let latin = count(keep(&["latin"], None));
        let both = count(keep(&["latin", "cyrillic"], None));
        let whole = Tokenizer::open(section).unwrap().vocab_size() as usize;
        assert!(latin <= both && both <= whole, "{name}: {latin} {both}");
        let half = count(keep(&[], Some(whole as u32 * 3 / 4)));
        assert!(
            half <= whole * 3 / 4 && half > whole * 3 / 4 - 8,
            "{name}: {half}"
        );
        let too_few = trim(section, "", &keep(&[], Some(10))).unwrap_err();
        assert!(
            too_few.to_string().contains("10 tokens are too few"),
            "{too_few}"
        );
    }
    assert!("klingon".parse::<Script>().is_err());
    assert!("".parse::<Script>().is_err());
}

#[test]
fn an_empty_corpus_is_refused() {
    let section = section("tests/data/tokenizers/abc.json");
    let error = trim(section, "", &corpus(" \n")).unwrap_err();
    assert_eq!(error.to_string(), "the corpus holds no text");
}
