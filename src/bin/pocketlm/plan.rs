//! `pocketlm plan`: where every byte goes, before anything is flashed.

use std::path::PathBuf;

use clap::Args;
use pocketlm::model::{Kv, Model, Section};
use pocketlm::run::Plan;
use serde_json::{Map, Value, json};

use crate::generate::kv;
use crate::load::Image;
use crate::output::{Outcome, print, print_json, refuse, refuse_file};
use crate::svg::{self, Bar};
use crate::{info, size};

/// Show where every byte of flash and RAM goes, and whether it fits
#[derive(Args)]
#[command(after_help = "\
Sizes are bytes, or K, M, G (also KiB, MiB, GiB; powers of 1024) or KB, MB, GB (powers of 1000). Exit code 1 when the \
image is larger than --flash or the arena than --ram. RAM is the arena; the stack comes on top.

Examples:
  pocketlm plan smol.plm --context 512
  pocketlm plan story.plm --context 256 --batch 4 --kv q8 --flash 2M --ram 264K
  pocketlm plan gemma.plm --context 2048 --svg memory.svg")]
pub struct Arguments {
    /// An image or a checkpoint
    model: PathBuf,

    /// Tokens a session can hold
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: u32,

    /// Tokens of a prompt computed together
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,

    /// How keys and values are kept: f32, f16, bf16 or q8
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = kv)]
    kv: Kv,

    /// The room there is for the image
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    flash: Option<u64>,

    /// The room there is for the arena
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    ram: Option<u64>,

    /// Write JSON
    #[arg(long)]
    json: bool,

    /// Draw a bar chart as well
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub fn plan(arguments: Arguments) -> Outcome {
    let image = Image::open(&arguments.model)?;
    let model = image.model()?;
    let plan = Plan::new(model.header()).context(arguments.context).batch(arguments.batch).kv(arguments.kv);
    if plan.bytes() == usize::MAX {
        return Err(refuse("no memory can hold this plan; a shorter --context or --batch needs less"));
    }
    let flash = Memory { name: "flash", parts: flash(&model, image.bytes().len() as u64), limit: arguments.flash };
    let ram = Memory { name: "RAM", parts: ram(&model, &plan), limit: arguments.ram };

    if arguments.json {
        print_json(&json!({
            "context": arguments.context,
            "batch": arguments.batch,
            "kv": arguments.kv.dtype().name(),
            "flash": flash.json(),
            "ram": ram.json(),
            "fits": flash.missing() == 0 && ram.missing() == 0,
        }))?;
    } else {
        flash.print()?;
        print("")?;
        ram.print()?;
    }
    if let Some(path) = &arguments.svg {
        let title = format!(
            "{}, context {}, batch {}, KV {}",
            image.name,
            arguments.context,
            arguments.batch,
            arguments.kv.dtype().name()
        );
        let bars = [&flash, &ram].map(|memory| Bar {
            name: memory.name,
            parts: memory.parts.iter().map(|part| (part.label.clone(), part.bytes)).collect(),
            limit: memory.limit,
        });
        std::fs::write(path, svg::chart(&title, &bars)).map_err(|error| refuse_file(path, error))?;
    }

    match (flash.missing(), ram.missing()) {
        (0, 0) => Ok(()),
        (flash, 0) => Err(refuse(format_args!(
            "the image is {flash} bytes larger than --flash; a smaller `pack --dtype` needs less"
        ))),
        (0, ram) => Err(refuse(format_args!(
            "the arena is {ram} bytes larger than --ram; a shorter --context, a smaller --batch or --kv q8 need less"
        ))),
        (flash, ram) => Err(refuse(format_args!(
            "the image is {flash} bytes larger than --flash and the arena {ram} bytes larger than --ram"
        ))),
    }
}

/// A kind of memory and what lies in it.
struct Memory {
    name: &'static str,
    parts: Vec<Part>,
    limit: Option<u64>,
}

struct Part {
    /// What scripts ask for.
    key: String,
    /// What people read.
    label: String,
    bytes: u64,
}

