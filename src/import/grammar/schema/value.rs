//! Values that a schema lists, and which of them are valid.

use std::prelude::rust_2024::*;
use std::string::ToString;
use std::vec;

use serde_json::{Map, Value};

use super::{OF_ANY, OF_STRINGS, Schemas, Style, constrains};
use crate::import::ImportError;
use crate::import::grammar::expr::Id;
use crate::import::grammar::regex::text_of;

impl Schemas<'_> {
    /// Those of `values` that are valid by the keywords beside them.
    pub(super) fn constants(
        &mut self,
        values: &[Value],
        types: &[&str],
        others: &Map<String, Value>,
    ) -> Result<Id, ImportError> {
        let mut parts = Vec::new();
        for value in values {
            if self.holds(value, types, others)? {
                parts.push(self.constant(value));
            }
        }
        Ok(self.source.alt(parts))
    }

    pub(super) fn constant(&mut self, value: &Value) -> Id {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {
                let text = match (self.style, value) {
                    (Style::Python, Value::Null) => "None".into(),
                    (Style::Python, Value::Bool(true)) => "True".into(),
                    (Style::Python, Value::Bool(false)) => "False".into(),
                    _ => value.to_string(),
                };
                self.source.literal(text.as_bytes())
            }
            Value::String(text) => {
                let writing = self.writing();
                let inside = text_of(self.source, text, writing);
                self.quoted(inside)
            }
            Value::Array(values) => {
                let open = self.source.literal(b"[");
                let mut parts = vec![open, self.space()];
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        parts.push(self.separator(","));
                    }
                    parts.extend([self.constant(value), self.space()]);
                }
                parts.push(self.source.literal(b"]"));
                self.source.seq(parts)
            }
            Value::Object(members) => {
                let open = self.source.literal(b"{");
                let mut parts = vec![open, self.space()];
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        parts.push(self.separator(","));
                    }
                    let (name, colon) = self.name(name);
                    parts.push(self.source.literal(&name));
                    parts.extend([colon, self.constant(value), self.space()]);
                }
                parts.push(self.source.literal(b"}"));
                self.source.seq(parts)
            }
        }
    }

    /// Whether a value of `enum` or `const` is valid by the keywords beside it.
    fn holds(
        &self,
        value: &Value,
        types: &[&str],
        others: &Map<String, Value>,
    ) -> Result<bool, ImportError> {
        if !types.iter().any(|kind| is_of(value, kind)) {
            return Ok(false);
        }
        let length = value.as_str().map(|text| text.chars().count() as f64);
        for (keyword, limit) in others {
            let keyword = keyword.as_str();
            let (size, is_least) = match keyword {
                "minLength" => (length, true),
                "maxLength" => (length, false),
                "minimum" => (value.as_f64(), true),
                "maximum" => (value.as_f64(), false),
                "type" => continue,
                _ if !constrains(keyword) => continue,
                _ if value.is_string()
                    && !OF_STRINGS.contains(&keyword)
                    && !OF_ANY.contains(&keyword) =>
                {
                    continue;
                }
                _ => {
                    return self.refuse(format_args!(
                        "the keyword {keyword:?} is not supported beside \"enum\" or \"const\""
                    ));
                }
            };
            if let (Some(size), Some(limit)) = (size, limit.as_f64())
                && (if is_least { size < limit } else { size > limit })
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether two values are the same to JSON Schema: 1 is 1.0, and members have no order.
pub(super) fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(x), Value::Object(y)) => {
            let has = |(name, a): (&String, &Value)| y.get(name).is_some_and(|b| is_same(a, b));
            x.len() == y.len() && x.iter().all(has)
        }
        _ => a == b,
    }
}

pub(super) fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        _ => value.is_object(),
    }
}
