//! Conversations with a model: [`Chat`] keeps the messages, and [`Template`] turns them into the
//! text that the model was trained to read.
//!
//! # Chat templates
//! A chat template is Jinja source that comes with a checkpoint. [`Template`] renders it to the
//! same text as Hugging Face `transformers`: Jinja 3.1 with Python's values, in an immutable
//! sandbox, with `trim_blocks` and `lstrip_blocks`, `break` and `continue`, `generation` blocks,
//! `raise_exception`, `strftime_now`, and `tojson` without HTML escapes.
//!
//! There are four differences. `include`, `import` and `extends` are rejected, because there are no
//! other templates. Integers have 128 bits. `lipsum`, `pprint`, `random` and `urlize` do not exist.
//! A template that runs for too long is stopped.
//!
//! # Special tokens in the user's text
//! Special tokens such as `<|im_end|>` steer a model. The template may write them, and the user may
//! not. So [`Rendered`] records which bytes of the text are the user's. Inside the template,
//! literals and plain text are the template's. Strings in variables are the user's, except for the
//! roles of messages, which the program chooses. Operations keep track of each byte: a slice of the
//! user's text is the user's. Text that an operation makes from the user's text (`tojson`, `upper`,
//! `%`, …) is the user's too. The template still sees all of the text: it can test
//! `'</think>' in content`, split there, and measure lengths.
//!
//! [`Rendered::pieces`] cuts the text so that no special token is recognised in bytes of the user,
//! not even if the user wrote only a part of it. If the user spells no special token, the text
//! stays in one piece and is tokenised as a whole, as transformers does.

use std::ops::ControlFlow;
use std::prelude::rust_2024::*;
use std::vec;

use serde_json::{Map, Value as Json, json};

pub use crate::template::{Message, Rendered, Template, TemplateError, calls};

use crate::host::{Error, GenerateOptions, Generated, LlmSession};
use crate::run::SnapshotHeader;

/// A conversation with a model that has a chat template. It keeps the messages, and computes only
/// what is new in each turn.
///
/// ```no_run
/// use std::io::{Write, stdin, stdout};
/// use std::ops::ControlFlow;
/// use pocketlm::chat::Chat;
/// use pocketlm::host::{GenerateOptions, Llm, SessionOptions};
///
/// let llm = Llm::open("SmolLM2-135M-Instruct.Q4_1.gguf")?;
/// let mut chat = Chat::new(llm.session(&SessionOptions::default())?)?;
/// chat.set_system(Some("You answer in one sentence."))?;
/// for line in stdin().lines() {
///     chat.say(&line?, &GenerateOptions::default(), |text| {
///         print!("{text}");
///         _ = stdout().flush();
///         ControlFlow::Continue(())
///     })?;
///     println!();
/// }
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub struct Chat {
    session: LlmSession,
    template: Template,
    variables: Map<String, Json>,
    messages: Vec<Message>,
    /// Whether the session holds these messages and no others.
    is_held: bool,
}

impl Chat {
    /// An empty conversation. The text that `session` holds is replaced at the first turn.
    ///
    /// # Errors
    /// The model has no chat template, or an invalid one.
    pub fn new(session: LlmSession) -> Result<Chat, Error> {
        let llm = session.llm();
        let image = llm.image();
        let source = image.chat_template(llm.model())?;
        let template = Template::new(source).map_err(|error| image.blame(error))?;
        Ok(Chat {
            session,
            template,
            variables: Map::new(),
            messages: Vec::new(),
            is_held: false,
        })
    }

    /// The messages so far, the system message first if there is one.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Replaces all messages, for example by those of a conversation that the program has stored.
    pub fn set_messages(&mut self, messages: Vec<Message>) {
        self.messages = messages;
        self.is_held = false;
    }

    /// Sets the system message, or removes it.
    ///
    /// # Errors
    /// The template refuses a system message. Nothing has changed then.
    pub fn set_system(&mut self, text: Option<&str>) -> Result<(), Error> {
        let system = text.map(|text| Message {
            role: "system",
            content: text.into(),
        });
        let others = self.messages.iter().filter(|it| it.role != "system");
        let messages: Vec<Message> = system.into_iter().chain(others.cloned()).collect();
        let mut tried = messages.clone();
        tried.push(Message {
            role: "user",
            content: "x".into(),
        });
        self.ids(&tried)?;
        self.set_messages(messages);
        Ok(())
    }

    /// Sets a variable of the template, such as `enable_thinking` to `false`.
    pub fn set_variable(&mut self, name: &str, value: Json) {
        self.variables.insert(name.into(), value);
        self.is_held = false;
    }

    /// Sends `text` to the model, which answers: see [`LlmSession::generate`]. The text and the
    /// answer become part of the conversation, a cancelled answer as far as it came. If there is an
    /// error, or the answer is cancelled before it has a token, neither does.
    ///
    /// # Errors
    /// The template refuses the message, and those of [`LlmSession::generate`].
    pub fn say(
        &mut self,
        text: &str,
        options: &GenerateOptions,
        write: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let message = Message {
            role: "user",
            content: text.into(),
        };
        self.go_on(vec![message], options, write)
    }

