//! Jinja's filters: `value | name(…)`.

mod encodings;
mod numbers;
mod sequences;
mod texts;

use std::prelude::rust_2024::*;

use encodings::{escape, to_json, url_encode, xml_attributes};
use numbers::{abs, file_size, float, round, to_int};
use sequences::of_sequence;
use texts::{indent, strip_tags, title, truncate, wordwrap};

use super::characters::is_word;
use super::interpreter::{Args, Interpreter};
use super::methods;
use super::text::Text;
use super::value::{Result, Value};

const NAMES: [&str; 51] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

pub(super) fn is_name(name: &str) -> bool {
    NAMES.contains(&name)
}

/// The value of an argument that has a default.
pub(super) fn or_int(value: Option<Value>, default: i128) -> Result<i128> {
    match value {
        None => Ok(default),
        Some(Value::Undefined(why)) => Err(why.to_string()),
        Some(value) => value.as_int().ok_or_else(|| {
            format!(
                "'{}' object cannot be interpreted as an integer",
                value.type_name()
            )
        }),
    }
}

fn is_true(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::is_true)
}

pub(super) fn apply(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    match name {
        "default" | "d" => default(name, value, args),
        "length" | "count" => length(run, name, value, args),
        "string" | "safe" => {
            args.none(name)?;
            run.text(&value).map(Value::Str)
        }
        "list" => {
            args.none(name)?;
            Value::list(run.iterate(&value)?)
        }
        "escape" | "e" | "forceescape" => {
            args.none(name)?;
            let text = run.text(&value)?;
            escape(run, &text).map(Value::Str)
        }
        "upper" | "lower" => {
            let text = Value::Str(run.text(&value)?);
            methods::call(run, &text, name, args)
        }
        "capitalize" => {
            args.none(name)?;
            Ok(Value::Str(methods::capitalize(&run.text(&value)?)))
        }
        "title" => {
            args.none(name)?;
            let text = run.text(&value)?;
            Ok(Value::Str(title(run, &text)?))
        }
        "trim" => {
            let [chars] = args.bind(name, ["chars"], 0)?;
            methods::strip(&run.text(&value)?, "strip", chars).map(Value::Str)
        }
        "center" => center(run, name, &value, args).map(Value::Str),
        "replace" => replace(run, name, value, args),
        "format" => format(run, value, args),
        "indent" => indent(run, &value, args).map(Value::Str),
        "truncate" => truncate(run, &value, args).map(Value::Str),
        "wordwrap" => wordwrap(run, &value, args).map(Value::Str),
        "wordcount" => {
            args.none(name)?;
            let text = run.text(&value)?;
            Ok(word_count(&text))
        }
        "striptags" => {
            args.none(name)?;
            let text = run.text(&value)?;
            strip_tags(run, &text).map(Value::Str)
        }
        "urlencode" => {
            args.none(name)?;
            url_encode(run, &value).map(Value::Str)
        }
        "xmlattr" => xml_attributes(run, &value, args).map(Value::Str),
        "tojson" => to_json(run, &value, args),
        "int" => to_int(run, &value, args),
        "float" => float(name, value, args),
        "abs" => abs(name, value, args),
        "round" => round(&value, args),
        "filesizeformat" => file_size(run, &value, args),
        "items" => items(run, name, value, args),
        "attr" => attr(run, name, value, args),
        _ => of_sequence(run, name, value, args),
    }
}

/// The text in the middle of a line of `width` characters, by default 80.
fn center(run: &mut Interpreter, name: &str, value: &Value, args: Args) -> Result<Text> {
    let [width] = args.bind(name, ["width"], 0)?;
    let text = run.text(value)?;
    let space = Text::template(" ");
    methods::justify(run, &text, name, or_int(width, 80)?, &space)
}

/// How many runs of word characters a text has.
fn word_count(text: &str) -> Value {
    let words = text.split(|c| !is_word(c)).filter(|word| !word.is_empty());
    Value::Int(words.count() as i128)
}

fn default(name: &str, value: Value, args: Args) -> Result<Value> {
    let [default, boolean] = args.bind(name, ["default_value", "boolean"], 0)?;
    let replaced = value.is_undefined() || (is_true(&boolean) && !value.is_true());
    Ok(if replaced {
        default.unwrap_or_else(|| Value::str(""))
    } else {
        value
    })
}

fn replace(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    let [old, new, count] = args.bind(name, ["old", "new", "count"], 2)?;
    let text = run.text(&value)?;
    let old = run.text(&old.unwrap_or(Value::None))?;
    let new = run.text(&new.unwrap_or(Value::None))?;
    let count = match count {
        Some(Value::None) => -1,
        count => or_int(count, -1)?,
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    methods::replace(run, &text, &old, &new, count).map(Value::Str)
}

fn format(run: &mut Interpreter, value: Value, args: Args) -> Result<Value> {
    if !args.positional.is_empty() && !args.named.is_empty() {
        return Err("can't handle positional and keyword arguments at the same time".into());
    }
    let text = run.text(&value)?;
    let values = if args.named.is_empty() {
        Value::tuple(args.positional)?
    } else {
        run.call(Value::Function("dict"), args)?
    };
    run.printf(&text, &values).map(Value::Str)
}

fn items(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    args.none(name)?;
    match &value {
        Value::Undefined(_) => run.generator(Vec::new()),
        Value::Dict(_) => {
            let items = methods::call(run, &value, "items", Args::default())?;
            let items = run.iterate(&items)?;
            run.generator(items)
        }
        _ => Err("Can only get item pairs from a mapping.".into()),
    }
}

fn attr(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    let [attribute] = args.bind(name, ["name"], 1)?;
    let attribute = run.text(&attribute.unwrap_or(Value::None))?;
    // No items.
    match value {
        Value::Dict(_) if !methods::has(&value, &attribute) => Ok(Value::undefined(format!(
            "'dict object' has no attribute '{}'",
            &*attribute
        ))),
        _ => run.attribute(&value, &attribute),
    }
}

fn length(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    args.none(name)?;
    if let Value::Str(text) = &value {
        run.spend_bytes(text.len())?;
    }
    run.length(&value).map(Value::Int)
}
