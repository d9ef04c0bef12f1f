//! What the commands share: the options, memory and threads of a session, and the progress of a
//! prompt.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use pocketlm::generate::End;
use pocketlm::host::{self, AlignedBytes, Generated, SessionOptions, Threads, default_batch};
use pocketlm::model::{ALIGNMENT, Kv, Model};
use pocketlm::run::{Engine, Isa, Plan, Session, Workers};

use crate::number::whole;
use crate::output::{Outcome, counted, failure, note, paint, token_bar};
use crate::size;

/// Prompts longer than this get a progress bar.
const LONG_PROMPT: usize = 512;

/// How many tokens get their logits together, in commands that need the logits of every token.
pub const LOGITS: u32 = 16;

/// Memory, threads and kernels of a session.
#[derive(Args)]
#[command(next_help_heading = "Running")]
pub struct Running {
    /// Threads to compute with [default: one for each core]. Results are the same bits with any
    /// number
    #[arg(short, long, value_name = "N", value_parser = whole(1..=1024u16))]
    pub threads: Option<u16>,

    /// Tokens of a prompt that are computed together; more are faster and take more memory
    /// [default: 128 for one thread, 256 for two, 512 for more]. Results are the same bits with any
    /// number
    #[arg(long, value_name = "B", value_parser = whole(1..=65536u32))]
    pub batch: Option<u32>,

    /// The type of stored keys and values: f32, f16, bf16 or q8
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = kv)]
    pub kv: Kv,

    /// The instruction set to compute with [default: the fastest of this machine]. Results are the
    /// same bits with any
    #[arg(long, value_name = "NAME", value_parser = isa)]
    #[arg(env = "POCKETLM_ISA", hide_env_values = true)]
    pub isa: Option<&'static Isa>,
}

impl Running {
    /// The plan of a session for `context` tokens, with room for the logits of `logits` tokens at
    /// once.
    pub fn plan<'m>(
        &self,
        model: &Model<'m>,
        context: usize,
        workers: &Threads,
        logits: u32,
    ) -> Plan<'m> {
        let context = u32::try_from(context).unwrap_or(u32::MAX);
        let batch = self.batch.unwrap_or_else(|| default_batch(workers.count()));
        let batch = batch.min(context.max(1));
        Plan::new(model.header())
            .context(context)
            .batch(batch)
            .logits(logits.min(batch))
            .kv(self.kv)
    }

    /// The options of a library session with room for `context` tokens.
    pub fn options(
        &self,
        context: Option<u32>,
        drafting: &Drafting,
        sampling: host::Sampling,
    ) -> SessionOptions {
        SessionOptions {
            context,
            kv: self.kv,
            threads: self.threads.map_or(0, usize::from),
            batch: self.batch,
            isa: self.isa,
            drafts: drafting.lookup,
            sampling,
        }
    }

    /// The threads.
    pub fn workers(&self) -> Outcome<Threads> {
        Threads::new(self.threads.map_or(0, usize::from)).map_err(failure)
    }

    /// The threads with the kernels.
    pub fn engine<'w>(&self, workers: &'w Threads) -> Engine<'w> {
        Engine {
            isa: self.isa.unwrap_or_else(Isa::best),
            workers,
        }
    }
}

/// Drafting of tokens by prompt lookup.
#[derive(Args)]
#[command(next_help_heading = "Running")]
pub struct Drafting {
    /// Draft up to N tokens by prompt lookup (repeat what followed the current words earlier in the
    /// text) and verify them in one pass. Faster on repetitive text; the output is unchanged. 0
    /// disables drafting
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = whole(0..=255u32))]
    lookup: u32,
}

/// The context if the user gives none: `usual` tokens, or as many as the model was trained for if
/// those are fewer.
pub fn default_context(model: &Model, usual: usize) -> usize {
    model
        .config()
        .max_position_embeddings
        .map_or(usual, |trained| usual.min(trained.get() as usize))
}

/// Warns if the context is longer than what the model was trained for.
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

