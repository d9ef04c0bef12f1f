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
//! GPTQ stores zero points less 1, unless `checkpoint_format` is `gptq_v2`. compressed-tensors
//! stores whole numbers plus half their range, zero points as well; without zero points, that is
//! what zero is stored as.
//!
//! Which matrices are quantised is told by the tensors, not by the config's lists of exceptions.
//!
//! A matrix whose groups are made of whole blocks of 32 inputs is read as [`Element::Affine`] and
//! packed value by value: into q4 if all zero points are 8, into q4min with other zero points, into
//! q8 if it has 8 bits. Nothing is lost if f16 holds the scales and the minima, and if no 8-bit
//! value is more than 128 steps off its zero point. Other matrices, such as those with GPTQ's
//! `desc_act`, whose groups are scattered over the inputs, are read as f32 and requantised to q8.

use std::path::Path;
use std::prelude::rust_2024::*;

use ::safetensors::Dtype;
use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::import::ggml::AffineBlock;
use crate::import::json::{self, Object, excerpt};
use crate::import::safetensors::{Stored, Weights};
use crate::import::{Columns, Element, ImportError, Tensor};
use crate::model::DType;

const BLOCK: usize = Element::Affine.block_len();
/// How many outputs are unpacked at a time: in the layouts that are packed along the outputs, their
/// words lie side by side.
const OUTPUTS_TOGETHER: usize = 16;
/// Where AWQ keeps an output within its word, in fields.
const AWQ_FIELDS: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

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
    /// What `config.json` says, or in folders from before it did, the quantiser's own file. `None`
    /// if nothing is quantised.
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
        // Newer files of GPTQModel say it under both names.
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
        // Newer files say it under the second name, or under both.
        for key in ["version", "format"] {
            if keys
                .text(key)?
                .is_some_and(|layout| !layout.eq_ignore_ascii_case("gemm"))
            {
                return Err(keys.refuse(key, "\"gemm\": the other layouts are not supported"));
            }
        }
        // Other backends are ways to compute; this one has a layout of its own.
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

    /// The tensor that makes a matrix a quantised one.
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

/// The parts of a quantised matrix, found and checked.
pub(super) struct Linear<'w> {
    scheme: Scheme,
    /// The names of all parts.
    pub(super) names: Vec<String>,
    /// The file of the main part.
    pub(super) path: &'w Path,
    outputs: usize,
    inputs: usize,
    /// The packed values, or bytes.
    main: &'w [u8],
    groups: Groups<'w>,
    /// The group of each input.
    group_of: Vec<u32>,
}

/// Scales and zero points.
struct Groups<'w> {
    count: usize,
    scales: Stored<'w>,
    zeros: Option<&'w [u8]>,
}

/// Looks up the parts of one matrix.
struct Parts<'w, 's> {
    scheme: Scheme,
    weights: &'w Weights,
    /// The matrix's name without `.weight`.
    stem: &'s str,
    outputs: usize,
    inputs: usize,
    /// Groups of an output.
    groups: usize,
    /// The names of the parts that were found.
    names: Vec<String>,
}

/// The parts that depend on the layout.
struct LaidOut<'w> {
    main: Stored<'w>,
    zeros: Option<Stored<'w>>,
    /// The suffix and the shape of the scales.
    scales: (&'static str, [usize; 2]),
}

