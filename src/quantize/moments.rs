//! Second moments of a matrix's inputs, and their factors.

use std::ops::Range;
use std::prelude::rust_2024::*;

use multiversion::multiversion;
use pocketlm_kernels::{DType, Input, Isa, Matrix, Output, Solo, TILE_ROWS, split_rows};
use rayon::prelude::*;

use super::feedback::{add, add_products, dot};

/// Inputs whose products with all inputs are computed together.
const BLOCK: usize = 64;
/// Columns that are eliminated together.
const PANEL: usize = 64;

/// `XᵀX` of rows of `width` inputs. Only `[i][j]` with `j >= i` is meant.
#[derive(Clone)]
pub(super) struct Moments {
    pub width: usize,
    pub values: Vec<f32>,
}

impl Moments {
    pub fn new(width: usize) -> Self {
        Moments {
            width,
            values: vec![0.0; width * width],
        }
    }

    /// Adds the products of `inputs`.
    pub fn add(&mut self, inputs: &Columns, isa: &Isa) {
        add_over_tokens(&mut self.values, inputs, inputs, true, isa);
    }

    /// The sum of two.
    pub fn plus(&self, other: &Moments) -> Moments {
        let pairs = self.values.iter().zip(&other.values);
        Moments {
            width: self.width,
            values: pairs.map(|(a, b)| a + b).collect(),
        }
    }

    pub fn is_finite(&self) -> bool {
        self.values.iter().all(|x| x.is_finite())
    }

    /// `e H eᵀ` of some rows: the squared error of a row's outputs if its weights are off by `e`.
    pub fn squared_outputs(&self, errors: &[Vec<f32>]) -> Vec<f64> {
        let width = self.width;
        // `sum over i < j of e[i] H[i][j]` for each j.
        let mut sums = vec![vec![0.0f32; width]; errors.len()];
        for start in (0..width).step_by(BLOCK) {
            let end = width.min(start + BLOCK);
            add_products(&self.values[..start * width], errors, start..end, &mut sums);
            for (sums, errors) in sums.iter_mut().zip(errors) {
                for i in start..end {
                    let row = &self.values[i * width..(i + 1) * width];
                    add(&mut sums[i + 1..end], &row[i + 1..end], errors[i]);
                }
            }
        }
        let diagonal = self.values.iter().step_by(width + 1);
        let loss = |(errors, sums): (&Vec<f32>, &Vec<f32>)| {
            let terms = errors.iter().zip(sums).zip(diagonal.clone());
            terms
                .map(|((&error, &sum), h)| {
                    f64::from(error) * (f64::from(error * h) + 2.0 * f64::from(sum))
                })
                .sum()
        };
        errors.iter().zip(&sums).map(loss).collect()
    }

    /// Factors `H + damping diag(H)`. `None` if that is not positive definite.
    pub fn factor(&self, damping: f64) -> Option<Factor> {
        let n = self.width;
        let mut h: Vec<f64> = self.values.iter().map(|&x| f64::from(x)).collect();
        // Inputs that are never seen get a little weight, so that their weights are rounded too.
        let mut seen: Vec<f64> = (0..n).map(|i| h[i * n + i]).filter(|x| *x > 0.0).collect();
        seen.sort_by(f64::total_cmp);
        let floor = seen.get(seen.len() / 2).map_or(1.0, |median| median * 1e-3);
        for i in 0..n {
            let x = &mut h[i * n + i];
            *x = x.max(floor) * (1.0 + damping);
        }
        let mut damped = vec![0.0f32; n * n];
        damped.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            for (j, x) in row.iter_mut().enumerate() {
                *x = h[i.min(j) * n + i.max(j)] as f32;
            }
        });
        let mut pivots = vec![0.0f32; n];
        // From the last column to the first. What is done of `h` holds the factor; what is not
        // holds what is left to factor.
        let mut end = n;
        while end > 0 {
            let panel = end.saturating_sub(PANEL)..end;
            end = panel.start;
            factor_panel(&mut h, n, panel.clone(), &mut pivots)?;
            subtract_panel(&mut h, n, panel, &pivots);
        }
        Some(Factor {
            damped,
            pivots,
            upper: h.iter().map(|&x| x as f32).collect(),
        })
    }
}

/// Rows of some tokens, transposed: as the matrix of a product, in tiles, and as its inputs.
pub(super) struct Columns {
    tokens: usize,
    width: usize,
    tiles: Vec<f32>,
    transposed: Vec<f32>,
}

impl Columns {
    /// Of rows `[tokens][width]`.
    pub fn new(rows: &[f32], width: usize) -> Columns {
        let tokens = rows.len() / width;
        let mut tiles = vec![0.0f32; width.next_multiple_of(TILE_ROWS) * tokens];
        let mut transposed = vec![0.0f32; width * tokens];
        if tokens > 0 {
            tiles
                .par_chunks_mut(TILE_ROWS * tokens)
                .zip(transposed.par_chunks_mut(TILE_ROWS * tokens))
                .enumerate()
                .for_each(|(tile, (columns, transposed))| {
                    let first = tile * TILE_ROWS;
                    let count = TILE_ROWS.min(width - first);
                    for (column, token) in columns
                        .chunks_exact_mut(TILE_ROWS)
                        .zip(rows.chunks_exact(width))
                    {
                        column[..count].copy_from_slice(&token[first..first + count]);
                    }
                    for (lane, row) in transposed.chunks_exact_mut(tokens).enumerate() {
                        let columns = columns.chunks_exact(TILE_ROWS);
                        for (x, column) in row.iter_mut().zip(columns) {
                            *x = column[lane];
                        }
                    }
                });
        }
        Columns {
            tokens,
            width,
            tiles,
            transposed,
        }
    }
}

