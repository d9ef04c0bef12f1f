//! The pre-tokenizers that `tokenizer.ggml.pre` of a GGUF file names, as in llama.cpp
//! (`llm_tokenizer_bpe` and `llama_vocab::impl::load` in its `llama-vocab.cpp`).

use std::prelude::rust_2024::*;

use super::pattern::GPT2;
use crate::import::ImportError;
use crate::text::section::{IGNORE_MERGES, NFC};

/// A pre-tokenizer.
pub(super) struct Pre {
    /// Its names.
    names: &'static [&'static str],
    pub(super) patterns: &'static [&'static str],
    pub(super) flags: u8,
    /// Whether text starts with BOS if the file does not say.
    pub(super) add_bos: bool,
}

/// The parts that several expressions have: contractions, the cases of o200k, and how they end.
macro_rules! contractions {
    () => {
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}
macro_rules! llama3 {
    ($digits:literal) => {
        concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}
/// Words of capital letters and then small ones, where `$letter` comes next.
macro_rules! words {
    ($letter:literal, $ending:expr, $digits:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?(?:(?=",
            $letter,
            r")[^a-z])*(?:(?=",
            $letter,
            r")[^A-Z])+",
            $ending,
            r"|[^\r\n\p{L}\p{N}]?(?:(?=",
            $letter,
            r")[^a-z])+(?:(?=",
            $letter,
            r")[^A-Z])*",
            $ending,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}
/// o200k's expression with what comes before and after its words.
macro_rules! o200k {
    ($upper:literal, $lower:literal, $ending:expr, $rest:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?",
            $upper,
            "*",
            $lower,
            "+",
            $ending,
            r"|[^\r\n\p{L}\p{N}]?",
            $upper,
            "+",
            $lower,
            "*",
            $ending,
            $rest
        )
    };
}

const LLAMA3: &str = llama3!(r"\p{N}{1,3}");
const QWEN2: &str = llama3!(r"\p{N}");
const DIGIT: &str = r"\p{N}";
const DIGITS: &str = r"\p{N}{1,3}";
const CJK: &str = "[一-龥぀-ゟ゠-ヿ]+";
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}"##,
    r##"]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
);
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

const fn pre(names: &'static [&'static str], patterns: &'static [&'static str]) -> Pre {
    Pre {
        names,
        patterns,
        flags: 0,
        add_bos: false,
    }
}

impl Pre {
    const fn flags(self, flags: u8) -> Pre {
        Pre { flags, ..self }
    }

    const fn add_bos(self) -> Pre {
        Pre {
            add_bos: true,
            ..self
        }
    }
}

const ALL: &[Pre] = &[
    pre(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        &[GPT2],
    ),
    pre(
        &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        &[DIGIT, GPT2],
    ),
    pre(
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        &[LLAMA3],
    )
    .flags(IGNORE_MERGES)
    .add_bos(),
    pre(&["smaug-bpe", "dbrx", "glm4", "chatglm-bpe"], &[LLAMA3]),
    // llama.cpp does not apply Qwen's normalisation, but the models' own tokenizer does.
    pre(
        &["qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"],
        &[QWEN2],
    )
    .flags(NFC),
    pre(&["stablelm2", "hunyuan", "solar-open", "grok-2"], &[QWEN2]),
    pre(
        &["qwen35"],
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|",
            r"\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
    )
    .flags(NFC),
    pre(&["minicpm5"], &[DIGITS, llama3!(r"\p{N}+")]).flags(IGNORE_MERGES),
    pre(&["laguna"], &[r"[^\n]+|[\n]+", QWEN2]),
    pre(
        &["seed-coder"],
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
        )],
    ),
    pre(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        &[concat!(
            r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|",
            r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        )],
    ),
    pre(
        &["exaone-moe"],
        &[concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}|",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )],
    ),
    pre(&["tekken"], &[words!(r"\p{L}", "", r"\p{N}")])
        .flags(IGNORE_MERGES)
        .add_bos(),
    pre(
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        &[words!(
            r"\p{L}",
            concat!(contractions!(), "?"),
            r"\p{N}{1,3}"
        )],
    ),
    pre(
        &["granite-embed-multi-97m"],
        &[words!(
            r"[\p{L}\p{M}]",
            concat!(contractions!(), "?"),
            r"\p{N}{1,3}"
        )],
    )
    .flags(IGNORE_MERGES),
    pre(
        &["youtu"],
        &[
            "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
            o200k!(
                r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
                r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
                concat!(contractions!(), "?"),
                r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
        ],
    )
    .flags(IGNORE_MERGES),
    pre(
        &["kimi-k2"],
        &[concat!(
            r"\p{Han}+|",
            o200k!(
                r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]",
                r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]",
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
        )],
    ),
    pre(
        &["deepseek-llm"],
        &[
            r"[\r\n]",
            concat!(
                r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-",
                r"ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1F7Dᾀ-ᾴᾶ-ᾼ\u1FBEῂ-ῄῆ-ῌῐ-\u1FD3ῖ-\u1FDBῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓ",
                r"ℕℙ-ℝℤ\u2126ℨ\u212A-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰",
                r"-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
            ),
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            "[一-龥ࠀ-一가-퟿]+",
            r"\p{N}+",
        ],
    ),
    pre(
        &["deepseek-coder"],
        &[
            r"[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            "[一-龥ࠀ-一가-퟿]+",
            DIGIT,
        ],
    ),
    pre(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        &[DIGITS, CJK, DEEPSEEK3],
    ),
    pre(
        &["falcon"],
        &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    ),
    pre(&["bloom", "poro-chat", "gpt3-finnish"], &[BLOOM]),
    pre(&["viking"], &[BLOOM, DIGIT]),
    pre(
        &["chameleon"],
        &[
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            DIGIT,
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ],
    )
    .add_bos(),
];

/// The pre-tokenizer of this name.
pub(super) fn find(name: Option<&str>) -> Result<&'static Pre, ImportError> {
    let name = name
        .filter(|name| !matches!(*name, "" | "default"))
        .ok_or_else(|| {
            ImportError::new(
                "tokenizer.ggml.pre does not say which pre-tokenizer the vocabulary has",
            )
            .help("convert the model again with a llama.cpp of April 2024 or later")
        })?;
    ALL.iter()
        .find(|pre| pre.names.contains(&name))
        .ok_or_else(|| {
            ImportError::new(format!("tokenizer.ggml.pre `{name}` is not supported")).help(
            "import the Hugging Face folder that the file was made from: its tokenizer.json says \
             itself how text is cut",
        )
        })
}

#[cfg(test)]
mod tests {
    use std::prelude::rust_2024::*;

    use super::super::pattern::Patterns;
    use super::ALL;

    #[test]
    fn every_pattern_of_the_table_compiles_and_every_name_is_there_once() {
        let mut names: Vec<&str> = ALL.iter().flat_map(|pre| pre.names).copied().collect();
        for pre in ALL {
            let mut patterns = Patterns::default();
            for pattern in pre.patterns {
                assert!(patterns.push(pattern).is_ok(), "{:?}: {pattern}", pre.names);
            }
            assert!(patterns.tables().is_ok(), "{:?}", pre.names);
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
