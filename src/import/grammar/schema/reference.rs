//! References to other places of the document.

use std::format;
use std::prelude::rust_2024::*;

use serde_json::{Map, Value};

use super::{Schemas, constrains, rest_of};
use crate::import::ImportError;

impl<'s> Schemas<'s> {
    /// The rule of a reference.
    pub(super) fn reference(&mut self, reference: &str) -> Result<u32, ImportError> {
        let pointer = self.pointer(reference)?;
        if let Some(rule) = self.rules.get(&pointer) {
            return Ok(*rule);
        }
        let rule = self.source.rule(format!("the schema at {reference}"));
        self.rules.insert(pointer.clone(), rule);
        self.waiting.push((pointer, rule));
        Ok(rule)
    }

    fn pointer(&self, reference: &str) -> Result<String, ImportError> {
        let Some(pointer) = reference.strip_prefix('#') else {
            return self.refuse(format_args!(
                "\"$ref\" {reference:?} is in another document; only references that begin with # \
                 are supported"
            ));
        };
        let mut bytes = Vec::new();
        let mut rest = pointer.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            let code = after
                .get(..2)
                .and_then(|hex| core::str::from_utf8(hex).ok());
            let code = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
            match code.filter(|_| *first == b'%') {
                Some(byte) => {
                    bytes.push(byte);
                    rest = &after[2..];
                }
                None => {
                    bytes.push(*first);
                    rest = after;
                }
            }
        }
        let pointer = String::from_utf8_lossy(&bytes).into_owned();
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return self.refuse(format_args!(
                "\"$ref\" {reference:?} is an anchor, which is not supported"
            ));
        }
        if self.document.pointer(&pointer).is_none() {
            return self.refuse(format_args!("\"$ref\" {reference:?} names nothing"));
        }
        Ok(pointer)
    }

    /// The schema of a reference, and of the references that it is.
    pub(super) fn resolve(&self, reference: &str) -> Result<&'s Value, ImportError> {
        let mut pointer = self.pointer(reference)?;
        for _ in 0..32 {
            let schema = self.document.pointer(&pointer).unwrap_or(&Value::Null);
            match schema.get("$ref").and_then(Value::as_str) {
                Some(next) if schema.as_object().is_some_and(|schema| schema.len() == 1) => {
                    pointer = self.pointer(next)?;
                }
                _ => return Ok(schema),
            }
        }
        self.refuse(format_args!("\"$ref\" {reference:?} leads to itself"))
    }

    pub(super) fn resolved(&self, schema: &Value) -> Result<Value, ImportError> {
        match schema.get("$ref").and_then(Value::as_str) {
            Some(reference) => {
                let target = self.resolve(reference)?;
                let others = rest_of(schema.as_object().unwrap_or(&Map::new()), "$ref");
                if others.keys().any(|keyword| constrains(keyword)) {
                    return self.merge(target, &Value::Object(others));
                }
                Ok(target.clone())
            }
            None => Ok(schema.clone()),
        }
    }
}
