//! What importers of folders refuse, and with which words: unsupported models, senseless configs,
//! wrong tensors, damaged and hostile files.

use std::path::Path;

use crate::common::folder::{self, Folder, Stored, like_llama};
use crate::common::in_f64::read;
use pocketlm::import::{self, Checkpoint, ImportError, hf};
use pocketlm::model::{TensorId, TensorKind};
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

fn refused(folder: &Path) -> ImportError {
    match hf::open(folder) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

/// Why a folder is refused; the refusal has to name a file or folder.
fn reason(folder: &Folder) -> String {
    let error = refused(folder.write("model.safetensors").path());
    assert!(error.path.is_some(), "{error} names no file");
    error.reason
}

#[test]
fn unsupported_goldens_are_refused_with_the_reason() {
    let Some(cases) = crate::common::shared("goldens/hf") else {
        return;
    };
    assert_eq!(
        refused(&cases.join("x-cohere")).reason,
        "`model_type` is \"cohere\": its attention and feed-forward run side by side, behind a \
         LayerNorm"
    );
}

#[test]
fn unsupported_models_are_refused_by_name() {
    for (model_type, message) in [
        (
            "mixtral",
            "`model_type` is \"mixtral\": it is a mixture of experts",
        ),
        (
            "qwen3_moe",
            "`model_type` is \"qwen3_moe\": it is a mixture of experts",
        ),
        (
            "lfm2_moe",
            "`model_type` is \"lfm2_moe\": it is a mixture of experts",
        ),
        (
            "falcon_h1",
            "`model_type` is \"falcon_h1\": it has recurrent layers",
        ),
        (
            "qwen3_5",
            "`model_type` is \"qwen3_5\": it has recurrent layers",
        ),
        (
            "gemma4",
            "`model_type` is \"gemma4\": its layers have inputs of their own, and some share keys \
             and values",
        ),
        (
            "t5",
            "`model_type` is \"t5\": it is not one of the supported families",
        ),
    ] {
        assert_eq!(reason(&like_llama(model_type)), message);
    }
    let error = refused(like_llama("gpt2").write("model.safetensors").path());
    assert!(
        error
            .to_string()
            .ends_with("hunyuan_v1_dense, internlm3, llama4_text, ernie4_5, helium and lfm2"),
        "{error}"
    );
    assert_eq!(
        reason(&folder::llama().without("model_type")),
        "`model_type` is missing, expected a model family"
    );
    assert_eq!(
        reason(&folder::gemma("gemma3_text").set("use_bidirectional_attention", json!(true))),
        "`use_bidirectional_attention` is true, expected false: attention here is causal"
    );
    let multimodal = folder::llama()
        .set("model_type", json!("gemma3"))
        .set("text_config", json!({"model_type": "llama"}));
    assert_eq!(
        reason(&multimodal),
        "`text_config.model_type` is \"llama\", expected \"gemma3_text\""
    );
}

#[test]
fn senseless_config_values_are_refused_by_key() {
    const COUNT: &str = "expected an integer from 1 to 4294967295";
    for (key, value, message) in [
        (
            "hidden_size",
            json!(0),
            format!("`hidden_size` is 0, {COUNT}"),
        ),
        (
            "hidden_size",
            json!(-8),
            format!("`hidden_size` is -8, {COUNT}"),
        ),
        (
            "hidden_size",
            json!(8.0),
            format!("`hidden_size` is 8.0, {COUNT}"),
        ),
        (
            "hidden_size",
            Value::Null,
            "`hidden_size` is null, expected an integer above 0".into(),
        ),
        (
            "vocab_size",
            json!("10"),
            format!("`vocab_size` is \"10\", {COUNT}"),
        ),
        (
            "intermediate_size",
            json!([6]),
            format!("`intermediate_size` is a list, {COUNT}"),
        ),
        (
            "intermediate_size",
            json!(99_999_999_999u64),
            format!("`intermediate_size` is 99999999999, {COUNT}"),
        ),
        (
            "num_hidden_layers",
            json!(0),
            format!("`num_hidden_layers` is 0, {COUNT}"),
        ),
        (
            "num_hidden_layers",
            json!(4294967295u32),
            "`num_hidden_layers` is 4294967295, but the files hold only 21 tensors".into(),
        ),
        (
            "num_attention_heads",
            json!(0),
            format!("`num_attention_heads` is 0, {COUNT}"),
        ),
        (
            "num_key_value_heads",
            json!(0),
            format!("`num_key_value_heads` is 0, {COUNT}"),
        ),
        (
            "num_key_value_heads",
            json!(3),
            "`num_attention_heads` is 2, not a multiple of num_key_value_heads, 3".into(),
        ),
        (
            "head_dim",
            json!(5),
            "`head_dim` is 5, expected an even number up to 65536".into(),
        ),
        (
            "head_dim",
            json!(4294967294u32),
            "`head_dim` is 4294967294, expected an even number up to 65536".into(),
        ),
        (
            "rms_norm_eps",
            json!(0.0),
            "`rms_norm_eps` is 0.0, expected a number above 0".into(),
        ),
        (
            "rms_norm_eps",
            json!(1e-60),
            "`rms_norm_eps` is 1e-60, expected a number above 0".into(),
        ),
        (
            "rms_norm_eps",
            json!("1e-5"),
            "`rms_norm_eps` is \"1e-5\", expected a number that fits in f32".into(),
        ),
        (
            "hidden_act",
            json!("relu"),
            "`hidden_act` is \"relu\", expected silu, gelu or gelu_pytorch_tanh".into(),
        ),
        (
            "tie_word_embeddings",
            json!(0),
            "`tie_word_embeddings` is 0, expected true or false".into(),
        ),
        (
            "rope_theta",
            json!(-1),
            "`rope_theta` is -1, expected a number above 0".into(),
        ),
        (
            "partial_rotary_factor",
            json!(0.5),
            "`partial_rotary_factor` is 0.5, which only phi3 knows".into(),
        ),
    ] {
        assert_eq!(reason(&folder::llama().set(key, value)), message);
    }
    let indivisible = folder::llama()
        .without("head_dim")
        .set("num_attention_heads", json!(3));
    assert_eq!(
        reason(&indivisible),
        "`hidden_size` is 8, not a multiple of num_attention_heads, 3, and there is no head_dim"
    );
    for (key, value, message) in [
        (
            "sliding_window",
            json!(0),
            format!("`sliding_window` is 0, {COUNT}"),
        ),
        (
            "sliding_window",
            json!(-4),
            format!("`sliding_window` is -4, {COUNT}"),
        ),
        (
            "query_pre_attn_scalar",
            json!(0),
            "`query_pre_attn_scalar` is 0, expected a number above 0".into(),
        ),
        (
            "attn_logit_softcapping",
            json!(0.0),
            "`attn_logit_softcapping` is 0.0, expected a number above 0".into(),
        ),
        (
            "final_logit_softcapping",
            json!(-30),
            "`final_logit_softcapping` is -30, expected a number above 0".into(),
        ),
        (
            "layer_types",
            json!(["full_attention"]),
            "`layer_types` has 1 entries, expected num_hidden_layers, 2".into(),
        ),
        (
            "layer_types",
            json!(["full_attention", "chunked_attention"]),
            "`layer_types` says \"chunked_attention\", expected full_attention or \
             sliding_attention"
                .into(),
        ),
    ] {
        assert_eq!(reason(&folder::gemma("gemma2").set(key, value)), message);
    }
    assert_eq!(
        reason(&folder::gemma("gemma3_text").set("sliding_window_pattern", json!(0))),
        format!("`sliding_window_pattern` is 0, {COUNT}")
    );
    let qwen3 = like_llama("qwen3").set(
        "layer_types",
        json!(["full_attention", "sliding_attention"]),
    );
    assert_eq!(
        reason(&qwen3),
        "`layer_types` says sliding_attention, but use_sliding_window is not true"
    );
    for (key, value, message) in [
        (
            "no_rope_layers",
            json!([1]),
            "`no_rope_layers` has 1 entries, expected num_hidden_layers, 2",
        ),
        (
            "no_rope_layers",
            json!([1, 2]),
            "`no_rope_layers` says 2, expected 0 or 1",
        ),
        (
            "no_rope_layer_interval",
            json!(0),
            "`no_rope_layer_interval` is 0, expected an integer from 1 to 4294967295",
        ),
    ] {
        assert_eq!(reason(&like_llama("smollm3").set(key, value)), message);
    }
}

#[test]
fn rotary_scaling_that_is_unknown_or_senseless_is_refused_by_key() {
    for (scaling, message) in [
        (
            json!({"type": "dynamic", "factor": 2.0}),
            "`rope_scaling.type` is \"dynamic\": its rotary frequencies change with the length of \
             the text",
        ),
        (
            json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}),
            "`rope_scaling.rope_type` is \"longrope\": its rotary frequencies change with the \
             length of the text",
        ),
        (
            json!({"rope_type": "mrope"}),
            "`rope_scaling.rope_type` is \"mrope\", expected default, linear, llama3 or yarn",
        ),
        (
            json!({"rope_type": "linear"}),
            "`rope_scaling.factor` is missing, expected a number above 0",
        ),
        (
            json!({"rope_type": "linear", "factor": 0}),
            "`rope_scaling.factor` is 0, expected a number above 0",
        ),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
                "high_freq_factor": 4.0}),
            "`rope_scaling.low_freq_factor` is 4.0, expected less than high_freq_factor, 4",
        ),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}),
            "`rope_scaling.high_freq_factor` is missing, expected a number above 0",
        ),
        (
            json!({"rope_type": "yarn", "factor": 2.0, "beta_fast": -1}),
            "`rope_scaling.beta_fast` is -1, expected a number above 0",
        ),
        (
            json!("linear"),
            "`rope_scaling` is \"linear\", expected an object",
        ),
    ] {
        assert_eq!(
            reason(&folder::llama().set("rope_scaling", scaling)),
            message
        );
    }
    let phi3 = |scaling: Value| reason(&folder::phi3().set("rope_scaling", scaling));
    for name in ["su", "yarn", "longrope"] {
        let message = format!(
            "`rope_scaling.type` is {name:?}: its rotary frequencies change with the length of the \
             text"
        );
        assert_eq!(phi3(json!({"type": name, "factor": 2.0})), message);
    }
    assert_eq!(
        reason(&folder::phi3().set("partial_rotary_factor", json!(1.5))),
        "`partial_rotary_factor` is 1.5, expected a part of head_dim, 8"
    );
    assert_eq!(
        reason(
            &folder::gemma("gemma3_text").set("rope_parameters", json!({"rope_type": "default"}))
        ),
        "`rope_parameters` has no full_attention and no sliding_attention, which gemma3 keeps apart"
    );
}

