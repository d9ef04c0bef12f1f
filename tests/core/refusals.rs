//! No bytes can make the core do anything but run or refuse: images cut, flipped, bent with all
//! checksums repaired; plans and arenas that do not fit.

use std::num::NonZeroU32;
use std::path::Path;

use crate::common::random::{self, Memory, Numbers, convolution, window};
use crate::common::session::{STORY, session_in};
use pocketlm::Error;
use pocketlm::host::AlignedBytes;
use pocketlm::import::{PackOptions, tokenizer};
use pocketlm::model::{
    AttnTemperature, ConfigField, DType, Header, Kv, Model, Rope, Section, TensorId, TensorKind,
};
use pocketlm::run::{Plan, Session, Solo};

/// An image with something in every section.
fn image(dtype: DType) -> AlignedBytes {
    let layers = [
        window(0, Rope::Global),
        window(3, Rope::Local),
        convolution(2),
    ];
    let mut description = random::plain(layers.into());
    description.config.use_qk_norm = true;
    description.config.final_logit_softcap = Some(7.0);
    description.config.num_kv_heads = 1;
    description.config.attn_temperature = Some(AttnTemperature {
        scale: 0.5,
        length: NonZeroU32::new(3).unwrap(),
        only_without_rope: false,
    });
    let abc = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers/abc.json");
    description.tokenizer = Some(Ok(tokenizer::from_path(abc).unwrap()));
    description.chat_template = Some(Ok("{{ messages }} ü".into()));
    Memory::new(description, 1).pack_with(PackOptions {
        dtype: Some(dtype),
        embedder_dtype: Some(DType::Q4Min),
        ..PackOptions::default()
    })
}

