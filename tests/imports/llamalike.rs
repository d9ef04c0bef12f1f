//! Importing penzai-style folders.

use std::num::NonZeroU32;

use crate::common::folder::{self, Folder, Stored};
use crate::common::in_f64::{Reference, read};
use pocketlm::import::{self, Checkpoint, PackOptions, llamalike};
use pocketlm::model::{AttnTemperature, DType, LayerKind, Model, Rope, TensorId, TensorKind};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

#[test]
fn a_plain_forward_pass_over_the_import_gives_penzais_f64_logits() {
    let Some(cases) = crate::common::shared("goldens/llamalike") else {
        return;
    };
    for folder in crate::common::folders(cases) {
        let case = crate::common::name(&folder);
        let bytes = std::fs::read(folder.join("io.safetensors")).unwrap();
        let io = SafeTensors::deserialize(&bytes).unwrap();
        let i32s = |name: &str| -> Vec<i32> {
            let view = io.tensor(name).unwrap();
            view.data()
                .chunks_exact(4)
                .map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap()))
                .collect()
        };
        let tokens = i32s("tokens");
        let positions = i32s("token_positions");
        let logits = io.tensor("logits_f64").unwrap();
        let vocab = logits.shape()[1];
        let logits: Vec<f64> = logits
            .data()
            .chunks_exact(8)
            .map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap()))
            .collect();

        // A position of -1 marks padding, which no other token sees: it is left out.
        let kept: Vec<usize> = (0..tokens.len())
            .filter(|&row| positions[row] >= 0)
            .collect();
        let input: Vec<(u32, u32)> = kept
            .iter()
            .map(|&row| (tokens[row] as u32, positions[row] as u32))
            .collect();
        let checkpoint = llamalike::open(&folder).unwrap_or_else(|error| panic!("{error}"));
        let ours = Reference::new(&checkpoint).logits_at(&input);
        let mut worst = 0f64;
        for (ours, row) in ours.iter().zip(kept) {
            for (a, b) in ours.iter().zip(&logits[row * vocab..][..vocab]) {
                worst = worst.max((a - b).abs());
            }
        }
        eprintln!("{case}: {worst:.1e}");
        assert!(worst <= 1e-6, "{case}: off by {worst:e}");
    }
}

fn tensor(checkpoint: &dyn Checkpoint, layer: u32, kind: TensorKind) -> Vec<Vec<f32>> {
    read(
        &checkpoint
            .tensor(TensorId { layer, kind })
            .unwrap_or_else(|error| panic!("{error}")),
    )
}

/// Number `i` of a parameter, in the order of the file.
fn number(folder: &Folder, label: &str, i: usize) -> f32 {
    f32::from_le_bytes(folder.tensors[label].data[i * 4..][..4].try_into().unwrap())
}

#[test]
fn matrices_are_the_transposes_of_penzais() {
    // K = 2, M = 3, D = 6, P = 4, F = 5, V = 7
    let folder = folder::llamalike(2, 3, 2, false);
    let written = folder.write("weights.safetensors");
    let checkpoint = llamalike::open(written.path()).unwrap();
    let block = |name: &str| format!("transformer/block_1/{name}.weights");
    let query = tensor(&checkpoint, 1, TensorKind::Query);
    let output = tensor(&checkpoint, 1, TensorKind::Output);
    assert_eq!((query.len(), output.len()), (24, 6));
    for (k, m, p, d) in (0..2).flat_map(|k| {
        (0..3).flat_map(move |m| (0..4).flat_map(move |p| (0..6).map(move |d| (k, m, p, d))))
    }) {
        let row = (k * 3 + m) * 4 + p;
        let stored = number(
            &folder,
            &block("attention/query"),
            ((d * 2 + k) * 3 + m) * 4 + p,
        );
        assert_eq!(query[row][d], stored);
        assert_eq!(
            output[d][row],
            number(&folder, &block("attention/output"), row * 6 + d)
        );
    }
    for (kind, label) in [
        (TensorKind::Key, "attention/key"),
        (TensorKind::Value, "attention/value"),
    ] {
        let ours = tensor(&checkpoint, 1, kind);
        for (row, d) in (0..8).flat_map(|row| (0..6).map(move |d| (row, d))) {
            assert_eq!(
                ours[row][d],
                number(&folder, &block(label), d * 8 + row),
                "{label}"
            );
        }
    }
    for (kind, label, rows, columns) in [
        (TensorKind::GatingLinear, "mlp/gating_linear", 5, 6),
        (TensorKind::ValueLinear, "mlp/value_linear", 5, 6),
        (TensorKind::OutLinear, "mlp/out_linear", 6, 5),
    ] {
        let ours = tensor(&checkpoint, 1, kind);
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)))
        {
            assert_eq!(
                ours[row][column],
                number(&folder, &block(label), column * rows + row),
                "{label}"
            );
        }
    }
    let head = tensor(&checkpoint, 0, TensorKind::LmHead);
    let embedder = tensor(&checkpoint, 0, TensorKind::Embedder);
    for (v, d) in (0..7).flat_map(|v| (0..6).map(move |d| (v, d))) {
        assert_eq!(
            head[v][d],
            number(&folder, "transformer/lm_head.weights", d * 7 + v)
        );
        assert_eq!(
            embedder[v][d],
            number(&folder, "transformer/embedder.embeddings", v * 6 + d)
        );
    }
}

