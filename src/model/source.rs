//! [`WeightSource`]: weights that are not in memory. [`Model::open_from`] checks them as
//! [`Model::open`] would.

use super::image::{self, Header, Section};
use super::{ALIGNMENT, Location, Model, Verify, check_sections, crc32, extend_crc32, is_zero};
use crate::Error;

/// An image that is read piece by piece: from external flash without a memory-mapped window, an SD
/// card, a file.
///
/// A session reads the weights of a layer while it computes it, through two buffers in turn: while
/// the weights in one are multiplied, the next are read into the other by
/// [`read_while`](WeightSource::read_while).
///
/// ```
/// use pocketlm::host::AlignedBytes;
/// use pocketlm::model::{Header, Model, WeightSource};
/// use pocketlm::run::{Plan, Session, Solo};
/// use pocketlm::{Error, include_image};
///
/// const IMAGE: &[u8] = include_image!("../bin/pocketlm/story/story.plm");
///
/// /// Stands for a flash chip.
/// struct Chip;
///
/// impl WeightSource for Chip {
///     fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
///         let bytes = IMAGE.get(offset as usize..).and_then(|bytes| bytes.get(..buffer.len()));
///         buffer.copy_from_slice(bytes.ok_or(Error::Storage)?);
///         Ok(())
///     }
/// }
///
/// let header = Header::read(IMAGE)?;
/// let mut resident = AlignedBytes::zeroed(header.resident_bytes());
/// let plan = Plan::new(&header).context(16).weight_buffer(16 * 1024);
/// let mut arena = AlignedBytes::zeroed(plan.bytes());
/// let model = Model::open_from(&mut Chip, &mut resident, &mut arena)?;
/// let mut chip = Chip;
/// let mut session = Session::with_source(&model, &plan, &mut arena, &Solo, &mut chip)?;
/// assert_eq!(session.feed(&[2, 17, 40])?.len(), 1024);
/// # Ok::<(), Error>(())
/// ```
pub trait WeightSource {
    /// Fills `buffer` with the bytes of the image from `offset` on. Offsets are multiples of 4;
    /// those that a session asks for are multiples of 8. While an image is opened, a damaged header
    /// can lead to any offset, even beyond the end of the device: return [`Error::Storage`] then,
    /// as whenever the bytes cannot be read. A session reports every error as that one.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error>;

    /// The same, and calls `work` once in the meantime. A source with a DMA controller starts the
    /// transfer, calls `work`, and waits for the transfer to end before it returns. As provided,
    /// this calls `work` first and reads afterwards.
    fn read_while(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
        work: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        work();
        self.read(offset, buffer)
    }
}

impl<'m> Model<'m> {
    /// Opens an image whose weights stay where they are. All the rest is read into `resident`
    /// ([`Header::resident_bytes`] says how much), which must start at a multiple of 64. The
    /// weights are read through once, by way of `scratch`, which also starts at a multiple of 64
    /// and holds a tile row of every matrix; an arena does, before a session has it. What is
    /// checked is what [`open`](Model::open) checks.
    pub fn open_from(
        source: &mut dyn WeightSource,
        resident: &'m mut [u8],
        scratch: &mut [u8],
    ) -> Result<Model<'m>, Error> {
        Resident::read(source, resident, scratch)?.open(source, scratch)
    }

    /// [`open_from`](Model::open_from) with a check of the signature first: `verify` sees all bytes
    /// of the image before anything but the lengths of its parts is used. This reads the weights
    /// once more.
    ///
    /// The parts that stay in memory are the bytes that `verify` saw. The weights are read again,
    /// to be checked and for every token, so the device can return other bytes later. Until this
    /// returns, the checksum notices accidental changes. After that, nothing does. If the card can
    /// be exchanged or the bus tapped, only weights in memory are safe.
    ///
    /// # Errors
    /// [`Error::Unverified`] if `verify` refuses the image, and those of `open_from`.
    pub fn open_verified_from(
        source: &mut dyn WeightSource,
        resident: &'m mut [u8],
        scratch: &mut [u8],
        verify: &mut dyn Verify,
    ) -> Result<Model<'m>, Error> {
        let parts = Resident::read(source, resident, scratch)?;
        verify.update(parts.before);
        let mut pass = Pass {
            source,
            scratch,
            end: parts.before.len() as u64,
            crc: 0,
        };
        pass.read_to(parts.after_start, |piece| verify.update(piece))?;
        verify.update(parts.after);
        if verify.verify() {
            parts.open(source, scratch)
        } else {
            Err(Error::Unverified)
        }
    }
}

/// An image but for its weights, in memory; only the table of its sections has been looked at.
struct Resident<'m> {
    /// All before the weights.
    before: &'m [u8],
    /// All after them, and where in the image that starts.
    after: &'m [u8],
    after_start: u64,
    /// Bytes of the image, and of the weights.
    length: u64,
    weights: u64,
}

