//! JSON Schema (draft 2020-12) as expressions.
//!
//! Members come in the order of `properties`, each at most once. Names that only `required` has
//! come next, and then other members. A keyword that this file does not know is refused by name:
//! nothing is left out silently.

use std::collections::{HashMap, HashSet};
use std::format;
use std::prelude::rust_2024::*;
use std::string::ToString;
use std::vec;

use serde_json::{Map, Value};

use super::dfa;
use super::expr::{Bytes, Dfa, Id, Member, Members, Source};
use super::format::format_pattern;
use super::number::{Bound, Decimal, integers, multiples, numbers};
use super::regex::{Match, Writing, characters, everything, pattern, text_of};
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

    /// Those of `values` that are valid by the keywords beside them.
    fn constants(
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

    fn constant(&mut self, value: &Value) -> Id {
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

    fn number(&mut self, schema: &Map<String, Value>, is_integer: bool) -> Result<Id, ImportError> {
        let is_free = !OF_NUMBERS
            .iter()
            .any(|keyword| schema.contains_key(*keyword));
        if is_free {
            return Ok(self.any_number(is_integer));
        }
        let low = self.bound(schema, "minimum", "exclusiveMinimum")?;
        let high = self.bound(schema, "maximum", "exclusiveMaximum")?;
        let step = match schema.get("multipleOf") {
            None => None,
            Some(value) => {
                let step = Decimal::parse(&value.to_string()).and_then(|value| value.integer());
                let step = step
                    .and_then(|step| u32::try_from(step).ok())
                    .filter(|step| *step > 0);
                let Some(step) = step.filter(|step| *step <= 10_000) else {
                    return self.refuse(format_args!(
                        "\"multipleOf\" {value} is not supported: whole numbers from 1 to 10,000 \
                         are"
                    ));
                };
                Some(step)
            }
        };
        let range = if is_integer || step.is_some() {
            integers(self.source, low.as_ref(), high.as_ref())
        } else {
            numbers(self.source, low.as_ref(), high.as_ref())
        };
        let Some(range) = range else {
            return self.refuse("a bound has more than 30 digits");
        };
        let Some(step) = step.filter(|step| *step > 1) else {
            return Ok(range);
        };
        let both = dfa::product(&dfa::of_expr(self.source, range)?, &multiples(step), true)?;
        Ok(self.source.automaton(both))
    }

    /// The tighter of two bounds.
    fn bound(
        &self,
        schema: &Map<String, Value>,
        included: &str,
        excluded: &str,
    ) -> Result<Option<Bound>, ImportError> {
        let mut bounds = Vec::new();
        for (keyword, is_excluded) in [(included, false), (excluded, true)] {
            let Some(value) = schema.get(keyword) else {
                continue;
            };
            let (Some(number), Some(decimal)) =
                (value.as_f64(), Decimal::parse(&value.to_string()))
            else {
                return self.refuse(format_args!(
                    "{keyword:?} is {value}, not a number of up to 30 digits"
                ));
            };
            bounds.push((
                number,
                Bound {
                    value: decimal,
                    excluded: is_excluded,
                },
            ));
        }
        let is_low = included == "minimum";
        // Of equal bounds the one that excludes, which is the last.
        let tighter = bounds.into_iter().reduce(|a, b| {
            let b_is = if is_low { b.0 >= a.0 } else { b.0 <= a.0 };
            if b_is { b } else { a }
        });
        Ok(tighter.map(|bound| bound.1))
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

    fn string_schema(&mut self, schema: &Map<String, Value>) -> Result<Id, ImportError> {
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

    fn array(&mut self, schema: &Map<String, Value>) -> Result<Id, ImportError> {
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

    fn object(&mut self, schema: &Map<String, Value>) -> Result<Id, ImportError> {
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
    pub(super) fn arguments(&mut self, schema: &Value) -> Result<Id, ImportError> {
        self.as_arguments = true;
        let id = self.members(schema.as_object().unwrap_or(&Map::new()));
        self.as_arguments = false;
        id
    }

    /// The name of a member, and what comes between it and the value.
    fn name(&mut self, name: &str) -> (Vec<u8>, Id) {
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
    pub(super) fn members(&mut self, schema: &Map<String, Value>) -> Result<Id, ImportError> {
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
    fn required<'v>(&self, schema: &'v Map<String, Value>) -> Result<Vec<&'v str>, ImportError> {
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

    /// The rule of a reference.
    fn reference(&mut self, reference: &str) -> Result<u32, ImportError> {
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
    fn resolve(&self, reference: &str) -> Result<&'s Value, ImportError> {
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

    fn resolved(&self, schema: &Value) -> Result<Value, ImportError> {
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

    /// A schema for what is valid by both.
    fn merge(&self, a: &Value, b: &Value) -> Result<Value, ImportError> {
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
            ("properties", _) => {
                let mut properties = a.as_object().cloned().unwrap_or_default();
                for (name, schema) in b.as_object().into_iter().flatten() {
                    let schema = match properties.get(name) {
                        Some(known) => self.merge(known, schema)?,
                        None => schema.clone(),
                    };
                    properties.insert(name.clone(), schema);
                }
                Some(properties.into())
            }
            ("prefixItems", _) => {
                let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
                let pairs = items(a).into_iter().zip(items(b));
                let merged = pairs.map(|(a, b)| self.merge(&a, &b));
                let mut merged = merged.collect::<Result<Vec<Value>, _>>()?;
                let longer = [items(a), items(b)].into_iter().max_by_key(Vec::len);
                merged.extend(longer.unwrap_or_default().into_iter().skip(merged.len()));
                Some(merged.into())
            }
            ("type", _) => types_of_both(a, b),
            ("enum", _) => {
                let theirs = a.as_array().cloned().unwrap_or_default();
                let both = b.as_array().into_iter().flatten();
                let both = both.filter(|value| theirs.iter().any(|other| is_same(value, other)));
                let both: Vec<Value> = both.cloned().collect();
                (!both.is_empty()).then(|| both.into())
            }
            ("const", _) => is_same(a, b).then(|| a.clone()),
            ("items" | "additionalProperties", _) => Some(self.merge(a, b)?),
            _ => {
                return self.refuse(format_args!(
                    "schemas that hold together both have {keyword:?}, which is not supported"
                ));
            }
        })
    }

    fn require_disjoint(&self, options: &[Value]) -> Result<(), ImportError> {
        let options: Vec<Value> = options
            .iter()
            .map(|option| self.resolved(option))
            .collect::<Result<_, _>>()?;
        for (index, a) in options.iter().enumerate() {
            for (other, b) in options.iter().enumerate().skip(index + 1) {
                if !self.are_disjoint(a, b, 8)? {
                    return self.refuse(format_args!(
                        "\"oneOf\": a value may be valid by alternatives {index} and {other}; \
                         write \"anyOf\" if that is fine"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether no value is valid by both, as far as that is easily seen.
    fn are_disjoint(&self, a: &Value, b: &Value, depth: u32) -> Result<bool, ImportError> {
        let (a, b) = (self.resolved(a)?, self.resolved(b)?);
        let (Some(x), Some(y)) = (a.as_object(), b.as_object()) else {
            return Ok(a == Value::Bool(false) || b == Value::Bool(false));
        };
        if depth == 0 {
            return Ok(false);
        }
        for (schema, other) in [(x, &b), (y, &a)] {
            let options = schema.get("anyOf").or(schema.get("oneOf"));
            for option in options.and_then(Value::as_array).into_iter().flatten() {
                if !self.are_disjoint(option, other, depth - 1)? {
                    return Ok(false);
                }
            }
            if options.is_some() {
                return Ok(true);
            }
        }
        let (of_x, of_y) = (constants(x), constants(y));
        if let (Some(of_x), Some(of_y)) = (&of_x, &of_y) {
            let is_of_y = |value: &Value| of_y.iter().any(|other| is_same(value, other));
            return Ok(!of_x.iter().any(is_of_y));
        }
        let (types_x, types_y) = (self.types(x)?, self.types(y)?);
        let shares = |a: &str, b: &str| {
            a == b || matches!((a, b), ("integer", "number") | ("number", "integer"))
        };
        let valued = |constants: &Option<Vec<Value>>, types: &[&str]| {
            let is_one = |value: &Value| types.iter().any(|kind| is_of(value, kind));
            constants
                .as_ref()
                .is_none_or(|values| values.iter().any(is_one))
        };
        let overlap = types_x.iter().any(|a| types_y.iter().any(|b| shares(a, b)));
        if !overlap || !valued(&of_x, &types_y) || !valued(&of_y, &types_x) {
            return Ok(true);
        }
        let are_objects = types_x == ["object"] && types_y == ["object"];
        Ok(are_objects && self.have_disjoint_members(x, y, depth)?)
    }

    /// Whether a member that must come cannot be valid by both schemas of objects.
    fn have_disjoint_members(
        &self,
        x: &Map<String, Value>,
        y: &Map<String, Value>,
        depth: u32,
    ) -> Result<bool, ImportError> {
        let mut names = self.required(x)?;
        names.extend(self.required(y)?);
        for name in names {
            let of = |schema: &Map<String, Value>| {
                let property = schema.get("properties").and_then(|all| all.get(name));
                let other = schema.get("additionalProperties");
                property.or(other).cloned().unwrap_or(Value::Bool(true))
            };
            if self.are_disjoint(&of(x), &of(y), depth - 1)? {
                return Ok(true);
            }
        }
        Ok(false)
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

/// Whether two values are the same to JSON Schema: 1 is 1.0, and members have no order.
fn is_same(a: &Value, b: &Value) -> bool {
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

/// The values that `const` and `enum` leave.
fn constants(schema: &Map<String, Value>) -> Option<Vec<Value>> {
    if let Some(value) = schema.get("const") {
        return Some(vec![value.clone()]);
    }
    schema.get("enum").and_then(Value::as_array).cloned()
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

fn is_of(value: &Value, kind: &str) -> bool {
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

/// A name as JSON has it.
pub(super) fn quoted_name(name: &str) -> Vec<u8> {
    Value::from(name).to_string().into_bytes()
}

/// The automaton of some texts.
fn tree<'n>(names: impl Iterator<Item = &'n [u8]>) -> super::expr::Dfa {
    use super::expr::{Dfa, DfaState};
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
