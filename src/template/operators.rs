//! Python's operators.

use std::cmp::Ordering;
use std::prelude::rust_2024::*;

use super::interpreter::Interpreter;
use super::text::{Builder, Text};
use super::value::{Kind, Result, Value};

/// `left sign right` for a comparison.
pub(super) fn compare(
    run: &mut Interpreter,
    left: &Value,
    sign: &str,
    right: &Value,
) -> Result<bool> {
    if sign != "in" && sign != "not in" {
        run.spend(left.weight().min(right.weight()))?;
    }
    let ordered = |wanted: fn(Ordering) -> bool| Ok(left.compare(right, sign)?.is_some_and(wanted));
    match sign {
        "==" => Ok(left.equals(right)),
        "!=" => Ok(!left.equals(right)),
        "<" => ordered(Ordering::is_lt),
        "<=" => ordered(Ordering::is_le),
        ">" => ordered(Ordering::is_gt),
        ">=" => ordered(Ordering::is_ge),
        "in" => contains(run, right, left),
        _ => Ok(!contains(run, right, left)?),
    }
}

/// Whether `value in container`.
pub(super) fn contains(run: &mut Interpreter, container: &Value, value: &Value) -> Result<bool> {
    match container {
        Value::Str(text) => {
            run.spend(container.weight())?;
            match value {
                Value::Str(part) => Ok(text.contains(&**part)),
                _ => Err(format!(
                    "'in <string>' requires string as left operand, not {}",
                    value.type_name()
                )),
            }
        }
        Value::Dict(dict) => {
            run.spend(value.weight())?;
            Ok(dict.get(value)?.is_some())
        }
        Value::Range(range) => {
            let number = value.as_int();
            Ok(number.is_some_and(|number| is_in_range(range, number)))
        }
        Value::List(items) | Value::Tuple(items) | Value::View(_, items) => {
            for item in &items.items {
                run.spend(1 + item.weight().min(value.weight()))?;
                if item.equals(value) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Object(at, Kind::Generator) => {
            while let Some(item) = run.next_of(*at) {
                run.spend(1 + item.weight().min(value.weight()))?;
                if item.equals(value) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Undefined(_) => Ok(false),
        _ => Err(format!(
            "argument of type '{}' is not iterable",
            container.type_name()
        )),
    }
}

/// Whether a number is in the range of a start, a stop and a step.
fn is_in_range(&(start, stop, step): &(i128, i128, i128), number: i128) -> bool {
    let inside = if step > 0 {
        start <= number && number < stop
    } else {
        stop < number && number <= start
    };
    inside && (number - start) % step == 0
}

/// A unary `+` or `-`.
pub(super) fn sign(negative: bool, value: &Value) -> Result<Value> {
    match value {
        Value::Undefined(why) => Err(why.to_string()),
        Value::Float(number) => Ok(Value::Float(if negative { -number } else { *number })),
        _ => match value.as_int() {
            Some(number) if negative => number.checked_neg().map(Value::Int).ok_or_else(too_large),
            Some(number) => Ok(Value::Int(number)),
            None => Err(format!(
                "bad operand type for unary {}: '{}'",
                if negative { '-' } else { '+' },
                value.type_name()
            )),
        },
    }
}

fn too_large() -> String {
    "the number is too large".into()
}

/// `left sign right` for arithmetic.
pub(super) fn math(
    run: &mut Interpreter,
    left: &Value,
    sign: &str,
    right: &Value,
) -> Result<Value> {
    if let (Value::Str(format), "%") = (left, sign) {
        return run.printf(format, right).map(Value::Str);
    }
    match (left, right) {
        (Value::Undefined(why), _) | (_, Value::Undefined(why)) => return Err(why.to_string()),
        _ => {}
    }
    match sign {
        "+" => {
            if let Some(sum) = concatenated(run, left, right)? {
                return Ok(sum);
            }
        }
        "*" => {
            if let Some(product) = repeated(run, left, right)? {
                return Ok(product);
            }
        }
        _ => {}
    }
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return integers(a, sign, b);
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return floats(a, sign, b).map(Value::Float);
    }
    let shown = if sign == "**" { "** or pow()" } else { sign };
    Err(match (left, sign) {
        (Value::Str(_) | Value::List(_) | Value::Tuple(_), "+") => format!(
            "can only concatenate {0} (not \"{1}\") to {0}",
            left.type_name(),
            right.type_name()
        ),
        _ => format!(
            "unsupported operand type(s) for {shown}: '{}' and '{}'",
            left.type_name(),
            right.type_name()
        ),
    })
}

fn concatenated(run: &mut Interpreter, left: &Value, right: &Value) -> Result<Option<Value>> {
    Ok(Some(match (left, right) {
        (Value::Str(a), Value::Str(b)) => {
            run.spend_bytes(a.len() + b.len())?;
            let mut text = Builder::default();
            text.push(a);
            text.push(b);
            Value::Str(text.finish())
        }
        (Value::List(a), Value::List(b)) => {
            run.spend((a.items.len() + b.items.len()) as u64)?;
            Value::list([&a.items[..], &b.items[..]].concat())?
        }
        (Value::Tuple(a), Value::Tuple(b)) => {
            run.spend((a.items.len() + b.items.len()) as u64)?;
            Value::tuple([&a.items[..], &b.items[..]].concat())?
        }
        _ => return Ok(None),
    }))
}

fn repeated(run: &mut Interpreter, left: &Value, right: &Value) -> Result<Option<Value>> {
    let (value, count) = match (left, right) {
        (Value::Str(_) | Value::List(_) | Value::Tuple(_), _) => (left, right),
        _ => (right, left),
    };
    let Some(count) = count.as_int() else {
        return Ok(None);
    };
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    Ok(Some(match value {
        Value::Str(text) => {
            run.spend_bytes(text.len().saturating_mul(count))?;
            let mut whole = Builder::default();
            if !text.is_empty() {
                (0..count).for_each(|_| whole.push(text));
            }
            Value::Str(whole.finish())
        }
        Value::List(items) | Value::Tuple(items) => {
            let len = items.items.len().saturating_mul(count);
            run.spend(len as u64)?;
            let all = items.items.iter().cycle().take(len).cloned().collect();
            match value {
                Value::List(_) => Value::list(all)?,
                _ => Value::tuple(all)?,
            }
        }
        _ => return Ok(None),
    }))
}

fn integers(a: i128, sign: &str, b: i128) -> Result<Value> {
    if b == 0 {
        match sign {
            "/" => return Err("division by zero".into()),
            "//" => return Err("integer division or modulo by zero".into()),
            "%" => return Err("integer modulo by zero".into()),
            _ => {}
        }
    }
    let result = match sign {
        "+" => a.checked_add(b),
        "-" => a.checked_sub(b),
        "*" => a.checked_mul(b),
        "/" => return Ok(Value::Float(a as f64 / b as f64)),
        "//" => a.checked_div_euclid(b).and_then(|quotient| {
            // Euclid's remainder is never negative; Python's has the sign of `b`.
            let exact = a.checked_rem(b) == Some(0);
            if b < 0 && !exact {
                quotient.checked_sub(1)
            } else {
                Some(quotient)
            }
        }),
        "%" => a.checked_rem(b).map(|rest| {
            if rest != 0 && (rest < 0) != (b < 0) {
                rest + b
            } else {
                rest
            }
        }),
        _ if b < 0 && a == 0 => {
            return Err("0.0 cannot be raised to a negative power".into());
        }
        _ if b < 0 => return Ok(Value::Float((a as f64).powf(b as f64))),
        _ => match (a, u32::try_from(b)) {
            (0 | 1, _) => Some(if b == 0 { 1 } else { a }),
            (-1, _) => Some(if b % 2 == 0 { 1 } else { -1 }),
            (_, Ok(b)) => a.checked_pow(b),
            _ => None,
        },
    };
    result.map(Value::Int).ok_or_else(too_large)
}

fn floats(a: f64, sign: &str, b: f64) -> Result<f64> {
    if b == 0.0 {
        match sign {
            "/" => return Err("float division by zero".into()),
            "//" => return Err("float floor division by zero".into()),
            "%" => return Err("float modulo".into()),
            _ => {}
        }
    }
    Ok(match sign {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "/" => a / b,
        "//" => {
            let rest = modulo(a, b);
            let quotient = (a - rest) / b;
            let floor = quotient.floor();
            if quotient - floor > 0.5 {
                floor + 1.0
            } else {
                floor
            }
        }
        "%" => modulo(a, b),
        _ if a == 0.0 && b < 0.0 => return Err("0.0 cannot be raised to a negative power".into()),
        _ if a < 0.0 && b.fract() != 0.0 => return Err("complex numbers are not supported".into()),
        _ => {
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return Err("(34, 'Numerical result out of range')".into());
            }
            power
        }
    })
}

fn modulo(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest == 0.0 {
        0.0_f64.copysign(b)
    } else if (rest < 0.0) != (b < 0.0) {
        rest + b
    } else {
        rest
    }
}

/// `value[start:stop:step]`; none where Python has a type error, of which Jinja makes an undefined
/// value.
pub(super) fn slice(
    run: &mut Interpreter,
    value: &Value,
    bounds: &[Value; 3],
) -> Result<Option<Value>> {
    if let Value::Undefined(why) = value {
        return Err(why.to_string());
    }
    let mut numbers = [None; 3];
    for (number, bound) in numbers.iter_mut().zip(bounds) {
        *number = match bound {
            Value::None => None,
            _ => match bound.as_int() {
                Some(bound) => Some(bound),
                None => return Ok(None),
            },
        };
    }
    Ok(Some(match value {
        Value::Str(text) => {
            run.spend(value.weight())?;
            Value::Str(slice_of_text(run, text, numbers)?)
        }
        Value::List(items) | Value::Tuple(items) => {
            run.spend(items.items.len() as u64)?;
            let places = places(items.items.len(), numbers)?;
            let part = places
                .into_iter()
                .map(|at| items.items[at].clone())
                .collect();
            match value {
                Value::List(_) => Value::list(part)?,
                _ => Value::tuple(part)?,
            }
        }
        Value::Range(range) => {
            let len = usize::try_from(value.range_len()).unwrap_or_default();
            run.spend(len as u64)?;
            slice_of_range(range, len, numbers)?
        }
        _ => return Ok(None),
    }))
}

/// The bounds and the step of a slice, as far as they are given.
type Bounds = [Option<i128>; 3];

/// The characters of a text that a slice takes.
fn slice_of_text(run: &mut Interpreter, text: &Text, bounds: Bounds) -> Result<Text> {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    let end = |at: usize| starts.get(at + 1).copied().unwrap_or(text.len());
    let places = places(starts.len(), bounds)?;
    if bounds[2].is_none_or(|step| step == 1) {
        return Ok(match (places.first(), places.last()) {
            (Some(first), Some(last)) => text.part(starts[*first]..end(*last)),
            _ => text.part(0..0),
        });
    }
    run.spend(places.len() as u64)?;
    let mut part = Builder::default();
    for at in places {
        part.push_part(text, starts[at]..end(at));
    }
    Ok(part.finish())
}

/// A range of those numbers of a range of `len` numbers that a slice takes.
fn slice_of_range(range: &(i128, i128, i128), len: usize, bounds: Bounds) -> Result<Value> {
    let step = bounds[2].unwrap_or(1);
    let places = places(len, bounds)?;
    let at = |place: usize| range.0 + place as i128 * range.2;
    let step = range.2.saturating_mul(step);
    let (start, stop) = match (places.first(), places.last()) {
        (Some(first), Some(last)) => (at(*first), at(*last).saturating_add(step)),
        _ => (range.0, range.0),
    };
    Ok(Value::Range(std::sync::Arc::new((start, stop, step))))
}

/// The places that a slice takes from `len` items.
fn places(len: usize, [start, stop, step]: Bounds) -> Result<Vec<usize>> {
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err("slice step cannot be zero".into());
    }
    let len = len as i128;
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |bound: i128| {
        let bound = if bound < 0 {
            bound.saturating_add(len)
        } else {
            bound
        };
        bound.clamp(low, high)
    };
    let (first, end) = if step > 0 { (low, high) } else { (high, low) };
    let mut at = start.map_or(first, clamp);
    let stop = stop.map_or(end, clamp);
    let mut places = Vec::new();
    while if step > 0 { at < stop } else { at > stop } {
        places.extend(usize::try_from(at));
        at = at.saturating_add(step);
    }
    Ok(places)
}
