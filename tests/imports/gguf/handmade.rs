//! Small GGUF files made by hand, and a place to open them in.

use std::path::{Path, PathBuf};

use pocketlm::import::{Checkpoint, ImportError, gguf};

use super::support::{largest_request, write};

/// A GGUF file, part by part.
#[derive(Clone)]
pub struct File {
    pub version: u32,
    pub keys: Vec<Vec<u8>>,
    pub tensors: Vec<Listed>,
    pub alignment: usize,
}

#[derive(Clone)]
pub struct Listed {
    pub name: String,
    /// Innermost first, as in the file.
    pub dimensions: Vec<u64>,
    pub code: u32,
    pub data: Vec<u8>,
}

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

pub fn key(name: &str, code: u32, value: &[u8]) -> Vec<u8> {
    [&string(name)[..], &code.to_le_bytes(), value].concat()
}

pub fn uint(name: &str, value: u32) -> Vec<u8> {
    key(name, 4, &value.to_le_bytes())
}

pub fn float(name: &str, value: f32) -> Vec<u8> {
    key(name, 6, &value.to_le_bytes())
}

pub fn text(name: &str, value: &str) -> Vec<u8> {
    key(name, 8, &string(value))
}

pub fn array(code: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [&code.to_le_bytes()[..], &len.to_le_bytes(), elements].concat()
}

impl File {
    /// One layer of two heads of two channels, tied, all f32; elements count up through the
    /// tensors.
    pub fn llama() -> Self {
        let shapes: [(&str, &[u64]); 12] = [
            ("token_embd.weight", &[4, 3]),
            ("output_norm.weight", &[4]),
            ("blk.0.attn_norm.weight", &[4]),
            ("blk.0.attn_q.weight", &[4, 8]),
            ("blk.0.attn_k.weight", &[4, 4]),
            ("blk.0.attn_v.weight", &[4, 4]),
            ("blk.0.attn_output.weight", &[8, 4]),
            ("blk.0.ffn_norm.weight", &[4]),
            ("blk.0.ffn_gate.weight", &[4, 6]),
            ("blk.0.ffn_up.weight", &[4, 6]),
            ("blk.0.ffn_down.weight", &[6, 4]),
            ("rope_freqs.weight", &[2]),
        ];
        let mut number = 0;
        let tensors = shapes.iter().map(|(name, dimensions)| {
            let count: u64 = dimensions.iter().product();
            let data = (0..count).flat_map(|_| {
                number += 1;
                (number as f32).to_le_bytes()
            });
            Listed {
                name: name.to_string(),
                dimensions: dimensions.to_vec(),
                code: 0,
                data: data.collect(),
            }
        });
        let tensors = tensors.collect();
        let keys = vec![
            text("general.architecture", "llama"),
            uint("llama.embedding_length", 4),
            uint("llama.block_count", 1),
            uint("llama.feed_forward_length", 6),
            uint("llama.attention.head_count", 2),
            uint("llama.attention.head_count_kv", 1),
            uint("llama.attention.key_length", 4),
            float("llama.attention.layer_norm_rms_epsilon", 1e-5),
            // Not used, but walked over: strings, and arrays in an array.
            key(
                "tokenizer.ggml.tokens",
                9,
                &array(8, 3, &[string("a"), string(""), string("bc")].concat()),
            ),
            key(
                "nested",
                9,
                &array(
                    9,
                    2,
                    &[array(4, 1, &[1, 0, 0, 0]), array(8, 1, &string("x"))].concat(),
                ),
            ),
        ];
        File {
            version: 3,
            keys,
            tensors,
            alignment: 32,
        }
    }

    /// The same with every name of the architecture changed.
    pub fn of(arch: &str) -> Self {
        let mut file = Self::llama();
        let rename = |key: &Vec<u8>| {
            let len = u64::from_le_bytes(key[..8].try_into().unwrap()) as usize;
            let name = std::str::from_utf8(&key[8..8 + len]).unwrap();
            [
                &string(&name.replace("llama.", &format!("{arch}.")))[..],
                &key[8 + len..],
            ]
            .concat()
        };
        file.keys = file.keys.iter().map(rename).collect();
        file.keys[0] = text("general.architecture", arch);
        file
    }

    pub fn with(mut self, key: Vec<u8>) -> Self {
        self.keys.push(key);
        self
    }

    pub fn tensor(&mut self, name: &str) -> &mut Listed {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .unwrap()
    }

    pub fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    pub fn add(mut self, name: &str, dimensions: &[u64], value: f32) -> Self {
        let count: u64 = dimensions.iter().product();
        let data = (0..count).flat_map(|_| value.to_le_bytes()).collect();
        self.tensors.push(Listed {
            name: name.into(),
            dimensions: dimensions.into(),
            code: 0,
            data,
        });
        self
    }

    /// The file, and the length of its header.
    pub fn bytes(&self) -> (Vec<u8>, usize) {
        let mut offset = 0;
        let offsets: Vec<usize> = self
            .tensors
            .iter()
            .map(|tensor| {
                let at = offset;
                offset = (at + tensor.data.len()).next_multiple_of(self.alignment);
                at
            })
            .collect();
        self.bytes_at(&offsets)
    }

    pub fn bytes_at(&self, offsets: &[usize]) -> (Vec<u8>, usize) {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.keys.len() as u64).to_le_bytes());
        file.extend(self.keys.concat());
        for (tensor, &offset) in self.tensors.iter().zip(offsets) {
            file.extend(string(&tensor.name));
            file.extend((tensor.dimensions.len() as u32).to_le_bytes());
            file.extend(tensor.dimensions.iter().flat_map(|n| n.to_le_bytes()));
            file.extend(tensor.code.to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
        }
        let header = file.len();
        let start = header.next_multiple_of(self.alignment);
        for (tensor, &offset) in self.tensors.iter().zip(offsets) {
            let end = start + offset + tensor.data.len();
            file.resize(file.len().max(end), 0);
            file[start + offset..end].copy_from_slice(&tensor.data);
        }
        (file, header)
    }
}

pub struct Place {
    _folder: tempfile::TempDir,
    pub path: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let folder = crate::common::scratch();
        let path = folder.path().join("model.gguf");
        Place {
            _folder: folder,
            path,
        }
    }

    pub fn open(&self, file: &[u8]) -> Result<impl Checkpoint + use<>, ImportError> {
        write(&self.path, file);
        gguf::open(&self.path)
    }

    /// The refusal, without the path, which must be named.
    pub fn refusal(&self, file: &[u8]) -> String {
        let (opened, largest) = largest_request(|| self.open(file));
        assert!(largest <= 8192, "{largest} bytes were asked for");
        let Err(error) = opened else {
            panic!("accepted")
        };
        assert_eq!(error.path.as_deref(), Some(Path::new(&self.path)));
        error
            .to_string()
            .strip_prefix(&format!("{}: ", self.path.display()))
            .unwrap()
            .to_string()
    }
}

/// Repeats the first layer.
pub fn layers(mut file: File, arch: &str, count: u32) -> File {
    file.keys[2] = uint(&format!("{arch}.block_count"), count);
    let first: Vec<Listed> = file
        .tensors
        .iter()
        .filter(|t| t.name.starts_with("blk."))
        .cloned()
        .collect();
    for layer in 1..count {
        file.tensors.extend(first.iter().cloned().map(|mut tensor| {
            tensor.name = tensor.name.replace("blk.0.", &format!("blk.{layer}."));
            tensor
        }));
    }
    file
}
