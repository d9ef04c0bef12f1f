//! Jinja's tests: `value is name`.

use std::prelude::rust_2024::*;

use super::interpreter::{Args, Interpreter};
use super::value::{Kind, Result, Value};
use super::{filters, methods, operators};

const NAMES: [&str; 38] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
];

fn is_name(name: &str) -> bool {
    name == "le" || NAMES.contains(&name)
}

pub(super) fn apply(run: &mut Interpreter, name: &str, value: &Value, args: Args) -> Result<bool> {
    let operator = match name {
        "==" | "eq" | "equalto" => "==",
        "!=" | "ne" => "!=",
        ">" | "gt" | "greaterthan" => ">",
        ">=" | "ge" => ">=",
        "<" | "lt" | "lessthan" => "<",
        "<=" | "le" => "<=",
        "in" => "in",
        "divisibleby" | "sameas" => name,
        _ if is_name(name) => {
            args.none(name)?;
            return plain(run, name, value);
        }
        _ => return Err(format!("No test named '{name}'.")),
    };
    let [other] = args.bind(name, ["other"], 1)?;
    let other = other.unwrap_or(Value::None);
    match operator {
        "divisibleby" => {
            let rest = operators::math(run, value, "%", &other)?;
            Ok(rest.equals(&Value::Int(0)))
        }
        "sameas" => Ok(value.is(&other)),
        _ => operators::compare(run, value, operator, &other),
    }
}

fn plain(run: &mut Interpreter, name: &str, value: &Value) -> Result<bool> {
    Ok(match name {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => matches!(
            value,
            Value::Str(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
                | Value::Undefined(_)
        ),
        "iterable" => matches!(
            value,
            Value::Str(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::View(..)
                | Value::Range(_)
                | Value::Undefined(_)
                | Value::Object(_, Kind::Generator | Kind::Loop)
        ),
        "callable" => matches!(
            value,
            Value::Function(_)
                | Value::Method(_)
                | Value::Undefined(_)
                | Value::Object(_, Kind::Macro | Kind::Loop | Kind::Joiner)
        ),
        "escaped" => false,
        "odd" | "even" => {
            let rest = operators::math(run, value, "%", &Value::Int(2))?;
            rest.equals(&Value::Int((name == "odd").into()))
        }
        "lower" | "upper" => methods::is_case(&run.text(value)?, name == "upper"),
        "filter" => value.as_text().is_some_and(|name| filters::is_name(name)),
        _ => value.as_text().is_some_and(|name| is_name(name)),
    })
}
