//! llama2.c's own files: the three versions of one model, and stories260K in three formats.

use std::num::NonZeroU32;
use std::path::Path;

use pocketlm::import::{Checkpoint, Description, Element, gguf, hf, llama2c};
use pocketlm::model::{Config, DType, Layer, Rope, TensorId, TensorKind};

use super::support::{self, bits, read, rows, tensors};
use crate::common::shared;

const STORIES: Config = Config {
    num_kv_heads: 4,
    query_head_multiplier: 2,
    embedding_dim: 64,
    projection_dim: 8,
    mlp_hidden_dim: 172,
    num_decoder_blocks: 5,
    vocab_size: 512,
    tie_embedder_and_logits: true,
    query_scaling_factor: 0.353_553_38, // 8^-0.5
    max_position_embeddings: NonZeroU32::new(512),
    ..Config::PLAIN
};

#[test]
fn stories260k_is_the_same_model_in_three_formats() {
    let Some(folder) = shared("fetched") else {
        return;
    };
    let bin = folder.join("stories260K/stories260K.bin");
    assert!(llama2c::looks_like(&bin) && !gguf::looks_like(&bin));
    assert_eq!(
        llama2c::tokenizer_beside(&bin),
        Some(folder.join("stories260K/tok512.bin"))
    );
    let bin = llama2c::open(&bin).unwrap();

    let file = folder.join("stories260K/stories260K.f32.gguf");
    assert!(gguf::looks_like(&file) && !llama2c::looks_like(&file));
    let file = gguf::open(&file).unwrap();
    let hf = hf::open(&folder.join("stories260K_hf")).unwrap();

    same(&bin, &file);
    same(&bin, &hf);
    assert_eq!(bin.description().config, STORIES);
}

/// Equal config, layers, rotary frequencies and tensors, to the bit.
fn same(one: &impl Checkpoint, other: &impl Checkpoint) {
    let facts = |d: &Description| {
        (
            d.config,
            d.layers.clone(),
            d.global_rope.clone(),
            d.local_rope.clone(),
        )
    };
    assert_eq!(facts(one.description()), facts(other.description()));
    for id in tensors(&one.description().config) {
        let [one, other] = [one.tensor(id), other.tensor(id)].map(|tensor| {
            rows(&tensor.unwrap())
                .iter()
                .map(|row| bits(row))
                .collect::<Vec<_>>()
        });
        assert!(one == other, "{id:?}");
    }
}

/// Two layers of two heads of four channels over one key/value head, the feed-forward six wide,
/// five tokens.
const TINY: [i32; 7] = [8, 6, 2, 2, 1, 5, 3];

/// Number `i` of tensor `n`, so that none is like another.
fn value(n: usize, i: usize) -> f32 {
    (1000 * n + i) as f32
}

fn floats(n: usize, count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| value(n, i).to_le_bytes()).collect()
}

fn header(version: i32, tied: bool, group: Option<i32>) -> Vec<u8> {
    let mut file = b"24ka".to_vec();
    file.extend([version].iter().chain(&TINY).flat_map(|n| n.to_le_bytes()));
    file.push(tied.into());
    file.extend(group.into_iter().flat_map(|n| n.to_le_bytes()));
    file.resize(256, 0);
    file
}

fn write(folder: &Path, file: &[u8]) -> std::path::PathBuf {
    let path = folder.join("model.bin");
    support::write(&path, file);
    path
}

/// What each version stores in which place: a number for the tensor, and its elements.
const EMBEDDER: (usize, usize) = (1, 40);
const ATTENTION_NORMS: [(usize, usize); 2] = [(2, 8), (3, 8)];
const FFN_NORMS: [(usize, usize); 2] = [(4, 8), (5, 8)];
const MATRICES: [(usize, usize); 14] = [
    (6, 64), // wq
    (7, 64),
    (8, 32), // wk
    (9, 32),
    (10, 32), // wv
    (11, 32),
    (12, 64), // wo
    (13, 64),
    (14, 48), // w1
    (15, 48),
    (16, 48), // w2
    (17, 48),
    (18, 48), // w3
    (19, 48),
];
const FINAL_NORM: (usize, usize) = (20, 8);
const LM_HEAD: (usize, usize) = (21, 40);

fn old_file(tied: bool) -> Vec<u8> {
    let mut numbers = TINY;
    numbers[5] *= if tied { 1 } else { -1 };
    let mut file: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    let (attention, ffn) = MATRICES.split_at(8);
    let order = [
        &[EMBEDDER],
        &ATTENTION_NORMS[..],
        attention,
        &FFN_NORMS,
        ffn,
        &[FINAL_NORM],
    ]
    .concat();
    file.extend(order.into_iter().flat_map(|(n, count)| floats(n, count)));
    file.extend(floats(99, 3 * 4)); // cosines and sines
    if !tied {
        file.extend(floats(LM_HEAD.0, LM_HEAD.1));
    }
    file
}

