//! Chat templates: the Jinja source of a checkpoint, which turns messages into the text that the
//! model was trained to read. [`chat`](crate::chat) shows these types to users and describes them.
//!
//! A source becomes [tokens](lexer), then a [tree](parser), which the [`interpreter`] runs. Its
//! [values](value) are Python's. Each [string](text) knows which of its bytes the user wrote.

mod characters;
mod encode;
mod filters;
mod format;
mod interpreter;
mod json;
mod lexer;
mod methods;
mod operators;
mod parser;
mod tests;
mod text;
mod time;
mod tree;
mod value;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::prelude::rust_2024::*;

use serde_json::{Map, Value as Json};

use interpreter::Interpreter;
use text::{Builder, Text};
use tree::Body;
use value::{Dict, Value};

use crate::text::{Call, ToolForm, Value as CallValue};

/// The largest template that is read.
const LARGEST: usize = 1 << 20;

/// The calls of tools in an answer: for each an object with `name` and `arguments`. `form` is how
/// the model writes them.
pub fn calls(answer: &str, form: ToolForm) -> Vec<Json> {
    let value = |value: CallValue| match value {
        CallValue::Other("True") => true.into(),
        CallValue::Other("False") => false.into(),
        CallValue::Other("None") => Json::Null,
        CallValue::Other(text) => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        text => text.chars().collect::<String>().into(),
    };
    let call = |call: Call| {
        let arguments = call.arguments().map(|(name, it)| (name.into(), value(it)));
        let arguments: Map<String, Json> = arguments.collect();
        serde_json::json!({ "name": call.name(), "arguments": arguments })
    };
    Call::all(answer, form).map(call).collect()
}

/// Why a template cannot be compiled or rendered.
///
/// Example: [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// What is wrong. If the template rejects the conversation, this is the argument of
    /// `raise_exception`.
    pub reason: String,
    /// The line of the template.
    pub line: usize,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (chat template, line {})", self.reason, self.line)
    }
}

impl std::error::Error for TemplateError {}

/// One message of a conversation.
///
/// Example: [`Chat`](crate::chat::Chat).
#[derive(Clone, Debug)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: &'static str,
    /// The text.
    pub content: String,
}

/// A chat template, compiled.
///
/// ```
/// use pocketlm::chat::{Message, Template};
///
/// let source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}";
/// let template = Template::new(source);
/// let message = Message { role: "user", content: "Hi".into() };
/// let rendered = template.unwrap().render(&[message], &Default::default()).unwrap();
/// assert_eq!(rendered.text(), "<|user|>Hi");
/// ```
pub struct Template {
    body: Body,
    /// How the model writes calls of tools, if the template writes them.
    form: Option<ToolForm>,
}

impl Template {
    /// Compiles the Jinja `source`.
    ///
    /// # Errors
    /// If it is not valid Jinja.
    pub fn new(source: &str) -> Result<Self, TemplateError> {
        let wrong = |(reason, line)| TemplateError { reason, line };
        if source.len() > LARGEST {
            return Err(wrong((format!("longer than {LARGEST} bytes"), 1)));
        }
        let tokens = lexer::tokens(source).map_err(wrong)?;
        let body = parser::parse(tokens).map_err(wrong)?;
        Ok(Template {
            body,
            form: ToolForm::of_template(source),
        })
    }

    /// The conversation as text for the model, up to where the model answers. `settings` are
    /// further variables, such as `enable_thinking`. They can replace those that are set by
    /// default: `tools` and `documents` (none), and `add_generation_prompt` (true).
    ///
    /// # Errors
    /// If the template rejects the conversation, has an error, or runs for too long.
    pub fn render(
        &self,
        messages: &[Message],
        settings: &Map<String, Json>,
    ) -> Result<Rendered, TemplateError> {
        let has_tools = settings.get("tools").is_some_and(|tools| !tools.is_null());
        let messages = messages.iter().map(|message| {
            let mut map = Map::new();
            map.insert("role".into(), message.role.into());
            map.insert("content".into(), message.content.as_str().into());
            if let Some(form) = self
                .form
                .filter(|_| has_tools && message.role == "assistant")
            {
                split_calls(&message.content, form, &mut map);
            }
            Json::Object(map)
        });
        let mut variables = Map::new();
        variables.insert("messages".into(), messages.collect());
        // Defined but none, as in transformers: templates ask both `is defined` and `is not none`.
        variables.insert("tools".into(), Json::Null);
        variables.insert("documents".into(), Json::Null);
        variables.insert("add_generation_prompt".into(), true.into());
        variables.extend(settings.clone());
        self.render_with(&variables)
    }