impl Memory {
    fn total(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// By how much the memory is too small.
    fn missing(&self) -> u64 {
        self.limit.map_or(0, |limit| self.total().saturating_sub(limit))
    }

    fn json(&self) -> Value {
        let parts: Map<String, Value> = self.parts.iter().map(|part| (part.key.clone(), part.bytes.into())).collect();
        json!({ "parts": parts, "total": self.total(), "limit": self.limit, "fits": self.missing() == 0 })
    }

    fn print(&self) -> Outcome {
        print(self.name)?;
        for part in &self.parts {
            print(format_args!("  {:48} {:>12}", part.label, part.bytes))?;
        }
        let total = self.total();
        print(format_args!("  {:48} {total:>12}  {}", "total", size::show(total)))?;
        if let Some(limit) = self.limit {
            let (word, difference) = if total <= limit { ("free", limit - total) } else { ("missing", total - limit) };
            print(format_args!("  {:48} {difference:>12}  of {}", word, size::show(limit)))?;
        }
        Ok(())
    }
}

/// The image: weights by type, what else there is, and the padding between.
fn flash(model: &Model, total: u64) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for tensor in info::tensors(model) {
        let key = match tensor.role.is_matrix() {
            true => format!("weights_{}", tensor.dtype),
            false => "norms_and_biases".into(),
        };
        match parts.iter_mut().find(|part| part.key == key) {
            Some(part) => part.bytes += tensor.bytes,
            None => {
                let label = match tensor.role.is_matrix() {
                    true => format!("weights in {}", tensor.dtype),
                    false => "norms and biases in f32".into(),
                };
                parts.push(Part { key, label, bytes: tensor.bytes });
            }
        }
    }
    for (section, key, label) in [
        (Section::Tokenizer, "tokenizer", "tokenizer"),
        (Section::ChatTemplate, "chat_template", "chat template"),
        (Section::Rope, "rope", "rotary tables"),
        (Section::Tensors, "tensors", "table of tensors"),
        (Section::Layers, "layers", "layers"),
        (Section::Config, "config", "config"),
    ] {
        let bytes = model.header().section(section).len() as u64;
        parts.push(Part { key: key.into(), label: label.into(), bytes });
    }
    let known: u64 = parts.iter().map(|part| part.bytes).sum();
    parts.push(Part {
        key: "header_and_padding".into(),
        label: "header and padding".into(),
        bytes: total.saturating_sub(known),
    });
    parts
}

/// The arena: the plan's parts, the cache by layer.
fn ram(model: &Model, plan: &Plan) -> Vec<Part> {
    let mut parts = Vec::new();
    for part in plan.parts() {
        if part.name != "cache" {
            let label = match part.name {
                "tokens" => "tokens and positions of the context",
                "hidden" => "hidden: the residual stream of a batch",
                "normed" => "normed: what goes into matrices and comes back",
                "scratch" => "scratch: of attention or of the feed-forward",
                "groups" => "groups: inputs of quantised matrices",
                "rope" => "rope: cosines and sines of a batch",
                "logits" => "logits of a token",
                other => other,
            };
            parts.push(Part { key: part.name.into(), label: label.into(), bytes: part.bytes as u64 });
            continue;
        }
        let mut rest = part.bytes as u64;
        for (index, layer) in model.layers().iter().enumerate() {
            let (rows, bytes) = (plan.cache_rows(layer), plan.layer_cache_bytes(layer) as u64);
            let kind = match layer.window {
                Some(window) if rows < plan.context_tokens() as usize => format!("ring of {rows}, window {window}"),
                _ => format!("all {rows}"),
            };
            rest = rest.saturating_sub(bytes);
            let label = format!("keys and values, layer {index}: {kind}");
            parts.push(Part { key: format!("cache_layer_{index}"), label, bytes });
        }
        if rest > 0 {
            parts.push(Part { key: "cache_padding".into(), label: "padding".into(), bytes: rest });
        }
    }
    parts
}
