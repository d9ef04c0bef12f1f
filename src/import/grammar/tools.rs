//! Lists of tools as grammars of calls, in the form that a model family writes them.

use std::format;
use std::prelude::rust_2024::*;
use std::vec;

use serde_json::{Map, Value};

use super::dfa;
use super::expr::{Id, Source};
use super::regex::{Writing, characters, everything};
use super::schema::{Schemas, Style, Whitespace, quoted_name};
use crate::import::ImportError;
use crate::text::ToolForm;

impl ToolForm {
    /// All forms, with the names that the command line has for them.
    pub const ALL: [(&'static str, ToolForm); 5] = [
        ("functiongemma", ToolForm::FunctionGemma),
        ("hermes", ToolForm::Hermes),
        ("llama3", ToolForm::Llama3),
        ("mistral", ToolForm::Mistral),
        ("lfm2", ToolForm::Lfm2),
    ];

    /// The form that a chat template writes calls in, if it is one of these.
    pub fn of_template(template: &str) -> Option<ToolForm> {
        let has = |text: &str| template.contains(text);
        if has("<start_function_call>") {
            Some(ToolForm::FunctionGemma)
        } else if has("<|tool_call_start|>") {
            Some(ToolForm::Lfm2)
        } else if has("<tool_call>") {
            Some(ToolForm::Hermes)
        } else if has("[TOOL_CALLS]") {
            Some(ToolForm::Mistral)
        } else if has("\"parameters\"") && has("<|start_header_id|>") {
            Some(ToolForm::Llama3)
        } else {
            None
        }
    }
}

/// A list of tools: names, and JSON Schemas of their arguments.
///
/// ```
/// use pocketlm::grammar::Grammar;
/// use pocketlm::import::grammar::Tools;
/// use pocketlm::text::ToolForm;
///
/// let list = serde_json::json!([{
///     "name": "blink",
///     "parameters": { "properties": { "times": { "type": "integer" } }, "required": ["times"] },
/// }]);
/// let bytes = Tools::parse(&list).unwrap().grammar(ToolForm::Lfm2, true, &|_| false).unwrap();
/// let call = "<|tool_call_start|>[blink(times=3)]<|tool_call_end|>";
/// assert!(Grammar::open(&bytes).unwrap().matches(call.as_bytes()));
/// ```
#[derive(Clone, Debug)]
pub struct Tools(Vec<(String, Value)>);

impl Tools {
    /// Reads a list of tools in OpenAI's form: `{"type": "function", "function": {"name": …,
    /// "parameters": …}}`, or what `function` has alone.
    ///
    /// # Errors
    /// What is wrong with the list.
    pub fn parse(list: &Value) -> Result<Tools, ImportError> {
        let Some(list) = list.as_array().filter(|list| !list.is_empty()) else {
            return Err(ImportError::new(
                "the list of tools is not an array with a tool in it",
            ));
        };
        let mut tools: Vec<(String, Value)> = Vec::new();
        for (index, tool) in list.iter().enumerate() {
            let function = tool.get("function").unwrap_or(tool);
            let name = function
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            if name.is_empty() || !name.chars().all(is_name) {
                return Err(ImportError::new(format!(
                    "tool {index}: its name is not letters, digits, _, - and ."
                )));
            }
            if tools.iter().any(|tool| tool.0 == name) {
                return Err(ImportError::new(format!("there are two tools {name}")));
            }
            let parameters = function.get("parameters").cloned();
            tools.push((name.into(), parameters.unwrap_or_else(|| Map::new().into())));
        }
        Ok(Tools(tools))
    }

