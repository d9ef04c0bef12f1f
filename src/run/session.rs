//! [`Session`]: tokens in, logits out, one context at a time.

#[cfg(feature = "std")]
use core::ops::ControlFlow;
use core::ops::Range;

use pocketlm_kernels::Engine;

use super::Plan;
use super::buffer::Buffer;
use super::cache::unseen;
use super::forward::{Buffers, Forward, buffer, row_mut};
use super::schedule::Schedule;
#[cfg(feature = "std")]
use super::stage::{Job, PerToken};
use crate::Error;
use crate::log;
#[cfg(feature = "std")]
use crate::model::TensorKind;
use crate::model::{ALIGNMENT, Layer, Model};

/// The result of a call of [`Session::step`].
///
/// Example: [`Session`].
#[derive(Debug)]
pub enum Step<'s> {
    /// There is more to do.
    Pending,
    /// All tokens are in the context. These are the logits of the last one, `[vocab_size]`.
    Done(&'s mut [f32]),
}

/// Why [`Session::advance`] stopped.
enum Event {
    /// The budget is used up.
    Pending,
    /// The logits of these tokens, counted from the first of those given, are ready. If they are
    /// the last, the session is idle.
    Logits(Range<u32>),
}

/// Numbers that [`Session::feed_observed`] shows.
#[cfg(feature = "std")]
#[derive(Clone, Copy)]
pub(crate) enum Observed {
    /// The input of the matrix of this kind, and of others of the same product.
    Input(TensorKind),
    /// What attention, a convolution or the feed-forward network computed, before its bias and
    /// before the norm of this kind.
    Branch(TensorKind),
    /// The hidden rows after such a branch is added. The norm after the branch is of this kind.
    Residual(TensorKind),
}

/// One context of a model: the tokens so far with their keys and values, in memory that the caller
/// lends.
///
/// [`feed`](Session::feed) computes a prompt or a token in one call. [`start`](Session::start) and
/// [`step`](Session::step) do the same in slices of bounded size, for a loop that has other things
/// to do. The logits are the same bits however the tokens come (all at once, one by one, in batches
/// or in slices) and whichever workers compute them.
///
/// ```
/// use pocketlm::{include_image, model::Model, run::{Plan, Session, Solo, StaticArena, Step}};
///
/// const STORY: &[u8] = include_image!("../bin/pocketlm/story/story.plm");
/// const PLAN: Plan = Plan::of(STORY).context(64).batch(8);
/// static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();
///
/// let model = Model::open(STORY)?;
/// let mut session = Session::new(&model, &PLAN, ARENA.take().expect("taken once"), &Solo)?;
/// let at_once = session.feed(&[2, 17, 40, 5])?.to_vec();
///
/// session.rewind(4)?;
/// session.start(&[2, 17, 40, 5])?;
/// let in_slices = loop {
///     match session.step(100)? {
///         Step::Pending => { /* feed the watchdog */ }
///         Step::Done(logits) => break logits,
///     }
/// };
/// assert_eq!(at_once, in_slices);
/// # Ok::<(), pocketlm::Error>(())
/// ```
pub struct Session<'m, 'a> {
    pub(super) forward: Forward<'m, 'a>,
    /// What [`start`](Session::start) began; `None` if there is nothing to do.
    schedule: Option<Schedule>,
    /// The row of the logits that [`logits`](Session::logits) gives.
    last_logits: Option<u32>,
    /// Tokens in the context, those being worked on left out.
    length: u32,
    /// The longest the context has been since the last reset, tokens being worked on included. A
    /// layer whose cache has n rows holds the keys of the last n of these tokens.
    longest: u32,
    /// The position of the next token.
    next_position: u32,
    /// The position of the next token when the context was restored; else 0. The cache has no keys
    /// outside of that token's windows.
    restored_at: u32,
}

