//! `pocketlm run`: text that goes on.

use std::io::{self, IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use pocketlm::host::file::read_whole;
use pocketlm::host::{self, GenerateOptions, Llm};
use pocketlm::run::snapshot;
use pocketlm::text::EncodeOptions;

use crate::generate::{
    Drafting, PromptBar, Running, default_context, summary, warn_beyond_trained,
};
use crate::input::{Input, Typed};
use crate::load::Image;
use crate::number::whole;
use crate::output::{Failure, Outcome, counted, note, paint, refuse, refuse_file};
use crate::output_file::keep_from_stdout;
use crate::sampling::Sampling;
use crate::story;

/// Continue a text: the prompt and what follows it stream to stdout, the speed goes to stderr
#[derive(Args)]
#[command(after_help = "\
Stops when the model ends its text, after -n tokens, or when the context is full. A line break at \
the very end of a prompt from stdin is left out, and one is added after the text.

Examples:
  pocketlm run                                           a story from the built-in model
  pocketlm run -p 'Once upon a time, a dragon' --seed 7  the same story each time
  pocketlm run smol.plm -p 'The capital of France is' -n 10 --temperature 0
  pocketlm run smol.plm -n 100 < essay.txt > longer.txt
  pocketlm run smol.plm --snapshot robot.kv -p ' Hello! '  the snapshot's text is not computed again")]
pub struct Arguments {
    /// An image or a checkpoint; the built-in story model if left out
    model: Option<PathBuf>,

    /// The text to continue; `-` reads it from stdin. Without it, it is read from stdin too, or
    /// asked for where that is a terminal
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,

    /// Write at most N tokens
    #[arg(short = 'n', long = "tokens", value_name = "N", value_parser = whole(0..=usize::MAX))]
    limit: Option<usize>,

    /// Tokens the session has room for, prompt included [default: 2048, or as many as prompt and -n
    /// need; no more than the model was trained for]
    #[arg(short, long, value_name = "N", value_parser = whole(1..=u32::MAX))]
    context: Option<u32>,

    /// Go on from a snapshot, which `pocketlm snapshot` or a device wrote: the prompt follows its
    /// text. Keys and values are of the snapshot's type, whatever --kv says
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,

    /// Leave the prompt out of the output
    #[arg(long)]
    no_echo: bool,

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
    // The story model needs no prompt, so it does not wait for one.
    let starts_itself =
        arguments.model.is_none() && arguments.prompt.is_none() && arguments.snapshot.is_none();
    let prompt = if starts_itself {
        story::PROMPT.into()
    } else {
        prompt(arguments.prompt.as_deref())?
    };
    let snapshot = arguments.snapshot.as_deref().map(read_whole).transpose()?;
    let blame = |error| {
        refuse_file(
            arguments.snapshot.as_deref().unwrap_or(Path::new("")),
            error,
        )
    };
    let header = snapshot
        .as_deref()
        .map(snapshot::Header::parse)
        .transpose()
        .map_err(blame)?;
    let before = header.as_ref().map_or(0, |header| header.tokens() as usize);

    // The costly part comes after what the user may have got wrong.
    let image = arguments
        .model
        .as_deref()
        .map_or_else(|| Ok(Image::built_in()), Image::open)?;
    let llm = Llm::new(image.into_inner())?;
    let options = EncodeOptions {
        add_special_tokens: header.is_none(),
        ..EncodeOptions::default()
    };
    let ids = llm.tokenizer().encode_to_vec(&prompt, options)?;
    if ids.is_empty() {
        return Err(refuse(
            "the prompt is empty, and there is no token to begin a text with; give one with -p",
        ));
    }

    let given = before + ids.len();
    let wanted = arguments
        .limit
        .map_or(2048, |limit| given.saturating_add(limit));
    let context = arguments.context.map_or_else(
        || default_context(llm.model(), wanted),
        |context| context as usize,
    );
    if given > context {
        return Err(refuse(format_args!(
            "the prompt has {} and the context {context}; give a shorter prompt or a longer \
             --context",
            counted(given, "token")
        )));
    }
    let seed = arguments.sampling.seed();
    let mut options = arguments.running.options(
        Some(u32::try_from(context).unwrap_or(u32::MAX)),
        &arguments.drafting,
        arguments.sampling.settings(seed),
    );
    if let Some(header) = &header {
        options.kv = header.kv().map_err(blame)?;
    }
    let mut session = llm.session(&options)?;
    warn_beyond_trained(llm.model(), context);
    if let Some(snapshot) = &snapshot {
        session.restore(snapshot).map_err(|error| match error {
            host::Error::Core(error) => blame(error),
            error => error.into(),
        })?;
    }
    let bar = PromptBar::default();
    session.on_prompt(move |done, total| bar.show(done, total));

    let mut stdout = io::stdout().lock();
    if !arguments.no_echo {
        stdout.write_all(prompt.as_bytes())?;
        stdout.flush()?;
    }
    let mut all = session.tokens();
    all.extend(ids);
    let options = GenerateOptions {
        limit: arguments.limit.unwrap_or(usize::MAX),
        ..GenerateOptions::default()
    };
    // The first failure to write ends the text.
    let mut written = Ok(());
    let generated = session.complete(&all, &options, |text| {
        written = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush());
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    written?;
    writeln!(stdout)?;
    let summary = summary(&generated?);
    note(paint(
        "2",
        &format!("{summary}; {}", arguments.sampling.note(seed)),
    ));
    Ok(())
}

/// The prompt that was given, or else stdin's text, or what the user types when asked.
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
        .map_err(|error| refuse(format_args!("standard input: {error}")))?;
    // A text file ends in a line break; a prompt that does makes the model start a new line.
    Ok(text
        .strip_suffix('\n')
        .map(|text| text.strip_suffix('\r').unwrap_or(text))
        .unwrap_or(&text)
        .to_owned())
}

fn ask_for_prompt() -> Outcome<String> {
    note("The text to continue; \"\"\" begins and ends several lines:");
    match Input::new()?.read()? {
        Typed::Line(text) | Typed::Block(text) => Ok(text),
        Typed::Unreadable(reason) => Err(refuse(reason)),
        Typed::Interrupted => Err(Failure::Interrupted),
        Typed::End => Err(refuse("no prompt; type one, or give it with -p TEXT")),
    }
}
