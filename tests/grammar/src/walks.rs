//! Random walks: at each step, the tokens that are allowed here and by llguidance.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cpu_time::ThreadTime;
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use pocketlm::grammar::{Constraint, Grammar, Tree, Vocabulary};
use pocketlm::import::grammar::{Whitespace, from_json_schema};
use pocketlm::text::Tokenizer;
use serde_json::Value;

use crate::env::{env, is_text};
use crate::reasons::{Difference, reason};
use crate::schemas::Numbers;

/// The most tokens of a walk.
const LONGEST: usize = 60;

#[derive(Default)]
struct Report {
    walks: usize,
    steps: usize,
    refused: usize,
    refused_there: usize,
    differing: usize,
    /// How often each reason for a difference was met, and an example.
    reasons: BTreeMap<&'static str, (usize, String)>,
    mask: Vec<Duration>,
    their_mask: Vec<Duration>,
    best: Vec<Duration>,
    /// Room for the logits: the time to get it is not the mask's.
    logits: Vec<f32>,
}

pub fn walks(tokenizer: &Tokenizer, schemas: &[(String, Value)], walks: usize) {
    let mut numbers = Numbers::new(1);
    let start = Instant::now();
    let tree = Tree::new(tokenizer);
    println!(
        "tree: {:.0} ms, {} bytes",
        start.elapsed().as_secs_f64() * 1e3,
        tree.bytes()
    );
    let vocabulary = Vocabulary::with_tree(tokenizer, &tree);
    let factory = ParserFactory::new_simple(&env(tokenizer)).unwrap();
    let mut report = Report::default();
    let texts: Vec<u32> = (0..tokenizer.vocab_size())
        .filter(|id| is_text(tokenizer, *id))
        .collect();
    for (name, schema) in schemas {
        let bytes = match from_json_schema(schema, Whitespace::Unbounded) {
            Ok(bytes) => bytes,
            Err(error) => {
                println!("{name}: refused: {error}: {schema}");
                report.refused += 1;
                continue;
            }
        };
        let grammar = Grammar::open(&bytes).unwrap();
        let theirs = factory.create_parser(TopLevelGrammar::from_json_schema(schema.clone()));
        let theirs = Matcher::new(theirs);
        if let Some(error) = theirs.get_error() {
            let first = error.lines().next().unwrap_or_default();
            println!("{name}: refused by llguidance: {first}");
            report.refused_there += 1;
            continue;
        }
        for _ in 0..walks {
            report.walks += 1;
            let walk = Walk {
                ours: Constraint::new(&grammar, &vocabulary),
                theirs: theirs.deep_clone(),
                tokenizer,
                texts: &texts,
                text: Vec::new(),
            };
            walk.run(name, schema, &mut numbers, &mut report);
        }
    }
    report.print(schemas.len());
}

struct Walk<'w> {
    ours: Constraint<'w>,
    theirs: Matcher,
    tokenizer: &'w Tokenizer<'w>,
    /// The tokens that are text.
    texts: &'w [u32],
    text: Vec<u8>,
}

