//! Every kernel of every table is bit-equal to the naive loop that specifies it, at every tail
//! length and batch.
//!
//! Boards and Node run the same file as a module, through [`SUITE`]: nothing here needs std.

extern crate alloc;

use alloc::{format, vec, vec::Vec};
use core::ops::Range;

use pocketlm_kernels::math::{bf16_to_f32, f16_to_f32};
use pocketlm_kernels::*;

/// The tests, for where there is no test harness.
#[allow(dead_code)]
pub(crate) const SUITE: &[(&str, fn())] = &[
    (
        "every_product_is_the_naive_loop",
        every_product_is_the_naive_loop,
    ),
    (
        "weights_may_start_at_any_multiple_of_4",
        weights_may_start_at_any_multiple_of_4,
    ),
    (
        "extreme_weights_inputs_and_scales_are_the_naive_loop_too",
        extreme_weights_inputs_and_scales_are_the_naive_loop_too,
    ),
    (
        "a_product_of_nothing_or_with_too_little_leaves_the_rest_alone",
        a_product_of_nothing_or_with_too_little_leaves_the_rest_alone,
    ),
    (
        "every_quantiser_is_the_formula",
        every_quantiser_is_the_formula,
    ),
    (
        "every_softmax_gate_and_soft_cap_is_the_scalar_one",
        every_softmax_gate_and_soft_cap_is_the_scalar_one,
    ),
    (
        "the_tables_have_names_and_scalar_is_always_there",
        the_tables_have_names_and_scalar_is_always_there,
    ),
    (
        "what_was_packed_reads_back_rounded_to_its_type",
        what_was_packed_reads_back_rounded_to_its_type,
    ),
    (
        "a_matrix_of_the_wrong_size_is_refused",
        a_matrix_of_the_wrong_size_is_refused,
    ),
    (
        "numbers_that_are_not_finite_are_found_wherever_they_are",
        numbers_that_are_not_finite_are_found_wherever_they_are,
    ),
    (
        "keys_and_values_come_back_as_stored",
        keys_and_values_come_back_as_stored,
    ),
];

/// A repeatable stream of numbers, a few of them extreme.
struct Numbers(u64);

