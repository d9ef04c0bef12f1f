//! One schema for what is valid by two.

use std::prelude::rust_2024::*;
use std::vec;

use serde_json::{Map, Value};

use super::value::is_same;
use super::{Schemas, constrains};
use crate::import::ImportError;

impl Schemas<'_> {
    /// A schema for what is valid by both.
    pub(super) fn merge(&self, a: &Value, b: &Value) -> Result<Value, ImportError> {
        let (a, b) = (self.resolved(a)?, self.resolved(b)?);
        let (Value::Object(a), Value::Object(b)) = (&a, &b) else {
            return Ok(match (&a, &b) {
                (Value::Bool(false), _) | (_, Value::Bool(false)) => Value::Bool(false),
                (Value::Bool(true), other) | (other, _) => other.clone(),
            });
        };
        self.check_scopes(a, b)?;
        let mut merged = a.clone();
        for (keyword, value) in b {
            let both = match a.get(keyword) {
                Some(other) if other != value && constrains(keyword) => {
                    self.merge_keyword(keyword, other, value)?
                }
                _ => Some(value.clone()),
            };
            let Some(both) = both else {
                return Ok(Value::Bool(false));
            };
            merged.insert(keyword.clone(), both);
        }
        Ok(Value::Object(merged))
    }

    /// Refuses schemas of which one has a keyword that is about what its own other keywords leave.
    fn check_scopes(
        &self,
        a: &Map<String, Value>,
        b: &Map<String, Value>,
    ) -> Result<(), ImportError> {
        for (schema, other) in [(a, b), (b, a)] {
            if let Some(rest) = schema.get("additionalProperties")
                && *rest != Value::Bool(true)
            {
                let names = |schema: &Map<String, Value>| {
                    let names = schema.get("properties").and_then(Value::as_object);
                    names.cloned().unwrap_or_default()
                };
                let own = names(schema);
                if names(other).keys().any(|name| !own.contains_key(name)) {
                    return self.refuse(
                        "schemas that hold together have other properties than the one with \
                         \"additionalProperties\" names, which is not supported",
                    );
                }
            }
            let prefix = |schema: &Map<String, Value>| {
                let prefix = schema.get("prefixItems").and_then(Value::as_array);
                prefix.map_or(0, Vec::len)
            };
            if schema.contains_key("items") && prefix(schema) != prefix(other) {
                return self.refuse(
                    "schemas that hold together have \"items\" and \"prefixItems\" of different \
                     lengths, which is not supported",
                );
            }
        }
        Ok(())
    }

    /// What is valid by a keyword with both values; `None` if nothing is.
    fn merge_keyword(
        &self,
        keyword: &str,
        a: &Value,
        b: &Value,
    ) -> Result<Option<Value>, ImportError> {
        let larger = match (a.as_f64(), b.as_f64()) {
            (Some(x), Some(y)) => Some(if x > y { (b, a) } else { (a, b) }),
            _ => None,
        };
        Ok(match (keyword, larger) {
            (
                "minimum" | "exclusiveMinimum" | "minLength" | "minItems" | "minProperties",
                Some((_, larger)),
            ) => Some(larger.clone()),
            (
                "maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "maxProperties",
                Some((smaller, _)),
            ) => Some(smaller.clone()),
            ("required", _) => {
                let mut names = a.as_array().cloned().unwrap_or_default();
                names.extend(b.as_array().into_iter().flatten().cloned());
                Some(names.into())
            }
            ("properties", _) => Some(self.merge_properties(a, b)?),
            ("prefixItems", _) => Some(self.merge_prefix(a, b)?),
            ("type", _) => types_of_both(a, b),
            ("enum", _) => values_of_both(a, b),
            ("const", _) => is_same(a, b).then(|| a.clone()),
            ("items" | "additionalProperties", _) => Some(self.merge(a, b)?),
            _ => {
                return self.refuse(format_args!(
                    "schemas that hold together both have {keyword:?}, which is not supported"
                ));
            }
        })
    }

    /// The properties of both; those with one name are merged.
    fn merge_properties(&self, a: &Value, b: &Value) -> Result<Value, ImportError> {
        let mut properties = a.as_object().cloned().unwrap_or_default();
        for (name, schema) in b.as_object().into_iter().flatten() {
            let schema = match properties.get(name) {
                Some(known) => self.merge(known, schema)?,
                None => schema.clone(),
            };
            properties.insert(name.clone(), schema);
        }
        Ok(properties.into())
    }

    /// The first items of both; those at one place are merged.
    fn merge_prefix(&self, a: &Value, b: &Value) -> Result<Value, ImportError> {
        let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let pairs = items(a).into_iter().zip(items(b));
        let merged = pairs.map(|(a, b)| self.merge(&a, &b));
        let mut merged = merged.collect::<Result<Vec<Value>, _>>()?;
        let longer = [items(a), items(b)].into_iter().max_by_key(Vec::len);
        merged.extend(longer.unwrap_or_default().into_iter().skip(merged.len()));
        Ok(merged.into())
    }
}

/// The types that both values of `type` allow; `None` if there is none.
fn types_of_both(a: &Value, b: &Value) -> Option<Value> {
    let names = |value: &Value| match value.as_array() {
        Some(names) => names.clone(),
        None => vec![value.clone()],
    };
    let theirs = names(a);
    let has = |name: &str| theirs.iter().any(|known| known == name);
    let mut both: Vec<Value> = Vec::new();
    for name in names(b) {
        match name.as_str() {
            Some("integer") if has("number") => both.push(name),
            Some("number") if !has("number") && has("integer") => both.push("integer".into()),
            Some(text) if has(text) => both.push(name),
            _ => {}
        }
    }
    (!both.is_empty()).then(|| both.into())
}

/// The values that both lists of `enum` have; `None` if there is none.
fn values_of_both(a: &Value, b: &Value) -> Option<Value> {
    let theirs = a.as_array().cloned().unwrap_or_default();
    let both = b.as_array().into_iter().flatten();
    let both = both.filter(|value| theirs.iter().any(|other| is_same(value, other)));
    let both: Vec<Value> = both.cloned().collect();
    (!both.is_empty()).then(|| both.into())
}
