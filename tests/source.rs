//! Weights that are read piece by piece give the same bits as weights in memory, through any window that holds a tile
//! row; an image is checked as well as one in memory; and a read that fails can be tried again.
#![cfg(feature = "std")]

mod common;

use common::random::{self, Memory, Numbers};
use common::{bits, dirty};
use embedded_storage::nor_flash::{ErrorType, NorFlashErrorKind, ReadNorFlash, check_read};
use pocketlm::Error;
use pocketlm::host::AlignedBytes;
use pocketlm::import::{self, PackOptions};
use pocketlm::model::{DType, Header, Kv, Model, WeightSource};
use pocketlm::run::{FlashImage, Plan, Session, Solo, Step};

static STORY: &[u8] = pocketlm::include_image!("../src/bin/pocketlm/story/story.plm");

/// A device that is read in blocks of 512 bytes, the image somewhere on it; reads can fail.
struct Card {
    blocks: Vec<u8>,
    /// Calls, and blocks they read.
    reads: (usize, usize),
    /// A call fails once in so many.
    failing: Option<u32>,
    numbers: Numbers,
}

const START: u32 = 3 * 512 + 64;

impl Card {
    fn with(image: &[u8]) -> FlashImage<Card> {
        let mut blocks = vec![0xee; START as usize];
        blocks.extend_from_slice(image);
        blocks.resize(blocks.len().next_multiple_of(512), 0xee);
        FlashImage::new(Card { blocks, reads: (0, 0), failing: None, numbers: Numbers::new(5) }, START)
    }
}

impl ErrorType for Card {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Card {
    const READ_SIZE: usize = 512;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Self::Error> {
        check_read(self, offset, bytes.len())?;
        self.reads.0 += 1;
        self.reads.1 += bytes.len() / 512;
        if self.failing.is_some_and(|n| self.numbers.one_in(n)) {
            bytes.fill(0x77);
            return Err(NorFlashErrorKind::Other);
        }
        bytes.copy_from_slice(&self.blocks[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.blocks.len()
    }
}

/// An image in memory that is read all the same, with `work` called as often as it says.
struct Overlapping<'i>(&'i [u8], usize);

impl WeightSource for Overlapping<'_> {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let bytes = self.0.get(offset as usize..offset as usize + buffer.len()).ok_or(Error::Storage)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn read_while(&mut self, offset: u64, buffer: &mut [u8], work: &mut dyn FnMut()) -> Result<(), Error> {
        self.read(offset, buffer)?;
        (0..self.1).for_each(|_| work());
        Ok(())
    }
}

/// Bytes of the largest tile row of an image.
fn widest(model: &Model<'_>) -> usize {
    let rows = model.tensors().filter(|id| id.role.is_matrix()).map(|id| {
        let (dtype, _, columns) = model.tensor_type(id).unwrap();
        dtype.tile_row_bytes(columns).unwrap()
    });
    rows.max().unwrap()
}

#[derive(Clone, Copy)]
struct Limits {
    batch: u32,
    kv: Kv,
    window: usize,
}

impl Limits {
    fn plan<'m>(&self, model: &Model<'m>, context: usize) -> Plan<'m> {
        Plan::new(model.header()).context(context as u32).batch(self.batch).kv(self.kv).window(self.window)
    }
}

/// The logits of every token, from weights in memory.
fn mapped(image: &[u8], limits: Limits, ids: &[u32]) -> Vec<Vec<u32>> {
    let model = Model::open(image).unwrap();
    let plan = limits.plan(&model, ids.len());
    let mut arena = dirty(0xff, plan.bytes());
    let mut session = Session::new(&model, &plan, &mut arena, &Solo).unwrap();
    let mut rows = Vec::new();
    session.feed_each(ids, |_, logits| rows.push(bits(logits))).unwrap();
    rows
}

