//! [`Session`]: tokens in, logits out, one context at a time.

use core::ops::Range;

use bytemuck::try_cast_slice_mut;
use pocketlm_kernels::{Engine, InputGroup, InputTile};

use super::Plan;
use super::block::{Stage, row_mut};
use super::snapshot::unseen;
use super::weights::Weights;
use crate::Error;
use crate::log;
use crate::model::{ALIGNMENT, Model};

/// Where a computation stands: everything `step` needs to go on.
#[derive(Clone, Copy)]
pub(super) struct Work {
    /// What is being computed; [`Stage::Idle`] when nothing is.
    pub stage: Stage,
    /// The layer it is computed in.
    pub layer: u32,
    /// Where its keys and values start in the cache.
    pub cache: usize,
    /// How many of the stage's units are done.
    pub unit: usize,
    /// The batch: index of its first token in the context, and how many it has.
    pub start: u32,
    pub count: u32,
    /// The index after the last token given.
    pub end: u32,
    /// Whether every token's logits are wanted, or the last one's alone.
    pub every: bool,
    /// The tokens of the batch that meet the output matrix: the first, and how many.
    pub head: u32,
    pub heads: u32,
}

impl Work {
    const NONE: Work = Work {
        stage: Stage::Idle,
        layer: 0,
        cache: 0,
        unit: 0,
        start: 0,
        count: 0,
        end: 0,
        every: false,
        head: 0,
        heads: 1,
    };
}

/// The buffers of the plan, cut out of the arena.
pub(super) struct Buffers<'a> {
    /// `[context]`.
    pub tokens: &'a mut [u32],
    /// `[context]`.
    pub positions: &'a mut [u32],
    /// `[batch][D]`.
    pub hidden: &'a mut [f32],
    /// `[batch][D]`.
    pub normed: &'a mut [f32],
    /// See `block.rs`.
    pub scratch: &'a mut [f32],
    /// `[batch][…]`.
    pub groups: &'a mut [InputGroup],
    /// `[batch.div_ceil(16)][…]`, the same as matrix units take them; empty for short batches.
    pub blocks: &'a mut [InputTile],
    /// `[table][batch][cos, sin][P/2]`.
    pub rope: &'a mut [f32],
    /// `[logits][V]`.
    pub logits: &'a mut [f32],
    /// Weights that are not in memory.
    pub weights: Weights<'a>,
    /// Layer by layer, kv head by kv head: keys, values.
    pub cache: &'a mut [u8],
}

/// What a call of [`Session::step`] came to.
#[derive(Debug)]
pub enum Step<'s> {
    /// There is more to do.
    Pending,
    /// All tokens are in; the logits of the last one, `[vocab_size]`.
    Done(&'s mut [f32]),
}

/// What [`Session::advance`] stopped at.
pub(super) enum Event {
    /// The budget is used up.
    Pending,
    /// The logits of the tokens at these indices of the context are ready. If that was all, the
    /// session is idle.
    Logits(Range<u32>),
    /// Weights could not be read.
    Unread,
}

/// One context of a model: the tokens so far with their keys and values, in memory that the caller
/// lends.
///
/// [`feed`](Session::feed) computes a prompt or a token in one call. [`start`](Session::start) and
/// [`step`](Session::step) do the same in slices of bounded size, for a loop that has other things
/// to do. However the tokens come, all at once, one by one, in batches or in slices, and whoever
/// works on them: the logits are the same bits.
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
    pub(super) model: Model<'m>,
    pub(super) plan: Plan<'m>,
    pub(super) engine: Engine<'a>,
    pub(super) buffers: Buffers<'a>,
    pub(super) work: Work,
    /// Tokens in the context, those being worked on left out.
    length: u32,
    /// The longest the context has been since the last reset: rings hold nothing older than this
    /// less their rows.
    longest: u32,
    /// The position of the next token.
    next_position: u32,
    /// If the context was restored, the position of the token that came next: the keys it could not
    /// see are not there.
    restored_at: u32,
}