impl<'w> Parts<'w, '_> {
    fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.stem)
    }

    /// A part of integers.
    fn integers(
        &mut self,
        suffix: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<Stored<'w>, ImportError> {
        let name = self.name(suffix);
        let stored = self.weights.integers(&name, dtype, shape);
        self.names.push(name);
        stored
    }

    /// How many values a word holds.
    fn a_word(&self) -> usize {
        32 / self.scheme.bits
    }

    /// How many words `count` inputs or outputs take, which must be whole ones.
    fn words(&self, what: &str, count: usize) -> Result<usize, ImportError> {
        let a_word = self.a_word();
        if count.is_multiple_of(a_word) {
            return Ok(count / a_word);
        }
        Err(ImportError::new(format!(
            "tensor `{}.qweight`: {count} {what} are not made of whole words of {a_word}",
            self.stem
        )))
    }

    fn laid_out(&mut self) -> Result<LaidOut<'w>, ImportError> {
        match self.scheme.layout {
            Layout::Gptq { .. } => {
                let shape = [self.words("inputs", self.inputs)?, self.outputs];
                self.with_qzeros(shape)
            }
            Layout::Awq => {
                let shape = [self.inputs, self.words("outputs", self.outputs)?];
                self.with_qzeros(shape)
            }
            Layout::Packed { zero_points } => self.packed(zero_points),
            Layout::Int8 => Ok(LaidOut {
                main: self.integers("weight", Dtype::I8, &[self.outputs, self.inputs])?,
                zeros: None,
                scales: ("weight_scale", [self.outputs, self.groups]),
            }),
        }
    }

    /// GPTQ and AWQ, whose values have this shape.
    fn with_qzeros(&mut self, shape: [usize; 2]) -> Result<LaidOut<'w>, ImportError> {
        let main = self.integers("qweight", Dtype::I32, &shape)?;
        let shape = [self.groups, self.words("outputs", self.outputs)?];
        Ok(LaidOut {
            main,
            zeros: Some(self.integers("qzeros", Dtype::I32, &shape)?),
            scales: ("scales", [self.groups, self.outputs]),
        })
    }

    fn packed(&mut self, zero_points: bool) -> Result<LaidOut<'w>, ImportError> {
        let words = self.inputs.div_ceil(self.a_word());
        let main = self.integers("weight_packed", Dtype::I32, &[self.outputs, words])?;
        let zeros = if zero_points {
            let shape = [self.outputs.div_ceil(self.a_word()), self.groups];
            Some(self.integers("weight_zero_point", Dtype::I32, &shape)?)
        } else {
            None
        };
        let shape = self.integers("weight_shape", Dtype::I64, &[2])?;
        let numbers = shape.data.as_chunks().0.iter();
        let said: Vec<i64> = numbers.map(|bytes| i64::from_le_bytes(*bytes)).collect();
        let expected = [self.outputs as i64, self.inputs as i64];
        if said != expected {
            let reason = format!(
                "tensor `{}.weight_shape` says {said:?}, expected {expected:?} by config.json",
                self.stem
            );
            return Err(ImportError::new(reason).in_file(shape.path));
        }
        Ok(LaidOut {
            main,
            zeros,
            scales: ("weight_scale", [self.outputs, self.groups]),
        })
    }

    /// The group of each input.
    fn group_of(&mut self) -> Result<Vec<u32>, ImportError> {
        let g_idx = self.name("g_idx");
        match self.scheme.layout {
            Layout::Gptq { scattered, .. } if scattered || self.weights.get(&g_idx).is_some() => {
                let list = self.integers("g_idx", Dtype::I32, &[self.inputs])?;
                groups_of_inputs(&list, &g_idx, self.groups)
            }
            _ => {
                let size = self.scheme.group.unwrap_or(usize::MAX);
                Ok((0..self.inputs)
                    .map(|input| (input / size) as u32)
                    .collect())
            }
        }
    }
}