/// `sums += leftᵀ right`, `[left.width][right.width]`. If `is_symmetric`, sums left of the diagonal
/// may be left out. The kernels of the forward pass compute the sums, each over the tokens in
/// order, so they are the same bits on every machine.
pub(super) fn add_over_tokens(
    sums: &mut [f32],
    left: &Columns,
    right: &Columns,
    is_symmetric: bool,
    isa: &Isa,
) {
    let (tokens, width) = (right.tokens, right.width);
    if tokens == 0 {
        return;
    }
    let tiles = bytemuck::cast_slice(&right.tiles);
    let matrix = Matrix::new(DType::F32, width, tokens, tiles).expect("as large as it says");
    sums.par_chunks_mut(BLOCK * width)
        .enumerate()
        .for_each(|(block, sums)| {
            let first = block * BLOCK;
            let count = sums.len() / width;
            let mut out = vec![0.0; count * width];
            let input = Input {
                count,
                values: &left.transposed[first * tokens..(first + count) * tokens],
                groups: &[],
                tiles: &[],
            };
            let output = Output {
                values: &mut out,
                rows: width,
                range: if is_symmetric { first..width } else { 0..width },
            };
            split_rows(
                &Solo,
                [output],
                (width, usize::MAX),
                |_, inputs, rows, mut out| {
                    let input = input.some(inputs, tokens);
                    let tile_rows = rows.start / TILE_ROWS..rows.end.div_ceil(TILE_ROWS);
                    isa.matmul(&matrix, &input, tile_rows, &mut out);
                },
            );
            for (sum, product) in sums.iter_mut().zip(&out) {
                *sum += product;
            }
        });
}

/// Factors the columns of a panel, all of their rows, from the last to the first. `None` if a pivot
/// is not above 0.
fn factor_panel(h: &mut [f64], n: usize, panel: Range<usize>, pivots: &mut [f32]) -> Option<()> {
    for k in panel.clone().rev() {
        let pivot = h[k * n + k];
        if pivot.is_nan() || pivot <= 0.0 {
            return None;
        }
        pivots[k] = pivot as f32;
        let before = panel.start..k;
        let column: Vec<f64> = before.clone().map(|j| h[j * n + k]).collect();
        h[..k * n]
            .par_chunks_mut(n)
            .with_min_len(64)
            .for_each(|row| {
                let factor = row[k] / pivot;
                for (x, c) in row[before.clone()].iter_mut().zip(&column) {
                    *x -= factor * c;
                }
                row[k] = factor;
            });
    }
    Some(())
}

/// Subtracts the part of a factored panel from what is left to factor.
fn subtract_panel(h: &mut [f64], n: usize, panel: Range<usize>, pivots: &[f32]) {
    let start = panel.start;
    let width = panel.len();
    let (left, _) = h.split_at_mut(start * n);
    let factors: Vec<f64> = left
        .chunks_exact(n)
        .flat_map(|row| row[panel.clone()].iter().copied())
        .collect();
    let pivots: Vec<f64> = panel.clone().map(|k| f64::from(pivots[k])).collect();
    // [column of the panel][row]
    let mut by_column = vec![0.0; width * start];
    for (i, row) in factors.chunks_exact(width).enumerate() {
        for (k, x) in row.iter().enumerate() {
            by_column[k * start + i] = *x;
        }
    }
    left.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        let own = &factors[i * width..(i + 1) * width];
        let products: Vec<f64> = own.iter().zip(&pivots).map(|(x, p)| -x * p).collect();
        add_products(&by_column, &[products], i..start, &mut [&mut row[..start]]);
    });
}

/// `H = M D Mᵀ`, `M` upper triangular with ones on its diagonal: the loss of a row with errors `e`
/// is `sum over j of D[j] (e[j] + sum over i < j of e[i] M[i][j])²`, so column `j` is rounded best
/// if what is fed back of the columns before it is added first.
pub(super) struct Factor {
    /// `H`, all of it, with what was added to its diagonal.
    pub damped: Vec<f32>,
    /// `D`.
    pub pivots: Vec<f32>,
    /// `M`, `[i][j]` with `j > i`.
    pub upper: Vec<f32>,
}

impl Factor {
    /// Solves `x H = c` for each of some rows `c`, in place.
    pub fn solve(&self, rows: &mut [Vec<f32>]) {
        solve(&self.upper, &self.pivots, rows);
    }
}

/// Solves `x M D Mᵀ = c`: first `z Mᵀ = c`, then `y = z / D`, then `x M = y`. All rows at once,
/// because `M` may be larger than the cache.
#[multiversion(targets("x86_64+avx+avx2"))]
fn solve(m: &[f32], d: &[f32], rows: &mut [Vec<f32>]) {
    let width = d.len();
    for j in (0..width).rev() {
        let m = &m[j * width + j + 1..(j + 1) * width];
        for row in &mut *rows {
            row[j] -= dot(&row[j + 1..], m);
        }
    }
    for row in &mut *rows {
        for (x, d) in row.iter_mut().zip(d) {
            *x /= d;
        }
    }
    for j in 0..width {
        let m = &m[j * width + j + 1..(j + 1) * width];
        for row in &mut *rows {
            let factor = -row[j];
            add(&mut row[j + 1..], m, factor);
        }
    }
}
