//! SmolLM2-135M-Instruct (Q4_1) and Gemma 3 270M (Q4_K_M) as people have them, against transformers
//! on the dequantised files. Looked for in `POCKETLM_MODELS`, else in `~/.cache/pocketlm/models`.

use std::sync::{LazyLock, Mutex, PoisonError};

use pocketlm::model::DType;

use crate::real::*;

/// How many held-out stories are computed.
const STORIES: usize = 3;

/// What a model computes: one row of logits for each position.
struct Computed {
    /// Of the prompt and its continuation.
    prompt: Vec<Vec<f32>>,
    /// Of the stories, one after the other.
    stories: Vec<Vec<f32>>,
    /// Tokens scored and nats of each story.
    nll: Vec<(usize, f64)>,
}

fn compute(real: &Real, dtype: DType) -> Computed {
    with_session(&pack(&real.file, Some(dtype)), |model, session| {
        let prompt = logits(real, session);
        let stories = story_logits(real, model, session, STORIES);
        let nll = nll_of_logits(real, model, &stories, STORIES);
        Computed {
            prompt,
            stories,
            nll,
        }
    })
}

/// The models that are there.
static MODELS: LazyLock<Vec<Real>> = LazyLock::new(|| {
    let shared = crate::common::shared("");
    shared.map_or_else(Vec::new, |shared| models(&shared))
});

/// What they compute in f32, which two tests need.
static F32: LazyLock<Vec<Computed>> = LazyLock::new(|| {
    let models = MODELS.iter();
    models.map(|real| compute(real, DType::F32)).collect()
});

/// Holds back the other tests: each uses all cores and much memory.
fn alone() -> impl Sized {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn in_f32_the_logits_and_the_likelihood_are_the_references() {
    let _alone = alone();
    for (real, computed) in MODELS.iter().zip(&*F32) {
        let name = real.name();
        let difference = largest_difference(real, &computed.prompt);
        let (agreeing, positions) = agreement(real, &computed.prompt);
        println!("{name}: f32, largest difference {difference:.1e}");
        assert_eq!(agreeing, positions, "{name}: top-1");
        // Logits of size 25 after 30 layers, in two f32 programs that sum in different orders.
        assert!(difference < 2e-4, "{name}: {difference}");
        for (ours, theirs) in computed.nll.iter().zip(&real.nll) {
            assert_eq!(ours.0, theirs.0, "{name}: tokens of a story");
            assert!(
                (ours.1 - theirs.1).abs() < 1e-2,
                "{name}: {ours:?} {theirs:?}"
            );
        }
    }
}

#[test]
fn as_packed_tokens_and_text_are_the_references() {
    let _alone = alone();
    for real in &*MODELS {
        let name = real.name();
        with_session(&pack(&real.file, None), |model, session| {
            let tokenizer = model.tokenizer().unwrap();
            let prompt_ids = encode(&tokenizer, &real.prompt);
            assert_eq!(prompt_ids, real.prompt_ids, "{name}");
            let greedy_text = decode(&tokenizer, &real.greedy_ids);
            assert_eq!(greedy_text, real.greedy_text, "{name}");
            let (agreeing, positions) = agreement(real, &logits(real, session));
            println!("{name}: as packed, top-1 {agreeing} of {positions}");
            assert_eq!(agreeing, positions, "{name}: top-1");
        });
    }
}

#[test]
fn q8_is_within_a_thousandth_of_a_nat_of_f32() {
    let _alone = alone();
    for (real, in_f32) in MODELS.iter().zip(&*F32) {
        let name = real.name();
        let in_q8 = compute(real, DType::Q8);
        let mut distances = kl(&in_f32.prompt, &in_q8.prompt);
        distances.extend(kl(&in_f32.stories, &in_q8.stories));
        let positions = distances.len();
        let mean = distances.iter().sum::<f64>() / positions as f64;
        println!("{name}: q8, mean KL {mean:.2e} nats over {positions} positions");
        assert!(mean <= 1e-3, "{name}: mean KL {mean}");
    }
}
