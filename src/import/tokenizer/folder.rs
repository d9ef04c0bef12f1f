//! The tokenizer of a Hugging Face folder: its vocabulary file, and what the files around it say.
//!
//! Versions of transformers disagree about such folders. These rules hold here:
//!
//! * `tokenizer.json` says how text is cut and normalised, as it does for the `tokenizers` library
//!   and for transformers 4. (transformers 5 builds some classes anew and ignores what the file
//!   has.)
//! * `add_prefix_space` in `tokenizer_config.json` counts for the classes of Llama and GPT-2, even
//!   beside a `tokenizer.json`: true puts a space before the text, and false removes it.
//! * `add_bos_token` and `add_eos_token` count for the classes of Llama and Gemma, as in
//!   transformers 4. (transformers 5 ignores them beside a `tokenizer.json`.) If they are missing,
//!   a `tokenizer.json` itself says what comes around a text, and with a `tokenizer.model` a text
//!   begins with BOS. For GPT-2, `add_bos_token` counts only with a `vocab.json`.
//! * Without a `tokenizer.json`, `legacy` is true by default, as in transformers 4: each stretch of
//!   text between added tokens gets a space before it.
//! * Tokens are added from `added_tokens_decoder` in `tokenizer_config.json`; if that is missing,
//!   from `added_tokens.json` and `special_tokens_map.json`, which folders from before transformers
//!   4.34 have. They have the ids in these files. A special token without an id gets the next one,
//!   unless `config.json` says that the model has no row for it.

use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;

use serde_json::{Map, Value, json};

use super::section::{Added, TokenizerSection};
use super::sentencepiece::Reading;
use super::tokenizer_json::PrefixSpace;
use super::{read_file, read_json, read_text, sentencepiece, spaced, tokenizer_json};
use crate::import::ImportError;
use crate::import::file;
use crate::text::section::{Prefix, STRIP};

/// The keys of single special tokens.
const TOKEN_KEYS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
/// The keys of lists of special tokens.
const LIST_KEYS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

pub(super) fn optional_json(path: &Path) -> Result<Option<Value>, ImportError> {
    if !file::is_there(path) {
        return Ok(None);
    }
    read_json(path).map(Some)
}

/// The files beside the vocabulary file; null where there is none.
struct Configs {
    tokenizer: Value,
    special_tokens_map: Value,
    added_tokens: Value,
    model: Value,
    generation: Value,
}

/// The tokenizer of a folder.
pub(super) fn read(folder: &Path) -> Result<TokenizerSection, ImportError> {
    let load = |name: &str| optional_json(&folder.join(name)).map(Option::unwrap_or_default);
    let configs = Configs {
        tokenizer: load("tokenizer_config.json")?,
        special_tokens_map: load("special_tokens_map.json")?,
        added_tokens: load("added_tokens.json")?,
        model: load("config.json")?,
        generation: load("generation_config.json")?,
    };
    let file = |name: &str| Some(folder.join(name)).filter(|path| file::is_there(path));
    let in_file = |path: PathBuf| move |error: ImportError| error.in_file(&path);
    let added = added_tokens(&configs).map_err(|error| error.in_file(folder))?;
    let mut tokenizer = if let Some(path) = file("tokenizer.json") {
        let mut json = read_json(&path)?;
        add_to_json(&mut json, &added, &configs);
        tokenizer_json::read(&json, configs.prefix_space()).map_err(in_file(path))?
    } else if let Some(path) = file("tokenizer.model") {
        // transformers' default is the legacy reading.
        let reading = if configs.tokenizer["legacy"] == false {
            Reading::NotLegacy
        } else {
            Reading::Legacy
        };
        let mut tokenizer =
            sentencepiece::read(&read_file(&path)?, reading).map_err(in_file(path))?;
        if configs.prefix_space() == Some(PrefixSpace::Llama(false)) {
            tokenizer.prefix = Prefix::Never;
            tokenizer.flags &= !STRIP;
        }
        add_to_pieces(&mut tokenizer, &added, &configs).map_err(|error| error.in_file(folder))?;
        tokenizer
    } else if let (Some(vocab), Some(merges)) = (file("vocab.json"), file("merges.txt")) {
        let json = read_json(&vocab)?;
        let lines = read_text(&merges)?;
        read_vocab_json(json, &lines, &added, &configs).map_err(in_file(vocab))?
    } else {
        return Err(ImportError::new(
            "no tokenizer.json, tokenizer.model, or vocab.json with merges.txt",
        )
        .in_file(folder));
    };
    settle_special_tokens(&mut tokenizer, &configs);
    Ok(tokenizer)
}

