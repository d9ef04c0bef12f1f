//! `pocketlm bench`: how fast a model runs here, and how near that is to what the memory allows.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use pocketlm::host::read_bandwidth;
use pocketlm::model::{Model, Role};
use pocketlm::run::{Plan, Session, Workers};
use serde_json::json;

use crate::generate::{Running, all_numbers, arena};
use crate::info::tensors;
use crate::load::Image;
use crate::number::whole;
use crate::output::{Outcome, counted, figure, print, print_json, refuse};

/// Measure the speed of prefill and decode, and the share of the memory's bandwidth that decode
/// uses
#[derive(Args)]
#[command(after_help = "\
A prompt of -p tokens is fed to an empty session, then -n tokens one by one, without sampling. \
Each speed is the median of -r rounds after a warm-up round. bytes_per_token is what one decoded \
token reads: all weights (of the embedding table one row, unless it is the output matrix too) and \
the keys and values of the context. bandwidth_share compares that read rate with a plain loop over \
memory with as many threads, measured in the same run. It can exceed 1 if the model fits the \
processor's cache, or where prefetching helps.

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
    let (prompt, number) = (arguments.prompt, arguments.number);
    let Some(context) = prompt.checked_add(number) else {
        return Err(refuse("more tokens than any context holds"));
    };
    let workers = arguments.running.workers()?;
    let plan = arguments
        .running
        .plan(&model, context as usize, &workers, 1);
    let mut arena = arena(&plan)?;
    let engine = arguments.running.engine(&workers);
    let mut session =
        Session::new(&model, &plan, &mut arena, engine).map_err(|error| image.refuse(error))?;

    // Which tokens makes no difference to the work; different ones read different rows of the
    // embedder.
    let vocabulary = u64::from(model.config().vocab_size);
    let id = |index: u32| (u64::from(index) * 7919 % vocabulary) as u32;
    let ids: Vec<u32> = (0..prompt).map(id).collect();
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
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
        all_numbers(context as usize - 1, logits).map_err(|reason| image.refuse(reason))?;
        if round > 0 {
            prefill.push(f64::from(prompt) / (prefilled - start).as_secs_f64());
            decode.push(f64::from(number) / (decoded - prefilled).as_secs_f64());
        }
    }
    let (prefill, decode) = (median(&mut prefill), median(&mut decode));
    let bytes = bytes_per_token(&model, &plan, prompt + number / 2);
    let bandwidth = read_bandwidth(&workers);
    let share = decode * bytes as f64 / bandwidth;
    for (what, value) in [
        ("the speed of prefill", prefill),
        ("the speed of decode", decode),
        ("the memory's bandwidth", bandwidth),
        ("the share of the bandwidth", share),
    ] {
        figure(what, value)?;
    }
    let (isa, threads) = (engine.isa.name(), workers.count());
    if arguments.json {
        return print_json(&json!({
            "prefill_tokens_per_s": prefill,
            "decode_tokens_per_s": decode,
            "bytes_per_token": bytes,
            "bandwidth_share": share,
            "bandwidth_bytes_per_s": bandwidth,
            "isa": isa,
            "threads": threads,
        }));
    }
    print(format_args!(
        "prefill     {prefill:.1} tokens/s, a prompt of {prompt}"
    ))?;
    print(format_args!(
        "decode      {decode:.1} tokens/s, {} after it",
        counted(number as usize, "token")
    ))?;
    print(format_args!(
        "reads       {:.1} MB a token, {:.1} GB/s",
        bytes as f64 / 1e6,
        decode * bytes as f64 / 1e9
    ))?;
    print(format_args!(
        "the memory  {:.1} GB/s, of which that is {:.0} %",
        bandwidth / 1e9,
        100.0 * share
    ))?;
    print(format_args!(
        "with        {isa}, {}",
        counted(threads, "thread")
    ))
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

/// What decoding reads at a context of `length` tokens: weights, and the keys and values that are
/// visible.
fn bytes_per_token(model: &Model, plan: &Plan, length: u32) -> u64 {
    let tied = model.config().tie_embedder_and_logits;
    let weights = tensors(model)
        .into_iter()
        .filter(|tensor| tied || tensor.role != Role::Embedder)
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
