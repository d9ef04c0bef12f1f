//! JSON Schema (draft 2020-12) as expressions.
//!
//! Members come in the order of `properties`, each at most once. Names that only `required` has
//! come next, and then other members. A keyword that this file does not know is refused by name:
//! nothing is left out silently.

mod array;
mod disjoint;
mod merge;
mod number;
mod object;
mod reference;
mod string;
mod value;

use std::collections::HashMap;
use std::format;
use std::prelude::rust_2024::*;
use std::string::ToString;
use std::vec;

use serde_json::{Map, Value};

pub(super) use object::quoted_name;

use super::expr::{Bytes, Id, Source};
use super::number::integers;
use super::regex::{Writing, characters, everything};
use crate::import::ImportError;

/// White space between the parts of JSON.
///
/// Example: [`from_json_schema`].
///
/// [`from_json_schema`]: super::from_json_schema
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whitespace {
    /// As printers write it: none, a space, or a line break and up to 24 blanks of indentation. A
    /// small model that likes blanks cannot write them without end.
    #[default]
    Printed,
    /// As much as the model likes.
    Unbounded,
    /// None. More of the text is forced then.
    Compact,
}

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Json(Whitespace),
    /// FunctionGemma's: strings between special tokens, bare names in the order of the alphabet.
    Gemma,
    /// Literals of Python.
    Python,
}

/// What stands on both sides of a string of FunctionGemma.
const ESCAPE: &str = "<escape>";

/// Keywords that say nothing about what is valid.
const ANNOTATIONS: [&str; 16] = [
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "contentMediaType",
    "contentEncoding",
    "contentSchema",
    "$anchor",
];

/// Keywords that hold for values of one type.
const OF_STRINGS: [&str; 4] = ["minLength", "maxLength", "pattern", "format"];
const OF_NUMBERS: [&str; 5] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];
const OF_ARRAYS: [&str; 5] = [
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "uniqueItems",
];
const OF_OBJECTS: [&str; 5] = [
    "properties",
    "required",
    "additionalProperties",
    "minProperties",
    "maxProperties",
];
const OF_ANY: [&str; 7] = ["type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"];

/// Compiles schemas of one document.
pub(super) struct Schemas<'s> {
    pub(super) source: &'s mut Source,
    document: &'s Value,
    style: Style,
    /// Whether the next members are the arguments of a call of Python.
    as_arguments: bool,
    /// The rules of the places that references name.
    rules: HashMap<String, u32>,
    waiting: Vec<(String, u32)>,
    any: Option<u32>,
    /// The rules of any string, any integer and any number.
    string: Option<Id>,
    integer: Option<Id>,
    space: Option<u32>,
    number: Option<Id>,
    /// Where we are, to name it.
    path: Vec<String>,
}

impl<'s> Schemas<'s> {
    pub(super) fn new(source: &'s mut Source, document: &'s Value, style: Style) -> Self {
        Schemas {
            source,
            document,
            style,
            as_arguments: false,
            rules: HashMap::new(),
            waiting: Vec::new(),
            any: None,
            string: None,
            integer: None,
            space: None,
            number: None,
            path: Vec::new(),
        }
    }

    /// The texts of a schema, and the bodies of all rules that they need.
    pub(super) fn whole(&mut self, schema: &Value) -> Result<Id, ImportError> {
        let id = self.schema(schema)?;
        self.bodies()?;
        Ok(id)
    }

    /// The bodies of all rules that were referred to.
    pub(super) fn bodies(&mut self) -> Result<(), ImportError> {
        while let Some((pointer, rule)) = self.waiting.pop() {
            let schema = self.document.pointer(&pointer).unwrap_or(&Value::Null);
            self.path = vec![pointer];
            let body = self.schema(schema)?;
            self.source.rules[rule as usize].body = Some(body);
        }
        Ok(())
    }

    fn refuse<T>(&self, reason: impl core::fmt::Display) -> Result<T, ImportError> {
        let path = self.path.concat();
        let place = if path.is_empty() { "the schema" } else { &path };
        Err(ImportError::new(format!("{place}: {reason}")))
    }

    fn at<T>(
        &mut self,
        step: impl core::fmt::Display,
        inside: impl FnOnce(&mut Self) -> Result<T, ImportError>,
    ) -> Result<T, ImportError> {
        let escaped = step.to_string().replace('~', "~0").replace('/', "~1");
        self.path.push(format!("/{escaped}"));
        let result = inside(self);
        self.path.pop();
        result
    }

    pub(super) fn schema(&mut self, schema: &Value) -> Result<Id, ImportError> {
        match schema {
            Value::Bool(true) => self.any(),
            Value::Bool(false) => Ok(self.source.never()),
            Value::Object(schema) => self.object_schema(schema),
            other => self.refuse(format_args!(
                "a schema is an object or a boolean, not {other}"
            )),
        }
    }

