//! Jinja source to tokens, with `trim_blocks` and `lstrip_blocks` on.

use std::prelude::rust_2024::*;
use std::str::Chars;

use super::characters::{is_space, is_word};

/// A token and the line it starts in.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Text outside of tags.
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Sign(&'static str),
    End,
}

/// All signs, the longer ones first.
const SIGNS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",", ";",
];

/// What is wrong, and in which line.
pub(super) type Wrong = (String, usize);

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

/// The tokens of `source`; the last is [`Kind::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, Wrong> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    // Jinja drops one line break at the end.
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer {
        source: &source,
        at: 0,
        line: 1,
        tokens: Vec::new(),
    };
    lexer.data()?;
    Ok(lexer.tokens)
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn skip(&mut self, bytes: usize) {
        let skipped = &self.source[self.at..self.at + bytes];
        self.line += skipped.matches('\n').count();
        self.at += bytes;
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.skip(rest.len() - rest.trim_start_matches(is_space).len());
    }

    fn skip_if(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.skip(text.len());
        }
        found
    }

    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token {
            line: self.line,
            kind,
        });
    }

    fn wrong<T>(&self, what: impl Into<String>) -> Result<T, Wrong> {
        Err((what.into(), self.line))
    }

    /// The whole source: text, and the tags in it.
    fn data(&mut self) -> Result<(), Wrong> {
        loop {
            let rest = self.rest();
            let tag = ["{{", "{%", "{#"]
                .iter()
                .filter_map(|tag| rest.find(tag))
                .min();
            let Some(tag) = tag else {
                self.push_data(rest);
                self.skip(rest.len());
                self.push(Kind::End);
                return Ok(());
            };
            let text = &rest[..tag];
            let (begin, after) = rest[tag..].split_at(2);
            let sign = after
                .chars()
                .next()
                .filter(|sign| matches!(sign, '-' | '+'));
            self.push_data(self.stripped(text, sign, begin != "{{"));
            self.skip(tag + 2 + sign.map_or(0, char::len_utf8));
            match begin {
                "{#" => self.comment()?,
                "{%" if self.raw()? => {}
                "{%" => self.tag(Kind::BlockBegin, "%}", Kind::BlockEnd)?,
                _ => self.tag(Kind::VariableBegin, "}}", Kind::VariableEnd)?,
            }
        }
    }

    fn push_data(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Kind::Data(text.into()));
        }
    }

    /// `text`, which is at the current place, without the white space that the tag after it
    /// removes.
    fn stripped<'t>(&self, text: &'t str, sign: Option<char>, block: bool) -> &'t str {
        match sign {
            Some('-') => text.trim_end_matches(is_space),
            None if block => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                let starts = line > 0 || self.at == 0 || self.source[..self.at].ends_with('\n');
                if starts && text[line..].chars().all(is_space) {
                    &text[..line]
                } else {
                    text
                }
            }
            _ => text,
        }
    }

    /// Skips the end of a block or a comment, and the white space that it removes.
    fn block_end(&mut self, end: &str) -> bool {
        let rest = self.rest();
        if rest
            .strip_prefix('-')
            .is_some_and(|rest| rest.starts_with(end))
        {
            self.skip(1 + end.len());
            self.skip_space();
        } else if rest
            .strip_prefix('+')
            .is_some_and(|rest| rest.starts_with(end))
        {
            self.skip(1 + end.len());
        } else if rest.starts_with(end) {
            self.skip(end.len());
            self.skip_if("\n");
        } else {
            return false;
        }
        true
    }

    fn comment(&mut self) -> Result<(), Wrong> {
        let Some(end) = self.rest().find("#}") else {
            return self.wrong("Missing end of comment tag");
        };
        let signed = end > 0 && matches!(self.rest().as_bytes()[end - 1], b'-' | b'+');
        self.skip(end - usize::from(signed));
        self.block_end("#}");
        Ok(())
    }

    /// A `raw` block, if this is one.
    fn raw(&mut self) -> Result<bool, Wrong> {
        let after = self.rest().trim_start_matches(is_space);
        let Some(after) = after.strip_prefix("raw") else {
            return Ok(false);
        };
        let after = after.trim_start_matches(is_space);
        if let Some(after) = after.strip_prefix("-%}") {
            self.skip(self.rest().len() - after.len());
            self.skip_space();
        } else if let Some(after) = after.strip_prefix("%}") {
            self.skip(self.rest().len() - after.len());
        } else {
            return Ok(false);
        }
        let rest = self.rest();
        for (end, _) in rest.match_indices("{%") {
            let after = &rest[end + 2..];
            let sign = after
                .chars()
                .next()
                .filter(|sign| matches!(sign, '-' | '+'));
            let tag = &after[sign.map_or(0, char::len_utf8)..];
            let Some(tag) = tag.trim_start_matches(is_space).strip_prefix("endraw") else {
                continue;
            };
            let tag = tag.trim_start_matches(is_space);
            if ["%}", "-%}", "+%}"].iter().any(|end| tag.starts_with(end)) {
                self.push_data(self.stripped(&rest[..end], sign, true));
                self.skip(rest.len() - tag.len());
                self.block_end("%}");
                return Ok(true);
            }
        }
        self.wrong("Missing end of raw directive")
    }

    /// What is between the start of a tag and its `end`.
    fn tag(&mut self, begin: Kind, end: &str, last: Kind) -> Result<(), Wrong> {
        self.push(begin);
        let mut open = Vec::new();
        loop {
            self.skip_space();
            if open.is_empty() {
                let line = self.line;
                if self.tag_end(end, &last) {
                    self.tokens.push(Token { line, kind: last });
                    return Ok(());
                }
            }
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return self.wrong(format!("the tag has no `{end}`"));
            };
            if self.number()? || self.string()? {
                continue;
            }
            if is_word(first) {
                let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                if first.is_numeric() {
                    return self.wrong("Invalid character in identifier");
                }
                self.push(Kind::Name(rest[..len].into()));
                self.skip(len);
                continue;
            }
            let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) else {
                return self.wrong(format!("unexpected character {first:?}"));
            };
            self.match_bracket(sign, &mut open)?;
            self.push(Kind::Sign(sign));
            self.skip(sign.len());
        }
    }

    /// Takes the end of a tag, if it is next.
    fn tag_end(&mut self, end: &str, last: &Kind) -> bool {
        if *last == Kind::BlockEnd {
            self.block_end(end)
        } else if self.skip_if("-}}") {
            self.skip_space();
            true
        } else {
            self.skip_if("}}")
        }
    }

    /// Opens or closes a bracket; `open` has the signs that close those that are open.
    fn match_bracket(&self, sign: &str, open: &mut Vec<&'static str>) -> Result<(), Wrong> {
        match sign {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" => match open.pop() {
                Some(expected) if expected == sign => {}
                Some(expected) => {
                    return self.wrong(format!("unexpected '{sign}', expected '{expected}'"));
                }
                None => return self.wrong(format!("unexpected '{sign}'")),
            },
            _ => {}
        }
        Ok(())
    }

    fn number(&mut self) -> Result<bool, Wrong> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        if !bytes.first().is_some_and(u8::is_ascii_digit) {
            return Ok(false);
        }
        let whole = digits_end(bytes, 0, u8::is_ascii_digit);
        // Behind a dot a number is whole: `list.0.1`.
        let end = if self.source[..self.at].ends_with('.') {
            whole
        } else {
            float_end(bytes, whole)
        };
        if end > whole {
            let number = rest[..end].replace('_', "").parse();
            self.push(Kind::Float(number.unwrap_or(f64::INFINITY)));
            self.skip(end);
            return Ok(true);
        }
        let (number, end) = integer(rest, whole);
        match number {
            Some(number) => self.push(Kind::Int(number)),
            None => return self.wrong("the number is too large"),
        }
        self.skip(end);
        Ok(true)
    }

    fn string(&mut self) -> Result<bool, Wrong> {
        let rest = self.rest();
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
            return Ok(false);
        };
        let mut escaped = false;
        let end = rest[1..].find(|c| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end else {
            return self.wrong(format!("unexpected character {quote:?}"));
        };
        match unescape(&rest[1..1 + end]) {
            Ok(text) => self.push(Kind::Str(text)),
            Err(what) => return self.wrong(what),
        }
        self.skip(end + 2);
        Ok(true)
    }
}

