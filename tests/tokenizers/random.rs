//! The same ids and texts as the `tokenizers` crate: random strings, and every character there is.

use super::*;

/// Strings for each tokenizer: 20,000 for the golden ones, 1,000 for the real ones, whose files are
/// large. `POCKETLM_STRINGS=100000` is what a release is checked with.
fn strings(usual: u64) -> u64 {
    std::env::var("POCKETLM_STRINGS").map_or(usual, |count| count.parse().unwrap())
}

/// xorshift64*, so that a failure can be repeated from its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.below(1);
        random
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }

    pub fn pick<'l, T>(&mut self, list: &'l [T]) -> &'l T {
        &list[self.below(list.len())]
    }

    fn character(&mut self, ranges: &[std::ops::RangeInclusive<u32>]) -> char {
        let range = self.pick(ranges);
        let code = range.start() + self.below((range.end() - range.start() + 1) as usize) as u32;
        char::from_u32(code).unwrap_or('\u{FFFD}')
    }

    fn run(&mut self, most: usize, ranges: &[std::ops::RangeInclusive<u32>]) -> String {
        (0..=self.below(most))
            .map(|_| self.character(ranges))
            .collect()
    }

    fn part(&mut self, specials: &[String]) -> String {
        match self.below(18) {
            0 => self.run(8, &[0x61..=0x7A]),
            1 => self.run(8, &[0x41..=0x5A, 0x61..=0x7A, 0x61..=0x7A]),
            2 => self.run(
                5,
                &[
                    0x20..=0x20,
                    0x20..=0x20,
                    0x20..=0x20,
                    0x09..=0x0D,
                    0x0A..=0x0A,
                    0x0D..=0x0D,
                ],
            ),
            3 => self.run(
                3,
                &[
                    0xA0..=0xA0,
                    0x85..=0x85,
                    0x2000..=0x200F,
                    0x2028..=0x2029,
                    0x3000..=0x3000,
                    0x1680..=0x1680,
                ],
            ),
            4 => self.run(7, &[0x30..=0x39]),
            5 => self.run(
                3,
                &[
                    0x660..=0x669,
                    0xBC..=0xBE,
                    0x2160..=0x2188,
                    0x966..=0x96F,
                    0x1D7CE..=0x1D7FF,
                    0xB2..=0xB3,
                ],
            ),
            6 => {
                let contractions = [
                    "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'Re", "'ſ", "'l",
                    "'r", "''s", "'K", "’s",
                ];
                (*self.pick(&contractions)).to_owned()
            }
            7 => self.run(6, &[0x400..=0x4FF, 0x370..=0x3FF]),
            8 => self.run(6, &[0x590..=0x6FF, 0x900..=0x9FF, 0xE00..=0xE7F]),
            9 => self.run(
                5,
                &[
                    0x4E00..=0x9FFF,
                    0x3040..=0x30FF,
                    0xAC00..=0xD7A3,
                    0xF900..=0xFAFF,
                    0x1100..=0x11FF,
                ],
            ),
            10 => self.run(
                6,
                &[
                    0x300..=0x36F,
                    0x300..=0x36F,
                    0x591..=0x5BD,
                    0x3099..=0x309A,
                    0x1DC0..=0x1DF5,
                    0x1D165..=0x1D172,
                ],
            ),
            11 => self.run(
                4,
                &[
                    0xC0..=0x24F,
                    0x1E00..=0x1EFF,
                    0x1F00..=0x1FFF,
                    0x212A..=0x212B,
                    0xFB00..=0xFB4F,
                    0x958..=0x95F,
                ],
            ),
            12 => self.run(
                5,
                &[
                    0x1F300..=0x1F6FF,
                    0x200D..=0x200D,
                    0xFE0F..=0xFE0F,
                    0x1F1E6..=0x1F1FF,
                    0x1F3FB..=0x1F3FF,
                    0x2764..=0x2764,
                ],
            ),
            13 => self.pick(specials).clone(),
            14 => self.run(
                4,
                &[
                    0x21..=0x2F,
                    0x3A..=0x40,
                    0x5B..=0x60,
                    0x7B..=0x7E,
                    0x2010..=0x2027,
                ],
            ),
            15 => self.run(
                3,
                &[
                    0x2581..=0x2581,
                    0x2581..=0x2581,
                    0x00..=0x1F,
                    0x7F..=0x9F,
                    0x120..=0x120,
                    0x2581..=0x2581,
                ],
            ),
            16 => {
                let most = if self.below(20) == 0 { 400 } else { 40 };
                let unit = self.run(
                    2,
                    &[
                        0x20..=0x7E,
                        0x20..=0x20,
                        0x0A..=0x0A,
                        0x61..=0x61,
                        0x301..=0x301,
                        0x2581..=0x2581,
                    ],
                );
                unit.repeat(self.below(most))
            }
            _ => self.run(2, &[0..=0x10_FFFF, 0..=0xFFFF, 0..=0x7FF]),
        }
    }

    pub fn text(&mut self, specials: &[String]) -> String {
        (0..self.below(9)).map(|_| self.part(specials)).collect()
    }
}

