//! Which type each matrix gets: `--dtype`, `--bits`, `--bytes` and `--types`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use pocketlm::import::{self, Checkpoint, Description, ImportError, PackOptions};
use pocketlm::model::{DType, TensorId};
use pocketlm::quantize::{self, Calibration, Sensitivity};
use serde_json::Value;

use crate::output::{Outcome, failure, file_failure, weight_bar};
use crate::size;
use crate::trim::text as text_of;

/// Which type each matrix gets: four options that exclude each other.
#[derive(Args)]
pub struct Types {
    /// The type of all matrices: f32, f16, bf16, q8, q6, q5, q4, nl4 or nl3 [default: what the
    /// checkpoint stores]
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    dtype: Option<DType>,

    /// The type of the embedding table and of the output matrix [default: as --dtype]
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    embedder_dtype: Option<DType>,

    /// A type for each matrix, so that a weight takes so many bits on average, scales included
    #[arg(long, value_name = "N", value_parser = bits,
        conflicts_with_all = ["dtype", "embedder_dtype", "no_calibration"])]
    bits: Option<f64>,

    /// A type for each matrix, so that the image takes at most so many bytes (64M, 1.5MB)
    #[arg(long, value_name = "SIZE", value_parser = size::parse,
        conflicts_with_all = ["dtype", "embedder_dtype", "bits", "no_calibration"])]
    bytes: Option<u64>,

    /// The types that an earlier `pack --json` wrote to this file
    #[arg(long, value_name = "REPORT",
        conflicts_with_all = ["dtype", "embedder_dtype", "bits", "bytes"])]
    types: Option<PathBuf>,
}

fn dtype(name: &str) -> Result<DType, String> {
    let offered = [
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::Q8,
        DType::Q6,
        DType::Q5,
        DType::Q4,
        DType::Nl4,
        DType::Nl3,
    ];
    offered
        .into_iter()
        .find(|dtype| dtype.name() == name)
        .ok_or("choose one of f32, f16, bf16, q8, q6, q5, q4, nl4, nl3".into())
}

fn bits(text: &str) -> Result<f64, String> {
    let bits = text.parse().ok();
    let bits = bits.filter(|bits| (1.0..=32.0).contains(bits));
    bits.ok_or("give a number of bits, such as 4.5".into())
}

impl Types {
    /// The file of `--types`.
    pub fn report(&self) -> Option<&Path> {
        self.types.as_deref()
    }

    /// Whether some matrices may get a type that text helps with.
    pub fn are_rounded(&self) -> bool {
        let mut by_name = [self.dtype, self.embedder_dtype].into_iter().flatten();
        by_name.any(quantize::uses_calibration)
            || self.bits.is_some()
            || self.bytes.is_some()
            || self.types.is_some()
    }

    /// What each matrix is stored as.
    pub fn options(
        &self,
        model: &Path,
        checkpoint: &dyn Checkpoint,
        calibration: Option<&Calibration>,
    ) -> Outcome<PackOptions> {
        let types = match (&self.types, self.bits, self.bytes) {
            (Some(report), ..) => types_of(report, checkpoint.description())?,
            (None, None, None) => BTreeMap::new(),
            (None, bits, bytes) => {
                let Some(calibration) = calibration else {
                    let reason = "--bits and --bytes compare matrices on text, and the checkpoint \
                                  has no tokenizer to read it with; give --dtype";
                    return Err(file_failure(model, reason));
                };
                let budget = match (bits, bytes) {
                    (Some(bits), _) => Budget::Bits(bits),
                    (None, bytes) => Budget::Bytes(bytes.unwrap_or_default()),
                };
                let sensitivity =
                    sensitivity(checkpoint, calibration).map_err(|error| error.in_file(model))?;
                types_for(checkpoint, &sensitivity, budget)?
            }
        };
        Ok(PackOptions {
            dtype: self.dtype,
            embedder_dtype: self.embedder_dtype,
            types,
        })
    }
}

/// How large a model may become.
#[derive(Clone, Copy)]
pub enum Budget {
    /// Bits a weight, scales included.
    Bits(f64),
    /// Bytes of the image.
    Bytes(u64),
}

/// The types that cost least in a budget.
pub fn types_for(
    checkpoint: &dyn Checkpoint,
    sensitivity: &Sensitivity,
    budget: Budget,
) -> Outcome<BTreeMap<TensorId, DType>> {
    match budget {
        Budget::Bits(bits) => {
            let weights = sensitivity.weights() as f64;
            let least = (800.0 * sensitivity.smallest() as f64 / weights).ceil() / 100.0;
            let types = sensitivity.types((bits * weights / 8.0) as u64);
            types.ok_or_else(|| {
                failure(format_args!(
                    "{bits} bits a weight are too few: the least is {least:.2}"
                ))
            })
        }
        Budget::Bytes(bytes) => {
            let smallest = sensitivity.smallest();
            let options = PackOptions {
                types: sensitivity.types(smallest).unwrap_or_default(),
                ..PackOptions::default()
            };
            let least = import::image_bytes(checkpoint, &options)?;
            let rest = least - smallest;
            let types = sensitivity.types(bytes.saturating_sub(rest));
            types.ok_or_else(|| {
                failure(format_args!(
                    "{bytes} bytes are too few: the least is {least}, {rest} of them for the \
                     tokenizer and the like; --vocabulary makes an image smaller"
                ))
            })
        }
    }
}

/// What each matrix costs in each type, with a bar.
pub fn sensitivity(
    checkpoint: &dyn Checkpoint,
    calibration: &Calibration,
) -> Result<Sensitivity, ImportError> {
    let bar = weight_bar("comparing matrices".into());
    let sensitivity = Sensitivity::measure(checkpoint, calibration, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    sensitivity
}

/// The types in the report of an earlier `pack --json`.
fn types_of(path: &Path, description: &Description) -> Outcome<BTreeMap<TensorId, DType>> {
    let wrong = |reason: std::fmt::Arguments<'_>| file_failure(path, reason);
    let report: Value = serde_json::from_str(&text_of(path)?)
        .map_err(|error| wrong(format_args!("not the output of `pack --json`: {error}")))?;
    let found = report["types"].as_object().ok_or_else(|| {
        wrong(format_args!(
            "not the output of `pack --json`: it has no \"types\""
        ))
    })?;
    let ids: BTreeMap<String, TensorId> = description
        .tensor_ids()
        .filter(|id| id.kind.is_matrix())
        .map(|id| (id.to_string(), id))
        .collect();
    let mut types = BTreeMap::new();
    for (name, dtype) in found {
        let id = ids
            .get(name)
            .ok_or_else(|| wrong(format_args!("types: the model has no matrix {name:?}")))?;
        let of_name = |known: &&DType| Some(known.name()) == dtype.as_str();
        let dtype = DType::ALL
            .iter()
            .find(of_name)
            .ok_or_else(|| wrong(format_args!("types: {name} has the unknown type {dtype}")))?;
        types.insert(*id, *dtype);
    }
    if let Some(name) = ids.keys().find(|name| !found.contains_key(*name)) {
        return Err(wrong(format_args!("types: {name} is missing")));
    }
    Ok(types)
}
