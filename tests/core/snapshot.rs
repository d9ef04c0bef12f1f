//! A restored context is, bit for bit, the one that was saved, in whatever session it is restored;
//! and what is no snapshot of this model is refused.

use crate::common::bits;
use crate::common::random::{self, Memory, Numbers, window};
use crate::common::session::{arena_for, dirty, session_in};
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};
use pocketlm::Error;
use pocketlm::host::AlignedBytes;
use pocketlm::model::{DType, Kv, Model, Rope};
use pocketlm::run::{Plan, Session, Snapshots, Solo};

fn save(session: &Session<'_, '_>) -> Vec<u8> {
    let mut snapshot = Vec::new();
    let mut keep = |bytes: &[u8]| {
        snapshot.extend_from_slice(bytes);
        Ok(())
    };
    session.save(&mut keep).unwrap();
    snapshot
}

/// A session in which these tokens were fed one by one, each at its position.
fn fed<'m, 'a>(
    model: &Model<'m>,
    kv: Kv,
    context: &[(u32, u32)],
    next: u32,
    arena: &'a mut AlignedBytes,
) -> Session<'m, 'a> {
    let plan = Plan::new(model.header())
        .context(context.len() as u32 + 8)
        .kv(kv);
    *arena = arena_for(&plan);
    let mut session = Session::new(model, &plan, arena, &Solo).unwrap();
    for &(id, position) in context {
        session.skip_to(position).unwrap();
        session.feed(&[id]).unwrap();
    }
    session.skip_to(next).unwrap();
    session
}

#[test]
fn a_restored_context_continues_with_the_same_bits() {
    let mut rewound = 0;
    let mut shortened = 0;
    for seed in 0..120 {
        let numbers = &mut Numbers::new(seed);
        let description = random::any(numbers);
        let vocab_size = description.config.vocab_size;
        let image = Memory::new(description, seed).pack(numbers.pick(&DType::ALL));
        let model = Model::open(&image).unwrap();
        let kv = numbers.pick(&Kv::ALL);
        let plan = Plan::new(model.header())
            .context(numbers.within(60..=90))
            .batch(numbers.within(1..=9))
            .kv(kv);
        let mut arena = arena_for(&plan);
        let mut session = session_in(&model, &plan, &mut arena);

        // A context with gaps, in part taken back.
        let mut context: Vec<(u32, u32)> = Vec::new();
        for _ in 0..numbers.within(0..=6) {
            let count = numbers.within(1..=9) as usize;
            for id in numbers.tokens(count, vocab_size) {
                context.push((
                    id,
                    session.position() + (context.len() - session.len()) as u32,
                ));
            }
            let new = context[session.len()..]
                .iter()
                .map(|token| token.0)
                .collect::<Vec<_>>();
            session.feed(&new).unwrap();
            match numbers.within(0..=3) {
                0 => session
                    .skip_to(session.position() + numbers.within(0..=9))
                    .unwrap(),
                1 => {
                    let back = numbers.within(0..=session.rewindable().min(5)) as usize;
                    session.rewind(back).unwrap();
                    context.truncate(context.len() - back);
                }
                _ => {}
            }
        }
        let place = format!("seed {seed}, {} tokens", context.len());
        let next = session.position();
        let snapshot = save(&session);
        assert!(
            snapshot.len() <= plan.snapshot_bytes(session.len() as u32),
            "{place}"
        );
        let mut memory = dirty(0xff, 0);
        assert!(
            save(&fed(&model, kv, &context, next, &mut memory)) == snapshot,
            "{place}: not fed the same way"
        );

        // With just enough context, another batch, and a past of its own.
        let plan = Plan::new(model.header())
            .context(context.len() as u32 + 8)
            .batch(numbers.within(1..=4))
            .kv(kv);
        let mut arena = arena_for(&plan);
        let mut restored = session_in(&model, &plan, &mut arena);
        restored.feed(&numbers.tokens(5, vocab_size)).unwrap();
        restored.restore_from(&snapshot).unwrap();
        assert_eq!(
            (restored.len(), restored.position()),
            (context.len(), next),
            "{place}"
        );
        assert_eq!(restored.tokens(), session.tokens(), "{place}");
        assert!(save(&restored) == snapshot, "{place}: saved again");
        shortened += usize::from(restored.rewindable() < session.rewindable());

        for _ in 0..3 {
            let ids = numbers.tokens(2, vocab_size);
            for id in ids {
                let position = restored.position();
                let expected = bits(
                    fed(&model, kv, &context, position, &mut memory)
                        .feed(&[id])
                        .unwrap(),
                );
                assert!(
                    bits(restored.feed(&[id]).unwrap()) == expected,
                    "{place}: after {} tokens",
                    context.len()
                );
                context.push((id, position));
            }
            // As far back as it goes: no key is there that was not restored, and none is missing.
            let back = numbers.within(0..=restored.rewindable()) as usize;
            restored.rewind(back).unwrap();
            rewound += usize::from(context.len() - back < session.len());
            context.truncate(context.len() - back);
            let position = restored.position();
            let id = numbers.within(0..=vocab_size - 1);
            let expected = bits(
                fed(&model, kv, &context, position, &mut memory)
                    .feed(&[id])
                    .unwrap(),
            );
            assert!(
                bits(restored.feed(&[id]).unwrap()) == expected,
                "{place}: after a rewind by {back}"
            );
            restored
                .rewind(1)
                .unwrap_or_else(|_| context.push((id, position)));
        }
    }
    assert!(
        rewound > 50 && shortened > 10,
        "{rewound} rewinds before and {shortened} after a snapshot are too few to tell"
    );
}

