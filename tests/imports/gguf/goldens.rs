//! llama.cpp's conversions of Hugging Face folders, against those folders.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::Path;

use half::{bf16, f16};
use pocketlm::import::{Checkpoint, Element, gguf};
use pocketlm::model::{Config, DType, Layer, MlpVariant, Rope, TensorId, TensorKind};
use safetensors::{Dtype, SafeTensors};

use super::support::{bits, rows, tensors};
use crate::common::shared;

/// Name, file of the native type, the config it must give.
fn cases() -> Vec<(&'static str, &'static str, Config)> {
    let llama = Config {
        num_kv_heads: 4,
        query_head_multiplier: 1,
        embedding_dim: 64,
        projection_dim: 16,
        mlp_hidden_dim: 160,
        num_decoder_blocks: 4,
        vocab_size: 512,
        query_scaling_factor: 0.25,
        parameter_dtype: DType::Bf16,
        max_position_embeddings: NonZeroU32::new(256),
        ..Config::PLAIN
    };
    let gemma = Config {
        num_kv_heads: 1,
        query_head_multiplier: 4,
        projection_dim: 32,
        mlp_hidden_dim: 192,
        mlp_variant: MlpVariant::GegluApprox,
        tie_embedder_and_logits: true,
        embedding_scale: 8.0,
        rms_norm_eps: 1e-6,
        query_scaling_factor: 0.176_776_69, // 32^-0.5
        ..llama
    };
    let qwen3 = Config {
        num_kv_heads: 2,
        query_head_multiplier: 2,
        projection_dim: 32,
        mlp_hidden_dim: 192,
        rope_wavelength: 1e6,
        rms_norm_eps: 1e-6,
        query_scaling_factor: 0.176_776_69,
        use_qk_norm: true,
        ..llama
    };
    vec![
        ("llama-mha", "bf16", llama),
        (
            "llama3-gqa-tied",
            "bf16",
            Config {
                num_kv_heads: 2,
                query_head_multiplier: 3,
                embedding_dim: 96,
                mlp_hidden_dim: 224,
                num_decoder_blocks: 5,
                tie_embedder_and_logits: true,
                max_position_embeddings: NonZeroU32::new(512),
                ..llama
            },
        ),
        (
            "llama-bias-sharded",
            "f16",
            Config {
                num_kv_heads: 2,
                query_head_multiplier: 2,
                projection_dim: 32,
                mlp_hidden_dim: 128,
                num_decoder_blocks: 6,
                vocab_size: 320,
                rope_wavelength: 25_000.0,
                rms_norm_eps: 1e-6,
                query_scaling_factor: 0.176_776_69,
                parameter_dtype: DType::F16,
                qkv_bias: true,
                output_bias: true,
                mlp_bias: true,
                max_position_embeddings: NonZeroU32::new(128),
                ..llama
            },
        ),
        (
            "mistral-sw8",
            "bf16",
            Config {
                num_kv_heads: 2,
                query_head_multiplier: 2,
                projection_dim: 24,
                mlp_hidden_dim: 192,
                query_scaling_factor: 0.204_124_15, // 24^-0.5
                ..llama
            },
        ),
        (
            "smollm2-f32",
            "f32",
            Config {
                num_kv_heads: 2,
                query_head_multiplier: 2,
                tie_embedder_and_logits: true,
                rope_wavelength: 1e5,
                parameter_dtype: DType::F32,
                ..llama
            },
        ),
        (
            "qwen2",
            "bf16",
            Config {
                projection_dim: 16,
                tie_embedder_and_logits: true,
                query_scaling_factor: 0.25,
                use_qk_norm: false,
                qkv_bias: true,
                ..qwen3
            },
        ),
        ("qwen3", "bf16", qwen3),
        ("gemma-mqa", "bf16", gemma),
        (
            "gemma2",
            "bf16",
            Config {
                num_kv_heads: 2,
                query_head_multiplier: 2,
                embedding_dim: 96,
                num_decoder_blocks: 5,
                embedding_scale: 9.797_959, // 96^0.5
                use_post_attn_norm: true,
                use_post_ffw_norm: true,
                final_logit_softcap: Some(8.0),
                attn_logits_soft_cap: Some(12.0),
                ..gemma
            },
        ),
        (
            "gemma3",
            "bf16",
            Config {
                mlp_hidden_dim: 128,
                num_decoder_blocks: 7,
                rope_wavelength: 1e6,
                local_rope_wavelength: Some(10_000.0),
                global_scale_factor: Some(8.0),
                use_post_attn_norm: true,
                use_post_ffw_norm: true,
                use_qk_norm: true,
                max_position_embeddings: NonZeroU32::new(512),
                ..gemma
            },
        ),
    ]
}

