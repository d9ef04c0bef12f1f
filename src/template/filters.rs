//! Jinja's filters: `value | name(…)`.

use std::collections::HashSet;
use std::prelude::rust_2024::*;

use super::characters::{is_space, is_word};
use super::format::float_to_int;
use super::interpreter::{Args, Interpreter};
use super::text::{Builder, Text};
use super::value::{Kind, Result, Value};
use super::{json, methods, operators, tests};

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
        "string" => {
            args.none(name)?;
            run.text(&value).map(Value::Str)
        }
        "safe" => {
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
        "center" => {
            let [width] = args.bind(name, ["width"], 0)?;
            let text = run.text(&value)?;
            let space = Text::template(" ");
            let centered = methods::justify(run, &text, name, or_int(width, 80)?, &space);
            centered.map(Value::Str)
        }
        "replace" => replace(run, name, value, args),
        "format" => format(run, value, args),
        "indent" => indent(run, &value, args).map(Value::Str),
        "truncate" => truncate(run, &value, args).map(Value::Str),
        "wordwrap" => wordwrap(run, &value, args).map(Value::Str),
        "wordcount" => {
            args.none(name)?;
            let text = run.text(&value)?;
            let words = text.split(|c| !is_word(c)).filter(|word| !word.is_empty());
            Ok(Value::Int(words.count() as i128))
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

fn float(name: &str, value: Value, args: Args) -> Result<Value> {
    let [default] = args.bind(name, ["default"], 0)?;
    let default = default.unwrap_or(Value::Float(0.0));
    Ok(match &value {
        Value::Undefined(why) => return Err(why.to_string()),
        Value::Str(text) => parse_float(text).map_or(default, Value::Float),
        _ => value.as_float().map_or(default, Value::Float),
    })
}

fn abs(name: &str, value: Value, args: Args) -> Result<Value> {
    args.none(name)?;
    match &value {
        Value::Float(number) => Ok(Value::Float(number.abs())),
        Value::Undefined(why) => Err(why.to_string()),
        _ => match value.as_int() {
            Some(number) => Ok(Value::Int(number.saturating_abs())),
            None => Err(format!(
                "bad operand type for abs(): '{}'",
                value.type_name()
            )),
        },
    }
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

/// Filters of several values.
fn of_sequence(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
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

fn first(run: &mut Interpreter, name: &str, value: Value, args: Args) -> Result<Value> {
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
    // What Python cannot go through backwards becomes a list.
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
        // Equals keep their order in Python, also backwards.
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

fn escape(run: &mut Interpreter, text: &Text) -> Result<Text> {
    run.spend_bytes(text.len() * 5)?;
    Ok(text.map(|text| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('\'', "&#39;")
            .replace('"', "&#34;")
    }))
}

/// Jinja's own title case: a word starts after white space, `-` and brackets.
fn title(run: &mut Interpreter, text: &Text) -> Result<Text> {
    run.spend_bytes(text.len() * 3)?;
    let mut changed = Builder::default();
    let mut starts = true;
    for (character, user) in text.characters() {
        if starts {
            character
                .to_uppercase()
                .for_each(|c| changed.push_char(c, user));
        } else {
            character
                .to_lowercase()
                .for_each(|c| changed.push_char(c, user));
        }
        starts = is_space(character) || "-({[<".contains(character);
    }
    Ok(changed.finish())
}

/// The text that a filter works on which takes nothing else.
fn only_text(filter: &str, value: &Value) -> Result<Text> {
    match value {
        Value::Str(text) => Ok(text.clone()),
        Value::Undefined(why) => Err(why.to_string()),
        _ => Err(format!(
            "{filter}: a string is required, not {}",
            value.type_name()
        )),
    }
}

fn indent(run: &mut Interpreter, value: &Value, args: Args) -> Result<Text> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"], 0)?;
    let text = only_text("indent", value)?;
    let indention = match width {
        Some(Value::Str(indention)) => indention,
        width => {
            let width = usize::try_from(or_int(width, 4)?).unwrap_or(0);
            run.spend_bytes(width)?;
            Text::template(&" ".repeat(width))
        }
    };
    run.spend_bytes(text.len())?;
    let mut whole = Builder::default();
    whole.push(&text);
    whole.push_char('\n', false);
    let whole = whole.finish();
    let mut indented = Builder::default();
    for (index, line) in methods::lines(&whole, false).into_iter().enumerate() {
        if index > 0 {
            indented.push_char('\n', false);
        }
        let wanted = match index {
            0 => is_true(&first),
            _ => !line.is_empty() || is_true(&blank),
        };
        if wanted {
            run.spend_bytes(32 + indention.len())?;
            indented.push(&indention);
        }
        indented.push(&whole.borrowed(line));
    }
    Ok(indented.finish())
}

fn truncate(run: &mut Interpreter, value: &Value, args: Args) -> Result<Text> {
    let [length, kill, end, leeway] =
        args.bind("truncate", ["length", "killwords", "end", "leeway"], 0)?;
    let text = only_text("truncate", value)?;
    let end = match end {
        Some(end) => run.text(&end)?,
        None => Text::template("..."),
    };
    let length = or_int(length, 255)?;
    let leeway = or_int(leeway, 5)?;
    let end_len = end.chars().count() as i128;
    if length < end_len {
        return Err(format!("expected length >= {end_len}, got {length}"));
    }
    if leeway < 0 {
        return Err(format!("expected leeway >= 0, got {leeway}"));
    }
    if text.chars().count() as i128 <= length + leeway {
        return Ok(text);
    }
    let kept = usize::try_from(length - end_len).unwrap_or(0);
    let kept = text
        .char_indices()
        .nth(kept)
        .map_or(text.len(), |(at, _)| at);
    let cut = match text[..kept].rfind(' ') {
        Some(space) if !is_true(&kill) => space,
        _ => kept,
    };
    let mut short = Builder::default();
    short.push_part(&text, 0..cut);
    short.push(&end);
    Ok(short.finish())
}

/// Python's `textwrap.wrap` over each line.
fn wordwrap(run: &mut Interpreter, value: &Value, args: Args) -> Result<Text> {
    let [width, break_long, wrap, on_hyphens] = args.bind(
        "wordwrap",
        [
            "width",
            "break_long_words",
            "wrapstring",
            "break_on_hyphens",
        ],
        0,
    )?;
    let text = only_text("wordwrap", value)?;
    run.spend(text.len() as u64)?;
    let width = usize::try_from(or_int(width, 79)?).unwrap_or(0);
    if width == 0 {
        return Err(format!("invalid width {width} (must be > 0)"));
    }
    let break_long = break_long.is_none_or(|value| value.is_true());
    let on_hyphens = on_hyphens.is_none_or(|value| value.is_true());
    let wrap = match wrap {
        Some(Value::None) | None => Text::template("\n"),
        Some(wrap) => run.text(&wrap)?,
    };
    let mut wrapped = Builder::default();
    let mut first = true;
    for line in methods::lines(&text, false) {
        let mut parts = Vec::new();
        wrap_line(line, width, break_long, on_hyphens, &mut parts);
        if parts.is_empty() {
            parts.push(&line[..0]);
        }
        for part in parts {
            if !std::mem::take(&mut first) {
                run.spend_bytes(wrap.len())?;
                wrapped.push(&wrap);
            }
            wrapped.push(&text.borrowed(part));
        }
    }
    Ok(wrapped.finish())
}

/// White space as `textwrap` knows it.
fn is_wrap_space(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\x0b' | '\x0c' | '\r' | ' ')
}

fn wrap_line<'t>(
    line: &'t str,
    width: usize,
    break_long: bool,
    on_hyphens: bool,
    lines: &mut Vec<&'t str>,
) {
    let count = |text: &str| text.chars().count();
    let mut chunks = chunks(line, on_hyphens);
    chunks.reverse();
    while !chunks.is_empty() {
        if !lines.is_empty()
            && chunks
                .last()
                .is_some_and(|chunk| chunk.trim_matches(is_wrap_space).is_empty())
        {
            chunks.pop();
        }
        let mut taken: Vec<&str> = Vec::new();
        let mut len = 0;
        while let Some(chunk) = chunks.last() {
            if len + count(chunk) > width {
                break;
            }
            len += count(chunk);
            taken.extend(chunks.pop());
        }
        if let Some(chunk) = chunks.last().copied()
            && count(chunk) > width
        {
            if break_long {
                let mut end = (width - len).max(1);
                if width < 1 {
                    end = 1;
                }
                if on_hyphens && count(chunk) > end {
                    let part: Vec<char> = chunk.chars().take(end).collect();
                    let hyphen = part.iter().rposition(|c| *c == '-');
                    if let Some(hyphen) = hyphen.filter(|at| *at > 0)
                        && part[..hyphen].iter().any(|c| *c != '-')
                    {
                        end = hyphen + 1;
                    }
                }
                let end = chunk
                    .char_indices()
                    .nth(end)
                    .map_or(chunk.len(), |(at, _)| at);
                taken.push(&chunk[..end]);
                chunks.pop();
                if end < chunk.len() {
                    chunks.push(&chunk[end..]);
                }
            } else if taken.is_empty() {
                taken.extend(chunks.pop());
            }
        }
        if taken
            .last()
            .is_some_and(|chunk| chunk.trim_matches(is_wrap_space).is_empty())
        {
            taken.pop();
        }
        if let (Some(first), Some(last)) = (taken.first(), taken.last()) {
            let start = first.as_ptr() as usize - line.as_ptr() as usize;
            let end = last.as_ptr() as usize - line.as_ptr() as usize + last.len();
            lines.push(&line[start..end]);
        }
    }
}

/// White space, words, and the parts of words with hyphens.
fn chunks(line: &str, on_hyphens: bool) -> Vec<&str> {
    let mut chunks = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let space = is_wrap_space(first);
        let end = rest
            .find(|c| is_wrap_space(c) != space)
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        if space || !on_hyphens {
            chunks.push(word);
            continue;
        }
        // A hyphen between two letters on each side ends a part.
        let letters: Vec<(usize, char)> = word.char_indices().collect();
        let is_letter = |at: usize| {
            letters
                .get(at)
                .is_some_and(|(_, c)| is_word(*c) && !c.is_numeric() && *c != '_')
        };
        let mut start = 0;
        for (at, (place, c)) in letters.iter().enumerate() {
            let joined = *c == '-'
                && at >= 2
                && is_letter(at - 1)
                && (is_letter(at - 2) || (letters[at - 2].1 == '-'))
                && is_letter(at + 1)
                && (is_letter(at + 2) || letters.get(at + 2).is_some_and(|(_, c)| *c == '-'));
            if joined && *place + 1 > start {
                chunks.push(&word[start..place + 1]);
                start = place + 1;
            }
        }
        if start < word.len() {
            chunks.push(&word[start..]);
        }
    }
    chunks
}

fn strip_tags(run: &mut Interpreter, text: &Text) -> Result<Text> {
    run.spend_bytes(text.len() * 2)?;
    let mut plain = Builder::default();
    let mut at = 0;
    while let Some(start) = text[at..].find('<').map(|start| at + start) {
        let (end, len) = if text[start..].starts_with("<!--") {
            (text[start + 4..].find("-->").map(|end| start + 4 + end), 3)
        } else {
            (text[start..].find('>').map(|end| start + end), 1)
        };
        let Some(end) = end else {
            break;
        };
        plain.push_part(text, at..start);
        at = end + len;
    }
    plain.push_part(text, at..text.len());
    let plain = plain.finish();
    let mut joined = Builder::default();
    for (index, word) in plain
        .split(is_space)
        .filter(|word| !word.is_empty())
        .enumerate()
    {
        if index > 0 {
            joined.push_char(' ', false);
        }
        joined.push(&plain.borrowed(word));
    }
    Ok(joined.finish().map(|text| {
        text.replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&#39;", "'")
            .replace("&#34;", "\"")
            .replace("&quot;", "\"")
            .replace("&amp;", "&")
    }))
}

fn url_encode(run: &mut Interpreter, value: &Value) -> Result<Text> {
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

fn xml_attributes(run: &mut Interpreter, value: &Value, args: Args) -> Result<Text> {
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

fn to_json(run: &mut Interpreter, value: &Value, args: Args) -> Result<Value> {
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

/// Digits with single `_` between them, without these.
fn plain_digits(text: &str) -> Option<String> {
    let wrong = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!wrong).then(|| text.replace('_', ""))
}

/// Python's `float(str)`.
fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let digits = text.trim_start_matches(['+', '-']);
    if text.len() - digits.len() > 1 {
        return None;
    }
    let size = match digits.to_ascii_lowercase().as_str() {
        "nan" => f64::NAN,
        "inf" | "infinity" => f64::INFINITY,
        digits if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
            plain_digits(digits)?.parse().ok()?
        }
        _ => return None,
    };
    Some(if text.starts_with('-') { -size } else { size })
}

/// Python's `int(str, base)`.
fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(is_space);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let prefixed = match prefix.as_deref() {
        Some("0b") => Some(2),
        Some("0o") => Some(8),
        Some("0x") => Some(16),
        _ => None,
    };
    let (digits, base) = match prefixed.filter(|own| base == 0 || base == *own) {
        Some(own) => (digits[2..].strip_prefix('_').unwrap_or(&digits[2..]), own),
        None if base == 0 => (digits, 10),
        None => (digits, base),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let size = i128::from_str_radix(&plain_digits(digits)?, base).ok()?;
    Some(if text.starts_with('-') { -size } else { size })
}

fn to_int(run: &mut Interpreter, value: &Value, args: Args) -> Result<Value> {
    let [default, base] = args.bind("int", ["default", "base"], 0)?;
    let default = default.unwrap_or(Value::Int(0));
    run.spend(value.weight())?;
    Ok(match value {
        Value::Undefined(why) => return Err(why.to_string()),
        Value::Str(text) => {
            let base = u32::try_from(or_int(base, 10)?).unwrap_or(1);
            let parsed = match base {
                0 | 2..=36 => parse_int(text, base),
                _ => None,
            };
            let truncated = || parse_float(text).and_then(|number| float_to_int(number).ok());
            parsed.or_else(truncated).map_or(default, Value::Int)
        }
        Value::Float(number) => float_to_int(*number).map_or(default, Value::Int),
        _ => value.as_int().map_or(default, Value::Int),
    })
}

fn round(value: &Value, args: Args) -> Result<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"], 0)?;
    let precision = i32::try_from(or_int(precision, 0)?)
        .ok()
        .filter(|precision| (-400..=400).contains(precision))
        .ok_or("round: the precision is too large")?;
    let method = match &method {
        None => "common",
        Some(Value::Str(method)) => method,
        Some(_) => "",
    };
    if let Value::Undefined(why) = value {
        return Err(why.to_string());
    }
    let Some(number) = value.as_float() else {
        return Err(format!(
            "type {} doesn't define __round__ method",
            value.type_name()
        ));
    };
    match (method, value.as_int()) {
        ("common", Some(number)) if precision >= 0 => Ok(Value::Int(number)),
        ("common", Some(number)) => {
            let Some(unit) = 10_i128.checked_pow(precision.unsigned_abs()) else {
                return Ok(Value::Int(0));
            };
            let whole = number.div_euclid(unit);
            let rest = number.rem_euclid(unit);
            let up = rest * 2 > unit || (rest * 2 == unit && whole % 2 != 0);
            Ok(Value::Int((whole + i128::from(up)) * unit))
        }
        ("common", None) => Ok(Value::Float(rounded(number, precision))),
        ("ceil" | "floor", _) => {
            let unit = 10_f64.powi(precision);
            let scaled = match method {
                "ceil" => (number * unit).ceil(),
                _ => (number * unit).floor(),
            };
            // An integer in Python, which has no negative zero.
            let scaled = float_to_int(scaled)? as f64;
            Ok(Value::Float(scaled / unit))
        }
        _ => Err("method must be common, ceil or floor".into()),
    }
}

