//! Families that are refused, and why.

use std::prelude::rust_2024::*;

const EXPERTS: &str = "it is a mixture of experts";
const RECURRENT: &str = "it has recurrent layers";

/// Families that are refused, by `model_type` and by GGUF's name, and why. The manual lists them.
const REFUSED: [(&[&str], &str); 8] = [
    (
        &[
            "mixtral",
            "dbrx",
            "llama4",
            "gpt_oss",
            "grok",
            "deepseek2",
            "deepseek_v2",
            "deepseek_v3",
        ],
        EXPERTS,
    ),
    (
        &[
            "qwen3_5",
            "qwen3_5_text",
            "qwen35",
            "qwen3_next",
            "qwen3next",
            "mamba",
            "mamba2",
            "falcon_mamba",
            "falcon_h1",
            "bamba",
            "jamba",
            "zamba2",
            "nemotron_h",
            "granitehybrid",
            "rwkv7",
        ],
        RECURRENT,
    ),
    (
        &["gemma3n", "gemma3n_text", "gemma4", "gemma4_text"],
        "its layers have inputs of their own, and some share keys and values",
    ),
    (
        &["cohere", "cohere2", "command_r"],
        "its attention and feed-forward run side by side, behind a LayerNorm",
    ),
    (
        &[
            "gpt2",
            "gpt_neox",
            "gptneox",
            "falcon",
            "phi",
            "phi2",
            "stablelm",
            "starcoder2",
            "nemotron",
            "opt",
            "bloom",
            "mpt",
        ],
        "its norms are LayerNorms",
    ),
    (&["olmo"], "its norms have no weights"),
    (&["arcee"], "its feed-forward has no gate"),
    (&["minicpm3"], "its keys and values are compressed"),
];

/// Why a family is refused, if its name tells.
pub(super) fn why(name: &str) -> Option<&'static str> {
    let name = name.replace('-', "_");
    let listed = REFUSED.iter().find(|(names, _)| names.contains(&&*name));
    match listed {
        Some((_, why)) => Some(why),
        None if name.contains("moe") => Some(EXPERTS),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manual has a table of them: names, and the sentence.
    #[test]
    fn the_manual_lists_the_families_that_are_refused() {
        let manual = include_str!("../manual/adding_a_family.md");
        for (names, reason) in REFUSED {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            let row = format!("| {} | {reason} |", names.join(", "));
            assert!(manual.contains(&row), "the manual lacks\n{row}");
            for name in names {
                assert_eq!(why(name.trim_matches('`')), Some(reason));
            }
        }
    }
}
