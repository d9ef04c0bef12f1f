//! [`Generation`]: the loop that every program around a language model needs.

use heapless::String;

use super::PromptLookup;
use crate::Error;
#[cfg(feature = "grammar")]
use crate::grammar::Constraint;
use crate::run::{Session, Step};
use crate::sample::{Choice, Sampler};
use crate::text::{Decoder, Tokenizer};

/// The longest stop string, in bytes.
pub const STOP_STRING_BYTES: usize = 64;

/// What is held back begins a stop string, and one more character is added to it.
const HELD_BYTES: usize = STOP_STRING_BYTES + 4;

/// Why a text ended.
///
/// Example: [`Generation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum End {
    /// The model chose this token, which ends a text (one of
    /// [`Tokenizer::eos_ids`](Tokenizer::eos_ids)).
    Token(u32),
    /// The stop string with this index. It is not part of the text.
    StopString(usize),
    /// The text is complete by its [`grammar`](Generation::grammar), and nothing more may come.
    Complete,
    /// The text has as many tokens as [`limit`](Generation::limit) allows.
    Limit,
    /// The session has no room for another token.
    ContextFull,
}

/// What a call of [`Generation::step`] came to.
///
/// Example: [`Generation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Progress {
    /// The next token is not there yet.
    Pending,
    /// A token was added to the text.
    Token,
    /// The text has ended.
    Ended(End),
}

/// Text that a model generates after a prompt: feed, sample, decode, until the text ends.
///
/// [`next`](Generation::next) adds a token to the text. [`step`](Generation::step) does the same in
/// calls of bounded length. [`next_drafted`](Generation::next_drafted) adds several tokens at a
/// time where the text repeats itself. All three write the same text. Stop between any two calls to
/// cancel: the session then holds the prompt and the text so far, except for the
/// [`last`](Generation::last) token.
///
/// ```
/// use pocketlm::generate::{End, Generation};
/// use pocketlm::model::Model;
/// use pocketlm::run::{Plan, Session, Solo, StaticArena};
/// use pocketlm::sample::Sampler;
/// use pocketlm::text::{EncodeOptions, scratch_len};
///
/// const STORY: &[u8] = pocketlm::include_image!("../bin/pocketlm/story/story.plm");
/// const PLAN: Plan = Plan::of(STORY).context(128).batch(4);
/// static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();
///
/// let model = Model::open(STORY)?;
/// let tokenizer = model.tokenizer()?;
/// let mut session = Session::new(&model, &PLAN, ARENA.take().expect("taken once"), &Solo)?;
/// let mut sampler = Sampler::greedy();
///
/// let prompt = "Once upon a time";
/// let (mut ids, mut scratch) = ([0; 16], [0; scratch_len(16)]);
/// let count = tokenizer.encode(prompt, EncodeOptions::default(), &mut scratch, &mut ids)?;
///
/// let mut text = String::from(prompt);
/// let mut generation = Generation::new(&mut session, &mut sampler, &tokenizer, &ids[..count])
///     .stop_strings(&["."]);
/// let end = loop {
///     if let Some(end) = generation.next(|chunk| text.push_str(chunk))? {
///         break end;
///     }
/// };
/// assert_eq!(end, End::StopString(0));
/// assert_eq!(text, "Once upon a time, there was a little girl named Lily");
/// # Ok::<(), pocketlm::Error>(())
/// ```
pub struct Generation<'g, 'm, 'a, 's> {
    session: &'g mut Session<'m, 'a>,
    sampler: &'g mut Sampler<'s>,
    prompt: &'g [u32],
    phase: Phase,
    choice: Choice,
    filter: Option<&'g mut Filter<'g>>,
    /// How many tokens of the text were drafted.
    drafted: usize,
    text: Text<'g>,
}

/// See [`Generation::filter`].
type Filter<'f> = dyn FnMut(&mut [f32]) -> Result<(), Error> + 'f;

/// What a call of [`Generation::step`] does next.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Gives the session the prompt or the last token.
    Start,
    /// Computes logits.
    Compute,
    /// Chooses a token.
    Choose,
}

/// The text so far, and when it ends.
struct Text<'g> {
    tokenizer: Tokenizer<'g>,
    decoder: Decoder<'g>,
    #[cfg(feature = "grammar")]
    grammar: Option<Constraint<'g>>,
    stop_strings: &'g [&'g str],
    limit: usize,
    /// How many tokens the text has.
    tokens: usize,
    /// The last of them. The session has seen it only while the next is being chosen.
    last: Option<u32>,
    /// The end of the text as far as it may become a stop string.
    held: String<HELD_BYTES>,
    end: Option<End>,
}