/// Everything a checkpoint holds.
fn all(checkpoint: &dyn Checkpoint) -> Vec<Vec<Vec<f32>>> {
    let kinds = [
        TensorKind::PreAttentionNorm,
        TensorKind::Query,
        TensorKind::Key,
        TensorKind::Value,
        TensorKind::Output,
        TensorKind::PreFfwNorm,
    ];
    let mlp = [
        TensorKind::GatingLinear,
        TensorKind::ValueLinear,
        TensorKind::OutLinear,
    ];
    let outer = [
        TensorKind::Embedder,
        TensorKind::LmHead,
        TensorKind::FinalNorm,
    ]
    .map(|kind| (0, kind));
    let layers = 0..checkpoint.description().config.num_decoder_blocks;
    let inner =
        layers.flat_map(|layer| kinds.into_iter().chain(mlp).map(move |kind| (layer, kind)));
    outer
        .into_iter()
        .chain(inner)
        .map(|(layer, kind)| tensor(checkpoint, layer, kind))
        .collect()
}

fn opened(folder: &Folder) -> impl Checkpoint + use<> {
    llamalike::open(folder.write("weights.safetensors").path())
        .unwrap_or_else(|error| panic!("{error}"))
}

fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let insert =
        |order: Vec<usize>| (0..n).map(move |at| [&order[..at], &[n - 1], &order[at..]].concat());
    orders(n - 1).into_iter().flat_map(insert).collect()
}

#[test]
fn any_order_of_axes_gives_the_same_model() {
    for (k, m) in [(2, 3), (1, 3), (3, 1), (1, 1)] {
        for stacked in [false, true] {
            let folder = folder::llamalike(k, m, 2, stacked);
            let expected = all(&opened(&folder));
            for label in folder.tensors.keys() {
                for order in orders(folder.tensors[label].shape.len()) {
                    let mut other = folder.clone();
                    other.transpose(label, &order);
                    assert_eq!(all(&opened(&other)), expected, "{k} {m} {label} {order:?}");
                }
            }
        }
    }
}

#[test]
fn a_layer_stack_is_cut_into_its_layers() {
    let stacked = folder::llamalike(2, 3, 2, true);
    let mut apart = folder::llamalike(2, 3, 2, false);
    for (label, whole) in &stacked.tensors {
        match label.strip_prefix("transformer/blocks/") {
            None => apart.tensors.get_mut(label).unwrap().data = whole.data.clone(),
            Some(rest) => {
                let (first, second) = whole.data.split_at(whole.data.len() / 2);
                for (layer, data) in [first, second].into_iter().enumerate() {
                    apart
                        .tensors
                        .get_mut(&format!("transformer/block_{layer}/{rest}"))
                        .unwrap()
                        .data = data.to_vec();
                }
            }
        }
    }
    assert_eq!(all(&opened(&stacked)), all(&opened(&apart)));
}

fn config(folder: &Folder) -> pocketlm::model::Config {
    opened(folder).description().config
}

