//! `pocketlm chat`: a conversation with the checkpoint's chat template.

mod command;
mod interrupt;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use pocketlm::Error;
use pocketlm::chat::{Message, Rendered, Template};
use pocketlm::generate::End;
use pocketlm::host::file::read_whole;
use pocketlm::run::{Session, snapshot};
use pocketlm::sample::Sampler;
use pocketlm::text::{EncodeOptions, Tokenizer};
use serde_json::{Map, Value, json};

use self::command::Command;
use crate::generate::{
    Generated, Guessing, Running, arena, default_context, feed, generate, warn_beyond_trained,
};
use crate::input::{Input, Typed};
use crate::load::{Image, refuse_import};
use crate::number::whole;
use crate::output::{Failure, Outcome, counted, note, paint, refuse, refuse_file, report};
use crate::output_file::{Kind, OutputFile};
use crate::sampling::Sampling;
use crate::snapshot::saved;
use crate::tokenize::encode;

/// Talk with a model that has a chat template: a line is a message, the answer streams to stdout
#[derive(Args)]
#[command(after_help = "\
Earlier turns stay in memory: a turn computes only what is new. Special tokens count in the template, not in what you \
type. Lines between two \"\"\" are one message, as are lines that are pasted together at a terminal.

Commands, at a terminal and in a script: /system TEXT, /clear, /save FILE, /load FILE, /quit, /help. A message that \
begins with / is written with //. /save writes a snapshot, which `pocketlm run --snapshot` and a device read too, with \
the messages after it for /load.

Ctrl-C stops the answer that is being written; what there is of it stays in the conversation. A second one ends the \
program, with exit code 130. Ctrl-D ends the conversation. What cannot be done (a message that is \
too long or not UTF-8, an unknown command) is refused, and the conversation goes on; if stdin is not a terminal, the \
exit code is 1 in the end.

Examples:
  pocketlm chat smol.plm --system 'You answer in one sentence.'
  printf 'What is the capital of France?\\nAnd of Italy?\\n' | pocketlm chat smol.plm --temperature 0")]
pub struct Arguments {
    /// An image or a checkpoint
    model: PathBuf,

    /// The system message, for templates that have one
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,

    /// A variable of the chat template, as JSON or else as text: `--set enable_thinking=false`. May
    /// be given several times
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, Value)>,

    /// At most N tokens an answer
    #[arg(short = 'n', long = "tokens", value_name = "N", value_parser = whole(0..=usize::MAX))]
    limit: Option<usize>,

    /// Tokens the whole conversation has room for [default: 4096, or as many as the model was
    /// trained for]
    #[arg(short, long, value_name = "N", value_parser = whole(1..=u32::MAX))]
    context: Option<u32>,

    #[command(flatten)]
    running: Running,

    #[command(flatten)]
    guessing: Guessing,

    #[command(flatten)]
    sampling: Sampling,
}

pub fn chat(arguments: Arguments) -> Outcome {
    let image = Image::open(&arguments.model)?;
    let model = image.model()?;
    let tokenizer = image.tokenizer(&model)?;
    let source = image.chat_template(&model)?;
    let template = Template::new(source).map_err(|error| image.refuse(error))?;

    let context = arguments
        .context
        .map_or_else(|| default_context(&model, 4096), |context| context as usize);
    let workers = arguments.running.workers()?;
    let plan = arguments
        .running
        .plan(&model, context, &workers, arguments.guessing.logits());
    let mut arena = arena(&plan)?;
    let engine = arguments.running.engine(&workers);
    let session =
        Session::new(&model, &plan, &mut arena, engine).map_err(|error| image.refuse(error))?;
    warn_beyond_trained(&model, context);
    let seed = arguments.sampling.seed();
    let mut window = arguments.sampling.window();
    let mut conversation = Conversation {
        special: special_tokens(&tokenizer),
        tokenizer: &tokenizer,
        template: &template,
        settings: arguments.settings.into_iter().collect(),
        session,
        sampler: arguments.sampling.sampler(seed, &mut window),
        limit: arguments.limit.unwrap_or(usize::MAX),
        model: &arguments.model,
        messages: Vec::new(),
        unfed: None,
    };
    if let Some(system) = arguments.system {
        conversation.set_system(Some(system))?;
    }
    conversation.go_on(&arguments.sampling.note(seed))
}

