//! Runs a parsed template.

mod calls;
mod expressions;
mod values;

use std::collections::HashMap;
use std::prelude::rust_2024::*;
use std::sync::Arc;

use super::text::{Builder, Text};
use super::tree::{Body, Expr, For, Macro, Stmt, Target};
use super::value::{Dict, Kind, Result, Value};
use calls::FUNCTIONS;

/// How much work a rendering may do. A unit is a step, an item of a list, or 32 bytes of text.
/// Templates come from untrusted files. A long conversation needs some hundred thousand units. This
/// many end within a second and use at most 100 MB.
const FUEL: u64 = 1_000_000;

/// How deep statements, expressions and macros may be inside of each other while they run.
const DEPTH: usize = 300;

/// The arguments of a call.
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

/// The variables of a block.
struct Scope {
    variables: Vec<(String, Value)>,
    parent: Option<usize>,
    /// Whether a macro that can see this scope still exists.
    captured: bool,
}

/// An object with state.
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
    /// The remaining items.
    Generator(std::vec::IntoIter<Value>),
}

struct Loop<'t> {
    items: Arc<Vec<Value>>,
    index: usize,
    depth: usize,
    changed: Option<Vec<Value>>,
    /// What to run when a recursive loop is called.
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

/// Where execution continues after a statement.
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
        let items = Arc::new(self.items_of(node, iterable, scope)?);
        let value = self.new_loop(node, items.clone(), depth, scope)?;
        let Value::Object(at, _) = value else {
            return Ok(Flow::Next);
        };
        // As in Jinja, `else` runs if no turn of the loop reached its end.
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

    /// The variable `loop` of a loop over `items`.
    fn new_loop(
        &mut self,
        node: &'t For,
        items: Arc<Vec<Value>>,
        depth: usize,
        scope: usize,
    ) -> Result<Value> {
        let again = if node.recursive {
            let outer = std::mem::replace(&mut self.scope, scope);
            self.capture();
            self.scope = outer;
            Some((node, scope))
        } else {
            None
        };
        let state = Loop {
            items,
            index: 0,
            depth,
            changed: None,
            again,
        };
        self.new_object(Kind::Loop, Object::Loop(state))
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
}
