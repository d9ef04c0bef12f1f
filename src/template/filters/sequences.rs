//! Filters of several values.

use std::collections::HashSet;
use std::prelude::rust_2024::*;

use super::{is_true, or_int};
use crate::template::interpreter::{Args, Interpreter};
use crate::template::text::Builder;
use crate::template::value::{Kind, Result, Value};
use crate::template::{json, methods, operators, tests};

/// Filters of several values.
pub(super) fn of_sequence(
    run: &mut Interpreter,
    name: &str,
    value: Value,
    args: Args,
) -> Result<Value> {
    match name {
        "first" => first(run, name, value, args),
        "last" => {
            args.none(name)?;
            reversible(&value)?;
            let last = run.iterate(&value)?.pop();
            Ok(last.unwrap_or_else(|| empty("No last item, sequence was empty.")))
        }
        "reverse" => reverse(run, name, value, args),
        "join" => join(run, name, value, args),
        "map" => map(run, value, args),
        "select" | "reject" | "selectattr" | "rejectattr" => select(run, name, value, args),
        "sort" => sort(run, name, value, args),
        "dictsort" => sort_dict(run, name, value, args),
        "min" | "max" => extreme(run, name, value, args),
        "sum" => sum(run, name, value, args),
        "unique" => unique(run, name, value, args),
        "groupby" => group_by(run, name, value, args),
        "batch" => batch(run, name, value, args),
        "slice" => slice(run, name, value, args),
        _ => Err(format!("No filter named '{name}'.")),
    }
}

pub(super) fn first(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    args.none(name)?;
    if let Value::Object(at, Kind::Generator) = value {
        let first = run.next_of(at);
        return Ok(first.unwrap_or_else(|| empty("No first item, sequence was empty.")));
    }
    let first = run.iterate(&value)?.into_iter().next();
    Ok(first.unwrap_or_else(|| empty("No first item, sequence was empty.")))
}

fn reverse(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    args.none(name)?;
    if let Value::Str(text) = &value {
        run.spend(value.weight())?;
        let characters: Vec<_> = text.characters().collect();
        let mut reversed = Builder::default();
        for (character, user) in characters.into_iter().rev() {
            reversed.push_char(character, user);
        }
        return Ok(Value::Str(reversed.finish()));
    }
    let items = run.iterate(&value);
    let mut items = items.map_err(|_| "argument must be iterable")?;
    items.reverse();
    // The result is a list if Python cannot iterate the value backwards.
    match reversible(&value) {
        Ok(()) => run.generator(items),
        Err(_) => Value::list(items),
    }
}

fn join(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    let [separator, attribute] = args.bind(name, ["d", "attribute"], 0)?;
    let separator = run.text(&separator.unwrap_or_else(|| Value::str("")))?;
    let path = attribute
        .map(|attribute| path(run, &attribute))
        .transpose()?;
    let mut joined = Builder::default();
    for (index, item) in run.iterate(&value)?.into_iter().enumerate() {
        let item = follow(run, item, path.as_deref(), None)?;
        if index > 0 {
            run.spend_bytes(separator.len())?;
            joined.push(&separator);
        }
        run.write(&mut joined, &item, false)?;
    }
    Ok(Value::Str(joined.finish()))
}

fn sort(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    let [reverse, sensitive, attribute] =
        args.bind(name, ["reverse", "case_sensitive", "attribute"], 0)?;
    let mut paths = vec![None];
    match &attribute {
        None | Some(Value::None) => {}
        Some(Value::Str(text)) => {
            paths = Vec::new();
            for part in text.split(',') {
                paths.push(Some(path(run, &Value::str(part))?));
            }
        }
        Some(attribute) => paths = vec![Some(path(run, attribute)?)],
    }
    let mut keyed = Vec::new();
    for item in run.iterate(&value)? {
        let mut keys = Vec::new();
        for path in &paths {
            let key = follow(run, item.clone(), path.as_deref(), None)?;
            keys.push(ignoring_case(run, key, is_true(&sensitive))?);
        }
        keyed.push((Value::list(keys)?, item));
    }
    sorted(run, &mut keyed, is_true(&reverse))?;
    Value::list(keyed.into_iter().map(|(_, item)| item).collect())
}