impl Numbers {
    fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    fn float(&mut self) -> f32 {
        match self.bits() % 50 {
            0 => 0.0,
            1 => -0.0,
            2 => 1e-40,
            3 => 3e4,
            _ => (self.bits() % 20001) as f32 / 10000.0 - 1.0,
        }
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    fn f16(&mut self) -> u16 {
        let bits = self.bits() as u16;
        if bits & 0x7c00 == 0x7c00 {
            bits & 0x83ff
        } else {
            bits
        }
    }

    /// From 2^-127 to 2^65.
    fn bf16(&mut self) -> u16 {
        let bits = self.bits() as u16;
        bits & 0x807f | (((bits >> 7) & 0xff) % 192) << 7
    }
}

/// A matrix of random bytes that are all finite weights.
fn random_matrix(dtype: DType, rows: usize, columns: usize, numbers: &mut Numbers) -> Vec<u32> {
    let bytes = dtype.matrix_bytes(rows, columns).unwrap();
    let mut words = vec![0u32; bytes / 4];
    let data: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    let tile_row = dtype.tile_row_bytes(columns).unwrap();
    for row in 0..rows {
        let tile = &mut data[row / 8 * tile_row..][..tile_row];
        if !dtype.is_quantized() {
            pack_row(dtype, tile, row % 8, &numbers.floats(columns));
            continue;
        }
        for group in 0..columns.div_ceil(32) {
            let used = (columns - group * 32).min(32);
            let minimum = (dtype == DType::Q4Min).then(|| numbers.f16());
            let scale = numbers.f16();
            let codes = core::array::from_fn(|_| numbers.bits() as u8);
            match dtype {
                DType::Nl4 | DType::Nl3 => {
                    if group == 0 {
                        pack_row_scale(dtype, tile, row % 8, numbers.bf16());
                    }
                    pack_codes(dtype, tile, row % 8, group, scale as i8, &codes);
                }
                DType::Q6 => {
                    let values = codes.map(|code| (code & 63) as i8 - 32);
                    pack_values(dtype, tile, row % 8, group, scale, &values);
                }
                DType::Q5 => {
                    let values = codes.map(|code| (code & 31) as i8 - 16);
                    pack_values(dtype, tile, row % 8, group, scale, &values);
                }
                DType::Q8 => {
                    let values = core::array::from_fn(|c| match numbers.bits() % 9 {
                        _ if c >= used => 0,
                        0 => -128,
                        1 => 127,
                        _ => numbers.bits() as i8,
                    });
                    pack_q8_group(tile, row % 8, group, scale, &values);
                }
                _ => {
                    let values = codes.map(|code| code & 15);
                    pack_q4_group(tile, row % 8, group, scale, minimum, &values);
                }
            }
        }
    }
    words
}

/// Where the input of a column of a group is kept, and which column is kept there: 0 2 1 3 of each
/// four.
fn place(column: usize) -> usize {
    column / 4 * 4 + [0, 2, 1, 3][column % 4]
}

/// The loop of the docs for one output, on weights read back one by one through `Matrix::row`.
fn naive(
    dtype: DType,
    matrix: &Matrix,
    data: &[u8],
    row: usize,
    x: &[f32],
    groups: &[InputGroup],
) -> f32 {
    let columns = matrix.columns();
    let mut sum = 0.0f32;
    if !dtype.is_quantized() {
        let mut weights = vec![0.0; columns];
        matrix.row(row, &mut weights);
        for c in 0..columns {
            sum += weights[c] * x[c];
        }
        return sum;
    }
    // By the table of the crate docs, byte by byte.
    let tile_row = &data[row / 8 * dtype.tile_row_bytes(columns).unwrap()..];
    let lane = row % 8;
    let half = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    // The bytes of a tile row's header, of a tile's scales and minima, and the planes of a tile, by
    // the bits that each holds.
    let (header, scales, planes): (_, _, &[usize]) = match dtype {
        DType::Q8 => (0, 16, &[8]),
        DType::Q6 => (0, 16, &[4, 2]),
        DType::Q5 => (0, 16, &[4, 1]),
        DType::Q4 => (0, 16, &[4]),
        DType::Q4Min => (0, 32, &[4]),
        DType::Nl4 => (16, 8, &[4]),
        _ => (16, 8, &[2, 1]),
    };
    let tile_bytes = scales + 32 * planes.iter().sum::<usize>();
    for (g, x) in groups.iter().enumerate() {
        let tile = &tile_row[header + g * tile_bytes..][..tile_bytes];
        let mut dot = 0i32;
        for c in 0..32 {
            let mut code = 0;
            let mut width = 0;
            let mut start = scales;
            for bits in planes {
                let byte = tile[start + c / 4 * bits / 8 * 32 + lane * 4 + c % 4] as u32;
                let mask = (1 << bits) - 1;
                code |= (byte >> (c / 4 * bits % 8) & mask) << width;
                width += bits;
                start += 32 * bits;
            }
            let value = match dtype {
                DType::Q8 => code as i8 as i32,
                DType::Q4Min => code as i32,
                DType::Nl4 | DType::Nl3 => dtype.levels()[code as usize] as i32,
                _ => code as i32 - (1 << (width - 1)),
            };
            dot += value * x.values[place(c)] as i32;
        }
        let scale = match dtype {
            DType::Nl4 | DType::Nl3 => {
                tile[lane] as i8 as f32 * bf16_to_f32(half(&tile_row[2 * lane..]))
            }
            _ => f16_to_f32(half(&tile[2 * lane..])),
        };
        sum += dot as f32 * (scale * x.scale);
        if dtype == DType::Q4Min {
            let minimum = f16_to_f32(half(&tile[16 + 2 * lane..]));
            sum += x.sum as f32 * (minimum * x.scale);
        }
    }
    sum
}

/// The bits of a number; of NaNs, whose sign and payload are the machine's choice, always the same.
fn bits(x: f32) -> u32 {
    if x.is_nan() {
        f32::NAN.to_bits()
    } else {
        x.to_bits()
    }
}

/// Compares a product with the naive loop, for every table, in one piece and in pieces as workers
/// claim them.
fn check_product(
    what: &str,
    dtype: DType,
    rows: usize,
    columns: usize,
    data: &[u8],
    input: &Input,
) {
    let matrix = Matrix::new(dtype, rows, columns, data).unwrap();
    assert!(matrix.is_finite());
    let count = input.count;
    let width = columns.div_ceil(32);
    let expected: Vec<u32> = (0..count * rows)
        .map(|i| {
            let t = i / rows;
            let row = i % rows;
            let x = &input.values[t * columns..][..columns];
            bits(naive(
                dtype,
                &matrix,
                data,
                row,
                x,
                &input.groups[t * width..][..width],
            ))
        })
        .collect();
    for isa in Isa::available() {
        let mut memory =
            vec![bytemuck::Zeroable::zeroed(); count.div_ceil(InputTile::INPUTS) * width];
        isa.arrange(&Solo, &input.groups[..count * width], count, &mut memory);
        let arranged = Input {
            tiles: if isa.arranges(count) { &memory } else { &[] },
            ..*input
        };
        for (piece, input) in [
            (16, &arranged),
            (24, input),
            (24, &arranged),
            (40, &arranged),
            (56, input),
            (rows, &arranged),
        ] {
            let mut out = vec![f32::NAN; count * rows];
            let piece = piece.next_multiple_of(8);
            let mut all = RowsMut::all(&mut out, rows);
            // Last piece first: what is written beyond a piece, also where the view of the output
            // goes on, spoils a sum.
            for start in (0..rows).step_by(piece).rev() {
                let end = rows.min(start + piece);
                let seen = if piece == 24 || piece == 40 {
                    rows
                } else {
                    end
                };
                isa.matmul(
                    &matrix,
                    input,
                    start / 8..end.div_ceil(8),
                    &mut all.part(start..seen),
                );
            }
            for (i, (out, expected)) in out.iter().zip(&expected).enumerate() {
                let t = i / rows;
                let row = i % rows;
                assert_eq!(
                    bits(*out),
                    *expected,
                    "{what}: {isa:?} {} [{rows}][{columns}], input {t} of {count}, row {row}, \
                     pieces of {piece}",
                    dtype.name()
                );
            }
        }
    }
}

/// Products of random matrices of `rows` by `columns`, in every type.
fn check_shape(rows: usize, columns: usize, counts: Range<usize>, numbers: &mut Numbers) {
    for dtype in DType::ALL {
        let words = random_matrix(dtype, rows, columns, numbers);
        for count in counts.clone() {
            let values = numbers.floats(count * columns);
            let width = columns.div_ceil(32);
            let mut groups = vec![bytemuck::Zeroable::zeroed(); count * width];
            for t in 0..count {
                Isa::SCALAR.quantize(
                    &values[t * columns..][..columns],
                    &mut groups[t * width..][..width],
                );
            }
            let input = Input {
                count,
                values: &values,
                groups: &groups,
                tiles: &[],
            };
            check_product(
                "random",
                dtype,
                rows,
                columns,
                bytemuck::cast_slice(&words),
                &input,
            );
        }
    }
}

#[cfg_attr(test, test)]
pub(crate) fn every_product_is_the_naive_loop() {
    let shapes = [
        (1, 1),
        (8, 32),
        (9, 31),
        (13, 33),
        (24, 64),
        (7, 172),
        (40, 95),
        (75, 40),
        (16, 4),
        (3, 65),
        (129, 7),
    ];
    for (rows, columns) in shapes {
        check_shape(rows, columns, 1..10, &mut Numbers(7));
    }
}

/// Every number of rows up to three tiles and every number of columns beyond two groups. A matrix
/// is a block of memory of its own, so that AddressSanitizer sees a read beyond it. Too much for
/// boards.
#[cfg(test)]
#[test]
fn every_small_product_is_the_naive_loop() {
    for rows in 1..=25 {
        for columns in 1..=67 {
            check_shape(rows, columns, 1..3, &mut Numbers(11));
        }
    }
}

/// Rows longer than what is widened at once, with full and cut blocks of inputs. Too much for
/// boards.
#[cfg(test)]
#[test]
fn every_wide_product_is_the_naive_loop() {
    for columns in [512, 513, 1100] {
        check_shape(24, columns, 7..18, &mut Numbers(12));
    }
}

/// As many inputs as a batch has, in blocks of 16 that are full and others, and more than are held
/// at once; rows in one stretch and in several. Too much for boards.
#[cfg(test)]
#[test]
fn every_batch_is_the_naive_loop() {
    for count in [16, 17, 31, 32, 33, 63, 64, 65, 130] {
        for (rows, columns) in [(1, 1), (8, 33), (9, 64), (17, 172), (40, 577)] {
            check_shape(rows, columns, count..count + 1, &mut Numbers(13));
        }
    }
    check_shape(24, 1184, 40..41, &mut Numbers(13));
}

#[cfg_attr(test, test)]
pub(crate) fn weights_may_start_at_any_multiple_of_4() {
    let numbers = &mut Numbers(8);
    let rows = 75;
    let columns = 65;
    for dtype in DType::ALL {
        let words = random_matrix(dtype, rows, columns, numbers);
        let values = numbers.floats(5 * columns);
        let mut groups = vec![bytemuck::Zeroable::zeroed(); 5 * 3];
        for t in 0..5 {
            Isa::SCALAR.quantize(&values[t * columns..][..columns], &mut groups[t * 3..][..3]);
        }
        let input = Input {
            count: 5,
            values: &values,
            groups: &groups,
            tiles: &[],
        };
        for offset in 0..16 {
            let mut moved = vec![u32::MAX; offset];
            moved.extend(&words);
            check_product(
                "moved",
                dtype,
                rows,
                columns,
                bytemuck::cast_slice(&moved[offset..]),
                &input,
            );
        }
    }
}

#[cfg_attr(test, test)]
pub(crate) fn extreme_weights_inputs_and_scales_are_the_naive_loop_too() {
    let numbers = &mut Numbers(9);
    let rows = 43;
    let columns = 96;
    // f16 bits: zeros, the smallest and largest subnormal, the smallest and largest normal, one.
    let halves = [
        0u16, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x7bff, 0xfbff, 0x3c00,
    ];
    // The same of bf16, and the largest that a row scale can be is 2^113 and a little less.
    let brains = [
        0u16, 0x8000, 1, 0x8001, 0x007f, 0x0080, 0x787f, 0xf87f, 0x3f80,
    ];
    let scales = [
        0.0,
        f32::from_bits(1),
        1e-40,
        1e-38,
        1.0,
        1e30,
        f32::MAX,
        f32::NAN,
    ];
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantized()) {
        for fill in [0x80u8, 0x7f, 0x00, 0xff, 0x0f, 0xf0, 0x01] {
            let mut words = vec![0u32; dtype.matrix_bytes(rows, columns).unwrap() / 4];
            let data: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
            let uneven = !dtype.levels().is_empty();
            // Uneven levels have scales of rows, in bf16, and the scales of groups are int8.
            let (header, part) = match dtype {
                DType::Nl4 | DType::Nl3 => (16, dtype.tile_row_bytes(columns).unwrap()),
                DType::Q4Min => (32, dtype.tile_row_bytes(32).unwrap()),
                _ => (16, dtype.tile_row_bytes(32).unwrap()),
            };
            let halves = if uneven { &brains } else { &halves };
            for part in data.chunks_exact_mut(part) {
                part.fill(fill);
                for half in part[..header].chunks_exact_mut(2) {
                    half.copy_from_slice(
                        &halves[numbers.bits() as usize % halves.len()].to_le_bytes(),
                    );
                }
            }
            for count in [1, 2, 3, 4, 6, 8, 19] {
                let values = vec![0.0; count * columns];
                let groups: Vec<InputGroup> = (0..count * columns / 32)
                    .map(|_| {
                        let kind = numbers.bits() % 4;
                        let values: [i16; 32] =
                            core::array::from_fn(|_| match (kind, numbers.bits() % 2) {
                                (0, _) | (1, 0) => 32767,
                                (2, _) | (1, 1) => -32767,
                                _ => 0,
                            });
                        let scale = scales[numbers.bits() as usize % scales.len()];
                        InputGroup {
                            values,
                            scale,
                            sum: values.iter().map(|&x| x as i32).sum(),
                        }
                    })
                    .collect();
                let input = Input {
                    count,
                    values: &values,
                    groups: &groups,
                    tiles: &[],
                };
                check_product(
                    &format!("bytes {fill:#x}"),
                    dtype,
                    rows,
                    columns,
                    data,
                    &input,
                );
            }
        }
    }
    // Every finite f16 and bf16, and f32s of all magnitudes, met by inputs of all magnitudes.
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let mut words: Vec<u32> = vec![0; dtype.matrix_bytes(128, 512).unwrap() / 4];
        if dtype == DType::F32 {
            words.fill_with(|| numbers.bits() << 1 ^ numbers.bits());
            words
                .iter_mut()
                .filter(|bits| !f32::from_bits(**bits).is_finite())
                .for_each(|bits| *bits = 1);
        } else {
            let halves: &mut [u16] = bytemuck::cast_slice_mut(&mut words);
            let infinity = if dtype == DType::F16 { 0x7c00 } else { 0x7f80 };
            for (bits, half) in halves.iter_mut().enumerate() {
                let bits = bits as u16;
                *half = if bits & infinity == infinity {
                    bits & !infinity
                } else {
                    bits
                };
            }
        }
        for count in [1, 5] {
            let inputs = [
                0.0,
                -0.0,
                f32::from_bits(1),
                -1e-40,
                1e-20,
                1.0,
                -3.5,
                1e10,
                -1e10,
            ];
            let values: Vec<f32> = (0..count * 512)
                .map(|_| inputs[numbers.bits() as usize % inputs.len()])
                .collect();
            let groups = vec![bytemuck::Zeroable::zeroed(); count * 16];
            let input = Input {
                count,
                values: &values,
                groups: &groups,
                tiles: &[],
            };
            check_product(
                "all floats",
                dtype,
                128,
                512,
                bytemuck::cast_slice(&words),
                &input,
            );
        }
    }
}

