//! What an image holds: the config, the tensors, and the byte format. [`Model::open`] checks an image once and
//! completely; everything after it borrows and trusts (contract C3).

mod checksum;
mod config;
mod image;
mod scrub;
mod tensor;

use bytemuck::try_cast_slice;

pub(crate) use checksum::{crc32, extend_crc32};
pub use config::{Config, ConfigField, Layer, Layers, MlpVariant, Rope};
pub use image::{ALIGNMENT, Aligned, Header, MAGIC, Section, VERSION};
#[cfg(feature = "std")]
pub(crate) use image::{ENTRY_BYTES, HEADER_BYTES, align, tensor_ids};
pub use pocketlm_kernels::{DType, Kv, Matrix};
pub use scrub::Scrub;
pub use tensor::{Role, TensorId};

use crate::Error;
use crate::text::Tokenizer;
use image::Entry;

/// An opened image: borrowed, checked, ready to run.
#[derive(Clone, Copy)]
pub struct Model<'m> {
    header: Header<'m>,
    /// Number of tensors that belong to no layer, and that each layer has.
    counts: (usize, usize),
    /// Where a role stands among the tensors of its layer.
    slots: [u8; Role::ALL.len()],
}

impl<'m> Model<'m> {
    /// Checks an image and borrows it. Everything is checked here, once: lengths, alignment, holes and overlaps, every
    /// section's checksum, the config, the place, type and shape of every tensor, and that every number is finite.
    /// So this reads the whole image; all that can go wrong afterwards is a token id out of range or a full context.
    ///
    /// The tokenizer is checked when it is asked for ([`Model::tokenizer`]), so that a firmware that deals in token ids
    /// does not carry one.
    pub fn open(image: &'m [u8]) -> Result<Model<'m>, Error> {
        let header = Header::read(image)?;
        if !(image.as_ptr() as usize).is_multiple_of(ALIGNMENT) {
            return Err(Error::Unaligned(ALIGNMENT as u32));
        }
        check_sections(image, &header)?;
        if header.section(Section::Rope).len() != header.rope_lengths().0.saturating_mul(8) {
            return Err(Error::Layout(Section::Rope));
        }
        if core::str::from_utf8(header.section(Section::ChatTemplate)).is_err() {
            return Err(Error::ChatTemplate);
        }
        let mut slots = [0; Role::ALL.len()];
        let mut counts = (0, 0);
        for role in Role::ALL {
            let count = if role.is_per_layer() { &mut counts.1 } else { &mut counts.0 };
            slots[role as usize] = *count as u8;
            *count += role.is_present(&header.config) as usize;
        }
        let model = Model { header, counts, slots };
        for rope in [Rope::Global, Rope::Local] {
            let (amplitude, _) = model.rope(rope);
            let reserved = model.rope_words(rope).first().map_or(0, |word| word >> 32);
            if !(amplitude.is_finite() && amplitude > 0.0) || reserved != 0 {
                return Err(Error::Config(ConfigField::Rope));
            }
        }
        model.check_tensors()?;
        Ok(model)
    }

    /// [`open`](Model::open) for an image that must come from somebody: `verify` sees its bytes before anything in them is
    /// read, and says whether they may be used. A checksum finds damage, a signature finds forgery; which scheme, which key
    /// and where the signature lies are the application's (`examples/signed.rs` has one with Ed25519).
    ///
    /// [`Error::Unverified`] if `verify` says no; else as `open`.
    pub fn open_verified(image: &'m [u8], verify: impl FnOnce(&[u8]) -> bool) -> Result<Model<'m>, Error> {
        if !verify(image) {
            return Err(Error::Unverified);
        }
        Model::open(image)
    }

    fn check_tensors(&self) -> Result<(), Error> {
        let config = self.config();
        let entries = self.header.section(Section::Tensors);
        let weights = self.header.section(Section::Weights);
        let mut end = 0;
        let mut count = 0;
        for (index, id) in image::tensor_ids(config).enumerate() {
            let entry = Entry::read(entries, index);
            let start = image::align(end).ok_or(Error::Tensor(id))?;
            let dtype = DType::from_code(entry.dtype as u32).ok_or(Error::Tensor(id))?;
            let (rows, columns) = id.role.shape(config).ok_or(Error::Tensor(id))?;
            let bytes = match id.role.is_matrix() {
                true => dtype.matrix_bytes(rows, columns),
                false if dtype == DType::F32 => columns.checked_mul(4),
                false => None,
            };
            let bytes = bytes.ok_or(Error::Tensor(id))? as u64;
            let expected = (id.role as u8, 0, id.layer, start);
            if (entry.role, entry.zero, entry.layer, entry.offset) != expected
                || start.checked_add(bytes).is_none_or(|end| end > weights.len() as u64)
                || !self.gap_is_zero(end, start)
            {
                return Err(Error::Tensor(id));
            }
            end = start + bytes;
            if id.role.is_matrix() && !dtype.enabled() {
                return Err(Error::Disabled(dtype));
            }
            let finite = match id.role.is_matrix() {
                true => self.find_matrix(id).ok_or(Error::Tensor(id))?.is_finite(),
                false => self.find_vector(id).ok_or(Error::Tensor(id))?.iter().all(|x| x.is_finite()),
            };
            if !finite {
                return Err(Error::NotFinite(id));
            }
            count += 1;
        }
        if entries.len() != count * image::ENTRY_BYTES {
            return Err(Error::Layout(Section::Tensors));
        }
        if end != weights.len() as u64 {
            return Err(Error::Layout(Section::Weights));
        }
        Ok(())
    }

    fn gap_is_zero(&self, from: u64, to: u64) -> bool {
        let weights = self.header.section(Section::Weights);
        weights.get(from as usize..to as usize).is_some_and(|gap| gap.iter().all(|&byte| byte == 0))
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

    /// The fingerprint of the image: the checksum of its header, which covers the checksums of all sections.
    pub fn checksum(&self) -> u32 {
        self.header.checksum()
    }

    /// The tensors, in the order of the image.
    pub fn tensors(&self) -> impl Iterator<Item = TensorId> + use<> {
        image::tensor_ids(self.config())
    }

    /// Element type, rows and columns of a tensor; `None` if the model has no such tensor.
    pub fn tensor_type(&self, id: TensorId) -> Option<(DType, usize, usize)> {
        let (rows, columns) = id.role.shape(self.config())?;
        Some((DType::from_code(self.entry(id)?.dtype as u32)?, rows, columns))
    }

    /// The tokenizer, opened and checked; `None` if the image holds none.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer<'m>>, Error> {
        match self.header.section(Section::Tokenizer) {
            [] => Ok(None),
            section => Tokenizer::open(section).map(Some),
        }
    }

    /// The chat template, Jinja source; `None` if the image holds none.
    pub fn chat_template(&self) -> Option<&'m str> {
        // `open` has seen that it is UTF-8.
        core::str::from_utf8(self.header.section(Section::ChatTemplate)).ok().filter(|template| !template.is_empty())
    }

    /// A rotary table: what its cosines and sines are multiplied by, and its frequencies in units of 2^−64 turns a
    /// position. No frequencies if no layer uses it.
    pub(crate) fn rope(&self, rope: Rope) -> (f32, &'m [u64]) {
        match self.rope_words(rope) {
            [amplitude, frequencies @ ..] => (f32::from_bits(*amplitude as u32), frequencies),
            [] => (1.0, &[]),
        }
    }

    /// A rotary table as it is stored; empty if no layer uses it.
    fn rope_words(&self, rope: Rope) -> &'m [u64] {
        let tables: &[u64] = try_cast_slice(self.header.section(Section::Rope)).unwrap_or_default();
        let (global, local) = tables.split_at_checked(self.header.rope_lengths().1).unwrap_or_default();
        match rope {
            Rope::None => &[],
            Rope::Global => global,
            Rope::Local => local,
        }
    }

