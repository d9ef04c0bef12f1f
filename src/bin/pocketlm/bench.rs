//! `pocketlm bench`: measures how fast a model runs on this machine, and what share of the memory's
//! bandwidth it uses.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use pocketlm::host::read_bandwidth;
use pocketlm::model::{Model, TensorKind};
use pocketlm::run::{Plan, Session, Workers};
use serde_json::{Value, json};

use crate::info::tensors;
use crate::load::Image;
use crate::number::whole;
use crate::output::{Outcome, counted, failure, figure, print, print_json};
use crate::running::{Running, all_numbers, arena};

/// Measure the speed of prefill and decode, and the share of the memory's bandwidth that decode
/// uses
#[derive(Args)]
#[command(after_help = "\
A prompt of -p tokens is fed to an empty session, then -n tokens one by one, without sampling. \
Each speed is the median of -r rounds after a warm-up round. bytes_per_token is how much memory \
one decoded token reads: all weights (only one row of the embedding table, unless it is also the \
output matrix) and the keys and values of the context. bandwidth_share is this rate as a share of \
the bandwidth that a plain loop over memory reaches with the same number of threads, measured in \
the same run. It can exceed 1 if the model fits the processor's cache, or where prefetching helps.

Examples:
  pocketlm bench smol.plm
  pocketlm bench smol.plm -p 128 -n 128 -t 1 --json")]
pub struct Arguments {
    /// An image or a checkpoint
    model: PathBuf,

    /// Tokens of the prompt
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = whole(1..=u32::MAX))]
    prompt: u32,

    /// Tokens decoded after it
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = whole(1..=u32::MAX))]
    number: u32,

    /// Rounds
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = whole(1..=u32::MAX))]
    rounds: u32,

    /// Write JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    running: Running,
}

pub fn bench(arguments: Arguments) -> Outcome {
    let image = Image::open(&arguments.model)?;
    let model = image.model()?;
    let prompt = arguments.prompt;
    let number = arguments.number;
    let Some(context) = prompt.checked_add(number) else {
        return Err(failure(
            "-p and -n are more tokens than a context can have; give smaller numbers",
        ));
    };
    let workers = arguments.running.workers()?;
    let plan = arguments
        .running
        .plan(&model, context as usize, &workers, 1);
    let mut arena = arena(&plan)?;
    let engine = arguments.running.engine(&workers);
    let mut session =
        Session::new(&model, &plan, &mut arena, engine).map_err(|error| image.failure(error))?;

    let speeds = measure(&mut session, &arguments, model.config().vocab_size, &image)?;
    let bytes = bytes_per_token(&model, &plan, prompt + number / 2);
    let bandwidth = read_bandwidth(&workers);
    let result = Measured {
        prefill: figure("the speed of prefill", speeds.prefill)?,
        decode: figure("the speed of decode", speeds.decode)?,
        bytes,
        bandwidth: figure("the memory's bandwidth", bandwidth)?,
        share: figure(
            "the share of the bandwidth",
            speeds.decode * bytes as f64 / bandwidth,
        )?,
        isa: engine.isa.name(),
        threads: workers.count(),
    };
    if arguments.json {
        print_json(&result.to_json())
    } else {
        result.print(&arguments)
    }
}

/// The medians of all rounds, in tokens a second.
struct Speeds {
    prefill: f64,
    decode: f64,
}

/// Runs the rounds. `image` is named in an error.
fn measure(
    session: &mut Session,
    arguments: &Arguments,
    vocab_size: u32,
    image: &Image,
) -> Outcome<Speeds> {
    // The work does not depend on the tokens, but different tokens read different rows of the
    // embedding table.
    let id = |index: u32| (u64::from(index) * 7919 % u64::from(vocab_size)) as u32;
    let prompt = arguments.prompt;
    let context = prompt + arguments.number;
    let ids: Vec<u32> = (0..prompt).map(id).collect();
    let mut prefill = Vec::new();
    let mut decode = Vec::new();
    for round in 0..=arguments.rounds {
        session.reset();
        let start = Instant::now();
        session.feed(&ids)?;
        let prefilled = Instant::now();
        for index in prompt..context - 1 {
            session.feed(&[id(index)])?;
        }
        let logits = session.feed(&[id(context - 1)])?;
        let decoded = Instant::now();
        all_numbers(context as usize - 1, logits).map_err(|reason| image.failure(reason))?;
        // The first round only fills the caches.
        if round > 0 {
            prefill.push(f64::from(prompt) / (prefilled - start).as_secs_f64());
            decode.push(f64::from(arguments.number) / (decoded - prefilled).as_secs_f64());
        }
    }
    Ok(Speeds {
        prefill: median(&mut prefill),
        decode: median(&mut decode),
    })
}

/// What is printed. Speeds are in tokens or bytes a second.
struct Measured {
    prefill: f64,
    decode: f64,
    /// How many bytes a decoded token reads.
    bytes: u64,
    bandwidth: f64,
    /// Of the bandwidth.
    share: f64,
    isa: &'static str,
    threads: usize,
}

impl Measured {
    fn to_json(&self) -> Value {
        json!({
            "prefill_tokens_per_s": self.prefill,
            "decode_tokens_per_s": self.decode,
            "bytes_per_token": self.bytes,
            "bandwidth_share": self.share,
            "bandwidth_bytes_per_s": self.bandwidth,
            "isa": self.isa,
            "threads": self.threads,
        })
    }

    fn print(&self, arguments: &Arguments) -> Outcome {
        print(format_args!(
            "prefill     {:.1} tokens/s, a prompt of {}",
            self.prefill, arguments.prompt
        ))?;
        print(format_args!(
            "decode      {:.1} tokens/s, {} after it",
            self.decode,
            counted(arguments.number as usize, "token")
        ))?;
        print(format_args!(
            "reads       {:.1} MB a token, {:.1} GB/s",
            self.bytes as f64 / 1e6,
            self.decode * self.bytes as f64 / 1e9
        ))?;
        print(format_args!(
            "the memory  {:.1} GB/s, of which that is {:.0} %",
            self.bandwidth / 1e9,
            100.0 * self.share
        ))?;
        print(format_args!(
            "with        {}, {}",
            self.isa,
            counted(self.threads, "thread")
        ))
    }
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len() % 2 == 1 {
        numbers[middle]
    } else {
        (numbers[middle - 1] + numbers[middle]) / 2.0
    }
}

/// How many bytes decoding a token reads after `length` tokens: the weights, and the keys and
/// values that attention sees.
fn bytes_per_token(model: &Model, plan: &Plan, length: u32) -> u64 {
    let tied = model.config().tie_embedder_and_logits;
    let weights = tensors(model)
        .into_iter()
        .filter(|tensor| tied || tensor.kind != TensorKind::Embedder)
        .map(|tensor| tensor.bytes);
    let cache = model.layers().iter().map(|layer| {
        let visible = layer
            .window
            .map_or(length, |window| length.min(window.get()));
        u64::from(visible) * plan.layer_cache_bytes(layer) as u64
            / plan.cache_rows(layer).max(1) as u64
    });
    weights.sum::<u64>() + cache.sum::<u64>()
}
