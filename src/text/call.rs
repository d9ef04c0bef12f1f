//! [`Call`]: a tool call in the text of a model, read in place.

use core::str::Chars;

/// A call of a tool, in the text that a model has written under a grammar of tools.
///
/// It is read in each of the forms that `import::grammar::ToolForm` has. A text is read from its
/// start; what is no call is passed over.
///
/// ```
/// use pocketlm::text::{Call, Value};
///
/// let text = "<start_function_call>call:timer{label:<escape>tea, {hot}<escape>,minutes:5}<end_function_call>";
/// let call = Call::all(text).next().unwrap();
/// assert_eq!(call.name(), "timer");
/// let mut arguments = call.arguments();
/// let (name, label) = arguments.next().unwrap();
/// assert!(name == "label" && label.is_text("tea, {hot}"));
/// let (name, minutes) = arguments.next().unwrap();
/// assert_eq!((name, minutes), ("minutes", Value::Other("5")));
/// assert_eq!(minutes.integer(), Some(5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Call<'t> {
    name: &'t str,
    arguments: &'t str,
    form: Form,
}

/// A value in a call.
///
/// Example: [`Call`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Value<'t> {
    /// A text.
    Text(&'t str),
    /// A text as it is written, some characters with a backslash: see [`chars`](Value::chars).
    Escaped(&'t str),
    /// Anything else as it is written: a number, a truth value, a list, an object.
    Other(&'t str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
enum Form {
    Gemma,
    Json,
    Python,
}

/// What stands on both sides of a text of FunctionGemma.
const ESCAPE: &str = "<escape>";
const SPACE: [char; 4] = [' ', '\n', '\r', '\t'];
/// What the calls of LFM2 begin with.
const PYTHON: &str = "<|tool_call_start|>[";

impl<'t> Call<'t> {
    /// All calls in `text`, in their order.
    pub fn all(text: &'t str) -> impl Iterator<Item = Call<'t>> {
        let mut rest = text;
        let mut in_python = false;
        core::iter::from_fn(move || {
            let (call, after) = Call::first(rest, in_python)?;
            in_python = call.form == Form::Python;
            rest = after;
            Some(call)
        })
    }

    /// The name of the tool.
    pub fn name(&self) -> &'t str {
        self.name
    }

    /// The names of the arguments and their values.
    pub fn arguments(&self) -> impl Iterator<Item = (&'t str, Value<'t>)> + use<'t> {
        let form = self.form;
        let mut rest = self.arguments;
        core::iter::from_fn(move || {
            rest = rest.trim_start_matches(',').trim_start_matches(SPACE);
            let (name, after) = match form {
                Form::Gemma => split(rest, ":")?,
                Form::Python => split(rest, "=")?,
                Form::Json => {
                    let (name, after) = quoted(rest)?;
                    (name, split(after, ":")?.1)
                }
            };
            let after = after.trim_start_matches(SPACE);
            let value;
            (value, rest) = match form {
                Form::Gemma if after.starts_with(ESCAPE) => {
                    let (text, after) = split(after.strip_prefix(ESCAPE)?, ESCAPE)?;
                    (Value::Text(text), after)
                }
                Form::Json | Form::Python if after.starts_with('"') => {
                    let (text, after) = quoted(after)?;
                    (Value::Escaped(text), after)
                }
                _ => {
                    let (value, after) = after.split_at_checked(end_of_value(after, form))?;
                    (Value::Other(value.trim_end_matches(SPACE)), after)
                }
            };
            Some((name, value))
        })
    }

    /// The first call of a text, and what follows it.
    fn first(text: &'t str, in_python: bool) -> Option<(Self, &'t str)> {
        let python = if in_python {
            text.strip_prefix(", ")
        } else {
            None
        };
        let python = python.or_else(|| split(text, PYTHON).map(|(_, after)| after));
        let (name, rest, form) = if let Some(after) = python {
            let (name, after) = split(after, "(")?;
            (name, after, Form::Python)
        } else if let Some((_, after)) = split(text, "call:") {
            let (name, after) = split(after, "{")?;
            (name, after, Form::Gemma)
        } else {
            let (_, after) = split(text, "\"name\"")?;
            let (name, after) = quoted(split(after, ":")?.1.trim_start_matches(SPACE))?;
            let (_, after) = split(after, "{")?;
            (name, after, Form::Json)
        };
        let end = end_of_arguments(rest, form);
        let (arguments, after) = rest.split_at_checked(end)?;
        let call = Call {
            name,
            arguments,
            form,
        };
        Some((call, after.get(1..)?))
    }
}

impl<'t> Value<'t> {
    /// The characters of a text, or of another value as it is written.
    pub fn chars(&self) -> impl Iterator<Item = char> + use<'t> {
        let (Value::Text(text) | Value::Escaped(text) | Value::Other(text)) = *self;
        Characters {
            rest: text.chars(),
            escapes: matches!(self, Value::Escaped(_)),
        }
    }

    /// Whether the value is this text.
    pub fn is_text(&self, text: &str) -> bool {
        !matches!(self, Value::Other(_)) && self.chars().eq(text.chars())
    }

    /// The value as an integer, if it is one.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Value::Other(text) => text.parse().ok(),
            Value::Text(_) | Value::Escaped(_) => None,
        }
    }
}