impl<'m, 'a> Session<'m, 'a> {
    /// A session in `arena`, which must start at a multiple of 64 and hold [`Plan::bytes`] bytes.
    /// What it contains does not matter. `engine` computes: either workers
    /// ([`Solo`](super::Solo) is the calling core), which get the fastest kernels of the machine,
    /// or an [`Engine`] that names other kernels.
    pub fn new(
        model: &Model<'m>,
        plan: &Plan<'m>,
        arena: &'a mut [u8],
        engine: impl Into<Engine<'a>>,
    ) -> Result<Session<'m, 'a>, Error> {
        Self::with_engine(model, plan, arena, engine.into())
    }

    /// [`new`](Session::new), compiled once for all types of `engine`.
    fn with_engine(
        model: &Model<'m>,
        plan: &Plan<'m>,
        arena: &'a mut [u8],
        engine: Engine<'a>,
    ) -> Result<Session<'m, 'a>, Error> {
        Self::check(model, plan, arena)?;
        Ok(Self::after_check(model, plan, arena, engine))
    }

    /// A session for weights that are not in memory ([`Model::open_from`]): they are read from
    /// `source` through the plan's [`weight_buffer`](Plan::weight_buffer). The logits are the same
    /// bits. [`Error::WeightBufferTooSmall`] if a half of that buffer does not hold a tile row of
    /// every matrix.
    #[cfg(feature = "source")]
    pub fn with_source(
        model: &Model<'m>,
        plan: &Plan<'m>,
        arena: &'a mut [u8],
        engine: impl Into<Engine<'a>>,
        source: &'a mut (dyn crate::model::WeightSource + Send),
    ) -> Result<Session<'m, 'a>, Error> {
        log::refused("session", Self::check_sizes(model, plan, arena))?;
        let mut session = Self::after_check(model, plan, arena, engine.into());
        session.forward.buffers.weights.attach(model, source)?;
        Ok(session)
    }

    /// The errors of [`new`](Session::new).
    #[doc(hidden)] // for the C interface
    pub fn check(model: &Model<'m>, plan: &Plan<'m>, arena: &[u8]) -> Result<(), Error> {
        #[cfg(feature = "source")]
        if !model.header().is_mapped() {
            return Err(Error::NotMapped);
        }
        log::refused("session", Self::check_sizes(model, plan, arena))
    }

    fn check_sizes(model: &Model<'m>, plan: &Plan<'m>, arena: &[u8]) -> Result<(), Error> {
        #[cfg(feature = "defmt")]
        defmt::debug!("session: {}", plan);
        if !plan.is_for(model.header()) {
            return Err(Error::ForeignPlan);
        }
        let kv = plan.kv_type().dtype();
        if !kv.enabled() {
            return Err(Error::Disabled(kv));
        }
        let limits = [
            plan.context_tokens(),
            plan.batch_tokens(),
            plan.logits_tokens(),
        ];
        let needed = plan.bytes();
        if limits.contains(&0) || needed == usize::MAX {
            return Err(Error::Limits);
        }
        if !(arena.as_ptr() as usize).is_multiple_of(ALIGNMENT) {
            return Err(Error::Unaligned(ALIGNMENT as u32));
        }
        if arena.len() < needed {
            return Err(Error::ArenaTooSmall {
                needed,
                found: arena.len(),
            });
        }
        Ok(())
    }

    /// [`new`](Session::new) after [`check`](Session::check). It returns no `Result`, so that the
    /// session is made where it will stay and is not moved there.
    #[doc(hidden)] // for the C interface
    pub fn after_check(
        model: &Model<'m>,
        plan: &Plan<'m>,
        arena: &'a mut [u8],
        engine: Engine<'a>,
    ) -> Session<'m, 'a> {
        Session {
            forward: Forward {
                model: *model,
                plan: *plan,
                engine,
                buffers: Buffers::cut(plan, arena),
            },
            schedule: None,
            last_logits: None,
            length: 0,
            longest: 0,
            next_position: 0,
            restored_at: 0,
        }
    }

    /// Adds tokens to the context, for example a prompt or the token just sampled, and returns the
    /// logits of the last one, `[vocab_size]`.
    ///
    /// On an error no token was added. The exception is [`Error::Storage`], which means that
    /// weights could not be read: then [`step`](Session::step) goes on from there, and
    /// [`abort`](Session::abort) gives up.
    pub fn feed(&mut self, ids: &[u32]) -> Result<&mut [f32], Error> {
        self.start(ids)?;
        while self.schedule.is_some() {
            self.advance(u32::MAX)?;
        }
        Ok(self.row(self.last_logits))
    }