fn open(bytes: &[u8]) -> Result<(), Error> {
    Model::open(bytes).map(|_| ())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: impl bytemuck::NoUninit) {
    let value = bytemuck::bytes_of(&value);
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Where a section starts, and how long it is.
fn place(image: &[u8], section: Section) -> (usize, usize) {
    let at = 32 + 24 * section as usize;
    (u64_at(image, at) as usize, u64_at(image, at + 8) as usize)
}

/// Makes every checksum right again, wherever the sections are now.
fn repair(image: &mut [u8]) {
    for section in Section::ALL {
        let (start, length) = place(image, section);
        let bytes = start
            .checked_add(length)
            .and_then(|end| image.get(start..end));
        if let Some(checksum) = bytes.map(crc32fast::hash) {
            put(image, 48 + 24 * section as usize, checksum);
        }
    }
    put(image, 12, 0u32);
    let checksum = crc32fast::hash(&image[..256]);
    put(image, 12, checksum);
}

/// Refuses, or runs a few tokens. Says whether it ran.
fn run(image: &[u8], arena: &mut [u8]) -> Result<bool, Error> {
    let model = Model::open(image)?;
    let _ = (model.tokenizer(), model.chat_template());
    for id in model.tensors() {
        assert!(model.tensor_type(id).is_some());
    }
    let plan = Plan::new(model.header()).context(6).batch(2).kv(Kv::Q8);
    if plan.bytes() > arena.len() {
        let error = Error::ArenaTooSmall {
            needed: plan.bytes(),
            found: arena.len(),
        };
        assert!(matches!(Session::new(&model, &plan, arena, &Solo), Err(found) if found == error));
        return Ok(false);
    }
    let mut session = Session::new(&model, &plan, arena, &Solo)?;
    let ids = [0, 1, 2, 0, 1].map(|id| id % model.config().vocab_size);
    session.feed(&ids[..3])?;
    session.skip_to(u32::MAX - 2)?;
    let logits = session.feed(&ids[3..])?;
    assert_eq!(logits.len(), model.config().vocab_size as usize);
    Ok(true)
}

#[test]
fn an_image_cut_anywhere_is_refused() {
    let image = image(DType::Q8);
    let whole = image.len();
    for length in 0..image.len() {
        let cut = &image[..length];
        let expected = match length {
            0..8 => Error::NotAnImage,
            8..12 => Error::Version(u32::from_le_bytes(std::array::from_fn(|i| {
                *image[8..length].get(i).unwrap_or(&0)
            }))),
            _ => Error::Truncated {
                expected: if length < 24 { 0 } else { whole },
                found: length,
            },
        };
        match length {
            // The field itself is cut.
            8..24 => assert!(
                matches!(open(cut), Err(Error::Version(_) | Error::Truncated { .. })),
                "{length} bytes"
            ),
            _ => assert_eq!(open(cut), Err(expected), "{length} bytes"),
        }
    }
    // With the length in the header corrected, the sections no longer fit.
    for length in 24..image.len() {
        let mut cut = AlignedBytes::copy_of(&image[..length]);
        put(&mut cut, 16, length as u64);
        if length >= 256 {
            repair(&mut cut);
        }
        let error = open(&cut).unwrap_err();
        assert!(
            matches!(error, Error::Truncated { .. } | Error::Layout(_)),
            "{length} bytes: {error}"
        );
    }
    // Nor may anything follow.
    for more in [1, 64, 4096] {
        let mut longer = AlignedBytes::zeroed(image.len() + more);
        longer[..image.len()].copy_from_slice(&image);
        assert_eq!(
            open(&longer),
            Err(Error::Truncated {
                expected: whole,
                found: whole + more
            })
        );
        put(&mut longer, 16, (whole + more) as u64);
        repair(&mut longer);
        assert_eq!(
            open(&longer),
            Err(Error::Truncated {
                expected: whole,
                found: whole + more
            })
        );
    }
}

#[test]
fn every_flipped_byte_of_the_header_is_refused_by_its_name() {
    let mut image = image(DType::Q4);
    for at in 0..256 {
        let kept = image[at];
        for flip in 1..=255 {
            image[at] = kept ^ flip;
            let error = open(&image).unwrap_err();
            let right = match at {
                0..8 => error == Error::NotAnImage,
                8..12 => {
                    error == Error::Version(u32::from_le_bytes(image[8..12].try_into().unwrap()))
                }
                16..24 => {
                    error
                        == Error::Truncated {
                            expected: u64_at(&image, 16) as usize,
                            found: image.len(),
                        }
                }
                32..200 => {
                    let section = Section::ALL[(at - 32) / 24];
                    match (at - 32) % 24 {
                        // A wrong offset shows at once, a wrong length at the latest where the next
                        // section begins; or it stays within the same 64 bytes.
                        0..8 => error == Error::Layout(section),
                        8..16 => {
                            let next = Section::ALL.get(section as usize + 1).copied();
                            error == Error::Layout(section)
                                || next.is_some_and(|next| error == Error::Layout(next))
                                || error == Error::Checksum(Section::Header)
                                || matches!(error, Error::Truncated { .. }) && next.is_none()
                                || error == Error::Config(ConfigField::NumDecoderBlocks)
                                    && section == Section::Layers
                        }
                        16..20 => error == Error::Checksum(Section::Header),
                        _ => error == Error::Layout(Section::Header),
                    }
                }
                12..16 => error == Error::Checksum(Section::Header),
                _ => error == Error::Layout(Section::Header),
            };
            assert!(right, "byte {at} as {:#x}: {error:?}", image[at]);
        }
        image[at] = kept;
    }
    assert_eq!(open(&image), Ok(()));
}

#[test]
fn every_flipped_bit_after_the_header_is_refused_by_its_section() {
    let mut image = image(DType::Bf16);
    let sections: Vec<_> = Section::ALL
        .map(|section| (section, place(&image, section)))
        .into();
    for at in 256..image.len() {
        let inside = sections
            .iter()
            .find(|(_, (start, length))| (*start..start + length).contains(&at));
        // A gap belongs to the section after it; the last one to the last section.
        let after = sections
            .iter()
            .find(|(_, (start, _))| *start > at)
            .map_or(Section::ChatTemplate, |next| next.0);
        for bit in 0..8 {
            image[at] ^= 1 << bit;
            let error = open(&image).unwrap_err();
            let right = match inside {
                None => error == Error::Layout(after),
                Some((section, _)) => match (section, error) {
                    (Section::Config, Error::Config(_)) => true,
                    (
                        Section::Layers,
                        Error::Config(ConfigField::AttentionType | ConfigField::ConvTaps),
                    ) => true,
                    _ => error == Error::Checksum(*section),
                },
            };
            assert!(right, "byte {at}, bit {bit}: {error:?}");
            image[at] ^= 1 << bit;
        }
    }
    assert_eq!(open(&image), Ok(()));
}

#[test]
fn gaps_and_reserved_fields_must_be_zero_even_if_the_checksums_are_right() {
    let whole = image(DType::F16);
    let mut fields: Vec<_> = (24..32)
        .chain(200..256)
        .map(|at| (at, Error::Layout(Section::Header)))
        .collect();
    fields.extend(
        (0..7)
            .flat_map(|s| 52 + 24 * s..56 + 24 * s)
            .map(|at| (at, Error::Layout(Section::Header))),
    );
    let (config, _) = place(&whole, Section::Config);
    fields.push((config + 35, Error::Config(ConfigField::Flags)));
    let (rope, _) = place(&whole, Section::Rope);
    fields.extend((rope + 4..rope + 8).map(|at| (at, Error::Config(ConfigField::Rope))));
    let (tensors, _) = place(&whole, Section::Tensors);
    fields.extend([2, 3].map(|at| {
        (
            tensors + at,
            Error::Tensor(TensorId {
                layer: 0,
                kind: TensorKind::Embedder,
            }),
        )
    }));
    let (weights, _) = place(&whole, Section::Weights);
    let model = Model::open(&whole).unwrap();
    let ids: Vec<_> = model.tensors().collect();
    let mut end = 0;
    for (index, &id) in ids.iter().enumerate() {
        let start = u64_at(&whole, tensors + 16 * index + 8) as usize;
        fields.extend((end..start).map(|at| (weights + at, Error::Tensor(id))));
        let (dtype, rows, columns) = model.tensor_type(id).unwrap();
        end = start
            + if id.kind.is_matrix() {
                dtype.matrix_bytes(rows, columns).unwrap()
            } else {
                4 * columns
            };
    }
    assert!(fields.len() > 200, "the tensors leave no gaps");
    for (at, expected) in fields {
        let mut image = AlignedBytes::copy_of(&whole);
        image[at] |= 0x80;
        repair(&mut image);
        assert_eq!(open(&image), Err(expected), "byte {at}");
    }
}

#[test]
fn fields_that_make_no_model_are_refused_by_name() {
    let whole = image(DType::F32);
    let (config, _) = place(&whole, Section::Config);
    let (rope, _) = place(&whole, Section::Rope);
    let (layers, _) = place(&whole, Section::Layers);
    let numbers = [
        (0, ConfigField::NumKvHeads),
        (4, ConfigField::QueryHeadMultiplier),
        (8, ConfigField::EmbeddingDim),
        (12, ConfigField::ProjectionDim),
        (16, ConfigField::MlpHiddenDim),
        (20, ConfigField::NumDecoderBlocks),
        (24, ConfigField::VocabSize),
    ];
    let mut cases: Vec<(usize, u32, Error)> = numbers
        .map(|(at, field)| (config + at, 0, Error::Config(field)))
        .into();
    let words = [
        (12, 5, ConfigField::ProjectionDim),
        (20, 4, ConfigField::NumDecoderBlocks),
        (20, u32::MAX, ConfigField::NumDecoderBlocks),
        (28, 3, ConfigField::MlpVariant),
        (68, DType::ALL.len() as u32, ConfigField::ParameterDtype),
        (72, u32::MAX, ConfigField::ActivationDtype),
    ];
    cases.extend(words.map(|(at, word, field)| (config + at, word, Error::Config(field))));
    let floats = [
        (
            36,
            ConfigField::EmbeddingScale,
            &[0.0, f32::NAN, f32::INFINITY][..],
        ),
        (
            40,
            ConfigField::QueryScalingFactor,
            &[-0.0, f32::NAN, f32::NEG_INFINITY],
        ),
        (
            44,
            ConfigField::RmsNormEps,
            &[0.0, -1e-6, f32::NAN, f32::INFINITY],
        ),
        (
            48,
            ConfigField::FinalLogitSoftcap,
            &[0.0, -5.0, f32::NAN, f32::INFINITY],
        ),
        (
            56,
            ConfigField::RopeWavelength,
            &[0.0, -1.0, f32::NAN, f32::INFINITY],
        ),
        (
            80,
            ConfigField::AttnTemperature,
            &[0.0, -1.0, f32::NAN, f32::INFINITY],
        ),
    ];
    for (at, field, bad) in floats {
        cases.extend(
            bad.iter()
                .map(|x| (config + at, x.to_bits(), Error::Config(field))),
        );
    }
    cases.extend(
        [0.0, -1.0, f32::NAN, f32::INFINITY]
            .map(|x| (rope, x.to_bits(), Error::Config(ConfigField::Rope))),
    );
    cases.push((config + 84, 0, Error::Layout(Section::Config)));
    let (_, rope_length) = place(&whole, Section::Rope);
    for bad in [f32::NAN, f32::INFINITY] {
        let last_factor = rope + rope_length - 4;
        let expected = Error::Config(ConfigField::AttnTemperature);
        cases.push((last_factor, bad.to_bits(), expected));
    }
    cases.push((layers + 4, 4, Error::Config(ConfigField::AttentionType)));
    // A convolution without taps, and one with other taps than the last layer.
    for (at, word) in [(layers + 4, 3), (layers + 12, 3), (layers + 16, 0)] {
        cases.push((at, word, Error::Config(ConfigField::ConvTaps)));
    }
    let query = TensorId {
        layer: 0,
        kind: TensorKind::Query,
    };
    let norm = TensorId {
        layer: 0,
        kind: TensorKind::PreAttentionNorm,
    };
    let (tensors, _) = place(&whole, Section::Tensors);
    let (weights, _) = place(&whole, Section::Weights);
    let model = Model::open(&whole).unwrap();
    for id in [query, norm] {
        let entry = tensors + 16 * model.tensors().position(|other| other == id).unwrap();
        let offset = u64_at(&whole, entry + 8);
        for bad in [f32::NAN, f32::INFINITY] {
            cases.push((
                weights + offset as usize + 8,
                bad.to_bits(),
                Error::NotFinite(id),
            ));
        }
        // The first word of an entry is kind, element type, and a zero.
        for word in [
            id.kind as u32 | (DType::ALL.len() as u32) << 8,
            id.kind as u32 | 1 << 16,
            TensorKind::Value as u32,
        ] {
            cases.push((entry, word, Error::Tensor(id)));
        }
        cases.push((entry + 4, 1, Error::Tensor(id)));
        for offset in [offset + 64, offset - 64, offset + 1, u32::MAX.into()] {
            cases.push((entry + 8, offset as u32, Error::Tensor(id)));
        }
        if id == norm {
            cases.push((entry, id.kind as u32 | 1 << 8, Error::Tensor(id)));
        }
    }
    for (at, word, expected) in cases {
        let mut image = AlignedBytes::copy_of(&whole);
        put(&mut image, at, word);
        repair(&mut image);
        assert_eq!(open(&image), Err(expected), "word {word:#x} at byte {at}");
    }
    let mut image = AlignedBytes::copy_of(&whole);
    let (template, _) = place(&whole, Section::ChatTemplate);
    image[template] = 0xff;
    repair(&mut image);
    assert_eq!(open(&image), Err(Error::ChatTemplate));
}

#[test]
fn damaged_images_with_correct_checksums_are_refused_or_run() {
    let images = DType::ALL.map(image);
    let mut arena = AlignedBytes::zeroed(64 << 20);
    let mut ran = 0;
    let mut refused = 0;
    for seed in 0..60_000 {
        let numbers = &mut Numbers::new(seed);
        let mut image = AlignedBytes::copy_of(&images[seed as usize % images.len()]);
        for _ in 0..numbers.within(1..=3) {
            // Mostly where structure is: the header, and the sections before the weights.
            let section = numbers.pick(&Section::ALL);
            let header = numbers.one_in(4);
            let (start, length) = if header {
                (16, 184)
            } else {
                place(&image, section)
            };
            let Some(end) = start
                .checked_add(length)
                .filter(|&end| length >= 8 && end <= image.len())
            else {
                continue;
            };
            let at = start + numbers.within(0..=(length as u32 - 4) / 4) as usize * 4;
            let word = u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
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
            match numbers.within(0..=7) {
                0 => put(&mut image, at, numbers.pick(&special)),
                1 => put(&mut image, at, word.wrapping_add(1)),
                2 => put(&mut image, at, word.wrapping_sub(1)),
                3 => put(&mut image, at, word ^ 1 << numbers.within(0..=31)),
                4 => put(&mut image, at, numbers.bits()),
                5 if at + 8 <= end => put(
                    &mut image,
                    at,
                    u64::from(word).wrapping_mul(numbers.bits().into()) << 6,
                ),
                6 => {
                    let a = numbers.within(0..=6) as usize;
                    let b = numbers.within(0..=6) as usize;
                    for i in 0..20 {
                        image.swap(32 + 24 * a + i, 32 + 24 * b + i);
                    }
                }
                _ => {
                    let other = start + numbers.within(0..=(length as u32 - 4) / 4) as usize * 4;
                    (0..4).for_each(|i| image.swap(at + i, other + i));
                }
            }
        }
        repair(&mut image);
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&image, &mut arena))) {
            Ok(Ok(true)) => ran += 1,
            Ok(_) => refused += 1,
            Err(_) => panic!("seed {seed}"),
        }
    }
    assert!(
        ran > 3000 && refused > 3000,
        "{ran} ran, {refused} refused: one of them is too rare"
    );
}