/// Characters, of which some are written with a backslash.
struct Characters<'t> {
    rest: Chars<'t>,
    escapes: bool,
}

impl Iterator for Characters<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next()?;
        if next != '\\' || !self.escapes {
            return Some(next);
        }
        Some(match self.rest.next()? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => {
                let mut code = 0;
                for _ in 0..4 {
                    code = code << 4 | self.rest.next()?.to_digit(16)?;
                }
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            other => other,
        })
    }
}

/// What stands before and after the first `separator`. The search of `core` is far more code, and
/// can panic.
fn split<'t>(text: &'t str, separator: &str) -> Option<(&'t str, &'t str)> {
    let at = (0..text.len()).find(|at| {
        let rest = text.as_bytes().get(*at..).unwrap_or_default();
        rest.starts_with(separator.as_bytes())
    })?;
    Some((text.get(..at)?, text.get(at + separator.len()..)?))
}

/// What stands between the quotes at the start of `text`, and what follows them.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('"')?;
    let mut escaped = false;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some((inside.get(..at)?, inside.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}

/// Where the bracket ends that was opened before `text`.
fn end_of_arguments(text: &str, form: Form) -> usize {
    scan(text, form, false)
}

/// Where a value ends: at a comma or a bracket.
fn end_of_value(text: &str, form: Form) -> usize {
    scan(text, form, true)
}

fn scan(text: &str, form: Form, to_comma: bool) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let string = match form {
            Form::Gemma => rest
                .strip_prefix(ESCAPE)
                .and_then(|rest| split(rest, ESCAPE)),
            Form::Json | Form::Python => quoted(rest),
        };
        if let Some((_, after)) = string {
            at = text.len() - after.len();
            continue;
        }
        let next = rest.chars().next().unwrap_or_default();
        match next {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' if depth == 0 => return at,
            '}' | ']' | ')' => depth -= 1,
            ',' if depth == 0 && to_comma => return at,
            _ => {}
        }
        at += next.len_utf8();
    }
    text.len()
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;
    use std::prelude::rust_2024::*;

    use super::*;

    fn read(text: &str) -> Vec<String> {
        let call = |call: Call| {
            let arguments = call
                .arguments()
                .map(|(name, value)| format!(" {name}={value:?}"));
            format!("{}{}", call.name(), arguments.collect::<String>())
        };
        Call::all(text).map(call).collect()
    }

    #[test]
    fn calls_are_read_in_every_form() {
        let gemma = "I do that.<start_function_call>call:a{}<end_function_call>\
             <start_function_call>call:b{l:[1,<escape>x]<escape>],o:{k:true},t:<escape>a,b}<escape>}<end_function_call>";
        assert_eq!(
            read(gemma),
            [
                "a",
                "b l=Other(\"[1,<escape>x]<escape>]\") o=Other(\"{k:true}\") t=Text(\"a,b}\")"
            ]
        );
        let hermes = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"x \\\"y\\\"\", \"b\" : 1.5 , \"c\": {\"d\": \"}\"}}}\n</tool_call>\n\
             <tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";
        assert_eq!(
            read(hermes),
            [
                "f a=Escaped(\"x \\\\\\\"y\\\\\\\"\") b=Other(\"1.5\") c=Other(\"{\\\"d\\\": \\\"}\\\"}\")",
                "g"
            ]
        );
        let python = "<|tool_call_start|>[f(a=\"x)\", n=5), g(on=True)]<|tool_call_end|>";
        assert_eq!(
            read(python),
            ["f a=Escaped(\"x)\") n=Other(\"5\")", "g on=Other(\"True\")"]
        );
        assert_eq!(read("no call: here"), [""; 0]);
        let value = Value::Escaped("a\\n\\u00e9\\\"");
        assert!(value.is_text("a\né\""));
    }

    #[test]
    fn no_text_breaks_the_reader() {
        let text = "call:é{a:<escape>x{\"name\": \"\\u00\", {[(é";
        for start in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            for end in (start..=text.len()).filter(|at| text.is_char_boundary(*at)) {
                read(&text[start..end]);
            }
        }
    }
}
