//! Importing Hugging Face folders: forms of the config, tensors, and the whole model against its
//! oracle.

mod families;
mod layers;
mod quantized;

use std::num::NonZeroU32;
use std::path::Path;

use crate::common::folder::{self, Folder, like_llama};
use crate::common::in_f64::{Reference, read};
use pocketlm::import::{Checkpoint, hf, llamalike};
use pocketlm::model::{AttnTemperature, Layer, LayerKind, MlpVariant, Rope, TensorId, TensorKind};
use pocketlm::text::Tokenizer;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

fn supported_cases() -> Vec<std::path::PathBuf> {
    let sets = ["goldens/hf", "goldens/families/hf"];
    let sets = sets.into_iter().filter_map(crate::common::shared);
    let is_supported = |path: &std::path::PathBuf| {
        path.join("expected.safetensors").exists()
            && !crate::common::UNSUPPORTED_CASES.contains(&crate::common::name(path).as_str())
    };
    sets.flat_map(crate::common::folders)
        .filter(is_supported)
        .collect()
}

fn open(folder: &Path) -> impl Checkpoint + use<> {
    hf::open(folder).unwrap_or_else(|error| panic!("{error}"))
}

fn numbers<const N: usize, T>(
    tensors: &SafeTensors,
    name: &str,
    read: impl Fn([u8; N]) -> T,
) -> (Vec<usize>, Vec<T>) {
    let view = tensors.tensor(name).unwrap();
    let bytes = view
        .data()
        .chunks_exact(N)
        .map(|bytes| read(bytes.try_into().unwrap()))
        .collect();
    (view.shape().to_vec(), bytes)
}

/// The oracle is f32. On these models it is up to 6.1e-5 from our forward pass in f64.
const TOLERANCE: f64 = 8e-5;

/// Compares the logits and the greedy ids of a case with ours.
fn assert_oracle(folder: &Path) {
    let case = crate::common::name(folder);
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let (_, ids) = numbers(&expected, "input_ids", i64::from_le_bytes);
    let (_, greedy) = numbers(&expected, "greedy_ids", i64::from_le_bytes);
    let (shape, logits) = numbers(&expected, "logits", f32::from_le_bytes);
    let (_, greedy_logits) = numbers(&expected, "greedy_logits", f32::from_le_bytes);
    let mut ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    let prompt = ids.len();
    ids.extend(greedy.iter().map(|&id| id as u32));

    let checkpoint = open(folder);
    let ours = Reference::new(&checkpoint).logits(&ids);
    // Row `prompt - 1 + i` chose greedy id `i`; the last row chose nothing.
    let expected: Vec<_> = logits
        .chunks(shape[1])
        .chain(greedy_logits.chunks(shape[1]).skip(1))
        .collect();
    assert_eq!(expected.len() + 1, ours.len());
    let mut worst = 0f64;
    for (row, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        assert_eq!(ours.len(), expected.len());
        worst = ours
            .iter()
            .zip(expected)
            .fold(worst, |worst, (a, b)| worst.max((a - f64::from(*b)).abs()));
        if row + 1 >= prompt {
            let top = (0..ours.len())
                .max_by(|&a, &b| ours[a].total_cmp(&ours[b]))
                .unwrap();
            assert_eq!(
                top as u32,
                ids[row + 1],
                "{case}: greedy id {}",
                row + 1 - prompt
            );
        }
    }
    eprintln!("{case}: {worst:.1e}");
    assert!(worst <= TOLERANCE, "{case}: off by {worst:e}");
}

#[test]
fn a_plain_forward_pass_over_the_import_gives_the_oracles_logits_and_greedy_text() {
    for folder in supported_cases() {
        assert_oracle(&folder);
    }
}

#[test]
fn rare_forms_of_the_config_give_the_oracles_logits() {
    for folder in
        crate::common::folders(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/hf").into())
    {
        assert_oracle(&folder);
    }
}

#[test]
fn every_version_of_a_config_describes_the_same_model() {
    let mut compared = 0;
    for folder in supported_cases() {
        let Ok(variants) = std::fs::read_dir(folder.join("config_variants")) else {
            continue;
        };
        let expected = open(&folder);
        for variant in variants {
            let variant = variant.unwrap().path();
            let copy = crate::common::scratch();
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path
                    .extension()
                    .is_some_and(|extension| extension == "safetensors" || extension == "json")
                {
                    std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
                }
            }
            std::fs::copy(&variant, copy.path().join("config.json")).unwrap();
            let described = open(copy.path());
            assert_eq!(
                described.description(),
                expected.description(),
                "{}",
                variant.display()
            );
            compared += 1;
        }
    }
    eprintln!("{compared} variants");
}