#[test]
fn what_is_not_an_image_is_refused() {
    assert_eq!(open(&[]), Err(Error::NotAnImage));
    assert_eq!(open(&AlignedBytes::zeroed(4096)), Err(Error::NotAnImage));
    let image = image(DType::Q8);
    for shift in [1, 4, 8, 32, 63] {
        let mut shifted = AlignedBytes::zeroed(image.len() + shift);
        shifted[shift..].copy_from_slice(&image);
        assert_eq!(open(&shifted[shift..]), Err(Error::Unaligned(64)));
    }
    for version in [0, 2, u32::MAX] {
        let mut other = AlignedBytes::copy_of(&image);
        put(&mut other, 8, version);
        repair(&mut other);
        assert_eq!(open(&other), Err(Error::Version(version)));
    }
}

#[test]
fn a_model_without_a_tokenizer_opens_and_says_so() {
    let description = random::plain(vec![window(0, Rope::Global)]);
    let image = Memory::new(description, 1).pack_with(PackOptions::default());
    let model = Model::open(&image).unwrap();
    assert_eq!(model.tokenizer().err(), Some(Error::NoTokenizer));
}

#[test]
fn absurd_sizes_neither_open_nor_plan() {
    let whole = image(DType::Q8);
    let (config, _) = place(&whole, Section::Config);
    for field in [0, 4, 8, 12, 16, 24] {
        for value in [u32::MAX, u32::MAX - 1, 1 << 31, 1 << 16] {
            let mut image = AlignedBytes::copy_of(&whole);
            put(&mut image, config + field, value);
            repair(&mut image);
            assert!(open(&image).is_err(), "config word {field} as {value}");
        }
    }
    // All of them at once: the header alone can still be planned for, and no arena is large enough.
    let mut image = AlignedBytes::copy_of(&whole);
    for field in [0, 4, 8, 12, 16, 24] {
        put(&mut image, config + field, u32::MAX - 1);
    }
    repair(&mut image);
    let header = Header::read(&image).unwrap();
    for kv in Kv::ALL {
        for (context, batch) in [(1, 1), (u32::MAX, u32::MAX)] {
            assert_eq!(
                Plan::new(&header)
                    .context(context)
                    .batch(batch)
                    .kv(kv)
                    .bytes(),
                usize::MAX
            );
        }
    }
}

