//! Quantised folders: GPTQ, AWQ and compressed-tensors, in 4 and 8 bits.
//!
//! A quantised matrix is several tensors, which may lie in different shards: whole numbers packed
//! into 32-bit words, lowest bits first, a scale and mostly a zero point for each group of inputs
//! of an output. With q, scale s and zero point z an element is `s (q - z)`.
//!
//! ```text
//! GPTQ    .qweight  I32 [in / n, out]    n = 32 / bits inputs a word
//!         .qzeros   I32 [groups, out / n]
//!         .scales   [groups, out]
//!         .g_idx    I32 [in]             the group of each input; may be left out without desc_act
//! AWQ     .qweight  I32 [in, out / 8]    eight outputs a word, in the order 0 2 4 6 1 3 5 7
//!         .qzeros   I32 [groups, out / 8], likewise
//!         .scales   [groups, out]
//! compressed-tensors, pack-quantized
//!         .weight_packed      I32 [out, in / n], rounded up
//!         .weight_scale       [out, groups]
//!         .weight_zero_point  I32 [out / n, groups], rounded up; packed along the outputs
//!         .weight_shape       I64 [2]    out, in
//! compressed-tensors, int-quantized
//!         .weight             I8 [out, in]
//!         .weight_scale       [out, groups]
//! ```
//! GPTQ stores zero points less 1, unless `checkpoint_format` is `gptq_v2`. compressed-tensors adds
//! half the range to values and to zero points. Without zero points, the zero point is half the
//! range.
//!
//! The tensors tell which matrices are quantised. The config's lists of exceptions are not used.
//!
//! A matrix whose groups are made of whole blocks of 32 inputs is read as [`Element::Affine`] and
//! packed value by value: into q4 if all zero points are 8, into q4min with other zero points, into
//! q8 if it has 8 bits. Nothing is lost if f16 holds the scales and the minima, and if no 8-bit
//! value is more than 128 steps off its zero point. Other matrices, such as those with GPTQ's
//! `desc_act`, whose groups are scattered over the inputs, are read as f32 and requantised to q8.

mod linear;

use std::path::Path;
use std::prelude::rust_2024::*;

use ::safetensors::Dtype;
pub(super) use linear::Linear;
use serde_json::{Map, Value};

use crate::import::ImportError;
use crate::import::json::{self, Object, excerpt};
use crate::import::safetensors::{Stored, Weights};

/// How a folder quantises its matrices.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Scheme {
    layout: Layout,
    /// 4 or 8.
    bits: usize,
    /// Inputs with a common scale; `None` if all of an output have one.
    group: Option<usize>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Layout {
    Gptq {
        zeros_less_one: bool,
        /// Whether the groups may be scattered over the inputs; then each matrix says how.
        scattered: bool,
    },
    Awq,
    Packed {
        zero_points: bool,
    },
    Int8,
}

impl Scheme {
    /// Reads `config.json`, or in older folders the quantiser's own file. `None` if nothing is
    /// quantised.
    ///
    /// # Errors
    /// A method or a variant that is not supported.
    pub(super) fn read(
        map: &Map<String, Value>,
        folder: &Path,
        weights: &Weights,
    ) -> Result<Option<Self>, ImportError> {
        let config = folder.join("config.json");
        let root = Object::root(map);
        let in_config = |error: ImportError| error.in_file(&config);
        for key in ["quantization_config", "compression_config"] {
            // Files of multimodal models keep it outside of `text_config`.
            if let Some(keys) = root.object(key).map_err(in_config)? {
                return Self::of_method(key, &root, &keys)
                    .map_err(in_config)
                    .map(Some);
            }
        }
        if !weights.names().any(|name| name.ends_with(".qweight")) {
            return Ok(None);
        }
        for (name, read) in [
            ("quantize_config.json", Self::gptq as fn(&Object) -> _),
            ("quant_config.json", Self::awq),
        ] {
            let path = folder.join(name);
            if path.is_file() {
                let map = json::read_config(&path)?;
                let scheme = read(&Object::root(&map));
                return scheme.map(Some).map_err(|error| error.in_file(&path));
            }
        }
        let reason =
            "the tensors are quantised, and there is no `quantization_config` that says how";
        Err(in_config(ImportError::new(reason)))
    }

    fn of_method(key: &str, root: &Object, keys: &Object) -> Result<Self, ImportError> {
        let method = match keys.text("quant_method")? {
            Some(method) => method.to_lowercase(),
            // Early files of compressed-tensors do not name it.
            None if keys.mentions("config_groups") => "compressed-tensors".into(),
            None => return Err(keys.refuse("quant_method", "the name of a method")),
        };
        let why = match method.as_str() {
            "gptq" => return Self::gptq(keys),
            "awq" => return Self::awq(keys),
            "compressed-tensors" => return Self::compressed_tensors(keys),
            "bitsandbytes" => {
                "its 4-bit code book and its 8-bit outliers have no equal in an image"
            }
            "auto-round" => "export it in GPTQ's or AWQ's format instead",
            "fp8" | "fbgemm_fp8" | "finegrained_fp8" | "modelopt" | "mxfp4" => {
                "8- and 4-bit floating point is not supported"
            }
            _ => "GPTQ, AWQ and compressed-tensors are",
        };
        let clause = format!(
            "({}): this quantisation is not supported: {why}",
            keys.get("quant_method").map_or_else(String::new, excerpt)
        );
        let error = root.object_to(key, &clause);
        Err(error.help("import the original, or a GGUF of it"))
    }

