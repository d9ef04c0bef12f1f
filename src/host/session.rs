//! [`LlmSession`]: a session that owns its memory and its threads.

use std::ops::ControlFlow;
use std::prelude::rust_2024::*;
use std::time::{Duration, Instant};

use self_cell::{MutBorrow, self_cell};

use super::{AlignedBytes, Error, GenerateOptions, Llm, Sampling, SessionOptions, Threads};
use crate::generate::{End, Generation, PromptLookup};
use crate::grammar::{Constraint, Grammar, Vocabulary};
use crate::model::ALIGNMENT;
use crate::run::{Engine, Isa, Session, Step, Workers};
use crate::sample::{Recent, Sampler};
use crate::text::EncodeOptions;

/// A text that a model reads and continues. It owns its memory and threads, shares the model with
/// the other sessions of an [`Llm`], and can be moved to another thread.
///
/// ```
/// use std::ops::ControlFlow;
/// use pocketlm::generate::End;
/// use pocketlm::host::{GenerateOptions, Llm, Sampling, SessionOptions};
///
/// let llm = Llm::open("src/bin/pocketlm/story/story.plm")?;
/// let options = SessionOptions { sampling: Sampling::GREEDY, ..Default::default() };
/// let mut session = llm.session(&options)?;
///
/// let to_full_stop = GenerateOptions { stop_strings: vec![".".into()], ..Default::default() };
/// let generated = session.generate("Once upon a time", &to_full_stop, |_| {
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(generated.text, ", there was a little girl named Lily");
/// assert_eq!(generated.end, Some(End::StopString(0)));
/// # Ok::<(), pocketlm::host::Error>(())
/// ```
///
/// # Cancelling
///
/// Text ends when the closure returns [`ControlFlow::Break`]. It is called at least once for each
/// pass over the weights and for each piece of a long prompt, with an empty text if there is none.
/// To cancel from another thread, let it look at a flag:
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use pocketlm::host::{GenerateOptions, Llm, SessionOptions};
///
/// let llm = Llm::open("src/bin/pocketlm/story/story.plm")?;
/// let mut session = llm.session(&SessionOptions::default())?;
/// let cancelled = Arc::new(AtomicBool::new(false));
///
/// let flag = cancelled.clone();
/// let thread = std::thread::spawn(move || {
///     session.generate("Once upon a time", &GenerateOptions::default(), |text| {
///         print!("{text}");
///         if flag.load(Ordering::Relaxed) {
///             return ControlFlow::Break(());
///         }
///         ControlFlow::Continue(())
///     })
/// });
/// cancelled.store(true, Ordering::Relaxed);
/// let generated = thread.join().unwrap()?;
/// # _ = generated;
/// # Ok::<(), pocketlm::host::Error>(())
/// ```
pub struct LlmSession {
    session: OwnedSession,
    sampler: OwnedSampler,
    /// The token that was chosen last, if the session has not seen it.
    pending: Option<u32>,
    drafts: usize,
    on_prompt: Option<Box<dyn FnMut(usize, usize) + Send>>,
}

self_cell!(
    struct OwnedSession {
        owner: Lent,

        #[not_covariant]
        dependent: BorrowedSession,
    }
);

type BorrowedSession<'l> = Session<'l, 'l>;

/// The values that the session borrows.
struct Lent {
    llm: Llm,
    threads: Threads,
    arena: MutBorrow<AlignedBytes>,
}

self_cell!(
    struct OwnedSampler {
        owner: MutBorrow<Vec<Recent>>,

        #[not_covariant]
        dependent: Sampler,
    }
);

impl OwnedSampler {
    fn of(sampling: &Sampling) -> Self {
        let window = MutBorrow::new(sampling.window());
        OwnedSampler::new(window, |window| sampling.sampler(window.borrow_mut()))
    }
}

/// A generated text, and figures about it.
///
/// Example: [`LlmSession`].
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The text.
    pub text: String,
    /// Why it ended; `None` if it was cancelled.
    pub end: Option<End>,
    /// Tokens before the text that were computed. What the session held already is not computed
    /// again.
    pub prompt_tokens: usize,
    /// The time to compute them and to choose the first token of the text.
    pub prompt_time: Duration,
    /// Tokens of the text.
    pub tokens: usize,
    /// The time to compute all but the first of them.
    pub time: Duration,
    /// How many of them were drafted.
    pub drafted: usize,
}