#[test]
fn tensors_that_are_missing_misshapen_or_of_another_type_are_refused_by_name() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let without = |name: &str| {
        let mut folder = folder::llama();
        folder.tensors.remove(name).unwrap();
        folder
    };
    assert_eq!(
        reason(&without(name)),
        format!("tensor `{name}` is missing, expected shape [6, 8]")
    );
    assert_eq!(
        reason(&without("model.embed_tokens.weight")),
        "tensor `model.embed_tokens.weight` is missing"
    );
    let error = refused(without("lm_head.weight").write("model.safetensors").path());
    assert_eq!(
        error.reason,
        "tensor `lm_head.weight` is missing, expected shape [10, 8]"
    );
    assert_eq!(
        error.help.as_deref(),
        Some("config.json does not tie it to the embeddings")
    );

    let replaced = |stored: Stored| {
        let mut folder = folder::llama();
        folder.tensors.insert(name.into(), stored);
        reason(&folder)
    };
    for shape in [&[8, 6][..], &[6, 9], &[48], &[6, 8, 1], &[]] {
        let message = format!("tensor `{name}`: shape {shape:?}, expected [6, 8] by config.json");
        assert_eq!(replaced(Stored::numbers(1, shape)), message);
    }
    for (dtype, bytes) in [
        (Dtype::F64, 8),
        (Dtype::I8, 1),
        (Dtype::U8, 1),
        (Dtype::F8_E4M3, 1),
        (Dtype::I32, 4),
    ] {
        let stored = Stored {
            dtype,
            shape: vec![6, 8],
            data: vec![0; 48 * bytes],
        };
        assert_eq!(
            replaced(stored),
            format!("tensor `{name}`: stored as {dtype}, expected F32, F16 or BF16")
        );
    }
    for (key, value, name) in [
        (
            "vocab_size",
            json!(11),
            "tensor `model.embed_tokens.weight`: shape [10, 8], expected [11, 8] by config.json",
        ),
        (
            "num_key_value_heads",
            json!(2),
            "tensor `model.layers.0.self_attn.k_proj.weight`: shape [4, 8], expected [8, 8] by \
             config.json",
        ),
        (
            "head_dim",
            json!(65536),
            "tensor `model.layers.0.self_attn.q_proj.weight`: shape [8, 8], expected [131072, 8] \
             by config.json",
        ),
        (
            "num_hidden_layers",
            json!(3),
            "tensor `model.layers.2.input_layernorm.weight` is missing, expected shape [8]",
        ),
    ] {
        assert_eq!(reason(&folder::llama().set(key, value)), name);
    }
}