#[cfg_attr(test, test)]
pub(crate) fn a_product_of_nothing_or_with_too_little_leaves_the_rest_alone() {
    let numbers = &mut Numbers(10);
    for dtype in DType::ALL {
        let words = random_matrix(dtype, 40, 64, numbers);
        let matrix = Matrix::new(dtype, 40, 64, bytemuck::cast_slice(&words)).unwrap();
        let values = [1.0; 64];
        let mut groups = [bytemuck::Zeroable::zeroed(); 2];
        Isa::SCALAR.quantize(&values, &mut groups);
        for isa in Isa::available() {
            let mut whole = [7.0; 40];
            let input = Input {
                count: 1,
                values: &values,
                groups: &groups,
                tiles: &[],
            };
            isa.matmul(&matrix, &input, 0..5, &mut RowsMut::all(&mut whole, 40));
            // No tile rows, tile rows past the end, no inputs, no matrix.
            let mut out = [7.0; 40];
            isa.matmul(&matrix, &input, 3..3, &mut RowsMut::all(&mut out, 40));
            isa.matmul(&matrix, &input, 5..9, &mut RowsMut::all(&mut out, 40));
            isa.matmul(
                &matrix,
                &Input { count: 0, ..input },
                0..5,
                &mut RowsMut::all(&mut out, 40),
            );
            isa.matmul(
                &Matrix::EMPTY,
                &input,
                0..0,
                &mut RowsMut::all(&mut out, 40),
            );
            assert_eq!(out, [7.0; 40], "{isa:?} {}", dtype.name());
            // An output that ends inside a tile.
            let mut part = [7.0; 13];
            isa.matmul(&matrix, &input, 0..5, &mut RowsMut::all(&mut part, 13));
            assert_eq!(part[..], whole[..13], "{isa:?} {}", dtype.name());
            // Inputs that are not there.
            for count in [6, 16] {
                isa.matmul(
                    &matrix,
                    &Input {
                        count,
                        values: &[],
                        groups: &[],
                        tiles: &[],
                    },
                    0..5,
                    &mut RowsMut::all(&mut out, 40),
                );
            }
        }
    }
}