/// A model with a window, and a snapshot of a few tokens.
fn example() -> (AlignedBytes, Vec<u8>) {
    let description = random::plain(vec![window(3, Rope::Global), window(0, Rope::Local)]);
    let image = Memory::new(description, 3).pack(DType::Q8);
    let model = Model::open(&image).unwrap();
    let plan = Plan::new(model.header()).context(16).batch(4).kv(Kv::Q8);
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    session.feed(&[3, 5, 8, 13, 21]).unwrap();
    let snapshot = save(&session);
    assert_eq!(snapshot.len(), plan.snapshot_bytes(5));
    (image, snapshot)
}

/// The same snapshot with `bytes` at `at`, and checksums to match.
fn forged(snapshot: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut forged = snapshot.to_vec();
    forged[at..at + bytes.len()].copy_from_slice(bytes);
    for end in [36, snapshot.len() - 4] {
        let crc = crc32fast::hash(&forged[..end]).to_le_bytes();
        forged[end..end + 4].copy_from_slice(&crc);
    }
    forged
}

#[test]
fn a_torn_or_damaged_snapshot_is_refused_and_the_session_still_works() {
    let (image, snapshot) = example();
    let model = Model::open(&image).unwrap();
    let plan = Plan::new(model.header()).context(16).kv(Kv::Q8);
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    let expected = bits(session.feed(&[7, 9]).unwrap());

    for end in 0..snapshot.len() {
        assert_eq!(
            session.restore_from(&snapshot[..end]),
            Err(Error::SnapshotDamaged),
            "cut at {end}"
        );
    }
    for bit in 0..8 * snapshot.len() {
        let mut flipped = snapshot.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = session.restore_from(&flipped).unwrap_err();
        match bit / 8 {
            0..8 => assert_eq!(error, Error::NotASnapshot),
            8..12 => assert!(matches!(error, Error::SnapshotVersion(_))),
            _ => assert_eq!(error, Error::SnapshotDamaged, "bit {bit}"),
        }
    }
    // The last of them had let the session go.
    assert!(session.is_empty());
    assert_eq!(bits(session.feed(&[7, 9]).unwrap()), expected);
    session.restore_from(&snapshot).unwrap();
    assert_eq!(session.tokens(), [3, 5, 8, 13, 21]);
}

#[test]
fn what_does_not_belong_here_is_refused_and_changes_nothing() {
    let (image, snapshot) = example();
    let model = Model::open(&image).unwrap();
    let session = |kv, context| {
        let plan = Plan::new(model.header()).context(context).kv(kv);
        let arena = Box::leak(Box::new(arena_for(&plan)));
        let mut session = Session::new(&model, &plan, arena, &Solo).unwrap();
        session.feed(&[1, 2]).unwrap();
        session
    };
    let refused = |mut session: Session<'_, '_>, snapshot: &[u8], error| {
        assert_eq!(session.restore_from(snapshot), Err(error));
        assert_eq!(session.tokens(), [1, 2]);
    };
    refused(
        session(Kv::F16, 16),
        &snapshot,
        Error::SnapshotKv(DType::Q8),
    );
    refused(
        session(Kv::Q8, 4),
        &snapshot,
        Error::ContextFull { room: 4 },
    );
    refused(
        session(Kv::Q8, 16),
        b"pocketlm is not what a snapshot starts with",
        Error::NotASnapshot,
    );
    refused(session(Kv::Q8, 16), &[0xff; 400], Error::NotASnapshot);
    refused(
        session(Kv::Q8, 16),
        &forged(&snapshot, 8, &[2]),
        Error::SnapshotVersion(2),
    );
    refused(
        session(Kv::Q8, 16),
        &forged(&snapshot, 12, &[0; 4]),
        Error::ForeignSnapshot,
    );

    let mut busy = session(Kv::Q8, 16);
    busy.start(&[4]).unwrap();
    assert_eq!(busy.save(&mut |_| Ok(())), Err(Error::Busy));
}

