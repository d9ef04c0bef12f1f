//! Sessions: any sequence of calls, and any snapshot.

use pocketlm::Error;
use pocketlm::host::AlignedBytes;
use pocketlm::model::{Kv, Model};
use pocketlm::run::{Plan, Session, Solo, Step};

use super::bytes::Bytes;
use super::image::images;

const CONTEXT: usize = 24;

fn bits(logits: &[f32]) -> Vec<u32> {
    logits
        .iter()
        .map(|z| {
            if z.is_nan() {
                f32::NAN.to_bits()
            } else {
                z.to_bits()
            }
        })
        .collect()
}

/// Tokens that a session should hold, with their positions, and the position after them.
#[derive(Clone, Default)]
struct Expected {
    tokens: Vec<(u32, u32)>,
    next: u32,
}

impl Expected {
    fn add(&mut self, ids: &[u32]) {
        self.tokens.extend(ids.iter().copied().zip(self.next..));
        self.next += ids.len() as u32;
    }

    /// The logits after one more token, in a session that knows no history.
    fn logits(&self, model: &Model<'_>, kv: Kv, id: u32) -> Vec<u32> {
        let plan = Plan::new(model.header()).context(CONTEXT as u32).kv(kv);
        let mut arena = AlignedBytes::zeroed(plan.bytes());
        let mut session = Session::new(model, &plan, &mut arena, &Solo).unwrap();
        for &(id, position) in &self.tokens {
            session.skip_to(position).unwrap();
            session.feed(&[id]).unwrap();
        }
        session.skip_to(self.next).unwrap();
        bits(session.feed(&[id]).unwrap())
    }
}

/// Calls, a few bytes each, whose answers must be those the docs promise. In the end the logits of
/// one more token are those of a session that was fed the same tokens one by one.
pub fn steps(data: &[u8]) {
    let mut choices = Bytes(data);
    let images = images();
    let model = Model::open(&images[choices.below(images.len())]).unwrap();
    let vocab = model.config().vocab_size;
    let kv = Kv::ALL[choices.below(4)];
    let batch = 1 + choices.below(9) as u32;
    let plan = Plan::new(model.header())
        .context(CONTEXT as u32)
        .batch(batch)
        .kv(kv);
    let mut arena = AlignedBytes::zeroed(plan.bytes());
    arena.fill(0xff);
    let mut session = Session::new(&model, &plan, &mut arena, &Solo).unwrap();
    let mut expected = Expected::default();
    let mut busy = false;
    let mut saved: Option<(Vec<u8>, Expected)> = None;
    while !choices.is_empty() {
        match choices.below(9) {
            0 | 1 => {
                let ids: Vec<u32> = (0..choices.below(8))
                    .map(|_| choices.byte() as u32 % (vocab + 1))
                    .collect();
                let room = CONTEXT - expected.tokens.len();
                let fine = !busy
                    && !ids.is_empty()
                    && ids.iter().all(|&id| id < vocab)
                    && ids.len() <= room;
                let after = expected.next.checked_add(ids.len() as u32);
                assert_eq!(session.start(&ids).is_ok(), fine && after.is_some());
                if fine && after.is_some() {
                    expected.add(&ids);
                    busy = true;
                }
            }
            2 | 3 => match session.step(choices.word() % 4096) {
                Ok(Step::Done(logits)) => {
                    assert!(busy && logits.len() == vocab as usize);
                    busy = false;
                }
                Ok(Step::Pending) => assert!(busy),
                Err(error) => assert!(!busy && error == Error::NoTokens),
            },
            4 => {
                let count = choices.below(CONTEXT + 2);
                let possible = session.rewindable();
                match session.rewind(count) {
                    Ok(()) => {
                        assert!(!busy && count <= expected.tokens.len());
                        expected.tokens.truncate(expected.tokens.len() - count);
                        if count > 0 {
                            expected.next = expected
                                .tokens
                                .last()
                                .map_or(0, |&(_, position)| position + 1);
                        }
                    }
                    Err(Error::Busy) => assert!(busy),
                    Err(error) => assert!(
                        error == Error::RewindTooFar { possible } && count > possible as usize
                    ),
                }
            }
            5 => {
                let position = match choices.byte() {
                    255 => choices.word(),
                    gap => expected.next.saturating_add(gap as u32 % 16),
                };
                let fine = !busy && position >= expected.next;
                assert_eq!(session.skip_to(position).is_ok(), fine);
                if fine {
                    expected.next = position;
                }
            }
            6 => {
                session.reset();
                (expected, busy) = (Expected::default(), false);
            }
            7 => {
                let mut snapshot = Vec::new();
                let done = session.save(&mut |bytes| {
                    snapshot.extend(bytes);
                    Ok(())
                });
                assert_eq!(done.is_ok(), !busy);
                if !busy {
                    saved = Some((snapshot, expected.clone()));
                }
            }
            _ => {
                if let Some((snapshot, then)) = &saved {
                    session.restore_from(snapshot).unwrap();
                    (expected, busy) = (then.clone(), false);
                }
            }
        }
        if !busy {
            assert!(
                session
                    .tokens()
                    .iter()
                    .eq(expected.tokens.iter().map(|(id, _)| id))
            );
            assert_eq!(session.position(), expected.next);
        }
    }
    while busy {
        busy = matches!(session.step(100).unwrap(), Step::Pending);
    }
    if expected.tokens.len() == CONTEXT || expected.next == u32::MAX {
        return;
    }
    let id = expected.next % vocab;
    assert_eq!(
        bits(session.feed(&[id]).unwrap()),
        expected.logits(&model, kv, id)
    );
}

/// The first byte chooses an image, the second the type of keys and values; the rest is a snapshot.
pub fn snapshot(data: &[u8]) {
    let mut choices = Bytes(data);
    let images = images();
    let model = Model::open(&images[choices.below(images.len())]).unwrap();
    let plan = Plan::new(model.header())
        .context(CONTEXT as u32)
        .batch(2)
        .kv(Kv::ALL[choices.below(4)]);
    let mut arena = AlignedBytes::zeroed(plan.bytes());
    arena.fill(0xff);
    let mut session = Session::new(&model, &plan, &mut arena, &Solo).unwrap();
    let mut snapshot = choices.0.to_vec();
    for repaired in [false, true] {
        if repaired {
            repair(&mut snapshot, model.checksum());
        }
        session.reset();
        if session.restore_from(&snapshot).is_ok() {
            assert!(
                session
                    .tokens()
                    .iter()
                    .all(|&id| id < model.config().vocab_size)
            );
            let _ = session.rewind(session.len() / 2);
            for id in [0, 1, 0] {
                let _ = session.feed(&[id]);
            }
            let _ = session.rewind(1);
            session.save(&mut |_| Ok(())).unwrap();
        }
    }
}

/// Makes the checksums of a snapshot right, and has it be for this image and as long as it says.
fn repair(snapshot: &mut [u8], image: u32) {
    let length = snapshot.len();
    if length < 44 {
        return;
    }
    snapshot[12..16].copy_from_slice(&image.to_le_bytes());
    snapshot[28..36].copy_from_slice(&(length as u64).to_le_bytes());
    let checksum = crc32fast::hash(&snapshot[..36]);
    snapshot[36..40].copy_from_slice(&checksum.to_le_bytes());
    let checksum = crc32fast::hash(&snapshot[..length - 4]);
    snapshot[length - 4..].copy_from_slice(&checksum.to_le_bytes());
}
