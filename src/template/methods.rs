//! The methods of Python's strings, lists and dicts.

use std::ops::Range;
use std::prelude::rust_2024::*;
use std::sync::Arc;

use super::characters::{
    is_cased, is_decimal, is_digit, is_letter, is_printable, is_space, is_word, title,
};
use super::filters::or_int;
use super::format as formatting;
use super::interpreter::{Args, Interpreter};
use super::text::{Builder, Text};
use super::value::{Dict, Kind, Result, Value};

const OF_STR: [&str; 43] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
];

/// Whether `value` has a method of this name.
pub(super) fn has(value: &Value, name: &str) -> bool {
    match value {
        Value::Str(_) => OF_STR.contains(&name) || matches!(name, "encode" | "upper" | "zfill"),
        Value::List(_) => matches!(name, "copy" | "count" | "index"),
        Value::Tuple(_) | Value::Range(_) => matches!(name, "count" | "index"),
        Value::Dict(_) => matches!(
            name,
            "copy" | "fromkeys" | "get" | "items" | "keys" | "values"
        ),
        Value::Int(_) | Value::Bool(_) => name == "bit_length",
        Value::Float(_) => name == "is_integer",
        Value::Object(_, Kind::Loop) => matches!(name, "cycle" | "changed"),
        Value::Object(_, Kind::Cycler) => matches!(name, "next" | "reset"),
        _ => false,
    }
}

/// Whether `name` is a method that changes `value`, which templates may not do.
pub(super) fn modifies(value: &Value, name: &str) -> bool {
    match value {
        Value::List(_) => matches!(
            name,
            "append" | "clear" | "extend" | "insert" | "pop" | "remove" | "reverse" | "sort"
        ),
        Value::Dict(_) => matches!(name, "clear" | "pop" | "popitem" | "setdefault" | "update"),
        _ => false,
    }
}

pub(super) fn call(run: &mut Interpreter, value: &Value, name: &str, args: Args) -> Result<Value> {
    match value {
        Value::Str(text) => {
            run.spend(value.weight())?;
            of_str(run, text, name, args)
        }
        Value::Dict(dict) => of_dict(run, dict, name, args),
        Value::List(_) if name == "copy" => {
            args.none(name)?;
            Ok(value.clone())
        }
        Value::List(_) | Value::Tuple(_) | Value::Range(_) => of_sequence(run, value, name, args),
        Value::Int(_) | Value::Bool(_) => {
            args.none(name)?;
            let number = value.as_int().unwrap_or_default().unsigned_abs();
            Ok(Value::Int((128 - number.leading_zeros()).into()))
        }
        Value::Float(number) => {
            args.none(name)?;
            Ok(Value::Bool(number.fract() == 0.0))
        }
        Value::Object(at, _) => run.call_object(*at, name, args),
        _ => Err(format!(
            "'{}' object has no attribute '{name}'",
            value.type_name()
        )),
    }
}

fn of_dict(run: &mut Interpreter, dict: &Dict, name: &str, args: Args) -> Result<Value> {
    if name != "get" {
        run.spend(dict.entries.len() as u64)?;
    }
    match name {
        "get" => {
            let [key, default] = args.bind(name, ["key", "default"], 1)?;
            let key = key.unwrap_or(Value::None);
            run.spend(key.weight())?;
            let found = dict.get(&key)?.cloned();
            Ok(found.or(default).unwrap_or(Value::None))
        }
        "fromkeys" => run.call(Value::Function("dict.fromkeys"), args),
        _ => {
            args.none(name)?;
            let entries = dict.entries.iter();
            match name {
                "copy" => Ok(Value::Dict(Arc::new(dict.copy()?))),
                "keys" => Value::view("dict_keys", entries.map(|(key, _)| key.clone()).collect()),
                "values" => {
                    let values = entries.map(|(_, value)| value.clone());
                    Value::view("dict_values", values.collect())
                }
                _ => {
                    let pairs =
                        entries.map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()]));
                    Value::view("dict_items", pairs.collect::<Result<_>>()?)
                }
            }
        }
    }
}