impl<'m, 'a> Session<'m, 'a> {
    /// A session in `arena`, which must start at a multiple of 64 and hold [`Plan::bytes`]. What it
    /// holds does not matter. `engine` is what computes: workers ([`Solo`](super::Solo) is the
    /// calling core), with the machine's fastest kernels, or an [`Engine`] that names other
    /// kernels.
    pub fn new(
        model: &Model<'m>,
        plan: &Plan<'m>,
        arena: &'a mut [u8],
        engine: impl Into<Engine<'a>>,
    ) -> Result<Session<'m, 'a>, Error> {
        #[cfg(feature = "source")]
        if !model.header().is_mapped() {
            return Err(Error::NotMapped);
        }
        log::refused(
            "session",
            Self::with_engine(model, plan, arena, engine.into()),
        )
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
        source: &'a mut dyn crate::model::WeightSource,
    ) -> Result<Session<'m, 'a>, Error> {
        let mut session = log::refused(
            "session",
            Self::with_engine(model, plan, arena, engine.into()),
        )?;
        session.buffers.weights.lend(model, source)?;
        Ok(session)
    }

    /// [`new`](Session::new), compiled once.
    fn with_engine(
        model: &Model<'m>,
        plan: &Plan<'m>,
        arena: &'a mut [u8],
        engine: Engine<'a>,
    ) -> Result<Session<'m, 'a>, Error> {
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
        if limits.contains(&0) || plan.bytes() == usize::MAX {
            return Err(Error::Limits);
        }
        if !(arena.as_ptr() as usize).is_multiple_of(ALIGNMENT) {
            return Err(Error::Unaligned(ALIGNMENT as u32));
        }
        if arena.len() < plan.bytes() {
            return Err(Error::ArenaTooSmall {
                needed: plan.bytes(),
                found: arena.len(),
            });
        }
        let [
            tokens,
            hidden,
            normed,
            scratch,
            groups,
            rope,
            logits,
            weights,
            cache,
        ] = plan.sizes();
        let mut rest = arena;
        let context = plan.context_tokens() as usize;
        // Nobody would take them on a microcontroller.
        let blocks = if cfg!(target_os = "none") {
            0
        } else {
            plan.block_bytes()
        };
        let (tokens, positions) = numbers(cut(&mut rest, tokens))
            .split_at_mut_checked(context)
            .unwrap_or_default();
        let buffers = Buffers {
            tokens,
            positions,
            hidden: numbers(cut(&mut rest, hidden)),
            normed: numbers(cut(&mut rest, normed)),
            scratch: numbers(cut(&mut rest, scratch)),
            groups: numbers(cut(&mut rest, groups.saturating_sub(blocks))),
            blocks: if blocks > 0 {
                numbers(cut(&mut rest, blocks))
            } else {
                &mut []
            },
            rope: numbers(cut(&mut rest, rope)),
            logits: numbers(cut(&mut rest, logits)),
            weights: Weights::new(plan, cut(&mut rest, weights)),
            cache: cut(&mut rest, cache),
        };
        Ok(Session {
            model: *model,
            plan: *plan,
            engine,
            buffers,
            work: Work::NONE,
            length: 0,
            longest: 0,
            next_position: 0,
            restored_at: 0,
        })
    }

    /// Adds tokens to the context, a prompt or the one just sampled, and returns the logits of the
    /// last, `[vocab_size]`. On an error nothing was added, unless it is [`Error::Storage`]:
    /// weights could not be read. Then nothing is lost either, and [`step`](Session::step) goes on
    /// where that was.
    pub fn feed(&mut self, ids: &[u32]) -> Result<&mut [f32], Error> {
        self.start(ids)?;
        loop {
            match self.advance(u32::MAX) {
                Event::Unread => return Err(Error::Storage),
                Event::Logits(tokens) if self.is_idle() => {
                    return Ok(self.logits(tokens.len().wrapping_sub(1)));
                }
                Event::Pending | Event::Logits(_) => {}
            }
        }
    }

