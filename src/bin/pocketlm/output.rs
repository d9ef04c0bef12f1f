//! Output: data goes to stdout, everything else to stderr. An error is one line.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use pocketlm::import::ImportError;

use crate::size;

/// Why a command stopped early.
#[derive(Debug)]
pub enum Failure {
    /// An error. The line says which file, what is wrong, and what helps. Exit code 1.
    Refused(String),
    /// The command was called in a wrong way. Exit code 2.
    Usage(String),
    /// The user pressed Ctrl-C. Exit code 130, as is usual in shells.
    Interrupted,
    /// The reader of stdout closed it (`| head`). This is not an error.
    OutputClosed,
}

/// The result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

/// An error that is not about a file.
pub fn failure(reason: impl Display) -> Failure {
    Failure::Refused(reason.to_string())
}

/// `1 token`, `2 tokens`: for things whose plural ends in s.
pub fn counted(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// Checks that a figure is finite before it is printed. `what` is its name.
pub fn figure(what: &str, value: f64) -> Outcome<f64> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(failure(format_args!("{what} is not a number ({value})")))
    }
}

/// An error about a file or folder.
pub fn file_failure(path: impl AsRef<Path>, reason: impl Display) -> Failure {
    Failure::Refused(format!("{}: {reason}", path.as_ref().display()))
}

impl From<pocketlm::host::Error> for Failure {
    fn from(error: pocketlm::host::Error) -> Self {
        match error {
            pocketlm::host::Error::Memory(bytes) => failure(format_args!(
                "the context takes more memory than there is ({}); use a shorter --context or --kv \
                 q8",
                size::show(bytes as u64)
            )),
            error => failure(error),
        }
    }
}

/// An importer's error already names its file.
impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        failure(error)
    }
}

impl From<pocketlm::Error> for Failure {
    fn from(error: pocketlm::Error) -> Self {
        failure(error)
    }
}

/// A failure to write to stdout.
pub fn stdout_failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => failure(format_args!("standard output: {error}")),
    }
}

/// Prints an error.
pub fn report(reason: &str) {
    // Control characters in a file name could do anything to the terminal, and a line break would
    // begin a second line.
    let line: String = reason
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    note(format_args!("{} {line}", paint("31;1", "error:")));
}

/// Prints a line to stderr. The command continues if stderr is closed.
pub fn note(line: impl Display) {
    _ = writeln!(io::stderr(), "{line}");
}

/// Prints a warning to stderr.
pub fn warn(line: impl Display) {
    note(format_args!("{} {line}", paint("33;1", "warning:")));
}

/// `text` in an SGR style, when stderr is a terminal and `NO_COLOR` is not set.
pub fn paint(style: &str, text: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || !io::stderr().is_terminal();
    if plain {
        text.to_owned()
    } else {
        format!("\x1b[{style}m{text}\x1b[0m")
    }
}

/// Writes a line to stdout.
pub fn print(line: impl Display) -> Outcome {
    writeln!(io::stdout(), "{line}").map_err(stdout_failure)
}

/// Writes indented JSON to stdout.
pub fn print_json(value: &serde_json::Value) -> Outcome {
    print(format_args!("{value:#}"))
}

/// A bar over bytes on stderr, shown when that is a terminal.
pub fn byte_bar(task: String, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {eta}",
    );
    bar(task, total, style)
}

/// A bar over tokens on stderr, shown when that is a terminal.
pub fn token_bar(task: String, total: u64) -> ProgressBar {
    bar(
        task,
        total,
        ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} tokens {eta}"),
    )
}

/// A bar over the weights of a model on stderr, shown when that is a terminal.
pub fn weight_bar(task: String) -> ProgressBar {
    bar(
        task,
        0,
        ProgressStyle::with_template("{msg} [{wide_bar}] {percent} % {eta}"),
    )
}

fn bar(
    task: String,
    total: u64,
    style: Result<ProgressStyle, indicatif::style::TemplateError>,
) -> ProgressBar {
    let style = style
        .expect("the templates above are well-formed")
        .progress_chars("=> ");
    let bar = ProgressBar::new(total).with_style(style).with_message(task);
    // Shows the bar now, because the first piece of the work may take long.
    bar.tick();
    bar
}