#[cfg_attr(test, test)]
pub(crate) fn every_quantiser_is_the_formula() {
    let numbers = &mut Numbers(12);
    for isa in Isa::available() {
        for n in 0..200 {
            let mut input = numbers.floats(n);
            let exponent = (numbers.bits() % 75) as i32 - 37;
            input
                .iter_mut()
                .for_each(|x| *x *= libm::powf(10.0, exponent as f32));
            if n % 7 == 3 {
                input[n / 2] = [
                    f32::NAN,
                    -f32::NAN,
                    f32::INFINITY,
                    f32::NEG_INFINITY,
                    f32::MAX,
                ][n / 7 % 5];
            }
            let mut groups = vec![
                InputGroup {
                    values: [9; 32],
                    scale: 9.0,
                    sum: 9
                };
                n.div_ceil(32)
            ];
            isa.quantize(&input, &mut groups);
            for (input, group) in input.chunks(32).zip(&groups) {
                let finite = input.iter().all(|x| x.is_finite());
                let largest = input.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                let (scale, factor) = match (finite, largest < 1e-30) {
                    (false, _) => (f32::NAN, 0.0),
                    (true, true) => (0.0, 0.0),
                    (true, false) => (largest / 32767.0, 32767.0 / largest),
                };
                let value = |c: usize| match (finite, input.get(c)) {
                    (true, Some(x)) => libm::rintf(x * factor) as i16,
                    _ => 0,
                };
                let values: [i16; 32] = core::array::from_fn(|at| value(place(at)));
                assert_eq!(group.values, values, "{isa:?}, {n} inputs");
                assert_eq!(bits(group.scale), bits(scale), "{isa:?}, {n} inputs");
                assert_eq!(
                    group.sum,
                    values.iter().map(|&x| x as i32).sum::<i32>(),
                    "{isa:?}, {n} inputs"
                );
            }
        }
    }
}