    /// Renders the template with `variables`. All strings in them are the user's, except the `role`
    /// of each of the `messages`.
    ///
    /// # Errors
    /// As [`render`](Template::render).
    pub fn render_with(&self, variables: &Map<String, Json>) -> Result<Rendered, TemplateError> {
        let mut values = HashMap::new();
        for (name, json) in variables {
            let value = match (name.as_str(), json) {
                ("messages", Json::Array(messages)) => messages_value(messages),
                _ => Value::from_json(json, true),
            };
            let value = value.map_err(|reason| TemplateError {
                reason: format!("variable `{name}`: {reason}"),
                line: 1,
            })?;
            values.insert(name.clone(), value);
        }
        let mut out = Builder::default();
        let mut interpreter = Interpreter::new(&values);
        match interpreter.run(&self.body, &mut out) {
            Ok(()) => {
                let (text, user) = out.into_parts();
                Ok(Rendered { text, user })
            }
            Err(reason) => Err(TemplateError {
                reason,
                line: interpreter.line,
            }),
        }
    }
}

/// Splits an answer into the members of its message: the text before the calls is the content, and
/// the calls are `tool_calls`. The template writes them again, in the form of its model.
fn split_calls(answer: &str, form: ToolForm, message: &mut Map<String, Json>) {
    let calls = calls(answer, form);
    if calls.is_empty() {
        return;
    }
    let call = |call| serde_json::json!({ "type": "function", "function": call });
    let start = form.call_start(answer).unwrap_or_default();
    // The template has its own white space between the text and the calls.
    let text = answer[..start].trim_end();
    message.insert("content".into(), text.into());
    message.insert("tool_calls".into(), calls.into_iter().map(call).collect());
}

/// The messages, whose roles are not the user's.
fn messages_value(messages: &[Json]) -> value::Result<Value> {
    let mut values = Vec::new();
    for message in messages {
        let Json::Object(map) = message else {
            values.push(Value::from_json(message, true)?);
            continue;
        };
        let mut dict = Dict::default();
        for (key, json) in map {
            let is_role = key == "role"
                && json.as_str().is_some_and(|role| {
                    role.bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                });
            let key = Value::Str(Text::new(key, true));
            dict.insert(key, Value::from_json(json, !is_role)?)?;
        }
        values.push(Value::Dict(dict.into()));
    }
    Value::list(values)
}

/// A rendered conversation.
///
/// Example: [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    text: String,
    /// The user's bytes: sorted ranges that neither touch nor overlap.
    user: Vec<Range<usize>>,
}

impl Rendered {
    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether any of these bytes is the user's.
    fn has_user(&self, bytes: Range<usize>) -> bool {
        let next = self.user.partition_point(|range| range.end <= bytes.start);
        self.user
            .get(next)
            .is_some_and(|range| range.start < bytes.end)
    }

    /// The text in pieces that must be tokenised separately, and for each whether special tokens in
    /// it are recognised. `special` has the spellings of all special tokens.
    pub fn pieces(&self, special: &[String]) -> Vec<(&str, bool)> {
        // The spellings by their first byte.
        let mut starts = vec![Vec::new(); 256];
        for token in special {
            if let Some(first) = token.bytes().next() {
                starts[usize::from(first)].push(token.as_bytes());
            }
        }
        // Every place where a special token would have bytes of the user's.
        let mut forged: Vec<Range<usize>> = Vec::new();
        for (at, byte) in self.text.bytes().enumerate() {
            for token in &starts[usize::from(byte)] {
                let place = at..at + token.len();
                if !self.text.as_bytes()[at..].starts_with(token) || !self.has_user(place.clone()) {
                    continue;
                }
                match forged.last_mut() {
                    Some(last) if place.start < last.end => last.end = last.end.max(place.end),
                    _ => forged.push(place),
                }
            }
        }
        let mut pieces = Vec::new();
        let mut at = 0;
        for place in forged {
            pieces.push((&self.text[at..place.start], true));
            pieces.push((&self.text[place.clone()], false));
            at = place.end;
        }
        pieces.push((&self.text[at..], true));
        pieces.retain(|(piece, _)| !piece.is_empty());
        pieces
    }
}
