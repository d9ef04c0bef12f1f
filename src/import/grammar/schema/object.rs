//! Objects: their members, with and without names in the schema.

use std::collections::HashSet;
use std::format;
use std::prelude::rust_2024::*;
use std::string::ToString;
use std::vec;

use serde_json::{Map, Value};

use super::{Schemas, Style};
use crate::import::ImportError;
use crate::import::grammar::dfa;
use crate::import::grammar::expr::{Dfa, DfaState, Id, Member, Members};

impl Schemas<'_> {
    pub(super) fn object(&mut self, schema: &Map<String, Value>) -> Result<Id, ImportError> {
        let inside = self.members(schema)?;
        if self.source.is_never(inside) {
            return Ok(inside);
        }
        let (open, close, space) = (
            self.source.literal(b"{"),
            self.source.literal(b"}"),
            self.space(),
        );
        Ok(self.source.seq(vec![open, space, inside, close]))
    }

    /// The members of an object as arguments of a call of Python: `name=value`.
    pub(in crate::import::grammar) fn arguments(
        &mut self,
        schema: &Value,
    ) -> Result<Id, ImportError> {
        self.as_arguments = true;
        let id = self.members(schema.as_object().unwrap_or(&Map::new()));
        self.as_arguments = false;
        id
    }

    /// The name of a member, and what comes between it and the value.
    pub(super) fn name(&mut self, name: &str) -> (Vec<u8>, Id) {
        match self.style {
            Style::Json(_) => (quoted_name(name), self.colon()),
            Style::Python => (quoted_name(name), self.separator(":")),
            // With the colon no name begins with another.
            Style::Gemma => (format!("{name}:").into_bytes(), self.source.empty()),
        }
    }

    /// A colon with white space around it.
    fn colon(&mut self) -> Id {
        let (space, colon) = (self.space(), self.separator(":"));
        self.source.seq(vec![space, colon])
    }

    /// The members of an object, with the white space after each.
    pub(in crate::import::grammar) fn members(
        &mut self,
        schema: &Map<String, Value>,
    ) -> Result<Id, ImportError> {
        let as_arguments = core::mem::take(&mut self.as_arguments);
        let required = self.required(schema)?;
        let other = match schema.get("additionalProperties") {
            // Tools have the arguments that they name.
            None if !matches!(self.style, Style::Json(_)) => self.source.never(),
            None => self.any()?,
            Some(schema) => self.at("additionalProperties", |it| it.schema(schema))?,
        };
        let mut items = self.named_members(schema, &required, as_arguments)?;
        let properties = schema.get("properties").and_then(Value::as_object);
        for name in &required {
            if properties.is_some_and(|properties| properties.contains_key(*name)) {
                continue;
            }
            let (name, colon) = self.name(name);
            let space = self.space();
            items.push(Member {
                name,
                value: self.source.seq(vec![colon, other, space]),
                required: true,
            });
        }
        let is_impossible = |item: &Member| item.required && self.source.is_never(item.value);
        if items.iter().any(is_impossible) {
            return Ok(self.source.never());
        }
        let rest = self.other_members(other, &items)?;
        self.counted_members(schema, items, rest)
    }

    /// The names that must come, in their order, each once.
    pub(super) fn required<'v>(
        &self,
        schema: &'v Map<String, Value>,
    ) -> Result<Vec<&'v str>, ImportError> {
        let Some(names) = schema.get("required") else {
            return Ok(Vec::new());
        };
        let names = names.as_array().and_then(|names| {
            let names = names.iter().map(Value::as_str);
            names.collect::<Option<Vec<&str>>>()
        });
        let Some(mut names) = names else {
            return self.refuse("\"required\" is not an array of names");
        };
        let mut seen = HashSet::new();
        names.retain(|name| seen.insert(*name));
        Ok(names)
    }

    /// The members that `properties` names.
    fn named_members(
        &mut self,
        schema: &Map<String, Value>,
        required: &[&str],
        as_arguments: bool,
    ) -> Result<Vec<Member>, ImportError> {
        let properties = match schema.get("properties") {
            None => return Ok(Vec::new()),
            Some(Value::Object(properties)) => properties,
            Some(_) => return self.refuse("\"properties\" is not an object"),
        };
        let mut properties: Vec<(&String, &Value)> = properties.iter().collect();
        if self.style == Style::Gemma {
            properties.sort_by_key(|property| property.0);
        }
        let required: HashSet<&str> = required.iter().copied().collect();
        let space = self.space();
        let mut items = Vec::new();
        for (name, schema) in properties {
            let value = self.at("properties", |it| it.at(name, |it| it.schema(schema)))?;
            let (quoted, colon) = if as_arguments {
                (format!("{name}=").into_bytes(), self.source.empty())
            } else {
                self.name(name)
            };
            items.push(Member {
                name: quoted,
                value: self.source.seq(vec![colon, value, space]),
                required: required.contains(name.as_str()),
            });
        }
        Ok(items)
    }

    /// A member that is none of `items`, if there may be one.
    fn other_members(&mut self, value: Id, items: &[Member]) -> Result<Option<Id>, ImportError> {
        if self.source.is_never(value) {
            return Ok(None);
        }
        if self.style == Style::Gemma {
            return self.refuse("\"additionalProperties\" is not supported in this form of calls");
        }
        let name = self.other_name(items)?;
        let (colon, space) = (self.colon(), self.space());
        Ok(Some(self.source.seq(vec![name, colon, value, space])))
    }

    /// As many of the members as `minProperties` and `maxProperties` say.
    fn counted_members(
        &mut self,
        schema: &Map<String, Value>,
        items: Vec<Member>,
        rest: Option<Id>,
    ) -> Result<Id, ImportError> {
        let min = self.count(schema, "minProperties")?.unwrap_or(0);
        let max = self.count(schema, "maxProperties")?;
        let separator = self.separator(",");
        let always = items.iter().filter(|item| item.required).count() as u32;
        let is_possible = |item: &&Member| !self.source.is_never(item.value);
        let possible = items.iter().filter(is_possible).count() as u32;
        let most = if rest.is_some() { u32::MAX } else { possible };
        if max.is_some_and(|max| max < min.max(always)) || most < min {
            return Ok(self.source.never());
        }
        if min <= always && max.is_none_or(|max| max >= most) {
            return Ok(self.source.members(Members {
                items,
                rest,
                separator,
            }));
        }
        let (true, Some(rest)) = (items.is_empty(), rest) else {
            let keyword = if min > always {
                "minProperties"
            } else {
                "maxProperties"
            };
            return self.refuse(format_args!(
                "the keyword {keyword:?} is not supported beside \"properties\" that may be left \
                 out"
            ));
        };
        if max == Some(0) {
            return Ok(self.source.empty());
        }
        let more = self.source.seq(vec![separator, rest]);
        let max_more = max.map(|max| max - 1);
        let more = self.source.repeat(more, min.saturating_sub(1), max_more);
        let all = self.source.seq(vec![rest, more]);
        Ok(if min == 0 {
            self.source.optional(all)
        } else {
            all
        })
    }

    /// The name of a member that is none of `items`.
    fn other_name(&mut self, items: &[Member]) -> Result<Id, ImportError> {
        if items.is_empty() {
            return Ok(self.string());
        }
        let any = self.any_character();
        let any = self.source.repeat(any, 0, None);
        let any = self.quoted(any);
        let any = dfa::of_expr(self.source, any)?;
        let taken = tree(items.iter().map(|item| &item.name[..]));
        let others = dfa::product(&any, &taken, false)?;
        Ok(self.source.automaton(others))
    }
}

/// A name as JSON has it.
pub(in crate::import::grammar) fn quoted_name(name: &str) -> Vec<u8> {
    Value::from(name).to_string().into_bytes()
}

/// The automaton of some texts.
fn tree<'n>(names: impl Iterator<Item = &'n [u8]>) -> Dfa {
    let mut dfa = Dfa {
        states: vec![DfaState::default()],
    };
    for name in names {
        let mut state = 0usize;
        for byte in name {
            let edges = &dfa.states[state].edges;
            let place = edges.partition_point(|edge| edge.0 < *byte);
            state = match edges.get(place).filter(|edge| edge.0 == *byte) {
                Some(edge) => edge.2 as usize,
                None => {
                    let next = dfa.states.len();
                    dfa.states.push(DfaState::default());
                    dfa.states[state]
                        .edges
                        .insert(place, (*byte, *byte, next as u32));
                    next
                }
            };
        }
        dfa.states[state].ends = true;
    }
    dfa
}
