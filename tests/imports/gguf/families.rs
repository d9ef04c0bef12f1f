//! What each architecture's keys and tensors come to, by files made by hand.

use std::num::NonZeroU32;

use pocketlm::import::Checkpoint;
use pocketlm::model::{AttnTemperature, Config, DType, Layer, Rope, TensorId, TensorKind};

use super::handmade::{File, Listed, Place, array, float, key, layers, text, uint};
use super::support::{read, rows, tensors};

#[test]
fn a_handmade_llama_is_read_row_by_row() {
    let place = Place::new();
    let checkpoint = place.open(&File::llama().bytes().0).unwrap();
    let config = checkpoint.description().config;
    assert_eq!(
        (
            config.num_kv_heads,
            config.query_head_multiplier,
            config.projection_dim
        ),
        (1, 2, 4)
    );
    assert_eq!(
        (config.vocab_size, config.tie_embedder_and_logits),
        (3, true)
    );
    assert_eq!(
        checkpoint.description().layers,
        [Layer {
            rope: Rope::Global,
            ..Layer::default()
        }]
    );
    // Frequencies 1 and 0.01, over the factors 193 and 194 of `rope_freqs`.
    assert_eq!(
        checkpoint.description().global_rope.frequencies,
        [1.0 / 193.0, 0.01 / 194.0]
    );
    let rows = read(&checkpoint, 0, TensorKind::Query);
    // Element 1 is number 21 of the file; the pairs (0, 1) and (2, 3) of a head become (0, 2) and
    // (1, 3).
    let first: Vec<f32> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(first, [21.0, 29.0, 25.0, 33.0, 37.0, 45.0, 41.0, 49.0]);
    assert_eq!(rows[1], [29.0, 30.0, 31.0, 32.0]);
}

#[test]
fn an_output_matrix_is_used_unless_it_is_the_embedding_table_again() {
    let place = Place::new();
    let mut file = File::llama();
    let embeddings = file.tensor("token_embd.weight").clone();
    file.tensors.push(Listed {
        name: "output.weight".into(),
        ..embeddings
    });
    let tied = |file: &File| {
        let checkpoint = place.open(&file.bytes().0).unwrap();
        checkpoint.description().config.tie_embedder_and_logits
    };
    assert!(tied(&file));
    file.tensor("output.weight").data[0] ^= 1;
    assert!(!tied(&file));
    file.tensor("output.weight").dimensions = vec![3, 4];
    assert_eq!(
        place.refusal(&file.bytes().0),
        "tensor `output.weight`: shape [4, 3], expected [3, 4]"
    );
}

#[test]
fn version_2_reads_as_version_3_does() {
    let file = File {
        version: 2,
        ..File::llama()
    };
    assert!(Place::new().open(&file.bytes().0).is_ok());
}

#[test]
fn other_alignments_are_followed() {
    let file = File {
        alignment: 64,
        ..File::llama()
    }
    .with(uint("general.alignment", 64));
    let checkpoint = Place::new().open(&file.bytes().0).unwrap();
    assert_eq!(
        read(&checkpoint, 0, TensorKind::FinalNorm),
        [[13.0, 14.0, 15.0, 16.0]]
    );
}

