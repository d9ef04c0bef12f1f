//! What an image holds: the config, the tensors, and the byte format. [`Model::open`] checks an
//! image once and completely; what comes after borrows from it and does not check it again.

mod checksum;
mod config;
mod image;
mod layers;
mod open;
mod scrub;
#[cfg(feature = "source")]
mod source;
mod tensor;
mod verify;

use core::ops::Range;

use bytemuck::try_cast_slice;
use pocketlm_kernels::{Matrix, TILE_ROWS};

pub(crate) use checksum::{crc32, extend_crc32};
pub(crate) use config::Dims;
pub use config::{AttnTemperature, Config, ConfigField, MlpVariant};
pub(crate) use image::VERSION;
#[cfg(feature = "std")]
pub use image::tensor_ids;
pub use image::{ALIGNMENT, Header, Section};
#[doc(hidden)] // for the macro `include_image!` and for the command line
pub use image::{Aligned, MAGIC};
#[cfg(feature = "std")]
pub(crate) use image::{ENTRY_BYTES, HEADER_BYTES, align};
#[cfg(feature = "std")]
pub(crate) use layers::CONVOLUTION;
pub use layers::{Layer, LayerKind, Layers, Rope};
pub use open::Open;
pub use pocketlm_kernels::{DType, Kv};
pub use scrub::Scrub;
#[cfg(feature = "source")]
pub use source::WeightSource;
pub use tensor::{TensorId, TensorKind};
pub use verify::Verify;

use crate::Error;
use crate::log;
use crate::text::Tokenizer;
use image::Entry;

/// An opened image: borrowed, checked, ready to run.
///
/// ```
/// use pocketlm::{include_image, model::Model};
///
/// let model = Model::open(include_image!("../bin/pocketlm/story/story.plm"))?;
/// assert_eq!(model.config().embedding_dim, 192);
/// assert_eq!(model.layers().len(), 4);
/// for id in model.tensors() {
///     if let Some((dtype, rows, columns)) = model.tensor_type(id) {
///         println!("{id}: {} [{rows}, {columns}]", dtype.name());
///     }
/// }
/// # Ok::<(), pocketlm::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Model<'m> {
    header: Header<'m>,
    /// How many tensors belong to no layer, and how many each layer of a kind has.
    counts: (usize, [usize; LayerKind::COUNT]),
    /// `slots[layer kind][tensor kind]`: the place of a tensor among those of its layer.
    slots: [[u8; TensorKind::ALL.len()]; LayerKind::COUNT],
}