fn new_file(tied: bool) -> Vec<u8> {
    let mut file = header(1, tied, None);
    let order = [
        &ATTENTION_NORMS[..],
        &FFN_NORMS,
        &[FINAL_NORM, EMBEDDER],
        &MATRICES,
    ]
    .concat();
    file.extend(order.into_iter().flat_map(|(n, count)| floats(n, count)));
    if !tied {
        file.extend(floats(LM_HEAD.0, LM_HEAD.1));
    }
    file
}

/// Scales are powers of two and values small, so that the products are exact.
fn quantised(n: usize, count: usize, group: usize) -> (Vec<u8>, Vec<f32>) {
    let (value, scale) = (
        |i: usize| ((7 * n + i) % 255) as u8 as i8,
        |g: usize| 0.5f32.powi((n + g) as i32 % 9),
    );
    let values = (0..count).map(|i| value(i) as u8);
    let scales = (0..count / group).flat_map(|g| scale(g).to_le_bytes());
    (
        values.chain(scales).collect(),
        (0..count)
            .map(|i| f32::from(value(i)) * scale(i / group))
            .collect(),
    )
}

fn quantised_file(group: usize) -> Vec<u8> {
    let mut file = header(2, false, Some(group as i32));
    let norms = [&ATTENTION_NORMS[..], &FFN_NORMS, &[FINAL_NORM]].concat();
    file.extend(norms.into_iter().flat_map(|(n, count)| floats(n, count)));
    let matrices = [&[EMBEDDER], &MATRICES[..], &[LM_HEAD]].concat();
    file.extend(
        matrices
            .into_iter()
            .flat_map(|(n, count)| quantised(n, count, group).0),
    );
    file
}

/// The rows of a matrix whose elements are these.
fn matrix(elements: &[f32], columns: usize) -> Vec<Vec<f32>> {
    elements.chunks(columns).map(<[f32]>::to_vec).collect()
}

/// Rows 0 2 1 3 of each head of four: pairs (0, 1) and (2, 3) become (0, 2) and (1, 3).
fn unpermuted(rows: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    rows.chunks(4)
        .flat_map(|head| [0, 2, 1, 3].map(|r| head[r].clone()))
        .collect()
}

/// Checks every tensor of the tiny model against the elements that `of` gives to a stored matrix.
fn check(checkpoint: &impl Checkpoint, tied: bool, of: impl Fn(usize, usize) -> Vec<f32>) {
    let norm = |(n, count)| vec![(0..count).map(|i| value(n, i)).collect::<Vec<f32>>()];
    let expect = |layer, kind, expected: Vec<Vec<f32>>| {
        assert_eq!(
            read(checkpoint, layer, kind),
            expected,
            "{kind:?} of layer {layer}"
        );
    };
    expect(
        0,
        TensorKind::Embedder,
        matrix(&of(EMBEDDER.0, EMBEDDER.1), 8),
    );
    expect(0, TensorKind::FinalNorm, norm(FINAL_NORM));
    for layer in 0..2 {
        let stored = |kind: usize, columns| {
            let (n, count) = MATRICES[2 * kind + layer];
            matrix(&of(n, count), columns)
        };
        let l = layer as u32;
        expect(
            l,
            TensorKind::PreAttentionNorm,
            norm(ATTENTION_NORMS[layer]),
        );
        expect(l, TensorKind::PreFfwNorm, norm(FFN_NORMS[layer]));
        expect(l, TensorKind::Query, unpermuted(stored(0, 8)));
        expect(l, TensorKind::Key, unpermuted(stored(1, 8)));
        expect(l, TensorKind::Value, stored(2, 8));
        expect(l, TensorKind::Output, stored(3, 8));
        expect(l, TensorKind::GatingLinear, stored(4, 8));
        expect(l, TensorKind::OutLinear, stored(5, 6));
        expect(l, TensorKind::ValueLinear, stored(6, 8));
    }
    if tied {
        let head = TensorId {
            layer: 0,
            kind: TensorKind::LmHead,
        };
        assert!(checkpoint.tensor(head).is_err());
    } else {
        expect(0, TensorKind::LmHead, matrix(&of(LM_HEAD.0, LM_HEAD.1), 8));
    }
    assert!(
        checkpoint
            .tensor(TensorId {
                layer: 2,
                kind: TensorKind::Query
            })
            .is_err()
    );
    assert!(
        checkpoint
            .tensor(TensorId {
                layer: 0,
                kind: TensorKind::QueryNorm
            })
            .is_err()
    );
    let expected = Config {
        num_kv_heads: 1,
        embedding_dim: 8,
        projection_dim: 4,
        mlp_hidden_dim: 6,
        num_decoder_blocks: 2,
        vocab_size: 5,
        tie_embedder_and_logits: tied,
        query_scaling_factor: 0.5,
        max_position_embeddings: NonZeroU32::new(3),
        ..STORIES
    };
    let Description {
        config,
        layers,
        global_rope,
        ..
    } = checkpoint.description();
    assert_eq!(
        Config {
            parameter_dtype: DType::F32,
            ..*config
        },
        expected
    );
    assert_eq!(
        layers[..],
        [Layer {
            rope: Rope::Global,
            ..Layer::default()
        }; 2]
    );
    assert_eq!(global_rope.frequencies, [1.0, 0.01]);
}

