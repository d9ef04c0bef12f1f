//! `pocketlm run`: continues a text.

use std::io::{self, IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use pocketlm::host::file::read_whole;
use pocketlm::host::{self, AlignedBytes, GenerateOptions, Generated, Llm, LlmSession};
use pocketlm::model::{Kv, Model};
use pocketlm::run::SnapshotHeader;
use pocketlm::text::{EncodeOptions, Tokenizer};

use crate::grammar::{Constraining, check_specials};
use crate::input::{Input, Typed};
use crate::load::Image;
use crate::number::whole;
use crate::output::{
    Failure, Outcome, counted, failure, file_failure, note, paint, stdout_failure,
};
use crate::output_file::keep_from_stdout;
use crate::running::{Drafting, PromptBar, Running, default_context, summary, warn_beyond_trained};
use crate::sampling::Sampling;
use crate::story;

/// Continue a text: the prompt and the new text stream to stdout, the speed goes to stderr
#[derive(Args)]
#[command(after_help = "\
The text ends where the model ends it, after -n tokens, or when the context is full. A line break \
at the end of a prompt from stdin is removed, and one is printed after the text.

Examples:
  pocketlm run                                           a story from the built-in model
  pocketlm run -p 'Once upon a time, a dragon' --seed 7  the same story each time
  pocketlm run smol.plm -p 'The capital of France is' -n 10 --temperature 0
  pocketlm run smol.plm -n 100 < essay.txt > longer.txt
  pocketlm run smol.plm -p 'A cat, as JSON: ' --json-schema cat.schema.json
  pocketlm run smol.plm --snapshot robot.kv -p ' Hello! '  continue from a snapshot")]
pub struct Arguments {
    /// An image or a checkpoint [default: the built-in story model]
    model: Option<PathBuf>,

    /// The text to continue; `-` reads it from stdin. Without this option it is read from stdin
    /// too, or you are asked for it if stdin is a terminal
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,

    /// Write at most N tokens
    #[arg(short = 'n', long = "tokens", value_name = "N", value_parser = whole(0..=usize::MAX))]
    limit: Option<usize>,

    /// Room for N tokens, prompt included [default: 2048, or what the prompt and -n need; at most
    /// what the model was trained for]
    #[arg(short, long, value_name = "N", value_parser = whole(1..=u32::MAX))]
    context: Option<u32>,

    /// Continue from a snapshot that `pocketlm snapshot` or a device wrote. The prompt follows the
    /// snapshot's text. Its type of keys and values is used instead of --kv
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,

    /// Do not print the prompt
    #[arg(long)]
    no_echo: bool,

    #[command(flatten)]
    constraining: Constraining,

    #[command(flatten)]
    running: Running,

    #[command(flatten)]
    drafting: Drafting,

    #[command(flatten)]
    sampling: Sampling,
}

pub fn run(arguments: Arguments) -> Outcome {
    if let Some(snapshot) = &arguments.snapshot {
        keep_from_stdout(snapshot)?;
    }
    let prompt = arguments.prompt()?;
    let snapshot = arguments.snapshot.as_deref();
    let snapshot = snapshot.map(SnapshotFile::read).transpose()?;

    // Opening a model takes long, so everything else was checked before.
    let image = match &arguments.model {
        Some(model) => Image::open(model)?,
        None => Image::built_in(),
    };
    let llm = Llm::new(image.into_inner())?;
    let ids = encoded(llm.tokenizer(), &prompt, snapshot.is_none())?;
    let before = snapshot.as_ref().map_or(0, |snapshot| snapshot.tokens);
    let context = arguments.context(llm.model(), before + ids.len())?;
    let grammar = arguments.grammar(&llm)?;

    let seed = arguments.sampling.seed();
    let mut options = arguments.running.options(
        Some(u32::try_from(context).unwrap_or(u32::MAX)),
        &arguments.drafting,
        arguments.sampling.settings(seed),
    );
    if let Some(snapshot) = &snapshot {
        options.kv = snapshot.kv;
    }
    let mut session = llm.session(&options)?;
    warn_beyond_trained(llm.model(), context);
    if let Some(snapshot) = &snapshot {
        snapshot.restore(&mut session)?;
    }
    let bar = PromptBar::default();
    session.on_prompt(move |done, total| bar.show(done, total));
    let echoed = if arguments.no_echo { "" } else { &prompt };
    let options = GenerateOptions {
        limit: arguments.limit.unwrap_or(usize::MAX),
        grammar,
        keep_special: arguments.constraining.calls_tools(),
        ..GenerateOptions::default()
    };
    let generated = write_text(&mut session, echoed, ids, &options)?;
    let how = arguments.sampling.note(seed);
    note(paint("2", &format!("{}; {how}", summary(&generated))));
    Ok(())
}

/// The tokens of the prompt, with those that begin a text if it does.
fn encoded(tokenizer: &Tokenizer, prompt: &str, begins: bool) -> Outcome<Vec<u32>> {
    let encoding = EncodeOptions {
        add_special_tokens: begins,
        ..EncodeOptions::default()
    };
    let ids = tokenizer.encode_to_vec(prompt, encoding)?;
    if ids.is_empty() {
        return Err(failure(
            "the prompt is empty, and this model has no token that begins a text; give a prompt \
             with -p",
        ));
    }
    Ok(ids)
}

impl Arguments {
    /// The grammar of the text, compiled.
    fn grammar(&self, llm: &Llm) -> Outcome<Option<Vec<u8>>> {
        let template = llm.model().chat_template();
        let grammar = self.constraining.compile(llm.tokenizer(), template)?;
        if let Some(grammar) = &grammar {
            check_specials(grammar, llm.tokenizer())?;
        }
        Ok(grammar)
    }

    /// The text to continue.
    fn prompt(&self) -> Outcome<String> {
        // `run` without arguments tells a story. It does not wait for a prompt.
        if self.model.is_none() && self.prompt.is_none() && self.snapshot.is_none() {
            return Ok(story::PROMPT.into());
        }
        prompt(self.prompt.as_deref())
    }

    /// How many tokens the session needs room for. `given` is the number of tokens before the text.
    fn context(&self, model: &Model, given: usize) -> Outcome<usize> {
        let context = match self.context {
            Some(context) => context as usize,
            None => {
                let wanted = self.limit.map(|limit| given.saturating_add(limit));
                default_context(model, wanted.unwrap_or(2048))
            }
        };
        if given > context {
            return Err(failure(format_args!(
                "the prompt has {} and the context {context}; give a shorter prompt or a longer \
                 --context",
                counted(given, "token")
            )));
        }
        Ok(context)
    }
}

/// A snapshot that was read from a file.
struct SnapshotFile<'p> {
    path: &'p Path,
    bytes: AlignedBytes,
    tokens: usize,
    kv: Kv,
}