#[test]
fn phi3_is_read_out_of_its_fused_matrices() {
    let mut file = File::of("phi3").without("rope_freqs.weight");
    // q, k and v become one matrix of 8 + 4 + 4 rows, gate and up one of 6 + 6.
    let fuse = |file: &mut File, into: &str, names: &[&str]| {
        let data: Vec<u8> = names
            .iter()
            .flat_map(|name| file.tensor(name).data.clone())
            .collect();
        file.tensors
            .retain(|tensor| !names.contains(&tensor.name.as_str()));
        let rows = data.len() as u64 / 16;
        file.tensors.push(Listed {
            name: into.into(),
            dimensions: vec![4, rows],
            code: 0,
            data,
        });
    };
    let apart = Place::new()
        .open(&File::of("qwen2").without("rope_freqs.weight").bytes().0)
        .unwrap();
    fuse(
        &mut file,
        "blk.0.attn_qkv.weight",
        &[
            "blk.0.attn_q.weight",
            "blk.0.attn_k.weight",
            "blk.0.attn_v.weight",
        ],
    );
    fuse(
        &mut file,
        "blk.0.ffn_up.weight",
        &["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"],
    );
    let place = Place::new();
    let fused = place
        .open(
            &file
                .clone()
                .with(uint("phi3.attention.sliding_window", 5))
                .bytes()
                .0,
        )
        .unwrap();
    for id in tensors(&apart.description().config) {
        assert_eq!(
            rows(&fused.tensor(id).unwrap()),
            rows(&apart.tensor(id).unwrap()),
            "{id:?}"
        );
    }
    let window = std::num::NonZeroU32::new(5);
    assert_eq!(
        fused.description().layers,
        [Layer {
            window,
            rope: Rope::Global,
            ..Layer::default()
        }]
    );

    // Partial rotary: channels 0 and 1 turn, 2 and 3 do not, so that 0 1 2 3 is read as 0 2 1 3.
    let partial = place
        .open(
            &file
                .clone()
                .with(uint("phi3.rope.dimension_count", 2))
                .bytes()
                .0,
        )
        .unwrap();
    assert_eq!(partial.description().global_rope.frequencies, [1.0, 0.0]);
    let order = [0, 2, 1, 3].map(|r| read(&apart, 0, TensorKind::Key)[r].clone());
    assert_eq!(read(&partial, 0, TensorKind::Key), order);

    // Longrope: the short set counts if the context is no longer than the original one.
    let file =
        file.add("rope_factors_long.weight", &[2], 8.0)
            .add("rope_factors_short.weight", &[2], 2.0);
    let context = |n| uint("phi3.context_length", n);
    let file = file.with(uint("phi3.rope.scaling.original_context_length", 4096));
    let short = place
        .open(&file.clone().with(context(4096)).bytes().0)
        .unwrap();
    assert_eq!(short.description().global_rope.frequencies, [0.5, 0.005]);
    assert_eq!(
        short
            .description()
            .config
            .max_position_embeddings
            .unwrap()
            .get(),
        4096
    );
    assert_eq!(partial.description().config.max_position_embeddings, None);
    assert_eq!(
        place.refusal(&file.with(context(131_072)).bytes().0),
        "longrope: two sets of rotary frequencies, and which one counts depends on the text's \
         length; \
         there may be a variant with a short context (\"4k\")"
    );
}

#[test]
fn linear_and_yarn_scaling_stretch_the_table() {
    let place = Place::new();
    let table = |keys: Vec<Vec<u8>>| {
        let file = File::of("qwen3").without("rope_freqs.weight");
        let file = file.add("blk.0.attn_q_norm.weight", &[4], 1.0).add(
            "blk.0.attn_k_norm.weight",
            &[4],
            2.0,
        );
        let file = keys.into_iter().fold(file, File::with);
        let checkpoint = place.open(&file.bytes().0).unwrap();
        (
            checkpoint.description().global_rope.clone(),
            checkpoint.description().config.global_scale_factor,
        )
    };
    let kind = |kind| text("qwen3.rope.scaling.type", kind);
    let factor = || float("qwen3.rope.scaling.factor", 4.0);
    let (linear, divisor) = table(vec![kind("linear"), factor()]);
    assert_eq!(
        (linear.amplitude, linear.frequencies, divisor),
        (1.0, vec![0.25, 0.0025], Some(4.0))
    );
    // A factor without a type is linear, under its old name too; "none" switches it off.
    assert_eq!(table(vec![factor()]).0.frequencies, [0.25, 0.0025]);
    assert_eq!(
        table(vec![float("qwen3.rope.scale_linear", 4.0)])
            .0
            .frequencies,
        [0.25, 0.0025]
    );
    assert_eq!(
        table(vec![kind("none"), factor()]).0.frequencies,
        [1.0, 0.01]
    );
    // In 1000 positions pair 0 turns 159 times, pair 1 1.6 times. With 32 and 1 turns as its ends
    // the ramp goes from pair 0 to pair 2, so that pair 1 is halfway between kept and divided by
    // four.
    let (yarn, divisor) = table(vec![
        kind("yarn"),
        factor(),
        uint("qwen3.rope.scaling.original_context_length", 1000),
    ]);
    assert_eq!(
        (yarn.frequencies, divisor),
        (vec![1.0, 0.01 * (0.25 + 1.0) / 2.0], None)
    );
    assert_eq!(yarn.amplitude, 1.138_629_4); // 0.1 ln 4 + 1
    let amplitude = |key: &str, value| {
        let context = uint("qwen3.rope.scaling.original_context_length", 1000);
        let key = float(&format!("qwen3.rope.scaling.{key}"), value);
        table(vec![kind("yarn"), factor(), context, key])
            .0
            .amplitude
    };
    // What `attention_factor` says in the folder that the file was made from.
    assert_eq!(amplitude("yarn_attn_factor", 1.25), 1.25);
    // `mscale_all_dim`, beside an `mscale` of 1.
    assert_eq!(amplitude("yarn_log_multiplier", 1.0), 1.0);
    assert_eq!(
        amplitude("yarn_log_multiplier", 0.5),
        1.138_629_4 / 1.069_314_7
    );
    assert_eq!(amplitude("yarn_log_multiplier", 0.0), 1.138_629_4);
}

