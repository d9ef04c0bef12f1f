//! Small random models with outliers, as real ones have.

use std::collections::BTreeMap;
use std::prelude::rust_2024::*;

use super::*;
use crate::import::{Element, RopeTable};
use crate::model::{Config, Layer, LayerKind, Rope};

struct Random {
    description: Description,
    tensors: BTreeMap<TensorId, Vec<f32>>,
}

fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next() + next() + next()).collect()
}

impl Random {
    fn new() -> Random {
        let config = Config {
            num_kv_heads: 1,
            query_head_multiplier: 2,
            embedding_dim: 64,
            projection_dim: 16,
            mlp_hidden_dim: 80,
            num_decoder_blocks: 2,
            vocab_size: 100,
            query_scaling_factor: 0.25,
            tie_embedder_and_logits: true,
            ..Config::PLAIN
        };
        let layer = Layer {
            rope: Rope::Global,
            ..Layer::default()
        };
        Random::with(config, [layer; 2])
    }

    /// A model with these layers.
    fn with(config: Config, layers: [Layer; 2]) -> Self {
        let description = Description {
            config,
            layers: layers.into(),
            global_rope: RopeTable {
                amplitude: 1.0,
                frequencies: (0..8).map(|i| 0.5f64.powi(i)).collect(),
            },
            local_rope: None,
            tokenizer: None,
            chat_template: None,
        };
        let mut tensors = BTreeMap::new();
        for (seed, id) in description.tensor_ids().enumerate() {
            let (rows, columns) = id.kind.shape(&config).unwrap();
            let mut values = numbers(seed as u64 + 1, rows * columns);
            if id.kind.is_matrix() {
                values.iter_mut().for_each(|x| *x *= 0.3);
            } else {
                // Some channels are far larger than others.
                (0..columns).for_each(|c| values[c] = if c % 9 == 0 { 6.0 } else { 0.7 });
            }
            tensors.insert(id, values);
        }
        Random {
            description,
            tensors,
        }
    }

    fn tensor_mut(&mut self, kind: TensorKind) -> &mut [f32] {
        self.tensors.get_mut(&TensorId { layer: 0, kind }).unwrap()
    }
}

impl Checkpoint for Random {
    fn description(&self) -> &Description {
        &self.description
    }

    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        let (rows, columns) = id.kind.shape(&self.description.config).unwrap();
        let bytes = bytemuck::cast_slice(&self.tensors[&id]);
        Tensor::dense(Element::F32, bytes, rows, columns)
    }
}

/// Sequences of tokens that follow each other in a few ways only, so that inputs are correlated.
fn calibration(sequences: usize, length: usize) -> Calibration {
    let sequence = |seed: usize| -> Vec<u32> {
        let mut id = seed as u32 % 100;
        (0..length)
            .map(|i| {
                id = (id * 3 + 7 + (i * seed) as u32 % 3) % 40;
                id
            })
            .collect()
    };
    Calibration {
        sequences: (1..sequences + 1).map(sequence).collect(),
        held_out: (1000..1004).map(sequence).collect(),
    }
}

fn all(dtype: DType) -> PackOptions {
    PackOptions {
        dtype: Some(dtype),
        ..PackOptions::default()
    }
}

fn words(quantized: &Quantized<'_>) -> Vec<Vec<u32>> {
    quantized
        .packed
        .values()
        .map(|matrix| matrix.words.clone())
        .collect()
}

fn with(checkpoint: &Random, dtype: DType, calibration: Option<&Calibration>) -> Vec<Vec<u32>> {
    words(&quantize(checkpoint, &all(dtype), calibration, &mut |_| {}).unwrap())
}

const TYPES: [DType; 5] = [DType::Q6, DType::Q5, DType::Q4, DType::Nl4, DType::Nl3];

#[test]
fn threads_and_instruction_sets_change_no_byte() {
    let checkpoint = Random::new();
    let calibration = calibration(20, 60);
    let expected = with(&checkpoint, DType::Nl4, Some(&calibration));
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let found = pool.install(|| with(&checkpoint, DType::Nl4, Some(&calibration)));
        assert!(found == expected, "{threads} threads");
    }
    for isa in Isa::available() {
        let options = all(DType::Nl4);
        let found = quantize_with(&checkpoint, &options, Some(&calibration), isa, &mut |_| {});
        assert!(words(&found.unwrap()) == expected, "{}", isa.name());
    }
}

#[test]
fn calibration_brings_the_model_nearer_to_its_checkpoint() {
    let checkpoint = Random::new();
    let calibration = calibration(40, 60);
    let mut last = 0.0;
    for dtype in TYPES {
        let kl = |calibrated| {
            let quantized = quantize(&checkpoint, &all(dtype), calibrated, &mut |_| {}).unwrap();
            measure(&checkpoint, &quantized, &calibration).unwrap().kl
        };
        let (plain, calibrated) = (kl(None), kl(Some(&calibration)));
        assert!(calibrated < 0.8 * plain, "{dtype:?}: {calibrated} {plain}");
        assert!(
            calibrated > last || dtype == DType::Nl4,
            "{dtype:?}: {calibrated} {last}"
        );
        last = calibrated;
    }
}