/// After so many multiply-adds, some tens of milliseconds, the caller can cancel.
const WORK_BETWEEN_CALLS: u32 = 1 << 31;

impl LlmSession {
    pub(super) fn new(llm: &Llm, options: &SessionOptions) -> Result<LlmSession, Error> {
        let threads = Threads::new(options.threads)?;
        let count = threads.count();
        let bytes = options.plan(llm.model(), count).bytes();
        // A failed allocation would end the program, so this asks first.
        let with_padding = bytes.saturating_add(ALIGNMENT);
        if Vec::<u8>::new().try_reserve_exact(with_padding).is_err() {
            return Err(Error::Memory(bytes));
        }
        let lent = Lent {
            llm: llm.clone(),
            threads,
            arena: MutBorrow::new(AlignedBytes::zeroed(bytes)),
        };
        let session = OwnedSession::try_new(lent, |lent| {
            let model = lent.llm.model();
            let plan = options.plan(model, count);
            let engine = Engine {
                isa: options.isa.unwrap_or_else(Isa::best),
                workers: &lent.threads,
            };
            Session::new(model, &plan, lent.arena.borrow_mut(), engine)
        })?;
        Ok(LlmSession {
            session,
            sampler: OwnedSampler::of(&options.sampling),
            pending: None,
            drafts: options.drafts as usize,
            on_prompt: None,
        })
    }

    /// The model.
    pub fn llm(&self) -> &Llm {
        &self.session.borrow_owner().llm
    }

    /// How many tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.session.with_dependent(|_, session| session.capacity())
    }

    /// The tokens so far: prompts, and the text that followed each.
    pub fn tokens(&self) -> Vec<u32> {
        let mut tokens = self
            .session
            .with_dependent(|_, session| session.tokens().to_vec());
        tokens.extend(self.pending);
        tokens
    }

    /// Continues the text: it has `prompt` added to it, and the model writes what follows. `write`
    /// gets the new text piece by piece, and may [cancel](LlmSession#cancelling). The prompt may
    /// spell special tokens. An empty prompt goes on where the text ended.
    ///
    /// # Errors
    /// [`Error::TooLong`] and [`Error::StopString`], after which nothing has changed, and those of
    /// the core.
    pub fn generate(
        &mut self,
        prompt: &str,
        options: &GenerateOptions,
        write: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let tokenizer = self.llm().tokenizer();
        let mut ids = self.tokens();
        if ids.is_empty() {
            ids = tokenizer.encode_to_vec(prompt, EncodeOptions::default())?;
        } else {
            ids.extend(tokenizer.encode_after(prompt, true)?);
        }
        self.complete(&ids, options, write)
    }

    /// Replaces the text by `ids`, and the model writes what follows. The part that `ids` have in
    /// common with the tokens so far is not computed again. Otherwise as
    /// [`generate`](LlmSession::generate).
    ///
    /// # Errors
    /// Those of [`generate`](LlmSession::generate).
    pub fn complete(
        &mut self,
        ids: &[u32],
        options: &GenerateOptions,
        mut write: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let request = Request {
            ids,
            limit: options.limit,
            stop_strings: &options.stop_strings()?,
            grammar: options.grammar.as_deref(),
            keep_special: options.keep_special,
            drafts: self.drafts,
            budget: WORK_BETWEEN_CALLS / self.llm().model().config().embedding_dim.max(1),
            write: &mut write,
            on_prompt: &mut self.on_prompt,
            pending: &mut self.pending,
        };
        self.session.with_dependent_mut(|lent, session| {
            self.sampler
                .with_dependent_mut(|_, sampler| request.run(&lent.llm, session, sampler))
        })
    }

    /// Changes how tokens are chosen from now on.
    pub fn set_sampling(&mut self, sampling: &Sampling) {
        self.sampler = OwnedSampler::of(sampling);
    }

    /// Calls `progress` while a prompt is computed, with the number of tokens done and of all to be
    /// computed.
    pub fn on_prompt(&mut self, progress: impl FnMut(usize, usize) + Send + 'static) {
        self.on_prompt = Some(Box::new(progress));
    }

    /// Forgets the text.
    pub fn reset(&mut self) {
        self.pending = None;
        self.session
            .with_dependent_mut(|_, session| session.reset());
    }

    /// A [snapshot](crate::run::Session::save): the tokens so far with their keys and values. The
    /// last token is left out if the context has no room for it.
    ///
    /// # Errors
    /// Those of [`Session::save`].
    pub fn save(&mut self) -> Result<Vec<u8>, Error> {
        let pending = &mut self.pending;
        self.session.with_dependent_mut(|_, session| {
            if let Some(id) = *pending
                && session.len() < session.capacity()
            {
                session.feed(&[id])?;
                *pending = None;
            }
            let mut bytes = Vec::new();
            session.save(&mut |part| {
                bytes.extend_from_slice(part);
                Ok(())
            })?;
            Ok(bytes)
        })
    }

    /// Replaces the text by that of a snapshot. What follows the snapshot in `bytes` is ignored.
    ///
    /// # Errors
    /// Those of [`Session::restore`], which says what the session then holds.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let pending = &mut self.pending;
        self.session.with_dependent_mut(|_, session| {
            let restored = session.restore_from(bytes);
            if restored.is_ok() || session.is_empty() {
                *pending = None;
            }
            Ok(restored?)
        })
    }

    /// Replaces the text by `ids`, and writes nothing.
    #[cfg(feature = "chat")]
    pub(crate) fn read(&mut self, ids: &[u32]) -> Result<(), Error> {
        let pending = &mut self.pending;
        self.session.with_dependent_mut(|_, session| {
            keep_common(session, ids)?;
            *pending = None;
            match ids.get(session.len()..) {
                None | Some([]) => {}
                Some(rest) => _ = session.feed(rest)?,
            }
            Ok(())
        })
    }
}

