//! Images: bytes as they are, and small valid ones with their fields changed.

use std::sync::OnceLock;

use pocketlm::Error;
use pocketlm::host::AlignedBytes;
use pocketlm::import::PackOptions;
use pocketlm::model::{DType, Kv, Model, Rope, Section};
use pocketlm::run::{Digest, Engine, Isa, Plan, Session, Solo};
use pocketlm::sample::Sampler;

use super::bytes::Bytes;
use super::random::{self, Memory, Numbers, rope_table, window};
use super::text::exercise;

/// Memory that an image may ask for before it is only asked how much.
pub const MOST_ARENA: usize = 1 << 20;

pub fn image(data: &[u8]) {
    let mut image = AlignedBytes::copy_of(data);
    if run(&image, 16).is_err() {
        repair(&mut image);
        let _ = run(&image, 16);
    }
}

/// The first byte chooses an image; then eight bytes an edit.
pub fn edits(data: &[u8]) {
    let mut choices = Bytes(data);
    let images = images();
    let mut image = AlignedBytes::copy_of(&images[choices.below(images.len())]);
    while !choices.is_empty() {
        edit(&mut image, &mut choices);
    }
    repair(&mut image);
    let _ = run(&image, 7);
}

/// Small images with something in every section, of every element type.
pub fn images() -> &'static [AlignedBytes] {
    static IMAGES: OnceLock<Vec<AlignedBytes>> = OnceLock::new();
    IMAGES.get_or_init(|| (0..12).map(tiny).collect())
}

fn tiny(seed: u64) -> AlignedBytes {
    let numbers = &mut Numbers::new(seed);
    let mut description = random::any(numbers);
    let config = &mut description.config;
    let layers = [
        window(0, Rope::Global),
        window(3, Rope::Local),
        window(8, Rope::None),
        window(1, Rope::Global),
    ];
    description.layers = layers
        .iter()
        .copied()
        .skip(seed as usize % 4)
        .take(1 + seed as usize % 2)
        .collect();
    config.num_decoder_blocks = description.layers.len() as u32;
    config.projection_dim = numbers.pick(&[2, 4, 6]);
    (config.num_kv_heads, config.query_head_multiplier) =
        numbers.pick(&[(1, 1), (1, 2), (2, 1), (2, 2)]);
    config.embedding_dim = numbers.pick(&[1, 3, 8, 33]);
    config.mlp_hidden_dim = numbers.pick(&[1, 5, 9]);
    config.vocab_size = numbers.pick(&[2, 7, 9]);
    description.global_rope = rope_table(config.projection_dim, 1e4, 1.0, 1);
    description.local_rope = Some(rope_table(config.projection_dim, 10.0, 1.0, u32::MAX));
    if seed.is_multiple_of(3) {
        description.tokenizer = Some(Ok(super::text::sections()[seed as usize / 3 % 4].clone()));
        description.chat_template = Some(Ok("{{ messages }} ü".into()));
    }
    let dtype = DType::ALL[seed as usize % DType::ALL.len()];
    let embedder = DType::ALL[(seed as usize + seed as usize / 10 * 3) % DType::ALL.len()];
    Memory::new(description, seed).pack_with(PackOptions {
        dtype: Some(dtype),
        embedder_dtype: Some(embedder),
        ..PackOptions::default()
    })
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Changes a word, mostly where structure is.
pub fn edit(image: &mut [u8], choices: &mut Bytes<'_>) {
    let section = choices.below(8);
    let operation = choices.byte();
    let at = choices.short() as usize;
    let value = choices.word();
    let (start, length) = match section {
        7 => (8, 192),
        _ => (
            u64_at(image, 32 + 24 * section) as usize,
            u64_at(image, 40 + 24 * section) as usize,
        ),
    };
    let Some(at) = start
        .checked_add(at % length.max(4) / 4 * 4)
        .filter(|at| at.saturating_add(4) <= image.len())
    else {
        return;
    };
    let word = u32::from_le_bytes(std::array::from_fn(|i| image[at + i]));
    let special = [
        0,
        1,
        2,
        64,
        u32::MAX,
        i32::MAX as u32,
        0x7f80_0000,
        0x7fc0_0000,
        0x7c00_7c00,
        0xfc00,
        1 << 31,
    ];
    let new = match operation % 8 {
        0 => value,
        1 => word.wrapping_add(1),
        2 => word.wrapping_sub(1),
        3 => word ^ 1 << (value % 32),
        4 => special[value as usize % special.len()],
        5 => word.wrapping_add(value % 1024 * 64),
        6 => word.wrapping_mul(value),
        _ => word.rotate_left(value % 32),
    };
    put(image, at, &new.to_le_bytes());
}

/// Makes every checksum right, and the length the header gives.
pub fn repair(image: &mut [u8]) {
    for section in Section::ALL {
        let at = 32 + 24 * section as usize;
        let start = u64_at(image, at) as usize;
        let length = u64_at(image, at + 8) as usize;
        let bytes = start
            .checked_add(length)
            .and_then(|end| image.get(start..end));
        if let Some(checksum) = bytes.map(crc32fast::hash) {
            put(image, at + 16, &checksum.to_le_bytes());
        }
    }
    let length = image.len() as u64;
    put(image, 16, &length.to_le_bytes());
    put(image, 12, &[0; 4]);
    if let Some(checksum) = image.get(..256).map(crc32fast::hash) {
        put(image, 12, &checksum.to_le_bytes());
    }
}

/// Opens an image and runs `tokens` tokens, with every kernel table this machine has.
pub fn run(image: &[u8], tokens: usize) -> Result<(), Error> {
    let model = Model::open(image)?;
    for id in model.tensors() {
        assert!(model.tensor_type(id).is_some());
    }
    model.chat_template();
    if let Ok(tokenizer) = model.tokenizer() {
        exercise(&tokenizer);
    }
    let kv = Kv::ALL[model.checksum() as usize % Kv::ALL.len()];
    let plan = Plan::new(model.header())
        .context(tokens as u32)
        .batch(3)
        .kv(kv);
    if plan.bytes() > MOST_ARENA {
        let small = &mut AlignedBytes::zeroed(64);
        assert!(matches!(
            Session::new(&model, &plan, small, &Solo),
            Err(Error::ArenaTooSmall { .. })
        ));
        return Ok(());
    }
    let mut arena = AlignedBytes::zeroed(plan.bytes());
    let mut first = None;
    for isa in Isa::available() {
        arena.fill(0xff); // NaNs, and ids and positions out of all ranges
        let mut session = Session::new(
            &model,
            &plan,
            &mut arena,
            Engine {
                isa,
                workers: &Solo,
            },
        )?;
        let mut digest = Digest::new();
        let prompt: [u32; 5] =
            std::array::from_fn(|i| (i as u32 * 5 + 1) % model.config().vocab_size);
        let mut next = sample(session.feed(&prompt)?, &mut digest);
        session.skip_to(u32::MAX - 20)?;
        for _ in prompt.len()..tokens {
            next = sample(session.feed(&[next])?, &mut digest);
        }
        assert_eq!(
            session.feed(&[0]).err(),
            Some(Error::ContextFull { room: 0 })
        );
        assert_eq!(
            *first.get_or_insert(digest.value()),
            digest.value(),
            "{} computes other bits",
            isa.name()
        );
    }
    Ok(())
}

/// The best token; of logits that are all NaN, the first.
fn sample(logits: &mut [f32], digest: &mut Digest) -> u32 {
    digest.update(logits);
    Sampler::greedy().sample(logits).unwrap_or(0)
}
