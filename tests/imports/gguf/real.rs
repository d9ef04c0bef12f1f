//! The two real models, if they have been fetched: `$POCKETLM_MODELS`, or

//! `~/.cache/pocketlm/models`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use pocketlm::import::{Checkpoint, Element, gguf};
use pocketlm::model::{Config, DType, Layer, MlpVariant, Rope, TensorId, TensorKind};

use super::support::{largest_request, tensors};

fn model(name: &str) -> Option<PathBuf> {
    let given = std::env::var_os("POCKETLM_MODELS").map(PathBuf::from);
    let usual = || std::env::home_dir().map(|home| home.join(".cache/pocketlm/models"));
    let path = given.or_else(usual)?.join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("not checked, {} is missing: a real model", path.display());
    None
}

/// Reads the first and last row of every tensor, which must be finite and not all zero.
fn touch(checkpoint: &impl Checkpoint) {
    for id in tensors(&checkpoint.description().config) {
        let tensor = checkpoint.tensor(id).unwrap();
        let mut row = vec![0.0; tensor.column_count()];
        for r in [0, tensor.row_count() - 1] {
            tensor.row(r, &mut row).unwrap();
            assert!(
                row.iter().all(|x| x.is_finite()) && row.iter().any(|&x| x != 0.0),
                "{id:?} row {r}"
            );
        }
    }
}

#[test]
fn smollm2_135m_opens_as_itself() {
    let Some(path) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let checkpoint = gguf::open(&path).unwrap();
    let description = checkpoint.description();
    let expected = Config {
        num_kv_heads: 3,
        query_head_multiplier: 3,
        embedding_dim: 576,
        projection_dim: 64,
        mlp_hidden_dim: 1536,
        num_decoder_blocks: 30,
        vocab_size: 49_152,
        tie_embedder_and_logits: true,
        rope_wavelength: 100_000.0,
        query_scaling_factor: 0.125,
        parameter_dtype: DType::Q4Min,
        max_position_embeddings: NonZeroU32::new(8192),
        ..Config::PLAIN
    };
    assert_eq!(description.config, expected);
    assert_eq!(
        description.layers,
        [Layer {
            rope: Rope::Global,
            ..Layer::default()
        }; 30]
    );
    assert!(
        description
            .chat_template
            .clone()
            .unwrap()
            .unwrap()
            .contains("<|im_start|>")
    );
    touch(&checkpoint);
}

#[test]
fn gemma3_270m_opens_as_itself() {
    let Some(path) = model("gemma-3-270m-q4_k_m.gguf") else {
        return;
    };
    let checkpoint = gguf::open(&path).unwrap();
    let description = checkpoint.description();
    let expected = Config {
        num_kv_heads: 1,
        query_head_multiplier: 4,
        embedding_dim: 640,
        projection_dim: 256,
        mlp_hidden_dim: 2048,
        num_decoder_blocks: 18,
        vocab_size: 262_144,
        mlp_variant: MlpVariant::GegluApprox,
        tie_embedder_and_logits: true,
        embedding_scale: 25.298_222, // 640^0.5
        rope_wavelength: 1e6,
        local_rope_wavelength: Some(10_000.0),
        rms_norm_eps: 1e-6,
        use_post_attn_norm: true,
        use_post_ffw_norm: true,
        query_scaling_factor: 0.0625,
        parameter_dtype: DType::Q5, // most matrices are Q5_0
        use_qk_norm: true,
        max_position_embeddings: NonZeroU32::new(32_768),
        ..Config::PLAIN
    };
    assert_eq!(description.config, expected);
    for (i, layer) in description.layers.iter().enumerate() {
        let expected = match i % 6 {
            5 => Layer {
                rope: Rope::Global,
                ..Layer::default()
            },
            _ => Layer {
                window: NonZeroU32::new(512),
                rope: Rope::Local,
                ..Layer::default()
            },
        };
        assert_eq!(*layer, expected, "layer {i}");
    }
    assert!(
        description.global_rope.frequencies[1]
            < description.local_rope.as_ref().unwrap().frequencies[1]
    );
    let stored = |layer, kind| {
        checkpoint
            .tensor(TensorId { layer, kind })
            .unwrap()
            .element()
    };
    assert_eq!(stored(0, TensorKind::Query), Element::Q5_0);
    assert_eq!(stored(0, TensorKind::OutLinear), Element::Q6_K);
    touch(&checkpoint);
    // The embedding table is 178 MB in the file; what is made of it are the starts of its rows.
    let embedder = TensorId {
        layer: 0,
        kind: TensorKind::Embedder,
    };
    assert!(largest_request(|| checkpoint.tensor(embedder)).1 <= 8 * 262_144);
}