#[test]
fn limits_plans_and_arenas_that_do_not_fit_are_refused() {
    let images = [image(DType::Q8), image(DType::F32)];
    let [model, other] = [0, 1].map(|i| Model::open(&images[i]).unwrap());
    let plan = Plan::new(model.header()).context(10).batch(3);
    let mut arena = AlignedBytes::zeroed(plan.bytes() + 64);
    let mut refusal = |model: &Model<'_>, plan: Plan<'_>, cut: std::ops::Range<usize>| {
        Session::new(model, &plan, &mut arena[cut], &Solo).err()
    };
    let bytes = plan.bytes();
    let all = 0..plan.bytes();
    assert_eq!(refusal(&model, plan, all.clone()), None);
    assert_eq!(
        refusal(&model, plan.context(0), all.clone()),
        Some(Error::Limits)
    );
    assert_eq!(
        refusal(&model, plan.batch(0), all.clone()),
        Some(Error::Limits)
    );
    assert_eq!(
        refusal(&model, plan.logits(0), all.clone()),
        Some(Error::Limits)
    );
    assert_eq!(refusal(&other, plan, all.clone()), Some(Error::ForeignPlan));
    let too_small = |needed, found| Some(Error::ArenaTooSmall { needed, found });
    assert_eq!(
        refusal(&model, plan, 0..bytes - 1),
        too_small(bytes, bytes - 1)
    );
    assert_eq!(refusal(&model, plan, 0..0), too_small(bytes, 0));
    let astronomic = plan.context(u32::MAX).batch(u32::MAX);
    assert_eq!(
        refusal(&model, astronomic, all.clone()),
        too_small(astronomic.bytes(), bytes)
    );
    for shift in [1, 4, 32] {
        assert_eq!(
            refusal(&model, plan, shift..bytes + shift),
            Some(Error::Unaligned(64))
        );
    }
    // A batch longer than the context is no mistake, only memory for nothing.
    let mut arena = AlignedBytes::zeroed(plan.batch(1000).bytes());
    assert_eq!(
        Session::new(&model, &plan.batch(1000), &mut arena, &Solo)
            .unwrap()
            .feed(&[0; 10])
            .unwrap()
            .len(),
        43
    );
}

