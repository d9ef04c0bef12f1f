//! Numbers at their limits: what is still right, and what is defined where f32 ends.

use crate::common::in_f64::{Reference, read};
use crate::common::random::{self, Memory, window};
use crate::common::session::arena_for;
use pocketlm::Error;
use pocketlm::host::AlignedBytes;
use pocketlm::import::{self, Checkpoint, Description, Element, ImportError, PackOptions, Tensor};
use pocketlm::model::{DType, Kv, Model, Rope, TensorId, TensorKind};
use pocketlm::run::{Engine, Isa, Plan, Session, Solo};
use pocketlm::sample::Sampler;

const IDS: [u32; 6] = [3, 1, 40, 7, 7, 22];

/// A model with the weights of another, changed.
struct Changed<'c> {
    model: &'c Memory,
    description: Description,
    change: &'c dyn Fn(TensorId, f32) -> f32,
}

impl Checkpoint for Changed<'_> {
    fn description(&self) -> &Description {
        &self.description
    }

    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        let tensor = self.model.tensor(id)?;
        let data: Vec<u8> = read(&tensor)
            .into_iter()
            .flatten()
            .flat_map(|w| (self.change)(id, w).to_le_bytes())
            .collect();
        Tensor::dense(
            Element::F32,
            data,
            tensor.row_count(),
            tensor.column_count(),
        )
    }
}

fn description() -> Description {
    let mut description = random::plain(vec![window(0, Rope::Global), window(3, Rope::Global)]);
    description.config.qkv_bias = true;
    description
}

fn pack(checkpoint: &dyn Checkpoint, dtype: DType) -> AlignedBytes {
    let options = PackOptions {
        dtype: Some(dtype),
        ..PackOptions::default()
    };
    import::pack_to_memory(checkpoint, &options, &mut |_, _| {}).unwrap()
}

/// The logits of the last token, the same bits from every kernel table.
fn logits(image: &[u8], kv: Kv) -> Vec<f32> {
    let model = Model::open(image).unwrap();
    let plan = Plan::new(model.header()).context(8).batch(4).kv(kv);
    let mut arena = arena_for(&plan);
    let mut all = Isa::available().map(|isa| {
        let mut session = Session::new(
            &model,
            &plan,
            &mut arena,
            Engine {
                isa,
                workers: &Solo,
            },
        )
        .unwrap();
        session.feed(&IDS).unwrap().to_vec()
    });
    let first = all.next().unwrap();
    let bits = |logits: &[f32]| {
        logits
            .iter()
            .map(|z| if z.is_nan() { 1 } else { z.to_bits() })
            .collect::<Vec<_>>()
    };
    assert!(all.all(|other| bits(&other) == bits(&first)));
    first
}

/// The largest difference from the f64 oracle, as a part of the largest logit.
fn distance(checkpoint: &dyn Checkpoint, logits: &[f32]) -> f64 {
    let expected = Reference::new(checkpoint).logits(&IDS).pop().unwrap();
    let largest = expected
        .iter()
        .fold(0f64, |largest, z| largest.max(z.abs()));
    expected
        .iter()
        .zip(logits)
        .fold(0f64, |worst, (e, &z)| worst.max((e - f64::from(z)).abs()))
        / largest
}

#[test]
fn activations_of_all_sizes_that_f32_can_square_are_right() {
    for scale in [1e-42, 1e-30, 1e-18, 1e-6, 1.0, 1e6, 1e12, 1e18] {
        let mut description = description();
        description.config.embedding_scale = scale;
        let checkpoint = Memory::new(description, 1);
        for (dtype, kv) in [(DType::F32, Kv::F32), (DType::F32, Kv::F16)] {
            let found = distance(&checkpoint, &logits(&pack(&checkpoint, dtype), kv));
            assert!(
                found < if kv == Kv::F32 { 1e-4 } else { 1e-2 },
                "scale {scale}, {kv:?}: {found}"
            );
        }
    }
}

#[test]
fn larger_activations_give_numbers_or_nan_and_no_token() {
    for scale in [1e20, 1e30, 1e38] {
        let mut description = description();
        description.config.embedding_scale = scale;
        for dtype in DType::ALL {
            for kv in Kv::ALL {
                let mut logits = logits(&pack(&Memory::new(description.clone(), 1), dtype), kv);
                // The mean square is infinite, so what is normed is 0.
                assert!(
                    logits.iter().all(|&z| z == 0.0 || z.is_nan()),
                    "{scale}, {dtype:?}, {kv:?}: {logits:?}"
                );
                let nan = logits.iter().all(|z| z.is_nan());
                let token = Sampler::greedy().sample(&mut logits);
                assert_eq!(token, if nan { Err(Error::NoCandidate) } else { Ok(0) });
            }
        }
    }
}

#[test]
fn scores_may_be_as_large_as_f32_and_overflow_to_nan_and_no_token() {
    let with = |scale: f32| {
        let mut description = description();
        description.config.query_scaling_factor = scale;
        Memory::new(description, 1)
    };
    // One key takes all.
    let checkpoint = with(1e30);
    assert!(
        distance(
            &checkpoint,
            &logits(&pack(&checkpoint, DType::F32), Kv::F32)
        ) < 1e-4
    );
    for kv in Kv::ALL {
        let image = pack(&with(3e38), DType::F32);
        let mut logits = logits(&image, kv);
        assert!(logits.iter().all(|z| z.is_nan()), "{kv:?}");
        assert_eq!(
            Sampler::greedy().sample(&mut logits),
            Err(Error::NoCandidate)
        );
    }
}

#[test]
fn values_that_f16_cannot_hold_are_kept_as_its_largest() {
    let model = Memory::new(description(), 1);
    let large = |kept: bool| {
        move |id: TensorId, w: f32| match id.kind {
            TensorKind::ValueBias => (if kept { 65504f32 } else { 1e9 }).copysign(w),
            TensorKind::Value if kept => 0.0,
            _ => w,
        }
    };
    let image = |kept| {
        pack(
            &Changed {
                model: &model,
                description: description(),
                change: &large(kept),
            },
            DType::F32,
        )
    };
    let bits = |logits: Vec<f32>| logits.iter().map(|z| z.to_bits()).collect::<Vec<_>>();
    assert_eq!(
        bits(logits(&image(false), Kv::F16)),
        bits(logits(&image(true), Kv::F16))
    );
    // Other types have the range.
    let checkpoint = Changed {
        model: &model,
        description: description(),
        change: &large(false),
    };
    for (kv, most) in [(Kv::F32, 1e-4), (Kv::Bf16, 1e-2)] {
        assert!(
            distance(&checkpoint, &logits(&image(false), kv)) < most,
            "{kv:?}"
        );
    }
}

#[test]
fn weights_that_are_not_finite_are_not_packed() {
    let model = Memory::new(description(), 1);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for kind in [
            TensorKind::Embedder,
            TensorKind::Key,
            TensorKind::KeyBias,
            TensorKind::FinalNorm,
        ] {
            let change = |id: TensorId, w: f32| if id.kind == kind { bad } else { w };
            let changed = Changed {
                model: &model,
                description: description(),
                change: &change,
            };
            for dtype in DType::ALL {
                let options = PackOptions {
                    dtype: Some(dtype),
                    ..PackOptions::default()
                };
                assert!(
                    import::pack_to_memory(&changed, &options, &mut |_, _| {}).is_err(),
                    "{kind:?}, {dtype:?}"
                );
            }
        }
    }
}