fn tied() -> Folder {
    let mut folder = folder::llamalike(1, 2, 2, false).set("tie_embedder_and_logits", json!(true));
    folder.tensors.remove("transformer/lm_head.weights");
    folder
}

#[test]
fn absent_fields_are_penzais_defaults() {
    let folder = folder::llamalike(1, 2, 2, false);
    let explicit = folder
        .clone()
        .set("rope_wavelength", json!(10000.0))
        .set("rms_norm_eps", json!(1e-6))
        .set(
            "attention_type",
            json!({"type": "AttentionTypeGlobalCausal"}),
        )
        .set("use_post_attn_norm", json!(false))
        .set("use_post_ffw_norm", json!(false))
        .set("final_logit_softcap", Value::Null)
        .set("attn_logits_soft_cap", Value::Null)
        .set("query_scaling_factor", json!("default"))
        .set("parameter_dtype", json!("float32"))
        .set("activation_dtype", json!("float32"))
        .set("use_qk_norm", json!(false))
        .set("global_scale_factor", Value::Null)
        .set("local_rope_wavelength", Value::Null);
    assert_eq!(
        opened(&folder).description(),
        opened(&explicit).description()
    );
    assert_eq!(config(&folder).query_scaling_factor, 0.5, "4^-0.5");
}

#[test]
fn norms_can_be_where_penzai_has_none() {
    let mut folder = folder::llamalike(2, 2, 1, false)
        .set("use_pre_attn_norm", json!(false))
        .set("use_pre_ffw_norm", json!(false))
        .set("use_qk_norm", json!(true))
        .set("qk_norm_across_heads", json!(true));
    for norm in ["pre_attention_norm", "pre_ffw_norm"] {
        let label = format!("transformer/block_0/{norm}/scale.weights");
        folder.tensors.remove(&label).unwrap();
    }
    let groups = ("head_groups", 2);
    let heads = ("query_heads", 2);
    let width = ("projection", 4);
    let norm = |part: &str| format!("transformer/block_0/attention/{part}_norm/scale.weights");
    folder.add_axes(&norm("query"), &[groups, heads, width]);
    folder.add_axes(&norm("key"), &[groups, width]);
    let checkpoint = opened(&folder);
    let image = import::pack_to_memory(&checkpoint, &PackOptions::default(), &mut |_, _| {});
    let image = image.unwrap();
    let config = *Model::open(&image).unwrap().config();
    assert!(!config.use_pre_attn_norm && !config.use_pre_ffw_norm);
    assert!(config.qk_norm_across_heads);
    let norm = TensorId {
        layer: 0,
        kind: TensorKind::QueryNorm,
    };
    assert_eq!(checkpoint.tensor(norm).unwrap().column_count(), 16);
}

#[test]
fn layers_may_have_no_rope_and_scale_their_queries() {
    let temperature = json!({"scale": 0.5, "length": 8, "only_without_rope": true});
    let folder = folder::llamalike(2, 2, 3, false)
        .set("layers_without_rope", json!([1]))
        .set("attn_temperature", temperature);
    let checkpoint = opened(&folder);
    let description = checkpoint.description();
    let ropes: Vec<Rope> = description.layers.iter().map(|layer| layer.rope).collect();
    assert_eq!(ropes, [Rope::Global, Rope::None, Rope::Global]);
    let expected = AttnTemperature {
        scale: 0.5,
        length: NonZeroU32::new(8).unwrap(),
        only_without_rope: true,
    };
    assert_eq!(description.config.attn_temperature, Some(expected));
    for (key, value, reason) in [
        (
            "layers_without_rope",
            json!([3]),
            "`layers_without_rope` lists 3, expected numbers of layers below 3",
        ),
        (
            "attn_temperature",
            json!({"scale": 0.5}),
            "`attn_temperature.length` is missing, expected an integer above 0",
        ),
        (
            "attn_temperature",
            json!({"scale": 0.5, "length": 8, "beta": 1}),
            "`attn_temperature.beta` is not a field of attn_temperature",
        ),
    ] {
        let written = folder.clone().set(key, value).write("weights.safetensors");
        let error = llamalike::open(written.path()).err().unwrap();
        assert_eq!(error.reason, reason);
    }
}