#[test]
fn ministral_3_scales_queries_by_position() {
    let place = Place::new();
    let file = || File::of("mistral3").without("rope_freqs.weight");
    let scale = || float("mistral3.attention.temperature_scale", 0.1);
    let length = || uint("mistral3.rope.scaling.original_context_length", 16_384);
    let temperature = |file: File| {
        let checkpoint = place.open(&file.bytes().0).unwrap();
        checkpoint.description().config.attn_temperature
    };
    let expected = AttnTemperature {
        scale: 0.1,
        length: NonZeroU32::new(16_384).unwrap(),
        only_without_rope: false,
    };
    assert_eq!(
        temperature(file().with(scale()).with(length())),
        Some(expected)
    );
    assert_eq!(temperature(file()), None);
    assert_eq!(
        place.refusal(&file().with(scale()).bytes().0),
        "key `mistral3.rope.scaling.original_context_length` is missing, expected a number of \
         tokens"
    );
    let other = File::llama().with(float("llama.attention.temperature_scale", 0.1));
    assert_eq!(
        place.refusal(&other.bytes().0),
        "key `llama.attention.temperature_scale` is 0.10000000149011612, expected none: this is \
         not supported"
    );
}

#[test]
fn gemma2_layers_are_local_as_the_pattern_says_and_caps_default_to_the_published_ones() {
    let file = File::of("gemma2").without("rope_freqs.weight");
    let file = file.add("blk.0.post_attention_norm.weight", &[4], 1.0).add(
        "blk.0.post_ffw_norm.weight",
        &[4],
        1.0,
    );
    let file = layers(file, "gemma2", 5);
    let place = Place::new();
    let windows = |file: File| -> Vec<Option<u32>> {
        let checkpoint = place.open(&file.bytes().0).unwrap();
        let Config {
            attn_logits_soft_cap,
            final_logit_softcap,
            ..
        } = checkpoint.description().config;
        assert_eq!(
            (attn_logits_soft_cap, final_logit_softcap),
            (Some(50.0), Some(30.0))
        );
        checkpoint
            .description()
            .layers
            .iter()
            .map(|layer| layer.window.map(|window| window.get()))
            .collect()
    };
    let all = None;
    let local = Some(4096);
    assert_eq!(windows(file.clone()), [local, all, local, all, local]);
    let pattern = "gemma2.attention.sliding_window_pattern";
    let eight = || {
        file.clone()
            .with(uint("gemma2.attention.sliding_window", 8))
    };
    let local = Some(8);
    assert_eq!(
        windows(eight().with(uint(pattern, 3))),
        [local, local, all, local, local]
    );
    let flags = key(pattern, 9, &array(7, 5, &[1, 0, 0, 1, 1]));
    assert_eq!(
        windows(eight().with(flags)),
        [local, all, all, local, local]
    );
    let four = key(pattern, 9, &array(7, 4, &[1, 0, 0, 1]));
    assert_eq!(
        place.refusal(&eight().with(four).bytes().0),
        format!("key `{pattern}` is an array of 4, expected 5 flags, one a layer")
    );
    // On a family whose files never have one, a window cannot be told to be for all layers or for
    // some.
    let qwen2 = File::of("qwen2").with(uint("qwen2.attention.sliding_window", 8));
    assert_eq!(
        place.refusal(&qwen2.bytes().0),
        "key `qwen2.attention.sliding_window` is 8, expected none: which layers it is for is not \
         known"
    );
}

