//! `pocketlm pack`: a checkpoint to an image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use pocketlm::host::{RefusedParts, is_image};
use pocketlm::import::tokenizer::KeepTokens;
use pocketlm::import::{self, Checkpoint, Description, ImportError, PackOptions, Packed, Trimmed};
use pocketlm::model::{DType, TensorId};
use pocketlm::quantize::{Agreement, Calibration, Quantized, measure, quantize};
use serde_json::{Map, Value, json};

use crate::output::{Failure, Outcome, byte_bar, file_failure, note, print_json, warn, weight_bar};
use crate::output_file::{Kind, OutputFile};
use crate::size;
use crate::trim::{Trim, text as text_of};
use crate::types::Types;

/// Write an image of a checkpoint: one file to flash, map or include in a program
#[derive(Args)]
#[command(after_help = "\
Without --dtype each matrix keeps the type that the checkpoint stores, or the nearest one. A line \
on stderr says how many matrices keep their values bit by bit, and how many are rounded. Norms \
and biases stay f32.

Bits a weight: f32 32, f16 and bf16 16, q8 8.5, q6 6.5, q5 5.5, q4 4.5, nl4 4.25, nl3 3.25. q8 \
has little effect on the output. nl4 is better than q4, though smaller. For q6, q5, q4, nl4 and \
nl3, some text is run through the checkpoint, and the weights are rounded so that the outputs on \
that text err little. This takes minutes. The last line says how far the image is from the \
checkpoint on text that was held out: the mean KL divergence in nats a token, and how often both \
think the same token the most probable. Weights that lie on the grid of --dtype already keep \
their values.

The text for this is a mixture that comes with the program (prose, stories, code, several \
languages), and with --calibrate up to 32,768 tokens of a text like those that the model will \
see. A checkpoint without a tokenizer cannot read text: then, and with --no-calibration, each \
weight goes to the nearest value of its type.

--bits and --bytes choose a type for each matrix: those that matter most get more bits. `pocketlm \
fit` compares several budgets.

Quantised folders (GPTQ, AWQ, compressed-tensors) with 4 bits stay at 4 bits. This loses nothing \
if they are symmetric or their scales are bf16. Otherwise the minima of some groups are rounded \
to f16; --dtype q8 avoids that. GPTQ with desc_act becomes q8.

The same checkpoint, options and text give the same bytes on every machine. IMAGE appears when it \
is complete. If packing fails or is interrupted, an older image stays as it was. (A process that \
is killed leaves a .pocketlm-*.partial file, which the next run removes.) Only an older image is \
replaced, never another file. If IMAGE is a symbolic link, its target is replaced. `-o -` writes \
to stdout.

--vocabulary drops the tokens that a text or a script does not need, and their rows of the \
embedding table and lm_head. Any text can still be written. A text of kept tokens has \
the same tokens as before, and the same logits if no calibration text is used. Text unlike the \
corpus takes more tokens: `pocketlm tokenize --report` counts them.

Examples:
  pocketlm pack ./SmolLM2-135M-Instruct -o smol.plm --dtype q8
  pocketlm pack gemma-3-270m-q4_k_m.gguf -o gemma.plm
  pocketlm pack ./SmolLM2-135M-Instruct -o smol.plm --dtype nl4 --calibrate manuals.txt
  pocketlm pack ./SmolLM2-135M-Instruct -o smol.plm --bytes 64M
  pocketlm pack gemma-3-270m-q4_k_m.gguf -o small.plm --vocabulary corpus.txt")]
pub struct Arguments {
    /// A Hugging Face folder, a .gguf file, a llama2.c .bin, or a penzai-style folder
    model: PathBuf,

    /// Where to write the image
    #[arg(short, long, value_name = "IMAGE")]
    output: PathBuf,

    #[command(flatten)]
    types: Types,

    #[command(flatten)]
    trim: Trim,

    /// A text, UTF-8, like those that the model will see; `-` reads stdin
    #[arg(long, value_name = "TEXT")]
    calibrate: Option<PathBuf>,

    /// Round each weight by itself: a matter of seconds, and far worse
    #[arg(long, conflicts_with = "calibrate")]
    no_calibration: bool,

