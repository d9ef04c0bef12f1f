//! What `run` and `chat` share: a session's memory and threads, feeding a prompt, and text token by
//! token.

use std::time::{Duration, Instant};

use clap::Args;
use pocketlm::generate::PromptLookup;
use pocketlm::host::{AlignedBytes, Threads};
use pocketlm::model::{ALIGNMENT, Kv, Model};
use pocketlm::run::{Engine, Isa, Plan, Session, Workers};
use pocketlm::sample::Sampler;
use pocketlm::text::{Decoder, Text, Tokenizer};

use crate::number::whole;
use crate::output::{Failure, Outcome, counted, note, paint, refuse, token_bar};
use crate::size;

/// Prompts longer than this get a progress bar.
const LONG_PROMPT: usize = 512;

/// Tokens that meet the output matrix together where the logits of all are wanted.
pub const LOGITS: u32 = 16;

/// Memory, threads and kernels of a session.
#[derive(Args)]
#[command(next_help_heading = "Running")]
pub struct Running {
    /// Threads to compute with [default: as many as there are]. Never changes a bit of the result
    #[arg(short, long, value_name = "N", value_parser = whole(1..=1024u16))]
    pub threads: Option<u16>,

    /// Tokens of a prompt computed together: faster, and takes more memory [default: 128, 256 or
    /// 512, for one thread, two or more]. Never changes a bit of the result
    #[arg(long, value_name = "B", value_parser = whole(1..=65536u32))]
    pub batch: Option<u32>,

    /// How keys and values are kept: f32, f16, bf16 or q8
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = kv)]
    pub kv: Kv,

    /// The kernels to compute with, an instruction set [default: the fastest of this machine].
    /// Never changes a bit of the result
    #[arg(long, value_name = "NAME", env = "POCKETLM_ISA", hide_env_values = true, value_parser = isa)]
    pub isa: Option<&'static Isa>,
}

impl Running {
    /// The plan for a session with `context` tokens, with room for the logits of as many of a batch
    /// as are wanted at once.
    pub fn plan<'m>(
        &self,
        model: &Model<'m>,
        context: usize,
        workers: &Threads,
        logits: u32,
    ) -> Plan<'m> {
        let context = u32::try_from(context).unwrap_or(u32::MAX);
        // Each thread takes tokens of its own: so many that weights are not widened for a few, so
        // few that they stay in its cache. A power of two, so that what a prompt is cut into are
        // whole batches.
        let batch = self
            .batch
            .unwrap_or(128 * workers.count().min(4).next_power_of_two() as u32);
        let batch = batch.min(context.max(1));
        Plan::new(model.header())
            .context(context)
            .batch(batch)
            .logits(logits.min(batch))
            .kv(self.kv)
    }

    /// The threads.
    pub fn workers(&self) -> Outcome<Threads> {
        Threads::new(self.threads.map_or(0, usize::from)).map_err(refuse)
    }

    /// The threads with the kernels.
    pub fn engine<'w>(&self, workers: &'w Threads) -> Engine<'w> {
        Engine {
            isa: self.isa.unwrap_or_else(Isa::best),
            workers,
        }
    }
}

/// Guesses at what comes next in a text that is written.
#[derive(Args)]
#[command(next_help_heading = "Running")]
pub struct Guessing {
    /// Guess up to N tokens from what followed the last ones where they stood in the text before,
    /// and compute them with the next, as many as a batch has room for: faster where a text repeats
    /// itself. 0 guesses nothing. Never changes a token
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = whole(0..=255u32))]
    lookup: u32,
}

impl Guessing {
    /// Tokens whose logits are wanted at once: the next, and guesses.
    pub fn logits(&self) -> u32 {
        1 + self.lookup
    }
}

/// The context where none is asked for: `usual` tokens, or as many as the model was trained for if
/// those are fewer.
pub fn default_context(model: &Model, usual: usize) -> usize {
    model
        .config()
        .max_position_embeddings
        .map_or(usual, |trained| usual.min(trained.get() as usize))
}

/// Says so where a context goes beyond what the model was trained for.
pub fn warn_beyond_trained(model: &Model, context: usize) {
    if let Some(trained) = model
        .config()
        .max_position_embeddings
        .filter(|trained| (trained.get() as usize) < context)
    {
        let warning = paint("33;1", "warning:");
        note(format_args!(
            "{warning} a context of {}; the model was trained for texts of up to {trained}",
            counted(context, "token")
        ));
    }
}