impl<'m> Model<'m> {
    /// Checks an image and borrows it. All but the tokenizer is checked here, once: lengths,
    /// alignment, holes and overlaps, every section's checksum, the config, the place, type and
    /// shape of every tensor, and that every number is finite. So this reads the whole image.
    /// Afterwards only calls that are wrong in themselves fail, such as a token id out of range or
    /// too long a context.
    ///
    /// The tokenizer is checked when it is asked for ([`Model::tokenizer`]), so that a firmware
    /// that deals in token ids does not carry one.
    pub fn open(image: &'m [u8]) -> Result<Model<'m>, Error> {
        let model = log::refused("open", open::open(image))?;
        #[cfg(feature = "defmt")]
        defmt::info!("open: {}", model);
        Ok(model)
    }

    /// A model of which only the header has been looked at.
    fn of(header: Header<'m>) -> Self {
        Model {
            header,
            counts: (0, [0; LayerKind::COUNT]),
            slots: [[0; TensorKind::ALL.len()]; LayerKind::COUNT],
        }
    }

    /// Counts the tensors that the config calls for, and finds the place of each kind within a
    /// layer.
    fn place_tensors(&mut self) {
        for layer in LayerKind::ALL {
            let index = layer.index();
            self.counts.0 = 0;
            self.counts.1[index] = 0;
            for kind in TensorKind::ALL {
                let count = if kind.is_per_layer() {
                    &mut self.counts.1[index]
                } else {
                    &mut self.counts.0
                };
                self.slots[index][kind as usize] = *count as u8;
                *count += kind.is_present(&self.header.config, layer) as usize;
            }
        }
    }

    /// Checks the rope section and that the chat template is UTF-8, and places the tensors.
    /// [`Header`] has checked the config and the layers; [`Model::tokenizer`] checks the tokenizer.
    fn check_sections_and_place_tensors(&mut self) -> Result<(), Error> {
        let header = &self.header;
        let tables = header.rope_lengths().0.saturating_mul(8);
        let factors = header.section(Section::Rope).len().checked_sub(tables);
        let has_factors = header.config.attn_temperature.is_some();
        if factors.is_none_or(|bytes| (bytes != 0) != has_factors || bytes % 8 != 0) {
            return Err(Error::Layout(Section::Rope));
        }
        if core::str::from_utf8(header.section(Section::ChatTemplate)).is_err() {
            return Err(Error::ChatTemplate);
        }
        self.place_tensors();
        for rope in [Rope::Global, Rope::Local] {
            let (amplitude, _) = self.rope(rope);
            let reserved = self.rope_words(rope).first().map_or(0, |word| word >> 32);
            if !(amplitude.is_finite() && amplitude > 0.0) || reserved != 0 {
                return Err(Error::Config(ConfigField::Rope));
            }
        }
        if self
            .query_factors()
            .iter()
            .any(|factor| !factor.is_finite())
        {
            return Err(Error::Config(ConfigField::AttnTemperature));
        }
        Ok(())
    }

    /// Checks the table of tensors and, through `check`, every byte of the `length` bytes of
    /// weights in order: gaps between tensors (no `Location`), which must be zero, and tensors,
    /// which must be finite.
    fn check_tensors(
        &self,
        length: u64,
        mut check: impl FnMut(Range<u64>, Option<Location>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let config = self.config();
        let entries = self.header.section(Section::Tensors);
        let mut end = 0;
        let mut count = 0;
        for (index, id) in self.tensors().enumerate() {
            let entry = Entry::read(entries, index);
            let start = image::align(end).ok_or(Error::Tensor(id))?;
            let location = Location::new(&entry, id.kind, config).ok_or(Error::Tensor(id))?;
            let next = start.checked_add(location.bytes as u64);
            let expected = (id.kind as u8, 0, id.layer, start);
            if (entry.kind, entry.zero, entry.layer, entry.offset) != expected
                || next.is_none_or(|next| next > length)
                || !check(end..start, None)?
            {
                return Err(Error::Tensor(id));
            }
            end = next.unwrap_or(start);
            if id.kind.is_matrix() && !location.dtype.enabled() {
                return Err(Error::Disabled(location.dtype));
            }
            if !check(start..end, Some(location))? {
                return Err(Error::NotFinite(id));
            }
            count += 1;
        }
        if entries.len() != count * image::ENTRY_BYTES {
            return Err(Error::Layout(Section::Tensors));
        }
        if end != length {
            return Err(Error::Layout(Section::Weights));
        }
        Ok(())
    }

    /// The config.
    pub fn config(&self) -> &Config {
        &self.header.config
    }

    /// The layers.
    pub fn layers(&self) -> Layers<'m> {
        self.header.layers
    }

    /// The header, for a [`Plan`](crate::run::Plan).
    pub fn header(&self) -> &Header<'m> {
        &self.header
    }

    /// The fingerprint of the image: the checksum of its header, which covers the checksums of all
    /// sections.
    pub fn checksum(&self) -> u32 {
        self.header.checksum()
    }