#[test]
fn a_plan_made_at_compile_time_is_the_plan_made_at_run_time() {
    const HEADER: Header<'static> = match Header::read(pocketlm::include_image!(
        "../../src/bin/pocketlm/story/story.plm"
    )) {
        Ok(header) => header,
        Err(_) => panic!("story.plm is not an image of this version"),
    };
    const PLAN: Plan<'static> = Plan::new(&HEADER).context(150).batch(6).kv(Kv::Bf16);
    static MEMORY: [u8; PLAN.bytes()] = [0; PLAN.bytes()];

    let model = Model::open(STORY).unwrap();
    let plan = Plan::new(model.header()).context(150).batch(6).kv(Kv::Bf16);
    assert_eq!(PLAN.parts(), plan.parts());
    assert_eq!(MEMORY.len(), plan.bytes());
    assert_eq!(
        plan.parts().iter().map(|part| part.bytes).sum::<usize>(),
        plan.bytes()
    );
    let mut arena = AlignedBytes::zeroed(PLAN.bytes());
    let mut session = session_in(&model, &PLAN, &mut arena);
    assert_eq!(
        session.feed(&[2, 17, 40]).unwrap().len(),
        model.config().vocab_size as usize
    );
}

#[test]
fn every_refusal_is_a_sentence_with_its_numbers() {
    let id = TensorId {
        layer: 3,
        kind: TensorKind::Query,
    };
    for (error, sentence) in [
        (
            Error::NotAnImage,
            "not a pocketlm image (the first 8 bytes are not \"pocketlm\")",
        ),
        (
            Error::Version(7),
            "image format version 7; this build reads version 1: pack the checkpoint again",
        ),
        (
            Error::Truncated {
                expected: 4096,
                found: 100,
            },
            "the image should have 4096 bytes and has 100: copy or pack it again",
        ),
        (
            Error::Unaligned(64),
            "memory must start at a multiple of 64 bytes",
        ),
        (
            Error::Layout(Section::Tensors),
            "the tensors section has a wrong place or length, or data where zeros must be",
        ),
        (
            Error::Checksum(Section::ChatTemplate),
            "the chat template section is damaged: its checksum differs",
        ),
        (
            Error::Config(ConfigField::ProjectionDim),
            "config: projection_dim must be even and above 0",
        ),
        (
            Error::Tensor(id),
            "tensor block_3/attention/query.weights is missing, misplaced or of a type it cannot \
             have",
        ),
        (
            Error::NotFinite(id),
            "tensor block_3/attention/query.weights holds an infinity or NaN",
        ),
        (
            Error::Disabled(DType::Q4),
            "this build has no q4 kernels: enable the cargo feature q4",
        ),
        (
            Error::ConvolutionDisabled,
            "this build has no convolutions: enable the cargo feature convolution",
        ),
        (
            Error::ArenaTooSmall {
                needed: 640,
                found: 64,
            },
            "the arena has 64 bytes, the plan needs 640: a shorter context or batch needs less",
        ),
        (
            Error::ContextFull { room: 5 },
            "the context has room for 5 more tokens: plan a longer one, rewind or reset",
        ),
        (
            Error::TokenOutOfRange {
                token: 99,
                vocab_size: 43,
            },
            "token id 99 is not in a vocabulary of 43",
        ),
    ] {
        assert_eq!(error.to_string(), sentence);
    }
    assert!(
        Error::RewindTooFar { possible: 8 }
            .to_string()
            .contains("only 8 tokens can be taken back")
    );
    assert!(Error::Position(4).to_string().contains("position 4 "));
}
