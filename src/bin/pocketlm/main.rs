//! The `pocketlm` command line.
//!
//! With feature `cli`, each command has a file of its own; `load.rs` opens MODEL, and `output.rs`
//! prints results, messages and errors. Without the feature there is only `story.rs`, the smallest
//! example of the library.

#[cfg(feature = "cli")]
mod bench;
#[cfg(feature = "cli")]
mod board;
#[cfg(feature = "cli")]
mod c_header;
#[cfg(feature = "cli")]
mod chat;
#[cfg(feature = "cli")]
mod fit;
#[cfg(feature = "cli")]
mod grammar;
#[cfg(feature = "cli")]
mod info;
#[cfg(feature = "cli")]
mod input;
#[cfg(feature = "cli")]
mod load;
#[cfg(feature = "cli")]
mod logits;
#[cfg(feature = "cli")]
mod number;
#[cfg(feature = "cli")]
mod output;
#[cfg(feature = "cli")]
mod output_file;
#[cfg(feature = "cli")]
mod pack;
#[cfg(feature = "cli")]
mod perplexity;
#[cfg(feature = "cli")]
mod plan;
#[cfg(feature = "cli")]
mod run;
#[cfg(feature = "cli")]
mod running;
#[cfg(feature = "cli")]
mod sampling;
#[cfg(feature = "cli")]
mod size;
#[cfg(feature = "cli")]
mod snapshot;
#[cfg_attr(feature = "cli", allow(dead_code))] // `run` uses only its constants
mod story;
#[cfg(feature = "cli")]
mod svg;
#[cfg(feature = "cli")]
mod tokenize;
#[cfg(feature = "cli")]
mod trim;
#[cfg(feature = "cli")]
mod types;
#[cfg(feature = "cli")]
mod verify;

#[cfg(not(feature = "cli"))]
fn main() -> std::process::ExitCode {
    story::main()
}

#[cfg(feature = "cli")]
fn main() -> std::process::ExitCode {
    cli::main()
}

#[cfg(feature = "cli")]
mod cli {
    use std::any::TypeId;
    use std::path::PathBuf;
    use std::process::ExitCode;

    use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

    use super::*;
    use output::Failure;

    /// Runs Llama-, Mistral-, Gemma- and Qwen-family language models: the same image, the same code
    /// and the same bits on a Cortex-M, a Raspberry Pi and this machine.
    #[derive(Parser)]
    #[command(version, max_term_width = 100)]
    #[command(after_help = "\
MODEL is an image (.plm) or a checkpoint: a Hugging Face folder, a .gguf file, a llama2.c .bin, or \
a penzai-style folder. A checkpoint is packed in memory each time; `pocketlm pack` writes the \
image to a file once. If the environment variable POCKETLM_CACHE names a folder, packed images are \
kept there and used again until the checkpoint changes.

Data goes to stdout, everything else to stderr. Exit codes: 0 success, 1 error (one line says \
why), 2 wrong usage, 130 interrupted.

Start here:
  pocketlm run                                         the built-in model tells a story
  pocketlm run ./SmolLM2-135M -p 'The capital of France is' -n 20
  pocketlm pack ./SmolLM2-135M -o smol.plm --dtype q8
  pocketlm plan smol.plm --context 512 --ram 8M        does it fit my board?
  pocketlm fit ./my-model --board pico2                how small, and what does that cost?
  pocketlm chat smol.plm")]
    struct Arguments {
        #[command(subcommand)]
        command: Option<Command>,
    }

    #[derive(Subcommand)]
    enum Command {
        Pack(pack::Arguments),
        Info(info::Arguments),
        Plan(plan::Arguments),
        Fit(fit::Arguments),
        Run(run::Arguments),
        Chat(chat::Arguments),
        Snapshot(snapshot::Arguments),
        Grammar(grammar::Arguments),
        Tokenize(tokenize::Arguments),
        Logits(logits::Arguments),
        Perplexity(perplexity::Arguments),
        Bench(bench::Arguments),
        Verify(verify::Arguments),
    }

    /// Parses the command line. Prints help or a usage error and exits where that is needed.
    fn arguments() -> Arguments {
        // An option that takes a number accepts a value that begins with a minus sign, so that the
        // option itself can say what is wrong with it.
        let number = |argument: clap::Arg| {
            let value = argument.get_value_parser().type_id();
            let is_number = argument.get_action().takes_values()
                && !argument.is_positional()
                && value != TypeId::of::<PathBuf>()
                && value != TypeId::of::<String>();
            if is_number {
                argument.allow_hyphen_values(true)
            } else {
                argument
            }
        };
        let command = Arguments::command().mut_subcommands(|command| command.mut_args(number));
        Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }

    pub fn main() -> ExitCode {
        let Some(command) = arguments().command else {
            // If stdout is closed, its reader has read enough.
            _ = Arguments::command().print_help();
            return ExitCode::SUCCESS;
        };
        let outcome = match command {
            Command::Pack(arguments) => pack::pack(arguments),
            Command::Info(arguments) => info::info(arguments),
            Command::Plan(arguments) => plan::plan(arguments),
            Command::Fit(arguments) => fit::fit(arguments),
            Command::Run(arguments) => run::run(arguments),
            Command::Chat(arguments) => chat::chat(arguments),
            Command::Snapshot(arguments) => snapshot::snapshot(arguments),
            Command::Grammar(arguments) => grammar::grammar(arguments),
            Command::Tokenize(arguments) => tokenize::tokenize(arguments),
            Command::Logits(arguments) => logits::logits(arguments),
            Command::Perplexity(arguments) => perplexity::perplexity(arguments),
            Command::Bench(arguments) => bench::bench(arguments),
            Command::Verify(arguments) => verify::verify(arguments),
        };
        match outcome {
            Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
            Err(Failure::Refused(reason)) => {
                output::report(&reason);
                ExitCode::FAILURE
            }
            Err(Failure::Usage(reason)) => {
                output::report(&reason);
                ExitCode::from(2)
            }
            Err(Failure::Interrupted) => ExitCode::from(130),
        }
    }
}
