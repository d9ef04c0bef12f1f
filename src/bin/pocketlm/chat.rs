//! `pocketlm chat`: a conversation at the terminal or in a script.

mod command;
mod interrupt;

use std::io::{self, StdoutLock, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};

use clap::Args;
use pocketlm::Error as CoreError;
use pocketlm::chat::{Chat, calls};
use pocketlm::generate::End;
use pocketlm::host::file::read_whole;
use pocketlm::host::{Error, GenerateOptions, Generated, Llm};
use pocketlm::run::SnapshotHeader;
use pocketlm::text::ToolForm;
use serde_json::Value;

use self::command::Command;
use crate::grammar;
use crate::input::{Input, Typed};
use crate::load::Image;
use crate::number::whole;
use crate::output::{
    Failure, Outcome, counted, failure, file_failure, note, paint, print, report, stdout_failure,
};
use crate::output_file::{Kind, OutputFile};
use crate::running::{Drafting, PromptBar, Running, summary, warn_beyond_trained};
use crate::sampling::Sampling;

/// Chat with a model that has a chat template: each line is a message, the answers stream to stdout
#[derive(Args)]
#[command(after_help = "\
Earlier turns stay in memory, so each turn computes only what is new. Special tokens that you type \
are plain text. Lines between two \"\"\" are one message, and so are lines that you paste at a \
terminal.

Commands, at a terminal and in a script: /system TEXT, /clear, /save FILE, /load FILE, /quit, \
/help. To send a message that begins with /, type //. /save writes a snapshot with the messages \
after it. /load continues from it; `pocketlm run --snapshot` and a device can read it too.

Ctrl-C stops an answer; what was written of it stays in the conversation. A second Ctrl-C ends the \
program with exit code 130. Ctrl-D ends the conversation. After an error (a message that is too \
long or not UTF-8, an unknown command) the conversation continues; if stdin is not a terminal, the \
exit code is then 1.

Examples:
  pocketlm chat smol.plm --system 'You answer in one sentence.'
  printf 'The capital of France?\\nAnd of Italy?\\n' | pocketlm chat smol.plm --temperature 0")]
pub struct Arguments {
    /// An image or a checkpoint
    model: PathBuf,

    /// The system message, if the chat template accepts one
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,

    /// Set a variable of the chat template, such as `enable_thinking=false`. The value is JSON, or
    /// text if it is not valid JSON. Can be given several times
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, Value)>,

    /// Let the model call these tools: a JSON array in OpenAI's form. Each call is written as JSON
    /// in a line; the next line of the input is the tool's answer, and an empty one is none
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,

    /// Run COMMAND for each call: it gets the call as JSON on stdin, and what it writes is the
    /// tool's answer
    #[arg(long, value_name = "COMMAND", requires = "tools")]
    tool_command: Option<String>,

    /// Write at most N tokens in each answer
    #[arg(short = 'n', long = "tokens", value_name = "N", value_parser = whole(0..=usize::MAX))]
    limit: Option<usize>,

    /// Room for N tokens in the whole conversation [default: 4096, or as many as the model was
    /// trained for]
    #[arg(short, long, value_name = "N", value_parser = whole(1..=u32::MAX))]
    context: Option<u32>,

    #[command(flatten)]
    running: Running,

    #[command(flatten)]
    drafting: Drafting,

    #[command(flatten)]
    sampling: Sampling,
}

