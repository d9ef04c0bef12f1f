//! `pocketlm grammar`, and the options of `run` and `plan` that name a grammar.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use pocketlm::grammar::Grammar;
use pocketlm::host::file::read_whole;
use pocketlm::import::ImportError;
use pocketlm::import::grammar::{Tools, Whitespace, from_gbnf, from_json_schema, from_regex};
use pocketlm::text::{Tokenizer, ToolForm};
use serde_json::Value;

use crate::output::{Failure, Outcome, counted, failure, file_failure, note};
use crate::output_file::{Kind, OutputFile, keep_from_stdout};

/// Compile a grammar for a device: a JSON Schema, tools, a GBNF file or a regular expression
#[derive(Args)]
#[command(after_help = "\
FILE is a JSON Schema (a JSON object), a list of tools in OpenAI's form (a JSON array; --form says \
how the model writes calls), or a GBNF file. On the device `Grammar::open` reads the result in \
place from flash. A schema with a keyword that is not supported is refused by name.

Examples:
  pocketlm grammar answer.schema.json -o answer.plg
  pocketlm grammar tools.json --form functiongemma -o tools.plg
  pocketlm grammar --regex '(on|off) [0-9]{1,2}' -o command.plg")]
pub struct Arguments {
    /// A JSON Schema, a list of tools, or a GBNF file; `-` is stdin
    #[arg(required_unless_present = "regex", conflicts_with = "regex")]
    file: Option<PathBuf>,

    /// A regular expression for the whole text
    #[arg(
        long,
        value_name = "REGEX",
        allow_hyphen_values = true,
        conflicts_with_all = ["form", "or_text", "compact"]
    )]
    regex: Option<String>,

    /// With a list of tools: how the model writes calls: functiongemma, hermes, llama3, mistral or
    /// lfm2. Its tags are taken for special tokens
    #[arg(long, value_name = "NAME", value_parser = form)]
    form: Option<ToolForm>,

    /// With a list of tools: allow text before the calls, or text alone
    #[arg(long, requires = "form")]
    or_text: bool,

    /// With a JSON Schema: allow no white space between the parts of the JSON
    #[arg(long)]
    compact: bool,

    /// Where to write the grammar: a new file or an older grammar. `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub fn grammar(arguments: Arguments) -> Outcome {
    let inputs: Vec<&Path> = arguments.file.iter().map(PathBuf::as_path).collect();
    let output = OutputFile::new(&arguments.output, Kind::Grammar, &inputs)?;
    let bytes = match (&arguments.file, &arguments.regex) {
        (_, Some(regex)) => from_regex(regex)?,
        (Some(path), None) => arguments.compile(path)?,
        (None, None) => Vec::new(),
    };
    let depth = Grammar::open(&bytes)?.depth();
    output.write(|file| {
        let written = file.write_all(&bytes);
        written.map_err(|error| output.cannot_write(error))
    })?;
    note(format_args!(
        "{}, {} of the stack",
        counted(bytes.len(), "byte"),
        counted(depth, "slot")
    ));
    Ok(())
}

impl Arguments {
    /// The grammar of a file.
    fn compile(&self, path: &Path) -> Outcome<Vec<u8>> {
        let source = Source::read(path)?;
        self.check_options(path, &source)?;
        let bytes = match source {
            Source::Schema(schema) => from_json_schema(&schema, whitespace(self.compact)),
            Source::Tools(list) => {
                let Some(form) = self.form else {
                    return Err(Failure::Usage(
                        "a list of tools needs --form, which says how the model writes calls"
                            .into(),
                    ));
                };
                Tools::parse(&list).and_then(|tools| tools.grammar(form, !self.or_text, &|_| true))
            }
            Source::Gbnf(text) => from_gbnf(&text),
            Source::Compiled(_) => return Err(file_failure(path, "is a compiled grammar already")),
        };
        bytes.map_err(|error| Failure::from(error.in_file(path)))
    }

    /// Refuses an option that does not apply to the file.
    fn check_options(&self, path: &Path, source: &Source) -> Outcome {
        let is_schema = matches!(source, Source::Schema(_));
        let is_tools = matches!(source, Source::Tools(_));
        let refuse_option = |option: &str, of: &str| {
            let (path, what) = (path.display(), source.name());
            Err(Failure::Usage(format!(
                "{path} is {what}, and {option} is an option for {of}; leave {option} out"
            )))
        };
        if self.compact && !is_schema {
            return refuse_option("--compact", "a JSON Schema");
        }
        // Clap sees to it that --or-text comes with --form.
        if self.form.is_some() && !is_tools {
            return refuse_option("--form", "a list of tools");
        }
        Ok(())
    }
}

/// The grammar that a text obeys.
#[derive(Args)]
#[command(next_help_heading = "Grammar")]
pub struct Constraining {
    /// Write JSON that is valid by this JSON Schema
    #[arg(long, value_name = "FILE", group = "constraining")]
    json_schema: Option<PathBuf>,

    /// Write text of this grammar: a GBNF file, or what `pocketlm grammar` wrote
    #[arg(long, value_name = "FILE", group = "constraining")]
    grammar: Option<PathBuf>,

    /// Write text that this regular expression matches as a whole
    #[arg(
        long,
        value_name = "REGEX",
        group = "constraining",
        allow_hyphen_values = true
    )]
    regex: Option<String>,

    /// Write calls of these tools, a JSON array in OpenAI's form, as the model's chat template has
    /// them
    #[arg(long, value_name = "FILE", group = "constraining")]
    tools: Option<PathBuf>,
}

impl Constraining {
    /// Whether the text is calls, whose tags are special tokens.
    pub fn calls_tools(&self) -> bool {
        self.tools.is_some()
    }