#[test]
fn tensors_that_would_change_the_model_are_not_ignored() {
    let with = |names: &[&str]| {
        let mut folder = folder::llama();
        names.iter().for_each(|name| folder.add(name, &[8]));
        folder
    };
    for name in [
        "model.layers.2.input_layernorm.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "score.weight",
    ] {
        let message =
            format!("tensor `{name}` is not part of the model that config.json describes");
        assert_eq!(reason(&with(&[name])), message);
    }
    // A second head, of the other name.
    assert_eq!(
        reason(&with(&["language_model.lm_head.weight"]).set("tie_word_embeddings", json!(true))),
        "tensor `language_model.lm_head.weight` is not part of the model that config.json describes"
    );
    // Buffers of old versions are.
    let harmless = with(&[
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.rotary_emb.inv_freq",
    ]);
    assert!(hf::open(harmless.write("model.safetensors").path()).is_ok());
    // But only where these versions saved them.
    let elsewhere = "adapters.rotary_emb.inv_freq";
    assert!(reason(&with(&[elsewhere])).starts_with(&format!("tensor `{elsewhere}` is not part")));
    let two = reason(&with(&["score.weight", "score.bias", "value.weight"]));
    assert!(
        two.starts_with("tensor `score.bias` and 2 others are not part"),
        "{two}"
    );
    let adapter = "model.layers.0.self_attn.q_proj.lora_A.weight";
    assert_eq!(
        reason(&with(&[adapter])),
        format!("tensor `{adapter}` is part of an adapter that is not merged")
    );
    // Also where it has taken the place of the model's own tensor.
    let mut wrapped = folder::llama();
    wrapped.tensors = (wrapped.tensors.into_iter())
        .map(|(name, t)| (name.replace("q_proj.weight", "q_proj.base_layer.weight"), t))
        .collect();
    let base = "model.layers.0.self_attn.q_proj.base_layer.weight";
    assert_eq!(
        reason(&wrapped),
        format!("tensor `{base}` is part of an adapter that is not merged")
    );
    // With a wrapper's prefix, all tensors have it or none.
    let mut mixed = folder::llama();
    mixed.tensors = (mixed.tensors.into_iter())
        .map(|(name, t)| (format!("module.{name}"), t))
        .collect();
    mixed.add("odd", &[8]);
    let error = refused(mixed.write("model.safetensors").path()).to_string();
    assert!(
        error.ends_with(
            "tensor `model.embed_tokens.weight` is missing; there is \
             `module.model.embed_tokens.weight`: remove the prefix from the names of the tensors"
        ),
        "{error}"
    );
    let mut twice = folder::llama();
    twice.add("model._orig_mod.norm.weight", &[8]);
    assert_eq!(
        reason(&twice),
        "tensors `model._orig_mod.norm.weight` and `model.norm.weight` are the same part of the \
         model"
    );
}