fn tensor(checkpoint: &dyn Checkpoint, layer: u32, kind: TensorKind) -> Vec<Vec<f32>> {
    read(
        &checkpoint
            .tensor(TensorId { layer, kind })
            .unwrap_or_else(|error| panic!("{error}")),
    )
}

/// The rows of an F32 matrix (or the one row of a vector) as they lie in the file.
fn stored(folder: &Folder, name: &str) -> Vec<Vec<f32>> {
    let stored = &folder.tensors[name];
    let numbers: Vec<f32> = stored
        .data
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    numbers
        .chunks(*stored.shape.last().unwrap())
        .map(<[f32]>::to_vec)
        .collect()
}

#[test]
fn llama_tensors_are_the_stored_ones() {
    let folder = folder::llama();
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    for (layer, kind, name) in [
        (0, TensorKind::Embedder, "model.embed_tokens.weight"),
        (0, TensorKind::LmHead, "lm_head.weight"),
        (0, TensorKind::FinalNorm, "model.norm.weight"),
        (
            1,
            TensorKind::PreAttentionNorm,
            "model.layers.1.input_layernorm.weight",
        ),
        (
            1,
            TensorKind::Query,
            "model.layers.1.self_attn.q_proj.weight",
        ),
        (0, TensorKind::Key, "model.layers.0.self_attn.k_proj.weight"),
        (
            1,
            TensorKind::Value,
            "model.layers.1.self_attn.v_proj.weight",
        ),
        (
            1,
            TensorKind::Output,
            "model.layers.1.self_attn.o_proj.weight",
        ),
        (
            0,
            TensorKind::PreFfwNorm,
            "model.layers.0.post_attention_layernorm.weight",
        ),
        (
            1,
            TensorKind::GatingLinear,
            "model.layers.1.mlp.gate_proj.weight",
        ),
        (
            1,
            TensorKind::ValueLinear,
            "model.layers.1.mlp.up_proj.weight",
        ),
        (
            1,
            TensorKind::OutLinear,
            "model.layers.1.mlp.down_proj.weight",
        ),
    ] {
        assert_eq!(
            tensor(&checkpoint, layer, kind),
            stored(&folder, name),
            "{name}"
        );
    }
}

#[test]
fn gemma_norms_are_one_plus_the_stored_weights_and_matrices_are_not() {
    let folder = folder::gemma("gemma3_text");
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    for (kind, name) in [
        (
            TensorKind::PreAttentionNorm,
            "model.layers.1.input_layernorm.weight",
        ),
        (
            TensorKind::PostAttentionNorm,
            "model.layers.1.post_attention_layernorm.weight",
        ),
        (
            TensorKind::PreFfwNorm,
            "model.layers.1.pre_feedforward_layernorm.weight",
        ),
        (
            TensorKind::PostFfwNorm,
            "model.layers.1.post_feedforward_layernorm.weight",
        ),
        (
            TensorKind::QueryNorm,
            "model.layers.1.self_attn.q_norm.weight",
        ),
        (
            TensorKind::KeyNorm,
            "model.layers.1.self_attn.k_norm.weight",
        ),
        (TensorKind::FinalNorm, "model.norm.weight"),
    ] {
        let layer = if kind == TensorKind::FinalNorm { 0 } else { 1 };
        let plus_one: Vec<f32> = stored(&folder, name)[0].iter().map(|w| 1.0 + w).collect();
        assert_eq!(tensor(&checkpoint, layer, kind), [plus_one], "{name}");
    }
    assert_eq!(
        tensor(&checkpoint, 0, TensorKind::Embedder),
        stored(&folder, "model.embed_tokens.weight")
    );
}

#[test]
fn fused_matrices_of_phi3_are_cut_in_order() {
    let folder = folder::phi3();
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    let qkv = stored(&folder, "model.layers.1.self_attn.qkv_proj.weight");
    assert_eq!(tensor(&checkpoint, 1, TensorKind::Query), qkv[..16]);
    assert_eq!(tensor(&checkpoint, 1, TensorKind::Key), qkv[16..24]);
    assert_eq!(tensor(&checkpoint, 1, TensorKind::Value), qkv[24..]);
    let gate_up = stored(&folder, "model.layers.1.mlp.gate_up_proj.weight");
    assert_eq!(
        tensor(&checkpoint, 1, TensorKind::GatingLinear),
        gate_up[..6]
    );
    assert_eq!(
        tensor(&checkpoint, 1, TensorKind::ValueLinear),
        gate_up[6..]
    );
}

