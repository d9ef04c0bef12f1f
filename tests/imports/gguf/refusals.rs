//! Cut files, flipped ones, hostile ones, and models that are not supported.

use std::path::Path;

use pocketlm::import::{Checkpoint, gguf};

use super::handmade::{File, Place, array, float, key, string, text, uint};
use super::support::{largest_request, rows, tensors};

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
            Err(error) => assert_eq!(
                error.path.as_deref(),
                Some(&*place.path),
                "bit {bit}: {error}"
            ),
        }
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn gguf_files_of_unknown_versions_are_refused_by_name() {
    let place = Place::new();
    let (good, _) = File::llama().bytes();
    let version = |n: u32| [b"GGUF", &n.to_le_bytes()[..], &good[8..]].concat();
    let cases: [(&[u8], &str); 7] = [
        (&[0; 37], "not a GGUF file: it does not begin with \"GGUF\""),
        (&[], "an empty file"),
        (b"tjgg\x03\0\0\0\0\0", "an old ggml file, from before GGUF"),
        (
            &version(1),
            "GGUF version 1; convert it anew: versions 2 and 3 are read",
        ),
        (
            &version(3u32.swap_bytes()),
            "a big-endian GGUF file; convert it to little-endian",
        ),
        (&version(4), "GGUF version 4; versions 2 and 3 are read"),
        (
            b"GGUF\x03\0\0\0",
            "tensors: 8 bytes from byte 8 on, but the file ends at 8",
        ),
    ];
    for (file, expected) in cases {
        assert_eq!(place.refusal(file), expected);
    }
    assert!(!gguf::looks_like(Path::new("/dev/null")) && !gguf::looks_like(Path::new(".")));
    assert_eq!(
        gguf::open(Path::new("no-such.gguf"))
            .err()
            .unwrap()
            .path
            .as_deref(),
        Some(Path::new("no-such.gguf"))
    );
}

