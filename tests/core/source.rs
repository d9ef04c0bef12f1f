//! Weights that are read piece by piece give the same bits as weights in memory, through any buffer
//! that holds a tile row; an image is checked as well as one in memory; and a read that fails can
//! be tried again.

use crate::common::bits;
use crate::common::random::{self, Memory, Numbers};
use crate::common::session::{STORY, arena_for, dirty, session_in};
use embedded_storage::nor_flash::{ErrorType, NorFlashErrorKind, ReadNorFlash, check_read};
use pocketlm::Error;
use pocketlm::host::AlignedBytes;
use pocketlm::import::{self, PackOptions};
use pocketlm::model::{DType, Header, Kv, Model, Section, Verify, WeightSource};
use pocketlm::run::{FlashImage, Plan, Session, Solo, Step};

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
        FlashImage::new(
            Card {
                blocks,
                reads: (0, 0),
                failing: None,
                numbers: Numbers::new(5),
            },
            START,
        )
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
        let bytes = self
            .0
            .get(offset as usize..offset as usize + buffer.len())
            .ok_or(Error::Storage)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn read_while(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
        work: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        self.read(offset, buffer)?;
        assert_eq!(offset % 8, 0, "the start of a session's read");
        (0..self.1).for_each(|_| work());
        Ok(())
    }
}

/// Bytes of the largest tile row of an image.
fn widest(model: &Model<'_>) -> usize {
    let rows = model.tensors().filter(|id| id.kind.is_matrix()).map(|id| {
        let (dtype, _, columns) = model.tensor_type(id).unwrap();
        dtype.tile_row_bytes(columns).unwrap()
    });
    rows.max().unwrap()
}

#[derive(Clone, Copy)]
struct Limits {
    batch: u32,
    kv: Kv,
    buffer: usize,
}

impl Limits {
    fn plan<'m>(&self, model: &Model<'m>, context: usize) -> Plan<'m> {
        let plan = Plan::new(model.header())
            .context(context as u32)
            .batch(self.batch)
            .kv(self.kv)
            .weight_buffer(self.buffer);
        plan.logits(self.batch.div_ceil(2))
    }
}

/// The logits of every token, from weights in memory.
fn mapped(image: &[u8], limits: Limits, ids: &[u32]) -> Vec<Vec<u32>> {
    let model = Model::open(image).unwrap();
    let plan = limits.plan(&model, ids.len());
    let mut arena = arena_for(&plan);
    let mut session = session_in(&model, &plan, &mut arena);
    let mut rows = Vec::new();
    session
        .feed_each(ids, |_, logits| rows.push(bits(logits)))
        .unwrap();
    rows
}

/// The same from `source`, at once and in slices.
fn read(
    source: &mut (dyn WeightSource + Send),
    image: &[u8],
    limits: Limits,
    ids: &[u32],
    budget: u32,
) -> (Vec<Vec<u32>>, Vec<u32>) {
    let mut resident = dirty(0xff, Header::read(image).unwrap().resident_bytes());
    let mut scratch = dirty(0xff, 32 * 1024);
    let model = Model::open_from(source, &mut resident, &mut scratch).unwrap();
    let plan = limits.plan(&model, ids.len());
    let mut arena = arena_for(&plan);
    let mut session = Session::with_source(&model, &plan, &mut arena, &Solo, source).unwrap();
    let mut rows = Vec::new();
    session
        .feed_each(ids, |_, logits| rows.push(bits(logits)))
        .unwrap();
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
            dtype: Some(DType::ALL[seed as usize % DType::ALL.len()]),
            embedder_dtype: Some(DType::ALL[seed as usize / 10 % DType::ALL.len()]),
            ..PackOptions::default()
        });
        let kv = numbers.pick(&Kv::ALL);
        let batch = numbers.within(1..=9);
        let smallest = 2 * widest(&Model::open(&image).unwrap()).next_multiple_of(64);
        let buffer = smallest + numbers.pick(&[0, 0, 64, 1000, 100_000]);
        let budget = numbers.pick(&[1, 9, 64, 1000]);
        let ids = numbers.tokens(24, vocab_size);
        let limits = Limits { batch, kv, buffer };
        let expected = mapped(
            &image,
            Limits {
                buffer: 0,
                ..limits
            },
            &ids,
        );
        for calls in 0..3 {
            let (rows, sliced) = read(
                &mut Overlapping(&image, calls),
                &image,
                limits,
                &ids,
                budget,
            );
            assert!(
                rows == expected,
                "seed {seed}, buffer {buffer}, work called {calls} times"
            );
            assert!(
                &sliced == expected.last().unwrap(),
                "seed {seed}, buffer {buffer}, budget {budget}"
            );
        }
        let (rows, _) = read(&mut Card::with(&image), &image, limits, &ids, budget);
        assert!(rows == expected, "seed {seed}: from blocks");
    }
}

