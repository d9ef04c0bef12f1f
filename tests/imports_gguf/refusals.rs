//! Small GGUF files made by hand: good ones, cut ones, flipped ones, hostile ones.

use std::path::{Path, PathBuf};

use pocketlm::import::{Checkpoint, ImportError, gguf};
use pocketlm::model::{Config, DType, Layer, Role, Rope, TensorId};

use crate::support::{largest_request, read, rows, tensors, write};

/// A GGUF file, part by part.
#[derive(Clone)]
struct File {
    version: u32,
    keys: Vec<Vec<u8>>,
    tensors: Vec<Listed>,
    alignment: usize,
}

#[derive(Clone)]
struct Listed {
    name: String,
    /// Innermost first, as in the file.
    dimensions: Vec<u64>,
    code: u32,
    data: Vec<u8>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn key(name: &str, code: u32, value: &[u8]) -> Vec<u8> {
    [&string(name)[..], &code.to_le_bytes(), value].concat()
}

fn uint(name: &str, value: u32) -> Vec<u8> {
    key(name, 4, &value.to_le_bytes())
}

fn float(name: &str, value: f32) -> Vec<u8> {
    key(name, 6, &value.to_le_bytes())
}

fn text(name: &str, value: &str) -> Vec<u8> {
    key(name, 8, &string(value))
}

fn array(code: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [&code.to_le_bytes()[..], &len.to_le_bytes(), elements].concat()
}

impl File {
    /// One layer of two heads of two channels, tied, all f32; elements count up through the tensors.
    fn llama() -> Self {
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
            Listed { name: name.to_string(), dimensions: dimensions.to_vec(), code: 0, data: data.collect() }
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
            key("tokenizer.ggml.tokens", 9, &array(8, 3, &[string("a"), string(""), string("bc")].concat())),
            key("nested", 9, &array(9, 2, &[array(4, 1, &[1, 0, 0, 0]), array(8, 1, &string("x"))].concat())),
        ];
        File { version: 3, keys, tensors, alignment: 32 }
    }

    /// The same with every name of the architecture changed.
    fn of(arch: &str) -> Self {
        let mut file = Self::llama();
        let rename = |key: &Vec<u8>| {
            let len = u64::from_le_bytes(key[..8].try_into().unwrap()) as usize;
            let name = std::str::from_utf8(&key[8..8 + len]).unwrap();
            [&string(&name.replace("llama.", &format!("{arch}.")))[..], &key[8 + len..]].concat()
        };
        file.keys = file.keys.iter().map(rename).collect();
        file.keys[0] = text("general.architecture", arch);
        file
    }

    fn with(mut self, key: Vec<u8>) -> Self {
        self.keys.push(key);
        self
    }

