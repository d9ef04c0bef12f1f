//! Grammars against other programs. The README says how to run it and what came out.

mod bits;
mod compile;
mod env;
mod reasons;
mod schemas;
mod valid;
mod walks;

use pocketlm::host::Image;
use pocketlm::import::tokenizer;
use pocketlm::text::Tokenizer;

const USAGE: &str = "\
give one of
  walks TOKENIZER SCHEMAS WALKS [FILE]
                                  allowed tokens against llguidance's, and the time of masks;
                                  writes the walks to FILE
  valid TOKENIZER SCHEMAS TEXTS   random texts, judged by jsonschema
  compile SCHEMAS                 how long schemas take to compile";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| {
        text.parse()
            .unwrap_or_else(|_| panic!("{text} is no number"))
    };
    match arguments[..] {
        ["walks", path, schemas, count, ref file @ ..] => with_tokenizer(path, |tokenizer| {
            let schemas = schemas::schemas(number(schemas));
            let walks = walks::walks(tokenizer, &schemas, number(count));
            if let [file] = file {
                std::fs::write(file, walks).unwrap();
            }
        }),
        ["valid", path, schemas, count] => with_tokenizer(path, |tokenizer| {
            valid::valid(tokenizer, &schemas::schemas(number(schemas)), number(count));
        }),
        ["compile", schemas] => compile::compile(&schemas::schemas(number(schemas))),
        _ => panic!("{USAGE}"),
    }
}

/// Calls `then` with the tokenizer of a file or folder, or of a model.
fn with_tokenizer(path: &str, then: impl FnOnce(&Tokenizer)) {
    if path.ends_with(".gguf") || path.ends_with(".plm") {
        let image = Image::open(path).unwrap_or_else(|error| panic!("{error}"));
        let model = image.model().unwrap();
        return then(&model.tokenizer().unwrap());
    }
    let section = tokenizer::from_path(path).unwrap_or_else(|error| panic!("{error}"));
    then(&Tokenizer::open(&section).unwrap());
}