    fn gptq(keys: &Object) -> Result<Self, ImportError> {
        absent(
            keys,
            "dynamic",
            "none: rules for single matrices are not supported",
        )?;
        not_true(
            keys,
            "lm_head",
            "false: a quantised output matrix is not supported",
        )?;
        not_true(
            keys,
            "is_marlin_format",
            "false: Marlin's layout is not supported",
        )?;
        if keys
            .text("pack_dtype")?
            .is_some_and(|dtype| dtype != "int32")
        {
            return Err(keys.refuse("pack_dtype", "\"int32\""));
        }
        // Newer files of GPTQModel have both keys.
        let mut zeros_less_one = true;
        for key in ["checkpoint_format", "format"] {
            match keys.text(key)? {
                None | Some("gptq") => {}
                Some("gptq_v2") => zeros_less_one = false,
                Some(_) => return Err(keys.refuse(key, "\"gptq\" or \"gptq_v2\"")),
            }
        }
        Ok(Scheme {
            layout: Layout::Gptq {
                zeros_less_one,
                scattered: keys.flag("desc_act")? == Some(true),
            },
            bits: bits(keys, "bits", &[4, 8])?,
            group: group(keys, "group_size")?,
        })
    }

    fn awq(keys: &Object) -> Result<Self, ImportError> {
        // The names that transformers gives these keys, and those of AWQ's own file.
        let one_of = |names: [&'static str; 2]| {
            if keys.mentions(names[0]) {
                names[0]
            } else {
                names[1]
            }
        };
        // Newer files have the second key, or both.
        for key in ["version", "format"] {
            if keys
                .text(key)?
                .is_some_and(|layout| !layout.eq_ignore_ascii_case("gemm"))
            {
                return Err(keys.refuse(key, "\"gemm\": the other layouts are not supported"));
            }
        }
        // A backend is only a way to compute, except this one: it has a layout of its own.
        if keys.text("backend")? == Some("llm-awq") {
            let expected = "\"autoawq\": the other layouts are not supported";
            return Err(keys.refuse("backend", expected));
        }
        if keys.flag("zero_point")? == Some(false) {
            return Err(keys.refuse("zero_point", "true: this layout has zero points"));
        }
        Ok(Scheme {
            layout: Layout::Awq,
            bits: bits(keys, one_of(["bits", "w_bit"]), &[4])?,
            group: group(keys, one_of(["group_size", "q_group_size"]))?,
        })
    }

    fn compressed_tensors(keys: &Object) -> Result<Self, ImportError> {
        const FORMATS: &str = "\"pack-quantized\" or \"int-quantized\"";
        absent(
            keys,
            "kv_cache_scheme",
            "none: the type of the KV cache is chosen when running",
        )?;
        if let Some(sparsity) = keys.object("sparsity_config")?
            && !sparsity.is_empty()
            && sparsity.text("format")? != Some("dense")
        {
            return Err(sparsity.refuse("format", "\"dense\": sparse matrices are not supported"));
        }
        let groups = keys
            .object("config_groups")?
            .ok_or_else(|| keys.refuse("config_groups", "an object"))?;
        let mut names = groups.keys();
        let (Some(name), None) = (names.next(), names.next()) else {
            return Err(keys.object_to(
                "config_groups",
                "has not exactly one group: matrices of several kinds are not supported",
            ));
        };
        let group_keys = groups
            .object(name)?
            .ok_or_else(|| groups.refuse(name, "an object"))?;
        // The format is given for all groups, for each, or both. If both, they must agree.
        let own_format = group_keys.text("format")?;
        let format = keys.text("format")?.or(own_format);
        let format = format.ok_or_else(|| keys.refuse("format", FORMATS))?;
        if own_format.is_some_and(|own| own != format) {
            return Err(group_keys.refuse("format", &format!("{format:?}, as for the whole")));
        }
        check_activations(&group_keys)?;
        let weights = group_keys
            .object("weights")?
            .ok_or_else(|| group_keys.refuse("weights", "an object"))?;
        Self::compressed_weights(&weights, format)?.ok_or_else(|| keys.refuse("format", FORMATS))
    }

