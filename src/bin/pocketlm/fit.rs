//! `pocketlm fit`: which types make a model fit a board, and what each choice costs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use pocketlm::host::is_image;
use pocketlm::import::{self, Checkpoint, ImportError, PackOptions};
use pocketlm::model::{DType, Kv, Model, TensorId, TensorKind};
use pocketlm::quantize::{Agreement, Calibration, Sensitivity, measure};
use pocketlm::run::Plan;
use serde_json::{Value, json};

use crate::board::{self, Board};
use crate::number::whole;
use crate::output::{Failure, Outcome, failure, file_failure, note, print, print_json};
use crate::output_file::{Kind, OutputFile};
use crate::pack::{calibration, quantized, trimmed};
use crate::running::kv;
use crate::trim::Trim;
use crate::types::{Budget, sensitivity, types_for};
use crate::{size, svg};

/// Find the types with which a model fits a board, and what each choice costs
#[derive(Args)]
#[command(after_help = "\
Packs MODEL under several budgets of bits, in memory, and shows those that fit the flash: how \
large the image is, how many bytes of weights a token reads, and how far the model is from the \
checkpoint on held-out text (the mean KL divergence in nats a token, and how often both think the \
same token the most probable). The last row uses all of the flash. Below the table are the \
commands that write the images. This packs the model up to ten times: seconds for a model of a \
million weights, many minutes for one of a hundred million.

With --board the code and the stack of pocketlm are counted, as `pocketlm plan` counts them. \
Weights stay in flash, so their types have no effect on RAM.

Examples:
  pocketlm fit ./my-model --board stm32f411 --context 128
  pocketlm fit ./gemma-3-270m --flash 128M --ram 8M --vocabulary corpus.txt --svg fit.svg")]
pub struct Arguments {
    /// A Hugging Face folder, a .gguf file, a llama2.c .bin, or a penzai-style folder
    model: PathBuf,

    /// Take the flash and RAM of this board, less the code and the stack of pocketlm
    #[arg(long, value_name = "NAME", value_parser = board::parser())]
    board: Option<&'static Board>,

    /// The flash that is available
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    flash: Option<u64>,

    /// The RAM that is available
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    ram: Option<u64>,

    /// Room for N tokens
    #[arg(short, long, value_name = "N", default_value_t = 256, value_parser = whole(1..=u32::MAX))]
    context: u32,

    /// The type of stored keys and values: f32, f16, bf16 or q8
    #[arg(long, value_name = "TYPE", default_value = "q8", value_parser = kv)]
    kv: Kv,

    #[command(flatten)]
    trim: Trim,

    /// A text, UTF-8, like those that the model will see; `-` reads stdin
    #[arg(long, value_name = "TEXT")]
    calibrate: Option<PathBuf>,

    /// Write JSON
    #[arg(long)]
    json: bool,

    /// Draw the sizes and their costs as well: a new file or an older chart. `-` is stdout, in
    /// place of the table
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// The budgets that are tried, in bits a weight.
const BITS: [f64; 9] = [3.25, 3.5, 3.75, 4.0, 4.25, 4.5, 5.5, 6.5, 8.5];

/// An image that fits.
struct Choice {
    budget: Budget,
    bits: f64,
    image: u64,
    /// Bytes of weights that a token reads.
    read: u64,
    agreement: Agreement,
}

/// The arena.
struct Ram {
    bytes: u64,
    limit: Option<u64>,
    /// The longest context that fits the limit.
    longest: Option<u32>,
}

pub fn fit(arguments: Arguments) -> Outcome {
    if is_image(&arguments.model) {
        return Err(file_failure(
            &arguments.model,
            "is an image already; give the checkpoint it was made from",
        ));
    }
    let chart = match &arguments.svg {
        Some(path) => Some(OutputFile::new(path, Kind::Chart, &arguments.inputs())?),
        None => None,
    };
    let chart_alone = chart.as_ref().is_some_and(OutputFile::is_stdout);
    if chart_alone && arguments.json {
        return Err(Failure::Usage(
            "--json and --svg both write to standard output; name a file for the chart".into(),
        ));
    }
    let keep = arguments.trim.keep()?;
    let whole = import::open(&arguments.model)?;
    let trimmed = match keep {
        Some(keep) => Some(trimmed(&*whole, &keep).map_err(|e| e.in_file(&arguments.model))?),
        None => None,
    };
    let checkpoint: &dyn Checkpoint = match &trimmed {
        Some(trimmed) => trimmed,
        None => &*whole,
    };
    let (choices, ram) = arguments.choices(checkpoint)?;
    if arguments.json {
        print_json(&arguments.to_json(&choices, &ram))?;
    } else if !chart_alone {
        arguments.print(&choices, &ram)?;
    }
    if let Some(output) = &chart {
        let drawn = arguments.chart(&choices);
        output.write(|file| {
            let written = file.write_all(drawn.as_bytes());
            written.map_err(|error| output.cannot_write(error))
        })?;
    }
    match ram.limit.filter(|limit| ram.bytes > *limit) {
        None => Ok(()),
        Some(limit) => Err(failure(format_args!(
            "RAM: a context of {} takes {}, of {}; use a shorter --context or --kv q8",
            arguments.context,
            size::show(ram.bytes),
            size::show(limit)
        ))),
    }
}

impl Arguments {
    /// The files that are read.
    fn inputs(&self) -> Vec<&Path> {
        let corpora = self.trim.corpora();
        let text = self.calibrate.as_deref();
        corpora.chain(text).chain([&*self.model]).collect()
    }