impl Walk<'_> {
    fn run(mut self, name: &str, schema: &Value, numbers: &mut Numbers, report: &mut Report) {
        let mut differs = false;
        for _ in 0..LONGEST {
            let (allowed, may_end) = self.ours(report);
            let (their_allowed, they_may_end) = self.theirs(report);
            report.steps += 1;
            let common: Vec<u32> = both(&allowed, &their_allowed);
            if common.len() != allowed.len()
                || common.len() != their_allowed.len()
                || may_end != they_may_end
            {
                differs = true;
                let only_here = without(&allowed, &common);
                let only_there = without(&their_allowed, &common);
                let ids = [&only_here[..], &only_there[..]];
                self.explain(name, schema, ids, [may_end, they_may_end], report);
            }
            if common.is_empty() || (may_end && numbers.below(4) == 0) {
                break;
            }
            let id = numbers.short(&common, self.tokenizer);
            let start = Instant::now();
            let is_allowed = self.ours.allows(id);
            report.best.push(start.elapsed());
            assert!(is_allowed && self.ours.accept(id));
            self.text.extend(self.tokenizer.piece(id).unwrap());
            self.theirs.consume_token(id).unwrap();
        }
        report.differing += usize::from(differs);
    }

    /// The text tokens that are allowed here, and whether the text may end.
    fn ours(&self, report: &mut Report) -> (Vec<u32>, bool) {
        let logits = &mut report.logits;
        logits.clear();
        logits.resize(self.tokenizer.vocab_size() as usize, 0.0);
        let start = ThreadTime::now();
        self.ours.mask(logits);
        let time = start.elapsed();
        report.mask.push(time);
        let allowed = self.texts().filter(|id| logits[*id as usize] == 0.0);
        (allowed.collect(), self.ours.is_complete())
    }

    fn theirs(&mut self, report: &mut Report) -> (Vec<u32>, bool) {
        if self.theirs.is_stopped() {
            return (Vec::new(), true);
        }
        let start = ThreadTime::now();
        let mask = self.theirs.compute_mask().unwrap();
        report.their_mask.push(start.elapsed());
        let allowed = self.texts().filter(|id| mask.is_allowed(*id)).collect();
        (allowed, self.theirs.is_accepting().unwrap())
    }

    fn texts(&self) -> impl Iterator<Item = u32> {
        self.texts.iter().copied()
    }

    /// Counts a difference with its reason.
    fn explain(
        &self,
        name: &str,
        schema: &Value,
        ids: [&[u32]; 2],
        ends: [bool; 2],
        report: &mut Report,
    ) {
        let pieces = |ids: &[u32]| {
            ids.iter()
                .map(|id| self.tokenizer.piece(*id).unwrap_or_default())
                .collect::<Vec<_>>()
        };
        let difference = Difference {
            text: &self.text,
            schema: &schema.to_string(),
            here: pieces(ids[0]),
            there: pieces(ids[1]),
            ends_here: ends[0],
            ends_there: ends[1],
        };
        let reason = reason(&difference);
        let text = String::from_utf8_lossy(&self.text);
        let show = |pieces: &[&[u8]]| {
            let first = pieces.iter().take(6);
            first
                .map(|piece| piece.escape_ascii().to_string())
                .collect::<Vec<_>>()
        };
        let example = format!(
            "{name}: after {text:?}: only here {} {:?}, only there {} {:?}, ends {ends:?}",
            ids[0].len(),
            show(&difference.here),
            ids[1].len(),
            show(&difference.there)
        );
        if reason.is_none() {
            println!("NOT EXPLAINED {example}: {schema}");
        }
        report
            .reasons
            .entry(reason.unwrap_or("not explained"))
            .or_insert((0, example))
            .0 += 1;
    }
}

/// What two sorted lists have in common.
fn both(a: &[u32], b: &[u32]) -> Vec<u32> {
    a.iter()
        .copied()
        .filter(|id| b.binary_search(id).is_ok())
        .collect()
}

fn without(all: &[u32], some: &[u32]) -> Vec<u32> {
    all.iter()
        .copied()
        .filter(|id| some.binary_search(id).is_err())
        .collect()
}

impl Report {
    fn print(mut self, schemas: usize) {
        println!(
            "{schemas} schemas, {} refused here, {} there; {} walks, {} steps, {} walks with a difference",
            self.refused, self.refused_there, self.walks, self.steps, self.differing
        );
        for (reason, (count, example)) in &self.reasons {
            println!("  {count} steps: {reason}; {example}");
        }
        for (name, times) in [
            ("mask", &mut self.mask),
            ("mask of llguidance", &mut self.their_mask),
            ("test of one token", &mut self.best),
        ] {
            times.sort_unstable();
            let at = |part: usize| times[(times.len() - 1) * part / 1000].as_secs_f64() * 1e6;
            println!(
                "{name}, µs: median {:.1}, 90 % {:.1}, 99 % {:.1}, worst {:.1}",
                at(500),
                at(900),
                at(990),
                at(1000)
            );
        }
    }
}