#[test]
fn the_story_is_told_from_blocks_through_a_buffer_of_16_kb() {
    let checkpoint =
        crate::common::shared("models/story").map(|story| import::open(&story).unwrap());
    let ids = Numbers::new(3).tokens(100, 1024);
    let limits = Limits {
        batch: 8,
        kv: Kv::F16,
        buffer: 16 * 1024,
    };
    let mut images = vec![("as built in", AlignedBytes::copy_of(STORY))];
    for dtype in DType::ALL {
        if let Some(checkpoint) = &checkpoint {
            let options = PackOptions {
                dtype: Some(dtype),
                ..PackOptions::default()
            };
            images.push((
                dtype.name(),
                import::pack_to_memory(&**checkpoint, &options, &mut |_, _| ()).unwrap(),
            ));
        }
    }
    for (name, image) in images {
        let mut card = Card::with(&image);
        // Rows of f32 are wide.
        let smallest = 2 * widest(&Model::open(&image).unwrap()).next_multiple_of(64);
        let limits = Limits {
            buffer: limits.buffer.max(smallest),
            ..limits
        };
        assert!(limits.buffer == 16 * 1024 || name == "f32");
        let expected = mapped(
            &image,
            Limits {
                buffer: 0,
                ..limits
            },
            &ids,
        );
        let (rows, sliced) = read(&mut card, &image, limits, &ids, 1000);
        assert!(rows == expected, "{name}");
        assert!(&sliced == expected.last().unwrap(), "{name}: in slices");

        // A token reads every weight once, but of the embedding table a tile row more, in blocks.
        let mut resident = dirty(0xff, Header::read(&image).unwrap().resident_bytes());
        let model =
            Model::open_from(&mut card, &mut resident, &mut dirty(0xff, 32 * 1024)).unwrap();
        let plan = limits.plan(&model, 8);
        let mut arena = arena_for(&plan);
        let before = card.into_inner().reads;
        let mut card = Card::with(&image);
        assert!(before.0 > 0);
        let mut session =
            Session::with_source(&model, &plan, &mut arena, &Solo, &mut card).unwrap();
        session.feed(&[7]).unwrap();
        let (calls, blocks) = card.into_inner().reads;
        let weights = image.len() / 512;
        println!("{name}: {calls} reads of {blocks} blocks a token, the image has {weights}");
        assert!(
            blocks > weights * 9 / 10 && blocks < weights * 5 / 4,
            "{name}: {blocks} of {weights}"
        );
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
        let buffer = 2 * widest(&Model::open(&image).unwrap()).next_multiple_of(64);
        let limits = Limits {
            batch: numbers.within(1..=9),
            kv: numbers.pick(&Kv::ALL),
            buffer,
        };
        let expected = mapped(
            &image,
            Limits {
                buffer: 0,
                ..limits
            },
            &ids,
        );

        let mut resident = dirty(0xff, Header::read(&image).unwrap().resident_bytes());
        let mut good = Card::with(&image);
        let model =
            Model::open_from(&mut good, &mut resident, &mut dirty(0xff, 32 * 1024)).unwrap();
        let plan = limits.plan(&model, ids.len());
        let mut arena = arena_for(&plan);
        let mut card = good.into_inner();
        card.failing = Some(numbers.pick(&[2, 5, 30]));
        let mut card = FlashImage::new(card, START);
        let mut session =
            Session::with_source(&model, &plan, &mut arena, &Solo, &mut card).unwrap();
        let budget = numbers.pick(&[1, 9, 1000, u32::MAX]);
        let mut rest = &ids[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(numbers.within(1..=rest.len() as u32) as usize);
            // The last token's logits are what the step after a failure ends with, whoever else's
            // were wanted.
            let mut logits = if numbers.one_in(2) {
                session.feed(piece).map(|logits| bits(logits))
            } else {
                let mut last = Vec::new();
                session
                    .feed_each(piece, |_, logits| last = bits(logits))
                    .map(|()| last)
            };
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
            assert!(
                logits.as_ref().unwrap() == &expected[ids.len() - rest.len() - 1],
                "seed {seed}"
            );
        }
        assert_eq!(session.tokens(), ids);
    }
    assert!(failures > 1000, "{failures} failures are too few to tell");
}

