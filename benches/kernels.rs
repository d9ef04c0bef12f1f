//! One core's speed in each kernel: `cargo bench --features std --bench kernels` (without `std`
//! nothing asks the machine, and only what the compiler was told shows). A filter picks some of it:
//! `-- cached.*/q8`.
//!
//! Products are of an M×K matrix that stays in cache and of one that does not, with 1 and with 64
//! inputs, for every instruction set of the machine. Elements are multiply-adds, bytes are weights;
//! what the memory gives one core stands before the streamed ones.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pocketlm_kernels::{
    Activation, DType, Input, InputTile, Isa, Kv, Matrix, RowsMut, Solo, store_value,
};
use std::hint::black_box;

fn products(criterion: &mut Criterion) {
    for (place, rows, columns) in [("cached", 576, 576), ("streamed", 49152, 576)] {
        for count in [1, 64] {
            if place == "streamed" && count > 1 {
                continue;
            }
            #[cfg(feature = "std")]
            if place == "streamed" {
                let bandwidth = pocketlm::host::read_bandwidth(&pocketlm::run::Solo);
                println!("the memory gives one core {:.1} GB/s", bandwidth / 1e9);
            }
            let mut group =
                criterion.benchmark_group(format!("product/{place}/{rows}x{columns}/{count}"));
            group.sample_size(20);
            for dtype in DType::ALL {
                let bytes = dtype.matrix_bytes(rows, columns).expect("small");
                let words = vec![0x3001_3001u32; bytes / 4];
                let matrix = Matrix::new(dtype, rows, columns, bytemuck::cast_slice(&words))
                    .expect("well-formed");
                let values: Vec<f32> = (0..count * columns)
                    .map(|i| (i % 17) as f32 / 9.0 - 1.0)
                    .collect();
                let mut groups = vec![bytemuck::Zeroable::zeroed(); count * columns / 32];
                Isa::SCALAR.quantize(&values, &mut groups);
                let mut tiles = vec![
                    bytemuck::Zeroable::zeroed();
                    count.div_ceil(InputTile::INPUTS) * columns / 32
                ];
                // At a multiple of 64, as in a session.
                let mut lines = pocketlm::host::AlignedBytes::zeroed(rows * count * 4);
                let out: &mut [f32] = bytemuck::cast_slice_mut(&mut lines);
                let elements = (rows * columns * count) as u64;
                group.throughput(Throughput::ElementsAndBytes {
                    elements,
                    bytes: bytes as u64,
                });
                for isa in Isa::available() {
                    isa.arrange(&Solo, &groups, count, &mut tiles);
                    let tiles: &[InputTile] = if isa.arranges(count) { &tiles } else { &[] };
                    let input = Input {
                        count,
                        values: &values,
                        groups: &groups,
                        tiles,
                    };
                    group.bench_function(BenchmarkId::new(dtype.name(), isa.name()), |bencher| {
                        bencher.iter(|| {
                            let mut out = RowsMut::all(out, rows);
                            isa.matmul(
                                black_box(&matrix),
                                black_box(&input),
                                0..matrix.tile_rows(),
                                &mut out,
                            );
                        });
                    });
                }
            }
        }
    }
}

fn weighted_sums(criterion: &mut Criterion) {
    let slots = 1024;
    let channels = 64;
    let queries = 3;
    let mut group = criterion.benchmark_group(format!("weighted_sum/{queries}x{slots}x{channels}"));
    group.throughput(Throughput::Elements((queries * slots * channels) as u64));
    for kv in Kv::ALL {
        let mut words = vec![0u32; slots * kv.value_bytes(channels).expect("small") / 4];
        let values: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        let row: Vec<f32> = (0..channels).map(|i| (i % 17) as f32 / 9.0 - 1.0).collect();
        (0..slots).for_each(|slot| store_value(kv, values, slot, &row));
        let weights = vec![1e-3; queries * slots];
        let mut out = vec![0.0; queries * channels];
        for isa in Isa::available() {
            group.bench_function(BenchmarkId::new(kv.dtype().name(), isa.name()), |bencher| {
                bencher.iter(|| {
                    isa.weighted_sum(
                        kv,
                        black_box(values),
                        0..slots,
                        black_box(&weights),
                        &mut out,
                        queries,
                    )
                });
            });
        }
    }
}

fn vectors(criterion: &mut Criterion) {
    let numbers: Vec<f32> = (0..1536).map(|i| (i % 17) as f32 / 9.0 - 1.0).collect();
    let mut group = criterion.benchmark_group("vector/1536");
    group.throughput(Throughput::Elements(numbers.len() as u64));
    for isa in Isa::available() {
        let mut groups = vec![bytemuck::Zeroable::zeroed(); numbers.len() / 32];
        group.bench_function(BenchmarkId::new("quantize", isa.name()), |bencher| {
            bencher.iter(|| isa.quantize(black_box(&numbers), &mut groups));
        });
        let mut out = numbers.clone();
        group.bench_function(BenchmarkId::new("softmax", isa.name()), |bencher| {
            bencher.iter(|| isa.softmax(black_box(&mut out), &mut []));
        });
        for activation in [
            Activation::Silu,
            Activation::GeluExact,
            Activation::GeluApprox,
        ] {
            let mut out = numbers.clone();
            group.bench_function(
                BenchmarkId::new(format!("{activation:?}"), isa.name()),
                |bencher| {
                    bencher.iter(|| {
                        out.copy_from_slice(&numbers);
                        isa.gate(activation, &mut out, black_box(&numbers));
                    });
                },
            );
        }
    }
}

criterion_group!(benches, products, weighted_sums, vectors);
criterion_main!(benches);
