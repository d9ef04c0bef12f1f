//! Rounds the weights of a row one after the other, and lets those that follow make up for the
//! error of those before: LDLQ (Chee et al. 2023, "QuIP"), which is GPTQ (Frantar et al. 2022)
//! without an inverse. The scale of a group is chosen when its first column is reached, on what the
//! weights are by then.

use std::ops::{AddAssign, Mul, Range};
use std::prelude::rust_2024::*;

use multiversion::multiversion;
use pocketlm_kernels::{GROUP, TILE_ROWS};

use super::grid::{Grid, Scale, largest_of};
use super::moments::Factor;

/// Scales of a group that are tried with feedback within the group, at once: their numbers fill a
/// register.
const FINALISTS: usize = 8;
/// How many times the weights of a row are rounded once more.
const PASSES: usize = 2;
/// Numbers that are updated together: their sums fit the registers.
const CHUNK: usize = 32;

/// A row in a type of [`Grid`].
#[derive(Clone, Default)]
pub(super) struct Row {
    pub scale: f32,
    pub groups: Vec<Group>,
}

#[derive(Clone, Default)]
pub(super) struct Group {
    pub scale: Scale,
    pub levels: [f32; GROUP],
}

/// Rounds up to eight rows. Without a factor each weight goes to the nearest level. On return
/// `weights` holds the errors.
///
/// It is compiled for AVX2 too. Rust neither reorders nor fuses operations on floats, so the bits
/// are the same.
#[multiversion(targets("x86_64+avx+avx2"))]
pub(super) fn round_rows(
    grid: &Grid,
    weights: &mut [Vec<f32>],
    factor: Option<&Factor>,
) -> Vec<Row> {
    let Some(width) = weights.first().map(Vec::len) else {
        return Vec::new();
    };
    let ones = vec![1.0; width];
    let importance = factor.map_or(&ones, |factor| &factor.pivots);
    let mut rows: Vec<Row> = weights
        .iter()
        .map(|weights| Row {
            scale: grid.row_scale(weights, importance),
            groups: Vec::new(),
        })
        .collect();
    // What is fed back of the columns so far.
    let mut fed = vec![vec![0.0f32; width]; weights.len()];
    let mut scales = Vec::new();
    let mut errors = [[0.0f32; GROUP]; TILE_ROWS];
    for start in (0..width).step_by(GROUP) {
        let end = width.min(start + GROUP);
        let within = factor.map(|factor| {
            let mut within = [[0.0f32; GROUP]; GROUP];
            for (k, within) in within[..end - start].iter_mut().enumerate() {
                let row = &factor.upper[(start + k) * width..][start..end];
                within[k + 1..end - start].copy_from_slice(&row[k + 1..]);
            }
            within
        });
        for (((weights, row), fed), errors) in
            weights.iter_mut().zip(&mut rows).zip(&fed).zip(&mut errors)
        {
            let importance = &importance[start..end];
            let weights = &mut weights[start..end];
            let fed = &fed[start..end];
            let target: Vec<f32> = weights.iter().zip(fed).map(|(w, f)| w + f).collect();
            grid.scales(largest_of(&target), row.scale, &mut scales);
            let mut finalists = [(f32::INFINITY, Scale::default()); FINALISTS];
            for &scale in &scales {
                let error = grid.error(scale.value, &target, importance);
                if let Some(place) = finalists.iter().position(|finalist| error < finalist.0) {
                    finalists[place..].rotate_right(1);
                    finalists[place] = (error, scale);
                }
            }
            let tried = if factor.is_some() { FINALISTS } else { 1 };
            let finalists = finalists.map(|(_, scale)| scale);
            let finalists = &finalists[..tried.min(scales.len())];
            let group = round_group(
                grid,
                finalists,
                weights,
                &target,
                importance,
                within.as_ref(),
            );
            for ((weight, error), level) in weights.iter_mut().zip(errors).zip(group.levels) {
                *error = *weight - level * group.scale.value;
                *weight = *error;
            }
            row.groups.push(group);
        }
        if let Some(factor) = factor {
            let panel = &factor.upper[start * width..end * width];
            add_products(panel, &errors, end..width, &mut fed);
        }
    }
    if let Some(factor) = factor {
        // Half of the slopes of the losses.
        let mut slopes = vec![vec![0.0f32; width]; weights.len()];
        add_products(&factor.damped, weights, 0..width, &mut slopes);
        for ((errors, row), slope) in weights.iter_mut().zip(&mut rows).zip(&mut slopes) {
            refine(grid, row, errors, slope, &factor.damped);
        }
    }
    rows
}

