//! The values of a template, with Python's equality, order, truth and printing.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::prelude::rust_2024::*;
use std::sync::Arc;

use serde_json::Value as Json;

use super::text::{Builder, Text};

/// How deep lists and other containers may nest.
const NESTING: u32 = 100;

/// Why an operation failed, as Python says it.
pub(super) type Result<T, E = String> = std::result::Result<T, E>;

/// A value.
#[derive(Clone)]
pub(super) enum Value {
    /// An undefined value, and the error if it is used.
    Undefined(Arc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    List(Arc<Items>),
    Tuple(Arc<Items>),
    Dict(Arc<Dict>),
    /// `dict_keys`, `dict_values` or `dict_items`.
    View(&'static str, Arc<Items>),
    Range(Arc<(i128, i128, i128)>),
    /// An object with state: an index into the interpreter's objects.
    Object(usize, Kind),
    /// A method and what it is called on.
    Method(Arc<(Value, String)>),
    /// A global function.
    Function(&'static str),
}

/// What an object is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Namespace,
    Loop,
    Macro,
    Cycler,
    Joiner,
    Generator,
}

/// The items of a list.
pub(super) struct Items {
    pub(super) items: Vec<Value>,
    /// How deep containers nest in it.
    depth: u32,
    /// See [`Value::weight`].
    weight: u64,
    /// Whether it is a pair of `groupby`, whose items have names.
    pub(super) group: bool,
}

/// A dict: its entries in order, and where each key is.
#[derive(Default)]
pub(super) struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    places: HashMap<Key, usize>,
    depth: u32,
    weight: u64,
}

/// A hashable value. Values that are equal in Python have equal keys.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum Key {
    Undefined,
    None,
    Int(i128),
    Float(u64),
    Str(String),
    Tuple(Vec<Key>),
    Range(i128, i128, i128),
    Object(usize),
    Function(&'static str),
}

impl Dict {
    pub(super) fn get(&self, key: &Value) -> Result<Option<&Value>> {
        let place = self.places.get(&key.key()?);
        Ok(place
            .and_then(|place| self.entries.get(*place))
            .map(|(_, value)| value))
    }

    pub(super) fn get_str(&self, key: &str) -> Option<&Value> {
        let place = self.places.get(&Key::Str(key.to_owned()))?;
        self.entries.get(*place).map(|(_, value)| value)
    }

    pub(super) fn insert(&mut self, key: Value, value: Value) -> Result<()> {
        self.depth = self.depth.max(below(&key)?).max(below(&value)?);
        self.weight = self
            .weight
            .saturating_add(key.weight())
            .saturating_add(value.weight());
        match self.places.entry(key.key()?) {
            std::collections::hash_map::Entry::Occupied(place) => {
                self.entries[*place.get()].1 = value;
            }
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(self.entries.len());
                self.entries.push((key, value));
            }
        }
        Ok(())
    }

    pub(super) fn copy(&self) -> Result<Dict> {
        let mut copy = Dict::default();
        for (key, value) in &self.entries {
            copy.insert(key.clone(), value.clone())?;
        }
        Ok(copy)
    }
}

/// The depth of a container that holds `value`.
fn below(value: &Value) -> Result<u32> {
    let depth = match value {
        Value::List(items) | Value::Tuple(items) | Value::View(_, items) => items.depth,
        Value::Dict(dict) => dict.depth,
        Value::Method(method) => below(&method.0)?,
        _ => return Ok(1),
    };
    if depth >= NESTING {
        return Err(format!("values nest more than {NESTING} deep"));
    }
    Ok(depth + 1)
}

fn items(items: Vec<Value>) -> Result<Arc<Items>> {
    let mut depth = 1;
    let mut weight = 1_u64;
    for item in &items {
        depth = depth.max(below(item)?);
        weight = weight.saturating_add(item.weight());
    }
    Ok(Arc::new(Items {
        items,
        depth,
        weight,
        group: false,
    }))
}

impl Value {
    pub(super) fn list(values: Vec<Value>) -> Result<Value> {
        items(values).map(Value::List)
    }