impl<'g, 'm, 'a, 's> Generation<'g, 'm, 'a, 's> {
    /// A text after `prompt`, which follows what the session holds. Special tokens such as
    /// `<|im_end|>` are left out of the text.
    pub fn new(
        session: &'g mut Session<'m, 'a>,
        sampler: &'g mut Sampler<'s>,
        tokenizer: &Tokenizer<'g>,
        prompt: &'g [u32],
    ) -> Self {
        let mut decoder = Decoder::new(tokenizer).skip_special(true);
        for &id in session.tokens().iter().chain(prompt) {
            // The decoder has to know what comes before the text. It refuses ids without a token,
            // which spell nothing.
            _ = decoder.push(id);
        }
        Generation {
            session,
            sampler,
            prompt,
            phase: Phase::Start,
            choice: Choice::new(),
            filter: None,
            drafted: 0,
            text: Text {
                tokenizer: *tokenizer,
                decoder,
                #[cfg(feature = "grammar")]
                grammar: None,
                stop_strings: &[],
                limit: usize::MAX,
                tokens: 0,
                last: None,
                held: String::new(),
                end: None,
            },
        }
    }

    /// Ends the text after `tokens` tokens. Without a limit it ends when the context is full. With
    /// 0 the prompt is computed, and nothing written.
    pub fn limit(mut self, tokens: usize) -> Self {
        self.text.limit = tokens;
        self
    }

