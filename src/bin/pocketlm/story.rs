//! The built-in story, told with the core alone: no heap, no threads, no files. It is the smallest
//! whole program around the library, and what `cargo run` does in a fresh clone.

use std::io::{self, Write};
use std::process::ExitCode;

use pocketlm::include_image;
use pocketlm::model::Model;
use pocketlm::run::{Plan, Session, Solo, StaticArena};
use pocketlm::sample::Sampler;
use pocketlm::text::{Decoder, EncodeOptions, scratch_len};

/// The model: 1.38 million parameters, trained on children's stories. `story/README.md` is its
/// card.
pub const STORY: &[u8] = include_image!("story/story.plm");
/// How the story begins.
pub const PROMPT: &str = "Once upon a time";
/// How many tokens the model was trained to overlook.
pub const CONTEXT: u32 = 256;

const PLAN: Plan = Plan::of(STORY).context(CONTEXT).batch(8);
static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();

/// Tells the story, the same one on every machine.
pub fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        eprintln!(
            "error: this build only tells its story; the full command line needs `cargo run --features cli -- …`"
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
    let tokenizer = model
        .tokenizer()?
        .expect("the story model was packed with its tokenizer");
    let mut session = Session::new(&model, &PLAN, ARENA.take().expect("main runs once"), &Solo)?;
    let mut sampler = Sampler::new(33).temperature(0.5).top_p(0.9);
    let mut decoder = Decoder::new(&tokenizer).skip_special(true);

    let mut ids = [0; 32];
    let mut scratch = [0; scratch_len(PROMPT.len())];
    let count = tokenizer.encode(PROMPT, EncodeOptions::default(), &mut scratch, &mut ids)?;
    let mut next = &ids[..count];
    let mut sampled;
    while session.len() + next.len() <= session.context() {
        for &id in next {
            // Whoever reads along may leave.
            if write!(io::stdout(), "{}", decoder.push(id)?)
                .and_then(|()| io::stdout().flush())
                .is_err()
            {
                return Ok(());
            }
        }
        sampled = [sampler.sample(session.feed(next)?)?];
        if tokenizer.is_eos(sampled[0]) {
            break;
        }
        next = &sampled;
    }
    _ = writeln!(io::stdout(), "{}", decoder.finish());
    Ok(())
}
