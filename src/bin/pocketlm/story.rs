//! The built-in story: a whole program with only the core of the library, without heap, threads or
//! files. `cargo run` runs it in a fresh clone.

use std::io::{self, Write};
use std::process::ExitCode;

use pocketlm::generate::Generation;
use pocketlm::include_image;
use pocketlm::model::Model;
use pocketlm::run::{Plan, Session, Solo, StaticArena};
use pocketlm::sample::Sampler;
use pocketlm::text::{EncodeOptions, scratch_len};

/// The model: 1.38 million parameters, trained on children's stories. `story/README.md` is its
/// card.
pub const STORY: &[u8] = include_image!("story/story.plm");
/// How the story begins.
pub const PROMPT: &str = "Once upon a time";
/// The context length the model was trained with.
pub const CONTEXT: u32 = 256;

const PLAN: Plan = Plan::of(STORY).context(CONTEXT).batch(8);
static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();

/// Prints the story, the same one on every machine.
pub fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        eprintln!(
            "error: this build only tells its story; the full command line needs `cargo run \
             --features cli -- …`"
        );
        return ExitCode::from(2);
    }
    match tell() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tell() -> Result<(), pocketlm::Error> {
    let model = Model::open(STORY)?;
    let tokenizer = model.tokenizer()?;
    let mut session = Session::new(&model, &PLAN, ARENA.take().expect("main runs once"), &Solo)?;
    let mut sampler = Sampler::new(33).temperature(0.5).top_p(0.9);

    let mut ids = [0; 32];
    let mut scratch = [0; scratch_len(PROMPT.len())];
    let count = tokenizer.encode(PROMPT, EncodeOptions::default(), &mut scratch, &mut ids)?;

    // The reader may close the pipe, as `head` does.
    let mut closed = write(PROMPT).is_err();
    let mut generation = Generation::new(&mut session, &mut sampler, &tokenizer, &ids[..count]);
    while !closed && generation.end().is_none() {
        generation.next(|text| closed |= write(text).is_err())?;
    }
    _ = write("\n");
    Ok(())
}

fn write(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes())?;
    io::stdout().flush()
}