    pub(super) fn tuple(values: Vec<Value>) -> Result<Value> {
        items(values).map(Value::Tuple)
    }

    pub(super) fn view(name: &'static str, values: Vec<Value>) -> Result<Value> {
        items(values).map(|items| Value::View(name, items))
    }

    /// The pair of a group and its items.
    pub(super) fn group(key: Value, members: Vec<Value>) -> Result<Value> {
        let pair = items(vec![key, Value::list(members)?])?;
        Ok(Value::Tuple(match Arc::try_unwrap(pair) {
            Ok(pair) => Arc::new(Items {
                group: true,
                ..pair
            }),
            Err(pair) => pair,
        }))
    }

    /// The work of looking at all of the value, in units of fuel.
    pub(super) fn weight(&self) -> u64 {
        match self {
            Value::Str(text) => 1 + text.len() as u64 / 32,
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => items.weight,
            Value::Dict(dict) => dict.weight.saturating_add(1),
            Value::Method(method) => method.0.weight(),
            _ => 1,
        }
    }

    /// Template text.
    pub(super) fn str(text: &str) -> Value {
        Value::Str(Text::template(text))
    }

    pub(super) fn undefined(why: impl Into<Arc<str>>) -> Value {
        Value::Undefined(why.into())
    }

    /// A variable of the caller. Its strings are the user's if `user`.
    pub(super) fn from_json(json: &Json, user: bool) -> Result<Value> {
        Ok(match json {
            Json::Null => Value::None,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Value::Int(number.into()),
                (_, Some(number)) => Value::Int(number.into()),
                _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Str(Text::new(text, user)),
            Json::Array(list) => {
                let values = list.iter().map(|item| Value::from_json(item, user));
                Value::list(values.collect::<Result<_>>()?)?
            }
            Json::Object(map) => {
                let mut dict = Dict::default();
                for (key, value) in map {
                    let key = Value::Str(Text::new(key, user));
                    dict.insert(key, Value::from_json(value, user)?)?;
                }
                Value::Dict(Arc::new(dict))
            }
        })
    }

    pub(super) fn key(&self) -> Result<Key> {
        Ok(match self {
            Value::Undefined(_) => Key::Undefined,
            Value::None => Key::None,
            Value::Bool(value) => Key::Int((*value).into()),
            Value::Int(value) => Key::Int(*value),
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e38 => {
                Key::Int(*value as i128)
            }
            Value::Float(value) => Key::Float(value.to_bits()),
            Value::Str(text) => Key::Str(text.to_string()),
            Value::Tuple(items) => {
                let keys = items.items.iter().map(Value::key);
                Key::Tuple(keys.collect::<Result<_>>()?)
            }
            Value::Range(range) => Key::Range(range.0, range.1, range.2),
            Value::Object(place, _) => Key::Object(*place),
            Value::Function(name) => Key::Function(name),
            Value::List(_) | Value::Dict(_) | Value::View(..) | Value::Method(_) => {
                return Err(format!("unhashable type: '{}'", self.type_name()));
            }
        })
    }