impl<'m> Resident<'m> {
    fn read(
        source: &mut dyn WeightSource,
        resident: &'m mut [u8],
        scratch: &[u8],
    ) -> Result<Self, Error> {
        for memory in [&*resident, scratch] {
            if !(memory.as_ptr() as usize).is_multiple_of(ALIGNMENT) {
                return Err(Error::Unaligned(ALIGNMENT as u32));
            }
        }
        let found = resident.len();
        let first = resident.get_mut(..image::HEADER_BYTES);
        let first = first.ok_or(Error::ArenaTooSmall {
            needed: image::HEADER_BYTES,
            found,
        })?;
        source.read(0, first)?;
        let length = image::u64_at(first, 16);
        image::check_table(first, length)?;
        let (start, weights) = image::section_range(first, Section::Weights as usize);
        // The table is in order: these are places in the image.
        let after_start = image::align(start + weights).unwrap_or(length);
        let needed = usize::try_from(start + (length - after_start)).unwrap_or(usize::MAX);
        let resident = resident
            .get_mut(..needed)
            .ok_or(Error::ArenaTooSmall { needed, found })?;
        let (before, after) = resident
            .split_at_mut_checked(start as usize)
            .unwrap_or_default();
        source.read(
            image::HEADER_BYTES as u64,
            before.get_mut(image::HEADER_BYTES..).unwrap_or_default(),
        )?;
        source.read(after_start, after)?;
        Ok(Resident {
            before,
            after,
            after_start,
            length,
            weights,
        })
    }

    fn open(self, source: &mut dyn WeightSource, scratch: &mut [u8]) -> Result<Model<'m>, Error> {
        let Resident {
            before,
            after,
            after_start,
            length,
            weights,
        } = self;
        let start = before.len() as u64;
        let mut model = Model::of(Header::read_parts(before, after, length)?);
        let described = model.check_sections_and_place_tensors();
        let mut pass = Pass {
            source,
            scratch,
            end: start,
            crc: 0,
        };
        let tensors = described.and_then(|()| {
            model.check_tensors(weights, |range, location| {
                pass.check(range.end - range.start, location)
            })
        });
        if let Err(error @ (Error::Storage | Error::WeightBufferTooSmall { .. })) = tensors {
            return Err(error);
        }
        // Damage is reported as damage, whatever it did to the tensors.
        pass.read_to(start + weights, |_| ())?;
        let crc = pass.crc;
        let weights_gap_is_zero = pass.check(after_start - (start + weights), None)?;
        let checksum_is_right = |section| {
            let found = if section == Section::Weights {
                crc
            } else {
                crc32(model.header.section(section))
            };
            found == model.header.section_checksum(section)
        };
        check_sections(before, &model.header, checksum_is_right, |from, to| {
            let bytes = match from.checked_sub(after_start) {
                Some(from) => after.get(from as usize..(to - after_start) as usize),
                None => before.get(from as usize..to as usize),
            };
            if to == after_start && from >= start {
                weights_gap_is_zero
            } else {
                bytes.is_some_and(is_zero)
            }
        })?;
        tensors.map(|()| model)
    }
}

/// Reads start at multiples of this many bytes, of which tensors and gaps are, too.
const STEP: usize = 4;

/// One pass over the weights, from first to last.
struct Pass<'p> {
    source: &'p mut dyn WeightSource,
    scratch: &'p mut [u8],
    /// How far it has come.
    end: u64,
    /// Of all up to `end`.
    crc: u32,
}

impl Pass<'_> {
    /// Reads the next bytes, as many as fit, and gives them. What comes after them starts at a
    /// multiple of [`STEP`], too.
    fn next(&mut self, bytes: u64) -> Result<&[u8], Error> {
        let found = self.scratch.len();
        let bytes = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(found / STEP * STEP);
        if bytes == 0 {
            return Err(Error::WeightBufferTooSmall {
                needed: STEP,
                found,
            });
        }
        let piece = self.scratch.get_mut(..bytes).unwrap_or_default();
        self.source
            .read(self.end, piece)
            .map_err(|_| Error::Storage)?;
        self.end = self.end.saturating_add(bytes as u64);
        self.crc = extend_crc32(self.crc, piece);
        Ok(piece)
    }

    /// Reads the next bytes: a gap, which must be zero, or a tensor, which must be finite.
    fn check(&mut self, bytes: u64, location: Option<Location>) -> Result<bool, Error> {
        let unit = location.map_or(STEP, |location| location.item_bytes());
        let found = self.scratch.len();
        let most = found.checked_div(unit).unwrap_or(0) * unit;
        if most == 0 && bytes > 0 {
            return Err(Error::WeightBufferTooSmall {
                needed: unit,
                found,
            });
        }
        let mut good = true;
        let mut left = bytes;
        while left > 0 {
            let piece = self.next(left.min(most as u64))?;
            left -= piece.len() as u64;
            good &= match location {
                None => is_zero(piece),
                Some(location) => location.is_finite(piece),
            };
        }
        Ok(good)
    }

    /// Reads what is left up to `end`.
    fn read_to(&mut self, end: u64, mut visit: impl FnMut(&[u8])) -> Result<(), Error> {
        while self.end < end {
            visit(self.next(end - self.end)?);
        }
        Ok(())
    }
}