/// A matrix that writes to the hidden rows is corrected for the errors of the matrices before it.
/// So a model with such matrices in six bits is better than one that keeps them in f32.
#[test]
fn writers_make_up_for_the_errors_before_them() {
    let norms = with_norms_after_branches;
    for checkpoint in [Random::new(), norms(false), norms(true)] {
        let calibration = calibration(40, 60);
        let kl = |of_writers: DType| {
            let writers = checkpoint.description.tensor_ids();
            let writers = writers.filter(|id| layer::WRITERS.concat().contains(&id.kind));
            let options = PackOptions {
                types: writers.map(|id| (id, of_writers)).collect(),
                embedder_dtype: Some(DType::F32),
                ..all(DType::Nl3)
            };
            let quantized = quantize(&checkpoint, &options, Some(&calibration), &mut |_| {});
            let quantized = quantized.unwrap();
            measure(&checkpoint, &quantized, &calibration).unwrap().kl
        };
        let (corrected, as_it_is) = (kl(DType::Q6), kl(DType::F32));
        assert!(corrected < 0.8 * as_it_is, "{corrected} {as_it_is}");
    }
}

/// A model like Gemma 3. The biases are larger than what they are added to.
fn with_norms_after_branches(has_biases: bool) -> Random {
    let Description { config, layers, .. } = Random::new().description;
    let config = Config {
        use_post_attn_norm: true,
        use_post_ffw_norm: true,
        output_bias: has_biases,
        mlp_bias: has_biases,
        ..config
    };
    let mut checkpoint = Random::with(config, [layers[0]; 2]);
    for (id, values) in &mut checkpoint.tensors {
        if layer::POST_NORMS.contains(&id.kind) {
            values.iter_mut().for_each(|x| *x *= 0.02);
        }
    }
    checkpoint
}

#[test]
fn calibration_helps_models_with_norms_after_their_branches() {
    let checkpoint = with_norms_after_branches(false);
    let calibration = calibration(40, 60);
    let mut errors = BTreeMap::new();
    let mut kl = |calibrated| {
        let mut keep = |progress: Progress| {
            errors.insert(progress.matrix, progress.error);
        };
        let quantized = quantize(&checkpoint, &all(DType::Nl4), calibrated, &mut keep).unwrap();
        measure(&checkpoint, &quantized, &calibration).unwrap().kl
    };
    let (plain, calibrated) = (kl(None), kl(Some(&calibration)));
    assert!(calibrated < 0.8 * plain, "{calibrated} {plain}");
    // The last call knew the inputs of each of them.
    assert!(
        errors
            .values()
            .all(|error| error.is_some_and(|error| error < 0.05))
    );
}

#[test]
fn a_factor_solves_for_rows_of_any_width() {
    for width in [1, 2, 31, 32, 33, 70] {
        let mut moments = moments::Moments::new(width);
        let inputs = numbers(width as u64, 3 * width * width);
        let inputs = moments::Columns::new(&inputs, width);
        moments.add(&inputs, Isa::best());
        let factor = moments.factor(0.1).unwrap();
        let expected: Vec<Vec<f32>> = (1..4).map(|seed| numbers(seed, width)).collect();
        let times_h = |row: &Vec<f32>| -> Vec<f32> {
            let h = factor.damped.chunks_exact(width);
            h.map(|h| h.iter().zip(row).map(|(h, x)| h * x).sum())
                .collect()
        };
        let mut found: Vec<Vec<f32>> = expected.iter().map(times_h).collect();
        factor.solve(&mut found);
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!(
                (found - expected).abs() < 1e-3,
                "{width}: {found} {expected}"
            );
        }
    }
}

#[test]
fn calibration_knows_the_inputs_of_convolutions() {
    let Description { config, layers, .. } = Random::new().description;
    let taps = std::num::NonZeroU32::new(3);
    let convolution = Layer {
        kind: LayerKind::Convolution,
        window: taps,
        rope: Rope::None,
    };
    let config = Config {
        conv_taps: taps,
        ..config
    };
    let checkpoint = Random::with(config, [convolution, layers[1]]);
    let calibration = calibration(40, 60);
    let quantized = |calibrated| {
        let mut errors = BTreeMap::new();
        let mut keep = |progress: Progress| {
            errors.insert(progress.matrix, progress.error);
        };
        let quantized = quantize(&checkpoint, &all(DType::Nl4), calibrated, &mut keep).unwrap();
        let kl = measure(&checkpoint, &quantized, &calibration).unwrap().kl;
        (kl, errors)
    };
    let (plain, _) = quantized(None);
    let (calibrated, errors) = quantized(Some(&calibration));
    assert!(calibrated < 0.8 * plain, "{calibrated} {plain}");
    for kind in [
        TensorKind::ConvIn,
        TensorKind::ConvOut,
        TensorKind::GatingLinear,
    ] {
        let error = errors[&TensorId { layer: 0, kind }].unwrap();
        assert!(error > 0.0 && error < 0.05, "{kind:?}: {error}");
    }
    let sensitivity = Sensitivity::measure(&checkpoint, &calibration, &mut |_, _| {}).unwrap();
    let types = sensitivity.types(u64::MAX).unwrap();
    assert_eq!(types.len(), errors.len());
}