    /// What `weights` of a group says; `None` if the format is not known.
    fn compressed_weights(weights: &Object, format: &str) -> Result<Option<Self>, ImportError> {
        if weights.text("type")?.is_some_and(|kind| kind != "int") {
            return Err(weights.refuse("type", "\"int\""));
        }
        not_true(weights, "dynamic", "false")?;
        // Other orders leave the inputs of a group side by side.
        if matches!(weights.text("actorder")?, Some("group" | "dynamic")) {
            let what =
                "\"weight\" or none: groups that are scattered over the inputs are not supported";
            return Err(weights.refuse("actorder", what));
        }
        let symmetric = weights.flag("symmetric")?.unwrap_or(true);
        let group = match weights.text("strategy")? {
            Some("channel") => None,
            Some("group") => group(weights, "group_size")?,
            _ => return Err(weights.refuse("strategy", "\"group\" or \"channel\"")),
        };
        let packed = Layout::Packed {
            zero_points: !symmetric,
        };
        let (layout, allowed): (_, &[u32]) = match format {
            "pack-quantized" => (packed, &[4, 8]),
            "int-quantized" if symmetric => (Layout::Int8, &[8]),
            "int-quantized" => {
                return Err(weights.refuse(
                    "symmetric",
                    "true: bytes with zero points are not supported",
                ));
            }
            _ => return Ok(None),
        };
        Ok(Some(Scheme {
            layout,
            bits: bits(weights, "num_bits", allowed)?,
            group,
        }))
    }

    /// Finds the parts of a matrix, if it is quantised; `None` if it is stored as it is. `name` is
    /// that of the matrix, `….weight`.
    ///
    /// # Errors
    /// A part is missing or is not as the scheme says; the error names it.
    pub(super) fn find<'w>(
        &self,
        weights: &'w Weights,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Option<Linear<'w>>, ImportError> {
        let Some(stem) = name.strip_suffix(".weight") else {
            return Ok(None);
        };
        let is_float =
            |stored: Stored<'_>| self.layout != Layout::Int8 || stored.dtype != Dtype::I8;
        if weights.get(name).is_some_and(is_float) || weights.get(&self.main(stem)).is_none() {
            return Ok(None);
        }
        Linear::find(*self, weights, stem, rows, columns).map(Some)
    }

    /// The name of the tensor with the packed values. If it exists, the matrix is quantised.
    fn main(&self, stem: &str) -> String {
        let suffix = match self.layout {
            Layout::Gptq { .. } | Layout::Awq => "qweight",
            Layout::Packed { .. } => "weight_packed",
            Layout::Int8 => "weight",
        };
        format!("{stem}.{suffix}")
    }
}

/// The name of a tensor that is part of a quantised matrix, if a matrix that should be there as
/// `name` is one.
pub(super) fn part_of(weights: &Weights, name: &str) -> Option<String> {
    let stem = name.strip_suffix(".weight")?;
    [".qweight", ".weight_packed", ".weight.absmax"]
        .into_iter()
        .map(|suffix| format!("{stem}{suffix}"))
        .find(|part| weights.get(part).is_some())
}

/// Checks that a group of compressed-tensors does not quantise outputs, nor inputs with stored
/// scales. Inputs with scales of their own are allowed: they are not quantised here, which is at
/// least as exact.
fn check_activations(group: &Object) -> Result<(), ImportError> {
    absent(
        group,
        "output_activations",
        "none: outputs stay as they are",
    )?;
    if let Some(inputs) = group.object("input_activations")?
        && inputs.flag("dynamic")? != Some(true)
    {
        return Err(inputs.refuse("dynamic", "true: stored scales of inputs are not supported"));
    }
    Ok(())
}

/// Checks that a key is missing or empty.
fn absent(keys: &Object, key: &str, expected: &str) -> Result<(), ImportError> {
    match keys.get(key) {
        None => Ok(()),
        Some(Value::Object(map)) if map.is_empty() => Ok(()),
        Some(_) => Err(keys.refuse(key, expected)),
    }
}

fn not_true(keys: &Object, key: &str, expected: &str) -> Result<(), ImportError> {
    match keys.flag(key)? {
        Some(true) => Err(keys.refuse(key, expected)),
        _ => Ok(()),
    }
}

fn bits(keys: &Object, key: &str, allowed: &[u32]) -> Result<usize, ImportError> {
    let expected = allowed
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(" or ");
    match keys.get(key).and_then(Value::as_u64) {
        Some(bits) if allowed.iter().any(|&allowed| bits == u64::from(allowed)) => {
            Ok(bits as usize)
        }
        _ => Err(keys.refuse(key, &expected)),
    }
}

/// The size of a group; -1 is all of a row.
fn group(keys: &Object, key: &str) -> Result<Option<usize>, ImportError> {
    match keys.get(key).and_then(Value::as_i64) {
        Some(-1) => Ok(None),
        Some(size @ 1..) => Ok(Some(usize::try_from(size).unwrap_or(usize::MAX))),
        _ => Err(keys.refuse(key, "an integer above 0, or -1")),
    }
}
