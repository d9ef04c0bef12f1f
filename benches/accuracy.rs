//! What each weight type costs in accuracy: `cargo bench --features std --bench accuracy`. With
//! ` -- stored` only the first table, with ` -- small` only the second, with ` -- story` only the
//! third.
//!
//! The first table, for each type that is rounded without text: top-1 agreement with transformers
//! over the oracle's positions, KL divergence from our own f32 there (mean and largest, nats), and
//! perplexity on ten held-out stories beside the reference's.
//!
//! The second table, for the types that are rounded with calibration text: KL divergence from our
//! f32 and how often the best token is the same, on two pieces of Wikipedia and two of stories, 512
//! tokens each. None of it is in the calibration text. `quantised_by_llama_cpp.py` prints the same
//! of llama.cpp's types.
//!
//! The third table is the same for the story model, on 16 pieces of stories of 256 tokens.

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
    let is_any_asked = ["stored", "small", "story"].into_iter().any(is_asked);
    let is_wanted = |name: &str| is_asked(name) || !is_any_asked;
    let folder = shared.join("fetched/text");
    let text = |name: &'static str, file: &str, pieces, tokens| Text {
        name,
        text: std::fs::read_to_string(folder.join(file)).unwrap(),
        pieces,
        tokens,
    };
    let stories = |pieces, tokens| text("stories", "tinystories_heldout.txt", pieces, tokens);
    for real in models(&shared) {
        if is_wanted("stored") {
            stored_types(&real);
        }
        if is_wanted("small") {
            let wikipedia = text("Wikipedia", "wikitext2.wiki.test.raw", 2, 512);
            small_types(&real.file, &[wikipedia, stories(2, 512)], &OF_REAL_MODELS);
        }
    }
    if is_wanted("story") {
        small_types(
            &shared.join("models/story"),
            &[stories(16, 256)],
            &OF_STORY_MODEL,
        );
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
    let f32_rows = with_session(&pack(&real.file, Some(DType::F32)), all_logits);
    for dtype in TYPES {
        let start = Instant::now();
        let image = pack(&real.file, dtype);
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

const OF_REAL_MODELS: [Types; 3] = [
    Types::Of(DType::Nl4, DType::Nl4),
    Types::Bits(4.5),
    Types::Of(DType::Nl3, DType::Nl4),
];

const OF_STORY_MODEL: [Types; 7] = [
    Types::Of(DType::Q5, DType::Q5),
    Types::Bits(5.3),
    Types::Of(DType::Q4, DType::Q4),
    Types::Bits(4.5),
    Types::Of(DType::Nl4, DType::Nl4),
    Types::Bits(3.5),
    Types::Of(DType::Nl3, DType::Nl4),
];

/// A text on which models are compared.
struct Text {
    name: &'static str,
    text: String,
    pieces: usize,
    /// Tokens of a piece.
    tokens: usize,
}

fn small_types(file: &Path, texts: &[Text], types: &[Types]) {
    let checkpoint = import::open(file).unwrap();
    let calibration = Calibration::new(checkpoint.description(), None).unwrap();
    let calibration = calibration.expect("a tokenizer");
    let start = Instant::now();
    let sensitivity = Sensitivity::measure(&*checkpoint, &calibration, &mut |_, _| {}).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "\n{}: matrices compared in {seconds:.0} s",
        file.file_stem().unwrap().display()
    );
    let names: Vec<String> = texts
        .iter()
        .map(|text| format!(" KL {} |", text.name))
        .collect();
    println!(
        "| types | bits a weight | image MB | pack s |{} top-1 |\n|---|---|---|---|{}---|",
        names.concat(),
        "---|".repeat(texts.len()),
    );
    let f32_image = pack(file, Some(DType::F32));
    for types in types {
        let (name, options) = options(types, &sensitivity);
        let start = Instant::now();
        let progress = &mut |_| {};
        let quantized = quantize(&*checkpoint, &options, Some(&calibration), progress).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let bits = quantized.bits_per_weight(&options).unwrap();
        let image = import::pack_to_memory(&quantized, &options, &mut |_, _| {}).unwrap();
        let found: Vec<(f64, f64)> = texts
            .iter()
            .map(|text| far(&f32_image, &image, text))
            .collect();
        let kl: Vec<String> = found.iter().map(|(kl, _)| format!(" {kl:.4} |")).collect();
        let top1: Vec<String> = found
            .iter()
            .map(|(_, top1)| format!("{:.1}", 100.0 * top1))
            .collect();
        println!(
            "| {name} | {bits:.2} | {:.2} | {seconds:.0} |{} {} % |",
            image.len() as f64 / 1e6,
            kl.concat(),
            top1.join(", "),
        );
    }
}

/// What to call some types, and the options of `pack` for them.
fn options(types: &Types, sensitivity: &Sensitivity) -> (String, PackOptions) {
    match types {
        Types::Of(layers, embedder) => {
            let options = PackOptions {
                dtype: Some(*layers),
                embedder_dtype: Some(*embedder),
                ..PackOptions::default()
            };
            let name = format!("{} layers, {} embedder", layers.name(), embedder.name());
            (name, options)
        }
        Types::Bits(bits) => {
            let bytes = sensitivity.weights() as f64 * bits / 8.0;
            let options = PackOptions {
                types: sensitivity.types(bytes as u64).expect("enough bits"),
                ..PackOptions::default()
            };
            (format!("`--bits {bits}`"), options)
        }
    }
}

/// The mean KL divergence of an image from another one, and the share of tokens after which both
/// think the same token the most probable: on pieces from all over a text.
fn far(reference: &[u8], image: &[u8], text: &Text) -> (f64, f64) {
    let mut divergences = Vec::new();
    let mut same = 0;
    let all = &text.text;
    for part in 1..=text.pieces {
        let piece = &all[all.ceil_char_boundary(all.len() * part / (text.pieces + 1))..];
        let piece = &piece[..piece.floor_char_boundary(16 * text.tokens)];
        let rows = |image: &[u8]| {
            with_session(image, |model, session| {
                let ids = encode(&model.tokenizer().unwrap(), piece);
                let mut rows = Vec::new();
                session
                    .feed_each(&ids[..text.tokens], |_, logits| rows.push(logits.to_vec()))
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