/// `count` and `index`.
fn of_sequence(run: &mut Interpreter, value: &Value, name: &str, args: Args) -> Result<Value> {
    let [wanted, start, stop] = args.bind(name, ["value", "start", "stop"], 1)?;
    let wanted = wanted.unwrap_or(Value::None);
    let bounds = [start.unwrap_or(Value::None), stop.unwrap_or(Value::None)];
    let items = run.iterate(value)?;
    let range = bounds_of(items.len(), &bounds)?;
    let mut count = 0;
    for (at, item) in items.iter().enumerate() {
        run.spend(item.weight().min(wanted.weight()))?;
        if item.equals(&wanted) {
            if name == "index" && range.contains(&at) {
                return Ok(Value::Int(at as i128));
            }
            count += 1;
        }
    }
    if name == "index" {
        return Err(format!("value is not in {}", value.type_name()));
    }
    Ok(Value::Int(count))
}

/// Start and stop as a range within `len`.
fn bounds_of(len: usize, bounds: &[Value; 2]) -> Result<Range<usize>> {
    let mut ends = [0, len];
    for (end, bound) in ends.iter_mut().zip(bounds) {
        if matches!(bound, Value::None) {
            continue;
        }
        let Some(number) = bound.as_int() else {
            return Err("slice indices must be integers or None".into());
        };
        let number = if number < 0 {
            number.saturating_add(len as i128)
        } else {
            number
        };
        *end = usize::try_from(number.clamp(0, i128::MAX)).unwrap_or(usize::MAX);
    }
    Ok(ends[0]..ends[1].min(len))
}

fn text_of(function: &str, value: Option<Value>) -> Result<Text> {
    match value {
        Some(Value::Str(text)) => Ok(text),
        Some(Value::Undefined(why)) => Err(why.to_string()),
        other => Err(format!(
            "{function}() argument must be str, not {}",
            other.map_or("NoneType", |other| other.type_name())
        )),
    }
}

fn of_str(run: &mut Interpreter, text: &Text, name: &str, args: Args) -> Result<Value> {
    match name {
        "format" => formatting::format(run, text, &args).map(Value::Str),
        "format_map" => format_map(run, text, name, args),
        "split" | "rsplit" => split(run, text, name, args),
        "splitlines" => split_lines(run, text, name, args),
        "partition" | "rpartition" => partition(text, name, args),
        "strip" | "lstrip" | "rstrip" => strip_characters(text, name, args),
        "startswith" | "endswith" => has_affix(text, name, args),
        "find" | "rfind" | "index" | "rindex" | "count" => find(text, name, args),
        "replace" => replace_count(run, text, name, args),
        "join" => join(run, text, name, args),
        "removeprefix" | "removesuffix" => remove_affix(text, name, args),
        "center" | "ljust" | "rjust" => justify_with(run, text, name, args),
        "zfill" => zero_fill(run, text, name, args),
        "expandtabs" => expand(run, text, name, args),
        "translate" => translate(run, text, name, args),
        "encode" => Err("encode() is not supported: there are no bytes here".into()),
        _ => without_arguments(run, text, name, args),
    }
}

fn format_map(run: &mut Interpreter, text: &Text, name: &str, args: Args) -> Result<Value> {
    let [mapping] = args.bind(name, ["mapping"], 1)?;
    let Some(Value::Dict(dict)) = mapping else {
        return Err("format_map() needs a dict".into());
    };
    let mut named = Vec::new();
    for (key, value) in &dict.entries {
        named.push((run.text(key)?.to_string(), value.clone()));
    }
    let args = Args {
        positional: Vec::new(),
        named,
    };
    formatting::format(run, text, &args).map(Value::Str)
}

