//! `pocketlm plan`: shows the flash and RAM that a model needs.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use pocketlm::grammar::Grammar;
use pocketlm::model::{Kv, LayerKind, Model, Section};
use pocketlm::run::Plan;
use serde_json::{Map, Value, json};

use crate::board::{self, Board};
use crate::load::Image;
use crate::number::whole;
use crate::output::{Failure, Outcome, counted, failure, print, print_json};
use crate::output_file::{Kind, OutputFile};
use crate::running::{kv, warn_beyond_trained};
use crate::svg::{self, Bar};
use crate::{c_header, grammar, info, size};

/// Show what every byte of flash and RAM is used for, and whether it fits
#[derive(Args)]
#[command(after_help = "\
Sizes are bytes, or K, M, G (also KiB, MiB, GiB; powers of 1024) or KB, MB, GB (powers of 1000). \
Exit code 1 if the total is larger than --flash or --ram. The total is the image and the arena. \
With --board it includes the code and the stack of pocketlm, as measured for the board's \
instruction set (the whole core with tokenizer and sampler, optimised for size). Add your own \
code, stack and data.

Examples:
  pocketlm plan smol.plm --context 512
  pocketlm plan story.plm --context 256 --kv q8 --board pico2
  pocketlm plan story.plm --context 256 --batch 4 --kv q8 --flash 2M --ram 264K
  pocketlm plan gemma.plm --context 2048 --svg memory.svg
  pocketlm plan story.plm --context 256 --kv q8 --c-header story.h")]
pub struct Arguments {
    /// An image or a checkpoint
    model: PathBuf,

    /// Room for N tokens
    #[arg(short, long, value_name = "N", value_parser = whole(1..=u32::MAX))]
    context: u32,

    /// Tokens of a prompt that are computed together
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = whole(1..=u32::MAX))]
    batch: u32,

    /// Room for the logits of N tokens at once: 1, and one more for each drafted token
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1..=u32::MAX))]
    logits: u32,

    /// The type of stored keys and values: f32, f16, bf16 or q8
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = kv)]
    kv: Kv,

    /// Add a grammar that `pocketlm grammar` wrote
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,

    /// Add pocketlm's code and stack on this board, and take the board's flash and RAM as limits
    #[arg(long, value_name = "NAME", value_parser = board::parser())]
    board: Option<&'static Board>,

    /// The flash that is available
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    flash: Option<u64>,

    /// The RAM that is available
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    ram: Option<u64>,

    /// Write JSON
    #[arg(long)]
    json: bool,

    /// Draw a bar chart as well: a new file or an older chart. `-` is stdout, in place of the table
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Write the sizes for C as well: a new file or an older header. `-` is stdout, in place of the
    /// table
    #[arg(long, value_name = "FILE")]
    c_header: Option<PathBuf>,
}

pub fn plan(arguments: Arguments) -> Outcome {
    let output = |path: &Option<PathBuf>, kind| match path {
        Some(path) => OutputFile::new(path, kind, &[&arguments.model]).map(Some),
        None => Ok(None),
    };
    let chart = output(&arguments.svg, Kind::Chart)?;
    let c_header = output(&arguments.c_header, Kind::CHeader)?;
    let table_is_shown = arguments.table_is_shown(&chart, &c_header)?;
    let image = Image::open(&arguments.model)?;
    let model = image.model()?;
    let plan = Plan::new(model.header())
        .context(arguments.context)
        .batch(arguments.batch);
    let plan = plan.logits(arguments.logits).kv(arguments.kv);
    if plan.bytes() == usize::MAX {
        return Err(failure(
            "no memory can hold this plan; use a smaller --context, --batch or --logits",
        ));
    }
    let mut flash = arguments.flash(&model, image.len() as u64);
    let mut ram = arguments.ram(&model, &plan);
    if let Some(path) = &arguments.grammar {
        add_grammar(&mut flash, &mut ram, path)?;
    }

    if arguments.json {
        print_json(&arguments.to_json(&flash, &ram))?;
    } else if table_is_shown {
        flash.print()?;
        print("")?;
        ram.print()?;
    }
    if let Some(output) = &chart {
        write(output, &arguments.chart(&image.name, [&flash, &ram]))?;
    }
    if let Some(output) = &c_header {
        let header = c_header::header(&arguments.model, &image, &model, &plan);
        write(output, &header)?;
    }
    must_fit(&flash, &ram)?;
    warn_beyond_trained(&model, arguments.context as usize);
    Ok(())
}

fn write(output: &OutputFile, text: &str) -> Outcome {
    output.write(|file| {
        let written = file.write_all(text.as_bytes());
        written.map_err(|error| output.cannot_write(error))
    })
}

