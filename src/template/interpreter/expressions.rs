//! Evaluates expressions.

use std::prelude::rust_2024::*;
use std::sync::Arc;

use super::{Args, Interpreter, Object};
use crate::template::text::Builder;
use crate::template::tree::{Arguments, Expr, Post};
use crate::template::value::{Dict, Result, Value};
use crate::template::{filters, methods, operators, tests};

impl<'t> Interpreter<'t> {
    pub(in crate::template) fn eval(&mut self, expression: &'t Expr) -> Result<Value> {
        self.spend(1)?;
        match expression {
            Expr::Const(value) => Ok(value.clone()),
            Expr::Name(name) => Ok(self.lookup(name)),
            _ => self.nested(|this| this.eval_inner(expression)),
        }
    }

    fn eval_all(&mut self, expressions: &'t [Expr]) -> Result<Vec<Value>> {
        expressions.iter().map(|inner| self.eval(inner)).collect()
    }

    fn eval_inner(&mut self, expression: &'t Expr) -> Result<Value> {
        match expression {
            Expr::Const(value) => Ok(value.clone()),
            Expr::Name(name) => Ok(self.lookup(name)),
            Expr::List(items) => Value::list(self.eval_all(items)?),
            Expr::Tuple(items) => Value::tuple(self.eval_all(items)?),
            Expr::Dict(entries) => self.eval_dict(entries),
            Expr::If(parts) => self.eval_if(parts),
            Expr::And(operands) | Expr::Or(operands) => {
                let stop = matches!(expression, Expr::Or(_));
                let mut value = Value::None;
                for operand in operands {
                    value = self.eval(operand)?;
                    if value.is_true() == stop {
                        break;
                    }
                }
                Ok(value)
            }
            Expr::Not(inner) => Ok(Value::Bool(!self.eval(inner)?.is_true())),
            Expr::Compare(first, others) => self.compare(first, others),
            Expr::Math(first, others) => self.math(first, others),
            Expr::Concat(operands) => self.concat(operands),
            Expr::Sign(negative, inner) => {
                let value = self.eval(inner)?;
                operators::sign(*negative, &value)
            }
            Expr::Post(inner, posts) => {
                let value = self.eval(inner)?;
                self.posts(value, posts)
            }
        }
    }

    fn eval_dict(&mut self, entries: &'t [(Expr, Expr)]) -> Result<Value> {
        let mut dict = Dict::default();
        for (key, value) in entries {
            let key = self.eval(key)?;
            let value = self.eval(value)?;
            self.spend(key.weight())?;
            dict.insert(key, value)?;
        }
        Ok(Value::Dict(Arc::new(dict)))
    }

    fn eval_if(&mut self, parts: &'t (Expr, Expr, Option<Expr>)) -> Result<Value> {
        let (test, then, otherwise) = parts;
        if self.eval(test)?.is_true() {
            return self.eval(then);
        }
        match otherwise {
            Some(otherwise) => self.eval(otherwise),
            None => Ok(Value::undefined(format!(
                "the inline if-expression on line {} evaluated to false and no else \
                 section was defined.",
                self.line
            ))),
        }
    }

