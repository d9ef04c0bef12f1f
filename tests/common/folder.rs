//! Small checkpoints made on the spot, to be bent out of shape.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A checkpoint in memory.
#[derive(Clone)]
pub struct Folder {
    pub config: Value,
    pub tensors: BTreeMap<String, Stored>,
    pub metadata: HashMap<String, String>,
}

#[derive(Clone)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Stored {
    /// F32 numbers that differ everywhere, from `seed`.
    pub fn numbers(seed: usize, shape: &[usize]) -> Self {
        let number = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
        let data = (0..shape.iter().product())
            .flat_map(|i| number(i).to_le_bytes())
            .collect();
        Stored {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            data,
        }
    }
}

impl Folder {
    /// Reads a folder with all of its safetensors files.
    pub fn read(path: &Path) -> Self {
        let config = std::fs::read_to_string(path.join("config.json")).unwrap();
        let mut tensors = BTreeMap::new();
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_none_or(|extension| extension != "safetensors")
            {
                continue;
            }
            let file = std::fs::read(path).unwrap();
            for (name, view) in SafeTensors::deserialize(&file).unwrap().iter() {
                let stored = Stored {
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    data: view.data().to_vec(),
                };
                tensors.insert(name.to_owned(), stored);
            }
        }
        Folder {
            config: serde_json::from_str(&config).unwrap(),
            tensors,
            metadata: HashMap::new(),
        }
    }

    /// Sets a key of the config; `Value::Null` is `null`.
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Removes a key of the config.
    pub fn without(mut self, key: &str) -> Self {
        self.config
            .as_object_mut()
            .unwrap()
            .shift_remove(key)
            .unwrap();
        self
    }

    pub fn add(&mut self, name: &str, shape: &[usize]) {
        let stored = Stored::numbers(self.tensors.len() + 1, shape);
        assert!(
            self.tensors.insert(name.into(), stored).is_none(),
            "{name} twice"
        );
    }

    /// The bytes of a safetensors file.
    pub fn weights(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, t)| {
            (
                name,
                TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap(),
            )
        });
        safetensors::serialize(views, Some(self.metadata.clone())).unwrap()
    }

    /// Writes the folder, with its weights in a file of this name.
    pub fn write(&self, weights: &str) -> TempDir {
        let folder = scratch();
        std::fs::write(folder.path().join("config.json"), self.config.to_string()).unwrap();
        std::fs::write(folder.path().join(weights), self.weights()).unwrap();
        folder
    }
}

/// An empty folder, in memory where the system has such: some file systems wait for the disk when a
/// file is written, and tests write thousands.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    folder.unwrap()
}

/// A Llama of two layers: 2 query heads over 1 key/value head, all sizes different.
pub fn llama() -> Folder {
    let config = json!({
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 10,
            "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": false,
            "max_position_embeddings": 64,
    });
    let mut folder = Folder {
        config,
        tensors: BTreeMap::new(),
        metadata: HashMap::new(),
    };
    folder.add("model.embed_tokens.weight", &[10, 8]);
    folder.add("model.norm.weight", &[8]);
    folder.add("lm_head.weight", &[10, 8]);
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            folder.add(&format!("model.layers.{layer}.{name}"), shape)
        };
        add("input_layernorm.weight", &[8]);
        add("self_attn.q_proj.weight", &[8, 8]);
        add("self_attn.k_proj.weight", &[4, 8]);
        add("self_attn.v_proj.weight", &[4, 8]);
        add("self_attn.o_proj.weight", &[8, 8]);
        add("post_attention_layernorm.weight", &[8]);
        add("mlp.gate_proj.weight", &[6, 8]);
        add("mlp.up_proj.weight", &[6, 8]);
        add("mlp.down_proj.weight", &[8, 6]);
    }
    folder
}

/// The same as another family that stores the same tensors.
pub fn like_llama(model_type: &str) -> Folder {
    llama().set("model_type", json!(model_type))
}

/// A Phi-3 with fused matrices and heads of 8.
pub fn phi3() -> Folder {
    let mut folder = llama()
        .set("model_type", json!("phi3"))
        .set("head_dim", json!(8));
    for layer in 0..2 {
        let name = |name: &str| format!("model.layers.{layer}.{name}");
        for old in [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
        ] {
            folder
                .tensors
                .remove(&name(&format!("{old}.weight")))
                .unwrap();
        }
        folder.add(&name("self_attn.qkv_proj.weight"), &[16 + 8 + 8, 8]);
        folder.add(&name("self_attn.o_proj.weight"), &[8, 16]);
        folder.add(&name("mlp.gate_up_proj.weight"), &[12, 8]);
    }
    folder
}

/// An LFM2 with a convolution of three taps and then attention.
pub fn lfm2() -> Folder {
    let llama = llama();
    let mut folder = Folder {
        tensors: BTreeMap::new(),
        ..llama.clone()
    };
    folder = folder
        .set("model_type", json!("lfm2"))
        .set("tie_word_embeddings", json!(true))
        .set("norm_eps", json!(1e-4))
        .set("layer_types", json!(["conv", "full_attention"]))
        .set("block_auto_adjust_ff_dim", json!(false))
        .without("rms_norm_eps");
    folder.add("model.embed_tokens.weight", &[10, 8]);
    folder.add("model.embedding_norm.weight", &[8]);
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            folder.add(&format!("model.layers.{layer}.{name}.weight"), shape)
        };
        add("operator_norm", &[8]);
        if layer == 0 {
            add("conv.in_proj", &[24, 8]);
            add("conv.conv", &[8, 1, 3]);
            add("conv.out_proj", &[8, 8]);
        } else {
            add("self_attn.q_proj", &[8, 8]);
            add("self_attn.k_proj", &[4, 8]);
            add("self_attn.v_proj", &[4, 8]);
            add("self_attn.out_proj", &[8, 8]);
            add("self_attn.q_layernorm", &[4]);
            add("self_attn.k_layernorm", &[4]);
        }
        add("ffn_norm", &[8]);
        add("feed_forward.w1", &[6, 8]);
        add("feed_forward.w2", &[8, 6]);
        add("feed_forward.w3", &[6, 8]);
    }
    folder
}

