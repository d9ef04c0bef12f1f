//! Python's `%` formatting and `str.format`.

use std::prelude::rust_2024::*;

use super::interpreter::{Args, Interpreter};
use super::text::{Builder, Text};
use super::value::{Result, Value, float_text};

/// The widest field and the most digits.
const WIDEST: usize = 100_000;

fn bounded(number: i128) -> Result<usize> {
    usize::try_from(number)
        .ok()
        .filter(|number| *number <= WIDEST)
        .ok_or_else(|| format!("a format asks for more than {WIDEST} characters"))
}

/// The number that `text` starts with, and what follows.
fn leading_number(text: &str) -> Result<(Option<usize>, &str)> {
    let len = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    if len == 0 {
        return Ok((None, text));
    }
    let number = text[..len].parse().unwrap_or(i128::MAX);
    Ok((Some(bounded(number)?), &text[len..]))
}

/// `format % values`.
pub(super) fn printf(run: &mut Interpreter, format: &Text, values: &Value) -> Result<Text> {
    let single = [values.clone()];
    let list: &[Value] = match values {
        Value::Tuple(items) => &items.items,
        _ => &single,
    };
    let mut next = 0;
    let mut take = || {
        let value = list.get(next).cloned();
        next += 1;
        value.ok_or("not enough arguments for format string")
    };
    let mut out = Builder::default();
    let mut at = 0;
    while let Some(start) = format[at..].find('%').map(|start| at + start) {
        out.push_part(format, at..start);
        let mut rest = &format[start + 1..];
        let mut key = None;
        if let Some(after) = rest.strip_prefix('(') {
            let mut depth = 1;
            let end = after.find(|c| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            });
            let end = end.ok_or("incomplete format key")?;
            key = Some(&after[..end]);
            rest = &after[end + 1..];
        }
        let flags = rest.find(|c| !"-+ #0".contains(c)).unwrap_or(rest.len());
        let (flags, after) = rest.split_at(flags);
        rest = after;
        let mut left = flags.contains('-');
        let width = match rest.strip_prefix('*') {
            Some(after) => {
                rest = after;
                let width = take()?.as_int().ok_or("* wants int")?;
                left |= width < 0;
                bounded(width.abs())?
            }
            None => {
                let (width, after) = leading_number(rest)?;
                rest = after;
                width.unwrap_or(0)
            }
        };
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            precision = Some(match rest.strip_prefix('*') {
                Some(after) => {
                    rest = after;
                    bounded(take()?.as_int().ok_or("* wants int")?.max(0))?
                }
                None => {
                    let (precision, after) = leading_number(rest)?;
                    rest = after;
                    precision.unwrap_or(0)
                }
            });
        }
        rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
        let conversion = rest.chars().next().ok_or("incomplete format")?;
        at = format.len() - rest.len() + conversion.len_utf8();
        if conversion == '%' {
            out.push_char('%', format.is_user(start));
            continue;
        }
        let value = match key {
            Some(key) => match values {
                Value::Dict(dict) => dict
                    .get_str(key)
                    .cloned()
                    .ok_or_else(|| format!("'{key}'"))?,
                _ => return Err("format requires a mapping".into()),
            },
            None => take()?,
        };
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
        run.spend_bytes(width + precision.unwrap_or(0))?;
        let field = conversion_text(run, conversion, &value, &spec)?;
        match field {
            Field::Text(text) => spec.pad(&mut out, &text),
            Field::Number(text) => spec.pad_number(&mut out, &text),
        }
    }
    // A mapping may be there for its keys, so it need not be used up.
    let has_items = matches!(
        values,
        Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_)
    );
    if next < list.len() && !has_items {
        return Err("not all arguments converted during string formatting".into());
    }
    out.push_part(format, at..format.len());
    Ok(out.finish())
}

enum Field {
    Text(Text),
    Number(String),
}

/// A value by the letter of a `%` format.
fn conversion_text(
    run: &mut Interpreter,
    conversion: char,
    value: &Value,
    spec: &Spec,
) -> Result<Field> {
    let cut = |text: Text| match spec.precision {
        Some(precision) => {
            let end = text.char_indices().nth(precision).map(|(at, _)| at);
            text.part(0..end.unwrap_or(text.len()))
        }
        None => text,
    };
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
        's' => Field::Text(cut(run.text(value)?)),
        'r' | 'a' => Field::Text(cut(quoted(run, value, conversion == 'a')?)),
        'c' => Field::Text(match value {
            Value::Str(text) if text.chars().count() == 1 => text.clone(),
            _ => {
                let code = value.as_int().ok_or("%c requires int or char")?;
                let character = u32::try_from(code).ok().and_then(char::from_u32);
                let character = character.ok_or("%c arg not in range(0x110000)")?;
                Text::template(&character.to_string())
            }
        }),
        'd' | 'i' | 'u' => {
            let number = match value {
                Value::Float(number) => float_to_int(*number)?,
                _ => value
                    .as_int()
                    .ok_or_else(|| needs_number("a real number"))?,
            };
            Field::Number(spec.integer(number, 'd'))
        }
        'o' | 'x' | 'X' => {
            let number = value.as_int().ok_or_else(|| needs_number("an integer"))?;
            Field::Number(spec.integer(number, conversion))
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let number = value
                .as_float()
                .ok_or_else(|| format!("must be real number, not {}", value.type_name()))?;
            Field::Number(spec.float(number, conversion))
        }
        _ => {
            return Err(format!(
                "unsupported format character '{conversion}' ({:#x})",
                u32::from(conversion)
            ));
        }
    })
}

