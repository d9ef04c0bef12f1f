//! Seeds that say something else than usual: every key of a config with values it should not have,
//! and the rarer forms that configs, tokenizers and GGUF keys take, right and wrong.

use serde_json::{Value, json};

use super::seeds::{TOKENIZERS, folder};
use folder::Folder;
use safetensors::Dtype;

/// An object with the members of another put in.
fn with(mut object: Value, members: &str) -> Value {
    let members: Value =
        serde_json::from_str(members).unwrap_or_else(|error| panic!("{members}: {error}"));
    for (key, value) in members.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

/// The folder with each of its config's keys set to something it cannot be.
fn wrong(folder: &Folder) -> impl Iterator<Item = Folder> {
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1.5),
        json!("x"),
        json!([]),
        json!({}),
        json!(3e9),
    ];
    let keys: Vec<String> = folder.config.as_object().unwrap().keys().cloned().collect();
    keys.into_iter()
        .flat_map(move |key| values.clone().map(|value| folder.clone().set(&key, value)))
}

/// Folders that are like the usual ones but for their config, or a few tensors.
pub fn folders() -> Vec<Folder> {
    let change = |folder: &Folder, members: &[&str]| -> Vec<Folder> {
        members
            .iter()
            .map(|text| Folder {
                config: with(folder.config.clone(), text),
                ..folder.clone()
            })
            .collect()
    };
    let llama = folder::llama();
    let mut all = change(
        &llama,
        &[
            r#"{"quantization_config": {"quant_method": "gptq"}}"#,
            r#"{"model_type": "gemma3", "text_config": {"model_type": "gemma3_text",
                "num_hidden_layers": 2}}"#,
            r#"{"model_type": "gemma3", "text_config": {"model_type": "x"}}"#,
            r#"{"model_type": "gemma3", "text_config": null, "tie_word_embeddings": null}"#,
            r#"{"num_hidden_layers": 99}"#,
            r#"{"num_attention_heads": 3, "num_key_value_heads": 2}"#,
            r#"{"head_dim": 3}"#,
            r#"{"head_dim": null}"#,
            r#"{"head_dim": null, "hidden_size": 7}"#,
            r#"{"hidden_act": "relu"}"#,
            r#"{"model_type": "olmo2"}"#,
            r#"{"model_type": "olmo"}"#,
            r#"{"model_type": "cohere"}"#,
            r#"{"model_type": "gemma3n"}"#,
            r#"{"model_type": "mixtral"}"#,
            r#"{"model_type": "some_moe"}"#,
            r#"{"model_type": "x"}"#,
            r#"{"attention_bias": true}"#,
            r#"{"attention_bias": false, "mlp_bias": false}"#,
            r#"{"mlp_bias": true}"#,
            r#"{"tie_word_embeddings": true}"#,
            r#"{"partial_rotary_factor": 0.5}"#,
            r#"{"num_attention_heads": 2000000000, "num_key_value_heads": 1000000000,
                "head_dim": 65536}"#,
            r#"{"rope_theta": 1e-45}"#,
            r#"{"rope_scaling": {"type": "linear", "factor": 2.0}}"#,
            r#"{"rope_scaling": {"type": "linear"}}"#,
            r#"{"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}"#,
            r#"{"rope_scaling": {"type": "longrope", "factor": 2.0}}"#,
            r#"{"rope_scaling": {"type": "x"}}"#,
            r#"{"rope_scaling": {"rope_type": "x"}}"#,
            r#"{"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                "high_freq_factor": 1,
                "original_max_position_embeddings": 32}}"#,
            r#"{"rope_scaling": {"rope_type": "yarn", "factor": 2}}"#,
            r#"{"rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale": 1,
                "mscale_all_dim": 0.5}}"#,
            r#"{"rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale": -9,
                "mscale_all_dim": 0.5}}"#,
            r#"{"rope_scaling": {"rope_type": "yarn", "factor": 2, "attention_factor": 0.5,
                "truncate": false}}"#,
            r#"{"rope_scaling": {"rope_type": "yarn", "factor": 2, "beta_fast": -1,
                "beta_slow": 1}}"#,
            r#"{"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 16}}"#,
            r#"{"rope_theta": 0.5, "rope_scaling": {"rope_type": "yarn", "factor": 2}}"#,
            r#"{"max_position_embeddings": null, "rope_scaling": {"rope_type": "yarn",
                "factor": 2}}"#,
            r#"{"rope_parameters": {"rope_theta": 100.0, "rope_type": "linear", "factor": 2},
                "rope_theta": null}"#,
        ],
    );
    all.extend(change(
        &folder::like_llama("mistral"),
        &[
            r#"{"sliding_window": 3}"#,
            r#"{"sliding_window": null}"#,
            r#"{"sliding_window": 0}"#,
        ],
    ));
    for family in ["qwen2", "qwen3"] {
        all.extend(change(
            &folder::like_llama(family),
            &[
                r#"{"use_sliding_window": true, "sliding_window": 3, "max_window_layers": 1}"#,
                r#"{"use_sliding_window": true, "sliding_window": 3,
                    "layer_types": ["full_attention", "sliding_attention"]}"#,
                r#"{"use_sliding_window": false, "layer_types": ["full_attention",
                    "sliding_attention"]}"#,
                r#"{"layer_types": ["full_attention"]}"#,
                r#"{"layer_types": ["full_attention", "x"]}"#,
            ],
        ));
    }
    all.extend(change(
        &folder::like_llama("smollm3"),
        &[
            r#"{"no_rope_layers": [0, 1]}"#,
            r#"{"no_rope_layers": [true]}"#,
            r#"{"no_rope_layers": [true, "x"]}"#,
        ],
    ));
    all.extend(change(
        &folder::like_llama("granite"),
        &[
            r#"{"logits_scaling": 8, "embedding_multiplier": 2, "residual_multiplier": 0.5,
            "attention_multiplier": 0.1}"#,
        ],
    ));
    all.extend(change(
        &folder::phi3(),
        &[
            r#"{"partial_rotary_factor": 0.5}"#,
            r#"{"partial_rotary_factor": 0.3}"#,
        ],
    ));
    all.extend(change(
        &folder::gemma("gemma3_text"),
        &[
            r#"{"use_bidirectional_attention": true}"#,
            r#"{"sliding_window": 3, "sliding_window_pattern": 2, "rope_local_base_freq": 100}"#,
            r#"{"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8,
                "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}"#,
            r#"{"rope_parameters": {"rope_theta": 1e4}}"#,
            r#"{"rope_scaling": {"full_attention": {"rope_type": "linear", "factor": 8}}}"#,
        ],
    ));

    // What lies in the files decides, too.
    let tensors = |change: &dyn Fn(&mut Folder)| {
        let mut folder = folder::llama();
        change(&mut folder);
        folder
    };
    let stored_as = |dtype| {
        move |folder: &mut Folder| {
            for stored in folder.tensors.values_mut() {
                stored.dtype = dtype;
                stored
                    .data
                    .truncate(stored.data.len() * dtype.bitsize() / 32);
            }
        }
    };
    all.extend([Dtype::F16, Dtype::BF16, Dtype::I8].map(|dtype| tensors(&stored_as(dtype))));
    let biases = [("q_proj", 8), ("k_proj", 4), ("v_proj", 4), ("o_proj", 8)];
    let biased = |folder: &mut Folder| {
        for layer in 0..2 {
            for (name, length) in biases {
                folder.add(
                    &format!("model.layers.{layer}.self_attn.{name}.bias"),
                    &[length],
                );
            }
            for (name, length) in [("gate_proj", 6), ("up_proj", 6), ("down_proj", 8)] {
                folder.add(&format!("model.layers.{layer}.mlp.{name}.bias"), &[length]);
            }
        }
    };
    all.extend([
        tensors(&biased),
        tensors(&biased).set("attention_bias", json!(false)),
    ]);
    all.push(tensors(&biased).set("model_type", json!("qwen2")));
    let mut fused = folder::phi3();
    for layer in 0..2 {
        fused.add(
            &format!("model.layers.{layer}.self_attn.qkv_proj.bias"),
            &[32],
        );
        fused.add(
            &format!("model.layers.{layer}.mlp.gate_up_proj.bias"),
            &[12],
        );
    }
    all.push(fused);
    all.push(tensors(&|folder| {
        drop(folder.tensors.remove("model.embed_tokens.weight"))
    }));
    all.push(tensors(&|folder| {
        drop(folder.tensors.remove("lm_head.weight"))
    }));
    all.push(tensors(&|folder| folder.add("model.layers.0.x", &[1])));

    // Penzai-style folders.
    let global = r#"{"type": "AttentionTypeGlobalCausal"}"#;
    let window = r#"{"type": "AttentionTypeSlidingWindowCausal", "window_size": 3}"#;
    let own = [
        format!(r#"{{"attention_type": {global}}}"#),
        format!(r#"{{"attention_type": {window}, "local_rope_wavelength": 10.0}}"#),
        format!(
            r#"{{"attention_type": [{window}, {global}], "rope_wavelength": 100,
                "local_rope_wavelength": 10}}"#
        ),
        format!(r#"{{"attention_type": [{global}, {global}, {global}]}}"#),
        r#"{"attention_type": [1, 2]}"#.into(),
        r#"{"attention_type": [{"type": "x"}]}"#.into(),
        r#"{"attention_type": {"type": "AttentionTypeGlobalCausal", "window_size": 3}}"#.into(),
        r#"{"attention_type": {"type": "AttentionTypeSlidingWindowCausal"}}"#.into(),
        r#"{"unheard_of": 1}"#.into(),
        r#"{"projection_dim": 3}"#.into(),
        r#"{"global_scale_factor": 0.5}"#.into(),
        r#"{"global_scale_factor": 2}"#.into(),
        r#"{"rope_wavelength": 1e-300}"#.into(),
        r#"{"rms_norm_eps": 1e-300, "parameter_dtype": "float16"}"#.into(),
        r#"{"parameter_dtype": "bfloat16", "activation_dtype": "float16"}"#.into(),
        r#"{"parameter_dtype": "int8"}"#.into(),
        r#"{"final_logit_softcap": 0.0, "attn_logits_soft_cap": 2.0}"#.into(),
        r#"{"mlp_variant": "geglu_exact", "query_scaling_factor": 0.5}"#.into(),
        r#"{"mlp_variant": "geglu_approx", "query_scaling_factor": "default"}"#.into(),
        r#"{"query_scaling_factor": 0}"#.into(),
        r#"{"query_scaling_factor": "x"}"#.into(),
        r#"{"num_decoder_blocks": 0}"#.into(),
        r#"{"num_decoder_blocks": 99}"#.into(),
        r#"{"num_kv_heads": 4000000000, "query_head_multiplier": 4000000000}"#.into(),
        r#"{"tie_embedder_and_logits": true}"#.into(),
        r#"{"use_qk_norm": true}"#.into(),
        r#"{"use_post_attn_norm": true}"#.into(),
    ];
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let whole = folder::llamalike(1, 2, 2, false)
        .set("rms_norm_eps", json!(1e-5))
        .set("use_qk_norm", json!(false));
    all.extend(change(&whole, &own));
    all.extend(change(&folder::llamalike(1, 1, 2, true), &own[2..4]));
    all.push(folder::llamalike(1, 1, 1, false).set("use_layer_stack", json!(true)));
    let mut axes = folder::llamalike(2, 1, 1, false);
    axes.metadata.insert(
        "axes:transformer/final_norm/scale.weights".into(),
        "embedding,embedding".into(),
    );
    all.push(axes.clone());
    axes.metadata.insert(
        "axes:transformer/final_norm/scale.weights".into(),
        "".into(),
    );
    all.push(axes.clone());
    axes.metadata.clear();
    all.push(axes.clone());
    axes.tensors.clear();
    all.push(axes);
    let mut turned = folder::llamalike(2, 2, 1, false);
    turned.transpose("transformer/block_0/attention/query.weights", &[3, 1, 0, 2]);
    all.push(turned);

    all.extend(wrong(&llama).chain(wrong(&whole)));
    all
}

