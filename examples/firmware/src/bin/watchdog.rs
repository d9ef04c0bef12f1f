#![no_std]
#![no_main]
//! A model beside another task: a story in slices, and between any two of them a watchdog is fed
//! and a sensor is read. Prompt, decoding and sampling are all under the watchdog; opening the
//! image, which reads all of it once, comes before.

use pocketlm::Error;
use pocketlm::generate::{Generation, Progress};
use pocketlm::model::Model;
use pocketlm::run::{Plan, Session};
use pocketlm::sample::Sampler;
use pocketlm::text::{EncodeOptions, scratch_len};
use pocketlm_firmware::board::{self, Clock, eprintln, print, println};
use pocketlm_firmware::image::{IMAGE, PLAN};

const PROMPT: &str = "Once upon a time";
const TOKENS: usize = 40;
const STORY: Plan = PLAN.context(64).batch(1);
/// Units of work in a slice, see `Generation::step`.
const BUDGET: u32 = 64;
/// Instructions that may pass until the watchdog bites: 10 ms, if a core executes 100 million of
/// them a second.
const DEADLINE: u64 = 1_000_000;

pocketlm_firmware::entry!(watchdog, STORY.bytes());

fn watchdog(arena: &'static mut [u8]) -> bool {
    let mut task = Task {
        fed: Clock::start(),
        feeds: 0,
        longest: [0; 2],
    };
    let result = tell(arena, &mut task);
    if let Err(error) = result {
        eprintln!("error: {error}");
    }
    let [text, step] = task.longest;
    println!(
        "cost feeds {} longest text {text} step {step} deadline {DEADLINE}",
        task.feeds
    );
    result.is_ok() && task.longest.iter().all(|&longest| longest <= DEADLINE)
}

/// The other task. On a board of your own, `turn` feeds the hardware's watchdog.
struct Task {
    fed: Clock,
    feeds: u32,
    /// The most instructions between two feeds, for what was done between them.
    longest: [u64; 2],
}

#[derive(Clone, Copy)]
enum Work {
    Text,
    Step,
}

impl Task {
    fn turn(&mut self, after: Work) {
        let longest = &mut self.longest[after as usize];
        *longest = self.fed.instructions().max(*longest);
        self.feeds += 1;
        self.fed = Clock::start();
    }
}

fn tell(arena: &mut [u8], task: &mut Task) -> Result<(), Error> {
    let model = Model::open(IMAGE)?;
    let tokenizer = model.tokenizer()?;
    let mut session = Session::new(&model, &STORY, arena, board::workers())?;
    let mut sampler = Sampler::new(33).temperature(0.5).top_p(0.9);
    let mut ids = [0; 32];
    let mut scratch = [0; scratch_len(PROMPT.len())];

    // From here on the watchdog waits.
    task.fed = Clock::start();
    let count = tokenizer.encode(PROMPT, EncodeOptions::default(), &mut scratch, &mut ids)?;
    task.turn(Work::Text);
    let prompt = ids.get(..count).unwrap_or_default();
    print!("{PROMPT}");
    let mut generation =
        Generation::new(&mut session, &mut sampler, &tokenizer, prompt).limit(TOKENS);
    loop {
        let progress = generation.step(BUDGET, |text| print!("{text}"))?;
        task.turn(Work::Step);
        if let Progress::Ended(_) = progress {
            break;
        }
    }
    println!("");
    Ok(())
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    eprintln!("{info}");
    board::exit(false)
}