/// The same from `source`, at once and in slices.
fn read(
    source: &mut dyn WeightSource,
    image: &[u8],
    limits: Limits,
    ids: &[u32],
    budget: u32,
) -> (Vec<Vec<u32>>, Vec<u32>) {
    let mut resident = dirty(0xff, Header::read(image).unwrap().resident_bytes());
    let mut scratch = dirty(0xff, 32 * 1024);
    let model = Model::open_from(source, &mut resident, &mut scratch).unwrap();
    let plan = limits.plan(&model, ids.len());
    let mut arena = dirty(0xff, plan.bytes());
    let mut session = Session::with_source(&model, &plan, &mut arena, &Solo, source).unwrap();
    let mut rows = Vec::new();
    session.feed_each(ids, |_, logits| rows.push(bits(logits))).unwrap();
    session.reset();
    session.start(ids).unwrap();
    loop {
        if let Step::Done(logits) = session.step(budget).unwrap() {
            return (rows, bits(logits));
        }
    }
}

#[test]
fn weights_that_are_read_give_the_bits_of_weights_in_memory() {
    for seed in 0..60 {
        let numbers = &mut Numbers::new(seed);
        let description = random::any(numbers);
        let vocab_size = description.config.vocab_size;
        let image = Memory::new(description, seed).pack_with(PackOptions {
            dtype: Some(DType::ALL[seed as usize % 6]),
            embedder_dtype: Some(DType::ALL[seed as usize / 6 % 6]),
        });
        let (kv, batch) = (numbers.pick(&Kv::ALL), numbers.within(1..=9));
        let smallest = 2 * widest(&Model::open(&image).unwrap()).next_multiple_of(64);
        let window = smallest + numbers.pick(&[0, 0, 64, 1000, 100_000]);
        let (budget, ids) = (numbers.pick(&[1, 9, 64, 1000]), numbers.tokens(24, vocab_size));
        let limits = Limits { batch, kv, window };
        let expected = mapped(&image, Limits { window: 0, ..limits }, &ids);
        for calls in 0..3 {
            let (rows, sliced) = read(&mut Overlapping(&image, calls), &image, limits, &ids, budget);
            assert!(rows == expected, "seed {seed}, window {window}, work called {calls} times");
            assert!(&sliced == expected.last().unwrap(), "seed {seed}, window {window}, budget {budget}");
        }
        let (rows, _) = read(&mut Card::with(&image), &image, limits, &ids, budget);
        assert!(rows == expected, "seed {seed}: from blocks");
    }
}

#[test]
fn the_story_is_told_from_blocks_through_a_window_of_16_kb() {
    let checkpoint = common::shared("the story model from a block device in every type of weights")
        .map(|shared| import::open(&shared.join("models/story")).unwrap());
    let ids = Numbers::new(3).tokens(100, 1024);
    let limits = Limits { batch: 8, kv: Kv::F16, window: 16 * 1024 };
    let mut images = vec![("as built in", AlignedBytes::copy_of(STORY))];
    for dtype in DType::ALL {
        if let Some(checkpoint) = &checkpoint {
            let options = PackOptions { dtype: Some(dtype), ..PackOptions::default() };
            images.push((dtype.name(), import::pack_to_memory(&**checkpoint, &options, &mut |_, _| ()).unwrap()));
        }
    }
    for (name, image) in images {
        let mut card = Card::with(&image);
        // Rows of f32 are wide.
        let smallest = 2 * widest(&Model::open(&image).unwrap()).next_multiple_of(64);
        let limits = Limits { window: limits.window.max(smallest), ..limits };
        assert!(limits.window == 16 * 1024 || name == "f32");
        let expected = mapped(&image, Limits { window: 0, ..limits }, &ids);
        let (rows, sliced) = read(&mut card, &image, limits, &ids, 1000);
        assert!(rows == expected, "{name}");
        assert!(&sliced == expected.last().unwrap(), "{name}: in slices");

        // A token reads every weight once, but of the embedding table a tile row more, in blocks.
        let mut resident = dirty(0xff, Header::read(&image).unwrap().resident_bytes());
        let model = Model::open_from(&mut card, &mut resident, &mut dirty(0xff, 32 * 1024)).unwrap();
        let plan = limits.plan(&model, 8);
        let mut arena = dirty(0xff, plan.bytes());
        let before = card.into_inner().reads;
        let mut card = Card::with(&image);
        assert!(before.0 > 0);
        let mut session = Session::with_source(&model, &plan, &mut arena, &Solo, &mut card).unwrap();
        session.feed(&[7]).unwrap();
        let (calls, blocks) = card.into_inner().reads;
        let weights = image.len() / 512;
        println!("{name}: {calls} reads of {blocks} blocks a token, the image has {weights}");
        assert!(blocks > weights * 9 / 10 && blocks < weights * 5 / 4, "{name}: {blocks} of {weights}");
    }
}