    /// A matrix the config calls for. Asking for another gives an empty one.
    pub(crate) fn matrix(&self, layer: u32, role: Role) -> Matrix<'m> {
        self.find_matrix(TensorId { layer, role }).unwrap_or(Matrix::EMPTY)
    }

    /// A vector the config calls for; empty if the model has none.
    pub(crate) fn vector(&self, layer: u32, role: Role) -> &'m [f32] {
        self.find_vector(TensorId { layer, role }).unwrap_or_default()
    }

    fn entry(&self, id: TensorId) -> Option<Entry> {
        let slot = *self.slots.get(id.role as usize)? as usize;
        let index = match id.role.is_per_layer() {
            true => self.counts.0 + self.counts.1 * id.layer as usize + slot,
            false => slot,
        };
        let entry = Entry::read(self.header.section(Section::Tensors), index);
        (entry.role == id.role as u8 && entry.layer == id.layer).then_some(entry)
    }

    fn find_matrix(&self, id: TensorId) -> Option<Matrix<'m>> {
        let entry = self.entry(id)?;
        let dtype = DType::from_code(entry.dtype as u32)?;
        let (rows, columns) = id.role.shape(self.config())?;
        let start = usize::try_from(entry.offset).ok()?;
        let end = start.checked_add(dtype.matrix_bytes(rows, columns)?)?;
        Matrix::new(dtype, rows, columns, self.header.section(Section::Weights).get(start..end)?)
    }

    fn find_vector(&self, id: TensorId) -> Option<&'m [f32]> {
        let start = usize::try_from(self.entry(id)?.offset).ok()?;
        let end = start.checked_add(id.role.shape(self.config())?.1.checked_mul(4)?)?;
        try_cast_slice(self.header.section(Section::Weights).get(start..end)?).ok()
    }
}

/// Checks the checksum of every section, and that all between them is zero.
fn check_sections(image: &[u8], header: &Header<'_>) -> Result<(), Error> {
    let mut copy = [0; image::HEADER_BYTES];
    copy.copy_from_slice(image.get(..image::HEADER_BYTES).ok_or(Error::NotAnImage)?);
    copy[12..16].fill(0);
    if crc32(&copy) != header.section_checksum(Section::Header) {
        return Err(Error::Checksum(Section::Header));
    }
    // `Header::read` has seen that each section starts at the first multiple of the alignment after the one before.
    let gap_is_zero = |end: usize| {
        let start = end.next_multiple_of(ALIGNMENT);
        image.get(end..start).is_some_and(|gap| gap.iter().all(|&byte| byte == 0)).then_some(start)
    };
    let mut end = image::HEADER_BYTES;
    for section in Section::ALL {
        let bytes = header.section(section);
        if crc32(bytes) != header.section_checksum(section) {
            return Err(Error::Checksum(section));
        }
        end = gap_is_zero(end).ok_or(Error::Layout(section))?.saturating_add(bytes.len());
    }
    gap_is_zero(end).map(|_| ()).ok_or(Error::Layout(Section::ChatTemplate))
}
