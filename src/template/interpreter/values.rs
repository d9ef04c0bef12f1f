//! Items, lengths and texts of values.

use std::prelude::rust_2024::*;
use std::sync::Arc;

use super::{Interpreter, Object};
use crate::template::text::{Builder, Text};
use crate::template::value::{Dict, Kind, Result, Value, float_text, quote};

impl<'t> Interpreter<'t> {
    /// An iterator over `items`, which is used up when it has been gone through.
    pub(in crate::template) fn generator(&mut self, items: Vec<Value>) -> Result<Value> {
        self.spend(items.len() as u64)?;
        self.new_object(Kind::Generator, Object::Generator(items.into_iter()))
    }

    /// The next item of a generator.
    pub(in crate::template) fn next_of(&mut self, at: usize) -> Option<Value> {
        match self.objects.get_mut(at) {
            Some(Object::Generator(items)) => items.next(),
            _ => None,
        }
    }

    /// All items that Python's `iter` gives.
    pub(in crate::template) fn iterate(&mut self, value: &Value) -> Result<Vec<Value>> {
        let items = match value {
            Value::Undefined(_) => Vec::new(),
            Value::Str(text) => {
                self.spend(text.len() as u64)?;
                let parts = text.char_indices();
                parts
                    .map(|(at, c)| Value::Str(text.part(at..at + c.len_utf8())))
                    .collect()
            }
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => {
                self.spend(items.items.len() as u64)?;
                items.items.clone()
            }
            Value::Dict(dict) => {
                self.spend(dict.entries.len() as u64)?;
                dict.entries.iter().map(|(key, _)| key.clone()).collect()
            }
            Value::Range(range) => {
                let len = value.range_len();
                self.spend(len as u64)?;
                (0..len)
                    .map(|at| Value::Int(range.0 + at * range.2))
                    .collect()
            }
            Value::Object(at, Kind::Generator) => match self.objects.get_mut(*at) {
                Some(Object::Generator(items)) => {
                    let items: Vec<Value> = items.collect();
                    self.spend(items.len() as u64)?;
                    items
                }
                _ => Vec::new(),
            },
            _ => return Err(format!("'{}' object is not iterable", value.type_name())),
        };
        Ok(items)
    }

    /// Python's `len`.
    pub(in crate::template) fn length(&self, value: &Value) -> Result<i128> {
        Ok(match value {
            Value::Undefined(_) => 0,
            Value::Str(text) => text.chars().count() as i128,
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => {
                items.items.len() as i128
            }
            Value::Dict(dict) => dict.entries.len() as i128,
            Value::Range(_) => value.range_len(),
            Value::Object(at, Kind::Loop) => match self.objects.get(*at) {
                Some(Object::Loop(state)) => state.items.len() as i128,
                _ => 0,
            },
            _ => {
                return Err(format!(
                    "object of type '{}' has no len()",
                    value.type_name()
                ));
            }
        })
    }

    /// Python's `str`.
    pub(in crate::template) fn text(&mut self, value: &Value) -> Result<Text> {
        if let Value::Str(text) = value {
            return Ok(text.clone());
        }
        let mut builder = Builder::default();
        self.write(&mut builder, value, false)?;
        Ok(builder.finish())
    }

    /// Writes `value` as `str` does, or if `quoted` as `repr` does.
    pub(in crate::template) fn write(
        &mut self,
        out: &mut Builder,
        value: &Value,
        quoted: bool,
    ) -> Result<()> {
        self.spend(value.weight())?;
        self.write_inner(out, value, quoted)
    }

    fn write_inner(&mut self, out: &mut Builder, value: &Value, quoted: bool) -> Result<()> {
        match value {
            Value::Undefined(_) if quoted => out.push_str("Undefined", false),
            Value::Undefined(_) => {}
            Value::None => out.push_str("None", false),
            Value::Bool(true) => out.push_str("True", false),
            Value::Bool(false) => out.push_str("False", false),
            Value::Int(number) => out.push_str(&number.to_string(), false),
            Value::Float(number) => out.push_str(&float_text(*number), false),
            Value::Str(text) if quoted => {
                // An escape is up to ten times as long.
                self.spend_bytes(text.len() * 4)?;
                quote(out, text);
            }
            Value::Str(text) => out.push(text),
            Value::List(items) => self.write_items(out, ["[", "]"], &items.items)?,
            Value::Tuple(items) => {
                let end = if items.items.len() == 1 { ",)" } else { ")" };
                self.write_items(out, ["(", end], &items.items)?;
            }
            Value::View(name, items) => {
                out.push_str(name, false);
                self.write_items(out, ["([", "])"], &items.items)?;
            }
            Value::Dict(dict) => self.write_dict(out, dict)?,
            Value::Range(range) => {
                let (start, stop, step) = **range;
                let text = match step {
                    1 => format!("range({start}, {stop})"),
                    _ => format!("range({start}, {stop}, {step})"),
                };
                out.push_str(&text, false);
            }
            Value::Object(at, kind) => self.write_object(out, *at, *kind)?,
            Value::Method(method) => {
                let text = format!(
                    "<built-in method {} of {} object>",
                    method.1,
                    method.0.type_name()
                );
                out.push_str(&text, false);
            }
            Value::Function(name) => out.push_str(&format!("<function {name}>"), false),
        }
        Ok(())
    }

    fn write_items(&mut self, out: &mut Builder, ends: [&str; 2], items: &[Value]) -> Result<()> {
        out.push_str(ends[0], false);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(", ", false);
            }
            self.nested(|this| this.write_inner(out, item, true))?;
        }
        out.push_str(ends[1], false);
        Ok(())
    }

    fn write_dict(&mut self, out: &mut Builder, dict: &Dict) -> Result<()> {
        out.push_str("{", false);
        for (index, (key, value)) in dict.entries.iter().enumerate() {
            if index > 0 {
                out.push_str(", ", false);
            }
            self.nested(|this| this.write_inner(out, key, true))?;
            out.push_str(": ", false);
            self.nested(|this| this.write_inner(out, value, true))?;
        }
        out.push_str("}", false);
        Ok(())
    }

    fn write_object(&mut self, out: &mut Builder, at: usize, kind: Kind) -> Result<()> {
        let text = match self.objects.get(at) {
            Some(Object::Namespace(attributes)) => {
                let attributes = Value::Dict(Arc::new(attributes.copy()?));
                out.push_str("<Namespace ", false);
                self.spend(attributes.weight())?;
                self.nested(|this| this.write_inner(out, &attributes, true))?;
                ">".to_owned()
            }
            Some(Object::Loop(state)) => {
                format!("<LoopContext {}/{}>", state.index + 1, state.items.len())
            }
            Some(Object::Macro { definition, .. }) => match &definition.name {
                Some(name) => format!("<Macro '{name}'>"),
                None => "<Macro anonymous>".into(),
            },
            _ => {
                let value = Value::Object(at, kind);
                format!("<{} object>", value.type_name())
            }
        };
        out.push_str(&text, false);
        Ok(())
    }
}
