//! Folders, reading whole tensors, and an allocator that remembers the largest request.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use pocketlm::import::{Checkpoint, Tensor};
use pocketlm::model::{Config, TensorId, TensorKind};

/// All rows as f32.
pub fn rows(tensor: &Tensor<'_>) -> Vec<Vec<f32>> {
    let read = |r| {
        let mut row = vec![0.0; tensor.column_count()];
        tensor.row(r, &mut row).unwrap();
        row
    };
    (0..tensor.row_count()).map(read).collect()
}

pub fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

pub fn read(checkpoint: &impl Checkpoint, layer: u32, kind: TensorKind) -> Vec<Vec<f32>> {
    rows(&checkpoint.tensor(TensorId { layer, kind }).unwrap())
}

/// Every tensor a config calls for.
pub fn tensors(config: &Config) -> Vec<TensorId> {
    use TensorKind::*;
    let mut kinds = vec![
        PreAttentionNorm,
        Query,
        Key,
        Value,
        Output,
        PreFfwNorm,
        GatingLinear,
        ValueLinear,
        OutLinear,
    ];
    kinds.extend(
        config
            .use_qk_norm
            .then_some([QueryNorm, KeyNorm])
            .into_iter()
            .flatten(),
    );
    kinds.extend(
        config
            .qkv_bias
            .then_some([QueryBias, KeyBias, ValueBias])
            .into_iter()
            .flatten(),
    );
    kinds.extend(config.output_bias.then_some(OutputBias));
    kinds.extend(
        config
            .mlp_bias
            .then_some([GatingLinearBias, ValueLinearBias, OutLinearBias])
            .into_iter()
            .flatten(),
    );
    kinds.extend(config.use_post_attn_norm.then_some(PostAttentionNorm));
    kinds.extend(config.use_post_ffw_norm.then_some(PostFfwNorm));
    let mut ids = vec![
        TensorId {
            layer: 0,
            kind: Embedder,
        },
        TensorId {
            layer: 0,
            kind: FinalNorm,
        },
    ];
    ids.extend((!config.tie_embedder_and_logits).then_some(TensorId {
        layer: 0,
        kind: LmHead,
    }));
    for layer in 0..config.num_decoder_blocks {
        ids.extend(kinds.iter().map(|&kind| TensorId { layer, kind }));
    }
    ids
}

/// Deletes a file and writes it again. Some file systems wait for the disk when a file is
/// overwritten, which shows after thousands of times.
pub fn write(path: &Path, file: &[u8]) {
    let _ = std::fs::remove_file(path);
    std::fs::write(path, file).unwrap();
}

/// Remembers the largest single request of each thread.
pub struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// Runs `f` and returns the bytes of the largest allocation it asked for.
pub fn largest_request<T>(f: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.set(0);
    let result = f();
    (result, LARGEST.get())
}

fn note(size: usize) {
    // While a thread ends, the variable is gone; nothing is measured then.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `System` with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: `at` came from `System` with this layout, and `size` is as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}