#[cfg_attr(test, test)]
pub(crate) fn every_softmax_gate_and_soft_cap_is_the_scalar_one() {
    let numbers = &mut Numbers(13);
    let all_bits = |x: &[f32]| x.iter().map(|&x| bits(x)).collect::<Vec<_>>();
    for isa in Isa::available() {
        for n in 1..100 {
            let mut scores: Vec<f32> = (0..n).map(|_| numbers.float() * 60.0).collect();
            if n % 5 == 0 {
                scores[n / 2] =
                    [f32::NAN, f32::NEG_INFINITY, f32::MAX, -0.0, f32::INFINITY][n / 5 % 5];
            }
            for cut in [0, n / 3, n / 2, n] {
                let mut expected = scores.clone();
                let mut found = scores.clone();
                let (older, newer) = expected.split_at_mut(cut);
                let normalizer = Isa::SCALAR.softmax(older, newer);
                let (older, newer) = found.split_at_mut(cut);
                assert_eq!(
                    bits(isa.softmax(older, newer)),
                    bits(normalizer),
                    "{isa:?}, {n} scores, cut at {cut}"
                );
                assert_eq!(
                    all_bits(&found),
                    all_bits(&expected),
                    "{isa:?}, {n} scores, cut at {cut}"
                );
            }
            let values = numbers.floats(n);
            for activation in [
                Activation::Silu,
                Activation::GeluExact,
                Activation::GeluApprox,
            ] {
                let mut expected = scores.clone();
                let mut found = scores.clone();
                Isa::SCALAR.gate(activation, &mut expected, &values);
                isa.gate(activation, &mut found, &values);
                assert_eq!(
                    all_bits(&found),
                    all_bits(&expected),
                    "{isa:?} {activation:?}, {n} numbers"
                );
            }
            let mut expected = scores.clone();
            let mut found = scores.clone();
            Isa::SCALAR.soft_cap(&mut expected, 30.0);
            isa.soft_cap(&mut found, 30.0);
            assert_eq!(
                all_bits(&found),
                all_bits(&expected),
                "{isa:?}, {n} numbers"
            );
        }
    }
}