    /// Adds tokens and gives the logits of each to `visit`, with its index in `ids`. `visit` may
    /// change them. As many tokens are computed together as [`Plan::batch`] says, and the logits of
    /// as many as [`Plan::logits`] says.
    pub fn feed_each(
        &mut self,
        ids: &[u32],
        mut visit: impl FnMut(usize, &mut [f32]),
    ) -> Result<(), Error> {
        self.start(ids)?;
        if let Some(schedule) = &mut self.schedule {
            schedule.every = true;
        }
        while self.schedule.is_some() {
            if let Event::Logits(tokens) = self.advance(u32::MAX)? {
                for (row, token) in tokens.enumerate() {
                    visit(token as usize, self.row(Some(row as u32)));
                }
            }
        }
        Ok(())
    }

    /// Adds a token, `ids[0]`, and drafts of the tokens after it, the other `ids`. `sample` gets
    /// the logits of a token, `[vocab_size]`, and chooses the token after it. If that is the draft
    /// in this place, the draft is right. The first wrong draft and all after it are removed.
    /// Returns how many drafts were right: `sample` was called once for each of these and once
    /// more.
    ///
    /// # Errors
    ///
    /// Those of [`feed_each`](Session::feed_each), where drafts stay in the context after
    /// [`Error::Storage`]; those of `sample`; and [`Error::RewindTooFar`], which cannot happen if
    /// `ids.len()` is at most the batch size.
    pub fn feed_drafts(
        &mut self,
        ids: &[u32],
        mut sample: impl FnMut(&mut [f32]) -> Result<u32, Error>,
    ) -> Result<usize, Error> {
        let mut right = 0;
        let mut outcome = Ok(());
        self.feed_each(ids, |index, logits| {
            // Logits computed after a wrong draft are meaningless.
            if index == right && outcome.is_ok() {
                outcome =
                    sample(logits).map(|id| right += usize::from(ids.get(index + 1) == Some(&id)));
            }
        })?;
        self.rewind(ids.len().saturating_sub(1 + right))?;
        outcome.map(|()| right)
    }

    /// Gives tokens to [`step`](Session::step). All of them are checked here; on an error nothing
    /// has changed.
    pub fn start(&mut self, ids: &[u32]) -> Result<(), Error> {
        #[cfg(feature = "defmt")]
        defmt::debug!(
            "start: {=usize} tokens at position {=u32}",
            ids.len(),
            self.next_position
        );
        log::refused("start", self.begin(ids))
    }

    fn begin(&mut self, ids: &[u32]) -> Result<(), Error> {
        self.check_idle()?;
        if ids.is_empty() {
            return Err(Error::NoTokens);
        }
        let Forward {
            model,
            plan,
            buffers,
            ..
        } = &mut self.forward;
        let vocab_size = model.config().vocab_size;
        if let Some(&token) = ids.iter().find(|&&id| id >= vocab_size) {
            return Err(Error::TokenOutOfRange { token, vocab_size });
        }
        let room = plan.context_tokens() - self.length;
        let count = u32::try_from(ids.len()).ok().filter(|&count| count <= room);
        let count = count.ok_or(Error::ContextFull { room })?;
        let position = self.next_position;
        let after = position
            .checked_add(count)
            .ok_or(Error::Position(position))?;
        let end = self.length + count;
        let new = self.length as usize..end as usize;
        let tokens = buffers.tokens.get_mut(new.clone()).unwrap_or_default();
        for (token, id) in tokens.iter_mut().zip(ids) {
            *token = *id;
        }
        let positions = buffers.positions.get_mut(new).unwrap_or_default();
        for (to, position) in positions.iter_mut().zip(position..after) {
            *to = position;
        }
        self.next_position = after;
        self.last_logits = None;
        self.schedule = Some(Schedule::new(self.length..end, position, plan));
        Ok(())
    }