/// A folder whose first layer is a convolution with biases.
fn convolving() -> Folder {
    let global = json!({"type": "AttentionTypeGlobalCausal"});
    let convolution = json!({"type": "ShortConvolution", "window_size": 3});
    let mut folder = folder::llamalike(2, 2, 2, false)
        .set("attention_type", json!([convolution, global]))
        .set("conv_bias", json!(true));
    let label = |name: &str| format!("transformer/block_0/{name}");
    for part in ["query", "key", "value", "output"] {
        let label = label(&format!("attention/{part}.weights"));
        folder.tensors.remove(&label).unwrap();
    }
    let branches = ("branches", 3);
    let channels = ("channels", 6);
    let embedding = ("embedding", 6);
    let taps = ("taps", 3);
    for (name, axes) in [
        ("in.weights", &[embedding, branches, channels][..]),
        ("in.bias", &[branches, channels]),
        ("taps.weights", &[channels, taps]),
        ("taps.bias", &[channels]),
        ("out.weights", &[channels, embedding]),
        ("out.bias", &[embedding]),
    ] {
        folder.add_axes(&label(&format!("convolution/{name}")), axes);
    }
    folder
}

#[test]
fn a_layer_can_be_a_convolution_which_penzai_does_not_have() {
    let folder = convolving();
    let checkpoint = opened(&folder);
    let image = import::pack_to_memory(&checkpoint, &PackOptions::default(), &mut |_, _| {});
    let image = image.unwrap();
    let model = Model::open(&image).unwrap();
    let config = model.config();
    assert!(config.conv_bias);
    assert_eq!(config.conv_taps.map(u32::from), Some(3));
    let kinds: Vec<_> = model.layers().iter().map(|layer| layer.kind).collect();
    assert_eq!(kinds, [LayerKind::Convolution, LayerKind::Attention]);
    let taps = &tensor(&checkpoint, 0, TensorKind::ConvTaps)[0];
    let input = tensor(&checkpoint, 0, TensorKind::ConvIn);
    let output = tensor(&checkpoint, 0, TensorKind::ConvOut);
    let number = |name: &str, i: usize| {
        number(
            &folder,
            &format!("transformer/block_0/convolution/{name}"),
            i,
        )
    };
    for channel in 0..6 {
        for tap in 0..3 {
            assert_eq!(
                taps[tap * 6 + channel],
                number("taps.weights", channel * 3 + tap)
            );
            let row = &input[tap * 6 + channel];
            assert_eq!(row[4], number("in.weights", 4 * 18 + tap * 6 + channel));
        }
        assert_eq!(output[5][channel], number("out.weights", channel * 6 + 5));
    }
    let convolution = |taps: u32| json!({"type": "ShortConvolution", "window_size": taps});
    let unlike = convolving().set("attention_type", json!([convolution(3), convolution(2)]));
    assert_eq!(
        refusal(&unlike),
        "`attention_type` has convolutions with different window sizes"
    );
}

#[test]
fn constants_are_rounded_to_the_types_penzai_keeps_them_in() {
    let folder = tied()
        .set("rms_norm_eps", json!(0.1))
        .set("query_scaling_factor", json!(0.3));
    let folder = folder
        .set("final_logit_softcap", json!(30.1))
        .set("attn_logits_soft_cap", json!(50.1));
    let plain = config(&folder);
    assert_eq!(
        (plain.rms_norm_eps, plain.embedding_scale),
        (0.1, 6f32.sqrt())
    );
    let parameters = config(&folder.clone().set("parameter_dtype", json!("bfloat16")));
    assert_eq!(parameters.rms_norm_eps, 205.0 / 2048.0);
    assert_eq!(parameters.embedding_scale, 6f32.sqrt());
    let activations = config(&folder.set("activation_dtype", json!("bfloat16")));
    assert_eq!(activations.rms_norm_eps, 0.1);
    assert_eq!(activations.embedding_scale, 2.453125);
    assert_eq!(activations.query_scaling_factor, 0.30078125);
    assert_eq!(
        (
            activations.final_logit_softcap,
            activations.attn_logits_soft_cap
        ),
        (Some(30.125), Some(50.0))
    );
    assert_eq!(activations.activation_dtype, DType::Bf16);
}