#[test]
fn channels_that_do_not_turn_are_moved_between_those_that_do() {
    let mut folder = folder::phi3().set("partial_rotary_factor", json!(0.5));
    folder.add("model.layers.0.self_attn.qkv_proj.bias", &[32]);
    folder.add("model.layers.1.self_attn.qkv_proj.bias", &[32]);
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    // 4 of 8 channels turn, stored as pairs (0, 2) and (1, 3); here pair j is (j, j + 4).
    let order = [0, 1, 4, 5, 2, 3, 6, 7];
    let qkv = stored(&folder, "model.layers.1.self_attn.qkv_proj.weight");
    let query: Vec<_> = [0, 8]
        .iter()
        .flat_map(|head| order.map(|channel| qkv[head + channel].clone()))
        .collect();
    let key: Vec<_> = order.map(|channel| qkv[16 + channel].clone()).to_vec();
    assert_eq!(tensor(&checkpoint, 1, TensorKind::Query), query);
    assert_eq!(tensor(&checkpoint, 1, TensorKind::Key), key);
    assert_eq!(
        tensor(&checkpoint, 1, TensorKind::Value),
        qkv[24..],
        "values do not turn"
    );
    let bias = &stored(&folder, "model.layers.1.self_attn.qkv_proj.bias")[0];
    assert_eq!(
        tensor(&checkpoint, 1, TensorKind::KeyBias),
        [order.map(|channel| bias[16 + channel])]
    );
    assert_eq!(tensor(&checkpoint, 1, TensorKind::ValueBias), [&bias[24..]]);
    assert_eq!(
        checkpoint.description().global_rope.frequencies,
        [1.0, 0.01, 0.0, 0.0]
    );
}

#[test]
fn an_odd_number_of_rotary_channels_turns_one_more() {
    let folder = folder::phi3().set("partial_rotary_factor", json!(0.4));
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    // int(8 * 0.4) = 3 channels: exponents over 3, two pairs.
    let frequencies = &checkpoint.description().global_rope.frequencies;
    assert_eq!(frequencies.len(), 4);
    assert_eq!(
        (frequencies[0], frequencies[2], frequencies[3]),
        (1.0, 0.0, 0.0)
    );
    assert!((frequencies[1] - 10000f64.powf(-2.0 / 3.0)).abs() < 1e-17);
}

/// Opens a folder for its description alone.
fn describe(folder: &Folder) -> pocketlm::import::Description {
    open(folder.write("model.safetensors").path())
        .description()
        .clone()
}

fn windows(folder: &Folder) -> Vec<Option<u32>> {
    describe(folder)
        .layers
        .iter()
        .map(|layer| layer.window.map(u32::from))
        .collect()
}

#[test]
fn a_separate_head_is_used_whatever_the_config_says() {
    let name = "lm_head.weight";
    let embeddings = "model.embed_tokens.weight";
    let mut folder = folder::llama().set("tie_word_embeddings", json!(true));
    let written = folder.write("model.safetensors");
    let checkpoint = open(written.path());
    assert!(!checkpoint.description().config.tie_embedder_and_logits);
    assert_eq!(
        tensor(&checkpoint, 0, TensorKind::LmHead),
        stored(&folder, name)
    );
    assert_ne!(
        tensor(&checkpoint, 0, TensorKind::Embedder),
        stored(&folder, name)
    );

    // The same numbers are not stored twice, in whichever type they are.
    let numbers = folder.tensors[embeddings].clone();
    folder.tensors.insert(name.into(), numbers.clone());
    assert!(describe(&folder).config.tie_embedder_and_logits);
    let untied = folder.clone().set("tie_word_embeddings", json!(false));
    assert!(describe(&untied).config.tie_embedder_and_logits);
    let halves = |stored: &folder::Stored| folder::Stored {
        dtype: Dtype::BF16,
        shape: stored.shape.clone(),
        data: (stored.data.chunks_exact(4))
            .flat_map(|b| [b[2], b[3]])
            .collect(),
    };
    let narrow = halves(&numbers);
    let wide = folder::Stored {
        data: (narrow.data.chunks_exact(2))
            .flat_map(|b| [0, 0, b[0], b[1]])
            .collect(),
        ..numbers
    };
    folder.tensors.insert(embeddings.into(), wide);
    folder.tensors.insert(name.into(), narrow);
    assert!(describe(&folder).config.tie_embedder_and_logits);
    // One number differs.
    folder.tensors.get_mut(name).unwrap().data[7] ^= 1;
    assert!(!describe(&folder).config.tie_embedder_and_logits);
    let mut multimodal = Folder {
        config: json!({"model_type": "gemma3", "text_config": folder::gemma("gemma3_text").config}),
        ..folder::gemma("gemma3_text")
    };
    multimodal.tensors = (multimodal.tensors.into_iter())
        .map(|(name, t)| (format!("language_model.{name}"), t))
        .collect();
    assert!(describe(&multimodal).config.tie_embedder_and_logits);
    multimodal.add("language_model.lm_head.weight", &[10, 8]);
    assert!(!describe(&multimodal).config.tie_embedder_and_logits);
}

