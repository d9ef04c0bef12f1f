//! Grammars against other programs.
//!
//! ```text
//! cargo run --release -- walks TOKENIZER SCHEMAS WALKS     allowed tokens against llguidance's
//! cargo run --release -- valid TOKENIZER SCHEMAS TEXTS     random texts, judged by jsonschema
//! ```
//!
//! `walks` compares the sets of allowed tokens, and whether the text may end, at each step of random
//! walks, and prints how long the masks took. `valid` writes texts of random logits at temperature
//! 1.5 and parses and validates each. SCHEMAS random schemas are added to those of
//! `tests/data/grammar`; TOKENIZER is a file or folder.
//!
//! Where the sets may differ, we allow less than llguidance or more exactly:
//!
//! * Names of members that `properties` does not name have no `\u` escapes of printable characters
//!   here: such a name could be a named one in disguise.
//! * Times have no second 60.
//! * Mail addresses and URIs have names of hosts, not addresses in brackets. Names of hosts are
//!   shorter, without two hyphens in a row.
//! * February has 29 days in leap years only.
//! * Integers have no `-0`.
//! * A number that equals a bound may end in zeros after the point.
//! * Numbers have no more than 16 digits before and after the point, and 2 of the exponent.
//! * A range of numbers from 0, 0 excluded, has numbers that end in a zero.

mod schemas;

use std::sync::Arc;
use std::time::Instant;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use pocketlm::grammar::{Constraint, Grammar};
use pocketlm::import::grammar::{Whitespace, from_json_schema};
use pocketlm::import::vocabulary;
use pocketlm::sample::{Choice, Sampler};
use pocketlm::text::Tokenizer;
use schemas::{Numbers, schemas};
use serde_json::Value;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, tokenizer, schemas_count, count] = &arguments[..] else {
        panic!("give `walks` or `valid`, a tokenizer, and two numbers");
    };
    let section = vocabulary::from_path(tokenizer).unwrap_or_else(|error| panic!("{error}"));
    let tokenizer = Tokenizer::open(&section).unwrap();
    let schemas = schemas(schemas_count.parse().unwrap());
    let count: usize = count.parse().unwrap();
    match &what[..] {
        "walks" => walks(&tokenizer, &schemas, count),
        "valid" => valid(&tokenizer, &schemas, count),
        _ => panic!("give `walks` or `valid`"),
    }
}

/// A tokenizer as llguidance sees it.
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

fn env(tokenizer: &Tokenizer) -> TokEnv {
    let word = |id| {
        let piece = tokenizer.piece(id).unwrap_or_default();
        match tokenizer.is_special(id) || tokenizer.is_eos(id) {
            true => [&[TokTrie::SPECIAL_TOKEN_MARKER], piece].concat(),
            false => piece.to_vec(),
        }
    };
    let words: Vec<Vec<u8>> = (0..tokenizer.vocab_size()).map(word).collect();
    let eos = tokenizer.eos_ids().next().unwrap_or_default();
    Arc::new(Env(TokTrie::from(&TokRxInfo::new(tokenizer.vocab_size(), eos), &words)))
}