#[test]
fn a_read_that_fails_is_tried_again_by_the_next_step() {
    let mut failures = 0;
    for seed in 0..40 {
        let numbers = &mut Numbers::new(seed);
        let description = random::any(numbers);
        let vocab_size = description.config.vocab_size;
        let image = Memory::new(description, seed).pack(numbers.pick(&DType::ALL));
        let ids = numbers.tokens(20, vocab_size);
        let window = 2 * widest(&Model::open(&image).unwrap()).next_multiple_of(64);
        let limits = Limits { batch: numbers.within(1..=9), kv: numbers.pick(&Kv::ALL), window };
        let expected = mapped(&image, Limits { window: 0, ..limits }, &ids);

        let mut resident = dirty(0xff, Header::read(&image).unwrap().resident_bytes());
        let mut good = Card::with(&image);
        let model = Model::open_from(&mut good, &mut resident, &mut dirty(0xff, 32 * 1024)).unwrap();
        let plan = limits.plan(&model, ids.len());
        let mut arena = dirty(0xff, plan.bytes());
        let mut card = good.into_inner();
        card.failing = Some(numbers.pick(&[2, 5, 30]));
        let mut card = FlashImage::new(card, START);
        let mut session = Session::with_source(&model, &plan, &mut arena, &Solo, &mut card).unwrap();
        let budget = numbers.pick(&[1, 9, 1000, u32::MAX]);
        let mut rest = &ids[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(numbers.within(1..=rest.len() as u32) as usize);
            let mut logits = session.feed(piece).map(|logits| bits(logits));
            while let Err(error) = logits {
                assert_eq!(error, Error::Storage);
                failures += 1;
                assert_eq!(session.feed(piece).err(), Some(Error::Busy));
                logits = loop {
                    match session.step(budget) {
                        Ok(Step::Pending) => {}
                        Ok(Step::Done(logits)) => break Ok(bits(logits)),
                        Err(error) => break Err(error),
                    }
                };
            }
            rest = after;
            assert!(logits.as_ref().unwrap() == &expected[ids.len() - rest.len() - 1], "seed {seed}");
        }
        assert_eq!(session.tokens(), ids);
    }
    assert!(failures > 1000, "{failures} failures are too few to tell");
}

/// What opening says of an image in memory, and of one that is read.
fn both(image: &[u8]) -> [Result<u32, Error>; 2] {
    let (mut resident, mut scratch) = (dirty(0xff, image.len() + 4096), dirty(0xff, 2048));
    let aligned = AlignedBytes::copy_of(image);
    let read = Model::open_from(&mut Overlapping(image, 1), &mut resident, &mut scratch);
    [Model::open(&aligned).map(|model| model.checksum()), read.map(|model| model.checksum())]
}