#[test]
fn gemma_is_tied_unless_it_says_otherwise() {
    let folder = folder::gemma("gemma2").without("tie_word_embeddings");
    let config = describe(&folder).config;
    assert!(config.tie_embedder_and_logits);
    assert_eq!(config.embedding_scale, 8f32.sqrt());
    assert_eq!(config.query_scaling_factor, 0.25, "16^-0.5");
    assert_eq!(
        (config.attn_logits_soft_cap, config.final_logit_softcap),
        (Some(50.0), Some(30.0))
    );
    let off = folder
        .set("attn_logit_softcapping", Value::Null)
        .set("final_logit_softcapping", Value::Null);
    let config = describe(&off).config;
    assert_eq!(
        (config.attn_logits_soft_cap, config.final_logit_softcap),
        (None, None)
    );
}

#[test]
fn activations_go_by_their_many_names() {
    let named = |name: &str| {
        describe(&folder::llama().set("hidden_act", json!(name)))
            .config
            .mlp_variant
    };
    assert_eq!(named("silu"), MlpVariant::Swiglu);
    assert_eq!(named("gelu"), MlpVariant::GegluExact);
    assert_eq!(named("gelu_new"), MlpVariant::GegluApprox);
    assert_eq!(named("gelu_pytorch_tanh"), MlpVariant::GegluApprox);
    let mut gemma = like_llama("gemma")
        .set("hidden_act", json!("gelu"))
        .set("tie_word_embeddings", json!(true));
    gemma.tensors.remove("lm_head.weight");
    assert_eq!(
        describe(&gemma).config.mlp_variant,
        MlpVariant::GegluApprox,
        "Gemma 1 says gelu and means tanh"
    );
}

#[test]
fn shards_and_a_model_without_its_head_give_the_same_tensors() {
    let mut folder = folder::llama().set("tie_word_embeddings", json!(true));
    folder.tensors.remove("lm_head.weight").unwrap();
    let whole = folder.write("model.safetensors");
    let whole = open(whole.path());

    let mut one = folder.clone();
    let mut two = folder.clone();
    one.tensors.retain(|name, _| name.contains("layers.0"));
    two.tensors.retain(|name, _| !name.contains("layers.0"));
    let weight_map: serde_json::Map<String, Value> = folder
        .tensors
        .keys()
        .map(|n| {
            (
                n.clone(),
                json!(if n.contains("layers.0") {
                    "a.safetensors"
                } else {
                    "b.safetensors"
                }),
            )
        })
        .collect();
    let sharded = one.write("a.safetensors");
    std::fs::write(sharded.path().join("b.safetensors"), two.weights()).unwrap();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map}).to_string();
    std::fs::write(sharded.path().join("model.safetensors.index.json"), index).unwrap();
    let sharded = open(sharded.path());
    let numbered = one.write("model-00001-of-00002.safetensors");
    std::fs::write(
        numbered.path().join("model-00002-of-00002.safetensors"),
        two.weights(),
    )
    .unwrap();
    let numbered = open(numbered.path());

    let mut headless = folder.clone();
    headless.tensors = headless
        .tensors
        .into_iter()
        .map(|(name, t)| (name.trim_start_matches("model.").to_owned(), t))
        .collect();
    let headless = headless.write("model.safetensors");
    let headless = open(headless.path());

    for other in [&sharded as &dyn Checkpoint, &numbered, &headless] {
        assert_eq!(other.description(), whole.description());
        for (layer, kind) in [
            (0, TensorKind::Embedder),
            (0, TensorKind::FinalNorm),
            (0, TensorKind::Query),
            (1, TensorKind::OutLinear),
        ] {
            assert_eq!(tensor(other, layer, kind), tensor(&whole, layer, kind));
        }
    }
}