#[cfg_attr(test, test)]
pub(crate) fn the_tables_have_names_and_scalar_is_always_there() {
    let names: Vec<_> = Isa::available().map(Isa::name).collect();
    assert_eq!(names.last(), Some(&"scalar"));
    assert_eq!(names[0], Isa::best().name());
    for name in names {
        assert_eq!(Isa::named(name).unwrap().name(), name);
    }
    // What this build is for is what was tested.
    let expected = [
        ("neon", cfg!(target_arch = "aarch64")),
        ("simd128", cfg!(target_feature = "simd128")),
        ("dsp", cfg!(all(target_arch = "arm", feature = "dsp"))),
        ("mve", cfg!(all(target_arch = "arm", feature = "mve"))),
    ];
    for (name, is_there) in expected {
        assert_eq!(Isa::named(name).is_some(), is_there, "{name}");
    }
    assert!(Isa::named("SCALAR").is_none() && Isa::named("").is_none());
}

#[cfg_attr(test, test)]
pub(crate) fn what_was_packed_reads_back_rounded_to_its_type() {
    let numbers = &mut Numbers(11);
    let row: Vec<f32> = (0..70)
        .map(|_| (numbers.bits() % 2001) as f32 / 1000.0 - 1.0)
        .collect();
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::Q8] {
        let mut words = vec![0u32; dtype.matrix_bytes(5, 70).unwrap() / 4];
        pack_row(dtype, bytemuck::cast_slice_mut(&mut words), 4, &row);
        let matrix = Matrix::new(dtype, 5, 70, bytemuck::cast_slice(&words)).unwrap();
        let mut back = vec![0.0; 70];
        matrix.row(4, &mut back);
        for (c, (&x, &y)) in row.iter().zip(&back).enumerate() {
            let largest = row[c / 32 * 32..]
                .iter()
                .take(32)
                .fold(0.0f32, |a, b| a.max(b.abs()));
            let bound = match dtype {
                DType::F32 => 0.0,
                DType::F16 => x.abs() * 0.5f32 / 1024.0,
                DType::Bf16 => x.abs() * 0.5f32 / 128.0,
                // Half a step, and the rounding of the step itself over 127 of them.
                _ => largest / 127.0 * 0.5 + largest * 0.5f32 / 1024.0,
            };
            assert!(
                (x - y).abs() <= bound,
                "{}: {x} came back as {y}",
                dtype.name()
            );
        }
        matrix.row(3, &mut back);
        assert_eq!(back, vec![0.0; 70], "the other rows stay zero");
    }
}

