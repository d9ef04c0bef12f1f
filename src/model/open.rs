//! [`Open`]: the check of an image, all at once or in slices.

use core::ops::Range;

use super::image::{Header, Section};
use super::{ALIGNMENT, Location, Model, check_sections, crc32, extend_crc32, is_zero};
use crate::Error;
use crate::log;

/// The check of an image in slices of bounded size, for a program that has a watchdog to feed or
/// other tasks to run. [`Model::open`] does the same in one call.
///
/// ```
/// use pocketlm::include_image;
/// use pocketlm::model::Open;
///
/// let mut open = Open::new(include_image!("../bin/pocketlm/story/story.plm"))?;
/// let model = loop {
///     if let Some(model) = open.step(16 * 1024)? {
///         break model;
///     }
///     // Feed the watchdog, yield to the executor.
/// };
/// assert_eq!(model.config().num_decoder_blocks, 4);
/// # Ok::<(), pocketlm::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Open<'m> {
    image: &'m [u8],
    model: Model<'m>,
    /// How much of the work is done, in bytes: first every section for its checksum, then the
    /// weights for their numbers.
    done: u64,
    /// The checksum of the section that the last slice ended in, up to there.
    crc: u32,
}

// `inline`, so that this is compiled into programs that use it and costs others nothing.
impl<'m> Open<'m> {
    /// Reads the header, and with it the config and the layers.
    ///
    /// # Errors
    /// The bytes are not an image, are cut short, of another version, or not at a multiple of
    /// [`ALIGNMENT`].
    #[inline]
    pub fn new(image: &'m [u8]) -> Result<Self, Error> {
        let model = log::refused("open", header(image))?;
        Ok(Open {
            image,
            model,
            done: 0,
            crc: 0,
        })
    }

    /// Checks about `bytes` more bytes, and gives the model once everything is checked. All bytes
    /// of the image are read once for their checksums, and the weights a second time, number by
    /// number. The smallest piece of work is a tile row: eight rows of a matrix. Each call also
    /// goes through the table of tensors.
    ///
    /// # Errors
    /// Those of [`Model::open`]. The image cannot be used then.
    #[inline]
    pub fn step(&mut self, bytes: usize) -> Result<Option<Model<'m>>, Error> {
        let end = self.done.saturating_add(bytes.max(ALIGNMENT) as u64);
        let work = log::refused("open", self.check(self.done..end))?;
        self.done = end;
        Ok((end >= work).then_some(self.model))
    }

    /// Checks a slice of the work. Returns how much work there is.
    #[inline]
    fn check(&mut self, slice: Range<u64>) -> Result<u64, Error> {
        let mut start = 0;
        let checksum_is_right = |bytes: &[u8], expected| {
            let part = units(bytes.len(), 1, start, &slice);
            start += bytes.len() as u64;
            if part.is_empty() {
                // Not in this slice. An empty section is in no slice, so every call looks at it.
                return !bytes.is_empty() || expected == crc32(&[]);
            }
            let before = if part.start == 0 { 0 } else { self.crc };
            self.crc = extend_crc32(before, bytes.get(part.clone()).unwrap_or_default());
            part.end < bytes.len() || self.crc == expected
        };
        check_before_tensors(self.image, &mut self.model, checksum_is_right)?;
        let weights = self.model.header.section(Section::Weights);
        if slice.end > start {
            check_tensors(&self.model, |location, bytes, first| {
                let part = units(bytes.len(), location.item_bytes(), start + first, &slice);
                let part = bytes.get(part).unwrap_or_default();
                part.is_empty() || location.is_finite(part)
            })?;
        }
        Ok(start + weights.len() as u64)
    }
}

/// Checks an image in one go.
pub(super) fn open(image: &[u8]) -> Result<Model<'_>, Error> {
    let mut model = header(image)?;
    check_before_tensors(image, &mut model, |bytes, expected| {
        crc32(bytes) == expected
    })?;
    check_tensors(&model, |location, bytes, _| location.is_finite(bytes))?;
    Ok(model)
}

/// A model of which only the header was checked.
fn header(image: &[u8]) -> Result<Model<'_>, Error> {
    let header = Header::read(image)?;
    if !(image.as_ptr() as usize).is_multiple_of(ALIGNMENT) {
        return Err(Error::Unaligned(ALIGNMENT as u32));
    }
    Ok(Model::of(header))
}

/// Checks everything but the tensors, and finds their places. `checksum_is_right` gets the bytes of
/// each section and the checksum that they should have.
fn check_before_tensors(
    image: &[u8],
    model: &mut Model<'_>,
    mut checksum_is_right: impl FnMut(&[u8], u32) -> bool,
) -> Result<(), Error> {
    let header = &model.header;
    let section_is_right = |section| {
        let expected = header.section_checksum(section);
        checksum_is_right(header.section(section), expected)
    };
    check_sections(image, header, section_is_right, |from, to| {
        let gap = image.get(from as usize..to as usize);
        gap.is_some_and(is_zero)
    })?;
    model.check_sections_and_place_tensors()
}

