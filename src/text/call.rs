//! [`Call`]: a tool call in the text of a model, read in place.

use core::str::Chars;

/// How a model family writes calls of tools.
///
/// Example: [`Call`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ToolForm {
    /// `<start_function_call>call:NAME{key:<escape>text<escape>,n:5}<end_function_call>`
    FunctionGemma,
    /// `<tool_call>\n{"name": "NAME", "arguments": {…}}\n</tool_call>`: Hermes, Qwen, SmolLM3,
    /// Granite.
    Hermes,
    /// `{"name": "NAME", "parameters": {…}}`: Llama 3.
    Llama3,
    /// `[TOOL_CALLS][{"name": "NAME", "arguments": {…}}]`
    Mistral,
    /// `<|tool_call_start|>[NAME(key="text", n=5)]<|tool_call_end|>`
    Lfm2,
}

/// A call of a tool, read in place from what a model wrote.
///
/// ```
/// use pocketlm::text::{Call, ToolForm, Value};
///
/// let text = "<start_function_call>\
///     call:timer{label:<escape>tea, {hot}<escape>,minutes:5}<end_function_call>";
/// let call = Call::all(text, ToolForm::FunctionGemma).next().unwrap();
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
    form: ToolForm,
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

/// The quote of FunctionGemma: it stands before and after a string.
const ESCAPE: &str = "<escape>";
const SPACE: [char; 4] = [' ', '\n', '\r', '\t'];

impl ToolForm {
    /// The tags before and after a call.
    pub(crate) fn tags(self) -> (&'static str, &'static str) {
        match self {
            ToolForm::FunctionGemma => ("<start_function_call>", "<end_function_call>"),
            ToolForm::Hermes => ("<tool_call>", "</tool_call>"),
            ToolForm::Llama3 => ("", ""),
            ToolForm::Mistral => ("[TOOL_CALLS]", ""),
            ToolForm::Lfm2 => ("<|tool_call_start|>", "<|tool_call_end|>"),
        }
    }

    /// Where the first call may begin in `answer`, which may not be complete yet: at the first tag,
    /// or, in the form without a tag (Llama 3), at a brace in the first place. `None` if there is
    /// no such place so far. [`Call::all`] says whether there is a call.
    pub fn call_start(self, answer: &str) -> Option<usize> {
        match self.tags().0 {
            "" => answer.starts_with('{').then_some(0),
            tag => split(answer, tag).map(|(before, _)| before.len()),
        }
    }

    /// What separates the arguments of a call from the next call, in a form that has lists of
    /// calls.
    fn separator(self) -> Option<&'static str> {
        match self {
            ToolForm::Mistral => Some("}, "),
            ToolForm::Lfm2 => Some(", "),
            ToolForm::FunctionGemma | ToolForm::Hermes | ToolForm::Llama3 => None,
        }
    }
}

impl<'t> Call<'t> {
    /// All calls in `text`, in order. `form` is the form that the grammar was compiled for.
    ///
    /// Text before a tag is skipped. In a form without a tag (Llama 3), a call begins with the
    /// first byte of `text`. What looks like a call in another form is text. At a call that is not
    /// complete or not well-formed, the calls end.
    pub fn all(text: &'t str, form: ToolForm) -> impl Iterator<Item = Call<'t>> {
        let mut rest = text;
        let mut is_first = true;
        core::iter::from_fn(move || {
            let (call, after) = Call::next_in(rest, form, is_first)?;
            is_first = false;
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
                ToolForm::FunctionGemma => split(rest, ":")?,
                ToolForm::Lfm2 => split(rest, "=")?,
                ToolForm::Hermes | ToolForm::Llama3 | ToolForm::Mistral => {
                    let (name, after) = quoted(rest)?;
                    (name, split(after, ":")?.1)
                }
            };
            let after = after.trim_start_matches(SPACE);
            let value;
            (value, rest) = if let Some((text, after)) = string(after, form) {
                let value = if form == ToolForm::FunctionGemma {
                    Value::Text(text)
                } else {
                    Value::Escaped(text)
                };
                (value, after)
            } else {
                let (value, after) = after.split_at_checked(end_of_value(after, form))?;
                (Value::Other(value.trim_end_matches(SPACE)), after)
            };
            Some((name, value))
        })
    }