/// `tokenizer.json` files with other parts.
pub fn tokenizer_jsons() -> Vec<String> {
    let bytes = include_str!("../../data/tokenizers/bytes.json");
    let prefixed = TOKENIZERS[0];
    let spaced = TOKENIZERS[3];
    let split = |pattern: &str, behavior: &str, invert: bool| {
        json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior,
                "invert": invert},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}})
    };
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    let llama3 = concat!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    );
    let mut changes = vec![
        split(gpt2, "Isolated", false),
        split(gpt2, "Removed", true),
        split(gpt2, "Removed", false),
        split(llama3, "Isolated", false),
        split(&llama3.replace("{1,3}", ""), "Isolated", false),
        split(&llama3.replace("{1,3}", "+"), "Isolated", false),
        split(&llama3.replace("{1,3}", "{1,0}"), "Isolated", false),
        split("x", "Isolated", false),
    ];
    for text in [
        r#"{"normalizer": {"type": "Lowercase"}}"#,
        r#"{"normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, {"type": "Prepend",
                "prepend": "▁"}]}}"#,
        r#"{"normalizer": {"type": "Prepend", "prepend": "x"}}"#,
        r#"{"normalizer": {"type": "Replace", "pattern": {"Regex": "x"}, "content": "y"}}"#,
        r#"{"normalizer": {"type": "Sequence"}}"#,
        r#"{"normalizer": 3}"#,
        r#"{"normalizer": null}"#,
        r#"{"normalizer": {"type": "NFC"}}"#,
        r#"{"pre_tokenizer": {"type": "Whitespace"}}"#,
        r#"{"pre_tokenizer": {"type": "Metaspace", "replacement": "_"}}"#,
        r#"{"pre_tokenizer": {"type": "Metaspace", "replacement": "▁",
            "add_prefix_space": false}}"#,
        r#"{"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first",
            "split": false}}"#,
        r#"{"pre_tokenizer": {"type": "Metaspace", "replacement": "▁",
            "prepend_scheme": "never"}}"#,
        r#"{"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "x"}}"#,
        r#"{"pre_tokenizer": {"type": "Digits", "individual_digits": false}}"#,
        r#"{"pre_tokenizer": {"type": "Digits", "individual_digits": true}}"#,
        r#"{"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true}}"#,
        r#"{"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
            "use_regex": false}}"#,
        r#"{"pre_tokenizer": null}"#,
        r#"{"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits",
            "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false}]}}"#,
        r#"{"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel",
            "add_prefix_space": false},
            {"type": "Digits", "individual_digits": true}]}}"#,
        r#"{"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits",
            "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}}"#,
        r#"{"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Metaspace", "replacement": "▁"}, {"type": "ByteLevel",
                "add_prefix_space": false}]}}"#,
        r#"{"decoder": {"type": "WordPiece"}}"#,
        r#"{"decoder": {"type": "ByteLevel"}}"#,
        r#"{"decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}}"#,
        r#"{"decoder": null}"#,
        r#"{"post_processor": {"type": "ByteLevel"}}"#,
        r#"{"post_processor": {"type": "BertProcessing"}}"#,
        r#"{"post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "a"}}, {"Sequence": {}},
            {"SpecialToken": {"id": "b"}}], "special_tokens": {"a": {"ids": [0]},
                "b": {"ids": [1, 2]}}}}"#,
        r#"{"post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"},
            {"type": "TemplateProcessing",
            "single": [{"Sequence": {}}], "special_tokens": {}}]}}"#,
        r#"{"post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "a"}}],
            "special_tokens": {"a": {"ids": [0]}}}}"#,
        r#"{"post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {}}],
            "special_tokens": {"a": {"ids": [99]}}}}"#,
        r#"{"post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {}},
            {"Sequence": {}}]}}"#,
        r#"{"post_processor": {"type": "TemplateProcessing"}}"#,
        r#"{"added_tokens": [{"id": 0, "content": ""}, {"id": 1}, {"content": "x"}]}"#,
        r#"{"added_tokens": [{"id": 90000, "content": "x"}]}"#,
        r#"{"added_tokens": [{"id": 30, "content": "x", "lstrip": true, "rstrip": true,
            "normalized": true}]}"#,
        r#"{"added_tokens": {}}"#,
        r#"{"model": {}}"#,
        r#"{"model": {"type": "Unigram"}}"#,
    ] {
        changes.push(serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}")));
    }
    let parsed = [bytes, prefixed, spaced].map(|text| serde_json::from_str::<Value>(text).unwrap());
    let mut all: Vec<Value> = parsed
        .iter()
        .flat_map(|tokenizer| {
            changes
                .iter()
                .map(|change| with(tokenizer.clone(), &change.to_string()))
        })
        .collect();
    for tokenizer in &parsed {
        for text in [
            r#"{"type": "Unigram"}"#,
            r#"{"type": null}"#,
            r#"{"continuing_subword_prefix": "x"}"#,
            r#"{"dropout": 0.5}"#,
            r#"{"dropout": "x"}"#,
            r#"{"ignore_merges": true}"#,
            r#"{"byte_fallback": true}"#,
            r#"{"byte_fallback": false}"#,
            r#"{"unk_token": "x"}"#,
            r#"{"unk_token": "a", "fuse_unk": true}"#,
            r#"{"merges": ["a b", "b"]}"#,
            r#"{"merges": [["a", "x"]]}"#,
            r#"{"merges": [["a"], 3]}"#,
            r#"{"merges": {}}"#,
            r#"{"vocab": {"a": 0, "b": 0}}"#,
            r#"{"vocab": {"a": "x"}}"#,
            r#"{"vocab": {"a": 5, "b": 80000}}"#,
            r#"{"vocab": {"語": 0}}"#,
            r#"{"vocab": []}"#,
            r#"{"vocab": {}}"#,
        ] {
            let mut changed = tokenizer.clone();
            changed["model"] = with(changed["model"].clone(), text);
            all.push(changed);
        }
    }
    all.iter().map(Value::to_string).collect()
}