impl<'w> Linear<'w> {
    fn find(
        scheme: Scheme,
        weights: &'w Weights,
        stem: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Self, ImportError> {
        let mut parts = Parts {
            scheme,
            weights,
            stem,
            outputs,
            inputs,
            // The stored shapes are compared with this, so it is no larger than a file can hold.
            groups: scheme.group.map_or(1, |group| inputs.div_ceil(group)),
            names: Vec::new(),
        };
        let laid_out = parts.laid_out()?;
        let group_of = parts.group_of()?;
        let (suffix, shape) = laid_out.scales;
        let name = parts.name(suffix);
        parts.names.push(name.clone());
        let linear = Linear {
            scheme,
            path: laid_out.main.path,
            outputs,
            inputs,
            main: laid_out.main.data,
            groups: Groups {
                count: parts.groups,
                scales: weights.expect(&name, &shape)?,
                zeros: laid_out.zeros.map(|zeros| zeros.data),
            },
            group_of,
            names: parts.names,
        };
        linear.check_scales(&name)?;
        Ok(linear)
    }

    fn check_scales(&self, name: &str) -> Result<(), ImportError> {
        for output in 0..self.outputs {
            for group in 0..self.groups.count {
                let scale = self.scale(output, group);
                if !scale.is_finite() {
                    let reason = format!(
                        "tensor `{name}`: the scale of output {output} in group {group} is {scale}"
                    );
                    return Err(ImportError::new(reason).in_file(self.groups.scales.path));
                }
            }
        }
        Ok(())
    }

    fn scale(&self, output: usize, group: usize) -> f32 {
        let at = match self.scheme.layout {
            Layout::Gptq { .. } | Layout::Awq => group * self.outputs + output,
            Layout::Packed { .. } | Layout::Int8 => output * self.groups.count + group,
        };
        let stored = &self.groups.scales;
        let element = stored.element().unwrap_or(Element::F32); // `expect` let nothing else through
        let mut scale = [0.0];
        element.dequantize(&stored.data[at * element.block_bytes()..], &mut scale);
        scale[0]
    }

    fn zero(&self, output: usize, group: usize) -> i16 {
        let Scheme { layout, bits, .. } = self.scheme;
        let a_word = 32 / bits;
        let Some(zeros) = self.groups.zeros else {
            // In the middle of the range; int-quantized bytes are moved there as they are read.
            return 1 << (bits - 1);
        };
        let along_outputs = group * self.outputs.div_ceil(a_word) + output / a_word;
        match layout {
            Layout::Gptq { zeros_less_one, .. } => {
                // To all fields at once, with carry: so GPTQModel took it off. Wherever this
                // differs from adding to each by itself, that is right.
                let ones = u32::MAX / ((1 << bits) - 1);
                let word = word(zeros, along_outputs);
                let word = if zeros_less_one {
                    word.wrapping_add(ones)
                } else {
                    word
                };
                field(word, bits, output % a_word).into()
            }
            Layout::Awq => field(word(zeros, along_outputs), bits, AWQ_FIELDS[output % 8]).into(),
            Layout::Packed { .. } | Layout::Int8 => {
                let at = output / a_word * self.groups.count + group;
                field(word(zeros, at), bits, output % a_word).into()
            }
        }
    }

    /// The values of some outputs, row after row.
    fn unpack(&self, outputs: std::ops::Range<usize>, values: &mut [u8]) {
        let Scheme { layout, bits, .. } = self.scheme;
        let a_word = 32 / bits;
        match layout {
            Layout::Gptq { .. } => {
                for row in 0..self.inputs / a_word {
                    for (i, output) in outputs.clone().enumerate() {
                        let word = word(self.main, row * self.outputs + output);
                        for k in 0..a_word {
                            values[i * self.inputs + row * a_word + k] = field(word, bits, k);
                        }
                    }
                }
            }
            Layout::Awq => {
                for input in 0..self.inputs {
                    for (i, output) in outputs.clone().enumerate() {
                        let word = word(self.main, input * (self.outputs / 8) + output / 8);
                        values[i * self.inputs + input] = field(word, bits, AWQ_FIELDS[output % 8]);
                    }
                }
            }
            Layout::Packed { .. } => {
                let words = self.inputs.div_ceil(a_word);
                for (values, output) in values.chunks_exact_mut(self.inputs).zip(outputs) {
                    for (input, value) in values.iter_mut().enumerate() {
                        let word = word(self.main, output * words + input / a_word);
                        *value = field(word, bits, input % a_word);
                    }
                }
            }
            Layout::Int8 => {
                let bytes = &self.main[outputs.start * self.inputs..outputs.end * self.inputs];
                for (value, byte) in values.iter_mut().zip(bytes) {
                    *value = byte ^ 128;
                }
            }
        }
    }

    /// The matrix, or the rows of it that are wanted.
    pub(super) fn tensor(&self, rows: &[usize]) -> Result<Tensor<'static>, ImportError> {
        let in_blocks = self.inputs.is_multiple_of(BLOCK)
            && self
                .group_of
                .chunks(BLOCK)
                .all(|block| block.iter().all(|group| *group == block[0]));
        let element = if in_blocks {
            Element::Affine
        } else {
            Element::F32
        };
        let row_bytes = self.inputs / element.block_len() * element.block_bytes();
        let mut data = vec![0; self.outputs * row_bytes];
        data.par_chunks_mut(OUTPUTS_TOGETHER * row_bytes)
            .enumerate()
            .for_each(|(index, data)| {
                let first = index * OUTPUTS_TOGETHER;
                let outputs = first..self.outputs.min(first + OUTPUTS_TOGETHER);
                let mut values = vec![0; outputs.len() * self.inputs];
                self.unpack(outputs.clone(), &mut values);
                let rows = values
                    .chunks_exact(self.inputs)
                    .zip(data.chunks_exact_mut(row_bytes));
                for (output, (values, row)) in outputs.zip(rows) {
                    if in_blocks {
                        self.blocks(output, values, row)
                    } else {
                        self.numbers(output, values, row)
                    }
                }
            });
        let starts = rows.iter().map(|row| row * self.inputs).collect();
        let tensor = Tensor::new(element, data, starts, Columns::Contiguous(self.inputs), 0.0)?;
        Ok(tensor.with_nearest(self.nearest(in_blocks)))
    }

