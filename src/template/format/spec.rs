//! How a field is written: the part behind the colon of `{:…}`, or the flags of a `%` format.

use std::prelude::rust_2024::*;

use super::leading_number;
use crate::template::interpreter::Interpreter;
use crate::template::text::{Builder, Text};
use crate::template::value::{Result, Value, float_text};

/// `format(value, spec)`.
pub(super) fn formatted(
    run: &mut Interpreter,
    value: &Value,
    spec: &str,
    out: &mut Builder,
) -> Result<()> {
    if spec.is_empty() {
        return run.write(out, value, false);
    }
    let spec = Spec::parse(spec)?;
    run.spend_bytes(spec.width + spec.precision.unwrap_or(0))?;
    match value {
        Value::Str(text) => {
            if let Some(kind) = spec.kind.filter(|kind| *kind != 's') {
                return Err(unknown(kind, value));
            }
            if spec.align == '=' {
                return Err("'=' alignment not allowed in string format specifier".into());
            }
            spec.pad(out, &spec.cut(text.clone()));
        }
        Value::Int(_) | Value::Bool(_) => spec.pad_number(out, &formatted_int(value, &spec)?),
        Value::Float(_) => spec.pad_number(out, &formatted_float(value, &spec)?),
        _ => {
            return Err(format!(
                "unsupported format string passed to {}.__format__",
                value.type_name()
            ));
        }
    }
    Ok(())
}

/// The error of a letter that a value of this type has no form for.
fn unknown(kind: char, value: &Value) -> String {
    format!(
        "Unknown format code '{kind}' for object of type '{}'",
        value.type_name()
    )
}

/// The digits of an integer or a bool, with its sign.
fn formatted_int(value: &Value, spec: &Spec) -> Result<String> {
    let number = value.as_int().unwrap_or_default();
    match spec.kind {
        None | Some('d' | 'n') => Ok(spec.integer(number, 'd')),
        Some(kind @ ('b' | 'o' | 'x' | 'X')) => Ok(spec.integer(number, kind)),
        Some('c') => Ok(character(number)?.to_string()),
        Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
            Ok(spec.float(number as f64, kind))
        }
        Some(kind) => Err(unknown(kind, value)),
    }
}

/// The digits of `value`, which is a float, with its sign.
fn formatted_float(value: &Value, spec: &Spec) -> Result<String> {
    let number = value.as_float().unwrap_or_default();
    match spec.kind {
        None if spec.precision.is_none() => {
            let digits = spec.grouped(&float_text(number.abs()), 3);
            Ok(spec.signed(number.is_sign_negative(), &digits))
        }
        None => {
            // As `g`, but with a digit behind the point.
            let text = spec.float(number, 'g');
            let whole = text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'-');
            Ok(if whole { text + ".0" } else { text })
        }
        Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => Ok(spec.float(number, kind)),
        Some('n') => Ok(spec.float(number, 'g')),
        Some(kind) => Err(unknown(kind, value)),
    }
}

/// The character with a code.
pub(super) fn character(code: i128) -> Result<char> {
    let character = u32::try_from(code).ok().and_then(char::from_u32);
    Ok(character.ok_or("%c arg not in range(0x110000)")?)
}

/// How a field is written.
pub(super) struct Spec {
    pub(super) fill: char,
    pub(super) align: char,
    pub(super) sign: char,
    pub(super) alternate: bool,
    pub(super) zero: bool,
    pub(super) width: usize,
    pub(super) grouping: Option<char>,
    pub(super) precision: Option<usize>,
    pub(super) kind: Option<char>,
}

impl Spec {
    /// The part behind the colon of `{:…}`.
    fn parse(spec: &str) -> Result<Self> {
        let mut rest = spec;
        let mut chars = rest.chars();
        let first = chars.next();
        let second = chars.next();
        let is_align = |c: Option<char>| c.filter(|c| "<>=^".contains(*c));
        let mut fill = ' ';
        let mut align = None;
        if let (Some(first), Some(second)) = (first, is_align(second)) {
            (fill, align) = (first, Some(second));
            rest = &rest[first.len_utf8() + 1..];
        } else if let Some(first) = is_align(first) {
            align = Some(first);
            rest = &rest[1..];
        }
        let sign = skip(&mut rest, "+- ").unwrap_or('-');
        skip(&mut rest, "z");
        let alternate = skip(&mut rest, "#").is_some();
        let zero = skip(&mut rest, "0").is_some() && align.is_none();
        let (width, after) = leading_number(rest)?;
        rest = after;
        let grouping = skip(&mut rest, ",_");
        let mut precision = None;
        if skip(&mut rest, ".").is_some() {
            let (digits, after) = leading_number(rest)?;
            precision = Some(digits.ok_or("Format specifier missing precision")?);
            rest = after;
        }
        let mut chars = rest.chars();
        let kind = chars.next();
        if chars.next().is_some() {
            return Err("Invalid format specifier".into());
        }
        Ok(Spec {
            fill: if zero { '0' } else { fill },
            align: align.unwrap_or('\0'),
            sign,
            alternate,
            zero,
            width: width.unwrap_or(0),
            grouping,
            precision,
            kind,
        })
    }