/// Memory to open an image in, again and again.
struct Lent {
    image: AlignedBytes,
    resident: AlignedBytes,
    scratch: AlignedBytes,
}

impl Lent {
    fn for_image(image: &[u8], scratch: usize) -> Self {
        let resident = dirty(0xff, image.len() + 4096);
        Lent {
            image: AlignedBytes::copy_of(image),
            resident,
            scratch: dirty(0xff, scratch),
        }
    }
}

/// What opening says of an image in memory, and of one that is read.
fn both(image: &[u8], lent: &mut Lent) -> [Result<u32, Error>; 2] {
    lent.image.copy_from_slice(image);
    let read = Model::open_from(
        &mut Overlapping(image, 1),
        &mut lent.resident,
        &mut lent.scratch,
    );
    [
        Model::open(&lent.image).map(|model| model.checksum()),
        read.map(|model| model.checksum()),
    ]
}

/// Makes the checksums of an image those of what it holds.
fn repair_checksums(image: &mut [u8]) {
    for section in 0..7 {
        let field = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap()) as usize;
        let offset = field(32 + 24 * section);
        let length = field(40 + 24 * section);
        let Some(bytes) = image.get(offset..offset.saturating_add(length)) else {
            continue;
        };
        let crc = crc32fast::hash(bytes).to_le_bytes();
        image[48 + 24 * section..][..4].copy_from_slice(&crc);
    }
    image[12..16].fill(0);
    let crc = crc32fast::hash(&image[..256]).to_le_bytes();
    image[12..16].copy_from_slice(&crc);
}

#[test]
fn opening_from_a_source_checks_what_opening_in_memory_does() {
    let mut numbers = Numbers::new(17);
    let image = Memory::new(random::any(&mut numbers), 1).pack(DType::Q4Min);
    let with = |at: usize, byte: u8, checksums: bool| {
        let mut damaged = image.to_vec();
        damaged[at] ^= byte;
        if checksums {
            repair_checksums(&mut damaged);
        }
        damaged
    };
    let lent = &mut Lent::for_image(&image, 2048);
    let [memory, source] = both(&image, lent);
    assert_eq!(memory, source);
    memory.unwrap();
    let mut refused = 0;
    let mut opened = 0;
    for at in 0..image.len() {
        for (byte, checksums) in [(0x80, false), (0xff, true), (0x01, true), (0x7c, true)] {
            // A source has no length of its own: it is as long as the image says, or cannot be
            // read.
            if (16..24).contains(&at) {
                continue;
            }
            let [memory, source] = both(&with(at, byte, checksums), lent);
            assert_eq!(
                memory, source,
                "byte {at} changed by {byte:#x}, checksums made to match: {checksums}"
            );
            *(if memory.is_ok() {
                &mut opened
            } else {
                &mut refused
            }) += 1;
        }
    }
    assert!(
        refused > image.len() && opened > 100,
        "{refused} refused, {opened} opened"
    );
    for end in 0..image.len() {
        let cut = Model::open_from(
            &mut Overlapping(&image[..end], 1),
            &mut lent.resident,
            &mut lent.scratch,
        );
        assert_eq!(cut.err(), Some(Error::Storage), "cut at {end}");
    }
}

/// An image that is read in words.
struct Words<'i>(&'i [u8]);

impl WeightSource for Words<'_> {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        assert_eq!((offset % 4, buffer.len() % 4), (0, 0));
        Overlapping(self.0, 1).read(offset, buffer)
    }
}

/// Accepts one image alone, and counts how often it is asked.
struct Only<'i> {
    image: &'i [u8],
    seen: Vec<u8>,
    asked: usize,
}

impl<'i> Only<'i> {
    fn new(image: &'i [u8]) -> Self {
        Only {
            image,
            seen: Vec::new(),
            asked: 0,
        }
    }
}