    /// The name of the value's type in Python.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::View(name, _) => name,
            Value::Range(_) => "range",
            Value::Object(_, Kind::Namespace) => "Namespace",
            Value::Object(_, Kind::Loop) => "LoopContext",
            Value::Object(_, Kind::Macro) => "Macro",
            Value::Object(_, Kind::Cycler) => "Cycler",
            Value::Object(_, Kind::Joiner) => "Joiner",
            Value::Object(_, Kind::Generator) => "generator",
            Value::Method(_) => "builtin_function_or_method",
            Value::Function(_) => "function",
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Str(text) => !text.is_empty(),
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => {
                !items.items.is_empty()
            }
            Value::Dict(dict) => !dict.entries.is_empty(),
            Value::Range(_) => self.range_len() != 0,
            Value::Object(..) | Value::Method(_) | Value::Function(_) => true,
        }
    }

    /// As an integer: bools are 0 and 1.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(value) => Some(*value),
            Value::Bool(value) => Some((*value).into()),
            _ => None,
        }
    }

    /// As a float: integers too.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(*value),
            _ => self.as_int().map(|value| value as f64),
        }
    }

    pub(super) fn as_text(&self) -> Option<&Text> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn range_len(&self) -> i128 {
        match self {
            Value::Range(range) => {
                let (start, stop, step) = **range;
                let span = if step > 0 { stop - start } else { start - stop };
                (span.max(0) + step.abs() - 1) / step.abs()
            }
            _ => 0,
        }
    }

    pub(super) fn equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Str(a), Value::Str(b)) => **a == **b,
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                Arc::ptr_eq(a, b)
                    || (a.items.len() == b.items.len()
                        && a.items.iter().zip(&b.items).all(|(a, b)| a.equals(b)))
            }
            (Value::Dict(a), Value::Dict(b)) => Arc::ptr_eq(a, b)
                || (a.entries.len() == b.entries.len()
                    && a.entries.iter().all(
                        |(key, value)| matches!(b.get(key), Ok(Some(other)) if value.equals(other)),
                    )),
            (Value::View(a, left), Value::View(b, right)) => {
                a == b
                    && *a != "dict_values"
                    && left.items.len() == right.items.len()
                    && left
                        .items
                        .iter()
                        .all(|a| right.items.iter().any(|b| a.equals(b)))
            }
            (Value::Range(a), Value::Range(b)) => {
                let len = self.range_len();
                len == other.range_len() && (len == 0 || (a.0 == b.0 && (len == 1 || a.2 == b.2)))
            }
            (Value::Object(a, _), Value::Object(b, _)) => a == b,
            (Value::Function(a), Value::Function(b)) => a == b,
            _ => self.compare_numbers(other) == Some(Ordering::Equal),
        }
    }

    /// Python's `is`. Equal numbers and strings count as the same object.
    pub(super) fn is(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::List(a), Value::List(b))
            | (Value::Tuple(a), Value::Tuple(b))
            | (Value::View(_, a), Value::View(_, b)) => Arc::ptr_eq(a, b),
            (Value::Dict(a), Value::Dict(b)) => Arc::ptr_eq(a, b),
            _ => self.type_name() == other.type_name() && self.equals(other),
        }
    }

    fn compare_numbers(&self, other: &Value) -> Option<Ordering> {
        match (self.as_int(), other.as_int()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => self.as_float()?.partial_cmp(&other.as_float()?),
        }
    }

    /// Python's order. `sign` is the operator, for the error.
    pub(super) fn compare(&self, other: &Value, sign: &str) -> Result<Option<Ordering>> {
        match (self, other) {
            (Value::Undefined(why), _) | (_, Value::Undefined(why)) => Err(why.to_string()),
            (Value::Str(a), Value::Str(b)) => Ok(Some((**a).cmp(&**b))),
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b) {
                        return a.compare(b, sign);
                    }
                }
                Ok(Some(a.items.len().cmp(&b.items.len())))
            }
            _ if self.as_float().is_some() && other.as_float().is_some() => {
                Ok(self.compare_numbers(other))
            }
            _ => Err(format!(
                "'{sign}' not supported between instances of '{}' and '{}'",
                self.type_name(),
                other.type_name()
            )),
        }
    }
}

/// A float as Python prints it.
pub(super) fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or_default();
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
    }
}

/// The quoted form of a string.
pub(super) fn quote(builder: &mut Builder, text: &Text) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    builder.push_char(quote, false);
    for (character, user) in text.characters() {
        match character {
            '\n' => builder.push_str("\\n", user),
            '\r' => builder.push_str("\\r", user),
            '\t' => builder.push_str("\\t", user),
            '\\' => builder.push_str("\\\\", user),
            _ if character == quote => {
                builder.push_char('\\', user);
                builder.push_char(quote, user);
            }
            _ if super::characters::is_printable(character) => builder.push_char(character, user),
            _ => {
                let code = u32::from(character);
                let escaped = match code {
                    0..=0xff => format!("\\x{code:02x}"),
                    0x100..=0xffff => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                };
                builder.push_str(&escaped, user);
            }
        }
    }
    builder.push_char(quote, false);
}