/// A Gemma 2 (or, with the norms of queries and keys, a Gemma 3).
pub fn gemma(model_type: &str) -> Folder {
    let mut folder = llama()
        .set("model_type", json!(model_type))
        .set("tie_word_embeddings", json!(true))
        .set("query_pre_attn_scalar", json!(16))
        .without("hidden_act")
        .without("rope_theta");
    folder.tensors.remove("lm_head.weight").unwrap();
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            folder.add(&format!("model.layers.{layer}.{name}"), shape)
        };
        add("pre_feedforward_layernorm.weight", &[8]);
        add("post_feedforward_layernorm.weight", &[8]);
        if model_type == "gemma3_text" {
            add("self_attn.q_norm.weight", &[4]);
            add("self_attn.k_norm.weight", &[4]);
        }
    }
    folder
}

/// A penzai-style folder: `k` key/value heads with `m` query heads each.
pub fn llamalike(k: usize, m: usize, layers: usize, stacked: bool) -> Folder {
    let config = json!({
        "num_kv_heads": k, "query_head_multiplier": m, "embedding_dim": 6, "projection_dim": 4,
            "mlp_hidden_dim": 5,
        "num_decoder_blocks": layers, "vocab_size": 7, "mlp_variant": "swiglu",
            "tie_embedder_and_logits": false,
        "use_layer_stack": stacked,
    });
    let mut folder = Folder {
        config,
        tensors: BTreeMap::new(),
        metadata: HashMap::new(),
    };
    let (heads, kv_heads) = match (k, m) {
        (_, 1) => (vec![("heads", k)], vec![("heads", k)]),
        (1, _) => (vec![("query_heads", m)], vec![]),
        _ => (
            vec![("head_groups", k), ("query_heads", m)],
            vec![("head_groups", k)],
        ),
    };
    let axes = |parts: &[&[(&'static str, usize)]]| parts.concat();
    let d = [("embedding", 6)];
    let f = [("neurons", 5)];
    let p = [("projection", 4)];
    let v = [("vocabulary", 7)];
    folder.add_axes("transformer/embedder.embeddings", &axes(&[&v, &d]));
    folder.add_axes("transformer/lm_head.weights", &axes(&[&d, &v]));
    folder.add_axes("transformer/final_norm/scale.weights", &d);
    let blocks = if stacked {
        vec![("blocks".to_owned(), vec![("blocks", layers)])]
    } else {
        (0..layers)
            .map(|layer| (format!("block_{layer}"), vec![]))
            .collect()
    };
    for (block, stack) in blocks {
        let mut add = |name: &str, parts: &[&[(&'static str, usize)]]| {
            folder.add_axes(
                &format!("transformer/{block}/{name}"),
                &axes(&[&[&stack[..]], parts].concat()),
            );
        };
        add("pre_attention_norm/scale.weights", &[&d]);
        add("attention/query.weights", &[&d, &heads, &p]);
        add("attention/key.weights", &[&d, &kv_heads, &p]);
        add("attention/value.weights", &[&d, &kv_heads, &p]);
        add("attention/output.weights", &[&heads, &p, &d]);
        add("pre_ffw_norm/scale.weights", &[&d]);
        add("mlp/gating_linear.weights", &[&d, &f]);
        add("mlp/value_linear.weights", &[&d, &f]);
        add("mlp/out_linear.weights", &[&f, &d]);
    }
    folder
}

impl Folder {
    /// Adds a parameter of a penzai-style folder.
    pub fn add_axes(&mut self, label: &str, axes: &[(&str, usize)]) {
        self.add(label, &axes.iter().map(|axis| axis.1).collect::<Vec<_>>());
        let names: Vec<&str> = axes.iter().map(|axis| axis.0).collect();
        self.metadata
            .insert(format!("axes:{label}"), names.join(","));
    }

    /// Stores a parameter with its axes in another order; `order[i]` is the old place of the new
    /// axis `i`.
    pub fn transpose(&mut self, label: &str, order: &[usize]) {
        let axes = self.metadata.get_mut(&format!("axes:{label}")).unwrap();
        let names: Vec<&str> = axes.split(',').collect();
        *axes = order
            .iter()
            .map(|&axis| names[axis])
            .collect::<Vec<_>>()
            .join(",");
        let old = self.tensors.get_mut(label).unwrap();
        let shape: Vec<usize> = order.iter().map(|&axis| old.shape[axis]).collect();
        let mut data = Vec::new();
        for i in 0..shape.iter().product() {
            let mut rest = i;
            let mut index = vec![0; order.len()];
            for (&axis, &size) in order.iter().zip(&shape).rev() {
                (rest, index[axis]) = (rest / size, rest % size);
            }
            let from = index
                .iter()
                .zip(&old.shape)
                .fold(0, |at, (i, size)| at * size + i);
            data.extend_from_slice(&old.data[from * 4..][..4]);
        }
        (old.shape, old.data) = (shape, data);
    }
}
