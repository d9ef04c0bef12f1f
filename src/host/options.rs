//! The options of an [`LlmSession`](super::LlmSession) and of a text.

use std::hash::{BuildHasher, RandomState};
use std::prelude::rust_2024::*;

use super::Error;
use crate::generate::STOP_STRING_BYTES;
use crate::model::{Kv, Model};
use crate::run::{Isa, Plan};
use crate::sample::{Penalties, Recent, Sampler};

/// How large a session is and how it computes.
///
/// ```
/// use pocketlm::host::{Llm, Sampling, SessionOptions};
/// use pocketlm::model::Kv;
///
/// let llm = Llm::open("src/bin/pocketlm/story/story.plm")?;
/// let session = llm.session(&SessionOptions {
///     context: Some(200),
///     kv: Kv::Q8,
///     sampling: Sampling::GREEDY,
///     ..Default::default()
/// })?;
/// assert_eq!(session.capacity(), 200);
/// # Ok::<(), pocketlm::host::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// How many tokens there is room for. `None` is 4096, or as many as the model was trained for
    /// if those are fewer.
    pub context: Option<u32>,
    /// How keys and values are stored: f32, or a smaller type that needs less memory.
    pub kv: Kv,
    /// How many threads compute; 0 is one for each core. The results are the same bits with any
    /// number.
    pub threads: usize,
    /// How many tokens of a prompt are computed together; `None` is [`default_batch`]. The results
    /// are the same bits with any number.
    pub batch: Option<u32>,
    /// The kernels. `None` is the fastest of this machine. The results are the same bits with any.
    pub isa: Option<&'static Isa>,
    /// How many tokens [`PromptLookup`](crate::generate::PromptLookup) may draft at a time; 0 is
    /// none. Drafts make text that repeats itself faster, and change no token.
    pub drafts: u32,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            context: None,
            kv: Kv::F32,
            threads: 0,
            batch: None,
            isa: None,
            drafts: 7,
            sampling: Sampling::default(),
        }
    }
}

impl SessionOptions {
    pub(super) fn plan<'m>(&self, model: &Model<'m>, threads: usize) -> Plan<'m> {
        let trained = model.config().max_position_embeddings;
        let context = self
            .context
            .unwrap_or_else(|| trained.map_or(4096, |trained| trained.get().min(4096)));
        let batch = self.batch.unwrap_or_else(|| default_batch(threads));
        let batch = batch.min(context.max(1));
        Plan::new(model.header())
            .context(context)
            .batch(batch)
            .logits(self.drafts.saturating_add(1).min(batch))
            .kv(self.kv)
    }
}

/// How many tokens of a prompt are best computed together by so many threads.
///
/// Each thread takes tokens of its own: enough of them that weights are not converted for a few,
/// and so few that they stay in its cache. The number is a power of two, so that the pieces that a
/// prompt is cut into are whole batches.
pub fn default_batch(threads: usize) -> u32 {
    128 * threads.clamp(1, 4).next_power_of_two() as u32
}

/// How tokens are chosen. [`sample`](crate::sample) says what each number does and in which order.
/// The default is that of the command line.
///
/// ```
/// use pocketlm::host::Sampling;
///
/// let cautious = Sampling { temperature: 0.4, repeat_penalty: 1.1, ..Default::default() };
/// # _ = cautious;
/// ```
#[derive(Clone, Debug)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the most probable token.
    pub temperature: f32,
    /// Keeps the most probable tokens, so many; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest tokens whose probabilities add up to this; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this many times as probable as the best; 0 keeps all.
    pub min_p: f32,
    /// Divides the positive logits of recent tokens and multiplies the negative ones; 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted from a logit for each time the token occurs among the recent ones; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted from the logit of each recent token; 0 is off.
    pub presence_penalty: f32,
    /// How many recent tokens the penalties look at.
    pub repeat_last: u16,
    /// The same seed gives the same text. `None` is a random one.
    pub seed: Option<u64>,
}

impl Sampling {
    /// Always the most probable token.
    pub const GREEDY: Sampling = Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        repeat_last: 64,
        seed: Some(0),
    };

    /// Room for the recent tokens that the penalties look at.
    pub(super) fn window(&self) -> Vec<Recent> {
        let penalizes = self.repeat_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0;
        let length = if penalizes { self.repeat_last } else { 0 };
        vec![Recent::EMPTY; length.into()]
    }

    /// The sampler, with the penalties over `window`.
    pub(super) fn sampler<'w>(&self, window: &'w mut [Recent]) -> Sampler<'w> {
        let penalties = Penalties::over(window)
            .repeat(self.repeat_penalty)
            .frequency(self.frequency_penalty)
            .presence(self.presence_penalty);
        // Each `RandomState` has other keys, made from the system's random numbers.
        let seed = self.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        Sampler::new(seed)
            .temperature(self.temperature)
            .top_k(self.top_k)
            .top_p(self.top_p)
            .min_p(self.min_p)
            .penalties(penalties)
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            seed: None,
            ..Sampling::GREEDY
        }
    }
}

/// When a text ends, apart from the model's own end.
///
/// ```
/// use pocketlm::host::GenerateOptions;
///
/// let one_line = GenerateOptions { stop_strings: vec!["\n".into()], ..Default::default() };
/// # _ = one_line;
/// ```
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// It ends after so many tokens.
    pub limit: usize,
    /// It ends where it would contain one of these strings, each of 1 to [`STOP_STRING_BYTES`]
    /// bytes.
    pub stop_strings: Vec<String>,
    /// It obeys this grammar, which [`import::grammar`](crate::import::grammar) compiled.
    pub grammar: Option<Vec<u8>>,
    /// Special tokens are a part of the text: for calls of tools.
    pub keep_special: bool,
}

impl Default for GenerateOptions {
    /// It goes on until the model ends it or the context is full.
    fn default() -> Self {
        GenerateOptions {
            limit: usize::MAX,
            stop_strings: Vec::new(),
            grammar: None,
            keep_special: false,
        }
    }
}

impl GenerateOptions {
    /// The stop strings, checked.
    pub(super) fn stop_strings(&self) -> Result<Vec<&str>, Error> {
        let is_possible = |string: &&String| (1..=STOP_STRING_BYTES).contains(&string.len());
        match self.stop_strings.iter().find(|string| !is_possible(string)) {
            Some(string) => Err(Error::StopString(string.clone())),
            None => Ok(self.stop_strings.iter().map(String::as_str).collect()),
        }
    }
}
