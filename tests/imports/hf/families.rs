//! What is special about a family: its keys and its tensors.

use super::*;

#[test]
fn granites_multipliers_end_up_in_embeddings_epsilon_and_the_last_norm() {
    let folder = like_llama("granite")
        .set("embedding_multiplier", json!(12.0))
        .set("residual_multiplier", json!(0.5))
        .set("attention_multiplier", json!(0.25))
        .set("logits_scaling", json!(8.0));
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    let config = checkpoint.description().config;
    assert_eq!(
        (
            config.embedding_scale,
            config.rms_norm_eps,
            config.query_scaling_factor
        ),
        (24.0, 4e-5, 0.25)
    );
    let norm: Vec<f32> = stored(&folder, "model.norm.weight")[0]
        .iter()
        .map(|w| w / 8.0)
        .collect();
    assert_eq!(tensor(&checkpoint, 0, TensorKind::FinalNorm), [norm]);
}

/// A granitemoehybrid without recurrent layers and without experts.
fn granite4() -> Folder {
    let mut folder = like_llama("granitemoehybrid")
        .set("num_local_experts", json!(0))
        .set("layer_types", json!(["attention", "full_attention"]))
        .set("shared_intermediate_size", json!(6))
        .set("intermediate_size", json!(999));
    for layer in 0..2 {
        let name = |name: &str| format!("model.layers.{layer}.{name}.weight");
        for old in ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"] {
            folder.tensors.remove(&name(old)).unwrap();
        }
        folder.add(&name("shared_mlp.input_linear"), &[12, 8]);
        folder.add(&name("shared_mlp.output_linear"), &[8, 6]);
    }
    folder
}

#[test]
fn granite_4_splits_its_shared_feed_forward_and_turns_only_if_the_config_says_so() {
    let folder = granite4();
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    let both = stored(&folder, "model.layers.1.shared_mlp.input_linear.weight");
    let (gate, up) = both.split_at(6);
    assert_eq!(tensor(&checkpoint, 1, TensorKind::GatingLinear), gate);
    assert_eq!(tensor(&checkpoint, 1, TensorKind::ValueLinear), up);
    let ropes = |folder: &Folder| {
        let written = folder.write("model.safetensors");
        let layers = open(written.path()).description().layers.clone();
        layers.iter().map(|layer| layer.rope).collect::<Vec<_>>()
    };
    assert_eq!(ropes(&folder), [Rope::None; 2]);
    let turning = folder.set("position_embedding_type", json!("rope"));
    assert_eq!(ropes(&turning), [Rope::Global; 2]);
}

#[test]
fn granite_4_with_recurrent_layers_or_experts_is_refused() {
    let reason = |folder: Folder| {
        let written = folder.write("model.safetensors");
        hf::open(written.path()).err().unwrap().reason
    };
    assert_eq!(
        reason(granite4().set("layer_types", json!(["mamba", "attention"]))),
        "`layer_types` says \"mamba\": recurrent layers are not supported"
    );
    assert_eq!(
        reason(granite4().without("layer_types")),
        "`layer_types` is missing, expected a list that says which layers are attention"
    );
    assert_eq!(
        reason(granite4().set("layer_types", Value::Null)),
        "`layer_types` is null, expected a list that says which layers are attention"
    );
    for experts in [json!(8), Value::Null] {
        assert_eq!(
            reason(granite4().set("num_local_experts", experts.clone())),
            format!("`num_local_experts` is {experts}, expected 0: it is a mixture of experts")
        );
    }
}

/// A llama4_text without experts, all of whose layers have a rotary embedding.
fn mobilellm() -> Folder {
    let mut folder = like_llama("llama4_text")
        .set("moe_layers", json!([]))
        .set("no_rope_layers", json!([1, 1]))
        .set("layer_types", json!(["full_attention", "full_attention"]))
        .set("intermediate_size_mlp", json!(6))
        .set("intermediate_size", json!(999));
    for layer in 0..2 {
        for part in ["gate_proj", "up_proj", "down_proj"] {
            let name = |parent: &str| format!("model.layers.{layer}.{parent}.{part}.weight");
            let stored = folder.tensors.remove(&name("mlp")).unwrap();
            folder.tensors.insert(name("feed_forward"), stored);
        }
    }
    folder
}

#[test]
fn llama_4_without_experts_norms_queries_and_keys_by_weights_of_one() {
    let written = mobilellm().write("model.safetensors");
    let checkpoint = open(written.path());
    assert!(checkpoint.description().config.use_qk_norm);
    for kind in [TensorKind::QueryNorm, TensorKind::KeyNorm] {
        assert_eq!(tensor(&checkpoint, 1, kind), [[1.0; 4]]);
    }
    let without = mobilellm().set("use_qk_norm", json!(false));
    let written = without.write("model.safetensors");
    assert!(!open(written.path()).description().config.use_qk_norm);
}

