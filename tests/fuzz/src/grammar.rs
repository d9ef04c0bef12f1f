//! Grammars: compiled, opened, and walked.

use std::sync::OnceLock;

use pocketlm::grammar::{Constraint, Grammar, Masking, Tree, Vocabulary};
use pocketlm::import::grammar::{Tools, Whitespace, from_gbnf, from_json_schema, from_regex};
use pocketlm::text::{Call, Tokenizer, ToolForm};

use super::bytes::Bytes;
use super::text::sections;

/// A byte says what the rest is: a schema, tools, GBNF or a regular expression.
pub fn compile(data: &[u8]) {
    let mut choices = Bytes(data);
    let kind = choices.byte();
    let source = String::from_utf8_lossy(choices.0);
    if let Some(bytes) = compiled(kind, &source) {
        let grammar = Grammar::open(&bytes).unwrap();
        walk(&grammar, Bytes(data));
    }
}

fn compiled(kind: u8, source: &str) -> Option<Vec<u8>> {
    let whitespace = [
        Whitespace::Printed,
        Whitespace::Unbounded,
        Whitespace::Compact,
    ][usize::from(kind >> 2) % 3];
    match kind % 4 {
        0 => {
            let schema = serde_json::from_str(source).ok()?;
            from_json_schema(&schema, whitespace).ok()
        }
        1 => {
            let tools = Tools::parse(&serde_json::from_str(source).ok()?).ok()?;
            let form = ToolForm::ALL[usize::from(kind >> 4) % ToolForm::ALL.len()].1;
            tools.grammar(form, kind & 4 != 0, &|_| kind & 8 != 0).ok()
        }
        2 => from_gbnf(source).ok(),
        _ => from_regex(source).ok(),
    }
}

/// A grammar as it is, and with its checksum repaired: opened, and walked with any ids.
pub fn open(data: &[u8]) {
    let _ = Grammar::open(data);
    let mut repaired = data.to_vec();
    if let [_, _, _, _, _, _, _, _, sum @ .., _] = &mut repaired[..]
        && let Some(sum) = sum.first_chunk_mut::<4>()
    {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&data[..8]);
        hasher.update(&data[12..]);
        *sum = hasher.finalize().to_le_bytes();
    }
    if let Ok(grammar) = Grammar::open(&repaired) {
        walk(&grammar, Bytes(data));
    }
}

/// A grammar of [`sources`], a tokenizer, and any ids: the ways to ask which tokens are allowed
/// agree ([`look`]).
pub fn walk_target(data: &[u8]) {
    static GRAMMARS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let grammars = GRAMMARS.get_or_init(|| {
        let sources = sources().into_iter();
        sources
            .filter_map(|(kind, source)| compiled(kind, &source))
            .collect()
    });
    let mut choices = Bytes(data);
    let bytes = &grammars[choices.below(grammars.len())];
    walk(&Grammar::open(bytes).unwrap(), choices);
}

/// Walks with ids that the bytes choose.
fn walk(grammar: &Grammar, mut choices: Bytes) {
    let tokenizers = tokenizers();
    let (section, tree) = &tokenizers[choices.below(tokenizers.len())];
    let tokenizer = Tokenizer::open(section).unwrap();
    let vocabulary = Vocabulary::new(&tokenizer);
    let with_tree = Vocabulary::with_tree(&tokenizer, tree);
    let mut constraint = Constraint::new(grammar, &vocabulary);
    let mut text = String::new();
    for _ in 0..32 {
        let mut by_tree = Constraint::new(grammar, &with_tree);
        by_tree.restore(&constraint.to_bytes()).unwrap();
        let allowed = look(&constraint, &by_tree, &tokenizer, &mut choices);
        let _ = (constraint.is_complete(), constraint.is_at_end());
        // Any id, or one that may come.
        let id = u32::from(choices.short());
        let id = match allowed.get(id as usize % allowed.len().max(1)) {
            Some(allowed) if choices.byte() >= 64 => *allowed,
            _ => id,
        };
        if constraint.accept(id) {
            let piece = tokenizer.piece(id).unwrap_or_default();
            text.push_str(&String::from_utf8_lossy(piece));
        }
        if choices.is_empty() {
            break;
        }
    }
    for (_, form) in ToolForm::ALL {
        Call::all(&text, form).for_each(|call| call.arguments().for_each(drop));
    }
}