#[test]
fn biases_are_complete_or_refused() {
    let mut folder = folder::llama();
    folder.add("model.layers.0.self_attn.k_proj.bias", &[4]);
    assert_eq!(
        reason(&folder),
        "tensor `model.layers.0.self_attn.q_proj.bias` is missing, expected shape [8]"
    );
    assert_eq!(
        reason(&folder.set("attention_bias", json!(false))),
        "config.json says `attention_bias` is false, but there is a tensor \
         `model.layers.0.self_attn.k_proj.bias`"
    );
    assert_eq!(
        reason(&folder::llama().set("mlp_bias", json!(true))),
        "tensor `model.layers.0.mlp.gate_proj.bias` is missing, expected shape [6]"
    );
    assert_eq!(
        reason(&like_llama("qwen2")),
        "tensor `model.layers.0.self_attn.q_proj.bias` is missing, expected shape [8]"
    );
}

/// A good folder whose `config.json` is replaced by these bytes.
fn with_config(config: &[u8]) -> TempDir {
    let folder = folder::llama().write("model.safetensors");
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    folder
}

#[test]
fn configs_that_are_not_json_objects_are_refused() {
    for config in [
        "",
        "[]",
        "null",
        "{",
        "{\"a\": NaNs}",
        "{\"a\": nan}",
        "{\"a\": \"NaN}",
        "{\"a\": 1e999}",
        "{} {}",
    ] {
        let error = refused(with_config(config.as_bytes()).path());
        assert!(
            error.reason.starts_with("not JSON: ") || error.reason == "not a JSON object",
            "{config}: {error}"
        );
        assert!(error.path.unwrap().ends_with("config.json"));
    }
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    assert!(
        refused(with_config(deep.as_bytes()).path())
            .reason
            .contains("recursion limit")
    );
    assert!(
        refused(with_config(b"{\"model_type\": \"\xff\"}").path())
            .reason
            .starts_with("cannot be read: ")
    );
    let huge = vec![b' '; (16 << 20) + 1];
    assert_eq!(
        refused(with_config(&huge).path()).reason,
        "longer than 16777216 bytes, which no such file is"
    );
    // Python's numbers are read, and refused where they are used.
    for number in ["NaN", "Infinity", "-Infinity"] {
        let config = folder::llama().set("rms_norm_eps", json!("?")).config;
        let config = config.to_string().replace("\"?\"", number);
        assert_eq!(
            refused(with_config(config.as_bytes()).path()).reason,
            format!("`rms_norm_eps` is \"{number}\", expected a number that fits in f32")
        );
    }
    for start in [[0xff, 0xfe], [0xfe, 0xff]] {
        let error = refused(with_config(&[&start[..], b"{\0}\0"].concat()).path());
        assert_eq!(
            error.to_string().split(": ").last().unwrap(),
            "the text is UTF-16; save it as UTF-8"
        );
    }
    // A value is quoted, but not at any length.
    let long = format!(
        "{{\"model_type\": \"llama\", \"hidden_size\": \"{}\"}}",
        "x".repeat(1 << 20)
    );
    assert!(refused(with_config(long.as_bytes()).path()).reason.len() < 200);
}

