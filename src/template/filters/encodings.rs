//! Filters that write text for another format.

use std::prelude::rust_2024::*;

use super::{is_true, or_int};
use crate::template::characters::is_space;
use crate::template::interpreter::{Args, Interpreter};
use crate::template::text::{Builder, Text};
use crate::template::value::{Kind, Result, Value};
use crate::template::{json, methods};

pub(super) fn escape(run: &mut Interpreter, text: &Text) -> Result<Text> {
    run.spend_bytes(text.len() * 5)?;
    Ok(text.map(|text| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('\'', "&#39;")
            .replace('"', "&#34;")
    }))
}

pub(super) fn url_encode(run: &mut Interpreter, value: &Value) -> Result<Text> {
    let mut out = Builder::default();
    let pairs = match value {
        Value::Dict(_) => {
            let items = methods::call(run, value, "items", Args::default())?;
            run.iterate(&items)?
        }
        Value::List(_) | Value::Tuple(_) | Value::View(..) | Value::Object(_, Kind::Generator) => {
            run.iterate(value)?
        }
        _ => {
            quote_url(run, &mut out, value, false)?;
            return Ok(out.finish());
        }
    };
    for (index, pair) in pairs.iter().enumerate() {
        let pair = run.iterate(pair)?;
        let [key, value] = pair.as_slice() else {
            return Err("not enough values to unpack (expected 2)".into());
        };
        if index > 0 {
            out.push_char('&', false);
        }
        quote_url(run, &mut out, key, true)?;
        out.push_char('=', false);
        quote_url(run, &mut out, value, true)?;
    }
    Ok(out.finish())
}

fn quote_url(run: &mut Interpreter, out: &mut Builder, value: &Value, query: bool) -> Result<()> {
    let text = run.text(value)?;
    run.spend_bytes(text.len() * 3)?;
    for (part, user) in text.stretches() {
        for byte in part.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                    out.push_char(byte.into(), user);
                }
                b'/' if !query => out.push_char('/', user),
                b' ' if query => out.push_char('+', user),
                _ => out.push_str(&format!("%{byte:02X}"), user),
            }
        }
    }
    Ok(())
}

pub(super) fn xml_attributes(run: &mut Interpreter, value: &Value, args: Args) -> Result<Text> {
    let [space] = args.bind("xmlattr", ["autospace"], 0)?;
    let items = run.attribute(value, "items")?;
    let items = run.call(items, Args::default())?;
    let mut out = Builder::default();
    for item in run.iterate(&items)? {
        let item = run.iterate(&item)?;
        let [key, value] = item.as_slice() else {
            continue;
        };
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let key = run.text(key)?;
        if key.contains(|c| is_space(c) || "/>=".contains(c)) {
            return Err(format!("Invalid character in attribute name: '{}'", &*key));
        }
        if out.len() > 0 || space.as_ref().is_none_or(Value::is_true) {
            out.push_char(' ', false);
        }
        out.push(&escape(run, &key)?);
        out.push_str("=\"", false);
        let value = run.text(value)?;
        out.push(&escape(run, &value)?);
        out.push_char('"', false);
    }
    Ok(out.finish())
}

pub(super) fn to_json(run: &mut Interpreter, value: &Value, args: Args) -> Result<Value> {
    let [ascii, indent, separators, sort_keys] = args.bind(
        "tojson",
        ["ensure_ascii", "indent", "separators", "sort_keys"],
        0,
    )?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(indent)) => Some(indent),
        indent => {
            let width = usize::try_from(or_int(indent, 0)?).unwrap_or(0);
            run.spend_bytes(width)?;
            Some(Text::template(&" ".repeat(width)))
        }
    };
    let (item_separator, key_separator) = match separators {
        None | Some(Value::None) => {
            let item = if indent.is_some() { "," } else { ", " };
            (Text::template(item), Text::template(": "))
        }
        Some(separators) => match run.iterate(&separators)?.as_slice() {
            [Value::Str(item), Value::Str(key)] => (item.clone(), key.clone()),
            _ => return Err("tojson: `separators` must be two strings".into()),
        },
    };
    let style = json::Style {
        ascii: is_true(&ascii),
        indent,
        item_separator,
        key_separator,
        sort_keys: is_true(&sort_keys),
    };
    json::dumps(run, value, &style).map(Value::Str)
}