/// A text to be generated, and the parts of the session that this needs.
struct Request<'r> {
    /// All that comes before the text.
    ids: &'r [u32],
    limit: usize,
    stop_strings: &'r [&'r str],
    grammar: Option<&'r [u8]>,
    keep_special: bool,
    drafts: usize,
    /// For [`Session::step`], between two calls of `write`.
    budget: u32,
    write: &'r mut dyn FnMut(&str) -> ControlFlow<()>,
    on_prompt: &'r mut Option<Box<dyn FnMut(usize, usize) + Send>>,
    pending: &'r mut Option<u32>,
}

impl<'r> Request<'r> {
    fn run<'m>(
        mut self,
        llm: &Llm,
        session: &mut Session<'m, '_>,
        sampler: &mut Sampler<'_>,
    ) -> Result<Generated, Error> {
        let tokens = self.ids.len();
        let context = session.capacity();
        if tokens == 0 {
            return Err(crate::Error::NoTokens.into());
        }
        if tokens > context {
            return Err(Error::TooLong { tokens, context });
        }
        // The last token is computed again if necessary, because its logits are needed.
        keep_common(session, &self.ids[..tokens - 1])?;
        *self.pending = None;
        sampler.forget();
        for &id in session.tokens() {
            sampler.accept(id);
        }
        let held = session.len();
        let prompt_tokens = tokens - held;
        let mut generated = Generated {
            text: String::new(),
            end: None,
            prompt_tokens,
            prompt_time: Duration::ZERO,
            tokens: 0,
            time: Duration::ZERO,
            drafted: 0,
        };
        let written = self.generate(llm, session, sampler, &mut generated);
        // Drops work that was begun when the text was cancelled, at most one batch.
        session.abort()?;
        generated.prompt_tokens = session.len().min(tokens) - held;
        written.map(|()| generated)
    }

    /// Computes the prompt and writes the text.
    fn generate<'m>(
        &mut self,
        llm: &Llm,
        session: &mut Session<'m, '_>,
        sampler: &mut Sampler<'_>,
        generated: &mut Generated,
    ) -> Result<(), Error> {
        let start = Clock::start();
        let fed = self.feed_prompt(session, sampler)?;
        let ControlFlow::Continue(rest) = fed else {
            generated.prompt_time = start.elapsed();
            return Ok(());
        };
        let mut token = session.len() + rest.len() - 1;
        let mut not_a_number = None;
        let mut check = |logits: &mut [f32]| {
            if let Some(logit) = logits.iter().position(|logit| !logit.is_finite()) {
                not_a_number = Some(Error::NotANumber { token, logit });
                return Err(crate::Error::NoCandidate);
            }
            token += 1;
            Ok(())
        };
        let tokenizer = llm.tokenizer();
        let grammar = self.grammar.map(Grammar::open).transpose()?;
        let vocabulary = grammar.map(|_| Vocabulary::with_tree(tokenizer, llm.tree()));
        let mut generation = Generation::new(session, sampler, tokenizer, rest)
            .limit(self.limit)
            .stop_strings(self.stop_strings)
            .filter(&mut check);
        if self.keep_special {
            generation = generation.keep_special();
        }
        if let (Some(grammar), Some(vocabulary)) = (&grammar, &vocabulary) {
            generation = generation.grammar(Constraint::new(grammar, vocabulary));
        }
        let written = self.write_text(generation, start, generated);
        written.map_err(|error| not_a_number.unwrap_or(error.into()))
    }

    /// Computes the prompt except for its last piece, which is returned. Pieces are whole batches,
    /// so cutting the prompt does not make it slower.
    fn feed_prompt(
        &mut self,
        session: &mut Session<'_, '_>,
        sampler: &mut Sampler<'_>,
    ) -> Result<ControlFlow<(), &'r [u32]>, Error> {
        let ids = self.ids;
        let mut rest = &ids[session.len()..];
        let total = rest.len();
        let length = session.plan().batch_tokens() as usize;
        while rest.len() > length {
            let (now, after) = rest.split_at(length);
            session.start(now)?;
            while let Step::Pending = session.step(self.budget)? {
                if (self.write)("").is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            for &id in now {
                sampler.accept(id);
            }
            rest = after;
            if let Some(on_prompt) = self.on_prompt {
                on_prompt(total - rest.len(), total);
            }
            if (self.write)("").is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(rest))
    }

    /// Writes the text. `start` is when the prompt was begun.
    fn write_text(
        &mut self,
        mut generation: Generation<'_, '_, '_, '_>,
        start: Clock,
        generated: &mut Generated,
    ) -> Result<(), crate::Error> {
        let mut lookup = PromptLookup::new();
        let mut drafts = vec![0; self.drafts + 1];
        let mut flow = ControlFlow::Continue(());
        let mut after_prompt = None;
        let total = generated.prompt_tokens;
        while generated.end.is_none() && flow.is_continue() {
            let mut is_silent = true;
            let mut write = |text: &str| {
                generated.text.push_str(text);
                if flow.is_continue() {
                    flow = (self.write)(text);
                    is_silent = false;
                }
            };
            let next = if generation.last().is_none() {
                generation
                    .step(self.budget, &mut write)
                    .map(|_| generation.end())
            } else {
                generation.next_drafted(&mut lookup, &mut drafts, &mut write)
            };
            *self.pending = generation.last();
            generated.end = next?;
            generated.tokens = generation.token_count();
            generated.drafted = generation.drafted();
            if after_prompt.is_none() && generation.last().is_some() {
                after_prompt = Some(Clock::start());
                generated.prompt_time = start.elapsed();
                if let Some(on_prompt) = self.on_prompt {
                    on_prompt(total, total);
                }
            }
            if is_silent && generated.end.is_none() {
                flow = (self.write)("");
            }
        }
        generated.text.push_str(generation.held_back());
        if generated.tokens == 0 && generated.end == Some(End::Limit) {
            // A token was chosen, and is not part of the text.
            *self.pending = None;
        }
        generated.time = after_prompt.map_or(Duration::ZERO, |start| start.elapsed());
        Ok(())
    }
}

/// Measures how long something takes. WebAssembly outside of WASI has no clock, and measures zero.
struct Clock(Option<Instant>);

impl Clock {
    fn start() -> Self {
        let has_clock = cfg!(not(all(target_family = "wasm", target_os = "unknown")));
        Clock(has_clock.then(Instant::now))
    }

    fn elapsed(&self) -> Duration {
        self.0.map_or(Duration::ZERO, |start| start.elapsed())
    }
}

/// Removes the session's tokens after its common start with `ids`.
fn keep_common(session: &mut Session<'_, '_>, ids: &[u32]) -> Result<(), Error> {
    let pairs = session.tokens().iter().zip(ids);
    let common = pairs.take_while(|(a, b)| a == b).count();
    let surplus = session.len() - common;
    if surplus <= session.rewindable() as usize {
        session.rewind(surplus)?;
    } else {
        // The ring of a layer with an attention window no longer has the keys that it needs.
        session.reset();
    }
    Ok(())
}
