//! The components before the model: what they do to text.

use std::prelude::rust_2024::*;

use serde_json::Value;

use super::{given, is_true, not_supported};
use crate::import::ImportError;
use crate::import::tokenizer::pattern::{self, Patterns};
use crate::import::tokenizer::section::TokenizerSection;
use crate::text::section::{BYTE_LEVEL, FOLD, NFC, Prefix, SPLIT};

/// What the components before the model do to text.
#[derive(Default)]
pub(super) struct Pipeline {
    pub(super) prepend: bool,
    pub(super) replace: bool,
    pub(super) nfc: bool,
    pub(super) metaspace: Option<(Prefix, bool)>,
    pub(super) byte_level: bool,
    /// Byte-level text that does not start with a space gets one.
    pub(super) prefix_space: bool,
    /// The decoder turns `<0x0A>` into a byte.
    pub(super) reads_bytes: bool,
    pub(super) patterns: Patterns,
    /// A component that cuts text, if there is one.
    pub(super) cuts: Option<String>,
}

impl Pipeline {
    /// Adds a pattern that component `kind` cuts text by. Returns whether its matches are all of
    /// any text.
    fn cut(&mut self, kind: &str, pattern: &str) -> Result<bool, ImportError> {
        self.cuts = Some(kind.into());
        self.patterns.push(pattern)
    }

    /// Puts a space in front of text, or takes it away.
    pub(super) fn set_prefix_space(&mut self, wanted: bool) {
        self.prefix_space = wanted;
        self.prepend = wanted && self.replace;
        if let Some((prefix, _)) = &mut self.metaspace {
            *prefix = match *prefix {
                _ if !wanted => Prefix::Never,
                Prefix::Never => Prefix::TextStartUnlessSpace,
                given => given,
            };
        }
    }

    /// Combines the components, if the combination is supported.
    pub(super) fn settle(&self, tokenizer: &mut TokenizerSection) -> Result<(), ImportError> {
        if self.byte_level {
            if self.prepend || self.replace || self.metaspace.is_some() {
                return Err(ImportError::new(
                    "`ByteLevel` together with `Metaspace`, `Prepend` or `Replace` is not \
                     supported",
                ));
            }
            tokenizer.patterns = self.patterns.clone();
            if self.prefix_space {
                tokenizer.prefix = Prefix::AlwaysUnlessSpace;
            }
            tokenizer.flags |= BYTE_LEVEL | if self.nfc { NFC } else { 0 };
            return Ok(());
        }
        if self.nfc || self.cuts.is_some() {
            let what = self.cuts.as_deref().unwrap_or("NFC");
            return Err(ImportError::new(format!(
                "`{what}` in a tokenizer that is not byte-level is not supported"
            )));
        }
        match self.metaspace {
            Some(_) if self.prepend || self.replace => {
                return Err(ImportError::new(
                    "pre_tokenizer `Metaspace` after normalizer `Prepend` or `Replace` is not \
                     supported",
                ));
            }
            Some((prefix, split)) => {
                tokenizer.prefix = prefix;
                tokenizer.flags |= if split { SPLIT } else { 0 };
            }
            None if self.replace => {
                tokenizer.flags |= FOLD;
                tokenizer.prefix = if self.prepend {
                    Prefix::Always
                } else {
                    Prefix::Never
                };
            }
            None => {
                return Err(ImportError::new(
                    "a tokenizer with neither `ByteLevel`, `Metaspace` nor `Replace` of spaces by \
                     ▁ is not supported",
                ));
            }
        }
        Ok(())
    }
}

/// Whether text gets a space in front. This overrides the `tokenizer.json`, for tokenizers of one
/// kind.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::import::tokenizer) enum PrefixSpace {
    /// Those that have `▁` for a space.
    Llama(bool),
    /// Byte-level ones.
    Gpt2(bool),
}

pub(super) fn normalizer(
    kind: &str,
    node: &Value,
    pipeline: &mut Pipeline,
) -> Result<(), ImportError> {
    match kind {
        "NFC" => pipeline.nfc = true,
        "Prepend" if node["prepend"] == "▁" => {
            if pipeline.replace {
                return Err(ImportError::new(
                    "normalizer `Prepend` after `Replace` is not supported",
                ));
            }
            pipeline.prepend = true;
        }
        "Replace" if node["pattern"]["String"] == " " && node["content"] == "▁" => {
            pipeline.replace = true
        }
        "Prepend" => {
            return Err(not_supported(
                "normalizer `Prepend` of",
                &node["prepend"].to_string(),
            ));
        }
        "Replace" => {
            return Err(not_supported(
                "normalizer `Replace` of",
                &node["pattern"].to_string(),
            ));
        }
        _ => return Err(not_supported("normalizer", kind)),
    }
    Ok(())
}

