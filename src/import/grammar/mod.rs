//! Compiles grammars for [`crate::grammar`]: JSON Schema, regular expressions, GBNF files and lists
//! of tools.

mod automaton;
mod dfa;
mod encode;
mod expr;
mod format;
mod gbnf;
mod number;
mod regex;
mod schema;
mod tools;

use std::prelude::rust_2024::*;

use serde_json::Value;

pub use schema::Whitespace;
pub use tools::Tools;

use self::expr::{Id, Source};
use self::regex::{Match, Writing};
use super::ImportError;

/// The grammar of the JSON texts that are valid by `schema`.
///
/// ```
/// use pocketlm::grammar::Grammar;
/// use pocketlm::import::grammar::{Whitespace, from_json_schema};
///
/// let schema = serde_json::json!({
///     "type": "object",
///     "properties": { "pin": { "type": "integer", "minimum": 0, "maximum": 29 } },
///     "required": ["pin"],
///     "additionalProperties": false,
/// });
/// let bytes = from_json_schema(&schema, Whitespace::Compact).unwrap();
/// assert!(bytes.len() < 100);
/// Grammar::open(&bytes).unwrap();
/// ```
///
/// # Errors
/// What the schema says and is not supported, with the place in the schema.
pub fn from_json_schema(schema: &Value, whitespace: Whitespace) -> Result<Vec<u8>, ImportError> {
    let mut source = Source::default();
    let root =
        schema::Schemas::new(&mut source, schema, schema::Style::Json(whitespace)).whole(schema)?;
    compile(source, root)
}

/// The grammar of the texts that a regular expression matches as a whole.
///
/// # Errors
/// What is wrong with the expression, or not supported: anchors within it.
pub fn from_regex(expression: &str) -> Result<Vec<u8>, ImportError> {
    let mut source = Source::default();
    let root = regex::pattern(&mut source, expression, Match::Whole, Writing::Plain)?;
    compile(source, root)
}

/// The grammar of a GBNF file, as llama.cpp reads them.
///
/// # Errors
/// What is wrong with the file, and in which line.
pub fn from_gbnf(text: &str) -> Result<Vec<u8>, ImportError> {
    let mut source = Source::default();
    let root = gbnf::parse(&mut source, text)?;
    compile(source, root)
}

fn compile(mut source: Source, root: Id) -> Result<Vec<u8>, ImportError> {
    let machine = automaton::machine(&mut source, root)?;
    encode::encode(&source, machine)
}