#[test]
fn configs_say_what_was_converted() {
    let Some(folder) = shared("goldens/gguf") else {
        return;
    };
    for (name, native, expected) in cases() {
        let checkpoint = gguf::open(&folder.join(format!("{name}.{native}.gguf"))).unwrap();
        assert_eq!(checkpoint.description().config, expected, "{name}");
        let checkpoint = gguf::open(&folder.join(format!("{name}.q8_0.gguf"))).unwrap();
        let expected = Config {
            parameter_dtype: DType::Q8,
            ..expected
        };
        assert_eq!(checkpoint.description().config, expected, "{name}.q8_0");
    }
}

#[test]
fn layers_and_rotary_tables_are_those_of_the_family() {
    let Some(folder) = shared("goldens/gguf") else {
        return;
    };
    let global = Layer {
        rope: Rope::Global,
        ..Layer::default()
    };
    let window = NonZeroU32::new(8);
    for (name, native, config) in cases() {
        let checkpoint = gguf::open(&folder.join(format!("{name}.{native}.gguf"))).unwrap();
        let description = checkpoint.description();
        let layers: Vec<Layer> = (0..config.num_decoder_blocks)
            .map(|i| match name {
                "gemma2" if i % 2 == 0 => Layer {
                    window,
                    rope: Rope::Global,
                    ..Layer::default()
                },
                "gemma3" if i != 5 => Layer {
                    window,
                    rope: Rope::Local,
                    ..Layer::default()
                },
                _ => global,
            })
            .collect();
        assert_eq!(description.layers, layers, "{name}");

        let pairs = config.projection_dim / 2;
        let plain = |base: f64, divisor: f64| -> Vec<f32> {
            let frequency = |j: u32| base.powf(-f64::from(j) / f64::from(pairs)) / divisor;
            (0..pairs).map(|j| frequency(j) as f32).collect()
        };
        let as_f32 =
            |frequencies: &[f64]| -> Vec<f32> { frequencies.iter().map(|&f| f as f32).collect() };
        let table = &description.global_rope;
        assert_eq!(table.amplitude, 1.0, "{name}");
        let expected = match name {
            // The folder's llama3 scaling: factor 8, low 1, high 4, original context 64. The waves
            // of the first pair are shorter than 64 / 4 positions and kept, those from the fourth
            // on longer than 64 and stretched.
            "llama3-gqa-tied" => {
                let mut expected = plain(10_000.0, 1.0);
                for frequency in &mut expected[1..3] {
                    let keep = (64.0 * *frequency / std::f32::consts::TAU - 1.0) / 3.0;
                    *frequency *= (1.0 - keep) / 8.0 + keep;
                }
                expected[3..]
                    .iter_mut()
                    .for_each(|frequency| *frequency /= 8.0);
                expected
            }
            "gemma3" => plain(1e6, 8.0),
            _ => plain(config.rope_wavelength.into(), 1.0),
        };
        for (frequency, expected) in as_f32(&table.frequencies).into_iter().zip(expected) {
            // The factors of `rope_freqs` are f32; the platform's powers are good to the last place
            // or two.
            assert!(
                (frequency - expected).abs() <= expected * 2e-7,
                "{name}: {frequency} {expected}"
            );
        }
        let local = description
            .local_rope
            .as_ref()
            .map(|table| as_f32(&table.frequencies));
        assert_eq!(local, (name == "gemma3").then(|| plain(1e4, 1.0)), "{name}");
    }
}

#[test]
fn native_tensors_are_those_of_the_folder_they_were_converted_from() {
    let Some(folder) = shared("goldens") else {
        return;
    };
    for (name, native, config) in cases() {
        let original = Original::read(&folder.join("hf").join(name));
        let checkpoint = gguf::open(&folder.join(format!("gguf/{name}.{native}.gguf"))).unwrap();
        for id in tensors(&config) {
            let converted: Vec<_> = rows(&checkpoint.tensor(id).unwrap())
                .iter()
                .map(|row| bits(row))
                .collect();
            let expected: Vec<_> = original.tensor(id).iter().map(|row| bits(row)).collect();
            assert!(converted == expected, "{name}: {id:?}");
        }
    }
}

/// A q8_0 file holds what ggml's quantiser makes of the original, row by row, to the byte.
#[test]
fn q8_0_tensors_are_the_quantised_ones_of_the_folder() {
    let Some(folder) = shared("goldens") else {
        return;
    };
    for (name, _, config) in cases() {
        let original = Original::read(&folder.join("hf").join(name));
        let checkpoint = gguf::open(&folder.join(format!("gguf/{name}.q8_0.gguf"))).unwrap();
        let mut quantised = 0;
        for id in tensors(&config) {
            let tensor = checkpoint.tensor(id).unwrap();
            let expected = original.tensor(id);
            match tensor.element() {
                Element::Q8_0 => {
                    quantised += 1;
                    for (r, row) in expected.iter().enumerate() {
                        assert!(
                            tensor.blocks(r) == Some(&q8_0(row)[..]),
                            "{name}: {id:?} row {r}"
                        );
                    }
                }
                Element::F32 => assert_eq!(rows(&tensor), expected, "{name}: {id:?}"),
                other => panic!("{name}: {id:?} is {other}"),
            }
        }
        let matrices =
            1 + u32::from(!config.tie_embedder_and_logits) + 7 * config.num_decoder_blocks;
        assert_eq!(quantised, matrices, "{name}");
    }
}