    /// Ends the text where it would contain one of these strings. Text that may be the beginning of
    /// one is held back until the next tokens decide. Empty strings, and strings longer than
    /// [`STOP_STRING_BYTES`], are ignored.
    pub fn stop_strings(mut self, strings: &'g [&'g str]) -> Self {
        self.text.stop_strings = strings;
        self
    }

    /// Calls `filter` with the logits of each token, `[vocab_size]`, before one is sampled: to
    /// forbid tokens (a logit of −∞), or to look at the logits. If it returns an error, so does the
    /// call; the next call then samples from the unfiltered logits.
    pub fn filter(
        mut self,
        filter: &'g mut (dyn FnMut(&mut [f32]) -> Result<(), Error> + 'g),
    ) -> Self {
        self.filter = Some(filter);
        self
    }

    /// The text obeys a grammar from `constraint` on. Tokens that may not come are not sampled, and
    /// the text ends when nothing more may come ([`End::Complete`]). Where only one text is
    /// possible, [`next_drafted`](Generation::next_drafted) computes its tokens together.
    #[cfg(feature = "grammar")]
    pub fn grammar(mut self, constraint: Constraint<'g>) -> Self {
        self.text.grammar = Some(constraint);
        self
    }

    /// Makes special tokens a part of the text, which are left out otherwise: for calls of tools,
    /// see [`Call`](crate::text::Call).
    pub fn keep_special(mut self) -> Self {
        self.text.decoder = self.text.decoder.clone().skip_special(false);
        self
    }

    /// Where the text is in its grammar: to go on later, or to keep beside a snapshot.
    #[cfg(feature = "grammar")]
    pub fn constraint(&self) -> Option<Constraint<'g>> {
        self.text.grammar
    }

    /// How many tokens the text has so far.
    pub fn token_count(&self) -> usize {
        self.text.tokens
    }

    /// How many of them were drafted by [`next_drafted`](Generation::next_drafted).
    pub fn drafted(&self) -> usize {
        self.drafted
    }

    /// The token that was sampled last, which the session has not seen: to go on after a cancelled
    /// text, begin the next prompt with it. It is not part of the text if it ended the text, or if
    /// the limit is 0. `None` if no token was sampled, or if the session has computed the last one
    /// and the next is being chosen, as between some calls of [`step`](Generation::step).
    pub fn last(&self) -> Option<u32> {
        match self.phase {
            Phase::Start | Phase::Compute => self.text.last,
            Phase::Choose => None,
        }
    }

    /// The end of the text that was not written yet, because it may begin a stop string. It belongs
    /// to a text that is cancelled here.
    pub fn held_back(&self) -> &str {
        if self.text.end.is_some() {
            return "";
        }
        &self.text.held
    }

    /// Why the text ended; `None` while it goes on.
    pub fn end(&self) -> Option<End> {
        self.text.end
    }

    /// Adds the next token, and hands the text that it completes to `write`. Returns why the text
    /// ended, or `None` if it goes on.
    ///
    /// # Errors
    ///
    /// Those of [`Session::start`], [`Session::step`] and [`Sampler::sample`]. Nothing is lost: the
    /// next call goes on from there.
    pub fn next(&mut self, mut write: impl FnMut(&str)) -> Result<Option<End>, Error> {
        loop {
            match self.advance(u32::MAX, &mut write)? {
                Progress::Pending => {}
                Progress::Token => return Ok(None),
                Progress::Ended(end) => return Ok(Some(end)),
            }
        }
    }

    /// [`next`](Generation::next) in calls whose work costs about `budget`: see
    /// [`Session::step`] and [`Sampler::step`].
    ///
    /// # Errors
    ///
    /// Those of [`next`](Generation::next).
    pub fn step(&mut self, budget: u32, mut write: impl FnMut(&str)) -> Result<Progress, Error> {
        self.advance(budget, &mut write)
    }

    /// [`step`](Generation::step), compiled once.
    #[inline(never)]
    fn advance(&mut self, budget: u32, write: &mut dyn FnMut(&str)) -> Result<Progress, Error> {
        match self.phase {
            Phase::Start => {
                if let Some(end) = self.end_if_full(write) {
                    return Ok(Progress::Ended(end));
                }
                match self.text.last {
                    Some(last) => self.session.start(&[last])?,
                    None => {
                        self.session.start(self.prompt)?;
                        for &id in self.prompt {
                            self.sampler.accept(id);
                        }
                    }
                }
                self.phase = Phase::Compute;
            }
            Phase::Compute => {
                if let Step::Done(logits) = self.session.step(budget)? {
                    self.choice = Choice::new();
                    self.phase = Phase::Choose;
                    if let Some(filter) = &mut self.filter {
                        filter(logits)?;
                    }
                }
            }
            Phase::Choose => {
                let logits = self.session.logits().unwrap_or_default();
                let chosen = self
                    .text
                    .choose(self.sampler, &mut self.choice, logits, budget)?;
                if let Some(id) = chosen {
                    self.phase = Phase::Start;
                    self.text.push(id, write)?;
                    return Ok(self.text.end.map_or(Progress::Token, Progress::Ended));
                }
            }
        }
        Ok(Progress::Pending)
    }

    /// Adds the next tokens, as many as one pass over the weights gives: one, and those that
    /// `lookup` drafted rightly. `drafts` is room for the token before them and the drafts; 8 is a
    /// good length. The plan must have room for as many [`logits`](crate::run::Plan::logits), and a
    /// [`batch`](crate::run::Plan::batch) as long, or there will be shorter drafts or none. Returns
    /// as [`next`](Generation::next) does.
    ///
    /// # Errors
    ///
    /// Those of [`next`](Generation::next).
    pub fn next_drafted(
        &mut self,
        lookup: &mut PromptLookup,
        drafts: &mut [u32],
        mut write: impl FnMut(&str),
    ) -> Result<Option<End>, Error> {
        let (Phase::Start, Some(last)) = (self.phase, self.text.last) else {
            return self.next(write);
        };
        if let Some(end) = self.end_if_full(&mut write) {
            return Ok(Some(end));
        }
        let plan = self.session.plan();
        let room = self.session.capacity() - self.session.len();
        let most = (plan.logits_tokens().min(plan.batch_tokens()) as usize)
            .min(drafts.len())
            .min(room)
            .min(self.text.limit - self.text.tokens);
        let drafts = drafts.get_mut(..most).unwrap_or_default();
        #[cfg(feature = "grammar")]
        let forced = self.text.forced(last, drafts);
        #[cfg(not(feature = "grammar"))]
        let forced = 0;
        let count = match forced {
            0 => lookup.draft(self.session.tokens(), last, drafts),
            _ => 1 + forced,
        };
        let ids = drafts.get(..count).unwrap_or_default();
        if ids.is_empty() {
            return self.next(write);
        }
        let sampler = &mut *self.sampler;
        let filter = &mut self.filter;
        let text = &mut self.text;
        let mut next = last;
        let right = self.session.feed_drafts(ids, |logits| {
            if let Some(filter) = filter {
                filter(logits)?;
            }
            next = text.choose_at_once(sampler, logits)?;
            text.push(next, &mut write)?;
            // After the end of the text no draft is right, so nothing more is sampled.
            Ok(if text.end.is_none() { next } else { u32::MAX })
        })?;
        if forced == 0 {
            lookup.learn(right, next);
        }
        self.drafted += right;
        Ok(self.text.end)
    }

    /// Ends the text if it can have no further token. Returns why it ended.
    #[cfg_attr(target_os = "none", inline(never))]
    fn end_if_full(&mut self, write: &mut dyn FnMut(&str)) -> Option<End> {
        let full = self.session.len() >= self.session.capacity();
        if self.text.end.is_none() && self.text.last.is_some() {
            if self.text.tokens >= self.text.limit {
                self.text.finish(End::Limit, write);
            } else if full {
                self.text.finish(End::ContextFull, write);
            }
        }
        self.text.end
    }
}

