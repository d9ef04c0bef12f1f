//! Calls macros, loops, methods and functions.

use std::prelude::rust_2024::*;
use std::sync::Arc;

use super::{Args, Interpreter, Object};
use crate::template::text::{Builder, Text};
use crate::template::time;
use crate::template::tree::Macro;
use crate::template::value::{Dict, Kind, Result, Value};
use crate::template::{filters, format as formatting, methods};

impl<'t> Interpreter<'t> {
    pub(in crate::template) fn call(&mut self, callee: Value, args: Args) -> Result<Value> {
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
    pub(in crate::template) fn call_object(
        &mut self,
        at: usize,
        name: &str,
        args: Args,
    ) -> Result<Value> {
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
                let text = time::now(&format);
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
    pub(in crate::template) fn filter(
        &mut self,
        name: &str,
        value: Value,
        args: Args,
    ) -> Result<Value> {
        self.nested(|this| filters::apply(this, name, value, args))
    }

    /// Python's `format % values`.
    pub(in crate::template) fn printf(&mut self, format: &Text, values: &Value) -> Result<Text> {
        formatting::printf(self, format, values)
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

pub(super) const FUNCTIONS: [&str; 7] = [
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