    /// The grammar, compiled. The model's tokenizer and chat template say how calls are written.
    pub fn compile(
        &self,
        tokenizer: &Tokenizer,
        template: Option<&str>,
    ) -> Outcome<Option<Vec<u8>>> {
        if let Some(path) = &self.json_schema {
            let Source::Schema(schema) = Source::read(path)? else {
                return Err(file_failure(path, "is not a JSON Schema: a JSON object"));
            };
            let bytes = from_json_schema(&schema, Whitespace::Printed);
            return bytes
                .map(Some)
                .map_err(|error| Failure::from(error.in_file(path)));
        }
        if let Some(path) = &self.grammar {
            let bytes = match Source::read(path)? {
                Source::Compiled(bytes) => bytes,
                Source::Gbnf(text) => {
                    from_gbnf(&text).map_err(|error| Failure::from(error.in_file(path)))?
                }
                Source::Schema(_) => {
                    return Err(file_failure(path, "is JSON; give it with --json-schema"));
                }
                Source::Tools(_) => {
                    return Err(file_failure(path, "is JSON; give it with --tools"));
                }
            };
            Grammar::open(&bytes).map_err(|error| file_failure(path, error))?;
            return Ok(Some(bytes));
        }
        if let Some(regex) = &self.regex {
            return from_regex(regex).map(Some).map_err(Failure::from);
        }
        let Some(path) = &self.tools else {
            return Ok(None);
        };
        let list = read_tools(path)?;
        let form = tool_form(tokenizer, template);
        let bytes = form.and_then(|form| of_tools(&list, form, tokenizer, true));
        bytes
            .map(Some)
            .map_err(|error| Failure::from(error.in_file(path)))
    }
}

/// A list of tools from a file.
pub fn read_tools(path: &Path) -> Outcome<Value> {
    match Source::read(path)? {
        Source::Tools(list) => Ok(list),
        _ => Err(file_failure(path, "is not a list of tools: a JSON array")),
    }
}

/// How the model writes calls: the form that its chat template has.
pub fn tool_form(tokenizer: &Tokenizer, template: Option<&str>) -> Result<ToolForm, ImportError> {
    let is_gemma = || has_special(tokenizer, b"<start_function_call>");
    template
        .and_then(ToolForm::of_template)
        .or_else(|| is_gemma().then_some(ToolForm::FunctionGemma))
        .ok_or_else(|| {
            ImportError::new(
                "how this model writes calls is not known: its chat template has none of the \
                 forms of FunctionGemma, Hermes, Llama 3, Mistral and LFM2",
            )
        })
}

/// The grammar of calls in a form.
pub fn of_tools(
    list: &Value,
    form: ToolForm,
    tokenizer: &Tokenizer,
    must_call: bool,
) -> Result<Vec<u8>, ImportError> {
    let is_token = |tag: &str| has_special(tokenizer, tag.as_bytes());
    Tools::parse(list)?.grammar(form, must_call, &is_token)
}

/// What a file holds, as its first bytes say.
enum Source {
    Compiled(Vec<u8>),
    Schema(Value),
    Tools(Value),
    Gbnf(String),
}

impl Source {
    fn name(&self) -> &'static str {
        match self {
            Source::Compiled(_) => "a compiled grammar",
            Source::Schema(_) => "a JSON Schema",
            Source::Tools(_) => "a list of tools",
            Source::Gbnf(_) => "a GBNF file",
        }
    }

    fn read(path: &Path) -> Outcome<Source> {
        keep_from_stdout(path)?;
        let bytes = read_whole(path)?.to_vec();
        if bytes.starts_with(&Grammar::MAGIC) {
            return Ok(Source::Compiled(bytes));
        }
        let text = String::from_utf8(bytes).map_err(|_| file_failure(path, "is not UTF-8"))?;
        let first = text.trim_start().chars().next();
        if !matches!(first, Some('{' | '[')) {
            return Ok(Source::Gbnf(text));
        }
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| file_failure(path, format_args!("is not JSON: {error}")))?;
        Ok(match value {
            Value::Array(_) => Source::Tools(value),
            _ => Source::Schema(value),
        })
    }
}

fn whitespace(is_compact: bool) -> Whitespace {
    if is_compact {
        Whitespace::Compact
    } else {
        Whitespace::Printed
    }
}

fn form(name: &str) -> Result<ToolForm, String> {
    let known = ToolForm::ALL.iter().find(|(known, _)| *known == name);
    known.map(|(_, form)| *form).ok_or_else(|| {
        let names = ToolForm::ALL.map(|(name, _)| name);
        format!("choose one of {}", names.join(", "))
    })
}

/// Bytes of a compiled grammar, for `plan`.
pub fn compiled_len(path: &Path) -> Outcome<u64> {
    let bytes = read_whole(path)?;
    Grammar::open(&bytes).map_err(|error| file_failure(path, error))?;
    Ok(bytes.len() as u64)
}

/// A grammar names special tokens that the model does not have: no text of them can be written.
pub fn check_specials(bytes: &[u8], tokenizer: &Tokenizer) -> Outcome {
    let grammar = Grammar::open(bytes)?;
    let missing = grammar
        .specials()
        .find(|text| !has_special(tokenizer, text));
    match missing {
        Some(text) => Err(failure(format_args!(
            "the grammar names the special token {:?}, which the model does not have",
            String::from_utf8_lossy(text)
        ))),
        None => Ok(()),
    }
}

fn has_special(tokenizer: &Tokenizer, text: &[u8]) -> bool {
    let id = tokenizer.token_to_id(text);
    id.is_some_and(|id| tokenizer.is_special(id))
}
