//! Reads lines and blocks that the user types or a script pipes in.

use std::borrow::Cow;
use std::io::{self, BufRead, IsTerminal, Write};

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Behavior, Cmd, ConditionalEventHandler, Config, Editor, Event, EventContext, EventHandler,
    Helper, KeyEvent, Movement, RepeatCount,
};

use crate::output::{Outcome, failure, paint};

/// Begins and ends a text of several lines.
const FENCE: &str = "\"\"\"";

const PROMPT: &str = "> ";

/// The source of the input.
pub enum Input {
    /// A terminal, with an editor for the line.
    Editor(Box<Editor<Typing, MemHistory>>),
    /// Standard input, line by line.
    Lines {
        /// Lines read so far.
        number: usize,
        /// Whether it is a terminal, one without an editor.
        prompts: bool,
    },
}

/// A piece of input.
pub enum Typed {
    /// A line; on a terminal also several that were pasted together.
    Line(String),
    /// The text between two `"""`.
    Block(String),
    /// Input that is not text, and why.
    Unreadable(String),
    /// Ctrl-C.
    Interrupted,
    /// There is no more.
    End,
}

impl Input {
    pub fn new() -> Outcome<Input> {
        let stdin_is_terminal = io::stdin().is_terminal();
        if !stdin_is_terminal || !has_editor() {
            return Ok(Input::Lines {
                number: 0,
                prompts: stdin_is_terminal,
            });
        }
        // The editor shows what is typed even if stdout is a file.
        let behavior = if io::stdout().is_terminal() {
            Behavior::Stdio
        } else {
            Behavior::PreferTerm
        };
        let config = Config::builder()
            .behavior(behavior)
            .auto_add_history(true)
            .bracketed_paste(true)
            .build();
        let editor = Editor::with_history(config, MemHistory::new());
        let mut editor = editor.map_err(|error| failure(format_args!("the terminal: {error}")))?;
        editor.set_helper(Some(Typing));
        editor.bind_sequence(
            KeyEvent::ctrl('C'),
            EventHandler::Conditional(Box::new(ClearFirst)),
        );
        Ok(Input::Editor(Box::new(editor)))
    }

    /// Whether a user types at a terminal.
    pub fn is_interactive(&self) -> bool {
        !matches!(self, Input::Lines { prompts: false, .. })
    }

    /// The next piece.
    pub fn read(&mut self) -> Outcome<Typed> {
        match self {
            Input::Editor(editor) => match editor.readline(PROMPT) {
                Ok(text) => Ok(unfenced(&text)),
                Err(ReadlineError::Interrupted) => Ok(Typed::Interrupted),
                Err(ReadlineError::Eof) => Ok(Typed::End),
                // The editor drops the whole line.
                Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    Ok(Typed::Unreadable("what was typed is not UTF-8".into()))
                }
                Err(error) => Err(failure(format_args!("the terminal: {error}"))),
            },
            Input::Lines { number, prompts } => {
                if *prompts {
                    _ = write!(io::stderr(), "{}", paint("1", PROMPT));
                }
                read_lines(&mut io::stdin().lock(), number)
            }
        }
    }
}

/// Whether a line editor works: the terminal can move its cursor, and can be opened.
fn has_editor() -> bool {
    let plain =
        std::env::var("TERM").is_ok_and(|name| ["dumb", "cons25", "emacs"].contains(&&*name));
    let reachable = || cfg!(not(unix)) || std::fs::File::open("/dev/tty").is_ok();
    !plain && (io::stdout().is_terminal() || reachable())
}

