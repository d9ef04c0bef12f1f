//! Runs a parsed template.

use std::collections::HashMap;
use std::prelude::rust_2024::*;
use std::sync::Arc;

use super::parser::{Arguments, Body, Expr, For, Macro, Post, Stmt, Target};
use super::text::{Builder, Text};
use super::value::{Dict, Kind, Result, Value, float_text, quote};
use super::{filters, format as formatting, methods, operators, tests};

/// What a rendering may take: a unit is a step, an item of a list, or 32 bytes of text. A template
/// is part of a file that nobody vouches for; a long conversation needs some hundred thousand.
/// What this pays for ends within a second and in 100 MB.
const FUEL: u64 = 1_000_000;

/// How deep statements, expressions and macros may be inside of each other while they run.
const DEPTH: usize = 300;

/// What a call is given.
#[derive(Default)]
pub(super) struct Args {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Args {
    /// The arguments by the names of a function's parameters, of which the first `required` must
    /// be given.
    pub(super) fn bind<const N: usize>(
        self,
        function: &str,
        names: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        if self.positional.len() > N {
            return Err(format!(
                "{function}() takes at most {N} arguments ({} given)",
                self.positional.len()
            ));
        }
        let mut bound = [const { None }; N];
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let Some(at) = names.iter().position(|other| *other == name) else {
                return Err(format!(
                    "{function}() got an unexpected keyword argument '{name}'"
                ));
            };
            if bound[at].is_some() {
                return Err(format!(
                    "{function}() got multiple values for argument '{name}'"
                ));
            }
            bound[at] = Some(value);
        }
        match bound.iter().take(required).position(Option::is_none) {
            Some(at) => Err(format!(
                "{function}() missing required argument: '{}'",
                names[at]
            )),
            None => Ok(bound),
        }
    }

    /// No arguments.
    pub(super) fn none(self, function: &str) -> Result<()> {
        self.bind(function, [], 0).map(|[]| ())
    }
}

/// The arguments of a macro, by what it does with them.
struct MacroArgs {
    /// `None` where the default counts.
    parameters: Vec<Option<Value>>,
    /// For `varargs`, if the macro uses it.
    surplus: Option<Vec<Value>>,
    /// For `kwargs`, if the macro uses it.
    named: Option<Vec<(String, Value)>>,
    /// For `caller`, if the macro uses it.
    caller: Option<Value>,
}

impl MacroArgs {
    /// `macro_name` is for errors.
    fn bind(definition: &Macro, macro_name: &str, args: Args) -> Result<Self> {
        let Args {
            mut positional,
            mut named,
        } = args;
        let parameters = &definition.parameters;
        let [varargs, kwargs, caller] = definition.special;
        let surplus = positional.split_off(positional.len().min(parameters.len()));
        if !surplus.is_empty() && !varargs {
            return Err(format!(
                "macro {macro_name} takes not more than {} argument(s)",
                parameters.len()
            ));
        }
        let mut take = |wanted: &str| {
            let place = named.iter().position(|(name, _)| name == wanted);
            place.map(|place| named.remove(place).1)
        };
        let mut given: Vec<Option<Value>> = positional.into_iter().map(Some).collect();
        for (parameter, _) in &parameters[given.len()..] {
            given.push(take(parameter));
        }
        let has_own_caller = parameters.iter().any(|(name, _)| name == "caller");
        let caller = (caller && !has_own_caller)
            .then(|| take("caller").unwrap_or_else(|| Value::undefined("No caller defined")));
        if !kwargs && let Some((other, _)) = named.first() {
            return Err(format!(
                "macro {macro_name} takes no keyword argument '{other}'"
            ));
        }
        Ok(MacroArgs {
            parameters: given,
            surplus: varargs.then_some(surplus),
            named: kwargs.then_some(named),
            caller,
        })
    }
}

/// Variables that are set in one place of a template.
struct Scope {
    variables: Vec<(String, Value)>,
    parent: Option<usize>,
    /// Whether a macro lives on that sees the scope.
    captured: bool,
}

