//! The chat template of a Hugging Face folder, and the special tokens that it names.

use std::fmt::Write;
use std::path::Path;
use std::prelude::rust_2024::*;

use serde_json::{Map, Value};

use super::folder::optional_json;
use super::read_text;
use crate::import::ImportError;
use crate::import::file::is_there;

/// The Jinja source of the chat template in a Hugging Face folder, if it has one: the file
/// `chat_template.jinja`, or the one file in `additional_chat_templates`, or `chat_template` in
/// `tokenizer_config.json`. There it is a string, or several with names, of which it is the one
/// named `default` or the only one.
///
/// The special tokens that the template names are set in its first line, as
/// [the image's chat template](crate::model::Model::chat_template) wants it.
///
/// # Errors
/// If a file cannot be read or is not valid JSON, or `chat_template` is something else.
pub fn chat_template(folder: impl AsRef<Path>) -> Result<Option<String>, ImportError> {
    let folder = folder.as_ref();
    let Some(source) = source(folder)? else {
        return Ok(None);
    };
    let variables = special_tokens(folder)?;
    Ok(Some(with_variables(&source, &variables)))
}

fn source(folder: &Path) -> Result<Option<String>, ImportError> {
    let mut file = Some(folder.join("chat_template.jinja")).filter(|file| is_there(file));
    if file.is_none()
        && let Ok(entries) = std::fs::read_dir(folder.join("additional_chat_templates"))
    {
        let files = entries.flatten().map(|entry| entry.path());
        let mut files = files.filter(|file| file.extension().is_some_and(|end| end == "jinja"));
        file = files.next().filter(|_| files.next().is_none());
    }
    if let Some(file) = file {
        return read_text(&file).map(Some);
    }
    let file = folder.join("tokenizer_config.json");
    let Some(config) = optional_json(&file)? else {
        return Ok(None);
    };
    let named: Vec<(&str, &Value)> = match config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(template)) => return Ok(Some(template.clone())),
        Some(Value::Array(list)) => list
            .iter()
            .map(|entry| {
                (
                    entry["name"].as_str().unwrap_or_default(),
                    &entry["template"],
                )
            })
            .collect(),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(name, value)| (name.as_str(), value))
            .collect(),
        Some(_) => vec![("", &Value::Null)],
    };
    let default = named.iter().find(|(name, _)| *name == "default");
    let chosen = match (default, named.as_slice()) {
        (Some(chosen), _) | (None, [chosen]) => chosen,
        _ => return Ok(None),
    };
    match chosen.1.as_str() {
        Some(template) => Ok(Some(template.to_owned())),
        None => {
            let what = "`chat_template` is neither a string nor a list of them with names";
            Err(ImportError::new(what).in_file(&file))
        }
    }
}

/// What transformers gives to every template: the special tokens that have names (`bos_token`,
/// `image_token`, …), from `tokenizer_config.json`, from `special_tokens_map.json` where the former
/// has no `added_tokens_decoder`, or by default of the tokenizer's class. A token that a file says
/// is null has no variable.
fn special_tokens(folder: &Path) -> Result<Vec<(String, String)>, ImportError> {
    let load = |name: &str| optional_json(&folder.join(name)).map(Option::unwrap_or_default);
    let config = load("tokenizer_config.json")?;
    let mut tokens = Map::new();
    let class = match config["tokenizer_class"].as_str() {
        Some(class) => class.to_owned(),
        None => load("config.json")?["model_type"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    };
    for (name, token) in defaults(&class) {
        tokens.insert((*name).to_owned(), (*token).into());
    }
    let mut add = |file: &Value| {
        for (key, value) in file.as_object().into_iter().flatten() {
            if key.ends_with("_token") {
                tokens.insert(key.clone(), value.clone());
            }
        }
    };
    add(&config);
    if config.get("added_tokens_decoder").is_none() {
        add(&load("special_tokens_map.json")?);
    }
    add(&config["extra_special_tokens"]);
    add(&config["model_specific_special_tokens"]);
    let text = |value: &Value| {
        let text = value.as_str().or_else(|| value["content"].as_str());
        text.map(str::to_owned)
    };
    let tokens = tokens.iter();
    Ok(tokens
        .filter_map(|(name, value)| Some((name.clone(), text(value)?)))
        .collect())
}

/// The special tokens of a tokenizer class, or of the model type where no class is said.
fn defaults(class: &str) -> &'static [(&'static str, &'static str)] {
    let class = class.to_ascii_lowercase();
    let is = |names: &[&str]| names.iter().any(|name| class.starts_with(name));
    if is(&["llama", "codellama", "mistral"]) {
        &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
        ]
    } else if is(&["gemma"]) {
        &[
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ]
    } else if is(&["gpt2"]) {
        &[
            ("bos_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
        ]
    } else if is(&["qwen"]) {
        &[
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
            ("pad_token", "<|endoftext|>"),
        ]
    } else {
        &[]
    }
}

/// `source` with a first line that sets the variables that it uses.
pub fn with_variables(source: &str, variables: &[(String, String)]) -> String {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut line = String::new();
    for (name, value) in variables {
        let mut named = source.match_indices(name.as_str());
        let is_used = named.any(|(at, _)| {
            !source[..at].ends_with(is_name) && !source[at + name.len()..].starts_with(is_name)
        });
        if is_used && name.chars().all(is_name) && !name.starts_with(|c: char| c.is_numeric()) {
            _ = write!(line, "{{% set {name} = {} %}}", literal(value));
        }
    }
    if !line.is_empty() {
        line.push('\n');
    }
    line + source
}

/// A string as Jinja writes it.
fn literal(text: &str) -> String {
    let mut literal = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => literal.extend(['\\', character]),
            '\0'..' ' | '\u{7f}' => _ = write!(literal, "\\x{:02x}", u32::from(character)),
            _ => literal.push(character),
        }
    }
    literal + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_sets_what_the_template_speaks_of() {
        let variables = [
            ("bos_token", "<s>"),
            ("eos_token", "a\"\\\n"),
            ("pad_token", "<p>"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            with_variables("{{ eos_token }}{{ my_bos_token }}", &variables),
            "{% set eos_token = \"a\\\"\\\\\\x0a\" %}\n{{ eos_token }}{{ my_bos_token }}"
        );
        assert_eq!(with_variables("x", &variables), "x");
    }
}