impl<'p> SnapshotFile<'p> {
    fn read(path: &'p Path) -> Outcome<Self> {
        let bytes = read_whole(path)?;
        let header = SnapshotHeader::read(&bytes).map_err(|error| file_failure(path, error))?;
        Ok(SnapshotFile {
            path,
            tokens: header.tokens() as usize,
            kv: header.kv().map_err(|error| file_failure(path, error))?,
            bytes,
        })
    }

    fn restore(&self, session: &mut LlmSession) -> Outcome {
        let restored = session.restore(&self.bytes);
        restored.map_err(|error| match error {
            host::Error::Core(error) => file_failure(self.path, error),
            error => error.into(),
        })
    }
}

/// Writes `echoed` and the text that follows the session's tokens and `ids` to stdout.
fn write_text(
    session: &mut LlmSession,
    echoed: &str,
    ids: Vec<u32>,
    options: &GenerateOptions,
) -> Outcome<Generated> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(echoed.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(stdout_failure)?;
    let mut all = session.tokens();
    all.extend(ids);
    // The first failure to write ends the text.
    let mut written = Ok(());
    let generated = session.complete(&all, options, |text| {
        written = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush());
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    written
        .and_then(|()| writeln!(stdout))
        .map_err(stdout_failure)?;
    Ok(generated?)
}

/// The prompt from the command line, from stdin, or typed by the user.
pub fn prompt(given: Option<&str>) -> Outcome<String> {
    match given {
        Some(text) if text != "-" => return Ok(text.into()),
        None if io::stdin().is_terminal() => return ask_for_prompt(),
        _ => {}
    }
    let mut text = String::new();
    io::stdin()
        .lock()
        .read_to_string(&mut text)
        .map_err(|error| failure(format_args!("standard input: {error}")))?;
    // A text file ends in a line break. In the prompt it would make the model start a new line.
    Ok(text
        .strip_suffix('\n')
        .map(|text| text.strip_suffix('\r').unwrap_or(text))
        .unwrap_or(&text)
        .to_owned())
}

fn ask_for_prompt() -> Outcome<String> {
    note("The text to continue (\"\"\" begins and ends several lines):");
    match Input::new()?.read()? {
        Typed::Line(text) | Typed::Block(text) => Ok(text),
        Typed::Unreadable(reason) => Err(failure(reason)),
        Typed::Interrupted => Err(Failure::Interrupted),
        Typed::End => Err(failure("no prompt; type one, or give it with -p TEXT")),
    }
}