/// The memory of a plan, or a refusal where the machine has not so much.
pub fn arena(plan: &Plan) -> Outcome<AlignedBytes> {
    // A failed allocation ends the program with less of a sentence, so this asks first.
    let bytes = plan.bytes().saturating_add(ALIGNMENT);
    if Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
        let (context, bytes) = (plan.context_tokens(), size::show(bytes as u64));
        return Err(refuse(format_args!(
            "a context of {} takes more memory than there is ({bytes}); a shorter --context or --kv q8 takes less",
            counted(context as usize, "token")
        )));
    }
    Ok(AlignedBytes::zeroed(plan.bytes()))
}

/// Reads the name of a type for keys and values.
pub fn kv(name: &str) -> Result<Kv, String> {
    Kv::ALL
        .into_iter()
        .find(|kv| kv.dtype().name() == name)
        .ok_or("choose one of f32, f16, bf16, q8".into())
}

/// Reads the name of a kernel table.
fn isa(name: &str) -> Result<&'static Isa, String> {
    Isa::named(name).ok_or_else(|| {
        let names: Vec<_> = Isa::available().map(Isa::name).collect();
        format!("this machine and this build have {}", names.join(", "))
    })
}

/// What a generation came to.
pub struct Generated {
    /// Tokens of the prompt that were computed, and how long that took.
    pub prompt: (usize, Duration),
    /// Tokens generated, how many of them were computed after the prompt (the first came with it),
    /// and how long that took.
    pub text: (usize, usize, Duration),
    /// How many of them were guessed.
    pub guessed: usize,
    /// Why it stopped.
    pub end: End,
    /// The token that was sampled last, which is not in the context.
    pub last: u32,
}

/// Why a generation stopped.
#[derive(Clone, Copy, PartialEq)]
pub enum End {
    /// The model ended its text.
    OfText,
    /// As many tokens as were asked for.
    Limit,
    ContextFull,
    /// The user stopped it.
    Stopped,
}

impl std::fmt::Display for Generated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let speed = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
        let ((prompt, prompt_time), (text, computed, text_time)) = (self.prompt, self.text);
        write!(
            f,
            "prompt {}, {:.1} tokens/s; text {}",
            counted(prompt, "token"),
            speed(prompt, prompt_time),
            counted(text, "token")
        )?;
        if computed > 0 {
            write!(f, ", {:.1} tokens/s", speed(computed, text_time))?;
        }
        if self.guessed > 0 {
            write!(f, ", {} of them guessed", self.guessed)?;
        }
        f.write_str(match self.end {
            End::ContextFull => "; the context is full (see --context)",
            End::Stopped => "; stopped",
            End::OfText | End::Limit => "",
        })
    }
}

/// Feeds `prompt` and samples until the model ends its text, `limit` tokens are out, the context is
/// full, or `stop` says so. `decoder` has seen the prompt; `write` gets each token's text. As much
/// is guessed as the session has room for logits.
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a session, each of them another one's"
)]
pub fn generate(
    session: &mut Session,
    sampler: &mut Sampler,
    tokenizer: &Tokenizer,
    decoder: &mut Decoder,
    prompt: &[u32],
    limit: usize,
    stop: Option<&dyn Fn() -> bool>,
    mut write: impl FnMut(&Text) -> Outcome,
) -> Outcome<Generated> {
    let start = Instant::now();
    for &id in prompt {
        sampler.accept(id);
    }
    let before = session.len();
    let logits = feed(session, prompt, stop)?;
    all_numbers(before + prompt.len() - 1, logits).map_err(refuse)?;
    // What is not yet in the context: a token, and before it those that were guessed rightly.
    let mut sampled = vec![sampler.sample(logits)?];
    let prompt = (prompt.len(), start.elapsed());

    let start = Instant::now();
    let (mut count, mut computed, mut guessed) = (0, 0, 0);
    let mut lookup = PromptLookup::new();
    let mut ids = vec![0; session.plan().logits_tokens() as usize];
    let (end, last) = 'text: loop {
        let mut last = 0;
        for &id in &sampled {
            last = id;
            if tokenizer.is_eos(id) {
                break 'text (End::OfText, last);
            }
            if count == limit {
                break 'text (End::Limit, last);
            }
            // A model's table may have more rows than its tokenizer has tokens (padding); those
            // rows spell nothing.
            if id < tokenizer.vocab_size() {
                write(&decoder.push(id)?)?;
            }
            count += 1;
        }
        let room = session.context() - session.len();
        if room == 0 {
            break (End::ContextFull, last);
        }
        if count == limit {
            break (End::Limit, last);
        }
        if stop.is_some_and(|stop| stop()) {
            break (End::Stopped, last);
        }
        let most = ids.len().min(room).min(limit - count);
        let drafted = lookup.draft(session.tokens(), last, &mut ids[..most]);
        sampled.clear();
        let first = session.len();
        let mut checked = Ok(());
        let right = session.feed_guesses(before_end(&ids[..drafted], tokenizer), |logits| {
            checked = all_numbers(first + sampled.len(), logits);
            if checked.is_err() {
                return Err(pocketlm::Error::NoCandidate);
            }
            let id = sampler.sample(logits)?;
            sampled.push(id);
            Ok(id)
        });
        checked.map_err(refuse)?;
        let right = right?;
        lookup.learn(right, sampled[right]);
        computed += sampled.len();
        guessed += right;
    };
    write(&decoder.finish())?;
    Ok(Generated {
        prompt,
        text: (count, computed, start.elapsed()),
        guessed,
        end,
        last,
    })
}