/// The allowed tokens. Asserts that they are the same by a test of each, by a mask in slices and by
/// the tree, and that forced tokens are allowed.
fn look(
    constraint: &Constraint,
    by_tree: &Constraint,
    tokenizer: &Tokenizer,
    choices: &mut Bytes,
) -> Vec<u32> {
    let rows = tokenizer.vocab_size() as usize + choices.below(3);
    let budget = u32::from(choices.byte()) + 1;
    let (mut masked, mut masking) = (vec![0.0; rows], Masking::new());
    while !constraint.mask_step(&mut masking, &mut masked, budget) {}
    let mut masked_by_tree = vec![0.0; rows];
    by_tree.mask(&mut masked_by_tree);
    assert!(masked == masked_by_tree, "the tree: {constraint:?}");
    let mut allowed = Vec::new();
    for (id, logit) in (0u32..).zip(&masked) {
        let is_allowed = constraint.allows(id);
        assert_eq!(is_allowed, *logit == 0.0, "token {id}: {constraint:?}");
        allowed.extend(is_allowed.then_some(id));
    }
    let mut forced = [0; 4];
    let count = constraint.forced(&mut forced);
    let mut along = *constraint;
    assert!(forced[..count].iter().all(|id| along.accept(*id)));
    allowed
}

/// The tokenizers, with their trees.
fn tokenizers() -> &'static [(&'static [u8], Tree)] {
    static TREES: OnceLock<Vec<(&'static [u8], Tree)>> = OnceLock::new();
    TREES.get_or_init(|| {
        let with_tree = |section: &'static Vec<u8>| {
            let tree = Tree::new(&Tokenizer::open(section).unwrap());
            (&section[..], tree)
        };
        sections().iter().map(with_tree).collect()
    })
}

/// Grammars of every kind: a byte for [`compiled`], and the text.
fn sources() -> Vec<(u8, String)> {
    let cases = include_str!("../../data/grammar/schemas.json");
    let cases: Vec<serde_json::Value> = serde_json::from_str(cases).unwrap();
    let schemas = (0u8..)
        .zip(&cases)
        .map(|(at, case)| (at % 3 * 4, case["schema"].to_string()));
    let tools = r#"[{"name": "led", "parameters": {"type": "object", "properties": {
        "on": {"type": "boolean"}, "color": {"enum": ["red", "blue"]}}, "required": ["on"]}}]"#;
    let tools = (0..ToolForm::ALL.len() as u8).map(|form| (form << 4 | 13, tools.to_owned()));
    let gbnf = [
        "root ::= item (\",\" item)*\nitem ::= [a-z]+ | \"(\" root \")\"",
        "root ::= \"é\"{2,5} [^\\n\"]* # comment\n",
    ];
    let regexes = [
        "(yes|no|maybe) [0-9]{1,20}",
        "[^<]*(<b>.*)?",
        "(?i:a|é)+\\d{3}",
    ];
    // Rules that share parts, and rules in a chain.
    let chain = |length: usize, rule: fn(usize) -> String| {
        let rules = (0..length).map(|at| format!("r{at} ::= {}\n", rule(at + 1)));
        format!("root ::= r0{{3}}\nr{length} ::= \"a\" | \"(\" root \")\"\n")
            + &rules.collect::<String>()
    };
    let chains = [
        chain(70, |next| format!("r{next} | r{next}")),
        chain(600, |next| format!("\"a\" r{next}")),
        chain(600, |next| format!("r{next} \"x\" | \"y\"")),
    ];
    let gbnf = gbnf.map(str::to_owned).into_iter().chain(chains);
    let gbnf = gbnf.map(|text| (2, text));
    let regexes = regexes.map(|text| (3, text.to_owned()));
    schemas.chain(tools).chain(gbnf).chain(regexes).collect()
}

pub fn compile_seeds() -> Vec<Vec<u8>> {
    let seed = |(kind, source): (u8, String)| [&[kind], source.as_bytes()].concat();
    sources().into_iter().map(seed).collect()
}

pub fn open_seeds() -> Vec<Vec<u8>> {
    let sources = sources().into_iter();
    sources
        .filter_map(|(kind, source)| compiled(kind, &source))
        .collect()
}

pub fn walk_seeds() -> Vec<Vec<u8>> {
    let length = sources().len() as u8;
    (0..length)
        .map(|at| {
            (0..60u8)
                .map(|step| at.wrapping_add(step.wrapping_mul(73)))
                .collect()
        })
        .collect()
}