    /// Adds tokens and gives the logits of each to `visit`, with its index in `ids`; it may change
    /// them. As many tokens as [`Plan::logits`] has room for meet the output matrix together.
    pub fn feed_each(
        &mut self,
        ids: &[u32],
        mut visit: impl FnMut(usize, &mut [f32]),
    ) -> Result<(), Error> {
        self.start(ids)?;
        self.work.every = true;
        let first = self.length;
        loop {
            match self.advance(u32::MAX) {
                Event::Pending => {}
                Event::Unread => return Err(Error::Storage),
                Event::Logits(tokens) => {
                    for (row, token) in tokens.enumerate() {
                        visit((token - first) as usize, self.logits(row));
                    }
                    if self.is_idle() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Adds `ids`, all but the first of which are guesses, as far as they are right. `sample`
    /// chooses a token from the logits of each, `[vocab_size]`, which says whether the next guess
    /// is; from the first that is not, they are taken back. Returns how many were right: `sample`
    /// was called once for each of these and once more.
    ///
    /// # Errors
    ///
    /// Those of [`feed_each`](Session::feed_each), where guesses stay in after [`Error::Storage`];
    /// what `sample` refused; and [`Error::RewindTooFar`], which cannot be as long as `ids` are no
    /// more than a batch.
    pub fn feed_guesses(
        &mut self,
        ids: &[u32],
        mut sample: impl FnMut(&mut [f32]) -> Result<u32, Error>,
    ) -> Result<usize, Error> {
        let (mut right, mut outcome) = (0, Ok(()));
        self.feed_each(ids, |index, logits| {
            // What stands on a wrong guess says nothing.
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
        if self.work.stage != Stage::Idle {
            return Err(Error::Busy);
        }
        if ids.is_empty() {
            return Err(Error::NoTokens);
        }
        let vocab_size = self.model.config().vocab_size;
        if let Some(&token) = ids.iter().find(|&&id| id >= vocab_size) {
            return Err(Error::TokenOutOfRange { token, vocab_size });
        }
        let room = self.plan.context_tokens() - self.length;
        let count = u32::try_from(ids.len()).ok().filter(|&count| count <= room);
        let count = count.ok_or(Error::ContextFull { room })?;
        let after = self
            .next_position
            .checked_add(count)
            .ok_or(Error::Position(self.next_position))?;
        let new = self.length as usize..(self.length + count) as usize;
        let tokens = self.buffers.tokens.get_mut(new.clone()).unwrap_or_default();
        let positions = self.buffers.positions.get_mut(new).unwrap_or_default();
        for (((token, position), &id), p) in tokens
            .iter_mut()
            .zip(positions)
            .zip(ids)
            .zip(self.next_position..after)
        {
            (*token, *position) = (id, p);
        }
        self.next_position = after;
        self.work = Work {
            start: self.length,
            end: self.length + count,
            ..Work::NONE
        };
        self.start_batch();
        Ok(())
    }

    /// Goes on with what [`start`](Session::start) began, for about `budget` units: the unit is a
    /// row as wide as the embedding times one token. Work is not divided below eight rows for the
    /// whole batch, or one token's norm, or one kv head's attention for one token; a smaller budget
    /// does one such piece a call. [`Error::NoTokens`] when there is nothing to do; after
    /// [`Error::Storage`], which means that weights could not be read, the next call goes on where
    /// that was.
    pub fn step(&mut self, budget: u32) -> Result<Step<'_>, Error> {
        if self.work.stage == Stage::Idle {
            return Err(Error::NoTokens);
        }
        match self.advance(budget) {
            Event::Unread => Err(Error::Storage),
            Event::Logits(tokens) if self.is_idle() => {
                Ok(Step::Done(self.logits(tokens.len().wrapping_sub(1))))
            }
            Event::Pending | Event::Logits(_) => Ok(Step::Pending),
        }
    }

    /// The logits of a token that met the output matrix last.
    fn logits(&mut self, row: usize) -> &mut [f32] {
        row_mut(
            self.buffers.logits,
            self.model.config().vocab_size as usize,
            row,
        )
    }

    /// Computes until the budget is used up, or logits that were asked for are ready.
    fn advance(&mut self, budget: u32) -> Event {
        let budget = budget.max(1) as usize;
        let mut left = budget;
        loop {
            let (units, cost) = self.size();
            let undone = units.saturating_sub(self.work.unit);
            if undone > 0 {
                // A unit that is too large for what is left goes first in the next call, where it
                // is done whatever it costs.
                if left < cost && left < budget {
                    return Event::Pending;
                }
                let now = (left / cost.max(1)).clamp(1, undone);
                if !self.compute(self.work.unit..self.work.unit + now) {
                    return Event::Unread;
                }
                self.work.unit += now;
                left = left.saturating_sub(now.saturating_mul(cost));
            } else if let Some(event) = self.next_stage() {
                return event;
            }
        }
    }

    /// Moves on from a stage that is done.
    fn next_stage(&mut self) -> Option<Event> {
        let work = &mut self.work;
        work.unit = 0;
        match work.stage {
            Stage::Embed => self.start_layer(),
            Stage::FfwResidual => {
                let layer = self.model.layers().get(work.layer as usize);
                let bytes = self.plan.layer_cache_bytes(layer);
                work.cache = work.cache.saturating_add(bytes);
                work.layer += 1;
                self.start_layer();
            }
            Stage::Head => {
                let first = work.start + work.head;
                let tokens = first..first + work.heads;
                work.head += work.heads;
                if work.head < work.count {
                    work.stage = Stage::FinalNorm;
                    work.heads = self.plan.logits_tokens().min(work.count - work.head);
                } else {
                    self.finish_batch();
                }
                return Some(Event::Logits(tokens));
            }
            Stage::Idle
            | Stage::AttentionNorm
            | Stage::QueryKeyValue
            | Stage::Cache
            | Stage::Attend
            | Stage::Attended
            | Stage::Output
            | Stage::AttentionResidual
            | Stage::GateValue
            | Stage::Activate
            | Stage::Out
            | Stage::FinalNorm => work.stage = work.stage.next(),
        }
        None
    }

    /// Begins the layer `work.layer`, or the logits where there is no such layer. A model may have
    /// no layers.
    fn start_layer(&mut self) {
        let work = &mut self.work;
        if work.layer < self.model.config().num_decoder_blocks {
            work.stage = Stage::AttentionNorm;
            return;
        }
        work.stage = Stage::FinalNorm;
        if work.every {
            work.heads = self.plan.logits_tokens().min(work.count);
        } else {
            work.head = work.count - 1;
            work.heads = 1;
            if work.start + work.count < work.end {
                // Nobody asked for these logits.
                self.finish_batch();
            }
        }
    }

    /// Takes the next tokens into a batch.
    #[cfg_attr(target_os = "none", inline(never))]
    fn start_batch(&mut self) {
        let work = &mut self.work;
        work.count = (work.end - work.start).min(self.plan.batch_tokens());
        (work.stage, work.layer, work.cache, work.unit, work.head) = (Stage::Embed, 0, 0, 0, 0);
        self.longest = self.longest.max(work.start + work.count);
    }

    /// Ends a batch, and starts the next unless it was the last.
    fn finish_batch(&mut self) {
        self.length = self.work.start + self.work.count;
        self.work.start = self.length;
        if self.length == self.work.end {
            self.work.stage = Stage::Idle;
        } else {
            self.start_batch();
        }
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
        &self.plan
    }

    /// How many tokens the context can hold.
    pub fn context(&self) -> usize {
        self.plan.context_tokens() as usize
    }

    /// The tokens in the context.
    pub fn tokens(&self) -> &[u32] {
        self.buffers.tokens.get(..self.len()).unwrap_or_default()
    }

    /// The position the next token will have: 0 at first, and one more for each token.
    pub fn position(&self) -> u32 {
        self.next_position
    }

    /// Leaves a gap: the next token will have position `position`. Windows and rotary angles go by
    /// positions; the positions of a gap hold no key.
    pub fn skip_to(&mut self, position: u32) -> Result<(), Error> {
        if self.work.stage != Stage::Idle {
            return Err(Error::Busy);
        }
        if position < self.next_position {
            return Err(Error::Position(position));
        }
        self.next_position = position;
        Ok(())
    }

    /// Takes back the last `count` tokens, and a gap left after them. Global layers forget any
    /// number; a local layer must still hold the keys that its window shows after the new end,
    /// which is sure for as many tokens as the batch and always for a context that fits its ring
    /// ([`Plan::cache_rows`]). Taking back none changes nothing.
    pub fn rewind(&mut self, count: usize) -> Result<(), Error> {
        if self.work.stage != Stage::Idle {
            return Err(Error::Busy);
        }
        let possible = self.rewindable();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count > possible {
            return Err(Error::RewindTooFar { possible });
        }
        if count > 0 {
            self.length -= count;
            self.next_position = self
                .positions()
                .last()
                .map_or(0, |last| last.wrapping_add(1));
        }
        Ok(())
    }

    /// How many tokens [`rewind`](Session::rewind) can take back now.
    pub fn rewindable(&self) -> u32 {
        let positions = self.positions();
        let mut possible = self.length;
        for layer in self.model.layers().iter() {
            let Some(window) = layer.window else { continue };
            // The ring has let go of the keys before index `oldest`, so a token may come next only
            // where its window no longer shows the last of them. A window of 1 shows no key but the
            // token's own.
            let oldest =
                self.longest as usize - self.plan.cache_rows(layer).min(self.longest as usize);
            let oldest = oldest.max(unseen(positions, layer, self.restored_at));
            let lost = oldest.checked_sub(1).and_then(|last| positions.get(last));
            if let (Some(lost), true) = (lost, window.get() > 1) {
                let shown = lost.saturating_add(window.get() - 1);
                let end = positions.partition_point(|&position| position < shown) + 1;
                possible = possible.min((positions.len() - end.min(positions.len())) as u32);
            }
        }
        possible
    }

    /// Whether no token is being worked on.
    pub(super) fn is_idle(&self) -> bool {
        self.work.stage == Stage::Idle
    }

    /// Takes `tokens` tokens, which are in the buffers with their keys and values, for the context.
    pub(super) fn resume(&mut self, tokens: u32, position: u32) {
        (
            self.length,
            self.longest,
            self.next_position,
            self.restored_at,
        ) = (tokens, tokens, position, position);
    }

    /// The positions of the tokens in the context.
    pub(super) fn positions(&self) -> &[u32] {
        self.buffers.positions.get(..self.len()).unwrap_or_default()
    }

    /// Forgets everything, work in progress included.
    pub fn reset(&mut self) {
        self.work = Work::NONE;
        (
            self.length,
            self.longest,
            self.next_position,
            self.restored_at,
        ) = (0, 0, 0, 0);
    }
}

/// Cuts the first `bytes` off `rest`.
#[cfg_attr(target_os = "none", inline(never))]
fn cut<'a>(rest: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let (part, after) = core::mem::take(rest)
        .split_at_mut_checked(bytes)
        .unwrap_or_default();
    *rest = after;
    part
}

/// Bytes of the arena as numbers: every part starts at a multiple of 64. A part is padded to one
/// too, and the padding may be no whole number of elements.
fn numbers<T: bytemuck::Pod>(bytes: &mut [u8]) -> &mut [T] {
    let whole = bytes.len() / size_of::<T>() * size_of::<T>();
    try_cast_slice_mut(bytes.get_mut(..whole).unwrap_or_default()).unwrap_or_default()
}