#[test]
fn a_final_cap_of_0_is_off() {
    assert_eq!(
        config(&tied().set("final_logit_softcap", json!(0.0))).final_logit_softcap,
        None
    );
    assert_eq!(
        config(&tied().set("final_logit_softcap", json!(0))).final_logit_softcap,
        None
    );
}

#[test]
fn a_list_of_attention_types_is_cycled_through_and_local_layers_have_their_own_table() {
    let sliding =
        |window: u32| json!({"type": "AttentionTypeSlidingWindowCausal", "window_size": window});
    let global = json!({"type": "AttentionTypeGlobalCausal"});
    let folder =
        folder::llamalike(1, 2, 4, false).set("attention_type", json!([sliding(3), global]));
    let windows = |folder: &Folder| -> Vec<Option<u32>> {
        opened(folder)
            .description()
            .layers
            .iter()
            .map(|layer| layer.window.map(u32::from))
            .collect()
    };
    let ropes = |folder: &Folder| {
        opened(folder)
            .description()
            .layers
            .iter()
            .map(|l| l.rope)
            .collect::<Vec<_>>()
    };
    assert_eq!(windows(&folder), [Some(3), None, Some(3), None]);
    // One wavelength, no scale: one table for all.
    assert_eq!(ropes(&folder), [Rope::Global; 4]);
    assert_eq!(opened(&folder).description().local_rope, None);
    // The scale is for global layers alone.
    let scaled = folder.clone().set("global_scale_factor", json!(2.0));
    assert_eq!(
        ropes(&scaled),
        [Rope::Local, Rope::Global, Rope::Local, Rope::Global]
    );
    assert_eq!(
        opened(&scaled).description().global_rope.frequencies,
        [0.5, 0.005]
    );
    assert_eq!(
        opened(&scaled)
            .description()
            .local_rope
            .as_ref()
            .unwrap()
            .frequencies,
        [1.0, 0.01]
    );
    // Where every layer is local, the scale is never looked at, whatever it is.
    let local = folder
        .set("attention_type", sliding(2))
        .set("global_scale_factor", json!(0.5));
    assert_eq!(windows(&local), [Some(2); 4]);
    assert_eq!(ropes(&local), [Rope::Local; 4]);
}

#[test]
fn a_model_without_layers_opens() {
    let folder = folder::llamalike(1, 2, 0, false);
    assert!(opened(&folder).description().layers.is_empty());
    assert!(
        opened(&folder.set("use_layer_stack", json!(true)))
            .description()
            .layers
            .is_empty()
    );
}

/// The message a folder is refused with, less the path.
fn refusal(folder: &Folder) -> String {
    match llamalike::open(folder.write("weights.safetensors").path()) {
        Ok(_) => panic!("opened: {}", folder.config),
        Err(error) => {
            assert!(error.path.is_some(), "{error} names no file");
            error.reason
        }
    }
}