    fn object_schema(&mut self, schema: &Map<String, Value>) -> Result<Id, ImportError> {
        self.check_keywords(schema)?;
        if let Some(reference) = schema.get("$ref") {
            return self.referring(schema, reference);
        }
        if let Some(all) = schema.get("allOf") {
            return self.all_of(schema, all);
        }
        for keyword in ["anyOf", "oneOf"] {
            if let Some(options) = schema.get(keyword) {
                return self.one_of(schema, keyword, options);
            }
        }
        let types = self.types(schema)?;
        if let Some(value) = schema.get("const") {
            let values = core::slice::from_ref(value);
            return self.constants(values, &types, &rest_of(schema, "const"));
        }
        if let Some(values) = schema.get("enum") {
            let Some(values) = values.as_array() else {
                return self.refuse("\"enum\" is not an array");
            };
            return self.constants(values, &types, &rest_of(schema, "enum"));
        }
        let is_free = !schema.keys().any(|keyword| constrains(keyword));
        if is_free {
            return self.any();
        }
        let mut parts = Vec::new();
        for kind in types {
            parts.push(match kind {
                "null" => self.constant(&Value::Null),
                "boolean" => self.boolean(),
                "integer" | "number" => self.number(schema, kind == "integer")?,
                "string" => self.string_schema(schema)?,
                "array" => self.array(schema)?,
                _ => self.object(schema)?,
            });
        }
        Ok(self.source.alt(parts))
    }

    /// Refuses keywords that are not known, but for other programs' notes.
    fn check_keywords(&self, schema: &Map<String, Value>) -> Result<(), ImportError> {
        let known = [
            &OF_STRINGS[..],
            &OF_NUMBERS,
            &OF_ARRAYS,
            &OF_OBJECTS,
            &OF_ANY,
            &ANNOTATIONS,
        ];
        let is_known = |keyword: &str| {
            let mut known = known.iter();
            keyword.starts_with("x-") || known.any(|known| known.contains(&keyword))
        };
        match schema.keys().find(|keyword| !is_known(keyword)) {
            Some(keyword) => self.refuse(format_args!("the keyword {keyword:?} is not supported")),
            None => Ok(()),
        }
    }

    /// A schema with a reference, and perhaps with other keywords.
    fn referring(
        &mut self,
        schema: &Map<String, Value>,
        reference: &Value,
    ) -> Result<Id, ImportError> {
        let Some(reference) = reference.as_str() else {
            return self.refuse("\"$ref\" is not a string");
        };
        let others = rest_of(schema, "$ref");
        if !others.keys().any(|keyword| constrains(keyword)) {
            let rule = self.reference(reference)?;
            return Ok(self.source.call(rule));
        }
        let target = self.resolve(reference)?.clone();
        let merged = self.merge(&target, &Value::Object(others))?;
        self.schema(&merged)
    }

    fn all_of(&mut self, schema: &Map<String, Value>, all: &Value) -> Result<Id, ImportError> {
        let Some(all) = all.as_array() else {
            return self.refuse("\"allOf\" is not an array");
        };
        let mut merged = Value::Object(rest_of(schema, "allOf"));
        for schema in all {
            merged = self.merge(&merged, schema)?;
        }
        self.schema(&merged)
    }

    /// `anyOf` and `oneOf`.
    fn one_of(
        &mut self,
        schema: &Map<String, Value>,
        keyword: &str,
        options: &Value,
    ) -> Result<Id, ImportError> {
        let Some(options) = options.as_array() else {
            return self.refuse(format_args!("{keyword:?} is not an array"));
        };
        let others = rest_of(schema, keyword);
        let mut merged = options.clone();
        if others.keys().any(|keyword| constrains(keyword)) {
            let others = Value::Object(others);
            for option in &mut merged {
                *option = self.merge(&others, option)?;
            }
        }
        if keyword == "oneOf" {
            self.require_disjoint(&merged)?;
        }
        let mut parts = Vec::new();
        for (index, option) in merged.iter().enumerate() {
            let part = self.at(keyword, |it| it.at(index, |it| it.schema(option)))?;
            parts.push(part);
        }
        Ok(self.source.alt(parts))
    }

