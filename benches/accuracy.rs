//! What each weight type costs in accuracy on the two real models:
//! `cargo bench --features std --bench accuracy`.
//!
//! For each type: top-1 agreement with transformers over the oracle's positions, KL divergence from
//! our own f32 there (mean and largest, nats), and perplexity on ten held-out stories beside the
//! reference's.

#[path = "../tests/golden/real.rs"]
mod real;

use pocketlm::model::{DType, Model};
use pocketlm::run::Session;
use real::*;
use std::time::Instant;

fn main() {
    let shared = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    for real in models(&shared) {
        println!(
            "\n{} (reference perplexity {:.4})",
            real.name(),
            perplexity(&real.nll)
        );
        println!(
            "| type | image MB | pack s | top-1 | KL mean | KL max | perplexity \
             |\n|---|---|---|---|---|---|---|"
        );
        let all_logits = |model: &Model<'_>, session: &mut Session<'_, '_>| {
            let mut rows = logits(&real, session);
            rows.extend(story_logits(&real, model, session, 3));
            rows
        };
        let f32_rows = with_session(&pack(&real, Some(DType::F32)), all_logits);
        for dtype in TYPES {
            let start = Instant::now();
            let image = pack(&real, dtype);
            let seconds = start.elapsed().as_secs_f64();
            with_session(&image, |model, session| {
                let rows = all_logits(model, session);
                let (agreeing, positions) = agreement(
                    &real,
                    &rows[..real.prompt_ids.len() + real.greedy_ids.len() - 1],
                );
                let kl = kl(&f32_rows, &rows);
                let mean = kl.iter().sum::<f64>() / kl.len() as f64;
                let largest = kl.iter().copied().fold(0.0, f64::max);
                let perplexity = perplexity(&nll(&real, model, session, usize::MAX));
                println!(
                    "| {} | {:.1} | {seconds:.2} | {agreeing}/{positions} | {mean:.1e} | \
                     {largest:.1e} | {perplexity:.4} |",
                    type_name(dtype),
                    image.len() as f64 / 1e6
                );
            });
        }
    }
}
