//! Writes an image section by section, and the weights a few megabytes at a time: packing takes
//! little memory, whatever the size of the model. The bytes depend only on the checkpoint and the
//! options.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Cursor, Seek, SeekFrom, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::prelude::rust_2024::*;

use pocketlm_kernels::TILE_ROWS;
use rayon::prelude::*;

use super::file::whole_file;
use super::round::{Fidelity, pack};
use super::{Checkpoint, Description, ImportError, RopeTable, Tensor};
use crate::aligned::AlignedBytes;
use crate::model::{
    CONVOLUTION, Config, ConfigField, DType, ENTRY_BYTES, HEADER_BYTES, Layer, LayerKind, MAGIC,
    Rope, Section, TensorId, TensorKind, VERSION, align,
};

/// Bytes of an image that are packed at a time, roughly.
const PIECE: usize = 4 << 20;
/// The most factors of queries that an image may hold: models have some dozens.
const MOST_FACTORS: u32 = 1 << 17;

/// What an image's matrices are stored as. `None` keeps what the checkpoint stores, or the
/// nearest type.
///
/// Example: [`Checkpoint`](super::Checkpoint).
#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    /// The type of all matrices. For q4 and q4min, a tensor whose nearest type is the other of the
    /// two keeps that.
    pub dtype: Option<DType>,
    /// The type of the embedding table and, when not tied, of the output matrix. `None`: the same
    /// as `dtype`.
    pub embedder_dtype: Option<DType>,
    /// The types of single matrices. They take precedence over the other two.
    pub types: BTreeMap<TensorId, DType>,
}

impl PackOptions {
    /// The type that a tensor is packed in.
    pub(crate) fn dtype(&self, id: TensorId, tensor: &Tensor<'_>) -> DType {
        let kind = id.kind;
        if let Some(dtype) = self.types.get(&id).filter(|_| kind.is_matrix()) {
            return *dtype;
        }
        let asked = match kind {
            TensorKind::Embedder | TensorKind::LmHead => self.embedder_dtype.or(self.dtype),
            _ => self.dtype,
        };
        let nearest = tensor.nearest();
        match (asked, nearest) {
            _ if !kind.is_matrix() => DType::F32,
            (None, _) => nearest,
            (Some(DType::Q4 | DType::Q4Min), DType::Q4 | DType::Q4Min) => nearest,
            (Some(asked), _) => asked,
        }
    }
}

/// A matrix as an image stores it.
///
/// Example: [`measure`](crate::quantize::measure()).
pub struct PackedMatrix {
    /// Its type.
    pub dtype: DType,
    /// Its tile rows, of [`DType::matrix_bytes`] bytes.
    pub words: Vec<u32>,
    /// Whether it has exactly the numbers that the checkpoint stores.
    pub is_exact: bool,
}

/// How many matrices of a checkpoint were packed without loss, and how many were rounded.
///
/// Example: [`Checkpoint`](super::Checkpoint).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Packed {
    /// How many have exactly the numbers that the checkpoint stores.
    pub exact: usize,
    /// How many were rounded, because their type cannot hold those numbers.
    pub rounded: usize,
}

impl Packed {
    fn count(&mut self, fidelity: Fidelity) {
        match fidelity {
            Fidelity::Exact => self.exact += 1,
            Fidelity::Rounded => self.rounded += 1,
        }
    }
}

/// The bytes of the image that a checkpoint is packed into.
pub fn image_bytes(checkpoint: &dyn Checkpoint, options: &PackOptions) -> Result<u64, ImportError> {
    Ok(Layout::new(checkpoint, options)?.length)
}

