//! The options that say how tokens are chosen.

use std::hash::{BuildHasher, RandomState};

use clap::Args;
use pocketlm::host;

use crate::number::whole;

/// How tokens are chosen, in this order: penalties, top-k, top-p, min-p, temperature.
#[derive(Args)]
#[command(next_help_heading = "Sampling (penalties, then top-k, top-p, min-p, temperature)")]
pub struct Sampling {
    /// Divide the logits by T. Lower is more predictable; 0 always takes the most probable token
    /// (greedy)
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = at_least_zero)]
    temperature: f32,

    /// Keep the K most probable tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 40, value_parser = whole(0..=usize::MAX))]
    top_k: usize,

    /// Keep the fewest tokens whose probabilities add up to P; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = fraction)]
    top_p: f32,

    /// Keep tokens at least M times as probable as the best; 0 keeps all
    #[arg(long, value_name = "M", default_value_t = 0.05, value_parser = fraction)]
    min_p: f32,

    /// Divide the positive logits of recent tokens by R and multiply the negative ones; 1 is off
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = positive)]
    repeat_penalty: f32,

    /// Subtract F from a token's logit for each time it occurs among the recent tokens; 0 is off
    #[arg(long, value_name = "F", default_value_t = 0.0, value_parser = finite)]
    frequency_penalty: f32,

    /// Subtract F from the logit of each recent token; 0 is off
    #[arg(long, value_name = "F", default_value_t = 0.0, value_parser = finite)]
    presence_penalty: f32,

    /// Apply the penalties to the last N tokens
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = whole(0..=u16::MAX))]
    repeat_last: u16,

    /// The same seed gives the same text [default: a random seed]
    #[arg(long, value_name = "S", value_parser = whole(0..=u64::MAX))]
    seed: Option<u64>,
}

impl Sampling {
    /// The seed: given, or drawn now.
    pub fn seed(&self) -> u64 {
        // Each `RandomState` has keys of its own, from the operating system's randomness.
        self.seed
            .unwrap_or_else(|| RandomState::new().hash_one(0) >> 32)
    }

    /// A note for the user on how tokens were chosen.
    pub fn note(&self, seed: u64) -> String {
        if self.temperature == 0.0 {
            "greedy".into()
        } else {
            format!("seed {seed}")
        }
    }

    /// These options for the library.
    pub fn settings(&self, seed: u64) -> host::Sampling {
        host::Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            repeat_last: self.repeat_last,
            seed: Some(seed),
        }
    }
}

fn finite(text: &str) -> Result<f32, String> {
    text.parse::<f32>()
        .ok()
        .filter(|x| x.is_finite())
        .ok_or("give a number".into())
}

fn at_least_zero(text: &str) -> Result<f32, String> {
    finite(text).and_then(|x| {
        if x >= 0.0 {
            Ok(x)
        } else {
            Err("give a number, 0 or more".into())
        }
    })
}

fn positive(text: &str) -> Result<f32, String> {
    finite(text).and_then(|x| {
        if x > 0.0 {
            Ok(x)
        } else {
            Err("give a number above 0".into())
        }
    })
}

fn fraction(text: &str) -> Result<f32, String> {
    finite(text).and_then(|x| {
        if (0.0..=1.0).contains(&x) {
            Ok(x)
        } else {
            Err("give a number from 0 to 1".into())
        }
    })
}
