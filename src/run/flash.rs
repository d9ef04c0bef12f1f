//! Storage behind the traits of [`embedded_storage`] (feature `embedded-storage`): [`Snapshots`],
//! and [`FlashImage`] for weights.

use core::ops::Range;

use embedded_storage::nor_flash::{NorFlash, ReadNorFlash};

use super::Session;
use super::snapshot::{In, SnapshotHeader, move_into};
use crate::Error;
#[cfg(feature = "source")]
use crate::model::WeightSource;

/// The largest `READ_SIZE` and `WRITE_SIZE` there may be: those of an SD card.
const BLOCK: usize = 512;

/// A device, and a buffer for reads and writes that are not aligned.
struct Flash<F> {
    device: F,
    block: Block,
}

/// Some drivers want whole words in memory, too.
#[repr(align(4))]
struct Block([u8; BLOCK]);

impl<F: ReadNorFlash> Flash<F> {
    const READ_SIZE: usize = {
        assert!(
            F::READ_SIZE > 0 && F::READ_SIZE <= BLOCK,
            "READ_SIZE must be from 1 to 512 bytes"
        );
        F::READ_SIZE
    };

    fn new(device: F) -> Self {
        Flash {
            device,
            block: Block([0; BLOCK]),
        }
    }

    /// Reads from any offset any number of bytes.
    fn read(&mut self, offset: u64, mut buffer: &mut [u8]) -> Result<(), Error> {
        let mut offset = u32::try_from(offset).map_err(|_| Error::Storage)?;
        while !buffer.is_empty() {
            let skip = offset as usize % Self::READ_SIZE;
            let whole = buffer.len() / Self::READ_SIZE * Self::READ_SIZE;
            let read = if skip == 0 && whole > 0 {
                let whole = buffer.get_mut(..whole).unwrap_or_default();
                self.device
                    .read(offset, whole)
                    .map_err(|_| Error::Storage)?;
                whole.len()
            } else {
                let aligned = self.block.0.get_mut(..Self::READ_SIZE).unwrap_or_default();
                self.device
                    .read(offset - skip as u32, aligned)
                    .map_err(|_| Error::Storage)?;
                let part = aligned.get(skip..).unwrap_or_default();
                buffer
                    .iter_mut()
                    .zip(part)
                    .for_each(|(to, from)| *to = *from);
                part.len().min(buffer.len())
            };
            buffer = buffer.get_mut(read..).unwrap_or_default();
            offset = offset.checked_add(read as u32).ok_or(Error::Storage)?;
        }
        Ok(())
    }
}

/// An image in flash that is not memory-mapped, or on another device with the same traits.
///
/// Reads block. A driver with a DMA controller is better wrapped in a [`WeightSource`] of its own,
/// which reads while the session computes.
///
/// ```
/// use embedded_storage::nor_flash::ReadNorFlash;
/// use pocketlm::run::{FlashImage, Plan, Session, Solo};
/// use pocketlm::{Error, model::Model};
///
/// /// Feeds a token to a model whose weights are in flash, 64 KB from its start.
/// fn feed<F: ReadNorFlash + Send>(
///     flash: F,
///     plan: &Plan<'_>,
///     resident: &mut [u8],
///     arena: &mut [u8],
/// ) -> Result<(), Error> {
///     let mut weights = FlashImage::new(flash, 64 * 1024);
///     let model = Model::open_from(&mut weights, resident, arena)?;
///     let mut session = Session::with_source(&model, plan, arena, &Solo, &mut weights)?;
///     session.feed(&[1]).map(|_| ())
/// }
/// ```
#[cfg(feature = "source")]
pub struct FlashImage<F> {
    flash: Flash<F>,
    start: u32,
}

#[cfg(feature = "source")]
impl<F: ReadNorFlash> FlashImage<F> {
    /// The image at byte `start` of `device`, any byte.
    pub fn new(device: F, start: u32) -> Self {
        FlashImage {
            flash: Flash::new(device),
            start,
        }
    }

    /// The device.
    pub fn into_inner(self) -> F {
        self.flash.device
    }
}

