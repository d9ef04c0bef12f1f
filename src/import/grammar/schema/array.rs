//! Arrays: their first items, and how many items there are.

use std::prelude::rust_2024::*;
use std::vec;

use serde_json::{Map, Value};

use super::Schemas;
use crate::import::ImportError;
use crate::import::grammar::expr::Id;

impl Schemas<'_> {
    pub(super) fn array(&mut self, schema: &Map<String, Value>) -> Result<Id, ImportError> {
        let is_unique = schema.get("uniqueItems");
        if is_unique.is_some_and(|value| *value != Value::Bool(false)) {
            return self.refuse("the keyword \"uniqueItems\" is not supported");
        }
        let min = self.count(schema, "minItems")?.unwrap_or(0);
        let max = self.count(schema, "maxItems")?;
        let (mut prefix, item) = self.items(schema)?;
        // Beyond an item that can be nothing there are no items.
        let mut most = max.unwrap_or(u32::MAX);
        if let Some(first) = prefix.iter().position(|id| self.source.is_never(*id)) {
            most = most.min(first as u32);
        }
        if self.source.is_never(item) {
            most = most.min(prefix.len() as u32);
        }
        if most < min {
            return Ok(self.source.never());
        }
        prefix.truncate(most as usize);
        let (separator, space) = (self.separator(","), self.space());
        let named = prefix.len() as u32;
        let left = (most != u32::MAX).then(|| most - named);
        // From the last item to the first.
        let mut tail = self.more_items(item, named == 0, min.saturating_sub(named), left);
        for (index, id) in prefix.iter().enumerate().rev() {
            let mut parts = vec![*id, space, tail];
            if index > 0 {
                parts.insert(0, separator);
            }
            let with = self.source.seq(parts);
            tail = if index as u32 >= min {
                self.source.optional(with)
            } else {
                with
            };
        }
        let (open, close) = (self.source.literal(b"["), self.source.literal(b"]"));
        Ok(self.source.seq(vec![open, space, tail, close]))
    }

    /// The first items that have schemas of their own, and any other item.
    fn items(&mut self, schema: &Map<String, Value>) -> Result<(Vec<Id>, Id), ImportError> {
        let mut prefix = Vec::new();
        match schema.get("prefixItems") {
            None => {}
            Some(Value::Array(schemas)) => {
                for (index, schema) in schemas.iter().enumerate() {
                    let id = self.at("prefixItems", |it| it.at(index, |it| it.schema(schema)))?;
                    prefix.push(id);
                }
            }
            Some(_) => return self.refuse("\"prefixItems\" is not an array"),
        }
        let item = match schema.get("items") {
            None => self.any()?,
            Some(Value::Array(_)) => {
                return self.refuse("\"items\" is an array: write \"prefixItems\"");
            }
            Some(items) => self.at("items", |it| it.schema(items))?,
        };
        Ok((prefix, item))
    }

    /// From `min` to `max` items, after others or as the first.
    fn more_items(&mut self, item: Id, are_first: bool, min: u32, max: Option<u32>) -> Id {
        if max == Some(0) {
            return self.source.empty();
        }
        let (separator, space) = (self.separator(","), self.space());
        let item = self.source.seq(vec![item, space]);
        let more = self.source.seq(vec![separator, item]);
        if !are_first {
            return self.source.repeat(more, min, max);
        }
        let max_more = max.map(|max| max - 1);
        let more = self.source.repeat(more, min.saturating_sub(1), max_more);
        let all = self.source.seq(vec![item, more]);
        if min == 0 {
            self.source.optional(all)
        } else {
            all
        }
    }
}
