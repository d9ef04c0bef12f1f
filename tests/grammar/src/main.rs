//! Grammars against other programs. The README says how to run it and what came out.

mod compile;
mod env;
mod reasons;
mod schemas;
mod valid;
mod walks;

use pocketlm::import::vocabulary;
use pocketlm::text::Tokenizer;

const USAGE: &str = "\
give one of
  walks TOKENIZER SCHEMAS WALKS   allowed tokens against llguidance's, and the time of masks
  valid TOKENIZER SCHEMAS TEXTS   random texts, judged by jsonschema
  compile SCHEMAS                 how long schemas take to compile";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| {
        text.parse()
            .unwrap_or_else(|_| panic!("{text} is no number"))
    };
    let section = |path| vocabulary::from_path(path).unwrap_or_else(|error| panic!("{error}"));
    match arguments[..] {
        ["walks", path, schemas, count] => {
            let section = section(path);
            let tokenizer = Tokenizer::open(&section).unwrap();
            walks::walks(
                &tokenizer,
                &schemas::schemas(number(schemas)),
                number(count),
            );
        }
        ["valid", path, schemas, count] => {
            let section = section(path);
            let tokenizer = Tokenizer::open(&section).unwrap();
            valid::valid(
                &tokenizer,
                &schemas::schemas(number(schemas)),
                number(count),
            );
        }
        ["compile", schemas] => compile::compile(&schemas::schemas(number(schemas))),
        _ => panic!("{USAGE}"),
    }
}
