//! What `run` and `chat` share: a session's memory and threads, feeding a prompt, and text token by
//! token.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use pocketlm::generate::End;
use pocketlm::host::{self, AlignedBytes, Generated, SessionOptions, Threads, default_batch};
use pocketlm::model::{ALIGNMENT, Kv, Model};
use pocketlm::run::{Engine, Isa, Plan, Session, Workers};

use crate::number::whole;
use crate::output::{Outcome, counted, note, paint, refuse, token_bar};
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
        let batch = self.batch.unwrap_or_else(|| default_batch(workers.count()));
        let batch = batch.min(context.max(1));
        Plan::new(model.header())
            .context(context)
            .batch(batch)
            .logits(logits.min(batch))
            .kv(self.kv)
    }

    /// The same for a session of the library, with room for `context` tokens.
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
            "a context of {} takes more memory than there is ({bytes}); a shorter --context or \
             --kv q8 takes less",
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

/// How fast a text was, and why it ended where that is not what one expects.
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
        Some(End::Token(_) | End::StopString(_) | End::Limit) => "",
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
        "logit {logit} of token {token} is not a number; the weights are damaged, or too large to \
         compute with"
    )
}

/// Feeds a prompt, with a progress bar if it is long, and returns the logits of its last token.
pub fn feed<'s>(session: &'s mut Session, prompt: &[u32]) -> Outcome<&'s mut [f32]> {
    let bar = PromptBar::default();
    let mut rest = prompt;
    // Cutting a prompt changes no bit of the logits.
    while rest.len() > LONG_PROMPT {
        let (now, after) = rest.split_at(LONG_PROMPT);
        session.feed(now)?;
        rest = after;
        bar.show(prompt.len() - rest.len(), prompt.len());
    }
    bar.clear();
    Ok(session.feed(rest)?)
}