#[test]
fn opening_from_a_source_checks_what_opening_in_memory_does() {
    let mut numbers = Numbers::new(17);
    let image = Memory::new(random::any(&mut numbers), 1).pack(DType::Q4Min);
    let with = |at: usize, byte: u8, checksums: bool| {
        let mut damaged = image.to_vec();
        damaged[at] ^= byte;
        if checksums {
            for section in 0..7 {
                let field = |at: usize| u64::from_le_bytes(damaged[at..at + 8].try_into().unwrap()) as usize;
                let (offset, length) = (field(32 + 24 * section), field(40 + 24 * section));
                let Some(bytes) = damaged.get(offset..offset.saturating_add(length)) else { continue };
                let crc = crc32fast::hash(bytes).to_le_bytes();
                damaged[48 + 24 * section..][..4].copy_from_slice(&crc);
            }
            damaged[12..16].fill(0);
            let crc = crc32fast::hash(&damaged[..256]).to_le_bytes();
            damaged[12..16].copy_from_slice(&crc);
        }
        damaged
    };
    let [memory, source] = both(&image);
    assert_eq!(memory, source);
    memory.unwrap();
    let (mut refused, mut opened) = (0, 0);
    for at in 0..image.len() {
        for (byte, checksums) in [(0x80, false), (0xff, true), (0x01, true), (0x7c, true)] {
            // A source has no length of its own: it is as long as the image says, or cannot be read.
            if (16..24).contains(&at) {
                continue;
            }
            let [memory, source] = both(&with(at, byte, checksums));
            assert_eq!(memory, source, "byte {at} changed by {byte:#x}, checksums made to match: {checksums}");
            *(if memory.is_ok() { &mut opened } else { &mut refused }) += 1;
        }
    }
    assert!(refused > image.len() && opened > 100, "{refused} refused, {opened} opened");
    for end in 0..image.len() {
        let (mut resident, mut scratch) = (dirty(0xff, image.len()), dirty(0xff, 2048));
        let cut = Model::open_from(&mut Overlapping(&image[..end], 1), &mut resident, &mut scratch);
        assert_eq!(cut.err(), Some(Error::Storage), "cut at {end}");
    }
}

#[test]
fn what_is_lent_must_be_large_enough() {
    let model = Model::open(STORY).unwrap();
    let (widest, resident) = (widest(&model), model.header().resident_bytes());
    let open = |resident: &mut [u8], scratch: &mut [u8]| {
        Model::open_from(&mut Overlapping(STORY, 1), resident, scratch).map(|_| ()).err()
    };
    assert_eq!(open(&mut dirty(0xff, resident), &mut dirty(0xff, widest)), None);
    let needed = |needed, found| Some(Error::ArenaTooSmall { needed, found });
    assert_eq!(open(&mut dirty(0xff, resident - 1), &mut dirty(0xff, widest)), needed(resident, resident - 1));
    assert_eq!(open(&mut dirty(0xff, 255), &mut dirty(0xff, widest)), needed(256, 255));
    let narrow = Some(Error::WindowTooSmall { needed: widest, found: widest - 1 });
    assert_eq!(open(&mut dirty(0xff, resident), &mut dirty(0xff, widest - 1)), narrow);
    assert_eq!(open(&mut dirty(0xff, resident + 64)[4..], &mut dirty(0xff, widest)), Some(Error::Unaligned(64)));
    assert_eq!(open(&mut dirty(0xff, resident), &mut dirty(0xff, widest + 64)[4..]), Some(Error::Unaligned(64)));

    let mut memory = dirty(0xff, resident);
    let mut source = Overlapping(STORY, 1);
    let model = Model::open_from(&mut source, &mut memory, &mut dirty(0xff, widest)).unwrap();
    assert_eq!(model.tokenizer().unwrap().unwrap().vocab_size(), 1024);
    let plan = Plan::new(model.header()).context(8);
    let mut arena = dirty(0xff, plan.window(65536).bytes());
    assert_eq!(Session::new(&model, &plan, &mut arena, &Solo).err(), Some(Error::NotMapped));
    for window in [0, 63, 2 * widest - 1] {
        let refused = Session::with_source(&model, &plan.window(window), &mut arena, &Solo, &mut source).err();
        let found = window / 2 / 64 * 128;
        assert_eq!(refused, Some(Error::WindowTooSmall { needed: 2 * widest, found }), "window {window}");
    }
    let part = plan.window(16 * 1024).parts().into_iter().find(|part| part.name == "window").unwrap();
    assert!((16 * 1024..20 * 1024).contains(&part.bytes), "{} bytes", part.bytes);
}