/// Rounds each weight of a row once more, now that the errors of those after it are known too: it
/// goes where the loss is least while the others stay. Each move makes the loss smaller. `slope` is
/// half of the slope of the loss.
#[inline(always)]
fn refine(grid: &Grid, row: &mut Row, errors: &mut [f32], slope: &mut [f32], h: &[f32]) {
    let width = errors.len();
    for _ in 0..PASSES {
        for (g, group) in row.groups.iter_mut().enumerate() {
            let step = group.scale.value;
            if step == 0.0 {
                continue;
            }
            let start = g * GROUP;
            for (k, level) in group.levels.iter_mut().enumerate().take(width - start) {
                let j = start + k;
                let h = &h[j * width..(j + 1) * width];
                let best = grid.round(*level + slope[j] / (h[j] * step));
                let moved = (best - *level) * step;
                if moved != 0.0 && moved * (moved * h[j] - 2.0 * slope[j]) < 0.0 {
                    *level = best;
                    errors[j] -= moved;
                    add(slope, h, -moved);
                }
            }
            // The scale of the group, for the levels as they are now.
            let end = width.min(start + GROUP);
            let levels = &group.levels[..end - start];
            let mut curve = 0.0;
            let mut along = 0.0;
            for (k, level) in levels.iter().enumerate() {
                let h = &h[(start + k) * width + start..][..end - start];
                let product: f32 = h.iter().zip(levels).map(|(h, level)| h * level).sum();
                curve += level * product;
                along += level * slope[start + k];
            }
            let scale = grid.scale_near(step + along / curve, row.scale);
            let moved = scale.value - step;
            if moved != 0.0 && moved * (moved * curve - 2.0 * along) < 0.0 {
                for (k, level) in levels.iter().enumerate() {
                    let j = start + k;
                    errors[j] -= level * moved;
                    add(slope, &h[j * width..(j + 1) * width], -level * moved);
                }
                group.scale = scale;
            }
        }
    }
}

/// Rounds a group with the scale that loses least, and with feedback `within` it, if there is any.
/// There are at most [`FINALISTS`] scales.
#[inline(always)]
fn round_group(
    grid: &Grid,
    scales: &[Scale],
    weights: &[f32],
    target: &[f32],
    importance: &[f32],
    within: Option<&[[f32; GROUP]; GROUP]>,
) -> Group {
    let mut steps = [0.0f32; FINALISTS];
    let mut inverses = [0.0; FINALISTS];
    for ((step, inverse), scale) in steps.iter_mut().zip(&mut inverses).zip(scales) {
        *step = scale.value;
        *inverse = if *step != 0.0 { 1.0 / *step } else { 0.0 };
    }
    // Of each column, a number for each scale.
    let mut targets = [[0.0; FINALISTS]; GROUP];
    for (targets, target) in targets.iter_mut().zip(target) {
        *targets = [*target; FINALISTS];
    }
    let mut levels = [[0.0; FINALISTS]; GROUP];
    let mut losses = [0.0; FINALISTS];
    for k in 0..target.len() {
        let mut errors = [0.0; FINALISTS];
        for f in 0..FINALISTS {
            let level = grid.round(targets[k][f] * inverses[f]);
            let off = targets[k][f] - level * steps[f];
            losses[f] += off * off * importance[k];
            levels[k][f] = level;
            errors[f] = weights[k] - level * steps[f];
        }
        if let Some(within) = within {
            for (targets, m) in targets.iter_mut().zip(&within[k]).skip(k + 1) {
                add(targets, &errors, *m);
            }
        }
    }
    // The sign of a NaN differs between machines: no total order.
    let mut best = 0;
    for f in 1..scales.len() {
        if losses[f] < losses[best] {
            best = f;
        }
    }
    Group {
        scale: scales[best],
        levels: levels.map(|levels| levels[best]),
    }
}

/// `sums += factors panel` for each of some rows. Only `columns` are added; `panel` is as wide as
/// `sums` and has a row for each factor. A few columns at a time, because `panel` may be larger
/// than the cache.
#[multiversion(targets("x86_64+avx+avx2"))]
pub(super) fn add_products<T, F, S>(
    panel: &[T],
    factors: &[F],
    columns: Range<usize>,
    sums: &mut [S],
) where
    T: Copy + AddAssign + Mul<Output = T>,
    F: AsRef<[T]>,
    S: AsMut<[T]>,
{
    let mut first = columns.start;
    while first < columns.end {
        let last = columns.end.min(first + CHUNK);
        for (sums, factors) in sums.iter_mut().zip(factors) {
            let sums = sums.as_mut();
            let panel = panel.chunks_exact(sums.len()).zip(factors.as_ref());
            let sums = &mut sums[first..last];
            if let Ok(sums) = <&mut [T; CHUNK]>::try_from(&mut *sums) {
                let mut chunk = *sums;
                for (row, factor) in panel {
                    add(&mut chunk, &row[first..last], *factor);
                }
                *sums = chunk;
            } else {
                for (row, factor) in panel {
                    add(sums, &row[first..last], *factor);
                }
            }
        }
        first = last;
    }
}

/// `x += factor y`.
#[inline(always)]
pub(super) fn add<T: Copy + AddAssign + Mul<Output = T>>(x: &mut [T], y: &[T], factor: T) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += factor * *y;
    }
}

/// The dot product, in [`CHUNK`] sums that are added up in order.
#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0f32; CHUNK];
    for (x, y) in x.chunks(CHUNK).zip(y.chunks(CHUNK)) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum += x * y;
        }
    }
    sums.iter().sum()
}