    /// Sends the results of the tools that the last answer calls, in the order of its
    /// [`calls`]. Otherwise as [`say`](Chat::say).
    ///
    /// # Errors
    /// Those of [`say`](Chat::say).
    pub fn answer_calls(
        &mut self,
        results: &[String],
        options: &GenerateOptions,
        write: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let message = |content: &String| Message {
            role: "tool",
            content: content.clone(),
        };
        self.go_on(results.iter().map(message).collect(), options, write)
    }

    fn go_on(
        &mut self,
        messages: Vec<Message>,
        options: &GenerateOptions,
        write: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let before = self.messages.len();
        self.messages.extend(messages);
        let answer = self.answer(options, write);
        match &answer {
            Ok(answer) if answer.end.is_some() || answer.tokens > 0 => {
                self.is_held = true;
                self.messages.push(Message {
                    role: "assistant",
                    content: answer.text.clone(),
                });
            }
            _ => self.messages.truncate(before),
        }
        answer
    }

    fn answer(
        &mut self,
        options: &GenerateOptions,
        write: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let ids = self.ids(&self.messages)?;
        let tokens = ids.len();
        let context = self.session.capacity();
        if tokens >= context {
            return Err(Error::TooLong { tokens, context });
        }
        self.is_held = false;
        self.session.complete(&ids, options, write)
    }

    /// Begins a new conversation. The system message stays.
    pub fn clear(&mut self) {
        self.messages.retain(|message| message.role == "system");
        self.is_held = false;
    }

    /// The conversation as bytes: a [snapshot](crate::run::Session::save) of the session, followed
    /// by the messages as JSON. A device can restore the snapshot too.
    ///
    /// # Errors
    /// The last message is not an answer, or an error of the core.
    pub fn save(&mut self) -> Result<Vec<u8>, Error> {
        let (answer, before) = self
            .messages
            .split_last()
            .filter(|(last, _)| last.role == "assistant")
            .ok_or(Error::Conversation(
                "nothing was said yet, so there is nothing to save",
            ))?;
        if !self.is_held {
            let mut ids = self.ids(before)?;
            let tokenizer = self.session.llm().tokenizer();
            ids.extend(tokenizer.encode_after(&answer.content, false)?);
            ids.truncate(self.session.capacity());
            self.session.read(&ids)?;
            self.is_held = true;
        }
        let mut bytes = self.session.save()?;
        let messages: Vec<Json> = self
            .messages
            .iter()
            .map(|message| json!({ "role": message.role, "content": message.content }))
            .collect();
        bytes.extend(json!({ "messages": messages }).to_string().bytes());
        Ok(bytes)
    }

    /// Continues a conversation that [`save`](Chat::save) returned.
    ///
    /// # Errors
    /// The bytes are damaged, or those of another model, or the session has other keys and values
    /// or too short a context. The conversation is then as it was.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let header = SnapshotHeader::read(bytes)?;
        let messages = usize::try_from(header.length())
            .ok()
            .and_then(|length| bytes.get(length..))
            .unwrap_or_default();
        if messages.is_empty() {
            return Err(Error::Conversation(
                "holds no conversation, only a text; `pocketlm run --snapshot` goes on with it",
            ));
        }
        let messages = messages_of(messages).ok_or(Error::Conversation(
            "the messages after the snapshot are damaged",
        ))?;
        self.is_held = false;
        self.session.restore(bytes)?;
        self.messages = messages;
        self.is_held = true;
        Ok(())
    }

    /// The session.
    pub fn session(&self) -> &LlmSession {
        &self.session
    }

    /// The session, for example to change how tokens are chosen. If its text is changed, the next
    /// turn computes what is missing.
    pub fn session_mut(&mut self) -> &mut LlmSession {
        self.is_held = false;
        &mut self.session
    }

    /// A conversation as the model is to read it, up to where it answers.
    fn ids(&self, messages: &[Message]) -> Result<Vec<u32>, Error> {
        let rendered = self.template.render(messages, &self.variables)?;
        Ok(rendered.encode(self.session.llm().tokenizer())?)
    }
}

/// Reads the messages that follow a snapshot.
fn messages_of(json: &[u8]) -> Option<Vec<Message>> {
    let json: Json = serde_json::from_slice(json).ok()?;
    let message = |message: &Json| {
        let role = message.get("role")?.as_str()?;
        Some(Message {
            role: ["system", "user", "assistant", "tool"]
                .into_iter()
                .find(|known| *known == role)?,
            content: message.get("content")?.as_str()?.to_owned(),
        })
    };
    let messages = json.get("messages")?.as_array()?;
    messages.iter().map(message).collect()
}