#[test]
fn a_forged_snapshot_cannot_bring_in_what_a_session_never_holds() {
    let (image, snapshot) = example();
    let model = Model::open(&image).unwrap();
    let plan = Plan::new(model.header()).context(16).kv(Kv::Q8);
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    session.restore_from(&forged(&snapshot, 40, &[9])).unwrap(); // another token is as good
    for (what, at, value) in [
        ("a token that the vocabulary lacks", 40, 43u32),
        ("more positions than were given", 24, 4),
        ("positions that do not rise", 60 + 4, 0),
        ("fewer tokens than there are", 20, 4),
        ("more tokens than there are", 20, 6),
        ("no length", 28, 0),
        (
            "a length without the last bytes",
            28,
            snapshot.len() as u32 - 1,
        ),
        ("a length with more bytes", 28, snapshot.len() as u32 + 1),
        ("a type of keys there is not", 16, 7),
    ] {
        let forged = forged(&snapshot, at, &value.to_le_bytes());
        assert_eq!(
            session.restore_from(&forged),
            Err(Error::SnapshotDamaged),
            "{what}"
        );
        session.feed(&[1]).unwrap();
    }
}

#[test]
fn what_the_storage_reports_is_what_the_caller_gets() {
    let (image, snapshot) = example();
    let model = Model::open(&image).unwrap();
    let plan = Plan::new(model.header()).context(16).kv(Kv::Q8);
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    let mut calls = 0;
    let mut second_fails = |_: &mut [u8]| {
        calls += 1;
        if calls == 2 {
            Err(Error::Storage)
        } else {
            Err(Error::NotASnapshot)
        }
    };
    assert_eq!(session.restore(&mut second_fails), Err(Error::NotASnapshot));
    assert_eq!(session.restore(&mut second_fails), Err(Error::Storage));
    session.restore_from(&snapshot).unwrap();
    let mut room = 100;
    let full = session.save(&mut |bytes| {
        room = usize::checked_sub(room, bytes.len()).ok_or(Error::Storage)?;
        Ok(())
    });
    assert_eq!(full, Err(Error::Storage));
}

/// NOR flash in memory, whose power can fail.
struct Chip {
    bytes: Vec<u8>,
    /// Whether a word was written since it was erased.
    written: Vec<bool>,
    /// Bytes that can still be erased or written before the power fails; what is under way then is
    /// lost in part.
    power: usize,
    noise: Numbers,
}

const READ: usize = 4;
const WRITE: usize = 8;
const ERASE: usize = 256;

impl Chip {
    fn new(bytes: usize) -> Self {
        Chip {
            bytes: vec![0xa5; bytes],
            written: vec![true; bytes],
            power: usize::MAX,
            noise: Numbers::new(1),
        }
    }

    /// What an operation on `unit` bytes at a time does: all, or with the power failing a part, and
    /// noise in one unit.
    fn change(&mut self, start: usize, new: &[u8], unit: usize) -> Result<(), NorFlashErrorKind> {
        for (index, new) in new.chunks(unit).enumerate() {
            let at = start + index * unit;
            if self.power < unit {
                if self.power > 0 {
                    self.bytes[at..at + unit]
                        .iter_mut()
                        .for_each(|byte| *byte = self.noise.bits() as u8);
                }
                self.power = 0;
                return Err(NorFlashErrorKind::Other);
            }
            self.power -= unit;
            self.bytes[at..at + unit].copy_from_slice(new);
        }
        Ok(())
    }
}

