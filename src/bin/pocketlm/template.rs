//! Chat templates: the Jinja that a checkpoint carries, rendered as Hugging Face `transformers`
//! does.

use std::fmt::Write as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, State, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;

/// Work that a rendering may take, an instruction or 64 bytes a unit. A template is part of a file
/// nobody vouches for; a long conversation needs some ten thousand. What this pays for ends within
/// a second and in 100 MB.
const FUEL: u64 = 400_000;

/// One message of a conversation.
#[derive(Clone, Debug)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
}

/// A template, checked.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Compiles the Jinja `source`. The tokens are what the template calls `bos_token` and
    /// `eos_token`.
    pub fn new(source: &str, bos_token: String, eos_token: String) -> Result<Self, String> {
        let mut environment = Environment::new();
        // What transformers sets, in utils/chat_template_utils.py (`_compile_jinja_template`).
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.expect("the delimiters are Jinja's own"));
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_filter("tojson", to_json);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<Value, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
            let mut text = String::new();
            write!(text, "{}", jiff::ZonedDateTime::now().strftime(&format)).map_err(|_| {
                Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now: cannot format {format:?}"),
                )
            })?;
            Ok(text)
        });
        environment
            .add_template_owned("chat", without_generation_tags(source))
            .map_err(|error| sentence(&error))?;
        Ok(ChatTemplate {
            environment,
            bos_token,
            eos_token,
        })
    }

    /// The conversation as the model is to read it, up to where it answers.
    pub fn render(&self, messages: &[Message]) -> Result<String, String> {
        let template = self
            .environment
            .get_template("chat")
            .map_err(|error| sentence(&error))?;
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role, content => message.content.as_str() })
            .collect();
        let context = context! {
            messages,
            add_generation_prompt => true,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
            // Defined but none, as in transformers: templates ask both `is defined` and
            // `is not none`.
            tools => (),
            documents => (),
        };
        template.render(context).map_err(|error| sentence(&error))
    }
}

/// What went wrong and in which line.
fn sentence(error: &Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{what} (chat template, line {line})"),
        None => format!("{what} (chat template)"),
    }
}

