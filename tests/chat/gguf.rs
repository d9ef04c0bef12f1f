//! A small GGUF file with a chat template, made on the spot: random weights, a token a byte.

use std::path::Path;

/// Conversations between `<s>` and `</s>`.
const TEMPLATE: &str = "\
{%- for message in messages %}\
{{ '<s>' + message.role + '\\n' + message.content + '</s>' }}\
{% endfor %}\
{%- if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}";

/// The embedding, the keys of a token, the feed-forward, the vocabulary.
const D: usize = 32;
const K: usize = 16;
const F: usize = 64;
const V: usize = 258;

const UINT: u32 = 4;
const FLOAT: u32 = 6;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const INT: u32 = 5;

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn array(code: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    let count = elements.len() as u64;
    [
        &code.to_le_bytes()[..],
        &count.to_le_bytes(),
        &elements.concat(),
    ]
    .concat()
}

/// Writes the model. Its texts are printable characters without end.
pub fn write(path: &Path) {
    let uint = |value: u32| value.to_le_bytes().to_vec();
    let float = |value: f32| value.to_le_bytes().to_vec();
    let types: Vec<_> = (0..V)
        .map(|id| uint(if id < 256 { 1 } else { 3 }))
        .collect();
    let keys = [
        ("general.architecture", STRING, string("llama")),
        ("llama.block_count", UINT, uint(1)),
        ("llama.context_length", UINT, uint(2048)),
        ("llama.embedding_length", UINT, uint(D as u32)),
        ("llama.feed_forward_length", UINT, uint(F as u32)),
        ("llama.attention.head_count", UINT, uint(4)),
        ("llama.attention.head_count_kv", UINT, uint(2)),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT, float(1e-5)),
        ("llama.rope.dimension_count", UINT, uint(8)),
        ("tokenizer.ggml.model", STRING, string("gpt2")),
        ("tokenizer.ggml.pre", STRING, string("gpt-2")),
        ("tokenizer.ggml.tokens", ARRAY, array(STRING, &tokens())),
        ("tokenizer.ggml.token_type", ARRAY, array(INT, &types)),
        ("tokenizer.ggml.merges", ARRAY, array(STRING, &[])),
        ("tokenizer.ggml.bos_token_id", UINT, uint(256)),
        ("tokenizer.ggml.eos_token_id", UINT, uint(257)),
        ("tokenizer.chat_template", STRING, string(TEMPLATE)),
    ];
    let tensors: [(&str, &[usize]); 12] = [
        ("token_embd.weight", &[D, V]),
        ("output.weight", &[D, V]),
        ("output_norm.weight", &[D]),
        ("blk.0.attn_norm.weight", &[D]),
        ("blk.0.attn_q.weight", &[D, D]),
        ("blk.0.attn_k.weight", &[D, K]),
        ("blk.0.attn_v.weight", &[D, K]),
        ("blk.0.attn_output.weight", &[D, D]),
        ("blk.0.ffn_norm.weight", &[D]),
        ("blk.0.ffn_gate.weight", &[D, F]),
        ("blk.0.ffn_up.weight", &[D, F]),
        ("blk.0.ffn_down.weight", &[F, D]),
    ];
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((keys.len() as u64).to_le_bytes());
    for (name, code, value) in keys {
        file.extend([string(name), uint(code), value].concat());
    }
    let mut offset = 0u64;
    for (name, shape) in tensors {
        file.extend(string(name));
        file.extend((shape.len() as u32).to_le_bytes());
        for &size in shape {
            file.extend((size as u64).to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset += 4 * shape.iter().product::<usize>() as u64;
    }
    file.resize(file.len().next_multiple_of(32), 0);
    let mut seed = 1u64;
    for (name, shape) in tensors {
        for index in 0..shape.iter().product() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = (seed >> 40) as f32 / (1 << 23) as f32 - 1.0;
            let is_printable = (33..127).contains(&(index / D));
            file.extend(float(match (name, shape) {
                (_, [_]) => 1.0,
                ("output.weight", _) if !is_printable => 0.0,
                _ => random,
            }));
        }
    }
    std::fs::write(path, file).unwrap();
}

/// The bytes as GPT-2 writes them, and two special tokens.
fn tokens() -> Vec<Vec<u8>> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 255;
    let bytes = (0..256).map(|byte| {
        let character = if printable(byte) {
            byte
        } else {
            next += 1;
            next
        };
        string(&char::from_u32(character).unwrap().to_string())
    });
    bytes.chain([string("<s>"), string("</s>")]).collect()
}