    fn blocks(&self, output: usize, values: &[u8], row: &mut [u8]) {
        let groups = self
            .group_of
            .chunks_exact(BLOCK)
            .map(|block| block[0] as usize);
        for ((group, values), block) in groups.zip(values.as_chunks().0).zip(row.as_chunks_mut().0)
        {
            *block = AffineBlock {
                scale: self.scale(output, group),
                zero: self.zero(output, group),
                values: *values,
            }
            .to_bytes();
        }
    }

    fn numbers(&self, output: usize, values: &[u8], row: &mut [u8]) {
        for ((&group, &value), out) in self.group_of.iter().zip(values).zip(row.as_chunks_mut().0) {
            let steps = i16::from(value) - self.zero(output, group as usize);
            *out = (f32::from(steps) * self.scale(output, group as usize)).to_le_bytes();
        }
    }

    fn nearest(&self, in_blocks: bool) -> DType {
        if !in_blocks || self.scheme.bits == 8 {
            return DType::Q8;
        }
        let mut groups =
            (0..self.outputs).flat_map(|o| (0..self.groups.count).map(move |g| (o, g)));
        if groups.all(|(output, group)| self.zero(output, group) == 8) {
            DType::Q4
        } else {
            DType::Q4Min
        }
    }
}

/// The groups that `g_idx` gives the inputs.
fn groups_of_inputs(
    stored: &Stored<'_>,
    name: &str,
    count: usize,
) -> Result<Vec<u32>, ImportError> {
    let group = |(input, bytes): (usize, &[u8; 4])| {
        let group = i32::from_le_bytes(*bytes);
        match u32::try_from(group) {
            Ok(group) if (group as usize) < count => Ok(group),
            _ => {
                let reason = format!(
                    "tensor `{name}`: input {input} is in group {group}, expected one of {count}"
                );
                Err(ImportError::new(reason).in_file(stored.path))
            }
        }
    };
    stored
        .data
        .as_chunks()
        .0
        .iter()
        .enumerate()
        .map(group)
        .collect()
}

/// A word of a tensor of I32, which is the name of its type only: all 32 bits are fields.
fn word(data: &[u8], at: usize) -> u32 {
    let word = data.as_chunks().0.get(at).copied();
    u32::from_le_bytes(word.unwrap_or_default())
}

/// Field `k` of a word, counted from its lowest bits.
fn field(word: u32, bits: usize, k: usize) -> u8 {
    (word >> (bits * k)) as u8 & (0xff >> (8 - bits))
}
