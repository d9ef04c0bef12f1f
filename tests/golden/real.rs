//! The two real models, what transformers says of them, and how an image of ours compares. Used by
//! `real_models.rs`, which asserts, and `benches/accuracy.rs`, which prints the whole table.
#![allow(dead_code)] // each uses its part

use std::path::{Path, PathBuf};

use pocketlm::host::{AlignedBytes, Threads};
use pocketlm::import::{self, PackOptions};
use pocketlm::model::{DType, Model};
use pocketlm::run::{Plan, Session};
use pocketlm::text::{Decoder, EncodeOptions, Tokenizer};
use serde_json::Value;

/// The types that are compared; `None` keeps what the checkpoint stores.
pub const TYPES: [Option<DType>; 5] = [
    None,
    Some(DType::F32),
    Some(DType::F16),
    Some(DType::Q8),
    Some(DType::Q4Min),
];

pub fn type_name(dtype: Option<DType>) -> &'static str {
    match dtype {
        None => "as stored",
        Some(dtype) => dtype.name(),
    }
}

/// A model file with its oracle.
pub struct Real {
    pub file: PathBuf,
    pub prompt: String,
    pub prompt_ids: Vec<u32>,
    pub prompt_argmax: Vec<u32>,
    pub greedy_ids: Vec<u32>,
    pub greedy_text: String,
    /// For each greedy step the five best ids and their logits.
    pub steps: Vec<(Vec<u32>, Vec<f64>)>,
    /// Tokens scored and nats of each held-out story.
    pub nll: Vec<(usize, f64)>,
    pub stories: Vec<String>,
}

impl Real {
    pub fn name(&self) -> String {
        self.file
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    }
}

/// The models in `POCKETLM_MODELS` (default `~/.cache/pocketlm/models`) that `shared` has an oracle
/// for.
pub fn models(shared: &Path) -> Vec<Real> {
    let home = || {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/pocketlm/models")
    };
    let folder = std::env::var_os("POCKETLM_MODELS").map_or_else(home, PathBuf::from);
    let text =
        std::fs::read_to_string(shared.join("fetched/text/tinystories_heldout.txt")).unwrap();
    let stories: Vec<String> = text
        .split("<|endoftext|>")
        .map(|story| story.trim().to_owned())
        .collect();
    let mut models = Vec::new();
    for name in [
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "gemma-3-270m-q4_k_m.gguf",
    ] {
        let file = folder.join(name);
        if !file.is_file() {
            assert!(
                std::env::var_os("CI").is_none(),
                "{} is missing",
                file.display()
            );
            eprintln!("NOT CHECKED: {} is missing", file.display());
            continue;
        }
        let oracle =
            std::fs::read_to_string(shared.join(format!("goldens/real/{name}.json"))).unwrap();
        let oracle: Value = serde_json::from_str(&oracle).unwrap();
        let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
        let text = |key: &str| oracle[key].as_str().unwrap().to_owned();
        let numbers =
            |value: &Value| -> Vec<f64> { serde_json::from_value(value.clone()).unwrap() };
        let nll: Vec<(usize, f64)> = serde_json::from_value(oracle["nll"].clone()).unwrap();
        models.push(Real {
            file,
            prompt: text("prompt"),
            prompt_ids: ids(&oracle["prompt_ids"]),
            prompt_argmax: ids(&oracle["prompt_argmax"]),
            greedy_ids: ids(&oracle["greedy_ids"]),
            greedy_text: text("greedy_text"),
            steps: oracle["steps"]
                .as_array()
                .unwrap()
                .iter()
                .map(|step| (ids(&step["top_ids"]), numbers(&step["top_logits"])))
                .collect(),
            stories: stories[..nll.len()].to_vec(),
            nll,
        });
    }
    models
}

/// The image of a model with its matrices in `dtype`.
pub fn pack(checkpoint: &Path, dtype: Option<DType>) -> AlignedBytes {
    let options = PackOptions {
        dtype,
        ..PackOptions::default()
    };
    import::pack_to_memory(
        &*import::open(checkpoint).unwrap(),
        &options,
        &mut |_, _| {},
    )
    .unwrap()
}

