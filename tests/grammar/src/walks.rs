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

use crate::bits::Bits;
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
    /// Our worst mask, and where it was.
    worst: (Duration, String),
    their_mask: Vec<Duration>,
    their_logits: Vec<Duration>,
    best: Vec<Duration>,
    /// Room for the logits: the time to get it is not the mask's.
    logits: Vec<f32>,
}

/// Returns the walks: a line has a schema, a tab, and the ids.
pub fn walks(tokenizer: &Tokenizer, schemas: &[(String, Value)], walks: usize) -> String {
    let mut lines = String::new();
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
    let ids: Vec<u32> = (0..tokenizer.vocab_size()).collect();
    let texts = Bits::of(&ids, |id| is_text(tokenizer, *id));
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
            let ids = walk.run(name, schema, &mut numbers, &mut report);
            lines += &format!("{schema}\t{}\n", ids.join(" "));
        }
    }
    report.print(schemas.len());
    lines
}

struct Walk<'w> {
    ours: Constraint<'w>,
    theirs: Matcher,
    tokenizer: &'w Tokenizer<'w>,
    /// The tokens that are text.
    texts: &'w Bits,
    text: Vec<u8>,
}

impl Walk<'_> {
    /// Returns the ids of the walk.
    fn run(
        mut self,
        name: &str,
        schema: &Value,
        numbers: &mut Numbers,
        report: &mut Report,
    ) -> Vec<String> {
        let mut differs = false;
        let mut ids = Vec::new();
        for _ in 0..LONGEST {
            let (allowed, may_end) = self.ours(name, report);
            let (their_allowed, they_may_end) = self.theirs(report);
            report.steps += 1;
            if allowed != their_allowed || may_end != they_may_end {
                differs = true;
                let only = [
                    allowed.without(&their_allowed),
                    their_allowed.without(&allowed),
                ];
                let only = [&only[0][..], &only[1][..]];
                self.explain(name, schema, only, [may_end, they_may_end], report);
            }
            if may_end && numbers.below(4) == 0 {
                break;
            }
            let Some(id) = numbers.short(&allowed.and(&their_allowed), self.tokenizer) else {
                break;
            };
            let start = Instant::now();
            let is_allowed = self.ours.allows(id);
            report.best.push(start.elapsed());
            assert!(is_allowed && self.ours.accept(id));
            ids.push(id.to_string());
            self.text.extend(self.tokenizer.piece(id).unwrap());
            self.theirs.consume_token(id).unwrap();
        }
        report.differing += usize::from(differs);
        ids
    }

    /// The text tokens that are allowed here, and whether the text may end.
    fn ours(&self, name: &str, report: &mut Report) -> (Bits, bool) {
        let logits = &mut report.logits;
        logits.clear();
        logits.resize(self.tokenizer.vocab_size() as usize, 0.0);
        let start = ThreadTime::now();
        self.ours.mask(logits);
        let time = start.elapsed();
        if report.worst.0 < time {
            let text = String::from_utf8_lossy(&self.text);
            report.worst = (time, format!("{name}: after {text:?}"));
        }
        report.mask.push(time);
        let allowed = Bits::of(logits, |logit| *logit == 0.0);
        (allowed.and(self.texts), self.ours.is_complete())
    }

    fn theirs(&mut self, report: &mut Report) -> (Bits, bool) {
        if self.theirs.is_stopped() {
            return (self.texts.none(), true);
        }
        let start = ThreadTime::now();
        let mask = self.theirs.compute_mask().unwrap();
        let time = start.elapsed();
        report.their_mask.push(time);
        report.logits.fill(0.0);
        let start = ThreadTime::now();
        forbid(mask.as_slice(), &mut report.logits);
        report.their_logits.push(time + start.elapsed());
        let allowed = Bits(mask.as_slice().to_vec());
        (allowed.and(self.texts), self.theirs.is_accepting().unwrap())
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

/// Sets the logits whose bits are 0 to −∞. llguidance leaves this to its user.
fn forbid(bits: &[u32], logits: &mut [f32]) {
    for (word, part) in bits.iter().zip(logits.chunks_mut(32)) {
        match *word {
            0 => part.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            word => {
                for (bit, logit) in part.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
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
        println!("worst mask: {}", self.worst.1);
        for (name, times) in [
            ("mask", &mut self.mask),
            ("llguidance's bits", &mut self.their_mask),
            ("llguidance's bits, logits set", &mut self.their_logits),
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
