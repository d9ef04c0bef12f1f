//! Golden cases: tokens with the logits of a reference implementation, and the comparison of a
//! model with them.
//!
//! Two kinds of folder are read, told apart by what they hold:
//!
//! * `io.safetensors` (for penzai-style folders): `tokens` i32 `[S]`; `logits_f64` f64 `[S, V]`;
//!   optional `token_positions` i32 `[S]` (−1 marks padding, which is left out) and `valid` u8
//!   `[S]`.
//! * `expected.safetensors` (Hugging Face's transformers): `input_ids` i64 `[S]`; `logits` f32
//!   `[S, V]`; optional `greedy_ids` i64 `[G]`, the greedy continuation.

use std::fmt;
use std::path::Path;
use std::prelude::rust_2024::*;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::Error;
use super::file::MappedFile;
use crate::run::{Digest, Session};

/// A golden case.
///
/// ```no_run
/// use pocketlm::host::{AlignedBytes, harness::Case};
/// use pocketlm::{import, model::Model, run::{Plan, Session, Solo}};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = std::path::Path::new("tests/data/my-case");
/// let case = Case::load(folder)?;
/// let checkpoint = import::open(folder)?;
/// let image = import::pack_to_memory(&*checkpoint, &Default::default(), &mut |_, _| {})?;
/// let model = Model::open(&image)?;
/// let plan = Plan::new(model.header()).context(case.context()).batch(8);
/// let mut arena = AlignedBytes::zeroed(plan.bytes());
/// let report = case.run(&mut Session::new(&model, &plan, &mut arena, &Solo)?)?;
/// assert!(report.largest_difference <= 5e-5 && report.greedy_agrees(), "{report}");
/// # Ok(())
/// # }
/// ```
pub struct Case {
    /// The tokens that are fed, padding left out.
    pub tokens: Vec<u32>,
    /// Their positions, growing.
    pub positions: Vec<u32>,
    /// The expected logits of each, `[V]`; `None` where the reference has none.
    pub expected: Vec<Option<Vec<f64>>>,
    /// The greedy continuation; empty if the case has none.
    pub greedy: Vec<u32>,
}

/// One logit beside the one expected.
///
/// Example: [`Case`].
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// Which token of the case.
    pub index: usize,
    /// Whose logit.
    pub id: usize,
    /// The model's logit.
    pub found: f32,
    /// The expected one.
    pub expected: f64,
}

impl Difference {
    /// |found − expected|; infinite if found is NaN.
    pub fn size(&self) -> f64 {
        let size = (self.found as f64 - self.expected).abs();
        if size.is_nan() { f64::INFINITY } else { size }
    }
}

/// The result of running a case.
///
/// Example: [`Case`].
#[derive(Clone, Debug)]
pub struct Report {
    /// |found − expected|, the largest over all logits with an expected value.
    pub largest_difference: f64,
    /// For each token, in order, the logit that differs most.
    pub differences: Vec<Difference>,
    /// The model's greedy continuation.
    pub greedy: Vec<u32>,
    /// The one expected.
    pub expected_greedy: Vec<u32>,
    /// The digest of all logits of the case's tokens.
    pub digest: Digest,
    /// The first logit that is infinite or NaN, of any token that was fed: the token's index and
    /// the logit's.
    pub not_a_number: Option<(usize, usize)>,
}

impl Report {
    /// The first token with a logit that differs by more than `tolerance`, and that logit.
    pub fn parts_at(&self, tolerance: f64) -> Option<Difference> {
        self.differences
            .iter()
            .find(|difference| difference.size() > tolerance)
            .copied()
    }

    /// Whether the greedy continuation is the expected one.
    pub fn greedy_agrees(&self) -> bool {
        self.greedy == self.expected_greedy
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = self.differences.len();
        write!(
            f,
            "{tokens} token{}, largest difference {:.2e}",
            if tokens == 1 { "" } else { "s" },
            self.largest_difference
        )?;
        if let Some(worst) = self
            .differences
            .iter()
            .find(|d| d.size() == self.largest_difference)
        {
            write!(
                f,
                " (token {}, logit {}: {} for {})",
                worst.index, worst.id, worst.found, worst.expected
            )?;
        }
        if !self.expected_greedy.is_empty() {
            let agreeing = self
                .greedy
                .iter()
                .zip(&self.expected_greedy)
                .take_while(|(a, b)| a == b)
                .count();
            write!(f, ", greedy {agreeing} of {}", self.expected_greedy.len())?;
        }
        write!(f, ", digest {:016x}", self.digest.value())
    }
}

impl Case {
    /// Reads a case folder.
    pub fn load(folder: &Path) -> Result<Case, Error> {
        let ours = folder.join("io.safetensors");
        let theirs = folder.join("expected.safetensors");
        match (ours.is_file(), theirs.is_file()) {
            (true, _) => Case::read(&ours, ["tokens", "logits_f64"]),
            (_, true) => Case::read(&theirs, ["input_ids", "logits"]),
            _ => Err(Error::File(
                folder.to_owned(),
                "no golden case: neither io.safetensors nor expected.safetensors is there".into(),
            )),
        }
    }

