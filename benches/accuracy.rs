//! What each weight type costs in accuracy on the two real models:
//! `cargo bench --features std --bench accuracy`. With ` -- stored` only the first table, with
//! ` -- small` only the second.
//!
//! The first table, for each type that is rounded without text: top-1 agreement with transformers
//! over the oracle's positions, KL divergence from our own f32 there (mean and largest, nats), and
//! perplexity on ten held-out stories beside the reference's.
//!
//! The second table, for the types that are rounded with calibration text: KL divergence from our
//! f32 and how often the best token is the same, on two pieces of Wikipedia and two of stories, 512
//! tokens each. None of it is in the calibration text.

#[path = "../tests/golden/real.rs"]
mod real;

use std::path::Path;
use std::time::Instant;

use pocketlm::import::{self, PackOptions};
use pocketlm::model::{DType, Model};
use pocketlm::quantize::{Calibration, Sensitivity, quantize};
use pocketlm::run::Session;
use real::*;

fn main() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let is_asked = |name: &str| std::env::args().any(|argument| argument == name);
    let is_any_asked = is_asked("stored") || is_asked("small");
    for real in models(&shared) {
        if is_asked("stored") || !is_any_asked {
            stored_types(&real);
        }
        if is_asked("small") || !is_any_asked {
            small_types(&real, &shared.join("fetched/text"));
        }
    }
}

fn stored_types(real: &Real) {
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
        let mut rows = logits(real, session);
        rows.extend(story_logits(real, model, session, 3));
        rows
    };
    let f32_rows = with_session(&pack(real, Some(DType::F32)), all_logits);
    for dtype in TYPES {
        let start = Instant::now();
        let image = pack(real, dtype);
        let seconds = start.elapsed().as_secs_f64();
        with_session(&image, |model, session| {
            let rows = all_logits(model, session);
            let (agreeing, positions) = agreement(
                real,
                &rows[..real.prompt_ids.len() + real.greedy_ids.len() - 1],
            );
            let kl = kl(&f32_rows, &rows);
            let mean = kl.iter().sum::<f64>() / kl.len() as f64;
            let largest = kl.iter().copied().fold(0.0, f64::max);
            let perplexity = perplexity(&nll(real, model, session, usize::MAX));
            println!(
                "| {} | {:.1} | {seconds:.2} | {agreeing}/{positions} | {mean:.1e} | \
                 {largest:.1e} | {perplexity:.4} |",
                type_name(dtype),
                image.len() as f64 / 1e6
            );
        });
    }
}

/// What the matrices of an image are.
enum Types {
    /// One type for the layers, one for the embedding table and the output matrix.
    Of(DType, DType),
    /// The best mixture of so many bits a weight.
    Bits(f64),
}

const SMALL_TYPES: [Types; 3] = [
    Types::Of(DType::Nl4, DType::Nl4),
    Types::Bits(4.5),
    Types::Of(DType::Nl3, DType::Nl4),
];

/// Tokens of a piece of text.
const PIECE: usize = 512;

fn small_types(real: &Real, texts: &Path) {
    let checkpoint = import::open(&real.file).unwrap();
    let calibration = Calibration::new(checkpoint.description(), None).unwrap();
    let calibration = calibration.expect("a tokenizer");
    let start = Instant::now();
    let sensitivity = Sensitivity::measure(&*checkpoint, &calibration, &mut |_, _| {}).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("\n{}: matrices compared in {seconds:.0} s", real.name());
    println!(
        "| types | bits a weight | image MB | pack s | KL Wikipedia | KL stories | top-1 |\n\
         |---|---|---|---|---|---|---|"
    );
    let f32_image = pack(real, Some(DType::F32));
    for types in SMALL_TYPES {
        let (name, options) = match types {
            Types::Of(layers, embedder) => (
                format!("{} layers, {} embedder", layers.name(), embedder.name()),
                PackOptions {
                    dtype: Some(layers),
                    embedder_dtype: Some(embedder),
                    ..PackOptions::default()
                },
            ),
            Types::Bits(bits) => {
                let bytes = sensitivity.weights() as f64 * bits / 8.0;
                let types = sensitivity.types(bytes as u64).expect("enough bits");
                let options = PackOptions {
                    types,
                    ..PackOptions::default()
                };
                (format!("`--bits {bits}`"), options)
            }
        };
        let start = Instant::now();
        let progress = &mut |_| {};
        let quantized = quantize(&*checkpoint, &options, Some(&calibration), progress).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let bits = quantized.bits_per_weight(&options).unwrap();
        let image = import::pack_to_memory(&quantized, &options, &mut |_, _| {}).unwrap();
        let wiki = far(&f32_image, &image, &texts.join("wikitext2.wiki.test.raw"));
        let stories = far(&f32_image, &image, &texts.join("tinystories_heldout.txt"));
        println!(
            "| {name} | {bits:.2} | {:.1} | {seconds:.0} | {:.4} | {:.4} | {:.1}, {:.1} % |",
            image.len() as f64 / 1e6,
            wiki.0,
            stories.0,
            100.0 * wiki.1,
            100.0 * stories.1,
        );
    }
}

/// The mean KL divergence of an image from another one, and the share of tokens after which both
/// think the same token the most probable: on two pieces of a text.
fn far(reference: &[u8], image: &[u8], text: &Path) -> (f64, f64) {
    let text = std::fs::read_to_string(text).unwrap();
    let mut divergences = Vec::new();
    let mut same = 0;
    for part in 1..=2 {
        let piece = &text[text.ceil_char_boundary(text.len() * part / 3)..];
        let rows = |image: &[u8]| {
            with_session(image, |model, session| {
                let tokenizer = model.tokenizer().unwrap();
                let piece = &piece[..piece.floor_char_boundary(16 * PIECE)];
                let ids = encode(&tokenizer, piece);
                let mut rows = Vec::new();
                session
                    .feed_each(&ids[..PIECE], |_, logits| rows.push(logits.to_vec()))
                    .unwrap();
                rows
            })
        };
        let (p, q) = (rows(reference), rows(image));
        let pairs = p.iter().zip(&q);
        same += pairs.filter(|(p, q)| argmax(p) == argmax(q)).count();
        divergences.extend(kl(&p, &q));
    }
    let mean = divergences.iter().sum::<f64>() / divergences.len() as f64;
    (mean, same as f64 / divergences.len() as f64)
}
