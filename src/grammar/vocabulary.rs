//! [`Vocabulary`]: a tokenizer, prepared for masks.

#[cfg(feature = "std")]
use super::Tree;
use super::mask::has_loose_tokens;
use crate::text::Tokenizer;

/// The tokens that a [`Constraint`](super::Constraint) chooses among.
///
/// Example: [`Constraint`](super::Constraint).
#[derive(Clone, Copy, Debug)]
pub struct Vocabulary<'t> {
    pub(super) tokenizer: &'t Tokenizer<'t>,
    /// Whether some tokens are in none of the lists of a mask: see [`has_loose_tokens`].
    pub(super) has_loose: bool,
    #[cfg(feature = "std")]
    tree: Option<&'t Tree>,
}

impl<'t> Vocabulary<'t> {
    /// The tokens of `tokenizer`. This looks at each token once, so make a vocabulary once and keep
    /// it.
    pub fn new(tokenizer: &'t Tokenizer<'t>) -> Self {
        Vocabulary {
            tokenizer,
            has_loose: has_loose_tokens(tokenizer),
            #[cfg(feature = "std")]
            tree: None,
        }
    }

    /// The tokens of `tokenizer`, with their `tree`. Masks are the same and much faster, but a mask
    /// is computed in one call, whatever the budget.
    #[cfg(feature = "std")]
    pub fn with_tree(tokenizer: &'t Tokenizer<'t>, tree: &'t Tree) -> Self {
        Vocabulary {
            tokenizer,
            has_loose: false,
            tree: Some(tree),
        }
    }

    /// Computes a mask with the tree. `false` if there is none.
    pub(super) fn mask(&self, constraint: &super::Constraint, logits: &mut [f32]) -> bool {
        #[cfg(feature = "std")]
        if let Some(tree) = self.tree {
            tree.mask(constraint, logits);
            return true;
        }
        _ = (constraint, logits);
        false
    }
}