/// Packs a checkpoint into memory. Calls `progress` with the bytes done and the total.
pub fn pack_to_memory(
    checkpoint: &dyn Checkpoint,
    options: &PackOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<AlignedBytes, ImportError> {
    let layout = Layout::new(checkpoint, options)?;
    let length = usize::try_from(layout.length)
        .map_err(|_| ImportError::new("larger than this machine's memory"))?;
    let mut image = AlignedBytes::zeroed(length);
    layout.write(checkpoint, &mut Cursor::new(&mut image[..]), None, progress)?;
    Ok(image)
}

/// Packs a checkpoint into a file. The image appears under its name only when it is complete: after
/// a failure or an interruption, what was there before is still there.
pub fn pack_to_file(
    checkpoint: &dyn Checkpoint,
    options: &PackOptions,
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Packed, ImportError> {
    let refuse =
        |error: io::Error| ImportError::new(format!("cannot be written: {error}")).in_file(path);
    let mut file = whole_file(path)?;
    let packed = pack_into(checkpoint, options, file.as_file_mut(), path, progress)?;
    file.as_file().sync_all().map_err(refuse)?;
    file.persist(path).map_err(|error| refuse(error.error))?;
    Ok(packed)
}

/// Packs a checkpoint into an open, empty file. If the file cannot be written, the error calls it
/// `name`; other errors name a file of the checkpoint, or none.
pub fn pack_into(
    checkpoint: &dyn Checkpoint,
    options: &PackOptions,
    file: &mut File,
    name: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Packed, ImportError> {
    let layout = Layout::new(checkpoint, options)?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    layout.write(checkpoint, &mut file, Some(name), progress)
}

/// Everything in an image except its weights.
struct Layout {
    /// Config, layers, rope, tensors; weights; tokenizer, chat template.
    sections: [Vec<u8>; 7],
    tensors: Vec<(TensorId, DType)>,
    weights_length: u64,
    length: u64,
}

impl Layout {
    fn new(checkpoint: &dyn Checkpoint, options: &PackOptions) -> Result<Layout, ImportError> {
        let description = checkpoint.description();
        check(description)?;
        let Table {
            tensors,
            entries,
            weights_length,
        } = Table::new(checkpoint, options)?;
        let sections = [
            description.config.to_bytes(),
            layers(description),
            rope(description)?,
            entries,
            Vec::new(),
            readable(&description.tokenizer)
                .cloned()
                .unwrap_or_default(),
            readable(&description.chat_template)
                .cloned()
                .unwrap_or_default()
                .into_bytes(),
        ];
        let mut layout = Layout {
            sections,
            tensors,
            weights_length,
            length: 0,
        };
        let last = layout.offsets().ok_or_else(too_large)?[6];
        layout.length =
            align(last + layout.section_length(Section::ChatTemplate)).ok_or_else(too_large)?;
        Ok(layout)
    }

    fn section_length(&self, section: Section) -> u64 {
        match section {
            Section::Weights => self.weights_length,
            _ => self.sections[section as usize].len() as u64,
        }
    }

    /// Where each section starts.
    fn offsets(&self) -> Option<[u64; 7]> {
        let mut offsets = [0; 7];
        let mut end = HEADER_BYTES as u64;
        for section in Section::ALL {
            offsets[section as usize] = align(end)?;
            end = offsets[section as usize].checked_add(self.section_length(section))?;
        }
        Some(offsets)
    }

    fn write(
        &self,
        checkpoint: &dyn Checkpoint,
        file: &mut (impl Write + Seek),
        name: Option<&Path>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Packed, ImportError> {
        let mut packed = Packed::default();
        let offsets = self.offsets().expect("computed before");
        let mut out = Output {
            file,
            name,
            written: 0,
            hasher: crc32fast::Hasher::new(),
        };
        out.put(&[0; HEADER_BYTES])?;
        let mut checksums = [0; 7];
        for section in Section::ALL {
            out.pad_to(offsets[section as usize])?;
            out.hasher = crc32fast::Hasher::new();
            match section {
                Section::Weights => packed = self.write_weights(checkpoint, &mut out, progress)?,
                _ => out.put(&self.sections[section as usize])?,
            }
            checksums[section as usize] = out.hasher.clone().finalize();
        }
        out.pad_to(self.length)?;

        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&self.length.to_le_bytes());
        for section in Section::ALL {
            let entry = &mut header[32 + 24 * section as usize..][..24];
            entry[..8].copy_from_slice(&offsets[section as usize].to_le_bytes());
            entry[8..16].copy_from_slice(&self.section_length(section).to_le_bytes());
            entry[16..20].copy_from_slice(&checksums[section as usize].to_le_bytes());
        }
        let checksum = crc32fast::hash(&header);
        header[12..16].copy_from_slice(&checksum.to_le_bytes());
        let at_start = out.file.seek(SeekFrom::Start(0)).map(|_| ());
        out.written_or_refused(at_start)?;
        out.put(&header)?;
        let flushed = out.file.flush();
        out.written_or_refused(flushed)?;
        Ok(packed)
    }

    fn write_weights(
        &self,
        checkpoint: &dyn Checkpoint,
        out: &mut Output<'_, impl Write + Seek>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Packed, ImportError> {
        let mut packed = Packed::default();
        let start = out.written;
        let mut progress = |written: u64| progress(written - start, self.weights_length);
        for &(id, dtype) in &self.tensors {
            out.pad_to(start + align(out.written - start).expect("computed before"))?;
            let tensor = checkpoint.tensor(id)?;
            if !id.kind.is_matrix() {
                let values = vector(&tensor).map_err(|error| of_tensor(id, error))?;
                out.put(bytemuck::cast_slice(&values))?;
            } else if let Some(matrix) = checkpoint.packed(id) {
                out.put(bytemuck::cast_slice(&matrix.words))?;
                packed.count(Fidelity::exact(matrix.is_exact));
                progress(out.written);
            } else {
                packed.count(write_matrix(&tensor, id, dtype, out, &mut progress)?);
            }
        }
        Ok(packed)
    }
}

/// Refuses a description that contradicts itself.
fn check(description: &Description) -> Result<(), ImportError> {
    let config = &description.config;
    config
        .check()
        .map_err(|error| ImportError::new(error.to_string()))?;
    if description.layers.len() != config.num_decoder_blocks as usize {
        let (listed, expected) = (description.layers.len(), config.num_decoder_blocks);
        return Err(ImportError::new(format!(
            "{listed} layers are described, and the config says {expected}"
        )));
    }
    let is_wrong = |layer: &Layer| {
        layer.kind == LayerKind::Convolution
            && (layer.window != config.conv_taps || layer.window.is_none())
    };
    if description.layers.iter().any(is_wrong) {
        return Err(ImportError::new(ConfigField::ConvTaps.to_string()));
    }
    Ok(())
}

/// The tensors of an image.
struct Table {
    /// Which they are, and their types.
    tensors: Vec<(TensorId, DType)>,
    /// The tensors section.
    entries: Vec<u8>,
    weights_length: u64,
}

impl Table {
    fn new(checkpoint: &dyn Checkpoint, options: &PackOptions) -> Result<Self, ImportError> {
        let description = checkpoint.description();
        let mut tensors = Vec::new();
        let mut entries = Vec::new();
        let mut end = 0;
        for id in description.tensor_ids() {
            let tensor = checkpoint.tensor(id)?;
            let packed = checkpoint.packed(id);
            let dtype = packed.map_or_else(|| options.dtype(id, &tensor), |packed| packed.dtype);
            let shape = id.kind.shape(&description.config);
            let (rows, columns) = shape.ok_or_else(too_large)?;
            if (tensor.row_count(), tensor.column_count()) != (rows, columns) {
                let (r, c) = (tensor.row_count(), tensor.column_count());
                return Err(ImportError::new(format!(
                    "tensor {id}: shape [{r}, {c}], expected [{rows}, {columns}]"
                )));
            }
            let bytes = if id.kind.is_matrix() {
                dtype.matrix_bytes(rows, columns)
            } else {
                columns.checked_mul(4)
            };
            let start = align(end).ok_or_else(too_large)?;
            end = bytes
                .and_then(|bytes| start.checked_add(bytes as u64))
                .ok_or_else(too_large)?;
            entries.extend([id.kind as u8, dtype as u8, 0, 0]);
            entries.extend(id.layer.to_le_bytes());
            entries.extend(start.to_le_bytes());
            tensors.push((id, dtype));
        }
        debug_assert_eq!(entries.len(), tensors.len() * ENTRY_BYTES);
        Ok(Table {
            tensors,
            entries,
            weights_length: end,
        })
    }
}

/// The error of sizes that overflow.
fn too_large() -> ImportError {
    ImportError::new("the tensors are larger than any memory")
}

/// `error` with the tensor that it is about.
fn of_tensor(id: TensorId, error: ImportError) -> ImportError {
    ImportError {
        reason: format!("tensor {id}: {}", error.reason),
        ..error
    }
}

/// The numbers of a vector, all of which have to be finite.
fn vector(tensor: &Tensor<'_>) -> Result<Vec<f32>, ImportError> {
    let mut values = vec![0.0; tensor.column_count()];
    tensor.row(0, &mut values)?;
    if let Some(c) = values.iter().position(|x| !x.is_finite()) {
        let reason = format!("element [{c}] is {}", values[c]);
        return Err(ImportError::new(reason));
    }
    Ok(values)
}

/// Packs a matrix and writes it, some tile rows at a time. After each piece, calls `progress` with
/// the bytes that are written.
fn write_matrix(
    tensor: &Tensor<'_>,
    id: TensorId,
    dtype: DType,
    out: &mut Output<'_, impl Write + Seek>,
    progress: &mut dyn FnMut(u64),
) -> Result<Fidelity, ImportError> {
    let tile_row = dtype
        .tile_row_bytes(tensor.column_count())
        .expect("computed before");
    let tile_rows = tensor.row_count().div_ceil(TILE_ROWS);
    let together = (PIECE / tile_row).clamp(1, tile_rows);
    let mut piece = vec![0u32; together * tile_row / 4];
    let mut fidelity = Fidelity::Exact;
    for first in (0..tile_rows).step_by(together) {
        let count = together.min(tile_rows - first);
        let piece = &mut piece[..count * tile_row / 4];
        // All cores share the tile rows of a piece.
        let of_piece = piece
            .par_chunks_exact_mut(tile_row / 4)
            .enumerate()
            .map(|(index, words)| pack_tile_row(tensor, first + index, dtype, words))
            .try_reduce(|| Fidelity::Exact, |a, b| Ok(a.and(b)))
            .map_err(|error| of_tensor(id, error))?;
        fidelity = fidelity.and(of_piece);
        out.put(bytemuck::cast_slice(piece))?;
        progress(out.written);
    }
    Ok(fidelity)
}

/// Packs tile row `index` of a matrix into `words`.
fn pack_tile_row(
    tensor: &Tensor<'_>,
    index: usize,
    dtype: DType,
    words: &mut [u32],
) -> Result<Fidelity, ImportError> {
    let start = index * TILE_ROWS;
    let rows = start..tensor.row_count().min(start + TILE_ROWS);
    if rows.len() < TILE_ROWS {
        words.fill(0);
    }
    let mut values = vec![0.0; tensor.column_count()];
    let mut fidelity = Fidelity::Exact;
    for r in rows {
        let tile_row = bytemuck::cast_slice_mut(words);
        let of_row = pack(tensor, r, dtype, tile_row, &mut values)?;
        fidelity = fidelity.and(of_row);
    }
    Ok(fidelity)
}

/// A file that is being written: its length so far, and the checksum of the current section.
struct Output<'f, F> {
    file: &'f mut F,
    /// The file to name if it cannot be written.
    name: Option<&'f Path>,
    written: u64,
    hasher: crc32fast::Hasher,
}

impl<F: Write + Seek> Output<'_, F> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        let written = self.file.write_all(bytes);
        self.written_or_refused(written)?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, offset: u64) -> Result<(), ImportError> {
        self.put(&[0; crate::model::ALIGNMENT][..(offset - self.written) as usize])
    }

    fn written_or_refused(&self, written: io::Result<()>) -> Result<(), ImportError> {
        written.map_err(|error| {
            let error = ImportError::new(format!("cannot be written: {error}"));
            match self.name {
                Some(name) => error.in_file(name),
                None => error,
            }
        })
    }
}