    /// The first call of `text`, or the next if others were before, and what follows it.
    fn next_in(text: &'t str, form: ToolForm, is_first: bool) -> Option<(Self, &'t str)> {
        let listed = form.separator().filter(|_| !is_first);
        if let Some(after) = listed.and_then(|separator| text.strip_prefix(separator)) {
            return Call::read(after, form);
        }
        match form {
            ToolForm::Llama3 if is_first => Call::read(text, form),
            ToolForm::Llama3 => None,
            ToolForm::FunctionGemma | ToolForm::Hermes => {
                let (_, call) = split(text, form.tags().0)?;
                Call::read(call.trim_start_matches(SPACE), form)
            }
            ToolForm::Mistral | ToolForm::Lfm2 => {
                let (_, list) = split(text, form.tags().0)?;
                Call::read(list.trim_start_matches(SPACE).strip_prefix('[')?, form)
            }
        }
    }

    /// The call that `text` begins with, without its tag, and what follows its arguments.
    fn read(text: &'t str, form: ToolForm) -> Option<(Self, &'t str)> {
        let (name, rest) = match form {
            ToolForm::FunctionGemma => split(text.strip_prefix("call:")?, "{")?,
            ToolForm::Lfm2 => split(text, "(")?,
            ToolForm::Hermes | ToolForm::Llama3 | ToolForm::Mistral => {
                let (name, after) = quoted(text.strip_prefix("{\"name\": ")?)?;
                let arguments = if form == ToolForm::Llama3 {
                    ", \"parameters\": {"
                } else {
                    ", \"arguments\": {"
                };
                (name, after.strip_prefix(arguments)?)
            }
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
                let code = code_unit(&mut self.rest)?;
                let pair = low_surrogate(&self.rest)
                    .filter(|_| (0xD800..0xDC00).contains(&code))
                    .map(|(low, after)| {
                        self.rest = after;
                        0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                    });
                char::from_u32(pair.unwrap_or(code)).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            other => other,
        })
    }
}

/// Four hexadecimal digits.
fn code_unit(rest: &mut Chars) -> Option<u32> {
    let mut code = 0;
    for _ in 0..4 {
        code = code << 4 | rest.next()?.to_digit(16)?;
    }
    Some(code)
}

/// The second half of a character beyond U+FFFF, and what follows it.
fn low_surrogate<'t>(rest: &Chars<'t>) -> Option<(u32, Chars<'t>)> {
    let mut after = rest.as_str().strip_prefix("\\u")?.chars();
    let low = code_unit(&mut after).filter(|low| (0xDC00..0xE000).contains(low))?;
    Some((low, after))
}

/// The text before and after the first `separator`. `str::split_once` needs far more code, and can
/// panic.
fn split<'t>(text: &'t str, separator: &str) -> Option<(&'t str, &'t str)> {
    let at = (0..text.len()).find(|at| {
        let rest = text.as_bytes().get(*at..).unwrap_or_default();
        rest.starts_with(separator.as_bytes())
    })?;
    Some((text.get(..at)?, text.get(at + separator.len()..)?))
}

/// The JSON string that `text` begins with, without its quotes, and what follows it.
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

/// The string that `text` begins with, without its quotes, and what follows it.
fn string(text: &str, form: ToolForm) -> Option<(&str, &str)> {
    match form {
        ToolForm::FunctionGemma => split(text.strip_prefix(ESCAPE)?, ESCAPE),
        ToolForm::Hermes | ToolForm::Llama3 | ToolForm::Mistral | ToolForm::Lfm2 => quoted(text),
    }
}

/// Where the bracket ends that was opened before `text`.
fn end_of_arguments(text: &str, form: ToolForm) -> usize {
    scan(text, form, false)
}

/// Where a value ends: at a comma or a bracket.
fn end_of_value(text: &str, form: ToolForm) -> usize {
    scan(text, form, true)
}

