//! [`Lookup`]: guesses at what comes next, from what a text has said before.

/// Guesses tokens where a text repeats itself: what followed its last few tokens when they stood in
/// it before (prompt lookup decoding, A. Saxena 2023,
/// <https://github.com/apoorvumang/prompt-lookup-decoding>).
///
/// Guesses are fed together with the token that is known, which takes little longer than that token
/// alone as long as reading weights is what takes the time, and the logits of each say whether the
/// next was right. What is sampled from them is what it would have been without: **the text is the
/// same, token for token**, whatever the sampler. Guesses that were wrong are taken back.
///
/// How many are ventured follows from how many came true. As long as fewer than half of the last
/// eight guesses began rightly they are compared and not computed, so a text that does not repeat
/// itself loses next to nothing.
///
/// ```
/// use pocketlm::{include_image, model::Model, run::{Plan, Session, Solo, StaticArena}, text::{Lookup, Sampler}};
///
/// const STORY: &[u8] = include_image!("../bin/pocketlm/story/story.plm");
/// // A batch of as many tokens can be taken back, and there is room for the logits of each.
/// const TOGETHER: usize = 4;
/// const PLAN: Plan = Plan::of(STORY).context(128).batch(TOGETHER as u32).logits(TOGETHER as u32);
/// static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();
///
/// let model = Model::open(STORY)?;
/// let mut session = Session::new(&model, &PLAN, ARENA.take().expect("taken once"), &Solo)?;
/// let mut sampler = Sampler::greedy();
/// let mut lookup = Lookup::new();
/// let mut next = sampler.sample(session.feed(&[2, 17, 40, 5, 17, 40])?)?;
/// while session.len() < session.context() {
///     let mut ids = [0; TOGETHER];
///     let room = TOGETHER.min(session.context() - session.len());
///     let count = lookup.draft(session.tokens(), next, &mut ids[..room]);
///     let right = session.feed_guesses(&ids[..count], |logits| {
///         next = sampler.sample(logits)?;
///         // The text goes on with `next`.
///         Ok(next)
///     })?;
///     lookup.learn(right, next);
/// }
/// # Ok::<(), pocketlm::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Lookup {
    /// How many tokens are ventured.
    trust: usize,
    /// Of the last eight guesses, whether they began rightly: a bit each. Half of them to begin
    /// with, so that guesses are ventured until a second one is wrong.
    began: u8,
    /// What the last guess begins with.
    first: Option<u32>,
    /// How many tokens of it were ventured.
    ventured: usize,
}

/// The fewest tokens at the end of the text, `next` among them, that must have stood in it before.
const SHORTEST: usize = 2;
/// The most that are compared.
const LONGEST: usize = 16;

impl Default for Lookup {
    fn default() -> Self {
        Lookup::new()
    }
}

impl Lookup {
    /// Knows nothing of any text.
    pub const fn new() -> Self {
        Lookup {
            trust: 1,
            began: 0b0101_0101,
            first: None,
            ventured: 0,
        }
    }

    /// Fills `ids` with what is to be fed together after `tokens`: `next`, and then guesses, as
    /// many as `ids` has room for at most. Returns how many ids that are.
    ///
    /// The longest stretch at the end of the text that stood in it before is what counts, the last
    /// place where it did if there are several.
    pub fn draft(&mut self, tokens: &[u32], next: u32, ids: &mut [u32]) -> usize {
        (self.first, self.ventured) = (None, 0);
        let Some((known, guesses)) = ids.split_first_mut() else {
            return 0;
        };
        *known = next;
        if guesses.is_empty() {
            return 1;
        }
        let Some(after) = repetition(tokens, next) else {
            return 1;
        };
        // Past the end of the text goes on what was guessed to stand there.
        let mut text = tokens.iter().skip(after).copied().chain([next]);
        self.first = text.clone().next();
        if self.began.count_ones() < u8::BITS / 2 {
            return 1;
        }
        let period = tokens.len() + 1 - after;
        for index in 0..guesses.len().min(self.trust) {
            let id = text
                .next()
                .or_else(|| guesses.get(index.checked_sub(period)?).copied());
            if let (Some(guess), Some(id)) = (guesses.get_mut(index), id) {
                *guess = id;
                self.ventured += 1;
            }
        }
        1 + self.ventured
    }

    /// Says what came of the last [`draft`](Lookup::draft): how many guesses were right, and the
    /// token that followed those.
    pub fn learn(&mut self, right: usize, next: u32) {
        let Some(first) = self.first.take() else {
            return;
        };
        self.began = self.began << 1 | u8::from(right > 0 || next == first);
        if self.ventured > 0 {
            // After all of them 3, 7 and so on, with the one known a power of two.
            let more = if right < self.ventured {
                right
            } else {
                self.trust.saturating_mul(2)
            };
            self.trust = more.saturating_add(1);
        }
    }
}

/// Where in `tokens` stands what followed the longest stretch that the text, `tokens` and `next`,
/// ends with too.
fn repetition(tokens: &[u32], next: u32) -> Option<usize> {
    let mut longest = (SHORTEST, None);
    for (index, _) in tokens.iter().enumerate().filter(|(_, id)| **id == next) {
        let before = tokens.get(..index)?.iter().rev().zip(tokens.iter().rev());
        let same = 1 + before.take(LONGEST - 1).take_while(|(a, b)| a == b).count();
        if same >= longest.0 {
            longest = (same, Some(index + 1));
        }
    }
    longest.1
}