    /// Goes on with what [`start`](Session::start) began, until the work costs about `budget`. A
    /// cost of 1 is a row of a matrix as wide as the embedding, times one token. The smallest
    /// slices are eight rows for the whole batch, one token's norm or convolution, and one kv
    /// head's attention for one token; a budget below their cost computes one of them a call.
    ///
    /// [`Error::NoTokens`] if there is nothing to do. After [`Error::Storage`], which means that
    /// weights could not be read, the next call tries again.
    pub fn step(&mut self, budget: u32) -> Result<Step<'_>, Error> {
        self.advance(budget)?;
        if self.schedule.is_some() {
            return Ok(Step::Pending);
        }
        Ok(Step::Done(self.row(self.last_logits)))
    }

    /// Drops the work that [`start`](Session::start) began. The context is as it was before, a gap
    /// left by [`skip_to`](Session::skip_to) included. Does nothing if there is no such work.
    ///
    /// [`Error::RewindTooFar`] if the tokens computed so far have overwritten keys that a
    /// sliding-window layer needs to go on from the earlier context. This cannot happen if no
    /// more tokens were given than the batch has. The work is still there then:
    /// [`step`](Session::step) goes on with it, and [`reset`](Session::reset) drops it together
    /// with the context.
    ///
    /// ```
    /// # use pocketlm::{include_image, model::Model, run::{Plan, Session, Solo, StaticArena}};
    /// # const STORY: &[u8] = include_image!("../bin/pocketlm/story/story.plm");
    /// # const PLAN: Plan = Plan::of(STORY).context(64).batch(8);
    /// # static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();
    /// # let model = Model::open(STORY)?;
    /// # let arena = ARENA.take().expect("taken once");
    /// # let mut session = Session::new(&model, &PLAN, arena, &Solo)?;
    /// session.feed(&[2, 17])?;
    /// session.start(&[40, 5, 7])?;
    /// session.step(1000)?;
    /// // The user pressed a button.
    /// session.abort()?;
    /// assert_eq!(session.tokens(), [2, 17]);
    /// # Ok::<(), pocketlm::Error>(())
    /// ```
    pub fn abort(&mut self) -> Result<(), Error> {
        let Some(schedule) = self.schedule else {
            return Ok(());
        };
        let positions = &*self.forward.buffers.positions;
        let before = positions.get(..schedule.first as usize).unwrap_or_default();
        for layer in self.forward.model.layers().iter() {
            if self.lost_tokens(layer) > unseen(before, layer.window, schedule.position) {
                return Err(Error::RewindTooFar { possible: 0 });
            }
        }
        self.length = schedule.first;
        self.next_position = schedule.position;
        self.schedule = None;
        Ok(())
    }

    /// The logits of the last token, `[vocab_size]`: those that [`feed`](Session::feed) or
    /// [`step`](Session::step) returned, as the caller has left them. `None` if no token was fed,
    /// and after a call that changes the tokens of the context in another way.
    ///
    /// ```
    /// # use pocketlm::{include_image, model::Model, run::{Plan, Session, Solo, StaticArena}};
    /// # const STORY: &[u8] = include_image!("../bin/pocketlm/story/story.plm");
    /// # const PLAN: Plan = Plan::of(STORY).context(64).batch(8);
    /// # static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();
    /// # let model = Model::open(STORY)?;
    /// # let arena = ARENA.take().expect("taken once");
    /// # let mut session = Session::new(&model, &PLAN, arena, &Solo)?;
    /// assert!(session.logits().is_none());
    /// let fed = session.feed(&[2, 17, 40])?.to_vec();
    /// assert_eq!(session.logits().unwrap(), fed);
    /// session.rewind(1)?;
    /// assert!(session.logits().is_none());
    /// # Ok::<(), pocketlm::Error>(())
    /// ```
    pub fn logits(&mut self) -> Option<&mut [f32]> {
        let row = self.last_logits?;
        Some(self.row(Some(row)))
    }

    /// A row of the logits.
    #[cfg_attr(target_os = "none", inline(never))]
    fn row(&mut self, row: Option<u32>) -> &mut [f32] {
        let Forward { plan, buffers, .. } = &mut self.forward;
        let logits = buffer(buffers.numbers, plan, Buffer::Logits);
        row_mut(logits, plan.dims().vocabulary, row.unwrap_or(0) as usize)
    }

    /// Computes until the budget is used up, or logits that were asked for are ready.
    fn advance(&mut self, budget: u32) -> Result<Event, Error> {
        let schedule = self.schedule.as_mut().ok_or(Error::NoTokens)?;
        let forward = &mut self.forward;
        let budget = budget.max(1) as usize;
        let mut left = budget;
        loop {
            self.longest = self.longest.max(schedule.batch.end());
            let visible = || forward.visible_keys(&schedule.batch);
            let (units, cost) = schedule.size(&forward.plan, visible);
            let undone = units.saturating_sub(schedule.unit);
            if undone > 0 {
                // A unit that is too large for what is left comes first in the next call, which
                // computes it whatever it costs.
                if left < cost && left < budget {
                    return Ok(Event::Pending);
                }
                let now = (left / cost.max(1)).clamp(1, undone);
                let done = forward.compute(&schedule.batch, schedule.unit..schedule.unit + now);
                schedule.unit += done;
                if done < now {
                    return Err(Error::Storage);
                }
                left = left.saturating_sub(now.saturating_mul(cost));
                continue;
            }
            let ready = schedule.next(&forward.plan, forward.model.layers());
            self.length = schedule.batch.start;
            if let Some(tokens) = ready {
                let tokens = tokens.start - schedule.first..tokens.end - schedule.first;
                if schedule.is_done() {
                    self.last_logits = Some((tokens.len() as u32).saturating_sub(1));
                    self.schedule = None;
                }
                return Ok(Event::Logits(tokens));
            }
        }
    }

    /// As [`feed`](Session::feed), and `see` gets numbers of each layer, `[tokens][width]`: see
    /// [`Observed`]. It ends where `see` says so. For calibration on a host: the tokens must fit
    /// one batch.
    #[cfg(feature = "std")]
    pub(crate) fn feed_observed(
        &mut self,
        ids: &[u32],
        see: &mut dyn FnMut(Observed, &[f32]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.start(ids)?;
        while let Some(schedule) = &self.schedule {
            let batch = &schedule.batch;
            let count = batch.count as usize;
            let mut before = None;
            let mut after = None;
            match batch.stage.entry().job {
                Job::Matmul {
                    input: of,
                    matrices,
                } => {
                    before = matrices.first().map(|m| (Observed::Input(m.0), of));
                }
                Job::PerToken(PerToken::Residual {
                    branch,
                    post_norm,
                    onto,
                    ..
                }) => {
                    before = Some((Observed::Branch(post_norm), branch));
                    after = Some((Observed::Residual(post_norm), onto));
                }
                Job::Embed | Job::PerToken(_) | Job::PrepareAttention | Job::Attend => {}
                #[cfg(feature = "convolution")]
                Job::PrepareConvolution | Job::Convolve => {}
            }
            let visible = || self.forward.visible_keys(batch);
            let (units, cost) = schedule.size(&self.forward.plan, visible);
            let mut is_wanted = |forward: &mut Forward<'m, 'a>, (what, of)| {
                let numbers = count * forward.plan.width(of);
                let rows = buffer(forward.buffers.numbers, &forward.plan, of);
                see(what, rows.get(..numbers).unwrap_or_default()).is_continue()
            };
            if before.is_some_and(|before| !is_wanted(&mut self.forward, before)) {
                return self.abort();
            }
            // All of the stage, and no more.
            self.advance(u32::try_from(units.saturating_mul(cost)).unwrap_or(u32::MAX))?;
            if after.is_some_and(|after| !is_wanted(&mut self.forward, after)) {
                return self.abort();
            }
        }
        Ok(())
    }

    /// How many tokens the context holds.
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether the context holds no token.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What the session was planned for.
    pub fn plan(&self) -> &Plan<'m> {
        &self.forward.plan
    }

    /// How many tokens the context can hold.
    pub fn capacity(&self) -> usize {
        self.forward.plan.context_tokens() as usize
    }

    /// The tokens in the context.
    pub fn tokens(&self) -> &[u32] {
        let tokens = &*self.forward.buffers.tokens;
        tokens.get(..self.len()).unwrap_or_default()
    }

    /// The position of the next token: 0 at first, and one more for each token.
    pub fn position(&self) -> u32 {
        self.next_position
    }

    /// Leaves a gap: the next token will have position `position`. Attention windows, rotary angles
    /// and convolutions go by positions. A gap has no keys, and a convolution sees zeros there.
    pub fn skip_to(&mut self, position: u32) -> Result<(), Error> {
        self.check_idle()?;
        if position < self.next_position {
            return Err(Error::Position(position));
        }
        self.next_position = position;
        Ok(())
    }

    /// Takes back the last `count` tokens, and a gap left after them. Taking back none changes
    /// nothing.
    ///
    /// Global layers allow any number. A sliding-window layer, or a convolution, must still hold
    /// the keys or vectors that its window shows after the new end, else [`Error::RewindTooFar`]
    /// says how many tokens can be taken back. This cannot happen if the tokens were fed since
    /// the last [`restore`](Session::restore), and `count` is at most the batch size or the whole
    /// context fits the layer's cache ([`Plan::cache_rows`]).
    pub fn rewind(&mut self, count: usize) -> Result<(), Error> {
        self.check_idle()?;
        let possible = self.rewindable();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count > possible {
            return Err(Error::RewindTooFar { possible });
        }
        if count > 0 {
            self.length -= count;
            let last = self.positions().last();
            self.next_position = last.map_or(0, |last| last.wrapping_add(1));
            self.last_logits = None;
        }
        Ok(())
    }

    /// How many tokens [`rewind`](Session::rewind) can take back now.
    pub fn rewindable(&self) -> u32 {
        let positions = self.positions();
        let mut possible = self.length;
        for layer in self.forward.model.layers().iter() {
            let Some(window) = layer.window else { continue };
            let last_lost = self.lost_tokens(layer).checked_sub(1);
            if let Some(last_lost) = last_lost.and_then(|index| positions.get(index)) {
                // The next token must stand after the last position that would see the lost key.
                // So all tokens up to the first one at or after that position stay.
                let last_that_sees_it = last_lost.saturating_add(window.get() - 1);
                let before = positions.partition_point(|&position| position < last_that_sees_it);
                let end = before + 1;
                possible = possible.min((positions.len() - end.min(positions.len())) as u32);
            }
        }
        possible
    }

    /// How many of the oldest tokens have lost their keys in a sliding-window layer. Tokens that
    /// are being worked on count: they may have overwritten some. A window of 1 shows no key but
    /// the token's own, so none is missed.
    fn lost_tokens(&self, layer: Layer) -> usize {
        if layer.window.is_none_or(|window| window.get() == 1) {
            return 0;
        }
        let rows = self.forward.plan.cache_rows(layer);
        let overwritten = (self.longest as usize).saturating_sub(rows);
        overwritten.max(unseen(self.positions(), layer.window, self.restored_at))
    }

    pub(super) fn check_idle(&self) -> Result<(), Error> {
        match self.schedule {
            Some(_) => Err(Error::Busy),
            None => Ok(()),
        }
    }

    /// Takes `tokens` tokens, which are in the buffers with their keys and values, for the context.
    pub(super) fn resume(&mut self, tokens: u32, position: u32) {
        self.length = tokens;
        self.longest = tokens;
        self.next_position = position;
        self.restored_at = position;
    }

    /// The positions of the tokens in the context.
    pub(super) fn positions(&self) -> &[u32] {
        let positions = &*self.forward.buffers.positions;
        positions.get(..self.len()).unwrap_or_default()
    }

    /// Forgets everything, work in progress included.
    pub fn reset(&mut self) {
        self.schedule = None;
        self.last_logits = None;
        self.resume(0, 0);
    }
}
