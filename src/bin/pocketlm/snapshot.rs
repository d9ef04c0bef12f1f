//! `pocketlm snapshot`: a prompt that is computed once.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use pocketlm::host::file::whole_file;
use pocketlm::run::Session;
use pocketlm::text::EncodeOptions;

use crate::generate::{Running, arena, feed, warn_beyond_trained};
use crate::load::{Image, refuse_import};
use crate::output::{Outcome, note, refuse, refuse_file};
use crate::size;
use crate::tokenize::encode;

/// Compute a prompt once and write its keys and values to a file, from which a device or `run` goes
/// on
#[derive(Args)]
#[command(after_help = "\
The file holds what the next token will see, in the type that --kv says: the device's plan must have the same type, its \
context and batch do not matter. It belongs to the image whose checksum `info` shows. On the device \
`Session::restore_from` reads it where it lies in flash; `Plan::snapshot_bytes` and this command say how long it is.

Examples:
  pocketlm snapshot smol.plm -p 'You are a kind robot.' --kv q8 -o robot.kv
  pocketlm run smol.plm --snapshot robot.kv -p ' Hello! '
  pocketlm snapshot smol.plm -o robot.kv < prompt.txt")]
pub struct Arguments {
    /// An image or a checkpoint
    model: PathBuf,

    /// The prompt; `-` reads it from stdin, as does leaving it out when stdin is not a terminal
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,

    /// Where to write the snapshot
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    #[command(flatten)]
    running: Running,
}

pub fn snapshot(arguments: Arguments) -> Outcome {
    let image = Image::open(&arguments.model)?;
    let model = image.model()?;
    let tokenizer = image.tokenizer(&model)?;
    let prompt = crate::run::prompt(arguments.prompt.as_deref())?;
    let ids = encode(&tokenizer, &prompt, EncodeOptions::default())?;
    if ids.is_empty() {
        return Err(refuse("the prompt is empty; give one with -p"));
    }
    let workers = arguments.running.workers()?;
    let plan = arguments.running.plan(&model, ids.len(), &workers, 1);
    let mut arena = arena(&plan)?;
    let engine = arguments.running.engine(&workers);
    let mut session =
        Session::new(&model, &plan, &mut arena, engine).map_err(|error| image.refuse(error))?;
    warn_beyond_trained(&model, ids.len());
    feed(&mut session, &ids)?;

    let mut file = whole_file(&arguments.output).map_err(refuse_import)?;
    let mut bytes = Vec::new();
    session.save(&mut |part| {
        bytes.extend_from_slice(part);
        Ok(())
    })?;
    let written = file
        .write_all(&bytes)
        .and_then(|()| file.as_file().sync_all());
    written.map_err(|error| refuse_file(&arguments.output, error))?;
    file.persist(&arguments.output)
        .map_err(|error| refuse_file(&arguments.output, error.error))?;
    note(format_args!(
        "{} tokens, {} ({} bytes)",
        ids.len(),
        size::show(bytes.len() as u64),
        bytes.len()
    ));
    Ok(())
}