    fn read(path: &Path, [tokens, logits]: [&str; 2]) -> Result<Case, Error> {
        let refuse = |reason: String| Error::File(path.to_owned(), reason);
        let file = MappedFile::open(path)?;
        let tensors = SafeTensors::deserialize(&file).map_err(|error| refuse(error.to_string()))?;
        let optional = |name: &str| {
            tensors
                .tensor(name)
                .ok()
                .map(|view| numbers(name, &view))
                .transpose()
        };
        let required = |name: &str| {
            let numbers = optional(name).map_err(&refuse)?;
            numbers.ok_or_else(|| refuse(format!("tensor `{name}` is missing")))
        };
        let ids = required(tokens)?;
        let positions = match optional("token_positions").map_err(refuse)? {
            Some(positions) => positions,
            None => (0..ids.len()).map(|i| i as f64).collect(),
        };
        let valid = optional("valid")
            .map_err(refuse)?
            .unwrap_or_else(|| vec![1.0; ids.len()]);
        let logits = required(logits)?;
        let greedy = optional("greedy_ids").map_err(refuse)?.unwrap_or_default();
        if ids.is_empty() || !logits.len().is_multiple_of(ids.len()) || logits.is_empty() {
            return Err(refuse(format!(
                "{} logits for {} tokens",
                logits.len(),
                ids.len()
            )));
        }
        if let Some(id) = ids
            .iter()
            .chain(&greedy)
            .find(|&&id| !(0.0..=f64::from(u32::MAX)).contains(&id))
        {
            return Err(refuse(format!("token id {id}")));
        }
        if positions.len() != ids.len() || valid.len() != ids.len() {
            return Err(refuse(
                "`tokens`, `token_positions` and `valid` differ in length".into(),
            ));
        }
        let mut case = Case {
            tokens: Vec::new(),
            positions: Vec::new(),
            expected: Vec::new(),
            greedy: greedy.iter().map(|&id| id as u32).collect(),
        };
        let rows = logits.chunks(logits.len() / ids.len());
        for (((id, position), valid), row) in ids.iter().zip(positions).zip(valid).zip(rows) {
            if position >= 0.0 {
                case.tokens.push(*id as u32);
                case.positions.push(position as u32);
                case.expected.push((valid != 0.0).then(|| row.to_vec()));
            }
        }
        Ok(case)
    }

    /// How many logits the case has for each token; `None` if no token has any.
    pub fn vocab_size(&self) -> Option<usize> {
        self.expected.iter().flatten().map(Vec::len).next()
    }

    /// Tokens of context that the case and its greedy continuation need.
    pub fn context(&self) -> u32 {
        (self.tokens.len() + self.greedy.len()) as u32
    }

    /// Feeds the case to an empty session and compares. Tokens with consecutive positions are fed
    /// together.
    ///
    /// # Errors
    /// Those of [`Session::feed`]: a token outside the vocabulary, a context that is too short.
    pub fn run(&self, session: &mut Session<'_, '_>) -> Result<Report, crate::Error> {
        let mut digest = Digest::new();
        let mut differences = Vec::new();
        let mut not_a_number = None;
        let mut check = |index: usize, logits: &[f32]| {
            let found = || logits.iter().position(|logit| !logit.is_finite());
            not_a_number = not_a_number.or_else(|| Some((index, found()?)));
        };
        let mut last = Vec::new();
        let mut start = 0;
        while start < self.tokens.len() {
            let positions = &self.positions[start..];
            let run = 1 + positions
                .windows(2)
                .take_while(|pair| pair[0].checked_add(1) == Some(pair[1]))
                .count();
            session.skip_to(positions[0])?;
            session.feed_each(&self.tokens[start..start + run], |i, logits| {
                digest.update(logits);
                let index = start + i;
                check(index, logits);
                if let Some(expected) = &self.expected[index] {
                    differences.extend(largest(index, logits, expected));
                }
                last = logits.to_vec();
            })?;
            start += run;
        }
        let mut greedy = Vec::new();
        while greedy.len() < self.greedy.len() {
            let best = (0..last.len())
                .fold(0, |best, id| if last[id] > last[best] { id } else { best })
                as u32;
            greedy.push(best);
            if greedy.len() < self.greedy.len() {
                last = session.feed(&[best])?.to_vec();
                check(self.tokens.len() + greedy.len() - 1, &last);
            }
        }
        let largest_difference = differences.iter().map(Difference::size).fold(0.0, f64::max);
        Ok(Report {
            largest_difference,
            differences,
            greedy,
            expected_greedy: self.greedy.clone(),
            digest,
            not_a_number,
        })
    }
}

/// The logit of a row that differs most. The difference is infinite if the row has another length.
fn largest(index: usize, logits: &[f32], expected: &[f64]) -> Option<Difference> {
    if logits.len() != expected.len() {
        return Some(Difference {
            index,
            id: logits.len().min(expected.len()),
            found: f32::NAN,
            expected: 0.0,
        });
    }
    let differences = logits.iter().zip(expected).enumerate();
    let differences = differences.map(|(id, (&found, &expected))| Difference {
        index,
        id,
        found,
        expected,
    });
    differences.max_by(|a, b| a.size().total_cmp(&b.size()))
}

fn numbers(name: &str, view: &TensorView<'_>) -> Result<Vec<f64>, String> {
    let data = view.data();
    Ok(match view.dtype() {
        Dtype::U8 => data.iter().map(|&x| x as f64).collect(),
        Dtype::I32 => data
            .as_chunks()
            .0
            .iter()
            .map(|&x| i32::from_le_bytes(x) as f64)
            .collect(),
        Dtype::I64 => data
            .as_chunks()
            .0
            .iter()
            .map(|&x| i64::from_le_bytes(x) as f64)
            .collect(),
        Dtype::F32 => data
            .as_chunks()
            .0
            .iter()
            .map(|&x| f32::from_le_bytes(x) as f64)
            .collect(),
        Dtype::F64 => data
            .as_chunks()
            .0
            .iter()
            .map(|&x| f64::from_le_bytes(x))
            .collect(),
        other => return Err(format!("tensor `{name}` is {other:?}, which no case holds")),
    })
}