    /// The bytes of flash that an image may take.
    fn room(&self) -> Option<u64> {
        let flash = self.flash.or(self.board.map(|board| board.flash))?;
        Some(flash.saturating_sub(self.board.map_or(0, |board| board.core.code)))
    }

    /// Packs the checkpoint under each budget.
    fn choices(&self, checkpoint: &dyn Checkpoint) -> Outcome<(Vec<Choice>, Ram)> {
        let in_model = |error: ImportError| error.in_file(&self.model);
        let text = self.calibrate.as_deref();
        let calibration = calibration(checkpoint.description(), text)?.ok_or_else(|| {
            let reason = "has no tokenizer, and text is needed to compare types";
            file_failure(&self.model, reason)
        })?;
        let sensitivity = sensitivity(checkpoint, &calibration).map_err(in_model)?;
        let mut choices = Vec::new();
        let mut ram = None;
        for (budget, types) in self.budgets(checkpoint, &sensitivity)? {
            let (choice, model_ram) = self.choice(checkpoint, budget, types, &calibration)?;
            choices.push(choice);
            ram = Some(model_ram);
        }
        let ram = ram.ok_or_else(|| failure("no budget gives an image"))?;
        Ok((choices, ram))
    }

    /// The budgets that differ and whose images fit, small ones first, with their types.
    fn budgets(
        &self,
        checkpoint: &dyn Checkpoint,
        sensitivity: &Sensitivity,
    ) -> Outcome<Vec<(Budget, BTreeMap<TensorId, DType>)>> {
        let mut found: Vec<(Budget, BTreeMap<TensorId, DType>)> = Vec::new();
        let room = self.room();
        let by_bits = BITS.iter().map(|bits| Budget::Bits(*bits));
        for budget in by_bits.chain(room.map(Budget::Bytes)) {
            let types = match types_for(checkpoint, sensitivity, budget) {
                Ok(types) => types,
                // Says what the least is.
                Err(error) if matches!(budget, Budget::Bytes(_)) && found.is_empty() => {
                    return Err(error);
                }
                Err(_) => continue,
            };
            let options = PackOptions {
                types: types.clone(),
                ..PackOptions::default()
            };
            let fits = room.is_none_or(|room| {
                import::image_bytes(checkpoint, &options).is_ok_and(|bytes| bytes <= room)
            });
            let is_new = found.last().is_none_or(|(_, last)| *last != types);
            if fits && is_new {
                found.push((budget, types));
            }
        }
        Ok(found)
    }

    fn choice(
        &self,
        checkpoint: &dyn Checkpoint,
        budget: Budget,
        types: BTreeMap<TensorId, DType>,
        calibration: &Calibration,
    ) -> Outcome<(Choice, Ram)> {
        let in_model = |error: ImportError| error.in_file(&self.model);
        let options = PackOptions {
            types,
            ..PackOptions::default()
        };
        let quantized = quantized(checkpoint, &options, Some(calibration)).map_err(in_model)?;
        let agreement = measure(checkpoint, &quantized, calibration).map_err(in_model)?;
        let bits = quantized.bits_per_weight(&options).map_err(in_model)?;
        let image = import::pack_to_memory(&quantized, &options, &mut |_, _| {});
        let image = image.map_err(in_model)?;
        let model = Model::open(&image)?;
        note(format_args!(
            "{bits:.2} bits a weight: KL {:.4}",
            agreement.kl
        ));
        let choice = Choice {
            budget,
            bits,
            image: image.len() as u64,
            read: read_by_a_token(&model),
            agreement,
        };
        Ok((choice, self.ram(&model)))
    }