/// Runs `use_session` with a session of 512 tokens on all cores.
pub fn with_session<R>(
    image: &[u8],
    use_session: impl FnOnce(&Model<'_>, &mut Session<'_, '_>) -> R,
) -> R {
    let model = Model::open(image).unwrap();
    let plan = Plan::new(model.header()).context(512).batch(16);
    let mut arena = AlignedBytes::zeroed(plan.bytes());
    let threads = Threads::new(0).unwrap();
    let mut session = Session::new(&model, &plan, &mut arena, &threads).unwrap();
    use_session(&model, &mut session)
}

pub fn encode(tokenizer: &Tokenizer<'_>, text: &str) -> Vec<u32> {
    let mut scratch = vec![0; tokenizer.scratch_len(text.len())];
    let mut ids = vec![0; text.len() + 8];
    let options = EncodeOptions {
        add_special_tokens: true,
        parse_special: false,
    };
    let count = tokenizer
        .encode(text, options, &mut scratch, &mut ids)
        .unwrap();
    ids.truncate(count);
    ids
}

pub fn decode(tokenizer: &Tokenizer<'_>, ids: &[u32]) -> String {
    let mut decoder = Decoder::new(tokenizer);
    let mut text = String::new();
    for &id in ids {
        decoder
            .push(id)
            .unwrap()
            .chunks(|chunk| text.push_str(chunk));
    }
    decoder.finish().chunks(|chunk| text.push_str(chunk));
    text
}

/// The logits after each token of the prompt and of the oracle's greedy continuation but its last:
/// one row a position.
pub fn logits(real: &Real, session: &mut Session<'_, '_>) -> Vec<Vec<f32>> {
    let mut ids = real.prompt_ids.clone();
    ids.extend(&real.greedy_ids[..real.greedy_ids.len() - 1]);
    let mut rows = Vec::new();
    session.reset();
    session
        .feed_each(&ids, |_, logits| rows.push(logits.to_vec()))
        .unwrap();
    rows
}

/// The logits after each token of the first `count` held-out stories.
pub fn story_logits(
    real: &Real,
    model: &Model<'_>,
    session: &mut Session<'_, '_>,
    count: usize,
) -> Vec<Vec<f32>> {
    let tokenizer = model.tokenizer().unwrap();
    let mut rows = Vec::new();
    for story in &real.stories[..count] {
        session.reset();
        session
            .feed_each(&encode(&tokenizer, story), |_, logits| {
                rows.push(logits.to_vec())
            })
            .unwrap();
    }
    rows
}

pub fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(
        0,
        |best, id| if logits[id] > logits[best] { id } else { best },
    ) as u32
}

/// At how many of the oracle's positions, prompt and continuation, the best token is the oracle's.
pub fn agreement(real: &Real, rows: &[Vec<f32>]) -> (usize, usize) {
    let mut expected = real.prompt_argmax.clone();
    expected.truncate(real.prompt_ids.len() - 1);
    expected.extend(&real.greedy_ids);
    assert_eq!(expected.len(), rows.len());
    (
        rows.iter()
            .zip(&expected)
            .filter(|(row, id)| argmax(row) == **id)
            .count(),
        rows.len(),
    )
}

/// The largest distance of a logit from the oracle's, over the five best of each greedy step.
pub fn largest_difference(real: &Real, rows: &[Vec<f32>]) -> f64 {
    let rows = &rows[real.prompt_ids.len() - 1..];
    let differences = rows
        .iter()
        .zip(&real.steps)
        .flat_map(|(row, (ids, logits))| {
            ids.iter()
                .zip(logits)
                .map(|(&id, logit)| (row[id as usize] as f64 - logit).abs())
        });
    differences.fold(0.0, f64::max)
}

/// KL(reference ‖ other) in nats at each position.
pub fn kl(reference: &[Vec<f32>], other: &[Vec<f32>]) -> Vec<f64> {
    reference
        .iter()
        .zip(other)
        .map(|(p, q)| {
            let p = log_softmax(p);
            let q = log_softmax(q);
            p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
        })
        .collect()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let sum: f64 = logits.iter().map(|&z| (z as f64 - largest).exp()).sum();
    logits
        .iter()
        .map(|&z| z as f64 - largest - sum.ln())
        .collect()
}

/// Tokens scored and nats of each of the first `count` held-out stories.
pub fn nll(
    real: &Real,
    model: &Model<'_>,
    session: &mut Session<'_, '_>,
    count: usize,
) -> Vec<(usize, f64)> {
    let tokenizer = model.tokenizer().unwrap();
    let of = |story: &String| {
        let ids = encode(&tokenizer, story);
        let mut nats = 0.0;
        session.reset();
        session
            .feed_each(&ids[..ids.len() - 1], |i, logits| {
                nats -= log_softmax(logits)[ids[i + 1] as usize]
            })
            .unwrap();
        (ids.len() - 1, nats)
    };
    real.stories.iter().take(count).map(of).collect()
}

/// The same, of what [`story_logits`] gives.
pub fn nll_of_logits(
    real: &Real,
    model: &Model<'_>,
    mut rows: &[Vec<f32>],
    count: usize,
) -> Vec<(usize, f64)> {
    let tokenizer = model.tokenizer().unwrap();
    let of = |story: &String| {
        let ids = encode(&tokenizer, story);
        let (story, rest) = rows.split_at(ids.len());
        rows = rest;
        let next = story.iter().zip(&ids[1..]);
        let nats = next
            .map(|(logits, &id)| -log_softmax(logits)[id as usize])
            .sum();
        (ids.len() - 1, nats)
    };
    real.stories.iter().take(count).map(of).collect()
}

pub fn perplexity(nll: &[(usize, f64)]) -> f64 {
    let (tokens, nats) = nll
        .iter()
        .fold((0, 0.0), |(t, n), (tokens, nats)| (t + tokens, n + nats));
    (nats / tokens as f64).exp()
}