/// What is being tried: it is printed when a check panics.
pub struct Trying<'a>(pub &'a str);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("tried: {:?}", self.0);
        }
    }
}

/// A golden tokenizer, ours and theirs.
pub struct Pair {
    pub ours: Tokenizer<'static>,
    theirs: tokenizers::Tokenizer,
    /// Contents of added tokens, and what looks like them.
    pub specials: Vec<String>,
    special_ids: std::collections::HashSet<u32>,
    byte_fallback: bool,
    strip: bool,
}

impl Pair {
    pub fn open(path: &Path) -> Self {
        let theirs = tokenizers::Tokenizer::from_file(path).unwrap();
        let added = theirs.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        let special_ids = special.map(|(id, _)| *id).collect();
        let mut specials: Vec<String> = added.values().map(|token| token.content.clone()).collect();
        specials.sort();
        let lookalikes = [
            "<|im_start",
            "|im_end|>",
            "<0x41>",
            "<0x0A>",
            "<s",
            " </s>",
            "<|eot_id|",
            "<think",
            "[INST",
        ];
        specials.extend(lookalikes.map(str::to_owned));
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let strip = json["decoder"]["decoders"]
            .as_array()
            .is_some_and(|list| list.iter().any(|decoder| decoder["type"] == "Strip"));
        Pair {
            ours: open(path),
            theirs,
            specials,
            special_ids,
            byte_fallback: json["model"]["byte_fallback"] == true,
            strip,
        }
    }

    pub fn check_text(&mut self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let _text = Trying(text);
        self.theirs
            .set_encode_special_tokens(!options.parse_special);
        let expected = self
            .theirs
            .encode_fast(text, options.add_special_tokens)
            .unwrap();
        let found = encode(&self.ours, text, options);
        assert_eq!(found, expected.get_ids(), "{options:?}");
        found
    }

    fn check_ids(&self, ids: &[u32], skip_special: bool) {
        let mut expected = self.theirs.decode(ids, skip_special).unwrap();
        if self.byte_fallback {
            let shown = |id: &&u32| !(skip_special && self.special_ids.contains(id));
            let tokens: Vec<String> = ids
                .iter()
                .filter(shown)
                .filter_map(|id| self.theirs.id_to_token(*id))
                .collect();
            assert_eq!(
                decode_by_rule(&tokens, self.strip, InvalidRun::ReplaceAll),
                expected,
                "the rule of tokenizers is another"
            );
            expected = decode_by_rule(&tokens, self.strip, InvalidRun::KeepValid);
        }
        assert_eq!(decode(&self.ours, ids, skip_special), expected, "{ids:?}");
    }
}

fn check_random_strings(family: &str, file: &str) {
    if let Some(path) = shared(&format!("goldens/tokenizers/{family}/{file}")) {
        check_strings(&path, strings(20_000));
    }
}

fn check_strings(path: &Path, count: u64) {
    let mut pair = Pair::open(path);
    for seed in 0..count {
        let mut random = Random::new(seed + 1);
        let text = random.text(&pair.specials);
        let options = *random.pick(&[PARSED, PARSED, WITH_SPECIAL, AS_TEXT]);
        let ids: Vec<u32> = (0..random.below(12))
            .map(|_| random.below(pair.ours.vocab_size() as usize) as u32)
            .collect();
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let found = pair.check_text(&text, options);
            pair.check_ids(&found, !options.add_special_tokens);
            pair.check_ids(&ids, random.below(2) == 0);
        }));
        if let Err(failure) = checked {
            eprintln!("{}, seed {seed}: {text:?}, ids {ids:?}", path.display());
            std::panic::resume_unwind(failure);
        }
    }
}

/// The folder of real tokenizers, where they have been fetched: `POCKETLM_TOKENIZERS`, or
/// `~/.cache/pocketlm/tokenizers`.
fn real_tokenizers() -> Option<PathBuf> {
    let given = std::env::var_os("POCKETLM_TOKENIZERS").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/pocketlm/tokenizers"));
    let folder = given.or_else(home).unwrap_or_default();
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("not checked, because {} is missing", folder.display());
    None
}