    /// Write what came of it to stdout, in JSON
    #[arg(long)]
    json: bool,
}

pub fn pack(arguments: Arguments) -> Outcome {
    if is_image(&arguments.model) {
        return Err(file_failure(
            &arguments.model,
            "is an image already; pack the checkpoint it was made from",
        ));
    }
    let file = OutputFile::new(&arguments.output, Kind::Image, &arguments.inputs())?;
    if arguments.json && file.is_stdout() {
        return Err(Failure::Usage(
            "stdout takes the image or --json, not both".into(),
        ));
    }
    let keep = arguments.trim.keep()?;
    let checkpoint = import::open(&arguments.model)?;
    let trimmed = match keep {
        Some(keep) => Some(trimmed(&*checkpoint, &keep).map_err(|e| e.in_file(&arguments.model))?),
        None => None,
    };
    let checkpoint: &dyn Checkpoint = match &trimmed {
        Some(trimmed) => trimmed,
        None => &*checkpoint,
    };
    warn_of_refused_parts(checkpoint.description());
    let calibration = arguments.calibration(checkpoint.description())?;
    let types = &arguments.types;
    let options = types.options(&arguments.model, checkpoint, calibration.as_ref())?;
    let report = arguments.write(checkpoint, &options, calibration.as_ref(), &file)?;
    if arguments.json {
        return print_json(&report.json());
    }
    report.print(arguments.output_name(&file));
    Ok(())
}

/// The checkpoint with fewer tokens.
pub fn trimmed<'c>(
    checkpoint: &'c dyn Checkpoint,
    keep: &KeepTokens,
) -> Result<Trimmed<'c>, ImportError> {
    let trimmed = Trimmed::new(checkpoint, keep)?;
    let before = checkpoint.description().config.vocab_size;
    let kept = trimmed.kept().len();
    note(format_args!("{kept} of {before} tokens are kept"));
    Ok(trimmed)
}

fn warn_of_refused_parts(description: &Description) {
    let refused = RefusedParts::of(description);
    for (part, error) in [
        ("tokenizer", refused.tokenizer),
        ("chat template", refused.chat_template),
    ] {
        if let Some(error) = error {
            warn(format_args!("the image will hold no {part}: {error}"));
        }
    }
}

impl Arguments {
    /// The files that are read.
    fn inputs(&self) -> Vec<&Path> {
        let files = [self.calibrate.as_deref(), self.types.report()];
        let files = files.into_iter().flatten();
        let corpora = self.trim.corpora();
        corpora.chain(files).chain([&*self.model]).collect()
    }

    fn output_name<'a>(&'a self, file: &OutputFile) -> &'a Path {
        if file.is_stdout() {
            Path::new("standard output")
        } else {
            &self.output
        }
    }

    /// The tokens to calibrate with; `None` if they are not wanted, or the checkpoint cannot read
    /// text.
    fn calibration(&self, description: &Description) -> Outcome<Option<Calibration>> {
        match (self.types.are_rounded(), &self.calibrate) {
            (false, Some(text)) => {
                let reason = "not needed: calibration is for --dtype q6, q5, q4, nl4 and nl3";
                Err(file_failure(text, reason))
            }
            (false, None) => Ok(None),
            (true, _) if self.no_calibration => Ok(None),
            (true, text) => {
                let calibration = calibration(description, text.as_deref())?;
                if calibration.is_none() {
                    warn(
                        "the checkpoint has no tokenizer to read text with: each weight is rounded \
                         by itself",
                    );
                }
                Ok(calibration)
            }
        }
    }

    /// Packs the checkpoint into the file.
    fn write(
        &self,
        checkpoint: &dyn Checkpoint,
        options: &PackOptions,
        calibration: Option<&Calibration>,
        file: &OutputFile,
    ) -> Outcome<Report> {
        let in_model = |error: ImportError| error.in_file(&self.model);
        let quantized = quantized(checkpoint, options, calibration).map_err(in_model)?;
        let bar = byte_bar(format!("packing {}", self.model.display()), 0);
        let name = self.output_name(file);
        let (packed, bytes) = file.write(|file| {
            let packed = import::pack_into(&quantized, options, file, name, &mut |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            });
            bar.finish_and_clear();
            let packed = packed.map_err(in_model)?;
            let metadata = file.metadata();
            let bytes = metadata.map_err(|error| file_failure(name, error))?.len();
            Ok((packed, bytes))
        })?;
        let agreement = match calibration {
            Some(calibration) if packed.rounded > 0 => {
                Some(measure(checkpoint, &quantized, calibration).map_err(in_model)?)
            }
            _ => None,
        };
        if agreement.is_some_and(|agreement| !agreement.kl.is_finite()) {
            warn("on the held-out text the model computes what is not a number");
        }
        Ok(Report {
            bytes,
            bits: quantized.bits_per_weight(options).map_err(in_model)?,
            types: quantized.types(options).map_err(in_model)?,
            packed,
            agreement: agreement.filter(|agreement| agreement.kl.is_finite()),
        })
    }
}

