//! Python's `json.dumps`.

use std::prelude::rust_2024::*;

use super::interpreter::Interpreter;
use super::text::{Builder, Text};
use super::value::{Result, Value, float_text};

/// The arguments of `json.dumps` that matter.
pub(super) struct Style {
    pub(super) ascii: bool,
    /// What a level is indented by; `None` for one line.
    pub(super) indent: Option<Text>,
    pub(super) item_separator: Text,
    pub(super) key_separator: Text,
    pub(super) sort_keys: bool,
}

pub(super) fn dumps(run: &mut Interpreter, value: &Value, style: &Style) -> Result<Text> {
    run.spend(value.weight())?;
    let mut out = Builder::default();
    let mut writer = Writer {
        style,
        out: &mut out,
        run,
    };
    writer.value(value, 0)?;
    Ok(out.finish())
}

struct Writer<'w, 't> {
    style: &'w Style,
    out: &'w mut Builder,
    run: &'w mut Interpreter<'t>,
}

impl Writer<'_, '_> {
    fn value(&mut self, value: &Value, level: usize) -> Result<()> {
        match value {
            Value::Str(text) => return self.string(text),
            Value::List(items) | Value::Tuple(items) => {
                self.out.push_char('[', false);
                for (index, item) in items.items.iter().enumerate() {
                    self.next(index, level + 1)?;
                    self.value(item, level + 1)?;
                }
                self.end(items.items.len(), level)?;
                self.out.push_char(']', false);
            }
            Value::Dict(dict) => {
                let mut entries: Vec<_> = dict.entries.iter().collect();
                if self.style.sort_keys {
                    sort(self.run, &mut entries, |entry| &entry.0)?;
                }
                self.out.push_char('{', false);
                for (index, (key, value)) in entries.iter().enumerate() {
                    self.next(index, level + 1)?;
                    match key {
                        Value::Str(key) => self.string(key)?,
                        _ => {
                            let Some(text) = scalar(key) else {
                                return Err(format!(
                                    "keys must be str, int, float, bool or None, not {}",
                                    key.type_name()
                                ));
                            };
                            self.string(&Text::template(&text))?;
                        }
                    }
                    self.out.push(&self.style.key_separator);
                    self.value(value, level + 1)?;
                }
                self.end(entries.len(), level)?;
                self.out.push_char('}', false);
            }
            _ => match scalar(value) {
                Some(text) => self.out.push_str(&text, false),
                None => {
                    return Err(format!(
                        "Object of type {} is not JSON serializable",
                        value.type_name()
                    ));
                }
            },
        }
        Ok(())
    }

    /// What stands before an item.
    fn next(&mut self, index: usize, level: usize) -> Result<()> {
        if index > 0 {
            self.run.spend_bytes(self.style.item_separator.len())?;
            self.out.push(&self.style.item_separator);
        }
        self.line(level)
    }

    /// What stands before the closing bracket.
    fn end(&mut self, len: usize, level: usize) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.line(level)
    }

    fn line(&mut self, level: usize) -> Result<()> {
        let Some(indent) = &self.style.indent else {
            return Ok(());
        };
        self.run.spend_bytes(indent.len().saturating_mul(level))?;
        self.out.push_char('\n', false);
        (0..level).for_each(|_| self.out.push(indent));
        Ok(())
    }

    fn string(&mut self, text: &Text) -> Result<()> {
        // An escape is up to six times as long.
        self.run.spend_bytes(text.len() * 2)?;
        self.out.push_char('"', false);
        for (character, user) in text.characters() {
            match character {
                '"' => self.out.push_str("\\\"", user),
                '\\' => self.out.push_str("\\\\", user),
                '\n' => self.out.push_str("\\n", user),
                '\r' => self.out.push_str("\\r", user),
                '\t' => self.out.push_str("\\t", user),
                '\u{8}' => self.out.push_str("\\b", user),
                '\u{c}' => self.out.push_str("\\f", user),
                '\0'..' ' => {
                    let escape = format!("\\u{:04x}", u32::from(character));
                    self.out.push_str(&escape, user);
                }
                '\u{7f}'.. if self.style.ascii => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"), user);
                    }
                }
                _ => self.out.push_char(character, user),
            }
        }
        self.out.push_char('"', false);
        Ok(())
    }
}

/// A value without parts.
fn scalar(value: &Value) -> Option<String> {
    Some(match value {
        Value::None => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) if number.is_nan() => "NaN".into(),
        Value::Float(number) if number.is_infinite() => if *number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .into(),
        Value::Float(number) => float_text(*number),
        _ => return None,
    })
}

/// Sorts by Python's `<`, and keeps the order of equals.
pub(super) fn sort<T>(
    run: &mut Interpreter,
    items: &mut [T],
    key: impl Fn(&T) -> &Value,
) -> Result<()> {
    let weight: u64 = items.iter().map(|item| 1 + key(item).weight()).sum();
    run.spend(weight.saturating_mul(1 + items.len().max(1).ilog2() as u64))?;
    let mut wrong = None;
    items.sort_by(|a, b| match key(a).compare(key(b), "<") {
        Ok(order) => order.unwrap_or(std::cmp::Ordering::Equal),
        Err(error) => {
            wrong.get_or_insert(error);
            std::cmp::Ordering::Equal
        }
    });
    wrong.map_or(Ok(()), Err)
}