impl ErrorType for Chip {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Chip {
    const READ_SIZE: usize = READ;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Self::Error> {
        check_read(self, offset, bytes.len())?;
        bytes.copy_from_slice(&self.bytes[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl NorFlash for Chip {
    const WRITE_SIZE: usize = WRITE;
    const ERASE_SIZE: usize = ERASE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Self::Error> {
        check_erase(self, from, to)?;
        self.written[from as usize..to as usize].fill(false);
        self.change(from as usize, &vec![0xff; (to - from) as usize], ERASE)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Self::Error> {
        check_write(self, offset, bytes.len())?;
        let written = &mut self.written[offset as usize..][..bytes.len()];
        assert!(!written.contains(&true), "written twice");
        written.fill(true);
        self.change(offset as usize, bytes, WRITE)
    }
}

#[test]
fn the_power_may_fail_at_any_moment_of_a_save() {
    let (image, _) = example();
    let model = Model::open(&image).unwrap();
    let plan = Plan::new(model.header()).context(16).kv(Kv::Q8);
    let mut arena = arena_for(&plan);
    let mut other = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    let mut after = session_in(&model, &plan, &mut other);
    let half = (plan.snapshot_bytes(16) + 8).next_multiple_of(ERASE);
    let range = ERASE as u32..(ERASE + 2 * half) as u32;
    let mut store = Snapshots::new(Chip::new(2 * half + 2 * ERASE), range.clone()).unwrap();
    assert_eq!(store.restore(&mut after), Err(Error::NotASnapshot));

    let numbers = &mut Numbers::new(4);
    let mut last: Vec<u32> = Vec::new();
    let mut kept = 0;
    let mut replaced = 0;
    let cuts = 10_000;
    for cut in 0..cuts {
        session.reset();
        let count = numbers.within(1..=16) as usize;
        session.feed(&numbers.tokens(count, 43)).unwrap();
        let mut chip = store.into_inner();
        // Often enough at the very end, where a snapshot turns from torn to whole.
        let whole = session.len() * 300 + 600;
        chip.power = if cut % 2 == 0 {
            numbers.within(0..=2 * whole as u32) as usize
        } else {
            cut * 2 % (2 * whole)
        };
        store = Snapshots::new(chip, range.clone()).unwrap();
        let saved = store.save(&session);
        let mut chip = store.into_inner();
        chip.power = usize::MAX;
        assert!(
            chip.bytes[..ERASE]
                .iter()
                .chain(&chip.bytes[ERASE + 2 * half..])
                .all(|&byte| byte == 0xa5)
        );
        store = Snapshots::new(chip, range.clone()).unwrap();

        let restored = store.restore(&mut after);
        if saved.is_ok() {
            assert_eq!(
                (restored, after.tokens()),
                (Ok(()), session.tokens()),
                "cut {cut}"
            );
        }
        match restored {
            Ok(()) if after.tokens() == session.tokens() => replaced += 1,
            Ok(()) => {
                assert_eq!(after.tokens(), last, "cut {cut}");
                kept += 1;
            }
            error => {
                assert!(last.is_empty(), "cut {cut}: {error:?}");
                continue;
            }
        }
        last = after.tokens().to_vec();
        // What came back is the context, not only its tokens.
        let room = after.len() < 16;
        if room && cut % 16 == 0 {
            let went_on = bits(after.feed(&[11]).unwrap());
            after.reset();
            after.feed(&last).unwrap();
            assert_eq!(bits(after.feed(&[11]).unwrap()), went_on, "cut {cut}");
        }
    }
    println!(
        "{cuts} power cuts: {kept} times the old snapshot was there, {replaced} times the new one"
    );
    assert!(
        kept > cuts / 10 && replaced > cuts / 10,
        "{kept} snapshots kept, {replaced} replaced"
    );
}

#[test]
fn snapshots_that_do_not_fit_their_flash_are_refused() {
    let (image, _) = example();
    let model = Model::open(&image).unwrap();
    let plan = Plan::new(model.header()).context(16).kv(Kv::Q8);
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    let refused = |range| Snapshots::new(Chip::new(4 * ERASE), range).err();
    assert_eq!(refused(4..1024), Some(Error::Unaligned(ERASE as u32)));
    assert_eq!(
        refused(0..511),
        Some(Error::StorageTooSmall {
            needed: 512,
            found: 1024
        })
    );
    assert_eq!(
        refused(512..1280),
        Some(Error::StorageTooSmall {
            needed: 512,
            found: 1024
        })
    );
    let mut store = Snapshots::new(Chip::new(4 * ERASE), 0..1024).unwrap();
    session.feed(&[1]).unwrap();
    store.save(&session).unwrap();
    session.feed(&[1; 15]).unwrap();
    let needed = 8 + plan.snapshot_bytes(16);
    assert_eq!(
        store.save(&session),
        Err(Error::StorageTooSmall { needed, found: 512 })
    );
    store.restore(&mut session).unwrap();
    assert_eq!(session.tokens(), [1]);
}