type IsDigit = fn(&u8) -> bool;

/// The end of digits with single `_` between them.
fn digits_end(bytes: &[u8], from: usize, is_digit: IsDigit) -> usize {
    let mut at = from;
    while bytes.get(at).is_some_and(is_digit)
        || (at > from && bytes.get(at) == Some(&b'_') && bytes.get(at + 1).is_some_and(is_digit))
    {
        at += 1;
    }
    at
}

/// The end of a number whose digits before the point end at `whole`: behind its fraction and its
/// exponent, if it has them.
fn float_end(bytes: &[u8], whole: usize) -> usize {
    let mut end = whole;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits_end(bytes, end + 1, u8::is_ascii_digit);
        end = if fraction > end + 1 { fraction } else { end };
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let signed = matches!(bytes.get(end + 1), Some(b'+' | b'-'));
        let start = end + 1 + usize::from(signed);
        let exponent = digits_end(bytes, start, u8::is_ascii_digit);
        end = if exponent > start { exponent } else { end };
    }
    end
}

/// The integer at the start of `rest`, whose decimal digits end at `whole`, and its end. `None`: it
/// is too large.
fn integer(rest: &str, whole: usize) -> (Option<i128>, usize) {
    let bytes = rest.as_bytes();
    let (radix, is_digit): (u32, IsDigit) = match bytes.get(1) {
        Some(b'b' | b'B') => (2, |digit| matches!(digit, b'0' | b'1')),
        Some(b'o' | b'O') => (8, |digit| matches!(digit, b'0'..=b'7')),
        Some(b'x' | b'X') => (16, u8::is_ascii_hexdigit),
        _ => (10, u8::is_ascii_digit),
    };
    let mut end = whole;
    let mut text = &rest[..whole];
    let mut base = 10;
    if bytes[0] == b'0' {
        // After the letter, a `_` may come first.
        let start = 2 + usize::from(bytes.get(2) == Some(&b'_'));
        let prefixed = digits_end(bytes, start, is_digit);
        if radix != 10 && prefixed > start {
            (end, text, base) = (prefixed, &rest[start..prefixed], radix);
        } else {
            end = digits_end(bytes, 0, |digit| *digit == b'0');
            text = "0";
        }
    }
    let number = i128::from_str_radix(&text.replace('_', ""), base);
    (number.ok(), end)
}