impl Verify for Only<'_> {
    fn update(&mut self, bytes: &[u8]) {
        self.seen.extend_from_slice(bytes);
    }

    fn verify(&mut self) -> bool {
        self.asked += 1;
        self.seen == self.image
    }
}

#[test]
fn reads_start_at_multiples_of_4_whatever_scratch_is_lent() {
    for (seed, more) in [(0, 0), (1, 4), (2, 20), (3, 60), (4, 1)] {
        let image =
            Memory::new(random::any(&mut Numbers::new(seed)), seed).pack(DType::ALL[seed as usize]);
        let mut scratch = dirty(0xff, widest(&Model::open(&image).unwrap()) + more);
        let mut resident = dirty(0xff, Header::read(&image).unwrap().resident_bytes());
        Model::open_from(&mut Words(&image), &mut resident, &mut scratch).unwrap();
        let verify = &mut Only::new(&image);
        Model::open_verified_from(&mut Words(&image), &mut resident, &mut scratch, verify).unwrap();
        // Where the first tensor is refused, the rest of the weights is read in one go.
        let mut damaged = image.to_vec();
        let table = u64::from_le_bytes(image[32 + 24 * 3..][..8].try_into().unwrap()) as usize;
        damaged[table] ^= 0xff;
        let refused = Model::open_from(&mut Words(&damaged), &mut resident, &mut scratch).err();
        assert_eq!(refused, Some(Error::Checksum(Section::Tensors)));
    }
}

#[test]
fn a_forged_image_is_refused_wherever_it_lies() {
    let numbers = &mut Numbers::new(23);
    let image = Memory::new(random::any(numbers), 1).pack(DType::Q8);
    let open = |device: &[u8], lent: &mut Lent| {
        let verify = &mut Only::new(&image);
        let source = &mut Overlapping(device, 1);
        let read = Model::open_verified_from(source, &mut lent.resident, &mut lent.scratch, verify);
        (read.map(|model| model.checksum()), verify.asked)
    };
    let smallest = widest(&Model::open(&image).unwrap());
    for scratch in [smallest, smallest + 5, 2048, image.len()] {
        let opened = open(&image, &mut Lent::for_image(&image, scratch));
        assert_eq!(
            opened,
            (Ok(Model::open(&image).unwrap().checksum()), 1),
            "scratch of {scratch}"
        );
    }
    let mut verify = Only::new(&image);
    assert!(Model::open_verified(&image, &mut verify).is_ok() && verify.asked == 1);
    for scratch in 0..4 {
        let refused = Error::WeightBufferTooSmall {
            needed: 4,
            found: scratch,
        };
        assert_eq!(
            open(&image, &mut Lent::for_image(&image, scratch)),
            (Err(refused), 0)
        );
    }
    // Somebody has changed a byte and made the checksums right.
    let mut told = 0;
    let mut forged = AlignedBytes::copy_of(&image);
    let lent = &mut Lent::for_image(&image, 2048);
    for at in 0..image.len() {
        forged.copy_from_slice(&image);
        forged[at] ^= 1 << (at % 8);
        repair_checksums(&mut forged);
        if forged[..] == image[..] {
            continue;
        }
        assert_eq!(
            Model::open_verified(&forged, &mut Only::new(&image)).err(),
            Some(Error::Unverified),
            "byte {at}"
        );
        // What is no table of sections is no image either; all else is for the signature to tell.
        match open(&forged, lent) {
            (Err(Error::Unverified), 1) => told += 1,
            (Err(error), 0) => assert!(at < 200, "byte {at}: {error}"),
            other => panic!("byte {at}: {other:?}"),
        }
    }
    assert!(told > image.len() - 200, "{told} of {}", image.len());
}

/// A device that gives the first image until it has given all of it, and the second from then on.
struct Changing<'i> {
    images: [&'i [u8]; 2],
    given: usize,
}

impl WeightSource for Changing<'_> {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let image = self.images[usize::from(self.given >= self.images[0].len())];
        self.given += buffer.len();
        Overlapping(image, 1).read(offset, buffer)
    }
}