pub fn chat(arguments: Arguments) -> Outcome {
    let llm = Llm::new(Image::open(&arguments.model)?.into_inner())?;
    let seed = arguments.sampling.seed();
    let options = arguments.running.options(
        arguments.context,
        &arguments.drafting,
        arguments.sampling.settings(seed),
    );
    let mut session = llm.session(&options)?;
    let bar = PromptBar::default();
    let shown = bar.clone();
    session.on_prompt(move |done, total| shown.show(done, total));
    let context = session.capacity();
    let mut chat = Chat::new(session)?;
    warn_beyond_trained(llm.model(), context);
    for (name, value) in arguments.settings {
        chat.set_variable(&name, value);
    }
    if let Some(system) = &arguments.system {
        chat.set_system(Some(system))?;
    }
    let mut options = GenerateOptions {
        limit: arguments.limit.unwrap_or(usize::MAX),
        ..GenerateOptions::default()
    };
    let mut form = None;
    if let Some(path) = &arguments.tools {
        let list = grammar::read_tools(path)?;
        let template = llm.image().chat_template(llm.model())?;
        let found = grammar::tool_form(llm.tokenizer(), Some(template));
        let found = found.map_err(|error| error.in_file(path))?;
        let compiled = grammar::of_tools(&list, found, llm.tokenizer(), false);
        options.grammar = Some(compiled.map_err(|error| error.in_file(path))?);
        options.keep_special = true;
        chat.set_variable("tools", list);
        form = Some(found);
    }
    let mut conversation = Conversation {
        chat,
        bar,
        options,
        form,
        tool_command: arguments.tool_command,
        model: &arguments.model,
    };
    conversation.go_on(&arguments.sampling.note(seed))
}

/// How often tools are called for one message.
const MOST_CALLS: usize = 8;