/// Python's `round`: to even, of the exact decimal value.
fn rounded(number: f64, precision: i32) -> f64 {
    if !number.is_finite() || precision > 330 {
        return number;
    }
    if let Ok(decimals) = usize::try_from(precision) {
        return format!("{number:.decimals$}").parse().unwrap_or(number);
    }
    let unit = 10_f64.powi(-precision);
    let scaled = (number / unit).round_ties_even();
    if unit.is_infinite() {
        0.0
    } else {
        scaled * unit
    }
}

fn file_size(run: &mut Interpreter, value: &Value, args: Args) -> Result<Value> {
    let [binary] = args.bind("filesizeformat", ["binary"], 0)?;
    let binary = is_true(&binary);
    let size = match value {
        Value::Undefined(why) => return Err(why.to_string()),
        Value::Str(text) => parse_float(text),
        _ => value.as_float(),
    };
    run.spend(1)?;
    let Some(size) = size else {
        return Err("could not convert the value to float".into());
    };
    let base = if binary { 1024.0 } else { 1000.0 };
    if size == 1.0 {
        return Ok(Value::str("1 Byte"));
    }
    if size < base {
        return Ok(Value::str(&format!("{} Bytes", size as i64)));
    }
    let names = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let mut unit = base;
    let mut last = String::new();
    for name in names {
        unit *= base;
        let letter = if binary {
            name.to_uppercase() + "i"
        } else {
            name.to_owned()
        };
        last = format!("{:.1} {letter}B", base * size / unit);
        if size < unit {
            break;
        }
    }
    Ok(Value::str(&last))
}