    /// The part of a text that the precision leaves.
    pub(super) fn cut(&self, text: Text) -> Text {
        let Some(precision) = self.precision else {
            return text;
        };
        let end = text.char_indices().nth(precision).map(|(at, _)| at);
        text.part(0..end.unwrap_or(text.len()))
    }

    pub(super) fn pad(&self, out: &mut Builder, text: &Text) {
        let missing = self.width.saturating_sub(text.chars().count());
        let before = match self.align {
            '>' => missing,
            '^' => missing / 2,
            _ => 0,
        };
        (0..before).for_each(|_| out.push_char(self.fill, false));
        out.push(text);
        (before..missing).for_each(|_| out.push_char(self.fill, false));
    }

    /// A number with its sign; zeros go between the two.
    pub(super) fn pad_number(&self, out: &mut Builder, text: &str) {
        let missing = self.width.saturating_sub(text.chars().count());
        let (before, after) = match self.align {
            _ if self.zero => (missing, 0),
            '=' => (missing, 0),
            '<' => (0, missing),
            '^' => (missing / 2, missing - missing / 2),
            _ => (missing, 0),
        };
        if self.zero || self.align == '=' {
            let fill = if self.zero { '0' } else { self.fill };
            let prefix = text.find(|c| !"+- ".contains(c)).unwrap_or(text.len());
            let digits = &text[prefix..];
            let based = ["0x", "0X", "0o", "0b"]
                .iter()
                .any(|base| digits.starts_with(base));
            let prefix = prefix + if based { 2 } else { 0 };
            out.push_str(&text[..prefix], false);
            (0..missing).for_each(|_| out.push_char(fill, false));
            out.push_str(&text[prefix..], false);
            return;
        }
        (0..before).for_each(|_| out.push_char(self.fill, false));
        out.push_str(text, false);
        (0..after).for_each(|_| out.push_char(self.fill, false));
    }

    fn signed(&self, negative: bool, digits: &str) -> String {
        match (negative, self.sign) {
            (true, _) => format!("-{digits}"),
            (false, '-') => digits.to_owned(),
            (false, sign) => format!("{sign}{digits}"),
        }
    }

    fn grouped(&self, digits: &str, size: usize) -> String {
        let Some(separator) = self.grouping else {
            return digits.to_owned();
        };
        let whole = digits
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(digits.len());
        let mut text = String::new();
        for (index, digit) in digits[..whole].chars().enumerate() {
            if index > 0 && (whole - index).is_multiple_of(size) {
                text.push(separator);
            }
            text.push(digit);
        }
        text + &digits[whole..]
    }

    pub(super) fn integer(&self, number: i128, kind: char) -> String {
        let size = number.unsigned_abs();
        let digits = match kind {
            'b' => format!("{size:b}"),
            'o' => format!("{size:o}"),
            'x' => format!("{size:x}"),
            'X' => format!("{size:X}"),
            _ => size.to_string(),
        };
        let digits = match self.precision {
            Some(precision) => format!("{digits:0>precision$}"),
            None => digits,
        };
        let digits = self.grouped(&digits, if kind == 'd' { 3 } else { 4 });
        let digits = match kind {
            'b' | 'o' | 'x' | 'X' if self.alternate => format!("0{kind}{digits}"),
            _ => digits,
        };
        self.signed(number < 0, &digits)
    }

    pub(super) fn float(&self, number: f64, kind: char) -> String {
        let precision = self.precision.unwrap_or(6);
        let size = number.abs();
        let digits = match kind.to_ascii_lowercase() {
            _ if number.is_nan() => "nan".into(),
            _ if number.is_infinite() => "inf".into(),
            'e' => self.point(exponential(size, precision)),
            'f' => self.point(format!("{size:.precision$}")),
            '%' => format!("{:.precision$}%", size * 100.0),
            _ => self.general(size, precision.max(1)),
        };
        let digits = self.grouped(&digits, 3);
        let digits = if kind.is_ascii_uppercase() {
            digits.to_ascii_uppercase()
        } else {
            digits
        };
        self.signed(number.is_sign_negative() && !number.is_nan(), &digits)
    }

    /// The alternate form keeps the point.
    fn point(&self, digits: String) -> String {
        if !self.alternate || digits.contains('.') {
            return digits;
        }
        match digits.find('e') {
            Some(at) => format!("{}.{}", &digits[..at], &digits[at..]),
            None => digits + ".",
        }
    }

    /// `%g`.
    fn general(&self, size: f64, precision: usize) -> String {
        let text = exponential(size, precision - 1);
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or_default();
        let trimmed = |digits: &str| match (self.alternate, digits.contains('.')) {
            (true, true) => digits.to_owned(),
            (true, false) => digits.to_owned() + ".",
            (false, true) => digits
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_owned(),
            (false, false) => digits.to_owned(),
        };
        if exponent < -4 || exponent >= precision as i32 {
            let sign = if exponent < 0 { '-' } else { '+' };
            return format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs());
        }
        let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
        trimmed(&format!("{size:.decimals$}"))
    }
}

/// Takes one of `signs` from the start of `rest`, if there is one.
fn skip(rest: &mut &str, signs: &str) -> Option<char> {
    let found = rest.chars().next().filter(|c| signs.contains(*c));
    *rest = &rest[found.map_or(0, char::len_utf8)..];
    found
}

/// `%e` of a number that is not negative.
fn exponential(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}