#[cfg_attr(test, test)]
pub(crate) fn a_matrix_of_the_wrong_size_is_refused() {
    let words = [0u32; 128];
    let data: &[u8] = bytemuck::cast_slice(&words);
    assert!(Matrix::new(DType::F32, 8, 4, &data[..128]).is_some());
    assert!(Matrix::new(DType::F32, 8, 4, &data[..127]).is_none());
    assert!(Matrix::new(DType::F32, 8, 4, &data[..160]).is_none());
    assert!(
        Matrix::new(DType::F32, 8, 4, &data[1..129]).is_none(),
        "unaligned"
    );
    assert!(Matrix::new(DType::F32, 0, 4, &[]).is_none());
    assert!(Matrix::new(DType::F32, 8, 0, &[]).is_none());
    assert!(Matrix::new(DType::Q8, usize::MAX, usize::MAX, data).is_none());
}

#[cfg_attr(test, test)]
pub(crate) fn numbers_that_are_not_finite_are_found_wherever_they_are() {
    for dtype in DType::ALL {
        let bytes = dtype.matrix_bytes(9, 40).unwrap();
        for place in 0..bytes / 2 {
            let mut words = vec![0u32; bytes / 4];
            let halves: &mut [u16] = bytemuck::cast_slice_mut(&mut words);
            // The high half of a float, or an f16, or the bytes of weights: infinity in each of
            // them.
            halves[place] = match dtype {
                DType::F32 | DType::Bf16 | DType::Nl4 | DType::Nl3 => 0x7f80,
                _ => 0xfc00,
            };
            let is_number = match dtype {
                DType::F32 => place % 2 == 1,
                DType::F16 | DType::Bf16 => true,
                DType::Q8 => place % 136 < 8,
                DType::Q4 => place % 72 < 8,
                DType::Q4Min => place % 80 < 16,
                DType::Q6 => place % 104 < 8,
                DType::Q5 => place % 88 < 8,
                // Each of the two tile rows begins with the scales of its rows.
                DType::Nl4 | DType::Nl3 => place % (dtype.tile_row_bytes(40).unwrap() / 2) < 8,
            };
            let matrix = Matrix::new(dtype, 9, 40, bytemuck::cast_slice(&words)).unwrap();
            assert_eq!(
                matrix.is_finite(),
                !is_number,
                "{} at {place}",
                dtype.name()
            );
        }
    }
}

