//! Config files: JSON objects. Values are checked when they are read, so that an error names the
//! key.

use std::path::Path;
use std::prelude::rust_2024::*;

use serde_json::{Map, Value};

use super::ImportError;
use super::file;

/// Far more than any config has: the largest on the hub have a few hundred kilobytes.
const CONFIG_LIMIT: u64 = 16 << 20;

/// Reads a file that holds one JSON object.
///
/// # Errors
/// As [`read_value`]; or the value is not an object.
pub(super) fn read(path: &Path, limit: u64) -> Result<Map<String, Value>, ImportError> {
    match read_value(path, limit)? {
        Value::Object(map) => Ok(map),
        _ => Err(ImportError::new("not a JSON object").in_file(path)),
    }
}

/// Reads a file that holds one JSON value, as Python does: a byte order mark is skipped, and `NaN`,
/// `Infinity` and `-Infinity` are values. They become strings with these names. Code that expects a
/// number rejects a string, so if such a value is used, an error names its key.
///
/// # Errors
/// The file cannot be read, is longer than `limit` bytes, or is not JSON (nested at most 128 deep).
pub(super) fn read_value(path: &Path, limit: u64) -> Result<Value, ImportError> {
    let text = file::read_text(path, limit)?;
    if text.trim_ascii().is_empty() {
        return Err(ImportError::new("not JSON: the file is empty").in_file(path));
    }
    serde_json::from_str(&text)
        .or_else(|error| match quote_python_numbers(&text) {
            Some(text) => serde_json::from_str(&text),
            None => Err(error),
        })
        .map_err(|error| ImportError::new(format!("not JSON: {error}")).in_file(path))
}

/// The text with Python's three words for numbers in quotes; `None` if it has none of them.
fn quote_python_numbers(text: &str) -> Option<String> {
    const WORDS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    let mut quoted = String::new();
    let mut copied = 0;
    let mut at = 0;
    let mut in_string = false;
    let bytes = text.as_bytes();
    while let Some(&byte) = bytes.get(at) {
        // A quote after a backslash does not end a string.
        let step = if in_string && byte == b'\\' { 2 } else { 1 };
        in_string ^= byte == b'"';
        let word = WORDS
            .iter()
            .find(|word| !in_string && bytes[at..].starts_with(word.as_bytes()));
        if let Some(word) = word {
            quoted.push_str(&text[copied..at]);
            quoted.extend(["\"", word, "\""]);
            copied = at + word.len();
            at = copied;
        } else {
            at += step;
        }
    }
    (copied > 0).then(|| quoted + &text[copied..])
}

/// Reads a `config.json`.
///
/// # Errors
/// As [`read`].
pub(super) fn read_config(path: &Path) -> Result<Map<String, Value>, ImportError> {
    read(path, CONFIG_LIMIT)
}

/// A JSON object, and its path in the file.
#[derive(Clone)]
pub(super) struct Object<'j> {
    map: &'j Map<String, Value>,
    /// The object's key with a dot after it; empty for the outermost object.
    place: String,
}

impl<'j> Object<'j> {
    pub(super) fn root(map: &'j Map<String, Value>) -> Self {
        Object {
            map,
            place: String::new(),
        }
    }

    /// The value of `key`; `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'j Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there, possibly as `null`.
    pub(super) fn mentions(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'j str> {
        self.map.keys().map(String::as_str)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The error that names `key`, its value and what is expected.
    pub(super) fn refuse(&self, key: &str, expected: &str) -> ImportError {
        let place = &self.place;
        match self.map.get(key) {
            None => ImportError::new(format!("`{place}{key}` is missing, expected {expected}")),
            Some(value) => ImportError::new(format!(
                "`{place}{key}` is {}, expected {expected}",
                excerpt(value)
            )),
        }
    }

    /// The error that says of `key` what `clause` says: `` `key` clause ``.
    pub(super) fn object_to(&self, key: &str, clause: &str) -> ImportError {
        ImportError::new(format!("`{}{key}` {clause}", self.place))
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Object<'j>>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Object {
                map,
                place: format!("{}{key}.", self.place),
            })),
            Some(_) => Err(self.refuse(key, "an object")),
        }
    }

    pub(super) fn list(&self, key: &str) -> Result<Option<&'j [Value]>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(self.refuse(key, "a list")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'j str>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(key, "a string")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.refuse(key, "true or false")),
        }
    }

    /// An integer of at least 0. `4.0` is not one.
    pub(super) fn natural(&self, key: &str) -> Result<Option<u32>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
                Some(n) => Ok(Some(n)),
                None => Err(self.refuse(key, "an integer from 0 to 4294967295")),
            },
        }
    }

    /// An integer of at least 1.
    pub(super) fn count(&self, key: &str) -> Result<Option<u32>, ImportError> {
        match self.natural(key) {
            Ok(Some(0)) | Err(_) => Err(self.refuse(key, "an integer from 1 to 4294967295")),
            fine => fine,
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ImportError> {
        match self.get(key) {
            None => Ok(None),
            // serde_json refuses numbers that overflow f64. We compute in f32.
            Some(value) => match value.as_f64() {
                Some(x) if (x as f32).is_finite() => Ok(Some(x)),
                _ => Err(self.refuse(key, "a number that fits in f32")),
            },
        }
    }

    /// A number above 0, in f32 too.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>, ImportError> {
        match self.number(key)? {
            Some(x) if x as f32 <= 0.0 => Err(self.refuse(key, "a number above 0")),
            fine => Ok(fine),
        }
    }
}

/// A value for an error message, cut short if it is long.
pub(super) fn excerpt(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = match value {
        Value::Array(_) => return "a list".into(),
        Value::Object(_) => return "an object".into(),
        Value::String(text) => format!("{text:?}"),
        plain => plain.to_string(),
    };
    if text.chars().count() <= LONGEST {
        text
    } else {
        text.chars().take(LONGEST).chain("…".chars()).collect()
    }
}