    fn ram(&self, model: &Model) -> Ram {
        let stack = self.board.map_or(0, |_| board::STACK);
        let limit = self.ram.or(self.board.map(|board| board.ram));
        let bytes = |context: u32| {
            let plan = Plan::new(model.header()).context(context).kv(self.kv);
            plan.bytes() as u64 + stack
        };
        Ram {
            bytes: bytes(self.context),
            limit,
            longest: limit.map(|limit| longest(|context| bytes(context) <= limit)),
        }
    }

    fn command(&self, choice: &Choice) -> String {
        let budget = match choice.budget {
            Budget::Bits(bits) => format!("--bits {bits}"),
            Budget::Bytes(bytes) => format!("--bytes {bytes}"),
        };
        let mut command = format!("pocketlm pack {} -o IMAGE {budget}", self.model.display());
        if let Some(text) = &self.calibrate {
            command += &format!(" --calibrate {}", text.display());
        }
        command + &self.trim.as_typed()
    }

    fn print(&self, choices: &[Choice], ram: &Ram) -> Outcome {
        print(format_args!(
            "{:>5}  {:>10}  {:>10}  {:>12}  {:>7}  {:>9}",
            "bits", "image", "free flash", "read a token", "KL", "same best"
        ))?;
        for choice in choices {
            let free = self.room().map(|room| size::show(room - choice.image));
            print(format_args!(
                "{:>5.2}  {:>10}  {:>10}  {:>12}  {:>7.4}  {:>7.1} %",
                choice.bits,
                size::show(choice.image),
                free.unwrap_or("-".into()),
                size::show(choice.read),
                choice.agreement.kl,
                100.0 * choice.agreement.top1
            ))?;
        }
        let of_limit = match (ram.limit, ram.longest) {
            (Some(limit), Some(longest)) => {
                format!(
                    " of {}; the longest that fits is {longest}",
                    size::show(limit)
                )
            }
            _ => String::new(),
        };
        print(format_args!(
            "\nRAM for a context of {} with {} keys and values: {}{of_limit}\n",
            self.context,
            self.kv.dtype().name(),
            size::show(ram.bytes)
        ))?;
        for choice in choices {
            print(self.command(choice))?;
        }
        Ok(())
    }

    fn to_json(&self, choices: &[Choice], ram: &Ram) -> Value {
        let choice = |choice: &Choice| {
            json!({
                "bits_per_weight": choice.bits,
                "bytes": choice.image,
                "read_per_token": choice.read,
                "kl": choice.agreement.kl,
                "top1": choice.agreement.top1,
                "command": self.command(choice),
            })
        };
        json!({
            "flash": self.room(),
            "choices": choices.iter().map(choice).collect::<Vec<_>>(),
            "context": self.context,
            "kv": self.kv.dtype().name(),
            "ram": ram.bytes,
            "ram_limit": ram.limit,
            "longest_context": ram.longest,
        })
    }

    fn chart(&self, choices: &[Choice]) -> String {
        let points: Vec<svg::Point> = choices
            .iter()
            .map(|choice| svg::Point {
                label: format!("{:.2} bits", choice.bits),
                bytes: choice.image,
                kl: choice.agreement.kl,
            })
            .collect();
        let name = self.model.display();
        svg::frontier(&format!("{name}: size and accuracy"), &points, self.room())
    }
}

/// The bytes of matrices that a token reads: all but the embedding table, of which it reads a row,
/// unless that is the output matrix as well.
fn read_by_a_token(model: &Model) -> u64 {
    let is_tied = model.config().tie_embedder_and_logits;
    let is_read =
        |id: &TensorId| id.kind.is_matrix() && (id.kind != TensorKind::Embedder || is_tied);
    let bytes = |id: TensorId| {
        let (dtype, rows, columns) = model.tensor_type(id)?;
        dtype.matrix_bytes(rows, columns)
    };
    let bytes: usize = model.tensors().filter(is_read).filter_map(bytes).sum();
    bytes as u64
}

/// The largest number for which `fits` is true, if it is true of all smaller ones.
fn longest(fits: impl Fn(u32) -> bool) -> u32 {
    let (mut least, mut most) = (0u32, 1 << 24);
    while least < most {
        let middle = (least + most).div_ceil(2);
        if fits(middle) {
            least = middle;
        } else {
            most = middle - 1;
        }
    }
    least
}