#[cfg_attr(test, test)]
pub(crate) fn keys_and_values_come_back_as_stored() {
    let numbers = &mut Numbers(3);
    for kv in Kv::ALL {
        for channels in [2, 6, 8, 32, 34, 48, 53, 80, 128, 158] {
            let slots = 24;
            let mut keys = vec![0u32; kv.dtype().matrix_bytes(slots, channels).unwrap() / 4];
            let mut values = vec![0u32; (kv.value_bytes(channels).unwrap() * slots).div_ceil(4)];
            let rows: Vec<Vec<f32>> = (0..slots).map(|_| numbers.floats(channels)).collect();
            for (slot, row) in rows.iter().enumerate() {
                store_key(kv, bytemuck::cast_slice_mut(&mut keys), slot, row);
                store_value(kv, bytemuck::cast_slice_mut(&mut values), slot, row);
            }
            store_key(kv, bytemuck::cast_slice_mut(&mut keys), slots, &rows[0]);
            store_value(kv, bytemuck::cast_slice_mut(&mut values), slots, &rows[0]);
            let table =
                Matrix::new(kv.dtype(), slots, channels, bytemuck::cast_slice(&keys)).unwrap();
            // The naive weighted_sum, over the keys read back: values are rounded just as keys are.
            let count = 1 + channels % 7;
            let weights = numbers.floats(count * slots);
            let mut expected = vec![0.0f32; count * channels];
            let mut stored = vec![0.0; channels];
            for (weights, expected) in weights.chunks(slots).zip(expected.chunks_mut(channels)) {
                for slot in 5..19 {
                    table.row(slot, &mut stored);
                    for c in 0..channels {
                        expected[c] += match kv {
                            Kv::F32 => rows[slot][c] * weights[slot],
                            Kv::Bf16 => {
                                let bits = half::bf16::from_f32(rows[slot][c]).to_bits();
                                assert_eq!(stored[c], bf16_to_f32(bits));
                                stored[c] * weights[slot]
                            }
                            Kv::F16 => stored[c] * weights[slot],
                            Kv::Q8 => {
                                let group = c / 32 * 32;
                                let largest = rows[slot][group..]
                                    .iter()
                                    .take(32)
                                    .fold(0.0f32, |a, b| a.max(b.abs()));
                                let scale = half::f16::from_f32(largest / 127.0).to_f32();
                                let value = if scale > 0.0 {
                                    libm::roundf(stored[c] / scale)
                                } else {
                                    0.0
                                };
                                value * (weights[slot] * scale)
                            }
                        };
                    }
                }
            }
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            for isa in Isa::available() {
                let mut out = vec![0.0; count * channels];
                isa.weighted_sum(
                    kv,
                    bytemuck::cast_slice(&values),
                    5..19,
                    &weights,
                    &mut out,
                    count,
                );
                assert_eq!(
                    bits(&out),
                    bits(&expected),
                    "{isa:?} {kv:?}, {count} queries, {channels} channels"
                );
                // No more rows than there are weights or values.
                let before = out.clone();
                isa.weighted_sum(
                    kv,
                    bytemuck::cast_slice(&values),
                    5..19,
                    &[],
                    &mut out,
                    count,
                );
                isa.weighted_sum(
                    kv,
                    bytemuck::cast_slice(&values),
                    5..19,
                    &weights,
                    &mut out,
                    0,
                );
                isa.weighted_sum(
                    kv,
                    bytemuck::cast_slice(&values),
                    19..19,
                    &weights,
                    &mut out,
                    count,
                );
                isa.weighted_sum(
                    kv,
                    bytemuck::cast_slice(&values),
                    usize::MAX - 1..usize::MAX,
                    &weights,
                    &mut out,
                    count,
                );
                isa.weighted_sum(kv, &[], 0..14, &weights, &mut out, count);
                assert_eq!(
                    bits(&out),
                    bits(&before),
                    "{isa:?} {kv:?}, {channels} channels"
                );
            }
        }
    }
}

/// The smallest stack that a host gives a thread by default is musl's, of 128 KB, and a token is to
/// be computed on much less.
#[cfg(all(test, not(target_family = "wasm")))]
#[test]
fn products_take_little_of_a_small_stack() {
    extern crate std;
    for (stack, counts) in [(32 << 10, 1..2), (72 << 10, 130..131)] {
        let product = || check_shape(72, 640, counts, &mut Numbers(14));
        std::thread::Builder::new()
            .stack_size(stack)
            .spawn(product)
            .unwrap()
            .join()
            .unwrap();
    }
}