impl Configs {
    fn class(&self) -> &str {
        self.tokenizer["tokenizer_class"]
            .as_str()
            .unwrap_or_default()
    }

    /// Whether text gets a space in front, if the config decides that.
    fn prefix_space(&self) -> Option<PrefixSpace> {
        let wanted = self
            .tokenizer
            .get("add_prefix_space")
            .and_then(Value::as_bool)?;
        match self.class() {
            "GPT2Tokenizer" | "GPT2TokenizerFast" => Some(PrefixSpace::Gpt2(wanted)),
            class if class.starts_with("Llama") || class.starts_with("CodeLlama") => {
                Some(PrefixSpace::Llama(wanted))
            }
            _ => None,
        }
    }

    /// The tokens that the tokenizer's config lists by id.
    fn listed_tokens(&self) -> Option<&Map<String, Value>> {
        self.tokenizer
            .get("added_tokens_decoder")
            .and_then(Value::as_object)
    }

    /// Whether the model has a row for this id. True if the config does not say how many rows there
    /// are.
    fn has_row(&self, id: u64) -> bool {
        let rows = [&self.model, &self.model["text_config"]]
            .into_iter()
            .find_map(|config| config.get("vocab_size").and_then(Value::as_u64));
        rows.is_none_or(|rows| id < rows)
    }
}

/// `vocab.json` does not say how text is cut; the class of the tokenizer does.
fn read_vocab_json(
    vocab: Value,
    merges: &str,
    added: &[Value],
    configs: &Configs,
) -> Result<TokenizerSection, ImportError> {
    let style = match configs.class() {
        "GPT2Tokenizer" | "GPT2TokenizerFast" => tokenizer_json::Gpt2Style::Gpt2,
        "Qwen2Tokenizer" | "Qwen2TokenizerFast" => tokenizer_json::Gpt2Style::Qwen2,
        other => {
            let other = if other.is_empty() { "(none)" } else { other };
            return Err(ImportError::new(format!(
                "vocab.json for tokenizer_class `{other}` is not supported"
            ))
            .help("a tokenizer.json would say all there is to know"));
        }
    };
    let is_gpt2 = matches!(style, tokenizer_json::Gpt2Style::Gpt2);
    if !is_gpt2 && configs.tokenizer["add_prefix_space"] == true {
        return Err(ImportError::new(format!(
            "add_prefix_space `true` for tokenizer_class `{}` is not supported",
            configs.class()
        )));
    }
    let mut json = tokenizer_json::of_gpt2(vocab, merges, style);
    add_to_json(&mut json, added, configs);
    let mut tokenizer = tokenizer_json::read(&json, configs.prefix_space())?;
    if is_gpt2 && configs.tokenizer["add_bos_token"] == true {
        let bos = token_of(&tokenizer, &configs.tokenizer, "bos_token");
        tokenizer.before = bos.into_iter().collect();
    }
    Ok(tokenizer)
}

/// The tokens that the files around a vocabulary add to it, in the form that a `tokenizer.json` has
/// them in; without `id` if no file says one.
fn added_tokens(configs: &Configs) -> Result<Vec<Value>, ImportError> {
    let named = named_tokens(configs);
    let mut tokens = if let Some(listed) = configs.listed_tokens() {
        listed
            .iter()
            .map(|(id, token)| listed_token(id, token))
            .collect::<Result<_, _>>()?
    } else if !configs.added_tokens.is_null() {
        tokens_beside(&configs.added_tokens, &named)?
    } else {
        vec![]
    };
    tokens.sort_by_key(|token| token["id"].as_u64());
    for token in named {
        let Some(text) = content(token) else {
            continue;
        };
        if tokens.iter().all(|known| known["content"] != *text) {
            let mut token = match token {
                Value::Object(_) => token.clone(),
                _ => json!({"content": text, "normalized": false}),
            };
            token["special"] = true.into();
            tokens.push(token);
        }
    }
    Ok(tokens)
}

/// The text of a token that a config names, if it is not empty.
fn content(token: &Value) -> Option<String> {
    let content = token.as_str().or_else(|| token["content"].as_str());
    content
        .filter(|content| !content.is_empty())
        .map(str::to_owned)
}

