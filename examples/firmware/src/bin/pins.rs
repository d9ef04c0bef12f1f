#![no_std]
#![no_main]
//! Acts on requests in English. The model turns a request into calls of tools, which obey a
//! grammar, and the program turns each call into an action. The image is a model that writes calls
//! in FunctionGemma's form. `examples/chips/app` has such a model, `pins.plm`, and `pins.plg`, the
//! grammar of its tools:
//!
//! ```text
//! export POCKETLM_IMAGE=$PWD/../chips/app/pins.plm
//! cargo run --release --bin pins --config boards/mps2_an386.toml
//! ```
//!
//! A product would read requests from a serial line. Here they are part of the program.

use pocketlm::Error;
use pocketlm::generate::{Generation, PromptLookup};
use pocketlm::grammar::{Constraint, Grammar, Vocabulary};
use pocketlm::model::Model;
use pocketlm::run::{Plan, Session};
use pocketlm::sample::Sampler;
use pocketlm::text::{Call, EncodeOptions, Tokenizer, ToolForm, Value, scratch_len};
use pocketlm_firmware::board::{self, eprintln, print, println};
use pocketlm_firmware::image::{IMAGE, PLAN};

const REQUESTS: [&str; 4] = [
    "please turn on pin 5 and make the led purple",
    "what's the temperature?",
    "remind me about the tea in 4 minutes",
    "switch pin 99 on",
];

/// Up to eight tokens that the grammar forces are computed together.
const PINS: Plan = PLAN.context(192).batch(8).logits(8);
static GRAMMAR: &[u8] = include_bytes!("../../../chips/app/pins.plg");

/// The longest answer, in bytes.
const ANSWER: usize = 512;

pocketlm_firmware::entry!(pins, PINS.bytes());

fn pins(arena: &'static mut [u8]) -> bool {
    let result = obey(arena);
    if let Err(error) = result {
        eprintln!("error: {error}");
    }
    result.is_ok()
}

fn obey(arena: &mut [u8]) -> Result<(), Error> {
    let model = Model::open(IMAGE)?;
    let tokenizer = model.tokenizer()?;
    let grammar = Grammar::open(GRAMMAR)?;
    let vocabulary = Vocabulary::new(&tokenizer);
    let mut session = Session::new(&model, &PINS, arena, board::workers())?;
    for request in REQUESTS {
        println!("> {request}");
        let mut ids = [0; 128];
        let count = prompt(&tokenizer, request, &mut ids)?;
        session.reset();
        let mut sampler = Sampler::greedy();
        let mut answer = Answer {
            bytes: [0; ANSWER],
            length: 0,
        };
        let prompt = ids.get(..count).unwrap_or_default();
        let mut generation = Generation::new(&mut session, &mut sampler, &tokenizer, prompt)
            .grammar(Constraint::new(&grammar, &vocabulary))
            .keep_special();
        let (mut lookup, mut drafts) = (PromptLookup::new(), [0; 8]);
        let mut passes = 0;
        while generation.end().is_none() {
            generation.next_drafted(&mut lookup, &mut drafts, |text| answer.push(text))?;
            passes += 1;
        }
        println!(
            "{} ({} tokens, {passes} passes)",
            answer.text(),
            generation.token_count()
        );
        Call::all(answer.text(), ToolForm::FunctionGemma).for_each(act);
    }
    Ok(())
}

/// The prompt of a request. Tags are special tokens; the request cannot contain them, because it is
/// encoded as plain text.
fn prompt(tokenizer: &Tokenizer, request: &str, ids: &mut [u32]) -> Result<usize, Error> {
    let mut scratch = [0; scratch_len(128)];
    let mut count = 0;
    for (text, parse_special) in [
        ("<start_of_turn>user\n", true),
        (request, false),
        ("<end_of_turn>\n<start_of_turn>model\n", true),
    ] {
        let options = EncodeOptions {
            add_special_tokens: false,
            parse_special,
        };
        let rest = ids.get_mut(count..).unwrap_or_default();
        count += tokenizer.encode(text, options, &mut scratch, rest)?;
    }
    Ok(count)
}

/// Acts on a call. A product would set a register here.
fn act(call: Call) {
    let argument = |name: &str| call.arguments().find(|argument| argument.0 == name);
    let number = |name: &str| argument(name).and_then(|argument| argument.1.integer());
    match (call.name(), number("pin")) {
        ("pin_on", Some(pin)) => println!("GPIO {pin} is high"),
        ("pin_off", Some(pin)) => println!("GPIO {pin} is low"),
        (name, _) => {
            print!("{name}");
            for (name, value) in call.arguments() {
                let (Value::Text(text) | Value::Escaped(text) | Value::Other(text)) = value;
                print!(" {name} {text}");
            }
            println!("");
        }
    }
}

/// Text in a buffer. What does not fit is dropped.
struct Answer {
    bytes: [u8; ANSWER],
    length: usize,
}

impl Answer {
    fn push(&mut self, text: &str) {
        let end = self.length + text.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(text.as_bytes());
            self.length = end;
        }
    }

    fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    eprintln!("{info}");
    board::exit(false)
}
