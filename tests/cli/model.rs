//! A small model with a chat template, made on the spot: random weights, a token a byte, texts of

//! printable characters without end.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Conversations between `<s>` and `</s>`. It has no system message "no".
const TEMPLATE: &str = "\
{%- if messages[0].role == 'system' and messages[0].content == 'no' %}\
{{ raise_exception('no such system') }}\
{% endif %}\
{%- for message in messages %}\
{{ '<s>' + message.role + '\\n' + message.content + '</s>' }}\
{% endfor %}\
{%- if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}";

/// Writes the model as a Hugging Face folder.
pub fn chatting() -> TempDir {
    write(1.0)
}

/// The same with norms so large that no logit is a number.
pub fn overflowing() -> TempDir {
    write(3e38)
}

fn write(norm: f32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, json: Value| {
        std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    };
    put(
        "config.json",
        json!({
            "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 258, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false,
            "bos_token_id": 256, "eos_token_id": 257,
        }),
    );
    put(
        "tokenizer_config.json",
        json!({ "bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE }),
    );
    put("tokenizer.json", tokenizer());
    weights(&folder.path().join("model.safetensors"), norm);
    folder
}

fn tokenizer() -> Value {
    // GPT-2 writes the bytes that are no printable characters as characters from 256 on.
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let mut vocabulary = Map::new();
    for byte in 0..256 {
        let character = if printable(byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        vocabulary.insert(char::from_u32(character).unwrap().into(), byte.into());
    }
    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        })
    };
    json!({
        "version": "1.0",
        "added_tokens": [special(256, "<s>"), special(257, "</s>")],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
        "model": { "type": "BPE", "byte_fallback": false, "vocab": vocabulary, "merges": [] },
    })
}

fn weights(path: &Path, norm: f32) {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        let seed = tensors.len() as u64 + 1;
        let random = |i: usize| {
            let mixed = (i as u64 + (seed << 32)).wrapping_mul(6_364_136_223_846_793_005);
            let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(1_442_695_040_888_963_407);
            (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let number = |i: usize| match (shape, &*name) {
            ([_], _) => norm,
            // It writes printable characters, and never ends a text.
            (_, "lm_head.weight") if !(33..127).contains(&(i / 32)) => 0.0,
            _ => random(i),
        };
        let data = (0..shape.iter().product()).flat_map(|i| number(i).to_le_bytes());
        let data = data.collect();
        tensors.push((name, shape.to_vec(), data));
    };
    add("model.embed_tokens.weight".into(), &[258, 32]);
    add("lm_head.weight".into(), &[258, 32]);
    add("model.norm.weight".into(), &[32]);
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm", &[32][..]),
            ("post_attention_layernorm", &[32]),
            ("self_attn.q_proj", &[32, 32]),
            ("self_attn.k_proj", &[16, 32]),
            ("self_attn.v_proj", &[16, 32]),
            ("self_attn.o_proj", &[32, 32]),
            ("mlp.gate_proj", &[64, 32]),
            ("mlp.up_proj", &[64, 32]),
            ("mlp.down_proj", &[32, 64]),
        ] {
            add(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).unwrap();
        (name.clone(), view)
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}