pub(super) fn pre_tokenizer(
    kind: &str,
    node: &Value,
    pipeline: &mut Pipeline,
) -> Result<(), ImportError> {
    if pipeline.byte_level {
        return Err(ImportError::new(format!(
            "pre_tokenizer `{kind}` after `ByteLevel` is not supported"
        )));
    }
    match kind {
        "Metaspace" => metaspace(node, pipeline)?,
        "Split" if node["pattern"]["String"] == " " && pipeline.replace => {
            // Gemma splits at spaces, but its normalizer leaves no spaces.
        }
        "Split" => split(kind, node, pipeline)?,
        "Digits" => {
            let together = if is_true(node, "individual_digits") {
                ""
            } else {
                "+"
            };
            pipeline.cut(kind, &format!(r"\p{{N}}{together}"))?;
        }
        "Punctuation" => {
            let behavior = node["behavior"].as_str().unwrap_or("Isolated");
            let together = match behavior {
                "Isolated" => "",
                "Contiguous" => "+",
                _ => {
                    return Err(not_supported(
                        "pre_tokenizer `Punctuation` with behavior",
                        behavior,
                    ));
                }
            };
            pipeline.cut(kind, &format!("{}{together}", pattern::PUNCTUATION))?;
        }
        "ByteLevel" => byte_level(kind, node, pipeline)?,
        _ => return Err(not_supported("pre_tokenizer", kind)),
    }
    Ok(())
}

fn metaspace(node: &Value, pipeline: &mut Pipeline) -> Result<(), ImportError> {
    if node["replacement"] != "▁" {
        return Err(not_supported(
            "pre_tokenizer `Metaspace` with replacement",
            &node["replacement"].to_string(),
        ));
    }
    let without = given(node, "add_prefix_space").is_some_and(|add| *add == Value::Bool(false));
    let scheme = given(node, "prepend_scheme")
        .and_then(Value::as_str)
        .unwrap_or(if without { "never" } else { "always" });
    let prefix = match scheme {
        "never" => Prefix::Never,
        "always" => Prefix::AlwaysUnlessSpace,
        "first" => Prefix::TextStartUnlessSpace,
        _ => {
            return Err(not_supported(
                "pre_tokenizer `Metaspace` with prepend_scheme",
                scheme,
            ));
        }
    };
    pipeline.metaspace = Some((
        prefix,
        node.get("split").and_then(Value::as_bool).unwrap_or(true),
    ));
    Ok(())
}

fn split(kind: &str, node: &Value, pipeline: &mut Pipeline) -> Result<(), ImportError> {
    let pattern = &node["pattern"];
    let pattern = match (pattern["Regex"].as_str(), pattern["String"].as_str()) {
        (Some(regex), _) => regex.to_owned(),
        (None, Some(text)) => escaped(text),
        (None, None) => {
            return Err(not_supported(
                "pre_tokenizer `Split` by",
                &pattern.to_string(),
            ));
        }
    };
    let behavior = node["behavior"].as_str().unwrap_or("(none)");
    let invert = is_true(node, "invert");
    let is_all = pipeline.cut(kind, &pattern)?;
    match (behavior, invert) {
        ("Isolated", _) => {}
        // If the matches cover the whole text, nothing is removed.
        ("Removed", true) if is_all => {}
        ("Removed", _) => {
            return Err(ImportError::new(format!(
                "pre_tokenizer `Split` that removes text is not supported: pattern \
                 `{pattern}`"
            )));
        }
        _ => {
            return Err(not_supported(
                "pre_tokenizer `Split` with behavior",
                behavior,
            ));
        }
    }
    Ok(())
}

pub(super) fn byte_level(
    kind: &str,
    node: &Value,
    pipeline: &mut Pipeline,
) -> Result<(), ImportError> {
    // Both are true when the file does not say.
    let is_on = |key: &str| node.get(key).and_then(Value::as_bool).unwrap_or(true);
    if is_on("add_prefix_space") {
        if let Some(before) = &pipeline.cuts {
            return Err(ImportError::new(format!(
                "pre_tokenizer `ByteLevel` with add_prefix_space `true` after `{before}` \
                 is not supported"
            )));
        }
        pipeline.prefix_space = true;
    }
    pipeline.byte_level = true;
    if is_on("use_regex") {
        pipeline.cut(kind, pattern::GPT2)?;
    }
    Ok(())
}

/// The pattern that matches just `text`.
fn escaped(text: &str) -> String {
    let special = |character: &char| character.is_ascii_punctuation();
    text.chars()
        .flat_map(|character| {
            Some('\\')
                .filter(|_| special(&character))
                .into_iter()
                .chain([character])
        })
        .collect()
}