/// Allocates the memory of a plan.
pub fn arena(plan: &Plan) -> Outcome<AlignedBytes> {
    // A failed allocation would end the program without a helpful message, so this tries first.
    let bytes = plan.bytes().saturating_add(ALIGNMENT);
    if Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
        let context = plan.context_tokens();
        let bytes = size::show(bytes as u64);
        return Err(failure(format_args!(
            "a context of {} takes more memory than there is ({bytes}); use a shorter --context or \
             --kv q8",
            counted(context as usize, "token")
        )));
    }
    Ok(AlignedBytes::zeroed(plan.bytes()))
}

/// Parses the name of a type for keys and values.
pub fn kv(name: &str) -> Result<Kv, String> {
    Kv::ALL
        .into_iter()
        .find(|kv| kv.dtype().name() == name)
        .ok_or("choose one of f32, f16, bf16, q8".into())
}

/// Parses the name of an instruction set.
fn isa(name: &str) -> Result<&'static Isa, String> {
    Isa::named(name).ok_or_else(|| {
        let names: Vec<_> = Isa::available().map(Isa::name).collect();
        format!(
            "choose one that this machine and this build have: {}",
            names.join(", ")
        )
    })
}

/// The speed of a text, and why it ended if that may surprise the user.
pub fn summary(generated: &Generated) -> String {
    let speed = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
    let mut summary = format!(
        "prompt {}, {:.1} tokens/s; text {}",
        counted(generated.prompt_tokens, "token"),
        speed(generated.prompt_tokens, generated.prompt_time),
        counted(generated.tokens, "token")
    );
    if generated.tokens > 1 {
        let speed = speed(generated.tokens - 1, generated.time);
        summary += &format!(", {speed:.1} tokens/s");
    }
    if generated.drafted > 0 {
        summary += &format!(", {} of them drafted", generated.drafted);
    }
    summary += match generated.end {
        Some(End::ContextFull) => "; the context is full (see --context)",
        None => "; stopped",
        Some(End::Token(_) | End::StopString(_) | End::Complete | End::Limit) => "",
    };
    summary
}

/// The progress of a long prompt.
#[derive(Clone, Default)]
pub struct PromptBar(Arc<Mutex<Option<ProgressBar>>>);

impl PromptBar {
    pub fn show(&self, done: usize, total: usize) {
        if total <= LONG_PROMPT {
            return;
        }
        let mut bar = self.bar();
        let new = || token_bar("reading the prompt".into(), total as u64);
        bar.get_or_insert_with(new).set_position(done as u64);
        if done == total {
            self.remove(bar.take());
        }
    }

    pub fn clear(&self) {
        self.remove(self.bar().take());
    }

    fn remove(&self, bar: Option<ProgressBar>) {
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    }

    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks that all logits are finite. `token` is the number of their token, counted from 0.
pub fn all_numbers(token: usize, logits: &[f32]) -> Result<(), String> {
    match logits.iter().position(|logit| !logit.is_finite()) {
        None => Ok(()),
        Some(logit) => Err(not_a_number(token, logit)),
    }
}

/// The message about a logit that is infinite or NaN.
pub fn not_a_number(token: usize, logit: usize) -> String {
    format!(
        "logit {logit} of token {token} is not a number; the weights are damaged, or too large to \
         compute with"
    )
}

/// Feeds a prompt, with a progress bar if it is long, and returns the logits of its last token.
pub fn feed<'s>(session: &'s mut Session, prompt: &[u32]) -> Outcome<&'s mut [f32]> {
    let bar = PromptBar::default();
    let mut rest = prompt;
    // The logits do not depend on how a prompt is cut.
    while rest.len() > LONG_PROMPT {
        let (now, after) = rest.split_at(LONG_PROMPT);
        session.feed(now)?;
        rest = after;
        bar.show(prompt.len() - rest.len(), prompt.len());
    }
    bar.clear();
    Ok(session.feed(rest)?)
}
