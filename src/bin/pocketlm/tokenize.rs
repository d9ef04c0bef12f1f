//! `pocketlm tokenize`: converts text to token ids and back.

use std::collections::HashSet;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use pocketlm::import::tokenizer::{KeepTokens, trim};
use pocketlm::text::{Decoder, EncodeOptions, Tokenizer};
use serde_json::Value;

use crate::load;
use crate::output::{Failure, Outcome, failure, file_failure, print, stdout_failure};
use crate::trim::{Trim, text};

/// Convert text from stdin to a JSON array of token ids, or back
#[derive(Args)]
#[command(after_help = "\
The text is used exactly as it is, including a line break at its end (`printf` prints none). \
Special tokens in the text, such as `<|im_end|>`, are recognised.

Examples:
  printf 'Once upon a time' | pocketlm tokenize smol.plm
  printf '[9707, 1879]' | pocketlm tokenize smol.plm --decode
  pocketlm tokenize gemma.plm --report stories.txt --vocabulary corpus.txt
  printf '\"one\"\\n\"two\\\\nlines\"\\n' | pocketlm tokenize tokenizer.json --batch")]
pub struct Arguments {
    /// An image, a checkpoint, or only a tokenizer: tokenizer.json, tokenizer.model, a
    /// vocabulary-only GGUF
    model: PathBuf,

    /// Add no special tokens around the text (BOS, EOS); with --decode, leave them out of the text
    #[arg(long)]
    no_special: bool,

    /// Read a JSON array of token ids and write text
    #[arg(long)]
    decode: bool,

    /// Read and write one JSON value a line: strings in and arrays out, or with --decode arrays in
    /// and strings out
    #[arg(long)]
    batch: bool,

    /// Count the tokens of this text file (`-` for stdin) instead, with --vocabulary before and
    /// after trimming
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["decode", "batch", "no_special"])]
    report: Option<PathBuf>,

    #[command(flatten)]
    trim: Trim,
}

pub fn tokenize(arguments: Arguments) -> Outcome {
    let section = load::tokenizer_section(&arguments.model)?;
    let tokenizer = Tokenizer::open(&section)?;
    let keep = arguments.trim.keep()?;
    if let Some(path) = &arguments.report {
        return report(path, &section, keep);
    }
    if keep.is_some() {
        let reason = "--vocabulary goes with --report; `pocketlm pack` trims a model";
        return Err(Failure::Usage(reason.into()));
    }
    if arguments.batch {
        return batch(&arguments, &tokenizer);
    }

    let mut input = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut input)
        .map_err(|error| failure(format_args!("standard input: {error}")))?;
    let input = String::from_utf8(input).map_err(|error| {
        failure(format_args!(
            "standard input: not UTF-8 at byte {}",
            error.utf8_error().valid_up_to()
        ))
    })?;
    if arguments.decode {
        let ids = serde_json::from_str(&input).map_err(|error| {
            failure(format_args!(
                "standard input: not a JSON array of token ids: {error}"
            ))
        })?;
        let text = decode(&tokenizer, ids, arguments.no_special)
            .map_err(|error| failure(format_args!("standard input: {error}")))?;
        io::stdout()
            .write_all(text.as_bytes())
            .map_err(stdout_failure)
    } else {
        print(Value::from(
            tokenizer.encode_to_vec(&input, options(arguments.no_special))?,
        ))
    }
}

/// How many tokens a text has, with the whole vocabulary and with a trimmed one.
fn report(path: &Path, section: &[u8], keep: Option<KeepTokens>) -> Outcome {
    let text = text(path)?;
    let words = text.split_whitespace().count();
    if words == 0 {
        return Err(file_failure(path, "holds no text"));
    }
    let trimmed = match keep {
        Some(keep) => Some(trim(section, "", &keep)?),
        None => None,
    };
    let sections = [
        ("whole", Some(section)),
        (
            "trimmed",
            trimmed.as_ref().map(|trimmed| &trimmed.section[..]),
        ),
    ];
    print(format_args!(
        "{:<10} {:>10} {:>10} {:>13} {:>14} {:>10}",
        "vocabulary", "size", "tokens", "tokens a word", "bytes a token", "used"
    ))?;
    for (name, section) in sections {
        let Some(section) = section else { continue };
        let tokenizer = Tokenizer::open(section)?;
        let ids = tokenizer.encode_to_vec(&text, options(true))?;
        let used: HashSet<u32> = ids.iter().copied().collect();
        print(format_args!(
            "{name:<10} {:>10} {:>10} {:>13.3} {:>14.3} {:>10}",
            tokenizer.vocab_size(),
            ids.len(),
            ids.len() as f64 / words as f64,
            text.len() as f64 / ids.len() as f64,
            used.len(),
        ))?;
    }
    Ok(())
}

/// Converts one value a line. Stops at the first line that is not valid, with an error that gives
/// its number.
fn batch(arguments: &Arguments, tokenizer: &Tokenizer) -> Outcome {
    for (number, line) in (1..).zip(io::stdin().lock().lines()) {
        let at = |reason: &dyn std::fmt::Display| {
            failure(format_args!("standard input, line {number}: {reason}"))
        };
        let line = line.map_err(|error| at(&error))?;
        let result = if arguments.decode {
            let ids = serde_json::from_str(&line)
                .map_err(|error| at(&format_args!("not a JSON array of token ids: {error}")))?;
            Value::from(decode(tokenizer, ids, arguments.no_special).map_err(|error| at(&error))?)
        } else {
            let text: String = serde_json::from_str(&line)
                .map_err(|error| at(&format_args!("not a JSON string: {error}")))?;
            Value::from(tokenizer.encode_to_vec(&text, options(arguments.no_special))?)
        };
        print(result)?;
    }
    Ok(())
}

fn options(no_special: bool) -> EncodeOptions {
    EncodeOptions {
        add_special_tokens: !no_special,
        parse_special: true,
    }
}

/// The text of ids.
fn decode(
    tokenizer: &Tokenizer,
    ids: Vec<u32>,
    skip_special: bool,
) -> Result<String, pocketlm::Error> {
    let mut decoder = Decoder::new(tokenizer).skip_special(skip_special);
    let mut text = String::new();
    for id in ids {
        decoder.push(id)?.chunks(|chunk| text.push_str(chunk));
    }
    decoder.finish().chunks(|chunk| text.push_str(chunk));
    Ok(text)
}