/// What was said, and the session that knows it.
struct Conversation<'c, 'm> {
    tokenizer: &'c Tokenizer<'m>,
    template: &'c Template,
    /// Variables of the template.
    settings: Map<String, Value>,
    special: Vec<String>,
    session: Session<'m, 'c>,
    sampler: Sampler<'c>,
    /// Tokens of an answer at most.
    limit: usize,
    /// The file or folder of the model.
    model: &'c Path,
    messages: Vec<Message>,
    /// What the session has not been fed of what was said; `None` if that is not known.
    unfed: Option<Vec<u32>>,
}

impl Conversation<'_, '_> {
    /// Reads messages and commands to the end of the input. `sampled` says how tokens are chosen.
    fn go_on(&mut self, sampled: &str) -> Outcome {
        let mut input = Input::new()?;
        // In a script, Ctrl-C ends all of it.
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
                    Some(Err(reason)) => Err(refuse(reason)),
                    None => self.answer(command::message(&line), sampled),
                },
                Typed::Block(text) => self.answer(&text, sampled),
                Typed::Unreadable(reason) => Err(refuse(reason)),
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
            return Err(refuse(format_args!("{things} refused, see above")));
        }
        Ok(())
    }

    /// Answers a message. If it is refused, nothing was said.
    fn answer(&mut self, text: &str, sampled: &str) -> Outcome {
        if text.trim().is_empty() {
            return Ok(());
        }
        self.messages.push(Message {
            role: "user",
            content: text.into(),
        });
        let mut answer = String::new();
        let generated = match self.generate(&mut answer) {
            Ok(generated) => generated,
            Err(failure) => {
                self.messages.pop();
                return match failure {
                    Failure::Interrupted => {
                        note(paint(
                            "2",
                            "stopped before the answer; the message is not part of the conversation",
                        ));
                        Ok(())
                    }
                    failure => Err(failure),
                };
            }
        };
        note(paint("2", &format!("{generated}; {sampled}")));
        if generated.end == Some(End::ContextFull) {
            note(
                "the context is full: /clear begins a new conversation, and a longer --context has more room",
            );
        }
        self.unfed = Some(vec![generated.last]);
        self.messages.push(Message {
            role: "assistant",
            content: answer,
        });
        Ok(())
    }

    /// Feeds what is new in the conversation and writes the answer to stdout.
    fn generate(&mut self, answer: &mut String) -> Outcome<Generated> {
        let ids = self.ids(&self.messages)?;
        if ids.len() >= self.session.context() {
            return Err(refuse(format_args!(
                "with this message the conversation has {} and no longer fits the context of {}, so the message is not part of it; /clear begins a new conversation, and a longer --context has more room",
                counted(ids.len(), "token"),
                self.session.context()
            )));
        }
        self.unfed = None;
        let stop = interrupt::Answer::begin();
        let new = keep_common(&mut self.session, &ids)?;
        let mut stdout = io::stdout().lock();
        let generated = generate(
            &mut self.session,
            &mut self.sampler,
            self.tokenizer,
            new,
            self.limit,
            Some(&|| stop.is_stopped()),
            |text| {
                answer.push_str(text);
                stdout.write_all(text.as_bytes())?;
                Ok(stdout.flush()?)
            },
        );
        writeln!(stdout)?;
        generated
    }

    /// A conversation as the model is to read it, up to where it answers.
    fn ids(&self, messages: &[Message]) -> Outcome<Vec<u32>> {
        let rendered = self.template.render(messages, &self.settings);
        rendered_ids(self.tokenizer, &rendered.map_err(refuse)?, &self.special)
    }

    fn obey(&mut self, command: Command) -> Outcome {
        match command {
            Command::Help => note(command::HELP),
            Command::Clear => {
                self.messages.retain(|message| message.role == "system");
                self.unfed = None;
                self.sampler.forget();
                note("a new conversation begins");
            }
            Command::System(text) => {
                let set = text.is_some();
                self.set_system(text)?;
                note(match set {
                    true => "the system message is set",
                    false => "there is no system message",
                });
            }
            Command::Save(path) => self.save(&path)?,
            Command::Load(path) => self.load(&path)?,
            Command::Quit => {}
        }
        Ok(())
    }

    /// Replaces the system message. If the template cannot have it, nothing changes.
    fn set_system(&mut self, text: Option<String>) -> Outcome {
        let system = text.map(|content| Message {
            role: "system",
            content,
        });
        let said = self
            .messages
            .iter()
            .filter(|message| message.role != "system");
        let messages: Vec<Message> = system.into_iter().chain(said.cloned()).collect();
        let mut tried = messages.clone();
        tried.push(Message {
            role: "user",
            content: "x".into(),
        });
        self.ids(&tried)?;
        self.messages = messages;
        self.unfed = None;
        Ok(())
    }

    /// Writes a snapshot of the session, and after it the messages as JSON.
    fn save(&mut self, path: &Path) -> Outcome {
        let output = OutputFile::new(path, Kind::Snapshot, &[self.model])?;
        self.feed_the_rest()?;
        let mut bytes = saved(&self.session)?;
        let messages: Vec<Value> = self
            .messages
            .iter()
            .map(|message| json!({ "role": message.role, "content": message.content }))
            .collect();
        bytes.extend(json!({ "messages": messages }).to_string().bytes());
        output.write(|file| {
            let written = file.write_all(&bytes);
            written.map_err(|error| output.cannot_write(error))
        })?;
        self.say("saved", path);
        Ok(())
    }

    fn say(&self, done: &str, path: &Path) {
        note(format_args!(
            "{done} {}: {}, {}",
            path.display(),
            counted(self.messages.len(), "message"),
            counted(self.session.len(), "token")
        ));
    }

    /// Feeds the session what it does not hold of the conversation.
    fn feed_the_rest(&mut self) -> Outcome {
        let Some((answer, before)) = self
            .messages
            .split_last()
            .filter(|(last, _)| last.role == "assistant")
        else {
            return Err(refuse("nothing was said yet"));
        };
        let rest = match self.unfed.take() {
            Some(ids) => ids,
            None => {
                let ids = self.ids(before)?;
                let new = keep_common(&mut self.session, &ids)?;
                feed(&mut self.session, new)?;
                let options = EncodeOptions {
                    add_special_tokens: false,
                    parse_special: false,
                };
                encode(self.tokenizer, &answer.content, options)?
            }
        };
        // A full context has no room for the last token, and the answer may be none.
        let room = self.session.context() - self.session.len();
        let rest = &rest[..rest.len().min(room)];
        if !rest.is_empty() {
            feed(&mut self.session, rest)?;
        }
        self.unfed = Some(Vec::new());
        Ok(())
    }

    /// Goes on with a conversation that [`save`](Conversation::save) wrote.
    fn load(&mut self, path: &Path) -> Outcome {
        let bytes = read_whole(path).map_err(refuse_import)?;
        let blame = |reason: String| refuse_file(path, reason);
        let header = snapshot::Header::parse(&bytes).map_err(|error| blame(error.to_string()))?;
        let messages = usize::try_from(header.length())
            .ok()
            .and_then(|length| bytes.get(length..))
            .unwrap_or_default();
        if messages.is_empty() {
            return Err(blame(
                "holds no conversation, only a text; `pocketlm run --snapshot` goes on with it"
                    .into(),
            ));
        }
        let messages = messages_of(messages)
            .ok_or_else(|| blame("the messages after the snapshot are damaged".into()))?;
        let context = self.session.context();
        self.session.restore_from(&bytes).map_err(|error| {
            blame(match error {
                Error::ForeignSnapshot => "was made with another model".into(),
                Error::SnapshotKv(dtype) => {
                    let dtype = dtype.name();
                    format!("its keys and values are {dtype}; start chat with --kv {dtype}")
                }
                Error::ContextFull { .. } => format!(
                    "has {}, and the context room for {context}; start chat with a longer --context",
                    counted(header.tokens() as usize, "token")
                ),
                error => error.to_string(),
            })
        })?;
        self.messages = messages;
        self.unfed = None;
        self.sampler.forget();
        for &id in self.session.tokens() {
            self.sampler.accept(id);
        }
        self.say("loaded", path);
        Ok(())
    }
}