    /// The tensors, in the order of the image.
    pub fn tensors(&self) -> impl Iterator<Item = TensorId> + use<'m> {
        #[cfg(feature = "convolution")]
        let kind = {
            let layers = self.layers();
            move |layer| layers.kind(layer as usize)
        };
        // One that holds nothing makes less code.
        #[cfg(not(feature = "convolution"))]
        let kind = |_| LayerKind::Attention;
        image::tensor_ids(self.config(), kind)
    }

    /// Element type, rows and columns of a tensor; `None` if the model has no such tensor.
    pub fn tensor_type(&self, id: TensorId) -> Option<(DType, usize, usize)> {
        let (rows, columns) = id.kind.shape(self.config())?;
        Some((
            DType::from_code(self.entry(id)?.dtype as u32)?,
            rows,
            columns,
        ))
    }

    /// The tokenizer, opened and checked. [`Error::NoTokenizer`] if the image holds none; else the
    /// errors of [`Tokenizer::open`].
    pub fn tokenizer(&self) -> Result<Tokenizer<'m>, Error> {
        match self.header.section(Section::Tokenizer) {
            [] => Err(Error::NoTokenizer),
            section => Tokenizer::open(section),
        }
    }

    /// The chat template, Jinja source; `None` if the image holds none.
    pub fn chat_template(&self) -> Option<&'m str> {
        // `open` has seen that it is UTF-8.
        core::str::from_utf8(self.header.section(Section::ChatTemplate))
            .ok()
            .filter(|template| !template.is_empty())
    }

    /// What cosines and sines are multiplied by, and the rotary frequencies in units of 2^−64 turns
    /// a position. No frequencies if no layer uses them.
    pub(crate) fn rope(&self, rope: Rope) -> (f32, &'m [u64]) {
        match self.rope_words(rope) {
            [amplitude, frequencies @ ..] => (f32::from_bits(*amplitude as u32), frequencies),
            [] => (1.0, &[]),
        }
    }

    /// The factors of [`AttnTemperature`], from step 0 on; empty without. Later steps have the
    /// last.
    pub(crate) fn query_factors(&self) -> &'m [f32] {
        if self.config().attn_temperature.is_none() {
            return &[];
        }
        let start = self.header.rope_lengths().0.saturating_mul(8);
        let bytes = self.header.section(Section::Rope).get(start..);
        try_cast_slice(bytes.unwrap_or_default()).unwrap_or_default()
    }

    /// Rotary frequencies as they are stored, behind their amplitude; empty if no layer uses them.
    fn rope_words(&self, rope: Rope) -> &'m [u64] {
        let section: &[u64] =
            try_cast_slice(self.header.section(Section::Rope)).unwrap_or_default();
        let (length, local_start) = self.header.rope_lengths();
        let tables = section.get(..length).unwrap_or_default();
        let (global, local) = tables.split_at_checked(local_start).unwrap_or_default();
        match rope {
            Rope::None => &[],
            Rope::Global => global,
            Rope::Local => local,
        }
    }

    /// A matrix. Empty if the model has no such matrix, or if it is not in memory.
    pub(crate) fn matrix(&self, layer: u32, kind: TensorKind) -> Matrix<'m> {
        let location = self.location(layer, kind);
        Matrix::new(
            location.dtype,
            location.rows,
            location.columns,
            self.bytes(location),
        )
        .unwrap_or(Matrix::EMPTY)
    }

    /// A vector. Empty if the model has none.
    pub(crate) fn vector(&self, layer: u32, kind: TensorKind) -> &'m [f32] {
        try_cast_slice(self.bytes(self.location(layer, kind))).unwrap_or_default()
    }

    /// How many tensors the layers before this one have.
    fn tensors_before(&self, layer: usize) -> usize {
        let counts = &self.counts.1;
        let count = |kind: LayerKind| counts.get(kind.index()).copied().unwrap_or(0);
        if LayerKind::COUNT == 1 || self.config().conv_taps.is_none() {
            // All layers are attention.
            return count(LayerKind::Attention) * layer;
        }
        let layers = self.layers();
        let before = 0..layer.min(layers.len());
        before.map(|layer| count(layers.kind(layer))).sum()
    }

    fn entry(&self, id: TensorId) -> Option<Entry> {
        let layer = id.layer as usize;
        let kind = self.layers().kind(layer).index();
        let slot = *self.slots.get(kind)?.get(id.kind as usize)? as usize;
        let index = if id.kind.is_per_layer() {
            self.counts.0 + self.tensors_before(layer) + slot
        } else {
            slot
        };
        let entry = Entry::read(self.header.section(Section::Tensors), index);
        (entry.kind == id.kind as u8 && entry.layer == id.layer).then_some(entry)
    }

    /// Where a tensor is and what it is; [`Location::NONE`] if the model has no such tensor.
    /// Tensors that belong to no layer are found with any layer. With tied
    /// embeddings `lm_head` is the embedder.
    pub(crate) fn location(&self, layer: u32, kind: TensorKind) -> Location {
        let layer = if kind.is_per_layer() { layer } else { 0 };
        let kind = if kind == TensorKind::LmHead && self.config().tie_embedder_and_logits {
            TensorKind::Embedder
        } else {
            kind
        };
        let location = self
            .entry(TensorId { layer, kind })
            .and_then(|entry| Location::new(&entry, kind, self.config()));
        location.unwrap_or(Location::NONE)
    }

    /// The bytes of a tensor.
    pub(crate) fn bytes(&self, location: Location) -> &'m [u8] {
        let start = usize::try_from(location.offset).unwrap_or(usize::MAX);
        self.header
            .section(Section::Weights)
            .get(start..start.saturating_add(location.bytes))
            .unwrap_or_default()
    }
}