#[test]
fn weights_on_the_grid_are_kept() {
    for (dtype, low) in [(DType::Q4, 8), (DType::Q5, 16), (DType::Q6, 32)] {
        let mut checkpoint = Random::new();
        for (id, values) in &mut checkpoint.tensors {
            let on_grid = |(i, x): (usize, &mut f32)| {
                // A scale that f16 holds, another for each 16 weights.
                let scale = (1 + i / 16 % 7) as f32 / 1024.0;
                *x = ((*x * 40.0) as i32 % low) as f32 * scale;
            };
            if id.kind.is_matrix() {
                values.iter_mut().enumerate().for_each(on_grid);
            }
        }
        // In groups of 32 the two scales have a common one only if the levels are few.
        for values in checkpoint.tensors.values_mut() {
            let halves = values.chunks_mut(16).skip(1).step_by(2);
            halves.for_each(|half| half.fill(0.0));
        }
        let calibration = calibration(2, 8);
        let quantized =
            quantize(&checkpoint, &all(dtype), Some(&calibration), &mut |_| {}).unwrap();
        assert!(
            quantized.packed.values().all(|matrix| matrix.is_exact),
            "{dtype:?}"
        );
        let agreement = measure(&checkpoint, &quantized, &calibration).unwrap();
        assert_eq!((agreement.kl, agreement.top1), (0.0, 1.0), "{dtype:?}");
    }
}

#[test]
fn inputs_that_are_always_zero_do_no_harm() {
    let mut checkpoint = Random::new();
    let norm = checkpoint.tensor_mut(TensorKind::PreAttentionNorm);
    norm[5] = 0.0;
    norm[32..].fill(0.0);
    let calibration = calibration(20, 60);
    for dtype in TYPES {
        let options = all(dtype);
        let quantized = quantize(&checkpoint, &options, Some(&calibration), &mut |_| {}).unwrap();
        let id = TensorId {
            layer: 0,
            kind: TensorKind::Query,
        };
        let numbers = layer::dequantized(&quantized, id).unwrap();
        let mut row = vec![0.0; 64];
        for (r, weights) in checkpoint.tensors[&id].chunks_exact(64).enumerate() {
            numbers.row(r, &mut row).unwrap();
            // Half a step of three bits, or a weight that is cut off.
            for (w, x) in weights.iter().zip(&row).skip(32) {
                assert!((w - x).abs() < 0.2, "{dtype:?}: {w} {x}");
            }
        }
    }
}

#[test]
fn too_little_text_is_no_worse_than_none() {
    let checkpoint = Random::new();
    let judge = calibration(40, 60);
    for (sequences, length) in [(1, 1), (1, 60), (5, 2)] {
        let little = calibration(sequences, length);
        let kl = |calibrated| {
            let options = all(DType::Nl4);
            let quantized = quantize(&checkpoint, &options, calibrated, &mut |_| {}).unwrap();
            measure(&checkpoint, &quantized, &judge).unwrap().kl
        };
        let (with, without) = (kl(Some(&little)), kl(None));
        assert!(
            with < 1.2 * without,
            "{sequences} of {length}: {with} {without}"
        );
    }
}

#[test]
fn inputs_that_are_not_numbers_leave_plain_rounding() {
    let mut checkpoint = Random::new();
    checkpoint.tensor_mut(TensorKind::PreAttentionNorm)[3] = f32::MAX;
    let calibration = calibration(20, 60);
    let found = with(&checkpoint, DType::Nl4, Some(&calibration));
    assert!(found == with(&checkpoint, DType::Nl4, None));
}

#[test]
fn weights_that_are_not_numbers_are_refused_by_place() {
    let mut checkpoint = Random::new();
    checkpoint.tensor_mut(TensorKind::Output)[33] = f32::NAN;
    let calibration = calibration(20, 60);
    for calibration in [None, Some(&calibration)] {
        let error = quantize(&checkpoint, &all(DType::Q4), calibration, &mut |_| {})
            .err()
            .unwrap();
        let words = "tensor block_0/attention/output.weights: element [1][1] is NaN";
        assert_eq!(error.to_string(), words);
    }
}

#[test]
fn products_of_any_width_are_added_in_the_order_of_the_rows() {
    for width in 1..=70 {
        for first in [0, width / 3, width - 1, width] {
            let panel = numbers(width as u64, 5 * width);
            let factors = [numbers(1, 5), numbers(2, 5), numbers(3, 5)];
            let start: Vec<Vec<f32>> = (4..7).map(|seed| numbers(seed, width)).collect();
            let mut sums = start.clone();
            feedback::add_products(&panel, &factors, first..width, &mut sums);
            let mut expected = start;
            for (expected, factors) in expected.iter_mut().zip(&factors) {
                for (row, factor) in panel.chunks(width).zip(factors) {
                    for column in first..width {
                        expected[column] += factor * row[column];
                    }
                }
            }
            assert_eq!(sums, expected, "columns {first}..{width}");
        }
    }
}
