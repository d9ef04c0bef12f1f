//! What fuzzing starts from: small valid inputs of every target.

use std::sync::OnceLock;

use pocketlm::host::AlignedBytes;
use pocketlm::import::Element;
use pocketlm::model::{Kv, Model};
use pocketlm::run::{Plan, Session, Solo};

use super::image::images;
use super::random::Numbers;
use super::variants;

#[path = "../../common/folder.rs"]
#[allow(dead_code)] // shared with the tests
pub mod folder;

/// The tests' small tokenizers.
pub const TOKENIZERS: [&str; 4] = [
    include_str!("../../data/tokenizers/abc.json"),
    include_str!("../../data/tokenizers/flags.json"),
    include_str!("../../data/tokenizers/normalized.json"),
    include_str!("../../data/tokenizers/metaspace.json"),
];

/// A byte-level tokenizer with every byte.
pub fn byte_level() -> String {
    // GPT-2's letters for bytes: themselves where they can be printed, else from U+0100 on.
    let mut next = 0x100;
    let letters: Vec<char> = (0..256u32)
        .map(|byte| match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from_u32(byte).unwrap(),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        })
        .collect();
    let mut vocab: serde_json::Map<String, serde_json::Value> = letters
        .iter()
        .enumerate()
        .map(|(id, letter)| (letter.to_string(), id.into()))
        .collect();
    let merges = ["a b", "Ġ a", "Ġa b", "Ã ©", "ab ab", "1 2", "Ċ Ċ", "Ġ Ġ"];
    for merge in merges {
        vocab.insert(merge.replace(' ', ""), vocab.len().into());
    }
    serde_json::json!({
        "added_tokens": [{"id": vocab.len(), "content": "<s>", "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })
    .to_string()
}

/// The same with other pre-tokenizers.
pub fn with_patterns<'p>(patterns: impl Iterator<Item = &'p [u8]>) -> String {
    static JSON: OnceLock<serde_json::Value> = OnceLock::new();
    let mut json = JSON
        .get_or_init(|| serde_json::from_str(&byte_level()).unwrap())
        .clone();
    let split = |pattern: &[u8]| {
        let pattern = String::from_utf8_lossy(pattern);
        serde_json::json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
            "invert": false})
    };
    let mut all: Vec<serde_json::Value> = patterns.map(split).collect();
    all.push(
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}),
    );
    json["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": all});
    json.to_string()
}

/// Patterns as model families have them, and one for each construct.
fn patterns() -> Vec<Vec<u8>> {
    let text = "\0Don't 1234\n\n  中文 naïve—e\u{301} $x += 'LL\t ";
    [
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        concat!(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+",
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        ),
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}]+",
            r"|[^\r\n\p{L}]?[\p{Lu}\p{Lo}]+[\p{Ll}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"|\s+",
        ),
        "\\p{N}{1,3}\x01[一-龥]+\x01[!-/:-~][A-Za-z]+|[^\r\n\\p{L}]?[\\p{L}\\p{M}]+\
            | ?[\\p{P}\\p{S}]+|\\s+",
        "[\r\n]\x01\\s?\\p{L}+\x01\\s+$\x01\\p{N}",
        r"[\p{Lu}&&[^A-C]]+|[[:alpha:]]{2}|[^[:space:]a-z]|\x{4E2D}|\u00e9",
        r"(?:a|b){2,3}?c??|(?=x)\w|(?-i:Q)|\d\h\W.",
        r"(a)\1|(?<=x)y|(?>a)|\bq",
        r"a*b|a",
    ]
    .map(|patterns| [patterns, text].concat().into())
    .into()
}

/// A sentencepiece-like tokenizer with a token for every byte.
pub fn byte_fallback() -> String {
    let mut json: serde_json::Value = serde_json::from_str(TOKENIZERS[0]).unwrap();
    for byte in 0..256 {
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        let name = format!("<0x{byte:02X}>");
        let id = vocab.len();
        vocab.entry(name).or_insert(id.into());
    }
    json.to_string()
}

