#![no_std]
//! Requests in English, one a line, switch pins: what the programs for chips share. A program gives
//! [`serve`] a serial line and its pins. [`blink`] is another task beside it.
//!
//! The model turns a request into calls of tools, which obey a grammar. `pins.plm` is the model,
//! `pins.plg` the grammar of its tools, `tools.json`:
//!
//! ```text
//! pocketlm pack pins -o pins.plm --bytes 440000
//! pocketlm grammar tools.json --form functiongemma -o pins.plg
//! ```
//!
//! The checkpoint `pins` is not in the repository.

use core::fmt::Write as _;

use embassy_futures::yield_now;
use embassy_time::{Duration, Instant, Ticker};
use embedded_hal::digital::OutputPin;
use embedded_io_async::{Read, Write};
use heapless::String;
use pocketlm::generate::{Generation, Progress};
use pocketlm::grammar::{Constraint, Grammar, Vocabulary};
use pocketlm::model::{Kv, Model, Open};
use pocketlm::run::{Digest, Plan, Session, Solo, StaticArena, floats_are_ieee};
use pocketlm::sample::Sampler;
use pocketlm::text::{Call, EncodeOptions, Tokenizer, ToolForm, Value, scratch_len};

const IMAGE: &[u8] = pocketlm::include_image!("../pins.plm");
static GRAMMAR: &[u8] = include_bytes!("../pins.plg");

/// A request and its answer have room for 128 tokens. Four tokens of a request are computed
/// together.
const PLAN: Plan = Plan::of(IMAGE).context(128).batch(4).kv(Kv::Q8);
static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();

/// The longest request, in bytes.
const REQUEST: usize = 80;
/// The most text that a slice of work writes.
const WRITTEN: usize = 96;
/// The longest answer.
const ANSWER: usize = 256;

/// What the work of a slice costs, see `Session::step`. Other tasks wait as long as a slice takes.
const BUDGET: u32 = 300;
/// Bytes of the image that a slice of opening it checks.
const OPEN_BUDGET: usize = 4096;

/// A pin that requests can switch, with the number that they give it.
pub type Pin<P> = (i64, P);

/// Why a program cannot go on.
enum Failure<E> {
    /// An error of pocketlm.
    Model(pocketlm::Error),
    /// The serial line failed.
    Serial(E),
}

impl<E> From<pocketlm::Error> for Failure<E> {
    fn from(error: pocketlm::Error) -> Self {
        Failure::Model(error)
    }
}

/// Reads requests, answers them and switches pins, for ever. Returns only if the serial line fails,
/// or the model cannot be used; the line says why.
pub async fn serve<S: Read + Write, P: OutputPin>(mut serial: S, pins: &mut [Pin<P>]) {
    if let Err(Failure::Model(error)) = run(&mut serial, pins).await {
        let mut line = String::<WRITTEN>::new();
        _ = write!(line, "error: {error}\r\n");
        _ = serial.write_all(line.as_bytes()).await;
    }
}

/// Switches a pin every quarter of a second, to show that other tasks run while the model computes.
pub async fn blink(mut led: impl OutputPin) {
    let mut ticker = Ticker::every(Duration::from_millis(250));
    for high in [true, false].into_iter().cycle() {
        _ = led.set_state(high.into());
        ticker.next().await;
    }
}

async fn run<S: Read + Write, P: OutputPin>(
    serial: &mut S,
    pins: &mut [Pin<P>],
) -> Result<(), Failure<S::Error>> {
    if !floats_are_ieee() {
        print(serial, "floats are not IEEE 754: answers may differ\r\n").await?;
    }
    let model = open().await?;
    let tokenizer = model.tokenizer()?;
    let grammar = Grammar::open(GRAMMAR)?;
    let vocabulary = Vocabulary::new(&tokenizer);
    let Some(arena) = ARENA.take() else {
        return Ok(());
    };
    let mut session = Session::new(&model, &PLAN, arena, &Solo)?;
    loop {
        print(serial, "> ").await?;
        let request = read_line(serial).await?;
        let mut ids = [0; 96];
        let count = match prompt(&tokenizer, &request, &mut ids) {
            Ok(count) => count,
            Err(_) => {
                print(serial, "the request is too long\r\n").await?;
                continue;
            }
        };
        session.reset();
        let constraint = Constraint::new(&grammar, &vocabulary);
        let prompt = ids.get(..count).unwrap_or_default();
        let answer = answer(serial, &mut session, &tokenizer, constraint, prompt).await?;
        for call in Call::all(&answer, ToolForm::FunctionGemma) {
            act(serial, pins, call).await?;
        }
    }
}