fn split(run: &mut Interpreter, text: &Text, name: &str, args: Args) -> Result<Value> {
    let [separator, limit] = args.bind(name, ["sep", "maxsplit"], 0)?;
    let limit = usize::try_from(or_int(limit, -1)?).unwrap_or(usize::MAX);
    let parts = match separator {
        None | Some(Value::None) => split_at_space(text, limit, name == "rsplit"),
        separator => {
            let separator = text_of(name, separator)?;
            if separator.is_empty() {
                return Err("empty separator".into());
            }
            let limit = limit.saturating_add(1);
            let mut parts: Vec<&str> = match name {
                "split" => text.splitn(limit, &*separator).collect(),
                _ => text.rsplitn(limit, &*separator).collect(),
            };
            if name == "rsplit" {
                parts.reverse();
            }
            parts
        }
    };
    run.spend(2 * parts.len() as u64)?;
    let parts = parts
        .into_iter()
        .map(|part| Value::Str(text.borrowed(part)));
    Value::list(parts.collect())
}

fn split_lines(run: &mut Interpreter, text: &Text, name: &str, args: Args) -> Result<Value> {
    let [keep] = args.bind(name, ["keepends"], 0)?;
    let lines = lines(text, keep.is_some_and(|keep| keep.is_true()));
    run.spend(2 * lines.len() as u64)?;
    let lines = lines
        .into_iter()
        .map(|line| Value::Str(text.borrowed(line)));
    Value::list(lines.collect())
}

fn partition(text: &Text, name: &str, args: Args) -> Result<Value> {
    let [separator] = args.bind(name, ["sep"], 1)?;
    let separator = text_of(name, separator)?;
    if separator.is_empty() {
        return Err("empty separator".into());
    }
    let found = match name {
        "partition" => text.find(&*separator),
        _ => text.rfind(&*separator),
    };
    let parts = match found {
        Some(at) => {
            let end = at + separator.len();
            [text.part(0..at), separator, text.part(end..text.len())]
        }
        None if name == "partition" => [text.clone(), text.part(0..0), text.part(0..0)],
        None => [text.part(0..0), text.part(0..0), text.clone()],
    };
    Value::tuple(parts.map(Value::Str).into())
}

fn strip_characters(text: &Text, name: &str, args: Args) -> Result<Value> {
    let [chars] = args.bind(name, ["chars"], 0)?;
    strip(text, name, chars).map(Value::Str)
}