/// A thing with a state.
enum Object<'t> {
    Namespace(Dict),
    Loop(Loop<'t>),
    Macro {
        definition: &'t Macro,
        scope: usize,
    },
    Cycler(Vec<Value>, usize),
    /// The separator, and whether it has been called.
    Joiner(Value, bool),
    /// What is left.
    Generator(std::vec::IntoIter<Value>),
}

struct Loop<'t> {
    items: Arc<Vec<Value>>,
    index: usize,
    depth: usize,
    changed: Option<Vec<Value>>,
    /// Where a recursive loop is called again.
    again: Option<(&'t For, usize)>,
}

impl Loop<'_> {
    /// The attributes of `loop`.
    fn attribute(&self, name: &str) -> Option<Value> {
        let value_of = |number: usize| Some(Value::Int(number as i128));
        let len = self.items.len();
        let index = self.index;
        match name {
            "index0" => value_of(index),
            "index" => value_of(index + 1),
            "revindex0" => value_of(len - index - 1),
            "revindex" => value_of(len - index),
            "length" => value_of(len),
            "depth0" => value_of(self.depth),
            "depth" => value_of(self.depth + 1),
            "first" => Some(Value::Bool(index == 0)),
            "last" => Some(Value::Bool(index + 1 == len)),
            "previtem" => Some(match index.checked_sub(1) {
                Some(before) => self.items[before].clone(),
                None => Value::undefined("there is no previous item"),
            }),
            "nextitem" => Some(match self.items.get(index + 1) {
                Some(next) => next.clone(),
                None => Value::undefined("there is no next item"),
            }),
            _ => None,
        }
    }
}

/// Where execution goes on after a statement.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

pub(super) struct Interpreter<'t> {
    variables: &'t HashMap<String, Value>,
    scopes: Vec<Scope>,
    /// The innermost scope.
    scope: usize,
    objects: Vec<Object<'t>>,
    fuel: u64,
    depth: usize,
    /// The line of the current statement.
    pub(super) line: usize,
}

impl<'t> Interpreter<'t> {
    pub(super) fn new(variables: &'t HashMap<String, Value>) -> Self {
        Interpreter {
            variables,
            scopes: vec![Scope {
                variables: Vec::new(),
                parent: None,
                captured: true,
            }],
            scope: 0,
            objects: Vec::new(),
            fuel: FUEL,
            depth: 0,
            line: 1,
        }
    }

    /// Runs the whole template.
    pub(super) fn run(&mut self, body: &'t Body, out: &mut Builder) -> Result<()> {
        self.body(body, out).map(|_| ())
    }

    /// Takes fuel.
    pub(super) fn spend(&mut self, units: u64) -> Result<()> {
        match self.fuel.checked_sub(units) {
            Some(left) => {
                self.fuel = left;
                Ok(())
            }
            None => {
                self.fuel = 0;
                Err("the template does more work than any conversation needs: out of fuel".into())
            }
        }
    }

    /// Takes the fuel that `bytes` of new text cost.
    pub(super) fn spend_bytes(&mut self, bytes: usize) -> Result<()> {
        self.spend(bytes as u64 / 32)
    }

    /// Counts how deep `inner` is.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == DEPTH {
            return Err("maximum recursion depth exceeded".into());
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    // Scopes

    /// Runs `inner` in a new scope inside of `parent`.
    fn scoped<T>(
        &mut self,
        parent: usize,
        inner: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let outer = std::mem::replace(&mut self.scope, self.scopes.len());
        let own = self.scope;
        self.scopes.push(Scope {
            variables: Vec::new(),
            parent: Some(parent),
            captured: false,
        });
        let result = inner(self);
        if own + 1 == self.scopes.len() && !self.scopes[own].captured {
            self.scopes.pop();
        }
        self.scope = outer;
        result
    }