/// A string literal's value: Python's `unicode-escape` over the text with everything beyond ASCII
/// written as escapes, so `\é` is `\\xe9`.
fn unescape(literal: &str) -> Result<String, String> {
    let mut text = String::with_capacity(literal.len());
    let mut rest = literal.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            text.push(character);
            continue;
        }
        let escape = rest.next().ok_or("\\ at end of string")?;
        if escape == '\n' {
            continue;
        }
        let Some(code) = escape_code(escape, &mut rest)? else {
            push_unknown(&mut text, escape);
            continue;
        };
        let character = char::from_u32(code);
        text.push(
            character
                .ok_or_else(|| format!("the escape for code point {code:#x} is not a character"))?,
        );
    }
    Ok(text)
}

/// The code point that an escape stands for; `rest` follows its first character. `None`: it has no
/// meaning.
fn escape_code(escape: char, rest: &mut Chars<'_>) -> Result<Option<u32>, String> {
    Ok(Some(match escape {
        '\\' | '\'' | '"' => u32::from(escape),
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => 10,
        'r' => 13,
        't' => 9,
        'v' => 11,
        'x' => hex(rest, 2).ok_or("truncated \\xXX escape")?,
        'u' => hex(rest, 4).ok_or("truncated \\uXXXX escape")?,
        'U' => hex(rest, 8).ok_or("truncated \\UXXXXXXXX escape")?,
        '0'..='7' => octal(escape, rest),
        'N' => u32::from(named_character(rest)?),
        _ => return Ok(None),
    }))
}

/// A number of so many hexadecimal digits.
fn hex(rest: &mut Chars<'_>, digits: usize) -> Option<u32> {
    let hex = rest.as_str().get(..digits)?;
    let number = u32::from_str_radix(hex, 16).ok()?;
    let only_digits = hex.bytes().all(|digit| digit.is_ascii_hexdigit());
    *rest = rest.as_str()[digits..].chars();
    only_digits.then_some(number)
}

/// A number of up to three octal digits, of which the first is taken.
fn octal(first: char, rest: &mut Chars<'_>) -> u32 {
    let mut code = first.to_digit(8).unwrap_or_default();
    for _ in 0..2 {
        let Some(digit) = rest.clone().next().and_then(|c| c.to_digit(8)) else {
            break;
        };
        rest.next();
        code = code * 8 + digit;
    }
    code
}

/// The character whose name in braces is next.
fn named_character(rest: &mut Chars<'_>) -> Result<char, String> {
    let name = rest
        .as_str()
        .strip_prefix('{')
        .and_then(|rest| rest.split_once('}'));
    let (name, after) = name.ok_or("malformed \\N character escape")?;
    // `unicode_names2` expects only characters that occur in names.
    let is_edge = |c: char| c.is_ascii_alphanumeric();
    let is_inner = |c: char| is_edge(c) || matches!(c, ' ' | '-');
    let is_name =
        name.starts_with(is_edge) && name.ends_with(is_edge) && name.chars().all(is_inner);
    let character = if is_name {
        unicode_names2::character(name)
    } else {
        None
    };
    *rest = after.chars();
    character.ok_or_else(|| format!("unknown Unicode character name: {name}"))
}

/// An escape without a meaning stays as it is.
fn push_unknown(text: &mut String, escape: char) {
    text.push('\\');
    match u32::from(escape) {
        0..0x80 => text.push(escape),
        code @ 0x80..0x100 => text.push_str(&format!("x{code:02x}")),
        code @ 0x100..0x1_0000 => text.push_str(&format!("u{code:04x}")),
        code => text.push_str(&format!("U{code:08x}")),
    }
}