#[test]
fn prefixes_of_training_wrappers_are_left_out_of_names() {
    let folder = folder::llama();
    let whole = folder.write("model.safetensors");
    let whole = open(whole.path());
    for rename in [
        |name: &str| format!("module.{name}"),
        |name: &str| format!("_orig_mod.{name}"),
        |name: &str| format!("base_model.model.{name}"),
        |name: &str| format!("module._orig_mod.{name}"),
        |name: &str| format!("_orig_mod.module.{name}"),
        |name: &str| name.replace("layers.1.", "layers.1._orig_mod."),
        |name: &str| name.replace("model.", "model._orig_mod."),
    ] {
        let mut other = folder.clone();
        other.tensors = (other.tensors.into_iter())
            .map(|(name, t)| (rename(&name), t))
            .collect();
        let other = other.write("model.safetensors");
        let other = open(other.path());
        assert_eq!(other.description(), whole.description());
        for (layer, kind) in [
            (0, TensorKind::Embedder),
            (1, TensorKind::OutLinear),
            (0, TensorKind::LmHead),
        ] {
            assert_eq!(tensor(&other, layer, kind), tensor(&whole, layer, kind));
        }
    }
}

#[test]
fn configs_may_say_what_python_writes_where_it_does_not_matter() {
    let plain = describe(&folder::llama());
    for extra in [
        "NaN",
        "Infinity",
        "-Infinity",
        "[NaN, {\"b\": Infinity}]",
        "\"\\\"NaN\"",
    ] {
        let config = folder::llama().config.to_string();
        let config = format!("\u{feff}{{\"some_loss\": {extra}, {}", &config[1..]);
        let folder = folder::llama().write("model.safetensors");
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        assert_eq!(*open(folder.path()).description(), plain, "{extra}");
    }
}

/// The reason for which a folder's tokenizer is refused, or its chat template.
fn refusals(folder: &Path) -> [Option<String>; 2] {
    let checkpoint = open(folder);
    let description = checkpoint.description();
    let reason = |error: &pocketlm::import::ImportError| {
        assert!(error.path.is_some(), "{error} names no file");
        error.reason.clone()
    };
    [
        description
            .tokenizer
            .as_ref()
            .and_then(|part| part.as_ref().err())
            .map(reason),
        description
            .chat_template
            .as_ref()
            .and_then(|part| part.as_ref().err())
            .map(reason),
    ]
}

#[test]
fn a_tokenizer_or_template_that_cannot_be_used_does_not_stop_the_model() {
    let good = std::fs::read_to_string("tests/data/tokenizers/abc.json").unwrap();
    let write = |files: &[(&str, &str)]| {
        let folder = folder::llama().write("model.safetensors");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    };
    const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for (files, tokenizer, template) in [
        (
            &[("tokenizer.json", &good[..100])][..],
            Some("not JSON: "),
            None,
        ),
        (
            &[("tokenizer.json", "")],
            Some("not JSON: the file is empty"),
            None,
        ),
        (
            &[("tokenizer.json", POINTER)],
            Some("this is a Git LFS pointer, "),
            None,
        ),
        (
            &[("tokenizer.model", POINTER)],
            Some("this is a Git LFS pointer, "),
            None,
        ),
        (
            &[("tokenizer.json", "{\"model\": {\"type\": \"WordPiece\"}}")],
            Some(""),
            None,
        ),
        (
            &[("tokenizer.json", &good), ("chat_template.jinja", POINTER)],
            None,
            Some("this is a Git LFS pointer, "),
        ),
        (
            &[
                ("tokenizer.json", &good),
                ("tokenizer_config.json", "{\"chat_template\": 1}"),
            ],
            None,
            Some("`chat_template` is neither "),
        ),
        (&[("tokenizer_config.json", "{")], None, Some("not JSON: ")),
        (
            &[("tokenizer.json", &good), ("tokenizer_config.json", "{")],
            Some("not JSON: "),
            Some("not JSON: "),
        ),
    ] {
        let folder = write(files);
        let found = refusals(folder.path());
        for (found, expected) in found.iter().zip([tokenizer, template]) {
            assert_eq!(found.is_some(), expected.is_some(), "{files:?}: {found:?}");
            assert!(
                found
                    .as_deref()
                    .unwrap_or_default()
                    .starts_with(expected.unwrap_or_default()),
                "{found:?}"
            );
        }
    }
    // A good one.
    assert_eq!(
        refusals(write(&[("tokenizer.json", &good)]).path()),
        [None, None]
    );
}