impl Text<'_> {
    /// Chooses a token. `None` if the budget is used up before.
    fn choose(
        &self,
        sampler: &mut Sampler<'_>,
        choice: &mut Choice,
        logits: &mut [f32],
        budget: u32,
    ) -> Result<Option<u32>, Error> {
        #[cfg(feature = "grammar")]
        if let Some(grammar) = &self.grammar {
            return sampler.step_constrained(choice, grammar, logits, budget);
        }
        sampler.step(choice, logits, budget)
    }

    /// [`choose`](Text::choose), however long it takes.
    fn choose_at_once(&self, sampler: &mut Sampler<'_>, logits: &mut [f32]) -> Result<u32, Error> {
        let mut choice = Choice::new();
        loop {
            if let Some(id) = self.choose(sampler, &mut choice, logits, u32::MAX)? {
                return Ok(id);
            }
        }
    }

    /// Puts `last`, and the tokens that must come after it, into `drafts`. Returns how many must
    /// come.
    #[cfg(feature = "grammar")]
    fn forced(&self, last: u32, drafts: &mut [u32]) -> usize {
        match (&self.grammar, drafts) {
            (Some(grammar), [first, forced @ ..]) => {
                *first = last;
                grammar.forced(forced)
            }
            _ => 0,
        }
    }

    /// Moves on in the grammar, which may end the text.
    #[cfg(feature = "grammar")]
    fn obey(&mut self, id: u32, write: &mut dyn FnMut(&str)) {
        if self.end.is_none()
            && let Some(grammar) = &mut self.grammar
        {
            grammar.accept(id);
            if grammar.is_at_end() {
                self.finish(End::Complete, write);
            }
        }
    }

    /// Adds a token to the text.
    #[cfg_attr(target_os = "none", inline(never))]
    fn push(&mut self, id: u32, write: &mut dyn FnMut(&str)) -> Result<(), Error> {
        self.last = Some(id);
        if self.tokenizer.is_eos(id) {
            self.finish(End::Token(id), write);
            return Ok(());
        }
        if self.tokens >= self.limit {
            self.finish(End::Limit, write);
            return Ok(());
        }
        self.tokens += 1;
        // The matrix of a model may have more rows than its tokenizer has tokens. They spell
        // nothing.
        if id < self.tokenizer.vocab_size() {
            self.decoder
                .push(id)?
                .chunks(|chunk| self.put(chunk, write));
        }
        #[cfg(feature = "grammar")]
        self.obey(id, write);
        Ok(())
    }

    /// Ends the text, with what was held back.
    #[cfg_attr(target_os = "none", inline(never))]
    fn finish(&mut self, end: End, write: &mut dyn FnMut(&str)) {
        self.decoder.finish().chunks(|chunk| self.put(chunk, write));
        if self.end.is_none() {
            self.end = Some(end);
            write(&self.held);
        }
    }

    /// Writes text as far as no stop string can begin in it.
    #[cfg_attr(target_os = "none", inline(never))]
    fn put(&mut self, text: &str, write: &mut dyn FnMut(&str)) {
        if self.stop_strings.is_empty() {
            write(text);
            return;
        }
        for character in text.chars() {
            if self.end.is_some() {
                return;
            }
            self.put_character(character, write);
        }
    }

    #[cfg_attr(target_os = "none", inline(never))]
    fn put_character(&mut self, character: char, write: &mut dyn FnMut(&str)) {
        // There is room: what is held is shorter than a stop string and begins one.
        _ = self.held.push(character);
        let stops = self.stop_strings.iter().enumerate();
        for (index, stop) in stops.filter(|(_, stop)| is_possible(stop)) {
            if let Some(before) = self.held.strip_suffix(stop) {
                write(before);
                self.end = Some(End::StopString(index));
                return;
            }
        }
        let begins = |text: &str| {
            let mut stops = self.stop_strings.iter().filter(|stop| is_possible(stop));
            stops.any(|stop| stop.starts_with(text))
        };
        let places = self.held.char_indices().map(|(place, _)| place);
        let keep = places
            .chain([self.held.len()])
            .find(|&place| self.held.get(place..).is_some_and(begins))
            .unwrap_or(self.held.len());
        let (done, kept) = self.held.split_at_checked(keep).unwrap_or_default();
        if !done.is_empty() {
            write(done);
            let kept = String::try_from(kept).unwrap_or_default();
            self.held = kept;
        }
    }
}

/// Whether a stop string can occur.
fn is_possible(stop: &str) -> bool {
    (1..=STOP_STRING_BYTES).contains(&stop.len())
}
