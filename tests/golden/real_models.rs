//! SmolLM2-135M-Instruct (Q4_1) and Gemma 3 270M (Q4_K_M) as people have them, against transformers
//! on the dequantised files. Looked for in `POCKETLM_MODELS`, else in `~/.cache/pocketlm/models`.

use pocketlm::model::DType;

use crate::real::*;

fn each(check: impl Fn(&Real)) {
    let Some(shared) = crate::common::shared("the real models") else {
        return;
    };
    models(&shared).iter().for_each(check);
}

#[test]
fn in_f32_the_logits_and_the_likelihood_are_the_references() {
    each(|real| {
        let image = pack(real, Some(DType::F32));
        with_session(&image, |model, session| {
            let rows = logits(real, session);
            let (difference, agreement) = (largest_difference(real, &rows), agreement(real, &rows));
            println!(
                "{}: f32, largest difference {difference:.1e}, top-1 {agreement:?}",
                real.name()
            );
            assert_eq!(agreement.0, agreement.1, "{}", real.name());
            // Logits of size 25 after 30 layers, in two f32 programs that sum in different orders.
            assert!(difference < 2e-4, "{}: {difference}", real.name());
            for (ours, theirs) in nll(real, model, session, 2).iter().zip(&real.nll) {
                assert_eq!(ours.0, theirs.0, "{}: tokens of a story", real.name());
                assert!(
                    (ours.1 - theirs.1).abs() < 1e-2,
                    "{}: {ours:?} {theirs:?}",
                    real.name()
                );
            }
        });
    });
}

#[test]
fn as_packed_tokens_and_text_are_the_references() {
    each(|real| {
        let image = pack(real, None);
        with_session(&image, |model, session| {
            let tokenizer = model
                .tokenizer()
                .unwrap()
                .expect("the file holds a tokenizer");
            assert_eq!(
                encode(&tokenizer, &real.prompt),
                real.prompt_ids,
                "{}",
                real.name()
            );
            assert_eq!(
                decode(&tokenizer, &real.greedy_ids),
                real.greedy_text,
                "{}",
                real.name()
            );
            let (agreeing, positions) = agreement(real, &logits(real, session));
            println!(
                "{}: as packed, top-1 {agreeing} of {positions}",
                real.name()
            );
            assert_eq!(agreeing, positions, "{}: top-1", real.name());
        });
    });
}

#[test]
fn q8_is_within_a_thousandth_of_a_nat_of_f32() {
    each(|real| {
        let rows = |dtype| {
            with_session(&pack(real, Some(dtype)), |model, session| {
                let mut rows = logits(real, session);
                rows.extend(story_logits(real, model, session, 3));
                rows
            })
        };
        let kl = kl(&rows(DType::F32), &rows(DType::Q8));
        let mean = kl.iter().sum::<f64>() / kl.len() as f64;
        println!(
            "{}: q8, mean KL {mean:.2e} nats over {} positions",
            real.name(),
            kl.len()
        );
        assert!(mean <= 1e-3, "{}: mean KL {mean}", real.name());
    });
}
