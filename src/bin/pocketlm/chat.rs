//! `pocketlm chat`: a conversation with the checkpoint's chat template.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use pocketlm::run::Session;
use pocketlm::text::{Decoder, EncodeOptions, Tokenizer};

use crate::generate::{Guessing, Running, arena, default_context, generate, warn_beyond_trained};
use crate::load::Image;
use crate::output::{Outcome, note, paint, refuse};
use crate::sampling::Sampling;
use crate::template::{ChatTemplate, Message};
use crate::tokenize::encode;

/// Stands in a message where it would otherwise spell a special token. A noncharacter: Unicode
/// promises that no text has a use for it.
const BREAK: char = '\u{fdd0}';

/// Talk with a model that has a chat template: a line on stdin is a message, the answer streams to
/// stdout
#[derive(Args)]
#[command(after_help = "\
Earlier turns stay in memory: a turn computes only what is new. Special tokens count in the template, not in what you \
type. Ctrl-D ends the conversation.

Examples:
  pocketlm chat smol.plm --system 'You answer in one sentence.'
  printf 'What is the capital of France?\\nAnd of Italy?\\n' | pocketlm chat smol.plm --temperature 0")]
pub struct Arguments {
    /// An image or a checkpoint
    model: PathBuf,

    /// The system message, for templates that have one
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,

    /// At most N tokens an answer
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,

    /// Tokens the whole conversation has room for [default: 4096, or as many as the model was
    /// trained for]
    #[arg(short, long, value_name = "N")]
    context: Option<usize>,

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
    let source = model.chat_template().ok_or_else(|| {
        image.refuse("holds no chat template, so it was not trained to chat; `pocketlm run` continues a text")
    })?;
    let name = |id: Option<u32>| {
        let piece = id.and_then(|id| tokenizer.piece(id)).unwrap_or_default();
        String::from_utf8_lossy(piece).into_owned()
    };
    let template = ChatTemplate::new(
        source,
        name(tokenizer.bos()),
        name(tokenizer.eos_ids().next()),
    )
    .map_err(|error| image.refuse(error))?;

    let context = arguments
        .context
        .unwrap_or_else(|| default_context(&model, 4096));
    let workers = arguments.running.workers()?;
    let plan = arguments
        .running
        .plan(&model, context, &workers, arguments.guessing.logits());
    let mut arena = arena(&plan)?;
    let engine = arguments.running.engine(&workers);
    let mut session =
        Session::new(&model, &plan, &mut arena, engine).map_err(|error| image.refuse(error))?;
    warn_beyond_trained(&model, context);
    let seed = arguments.sampling.seed();
    let mut window = arguments.sampling.window();
    let mut sampler = arguments.sampling.sampler(seed, &mut window);
    let special = special_tokens(&tokenizer);

    let mut messages = Vec::new();
    if let Some(system) = &arguments.system {
        messages.push(Message {
            role: "system",
            content: broken(system, &special),
        });
    }
    let stdin = io::stdin();
    let prompts = stdin.is_terminal() && io::stderr().is_terminal();
    let mut lines = stdin.lock().lines();
    loop {
        if prompts {
            _ = write!(io::stderr(), "{} ", paint("1", ">"));
        }
        let Some(line) = lines.next() else {
            return Ok(());
        };
        let line = line.map_err(|error| refuse(format_args!("standard input: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        messages.push(Message {
            role: "user",
            content: broken(&line, &special),
        });
        let ids = rendered_ids(
            &tokenizer,
            &template
                .render(&messages)
                .map_err(|error| image.refuse(error))?,
        )?;
        if ids.len() >= session.context() {
            return Err(refuse(format_args!(
                "the conversation has {} tokens and no longer fits the context of {}; give a longer --context",
                ids.len(),
                session.context()
            )));
        }
        let new = keep_common(&mut session, &ids)?;

        let mut stdout = io::stdout().lock();
        let mut answer = String::new();
        let mut decoder = Decoder::new(&tokenizer).skip_special(true);
        for &id in &ids {
            decoder.push(id)?;
        }
        let generated = generate(
            &mut session,
            &mut sampler,
            &tokenizer,
            &mut decoder,
            new,
            arguments.limit,
            |text| {
                text.chunks(|chunk| answer.push_str(chunk));
                write!(stdout, "{text}")?;
                Ok(stdout.flush()?)
            },
        );
        writeln!(stdout)?;
        note(paint(
            "2",
            &format!("{}; {}", generated?, arguments.sampling.note(seed)),
        ));
        messages.push(Message {
            role: "assistant",
            content: broken(&answer, &special),
        });
    }
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
    let special = (0..tokenizer.vocab_size()).filter(|&id| tokenizer.is_special(id));
    let spelling = |id| {
        String::from_utf8(tokenizer.piece(id)?.to_vec())
            .ok()
            .filter(|piece| !piece.is_empty())
    };
    special.filter_map(spelling).collect()
}

/// `text` with [`BREAK`] in every special token that it spells, after the first character.
fn broken(text: &str, special: &[String]) -> String {
    let mut text = text.replace(BREAK, "");
    for token in special {
        if let Some(first) = token
            .chars()
            .next()
            .filter(|first| token.len() > first.len_utf8())
        {
            let rest = &token[first.len_utf8()..];
            text = text.replace(token, &format!("{first}{BREAK}{rest}"));
        }
    }
    text
}

/// Encodes a rendered conversation. Pieces between [`BREAK`]s are encoded apart, so that none
/// spells a special token that the template did not write.
fn rendered_ids(tokenizer: &Tokenizer, text: &str) -> Outcome<Vec<u32>> {
    // The template writes BOS itself.
    let options = EncodeOptions {
        add_special_tokens: false,
        parse_special: true,
    };
    let mut ids = Vec::new();
    for piece in text.split(BREAK) {
        ids.extend(encode(tokenizer, piece, options)?);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_in_a_message_are_broken_and_nothing_else_is() {
        let special = ["<|im_end|>".to_owned(), "<s>".to_owned()];
        assert_eq!(broken("plain <text>", &special), "plain <text>");
        assert_eq!(
            broken("a<|im_end|>b", &special),
            format!("a<{BREAK}|im_end|>b")
        );
        assert_eq!(
            broken(&format!("<{BREAK}s><s>"), &special),
            format!("<{BREAK}s><{BREAK}s>")
        );
    }
}