/// The special tokens: those that the config names, and if it lists no tokens, those that the file
/// beside it names.
fn named_tokens(configs: &Configs) -> Vec<&Value> {
    let beside = Some(&configs.special_tokens_map);
    let beside = beside.filter(|_| configs.listed_tokens().is_none());
    let sources = [Some(&configs.tokenizer), beside];
    let values = |key: &&str| {
        let sources = sources.iter().flatten();
        let values = sources.filter_map(|source| source.get(*key));
        values.collect::<Vec<_>>()
    };
    let one = TOKEN_KEYS.iter().flat_map(values);
    let lists = LIST_KEYS.iter().flat_map(values);
    one.chain(lists.filter_map(Value::as_array).flatten())
        .collect()
}

/// A token of `added_tokens_decoder`.
fn listed_token(id: &str, token: &Value) -> Result<Value, ImportError> {
    let wrong = || {
        ImportError::new(format!(
            "tokenizer_config.json: added_tokens_decoder: token {id} has no number or no content"
        ))
    };
    let id: u64 = id.parse().map_err(|_| wrong())?;
    content(token)
        .filter(|_| token.is_object())
        .ok_or_else(wrong)?;
    let mut token = token.clone();
    token["id"] = id.into();
    Ok(token)
}

/// The tokens of `added_tokens.json`, which are special if they are among those `named`.
fn tokens_beside(added: &Value, named: &[&Value]) -> Result<Vec<Value>, ImportError> {
    let wrong = || ImportError::new("added_tokens.json: not a list of tokens with their ids");
    let mut tokens = vec![];
    for (text, id) in added.as_object().ok_or_else(wrong)? {
        let id = id.as_u64().ok_or_else(wrong)?;
        if text.is_empty() {
            continue;
        }
        let special = named
            .iter()
            .any(|token| content(token).as_ref() == Some(text));
        tokens.push(json!({"id": id, "content": text, "special": special, "normalized": !special}));
    }
    Ok(tokens)
}

/// Adds tokens to the `added_tokens` of a `tokenizer.json`. Those with an id replace the file's
/// own.
fn add_to_json(json: &mut Value, added: &[Value], configs: &Configs) {
    // Reading it later fails if it is anything else.
    let Some(json) = json.as_object_mut() else {
        return;
    };
    let mut list = match json.remove("added_tokens") {
        Some(Value::Array(list)) => list,
        None | Some(Value::Null) => vec![],
        Some(other) => {
            json.insert("added_tokens".into(), other);
            return;
        }
    };
    let empty = Map::new();
    let model = json.get("model").unwrap_or(&Value::Null);
    let vocab = model["vocab"].as_object().unwrap_or(&empty);
    for token in added {
        let content = token["content"].as_str().unwrap_or_default();
        let mut token = token.clone();
        match list.iter_mut().find(|known| known["content"] == content) {
            Some(_) if token["id"].is_null() => continue,
            Some(known) => {
                token["id"] = known["id"].take();
                *known = token;
                continue;
            }
            None if token["id"].is_null() && !vocab.contains_key(content) => {
                let ids = list.iter().map(|token| &token["id"]).chain(vocab.values());
                let last = ids.filter_map(Value::as_u64).max();
                let id = last.map_or(0, |last| last.saturating_add(1));
                if !configs.has_row(id) {
                    continue;
                }
                token["id"] = id.into();
            }
            None => {}
        }
        list.push(token);
    }
    json.insert("added_tokens".into(), list.into());
}

/// Adds tokens to the pieces of a `tokenizer.model`.
fn add_to_pieces(
    tokenizer: &mut TokenizerSection,
    added: &[Value],
    configs: &Configs,
) -> Result<(), ImportError> {
    let known = tokenizer.pieces.len() + added.len();
    for token in added {
        let content = token["content"].as_str().unwrap_or_default();
        let is_known = |tokenizer: &TokenizerSection| {
            let mut all = tokenizer.added.iter().flatten();
            all.any(|other| other.content == content.as_bytes())
        };
        let id = match token["id"].as_u64() {
            Some(id) => id,
            None if is_known(tokenizer) => continue,
            None => {
                let mut pieces = tokenizer.pieces.iter();
                let id = pieces.position(|piece| *piece == spaced(content));
                let id = id.unwrap_or(tokenizer.pieces.len()) as u64;
                if !configs.has_row(id) {
                    continue;
                }
                id
            }
        };
        let in_vocabulary = usize::try_from(id)
            .ok()
            .and_then(|id| tokenizer.pieces.get(id));
        if in_vocabulary.is_none_or(Vec::is_empty) {
            tokenizer.set_piece(id, content.into(), known)?;
        }
        let id = id as u32;
        // A piece of the vocabulary may already be an added token, with its own flags.
        for added in &mut tokenizer.added {
            added.retain(|other| {
                other.id != id
                    && other.content != content.as_bytes()
                    && other.content != spaced(content)
            });
        }
        tokenizer.added[0].push(Added {
            content: content.into(),
            flags: tokenizer_json::added_flags(token),
            id,
        });
    }
    Ok(())
}