/// `POCKETLM_TOKENIZER` chooses one.
#[test]
fn real_tokenizers_agree_with_the_tokenizers_crate_on_random_strings() {
    let only = std::env::var("POCKETLM_TOKENIZER").ok();
    for entry in real_tokenizers()
        .into_iter()
        .flat_map(|folder| folder.read_dir().unwrap())
    {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let path = path.join("tokenizer.json");
        if path.is_file() && only.as_ref().is_none_or(|only| *only == name) {
            check_strings(&path, strings(1_000));
            eprintln!("{name}: {} strings", strings(1_000));
        }
    }
}

#[test]
fn real_tokenizers_give_the_ids_that_llama_cpp_expects() {
    let Some(folder) = real_tokenizers() else {
        return;
    };
    for (name, cases) in [("llama3", "llama-bpe"), ("qwen2_5", "qwen2")] {
        let path = folder.join(name).join("tokenizer.json");
        let Some(cases) = shared(&format!("fetched/tokenizers/ggml-vocab-{cases}.gguf.inp")) else {
            continue;
        };
        if !path.is_file() {
            continue;
        }
        let tokenizer = open(&path);
        let texts = std::fs::read_to_string(&cases).unwrap();
        let ids = std::fs::read_to_string(cases.with_extension("out")).unwrap();
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        assert!(texts.len() > 40);
        for (text, ids) in texts.iter().zip(ids.split('\n')) {
            let expected: Vec<u32> = ids
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            assert_eq!(
                encode(&tokenizer, text, AS_TEXT),
                expected,
                "{name}: {text:?}"
            );
        }
    }
}

#[test]
fn gpt2_agrees_with_the_tokenizers_crate_on_random_strings() {
    check_random_strings("tok-gpt2", "tokenizer.json");
}

#[test]
fn llama3_agrees_with_the_tokenizers_crate_on_random_strings() {
    check_random_strings("tok-llama3", "tokenizer.json");
}

#[test]
fn qwen2_agrees_with_the_tokenizers_crate_on_random_strings() {
    check_random_strings("tok-qwen2", "tokenizer.json");
}

#[test]
fn spm_gemma_agrees_with_the_tokenizers_crate_on_random_strings() {
    check_random_strings("tok-spm-gemma", "tokenizer.json");
}

#[test]
fn spm_llama_agrees_with_the_tokenizers_crate_on_random_strings() {
    check_random_strings("tok-spm-llama", "tokenizer.json");
}

/// Letters, numbers, spaces and their normal forms. Thirty-two characters a text, each where it
/// makes a difference. Of the planes that hold nothing but private use and what is to come, some.
#[test]
fn every_character_gives_the_same_ids() {
    let Some(path) = shared("goldens/tokenizers/tok-qwen2/tokenizer.json") else {
        return;
    };
    let mut pair = Pair::open(&path);
    let is_wanted = |character: &char| {
        matches!(*character, ..'\u{32400}' | '\u{E0000}'..'\u{E0200}')
            || u32::from(*character) % 97 == 0
    };
    let characters: Vec<char> = ('\0'..=char::MAX).filter(is_wanted).collect();
    for some in characters.chunks(32) {
        let text: String = some
            .iter()
            .map(|character| format!("a{character}1 \u{345}{character}\u{334} {character}\u{301}"))
            .collect();
        pair.check_text(&text, PARSED);
    }
}

/// Ids of what the golden files do not have: every flag of an added token, normalised ones
/// included, unknown tokens fused and not, Metaspace in all its forms.
#[test]
fn unusual_tokenizers_agree_with_the_tokenizers_crate() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers");
    for file in [
        "abc.json",
        "flags.json",
        "normalized.json",
        "metaspace.json",
        "bytes.json",
    ] {
        let mut pair = Pair::open(&folder.join(file));
        let _file = Trying(file);
        for seed in 0..4_000 {
            let mut random = Random::new(seed + 1);
            let units = [
                "a", "b", "c", "ab", " ", "▁", "é", "z", "_", "\n", ".", "1", "e\u{301}", "€",
            ];
            let text: String = (0..random.below(12))
                .map(|_| {
                    if random.below(3) == 0 {
                        random.pick(&pair.specials).clone()
                    } else {
                        (*random.pick(&units)).to_owned()
                    }
                })
                .collect();
            let ids = pair.check_text(&text, *random.pick(&[PARSED, WITH_SPECIAL, AS_TEXT]));
            // tokenizers 0.23 decodes an added token to what it was in normalised text; these files
            // have such that differ.
            if !matches!(file, "normalized.json" | "bytes.json") {
                pair.check_ids(&ids, random.below(2) == 0);
            }
        }
    }
}