#[cfg(feature = "source")]
impl<F: ReadNorFlash> WeightSource for FlashImage<F> {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.flash
            .read(offset.saturating_add(u64::from(self.start)), buffer)
    }
}

/// Two places for snapshots in NOR flash, written in turn: whenever the power fails, the last
/// snapshot or the one before it can be restored, never a mix.
///
/// Each half of the range holds a sequence number, its complement, and a
/// [snapshot](Session::save). [`save`](Self::save) writes over the older half, or over the one
/// that is torn; [`restore`](Self::restore) takes the newer, and the older if the newer was not
/// written to its end. Every byte is read back through a checksum before it is trusted.
///
/// ```
/// use embedded_storage::nor_flash::NorFlash;
/// use pocketlm::run::{Session, Snapshots};
/// use pocketlm::Error;
///
/// /// Goes on from the last snapshot; if there is none, computes the prompt and saves it.
/// fn begin<F: NorFlash>(
///     flash: F,
///     session: &mut Session<'_, '_>,
///     prompt: &[u32],
/// ) -> Result<(), Error> {
///     let mut snapshots = Snapshots::new(flash, 0x8_0000..0x10_0000)?;
///     if snapshots.restore(session).is_err() {
///         session.reset();
///         session.feed(prompt)?;
///         snapshots.save(session)?;
///     }
///     Ok(())
/// }
/// ```
pub struct Snapshots<F> {
    flash: Flash<F>,
    start: u32,
    /// Bytes of each half.
    half: u32,
}

/// Bytes before the snapshot.
const SEQUENCE_BYTES: u32 = 8;

impl<F: NorFlash> Snapshots<F> {
    const WRITE: usize = {
        assert!(
            F::WRITE_SIZE > 0 && BLOCK.is_multiple_of(F::WRITE_SIZE),
            "WRITE_SIZE must divide 512"
        );
        F::WRITE_SIZE
    };
    const ERASE: u32 = {
        assert!(F::ERASE_SIZE > 0 && F::ERASE_SIZE.is_multiple_of(F::WRITE_SIZE));
        F::ERASE_SIZE as u32
    };

    /// Snapshots in the bytes `range` of `device`, which nothing else uses. It must start at a
    /// multiple of `ERASE_SIZE` ([`Error::Unaligned`]); a half is as many whole erase blocks as
    /// fit half of it. It takes [`Plan::snapshot_bytes`](super::Plan::snapshot_bytes) and 8 more.
    pub fn new(device: F, range: Range<u32>) -> Result<Self, Error> {
        if !range.start.is_multiple_of(Self::ERASE) {
            return Err(Error::Unaligned(Self::ERASE));
        }
        let half = range.end.saturating_sub(range.start) / 2 / Self::ERASE * Self::ERASE;
        if half == 0 || range.end as usize > device.capacity() {
            return Err(Error::StorageTooSmall {
                needed: 2 * Self::ERASE as usize,
                found: device.capacity(),
            });
        }
        Ok(Snapshots {
            flash: Flash::new(device),
            start: range.start,
            half,
        })
    }

    /// Writes a snapshot of the session's context.
    pub fn save(&mut self, session: &Session<'_, '_>) -> Result<(), Error> {
        let needed = session
            .snapshot_length()?
            .saturating_add(u64::from(SEQUENCE_BYTES));
        if needed > u64::from(self.half) {
            let needed = usize::try_from(needed).unwrap_or(usize::MAX);
            return Err(Error::StorageTooSmall {
                needed,
                found: self.half as usize,
            });
        }
        let intact = [
            self.intact(self.start)?,
            self.intact(self.start + self.half)?,
        ];
        let (start, sequence) = match intact {
            [Some(first), Some(second)] if is_newer(second, first) => (self.start, second),
            [Some(first), _] => (self.start + self.half, first),
            [None, second] => (self.start, second.unwrap_or(0)),
        };
        let sequence = sequence.wrapping_add(1);

        let end = (needed as u32).next_multiple_of(Self::ERASE);
        self.flash
            .device
            .erase(start, start + end)
            .map_err(|_| Error::Storage)?;
        let mut page = Page {
            flash: &mut self.flash,
            at: start,
            filled: 0,
        };
        page.put(&sequence.to_le_bytes())?;
        page.put(&(!sequence).to_le_bytes())?;
        session.save(&mut |bytes| page.put(bytes))?;
        page.flush()
    }