#[test]
fn missing_and_odd_files_are_refused_by_path() {
    let empty = crate::common::scratch();
    let error = refused(empty.path());
    assert!(error.path.unwrap().ends_with("config.json"));
    assert!(
        error.reason.starts_with("cannot be opened: "),
        "{}",
        error.reason
    );

    std::fs::write(
        empty.path().join("config.json"),
        folder::llama().config.to_string(),
    )
    .unwrap();
    let error = refused(empty.path());
    assert_eq!(
        error.reason,
        "no model.safetensors and no model.safetensors.index.json"
    );
    assert_eq!(error.help, None);
    std::fs::write(empty.path().join("pytorch_model.bin"), b"PK").unwrap();
    assert!(
        refused(empty.path())
            .help
            .unwrap()
            .starts_with("pytorch_model.bin must be converted first")
    );
    std::fs::write(empty.path().join("gptq_model-4bit.safetensors"), b"").unwrap();
    assert_eq!(
        refused(empty.path()).help.unwrap(),
        "if gptq_model-4bit.safetensors holds the model, rename it to model.safetensors"
    );
    std::fs::write(empty.path().join("model-00002-of-00003.safetensors"), b"").unwrap();
    assert_eq!(
        refused(empty.path()).reason,
        "shard 1 of 3 is missing: of model-*-of-*.safetensors there are 1"
    );
    std::fs::write(empty.path().join("model-00001-of-00002.safetensors"), b"").unwrap();
    assert_eq!(
        refused(empty.path()).reason,
        "there are several sets of shards, and no model.safetensors.index.json"
    );

    std::fs::create_dir(empty.path().join("model.safetensors")).unwrap();
    let error = refused(empty.path());
    assert_eq!(error.reason, "not a regular file");
    assert_eq!(error.help.as_deref(), Some("it is a folder"));
}