/// A token and guesses as far as the text goes that they foretell: nothing is sampled after its
/// end, or the next text of the same sampler would be another than without guesses.
fn before_end<'i>(ids: &'i [u32], tokenizer: &Tokenizer) -> &'i [u32] {
    let end = ids.iter().skip(1).position(|&id| tokenizer.is_eos(id));
    end.map_or(ids, |end| &ids[..1 + end])
}

/// Refuses logits of which one is not a number. `token` says of which token they are, counted from
/// 0.
pub fn all_numbers(token: usize, logits: &[f32]) -> Result<(), String> {
    match logits.iter().position(|logit| !logit.is_finite()) {
        None => Ok(()),
        Some(logit) => Err(not_a_number(token, logit)),
    }
}

/// What to say of a logit that is infinite or NaN.
pub fn not_a_number(token: usize, logit: usize) -> String {
    format!(
        "logit {logit} of token {token} is not a number; the weights are damaged, or too large to compute with"
    )
}

/// Feeds a prompt, with a progress bar if it is long. Between pieces of it `stop` may end it with
/// [`Failure::Interrupted`]; then the session holds the pieces before.
pub fn feed<'s>(
    session: &'s mut Session,
    prompt: &[u32],
    stop: Option<&dyn Fn() -> bool>,
) -> Outcome<&'s mut [f32]> {
    let bar = (prompt.len() > LONG_PROMPT)
        .then(|| token_bar("reading the prompt".into(), prompt.len() as u64));
    // Large pieces are faster; whoever wants to stop it does not wait for one that takes long.
    // Cutting a prompt changes no bit of the logits.
    let mut piece = if stop.is_some() { 64 } else { LONG_PROMPT };
    let mut rest = prompt;
    let mut stopped = false;
    while rest.len() > piece && !stopped {
        let start = Instant::now();
        let (now, after) = rest.split_at(piece);
        session.feed(now)?;
        rest = after;
        bar.iter().for_each(|bar| bar.inc(now.len() as u64));
        if let Some(stop) = stop {
            stopped = stop();
            piece = match start.elapsed() > Duration::from_secs(1) {
                true => (piece / 2).max(16),
                false => (piece * 2).min(LONG_PROMPT),
            };
        }
    }
    bar.iter().for_each(|bar| bar.finish_and_clear());
    match stopped {
        true => Err(Failure::Interrupted),
        false => Ok(session.feed(rest)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_end_where_the_text_does() {
        let image = crate::load::Image::built_in();
        let model = image.model().unwrap();
        let tokenizer = image.tokenizer(&model).unwrap();
        let end = tokenizer.eos_ids().next().unwrap();
        for (ids, kept) in [
            (&[7, 8, 9][..], 3),
            (&[7, 8, end, 9], 2),
            (&[7, end], 1),
            (&[end, 7], 2),
            (&[7], 1),
        ] {
            assert_eq!(before_end(ids, &tokenizer), &ids[..kept]);
        }
    }
}