    /// Restores the newest snapshot that was written to its end; [`Error::NotASnapshot`] when none
    /// ever was. What else can go wrong is what can with [`Session::restore`].
    pub fn restore(&mut self, session: &mut Session<'_, '_>) -> Result<(), Error> {
        let mut starts = [self.start, self.start + self.half];
        if let (Some(first), Some(second)) = (self.sequence(starts[0])?, self.sequence(starts[1])?)
            && is_newer(second, first)
        {
            starts.reverse();
        }
        let mut outcome = Err(Error::NotASnapshot);
        for start in starts {
            if self.sequence(start)?.is_none() {
                continue;
            }
            let mut source = self.flash.reader(start, self.half);
            // The version comes before the checksum of the header: a torn snapshot may show any.
            match session.restore(&mut source) {
                Err(
                    error @ (Error::NotASnapshot
                    | Error::SnapshotVersion(_)
                    | Error::SnapshotDamaged),
                ) => {
                    outcome = Err(error);
                }
                outcome => return outcome,
            }
        }
        outcome
    }

    /// The device.
    pub fn into_inner(self) -> F {
        self.flash.device
    }

    /// The sequence number of a half, if one was written.
    fn sequence(&mut self, start: u32) -> Result<Option<u32>, Error> {
        let mut words = [0; 8];
        self.flash.read(u64::from(start), &mut words)?;
        let [a, b, c, d, e, f, g, h] = words;
        let sequence = u32::from_le_bytes([a, b, c, d]);
        let complement = u32::from_le_bytes([e, f, g, h]);
        Ok((sequence == !complement).then_some(sequence))
    }

    /// The sequence number of a half with a snapshot that was written to its end.
    fn intact(&mut self, start: u32) -> Result<Option<u32>, Error> {
        let Some(sequence) = self.sequence(start)? else {
            return Ok(None);
        };
        let mut source = self.flash.reader(start, self.half);
        let mut reader = In::new(&mut source);
        match SnapshotHeader::read_from(&mut reader).and_then(|_| reader.check_rest()) {
            Ok(()) => Ok(Some(sequence)),
            Err(Error::Storage) => Err(Error::Storage),
            Err(_) => Ok(None),
        }
    }
}

impl<F: ReadNorFlash> Flash<F> {
    /// Reads the snapshot in the half at `start`, and nothing beyond.
    fn reader(&mut self, start: u32, half: u32) -> impl FnMut(&mut [u8]) -> Result<(), Error> {
        let mut at = u64::from(start + SEQUENCE_BYTES);
        let end = u64::from(start + half);
        move |buffer| {
            let from = at;
            at += buffer.len() as u64;
            if at > end {
                return Err(Error::SnapshotDamaged);
            }
            self.read(from, buffer)
        }
    }
}

/// Sequence numbers go round.
fn is_newer(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

/// Collects whole blocks.
struct Page<'f, F> {
    flash: &'f mut Flash<F>,
    at: u32,
    filled: usize,
}

impl<F: NorFlash> Page<'_, F> {
    fn put(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            self.filled += move_into(
                self.flash
                    .block
                    .0
                    .get_mut(self.filled..)
                    .unwrap_or_default(),
                &mut bytes,
            );
            if self.filled >= BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what there is, filled up to `WRITE_SIZE` with what erased flash holds.
    fn flush(&mut self) -> Result<(), Error> {
        let end = self.filled.next_multiple_of(Snapshots::<F>::WRITE);
        let block = self.flash.block.0.get_mut(..end).unwrap_or_default();
        block
            .iter_mut()
            .skip(self.filled)
            .for_each(|byte| *byte = 0xff);
        self.flash
            .device
            .write(self.at, block)
            .map_err(|_| Error::Storage)?;
        self.at += end as u32;
        self.filled = 0;
        Ok(())
    }
}
