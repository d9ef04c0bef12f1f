//! Strings: their lengths, patterns and formats.

use std::prelude::rust_2024::*;

use serde_json::{Map, Value};

use super::Schemas;
use crate::import::ImportError;
use crate::import::grammar::dfa;
use crate::import::grammar::expr::{Dfa, Id};
use crate::import::grammar::format::format_pattern;
use crate::import::grammar::regex::{Match, pattern};

impl Schemas<'_> {
    pub(super) fn string_schema(&mut self, schema: &Map<String, Value>) -> Result<Id, ImportError> {
        let min = self.count(schema, "minLength")?.unwrap_or(0);
        let max = self.count(schema, "maxLength")?;
        let mut patterns = Vec::new();
        if let Some(value) = schema.get("pattern") {
            let Some(text) = value.as_str() else {
                return self.refuse("\"pattern\" is not a string");
            };
            let writing = self.writing();
            let id = pattern(self.source, text, Match::Anywhere, writing);
            patterns.push(id.or_else(|error| self.refuse(error))?);
        }
        if let Some(value) = schema.get("format") {
            let name = value.as_str().unwrap_or_default();
            let Some(text) = format_pattern(name) else {
                return self.refuse(format_args!("the format {value} is not supported"));
            };
            let writing = self.writing();
            patterns.push(pattern(self.source, text, Match::Whole, writing)?);
        }
        if max.is_some_and(|max| max < min) {
            return Ok(self.source.never());
        }
        let is_any_length = min == 0 && max.is_none();
        if patterns.is_empty() && is_any_length {
            return Ok(self.string());
        }
        let any = self.any_character();
        if patterns.is_empty() {
            let inside = self.source.repeat(any, min, max);
            return Ok(self.quoted(inside));
        }
        let mut inside = self.all_patterns(&patterns)?;
        if !is_any_length {
            let text = self.source.repeat(any, 0, None);
            let (all, text) = (self.automaton(inside)?, self.automaton(text)?);
            let counted = dfa::of_length(&all, &text, min, max);
            let counted = counted.or_else(|error| self.refuse(error))?;
            inside = self.source.automaton(counted);
        }
        Ok(self.quoted(inside))
    }

    fn automaton(&mut self, id: Id) -> Result<Dfa, ImportError> {
        dfa::of_expr(self.source, id).or_else(|error| self.refuse(error))
    }

    /// The texts that all of some expressions match.
    fn all_patterns(&mut self, patterns: &[Id]) -> Result<Id, ImportError> {
        let [first, others @ ..] = patterns else {
            return Ok(self.source.never());
        };
        if others.is_empty() {
            return Ok(*first);
        }
        let mut all = self.automaton(*first)?;
        for other in others {
            let other = self.automaton(*other)?;
            all = dfa::product(&all, &other, true).or_else(|error| self.refuse(error))?;
        }
        Ok(self.source.automaton(all))
    }
}