fn sort_dict(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    let [sensitive, by, reverse] = args.bind(name, ["case_sensitive", "by", "reverse"], 0)?;
    let by = match by.as_ref().and_then(Value::as_text).map_or("key", |by| by) {
        "key" => 0,
        "value" => 1,
        _ => return Err("You can only sort by either \"key\" or \"value\"".into()),
    };
    let items = run.attribute(&value, "items")?;
    let items = run.call(items, Args::default())?;
    let mut keyed = Vec::new();
    for item in run.iterate(&items)? {
        let key = run.item(&item, &Value::Int(by))?;
        keyed.push((ignoring_case(run, key, is_true(&sensitive))?, item));
    }
    sorted(run, &mut keyed, is_true(&reverse))?;
    Value::list(keyed.into_iter().map(|(_, item)| item).collect())
}

fn extreme(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    let [sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"], 0)?;
    let path = optional_path(run, attribute)?;
    let mut best: Option<(Value, Value)> = None;
    for item in run.iterate(&value)? {
        let key = follow(run, item.clone(), path.as_deref(), None)?;
        let key = ignoring_case(run, key, is_true(&sensitive))?;
        let sign = if name == "min" { "<" } else { ">" };
        let better = match &best {
            None => true,
            Some((other, _)) => operators::compare(run, &key, sign, other)?,
        };
        if better {
            best = Some((key, item));
        }
    }
    let found = best.map(|(_, item)| item);
    Ok(found.unwrap_or_else(|| empty("No aggregated item, sequence was empty.")))
}

fn sum(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    let [attribute, start] = args.bind(name, ["attribute", "start"], 0)?;
    let path = optional_path(run, attribute)?;
    let mut sum = start.unwrap_or(Value::Int(0));
    if matches!(sum, Value::Str(_)) {
        return Err("sum() can't sum strings [use ''.join(seq) instead]".into());
    }
    for item in run.iterate(&value)? {
        let item = follow(run, item, path.as_deref(), None)?;
        sum = operators::math(run, &sum, "+", &item)?;
    }
    Ok(sum)
}

fn unique(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    let [sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"], 0)?;
    let path = optional_path(run, attribute)?;
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for item in run.iterate(&value)? {
        let key = follow(run, item.clone(), path.as_deref(), None)?;
        let key = ignoring_case(run, key, is_true(&sensitive))?;
        run.spend(key.weight())?;
        if seen.insert(key.key()?) {
            kept.push(item);
        }
    }
    run.generator(kept)
}

fn group_by(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    let [attribute, default, sensitive] =
        args.bind(name, ["attribute", "default", "case_sensitive"], 1)?;
    let path = path(run, &attribute.unwrap_or(Value::None))?;
    let mut keyed = Vec::new();
    for item in run.iterate(&value)? {
        let key = follow(run, item.clone(), Some(&path), default.as_ref())?;
        keyed.push((
            ignoring_case(run, key.clone(), is_true(&sensitive))?,
            (key, item),
        ));
    }
    sorted(run, &mut keyed, false)?;
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for (key, (shown, item)) in keyed {
        match groups.last_mut() {
            Some((other, _, items)) if other.equals(&key) => items.push(item),
            _ => groups.push((key, shown, vec![item])),
        }
    }
    let groups = groups
        .into_iter()
        .map(|(_, key, items)| Value::group(key, items));
    Value::list(groups.collect::<Result<_>>()?)
}

fn batch(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    let [size, fill] = args.bind(name, ["linecount", "fill_with"], 1)?;
    let size = or_int(size, 0)?;
    let mut batches = Vec::new();
    let mut batch: Vec<Value> = Vec::new();
    for item in run.iterate(&value)? {
        if batch.len() as i128 == size {
            batches.push(Value::list(std::mem::take(&mut batch))?);
        }
        batch.push(item);
    }
    if !batch.is_empty() {
        let missing = usize::try_from(size - batch.len() as i128).unwrap_or(0);
        if let Some(fill) = fill.filter(|fill| !matches!(fill, Value::None)) {
            run.spend(missing as u64)?;
            batch.extend(std::iter::repeat_n(fill, missing));
        }
        batches.push(Value::list(batch)?);
    }
    run.generator(batches)
}

fn slice(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
    let [slices, fill] = args.bind(name, ["slices", "fill_with"], 1)?;
    let slices = usize::try_from(or_int(slices, 0)?).unwrap_or(0);
    let items = run.iterate(&value)?;
    if slices == 0 {
        return Err("integer division or modulo by zero".into());
    }
    run.spend(slices as u64)?;
    let size = items.len() / slices;
    let longer = items.len() % slices;
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let mut parts = Vec::new();
    let mut at = 0;
    for index in 0..slices {
        let end = at + size + usize::from(index < longer);
        let mut part = items[at..end].to_vec();
        if let Some(fill) = fill.as_ref().filter(|_| index >= longer) {
            part.push(fill.clone());
        }
        parts.push(Value::list(part)?);
        at = end;
    }
    run.generator(parts)
}

fn empty(why: &str) -> Value {
    Value::undefined(why)
}

/// Whether Python's `reversed` takes `value`.
fn reversible(value: &Value) -> Result<()> {
    match value {
        Value::Object(..) | Value::None | Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
            Err(format!("'{}' object is not reversible", value.type_name()))
        }
        _ => Ok(()),
    }
}

/// Strings in lower case, unless case counts.
fn ignoring_case(run: &mut Interpreter, key: Value, sensitive: bool) -> Result<Value> {
    match &key {
        Value::Str(_) if !sensitive => methods::call(run, &key, "lower", Args::default()),
        _ => Ok(key),
    }
}

fn sorted<T>(run: &mut Interpreter, keyed: &mut [(Value, T)], reverse: bool) -> Result<()> {
    if reverse {
        // As in Python, equal items keep their order, even in a reverse sort.
        keyed.reverse();
    }
    json::sort(run, keyed, |(key, _)| key)?;
    if reverse {
        keyed.reverse();
    }
    Ok(())
}

/// The parts of an attribute such as `function.name`.
fn path(run: &mut Interpreter, attribute: &Value) -> Result<Vec<Value>> {
    run.spend(attribute.weight())?;
    Ok(match attribute {
        Value::None => Vec::new(),
        Value::Str(text) => text
            .split('.')
            .map(|part| match part.parse() {
                Ok(number) if part.bytes().all(|byte| byte.is_ascii_digit()) => Value::Int(number),
                _ => Value::str(part),
            })
            .collect(),
        _ => vec![attribute.clone()],
    })
}

fn optional_path(run: &mut Interpreter, attribute: Option<Value>) -> Result<Option<Vec<Value>>> {
    attribute.map(|attribute| path(run, &attribute)).transpose()
}

fn follow(
    run: &mut Interpreter,
    mut item: Value,
    path: Option<&[Value]>,
    default: Option<&Value>,
) -> Result<Value> {
    for part in path.unwrap_or_default() {
        run.spend(1)?;
        item = run.item(&item, part)?;
        if let Some(default) = default.filter(|default| !matches!(default, Value::None))
            && item.is_undefined()
        {
            item = default.clone();
        }
    }
    Ok(item)
}

fn map(run: &mut Interpreter, value: Value, mut args: Args) -> Result<Value> {
    let mut mapped = Vec::new();
    if !value.is_true() {
        return run.generator(mapped);
    }
    if args.positional.is_empty() {
        let [attribute, default] = args.bind("map", ["attribute", "default"], 0)?;
        let Some(attribute) = attribute else {
            return Err("map requires a filter argument".into());
        };
        let path = path(run, &attribute)?;
        for item in run.iterate(&value)? {
            mapped.push(follow(run, item, Some(&path), default.as_ref())?);
        }
    } else {
        let filter = run.text(&args.positional.remove(0))?;
        for item in run.iterate(&value)? {
            run.spend(1 + args.positional.len() as u64)?;
            let args = Args {
                positional: args.positional.clone(),
                named: args.named.clone(),
            };
            mapped.push(run.filter(&filter, item, args)?);
        }
    }
    run.generator(mapped)
}

/// `select`, `reject`, `selectattr` and `rejectattr`.
fn select(run: &mut Interpreter, name: &str, value: Value, mut args: Args) -> Result<Value> {
    let mut kept = Vec::new();
    if value.is_true() {
        let path = match name.strip_suffix("attr") {
            Some(_) if args.positional.is_empty() => {
                return Err("Missing parameter for attribute name".into());
            }
            Some(_) => Some(path(run, &args.positional.remove(0))?),
            None => None,
        };
        let test = if args.positional.is_empty() {
            None
        } else {
            Some(run.text(&args.positional.remove(0))?)
        };
        for item in run.iterate(&value)? {
            run.spend(1 + args.positional.len() as u64)?;
            let tested = follow(run, item.clone(), path.as_deref(), None)?;
            let args = Args {
                positional: args.positional.clone(),
                named: args.named.clone(),
            };
            let passed = match &test {
                Some(test) => tests::apply(run, test, &tested, args)?,
                None => tested.is_true(),
            };
            if passed == name.starts_with("select") {
                kept.push(item);
            }
        }
    }
    run.generator(kept)
}