/// The part, if the checkpoint has it and it can be used.
fn readable<T>(part: &Option<Result<T, ImportError>>) -> Option<&T> {
    part.as_ref()?.as_ref().ok()
}

fn layers(description: &Description) -> Vec<u8> {
    let words = description.layers.iter().flat_map(|layer| {
        let kind = match layer.kind {
            LayerKind::Attention => layer.rope as u32,
            LayerKind::Convolution => CONVOLUTION,
        };
        [layer.window.map_or(0, |window| window.get()), kind]
    });
    words.flat_map(u32::to_le_bytes).collect()
}

fn rope(description: &Description) -> Result<Vec<u8>, ImportError> {
    let attention = |layer: &&Layer| layer.kind == LayerKind::Attention;
    let used = |rope| {
        let mut layers = description.layers.iter().filter(attention);
        layers.any(|layer| layer.rope == rope)
    };
    let mut section = Vec::new();
    if used(Rope::Global) {
        write_table(&description.global_rope, &description.config, &mut section)?;
    }
    if used(Rope::Local) {
        let table = description.local_rope.as_ref();
        let table = table.ok_or_else(|| {
            ImportError::new("a layer uses the local rotary frequencies, and there are none")
        })?;
        write_table(table, &description.config, &mut section)?;
    }
    if let Some(temperature) = description.config.attn_temperature {
        let positions = description.config.max_position_embeddings;
        let positions = positions.map_or(1 << 17, NonZeroU32::get);
        if positions / temperature.length > MOST_FACTORS {
            return Err(ImportError::new(format!(
                "attn_temperature has a length of {}, which makes more than {MOST_FACTORS} \
                 factors for {positions} positions",
                temperature.length
            )));
        }
        let factors = temperature.factors(positions);
        section.extend(factors.flat_map(f32::to_le_bytes));
    }
    Ok(section)
}

fn write_table(
    table: &RopeTable,
    config: &Config,
    section: &mut Vec<u8>,
) -> Result<(), ImportError> {
    let pairs = config.projection_dim as usize / 2;
    if table.frequencies.len() != pairs {
        let reason = format!(
            "{} rotary frequencies for {pairs} pairs of channels",
            table.frequencies.len()
        );
        return Err(ImportError::new(reason));
    }
    section.extend(table.amplitude.to_le_bytes());
    section.extend([0; 4]);
    for &frequency in &table.frequencies {
        let turns = frequency / std::f64::consts::TAU;
        if !turns.is_finite() || turns < 0.0 {
            return Err(ImportError::new(format!(
                "a rotary frequency of {frequency} radians a position"
            )));
        }
        // Positions are whole, so whole turns a position change nothing.
        section.extend(((turns.fract() * 2f64.powi(64)) as u64).to_le_bytes());
    }
    Ok(())
}