fn scan(text: &str, form: ToolForm, to_comma: bool) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if let Some((_, after)) = string(rest, form) {
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

    use ToolForm::{FunctionGemma, Hermes, Lfm2, Llama3, Mistral};

    fn read(text: &str, form: ToolForm) -> Vec<String> {
        let call = |call: Call| {
            let arguments = call
                .arguments()
                .map(|(name, value)| format!(" {name}={value:?}"));
            format!("{}{}", call.name(), arguments.collect::<String>())
        };
        Call::all(text, form).map(call).collect()
    }

    #[test]
    fn calls_are_read_in_every_form() {
        let gemma = "I do that.<start_function_call>call:a{}<end_function_call>\
             <start_function_call>call:b{l:[1,<escape>x]<escape>],o:{k:true},\
             t:<escape>a,b}<escape>}<end_function_call>";
        let list = "l=Other(\"[1,<escape>x]<escape>]\")";
        assert_eq!(
            read(gemma, FunctionGemma),
            [
                "a",
                &format!("b {list} o=Other(\"{{k:true}}\") t=Text(\"a,b}}\")")
            ]
        );
        let hermes = r#"<tool_call>
{"name": "f", "arguments": {"a": "x \"y\"", "b" : 1.5 , "c": {"d": "}"}}}
</tool_call>
<tool_call>
{"name": "g", "arguments": {}}
</tool_call>"#;
        let first = r#"f a=Escaped("x \\\"y\\\"") b=Other("1.5") c=Other("{\"d\": \"}\"}")"#;
        assert_eq!(read(hermes, Hermes), [first, "g"]);
        let mistral = "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": [1, 2]}}, \
             {\"name\": \"g\", \"arguments\": {}}]";
        assert_eq!(read(mistral, Mistral), ["f a=Other(\"[1, 2]\")", "g"]);
        let llama = r#"{"name": "f", "parameters": {"a": true}}"#;
        assert_eq!(read(llama, Llama3), ["f a=Other(\"true\")"]);
        let python = "<|tool_call_start|>[f(a=\"x)\", n=5), g(on=True)]<|tool_call_end|>";
        assert_eq!(
            read(python, Lfm2),
            ["f a=Escaped(\"x)\") n=Other(\"5\")", "g on=Other(\"True\")"]
        );
    }

    #[test]
    fn what_is_no_call_in_the_form_of_the_model_is_text() {
        let forms = [FunctionGemma, Hermes, Llama3, Mistral, Lfm2];
        for text in [
            "I call: the office {now}",
            "call:f{a:1}",
            r#"{"name": "Bob", "address": {}}"#,
            r#"Bob is {"name": "Bob", "parameters": {}}"#,
            r#"As JSON: "name": "Bob" {}"#,
            r#" {"name": "f", "parameters": {}}"#,
            "<tool_call> is a tag {}",
            "[TOOL_CALLS] is a tag {}",
            "f(a=1)",
        ] {
            for form in forms {
                assert_eq!(read(text, form), [""; 0], "{form:?}: {text}");
            }
        }
        // Arguments that spell a call, in the form of the model or in another.
        let inside = r#"<tool_call>
{"name": "f", "arguments": {"a": "call:g{} <start_function_call>call:g{} [TOOL_CALLS][", "b": 1}}
</tool_call>"#;
        let calls: Vec<_> = Call::all(inside, Hermes).collect();
        assert_eq!((calls.len(), calls[0].name()), (1, "f"));
        assert_eq!(calls[0].arguments().count(), 2);
        let inside = "<start_function_call>call:f{a:<escape><start_function_call>call:g{}\
             <end_function_call><escape>}<end_function_call>";
        assert_eq!(Call::all(inside, FunctionGemma).count(), 1);
        // A call that is not whole is none, whatever it holds.
        let cut = &inside[..inside.len() - "<escape>}<end_function_call>".len()];
        assert_eq!(Call::all(cut, FunctionGemma).count(), 0);
    }

    #[test]
    fn escaped_characters_are_read_as_json_has_them() {
        for (written, text) in [
            (r#"a\n\u00e9\""#, "a\né\""),
            (r"\ud83d\uDE00!", "😀!"),
            (r"\ud83d", "\u{FFFD}"),
            (r"\ud83d\u0041", "\u{FFFD}A"),
            (r"\ude00\ud83d", "\u{FFFD}\u{FFFD}"),
        ] {
            assert!(Value::Escaped(written).is_text(text), "{written}");
        }
    }

    #[test]
    fn no_text_breaks_the_reader() {
        let text = "<start_function_call>call:é{a:<escape>x<tool_call>{\"name\": \"\\ud83d\\u00\", \
             \"arguments\": {\"é\": [(<|tool_call_start|>[é(";
        for start in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            for end in (start..=text.len()).filter(|at| text.is_char_boundary(*at)) {
                for form in [FunctionGemma, Hermes, Llama3, Mistral, Lfm2] {
                    read(&text[start..end], form);
                }
            }
        }
    }
}