/// Reads a line, or a block between two fences.
fn read_lines(input: &mut dyn BufRead, number: &mut usize) -> Outcome<Typed> {
    let mut bytes = Vec::new();
    let first = *number + 1;
    loop {
        let start = bytes.len();
        let read = input.read_until(b'\n', &mut bytes);
        if read.map_err(|error| failure(format_args!("standard input: {error}")))? == 0 {
            if start == 0 {
                return Ok(Typed::End);
            }
            return Ok(Typed::Unreadable(format!(
                "standard input, line {first}: {FENCE} begins a message, and no {FENCE} ends it"
            )));
        }
        *number += 1;
        if !is_open(&bytes) {
            break;
        }
    }
    match str::from_utf8(&bytes) {
        Ok(text) => Ok(unfenced(text)),
        Err(error) => Ok(Typed::Unreadable(format!(
            "standard input, line {}: not UTF-8",
            first
                + bytes[..error.valid_up_to()]
                    .iter()
                    .filter(|&&byte| byte == b'\n')
                    .count()
        ))),
    }
}

/// Whether a fence begins the text and none ends it.
fn is_open(text: &[u8]) -> bool {
    let inside = text.trim_ascii_start().strip_prefix(FENCE.as_bytes());
    inside.is_some_and(|inside| !inside.trim_ascii_end().ends_with(FENCE.as_bytes()))
}

/// A whole piece of input, without its fences and the line breaks beside them.
fn unfenced(text: &str) -> Typed {
    let inside = text.trim().strip_prefix(FENCE);
    if let Some(inside) = inside.and_then(|inside| inside.strip_suffix(FENCE)) {
        let inside = inside.strip_prefix('\r').unwrap_or(inside);
        let inside = inside.strip_prefix('\n').unwrap_or(inside);
        return Typed::Block(without_line_break(inside).to_owned());
    }
    Typed::Line(without_line_break(text).to_owned())
}

fn without_line_break(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// Tells the editor when the input is complete: Enter does not end an open block.
pub struct Typing;

impl Validator for Typing {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(if is_open(context.input().as_bytes()) {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}

impl Highlighter for Typing {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        _default: bool,
    ) -> Cow<'b, str> {
        Cow::Owned(paint("1", prompt))
    }
}

impl Hinter for Typing {
    type Hint = String;
}

impl Completer for Typing {
    type Candidate = String;
}

impl Helper for Typing {}

/// Ctrl-C deletes what was typed. On an empty line it interrupts.
struct ClearFirst;

impl ConditionalEventHandler for ClearFirst {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        (!context.line().is_empty()).then_some(Cmd::Kill(Movement::WholeBuffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(mut input: &[u8]) -> Vec<String> {
        let mut number = 0;
        let mut pieces = Vec::new();
        loop {
            pieces.push(match read_lines(&mut input, &mut number).unwrap() {
                Typed::Line(text) => format!("line {text}"),
                Typed::Block(text) => format!("block {text}"),
                Typed::Unreadable(reason) => format!("not {reason}"),
                Typed::Interrupted => unreachable!("lines are not interrupted"),
                Typed::End => return pieces,
            });
        }
    }

    #[test]
    fn a_line_is_a_text_and_so_is_what_stands_between_fences() {
        assert_eq!(pieces(b"a\r\n\nb"), ["line a", "line ", "line b"]);
        assert_eq!(
            pieces(b"\"\"\"\none\n  two\n\"\"\"\nafter\n"),
            ["block one\n  two", "line after"]
        );
        assert_eq!(
            pieces(b" \"\"\"one\r\n/two\"\"\" \n\"\"\"three\"\"\"\n"),
            ["block one\r\n/two", "block three"]
        );
        assert_eq!(
            pieces(b"\"\"\"\"\"\"\na \"\"\" b\n"),
            ["block ", "line a \"\"\" b"]
        );
    }

    #[test]
    fn what_is_no_text_is_named_by_its_line_and_the_rest_is_read() {
        assert_eq!(
            pieces(b"a\n\xff\n\"\"\"\nb\n\xc3\n\"\"\"\nc\n"),
            [
                "line a",
                "not standard input, line 2: not UTF-8",
                "not standard input, line 5: not UTF-8",
                "line c"
            ]
        );
        assert_eq!(
            pieces(b"a\n\"\"\"\nb\n"),
            [
                "line a",
                "not standard input, line 2: \"\"\" begins a message, and no \"\"\" ends it"
            ]
        );
    }
}
