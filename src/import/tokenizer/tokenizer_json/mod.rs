//! `tokenizer.json`, the file of Hugging Face's `tokenizers` library, as any version of it writes
//! them; and its predecessors `vocab.json` and `merges.txt`.

mod added;
mod model;
mod pipeline;

use std::prelude::rust_2024::*;

use added::read_added;
use model::read_model;
pub(super) use pipeline::PrefixSpace;
use pipeline::{Pipeline, normalizer, pre_tokenizer};
use serde_json::{Value, json};

use super::pattern::QWEN2;
use super::section::TokenizerSection;
use crate::import::ImportError;
use crate::text::section::STRIP;
pub(super) use added::added_flags;

/// The tokenizer of a `tokenizer.json`.
pub(super) fn read(
    json: &Value,
    prefix_space: Option<PrefixSpace>,
) -> Result<TokenizerSection, ImportError> {
    let mut pipeline = Pipeline::default();
    components(json, "normalizer", "normalizers", &mut |kind, node| {
        normalizer(kind, node, &mut pipeline)
    })?;
    components(json, "pre_tokenizer", "pretokenizers", &mut |kind, node| {
        pre_tokenizer(kind, node, &mut pipeline)
    })?;

    let prefix_space = match (prefix_space, pipeline.byte_level) {
        (Some(PrefixSpace::Llama(wanted)), false) => Some(wanted),
        (Some(PrefixSpace::Gpt2(wanted)), true) => Some(wanted),
        _ => None,
    };
    if let Some(wanted) = prefix_space {
        pipeline.set_prefix_space(wanted);
    }

    let mut tokenizer = TokenizerSection::new();
    pipeline.settle(&mut tokenizer)?;
    read_decoder(json, &mut tokenizer, &mut pipeline)?;
    if let Some(wanted) = prefix_space.filter(|_| !pipeline.byte_level) {
        tokenizer.flags = tokenizer.flags & !STRIP | if wanted { STRIP } else { 0 };
    }
    let ids = read_model(&json["model"], &mut tokenizer, &pipeline)?;
    read_added(json, &mut tokenizer, &pipeline, &ids)?;
    read_post_processor(json, &mut tokenizer)?;
    Ok(tokenizer)
}

/// How text is cut for a `vocab.json`.
pub(super) enum Gpt2Style {
    Gpt2,
    Qwen2,
}

/// The `tokenizer.json` that is equivalent to `vocab.json` and `merges.txt`.
pub(super) fn of_gpt2(vocab: Value, merges: &str, style: Gpt2Style) -> Value {
    let is_merge = |(line, text): &(usize, &str)| {
        !(text.is_empty() || (*line == 0 && text.starts_with("#version")))
    };
    let merges: Vec<Value> = merges
        .lines()
        .enumerate()
        .filter(is_merge)
        .map(|(_, text)| text.into())
        .collect();
    let byte_level = |use_regex: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "use_regex": use_regex,
        })
    };
    let (normalizer, pre_tokenizer) = match style {
        Gpt2Style::Gpt2 => (Value::Null, byte_level(true)),
        Gpt2Style::Qwen2 => {
            let split = json!({
                "type": "Split",
                "pattern": {"Regex": QWEN2},
                "behavior": "Isolated",
                "invert": false,
            });
            (
                json!({"type": "NFC"}),
                json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]}),
            )
        }
    };
    json!({
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        "decoder": {"type": "ByteLevel"},
    })
}

/// The value of `key`, unless it is missing or null.
fn given<'j>(node: &'j Value, key: &str) -> Option<&'j Value> {
    node.get(key).filter(|value| !value.is_null())
}

fn is_true(node: &Value, key: &str) -> bool {
    node.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn kind(node: &Value) -> &str {
    node.get("type")
        .and_then(Value::as_str)
        .unwrap_or("(without type)")
}

fn not_supported(what: &str, name: &str) -> ImportError {
    ImportError::new(format!("{what} `{name}` is not supported"))
}

/// Visits a component, or the members of a sequence of components. Nested sequences are flattened.
fn components(
    json: &Value,
    what: &str,
    members: &str,
    visit: &mut dyn FnMut(&str, &Value) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let mut waiting: Vec<&Value> = given(json, what).into_iter().collect();
    while let Some(node) = waiting.pop() {
        if kind(node) == "Sequence" {
            let list = node.get(members).and_then(Value::as_array);
            let list = list.ok_or_else(|| {
                ImportError::new(format!("{what}: a `Sequence` without `{members}`"))
            })?;
            waiting.extend(list.iter().rev());
        } else {
            visit(kind(node), node)?;
        }
    }
    Ok(())
}

fn read_decoder(
    json: &Value,
    tokenizer: &mut TokenizerSection,
    pipeline: &mut Pipeline,
) -> Result<(), ImportError> {
    let mut byte_level = false;
    let mut replaces = false;
    let mut fuses = false;
    let flags = &mut tokenizer.flags;
    components(json, "decoder", "decoders", &mut |kind, node| {
        match kind {
            "ByteLevel" => byte_level = true,
            "ByteFallback" => pipeline.reads_bytes = true,
            "Fuse" => fuses = true,
            "Replace" if node["pattern"]["String"] == "▁" && node["content"] == " " => {
                replaces = true
            }
            "Strip"
                if fuses && node["content"] == " " && node["start"] == 1 && node["stop"] == 0 =>
            {
                *flags |= STRIP
            }
            _ => return Err(not_supported("decoder", &node.to_string())),
        }
        Ok(())
    })?;
    let fits = if pipeline.byte_level {
        byte_level && !replaces
    } else {
        replaces && fuses && !byte_level
    };
    if !fits {
        return Err(ImportError::new(
            "a decoder that does not undo the pre_tokenizer is not supported",
        )
        .help(format!("the decoder is {}", json["decoder"])));
    }
    Ok(())
}

fn read_post_processor(json: &Value, tokenizer: &mut TokenizerSection) -> Result<(), ImportError> {
    let mut template = None;
    components(json, "post_processor", "processors", &mut |kind, node| {
        match kind {
            // It changes offsets only.
            "ByteLevel" => {}
            "TemplateProcessing" if template.is_none() => template = Some(node.clone()),
            _ => return Err(not_supported("post_processor", kind)),
        }
        Ok(())
    })?;
    let Some(template) = template else {
        return Ok(());
    };
    let wrong = || {
        ImportError::new(format!(
            "post_processor: template {} is not supported",
            template["single"]
        ))
    };
    let mut past_text = false;
    for item in template["single"].as_array().ok_or_else(wrong)? {
        if item.get("Sequence").is_some() && !past_text {
            past_text = true;
            continue;
        }
        let ids = special_ids(&template, item, tokenizer.pieces.len()).ok_or_else(wrong)?;
        if past_text {
            tokenizer.after.extend(ids);
        } else {
            tokenizer.before.extend(ids);
        }
    }
    if !past_text {
        return Err(wrong());
    }
    // A lone file does not say which token is BOS, so the one that it puts first counts.
    tokenizer.bos = tokenizer.before.first().copied();
    Ok(())
}

/// The ids of a special token in a template. `None` if it is not one, or one has no piece.
fn special_ids(template: &Value, item: &Value, pieces: usize) -> Option<Vec<u32>> {
    let name = item["SpecialToken"]["id"].as_str()?;
    let ids = template["special_tokens"].get(name)?["ids"].as_array()?;
    let id = |id: &Value| {
        let id = id.as_u64().filter(|id| *id < pieces as u64)?;
        Some(id as u32)
    };
    ids.iter().map(id).collect()
}
