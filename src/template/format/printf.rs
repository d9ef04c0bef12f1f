//! `format % values`.

use std::prelude::rust_2024::*;

use super::spec::{Spec, character};
use super::{bounded, float_to_int, leading_number, quoted};
use crate::template::interpreter::Interpreter;
use crate::template::text::{Builder, Text};
use crate::template::value::{Result, Value};

/// `format % values`.
pub(in crate::template) fn printf(
    run: &mut Interpreter,
    format: &Text,
    values: &Value,
) -> Result<Text> {
    let single = [values.clone()];
    let list: &[Value] = match values {
        Value::Tuple(items) => &items.items,
        _ => &single,
    };
    let mut operands = Operands { list, next: 0 };
    let mut out = Builder::default();
    let mut at = 0;
    while let Some(start) = format[at..].find('%').map(|start| at + start) {
        out.push_part(format, at..start);
        let (field, rest) = Field::parse(&format[start + 1..], &mut operands)?;
        at = format.len() - rest.len();
        if field.conversion == '%' {
            out.push_char('%', format.is_user(start));
            continue;
        }
        let value = match field.key {
            Some(key) => value_of(values, key)?,
            None => operands.take()?,
        };
        let spec = field.spec;
        run.spend_bytes(spec.width + spec.precision.unwrap_or(0))?;
        match conversion_text(run, field.conversion, &value, &spec)? {
            Converted::Text(text) => spec.pad(&mut out, &text),
            Converted::Number(text) => spec.pad_number(&mut out, &text),
        }
    }
    // A mapping may be there for its keys, so it need not be used up.
    let has_items = matches!(
        values,
        Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_)
    );
    if operands.next < list.len() && !has_items {
        return Err("not all arguments converted during string formatting".into());
    }
    out.push_part(format, at..format.len());
    Ok(out.finish())
}

/// The values of a tuple, which are used one after the other.
struct Operands<'v> {
    list: &'v [Value],
    next: usize,
}

impl Operands<'_> {
    fn take(&mut self) -> Result<Value> {
        let value = self.list.get(self.next).cloned();
        self.next += 1;
        Ok(value.ok_or("not enough arguments for format string")?)
    }
}

/// The value of a key in parentheses.
fn value_of(values: &Value, key: &str) -> Result<Value> {
    match values {
        Value::Dict(dict) => Ok(dict
            .get_str(key)
            .cloned()
            .ok_or_else(|| format!("'{key}'"))?),
        _ => Err("format requires a mapping".into()),
    }
}

/// What follows a `%`.
struct Field<'f> {
    key: Option<&'f str>,
    spec: Spec,
    conversion: char,
}

impl<'f> Field<'f> {
    /// The field at the start of `text`, and what follows. A `*` takes one of `operands`.
    fn parse(text: &'f str, operands: &mut Operands) -> Result<(Self, &'f str)> {
        let (key, rest) = key(text)?;
        let flags = rest.find(|c| !"-+ #0".contains(c)).unwrap_or(rest.len());
        let (flags, rest) = rest.split_at(flags);
        let (width, mut rest) = size(rest, operands)?;
        let left = flags.contains('-') || width < 0;
        let width = bounded(width.abs())?;
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            let (digits, after) = size(after, operands)?;
            precision = Some(bounded(digits.max(0))?);
            rest = after;
        }
        let rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
        let conversion = rest.chars().next().ok_or("incomplete format")?;
        let spec = Spec {
            fill: ' ',
            align: if left { '<' } else { '>' },
            sign: match () {
                () if flags.contains('+') => '+',
                () if flags.contains(' ') => ' ',
                () => '-',
            },
            alternate: flags.contains('#'),
            zero: flags.contains('0') && !left,
            width,
            grouping: None,
            precision,
            kind: None,
        };
        let field = Field {
            key,
            spec,
            conversion,
        };
        Ok((field, &rest[conversion.len_utf8()..]))
    }
}

/// A key in parentheses, if there is one, and what follows.
fn key(text: &str) -> Result<(Option<&str>, &str)> {
    let Some(after) = text.strip_prefix('(') else {
        return Ok((None, text));
    };
    let mut depth = 1;
    let end = after.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    let end = end.ok_or("incomplete format key")?;
    Ok((Some(&after[..end]), &after[end + 1..]))
}

/// A width or a precision, and what follows: the next operand for a `*`, digits, or 0.
fn size<'f>(text: &'f str, operands: &mut Operands) -> Result<(i128, &'f str)> {
    if let Some(after) = text.strip_prefix('*') {
        let size = operands.take()?.as_int().ok_or("* wants int")?;
        return Ok((size, after));
    }
    let (size, after) = leading_number(text)?;
    Ok((size.unwrap_or(0) as i128, after))
}

/// A converted value, before it is padded.
enum Converted {
    Text(Text),
    Number(String),
}

/// A value by the letter of a `%` format.
fn conversion_text(
    run: &mut Interpreter,
    conversion: char,
    value: &Value,
    spec: &Spec,
) -> Result<Converted> {
    let needs_number = |what: &str| {
        format!(
            "%{conversion} format: {what} is required, not {}",
            value.type_name()
        )
    };
    if let Value::Undefined(why) = value
        && !matches!(conversion, 's' | 'r' | 'a')
    {
        return Err(why.to_string());
    }
    Ok(match conversion {
        's' => Converted::Text(spec.cut(run.text(value)?)),
        'r' | 'a' => Converted::Text(spec.cut(quoted(run, value, conversion == 'a')?)),
        'c' => Converted::Text(one_character(value)?),
        'd' | 'i' | 'u' => {
            let number = match value {
                Value::Float(number) => float_to_int(*number)?,
                _ => value
                    .as_int()
                    .ok_or_else(|| needs_number("a real number"))?,
            };
            Converted::Number(spec.integer(number, 'd'))
        }
        'o' | 'x' | 'X' => {
            let number = value.as_int().ok_or_else(|| needs_number("an integer"))?;
            Converted::Number(spec.integer(number, conversion))
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let number = value
                .as_float()
                .ok_or_else(|| format!("must be real number, not {}", value.type_name()))?;
            Converted::Number(spec.float(number, conversion))
        }
        _ => {
            return Err(format!(
                "unsupported format character '{conversion}' ({:#x})",
                u32::from(conversion)
            ));
        }
    })
}

/// A text of one character, or the character with a code.
fn one_character(value: &Value) -> Result<Text> {
    match value {
        Value::Str(text) if text.chars().count() == 1 => Ok(text.clone()),
        _ => {
            let code = value.as_int().ok_or("%c requires int or char")?;
            Ok(Text::template(&character(code)?.to_string()))
        }
    }
}
