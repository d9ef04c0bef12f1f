//! Text in and out: tokenizer and sampler.
