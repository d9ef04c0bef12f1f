//! `str.format`.

use std::prelude::rust_2024::*;

use super::quoted;
use super::spec::formatted;
use crate::template::interpreter::{Args, Interpreter};
use crate::template::text::{Builder, Text};
use crate::template::value::{Result, Value};

/// `template.format(…)`.
pub(in crate::template) fn format(
    run: &mut Interpreter,
    template: &Text,
    args: &Args,
) -> Result<Text> {
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

impl Numbering {
    /// The place of a field that begins with `first`, if that is not a keyword.
    ///
    /// # Errors
    /// Fields with and without a number are mixed.
    fn place(&mut self, first: &str) -> Result<Option<usize>> {
        if first.is_empty() {
            if self.manual {
                return Err(
                    "cannot switch from manual field specification to automatic field numbering"
                        .into(),
                );
            }
            self.next += 1;
            return Ok(Some(self.next - 1));
        }
        if !first.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(None);
        }
        if self.next > 0 {
            return Err(
                "cannot switch from automatic field numbering to manual field specification".into(),
            );
        }
        self.manual = true;
        Ok(Some(first.parse().unwrap_or(usize::MAX)))
    }
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
    let mut value = match numbering.place(first)? {
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
