//! Windows, rotary frequencies and heads: what a config says of layers.

use super::*;

#[test]
fn a_missing_window_is_the_class_default_and_null_means_none() {
    assert_eq!(windows(&like_llama("mistral")), [Some(4096); 2]);
    assert_eq!(
        windows(&like_llama("mistral").set("sliding_window", Value::Null)),
        [None; 2]
    );
    assert_eq!(
        windows(&like_llama("mistral").set("sliding_window", json!(7))),
        [Some(7); 2]
    );
    assert_eq!(windows(&folder::gemma("gemma2")), [Some(4096), None]);
    assert_eq!(
        windows(&folder::gemma("gemma2").set("sliding_window", Value::Null)),
        [None; 2]
    );
    assert_eq!(windows(&folder::phi3()), [None; 2]);
    // Llama has no such key, whatever a file says.
    assert_eq!(
        windows(&folder::llama().set("sliding_window", json!(7))),
        [None; 2]
    );
}

#[test]
fn the_trained_length_comes_from_the_file_or_the_class_default() {
    let trained = |folder: &Folder| {
        describe(folder)
            .config
            .max_position_embeddings
            .unwrap()
            .get()
    };
    let llama = folder::llama();
    assert_eq!(trained(&llama), 64);
    assert_eq!(trained(&llama.without("max_position_embeddings")), 2048);
    assert_eq!(
        trained(&folder::gemma("gemma2").without("max_position_embeddings")),
        8192
    );
}

#[test]
fn qwen2_windows_need_the_switch_and_start_at_max_window_layers() {
    let mut qwen2 = like_llama("qwen2")
        .set("sliding_window", json!(7))
        .set("max_window_layers", json!(1));
    for layer in 0..2 {
        qwen2.add(&format!("model.layers.{layer}.self_attn.q_proj.bias"), &[8]);
        qwen2.add(&format!("model.layers.{layer}.self_attn.k_proj.bias"), &[4]);
        qwen2.add(&format!("model.layers.{layer}.self_attn.v_proj.bias"), &[4]);
    }
    assert_eq!(windows(&qwen2), [None, None]);
    let on = qwen2.clone().set("use_sliding_window", json!(true));
    assert_eq!(windows(&on), [None, Some(7)]);
    assert_eq!(
        windows(&on.clone().set("max_window_layers", json!(0))),
        [Some(7), Some(7)]
    );
    assert_eq!(
        windows(&on.clone().without("max_window_layers")),
        [None, None]
    );
    let listed = on.set(
        "layer_types",
        json!(["sliding_attention", "full_attention"]),
    );
    assert_eq!(windows(&listed), [Some(7), None]);
    let config = describe(&qwen2).config;
    assert_eq!(
        (config.qkv_bias, config.output_bias, config.mlp_bias),
        (true, false, false)
    );
}

#[test]
fn smollm3_slides_only_where_it_does_not_turn() {
    let folder = like_llama("smollm3")
        .set("no_rope_layers", json!([1, 0]))
        .set("sliding_window", json!(7));
    let rope = |folder: &Folder| {
        describe(folder)
            .layers
            .iter()
            .map(|layer| layer.rope)
            .collect::<Vec<_>>()
    };
    assert_eq!(rope(&folder), [Rope::Global, Rope::None]);
    assert_eq!(windows(&folder), [None, None]);
    assert_eq!(
        windows(&folder.clone().set("use_sliding_window", json!(true))),
        [None, Some(7)]
    );
    let by_interval = folder
        .without("no_rope_layers")
        .set("no_rope_layer_interval", json!(2));
    assert_eq!(rope(&by_interval), [Rope::Global, Rope::None]);
    assert_eq!(
        rope(&by_interval.without("no_rope_layer_interval")),
        [Rope::Global; 2]
    );
}

#[test]
fn gemma3_keeps_two_rotary_tables_and_scales_the_global_one() {
    let folder = folder::gemma("gemma3_text").set("sliding_window_pattern", json!(2));
    let plain = describe(&folder);
    assert_eq!(plain.global_rope.frequencies, [1.0, 0.001]);
    assert_eq!(plain.local_rope.as_ref().unwrap().frequencies, [1.0, 0.01]);
    assert_eq!(
        plain
            .layers
            .iter()
            .map(|layer| layer.rope)
            .collect::<Vec<_>>(),
        [Rope::Local, Rope::Global]
    );
    assert_eq!(
        (
            plain.config.rope_wavelength,
            plain.config.local_rope_wavelength
        ),
        (1e6, Some(1e4))
    );

    let linear = json!({"type": "linear", "factor": 8});
    let old = describe(&folder.clone().set("rope_scaling", linear));
    assert_eq!(old.global_rope.frequencies, [0.125, 0.000125]);
    assert_eq!(old.local_rope, plain.local_rope);
    assert_eq!(old.config.global_scale_factor, Some(8.0));
    let nested = json!({
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    });
    assert_eq!(
        describe(&folder.clone().set("rope_parameters", nested)),
        old
    );

    // With one base for both there is one table.
    let same = describe(&folder.set("rope_local_base_freq", json!(1000000)));
    assert_eq!(same.local_rope, None);
    assert!(same.layers.iter().all(|layer| layer.rope == Rope::Global));
}

#[test]
fn a_rope_scaling_hides_rope_parameters_base_included() {
    let parameters = json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 1000000.0});
    let new = folder::llama()
        .without("rope_theta")
        .set("rope_parameters", parameters);
    assert_eq!(describe(&new).global_rope.frequencies, [0.25, 0.00025]);
    let both = new.set(
        "rope_scaling",
        json!({"rope_type": "linear", "factor": 2.0}),
    );
    assert_eq!(describe(&both).global_rope.frequencies, [0.5, 0.005]);
    assert_eq!(
        describe(&both.set("rope_theta", json!(1000000)))
            .global_rope
            .frequencies,
        [0.5, 0.0005]
    );
}

#[test]
fn yarn_multiplies_cos_and_sin() {
    let yarn = |extra: Value| {
        let mut scaling =
            json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
        scaling
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        describe(&folder::llama().set("rope_scaling", scaling))
            .global_rope
            .amplitude
    };
    assert_eq!(yarn(json!({})), (0.1 * 4f64.ln() + 1.0) as f32);
    assert_eq!(yarn(json!({"attention_factor": 0.5})), 0.5);
    assert_eq!(yarn(json!({"mscale": 1.0, "mscale_all_dim": 1.0})), 1.0);
    assert_eq!(
        yarn(json!({"mscale": 2.0, "mscale_all_dim": 0.0})),
        (0.1 * 4f64.ln() + 1.0) as f32
    );
}

#[test]
fn absent_heads_and_widths_follow_from_the_others() {
    // 8 hidden, 2 heads: 4 channels each.
    assert_eq!(
        describe(&folder::llama().without("head_dim"))
            .config
            .projection_dim,
        4
    );
    assert_eq!(
        describe(&folder::llama().set("head_dim", Value::Null))
            .config
            .projection_dim,
        4
    );
    let mut mha = folder::llama().set("num_key_value_heads", Value::Null);
    for layer in 0..2 {
        for name in ["k_proj", "v_proj"] {
            let name = format!("model.layers.{layer}.self_attn.{name}.weight");
            mha.tensors.remove(&name);
            mha.add(&name, &[8, 8]);
        }
    }
    assert_eq!(describe(&mha).config.num_kv_heads, 2);
    assert_eq!(
        describe(&mha.without("num_key_value_heads"))
            .config
            .num_kv_heads,
        2
    );
}