    fn tensor(&mut self, name: &str) -> &mut Listed {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    fn add(mut self, name: &str, dimensions: &[u64], value: f32) -> Self {
        let count: u64 = dimensions.iter().product();
        let data = (0..count).flat_map(|_| value.to_le_bytes()).collect();
        self.tensors.push(Listed { name: name.into(), dimensions: dimensions.into(), code: 0, data });
        self
    }

    /// The file, and the length of its header.
    fn bytes(&self) -> (Vec<u8>, usize) {
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

    fn bytes_at(&self, offsets: &[usize]) -> (Vec<u8>, usize) {
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

struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        Place { _folder: folder, path }
    }

    fn open(&self, file: &[u8]) -> Result<impl Checkpoint + use<>, ImportError> {
        write(&self.path, file);
        gguf::open(&self.path)
    }

    /// The refusal, without the path, which must be named.
    fn refusal(&self, file: &[u8]) -> String {
        let (opened, largest) = largest_request(|| self.open(file));
        assert!(largest <= 8192, "{largest} bytes were asked for");
        let Err(error) = opened else { panic!("accepted") };
        assert_eq!(error.path.as_deref(), Some(Path::new(&self.path)));
        error.to_string().strip_prefix(&format!("{}: ", self.path.display())).unwrap().to_string()
    }
}

#[test]
fn a_handmade_llama_is_read_row_by_row() {
    let place = Place::new();
    let checkpoint = place.open(&File::llama().bytes().0).unwrap();
    let config = checkpoint.description().config;
    assert_eq!((config.num_kv_heads, config.query_head_multiplier, config.projection_dim), (1, 2, 4));
    assert_eq!((config.vocab_size, config.tie_embedder_and_logits), (3, true));
    assert_eq!(checkpoint.description().layers, [Layer { window: None, rope: Rope::Global }]);
    // Frequencies 1 and 0.01, over the factors 193 and 194 of `rope_freqs`.
    assert_eq!(checkpoint.description().global_rope.frequencies, [1.0 / 193.0, 0.01 / 194.0]);
    let rows = read(&checkpoint, 0, Role::Query);
    // Element 1 is number 21 of the file; the pairs (0, 1) and (2, 3) of a head become (0, 2) and (1, 3).
    let first: Vec<f32> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(first, [21.0, 29.0, 25.0, 33.0, 37.0, 45.0, 41.0, 49.0]);
    assert_eq!(rows[1], [29.0, 30.0, 31.0, 32.0]);
}

#[test]
fn version_2_reads_as_version_3_does() {
    let file = File { version: 2, ..File::llama() };
    assert!(Place::new().open(&file.bytes().0).is_ok());
}

#[test]
fn other_alignments_are_followed() {
    let file = File { alignment: 64, ..File::llama() }.with(uint("general.alignment", 64));
    let checkpoint = Place::new().open(&file.bytes().0).unwrap();
    assert_eq!(read(&checkpoint, 0, Role::FinalNorm), [[13.0, 14.0, 15.0, 16.0]]);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let place = Place::new();
    let (file, _) = File::llama().bytes();
    for len in 0..file.len() {
        place.refusal(&file[..len]);
    }
}

#[test]
fn a_header_with_any_bit_flipped_is_refused_or_read_without_panic() {
    let place = Place::new();
    let (file, header) = File::llama().bytes();
    let mut flipped = file.clone();
    for bit in 0..8 * header {
        flipped[bit / 8] ^= 1 << (bit % 8);
        let (opened, largest) = largest_request(|| place.open(&flipped));
        assert!(largest <= 8192, "bit {bit}: {largest} bytes were asked for");
        match opened {
            Ok(checkpoint) => {
                for id in tensors(&checkpoint.description().config) {
                    rows(&checkpoint.tensor(id).unwrap());
                }
            }
            Err(error) => assert_eq!(error.path.as_deref(), Some(&*place.path), "bit {bit}: {error}"),
        }
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn what_is_no_gguf_file_of_a_known_version_is_refused_by_name() {
    let place = Place::new();
    let (good, _) = File::llama().bytes();
    let version = |n: u32| [b"GGUF", &n.to_le_bytes()[..], &good[8..]].concat();
    let cases: [(&[u8], &str); 7] = [
        (&[0; 37], "not a GGUF file: it does not begin with \"GGUF\""),
        (&[], "an empty file"),
        (b"tjgg\x03\0\0\0\0\0", "an old ggml file, from before GGUF"),
        (&version(1), "GGUF version 1; convert it anew: versions 2 and 3 are read"),
        (&version(3u32.swap_bytes()), "a big-endian GGUF file; convert it to little-endian"),
        (&version(4), "GGUF version 4; versions 2 and 3 are read"),
        (b"GGUF\x03\0\0\0", "tensors: 8 bytes from byte 8 on, but the file ends at 8"),
    ];
    for (file, expected) in cases {
        assert_eq!(place.refusal(file), expected);
    }
    assert!(!gguf::looks_like(Path::new("/dev/null")) && !gguf::looks_like(Path::new(".")));
    assert_eq!(gguf::open(Path::new("no-such.gguf")).err().unwrap().path.as_deref(), Some(Path::new("no-such.gguf")));
}

#[test]
fn counts_that_the_file_cannot_hold_are_refused_before_anything_is_allocated() {
    let place = Place::new();
    let (good, header) = File::llama().bytes();
    let left = |at: usize| good.len() - at;
    let mut file = good.clone();
    file[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let tensor_count = place.refusal(&file);
    assert!(tensor_count.starts_with("18446744073709551615 tensors listed in"), "{tensor_count}");
    // As many as there are bytes for, were they all as short as can be.
    let most = good.len() as u64 / 32;
    file[8..16].copy_from_slice(&most.to_le_bytes());
    let tensor_count = place.refusal(&file);
    assert!(tensor_count.starts_with(&format!("{most} tensors listed in")), "{tensor_count}");

    let mut file = good.clone();
    file[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(
        place.refusal(&file),
        format!("18446744073709551615 keys at byte 16, with {} bytes left in the file", left(24))
    );

    let mut file = good.clone();
    file[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(
        place.refusal(&file),
        format!("key 0 of 10: 18446744073709551615 bytes of text at byte 24, with {} bytes left in the file", left(32))
    );

    for (code, least) in [(0, 1), (4, 4), (8, 8), (9, 12), (10, 8)] {
        for len in [u64::MAX, 1 << 61, (good.len() as u64) / least + 20] {
            let file = File::llama().with(key("long", 9, &array(code, len, &[]))).bytes().0;
            let refusal = place.refusal(&file);
            assert!(refusal.starts_with(&format!("key `long`: {len} elements at byte ")), "{refusal}");
        }
    }
    assert!(header < good.len());
}

#[test]
fn arrays_nested_without_end_are_refused() {
    let place = Place::new();
    let nested = |depth: usize| (0..depth).fold(array(0, 0, &[]), |inner, _| array(9, 1, &inner));
    assert!(place.open(&File::llama().with(key("deep", 9, &nested(7))).bytes().0).is_ok());
    for depth in [8, 100_000] {
        let refusal = place_refusal_of_deep(&place, nested_bytes(depth));
        assert!(refusal.starts_with("key `deep`: arrays nested deeper than 8, at byte "), "{refusal}");
    }
}

fn nested_bytes(depth: usize) -> Vec<u8> {
    [array(9, 1, &[]).repeat(depth), array(0, 0, &[])].concat()
}

fn place_refusal_of_deep(place: &Place, value: Vec<u8>) -> String {
    place.refusal(&File::llama().with(key("deep", 9, &value)).bytes().0)
}

#[test]
fn metadata_that_is_no_metadata_is_refused() {
    let place = Place::new();
    let cases = [
        (uint("llama.block_count", 1), "key `llama.block_count` occurs a second time, at byte "),
        (key("odd", 13, &[]), "key `odd`: value type 13, at byte "),
        (key("odd", 7, &[2]), "key `odd`: 2 for a bool, at byte "),
        (key("", 7, &[1]), "key 10 of 11, at byte "),
        (uint("general.alignment", 0), "general.alignment is not a power of two"),
        (uint("general.alignment", 48), "general.alignment is not a power of two"),
        (text("general.alignment", "32"), "general.alignment is not a power of two"),
        (
            key("tokenizer.chat_template", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]),
            "key `tokenizer.chat_template`: not UTF-8, at byte ",
        ),
    ];
    for (bad, expected) in cases {
        let refusal = place.refusal(&File::llama().with(bad).bytes().0);
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}

#[test]
fn tensors_that_cannot_be_where_they_are_said_to_be_are_refused() {
    let place = Place::new();
    let refusal = |change: &dyn Fn(&mut File)| {
        let mut file = File::llama();
        change(&mut file);
        place.refusal(&file.bytes().0)
    };
    let norm = "output_norm.weight";
    assert_eq!(
        refusal(&|file| file.tensor(norm).dimensions = vec![u64::MAX]),
        format!("tensor `{norm}`: a shape of [18446744073709551615] in F32 blocks of 1 cannot be")
    );
    assert_eq!(
        refusal(&|file| file.tensor(norm).dimensions = vec![1 << 32, 1 << 32, 4]),
        format!("tensor `{norm}`: a shape of [4, 4294967296, 4294967296] in F32 blocks of 1 cannot be")
    );
    assert_eq!(
        refusal(&|file| file.tensor(norm).dimensions = vec![4, 0]),
        format!("tensor `{norm}`: a shape of [0, 4] in F32 blocks of 1 cannot be")
    );
    assert_eq!(
        refusal(&|file| file.tensor(norm).dimensions = vec![]),
        format!("tensor `{norm}`: 0 dimensions, at most 4 are possible")
    );
    assert_eq!(
        refusal(&|file| file.tensor(norm).dimensions = vec![1; 5]),
        format!("tensor `{norm}`: 5 dimensions, at most 4 are possible")
    );
    assert_eq!(
        refusal(&|file| file.tensor(norm).code = 8),
        format!("tensor `{norm}`: a shape of [4] in Q8_0 blocks of 32 cannot be")
    );
    assert_eq!(
        refusal(&|file| file.tensor(norm).code = 16),
        format!(
            "tensor `{norm}`: stored as IQ2_XXS, which is not supported; \
             requantise it to one of F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K…Q6_K IQ4_NL"
        )
    );
    assert!(refusal(&|file| file.tensor(norm).code = 999).contains("stored as ggml type 999,"));
    assert_eq!(refusal(&|file| file.tensors.push(file.tensors[1].clone())), format!("tensor `{norm}`: listed twice"));
    assert!(refusal(&|file| file.tensors.last_mut().unwrap().dimensions = vec![3]).contains("but the file ends at"));

    let file = File::llama();
    let mut offsets: Vec<usize> = (0..file.tensors.len()).map(|i| 128 * i).collect();
    assert!(place.open(&file.bytes_at(&offsets).0).is_ok(), "holes do no harm");
    offsets[1] = 136;
    assert_eq!(
        place.refusal(&file.bytes_at(&offsets).0),
        format!("tensor `{norm}`: offset 136 is not aligned to 32 bytes")
    );
    offsets[1] = 32;
    let refusal = place.refusal(&file.bytes_at(&offsets).0);
    assert!(refusal.starts_with(&format!("tensors `token_embd.weight` and `{norm}` overlap at byte ")), "{refusal}");
}

#[test]
fn a_model_that_its_tensors_do_not_bear_out_is_refused() {
    let place = Place::new();
    assert_eq!(
        place.refusal(&File::llama().without("blk.0.ffn_up.weight").bytes().0),
        "tensor `blk.0.ffn_up.weight` is missing"
    );
    assert_eq!(
        place.refusal(&File::llama().without("blk.0.ffn_gate.weight").bytes().0),
        "tensor `blk.0.ffn_gate.weight` is missing"
    );
    assert_eq!(
        place.refusal(&File::llama().add("blk.0.attn_sub_norm.weight", &[4], 1.0).bytes().0),
        "tensor `blk.0.attn_sub_norm.weight` has no place in this architecture"
    );
    let mut file = File::llama();
    file.keys[3] = uint("llama.feed_forward_length", 7);
    assert_eq!(place.refusal(&file.bytes().0), "tensor `blk.0.ffn_gate.weight`: shape [6, 4], expected [7, 4]");
    let mut file = File::llama();
    file.keys[2] = uint("llama.block_count", u32::MAX);
    assert_eq!(
        place.refusal(&file.bytes().0),
        "key `llama.block_count` is 4294967295, expected no more layers than the file has tensors, 12"
    );
    let mut file = File::llama();
    file.keys[4] = uint("llama.attention.head_count", u32::MAX);
    assert_eq!(
        place.refusal(&file.bytes().0),
        "key `llama.attention.head_count` is 4294967295, expected heads that fit 32 bits together"
    );
}

#[test]
fn what_is_asked_for_and_not_supported_is_named() {
    let place = Place::new();
    let cases = [
        (uint("llama.expert_count", 8), "key `llama.expert_count` is 8, expected none: this is not supported"),
        (
            uint("split.count", 2),
            "key `split.count` is 2, expected a model in one file; join the parts with llama.cpp's `llama-gguf-split --merge`",
        ),
        (text("general.type", "adapter"), "key `general.type` is \"adapter\", expected \"model\""),
        (uint("llama.attention.value_length", 6), "key `llama.attention.value_length` is 6, expected key_length, 4"),
        (
            text("llama.rope.scaling.type", "su"),
            "key `llama.rope.scaling.type` is \"su\", expected none, linear or yarn",
        ),
        (
            uint("llama.rope.dimension_count", 6),
            "key `llama.rope.dimension_count` is 6, expected an even number up to the head's width, 4",
        ),
        (float("llama.rope.freq_base", f32::NAN), "key `llama.rope.freq_base` is NaN, expected a finite number"),
        (
            float("llama.final_logit_softcapping", -1.0),
            "key `llama.final_logit_softcapping` is -1, expected a number above 0",
        ),
    ];
    for (asked, expected) in cases {
        assert_eq!(place.refusal(&File::llama().with(asked).bytes().0), expected);
    }
    assert_eq!(
        place.refusal(&File::of("qwen2moe").bytes().0),
        "architecture \"qwen2moe\" is not supported; \
         supported are llama, gemma, gemma2, gemma3, qwen2, qwen3, smollm3 and phi3"
    );
    let differing = key("llama.feed_forward_length", 9, &array(4, 2, &[6, 0, 0, 0, 7, 0, 0, 0]));
    let mut file = File::llama();
    file.keys[3] = differing;
    assert_eq!(
        place.refusal(&file.bytes().0),
        "key `llama.feed_forward_length` differs from layer to layer, which is not supported"
    );
    file.keys[3] = key("llama.feed_forward_length", 9, &array(5, 2, &[6, 0, 0, 0, 6, 0, 0, 0]));
    assert!(place.open(&file.bytes().0).is_ok());
}

#[test]
fn a_vocabulary_that_does_not_fit_the_model_is_refused() {
    let place = Place::new();
    let model = |file: File, name: &str| file.with(text("tokenizer.ggml.model", name));
    let mut file = File::llama();
    file.keys[8] = key("tokenizer.ggml.tokens", 9, &array(8, 4, &string("a").repeat(4)));
    assert_eq!(
        place.refusal(&model(file, "llama").bytes().0),
        "key `tokenizer.ggml.tokens` has 4 tokens, the embedding table 3"
    );
    let mut file = File::llama();
    file.keys[8] = key("tokenizer.ggml.tokens", 9, &array(8, 1, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]));
    let refusal = place.refusal(&model(file, "llama").bytes().0);
    assert!(refusal.starts_with("key `tokenizer.ggml.tokens`: element 0 is not UTF-8, at byte "), "{refusal}");
    assert_eq!(place.refusal(&model(File::llama(), "rwkv").bytes().0), "tokenizer.ggml.model `rwkv` is not supported");
    let types = key("tokenizer.ggml.token_type", 9, &array(6, 1, &[0; 4]));
    assert_eq!(
        place.refusal(&model(File::llama(), "llama").with(types).bytes().0),
        "key `tokenizer.ggml.token_type` is an array of 1, expected an array of integers"
    );
}

#[test]
fn phi3_is_read_out_of_its_fused_matrices() {
    let mut file = File::of("phi3").without("rope_freqs.weight");
    // q, k and v become one matrix of 8 + 4 + 4 rows, gate and up one of 6 + 6.
    let fuse = |file: &mut File, into: &str, names: &[&str]| {
        let data: Vec<u8> = names.iter().flat_map(|name| file.tensor(name).data.clone()).collect();
        file.tensors.retain(|tensor| !names.contains(&tensor.name.as_str()));
        let rows = data.len() as u64 / 16;
        file.tensors.push(Listed { name: into.into(), dimensions: vec![4, rows], code: 0, data });
    };
    let apart = Place::new().open(&File::of("qwen2").without("rope_freqs.weight").bytes().0).unwrap();
    fuse(&mut file, "blk.0.attn_qkv.weight", &["blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"]);
    fuse(&mut file, "blk.0.ffn_up.weight", &["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"]);
    let place = Place::new();
    let fused = place.open(&file.clone().with(uint("phi3.attention.sliding_window", 5)).bytes().0).unwrap();
    for id in tensors(&apart.description().config) {
        assert_eq!(rows(&fused.tensor(id).unwrap()), rows(&apart.tensor(id).unwrap()), "{id:?}");
    }
    let window = std::num::NonZeroU32::new(5);
    assert_eq!(fused.description().layers, [Layer { window, rope: Rope::Global }]);

    // Partial rotary: channels 0 and 1 turn, 2 and 3 do not, so that 0 1 2 3 is read as 0 2 1 3.
    let partial = place.open(&file.clone().with(uint("phi3.rope.dimension_count", 2)).bytes().0).unwrap();
    assert_eq!(partial.description().global_rope.frequencies, [1.0, 0.0]);
    let order = [0, 2, 1, 3].map(|r| read(&apart, 0, Role::Key)[r].clone());
    assert_eq!(read(&partial, 0, Role::Key), order);

    // Longrope: the short set counts if the context is no longer than the original one.
    let file = file.add("rope_factors_long.weight", &[2], 8.0).add("rope_factors_short.weight", &[2], 2.0);
    let context = |n| uint("phi3.context_length", n);
    let file = file.with(uint("phi3.rope.scaling.original_context_length", 4096));
    let short = place.open(&file.clone().with(context(4096)).bytes().0).unwrap();
    assert_eq!(short.description().global_rope.frequencies, [0.5, 0.005]);
    assert_eq!(
        place.refusal(&file.with(context(131_072)).bytes().0),
        "longrope: two sets of rotary frequencies, and which one counts depends on the text's length; \
         there may be a variant with a short context (\"4k\")"
    );
}

#[test]
fn linear_and_yarn_scaling_stretch_the_table() {
    let place = Place::new();
    let table = |keys: Vec<Vec<u8>>| {
        let file = File::of("qwen3").without("rope_freqs.weight");
        let file = file.add("blk.0.attn_q_norm.weight", &[4], 1.0).add("blk.0.attn_k_norm.weight", &[4], 2.0);
        let file = keys.into_iter().fold(file, File::with);
        let checkpoint = place.open(&file.bytes().0).unwrap();
        (checkpoint.description().global_rope.clone(), checkpoint.description().config.global_scale_factor)
    };
    let kind = |kind| text("qwen3.rope.scaling.type", kind);
    let factor = || float("qwen3.rope.scaling.factor", 4.0);
    let (linear, divisor) = table(vec![kind("linear"), factor()]);
    assert_eq!((linear.amplitude, linear.frequencies, divisor), (1.0, vec![0.25, 0.0025], Some(4.0)));
    // A factor without a type is linear, under its old name too; "none" switches it off.
    assert_eq!(table(vec![factor()]).0.frequencies, [0.25, 0.0025]);
    assert_eq!(table(vec![float("qwen3.rope.scale_linear", 4.0)]).0.frequencies, [0.25, 0.0025]);
    assert_eq!(table(vec![kind("none"), factor()]).0.frequencies, [1.0, 0.01]);
    // In 1000 positions pair 0 turns 159 times, pair 1 1.6 times. With 32 and 1 turns as its ends the ramp goes from
    // pair 0 to pair 2, so that pair 1 is halfway between kept and divided by four.
    let (yarn, divisor) = table(vec![kind("yarn"), factor(), uint("qwen3.rope.scaling.original_context_length", 1000)]);
    assert_eq!((yarn.frequencies, divisor), (vec![1.0, 0.01 * (0.25 + 1.0) / 2.0], None));
    assert_eq!(yarn.amplitude, 1.138_629_4); // 0.1 ln 4 + 1
}

/// Repeats the first layer.
fn layers(mut file: File, arch: &str, count: u32) -> File {
    file.keys[2] = uint(&format!("{arch}.block_count"), count);
    let first: Vec<Listed> = file.tensors.iter().filter(|t| t.name.starts_with("blk.")).cloned().collect();
    for layer in 1..count {
        file.tensors.extend(first.iter().cloned().map(|mut tensor| {
            tensor.name = tensor.name.replace("blk.0.", &format!("blk.{layer}."));
            tensor
        }));
    }
    file
}

#[test]
fn gemma2_layers_are_local_as_the_pattern_says_and_caps_default_to_the_published_ones() {
    let file = File::of("gemma2").without("rope_freqs.weight");
    let file = file.add("blk.0.post_attention_norm.weight", &[4], 1.0).add("blk.0.post_ffw_norm.weight", &[4], 1.0);
    let file = layers(file, "gemma2", 5);
    let place = Place::new();
    let windows = |file: File| -> Vec<Option<u32>> {
        let checkpoint = place.open(&file.bytes().0).unwrap();
        let Config { attn_logits_soft_cap, final_logit_softcap, .. } = checkpoint.description().config;
        assert_eq!((attn_logits_soft_cap, final_logit_softcap), (Some(50.0), Some(30.0)));
        checkpoint.description().layers.iter().map(|layer| layer.window.map(|window| window.get())).collect()
    };
    let (all, local) = (None, Some(4096));
    assert_eq!(windows(file.clone()), [local, all, local, all, local]);
    let pattern = "gemma2.attention.sliding_window_pattern";
    let eight = || file.clone().with(uint("gemma2.attention.sliding_window", 8));
    let local = Some(8);
    assert_eq!(windows(eight().with(uint(pattern, 3))), [local, local, all, local, local]);
    let flags = key(pattern, 9, &array(7, 5, &[1, 0, 0, 1, 1]));
    assert_eq!(windows(eight().with(flags)), [local, all, all, local, local]);
    let four = key(pattern, 9, &array(7, 4, &[1, 0, 0, 1]));
    assert_eq!(
        place.refusal(&eight().with(four).bytes().0),
        format!("key `{pattern}` is an array of 4, expected 5 flags, one a layer")
    );
    // On a family whose files never have one, a window cannot be told to be for all layers or for some.
    let qwen2 = File::of("qwen2").with(uint("qwen2.attention.sliding_window", 8));
    assert_eq!(
        place.refusal(&qwen2.bytes().0),
        "key `qwen2.attention.sliding_window` is 8, expected none: which layers it is for is not known"
    );
}

#[test]
fn smollm3_has_no_rotary_embedding_in_every_fourth_layer_and_adjacent_pairs_in_all() {
    let file = layers(File::of("smollm3").without("rope_freqs.weight"), "smollm3", 5);
    let checkpoint = Place::new().open(&file.bytes().0).unwrap();
    let ropes: Vec<Rope> = checkpoint.description().layers.iter().map(|layer| layer.rope).collect();
    assert_eq!(ropes, [Rope::Global, Rope::Global, Rope::Global, Rope::None, Rope::Global]);
    for layer in [0, 3] {
        let firsts: Vec<f32> = read(&checkpoint, layer, Role::Key).iter().map(|row| row[0]).collect();
        assert_eq!(firsts, [53.0, 61.0, 57.0, 65.0]);
    }
}

#[test]
fn biases_are_found_and_permuted_like_their_rows() {
    let mut file = File::llama();
    for (name, count) in [("q", 8), ("k", 4), ("v", 4)] {
        let data = (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let name = format!("blk.0.attn_{name}.bias");
        file.tensors.push(Listed { name, dimensions: vec![count], code: 0, data });
    }
    let place = Place::new();
    let checkpoint = place.open(&file.bytes().0).unwrap();
    assert!(checkpoint.description().config.qkv_bias);
    assert_eq!(read(&checkpoint, 0, Role::QueryBias), [[0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]]);
    assert_eq!(read(&checkpoint, 0, Role::KeyBias), [[0.0, 2.0, 1.0, 3.0]]);
    assert_eq!(read(&checkpoint, 0, Role::ValueBias), [[0.0, 1.0, 2.0, 3.0]]);
    assert!(checkpoint.tensor(TensorId { layer: 0, role: Role::QueryBias }).unwrap().blocks(0).is_none());
    assert_eq!(place.refusal(&file.without("blk.0.attn_v.bias").bytes().0), "tensor `blk.0.attn_v.bias` is missing");
}

#[test]
fn the_commonest_type_of_the_matrices_is_the_parameter_dtype() {
    let mut file = File::llama();
    for tensor in file.tensors.iter_mut().filter(|tensor| tensor.dimensions.len() == 2).take(5) {
        tensor.code = 30;
        tensor.data.truncate(tensor.data.len() / 2);
    }
    let checkpoint = Place::new().open(&file.bytes().0).unwrap();
    assert_eq!(checkpoint.description().config.parameter_dtype, DType::Bf16);
}