#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_a_file_does_not_hang() {
    let folder = folder::llama().write("model.safetensors");
    for file in ["model.safetensors", "config.json"] {
        let path = folder.path().join(file);
        std::fs::remove_file(&path).unwrap();
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(
            refused(folder.path()).reason,
            "not a regular file",
            "{file}"
        );
    }
}

/// A good folder whose weights are replaced by these bytes.
fn with_weights(weights: &[u8]) -> TempDir {
    let folder = folder::llama().write("model.safetensors");
    std::fs::write(folder.path().join("model.safetensors"), weights).unwrap();
    folder
}

#[test]
fn weights_cut_at_any_length_are_refused() {
    let weights = folder::llama().weights();
    let folder = with_weights(&weights);
    assert!(hf::open(folder.path()).is_ok());
    let path = folder.path().join("model.safetensors");
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    for length in (0..header + 100).chain((header..weights.len()).step_by(61)) {
        std::fs::write(&path, &weights[..length]).unwrap();
        let error = refused(folder.path());
        assert!(
            error
                .reason
                .starts_with(&format!("not a whole safetensors file ({length} bytes): ")),
            "{error}"
        );
        assert!(error.path.unwrap().ends_with("model.safetensors"));
    }
    std::fs::write(&path, [&weights[..], &[0]].concat()).unwrap();
    assert!(
        refused(folder.path())
            .reason
            .starts_with("not a whole safetensors file")
    );
}

#[test]
fn no_change_of_a_header_byte_makes_reading_panic() {
    let weights = folder::llama().weights();
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let folder = with_weights(&weights);
    let path = folder.path().join("model.safetensors");
    for at in 0..header {
        for flip in [0x01, 0x10] {
            let mut weights = weights.clone();
            weights[at] ^= flip;
            std::fs::write(&path, &weights).unwrap();
            // What still opens was checked, so all of it can be read.
            if let Ok(checkpoint) = hf::open(folder.path()) {
                for (layer, kind) in [
                    (0, TensorKind::Embedder),
                    (0, TensorKind::Query),
                    (1, TensorKind::OutLinear),
                    (0, TensorKind::FinalNorm),
                ] {
                    read(&checkpoint.tensor(TensorId { layer, kind }).unwrap());
                }
            }
        }
    }
}

