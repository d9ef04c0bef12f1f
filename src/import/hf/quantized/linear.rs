//! The parts of a quantised matrix, and its values.

use std::path::Path;
use std::prelude::rust_2024::*;

use ::safetensors::Dtype;
use rayon::prelude::*;

use super::{Layout, Scheme};
use crate::import::ggml::AffineBlock;
use crate::import::safetensors::{Stored, Weights};
use crate::import::{Columns, Element, ImportError, Tensor};
use crate::model::DType;

/// How many outputs are unpacked at a time: in the layouts that are packed along the outputs, their
/// words lie side by side.
const OUTPUTS_TOGETHER: usize = 16;

/// Where AWQ keeps an output within its word, in fields.
const AWQ_FIELDS: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

const BLOCK: usize = Element::Affine.block_len();

/// The parts of a quantised matrix, found and checked.
pub(in crate::import::hf) struct Linear<'w> {
    scheme: Scheme,
    /// The names of all parts.
    pub(in crate::import::hf) names: Vec<String>,
    /// The file of the main part.
    pub(in crate::import::hf) path: &'w Path,
    outputs: usize,
    inputs: usize,
    /// The packed values, or bytes.
    main: &'w [u8],
    groups: Groups<'w>,
    /// The group of each input.
    group_of: Vec<u32>,
}

impl<'w> Linear<'w> {
    pub(super) fn find(
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
                // Adds 1 to all fields at once, with carry, because GPTQModel subtracted it in this
                // way. Where the result differs from adding to each field alone, this is the right
                // one.
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
    pub(in crate::import::hf) fn tensor(
        &self,
        rows: &[usize],
    ) -> Result<Tensor<'static>, ImportError> {
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

/// The parts that depend on the layout.
struct LaidOut<'w> {
    main: Stored<'w>,
    zeros: Option<Stored<'w>>,
    /// The suffix and the shape of the scales.
    scales: (&'static str, [usize; 2]),
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

/// A word of a tensor of type I32. It is not a number: all 32 bits are fields.
fn word(data: &[u8], at: usize) -> u32 {
    let word = data.as_chunks().0.get(at).copied();
    u32::from_le_bytes(word.unwrap_or_default())
}

/// Field `k` of a word, counted from its lowest bits.
fn field(word: u32, bits: usize, k: usize) -> u8 {
    (word >> (bits * k)) as u8 & (0xff >> (8 - bits))
}
