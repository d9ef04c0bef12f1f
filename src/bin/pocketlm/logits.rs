//! `pocketlm logits`: writes logits to a file, to compare them with other programs and with boards.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use pocketlm::run::{Digest, Session};
use serde_json::json;

use crate::load::Image;
use crate::output::{Outcome, failure, note, print, token_bar};
use crate::output_file::{Kind, OutputFile};
use crate::running::{LOGITS, Running, all_numbers, arena};

/// Compute the logits of every position and write them to a safetensors file; print their 64-bit
/// digest
#[derive(Args)]
#[command(after_help = "\
The file holds one tensor, `logits`, f32, [tokens, vocab_size]: row i follows token i. The digest \
depends on every bit of the logits and on nothing else. A board that prints the same digest \
computed the same logits. --batch and --threads never change a bit.

Examples:
  pocketlm logits smol.plm --tokens 1,2,3 -o out.safetensors
  pocketlm tokenize smol.plm < text.txt | pocketlm logits smol.plm --tokens - -o out.safetensors")]
pub struct Arguments {
    /// An image or a checkpoint
    model: PathBuf,

    /// Token ids, separated by commas; `-` reads them from stdin, as `tokenize` writes them
    #[arg(long, value_name = "IDS")]
    tokens: Tokens,

    /// The file to write: a new one, or an older file of logits. `-` is stdout; the digest then
    /// goes to stderr
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,

    #[command(flatten)]
    running: Running,
}

pub fn logits(arguments: Arguments) -> Outcome {
    let ids = arguments.tokens.read()?;
    if ids.is_empty() {
        return Err(failure("--tokens: no token was given"));
    }
    let output = OutputFile::new(&arguments.output, Kind::Logits, &[&arguments.model])?;
    let image = Image::open(&arguments.model)?;
    let model = image.model()?;
    let workers = arguments.running.workers()?;
    let plan = arguments.running.plan(&model, ids.len(), &workers, LOGITS);
    let mut arena = arena(&plan)?;
    let engine = arguments.running.engine(&workers);
    let mut session =
        Session::new(&model, &plan, &mut arena, engine).map_err(|error| image.failure(error))?;

    let vocab_size = model.config().vocab_size as usize;
    let digest = output.write(|file| {
        compute(&mut session, &ids, vocab_size, file).map_err(|error| match error {
            Stopped::Session(error) => image.failure(error),
            Stopped::NotANumber(reason) => image.failure(reason),
            Stopped::File(error) => output.cannot_write(error),
        })
    })?;
    let digest = format!("{digest:016x}");
    if output.is_stdout() {
        note(digest)
    } else {
        print(digest)?
    }
    Ok(())
}

/// Why the logits were not written.
enum Stopped {
    Session(pocketlm::Error),
    NotANumber(String),
    File(io::Error),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Stopped::File(error)
    }
}

/// Feeds the tokens and writes each row at once, because all rows together may not fit in memory.
fn compute(
    session: &mut Session,
    ids: &[u32],
    vocab_size: usize,
    file: &mut File,
) -> Result<u64, Stopped> {
    let mut file = BufWriter::new(file);
    let bytes = ids.len() as u64 * vocab_size as u64 * 4;
    let tensor =
        json!({ "dtype": "F32", "shape": [ids.len(), vocab_size], "data_offsets": [0, bytes] });
    let mut header = json!({ "logits": tensor }).to_string();
    // The data start at a multiple of 8, as the format asks.
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;

    let bar = token_bar("computing".into(), ids.len() as u64);
    let mut digest = Digest::new();
    let mut written = Ok(());
    let fed = session.feed_each(ids, |token, row| {
        digest.update(row);
        if written.is_ok() {
            written = all_numbers(token, row)
                .map_err(Stopped::NotANumber)
                .and_then(|()| Ok(file.write_all(bytemuck::cast_slice(row))?));
        }
        bar.inc(1);
    });
    bar.finish_and_clear();
    fed.map_err(Stopped::Session)?;
    written?;
    file.flush()?;
    Ok(digest.value())
}

/// The value of `--tokens`.
#[derive(Clone)]
enum Tokens {
    Given(Vec<u32>),
    Stdin,
}

impl FromStr for Tokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Tokens, String> {
        if text == "-" {
            return Ok(Tokens::Stdin);
        }
        let id = |id: &str| match id.trim() {
            "" => Err("give token ids, with one comma between two".into()),
            id => id.parse().map_err(|_| format!("`{id}` is not a token id")),
        };
        text.split(',')
            .map(id)
            .collect::<Result<_, _>>()
            .map(Tokens::Given)
    }
}

impl Tokens {
    fn read(&self) -> Outcome<Vec<u32>> {
        match self {
            Tokens::Given(ids) => Ok(ids.clone()),
            Tokens::Stdin => {
                let text = io::read_to_string(io::stdin().lock())
                    .map_err(|error| failure(format_args!("standard input: {error}")))?;
                serde_json::from_str(&text).map_err(|error| {
                    failure(format_args!(
                        "standard input: not a JSON array of token ids: {error}"
                    ))
                })
            }
        }
    }
}