#[test]
fn versions_0_and_1_say_the_same_tied_and_untied() {
    let folder = crate::common::scratch();
    for tied in [false, true] {
        for file in [old_file(tied), new_file(tied)] {
            let path = write(folder.path(), &file);
            assert!(llama2c::looks_like(&path));
            let checkpoint = llama2c::open(&path).unwrap();
            check(&checkpoint, tied, |n, count| {
                (0..count).map(|i| value(n, i)).collect()
            });
            assert_eq!(checkpoint.description().config.parameter_dtype, DType::F32);
        }
    }
}

#[test]
fn version_2_is_read_as_values_times_scales_even_if_groups_straddle_rows() {
    let folder = crate::common::scratch();
    // Rows of w2 are six wide.
    for group in [2, 4, 8] {
        let path = write(folder.path(), &quantised_file(group));
        assert!(llama2c::looks_like(&path));
        let checkpoint = llama2c::open(&path).unwrap();
        check(&checkpoint, false, |n, count| quantised(n, count, group).1);
        assert_eq!(checkpoint.description().config.parameter_dtype, DType::Q8);
        let query = checkpoint
            .tensor(TensorId {
                layer: 0,
                kind: TensorKind::Query,
            })
            .unwrap();
        assert_eq!(query.element(), Element::F32);
    }
}

#[test]
fn tokenizers_lie_beside_the_checkpoint_under_the_usual_name_or_as_the_only_one() {
    let folder = crate::common::scratch();
    let path = write(folder.path(), &new_file(true));
    let touch = |name: &str| std::fs::write(folder.path().join(name), []).unwrap();
    assert_eq!(llama2c::tokenizer_beside(&path), None);
    touch("tok8.bin");
    assert_eq!(
        llama2c::tokenizer_beside(&path),
        Some(folder.path().join("tok8.bin"))
    );
    touch("tok9.bin");
    assert_eq!(llama2c::tokenizer_beside(&path), None);
    touch("tokenizer.bin");
    assert_eq!(
        llama2c::tokenizer_beside(&path),
        Some(folder.path().join("tokenizer.bin"))
    );
}

#[test]
fn a_file_of_another_length_than_its_header_says_is_refused() {
    let folder = crate::common::scratch();
    for file in [old_file(false), new_file(true), quantised_file(4)] {
        for len in (0..file.len()).chain([file.len() + 1]) {
            let mut cut = file.clone();
            cut.resize(len, 0);
            let path = write(folder.path(), &cut);
            let error = llama2c::open(&path)
                .err()
                .unwrap_or_else(|| panic!("{len} bytes were accepted"));
            assert_eq!(error.path.as_deref(), Some(&*path));
        }
    }
    let path = write(folder.path(), &old_file(false)[..100]);
    assert_eq!(
        llama2c::open(&path).err().unwrap().to_string(),
        format!(
            "{}: 100 bytes, but a version 0 header that describes 3244; \
             is this a llama2.c checkpoint at all? Version 0 has no magic number to tell",
            path.display()
        )
    );
}

#[test]
fn a_flipped_header_is_refused_or_read_without_panic() {
    let folder = crate::common::scratch();
    for (file, header) in [
        (old_file(false), 28),
        (new_file(true), 41),
        (quantised_file(4), 41),
    ] {
        for bit in 0..8 * header {
            let mut flipped = file.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let path = write(folder.path(), &flipped);
            let (opened, largest) = support::largest_request(|| llama2c::open(&path));
            // Nothing but the description and messages.
            assert!(largest < 4096, "bit {bit}: {largest} bytes were asked for");
            if let Ok(checkpoint) = opened {
                for id in tensors(&checkpoint.description().config) {
                    rows(&checkpoint.tensor(id).unwrap());
                }
            }
        }
    }
}