#[test]
fn llama_4_with_what_mobilellm_does_not_have_is_refused() {
    for (folder, reason) in [
        (
            mobilellm().without("moe_layers"),
            "`moe_layers` is missing, expected []: it is a mixture of experts",
        ),
        (
            mobilellm().set("moe_layers", json!([1])),
            "`moe_layers` lists layers: it is a mixture of experts",
        ),
        (
            mobilellm().set(
                "layer_types",
                json!(["full_attention", "chunked_attention"]),
            ),
            "`layer_types` says \"chunked_attention\": attention in chunks is not supported",
        ),
        (
            mobilellm().without("layer_types"),
            "`attention_chunk_size` is missing, expected null: attention in chunks is not \
             supported",
        ),
    ] {
        let written = folder.write("model.safetensors");
        assert_eq!(hf::open(written.path()).err().unwrap().reason, reason);
    }
}

#[test]
fn llama_4_scales_queries_by_position_in_layers_without_rope() {
    let skipping = || mobilellm().set("no_rope_layers", json!([1, 0]));
    let temperature = |folder: Folder| {
        let written = folder.write("model.safetensors");
        let checkpoint = open(written.path());
        let description = checkpoint.description();
        let ropes: Vec<Rope> = description.layers.iter().map(|layer| layer.rope).collect();
        (ropes, description.config.attn_temperature)
    };
    let tuned = |scale, length| {
        Some(AttnTemperature {
            scale,
            length: NonZeroU32::new(length).unwrap(),
            only_without_rope: true,
        })
    };
    let ropes = vec![Rope::Global, Rope::None];
    assert_eq!(temperature(skipping()), (ropes.clone(), tuned(0.1, 8192)));
    let other = skipping()
        .set("attn_scale", json!(0.5))
        .set("floor_scale", json!(8));
    assert_eq!(temperature(other), (ropes.clone(), tuned(0.5, 8)));
    let off = skipping().set("attn_temperature_tuning", json!(false));
    assert_eq!(temperature(off), (ropes, None));
    // A model with rope in all layers has no use for it.
    assert_eq!(temperature(mobilellm()).1, None);
    let wrong = skipping().set("floor_scale", json!(0));
    let error = hf::open(wrong.write("model.safetensors").path()).err();
    let reason = error.unwrap().reason;
    assert_eq!(
        reason,
        "`floor_scale` is 0, expected an integer from 1 to 4294967295"
    );
}

#[test]
fn ministral_3_scales_queries_by_position() {
    let parameters = json!({
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "mscale": 1.0,
        "mscale_all_dim": 1.0, "original_max_position_embeddings": 16_384,
        "llama_4_scaling_beta": 0.1,
    });
    let ministral = |parameters: &Value| {
        like_llama("ministral3")
            .set("head_dim", json!(4))
            .set("rope_parameters", parameters.clone())
    };
    let written = ministral(&parameters).write("model.safetensors");
    let checkpoint = open(written.path());
    let description = checkpoint.description();
    let temperature = AttnTemperature {
        scale: 0.1,
        length: NonZeroU32::new(16_384).unwrap(),
        only_without_rope: false,
    };
    assert_eq!(description.config.attn_temperature, Some(temperature));
    assert_eq!(description.global_rope.amplitude, 1.0);
    assert!(
        description
            .layers
            .iter()
            .all(|layer| layer.window.is_none())
    );

    let mut without = parameters;
    without["llama_4_scaling_beta"] = Value::Null;
    let written = ministral(&without).write("model.safetensors");
    assert_eq!(
        open(written.path()).description().config.attn_temperature,
        None
    );
}

#[test]
fn a_mistral_3_folder_says_which_text_model_it_has() {
    let folder = |text: &str| {
        let mut folder = like_llama("mistral3");
        let mut keys = std::mem::take(&mut folder.config);
        keys["model_type"] = json!(text);
        keys["head_dim"] = json!(4);
        folder.config = json!({ "model_type": "mistral3", "text_config": keys });
        folder
    };
    // Only a ministral3 scales its queries.
    for (text, is_scaled) in [("mistral", false), ("ministral3", true)] {
        let mut folder = folder(text);
        folder.config["text_config"]["rope_parameters"] = json!({
            "rope_type": "default", "rope_theta": 1e4, "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 64,
        });
        let written = folder.write("model.safetensors");
        let config = open(written.path()).description().config;
        assert_eq!(config.attn_temperature.is_some(), is_scaled, "{text}");
    }
    let written = folder("gemma2").write("model.safetensors");
    assert_eq!(
        hf::open(written.path()).err().unwrap().reason,
        "`text_config.model_type` is \"gemma2\", expected \"mistral\" or \"ministral3\""
    );
}