/// Valid inputs of a target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "image" => images()
            .iter()
            .map(|image| image.to_vec())
            .filter(|image| image.len() < 5000)
            .collect(),
        "edits" => (0..12).map(|i| vec![i, 0, 1, 0, 0, 0, 0, 0, 0]).collect(),
        "source" => (0..48)
            .map(|i| vec![i, i / 12 * 4, i % 5, 0, i % 7 * 20, i % 11 * 3])
            .collect(),
        "steps" => (0..40).map(random).collect(),
        "snapshot" => (0..48).map(snapshot).collect(),
        "gguf" => ggufs(),
        "folder" => folders(),
        "llama2c" => [0, 1, 2]
            .into_iter()
            .flat_map(|version| [true, false].map(|tied| llama2c(version, tied)))
            .collect(),
        "tokenizer_json" => tokenizer_jsons(),
        "tokenizer_model" => tokenizer_models(),
        "pattern" => patterns(),
        "section" => super::text::sections()
            .iter()
            .filter(|section| section.len() < 9000)
            .cloned()
            .collect(),
        "text" => (0..6)
            .flat_map(|which| {
                ["abc ab<s> é 12\n\n'll  x", "▁a  <r> ", "e\u{301}각"].map(|text| (which, text))
            })
            .flat_map(|(which, text)| {
                [0, 1, 2, 3].map(|options| [&[which, options], text.as_bytes()].concat())
            })
            .collect(),
        "template" => super::template::seeds(),
        "compile" => super::grammar::compile_seeds(),
        "grammar" => super::grammar::open_seeds(),
        "walk" => super::grammar::walk_seeds(),
        "sampler" => (0..64)
            .map(|flags| [vec![flags], random(flags.into())].concat())
            .collect(),
        _ => Vec::new(),
    }
}

fn random(seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    (0..120).map(|_| numbers.bits() as u8).collect()
}

