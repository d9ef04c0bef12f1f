//! The tokenizer of a Hugging Face folder: its vocabulary file, and what the files around it say.

use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;

use serde_json::Value;

use super::section::{Added, Vocabulary};
use super::sentencepiece::Reading;
use super::{read_file, read_json, read_text, sentencepiece, spaced, tokenizer_json};
use crate::host::file;
use crate::import::ImportError;
use crate::text::tokenizer::{ADDED_LSTRIP, ADDED_RSTRIP, ADDED_SINGLE_WORD, ADDED_SPECIAL};

pub(super) fn optional_json(path: &Path) -> Result<Option<Value>, ImportError> {
    if !file::is_there(path) {
        return Ok(None);
    }
    read_json(path).map(Some)
}

/// The files beside the vocabulary; null where there is none.
struct Configs {
    tokenizer: Value,
    special_tokens_map: Value,
    model: Value,
    generation: Value,
}

/// The vocabulary of a folder.
pub(super) fn read(folder: &Path) -> Result<Vocabulary, ImportError> {
    let load = |name: &str| optional_json(&folder.join(name)).map(Option::unwrap_or_default);
    let configs = Configs {
        tokenizer: load("tokenizer_config.json")?,
        special_tokens_map: load("special_tokens_map.json")?,
        model: load("config.json")?,
        generation: load("generation_config.json")?,
    };
    let file = |name: &str| Some(folder.join(name)).filter(|path| file::is_there(path));
    let in_file = |path: PathBuf| move |error: ImportError| error.in_file(&path);
    let mut vocabulary = if let Some(path) = file("tokenizer.json") {
        let json = read_json(&path)?;
        tokenizer_json::read(&json).map_err(in_file(path))?
    } else if let Some(path) = file("tokenizer.model") {
        // transformers' default is the legacy reading.
        let reading = if configs.tokenizer["legacy"] == false {
            Reading::NotLegacy
        } else {
            Reading::Legacy
        };
        let mut vocabulary =
            sentencepiece::read(&read_file(&path)?, reading).map_err(in_file(path))?;
        add_tokens(&mut vocabulary, &configs.tokenizer)
            .map_err(in_file(folder.join("tokenizer_config.json")))?;
        vocabulary
    } else if let (Some(vocab), Some(merges)) = (file("vocab.json"), file("merges.txt")) {
        let json = read_json(&vocab)?;
        let lines = read_text(&merges)?;
        let mut vocabulary =
            read_vocab_json(json, &lines, &configs.tokenizer).map_err(in_file(vocab))?;
        add_tokens(&mut vocabulary, &configs.tokenizer)
            .map_err(in_file(folder.join("tokenizer_config.json")))?;
        vocabulary
    } else {
        return Err(ImportError::new(
            "no tokenizer.json, tokenizer.model, or vocab.json with merges.txt",
        )
        .in_file(folder));
    };
    settle_special_tokens(&mut vocabulary, &configs);
    Ok(vocabulary)
}

/// `vocab.json` does not say how text is cut; the class of the tokenizer does.
fn read_vocab_json(vocab: Value, merges: &str, config: &Value) -> Result<Vocabulary, ImportError> {
    let pre_tokenizer = match config["tokenizer_class"].as_str() {
        Some("GPT2Tokenizer" | "GPT2TokenizerFast") => tokenizer_json::Gpt2Style::Gpt2,
        Some("Qwen2Tokenizer" | "Qwen2TokenizerFast") => tokenizer_json::Gpt2Style::Qwen2,
        other => {
            let other = other.unwrap_or("(none)");
            return Err(ImportError::new(format!(
                "vocab.json for tokenizer_class `{other}` is not supported"
            ))
            .help("a tokenizer.json would say all there is to know"));
        }
    };
    if config["add_prefix_space"] == true {
        return Err(ImportError::new("add_prefix_space `true` is not supported"));
    }
    tokenizer_json::read_gpt2(vocab, merges, pre_tokenizer)
}

