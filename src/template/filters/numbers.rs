//! Filters of numbers, and Python's numbers in text.

use std::prelude::rust_2024::*;

use super::{is_true, or_int};
use crate::template::characters::is_space;
use crate::template::format::float_to_int;
use crate::template::interpreter::{Args, Interpreter};
use crate::template::value::{Result, Value};

pub(super) fn abs(name: &str, value: Value, args: Args) -> Result<Value> {
    args.none(name)?;
    match &value {
        Value::Float(number) => Ok(Value::Float(number.abs())),
        Value::Undefined(why) => Err(why.to_string()),
        _ => match value.as_int() {
            Some(number) => Ok(Value::Int(number.saturating_abs())),
            None => Err(format!(
                "bad operand type for abs(): '{}'",
                value.type_name()
            )),
        },
    }
}

pub(super) fn float(name: &str, value: Value, args: Args) -> Result<Value> {
    let [default] = args.bind(name, ["default"], 0)?;
    let default = default.unwrap_or(Value::Float(0.0));
    Ok(match &value {
        Value::Undefined(why) => return Err(why.to_string()),
        Value::Str(text) => parse_float(text).map_or(default, Value::Float),
        _ => value.as_float().map_or(default, Value::Float),
    })
}

/// Digits with single `_` between them, without these.
fn plain_digits(text: &str) -> Option<String> {
    let wrong = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!wrong).then(|| text.replace('_', ""))
}

/// Python's `float(str)`.
fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let digits = text.trim_start_matches(['+', '-']);
    if text.len() - digits.len() > 1 {
        return None;
    }
    let size = match digits.to_ascii_lowercase().as_str() {
        "nan" => f64::NAN,
        "inf" | "infinity" => f64::INFINITY,
        digits if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
            plain_digits(digits)?.parse().ok()?
        }
        _ => return None,
    };
    Some(if text.starts_with('-') { -size } else { size })
}

/// Python's `int(str, base)`.
fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(is_space);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let prefixed = match prefix.as_deref() {
        Some("0b") => Some(2),
        Some("0o") => Some(8),
        Some("0x") => Some(16),
        _ => None,
    };
    let (digits, base) = match prefixed.filter(|own| base == 0 || base == *own) {
        Some(own) => (digits[2..].strip_prefix('_').unwrap_or(&digits[2..]), own),
        None if base == 0 => (digits, 10),
        None => (digits, base),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let size = i128::from_str_radix(&plain_digits(digits)?, base).ok()?;
    Some(if text.starts_with('-') { -size } else { size })
}

pub(super) fn to_int(run: &mut Interpreter, value: &Value, args: Args) -> Result<Value> {
    let [default, base] = args.bind("int", ["default", "base"], 0)?;
    let default = default.unwrap_or(Value::Int(0));
    run.spend(value.weight())?;
    Ok(match value {
        Value::Undefined(why) => return Err(why.to_string()),
        Value::Str(text) => {
            let base = u32::try_from(or_int(base, 10)?).unwrap_or(1);
            let parsed = match base {
                0 | 2..=36 => parse_int(text, base),
                _ => None,
            };
            let truncated = || parse_float(text).and_then(|number| float_to_int(number).ok());
            parsed.or_else(truncated).map_or(default, Value::Int)
        }
        Value::Float(number) => float_to_int(*number).map_or(default, Value::Int),
        _ => value.as_int().map_or(default, Value::Int),
    })
}

pub(super) fn round(value: &Value, args: Args) -> Result<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"], 0)?;
    let precision = i32::try_from(or_int(precision, 0)?)
        .ok()
        .filter(|precision| (-400..=400).contains(precision))
        .ok_or("round: the precision is too large")?;
    let method = match &method {
        None => "common",
        Some(Value::Str(method)) => method,
        Some(_) => "",
    };
    if let Value::Undefined(why) = value {
        return Err(why.to_string());
    }
    let Some(number) = value.as_float() else {
        return Err(format!(
            "type {} doesn't define __round__ method",
            value.type_name()
        ));
    };
    match (method, value.as_int()) {
        ("common", Some(number)) if precision >= 0 => Ok(Value::Int(number)),
        ("common", Some(number)) => {
            let Some(unit) = 10_i128.checked_pow(precision.unsigned_abs()) else {
                return Ok(Value::Int(0));
            };
            let whole = number.div_euclid(unit);
            let rest = number.rem_euclid(unit);
            let up = rest * 2 > unit || (rest * 2 == unit && whole % 2 != 0);
            Ok(Value::Int((whole + i128::from(up)) * unit))
        }
        ("common", None) => Ok(Value::Float(rounded(number, precision))),
        ("ceil" | "floor", _) => {
            let unit = 10_f64.powi(precision);
            let scaled = match method {
                "ceil" => (number * unit).ceil(),
                _ => (number * unit).floor(),
            };
            // An integer in Python, which has no negative zero.
            let scaled = float_to_int(scaled)? as f64;
            Ok(Value::Float(scaled / unit))
        }
        _ => Err("method must be common, ceil or floor".into()),
    }
}

/// Python's `round`: to even, of the exact decimal value.
fn rounded(number: f64, precision: i32) -> f64 {
    if !number.is_finite() || precision > 330 {
        return number;
    }
    if let Ok(decimals) = usize::try_from(precision) {
        return format!("{number:.decimals$}").parse().unwrap_or(number);
    }
    let unit = 10_f64.powi(-precision);
    let scaled = (number / unit).round_ties_even();
    if unit.is_infinite() {
        0.0
    } else {
        scaled * unit
    }
}

pub(super) fn file_size(run: &mut Interpreter, value: &Value, args: Args) -> Result<Value> {
    let [binary] = args.bind("filesizeformat", ["binary"], 0)?;
    let binary = is_true(&binary);
    let size = match value {
        Value::Undefined(why) => return Err(why.to_string()),
        Value::Str(text) => parse_float(text),
        _ => value.as_float(),
    };
    run.spend(1)?;
    let Some(size) = size else {
        return Err("could not convert the value to float".into());
    };
    let base = if binary { 1024.0 } else { 1000.0 };
    if size == 1.0 {
        return Ok(Value::str("1 Byte"));
    }
    if size < base {
        return Ok(Value::str(&format!("{} Bytes", size as i64)));
    }
    let names = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let mut unit = base;
    let mut last = String::new();
    for name in names {
        unit *= base;
        let letter = if binary {
            name.to_uppercase() + "i"
        } else {
            name.to_owned()
        };
        last = format!("{:.1} {letter}B", base * size / unit);
        if size < unit {
            break;
        }
    }
    Ok(Value::str(&last))
}
