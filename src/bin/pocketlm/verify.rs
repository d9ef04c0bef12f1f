//! `pocketlm verify`: compares a model with the logits of a reference implementation.

use std::path::PathBuf;

use clap::Args;
use pocketlm::host::harness::Case;
use pocketlm::run::Session;

use crate::load::Image;
use crate::output::{Outcome, file_failure, print};
use crate::running::{LOGITS, Running, arena, not_a_number};

/// Run a golden case and report where the model diverges from the expected logits
#[derive(Args)]
#[command(after_help = "\
CASE is a folder with io.safetensors (tokens, logits_f64, optional token_positions and valid) or \
expected.safetensors (input_ids, logits, optional greedy_ids). The exit code is 1 if a logit \
differs from the expected one by more than the tolerance. Without --tolerance it is also 1 if the \
greedy continuation differs.

Examples:
  pocketlm verify goldens/hf/qwen3 goldens/hf/qwen3
  pocketlm verify qwen3-q8.plm goldens/hf/qwen3 --tolerance 0.3")]
pub struct Arguments {
    /// An image or a checkpoint
    model: PathBuf,

    /// The golden case, a folder
    case: PathBuf,

    /// The largest difference of a logit that passes [default: 5e-5 with io.safetensors, 2e-4 with
    /// expected.safetensors]
    #[arg(long, value_name = "T", value_parser = tolerance)]
    tolerance: Option<f64>,

    #[command(flatten)]
    running: Running,
}

fn tolerance(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|tolerance: &f64| *tolerance >= 0.0 && tolerance.is_finite())
        .ok_or("give a number, 0 or more".into())
}

pub fn verify(arguments: Arguments) -> Outcome {
    let case = Case::load(&arguments.case)?;
    let ours = arguments.case.join("io.safetensors").is_file();
    let tolerance = arguments
        .tolerance
        .unwrap_or(if ours { 5e-5 } else { 2e-4 });
    let image = Image::open(&arguments.model)?;
    let model = image.model()?;
    let vocab_size = model.config().vocab_size as usize;
    if let Some(logits) = case.vocab_size().filter(|&logits| logits != vocab_size) {
        let reason = format!("has {logits} logits for each token, the model has {vocab_size}");
        return Err(file_failure(&arguments.case, reason));
    }
    let workers = arguments.running.workers()?;
    let plan = arguments
        .running
        .plan(&model, case.context() as usize, &workers, LOGITS);
    let mut arena = arena(&plan)?;
    let engine = arguments.running.engine(&workers);
    let mut session =
        Session::new(&model, &plan, &mut arena, engine).map_err(|error| image.failure(error))?;
    let report = case
        .run(&mut session)
        .map_err(|error| file_failure(&arguments.case, error))?;

    if let Some((token, logit)) = report.not_a_number {
        return Err(image.failure(not_a_number(token, logit)));
    }
    print(format_args!("{report}"))?;
    if let Some(apart) = report.parts_at(tolerance) {
        return Err(image.failure(format_args!(
            "differs from {} at position {}: logit {} is {}, expected {} (difference {:.2e}, \
             tolerance {tolerance})",
            arguments.case.display(),
            apart.index,
            apart.id,
            apart.found,
            apart.expected,
            apart.size(),
        )));
    }
    // With a tolerance above rounding errors, the model may choose other tokens.
    if arguments.tolerance.is_none() && !report.greedy_agrees() {
        return Err(image.failure(format_args!(
            "its greedy continuation differs from that of {}",
            arguments.case.display()
        )));
    }
    print(format_args!("agrees within {tolerance}"))
}
