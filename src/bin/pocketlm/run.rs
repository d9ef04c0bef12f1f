//! `pocketlm run`: text that goes on.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;

use clap::Args;
use pocketlm::run::Session;
use pocketlm::text::{Decoder, EncodeOptions};

use crate::generate::{Running, arena, generate};
use crate::load::Image;
use crate::output::{Outcome, note, paint, refuse};
use crate::sampling::Sampling;
use crate::story;
use crate::tokenize::encode;

/// Continue a text: the prompt and what follows it stream to stdout, the speed goes to stderr
#[derive(Args)]
#[command(after_help = "\
Stops when the model ends its text, after -n tokens, or when the context is full. A line break at the very end of a \
prompt from stdin is left out, and one is added after the text.

Examples:
  pocketlm run                                           a story from the built-in model
  pocketlm run -p 'Once upon a time, a dragon' --seed 7  the same story each time
  pocketlm run smol.plm -p 'The capital of France is' -n 10 --temperature 0
  pocketlm run smol.plm -n 100 < essay.txt > longer.txt")]
pub struct Arguments {
    /// An image or a checkpoint; the built-in story model if left out
    model: Option<PathBuf>,

    /// The text to continue; `-` reads it from stdin, as does leaving it out when stdin is not a terminal
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,

    /// Write at most N tokens
    #[arg(short = 'n', long = "tokens", value_name = "N")]
    limit: Option<usize>,

    /// Tokens the session has room for, prompt included [default: 2048, or as many as prompt and -n need; 256 for the story model]
    #[arg(short, long, value_name = "N")]
    context: Option<usize>,

    /// Leave the prompt out of the output
    #[arg(long)]
    no_echo: bool,

    #[command(flatten)]
    running: Running,

    #[command(flatten)]
    sampling: Sampling,
}

pub fn run(arguments: Arguments) -> Outcome {
    let image = arguments.model.as_deref().map_or_else(|| Ok(Image::built_in()), Image::open)?;
    let model = image.model()?;
    let tokenizer = image.tokenizer(&model)?;
    let prompt = prompt(&arguments)?;
    let ids = encode(&tokenizer, &prompt, EncodeOptions::default())?;
    if ids.is_empty() {
        return Err(refuse("the prompt is empty, and this model has no token to begin a text with; give one with -p"));
    }

    let usual = if arguments.model.is_none() { story::CONTEXT as usize } else { 2048 };
    let wanted = arguments.limit.map_or(usual, |limit| ids.len().saturating_add(limit));
    let context = arguments.context.unwrap_or(if arguments.model.is_none() { usual } else { wanted });
    if ids.len() > context {
        return Err(refuse(format_args!(
            "the prompt has {} tokens and the context {context}; give a shorter prompt or a longer --context",
            ids.len()
        )));
    }
    let plan = arguments.running.plan(&model, context);
    let mut arena = arena(&plan)?;
    let workers = arguments.running.workers()?;
    let engine = arguments.running.engine(&workers);
    let mut session = Session::new(&model, &plan, &mut arena, engine).map_err(|error| image.refuse(error))?;
    let seed = arguments.sampling.seed();
    let mut window = arguments.sampling.window();
    let mut sampler = arguments.sampling.sampler(seed, &mut window);

    let mut stdout = io::stdout().lock();
    if !arguments.no_echo {
        stdout.write_all(prompt.as_bytes())?;
        stdout.flush()?;
    }
    let mut decoder = Decoder::new(&tokenizer).skip_special(true);
    for &id in &ids {
        decoder.push(id)?;
    }
    let limit = arguments.limit.unwrap_or(usize::MAX);
    let generated = generate(&mut session, &mut sampler, &tokenizer, &mut decoder, &ids, limit, |text| {
        write!(stdout, "{text}")?;
        Ok(stdout.flush()?)
    });
    writeln!(stdout)?;
    note(paint("2", &format!("{}; {}", generated?, arguments.sampling.note(seed))));
    Ok(())
}

fn prompt(arguments: &Arguments) -> Outcome<String> {
    match &arguments.prompt {
        Some(text) if text != "-" => return Ok(text.clone()),
        // The story model needs no prompt, so it does not wait for one.
        None if arguments.model.is_none() => return Ok(story::PROMPT.into()),
        None if io::stdin().is_terminal() => {
            return Err(refuse("no prompt; give one with -p TEXT, or `-p -` to type it (Ctrl-D ends it)"));
        }
        _ => {}
    }
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text).map_err(|error| refuse(format_args!("standard input: {error}")))?;
    // A text file ends in a line break; a prompt that does makes the model start a new line.
    Ok(text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).unwrap_or(&text).to_owned())
}