/// Checks the tensors of an image in memory. `is_finite` gets each tensor, its bytes, and where
/// they start in the weights.
fn check_tensors(
    model: &Model<'_>,
    mut is_finite: impl FnMut(Location, &[u8], u64) -> bool,
) -> Result<(), Error> {
    let weights = model.header.section(Section::Weights);
    model.check_tensors(weights.len() as u64, |range, location| {
        let bytes = weights.get(range.start as usize..range.end as usize);
        let bytes = bytes.unwrap_or_default();
        Ok(match location {
            None => is_zero(bytes),
            Some(location) => is_finite(location, bytes, range.start),
        })
    })
}

/// Of `length` bytes that begin at `start` and consist of units of `unit` bytes: the range of those
/// units that begin within `slice`.
fn units(length: usize, unit: usize, start: u64, slice: &Range<u64>) -> Range<usize> {
    let before = |position: u64| {
        let bytes = position.saturating_sub(start).min(length as u64) as usize;
        let units = bytes.div_ceil(unit.max(1));
        units.saturating_mul(unit).min(length)
    };
    before(slice.start)..before(slice.end)
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::aligned::AlignedBytes;

    const STORY: &[u8] = crate::include_image!("../bin/pocketlm/story/story.plm");
    const SLICES: [usize; 5] = [1, 1000, 4096, 100_000, usize::MAX];

    /// Opens an image in slices of `bytes`; returns the checksum of the model as well as the steps.
    fn sliced(image: &[u8], bytes: usize) -> Result<(u32, usize), Error> {
        let mut open = Open::new(image)?;
        let mut steps = 1;
        loop {
            if let Some(model) = open.step(bytes)? {
                return Ok((model.checksum(), steps));
            }
            steps += 1;
        }
    }

    #[test]
    fn slices_of_any_size_open_the_image() {
        let whole = Model::open(STORY).unwrap();
        for bytes in SLICES {
            let (checksum, steps) = sliced(STORY, bytes).unwrap();
            assert_eq!(checksum, whole.checksum());
            // Every byte once, and the weights twice.
            let work = STORY.len() + whole.header().section(Section::Weights).len();
            assert!(
                steps <= work / bytes.max(ALIGNMENT) + 1,
                "{steps} of {bytes}"
            );
            assert!(
                steps > work / 2 / bytes.max(ALIGNMENT),
                "{steps} of {bytes}"
            );
        }
    }

    #[test]
    fn slices_refuse_what_one_call_refuses() {
        let mut image = AlignedBytes::copy_of(STORY);
        for at in (0..STORY.len()).step_by(STORY.len() / 40) {
            image[at] ^= 1;
            let error = Model::open(&image).err();
            assert!(error.is_some());
            for bytes in SLICES {
                assert_eq!(
                    sliced(&image, bytes).err(),
                    error,
                    "byte {at}, slices of {bytes}"
                );
            }
            image[at] ^= 1;
        }
    }

    #[test]
    fn slices_see_every_number_of_the_weights() {
        let model = Model::open(STORY).unwrap();
        let (weights, _) = super::super::image::section_range(STORY, Section::Weights as usize);
        let mut image = AlignedBytes::copy_of(STORY);
        for id in model.tensors() {
            let location = model.location(id.layer, id.kind);
            let first = (weights + location.offset) as usize;
            // A scale in the last tile row, or the last number of a vector, becomes NaN, as f16 and
            // as f32.
            let last = first + location.bytes - location.item_bytes();
            let before = [
                image[last],
                image[last + 1],
                image[last + 2],
                image[last + 3],
            ];
            image[last..last + 4].copy_from_slice(&[0x7f, 0x7f, 0xc0, 0x7f]);
            sign(&mut image);
            let refused = Some(Error::NotFinite(id));
            assert_eq!(Model::open(&image).err(), refused);
            for bytes in SLICES.into_iter().filter(|bytes| *bytes >= 4096) {
                assert_eq!(sliced(&image, bytes).err(), refused, "slices of {bytes}");
            }
            image[last..last + 4].copy_from_slice(&before);
        }
        sign(&mut image);
        assert!(sliced(&image, 4096).is_ok());
    }

    /// Makes the checksums of the weights and the header right.
    fn sign(image: &mut [u8]) {
        let section = Section::Weights as usize;
        let (start, length) = super::super::image::section_range(image, section);
        let crc = crc32(&image[start as usize..][..length as usize]);
        image[48 + 24 * section..][..4].copy_from_slice(&crc.to_le_bytes());
        image[12..16].fill(0);
        let crc = crc32(&image[..super::super::image::HEADER_BYTES]);
        image[12..16].copy_from_slice(&crc.to_le_bytes());
    }
}
