//! One core's speed in each kernel: `cargo bench --bench kernels`.
//!
//! Products are of an M×K matrix that stays in cache and of one that does not, with 1 and with 32 inputs.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pocketlm_kernels::{DType, Input, Matrix, RowsMut, matmul, quantize};
use std::hint::black_box;

fn products(criterion: &mut Criterion) {
    for (place, rows, columns) in [("cached", 576, 576), ("streamed", 49152, 576)] {
        for count in [1, 32] {
            if place == "streamed" && count > 1 {
                continue;
            }
            let mut group = criterion.benchmark_group(format!("product/{place}/{rows}x{columns}/{count}"));
            group.sample_size(20);
            for dtype in DType::ALL {
                let bytes = dtype.matrix_bytes(rows, columns).expect("small");
                let words = vec![0x3001_3001u32; bytes / 4];
                let matrix = Matrix::new(dtype, rows, columns, bytemuck::cast_slice(&words)).expect("well-formed");
                let values: Vec<f32> = (0..count * columns).map(|i| (i % 17) as f32 / 9.0 - 1.0).collect();
                let mut groups = vec![bytemuck::Zeroable::zeroed(); count * columns / 32];
                quantize(&values, &mut groups);
                let input = Input { count, values: &values, groups: &groups };
                let mut out = vec![0.0; rows * count];
                group.throughput(Throughput::Elements((rows * columns * count) as u64));
                group.bench_function(BenchmarkId::from_parameter(dtype.name()), |bencher| {
                    bencher.iter(|| {
                        let mut out = RowsMut::all(&mut out, rows);
                        matmul(black_box(&matrix), black_box(&input), 0..matrix.tile_rows(), &mut out);
                    });
                });
            }
        }
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
