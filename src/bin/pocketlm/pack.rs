//! `pocketlm pack`: a checkpoint to an image.

use std::path::{Path, PathBuf};

use clap::Args;
use pocketlm::host::{RefusedParts, is_image};
use pocketlm::import::{self, Checkpoint, ImportError, PackOptions, Packed, Trimmed};
use pocketlm::model::DType;

use crate::output::{Outcome, byte_bar, note, refuse_file, warn};
use crate::output_file::{Kind, OutputFile};
use crate::size;
use crate::vocabulary::Vocabulary;

/// Write an image of a checkpoint: one file to flash, map or include in a program
#[derive(Args)]
#[command(after_help = "\
Without --dtype each matrix keeps the type that the checkpoint stores, or the nearest one. A line on stderr says how \
many matrices keep their values bit by bit, and how many are rounded. q8 halves the size of f16 with little effect on \
the output; q4 quarters it, and you will notice. Norms and biases stay f32.

Quantised folders (GPTQ, AWQ, compressed-tensors) with 4 bits stay at 4 bits. This loses nothing if they are symmetric \
or their scales are bf16. Otherwise the minima of some groups are rounded to f16; --dtype q8 avoids that. GPTQ with \
desc_act becomes q8.

The same checkpoint and options give the same bytes on every machine. IMAGE appears when it is complete. If packing \
fails or is interrupted, an older image stays as it was. (A process that is killed leaves a .pocketlm-*.partial file, \
which the next run removes.) Only an older image is replaced, never another file. If IMAGE is a symbolic link, its \
target is replaced. `-o -` writes to stdout.

--vocabulary drops the tokens that a text or a script does not need, and their rows of the \
embedding table and the output matrix. Any text can still be written. A text of kept tokens has \
the same tokens and the same logits as before. Text unlike the corpus takes more tokens: \
`pocketlm tokenize --report` counts them.

Examples:
  pocketlm pack ./SmolLM2-135M-Instruct -o smol.plm --dtype q8
  pocketlm pack gemma-3-270m-q4_k_m.gguf -o gemma.plm
  pocketlm pack ./gemma-3-270m -o gemma.plm --dtype q4 --embedder-dtype q8
  pocketlm pack gemma-3-270m-q4_k_m.gguf -o small.plm --vocabulary corpus.txt")]
pub struct Arguments {
    /// A Hugging Face folder, a .gguf file, a llama2.c .bin, or a penzai-style folder
    model: PathBuf,

    /// Where to write the image
    #[arg(short, long, value_name = "IMAGE")]
    output: PathBuf,

    /// The type of all matrices: f32, f16, bf16, q8 or q4 [default: what the checkpoint stores]
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    dtype: Option<DType>,

    /// The type of the embedding table and of the output matrix [default: as --dtype]
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    embedder_dtype: Option<DType>,

    #[command(flatten)]
    vocabulary: Vocabulary,
}

fn dtype(name: &str) -> Result<DType, String> {
    let offered = [DType::F32, DType::F16, DType::Bf16, DType::Q8, DType::Q4];
    offered
        .into_iter()
        .find(|dtype| dtype.name() == name)
        .ok_or("choose one of f32, f16, bf16, q8, q4".into())
}

pub fn pack(arguments: Arguments) -> Outcome {
    let Arguments {
        model,
        output,
        dtype,
        embedder_dtype,
        vocabulary,
    } = arguments;
    if is_image(&model) {
        return Err(refuse_file(
            &model,
            "is an image already; pack the checkpoint it was made from",
        ));
    }
    let inputs: Vec<&Path> = vocabulary.corpora().chain([&*model]).collect();
    let file = OutputFile::new(&output, Kind::Image, &inputs)?;
    let keep = vocabulary.keep()?;
    let checkpoint = import::open(&model)?;
    let in_model = |error: ImportError| error.in_file(&model);
    let trimmed = match keep {
        Some(keep) => Some(Trimmed::new(&*checkpoint, &keep).map_err(in_model)?),
        None => None,
    };
    if let Some(trimmed) = &trimmed {
        let before = checkpoint.description().config.vocab_size;
        let kept = trimmed.kept().len();
        note(format_args!("{kept} of {before} tokens are kept"));
    }
    let checkpoint: &dyn Checkpoint = match &trimmed {
        Some(trimmed) => trimmed,
        None => &*checkpoint,
    };
    let refused = RefusedParts::of(checkpoint.description());
    for (part, error) in [
        ("tokenizer", refused.tokenizer),
        ("chat template", refused.chat_template),
    ] {
        if let Some(error) = error {
            warn(format_args!("the image will hold no {part}: {error}"));
        }
    }
    let bar = byte_bar(format!("packing {}", model.display()), 0);
    let options = PackOptions {
        dtype,
        embedder_dtype,
    };
    let name = if file.is_stdout() {
        Path::new("standard output")
    } else {
        &output
    };
    let (packed, bytes) = file.write(|file| {
        let packed = import::pack_into(checkpoint, &options, file, name, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let packed = packed.map_err(in_model)?;
        let metadata = file.metadata();
        let bytes = metadata.map_err(|error| refuse_file(name, error))?.len();
        Ok((packed, bytes))
    })?;
    let Packed { exact, rounded } = packed;
    note(format_args!("{}: {}", name.display(), size::show(bytes)));
    note(match (exact, rounded) {
        (exact, 0) => format!("all {exact} matrices keep their numbers bit by bit"),
        (exact, rounded) => format!(
            "{exact} of {} matrices keep their numbers bit by bit, {rounded} are rounded to the nearest",
            exact + rounded
        ),
    });
    Ok(())
}