fn has_affix(text: &Text, name: &str, args: Args) -> Result<Value> {
    let [affix, start, stop] = args.bind(name, ["prefix", "start", "end"], 1)?;
    let affixes = match affix {
        Some(Value::Tuple(items)) => items.items.clone(),
        other => vec![other.unwrap_or(Value::None)],
    };
    let Some(part) = within(text, start, stop)? else {
        return Ok(Value::Bool(false));
    };
    for affix in affixes {
        let affix = text_of(name, Some(affix))?;
        if match name {
            "startswith" => text[part.clone()].starts_with(&*affix),
            _ => text[part.clone()].ends_with(&*affix),
        } {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn find(text: &Text, name: &str, args: Args) -> Result<Value> {
    let [wanted, start, stop] = args.bind(name, ["sub", "start", "end"], 1)?;
    let wanted = text_of(name, wanted)?;
    let part = within(text, start, stop)?;
    if name == "count" {
        let count = part.map_or(0, |part| {
            if wanted.is_empty() {
                text[part].chars().count() + 1
            } else {
                text[part].matches(&*wanted).count()
            }
        });
        return Ok(Value::Int(count as i128));
    }
    let found = part.and_then(|part| {
        let inner = &text[part.clone()];
        let at = match name {
            "find" | "index" => inner.find(&*wanted),
            _ => inner.rfind(&*wanted),
        };
        at.map(|at| text[..part.start + at].chars().count() as i128)
    });
    match found {
        Some(at) => Ok(Value::Int(at)),
        None if name.ends_with("index") => Err("substring not found".into()),
        None => Ok(Value::Int(-1)),
    }
}

fn replace_count(run: &mut Interpreter, text: &Text, name: &str, args: Args) -> Result<Value> {
    let [old, new, count] = args.bind(name, ["old", "new", "count"], 2)?;
    let count = usize::try_from(or_int(count, -1)?).unwrap_or(usize::MAX);
    let old = text_of(name, old)?;
    let new = text_of(name, new)?;
    replace(run, text, &old, &new, count).map(Value::Str)
}

fn join(run: &mut Interpreter, text: &Text, name: &str, args: Args) -> Result<Value> {
    let [items] = args.bind(name, ["iterable"], 1)?;
    let items = run.iterate(&items.unwrap_or(Value::None))?;
    let mut joined = Builder::default();
    for (index, item) in items.iter().enumerate() {
        let Value::Str(item) = item else {
            return Err(format!(
                "sequence item {index}: expected str instance, {} found",
                item.type_name()
            ));
        };
        run.spend_bytes(item.len() + text.len())?;
        if index > 0 {
            joined.push(text);
        }
        joined.push(item);
    }
    Ok(Value::Str(joined.finish()))
}

fn remove_affix(text: &Text, name: &str, args: Args) -> Result<Value> {
    let [affix] = args.bind(name, ["affix"], 1)?;
    let affix = text_of(name, affix)?;
    let rest = match name {
        "removeprefix" => text.strip_prefix(&*affix),
        _ => text.strip_suffix(&*affix),
    };
    Ok(Value::Str(text.borrowed(rest.unwrap_or(text))))
}

fn justify_with(run: &mut Interpreter, text: &Text, name: &str, args: Args) -> Result<Value> {
    let [width, fill] = args.bind(name, ["width", "fillchar"], 1)?;
    let fill = match fill {
        Some(fill) => text_of(name, Some(fill))?,
        None => Text::template(" "),
    };
    if fill.chars().count() != 1 {
        return Err("The fill character must be exactly one character long".into());
    }
    justify(run, text, name, or_int(width, 0)?, &fill).map(Value::Str)
}

fn zero_fill(run: &mut Interpreter, text: &Text, name: &str, args: Args) -> Result<Value> {
    let [width] = args.bind(name, ["width"], 1)?;
    let sign = usize::from(text.starts_with(['+', '-']));
    let len = text.chars().count() as i128;
    let missing = usize::try_from(or_int(width, 0)? - len).unwrap_or(0);
    run.spend_bytes(missing)?;
    let mut filled = Builder::default();
    filled.push_part(text, 0..sign);
    (0..missing).for_each(|_| filled.push_char('0', false));
    filled.push_part(text, sign..text.len());
    Ok(Value::Str(filled.finish()))
}

fn expand(run: &mut Interpreter, text: &Text, name: &str, args: Args) -> Result<Value> {
    let [size] = args.bind(name, ["tabsize"], 0)?;
    let size = or_int(size, 8)?;
    expand_tabs(run, text, size).map(Value::Str)
}

fn translate(run: &mut Interpreter, text: &Text, name: &str, args: Args) -> Result<Value> {
    let [table] = args.bind(name, ["table"], 1)?;
    let Some(Value::Dict(table)) = table else {
        return Err("translate() needs a dict".into());
    };
    let mut changed = Builder::default();
    for (character, user) in text.characters() {
        match table.get(&Value::Int(u32::from(character).into()))? {
            None => changed.push_char(character, user),
            Some(Value::None) => {}
            Some(Value::Str(new)) => {
                run.spend_bytes(new.len())?;
                changed.push(new);
            }
            Some(new) => {
                let code = new.as_int().and_then(|code| u32::try_from(code).ok());
                let new = code.and_then(char::from_u32);
                let new = new.ok_or("character mapping must return int, None or str")?;
                changed.push_char(new, user);
            }
        }
    }
    Ok(Value::Str(changed.finish()))
}

/// The methods of strings that take no argument.
fn without_arguments(run: &mut Interpreter, text: &Text, name: &str, args: Args) -> Result<Value> {
    let all = |test: fn(char) -> bool| Ok(Value::Bool(!text.is_empty() && text.chars().all(test)));
    args.none(name)?;
    // Changing case makes at most three characters of one.
    run.spend_bytes(text.len() * 3)?;
    Ok(Value::Str(match name {
        "upper" => text.map(str::to_uppercase),
        "lower" => text.map(str::to_lowercase),
        "casefold" => text.map(|text| text.replace('ß', "ss").to_lowercase().replace('ς', "σ")),
        "capitalize" => capitalize(text),
        "title" => title_case(text),
        "swapcase" => text.map(|text| {
            let swapped = text.chars().map(|c| {
                if c.is_uppercase() {
                    c.to_lowercase().collect::<String>()
                } else {
                    c.to_uppercase().collect()
                }
            });
            swapped.collect()
        }),
        "isalnum" => return all(|c| c != '_' && is_word(c)),
        "isalpha" => return all(is_letter),
        "isascii" => return Ok(Value::Bool(text.is_ascii())),
        "isdecimal" => return all(is_decimal),
        "isdigit" => return all(is_digit),
        "isnumeric" => return all(char::is_numeric),
        "isspace" => return all(is_space),
        "isprintable" => return Ok(Value::Bool(text.chars().all(is_printable))),
        "islower" => return Ok(Value::Bool(is_case(text, false))),
        "isupper" => return Ok(Value::Bool(is_case(text, true))),
        "istitle" => return Ok(Value::Bool(is_title(text))),
        "isidentifier" => {
            let starts = text
                .chars()
                .next()
                .is_some_and(|c| c == '_' || is_letter(c));
            return Ok(Value::Bool(starts && text.chars().all(is_word)));
        }
        _ => return Err(format!("'str' object has no attribute '{name}'")),
    }))
}

/// `islower` or `isupper`.
pub(super) fn is_case(text: &str, upper: bool) -> bool {
    let mut cased = text.chars().filter(|c| is_cased(*c)).peekable();
    cased.peek().is_some()
        && cased.all(|c| {
            if upper {
                c.is_uppercase()
            } else {
                c.is_lowercase()
            }
        })
}

fn is_title(text: &str) -> bool {
    let mut any = false;
    let mut after_cased = false;
    for character in text.chars() {
        let cased = is_cased(character);
        if cased && after_cased != character.is_lowercase() {
            return false;
        }
        any |= cased;
        after_cased = cased;
    }
    any
}

pub(super) fn capitalize(text: &Text) -> Text {
    let mut changed = Builder::default();
    let first = text.chars().next().map_or(0, char::len_utf8);
    for (part, user) in text.part(0..first).stretches() {
        changed.push_str(&part.chars().map(title).collect::<String>(), user);
    }
    changed.push(&text.part(first..text.len()).map(str::to_lowercase));
    changed.finish()
}

fn title_case(text: &Text) -> Text {
    let mut changed = Builder::default();
    let mut after_cased = false;
    for (character, user) in text.characters() {
        if after_cased {
            character
                .to_lowercase()
                .for_each(|c| changed.push_char(c, user));
        } else {
            changed.push_str(&title(character), user);
        }
        after_cased = is_cased(character);
    }
    changed.finish()
}

/// `strip`, `lstrip` or `rstrip`.
pub(super) fn strip(text: &Text, name: &str, chars: Option<Value>) -> Result<Text> {
    let chars = match chars {
        None | Some(Value::None) => None,
        chars => Some(text_of(name, chars)?),
    };
    let gone = |c: char| match &chars {
        Some(chars) => chars.contains(c),
        None => is_space(c),
    };
    let mut rest: &str = text;
    if name != "rstrip" {
        rest = rest.trim_start_matches(gone);
    }
    if name != "lstrip" {
        rest = rest.trim_end_matches(gone);
    }
    Ok(text.borrowed(rest))
}

/// The bytes between the characters `start` and `stop`; none if the range starts behind its end.
fn within(text: &Text, start: Option<Value>, stop: Option<Value>) -> Result<Option<Range<usize>>> {
    if start.is_none() && stop.is_none() {
        return Ok(Some(0..text.len()));
    }
    let bounds = [start.unwrap_or(Value::None), stop.unwrap_or(Value::None)];
    let range = bounds_of(text.chars().count(), &bounds)?;
    let at = |place: usize| {
        let found = text.char_indices().nth(place);
        found.map_or(text.len(), |(at, _)| at)
    };
    let is_range = range.start <= range.end && range.start <= text.chars().count();
    Ok(is_range.then(|| at(range.start)..at(range.end)))
}

fn split_at_space(text: &str, limit: usize, from_end: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = if from_end {
        text.trim_end_matches(is_space)
    } else {
        text.trim_start_matches(is_space)
    };
    while !rest.is_empty() {
        let space = if from_end {
            rest.rfind(is_space)
        } else {
            rest.find(is_space)
        };
        let Some(space) = space.filter(|_| parts.len() < limit) else {
            // The last part keeps the white space on its other side, if it is cut short.
            let whole = parts.len() >= limit;
            parts.push(match (whole, from_end) {
                (true, true) => rest.trim_end_matches(is_space),
                (true, false) => rest.trim_start_matches(is_space),
                (false, _) => rest,
            });
            break;
        };
        let len = rest[space..].chars().next().map_or(1, char::len_utf8);
        if from_end {
            parts.push(&rest[space + len..]);
            rest = rest[..space].trim_end_matches(is_space);
        } else {
            parts.push(&rest[..space]);
            rest = rest[space + len..].trim_start_matches(is_space);
        }
    }
    if from_end {
        parts.reverse();
    }
    parts
}

/// `splitlines`: more than `\n` ends a line.
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(is_end) {
        let len = if rest[end..].starts_with("\r\n") {
            2
        } else {
            rest[end..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(&rest[..if keep { end + len } else { end }]);
        rest = &rest[end + len..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

pub(super) fn replace(
    run: &mut Interpreter,
    text: &Text,
    old: &Text,
    new: &Text,
    count: usize,
) -> Result<Text> {
    let mut changed = Builder::default();
    let mut at = 0;
    let places: Vec<usize> = text
        .match_indices(&**old)
        .map(|(at, _)| at)
        .take(count)
        .collect();
    run.spend(places.len() as u64)?;
    run.spend_bytes(places.len().saturating_mul(new.len()))?;
    for place in places {
        changed.push_part(text, at..place);
        changed.push(new);
        at = place + old.len();
    }
    changed.push_part(text, at..text.len());
    Ok(changed.finish())
}

/// `center`, `ljust` or `rjust`.
pub(super) fn justify(
    run: &mut Interpreter,
    text: &Text,
    name: &str,
    width: i128,
    fill: &Text,
) -> Result<Text> {
    let len = text.chars().count();
    let missing = usize::try_from(width - len as i128).unwrap_or(0);
    run.spend_bytes(missing.saturating_mul(fill.len()))?;
    let before = match name {
        "rjust" => missing,
        // Python's rounding.
        "center" => missing / 2 + (missing & width as usize & 1),
        _ => 0,
    };
    let mut filled = Builder::default();
    (0..before).for_each(|_| filled.push(fill));
    filled.push(text);
    (before..missing).for_each(|_| filled.push(fill));
    Ok(filled.finish())
}

fn expand_tabs(run: &mut Interpreter, text: &Text, size: i128) -> Result<Text> {
    let mut expanded = Builder::default();
    let mut column = 0_i128;
    for (character, user) in text.characters() {
        match character {
            '\t' => {
                if size > 0 {
                    let missing = size - column % size;
                    run.spend_bytes(usize::try_from(missing).unwrap_or(usize::MAX))?;
                    (0..missing).for_each(|_| expanded.push_char(' ', user));
                    column += missing;
                }
            }
            '\n' | '\r' => {
                column = 0;
                expanded.push_char(character, user);
            }
            _ => {
                column += 1;
                expanded.push_char(character, user);
            }
        }
    }
    Ok(expanded.finish())
}