#[test]
fn internlm_3_has_plain_frequencies_up_to_its_context() {
    let dynamic = json!({ "rope_type": "dynamic", "factor": 6.0, "rope_theta": 1e4 });
    let folder = |model_type| {
        like_llama(model_type)
            .set("head_dim", json!(4))
            .set("rope_parameters", dynamic.clone())
    };
    let written = folder("internlm3").write("model.safetensors");
    let checkpoint = open(written.path());
    assert_eq!(
        checkpoint.description().global_rope.frequencies,
        [1.0, 0.01]
    );
    let error = hf::open(folder("llama").write("model.safetensors").path()).err();
    let reason = error.unwrap().reason;
    assert!(
        reason.contains("change with the length of the text"),
        "{reason}"
    );
}

#[test]
fn exaone_4_turns_only_where_it_slides_if_it_slides_at_all() {
    let mut folder = like_llama("exaone4");
    for layer in 0..2 {
        let name = |name: &str| format!("model.layers.{layer}.{name}.weight");
        folder.tensors.remove(&name("input_layernorm")).unwrap();
        folder.add(&name("post_feedforward_layernorm"), &[8]);
        folder.add(&name("self_attn.q_norm"), &[4]);
        folder.add(&name("self_attn.k_norm"), &[4]);
    }
    let folder = folder.set(
        "layer_types",
        json!(["sliding_attention", "full_attention"]),
    );
    let ropes = |folder: &Folder| {
        let written = folder.write("model.safetensors");
        let checkpoint = open(written.path());
        let config = checkpoint.description().config;
        assert!(!config.use_pre_attn_norm && !config.use_pre_ffw_norm);
        assert!(config.use_post_attn_norm && config.use_post_ffw_norm);
        let layers = checkpoint.description().layers.iter();
        layers.map(|layer| layer.rope).collect::<Vec<_>>()
    };
    let sliding = folder.set("sliding_window", json!(4));
    assert_eq!(ropes(&sliding), [Rope::Global, Rope::None]);
    let full = sliding
        .clone()
        .set("layer_types", json!(["full_attention", "full_attention"]))
        .set("sliding_window", Value::Null);
    assert_eq!(ropes(&full), [Rope::Global; 2]);
    // The class's defaults: all but the last of every four layers slide, over 4096 positions.
    let defaults = sliding.without("layer_types").without("sliding_window");
    assert_eq!(ropes(&defaults), [Rope::Global; 2]);
    let written = defaults.write("model.safetensors");
    let window = open(written.path()).description().layers[0].window;
    assert_eq!(window, NonZeroU32::new(4096));
}

#[test]
fn hunyuan_norms_after_rope_and_stretches_its_base() {
    let mut folder = like_llama("hunyuan_v1_dense");
    for layer in 0..2 {
        for part in ["query", "key"] {
            let name = format!("model.layers.{layer}.self_attn.{part}_layernorm.weight");
            folder.add(&name, &[4]);
        }
    }
    let folder = folder.set(
        "rope_scaling",
        json!({"rope_type": "dynamic", "alpha": 100.0, "factor": 1.0}),
    );
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    assert!(checkpoint.description().config.qk_norm_after_rope);
    let norm = stored(&folder, "model.layers.1.self_attn.key_layernorm.weight");
    assert_eq!(tensor(&checkpoint, 1, TensorKind::KeyNorm), norm);
    // 10000 * 100^(4 / 2), of heads of 4.
    assert_eq!(checkpoint.description().config.rope_wavelength, 1e8);
    let reason = |folder: Folder| {
        let written = folder.write("model.safetensors");
        hf::open(written.path()).err().unwrap().reason
    };
    let without_alpha = json!({"rope_type": "dynamic", "factor": 2.0});
    assert!(
        reason(folder.clone().set("rope_scaling", without_alpha))
            .contains("its rotary frequencies change with the length of the text")
    );
    assert_eq!(
        reason(folder.clone().set("use_qk_norm", json!(false))),
        "`use_qk_norm` is false, expected true"
    );
    assert_eq!(
        reason(folder.set("use_cla", json!(true))),
        "`use_cla` is true, expected false: layers here share no keys and values"
    );
}