/// Where a tensor is and what it is.
#[derive(Clone, Copy)]
pub(crate) struct Location {
    pub dtype: DType,
    pub rows: usize,
    pub columns: usize,
    /// From the start of the weights.
    pub offset: u64,
    pub bytes: usize,
    is_matrix: bool,
}

impl Location {
    pub const NONE: Location = Location {
        dtype: DType::F32,
        rows: 0,
        columns: 0,
        offset: 0,
        bytes: 0,
        is_matrix: false,
    };

    /// `None` for a type that the tensor cannot have, or bytes beyond counting.
    fn new(entry: &Entry, kind: TensorKind, config: &Config) -> Option<Location> {
        let dtype = DType::from_code(entry.dtype as u32)?;
        let (rows, columns) = kind.shape(config)?;
        let bytes = if kind.is_matrix() {
            dtype.matrix_bytes(rows, columns)?
        } else if dtype == DType::F32 {
            columns.checked_mul(4)?
        } else {
            return None;
        };
        Some(Location {
            dtype,
            rows,
            columns,
            offset: entry.offset,
            bytes,
            is_matrix: kind.is_matrix(),
        })
    }

    /// Tile rows of a matrix.
    #[cfg(feature = "source")]
    pub fn tile_rows(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Bytes of a tile row of a matrix, or of a number of a vector.
    pub fn item_bytes(&self) -> usize {
        if self.is_matrix {
            self.dtype.tile_row_bytes(self.columns).unwrap_or(0).max(1)
        } else {
            size_of::<f32>()
        }
    }

    /// Whether all numbers of the tensor, or of whole tile rows of it, are finite.
    fn is_finite(&self, bytes: &[u8]) -> bool {
        if self.is_matrix {
            let rows = self.rows.min(bytes.len() / self.item_bytes() * TILE_ROWS);
            Matrix::new(self.dtype, rows, self.columns, bytes)
                .is_some_and(|matrix| matrix.is_finite())
        } else {
            try_cast_slice(bytes).is_ok_and(|vector: &[f32]| vector.iter().all(|x| x.is_finite()))
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// Checks the checksums of the header and of every section, and that all bytes between sections are
/// zero. The caller says whether the checksum of a section is right, and whether the bytes from one
/// place to another are zero.
fn check_sections(
    before: &[u8],
    header: &Header<'_>,
    mut checksum_is_right: impl FnMut(Section) -> bool,
    gap_is_zero: impl Fn(u64, u64) -> bool,
) -> Result<(), Error> {
    let mut copy = [0; image::HEADER_BYTES];
    copy.copy_from_slice(before.get(..image::HEADER_BYTES).ok_or(Error::NotAnImage)?);
    copy[12..16].fill(0);
    if crc32(&copy) != header.section_checksum(Section::Header) {
        return Err(Error::Checksum(Section::Header));
    }
    // `Header::read` has seen that each section starts at the first multiple of the alignment after
    // the one before.
    let mut end = image::HEADER_BYTES as u64;
    for section in Section::ALL {
        if !checksum_is_right(section) {
            return Err(Error::Checksum(section));
        }
        let (start, bytes) = image::section_range(before, section as usize);
        if !gap_is_zero(end, start) {
            return Err(Error::Layout(section));
        }
        end = start.saturating_add(bytes);
    }
    if !gap_is_zero(end, image::align(end).unwrap_or(end)) {
        return Err(Error::Layout(Section::ChatTemplate));
    }
    Ok(())
}