/// Adds the tokens of `added_tokens_decoder` in `tokenizer_config.json`, which a `tokenizer.json`
/// has itself.
fn add_tokens(vocabulary: &mut Vocabulary, config: &Value) -> Result<(), ImportError> {
    let Some(tokens) = config
        .get("added_tokens_decoder")
        .and_then(Value::as_object)
    else {
        return Ok(());
    };
    let known = vocabulary.pieces.len() + tokens.len();
    for (id, token) in tokens {
        let wrong = || {
            ImportError::new(format!(
                "added_tokens_decoder: token {id} has no number or no content"
            ))
        };
        let number: u64 = id.parse().map_err(|_| wrong())?;
        let content = token["content"]
            .as_str()
            .filter(|content| !content.is_empty())
            .ok_or_else(wrong)?;
        let mut flags = 0;
        for (key, bit) in [
            ("special", ADDED_SPECIAL),
            ("lstrip", ADDED_LSTRIP),
            ("rstrip", ADDED_RSTRIP),
            ("single_word", ADDED_SINGLE_WORD),
        ] {
            flags |= if token[key] == true { bit } else { 0 };
        }
        let in_vocabulary = usize::try_from(number)
            .ok()
            .and_then(|number| vocabulary.pieces.get(number));
        if in_vocabulary.is_none_or(Vec::is_empty) {
            vocabulary.set_piece(number, content.into(), known)?;
        }
        let id = number as u32;
        // A piece of the vocabulary may be among the added tokens already, by its own rules.
        for added in &mut vocabulary.added {
            added.retain(|other| {
                other.id != id
                    && other.content != content.as_bytes()
                    && other.content != spaced(content)
            });
        }
        vocabulary.added[0].push(Added {
            content: content.into(),
            flags,
            id,
        });
    }
    Ok(())
}

/// BOS, EOS and who adds them, as transformers finds them out.
fn settle_special_tokens(vocabulary: &mut Vocabulary, configs: &Configs) {
    let vocab_size = vocabulary.pieces.len() as u64;
    let ids_of = |value: &Value| -> Vec<u32> {
        let list = value
            .as_array()
            .map_or(std::slice::from_ref(value), Vec::as_slice);
        // Configs name ids beyond the tokenizer's last; nothing can be decoded from them.
        list.iter()
            .filter_map(Value::as_u64)
            .filter(|id| *id < vocab_size)
            .map(|id| id as u32)
            .collect()
    };
    let token_of = |config: &Value, key: &str| -> Option<u32> {
        let token = config.get(key)?;
        let content = token
            .as_str()
            .or_else(|| token["content"].as_str())?
            .as_bytes();
        let added = vocabulary
            .added
            .iter()
            .flatten()
            .find(|token| token.content == content);
        added.map(|token| token.id).or_else(|| {
            vocabulary
                .pieces
                .iter()
                .position(|piece| piece == content)
                .map(|id| id as u32)
        })
    };
    let named = |key: &str| {
        token_of(&configs.tokenizer, key).or_else(|| token_of(&configs.special_tokens_map, key))
    };
    // Multimodal configs have the language model's below `text_config`.
    let numbered = |key: &str| {
        let places = [
            &configs.generation,
            &configs.model,
            &configs.model["text_config"],
        ];
        places
            .into_iter()
            .flat_map(|config| ids_of(&config[key]))
            .collect::<Vec<_>>()
    };

    // `bos_token: null` says that there is none, whatever the model's config has.
    let without_bos = configs.tokenizer.get("bos_token") == Some(&Value::Null);
    let bos = match named("bos_token") {
        None if without_bos => None,
        found => found
            .or_else(|| numbered("bos_token_id").first().copied())
            .or(vocabulary.bos),
    };
    let eos_token = named("eos_token");
    let mut eos = numbered("eos_token_id");
    eos.extend(eos_token);
    if eos.is_empty() {
        eos = vocabulary.eos.clone();
    }
    let mut seen = vec![];
    eos.retain(|id| {
        !seen.contains(id) && {
            seen.push(*id);
            true
        }
    });

    // These classes write the template anew from the config; for others what tokenizer.json has
    // stands.
    let class = configs.tokenizer["tokenizer_class"]
        .as_str()
        .unwrap_or_default();
    if class.starts_with("Llama") || class.starts_with("Gemma") || class.starts_with("CodeLlama") {
        match configs
            .tokenizer
            .get("add_bos_token")
            .and_then(Value::as_bool)
        {
            Some(true) => vocabulary.before = bos.into_iter().collect(),
            Some(false) => vocabulary.before.clear(),
            None => {}
        }
        match configs
            .tokenizer
            .get("add_eos_token")
            .and_then(Value::as_bool)
        {
            Some(true) => vocabulary.after = eos_token.into_iter().collect(),
            Some(false) => vocabulary.after.clear(),
            None => {}
        }
    }
    (vocabulary.bos, vocabulary.eos) = (bos, eos);
}