    /// The grammar of calls of these tools. `is_token` says whether a tag is a special token of the
    /// model's tokenizer; other tags are text. With `must_call` there is nothing but calls;
    /// otherwise there may be text before them, or alone.
    ///
    /// # Errors
    /// What the schema of a tool says and is not supported.
    pub fn grammar(
        &self,
        form: ToolForm,
        must_call: bool,
        is_token: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<u8>, ImportError> {
        let mut source = Source::default();
        let mut calls = Vec::new();
        for (name, parameters) in &self.0 {
            let call = one_call(&mut source, form, name, parameters);
            calls.push(
                call.map_err(|error| {
                    ImportError::new(format!("the tool {name}: {}", error.reason))
                })?,
            );
        }
        let call = source.alt(calls);
        let start = form.tags().0;
        let all = all_calls(&mut source, form, call, is_token);
        let root = if must_call {
            all
        } else {
            let before = text_without(&mut source, start, is_token(start))?;
            let all = source.optional(all);
            match form {
                // Its calls begin with no tag: a text is either the one or the other.
                ToolForm::Llama3 => {
                    let text = text_that_begins_otherwise(&mut source);
                    source.alt(vec![text, all])
                }
                _ => source.seq(vec![before, all]),
            }
        };
        super::compile(source, root)
    }
}

/// One call or several, with their tags.
fn all_calls(source: &mut Source, form: ToolForm, call: Id, is_token: &dyn Fn(&str) -> bool) -> Id {
    let tag = |text: &str, source: &mut Source| {
        if is_token(text) {
            source.special(text)
        } else {
            source.literal(text.as_bytes())
        }
    };
    let (start, end) = form.tags();
    let (open, close) = (tag(start, source), tag(end, source));
    match form {
        ToolForm::FunctionGemma => {
            let call = source.seq(vec![open, call, close]);
            source.repeat(call, 1, None)
        }
        ToolForm::Hermes => {
            let line = source.literal(b"\n");
            let call = source.seq(vec![open, line, call, line, close]);
            let more = source.seq(vec![line, call]);
            let more = source.repeat(more, 0, None);
            source.seq(vec![call, more])
        }
        ToolForm::Llama3 => call,
        ToolForm::Mistral | ToolForm::Lfm2 => {
            let comma = source.literal(b", ");
            let more = source.seq(vec![comma, call]);
            let more = source.repeat(more, 0, None);
            let (first, last) = (source.literal(b"["), source.literal(b"]"));
            source.seq(vec![open, first, call, more, last, close])
        }
    }
}

/// A call without its tags.
fn one_call(
    source: &mut Source,
    form: ToolForm,
    name: &str,
    parameters: &Value,
) -> Result<Id, ImportError> {
    let style = match form {
        ToolForm::FunctionGemma => Style::Gemma,
        ToolForm::Hermes | ToolForm::Llama3 | ToolForm::Mistral => Style::Json(Whitespace::Printed),
        ToolForm::Lfm2 => Style::Python,
    };
    let mut schema = parameters.as_object().cloned().unwrap_or_default();
    schema.entry("type").or_insert("object".into());
    // A tool has the arguments that it names.
    schema.entry("additionalProperties").or_insert(false.into());
    let document = Value::Object(schema.clone());
    let mut schemas = Schemas::new(source, &document, style);
    Ok(match form {
        ToolForm::FunctionGemma => {
            let arguments = schemas.whole(&document)?;
            let start = source.literal(format!("call:{name}").as_bytes());
            source.seq(vec![start, arguments])
        }
        ToolForm::Hermes | ToolForm::Mistral | ToolForm::Llama3 => {
            let arguments = schemas.whole(&document)?;
            let key = if form == ToolForm::Llama3 {
                "parameters"
            } else {
                "arguments"
            };
            let mut start = Vec::from(b"{\"name\": ");
            start.extend(quoted_name(name));
            start.extend(format!(", \"{key}\": ").as_bytes());
            let (start, end) = (source.literal(&start), source.literal(b"}"));
            source.seq(vec![start, arguments, end])
        }
        ToolForm::Lfm2 => {
            let arguments = schemas.arguments(&document)?;
            schemas.bodies()?;
            let (start, end) = (
                source.literal(format!("{name}(").as_bytes()),
                source.literal(b")"),
            );
            source.seq(vec![start, arguments, end])
        }
    })
}

/// Text without `tag`; if that is a special token, any text.
fn text_without(source: &mut Source, tag: &str, is_token: bool) -> Result<Id, ImportError> {
    let any = characters(source, &everything(), Writing::Plain);
    let any = source.repeat(any, 0, None);
    if is_token || tag.is_empty() {
        return Ok(any);
    }
    // How much of the tag the text ends with.
    let tag = tag.as_bytes();
    let without = dfa::from_step(
        0usize,
        |at, byte| {
            let mut seen = tag[..*at].to_vec();
            seen.push(byte);
            let longest = (0..=seen.len()).rev().find(|length| {
                seen.ends_with(&tag[..(*length).min(tag.len())]) && *length <= tag.len()
            });
            longest.filter(|length| *length < tag.len())
        },
        |_| true,
    );
    let any = dfa::of_expr(source, any)?;
    let both = dfa::product(&any, &without, true)?;
    Ok(source.automaton(both))
}

/// Text that begins with no brace, or none.
fn text_that_begins_otherwise(source: &mut Source) -> Id {
    let any = characters(source, &everything(), Writing::Plain);
    let more = source.repeat(any, 0, None);
    let mut first = everything();
    let brace = regex_syntax::hir::ClassUnicodeRange::new('{', '{');
    first.difference(&regex_syntax::hir::ClassUnicode::new([brace]));
    let first = characters(source, &first, Writing::Plain);
    let text = source.seq(vec![first, more]);
    source.optional(text)
}