/// What the model answers.
enum Turn<'t> {
    User(&'t str),
    Tools(&'t [String]),
}

/// Runs the command of the user for a call.
fn run_tool(command: &str, call: &str) -> Outcome<String> {
    let tool_failure =
        |error: io::Error| failure(format_args!("the tool command {command:?}: {error}"));
    let shell = if cfg!(windows) {
        ["cmd", "/C"]
    } else {
        ["sh", "-c"]
    };
    let mut child = process::Command::new(shell[0])
        .args([shell[1], command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(tool_failure)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input has no use for it.
        _ = writeln!(stdin, "{call}");
    }
    let output = child.wait_with_output().map_err(tool_failure)?;
    if !output.status.success() {
        return Err(failure(format_args!(
            "the tool command {command:?} failed: {}",
            output.status
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned())
}

/// An answer as it is shown while the model writes it. Calls are not shown as the model writes
/// them, but as JSON when the answer is complete.
struct Shown {
    stdout: StdoutLock<'static>,
    bar: PromptBar,
    /// How the model writes calls, if it has tools.
    form: Option<ToolForm>,
    /// What is written so far, and how much of it is printed.
    text: String,
    printed: usize,
    /// Where the first call begins.
    call_start: Option<usize>,
}

impl Shown {
    /// Adds a piece of the answer, and prints it if it is before the calls.
    fn push(&mut self, piece: &str) -> io::Result<()> {
        self.text.push_str(piece);
        if self.call_start.is_none() {
            self.call_start = self.form.and_then(|form| form.call_start(&self.text));
        }
        // If the tag came in several pieces, a part of it is printed already.
        let end = self.call_start.unwrap_or(self.text.len()).max(self.printed);
        if end == self.printed {
            return Ok(());
        }
        self.bar.clear();
        let new = &self.text[self.printed..end];
        self.printed = end;
        write!(self.stdout, "{new}")?;
        self.stdout.flush()
    }
}

/// Tells the user how an answer ended, and how fast it came.
fn note_end(answer: &Generated, sampled: &str) {
    if answer.end.is_none() && answer.tokens == 0 {
        note(paint(
            "2",
            "stopped before the answer; the message is not part of the conversation",
        ));
        return;
    }
    note(paint("2", &format!("{}; {sampled}", summary(answer))));
    if answer.end == Some(End::ContextFull) {
        note(
            "the context is full: /clear begins a new conversation, and a longer --context has \
             more room",
        );
    }
}

/// The error of a message that does not fit.
fn too_long(tokens: usize, context: usize) -> Failure {
    failure(format_args!(
        "the message was not sent: with it the conversation has {} and no longer fits the context \
         of {context}; /clear begins a new conversation, and a longer --context has more room",
        counted(tokens, "token"),
    ))
}

/// A conversation, and what is needed to show it.
struct Conversation<'c> {
    chat: Chat,
    bar: PromptBar,
    options: GenerateOptions,
    /// How the model writes calls, if it has tools.
    form: Option<ToolForm>,
    /// What is run for a call.
    tool_command: Option<String>,
    /// The file or folder of the model.
    model: &'c Path,
}

impl Conversation<'_> {
    /// Reads messages and commands to the end of the input. `sampled` says how tokens are chosen.
    fn go_on(&mut self, sampled: &str) -> Outcome {
        let mut input = Input::new()?;
        // In a script, Ctrl-C ends the program.
        if input.is_interactive() {
            interrupt::catch()?;
            note(paint("2", "/help lists the commands, Ctrl-D ends"));
        }
        let mut refused = 0;
        loop {
            let typed = input.read()?;
            if !matches!(typed, Typed::Interrupted) {
                interrupt::forget();
            }
            let done = match typed {
                Typed::Line(line) => match command::command(&line) {
                    Some(Ok(Command::Quit)) => break,
                    Some(Ok(command)) => self.obey(command),
                    Some(Err(reason)) => Err(failure(reason)),
                    None => self.converse(command::message(&line), sampled, &mut input),
                },
                Typed::Block(text) => self.converse(&text, sampled, &mut input),
                Typed::Unreadable(reason) => Err(failure(reason)),
                Typed::Interrupted if interrupt::pressed() => return Err(Failure::Interrupted),
                Typed::Interrupted => Ok(()),
                Typed::End => break,
            };
            match done {
                Ok(()) => {}
                Err(Failure::Refused(reason)) => {
                    report(&reason);
                    refused += 1;
                }
                Err(failure) => return Err(failure),
            }
        }
        if refused > 0 && !input.is_interactive() {
            let things = counted(refused, "input");
            return Err(failure(format_args!("{things} refused, see above")));
        }
        Ok(())
    }

    /// Sends a message and prints the answer, and again as long as the model calls tools that
    /// answer.
    fn converse(&mut self, text: &str, sampled: &str, input: &mut Input) -> Outcome {
        if text.trim().is_empty() {
            return Ok(());
        }
        self.answer(Turn::User(text), sampled)?;
        for _ in 0..MOST_CALLS {
            let results = self.results(input)?;
            if results.is_empty() {
                break;
            }
            self.answer(Turn::Tools(&results), sampled)?;
        }
        Ok(())
    }

    /// The answers of the tools that the last message called. If one of them has no answer, there
    /// are none.
    fn results(&mut self, input: &mut Input) -> Outcome<Vec<String>> {
        let last = self.chat.messages().last();
        let answer = last.filter(|last| last.role == "assistant");
        let calls = answer.map_or_else(Vec::new, |last| self.calls(&last.content));
        let mut results = Vec::new();
        let count = calls.len();
        for call in calls {
            print(&call)?;
            let result = match &self.tool_command {
                Some(command) => run_tool(command, &call.to_string())?,
                None => match input.read()? {
                    Typed::Line(text) | Typed::Block(text) => text,
                    Typed::Unreadable(_) | Typed::Interrupted | Typed::End => String::new(),
                },
            };
            if !result.trim().is_empty() {
                results.push(result);
            }
        }
        // Answers belong to calls by their order.
        if results.len() < count {
            results.clear();
        }
        Ok(results)
    }

    /// The calls in an answer.
    fn calls(&self, answer: &str) -> Vec<Value> {
        self.form.map_or_else(Vec::new, |form| calls(answer, form))
    }

    /// Sends a turn and prints the answer. After an error the turn is not part of the
    /// conversation.
    fn answer(&mut self, turn: Turn<'_>, sampled: &str) -> Outcome {
        let stop = interrupt::Answer::begin();
        let mut shown = Shown {
            stdout: io::stdout().lock(),
            bar: self.bar.clone(),
            form: self.form,
            text: String::new(),
            printed: 0,
            call_start: None,
        };
        let mut written = Ok(());
        let write = |text: &str| {
            written = shown.push(text);
            if written.is_err() || stop.is_stopped() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        let answer = match turn {
            Turn::User(text) => self.chat.say(text, &self.options, write),
            Turn::Tools(results) => self.chat.answer_calls(results, &self.options, write),
        };
        self.bar.clear();
        drop(stop);
        written.map_err(stdout_failure)?;
        // What began like a call and is not one is text.
        if self.calls(&shown.text).is_empty() {
            let rest = &shown.text[shown.printed..];
            write!(shown.stdout, "{rest}").map_err(stdout_failure)?;
        }
        let answer = match answer {
            Err(Error::TooLong { tokens, context }) => return Err(too_long(tokens, context)),
            Err(Error::Template(error)) => return Err(failure(error)),
            answer => answer,
        };
        writeln!(shown.stdout).map_err(stdout_failure)?;
        note_end(&answer?, sampled);
        Ok(())
    }

    /// Carries out a command.
    fn obey(&mut self, command: Command) -> Outcome {
        match command {
            Command::Help => note(command::HELP),
            Command::Clear => {
                self.chat.clear();
                note("a new conversation begins");
            }
            Command::System(text) => {
                self.chat.set_system(text.as_deref())?;
                note(match text {
                    Some(_) => "the system message is set",
                    None => "the system message is removed",
                });
            }
            Command::Save(path) => self.save(&path)?,
            Command::Load(path) => self.load(&path)?,
            Command::Quit => {}
        }
        Ok(())
    }

    /// Writes the conversation to a file.
    fn save(&mut self, path: &Path) -> Outcome {
        let output = OutputFile::new(path, Kind::Snapshot, &[self.model])?;
        let bytes = self.chat.save()?;
        output.write(|file| {
            let written = file.write_all(&bytes);
            written.map_err(|error| output.cannot_write(error))
        })?;
        self.say("saved", path);
        Ok(())
    }

    /// Tells the user what was done with a file.
    fn say(&self, done: &str, path: &Path) {
        note(format_args!(
            "{done} {}: {}, {}",
            path.display(),
            counted(self.chat.messages().len(), "message"),
            counted(self.chat.session().tokens().len(), "token")
        ));
    }

    /// Continues a conversation from a file.
    fn load(&mut self, path: &Path) -> Outcome {
        let bytes = read_whole(path)?;
        let context = self.chat.session().capacity();
        self.chat.load(&bytes).map_err(|error| {
            let reason = match error {
                Error::Core(CoreError::ForeignSnapshot) => "was made with another model".into(),
                Error::Core(CoreError::SnapshotKv(dtype)) => {
                    let dtype = dtype.name();
                    format!("its keys and values are {dtype}; start chat with --kv {dtype}")
                }
                Error::Core(CoreError::ContextFull { .. }) => {
                    let header = SnapshotHeader::read(&bytes);
                    let tokens = header.map_or(0, |header| header.tokens() as usize);
                    format!(
                        "has {}, and the context has room for {context}; start chat with a longer \
                         --context",
                        counted(tokens, "token")
                    )
                }
                error => error.to_string(),
            };
            file_failure(path, reason)
        })?;
        self.say("loaded", path);
        Ok(())
    }
}

/// Parses a variable of the template.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("a setting is NAME=VALUE, such as enable_thinking=false")?;
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_name =
        name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit());
    if !is_name {
        return Err("the name of a variable has letters, digits and _ only".into());
    }
    if name == "messages" {
        return Err("`messages` is the conversation itself; choose another variable".into());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_json_or_text() {
        let parsed = |text: &str| setting(text).map(|(name, value)| (name, value.to_string()));
        let expected = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(parsed("a=false"), expected("a", "false"));
        assert_eq!(parsed("a=[1, 2]"), expected("a", "[1,2]"));
        assert_eq!(parsed("a=low"), expected("a", "\"low\""));
        assert_eq!(parsed("a=b=c"), expected("a", "\"b=c\""));
        assert_eq!(parsed("a="), expected("a", "\"\""));
        for wrong in ["a", "=1", "a b=1", "1a=1", "messages=[]"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
