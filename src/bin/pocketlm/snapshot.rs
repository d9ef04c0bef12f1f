//! `pocketlm snapshot`: computes a prompt and saves the session.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use pocketlm::run::Session;
use pocketlm::text::EncodeOptions;

use crate::load::Image;
use crate::output::{Outcome, counted, failure, note};
use crate::output_file::{Kind, OutputFile};
use crate::running::{Running, all_numbers, arena, feed, warn_beyond_trained};
use crate::size;

/// Compute a prompt and write its keys and values to a file, from which a device or `run` can
/// continue
#[derive(Args)]
#[command(after_help = "\
The file holds the keys and values that the next token needs, in the type of --kv. The device's \
plan must use the same type; its context and batch do not matter. The snapshot works only with \
this image (`info` shows its checksum). On the device `Session::restore_from` reads it in place \
from flash. This command prints its length, and `Plan::snapshot_bytes` computes it.

Examples:
  pocketlm snapshot smol.plm -p 'You are a kind robot.' --kv q8 -o robot.kv
  pocketlm run smol.plm --snapshot robot.kv -p ' Hello! '
  pocketlm snapshot smol.plm -o robot.kv < prompt.txt")]
pub struct Arguments {
    /// An image or a checkpoint
    model: PathBuf,

    /// The prompt; `-` reads it from stdin. Without this option it is read from stdin too, or you
    /// are asked for it if stdin is a terminal
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,

    /// The file to write: a new one, or an older snapshot. `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    running: Running,
}

pub fn snapshot(arguments: Arguments) -> Outcome {
    let output = OutputFile::new(&arguments.output, Kind::Snapshot, &[&arguments.model])?;
    let prompt = crate::run::prompt(arguments.prompt.as_deref())?;
    let image = Image::open(&arguments.model)?;
    let model = image.model()?;
    let tokenizer = image.tokenizer(&model)?;
    let ids = tokenizer.encode_to_vec(&prompt, EncodeOptions::default())?;
    if ids.is_empty() {
        return Err(failure("the prompt is empty; give one with -p"));
    }
    let workers = arguments.running.workers()?;
    let plan = arguments.running.plan(&model, ids.len(), &workers, 1);
    let mut arena = arena(&plan)?;
    let engine = arguments.running.engine(&workers);
    let mut session =
        Session::new(&model, &plan, &mut arena, engine).map_err(|error| image.failure(error))?;
    warn_beyond_trained(&model, ids.len());
    let logits = feed(&mut session, &ids)?;
    all_numbers(ids.len() - 1, logits).map_err(|reason| image.failure(reason))?;
    let bytes = saved(&session)?;
    output.write(|file| {
        let written = file.write_all(&bytes);
        written.map_err(|error| output.cannot_write(error))
    })?;
    note(format_args!(
        "{}, {} ({} bytes)",
        counted(ids.len(), "token"),
        size::show(bytes.len() as u64),
        bytes.len()
    ));
    Ok(())
}

/// The snapshot of a session.
pub fn saved(session: &Session) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    session.save(&mut |part| {
        bytes.extend_from_slice(part);
        Ok(())
    })?;
    Ok(bytes)
}