#[test]
fn inconsistent_headers_are_refused() {
    let file = |header: String, data: usize| {
        [
            &(header.len() as u64).to_le_bytes()[..],
            header.as_bytes(),
            &vec![0; data],
        ]
        .concat()
    };
    let entry = |shape: &str, from: u64, to: u64| {
        format!("{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}")
    };
    for (what, weights) in [
        (
            "overlap",
            file(
                format!(
                    "{{\"a\":{},\"b\":{}}}",
                    entry("[2]", 0, 8),
                    entry("[2]", 4, 12)
                ),
                12,
            ),
        ),
        (
            "hole",
            file(
                format!(
                    "{{\"a\":{},\"b\":{}}}",
                    entry("[2]", 0, 8),
                    entry("[2]", 12, 20)
                ),
                20,
            ),
        ),
        (
            "past the end",
            file(format!("{{\"a\":{}}}", entry("[4]", 0, 16)), 8),
        ),
        (
            "backwards",
            file(format!("{{\"a\":{}}}", entry("[2]", 8, 0)), 8),
        ),
        (
            "overflowing shape",
            file(
                format!("{{\"a\":{}}}", entry("[4294967296,4294967296,4]", 0, 0)),
                0,
            ),
        ),
        (
            "unknown type",
            file(
                "{\"a\":{\"dtype\":\"Q4\",\"shape\":[2],\"data_offsets\":[0,8]}}".into(),
                8,
            ),
        ),
        ("no object", file("[]".into(), 0)),
        (
            "endless header",
            [&u64::MAX.to_le_bytes()[..], &[b' '; 64]].concat(),
        ),
        (
            "large header",
            [&99_999_999u64.to_le_bytes()[..], &[b' '; 64]].concat(),
        ),
    ] {
        let error = refused(with_weights(&weights).path());
        assert!(
            error.reason.starts_with("not a whole safetensors file"),
            "{what}: {error}"
        );
    }
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n";

#[test]
fn git_lfs_pointers_are_named_wherever_they_are() {
    let is_called_so = |error: ImportError, place: &str| {
        assert_eq!(
            error.reason, "this is a Git LFS pointer, not the file that it stands for",
            "{place}"
        );
        assert!(error.help.unwrap().starts_with("run `git lfs pull`"));
        assert!(error.path.unwrap().ends_with(place));
    };
    for place in ["config.json", "model.safetensors"] {
        let folder = folder::llama().write("model.safetensors");
        std::fs::write(folder.path().join(place), POINTER).unwrap();
        is_called_so(import::open(folder.path()).err().unwrap(), place);
    }
    let folder = folder::llama().write("a.safetensors");
    std::fs::write(folder.path().join("model.safetensors.index.json"), POINTER).unwrap();
    is_called_so(refused(folder.path()), "model.safetensors.index.json");
    for place in ["m.gguf", "m.bin", "m.plm", "m"] {
        let path = folder.path().join(place);
        std::fs::write(&path, POINTER).unwrap();
        is_called_so(import::open(&path).err().unwrap(), place);
        is_called_so(
            pocketlm::host::file::read_whole(&path).err().unwrap(),
            place,
        );
    }
    for place in ["tokenizer.json", "tokenizer.model"] {
        let path = folder.path().join(place);
        std::fs::write(&path, POINTER).unwrap();
        is_called_so(import::tokenizer::from_path(&path).err().unwrap(), place);
    }
    // A long text that begins so is no pointer.
    let path = folder.path().join("long");
    std::fs::write(&path, POINTER.repeat(20)).unwrap();
    assert!(pocketlm::host::file::read_whole(&path).is_ok());
}

#[test]
fn what_is_not_a_checkpoint_is_refused_with_advice() {
    let folder = crate::common::scratch();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let said = |path: &Path| {
        let error = import::open(path).err().unwrap();
        assert_eq!(error.path.as_deref(), Some(path));
        format!("{}; {}", error.reason, error.help.unwrap_or_default())
    };
    assert_eq!(
        said(folder.path()),
        "no checkpoint: the folder has no config.json; "
    );
    let adapter = "{\"peft_type\": \"LORA\", \"base_model_name_or_path\": \"some/model\"}";
    write("adapter_config.json", adapter.as_bytes());
    write("adapter_model.safetensors", b"");
    let merge = "this is an adapter (LORA) for some/model, not a model; merge it into its model \
     with PEFT's `merge_and_unload()`";
    assert!(
        said(folder.path()).starts_with(merge),
        "{}",
        said(folder.path())
    );
    // Beside a whole model as well, as long as its weights are there.
    let model = folder::llama().write("model.safetensors");
    std::fs::write(model.path().join("adapter_config.json"), adapter).unwrap();
    assert!(import::open(model.path()).is_ok());
    std::fs::write(model.path().join("adapter_model.safetensors"), "").unwrap();
    assert!(said(model.path()).starts_with(merge));

    std::fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    write("m.gguf", b"GGUF");
    assert_eq!(
        said(folder.path()),
        "no checkpoint: the folder has no config.json; give the file in it, m.gguf"
    );
    assert_eq!(said(&write("empty.gguf", b"")), "an empty file; ");
    assert_eq!(
        said(&write("config.json", b"{}")),
        "one file of a checkpoint; give the folder that it is in"
    );
    assert_eq!(
        said(&write("model.safetensors", b"12345678")),
        "weights without their config; give the folder that it is in"
    );
    for start in [b"PK\x03\x04", b"\x80\x02\x8a\n"] {
        assert!(said(&write("pytorch_model.bin", start)).starts_with(
            "a file in PyTorch's own format; pytorch_model.bin must be converted first"
        ),);
    }
    assert!(
        said(&write("notes.txt", b"hello"))
            .starts_with("neither an image nor a checkpoint that is known; expected ")
    );
}

#[test]
fn an_index_cannot_name_files_outside_its_folder() {
    let name = "model.norm.weight";
    let indexed = |index: Value| {
        let folder = folder::llama().write("a.safetensors");
        std::fs::write(
            folder.path().join("model.safetensors.index.json"),
            index.to_string(),
        )
        .unwrap();
        folder
    };
    for file in [
        "../a.safetensors",
        "/etc/passwd",
        "sub/a.safetensors",
        "./a.safetensors",
        "..",
        ".",
        "",
        "a.safetensors/",
    ] {
        let error = refused(indexed(json!({"weight_map": {name: file}})).path());
        let message =
            format!("`weight_map.{name}` is {file:?}, expected the name of a file in this folder");
        assert_eq!(error.reason, message);
        assert!(
            error
                .path
                .unwrap()
                .ends_with("model.safetensors.index.json")
        );
    }
    for (index, message) in [
        (json!({}), "`weight_map` is not an object".into()),
        (
            json!({"weight_map": {name: 1}}),
            format!("`weight_map.{name}` is not a string"),
        ),
        (
            json!({"weight_map": {"x": "a.safetensors"}}),
            "`weight_map.x` is \"a.safetensors\", which holds no such tensor".into(),
        ),
    ] {
        assert_eq!(refused(indexed(index).path()).reason, message);
    }
    let error = refused(indexed(json!({"weight_map": {name: "b.safetensors"}})).path());
    assert!(error.path.unwrap().ends_with("b.safetensors"));
    assert!(error.reason.starts_with("cannot be opened: "));

    // One name in two files: the index decides. Without an entry there, the folder is refused.
    let twice = indexed(json!({"weight_map": {name: "a.safetensors", "other": "b.safetensors"}}));
    let mut other = folder::llama();
    other.tensors.retain(|tensor, _| tensor == name);
    other.add("other", &[1]);
    std::fs::write(twice.path().join("b.safetensors"), other.weights()).unwrap();
    let error = refused(twice.path());
    assert_eq!(
        error.reason,
        "tensor `other` is not part of the model that config.json describes"
    );
    let index =
        json!({"weight_map": {"lm_head.weight": "a.safetensors", "other": "b.safetensors"}});
    std::fs::write(
        twice.path().join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    assert_eq!(
        refused(twice.path()).reason,
        format!("tensor `{name}` is in more than one file, and the index lists none of them")
    );
}