    fn compare(&mut self, first: &'t Expr, others: &'t [(&'static str, Expr)]) -> Result<Value> {
        let mut left = self.eval(first)?;
        for (sign, right) in others {
            let right = self.eval(right)?;
            if !operators::compare(self, &left, sign, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn math(&mut self, first: &'t Expr, others: &'t [(&'static str, Expr)]) -> Result<Value> {
        let mut left = self.eval(first)?;
        for (sign, right) in others {
            let right = self.eval(right)?;
            left = operators::math(self, &left, sign, &right)?;
        }
        Ok(left)
    }

    fn concat(&mut self, operands: &'t [Expr]) -> Result<Value> {
        let mut text = Builder::default();
        for operand in operands {
            let value = self.eval(operand)?;
            self.write(&mut text, &value, false)?;
        }
        Ok(Value::Str(text.finish()))
    }

    pub(super) fn posts(&mut self, mut value: Value, posts: &'t [Post]) -> Result<Value> {
        for post in posts {
            self.spend(1)?;
            value = self.post(value, post)?;
        }
        Ok(value)
    }

    fn post(&mut self, value: Value, post: &'t Post) -> Result<Value> {
        match post {
            Post::Attribute(name) => self.attribute(&value, name),
            Post::Item(index) => {
                let index = self.eval(index)?;
                self.item(&value, &index)
            }
            Post::Slice(parts) => {
                let mut bounds = [Value::None, Value::None, Value::None];
                for (bound, part) in bounds.iter_mut().zip(parts) {
                    if let Some(part) = part {
                        *bound = self.eval(part)?;
                    }
                }
                let part = operators::slice(self, &value, &bounds)?;
                Ok(part.unwrap_or_else(|| {
                    Value::undefined(format!("{} cannot be sliced so", described(&value)))
                }))
            }
            Post::Call(arguments) => {
                let args = self.arguments(arguments)?;
                self.call(value, args)
            }
            Post::Filter(name, arguments) => {
                let args = self.arguments(arguments)?;
                filters::apply(self, name, value, args)
            }
            Post::Test(negated, name, arguments) => {
                let args = self.arguments(arguments)?;
                let result = tests::apply(self, name, &value, args)?;
                Ok(Value::Bool(result != *negated))
            }
        }
    }

    fn arguments(&mut self, arguments: &'t Arguments) -> Result<Args> {
        let mut positional = self.eval_all(&arguments.positional)?;
        let mut named = Vec::new();
        for (name, value) in &arguments.named {
            named.push((name.clone(), self.eval(value)?));
        }
        if let Some(more) = &arguments.more {
            let more = self.eval(more)?;
            positional.extend(self.iterate(&more)?);
        }
        if let Some(more) = &arguments.more_named {
            let Value::Dict(dict) = self.eval(more)? else {
                return Err("argument after ** must be a mapping".into());
            };
            self.spend(dict.entries.len() as u64)?;
            for (key, value) in &dict.entries {
                let Value::Str(key) = key else {
                    return Err("keywords must be strings".into());
                };
                named.push((key.to_string(), value.clone()));
            }
        }
        Ok(Args { positional, named })
    }

    /// A `call` block: the call, with the block as `caller`.
    pub(super) fn call_with(&mut self, call: &'t Expr, caller: Value) -> Result<Value> {
        let Expr::Post(inner, posts) = call else {
            return Err("expected a call".into());
        };
        let Some((Post::Call(arguments), before)) = posts.split_last() else {
            return Err("expected a call".into());
        };
        let value = self.eval(inner)?;
        let callee = self.posts(value, before)?;
        let mut args = self.arguments(arguments)?;
        args.named.push(("caller".into(), caller));
        self.call(callee, args)
    }

    /// Jinja's `obj.name`: what Python calls an attribute, else an item.
    pub(in crate::template) fn attribute(&mut self, value: &Value, name: &str) -> Result<Value> {
        match self.python_attribute(value, name)? {
            Some(found) => Ok(found),
            None => {
                let item = match value {
                    Value::Dict(dict) => dict.get_str(name).cloned(),
                    _ => None,
                };
                Ok(item.unwrap_or_else(|| no_attribute(value, name)))
            }
        }
    }

    /// Jinja's `obj[index]`: an item, else what Python calls an attribute.
    pub(in crate::template) fn item(&mut self, value: &Value, index: &Value) -> Result<Value> {
        if let Value::Undefined(why) = value {
            return Err(why.to_string());
        }
        if let Some(found) = self.item_of(value, index)? {
            return Ok(found);
        }
        if let Value::Str(name) = index {
            let name = name.clone();
            return Ok(match self.python_attribute(value, &name)? {
                Some(found) => found,
                None => no_attribute(value, &name),
            });
        }
        let mut shown = Builder::default();
        self.write(&mut shown, index, true)?;
        Ok(Value::undefined(format!(
            "{} has no element {}",
            described(value),
            &*shown.finish()
        )))
    }

    /// An item; `None` if there is none.
    fn item_of(&mut self, value: &Value, index: &Value) -> Result<Option<Value>> {
        let at = |len: usize| {
            let index = index.as_int()?;
            let from_end = if index < 0 { len as i128 } else { 0 };
            usize::try_from(index + from_end)
                .ok()
                .filter(|at| *at < len)
        };
        Ok(match value {
            Value::List(items) | Value::Tuple(items) => {
                at(items.items.len()).and_then(|at| items.items.get(at).cloned())
            }
            Value::Str(text) => {
                self.spend_bytes(text.len())?;
                let len = match index.as_int() {
                    Some(_) => text.chars().count(),
                    None => 0,
                };
                at(len)
                    .and_then(|at| text.char_indices().nth(at))
                    .map(|(at, c)| Value::Str(text.part(at..at + c.len_utf8())))
            }
            Value::Range(range) => at(usize::try_from(value.range_len()).unwrap_or_default())
                .map(|at| Value::Int(range.0 + at as i128 * range.2)),
            Value::Dict(dict) => {
                self.spend(index.weight())?;
                dict.get(index).ok().flatten().cloned()
            }
            _ => None,
        })
    }

    /// What Python's `getattr` finds.
    fn python_attribute(&mut self, value: &Value, name: &str) -> Result<Option<Value>> {
        let found = match value {
            Value::Undefined(why) => return Err(why.to_string()),
            Value::Tuple(items) if items.group && name == "grouper" => items.items.first().cloned(),
            Value::Tuple(items) if items.group && name == "list" => items.items.get(1).cloned(),
            Value::Int(_) | Value::Float(_) if name == "real" => Some(value.clone()),
            Value::Bool(number) if name == "real" => Some(Value::Int((*number).into())),
            Value::Function("dict") if name == "fromkeys" => Some(Value::Function("dict.fromkeys")),
            Value::Object(at, _) => self.object_attribute(*at, name)?,
            _ => None,
        };
        if found.is_some() {
            return Ok(found);
        }
        if name.starts_with("__") && name.ends_with("__") || methods::modifies(value, name) {
            return Ok(Some(Value::undefined(format!(
                "access to attribute '{name}' of '{}' object is unsafe.",
                value.type_name()
            ))));
        }
        if methods::has(value, name) {
            return Ok(Some(Value::Method(Arc::new((
                value.clone(),
                name.to_owned(),
            )))));
        }
        Ok(None)
    }

    /// The attributes of an object with a state.
    fn object_attribute(&self, at: usize, name: &str) -> Result<Option<Value>> {
        Ok(match self.objects.get(at) {
            Some(Object::Namespace(attributes)) => attributes.get_str(name).cloned(),
            Some(Object::Loop(state)) => state.attribute(name),
            Some(Object::Macro { definition, .. }) => match name {
                "name" => Some(match &definition.name {
                    Some(name) => Value::str(name),
                    None => Value::None,
                }),
                "arguments" => {
                    let names = definition.parameters.iter();
                    Some(Value::tuple(
                        names.map(|(name, _)| Value::str(name)).collect(),
                    )?)
                }
                "catch_varargs" => Some(Value::Bool(definition.special[0])),
                "catch_kwargs" => Some(Value::Bool(definition.special[1])),
                "caller" => Some(Value::Bool(definition.special[2])),
                _ => None,
            },
            Some(Object::Cycler(items, at)) if name == "current" => items.get(*at).cloned(),
            _ => None,
        })
    }
}

/// How Jinja calls a value in messages.
fn described(value: &Value) -> String {
    match value {
        Value::None => "None".into(),
        _ => format!("{} object", value.type_name()),
    }
}

fn no_attribute(value: &Value, name: &str) -> Value {
    Value::undefined(format!("'{}' has no attribute '{name}'", described(value)))
}
