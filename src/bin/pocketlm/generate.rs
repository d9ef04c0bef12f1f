//! What `run` and `chat` share: a session's memory and threads, feeding a prompt, and text token by
//! token.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use clap::Args;
use pocketlm::generate::{End, Generation, PromptLookup};
use pocketlm::host::{AlignedBytes, Threads};
use pocketlm::model::{ALIGNMENT, Kv, Model};
use pocketlm::run::{Engine, Isa, Plan, Session, Workers};
use pocketlm::sample::Sampler;
use pocketlm::text::Tokenizer;

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
    /// Tokens generated, and how long those after the first took, which came with the prompt.
    pub text: (usize, Duration),
    /// How many of them were drafted.
    pub drafted: usize,
    /// Why it ended; `None` if the user stopped it.
    pub end: Option<End>,
    /// The token that was sampled last, which is not in the context.
    pub last: u32,
}

impl std::fmt::Display for Generated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let speed = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
        let (prompt, prompt_time) = self.prompt;
        let (text, text_time) = self.text;
        write!(
            f,
            "prompt {}, {:.1} tokens/s; text {}",
            counted(prompt, "token"),
            speed(prompt, prompt_time),
            counted(text, "token")
        )?;
        if text > 1 {
            write!(f, ", {:.1} tokens/s", speed(text - 1, text_time))?;
        }
        if self.drafted > 0 {
            write!(f, ", {} of them drafted", self.drafted)?;
        }
        f.write_str(match self.end {
            Some(End::ContextFull) => "; the context is full (see --context)",
            None => "; stopped",
            Some(End::Token(_) | End::StopString(_) | End::Limit) => "",
        })
    }
}

/// Feeds `prompt` and generates text until the model ends it, `limit` tokens are out, the context is
/// full, or `stop` says so. `write` gets the text. As much is drafted as the session has room for
/// logits.
pub fn generate(
    session: &mut Session,
    sampler: &mut Sampler,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    limit: usize,
    stop: Option<&dyn Fn() -> bool>,
    mut write: impl FnMut(&str) -> Outcome,
) -> Outcome<Generated> {
    let start = Instant::now();
    let rest = feed_most(session, prompt, stop)?;
    for &id in &prompt[..prompt.len() - rest.len()] {
        sampler.accept(id);
    }

    let mut token = session.len() + rest.len() - 1;
    let mut checked = Ok(());
    let mut check = |logits: &mut [f32]| {
        checked = all_numbers(token, logits);
        token += 1;
        checked
            .as_ref()
            .map_err(|_| pocketlm::Error::NoCandidate)
            .copied()
    };
    let mut drafts = vec![0; session.plan().logits_tokens() as usize];
    let mut lookup = PromptLookup::new();
    // The first failure to write ends the text.
    let written = RefCell::new(Ok(()));
    let mut put = |text: &str| {
        let mut written = written.borrow_mut();
        if written.is_ok() {
            *written = write(text);
        }
    };
    let goes_on = || written.borrow().is_ok() && !stop.is_some_and(|stop| stop());
    let mut generation = Generation::new(session, sampler, tokenizer, rest)
        .limit(limit)
        .filter(&mut check);
    let mut outcome = generation.next(&mut put);
    let prompt_time = start.elapsed();
    let start = Instant::now();
    while outcome == Ok(None) && goes_on() {
        outcome = generation.next_drafted(&mut lookup, &mut drafts, &mut put);
    }
    let generated = Generated {
        prompt: (prompt.len(), prompt_time),
        text: (generation.tokens(), start.elapsed()),
        drafted: generation.drafted(),
        end: generation.end(),
        last: generation.last().unwrap_or_default(),
    };
    checked.map_err(refuse)?;
    written.into_inner()?;
    outcome?;
    Ok(generated)
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

/// Feeds a prompt, with a progress bar if it is long, and returns the logits of its last token.
pub fn feed<'s>(session: &'s mut Session, prompt: &[u32]) -> Outcome<&'s mut [f32]> {
    let rest = feed_most(session, prompt, None)?;
    Ok(session.feed(rest)?)
}

/// Feeds a prompt but for its last piece, which it returns, with a progress bar if it is long.
/// Between pieces `stop` may end it with [`Failure::Interrupted`]; then the session holds the pieces
/// before.
fn feed_most<'p>(
    session: &mut Session,
    prompt: &'p [u32],
    stop: Option<&dyn Fn() -> bool>,
) -> Outcome<&'p [u32]> {
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
            piece = if start.elapsed() > Duration::from_secs(1) {
                (piece / 2).max(16)
            } else {
                (piece * 2).min(LONG_PROMPT)
            };
        }
    }
    bar.iter().for_each(|bar| bar.finish_and_clear());
    if stopped {
        Err(Failure::Interrupted)
    } else {
        Ok(rest)
    }
}