    /// Keeps the innermost scope and those around it.
    fn capture(&mut self) -> usize {
        let mut scope = Some(self.scope);
        while let Some(at) = scope.filter(|at| !self.scopes[*at].captured) {
            self.scopes[at].captured = true;
            scope = self.scopes[at].parent;
        }
        self.scope
    }

    fn set(&mut self, name: &str, value: Value) {
        let variables = &mut self.scopes[self.scope].variables;
        match variables.iter_mut().find(|(other, _)| other == name) {
            Some((_, place)) => *place = value,
            None => variables.push((name.to_owned(), value)),
        }
    }

    fn lookup(&self, name: &str) -> Value {
        let mut scope = Some(self.scope);
        while let Some(at) = scope {
            let Scope {
                variables, parent, ..
            } = &self.scopes[at];
            if let Some((_, value)) = variables.iter().find(|(other, _)| other == name) {
                return value.clone();
            }
            scope = *parent;
        }
        if let Some(value) = self.variables.get(name) {
            return value.clone();
        }
        match FUNCTIONS.iter().find(|function| **function == name) {
            Some(function) => Value::Function(function),
            None => Value::undefined(format!("'{name}' is undefined")),
        }
    }

    fn assign(&mut self, target: &'t Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => self.set(name, value),
            Target::Attribute(name, attribute) => {
                let namespace = self.lookup(name);
                let Value::Object(at, Kind::Namespace) = namespace else {
                    return Err("cannot assign attribute on non-namespace object".into());
                };
                self.set_in_namespace(at, Value::str(attribute), value)?;
            }
            Target::Tuple(targets) => {
                let values = self.iterate(&value)?;
                if values.len() > targets.len() {
                    return Err(format!(
                        "too many values to unpack (expected {})",
                        targets.len()
                    ));
                }
                if values.len() < targets.len() {
                    return Err(format!(
                        "not enough values to unpack (expected {}, got {})",
                        targets.len(),
                        values.len()
                    ));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value)?;
                }
            }
        }
        Ok(())
    }

    fn set_in_namespace(&mut self, at: usize, name: Value, value: Value) -> Result<()> {
        if let Value::Str(name) = &name
            && name.starts_with('_')
        {
            return Err(format!(
                "Chat templates cannot store underscore-prefixed attributes on a namespace, but \
                 got '{}'. Please rename the attribute.",
                &**name
            ));
        }
        match self.objects.get_mut(at) {
            Some(Object::Namespace(attributes)) => attributes.insert(name, value),
            _ => Ok(()),
        }
    }

    // Statements

    fn body(&mut self, body: &'t Body, out: &mut Builder) -> Result<Flow> {
        self.nested(|this| {
            for (line, statement) in body {
                this.line = *line;
                this.spend(1)?;
                let flow = this.statement(statement, out)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
            }
            Ok(Flow::Next)
        })
    }

    /// The text of a body, in a scope of its own.
    fn captured_text(&mut self, body: &'t Body) -> Result<Text> {
        let mut text = Builder::default();
        self.scoped(self.scope, |this| this.body(body, &mut text))?;
        Ok(text.finish())
    }

    fn statement(&mut self, statement: &'t Stmt, out: &mut Builder) -> Result<Flow> {
        match statement {
            Stmt::Data(text) => {
                self.spend_bytes(text.len())?;
                out.push(text);
            }
            Stmt::Print(expression) => {
                let value = self.eval(expression)?;
                self.write(out, &value, false)?;
            }
            Stmt::Set(target, expression) => {
                let value = self.eval(expression)?;
                self.assign(target, value)?;
            }
            Stmt::SetBlock(target, posts, body) => {
                let text = Value::Str(self.captured_text(body)?);
                let value = self.posts(text, posts)?;
                self.assign(target, value)?;
            }
            Stmt::If(branches, otherwise) => return self.if_(branches, otherwise, out),
            Stmt::For(node) => {
                let iterable = self.eval(&node.iterable)?;
                return self.for_loop(node, &iterable, 0, self.scope, out);
            }
            Stmt::With(values, body) => return self.with(values, body, out),
            Stmt::Macro(definition) => {
                let value = self.new_macro(definition);
                self.set(definition.name.as_deref().unwrap_or_default(), value);
            }
            Stmt::Call(caller, call) => {
                let caller = self.new_macro(caller);
                let value = self.call_with(call, caller)?;
                self.write(out, &value, false)?;
            }
            Stmt::Filter(posts, body) => {
                let text = Value::Str(self.captured_text(body)?);
                let value = self.posts(text, posts)?;
                self.write(out, &value, false)?;
            }
            Stmt::Scope(body) => return self.scoped(self.scope, |this| this.body(body, out)),
            Stmt::Break => return Ok(Flow::Break),
            Stmt::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn if_(
        &mut self,
        branches: &'t [(Expr, Body)],
        otherwise: &'t Body,
        out: &mut Builder,
    ) -> Result<Flow> {
        for (test, body) in branches {
            if self.eval(test)?.is_true() {
                return self.body(body, out);
            }
        }
        self.body(otherwise, out)
    }

    fn with(
        &mut self,
        values: &'t [(Target, Expr)],
        body: &'t Body,
        out: &mut Builder,
    ) -> Result<Flow> {
        let mut evaluated = Vec::new();
        for (_, expression) in values {
            evaluated.push(self.eval(expression)?);
        }
        self.scoped(self.scope, |this| {
            for ((target, _), value) in values.iter().zip(evaluated) {
                this.assign(target, value)?;
            }
            this.body(body, out)
        })
    }

    fn for_loop(
        &mut self,
        node: &'t For,
        iterable: &Value,
        depth: usize,
        scope: usize,
        out: &mut Builder,
    ) -> Result<Flow> {
        let items = self.items_of(node, iterable, scope)?;
        let again = if node.recursive {
            let outer = std::mem::replace(&mut self.scope, scope);
            self.capture();
            self.scope = outer;
            Some((node, scope))
        } else {
            None
        };
        let items = Arc::new(items);
        let value = self.new_object(
            Kind::Loop,
            Object::Loop(Loop {
                items: items.clone(),
                index: 0,
                depth,
                changed: None,
                again,
            }),
        )?;
        let Value::Object(at, _) = value else {
            return Ok(Flow::Next);
        };
        // As in Jinja, `else` is for loops of which no turn comes to its end.
        let mut completed = false;
        for (index, item) in items.iter().enumerate() {
            self.spend(2)?;
            if let Some(Object::Loop(state)) = self.objects.get_mut(at) {
                state.index = index;
            }
            let flow = self.scoped(scope, |this| {
                this.set("loop", value.clone());
                this.assign(&node.target, item.clone())?;
                this.body(&node.body, out)
            })?;
            completed |= flow == Flow::Next;
            if flow == Flow::Break {
                break;
            }
        }
        if !completed {
            return self.scoped(scope, |this| this.body(&node.otherwise, out));
        }
        Ok(Flow::Next)
    }

    /// The items of a loop that pass its test.
    fn items_of(&mut self, node: &'t For, iterable: &Value, scope: usize) -> Result<Vec<Value>> {
        let items = self.iterate(iterable)?;
        let Some(test) = &node.test else {
            return Ok(items);
        };
        let mut kept = Vec::new();
        for item in items {
            let keep = self.scoped(scope, |this| {
                this.assign(&node.target, item.clone())?;
                this.eval(test).map(|value| value.is_true())
            });
            if keep? {
                kept.push(item);
            }
        }
        Ok(kept)
    }

    // Objects

    fn new_object(&mut self, kind: Kind, object: Object<'t>) -> Result<Value> {
        self.spend(2)?;
        self.objects.push(object);
        Ok(Value::Object(self.objects.len() - 1, kind))
    }

    fn new_macro(&mut self, definition: &'t Macro) -> Value {
        let scope = self.capture();
        self.objects.push(Object::Macro { definition, scope });
        Value::Object(self.objects.len() - 1, Kind::Macro)
    }

    /// An iterator over `items`, which is used up when it has been gone through.
    pub(super) fn generator(&mut self, items: Vec<Value>) -> Result<Value> {
        self.spend(items.len() as u64)?;
        self.new_object(Kind::Generator, Object::Generator(items.into_iter()))
    }

    /// The next item of a generator.
    pub(super) fn next_of(&mut self, at: usize) -> Option<Value> {
        match self.objects.get_mut(at) {
            Some(Object::Generator(items)) => items.next(),
            _ => None,
        }
    }

    /// All items that Python's `iter` gives.
    pub(super) fn iterate(&mut self, value: &Value) -> Result<Vec<Value>> {
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
    pub(super) fn length(&self, value: &Value) -> Result<i128> {
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

    // Printing

    /// Python's `str`.
    pub(super) fn text(&mut self, value: &Value) -> Result<Text> {
        if let Value::Str(text) = value {
            return Ok(text.clone());
        }
        let mut builder = Builder::default();
        self.write(&mut builder, value, false)?;
        Ok(builder.finish())
    }

    /// Writes `value` as `str` does, or if `quoted` as `repr` does.
    pub(super) fn write(&mut self, out: &mut Builder, value: &Value, quoted: bool) -> Result<()> {
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

    // Expressions

    pub(super) fn eval(&mut self, expression: &'t Expr) -> Result<Value> {
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

    fn posts(&mut self, mut value: Value, posts: &'t [Post]) -> Result<Value> {
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
    fn call_with(&mut self, call: &'t Expr, caller: Value) -> Result<Value> {
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
    pub(super) fn attribute(&mut self, value: &Value, name: &str) -> Result<Value> {
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
    pub(super) fn item(&mut self, value: &Value, index: &Value) -> Result<Value> {
        if let Value::Undefined(why) = value {
            return Err(why.to_string());
        }
        let at = |len: usize| {
            let index = index.as_int()?;
            let from_end = if index < 0 { len as i128 } else { 0 };
            usize::try_from(index + from_end)
                .ok()
                .filter(|at| *at < len)
        };
        let found = match value {
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
        };
        if let Some(found) = found {
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

    // Calls

    pub(super) fn call(&mut self, callee: Value, args: Args) -> Result<Value> {
        match &callee {
            Value::Undefined(why) => Err(why.to_string()),
            Value::Method(method) => methods::call(self, &method.0, &method.1, args),
            Value::Function(name) => self.function(name, args),
            Value::Object(at, Kind::Macro) => self.call_macro(*at, args),
            Value::Object(at, Kind::Loop) => self.call_loop(*at, args),
            Value::Object(at, Kind::Joiner) => self.call_joiner(*at, args),
            _ => Err(format!("'{}' object is not callable", callee.type_name())),
        }
    }

    /// Calls a recursive loop for other items.
    fn call_loop(&mut self, at: usize, args: Args) -> Result<Value> {
        let [items] = args.bind("loop", ["iterable"], 1)?;
        let (again, depth) = match self.objects.get(at) {
            Some(Object::Loop(state)) => (state.again, state.depth),
            _ => (None, 0),
        };
        let Some((node, scope)) = again else {
            return Err(
                "The loop must have the 'recursive' marker to be called recursively.".into(),
            );
        };
        let line = self.line;
        let mut text = Builder::default();
        let items = items.unwrap_or(Value::None);
        self.nested(|this| this.for_loop(node, &items, depth + 1, scope, &mut text))?;
        self.line = line;
        Ok(Value::Str(text.finish()))
    }

    /// The separator, except for the first call.
    fn call_joiner(&mut self, at: usize, args: Args) -> Result<Value> {
        args.none("joiner")?;
        match self.objects.get_mut(at) {
            Some(Object::Joiner(separator, used @ true)) => {
                *used = true;
                Ok(separator.clone())
            }
            Some(Object::Joiner(_, used)) => {
                *used = true;
                Ok(Value::str(""))
            }
            _ => Ok(Value::None),
        }
    }

    /// Methods of objects.
    pub(super) fn call_object(&mut self, at: usize, name: &str, args: Args) -> Result<Value> {
        match (self.objects.get_mut(at), name) {
            (Some(Object::Loop(state)), "cycle") => {
                let len = args.positional.len();
                if len == 0 {
                    return Err("no items for cycling given".into());
                }
                Ok(args.positional[state.index % len].clone())
            }
            (Some(Object::Loop(state)), "changed") => {
                let same = state.changed.as_ref().is_some_and(|before| {
                    before.len() == args.positional.len()
                        && before
                            .iter()
                            .zip(&args.positional)
                            .all(|(a, b)| a.equals(b))
                });
                let weight = args.positional.iter().map(Value::weight).sum();
                if !same {
                    state.changed = Some(args.positional);
                }
                self.spend(weight)?;
                Ok(Value::Bool(!same))
            }
            (Some(Object::Cycler(items, at)), "next") => {
                let item = items[*at].clone();
                *at = (*at + 1) % items.len();
                Ok(item)
            }
            (Some(Object::Cycler(_, at)), "reset") => {
                *at = 0;
                Ok(Value::None)
            }
            _ => Err(format!("no method {name}")),
        }
    }

    fn call_macro(&mut self, at: usize, args: Args) -> Result<Value> {
        let Some(Object::Macro { definition, scope }) = self.objects.get(at) else {
            return Ok(Value::None);
        };
        let definition = *definition;
        let scope = *scope;
        let name = match &definition.name {
            Some(name) => format!("'{name}'"),
            None => "None".into(),
        };
        let line = self.line;
        let given = MacroArgs::bind(definition, &name, args)?;
        let parameters = &definition.parameters;
        let mut text = Builder::default();
        self.scoped(scope, |this| {
            for ((name, default), value) in parameters.iter().zip(given.parameters) {
                let value = match (value, default) {
                    (Some(value), _) => value,
                    (None, Some(default)) => this.eval(default)?,
                    (None, None) => {
                        Value::undefined(format!("parameter '{name}' was not provided"))
                    }
                };
                this.set(name, value);
            }
            if let Some(caller) = given.caller {
                this.set("caller", caller);
            }
            if let Some(named) = given.named {
                let mut dict = Dict::default();
                for (name, value) in named {
                    dict.insert(Value::str(&name), value)?;
                }
                this.set("kwargs", Value::Dict(Arc::new(dict)));
            }
            if let Some(surplus) = given.surplus {
                this.set("varargs", Value::tuple(surplus)?);
            }
            this.body(&definition.body, &mut text)
        })?;
        self.line = line;
        Ok(Value::Str(text.finish()))
    }

    /// Global functions.
    fn function(&mut self, name: &str, args: Args) -> Result<Value> {
        match name {
            "raise_exception" => {
                let [message] = args.bind(name, ["message"], 1)?;
                let message = self.text(&message.unwrap_or(Value::None))?;
                Err(message.to_string())
            }
            "strftime_now" => self.strftime_now(name, args),
            "range" => range(args),
            "namespace" => self.namespace(args),
            "dict" => self.dict_of(args),
            "dict.fromkeys" => self.dict_from_keys(args),
            "cycler" => {
                if args.positional.is_empty() {
                    return Err("at least one item has to be provided".into());
                }
                self.new_object(Kind::Cycler, Object::Cycler(args.positional, 0))
            }
            "joiner" => {
                let [separator] = args.bind(name, ["sep"], 0)?;
                let separator = separator.unwrap_or_else(|| Value::str(", "));
                self.new_object(Kind::Joiner, Object::Joiner(separator, false))
            }
            _ => Err(format!("'{name}' is undefined")),
        }
    }

    fn strftime_now(&mut self, name: &str, args: Args) -> Result<Value> {
        let [format] = args.bind(name, ["format"], 1)?;
        match format {
            Some(Value::Str(format)) => {
                self.spend_bytes(format.len() * 16)?;
                let text = super::time::now(&format);
                self.spend_bytes(text.len())?;
                Ok(Value::Str(Text::new(&text, format.has_user())))
            }
            _ => Err("strftime() argument 1 must be str".into()),
        }
    }

    fn namespace(&mut self, args: Args) -> Result<Value> {
        let namespace = self.new_object(Kind::Namespace, Object::Namespace(Dict::default()))?;
        if let (Value::Object(at, _), Value::Dict(attributes)) = (&namespace, self.dict_of(args)?) {
            for (key, value) in &attributes.entries {
                self.set_in_namespace(*at, key.clone(), value.clone())?;
            }
        }
        Ok(namespace)
    }

    fn dict_from_keys(&mut self, args: Args) -> Result<Value> {
        let [keys, value] = args.bind("fromkeys", ["iterable", "value"], 1)?;
        let mut dict = Dict::default();
        for key in self.iterate(&keys.unwrap_or(Value::None))? {
            self.spend(key.weight())?;
            dict.insert(key, value.clone().unwrap_or(Value::None))?;
        }
        Ok(Value::Dict(Arc::new(dict)))
    }

    /// Python's `dict(…)`.
    fn dict_of(&mut self, args: Args) -> Result<Value> {
        let mut dict = Dict::default();
        if args.positional.len() > 1 {
            return Err("dict expected at most 1 argument".into());
        }
        match args.positional.first() {
            None => {}
            Some(Value::Dict(other)) => {
                self.spend(other.entries.len() as u64)?;
                dict = other.copy()?;
            }
            Some(value) => {
                for pair in self.iterate(value)? {
                    let pair = self.iterate(&pair)?;
                    let [key, value] = pair.as_slice() else {
                        return Err("dictionary update sequence elements must be pairs".into());
                    };
                    self.spend(key.weight())?;
                    dict.insert(key.clone(), value.clone())?;
                }
            }
        }
        for (name, value) in args.named {
            dict.insert(Value::str(&name), value)?;
        }
        Ok(Value::Dict(Arc::new(dict)))
    }

    /// A filter that is applied inside of another.
    pub(super) fn filter(&mut self, name: &str, value: Value, args: Args) -> Result<Value> {
        self.nested(|this| filters::apply(this, name, value, args))
    }

    /// Python's `format % values`.
    pub(super) fn printf(&mut self, format: &Text, values: &Value) -> Result<Text> {
        formatting::printf(self, format, values)
    }
}

const FUNCTIONS: [&str; 7] = [
    "raise_exception",
    "strftime_now",
    "range",
    "namespace",
    "dict",
    "cycler",
    "joiner",
];

fn range(args: Args) -> Result<Value> {
    let bounds: Vec<i128> = args
        .positional
        .iter()
        .map(|bound| match bound {
            Value::Undefined(why) => Err(why.to_string()),
            _ => bound.as_int().ok_or_else(|| {
                format!(
                    "'{}' object cannot be interpreted as an integer",
                    bound.type_name()
                )
            }),
        })
        .collect::<Result<_>>()?;
    let (start, stop, step) = match bounds.as_slice() {
        [stop] => (0, *stop, 1),
        [start, stop] => (*start, *stop, 1),
        [_, _, 0] => return Err("range() arg 3 must not be zero".into()),
        [start, stop, step] => (*start, *stop, *step),
        _ => return Err("range expected 1 to 3 arguments".into()),
    };
    let limit = i128::from(i64::MAX);
    if [start, stop, step]
        .iter()
        .any(|bound| bound.unsigned_abs() > limit.unsigned_abs())
    {
        return Err("Python int too large to convert to C ssize_t".into());
    }
    let range = Value::Range(Arc::new((start, stop, step)));
    if range.range_len() > 100_000 {
        return Err(
            "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).".into(),
        );
    }
    Ok(range)
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
