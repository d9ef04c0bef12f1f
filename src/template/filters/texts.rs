//! Filters that lay out text.

use std::prelude::rust_2024::*;

use super::{is_true, or_int};
use crate::template::characters::{is_space, is_word};
use crate::template::interpreter::{Args, Interpreter};
use crate::template::methods;
use crate::template::text::{Builder, Text};
use crate::template::value::{Result, Value};

/// Jinja's own title case: a word starts after white space, `-` and brackets.
pub(super) fn title(run: &mut Interpreter, text: &Text) -> Result<Text> {
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

/// The text of a value that must be a string.
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

pub(super) fn indent(run: &mut Interpreter, value: &Value, args: Args) -> Result<Text> {
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

pub(super) fn truncate(run: &mut Interpreter, value: &Value, args: Args) -> Result<Text> {
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
pub(super) fn wordwrap(run: &mut Interpreter, value: &Value, args: Args) -> Result<Text> {
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

/// Adds a line to `lines`, in lines of at most `width` characters: Python's `TextWrapper`.
fn wrap_line<'t>(
    line: &'t str,
    width: usize,
    break_long: bool,
    on_hyphens: bool,
    lines: &mut Vec<&'t str>,
) {
    let mut chunks = chunks(line, on_hyphens);
    chunks.reverse();
    while !chunks.is_empty() {
        if !lines.is_empty() && chunks.last().is_some_and(|chunk| is_blank(chunk)) {
            chunks.pop();
        }
        let (mut taken, len) = take_fitting(&mut chunks, width);
        if let Some(chunk) = chunks.last().copied()
            && count(chunk) > width
        {
            if break_long {
                chunks.pop();
                let end = break_place(chunk, width - len, on_hyphens);
                taken.push(&chunk[..end]);
                if end < chunk.len() {
                    chunks.push(&chunk[end..]);
                }
            } else if taken.is_empty() {
                taken.extend(chunks.pop());
            }
        }
        if taken.last().is_some_and(|chunk| is_blank(chunk)) {
            taken.pop();
        }
        if let (Some(first), Some(last)) = (taken.first(), taken.last()) {
            let start = first.as_ptr() as usize - line.as_ptr() as usize;
            let end = last.as_ptr() as usize - line.as_ptr() as usize + last.len();
            lines.push(&line[start..end]);
        }
    }
}

/// The length in characters.
fn count(text: &str) -> usize {
    text.chars().count()
}

/// Whether a chunk is white space.
fn is_blank(chunk: &str) -> bool {
    chunk.trim_matches(is_wrap_space).is_empty()
}

/// Takes chunks from the end as long as they fit a line; returns how many characters they have.
fn take_fitting<'t>(chunks: &mut Vec<&'t str>, width: usize) -> (Vec<&'t str>, usize) {
    let mut taken = Vec::new();
    let mut len = 0;
    while let Some(chunk) = chunks.last() {
        if len + count(chunk) > width {
            break;
        }
        len += count(chunk);
        taken.extend(chunks.pop());
    }
    (taken, len)
}

/// Where a chunk that is longer than a line is broken: after as many characters as there is room
/// for, or before that at a hyphen.
fn break_place(chunk: &str, room: usize, on_hyphens: bool) -> usize {
    let mut end = room.max(1);
    if on_hyphens && count(chunk) > end {
        let part: Vec<char> = chunk.chars().take(end).collect();
        let hyphen = part.iter().rposition(|c| *c == '-');
        if let Some(hyphen) = hyphen.filter(|at| *at > 0)
            && part[..hyphen].iter().any(|c| *c != '-')
        {
            end = hyphen + 1;
        }
    }
    chunk
        .char_indices()
        .nth(end)
        .map_or(chunk.len(), |(at, _)| at)
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

pub(super) fn strip_tags(run: &mut Interpreter, text: &Text) -> Result<Text> {
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