fn walks(tokenizer: &Tokenizer, schemas: &[(String, Value)], walks: usize) {
    let mut numbers = Numbers::new(1);
    let factory = ParserFactory::new_simple(&env(tokenizer)).unwrap();
    let (mut times, mut their_times) = (Vec::new(), Vec::new());
    let (mut refused, mut steps, mut differences, mut done) = (0, 0, 0, 0);
    for (name, schema) in schemas {
        let bytes = match from_json_schema(schema, Whitespace::Unbounded) {
            Ok(bytes) => bytes,
            Err(error) => {
                println!("{name}: refused: {error}: {schema}");
                refused += 1;
                continue;
            }
        };
        let grammar = Grammar::open(&bytes).unwrap();
        let theirs = factory.create_parser(TopLevelGrammar::from_json_schema(schema.clone()));
        let theirs = Matcher::new(theirs);
        if let Some(error) = theirs.get_error() {
            println!("{name}: refused by llguidance: {}", error.lines().next().unwrap_or_default());
            continue;
        }
        for _ in 0..walks {
            done += 1;
            let mut theirs = theirs.deep_clone();
            let mut ours = Constraint::new(&grammar, tokenizer);
            let mut text = Vec::new();
            for _ in 0..60 {
                let mut logits = vec![0.0; tokenizer.vocab_size() as usize];
                let start = Instant::now();
                ours.mask(&mut logits);
                times.push(start.elapsed());
                let of_text = |id: &u32| !tokenizer.is_eos(*id) && !tokenizer.is_special(*id);
                let all = || (0..tokenizer.vocab_size()).filter(of_text);
                let allowed: Vec<u32> = all().filter(|id| logits[*id as usize] == 0.0).collect();
                steps += 1;
                let (their_allowed, their_end) = if theirs.is_stopped() {
                    (Vec::new(), true)
                } else {
                    let start = Instant::now();
                    let mask = theirs.compute_mask().unwrap();
                    their_times.push(start.elapsed());
                    let allowed = all().filter(|id| mask.is_allowed(*id)).collect::<Vec<u32>>();
                    (allowed, theirs.is_accepting().unwrap())
                };
                if (&allowed, ours.is_complete()) != (&their_allowed, their_end) {
                    let only = |a: &[u32], b: &[u32]| {
                        let only = a.iter().filter(|id| !b.contains(id)).take(4);
                        let piece = |id: &u32| tokenizer.piece(*id).unwrap().escape_ascii().to_string();
                        only.map(piece).collect::<Vec<_>>()
                    };
                    println!(
                        "{name}: after {:?}: only here {:?}, only there {:?}, end {} and {their_end}",
                        String::from_utf8_lossy(&text),
                        only(&allowed, &their_allowed),
                        only(&their_allowed, &allowed),
                        ours.is_complete()
                    );
                    differences += 1;
                    break;
                }
                if allowed.is_empty() || (their_end && numbers.below(4) == 0) {
                    break;
                }
                let id = numbers.short(&allowed, tokenizer);
                text.extend(tokenizer.piece(id).unwrap());
                assert!(ours.accept(id));
                theirs.consume_token(id).unwrap();
            }
        }
    }
    println!(
        "{} schemas, {refused} refused, {done} walks, {steps} steps, {differences} walks that differ",
        schemas.len()
    );
    for (name, times) in [("pocketlm", &mut times), ("llguidance", &mut their_times)] {
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 1000].as_secs_f64() * 1e6;
        println!(
            "mask of {name}, µs: median {:.1}, 90 % {:.1}, 99 % {:.1}, worst {:.1}",
            at(500), at(900), at(990), at(1000)
        );
    }
}

fn valid(tokenizer: &Tokenizer, schemas: &[(String, Value)], texts: usize) {
    let mut numbers = Numbers::new(2);
    let (mut whole, mut cut, mut bytes_of_text) = (0, 0, 0);
    for (name, schema) in schemas {
        let Ok(bytes) = from_json_schema(schema, Whitespace::Unbounded) else {
            continue;
        };
        let grammar = Grammar::open(&bytes).unwrap();
        let options = jsonschema::options().should_validate_formats(true).build(schema);
        let judge = options.unwrap_or_else(|error| panic!("{name}: {error}"));
        for _ in 0..texts {
            let mut constraint = Constraint::new(&grammar, tokenizer);
            let mut sampler = Sampler::new(numbers.next()).temperature(1.5);
            let mut text = Vec::new();
            for step in 0.. {
                if step == 400 {
                    cut += 1;
                    break;
                }
                // Random logits end no string: the ends are made likelier with time.
                let mut logits: Vec<f32> = (0..tokenizer.vocab_size())
                    .map(|id| {
                        let piece = tokenizer.piece(id).unwrap_or_default();
                        let ends = piece.iter().any(|byte| b"\"}]".contains(byte));
                        let plain = piece.len() < 3 && piece.is_ascii();
                        let more = if ends || tokenizer.is_eos(id) { step as f32 * 0.3 } else { 0.0 };
                        numbers.float() * 6.0 + more + f32::from(u8::from(plain)) * 3.0
                    })
                    .collect();
                let mut choice = Choice::new();
                let id = loop {
                    let step = sampler.step_constrained(&mut choice, &constraint, &mut logits, u32::MAX);
                    if let Some(id) = step.unwrap() {
                        break id;
                    }
                };
                if tokenizer.is_eos(id) {
                    break;
                }
                assert!(constraint.accept(id));
                text.extend(tokenizer.piece(id).unwrap());
                if constraint.is_at_end() {
                    break;
                }
            }
            if !constraint.is_complete() {
                continue;
            }
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
        "{} schemas: {whole} texts parse and are valid, {bytes_of_text} bytes; {cut} were cut short",
        schemas.len()
    );
}