#[test]
fn a_tokenizer_with_more_tokens_than_rows_is_refused() {
    let good = std::fs::read_to_string("tests/data/tokenizers/abc.json").unwrap();
    let tokens = Tokenizer::open(
        &pocketlm::import::tokenizer::from_path("tests/data/tokenizers/abc.json").unwrap(),
    )
    .unwrap()
    .vocab_size() as usize;
    let with_rows = |rows: usize| {
        let mut folder = folder::llama().set("vocab_size", json!(rows));
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            folder.tensors.remove(name).unwrap();
            folder.add(name, &[rows, 8]);
        }
        let folder = folder.write("model.safetensors");
        std::fs::write(folder.path().join("tokenizer.json"), &good).unwrap();
        refusals(folder.path())
    };
    assert_eq!(with_rows(tokens), [None, None]);
    assert_eq!(with_rows(tokens + 5), [None, None]);
    let reason = format!(
        "the tokenizer has {tokens} tokens, and the embedding table {} rows",
        tokens - 1
    );
    assert_eq!(with_rows(tokens - 1), [Some(reason), None]);
}

#[test]
fn the_two_kinds_of_folders_are_told_apart() {
    let hugging_face = folder::llama();
    let seed = folder::llamalike(1, 2, 1, false);
    let hugging_face = hugging_face.write("model.safetensors");
    let seed = seed.write("weights.safetensors");
    let neither = crate::common::scratch();
    let told = |folder: &tempfile::TempDir| {
        (
            hf::looks_like(folder.path()),
            llamalike::looks_like(folder.path()),
        )
    };
    assert_eq!(told(&hugging_face), (true, false));
    assert_eq!(told(&seed), (false, true));
    assert_eq!(told(&neither), (false, false));
}

/// Compares with `[positions][vocabulary]` of f32, little-endian, and with the ids those logits
/// chose.
fn assert_steps(folder: &Path, steps: &Value, logits: &[u8], tolerance: f64) {
    let steps = steps.as_array().unwrap();
    let ids: Vec<u32> = steps
        .iter()
        .map(|step| step["in"].as_u64().unwrap() as u32)
        .collect();
    let checkpoint = open(folder);
    let ours = Reference::new(&checkpoint).logits(&ids);
    let logits: Vec<f32> = logits
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!(logits.len(), ours.len() * ours[0].len());
    let mut worst = 0f64;
    for ((ours, expected), step) in ours.iter().zip(logits.chunks(ours[0].len())).zip(steps) {
        let top = (0..ours.len())
            .max_by(|&a, &b| ours[a].total_cmp(&ours[b]))
            .unwrap();
        assert_eq!(top as u64, step["argmax"].as_u64().unwrap());
        worst = ours
            .iter()
            .zip(expected)
            .fold(worst, |worst, (a, b)| worst.max((a - f64::from(*b)).abs()));
    }
    eprintln!("{}: {worst:.1e}", crate::common::name(folder));
    assert!(
        worst <= tolerance,
        "{}: off by {worst:e}",
        crate::common::name(folder)
    );
}

#[test]
fn trained_models_give_the_oracles_texts() {
    let Some(shared) = crate::common::shared("") else {
        return;
    };
    let json = |path: std::path::PathBuf| -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let story = shared.join("models/story");
    let logits = std::fs::read(story.join("greedy.logits.f32")).unwrap();
    assert_steps(
        &story,
        &json(story.join("greedy.json"))["steps"],
        &logits,
        TOLERANCE,
    );
    let stories260k = shared.join("fetched/stories260K");
    let logits = std::fs::read(stories260k.join("greedy_bos.logits.f32")).unwrap();
    let steps = &json(stories260k.join("greedy_bos.json"))["steps"];
    assert_steps(
        &shared.join("fetched/stories260K_hf"),
        steps,
        &logits,
        TOLERANCE,
    );
}