/// `quantize_row_q8_0_ref`.
fn q8_0(row: &[f32]) -> Vec<u8> {
    let quantise = |group: &[f32; 32]| {
        let largest = group.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let scale = largest / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let values = group.iter().map(move |x| (x * inverse).round() as i8 as u8);
        f16::from_f32(scale)
            .to_le_bytes()
            .into_iter()
            .chain(values)
            .collect::<Vec<u8>>()
    };
    row.as_chunks().0.iter().flat_map(quantise).collect()
}

#[test]
fn chat_templates_are_imported() {
    let Some(folder) = shared("goldens/gguf") else {
        return;
    };
    let template = |file: &str| {
        gguf::open(&folder.join(file))
            .unwrap()
            .description()
            .chat_template
            .clone()
            .transpose()
            .unwrap()
    };
    assert!(
        template("qwen2.q8_0.gguf")
            .unwrap()
            .starts_with("{% for m in messages %}<|im_start|>{{ m.role }}\n")
    );
    assert_eq!(template("llama-mha.q8_0.gguf"), None);
}

/// A Hugging Face folder, read with nothing but the safetensors crate.
struct Original {
    gemma: bool,
    post_norms: bool,
    /// Shape and values of each tensor.
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Original {
    fn read(folder: &Path) -> Self {
        let mut tensors = HashMap::new();
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if !name.starts_with("model") || !name.ends_with(".safetensors") {
                continue;
            }
            let file = std::fs::read(&path).unwrap();
            for (name, view) in SafeTensors::deserialize(&file).unwrap().tensors() {
                let data = view.data();
                let values: Vec<f32> = match view.dtype() {
                    Dtype::F32 => data
                        .as_chunks()
                        .0
                        .iter()
                        .map(|&b| f32::from_le_bytes(b))
                        .collect(),
                    Dtype::F16 => data
                        .as_chunks()
                        .0
                        .iter()
                        .map(|&b| f16::from_le_bytes(b).to_f32())
                        .collect(),
                    Dtype::BF16 => data
                        .as_chunks()
                        .0
                        .iter()
                        .map(|&b| bf16::from_le_bytes(b).to_f32())
                        .collect(),
                    other => panic!("{name} is {other:?}"),
                };
                tensors.insert(name, (view.shape().to_vec(), values));
            }
        }
        let name = folder.file_name().unwrap().to_string_lossy();
        let post_norms = name.starts_with("gemma2") || name.starts_with("gemma3");
        Original {
            gemma: name.starts_with("gemma"),
            post_norms,
            tensors,
        }
    }

    fn tensor(&self, id: TensorId) -> Vec<Vec<f32>> {
        use TensorKind::*;
        let name = match id.kind {
            Embedder => "model.embed_tokens.weight".into(),
            LmHead => "lm_head.weight".into(),
            FinalNorm => "model.norm.weight".into(),
            kind => {
                let rest = match kind {
                    PreAttentionNorm => "input_layernorm.weight",
                    Query => "self_attn.q_proj.weight",
                    QueryBias => "self_attn.q_proj.bias",
                    QueryNorm => "self_attn.q_norm.weight",
                    Key => "self_attn.k_proj.weight",
                    KeyBias => "self_attn.k_proj.bias",
                    KeyNorm => "self_attn.k_norm.weight",
                    Value => "self_attn.v_proj.weight",
                    ValueBias => "self_attn.v_proj.bias",
                    Output => "self_attn.o_proj.weight",
                    OutputBias => "self_attn.o_proj.bias",
                    PostAttentionNorm => "post_attention_layernorm.weight",
                    PreFfwNorm if self.post_norms => "pre_feedforward_layernorm.weight",
                    PreFfwNorm => "post_attention_layernorm.weight",
                    GatingLinear => "mlp.gate_proj.weight",
                    GatingLinearBias => "mlp.gate_proj.bias",
                    ValueLinear => "mlp.up_proj.weight",
                    ValueLinearBias => "mlp.up_proj.bias",
                    OutLinear => "mlp.down_proj.weight",
                    OutLinearBias => "mlp.down_proj.bias",
                    PostFfwNorm => "post_feedforward_layernorm.weight",
                    ConvIn | ConvInBias | ConvTaps | ConvTapsBias | ConvOut | ConvOutBias => {
                        unreachable!("not in these families")
                    }
                    Embedder | LmHead | FinalNorm => unreachable!(),
                };
                format!("model.layers.{}.{rest}", id.layer)
            }
        };
        let (shape, values) = &self.tensors[&name];
        let add = if self.gemma && name.contains("norm") {
            1.0
        } else {
            0.0
        };
        values
            .chunks(*shape.last().unwrap())
            .map(|row| row.iter().map(|x| x + add).collect())
            .collect()
    }
}