/// transformers knows `{% generation %} … {% endgeneration %}`, marks for training that leave the
/// text as it is. Here they become a block that does the same and keeps their white-space control.
fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        result.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let name = tag
            .trim_start_matches(['{', '%', '-', '+'])
            .trim_end_matches(['}', '%', '-', '+'])
            .trim();
        match name {
            "generation" => result.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => result.push_str(&tag.replace("endgeneration", "endif")),
            _ => result.push_str(tag),
        }
        rest = after;
    }
    result + rest
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`: Python's spaces, and no escapes for
/// HTML.
fn to_json(state: &State, value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // What else there is (ensure_ascii, sort_keys, separators) changes nothing that templates use
    // it for.
    _ = (
        options.get::<Option<bool>>("ensure_ascii")?,
        options.get::<Option<bool>>("sort_keys")?,
    );
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        None => value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut bytes, Python,
        )),
        Some(width) => {
            let indent = " ".repeat(width.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut bytes, formatter,
            ))
        }
    };
    let failed = |why: String| Error::new(ErrorKind::BadSerialization, why);
    written.map_err(|error| failed(error.to_string()))?;
    state.consume_fuel(bytes.len() as u64 / 64)?;
    Ok(Value::from(
        String::from_utf8(bytes).map_err(|error| failed(error.to_string()))?,
    ))
}

/// `, ` and `: ` between things, as Python writes them.
struct Python;

impl serde_json::ser::Formatter for Python {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, String> {
        let message = |role, content: &str| Message {
            role,
            content: content.into(),
        };
        let template = ChatTemplate::new(source, "<s>".into(), "</s>".into())?;
        template.render(&[
            message("system", "Be brief."),
            message("user", " Hi <b> "),
            message("assistant", "é"),
        ])
    }

    #[test]
    fn the_shapes_that_checkpoints_carry_render() {
        let chatml = "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n'}}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
        let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <b> <|im_end|>\n\
                        <|im_start|>assistant\né<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(render(chatml).as_deref(), Ok(expected));

        let gemma = "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set loop_messages = messages[1:] -%}\n{%- endif -%}\n\
                     {%- for message in loop_messages -%}\n{%- if (message['role'] == 'assistant') -%}{%- set role = 'model' -%}\
                     {%- else -%}{%- set role = message['role'] -%}{%- endif -%}\n{{ '<start_of_turn>' + role + '\n' -}}\n\
                     {{ message['content'] | trim }}{{ '<end_of_turn>\n' }}{%- endfor -%}";
        let expected =
            "<s><start_of_turn>user\nHi <b><end_of_turn>\n<start_of_turn>model\né<end_of_turn>\n";
        assert_eq!(render(gemma).as_deref(), Ok(expected));
    }

    #[test]
    fn pythons_json_methods_loop_controls_and_namespaces_work() {
        assert_eq!(
            render("{{ messages[1:] | tojson }}").unwrap(),
            r#"[{"role": "user", "content": " Hi <b> "}, {"role": "assistant", "content": "é"}]"#
        );
        assert_eq!(
            render("{{ {'a': [1]} | tojson(indent=2) }}").unwrap(),
            "{\n  \"a\": [\n    1\n  ]\n}"
        );
        assert_eq!(
            render("{{ messages[1].content.strip().split(' ')[0] }}").unwrap(),
            "Hi"
        );
        assert_eq!(
            render(
                "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}"
            )
            .unwrap(),
            "user"
        );
        let namespace = "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}";
        assert_eq!(render(namespace).unwrap(), "3");
        assert_eq!(render("{{ strftime_now('%Y') | length }}").unwrap(), "4");
    }

    #[test]
    fn tools_are_defined_but_none() {
        assert_eq!(
            render("{{ tools is defined }} {{ tools is none }} {{ unknown is defined }}")
                .unwrap()
                .to_lowercase(),
            "true true false"
        );
    }

    #[test]
    fn generation_marks_leave_the_text_alone() {
        assert_eq!(
            render("a {%- generation -%} b {% endgeneration %} c").unwrap(),
            "ab  c"
        );
    }

    #[test]
    fn refusals_say_what_and_where() {
        assert_eq!(
            render("\n{{ raise_exception('Roles must alternate') }}").unwrap_err(),
            "Roles must alternate (chat template, line 2)"
        );
        assert!(
            render("{% if %}")
                .unwrap_err()
                .ends_with("(chat template, line 1)")
        );
    }

    #[test]
    fn a_template_that_does_not_end_is_stopped() {
        let error = render(
            "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}",
        )
        .unwrap_err();
        assert!(error.contains("fuel"), "{error}");
    }

    #[test]
    fn a_template_that_grows_without_end_is_stopped() {
        let doubled = "{% set ns = namespace(s='x') %}{% for _ in range(60) %}";
        for source in [
            "{{ 'x' * 100000000000 }}".to_owned(),
            "{% set s = 'x' * 1000000 %}{% for _ in range(40) %}{{ (s | tojson) | length }}{% endfor %}".to_owned(),
            "{{ ['x'] * 100000000000 }}".to_owned(),
            "{{ range(100000000000) | list }}".to_owned(),
            "{{ 'x\nx' | indent(100000000000) }}".to_owned(),
            "{{ '%100000000000s' | format('x') }}".to_owned(),
            "{{ 'x'.ljust(100000000000) }}".to_owned(),
            "{{ 'x'.center(100000000000) }}".to_owned(),
            format!("{doubled}{{% set ns.s = ns.s + ns.s %}}{{% endfor %}}{{{{ ns.s }}}}"),
            format!("{doubled}{{% set ns.s = ns.s ~ ns.s %}}{{% endfor %}}{{{{ ns.s }}}}"),
            format!("{doubled}{{% set ns.s = ns.s | replace('x', 'xx') %}}{{% endfor %}}{{{{ ns.s }}}}"),
            format!("{doubled}{{% set ns.s = ns.s.replace('x', 'xx') %}}{{% endfor %}}{{{{ ns.s }}}}"),
            format!("{doubled}{{% set ns.s = [ns.s, ns.s] | join %}}{{% endfor %}}{{{{ ns.s }}}}"),
            format!("{doubled}{{% set ns.s = [ns.s, ns.s] | tojson %}}{{% endfor %}}{{{{ ns.s }}}}"),
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
            "{% for m in messages recursive %}{{ loop([m]) }}{% endfor %}".to_owned(),
        ] {
            assert!(render(&source).is_err(), "{source}");
        }
    }
}