#[test]
fn fields_that_make_no_sense_are_refused_by_name() {
    let folder = || folder::llamalike(1, 2, 2, false);
    for (field, value, message) in [
        (
            "dropout",
            json!(0.1),
            "`dropout` is not a field of the llama-like config",
        ),
        (
            "num_kv_heads",
            json!(0),
            "`num_kv_heads` is 0, expected an integer from 1 to 4294967295",
        ),
        (
            "query_head_multiplier",
            json!(0),
            "`query_head_multiplier` is 0, expected an integer from 1 to 4294967295",
        ),
        (
            "embedding_dim",
            json!(6.0),
            "`embedding_dim` is 6.0, expected an integer from 1 to 4294967295",
        ),
        (
            "vocab_size",
            json!(-7),
            "`vocab_size` is -7, expected an integer from 1 to 4294967295",
        ),
        (
            "mlp_hidden_dim",
            json!("5"),
            "`mlp_hidden_dim` is \"5\", expected an integer from 1 to 4294967295",
        ),
        (
            "num_decoder_blocks",
            json!(-1),
            "`num_decoder_blocks` is -1, expected an integer from 0 to 4294967295",
        ),
        (
            "num_decoder_blocks",
            json!(4294967295u32),
            "`num_decoder_blocks` is 4294967295, more than the weights have room for",
        ),
        (
            "projection_dim",
            json!(5),
            "`projection_dim` is 5, expected an even number up to 65536",
        ),
        (
            "projection_dim",
            json!(4294967294u32),
            "`projection_dim` is 4294967294, expected an even number up to 65536",
        ),
        (
            "mlp_variant",
            json!("relu"),
            "`mlp_variant` is \"relu\", expected geglu_exact, geglu_approx or swiglu",
        ),
        (
            "tie_embedder_and_logits",
            json!(1),
            "`tie_embedder_and_logits` is 1, expected true or false",
        ),
        (
            "use_qk_norm",
            Value::Null,
            "`use_qk_norm` is null, expected true or false",
        ),
        (
            "rope_wavelength",
            json!(0.0),
            "`rope_wavelength` is 0.0, expected a number above 0",
        ),
        (
            "rope_wavelength",
            json!(1e-300),
            "`rope_wavelength` is 1e-300, expected a number above 0",
        ),
        (
            "rope_wavelength",
            json!(1e300),
            "`rope_wavelength` is 1e+300, expected a number that fits in f32",
        ),
        (
            "local_rope_wavelength",
            json!(-1.0),
            "`local_rope_wavelength` is -1.0, expected a number above 0",
        ),
        (
            "rms_norm_eps",
            json!(0),
            "`rms_norm_eps` is 0, expected a number above 0",
        ),
        (
            "final_logit_softcap",
            json!(-30.0),
            "`final_logit_softcap` is -30.0, expected a number above 0",
        ),
        (
            "attn_logits_soft_cap",
            json!(0.0),
            "`attn_logits_soft_cap` is 0.0, expected a number above 0",
        ),
        (
            "attn_logits_soft_cap",
            json!(-5),
            "`attn_logits_soft_cap` is -5, expected a number above 0",
        ),
        (
            "query_scaling_factor",
            json!("auto"),
            "`query_scaling_factor` is \"auto\", expected \"default\" or a number",
        ),
        (
            "query_scaling_factor",
            json!(0.0),
            "`query_scaling_factor` is 0.0, expected \"default\" or a number other than 0",
        ),
        (
            "query_scaling_factor",
            Value::Null,
            "`query_scaling_factor` is null, expected \"default\" or a number",
        ),
        (
            "global_scale_factor",
            json!(0.5),
            "`global_scale_factor` is 0.5, expected at least 1",
        ),
        (
            "global_scale_factor",
            json!(0),
            "`global_scale_factor` is 0, expected a number above 0",
        ),
        (
            "parameter_dtype",
            json!("float64"),
            "`parameter_dtype` is \"float64\", expected float32, bfloat16 or float16",
        ),
        (
            "activation_dtype",
            json!(32),
            "`activation_dtype` is 32, expected a string",
        ),
        (
            "attention_type",
            json!("global"),
            "`attention_type` is \"global\", expected an attention type, or a list of them",
        ),
        (
            "attention_type",
            json!([]),
            "`attention_type` has 0 entries, expected a divisor of num_decoder_blocks, 2",
        ),
        (
            "attention_type",
            json!([1]),
            "`attention_type` lists 1, expected attention types",
        ),
    ] {
        assert_eq!(refusal(&folder().set(field, value)), message);
    }
    assert_eq!(
        refusal(
            &folder()
                .set("parameter_dtype", json!("float16"))
                .set("rms_norm_eps", json!(1e-9))
        ),
        "`rms_norm_eps` is 1e-9, expected a number above 0 in f16"
    );
    assert_eq!(
        refusal(&folder().without("vocab_size")),
        "`vocab_size` is missing, expected an integer above 0"
    );
    let mut bare = folder();
    bare.config
        .as_object_mut()
        .unwrap()
        .shift_remove("mlp_variant");
    assert_eq!(
        refusal(&bare),
        "`mlp_variant` is missing, expected geglu_exact, geglu_approx or swiglu"
    );
}

