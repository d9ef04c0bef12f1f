//! [`PromptLookup`]: drafts the next tokens from earlier text.

/// Drafts tokens by prompt lookup: it finds the last few tokens earlier in the text and drafts what
/// followed them there (prompt lookup decoding, A. Saxena 2023,
/// <https://github.com/apoorvumang/prompt-lookup-decoding>).
///
/// The drafted tokens are fed together with the next token. Where reading the weights is what takes
/// time, that takes little longer than the next token alone. The logits of each token say whether
/// the draft after it was right. Tokens are sampled from the same logits as without drafts, so
/// **the text is the same, token for token**, whatever the sampler. Wrong drafts are taken back.
///
/// The length of a draft adapts to the acceptance rate. While fewer than half of the last eight
/// drafts had a correct first token, drafts are only compared with the output, not evaluated. So a
/// text without repetitions loses next to nothing.
///
/// ```
/// use pocketlm::generate::PromptLookup;
/// use pocketlm::model::Model;
/// use pocketlm::run::{Plan, Session, Solo, StaticArena};
/// use pocketlm::sample::Sampler;
///
/// const STORY: &[u8] = pocketlm::include_image!("../bin/pocketlm/story/story.plm");
/// // Tokens of the last batch can be taken back, and there is room for the logits of each.
/// const TOGETHER: usize = 4;
/// const PLAN: Plan = Plan::of(STORY).context(128).batch(TOGETHER as u32).logits(TOGETHER as u32);
/// static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();
///
/// let model = Model::open(STORY)?;
/// let mut session = Session::new(&model, &PLAN, ARENA.take().expect("taken once"), &Solo)?;
/// let mut sampler = Sampler::greedy();
/// let mut lookup = PromptLookup::new();
/// let mut next = sampler.sample(session.feed(&[2, 17, 40, 5, 17, 40])?)?;
/// while session.len() < session.capacity() {
///     let mut ids = [0; TOGETHER];
///     let room = TOGETHER.min(session.capacity() - session.len());
///     let count = lookup.draft(session.tokens(), next, &mut ids[..room]);
///     let right = session.feed_drafts(&ids[..count], |logits| {
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
pub struct PromptLookup {
    /// The most tokens that the next draft may have.
    length: usize,
    /// For each of the last eight drafts, a bit: whether its first token was right. Starts with
    /// half of them set, so that drafts are evaluated until a second one is wrong.
    right: u8,
    /// The first token of the last draft.
    first: Option<u32>,
    /// How many tokens of it are evaluated.
    drafted: usize,
}

/// The fewest tokens at the end of the text, `next` included, that must occur earlier.
const SHORTEST: usize = 2;
/// The most that are compared.
const LONGEST: usize = 16;

impl Default for PromptLookup {
    fn default() -> Self {
        PromptLookup::new()
    }
}

impl PromptLookup {
    /// For the start of a text.
    pub const fn new() -> Self {
        PromptLookup {
            length: 1,
            right: 0b0101_0101,
            first: None,
            drafted: 0,
        }
    }

    /// Fills `ids` with what to feed together after `tokens`: `next`, then drafted tokens, at most
    /// as many as `ids` has room for. Returns how many ids these are.
    ///
    /// The draft is what followed the longest earlier copy of the end of the text; of several
    /// copies of the same length, the last one.
    pub fn draft(&mut self, tokens: &[u32], next: u32, ids: &mut [u32]) -> usize {
        self.first = None;
        self.drafted = 0;
        let Some((known, drafts)) = ids.split_first_mut() else {
            return 0;
        };
        *known = next;
        if drafts.is_empty() {
            return 1;
        }
        let Some(after) = repetition(tokens, next) else {
            return 1;
        };
        // Where the copy reaches the end of the text, it goes on with the draft itself.
        let mut text = tokens.iter().skip(after).copied().chain([next]);
        self.first = text.clone().next();
        if self.right.count_ones() < u8::BITS / 2 {
            return 1;
        }
        let period = tokens.len() + 1 - after;
        for index in 0..drafts.len().min(self.length) {
            let id = text
                .next()
                .or_else(|| drafts.get(index.checked_sub(period)?).copied());
            if let (Some(draft), Some(id)) = (drafts.get_mut(index), id) {
                *draft = id;
                self.drafted += 1;
            }
        }
        1 + self.drafted
    }

    /// Reports the result of the last [`draft`](PromptLookup::draft): how many drafted tokens were
    /// right, and the token that was sampled after those.
    pub fn learn(&mut self, right: usize, next: u32) {
        let Some(first) = self.first.take() else {
            return;
        };
        self.right = self.right << 1 | u8::from(right > 0 || next == first);
        if self.drafted > 0 {
            // If all were right, 3, 7 and so on: with the known token a power of two.
            let more = if right < self.drafted {
                right
            } else {
                self.length.saturating_mul(2)
            };
            self.length = more.saturating_add(1);
        }
    }
}

/// The index in `tokens` after the longest earlier copy of the end of the text, which is `tokens`
/// and `next`.
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