/// Reads the messages that follow a snapshot.
fn messages_of(json: &[u8]) -> Option<Vec<Message>> {
    let json: Value = serde_json::from_slice(json).ok()?;
    let message = |message: &Value| {
        let role = message.get("role")?.as_str()?;
        Some(Message {
            role: ["system", "user", "assistant"]
                .into_iter()
                .find(|known| *known == role)?,
            content: message.get("content")?.as_str()?.to_owned(),
        })
    };
    json.get("messages")?
        .as_array()?
        .iter()
        .map(message)
        .collect()
}

/// Takes back what the session has beyond its common start with `ids`, and returns what is then
/// still to be fed: at least one token, whose logits are wanted.
fn keep_common<'i>(session: &mut Session, ids: &'i [u32]) -> Outcome<&'i [u32]> {
    let common = session
        .tokens()
        .iter()
        .zip(ids)
        .take_while(|(a, b)| a == b)
        .count()
        .min(ids.len().saturating_sub(1));
    let surplus = session.len() - common;
    if surplus <= session.rewindable() as usize {
        session.rewind(surplus)?;
    } else {
        // Keys that a sliding window still needs are gone.
        session.reset();
    }
    Ok(ids.get(session.len()..).unwrap_or_default())
}

/// The spellings of all special tokens.
fn special_tokens(tokenizer: &Tokenizer) -> Vec<String> {
    let texts = tokenizer.special_texts();
    texts
        .flat_map(|text| {
            [
                text.replace('▁', " "),
                text.replace(' ', "▁"),
                text.to_owned(),
            ]
        })
        .collect()
}

/// A variable of the template from the command line.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or("a setting is NAME=VALUE, such as enable_thinking=false")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

/// Encodes a rendered conversation, in which special tokens count where the template wrote them.
fn rendered_ids(
    tokenizer: &Tokenizer,
    rendered: &Rendered,
    special: &[String],
) -> Outcome<Vec<u32>> {
    // The template writes BOS itself.
    let options = |parse_special| EncodeOptions {
        add_special_tokens: false,
        parse_special,
    };
    // A tokenizer may put a space before a text. Behind a line break it does not, so all pieces
    // but the first are encoded behind one, which is then taken away again.
    let line_break = encode(tokenizer, "\n", options(false))?;
    let mut ids = Vec::new();
    for (index, (piece, parse_special)) in rendered.pieces(special).into_iter().enumerate() {
        if index > 0 {
            let behind = encode(tokenizer, &format!("\n{piece}"), options(parse_special))?;
            if let Some(rest) = behind.strip_prefix(line_break.as_slice()) {
                ids.extend(rest);
                continue;
            }
        }
        ids.extend(encode(tokenizer, piece, options(parse_special))?);
    }
    Ok(ids)
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
        assert!(parsed("a").is_err() && parsed("=1").is_err());
    }
}