#[test]
fn counts_that_the_file_cannot_hold_are_refused_before_anything_is_allocated() {
    let place = Place::new();
    let (good, _) = File::llama().bytes();
    let left = |at: usize| good.len() - at;
    let mut file = good.clone();
    file[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let tensor_count = place.refusal(&file);
    assert!(
        tensor_count.starts_with("18446744073709551615 tensors listed in"),
        "{tensor_count}"
    );
    // As many as there are bytes for, were they all as short as can be.
    let most = good.len() as u64 / 32;
    file[8..16].copy_from_slice(&most.to_le_bytes());
    let tensor_count = place.refusal(&file);
    assert!(
        tensor_count.starts_with(&format!("{most} tensors listed in")),
        "{tensor_count}"
    );

    let mut file = good.clone();
    file[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(
        place.refusal(&file),
        format!(
            "18446744073709551615 keys at byte 16, with {} bytes left in the file",
            left(24)
        )
    );

    let mut file = good.clone();
    file[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(
        place.refusal(&file),
        format!(
            "key 0 of 10: 18446744073709551615 bytes of text at byte 24, with {} bytes left in the \
             file",
            left(32)
        )
    );

    for (code, least) in [(0, 1), (4, 4), (8, 8), (9, 12), (10, 8)] {
        for len in [u64::MAX, 1 << 61, (good.len() as u64) / least + 20] {
            let file = File::llama()
                .with(key("long", 9, &array(code, len, &[])))
                .bytes()
                .0;
            let refusal = place.refusal(&file);
            assert!(
                refusal.starts_with(&format!("key `long`: {len} elements at byte ")),
                "{refusal}"
            );
        }
    }
}

#[test]
fn deeply_nested_arrays_are_refused() {
    let place = Place::new();
    // `depth` arrays of one array each, and an empty one in the innermost.
    let nested = |depth: usize| {
        let value = [array(9, 1, &[]).repeat(depth), array(0, 0, &[])].concat();
        File::llama().with(key("deep", 9, &value)).bytes().0
    };
    assert!(place.open(&nested(7)).is_ok());
    for depth in [8, 100_000] {
        let refusal = place.refusal(&nested(depth));
        assert!(
            refusal.starts_with("key `deep`: arrays nested deeper than 8, at byte "),
            "{refusal}"
        );
    }
}

#[test]
fn malformed_metadata_is_refused() {
    let place = Place::new();
    let cases = [
        (
            uint("llama.block_count", 1),
            "key `llama.block_count` occurs a second time, at byte ",
        ),
        (key("odd", 13, &[]), "key `odd`: value type 13, at byte "),
        (key("odd", 7, &[2]), "key `odd`: 2 for a bool, at byte "),
        (key("", 7, &[1]), "key 10 of 11, at byte "),
        (
            uint("general.alignment", 0),
            "general.alignment is not a power of two",
        ),
        (
            uint("general.alignment", 48),
            "general.alignment is not a power of two",
        ),
        (
            text("general.alignment", "32"),
            "general.alignment is not a power of two",
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
        format!(
            "tensor `{norm}`: a shape of [4, 4294967296, 4294967296] in F32 blocks of 1 cannot be"
        )
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
             requantise it to one of F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K…Q6_K IQ4_NL \
             Q1_0 Q2_0"
        )
    );
    assert!(refusal(&|file| file.tensor(norm).code = 999).contains("stored as ggml type 999,"));
    assert_eq!(
        refusal(&|file| file.tensors.push(file.tensors[1].clone())),
        format!("tensor `{norm}`: listed twice")
    );
    assert!(
        refusal(&|file| file.tensors.last_mut().unwrap().dimensions = vec![3])
            .contains("but the file ends at")
    );

    let file = File::llama();
    let mut offsets: Vec<usize> = (0..file.tensors.len()).map(|i| 128 * i).collect();
    assert!(
        place.open(&file.bytes_at(&offsets).0).is_ok(),
        "holes do no harm"
    );
    offsets[1] = 136;
    assert_eq!(
        place.refusal(&file.bytes_at(&offsets).0),
        format!("tensor `{norm}`: offset 136 is not aligned to 32 bytes")
    );
    offsets[1] = 32;
    let refusal = place.refusal(&file.bytes_at(&offsets).0);
    assert!(
        refusal.starts_with(&format!(
            "tensors `token_embd.weight` and `{norm}` overlap at byte "
        )),
        "{refusal}"
    );
}

#[test]
fn a_model_whose_tensors_contradict_its_config_is_refused() {
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
        place.refusal(
            &File::llama()
                .add("blk.0.attn_sub_norm.weight", &[4], 1.0)
                .bytes()
                .0
        ),
        "tensor `blk.0.attn_sub_norm.weight` has no place in this architecture"
    );
    let mut file = File::llama();
    file.keys[3] = uint("llama.feed_forward_length", 7);
    assert_eq!(
        place.refusal(&file.bytes().0),
        "tensor `blk.0.ffn_gate.weight`: shape [6, 4], expected [7, 4]"
    );
    let mut file = File::llama();
    file.keys[2] = uint("llama.block_count", u32::MAX);
    assert_eq!(
        place.refusal(&file.bytes().0),
        "key `llama.block_count` is 4294967295, expected no more layers than the file has tensors, \
         12"
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
        (
            uint("llama.expert_count", 8),
            "key `llama.expert_count` is 8, expected none: this is not supported",
        ),
        (
            uint("split.count", 2),
            "key `split.count` is 2, expected a model in one file; join the parts with llama.cpp's \
             `llama-gguf-split --merge`",
        ),
        (
            text("general.type", "adapter"),
            "key `general.type` is \"adapter\", expected \"model\"",
        ),
        (
            uint("llama.attention.value_length", 6),
            "key `llama.attention.value_length` is 6, expected key_length, 4",
        ),
        (
            text("llama.rope.scaling.type", "su"),
            "key `llama.rope.scaling.type` is \"su\", expected none, linear or yarn",
        ),
        (
            uint("llama.rope.dimension_count", 6),
            "key `llama.rope.dimension_count` is 6, expected an even number up to the head's \
             width, 4",
        ),
        (
            float("llama.rope.freq_base", f32::NAN),
            "key `llama.rope.freq_base` is NaN, expected a finite number",
        ),
        (
            float("llama.final_logit_softcapping", -1.0),
            "key `llama.final_logit_softcapping` is -1, expected a number above 0",
        ),
    ];
    for (asked, expected) in cases {
        assert_eq!(
            place.refusal(&File::llama().with(asked).bytes().0),
            expected
        );
    }
    assert_eq!(
        place.refusal(&File::of("qwen2moe").bytes().0),
        "architecture \"qwen2moe\": it is a mixture of experts; \
         supported are llama, mistral3, gemma, gemma2, gemma3, qwen2, qwen3, smollm3, phi3, \
         granite, olmo2, exaone4, hunyuan-dense, llama4, ernie4_5 and lfm2"
    );
    let differing = key(
        "llama.feed_forward_length",
        9,
        &array(4, 2, &[6, 0, 0, 0, 7, 0, 0, 0]),
    );
    let mut file = File::llama();
    file.keys[3] = differing;
    assert_eq!(
        place.refusal(&file.bytes().0),
        "key `llama.feed_forward_length` differs from layer to layer, which is not supported"
    );
    file.keys[3] = key(
        "llama.feed_forward_length",
        9,
        &array(5, 2, &[6, 0, 0, 0, 6, 0, 0, 0]),
    );
    assert!(place.open(&file.bytes().0).is_ok());
}

#[test]
fn a_vocabulary_that_does_not_fit_the_model_is_refused_and_the_model_is_not() {
    let place = Place::new();
    let model = |file: File, name: &str| file.with(text("tokenizer.ggml.model", name));
    let refused = |file: File| {
        let checkpoint = place.open(&file.bytes().0).unwrap();
        let description = checkpoint.description();
        let tokenizer = description.tokenizer.clone().and_then(Result::err);
        let error = tokenizer
            .or(description.chat_template.clone().and_then(Result::err))
            .unwrap();
        assert!(error.path.is_some(), "{error} names no file");
        error.reason
    };
    let tokens = |count: u64, bytes: &[u8]| {
        let mut file = File::llama();
        file.keys[8] = key("tokenizer.ggml.tokens", 9, &array(8, count, bytes));
        file
    };
    let scores = key("tokenizer.ggml.scores", 9, &array(6, 4, &[0; 16]));
    let four = [string("a"), string("b"), string("c"), string("d")].concat();
    assert_eq!(
        refused(model(tokens(4, &four), "llama").with(scores)),
        "the tokenizer has 4 tokens, and the embedding table 3 rows"
    );
    let refusal = refused(model(tokens(1, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), "llama"));
    assert!(
        refusal.starts_with("key `tokenizer.ggml.tokens`: element 0 is not UTF-8, at byte "),
        "{refusal}"
    );
    assert_eq!(
        refused(model(File::llama(), "rwkv")),
        "tokenizer.ggml.model `rwkv` is not supported"
    );
    let types = key("tokenizer.ggml.token_type", 9, &array(6, 1, &[0; 4]));
    assert_eq!(
        refused(model(File::llama(), "llama").with(types)),
        "key `tokenizer.ggml.token_type` is an array of 1, expected an array of integers"
    );
    let template = key(
        "tokenizer.chat_template",
        8,
        &[1, 0, 0, 0, 0, 0, 0, 0, 0xff],
    );
    let refusal = refused(File::llama().with(template));
    assert!(
        refusal.starts_with("key `tokenizer.chat_template`: not UTF-8, at byte "),
        "{refusal}"
    );
}