/// Adds the parts of a grammar.
fn add_grammar(flash: &mut Memory, ram: &mut Memory, path: &Path) -> Outcome {
    let part = |label: &str, bytes| Part {
        key: "grammar".into(),
        label: label.into(),
        bytes,
    };
    let compiled = grammar::compiled_len(path)?;
    flash.parts.push(part("grammar", compiled));
    let place = Grammar::CONSTRAINT_BYTES as u64;
    ram.parts
        .push(part("grammar: the place of the text in it", place));
    Ok(())
}

impl Arguments {
    /// Whether standard output holds the table. It holds one thing: the table, JSON, the chart or
    /// the header.
    fn table_is_shown(
        &self,
        chart: &Option<OutputFile>,
        c_header: &Option<OutputFile>,
    ) -> Outcome<bool> {
        let is_stdout =
            |output: &Option<OutputFile>| output.as_ref().is_some_and(OutputFile::is_stdout);
        let shown: Vec<&str> = [
            ("--json", self.json),
            ("--svg", is_stdout(chart)),
            ("--c-header", is_stdout(c_header)),
        ]
        .into_iter()
        .filter_map(|(option, is_shown)| is_shown.then_some(option))
        .collect();
        if let [first, second, ..] = shown[..] {
            return Err(Failure::Usage(format!(
                "{first} and {second} both write to standard output; name a file for {second}"
            )));
        }
        Ok(shown.is_empty())
    }

    /// What flash holds.
    fn flash(&self, model: &Model, image: u64) -> Memory {
        let mut memory = Memory {
            name: "flash",
            parts: flash(model, image),
            limit: self.flash,
        };
        if let Some(board) = self.board {
            let label = format!("code of pocketlm on {}", board.core.name);
            memory.add_board("code", label, board.core.code, board.flash);
        }
        memory
    }

    /// What RAM holds.
    fn ram(&self, model: &Model, plan: &Plan) -> Memory {
        let mut memory = Memory {
            name: "RAM",
            parts: ram(model, plan),
            limit: self.ram,
        };
        if let Some(board) = self.board {
            let label = "stack of pocketlm".into();
            memory.add_board("stack", label, board::STACK, board.ram);
        }
        memory
    }

    fn to_json(&self, flash: &Memory, ram: &Memory) -> Value {
        json!({
            "context": self.context,
            "batch": self.batch,
            "logits": self.logits,
            "kv": self.kv.dtype().name(),
            "board": self.board.map(|board| board.name),
            "flash": flash.json(),
            "ram": ram.json(),
            "fits": flash.missing() == 0 && ram.missing() == 0,
        })
    }

    fn chart(&self, name: &str, memories: [&Memory; 2]) -> String {
        let title = format!(
            "{name}, context {}, batch {}, KV {}",
            self.context,
            self.batch,
            self.kv.dtype().name()
        );
        let bars = memories.map(|memory| Bar {
            name: memory.name,
            parts: memory.lines(),
            limit: memory.limit,
        });
        svg::chart(&title, &bars)
    }
}