/// The token that a config names.
fn token_of(tokenizer: &TokenizerSection, config: &Value, key: &str) -> Option<u32> {
    let token = config.get(key)?;
    let content = token
        .as_str()
        .or_else(|| token["content"].as_str())?
        .as_bytes();
    let mut added = tokenizer.added.iter().flatten();
    let added = added
        .find(|token| token.content == content)
        .map(|token| token.id);
    added.or_else(|| {
        let mut pieces = tokenizer.pieces.iter();
        pieces
            .position(|piece| piece == content)
            .map(|id| id as u32)
    })
}

/// Finds BOS and EOS, and whether they are added to texts, as transformers does.
fn settle_special_tokens(tokenizer: &mut TokenizerSection, configs: &Configs) {
    let bos = bos(tokenizer, configs);
    let eos_token = named_id(tokenizer, configs, "eos_token");
    let mut eos = numbered_ids(tokenizer, configs, "eos_token_id");
    eos.extend(eos_token);
    if eos.is_empty() {
        eos = tokenizer.eos.clone();
    }
    let mut seen = vec![];
    eos.retain(|id| {
        !seen.contains(id) && {
            seen.push(*id);
            true
        }
    });

    // These classes make the template from the config. For other classes, that of tokenizer.json
    // counts.
    let class = configs.class();
    if class.starts_with("Llama") || class.starts_with("Gemma") || class.starts_with("CodeLlama") {
        let flag = |key: &str| configs.tokenizer.get(key).and_then(Value::as_bool);
        match flag("add_bos_token") {
            Some(true) => tokenizer.before = bos.into_iter().collect(),
            Some(false) => tokenizer.before.clear(),
            None => {}
        }
        match flag("add_eos_token") {
            Some(true) => tokenizer.after = eos_token.into_iter().collect(),
            Some(false) => tokenizer.after.clear(),
            None => {}
        }
    }
    (tokenizer.bos, tokenizer.eos) = (bos, eos);
}

/// The token that begins a text.
fn bos(tokenizer: &TokenizerSection, configs: &Configs) -> Option<u32> {
    // `bos_token: null` means that there is none, even if the model's config has an id.
    let without_bos = configs.tokenizer.get("bos_token") == Some(&Value::Null);
    match named_id(tokenizer, configs, "bos_token") {
        None if without_bos => None,
        found => {
            let numbered = || numbered_ids(tokenizer, configs, "bos_token_id");
            found
                .or_else(|| numbered().first().copied())
                .or(tokenizer.bos)
        }
    }
}

/// The token that the files of the tokenizer name.
fn named_id(tokenizer: &TokenizerSection, configs: &Configs, key: &str) -> Option<u32> {
    token_of(tokenizer, &configs.tokenizer, key)
        .or_else(|| token_of(tokenizer, &configs.special_tokens_map, key))
}

/// The ids that the configs of the model say. Some of them are beyond the tokenizer's last. They
/// cannot be decoded, so they are ignored.
fn numbered_ids(tokenizer: &TokenizerSection, configs: &Configs, key: &str) -> Vec<u32> {
    let vocab_size = tokenizer.pieces.len() as u64;
    let places = [
        &configs.generation,
        &configs.model,
        // Multimodal configs have the language model's here.
        &configs.model["text_config"],
    ];
    let mut ids = vec![];
    for config in places {
        let value = &config[key];
        let list = value.as_array().map(Vec::as_slice);
        let list = list.unwrap_or(std::slice::from_ref(value));
        let found = list.iter().filter_map(Value::as_u64);
        ids.extend(found.filter(|id| *id < vocab_size).map(|id| id as u32));
    }
    ids
}