/// Python's `int(float)`.
pub(super) fn float_to_int(number: f64) -> Result<i128> {
    if number.is_nan() {
        return Err("cannot convert float NaN to integer".into());
    }
    if number.is_infinite() {
        return Err("cannot convert float infinity to integer".into());
    }
    if number.abs() >= 1.7e38 {
        return Err("the number is too large".into());
    }
    Ok(number as i128)
}

/// `repr(value)`, or if `ascii` `ascii(value)`.
fn quoted(run: &mut Interpreter, value: &Value, ascii: bool) -> Result<Text> {
    let mut out = Builder::default();
    run.write(&mut out, value, true)?;
    let text = out.finish();
    if !ascii || text.is_ascii() {
        return Ok(text);
    }
    run.spend_bytes(text.len() * 4)?;
    let mut out = Builder::default();
    for (character, user) in text.characters() {
        match u32::from(character) {
            0..0x80 => out.push_char(character, user),
            code @ 0x80..0x100 => out.push_str(&format!("\\x{code:02x}"), user),
            code @ 0x100..0x1_0000 => out.push_str(&format!("\\u{code:04x}"), user),
            code => out.push_str(&format!("\\U{code:08x}"), user),
        }
    }
    Ok(out.finish())
}

/// How a field is written.
struct Spec {
    fill: char,
    align: char,
    sign: char,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
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
        let mut skip = |signs: &str| {
            let found = rest.chars().next().filter(|c| signs.contains(*c));
            rest = &rest[found.map_or(0, char::len_utf8)..];
            found
        };
        let sign = skip("+- ").unwrap_or('-');
        skip("z");
        let alternate = skip("#").is_some();
        let zero = skip("0").is_some() && align.is_none();
        let (width, after) = leading_number(rest)?;
        rest = after;
        let mut skip = |signs: &str| {
            let found = rest.chars().next().filter(|c| signs.contains(*c));
            rest = &rest[found.map_or(0, char::len_utf8)..];
            found
        };
        let grouping = skip(",_");
        let mut precision = None;
        if skip(".").is_some() {
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

    fn pad(&self, out: &mut Builder, text: &Text) {
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
    fn pad_number(&self, out: &mut Builder, text: &str) {
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

    fn integer(&self, number: i128, kind: char) -> String {
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

    fn float(&self, number: f64, kind: char) -> String {
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

/// `%e` of a number that is not negative.
fn exponential(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// `template.format(…)`.
pub(super) fn format(run: &mut Interpreter, template: &Text, args: &Args) -> Result<Text> {
    let mut out = Builder::default();
    let mut numbering = Numbering::default();
    fields(run, template, args, &mut numbering, 0, &mut out)?;
    Ok(out.finish())
}

/// How fields are numbered.
#[derive(Default)]
struct Numbering {
    next: usize,
    manual: bool,
}

fn fields(
    run: &mut Interpreter,
    template: &Text,
    args: &Args,
    numbering: &mut Numbering,
    level: usize,
    out: &mut Builder,
) -> Result<()> {
    if level > 2 {
        return Err("Max string recursion exceeded".into());
    }
    let mut at = 0;
    loop {
        let Some(brace) = template[at..].find(['{', '}']).map(|brace| at + brace) else {
            out.push_part(template, at..template.len());
            return Ok(());
        };
        out.push_part(template, at..brace);
        let sign = &template[brace..brace + 1];
        if template[brace + 1..].starts_with(sign) {
            out.push_part(template, brace..brace + 1);
            at = brace + 2;
            continue;
        }
        if sign == "}" {
            return Err("Single '}' encountered in format string".into());
        }
        let mut depth = 0;
        let end = template[brace..].find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0
        });
        let end = brace + end.ok_or("expected '}' before end of string")?;
        field(
            run,
            &template.part(brace + 1..end),
            args,
            numbering,
            level,
            out,
        )?;
        at = end + 1;
    }
}

fn field(
    run: &mut Interpreter,
    field: &Text,
    args: &Args,
    numbering: &mut Numbering,
    level: usize,
    out: &mut Builder,
) -> Result<()> {
    run.spend(1)?;
    // A bracket may hold a colon or an exclamation mark.
    let mut in_bracket = false;
    let end = field.find(|c| {
        in_bracket = (in_bracket || c == '[') && c != ']';
        !in_bracket && matches!(c, ':' | '!')
    });
    let end = end.unwrap_or(field.len());
    let name = field.part(0..end);
    let mut rest = &field[end..];
    let mut conversion = None;
    if let Some(after) = rest.strip_prefix('!') {
        conversion = after.chars().next();
        let len = conversion.map_or(0, char::len_utf8);
        rest = &after[len..];
        if !rest.is_empty() && !rest.starts_with(':') {
            return Err("expected ':' after conversion specifier".into());
        }
    }
    let spec = field.part(field.len() - rest.strip_prefix(':').unwrap_or(rest).len()..field.len());
    let mut value = named(run, &name, args, numbering)?;
    if let Some(conversion) = conversion {
        value = Value::Str(match conversion {
            's' => run.text(&value)?,
            'r' | 'a' => quoted(run, &value, conversion == 'a')?,
            _ => return Err(format!("Unknown conversion specifier {conversion}")),
        });
    }
    let mut whole = Builder::default();
    fields(run, &spec, args, numbering, level + 1, &mut whole)?;
    formatted(run, &value, &whole.finish(), out)
}

/// The value of a field's name: a number or a keyword, then attributes and items.
fn named(
    run: &mut Interpreter,
    name: &Text,
    args: &Args,
    numbering: &mut Numbering,
) -> Result<Value> {
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let first = &name[..end];
    let place = if first.is_empty() {
        if numbering.manual {
            return Err(
                "cannot switch from manual field specification to automatic field numbering".into(),
            );
        }
        numbering.next += 1;
        Some(numbering.next - 1)
    } else if first.bytes().all(|byte| byte.is_ascii_digit()) {
        if numbering.next > 0 {
            return Err(
                "cannot switch from automatic field numbering to manual field specification".into(),
            );
        }
        numbering.manual = true;
        Some(first.parse().unwrap_or(usize::MAX))
    } else {
        None
    };
    let mut value = match place {
        Some(place) => args
            .positional
            .get(place)
            .cloned()
            .ok_or("Replacement index out of range for positional args tuple")?,
        None => {
            let found = args.named.iter().find(|(name, _)| name == first);
            found
                .map(|(_, value)| value.clone())
                .ok_or_else(|| format!("'{first}'"))?
        }
    };
    let mut rest = &name[end..];
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            value = run.attribute(&value, &after[..end])?;
            rest = &after[end..];
        } else {
            let inside = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let (index, after) = inside.ok_or("Missing ']' in format string")?;
            let index = match index.parse() {
                Ok(index) => Value::Int(index),
                Err(_) => Value::str(index),
            };
            value = run.item(&value, &index)?;
            rest = after;
        }
    }
    Ok(value)
}

/// `format(value, spec)`.
fn formatted(run: &mut Interpreter, value: &Value, spec: &str, out: &mut Builder) -> Result<()> {
    if spec.is_empty() {
        return run.write(out, value, false);
    }
    let spec = Spec::parse(spec)?;
    run.spend_bytes(spec.width + spec.precision.unwrap_or(0))?;
    let unknown = |kind: char| {
        format!(
            "Unknown format code '{kind}' for object of type '{}'",
            value.type_name()
        )
    };
    match value {
        Value::Str(text) => {
            if let Some(kind) = spec.kind.filter(|kind| *kind != 's') {
                return Err(unknown(kind));
            }
            if spec.align == '=' {
                return Err("'=' alignment not allowed in string format specifier".into());
            }
            let end = spec
                .precision
                .and_then(|precision| text.char_indices().nth(precision));
            let cut = text.part(0..end.map_or(text.len(), |(at, _)| at));
            spec.pad(out, &cut);
        }
        Value::Int(_) | Value::Bool(_) => {
            let number = value.as_int().unwrap_or_default();
            let text = match spec.kind {
                None | Some('d' | 'n') => spec.integer(number, 'd'),
                Some(kind @ ('b' | 'o' | 'x' | 'X')) => spec.integer(number, kind),
                Some('c') => {
                    let character = u32::try_from(number).ok().and_then(char::from_u32);
                    character
                        .ok_or("%c arg not in range(0x110000)")?
                        .to_string()
                }
                Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
                    spec.float(number as f64, kind)
                }
                Some(kind) => return Err(unknown(kind)),
            };
            spec.pad_number(out, &text);
        }
        Value::Float(number) => {
            let text = match spec.kind {
                None if spec.precision.is_none() => {
                    let digits = spec.grouped(&float_text(number.abs()), 3);
                    spec.signed(number.is_sign_negative(), &digits)
                }
                None => {
                    // As `g`, but with a digit behind the point.
                    let text = spec.float(*number, 'g');
                    let whole = text
                        .bytes()
                        .all(|byte| byte.is_ascii_digit() || byte == b'-');
                    if whole { text + ".0" } else { text }
                }
                Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => spec.float(*number, kind),
                Some('n') => spec.float(*number, 'g'),
                Some(kind) => return Err(unknown(kind)),
            };
            spec.pad_number(out, &text);
        }
        _ => {
            return Err(format!(
                "unsupported format string passed to {}.__format__",
                value.type_name()
            ));
        }
    }
    Ok(())
}