/// What came of it.
struct Report {
    bytes: u64,
    bits: f64,
    types: BTreeMap<TensorId, DType>,
    packed: Packed,
    agreement: Option<Agreement>,
}

impl Report {
    fn json(&self) -> Value {
        let types = self.types.iter();
        let types: Map<String, Value> = types
            .map(|(id, dtype)| (id.to_string(), dtype.name().into()))
            .collect();
        let mut report = json!({
            "bytes": self.bytes,
            "bits_per_weight": self.bits,
            "exact": self.packed.exact,
            "rounded": self.packed.rounded,
            "types": types,
        });
        if let Some(Agreement { tokens, kl, top1 }) = self.agreement {
            report["tokens"] = tokens.into();
            report["kl"] = kl.into();
            report["top1"] = top1.into();
        }
        report
    }

    fn print(&self, name: &Path) {
        note(format_args!(
            "{}: {}, {:.2} bits a weight",
            name.display(),
            size::show(self.bytes),
            self.bits
        ));
        note(self.types());
        let Packed { exact, rounded } = self.packed;
        note(match (exact, rounded) {
            (exact, 0) => format!("all {exact} matrices keep their numbers bit by bit"),
            (exact, rounded) => format!(
                "{exact} of {} matrices keep their numbers bit by bit, {rounded} are rounded",
                exact + rounded
            ),
        });
        if let Some(Agreement { tokens, kl, top1 }) = self.agreement {
            note(format_args!(
                "KL {kl:.4} nats a token to the checkpoint, the same best token after {:.1} % of \
                 {tokens} held-out tokens",
                100.0 * top1
            ));
        }
    }

    /// How many matrices have each type, such as `types: 150 nl4, 61 q5`.
    fn types(&self) -> String {
        let mut counts: BTreeMap<u8, (DType, usize)> = BTreeMap::new();
        for dtype in self.types.values() {
            let count = counts.entry(*dtype as u8).or_insert((*dtype, 0));
            count.1 += 1;
        }
        let counts: Vec<String> = counts
            .values()
            .map(|(dtype, count)| format!("{count} {}", dtype.name()))
            .collect();
        format!("types of matrices: {}", counts.join(", "))
    }
}

/// The tokens to calibrate with; `None` if the checkpoint cannot read text.
pub fn calibration(description: &Description, text: Option<&Path>) -> Outcome<Option<Calibration>> {
    let Some(path) = text else {
        return Ok(Calibration::new(description, None)?);
    };
    let text = text_of(path)?;
    let calibration = Calibration::new(description, Some(&text));
    match calibration.map_err(|error| error.in_file(path))? {
        Some(calibration) => Ok(Some(calibration)),
        None => Err(file_failure(
            path,
            "the checkpoint has no tokenizer to read this text with",
        )),
    }
}

/// Rounds what is to be rounded, with a bar.
pub fn quantized<'c>(
    checkpoint: &'c dyn Checkpoint,
    options: &PackOptions,
    calibration: Option<&Calibration>,
) -> Result<Quantized<'c>, ImportError> {
    let bar = weight_bar("calibrating".into());
    let quantized = quantize(checkpoint, options, calibration, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        let error = progress
            .error
            .map(|error| format!(", error {:.2} %", 100.0 * error.sqrt()));
        bar.set_message(format!("{}{}", progress.matrix, error.unwrap_or_default()));
    });
    bar.finish_and_clear();
    quantized
}
