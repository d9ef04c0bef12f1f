//! The memory's bandwidth, to compare the speed of decoding with.

use std::hint::black_box;
use std::time::Instant;

use pocketlm_kernels::for_each_part;

use super::AlignedBytes;
use crate::run::Workers;

/// More than the caches of nearly all machines.
const BYTES: usize = 256 << 20;
/// Distant parts that a thread reads at once: one is not enough to keep the memory busy.
const STREAMS: usize = 4;
/// 64-bit words of a cache line.
const LINE: usize = 8;

/// Bytes a second that `workers` together read from memory with a plain loop: the best of five
/// passes over 256 MB. Kernels that prefetch may read faster.
pub fn read_bandwidth(workers: &dyn Workers) -> f64 {
    let mut memory = AlignedBytes::zeroed(BYTES);
    // Pages that were never written share one page of zeros.
    memory.fill(1);
    let words: &[u64] = bytemuck::cast_slice(&memory);
    let stream = words.len() / STREAMS;
    let pass = || {
        let start = Instant::now();
        for_each_part(workers, 0..stream / LINE, |lines| {
            let part = |index| &words[index * stream + LINE * lines.start..][..LINE * lines.len()];
            let [a, b, c, d] = [part(0), part(1), part(2), part(3)];
            let mut sums = [0u64; LINE];
            for i in (0..a.len()).step_by(LINE) {
                for (k, sum) in sums.iter_mut().enumerate() {
                    *sum ^= (a[i + k] ^ b[i + k]) ^ (c[i + k] ^ d[i + k]);
                }
            }
            black_box(sums);
        });
        BYTES as f64 / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| pass()).fold(0.0, f64::max)
}
