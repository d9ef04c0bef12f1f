//! Python's `%` formatting and `str.format`.

mod fields;
mod printf;
mod spec;

use std::prelude::rust_2024::*;

pub(super) use fields::format;
pub(super) use printf::printf;

use super::interpreter::Interpreter;
use super::text::{Builder, Text};
use super::value::{Result, Value};

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