#[test]
fn smollm3_has_no_rotary_embedding_in_every_fourth_layer_and_adjacent_pairs_in_all() {
    let file = layers(
        File::of("smollm3").without("rope_freqs.weight"),
        "smollm3",
        5,
    );
    let checkpoint = Place::new().open(&file.bytes().0).unwrap();
    let ropes: Vec<Rope> = checkpoint
        .description()
        .layers
        .iter()
        .map(|layer| layer.rope)
        .collect();
    assert_eq!(
        ropes,
        [
            Rope::Global,
            Rope::Global,
            Rope::Global,
            Rope::None,
            Rope::Global
        ]
    );
    for layer in [0, 3] {
        let firsts: Vec<f32> = read(&checkpoint, layer, TensorKind::Key)
            .iter()
            .map(|row| row[0])
            .collect();
        assert_eq!(firsts, [53.0, 61.0, 57.0, 65.0]);
    }
}

#[test]
fn granites_multipliers_and_its_switch_of_rotary_embedding_are_read() {
    let place = Place::new();
    let plain = place.open(&File::of("granite").bytes().0).unwrap();
    let norm = read(&plain, 0, TensorKind::FinalNorm);
    let file = File::of("granite")
        .with(float("granite.embedding_scale", 12.0))
        .with(float("granite.residual_scale", 0.5))
        .with(float("granite.attention.scale", 0.25))
        .with(float("granite.logit_scale", 8.0))
        .with(key("granite.rope.scaling.finetuned", 7, &[0]));
    let place = Place::new();
    let checkpoint = place.open(&file.bytes().0).unwrap();
    let config = checkpoint.description().config;
    assert_eq!(config.embedding_scale, 24.0);
    assert_eq!(
        config.rms_norm_eps,
        plain.description().config.rms_norm_eps * 4.0
    );
    assert_eq!(config.query_scaling_factor, 0.25);
    let divided: Vec<f32> = norm[0].iter().map(|w| w / 8.0).collect();
    assert_eq!(read(&checkpoint, 0, TensorKind::FinalNorm), [divided]);
    let ropes = |checkpoint: &dyn Checkpoint| {
        let layers = checkpoint.description().layers.iter();
        layers.map(|layer| layer.rope).collect::<Vec<_>>()
    };
    assert!(ropes(&plain).iter().all(|rope| *rope == Rope::Global));
    assert!(ropes(&checkpoint).iter().all(|rope| *rope == Rope::None));
}

#[test]
fn biases_are_found_and_permuted_like_their_rows() {
    let mut file = File::llama();
    for (name, count) in [("q", 8), ("k", 4), ("v", 4)] {
        let data = (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let name = format!("blk.0.attn_{name}.bias");
        file.tensors.push(Listed {
            name,
            dimensions: vec![count],
            code: 0,
            data,
        });
    }
    let place = Place::new();
    let checkpoint = place.open(&file.bytes().0).unwrap();
    assert!(checkpoint.description().config.qkv_bias);
    assert_eq!(
        read(&checkpoint, 0, TensorKind::QueryBias),
        [[0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]]
    );
    assert_eq!(
        read(&checkpoint, 0, TensorKind::KeyBias),
        [[0.0, 2.0, 1.0, 3.0]]
    );
    assert_eq!(
        read(&checkpoint, 0, TensorKind::ValueBias),
        [[0.0, 1.0, 2.0, 3.0]]
    );
    assert!(
        checkpoint
            .tensor(TensorId {
                layer: 0,
                kind: TensorKind::QueryBias
            })
            .unwrap()
            .blocks(0)
            .is_none()
    );
    assert_eq!(
        place.refusal(&file.without("blk.0.attn_v.bias").bytes().0),
        "tensor `blk.0.attn_v.bias` is missing"
    );
}

#[test]
fn the_commonest_type_of_the_matrices_is_the_parameter_dtype() {
    let mut file = File::llama();
    for tensor in file
        .tensors
        .iter_mut()
        .filter(|tensor| tensor.dimensions.len() == 2)
        .take(5)
    {
        tensor.code = 30;
        tensor.data.truncate(tensor.data.len() / 2);
    }
    let checkpoint = Place::new().open(&file.bytes().0).unwrap();
    assert_eq!(checkpoint.description().config.parameter_dtype, DType::Bf16);
}