    /// The types that a value may have.
    fn types(&self, schema: &Map<String, Value>) -> Result<Vec<&'static str>, ImportError> {
        const ALL: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];
        let named = match schema.get("type") {
            None => return Ok(ALL.to_vec()),
            Some(Value::String(name)) => vec![name.clone()],
            Some(Value::Array(names)) => names
                .iter()
                .map(|name| name.as_str().unwrap_or_default().into())
                .collect(),
            Some(other) => return self.refuse(format_args!("\"type\" is {other}")),
        };
        let mut types = Vec::new();
        for name in &named {
            let known = ALL.iter().chain(&["integer"]).find(|known| *known == name);
            match known {
                Some(known) => types.push(*known),
                None => return self.refuse(format_args!("the type {name:?} is unknown")),
            }
        }
        if types.contains(&"number") {
            types.retain(|name| *name != "integer");
        }
        Ok(types)
    }

    /// Any JSON value.
    fn any(&mut self) -> Result<Id, ImportError> {
        if self.style == Style::Gemma {
            return self.refuse("a value of any type is not supported in this form of calls");
        }
        if let Some(rule) = self.any {
            return Ok(self.source.call(rule));
        }
        let rule = self.source.rule("a JSON value");
        self.any = Some(rule);
        let value = self.source.call(rule);
        let null = self.constant(&Value::Null);
        let boolean = self.boolean();
        let number = self.any_number(false);
        let string = self.string();
        let array = self.array(&Map::new())?;
        let object = self.object(&Map::new())?;
        let body = self
            .source
            .alt(vec![null, boolean, number, string, array, object]);
        self.source.rules[rule as usize].body = Some(body);
        Ok(value)
    }

    fn boolean(&mut self) -> Id {
        let (yes, no) = (self.constant(&true.into()), self.constant(&false.into()));
        self.source.alt(vec![yes, no])
    }

    /// How the characters of a string are written.
    fn writing(&self) -> Writing {
        match self.style {
            Style::Json(_) | Style::Python => Writing::Json,
            Style::Gemma => Writing::Plain,
        }
    }

    /// Any string.
    fn string(&mut self) -> Id {
        if let Some(id) = self.string {
            return id;
        }
        let any = self.any_character();
        let any = self.source.repeat(any, 0, None);
        let body = self.quoted(any);
        let rule = self.source.rule("a string");
        self.source.rules[rule as usize].body = Some(body);
        let id = self.source.call(rule);
        self.string = Some(id);
        id
    }

    /// Any number, or integer.
    fn any_number(&mut self, is_integer: bool) -> Id {
        let known = if is_integer {
            self.integer
        } else {
            self.number
        };
        if let Some(id) = known {
            return id;
        }
        let (name, body) = if is_integer {
            (
                "an integer",
                integers(self.source, None, None).unwrap_or_default(),
            )
        } else {
            ("a number", super::number::any_number(self.source))
        };
        let rule = self.source.rule(name);
        self.source.rules[rule as usize].body = Some(body);
        let id = self.source.call(rule);
        *(if is_integer {
            &mut self.integer
        } else {
            &mut self.number
        }) = Some(id);
        id
    }

    fn quoted(&mut self, inside: Id) -> Id {
        let quote = match self.style {
            Style::Json(_) | Style::Python => self.source.literal(b"\""),
            Style::Gemma => self.source.special(ESCAPE),
        };
        self.source.seq(vec![quote, inside, quote])
    }

    fn any_character(&mut self) -> Id {
        let writing = self.writing();
        characters(self.source, &everything(), writing)
    }

    fn space(&mut self) -> Id {
        match self.style {
            Style::Json(Whitespace::Compact) | Style::Gemma | Style::Python => self.source.empty(),
            Style::Json(Whitespace::Unbounded) => {
                let space = self.source.set(Bytes::of(b" \t\n\r"));
                self.source.repeat(space, 0, None)
            }
            Style::Json(Whitespace::Printed) => {
                let rule = self.space.unwrap_or_else(|| {
                    let line = self.source.literal(b"\n");
                    let blank = self.source.set(Bytes::of(b" \t"));
                    let blanks = self.source.repeat(blank, 0, Some(24));
                    let line = self.source.seq(vec![line, blanks]);
                    let space = self.source.literal(b" ");
                    let rule = self.source.rule("white space");
                    self.source.rules[rule as usize].body =
                        Some(self.source.alt(vec![space, line]));
                    rule
                });
                self.space = Some(rule);
                let space = self.source.call(rule);
                self.source.optional(space)
            }
        }
    }

    /// A comma or colon with white space after it. The white space before it belongs to what comes
    /// before: so a comma alone says that a list goes on.
    fn separator(&mut self, text: &str) -> Id {
        if self.style == Style::Python {
            return self.source.literal(format!("{text} ").as_bytes());
        }
        let (text, space) = (self.source.literal(text.as_bytes()), self.space());
        self.source.seq(vec![text, space])
    }

    /// A count that a keyword sets.
    fn count(
        &self,
        schema: &Map<String, Value>,
        keyword: &str,
    ) -> Result<Option<u32>, ImportError> {
        let Some(value) = schema.get(keyword) else {
            return Ok(None);
        };
        let count = value
            .as_f64()
            .filter(|count| *count >= 0.0 && count.fract() == 0.0);
        match count {
            Some(count) if count <= f64::from(u32::MAX) => Ok(Some(count as u32)),
            _ => self.refuse(format_args!("{keyword:?} is {value}, not a count")),
        }
    }
}

fn rest_of(schema: &Map<String, Value>, keyword: &str) -> Map<String, Value> {
    let others = schema.iter().filter(|(name, _)| *name != keyword);
    others
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn constrains(keyword: &str) -> bool {
    !ANNOTATIONS.contains(&keyword) && !keyword.starts_with("x-")
}
