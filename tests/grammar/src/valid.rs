//! Random texts, judged by the crate jsonschema.

use pocketlm::grammar::{Constraint, Grammar, Tree, Vocabulary};
use pocketlm::import::grammar::{Whitespace, from_json_schema};
use pocketlm::sample::{Choice, Sampler};
use pocketlm::text::Tokenizer;
use serde_json::Value;

use crate::schemas::Numbers;

/// The most tokens of a text.
const LONGEST: usize = 400;

/// Writes `texts` texts of each schema, of random logits at temperature 1.5. Each must parse and be
/// valid.
pub fn valid(tokenizer: &Tokenizer, schemas: &[(String, Value)], texts: usize) {
    let mut numbers = Numbers::new(2);
    let tree = Tree::new(tokenizer);
    let vocabulary = Vocabulary::with_tree(tokenizer, &tree);
    let (mut judged, mut whole, mut cut, mut bytes_of_text) = (0, 0, 0, 0);
    for (name, schema) in schemas {
        let Ok(bytes) = from_json_schema(schema, Whitespace::Unbounded) else {
            continue;
        };
        judged += 1;
        let grammar = Grammar::open(&bytes).unwrap();
        let options = jsonschema::options()
            .should_validate_formats(true)
            .build(schema);
        let judge = options.unwrap_or_else(|error| panic!("{name}: {error}"));
        for _ in 0..texts {
            let Some(text) = write(
                Constraint::new(&grammar, &vocabulary),
                tokenizer,
                &mut numbers,
            ) else {
                cut += 1;
                continue;
            };
            bytes_of_text += text.len();
            let text = String::from_utf8(text).unwrap();
            let value: Value = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
            if let Err(error) = judge.validate(&value) {
                panic!("{name}: {error}: {text}");
            }
            whole += 1;
        }
    }
    println!(
        "{judged} schemas: {whole} texts parse and are valid, {bytes_of_text} bytes; {cut} have no \
         end after {LONGEST} tokens"
    );
}

/// A text of random logits. `None` if it does not end.
fn write(
    mut constraint: Constraint,
    tokenizer: &Tokenizer,
    numbers: &mut Numbers,
) -> Option<Vec<u8>> {
    let mut sampler = Sampler::new(numbers.next()).temperature(1.5);
    let mut text = Vec::new();
    for step in 0..LONGEST {
        let mut logits = logits(tokenizer, numbers, step as f32);
        let mut choice = Choice::new();
        let id = loop {
            let step = sampler.step_constrained(&mut choice, &constraint, &mut logits, u32::MAX);
            if let Some(id) = step.unwrap() {
                break id;
            }
        };
        if tokenizer.is_eos(id) {
            return Some(text);
        }
        assert!(constraint.accept(id));
        text.extend(tokenizer.piece(id).unwrap());
        if constraint.is_at_end() {
            return Some(text);
        }
    }
    None
}

/// Random logits. They would end no string, so what ends one is made likelier with time.
fn logits(tokenizer: &Tokenizer, numbers: &mut Numbers, step: f32) -> Vec<f32> {
    let logit = |id| {
        let piece = tokenizer.piece(id).unwrap_or_default();
        let ends = piece.iter().any(|byte| b"\"}]".contains(byte)) || tokenizer.is_eos(id);
        let plain = piece.len() < 3 && piece.is_ascii();
        let more = if ends { step * 0.3 } else { 0.0 };
        numbers.float() * 6.0 + more + f32::from(u8::from(plain)) * 3.0
    };
    (0..tokenizer.vocab_size()).map(logit).collect()
}
