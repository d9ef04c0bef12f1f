//! [`InputTile`]: inputs in the form that a matrix unit (AMX) reads.

use core::num::NonZeroUsize;

use bytemuck::{Pod, Zeroable};

use crate::{GROUP, InputGroup, Isa, Workers, split_chunks};

/// One group (32 columns) of each of 16 inputs, in the form that a matrix unit reads. The [`Isa`]
/// that has such a unit decides what the bytes mean.
///
/// Example: [`Isa`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct InputTile {
    /// The low digits, input by input.
    pub(crate) low: [[u8; 64]; InputTile::INPUTS],
    /// The high digits.
    pub(crate) high: [[u8; 64]; InputTile::INPUTS],
    pub(crate) scales: [f32; InputTile::INPUTS],
    pub(crate) sums: [f32; InputTile::INPUTS],
}

impl InputTile {
    /// Inputs of a tile.
    pub const INPUTS: usize = 16;

    /// The fewest inputs for which tiles are made. A matrix unit takes as long for one input as for
    /// 16, and up to eight are faster without it.
    const FEWEST: usize = 9;
}

impl Isa {
    /// Whether a product with `count` inputs is faster with input tiles.
    pub fn arranges(&self, count: usize) -> bool {
        self.arrange.is_some() && count >= InputTile::FEWEST
    }

    /// Arranges the groups of `count` inputs, `[count][width]`, as tiles,
    /// `[count.div_ceil(16)][width]`, for [`Input::tiles`](crate::Input::tiles). Unused places of
    /// the last tiles repeat the last input. If `tiles` is too short, nothing is written, and
    /// products must do without.
    pub fn arrange(
        &self,
        workers: &dyn Workers,
        groups: &[InputGroup],
        count: usize,
        tiles: &mut [InputTile],
    ) {
        let width = NonZeroUsize::new(groups.len().checked_div(count).unwrap_or(0));
        let (Some(arrange), Some(width)) = (self.arrange, width) else {
            return;
        };
        let all = count.div_ceil(InputTile::INPUTS) * width.get();
        let Some(tiles) = tiles.get_mut(..all) else {
            return;
        };
        split_chunks(workers, [(tiles, 1)], 0..all, |index, [tile]| {
            let first = index / width * InputTile::INPUTS;
            let group = index % width;
            let input = |t: usize| {
                groups
                    .get((first + t).min(count - 1) * width.get() + group)
                    .unwrap_or(&EMPTY)
            };
            if let [tile] = tile {
                arrange(core::array::from_fn(input), tile);
            }
        });
    }
}

/// Takes the place of a group that is missing.
const EMPTY: InputGroup = InputGroup {
    values: [0; GROUP],
    scale: 0.0,
    sum: 0,
};