#[test]
fn olmo_2_norms_the_queries_of_all_heads_together() {
    let mut folder = like_llama("olmo2");
    for layer in 0..2 {
        let name = |name: &str| format!("model.layers.{layer}.{name}.weight");
        folder.tensors.remove(&name("input_layernorm")).unwrap();
        folder.add(&name("post_feedforward_layernorm"), &[8]);
        folder.add(&name("self_attn.q_norm"), &[8]);
        folder.add(&name("self_attn.k_norm"), &[4]);
    }
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    let norm = stored(&folder, "model.layers.1.self_attn.q_norm.weight");
    assert_eq!(tensor(&checkpoint, 1, TensorKind::QueryNorm), norm);
    assert!(checkpoint.description().config.qk_norm_across_heads);
}

#[test]
fn lfm2_has_convolutions_where_the_config_says_so() {
    let folder = folder::lfm2();
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    let description = checkpoint.description();
    let three = NonZeroU32::new(3);
    assert_eq!(description.config.conv_taps, three);
    assert_eq!(description.config.rms_norm_eps, 1e-4);
    let convolution = Layer {
        kind: LayerKind::Convolution,
        window: three,
        rope: Rope::None,
    };
    let attention = Layer {
        rope: Rope::Global,
        ..Layer::default()
    };
    assert_eq!(description.layers, [convolution, attention]);

    let name = |layer: u32, name: &str| format!("model.layers.{layer}.{name}.weight");
    let of = |kind| tensor(&checkpoint, 0, kind);
    let weights = |part| stored(&folder, &name(0, part));
    assert_eq!(of(TensorKind::ConvIn), weights("conv.in_proj"));
    assert_eq!(of(TensorKind::ConvOut), weights("conv.out_proj"));
    assert_eq!(of(TensorKind::GatingLinear), weights("feed_forward.w1"));
    assert_eq!(of(TensorKind::ValueLinear), weights("feed_forward.w3"));
    assert_eq!(of(TensorKind::OutLinear), weights("feed_forward.w2"));
    // Stored channel by channel, packed tap by tap.
    let channels = weights("conv.conv");
    let taps = |tap: usize| channels.iter().map(move |channel| channel[tap]);
    let taps: Vec<f32> = (0..3).flat_map(taps).collect();
    assert_eq!(of(TensorKind::ConvTaps), [taps]);

    // Older files list the other layers, and the width before it is adjusted.
    let older = folder
        .without("layer_types")
        .without("intermediate_size")
        .set("full_attn_idxs", json!([1]))
        .set("block_auto_adjust_ff_dim", json!(true))
        .set("block_ff_dim", json!(7))
        .set("block_multiple_of", json!(2))
        .set("block_ffn_dim_multiplier", json!(1.5))
        .set("tie_word_embeddings", json!(false))
        .set("tie_embedding", json!(true));
    let written = older.write("model.safetensors");
    assert_eq!(open(written.path()).description(), checkpoint.description());
}

#[test]
fn lfm2_whose_convolutions_are_not_what_the_config_says_is_refused() {
    let with_bias = |name: &str| {
        let mut folder = folder::lfm2();
        folder.add(&format!("model.layers.0.conv.{name}.bias"), &[8]);
        folder
    };
    for (folder, reason) in [
        (
            folder::lfm2().set("layer_types", json!(["conv"])),
            "`layer_types` has 1 entries, expected num_hidden_layers, 2",
        ),
        (
            folder::lfm2().set("layer_types", json!(["conv", "sliding_attention"])),
            "`layer_types` says \"sliding_attention\", expected full_attention or conv",
        ),
        (
            folder::lfm2()
                .without("layer_types")
                .set("full_attn_idxs", json!([2])),
            "`full_attn_idxs` says 2, expected a layer",
        ),
        (
            folder::lfm2().without("layer_types"),
            "tensor `model.layers.0.self_attn.q_proj.weight` is missing, expected shape [8, 8]",
        ),
        (
            folder::lfm2().set("conv_L_cache", json!(0)),
            "`conv_L_cache` is 0, expected an integer from 1 to 4294967295",
        ),
        (
            folder::lfm2().set("conv_L_cache", json!(4)),
            "tensor `model.layers.0.conv.conv.weight`: shape [8, 1, 3], expected [8, 1, 4] by \
             config.json",
        ),
        (
            with_bias("out_proj").set("conv_bias", json!(false)),
            "config.json says `conv_bias` is false, but there is a tensor \
             `model.layers.0.conv.out_proj.bias`",
        ),
        (
            with_bias("out_proj"),
            "tensor `model.layers.0.conv.in_proj.bias` is missing, expected shape [24]",
        ),
    ] {
        let written = folder.write("model.safetensors");
        assert_eq!(hf::open(written.path()).err().unwrap().reason, reason);
    }
}
