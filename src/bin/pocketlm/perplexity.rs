//! `pocketlm perplexity`: measures how well a model predicts a text.

use std::path::PathBuf;

use clap::Args;
use indicatif::ProgressBar;
use pocketlm::run::Session;
use pocketlm::text::EncodeOptions;
use serde_json::json;

use crate::load::Image;
use crate::number::whole;
use crate::output::{Outcome, counted, figure, file_failure, print, print_json, token_bar};
use crate::running::{LOGITS, Running, all_numbers, arena, warn_beyond_trained};
use crate::trim::text;

/// Measure how well a model predicts a text: tokens scored, nats per token, perplexity
#[derive(Args)]
#[command(after_help = "\
The whole text is tokenized once; special tokens in it are recognised. The tokens are cut into \
windows that do not overlap. If the tokenizer begins texts with BOS, a window is BOS and --context \
- 1 tokens of the text, and every token of the text is scored. Otherwise a window is --context \
tokens, and all of them but the first are scored. The last window may be shorter. nats_per_token \
is the mean of -ln p(token | the window so far); perplexity is its exponential. Compare only \
results with the same tokenizer, text and --context.

Examples:
  pocketlm perplexity smol.plm -f wiki.test.raw
  pocketlm perplexity story.plm -f stories.txt --context 256 --json")]
pub struct Arguments {
    /// An image or a checkpoint
    model: PathBuf,

    /// The text, UTF-8; `-` reads stdin
    #[arg(short, long = "file", value_name = "TEXT")]
    file: PathBuf,

    /// Tokens of a window
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = whole(2..=u32::MAX))]
    context: u32,

    /// Write JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    running: Running,
}

pub fn perplexity(arguments: Arguments) -> Outcome {
    let text = text(&arguments.file)?;
    let image = Image::open(&arguments.model)?;
    let model = image.model()?;
    let tokenizer = image.tokenizer(&model)?;
    let encoding = EncodeOptions {
        add_special_tokens: false,
        parse_special: true,
    };
    let ids = tokenizer.encode_to_vec(&text, encoding)?;
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let context = arguments.context as usize;
    let needed = if bos.is_some() { 1 } else { 2 };
    if ids.len() < needed {
        let has = counted(ids.len(), "token");
        let reason = format!("the text has {has}, but scoring needs at least {needed}");
        return Err(file_failure(&arguments.file, reason));
    }

    let longest = context.min(ids.len() + 1);
    let workers = arguments.running.workers()?;
    let plan = arguments.running.plan(&model, longest, &workers, LOGITS);
    let mut arena = arena(&plan)?;
    let engine = arguments.running.engine(&workers);
    let mut session =
        Session::new(&model, &plan, &mut arena, engine).map_err(|error| image.failure(error))?;
    warn_beyond_trained(&model, longest);
    let windows = ids
        .chunks(context - usize::from(bos.is_some()))
        .map(|piece| bos.into_iter().chain(piece.iter().copied()).collect());
    let bar = token_bar("scoring".into(), ids.len() as u64);
    let score = score(&mut session, windows, &bar)?;
    bar.finish_and_clear();
    score.checked.map_err(|reason| image.failure(reason))?;
    let nats_per_token = figure("nats_per_token", score.nats / score.tokens as f64)?;
    let perplexity = figure("the perplexity", nats_per_token.exp())?;
    let tokens = score.tokens;
    if arguments.json {
        return print_json(&json!({
            "tokens": tokens,
            "nats_per_token": nats_per_token,
            "perplexity": perplexity,
        }));
    }
    print(format_args!(
        "tokens {tokens} nats_per_token {nats_per_token:.6} perplexity {perplexity:.4}"
    ))
}

/// How well the tokens of a text are predicted.
struct Score {
    /// The sum of the surprises.
    nats: f64,
    /// How many tokens were predicted.
    tokens: u64,
    /// Whether all logits are numbers.
    checked: Result<(), String>,
}

/// Feeds windows, each with nothing before it, and scores all their tokens but the first.
fn score(
    session: &mut Session,
    windows: impl Iterator<Item = Vec<u32>>,
    bar: &ProgressBar,
) -> Outcome<Score> {
    let mut score = Score {
        nats: 0.0,
        tokens: 0,
        checked: Ok(()),
    };
    let mut start = 0;
    for window in windows {
        // The last token of a window is only predicted, never fed.
        let Some((_, given @ [_, ..])) = window.split_last() else {
            continue;
        };
        session.reset();
        session.feed_each(given, |index, logits| {
            if score.checked.is_ok() {
                score.checked = all_numbers(start + index, logits);
            }
            if let Some(&next) = window.get(index + 1) {
                score.nats += surprise(logits, next);
                score.tokens += 1;
            }
            bar.inc(1);
        })?;
        start += given.len();
    }
    Ok(score)
}

/// `-ln p(id)` in nats, summed in f64.
fn surprise(logits: &[f32], id: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - max).exp())
        .sum();
    let logit = logits
        .get(id as usize)
        .copied()
        .unwrap_or(f32::NEG_INFINITY);
    sum.ln() - f64::from(logit - max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_is_the_negative_log_probability() {
        assert_eq!(surprise(&[0.0, 0.0, 0.0, 0.0], 2), 4f64.ln());
        assert_eq!(surprise(&[1000.0, f32::NEG_INFINITY], 0), 0.0);
        assert_eq!(surprise(&[1000.0, f32::NEG_INFINITY], 1), f64::INFINITY);
    }
}