/// Opens the image in slices: the check reads all of it.
async fn open() -> Result<Model<'static>, pocketlm::Error> {
    let mut open = Open::new(IMAGE)?;
    loop {
        if let Some(model) = open.step(OPEN_BUDGET)? {
            return Ok(model);
        }
        yield_now().await;
    }
}

/// Writes the answer to a prompt, and how long it took. The digest is of all logits: the same on
/// every machine.
async fn answer<S: Write>(
    serial: &mut S,
    session: &mut Session<'_, '_>,
    tokenizer: &Tokenizer<'_>,
    constraint: Constraint<'_>,
    prompt: &[u32],
) -> Result<String<ANSWER>, Failure<S::Error>> {
    let start = Instant::now();
    let mut digest = Digest::new();
    let mut look = |logits: &mut [f32]| {
        digest.update(logits);
        Ok(())
    };
    let mut answer = String::new();
    let mut sampler = Sampler::greedy();
    let mut generation = Generation::new(session, &mut sampler, tokenizer, prompt)
        .grammar(constraint)
        .filter(&mut look)
        .keep_special();
    loop {
        let mut text = String::<WRITTEN>::new();
        // What does not fit is dropped.
        let progress = generation.step(BUDGET, |chunk| _ = text.push_str(chunk))?;
        if !text.is_empty() {
            print(serial, &text).await?;
        }
        _ = answer.push_str(&text);
        if let Progress::Ended(_) = progress {
            break;
        }
        yield_now().await;
    }
    let tokens = generation.token_count();
    let mut line = String::<WRITTEN>::new();
    let (took, digest) = (start.elapsed().as_millis(), digest.value());
    _ = write!(
        line,
        "\r\n{tokens} tokens, {took} ms, digest {digest:016x}\r\n"
    );
    print(serial, &line).await?;
    Ok(answer)
}

/// The prompt of a request. Tags are special tokens; the request cannot contain them, because it is
/// encoded as plain text.
fn prompt(tokenizer: &Tokenizer, request: &str, ids: &mut [u32]) -> Result<usize, pocketlm::Error> {
    let mut scratch = [0; scratch_len(REQUEST)];
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

/// Does what a call says, and tells about it.
async fn act<S: Write, P: OutputPin>(
    serial: &mut S,
    pins: &mut [Pin<P>],
    call: Call<'_>,
) -> Result<(), Failure<S::Error>> {
    let mut line = String::<ANSWER>::new();
    let number = call
        .arguments()
        .find(|argument| argument.0 == "pin")
        .and_then(|argument| argument.1.integer());
    let high = call.name() == "pin_on";
    match number {
        Some(number) if high || call.name() == "pin_off" => {
            let state = if high { "high" } else { "low" };
            match pins.iter_mut().find(|pin| pin.0 == number) {
                Some((_, pin)) => {
                    _ = pin.set_state(high.into());
                    _ = write!(line, "pin {number} is {state}\r\n");
                }
                None => _ = write!(line, "there is no pin {number} here\r\n"),
            }
        }
        _ => {
            // Timers, sensors and so on are left to you.
            _ = write!(line, "{}", call.name());
            for (name, value) in call.arguments() {
                let (Value::Text(text) | Value::Escaped(text) | Value::Other(text)) = value;
                _ = write!(line, " {name} {text}");
            }
            _ = line.push_str("\r\n");
        }
    }
    print(serial, &line).await
}

/// Reads a line and echoes it. A backspace removes a character.
async fn read_line<S: Read + Write>(serial: &mut S) -> Result<String<REQUEST>, Failure<S::Error>> {
    let mut line = String::new();
    loop {
        let mut byte = [0];
        let count = serial.read(&mut byte).await.map_err(Failure::Serial)?;
        match byte[0] {
            _ if count == 0 => {}
            b'\r' | b'\n' if line.is_empty() => {}
            b'\r' | b'\n' => {
                print(serial, "\r\n").await?;
                return Ok(line);
            }
            8 | 127 if line.pop().is_some() => print(serial, "\x08 \x08").await?,
            byte @ b' '..=b'~' if line.push(byte.into()).is_ok() => {
                print(serial, line.get(line.len() - 1..).unwrap_or_default()).await?;
            }
            _ => {}
        }
    }
}

async fn print<S: Write>(serial: &mut S, text: &str) -> Result<(), Failure<S::Error>> {
    serial
        .write_all(text.as_bytes())
        .await
        .map_err(Failure::Serial)?;
    serial.flush().await.map_err(Failure::Serial)
}