#[test]
fn attention_types_that_penzai_rejects_are_refused() {
    let folder = |types: Value| folder::llamalike(1, 2, 2, false).set("attention_type", types);
    let global = || json!({"type": "AttentionTypeGlobalCausal"});
    let sliding =
        |window: Value| json!({"type": "AttentionTypeSlidingWindowCausal", "window_size": window});
    for (types, message) in [
        (
            json!([global(), global(), global()]),
            "`attention_type` has 3 entries, expected a divisor of num_decoder_blocks, 2",
        ),
        (
            sliding(json!(0)),
            "`attention_type.window_size` is 0, expected an integer from 1 to 4294967295",
        ),
        (
            sliding(json!(-1)),
            "`attention_type.window_size` is -1, expected an integer from 1 to 4294967295",
        ),
        (
            json!([sliding(json!(0))]),
            "in `attention_type`: `window_size` is 0, expected an integer from 1 to 4294967295",
        ),
        (
            json!({"type": "AttentionTypeSlidingWindowCausal"}),
            "`attention_type.window_size` is missing, expected an integer above 0",
        ),
        (
            json!({"type": "AttentionTypeGlobalCausal", "window_size": 3}),
            "`attention_type.window_size` is not a field of this attention type",
        ),
        (
            json!({"type": "AttentionTypeBidirectional"}),
            "`attention_type.type` is \"AttentionTypeBidirectional\", expected \
             AttentionTypeGlobalCausal, AttentionTypeSlidingWindowCausal or ShortConvolution",
        ),
    ] {
        assert_eq!(refusal(&folder(types)), message);
    }
    let stacked = folder::llamalike(1, 2, 2, true).set("attention_type", json!([global()]));
    assert_eq!(
        refusal(&stacked),
        "`attention_type` is a list, which use_layer_stack rules out"
    );
}

#[test]
fn parameters_must_be_exactly_those_the_config_calls_for() {
    let label = "transformer/block_1/attention/query.weights";
    let folder = || folder::llamalike(2, 3, 2, false);

    let mut missing = folder();
    missing.tensors.remove(label);
    missing.metadata.remove(&format!("axes:{label}"));
    assert_eq!(
        refusal(&missing),
        format!(
            "parameter `{label}`: missing, expected axes \
             head_groups,query_heads,projection,embedding"
        )
    );
    let mut unlabelled = folder();
    unlabelled.metadata.remove(&format!("axes:{label}"));
    assert_eq!(
        refusal(&unlabelled),
        format!("parameter `{label}`: the header's __metadata__ has no `axes:{label}`")
    );
    for axes in [
        "embedding,heads,projection",
        "embedding,embedding,head_groups,projection",
        "",
        "projection,embedding",
    ] {
        let mut wrong = folder();
        wrong.metadata.insert(format!("axes:{label}"), axes.into());
        assert_eq!(
            refusal(&wrong),
            format!(
                "parameter `{label}`: axes {axes:?}, expected \
                 head_groups,query_heads,projection,embedding in any order"
            )
        );
    }
    let mut large = folder();
    large
        .tensors
        .insert(label.into(), Stored::numbers(1, &[6, 2, 3, 5]));
    assert_eq!(
        refusal(&large),
        format!("tensor `{label}`: shape [6, 2, 3, 5], expected [6, 2, 3, 4] by config.json")
    );
    let mut extra = folder();
    extra.add("transformer/block_2/attention/query.weights", &[6, 2, 3, 4]);
    assert_eq!(
        refusal(&extra),
        "parameter `transformer/block_2/attention/query.weights` has no place in this config (1 \
         such parameters)"
    );
    let both = folder().set("tie_embedder_and_logits", json!(true));
    assert_eq!(
        refusal(&both),
        "parameter `transformer/lm_head.weights` has no place in this config (1 such parameters)"
    );
    let mut wide = folder();
    wide.tensors
        .get_mut("transformer/final_norm/scale.weights")
        .unwrap()
        .dtype = Dtype::F64;
    wide.tensors
        .get_mut("transformer/final_norm/scale.weights")
        .unwrap()
        .data
        .extend([0; 24]);
    assert_eq!(
        refusal(&wide),
        "tensor `transformer/final_norm/scale.weights`: stored as F64, expected F32, F16 or BF16"
    );
    assert_eq!(
        refusal(&folder().set("use_layer_stack", json!(true))),
        "parameter `transformer/blocks/pre_attention_norm/scale.weights` is missing, which \
         `use_layer_stack` calls for"
    );
}