/// Fails if a memory is too small.
fn must_fit(flash: &Memory, ram: &Memory) -> Outcome {
    let advice = [
        (flash, "a smaller `pack --dtype` needs less"),
        (
            ram,
            "a shorter --context, a smaller --batch or --kv q8 need less",
        ),
    ];
    let missing: Vec<String> = advice
        .iter()
        .filter(|(memory, _)| memory.missing() > 0)
        .map(|(memory, advice)| {
            let missing = counted(memory.missing() as usize, "byte");
            format!("{} lacks {missing}; {advice}", memory.name)
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(failure(format_args!(
        "does not fit: {}",
        missing.join("; ")
    )))
}

/// A memory and its parts.
struct Memory {
    name: &'static str,
    parts: Vec<Part>,
    limit: Option<u64>,
}

struct Part {
    /// Its name in JSON.
    key: String,
    /// Its name in the table and the chart.
    label: String,
    bytes: u64,
}

impl Memory {
    fn total(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// How many bytes the memory is too small.
    fn missing(&self) -> u64 {
        self.limit
            .map_or(0, |limit| self.total().saturating_sub(limit))
    }

    /// Adds a part that a board needs, and the board's limit if the user gave none.
    fn add_board(&mut self, key: &str, label: String, bytes: u64, room: u64) {
        self.parts.push(Part {
            key: key.into(),
            label,
            bytes,
        });
        self.limit = self.limit.or(Some(room));
    }

    /// Labels and bytes. Parts with the same label become one line.
    fn lines(&self) -> Vec<(String, u64)> {
        let mut kinds: Vec<(&str, u64, u64)> = Vec::new();
        for part in &self.parts {
            match kinds.iter_mut().find(|(label, ..)| *label == part.label) {
                Some((_, count, bytes)) => (*count, *bytes) = (*count + 1, *bytes + part.bytes),
                None => kinds.push((&part.label, 1, part.bytes)),
            }
        }
        let line = |(label, count, bytes)| match count {
            1 => (String::from(label), bytes),
            _ => (format!("{label}, {count} layers"), bytes),
        };
        kinds.into_iter().map(line).collect()
    }

    fn json(&self) -> Value {
        let parts: Map<String, Value> = self
            .parts
            .iter()
            .map(|part| (part.key.clone(), part.bytes.into()))
            .collect();
        json!({
            "parts": parts,
            "total": self.total(),
            "limit": self.limit,
            "fits": self.missing() == 0,
        })
    }

    fn print(&self) -> Outcome {
        print(self.name)?;
        for (label, bytes) in self.lines() {
            print(format_args!("  {label:48} {bytes:>12}"))?;
        }
        let total = self.total();
        print(format_args!(
            "  {:48} {total:>12}  {}",
            "total",
            size::show(total)
        ))?;
        if let Some(limit) = self.limit {
            let (word, difference) = if total <= limit {
                ("free", limit - total)
            } else {
                ("missing", total - limit)
            };
            print(format_args!(
                "  {:48} {difference:>12}  of {}",
                word,
                size::show(limit)
            ))?;
        }
        Ok(())
    }
}

/// The parts of an image: weights by type, the other sections, and padding.
fn flash(model: &Model, total: u64) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for tensor in info::tensors(model) {
        let key = if tensor.kind.is_matrix() {
            format!("weights_{}", tensor.dtype)
        } else {
            "norms_and_biases".into()
        };
        match parts.iter_mut().find(|part| part.key == key) {
            Some(part) => part.bytes += tensor.bytes,
            None => {
                let label = if tensor.kind.is_matrix() {
                    format!("weights in {}", tensor.dtype)
                } else {
                    "norms and biases in f32".into()
                };
                parts.push(Part {
                    key,
                    label,
                    bytes: tensor.bytes,
                });
            }
        }
    }
    for (section, key, label) in [
        (Section::Tokenizer, "tokenizer", "tokenizer"),
        (Section::ChatTemplate, "chat_template", "chat template"),
        (Section::Rope, "rope", "rotary frequencies"),
        (Section::Tensors, "tensors", "table of tensors"),
        (Section::Layers, "layers", "layers"),
        (Section::Config, "config", "config"),
    ] {
        let bytes = model.header().section(section).len() as u64;
        parts.push(Part {
            key: key.into(),
            label: label.into(),
            bytes,
        });
    }
    let known: u64 = parts.iter().map(|part| part.bytes).sum();
    parts.push(Part {
        key: "header_and_padding".into(),
        label: "header and padding".into(),
        bytes: total.saturating_sub(known),
    });
    parts
}

/// The parts of the arena, and the cache by layer.
fn ram(model: &Model, plan: &Plan) -> Vec<Part> {
    let mut parts = Vec::new();
    for part in plan.parts() {
        let label = match part.name {
            // No buffer for weights is needed: the image is memory-mapped.
            "weights" => continue,
            "cache" => {
                parts.extend(cache(model, plan, part.bytes as u64));
                continue;
            }
            "tokens" => "tokens and positions of the context",
            "hidden" => "hidden: the residual stream of a batch",
            "branch" => "branch: what goes into a layer's branches and comes back",
            "scratch" => "scratch: of attention or of the feed-forward",
            "groups" => "groups: inputs of quantised matrices",
            "rope" => "rope: cosines and sines of a batch",
            "logits" => "logits: of as many tokens as are wanted at once",
            other => other,
        };
        parts.push(Part {
            key: part.name.into(),
            label: label.into(),
            bytes: part.bytes as u64,
        });
    }
    parts
}

/// The keys and values of each layer, or what a convolution keeps, and the padding after them.
fn cache(model: &Model, plan: &Plan, bytes: u64) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    for (index, layer) in model.layers().iter().enumerate() {
        let rows = plan.cache_rows(layer);
        let bytes = plan.layer_cache_bytes(layer) as u64;
        let what = match layer.kind {
            LayerKind::Attention => "keys and values",
            LayerKind::Convolution => "convolution",
        };
        let kind = match layer.window {
            Some(window) if rows < plan.context_tokens() as usize => {
                format!("ring of {rows}, window {window}")
            }
            _ => format!("all {rows}"),
        };
        rest = rest.saturating_sub(bytes);
        parts.push(Part {
            key: format!("cache_layer_{index}"),
            label: format!("{what}: {kind}"),
            bytes,
        });
    }
    if rest > 0 {
        parts.push(Part {
            key: "cache_padding".into(),
            label: "padding".into(),
            bytes: rest,
        });
    }
    parts
}
