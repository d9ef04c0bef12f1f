//! Inputs as matrix units take them.

use core::num::NonZeroUsize;

use bytemuck::{Pod, Zeroable};

use crate::{GROUP, InputGroup, Isa, Workers, split_chunks};

/// A group of 16 inputs as a matrix unit takes them: which way is the business of the [`Isa`] that
/// has one.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Block {
    /// Of each input the low digits.
    pub(crate) low: [[u8; 64]; Block::INPUTS],
    /// And the high ones.
    pub(crate) high: [[u8; 64]; Block::INPUTS],
    pub(crate) scales: [f32; Block::INPUTS],
    pub(crate) sums: [f32; Block::INPUTS],
}

impl Block {
    /// Inputs of a block.
    pub const INPUTS: usize = 16;

    /// The fewest inputs for which blocks are made: a unit takes as long for one as for 16, and up
    /// to eight meet weights sooner as those are widened.
    const FEWEST: usize = 9;
}

impl Isa {
    /// Whether products with `count` inputs gain by having them in blocks.
    pub fn arranges(&self, count: usize) -> bool {
        self.arrange.is_some() && count >= Block::FEWEST
    }

    /// Puts the groups of `count` inputs, `[count][width]`, into blocks,
    /// `[count.div_ceil(16)][width]`, for products to find in
    /// [`Input::blocks`](crate::Input::blocks). Does nothing where `blocks` is too short for that;
    /// they do without then. The last block's unused places repeat the last input.
    pub fn arrange(
        &self,
        workers: &dyn Workers,
        groups: &[InputGroup],
        count: usize,
        blocks: &mut [Block],
    ) {
        let width = NonZeroUsize::new(groups.len().checked_div(count).unwrap_or(0));
        let (Some(arrange), Some(width)) = (self.arrange, width) else {
            return;
        };
        let all = count.div_ceil(Block::INPUTS) * width.get();
        let Some(blocks) = blocks.get_mut(..all) else {
            return;
        };
        split_chunks(workers, [(blocks, 1)], 0..all, |index, [block]| {
            let first = index / width * Block::INPUTS;
            let group = index % width;
            let input = |t: usize| {
                groups
                    .get((first + t).min(count - 1) * width.get() + group)
                    .unwrap_or(&EMPTY)
            };
            if let [block] = block {
                arrange(core::array::from_fn(input), block);
            }
        });
    }
}

/// In the place of what is not there.
const EMPTY: InputGroup = InputGroup {
    values: [0; GROUP],
    scale: 0.0,
    sum: 0,
};
