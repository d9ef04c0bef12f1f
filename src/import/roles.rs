//! Which tensors a config calls for, and their sizes.

use std::prelude::rust_2024::*;

use crate::model::{Config, Role};

pub(super) use crate::model::tensor_ids as tensors;

/// The sizes a config gives its tensors, as `usize`, with products that cannot overflow:
/// [`Sizes::new`] saw to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    config: Config,
    /// `V`.
    pub(super) vocab: usize,
    /// `D`.
    pub(super) embedding: usize,
    /// `F`.
    pub(super) hidden: usize,
    /// `P`.
    pub(super) head: usize,
    /// `K`.
    pub(super) kv_heads: usize,
    /// `M`.
    pub(super) multiplier: usize,
}

impl Sizes {
    /// `None` if heads times their width is no `u32`.
    pub(super) fn new(config: &Config) -> Option<Self> {
        let heads = config
            .num_kv_heads
            .checked_mul(config.query_head_multiplier)?;
        heads.checked_mul(config.projection_dim)?;
        Some(Sizes {
            config: *config,
            vocab: config.vocab_size as usize,
            embedding: config.embedding_dim as usize,
            hidden: config.mlp_hidden_dim as usize,
            head: config.projection_dim as usize,
            kv_heads: config.num_kv_heads as usize,
            multiplier: config.query_head_multiplier as usize,
        })
    }

    /// Rows of the query matrix, `K * M * P`.
    pub(super) fn query(&self) -> usize {
        self.kv_heads * self.multiplier * self.head
    }

    /// Rows of the key matrix and of the value matrix, `K * P`.
    pub(super) fn key(&self) -> usize {
        self.kv_heads * self.head
    }

    /// `(rows, columns)` of a matrix, `(1, elements)` of a vector.
    pub(super) fn of(&self, role: Role) -> (usize, usize) {
        role.shape(&self.config).unwrap_or_default()
    }
}