fn snapshot(seed: u8) -> Vec<u8> {
    let images = images();
    let which = seed as usize % images.len();
    let kv = seed as usize / images.len();
    let model = Model::open(&images[which]).unwrap();
    let plan = Plan::new(model.header()).context(8).kv(Kv::ALL[kv % 4]);
    let mut arena = AlignedBytes::zeroed(plan.bytes());
    let mut session = Session::new(&model, &plan, &mut arena, &Solo).unwrap();
    let ids: Vec<u32> = (0..seed as u32 % 6)
        .map(|id| id % model.config().vocab_size)
        .collect();
    let _ = session.feed(&ids);
    let mut bytes = vec![which as u8, kv as u8];
    session
        .save(&mut |piece| {
            bytes.extend(piece);
            Ok(())
        })
        .unwrap();
    bytes
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn key(name: &str, code: u32, value: &[u8]) -> Vec<u8> {
    [&string(name)[..], &code.to_le_bytes(), value].concat()
}

fn array(code: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    [
        &code.to_le_bytes()[..],
        &(elements.len() as u64).to_le_bytes(),
        &elements.concat(),
    ]
    .concat()
}

/// One layer of two heads, of several architectures, with a vocabulary of either kind.
fn ggufs() -> Vec<Vec<u8>> {
    let uint = |name: &str, value: u32| key(name, 4, &value.to_le_bytes());
    let float = |name: &str, value: f32| key(name, 6, &value.to_le_bytes());
    let text = |name: &str, value: &str| key(name, 8, &string(value));
    let strings = |list: &[&str]| list.iter().map(|text| string(text)).collect::<Vec<_>>();
    let mut files = Vec::new();
    for (index, arch) in [
        "llama", "gemma", "gemma2", "gemma3", "qwen2", "qwen3", "smollm3", "phi3", "granite",
        "ernie4_5", "exaone4",
    ]
    .into_iter()
    .enumerate()
    {
        let code = if index % 2 == 0 { 0 } else { 8 };
        let d = 32;
        let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a", "<0x0A>"];
        let mut keys = vec![
            text("general.architecture", arch),
            uint(&format!("{arch}.embedding_length"), d),
            uint(&format!("{arch}.block_count"), 1),
            uint(&format!("{arch}.feed_forward_length"), 32),
            uint(&format!("{arch}.attention.head_count"), 2),
            uint(&format!("{arch}.attention.head_count_kv"), 1),
            uint(&format!("{arch}.attention.key_length"), 16),
            uint(&format!("{arch}.attention.value_length"), 16),
            uint(&format!("{arch}.attention.sliding_window"), 4),
            uint(&format!("{arch}.context_length"), 64),
            float(&format!("{arch}.attention.layer_norm_rms_epsilon"), 1e-5),
            uint("tokenizer.ggml.bos_token_id", 1),
            uint("tokenizer.ggml.eos_token_id", 2),
        ];
        if index < 4 {
            let types = [2, 3, 3, 1, 1, 1, 1, 1, 6];
            keys.push(text("tokenizer.ggml.model", "llama"));
            keys.push(key(
                "tokenizer.ggml.tokens",
                9,
                &array(8, &strings(&tokens)),
            ));
            keys.push(key(
                "tokenizer.ggml.scores",
                9,
                &array(6, &tokens.map(|_| 1f32.to_le_bytes().to_vec())),
            ));
            keys.push(key(
                "tokenizer.ggml.token_type",
                9,
                &array(5, &types.map(|t| i32::to_le_bytes(t).to_vec())),
            ));
            keys.push(float(&format!("{arch}.rope.freq_base"), 1e4));
            keys.push(text(
                &format!("{arch}.rope.scaling.type"),
                if index == 0 { "yarn" } else { "linear" },
            ));
            keys.push(float(&format!("{arch}.rope.scaling.factor"), 2.0));
            keys.push(uint(
                &format!("{arch}.rope.scaling.original_context_length"),
                32,
            ));
        } else {
            let letters = ["a", "b", "Ġ", "ab", "Ġab", "1", "<|im_end|>", "é", "<s>"];
            keys.push(text("tokenizer.ggml.model", "gpt2"));
            keys.push(text(
                "tokenizer.ggml.pre",
                ["qwen2", "llama-bpe", "smollm", "gpt-2"][index % 4],
            ));
            keys.push(key(
                "tokenizer.ggml.tokens",
                9,
                &array(8, &strings(&letters)),
            ));
            keys.push(key(
                "tokenizer.ggml.merges",
                9,
                &array(8, &strings(&["a b", "Ġ ab"])),
            ));
            keys.push(text("tokenizer.chat_template", "{{ bos_token }}"));
        }
        let mut tensors: Vec<(String, Vec<u32>, u32)> = vec![
            ("token_embd.weight".into(), vec![d, 9], code),
            ("output_norm.weight".into(), vec![d], 0),
        ];
        let mut layer = |name: &str, dimensions: &[u32], code| {
            tensors.push((format!("blk.0.{name}"), dimensions.to_vec(), code));
        };
        if arch != "exaone4" {
            layer("attn_norm.weight", &[d], 0);
            layer("ffn_norm.weight", &[d], 0);
        }
        layer("attn_output.weight", &[32, d], code);
        layer("ffn_down.weight", &[32, d], code);
        if arch == "phi3" {
            layer("attn_qkv.weight", &[d, 64], code);
            layer("ffn_up.weight", &[d, 64], code);
        } else {
            for (name, rows) in [
                ("attn_q", 32),
                ("attn_k", 16),
                ("attn_v", 16),
                ("ffn_gate", 32),
                ("ffn_up", 32),
            ] {
                layer(&format!("{name}.weight"), &[d, rows], code);
            }
        }
        if arch == "qwen2" {
            for (name, rows) in [("attn_q", 32), ("attn_k", 16), ("attn_v", 16)] {
                layer(&format!("{name}.bias"), &[rows], 0);
            }
        }
        if matches!(arch, "qwen3" | "gemma3" | "exaone4") {
            layer("attn_q_norm.weight", &[16], 0);
            layer("attn_k_norm.weight", &[16], 0);
        }
        if matches!(arch, "gemma2" | "gemma3" | "exaone4") {
            layer("post_attention_norm.weight", &[d], 0);
            layer("post_ffw_norm.weight", &[d], 0);
        }
        files.push(gguf(&keys, &tensors));
    }
    files.extend(Element::ALL.map(|element| gguf_of(element, &[], &[])));
    let typed = |code| ("token_embd.weight", vec![32, 5], code);
    files.extend((4..40).map(|code| gguf_of(Element::F32, &[], &[typed(code)])));
    files.extend(
        rarer_keys()
            .iter()
            .map(|keys| gguf_of(Element::F32, keys, &[])),
    );
    let biases = [
        "attn_q",
        "attn_k",
        "attn_v",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
        "attn_output",
    ];
    let names = biases.map(|name| format!("blk.0.{name}.bias"));
    let lengths = [4, 4, 4, 4, 4, 32, 32];
    let biases: Vec<_> = names
        .iter()
        .zip(lengths)
        .map(|(name, length)| (name.as_str(), vec![length], 0))
        .collect();
    files.extend([1, 3, 7].map(|count| gguf_of(Element::F32, &[], &biases[..count])));
    for tensors in [
        vec![("output.weight", vec![32, 5], 0)],
        vec![("rope_freqs.weight", vec![2], 0)],
        vec![("rope_freqs.weight", vec![3], 0)],
        vec![("rope_freqs.weight", vec![2, 1], 0)],
        vec![
            ("rope_factors_long.weight", vec![2], 0),
            ("rope_factors_short.weight", vec![2], 0),
        ],
        vec![("rope_factors_long.weight", vec![2], 0)],
        vec![("blk.0.attn_rot_embd.weight", vec![2], 0)],
        vec![("blk.0.attn_q.weight", vec![32, 5], 0)],
        vec![("blk.0.attn_norm.weight", vec![32], 8)],
        vec![("token_embd.weight", vec![32], 0)],
        vec![("token_embd.weight", vec![31, 5], 8)],
        vec![("token_embd.weight", vec![1; 9], 0)],
        vec![("what_is_this", vec![1], 0)],
    ] {
        files.push(gguf_of(Element::F32, &[], &tensors));
        files.push(gguf_of(
            Element::F32,
            &[("rope.scaling.original_context_length", 4, vec![16, 0, 0, 0])],
            &tensors,
        ));
    }
    files.extend([1u32, 2].map(|version| {
        let mut file = gguf_of(Element::F32, &[], &[]);
        file[4..8].copy_from_slice(&version.to_le_bytes());
        file
    }));
    files.extend([&b"lmgg"[..], b"tjgg", b"GGML", b""].map(<[u8]>::to_vec));
    files
}

/// A key, its type and its bytes.
type Key = (&'static str, u32, Vec<u8>);

/// What keys may also say, and what they may not; those of the architecture without its name.
fn rarer_keys() -> Vec<Vec<Key>> {
    let (uint, float) = (
        |n: u32| n.to_le_bytes().to_vec(),
        |x: f32| x.to_le_bytes().to_vec(),
    );
    let counts = |list: &[u32]| {
        array(
            4,
            &list
                .iter()
                .map(|n| n.to_le_bytes().to_vec())
                .collect::<Vec<_>>(),
        )
    };
    let strings =
        |list: &[&str]| array(8, &list.iter().map(|text| string(text)).collect::<Vec<_>>());
    let five = ["<unk>", "<s>", "a", "b", "ab"];
    let vocabulary = |model: &str, pre: &str, more: Vec<Key>| {
        let mut keys = vec![
            ("tokenizer.ggml.model", 8, string(model)),
            ("tokenizer.ggml.pre", 8, string(pre)),
            ("tokenizer.ggml.tokens", 9, strings(&five)),
            ("tokenizer.ggml.merges", 9, strings(&["a b"])),
        ];
        keys.extend(more);
        keys
    };
    let mut all: Vec<Vec<Key>> = Vec::new();
    // Each key as each type: most are refused.
    for name in [
        "general.architecture",
        "general.type",
        "general.alignment",
        "split.count",
        "embedding_length",
        "block_count",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
        "attention.causal",
        "attention.scale",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.factor",
        "final_logit_softcapping",
        "expert_count",
        "attention.sliding_window",
        "attention.sliding_window_pattern",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.chat_template",
    ] {
        for (code, bytes) in [1, 1, 2, 2, 4, 4, 4, 1].into_iter().enumerate() {
            all.push(vec![(name, code as u32, vec![1; bytes])]);
            all.push(vec![(name, code as u32, vec![0; bytes])]);
        }
        all.push(vec![(
            name,
            8,
            string("something or other that is longer than forty letters"),
        )]);
        all.push(vec![(
            name,
            8,
            [&[2, 0, 0, 0, 0, 0, 0, 0][..], &[0xff, 0xfe]].concat(),
        )]);
        all.push(vec![(name, 9, counts(&[1, 1]))]);
        all.push(vec![(name, 9, counts(&[1, 2]))]);
        all.push(vec![(name, 9, counts(&[0]))]);
        all.push(vec![(name, 9, array(7, &[vec![1]]))]);
        all.push(vec![(name, 9, array(9, &[counts(&[1]), counts(&[])]))]);
        all.extend([10, 11, 12].map(|code| vec![(name, code, vec![1; 8])]));
        all.extend([f32::NAN, -1.0, 1e-40, 1e30].map(|x| vec![(name, 6, float(x))]));
        all.push(vec![(name, 13, vec![])]);
    }
    let scaling = |kind: &str, factor: f32, more: Vec<Key>| {
        let mut keys = vec![
            ("rope.scaling.type", 8, string(kind)),
            ("rope.scaling.factor", 6, factor.to_le_bytes().to_vec()),
        ];
        keys.extend(more);
        keys
    };
    all.extend([
        scaling("yarn", 2.0, vec![]),
        scaling("yarn", 2.0, vec![("context_length", 4, uint(0))]),
        scaling(
            "yarn",
            2.0,
            vec![("rope.scaling.original_context_length", 4, uint(16))],
        ),
        scaling(
            "yarn",
            2.0,
            vec![("rope.scaling.yarn_ext_factor", 6, float(0.5))],
        ),
        scaling(
            "yarn",
            2.0,
            vec![("rope.scaling.yarn_log_multiplier", 6, float(0.5))],
        ),
        scaling("yarn", 2.0, vec![("rope.freq_base", 6, float(0.5))]),
        scaling("linear", 2.0, vec![]),
        scaling("linear", -2.0, vec![]),
        scaling("none", 2.0, vec![]),
        scaling("x", 2.0, vec![]),
        scaling("x", 1.0, vec![]),
        vec![("rope.scale_linear", 6, float(2.0))],
        vec![("rope.dimension_count", 4, uint(2))],
        vec![("rope.dimension_count", 4, uint(3))],
        vec![
            ("attention.head_count", 4, uint(3)),
            ("attention.head_count_kv", 4, uint(2)),
        ],
        vec![
            ("attention.head_count", 4, uint(u32::MAX)),
            ("attention.head_count_kv", 4, uint(1)),
        ],
        vec![("attention.key_length", 4, uint(3))],
        vec![("attention.value_length", 4, uint(2))],
        vec![("split.count", 2, vec![2, 0])],
        vec![("general.type", 8, string("adapter"))],
        vec![("general.architecture", 8, string("mamba"))],
        vec![
            ("attention.scale", 6, float(0.5)),
            ("final_logit_softcapping", 6, float(0.0)),
        ],
        vec![("block_count", 4, uint(1000))],
    ]);
    let types = |list: [i32; 5]| {
        (
            "tokenizer.ggml.token_type",
            9,
            array(5, &list.map(|n| n.to_le_bytes().to_vec())),
        )
    };
    let scores = |list: &[f32]| {
        let list: Vec<Vec<u8>> = list.iter().map(|x| x.to_le_bytes().to_vec()).collect();
        ("tokenizer.ggml.scores", 9, array(6, &list))
    };
    let flag = |name, value| (name, 7, vec![value]);
    for pre in [
        "default",
        "gpt-2",
        "llama3",
        "smaug-bpe",
        "qwen2",
        "deepseek-r1-qwen",
        "smollm",
        "phi-2",
        "x",
    ] {
        all.push(vocabulary("gpt2", pre, vec![types([2, 3, 1, 4, 5])]));
    }
    all.extend([
        vocabulary(
            "llama",
            "default",
            vec![types([2, 3, 1, 1, 6]), scores(&[0.0; 5])],
        ),
        vocabulary(
            "llama",
            "default",
            vec![
                types([2, 3, 1, 4, 5]),
                scores(&[0.0, -1.0, f32::NAN, 1.0, 2.0]),
            ],
        ),
        vocabulary(
            "llama",
            "default",
            vec![types([2, 3, 4, 3, 1]), scores(&[0.0; 3])],
        ),
        vocabulary(
            "llama",
            "default",
            vec![types([2, 3, 4, 3, 9]), scores(&[1.0; 5])],
        ),
        vocabulary(
            "llama",
            "default",
            vec![
                scores(&[1.0; 5]),
                ("general.name", 8, string("Phi-3 mini")),
                types([2, 3, 4, 3, 1]),
                flag("tokenizer.ggml.add_eos_token", 1),
                flag("tokenizer.ggml.add_bos_token", 0),
                flag("tokenizer.ggml.add_space_prefix", 0),
                ("tokenizer.ggml.eos_token_id", 4, uint(1)),
                ("tokenizer.ggml.eot_token_id", 4, uint(3)),
            ],
        ),
        vocabulary(
            "gpt2",
            "gpt-2",
            vec![("tokenizer.ggml.token_type", 9, array(5, &[]))],
        ),
        vocabulary(
            "gpt2",
            "gpt-2",
            vec![("tokenizer.ggml.eos_token_id", 4, uint(99))],
        ),
        vocabulary("rwkv", "gpt-2", vec![]),
        vec![("tokenizer.ggml.model", 8, string("gpt2"))],
        vec![
            ("tokenizer.ggml.model", 8, string("gpt2")),
            ("tokenizer.ggml.tokens", 9, strings(&["a", "b"])),
        ],
    ]);
    all
}

/// A Llama of one layer whose matrices are of this type, where their rows are long enough for it;
/// with some keys and tensors other than usual.
fn gguf_of(
    element: Element,
    other_keys: &[Key],
    other_tensors: &[(&str, Vec<u32>, u32)],
) -> Vec<u8> {
    let uint = |name, value: u32| (name, 4, value.to_le_bytes().to_vec());
    let d = element.block_len().max(32) as u32;
    let mut keys = vec![
        ("general.architecture", 8, string("llama")),
        uint("embedding_length", d),
        uint("block_count", 1),
        uint("feed_forward_length", 4),
        uint("attention.head_count", 1),
        uint("attention.head_count_kv", 1),
        uint("attention.key_length", 4),
        uint("attention.value_length", 4),
        uint("context_length", 64),
        (
            "attention.layer_norm_rms_epsilon",
            6,
            1e-5f32.to_le_bytes().to_vec(),
        ),
        ("rope.freq_base", 6, 1e4f32.to_le_bytes().to_vec()),
    ];
    keys.retain(|key| other_keys.iter().all(|other| other.0 != key.0));
    keys.extend_from_slice(other_keys);
    let of_arch = |name: &str| {
        !["general.", "split.", "tokenizer."]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let named = |name: &str| {
        if of_arch(name) {
            format!("llama.{name}")
        } else {
            name.into()
        }
    };
    let keys: Vec<Vec<u8>> = keys
        .iter()
        .map(|(name, code, bytes)| key(&named(name), *code, bytes))
        .collect();
    let mut tensors = vec![("token_embd.weight".into(), vec![d, 5], ggml_code(element))];
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        tensors.push((format!("{name}.weight"), vec![d], 0));
    }
    for name in ["attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"] {
        tensors.push((
            format!("blk.0.{name}.weight"),
            vec![d, 4],
            ggml_code(element),
        ));
    }
    for name in ["attn_output", "ffn_down"] {
        tensors.push((format!("blk.0.{name}.weight"), vec![4, d], 1));
    }
    tensors.retain(|tensor| other_tensors.iter().all(|other| other.0 != tensor.0));
    tensors.extend(
        other_tensors
            .iter()
            .map(|(name, shape, code)| (name.to_string(), shape.clone(), *code)),
    );
    gguf(&keys, &tensors)
}

/// ggml's number for a type.
fn ggml_code(element: Element) -> u32 {
    let code = |other: &Element| *other == element;
    let codes = [0, 1, 30, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 41, 42];
    Element::ALL
        .iter()
        .position(code)
        .map_or(0, |index| codes[index])
}

/// The file, but for its data, which the target makes up.
fn gguf(keys: &[Vec<u8>], tensors: &[(String, Vec<u32>, u32)]) -> Vec<u8> {
    let mut file = [b"GGUF".to_vec(), vec![3, 0, 0, 0]].concat();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((keys.len() as u64).to_le_bytes());
    file.extend(keys.concat());
    let mut offset = 0;
    for (name, dimensions, code) in tensors {
        file.extend(string(name));
        file.extend((dimensions.len() as u32).to_le_bytes());
        file.extend(dimensions.iter().flat_map(|&n| u64::from(n).to_le_bytes()));
        file.extend(code.to_le_bytes());
        file.extend((offset as u64).to_le_bytes());
        let element = Element::ALL
            .into_iter()
            .find(|&element| ggml_code(element) == *code);
        let bytes =
            element.and_then(|element| element.bytes(dimensions.iter().product::<u32>() as usize));
        offset += bytes.unwrap_or(64).next_multiple_of(32);
    }
    file
}

macro_rules! quantized {
    ($case:literal) => {
        (
            include_bytes!(concat!("../../data/quantized/", $case, "/config.json")),
            include_bytes!(concat!(
                "../../data/quantized/",
                $case,
                "/model.safetensors"
            )),
        )
    };
}

/// A config and a safetensors file for each layout of quantised matrices.
const QUANTIZED: [(&[u8], &[u8]); 7] = [
    quantized!("gptq-scattered-v2"),
    quantized!("gptq-8-bits-a-row"),
    quantized!("awq"),
    quantized!("packed-symmetric"),
    quantized!("packed-zero-points"),
    quantized!("packed-8-bits"),
    quantized!("bytes"),
];

fn folders() -> Vec<Vec<u8>> {
    let mut all = vec![
        folder::llama(),
        folder::phi3(),
        folder::llamalike(1, 2, 2, false),
        folder::llamalike(2, 1, 2, true),
        folder::llamalike(2, 2, 1, true),
    ];
    let families = [
        "mistral",
        "ministral",
        "qwen3",
        "smollm3",
        "granite",
        "ernie4_5",
        "helium",
    ];
    all.extend(families.map(folder::like_llama));
    all.extend(["gemma", "gemma2", "gemma3_text"].map(folder::gemma));
    let yarn = serde_json::json!({"rope_type": "yarn", "factor": 2.0,
        "original_max_position_embeddings": 32});
    let llama3 = serde_json::json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
    all.extend([yarn, llama3].map(|scaling| folder::llama().set("rope_scaling", scaling)));
    all.extend(variants::folders());
    let input = |folder: &folder::Folder| {
        let weights = folder.weights();
        let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
        [
            folder.config.to_string().as_bytes(),
            &[0],
            &weights[8..8 + header],
        ]
        .concat()
    };
    let mut inputs: Vec<_> = all.iter().map(input).collect();
    for (config, weights) in QUANTIZED {
        inputs.push([config, &[0][..], weights].concat());
        // The header alone: scales made up are finite, and group indices are not.
        let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
        inputs.push([config, &[0], &weights[8..8 + header]].concat());
    }
    // The same in two files, which an index tells apart.
    let sharded = |mut folder: folder::Folder, unlisted: bool| {
        let mut second = folder.clone();
        let names = folder.tensors.keys().cloned().collect::<Vec<_>>();
        let mut map = serde_json::Map::new();
        for (index, name) in names.iter().enumerate() {
            let file = if index % 2 == 0 {
                &mut second
            } else {
                &mut folder
            };
            file.tensors.remove(name);
            if !unlisted || index > 3 {
                map.insert(
                    name.clone(),
                    ["a.safetensors", "b.safetensors"][index % 2].into(),
                );
            }
        }
        let index = serde_json::json!({ "weight_map": map }).to_string();
        let header = |folder: &folder::Folder| {
            let weights = folder.weights();
            let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
            weights[8..8 + header].to_vec()
        };
        let config = folder.config.to_string();
        [
            config.as_bytes(),
            &header(&folder),
            &header(&second),
            index.as_bytes(),
        ]
        .join(&0)
    };
    inputs.extend([
        sharded(folder::llama(), false),
        sharded(folder::gemma("gemma2"), true),
    ]);
    inputs
}

/// A checkpoint of this version, and its tokenizer; the target makes up the data.
fn llama2c(version: u32, tied: bool) -> Vec<u8> {
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let tokens = ["<unk>", "\n<s>\n", "\n</s>\n", "<0x00>", " ", "a", " a"];
    let tokenizer: Vec<u8> = tokens
        .iter()
        .flat_map(|token| {
            [
                &1f32.to_le_bytes(),
                &(token.len() as u32).to_le_bytes(),
                token.as_bytes(),
            ]
            .concat()
        })
        .collect();
    let tokenizer = [&words(&[7])[..], &tokenizer].concat();
    // Untied, version 0 says by a sign.
    let vocab = if version == 0 && !tied {
        -7i32 as u32
    } else {
        7
    };
    let numbers = words(&[8, 6, 2, 2, 1, vocab, 16]);
    let model = match version {
        0 => numbers,
        _ => [
            &words(&[0x616b_3432, version])[..],
            &numbers,
            &[tied.into()],
            &words(&[2]),
        ]
        .concat(),
    };
    [
        &(tokenizer.len() as u16).to_le_bytes()[..],
        &tokenizer,
        &model,
    ]
    .concat()
}

fn tokenizer_jsons() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = TOKENIZERS
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect();
    all.push(include_bytes!("../../data/tokenizers/bytes.json").to_vec());
    all.extend(
        variants::tokenizer_jsons()
            .into_iter()
            .map(String::into_bytes),
    );
    let config = r#"{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>",
        "eos_token": {"content": "b"},
        "add_bos_token": true, "chat_template": [{"name": "default", "template": "x"}],
        "added_tokens_decoder": {"9": {"content": "<x>", "special": true, "lstrip": true}}}"#;
    let generation = r#"{"bos_token_id": 0, "eos_token_id": [1, 99]}"#;
    all.push(
        [
            TOKENIZERS[0].as_bytes(),
            b"\0",
            config.as_bytes(),
            b"\0",
            generation.as_bytes(),
            b"\0",
        ]
        .concat(),
    );
    let vocab = r#"{"a": 0, "b": 1, "ab": 2, "Ġ": 3}"#;
    for class in ["GPT2Tokenizer", "Qwen2Tokenizer"] {
        let config = config.replace("LlamaTokenizer", class);
        let parts = [
            "",
            &config,
            generation,
            "{}",
            vocab,
            "#version: 0.2\na b\n",
            "{{ x }}",
        ];
        all.push(parts.join("\0").into());
    }
    all
}

fn tokenizer_models() -> Vec<Vec<u8>> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let piece = |text: &str, kind: u8| {
        field(
            1,
            &[
                &field(1, text.as_bytes())[..],
                &[2 << 3 | 5],
                &(-1f32).to_le_bytes(),
                &[3 << 3, kind],
            ]
            .concat(),
        )
    };
    let pieces = [
        ("<unk>", 2),
        ("<s>", 3),
        ("</s>", 3),
        ("<0x0A>", 6),
        ("▁", 1),
        ("a", 1),
        ("▁a", 1),
        ("x", 4),
        ("y", 5),
    ];
    let pieces: Vec<u8> = pieces
        .iter()
        .flat_map(|(text, kind)| piece(text, *kind))
        .collect();
    let trainer = field(2, &[3 << 3, 2]);
    let normalizer = field(3, &[3 << 3, 1, 4 << 3, 0, 5 << 3, 1]);
    let model = [pieces, trainer, normalizer].concat();
    let config = br#"{"legacy": false, "bos_token": "<s>",
        "added_tokens_decoder": {"9": {"content": "<x>"}}}"#;
    [&b""[..], config, b"{}"]
        .map(|config| [&(config.len() as u16).to_le_bytes()[..], config, &model].concat())
        .into()
}
