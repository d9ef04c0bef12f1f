//! A tokenizer as llguidance sees it.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use pocketlm::text::Tokenizer;

struct Env(TokTrie);

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }

    /// Otherwise llguidance allows one way only to write what is forced.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

pub fn env(tokenizer: &Tokenizer) -> TokEnv {
    let word = |id| {
        let piece = tokenizer.piece(id).unwrap_or_default();
        match is_text(tokenizer, id) {
            true => piece.to_vec(),
            false => [&[TokTrie::SPECIAL_TOKEN_MARKER], piece].concat(),
        }
    };
    let words: Vec<Vec<u8>> = (0..tokenizer.vocab_size()).map(word).collect();
    let eos = tokenizer.eos_ids().next();
    let eos = eos.expect("a token that ends a text: give the tokenizer's folder");
    let info = TokRxInfo::new(tokenizer.vocab_size(), eos);
    Arc::new(Env(TokTrie::from(&info, &words)))
}

/// Whether a token is text, and no special token.
pub fn is_text(tokenizer: &Tokenizer, id: u32) -> bool {
    !tokenizer.is_eos(id) && !tokenizer.is_special(id)
}