#[test]
fn what_stays_in_memory_is_what_was_verified() {
    let numbers = &mut Numbers::new(29);
    let mut description = random::any(numbers);
    description.chat_template = Some(Ok("{{ messages }}".into()));
    let image = Memory::new(description.clone(), 1).pack(DType::F16);
    // Another model of the same shape: all weights differ.
    let mut forged = Memory::new(description, 2).pack(DType::F16);
    assert_eq!(forged.len(), image.len());
    let open = |second: &[u8]| {
        let mut resident = dirty(0xff, image.len());
        let mut scratch = dirty(0xff, 4096);
        let mut source = Changing {
            images: [&image, second],
            given: 0,
        };
        let model = Model::open_verified_from(
            &mut source,
            &mut resident,
            &mut scratch,
            &mut Only::new(&image),
        );
        assert!(
            source.given > image.len(),
            "the weights were not read again"
        );
        model.map(|model| model.checksum())
    };
    let genuine = Model::open(&image).unwrap().checksum();
    assert_eq!(open(&image), Ok(genuine));
    // Other weights, of which the verified header has the checksum.
    assert_eq!(open(&forged), Err(Error::Checksum(Section::Weights)));
    // All but the weights is overwritten: it is not read again.
    let weights = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap()) as usize;
    let weights = weights(32 + 24 * 4)..weights(32 + 24 * 4) + weights(40 + 24 * 4);
    forged.fill(0x55);
    forged[weights.clone()].copy_from_slice(&image[weights.clone()]);
    forged[weights.end..weights.end.next_multiple_of(64)].fill(0);
    assert_eq!(open(&forged), Ok(genuine));
}

#[test]
fn buffers_must_be_large_enough() {
    let model = Model::open(STORY).unwrap();
    let widest = widest(&model);
    let resident = model.header().resident_bytes();
    let open = |resident: &mut [u8], scratch: &mut [u8]| {
        Model::open_from(&mut Overlapping(STORY, 1), resident, scratch)
            .map(|_| ())
            .err()
    };
    assert_eq!(
        open(&mut dirty(0xff, resident), &mut dirty(0xff, widest)),
        None
    );
    let needed = |needed, found| Some(Error::ArenaTooSmall { needed, found });
    assert_eq!(
        open(&mut dirty(0xff, resident - 1), &mut dirty(0xff, widest)),
        needed(resident, resident - 1)
    );
    assert_eq!(
        open(&mut dirty(0xff, 255), &mut dirty(0xff, widest)),
        needed(256, 255)
    );
    let narrow = Some(Error::WeightBufferTooSmall {
        needed: widest,
        found: widest - 1,
    });
    assert_eq!(
        open(&mut dirty(0xff, resident), &mut dirty(0xff, widest - 1)),
        narrow
    );
    assert_eq!(
        open(
            &mut dirty(0xff, resident + 64)[4..],
            &mut dirty(0xff, widest)
        ),
        Some(Error::Unaligned(64))
    );
    assert_eq!(
        open(
            &mut dirty(0xff, resident),
            &mut dirty(0xff, widest + 64)[4..]
        ),
        Some(Error::Unaligned(64))
    );

    let mut memory = dirty(0xff, resident);
    let mut source = Overlapping(STORY, 1);
    let model = Model::open_from(&mut source, &mut memory, &mut dirty(0xff, widest)).unwrap();
    assert_eq!(model.tokenizer().unwrap().vocab_size(), 1024);
    let plan = Plan::new(model.header()).context(8);
    let mut arena = dirty(0xff, plan.weight_buffer(65536).bytes());
    assert_eq!(
        Session::new(&model, &plan, &mut arena, &Solo).err(),
        Some(Error::NotMapped)
    );
    for buffer in [0, 63, 2 * widest - 1] {
        let refused = Session::with_source(
            &model,
            &plan.weight_buffer(buffer),
            &mut arena,
            &Solo,
            &mut source,
        )
        .err();
        let found = buffer / 2 / 64 * 128;
        assert_eq!(
            refused,
            Some(Error::WeightBufferTooSmall {
                needed: 2 * widest,
                found
            }),
            "buffer {buffer}"
        );
    }
    let part = plan
        .weight_buffer(16 * 1024)
        .parts()
        .into_iter()
        .find(|part| part.name == "weights")
        .unwrap();
    assert!(
        (16 * 1024..20 * 1024).contains(&part.bytes),
        "{} bytes",
        part.bytes
    );
}
