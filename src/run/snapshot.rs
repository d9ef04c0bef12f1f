//! Snapshots: a session's tokens with their keys and values, written out and read back. A prompt is
//! then computed only once, before a reset or on a host.
//!
//! # The format, version 1
//!
//! All numbers are little-endian.
//!
//! | offset | type | |
//! |---|---|---|
//! | 0 | 8 bytes | `pocketkv` |
//! | 8 | u32 | format version, 1 |
//! | 12 | u32 | [`Model::checksum`](crate::model::Model::checksum) of the image |
//! | 16 | u32 | element type of keys and values: 0 f32, 1 f16, 2 bf16, 3 q8 |
//! | 20 | u32 | number of tokens *n* |
//! | 24 | u32 | position of the next token |
//! | 28 | u64 | length of the snapshot in bytes |
//! | 36 | u32 | CRC-32 of bytes 0..36 |
//! | 40 | u32 × *n* | token ids |
//! | | u32 × *n* | their positions |
//! | | | layer by layer: of attention, kv head by kv head, keys, values; of a convolution, vectors |
//! | end − 4 | u32 | CRC-32 of all before it |
//!
//! A layer's keys are those that the next token will see: all *n* of a global layer, fewer than the
//! window of a sliding-window layer. They lie row by row, the oldest first. A key or value is as
//! the cache holds it: numbers in the order of the channels; in q8 each 32 of them, the last 32
//! filled up with zeros, after their f16 scale. A convolution keeps one f32 vector, `b * x`, of
//! each token that the next one will see.
//!
//! So a snapshot does not depend on the context and the batch that it was computed with. The same
//! tokens give the same bytes on every machine, and a host with more memory can compute a context
//! that a device continues.

use core::ops::Range;

use pocketlm_kernels::{Kv, key_parts, value_part};

use super::cache::{LayerCache, unseen};
use super::{Plan, Session};
use crate::Error;
use crate::model::{Layers, extend_crc32};

/// The first bytes of every snapshot.
const MAGIC: [u8; 8] = *b"pocketkv";
const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 40;
/// Bytes handed over at a time.
const CHUNK: usize = 64;

/// Takes the next bytes of a snapshot.
pub(super) type Sink<'s> = dyn FnMut(&[u8]) -> Result<(), Error> + 's;
/// Fills a buffer with the next bytes of a snapshot.
pub(super) type Source<'s> = dyn FnMut(&mut [u8]) -> Result<(), Error> + 's;

impl Session<'_, '_> {
    /// Writes a snapshot of the context to `sink`, piece by piece: at most
    /// [`Plan::snapshot_bytes`] in all. `src/run/snapshot.rs` describes the format.
    ///
    /// An error of `sink` ends this and is returned. [`Error::Busy`] if tokens that were given are
    /// not all computed.
    pub fn save(&self, sink: &mut Sink<'_>) -> Result<(), Error> {
        self.check_idle()?;
        let length = self.snapshot_length()?;
        let mut out = Out {
            sink,
            crc: 0,
            chunk: [0; CHUNK],
            filled: 0,
        };
        out.put(&MAGIC)?;
        let kv = self.forward.plan.kv_type().dtype() as u32;
        for word in [
            VERSION,
            self.forward.model.checksum(),
            kv,
            self.len() as u32,
            self.position(),
        ] {
            out.put(&word.to_le_bytes())?;
        }
        out.put(&length.to_le_bytes())?;
        out.put_crc()?;
        for words in [self.tokens(), self.positions()] {
            words
                .iter()
                .try_for_each(|word| out.put(&word.to_le_bytes()))?;
        }
        self.kept().cache_parts(&mut |part| {
            out.put(self.forward.buffers.cache.get(part).unwrap_or_default())
        })?;
        out.put_crc()?;
        out.flush()
    }

    /// Bytes that [`save`](Session::save) writes.
    pub(super) fn snapshot_length(&self) -> Result<u64, Error> {
        let mut length = (HEADER_BYTES + 4) as u64 + 8 * self.len() as u64;
        self.kept().cache_parts(&mut |part| {
            length = length.saturating_add(part.len() as u64);
            Ok(())
        })?;
        Ok(length)
    }

    /// Replaces the context by that of a snapshot, which is read piece by piece: `source` fills the
    /// buffer it is given with the next bytes. The plan must be for the same image, have the same
    /// type of keys and values, and a context that is long enough. After that the session is as if
    /// the tokens had been fed to it, with two exceptions: there are no logits until the next token
    /// is fed, and [`rewind`](Session::rewind) has no keys or vectors older than the windows
    /// showed.
    ///
    /// [`Error::NotASnapshot`], [`Error::SnapshotVersion`], [`Error::ForeignSnapshot`],
    /// [`Error::SnapshotKv`] and [`Error::ContextFull`] leave the session as it was. After
    /// [`Error::SnapshotDamaged`] and what `source` reports, it may be empty.
    pub fn restore(&mut self, source: &mut Source<'_>) -> Result<(), Error> {
        let mut reader = In::new(source);
        let header = SnapshotHeader::read_from(&mut reader)?;
        if header.checksum != self.forward.model.checksum() {
            return Err(Error::ForeignSnapshot);
        }
        let kv = header.kv()?;
        if kv != self.forward.plan.kv_type() {
            return Err(Error::SnapshotKv(kv.dtype()));
        }
        let count = header.tokens as usize;
        if header.tokens > self.forward.plan.context_tokens() {
            return Err(Error::ContextFull {
                room: self.forward.plan.context_tokens(),
            });
        }
        self.reset();
        for words in [
            &mut *self.forward.buffers.tokens,
            &mut *self.forward.buffers.positions,
        ] {
            for word in words.iter_mut().take(count) {
                *word = reader.word()?;
            }
        }
        // The checksum is no proof against forgery: what indices and positions are used for is
        // checked.
        let vocab_size = self.forward.model.config().vocab_size;
        let tokens = self.forward.buffers.tokens.get(..count).unwrap_or_default();
        let positions = self
            .forward
            .buffers
            .positions
            .get(..count)
            .unwrap_or_default();
        let rising = positions.is_sorted_by(|a, b| a < b)
            && positions.last().is_none_or(|&last| last < header.position);
        if !rising || tokens.iter().any(|&id| id >= vocab_size) {
            return Err(Error::SnapshotDamaged);
        }
        let kept = Kept {
            layers: self.forward.model.layers(),
            plan: &self.forward.plan,
            positions,
            next: header.position,
        };
        let cache = &mut *self.forward.buffers.cache;
        kept.cache_parts(&mut |part| reader.take(cache.get_mut(part).unwrap_or_default()))?;
        reader.check_crc()?;
        if !reader.is_empty() {
            return Err(Error::SnapshotDamaged);
        }
        self.resume(header.tokens, header.position);
        Ok(())
    }

    /// [`restore`](Session::restore) from memory, for example from a snapshot that is part of the
    /// program.
    pub fn restore_from(&mut self, mut snapshot: &[u8]) -> Result<(), Error> {
        self.restore(&mut source_of(&mut snapshot))
    }

    fn kept(&self) -> Kept<'_> {
        let next = self.position();
        Kept {
            layers: self.forward.model.layers(),
            plan: &self.forward.plan,
            positions: self.positions(),
            next,
        }
    }
}

/// The bytes of a slice, one after the other.
fn source_of<'r>(rest: &'r mut &[u8]) -> impl FnMut(&mut [u8]) -> Result<(), Error> + 'r {
    |buffer| {
        let (now, after) = rest
            .split_at_checked(buffer.len())
            .ok_or(Error::SnapshotDamaged)?;
        buffer.copy_from_slice(now);
        *rest = after;
        Ok(())
    }
}

/// What the next token will see.
struct Kept<'k> {
    layers: Layers<'k>,
    plan: &'k Plan<'k>,
    /// Of the tokens in the context.
    positions: &'k [u32],
    /// The position of the next token.
    next: u32,
}

impl Kept<'_> {
    /// Calls `each` with where in the cache they lie, in the order of the format.
    fn cache_parts(
        &self,
        each: &mut dyn FnMut(Range<usize>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let kv = self.plan.kv_type();
        let dims = self.plan.dims();
        let mut start = 0;
        for layer in self.layers.iter() {
            let cache = LayerCache::new(self.plan, layer, start);
            let kept = unseen(self.positions, layer.window, self.next)..self.positions.len();
            for head in 0..self.plan.cache_heads(layer) {
                let keys = cache.keys(head).start;
                let values = cache.values(head).start;
                if layer.kind.is_convolution() {
                    let width = 4 * dims.embedding;
                    for slot in kept.clone().map(|index| cache.slot(index)) {
                        each(values + slot * width..values + (slot + 1) * width)?;
                    }
                    continue;
                }
                for slot in kept.clone().map(|index| cache.slot(index)) {
                    for part in key_parts(kv, dims.head_width, slot) {
                        each(keys + part.start..keys + part.end)?;
                    }
                }
                for slot in kept.clone().map(|index| cache.slot(index)) {
                    let part = value_part(kv, dims.head_width, slot);
                    each(values + part.start..values + part.end)?;
                }
            }
            start += self.plan.layer_cache_bytes(layer);
        }
        Ok(())
    }
}

/// What the first bytes of a snapshot say: enough to choose a [`Plan`] that it can be restored to.
///
/// ```
/// use pocketlm::{include_image, model::Model};
/// use pocketlm::run::{Plan, Session, SnapshotHeader, Solo, StaticArena};
///
/// const STORY: &[u8] = include_image!("../bin/pocketlm/story/story.plm");
/// const PLAN: Plan = Plan::of(STORY).context(64).batch(8);
/// static ARENA: StaticArena<{ PLAN.bytes() }> = StaticArena::new();
///
/// let model = Model::open(STORY)?;
/// let mut session = Session::new(&model, &PLAN, ARENA.take().expect("taken once"), &Solo)?;
/// session.feed(&[2, 17, 40])?;
/// let mut snapshot = Vec::new();
/// session.save(&mut |bytes| Ok(snapshot.extend_from_slice(bytes)))?;
///
/// assert_eq!(SnapshotHeader::read(&snapshot)?.tokens(), 3);
/// session.reset();
/// session.restore_from(&snapshot)?;
/// assert_eq!(session.tokens(), [2, 17, 40]);
/// # Ok::<(), pocketlm::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SnapshotHeader {
    checksum: u32,
    kv: u32,
    tokens: u32,
    position: u32,
    length: u64,
}

impl SnapshotHeader {
    /// The first bytes of every snapshot.
    #[doc(hidden)] // for the command line
    pub const MAGIC: [u8; 8] = MAGIC;

    /// The header of the snapshot that starts with `bytes`: [`Error::NotASnapshot`],
    /// [`Error::SnapshotVersion`], or [`Error::SnapshotDamaged`] where they are too few or their
    /// checksum is wrong.
    pub fn read(mut bytes: &[u8]) -> Result<SnapshotHeader, Error> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Error::NotASnapshot);
        }
        SnapshotHeader::read_from(&mut In::new(&mut source_of(&mut bytes)))
    }

    /// How many tokens there are in it: what a plan's context must have room for.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// How many bytes the snapshot has. What follows them in a file is not part of it.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The type of its keys and values.
    pub fn kv(&self) -> Result<Kv, Error> {
        Kv::ALL
            .into_iter()
            .find(|kv| kv.dtype() as u32 == self.kv)
            .ok_or(Error::SnapshotDamaged)
    }

    /// Reads it, and tells the reader how much there is to come.
    pub(super) fn read_from(reader: &mut In<'_, '_>) -> Result<SnapshotHeader, Error> {
        let mut magic = [0; MAGIC.len()];
        reader.take(&mut magic)?;
        if magic != MAGIC {
            return Err(Error::NotASnapshot);
        }
        let version = reader.word()?;
        if version != VERSION {
            return Err(Error::SnapshotVersion(version));
        }
        let [checksum, kv, tokens, position] = [
            reader.word()?,
            reader.word()?,
            reader.word()?,
            reader.word()?,
        ];
        let low = reader.word()?;
        let high = reader.word()?;
        reader.check_crc()?;
        let header = SnapshotHeader {
            checksum,
            kv,
            tokens,
            position,
            length: u64::from(high) << 32 | u64::from(low),
        };
        reader.left = header
            .length
            .checked_sub(HEADER_BYTES as u64)
            .ok_or(Error::SnapshotDamaged)?;
        Ok(header)
    }
}

/// Takes from `bytes` as many as there is room for, and says how many that were.
pub(super) fn move_into(room: &mut [u8], bytes: &mut &[u8]) -> usize {
    let (now, after) = bytes.split_at_checked(room.len()).unwrap_or((bytes, &[]));
    room.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
    *bytes = after;
    now.len()
}

/// Bytes on their way out.
struct Out<'s, 'f> {
    sink: &'s mut Sink<'f>,
    crc: u32,
    chunk: [u8; CHUNK],
    filled: usize,
}

impl Out<'_, '_> {
    fn put(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            self.filled += move_into(
                self.chunk.get_mut(self.filled..).unwrap_or_default(),
                &mut bytes,
            );
            if self.filled >= CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let chunk = self.chunk.get(..self.filled).unwrap_or_default();
        self.filled = 0;
        self.crc = extend_crc32(self.crc, chunk);
        (self.sink)(chunk)
    }

    /// The checksum of all before it.
    fn put_crc(&mut self) -> Result<(), Error> {
        self.flush()?;
        self.put(&self.crc.to_le_bytes())
    }
}

/// Bytes on their way in.
pub(super) struct In<'s, 'f> {
    source: &'s mut Source<'f>,
    crc: u32,
    chunk: [u8; CHUNK],
    at: usize,
    filled: usize,
    /// Bytes that are still to be read, of the header or of the snapshot.
    left: u64,
}

impl<'s, 'f> In<'s, 'f> {
    pub(super) fn new(source: &'s mut Source<'f>) -> Self {
        In {
            source,
            crc: 0,
            chunk: [0; CHUNK],
            at: 0,
            filled: 0,
            left: HEADER_BYTES as u64,
        }
    }

    /// Fills `bytes`.
    fn take(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        for to in bytes {
            if self.at >= self.filled {
                self.fill()?;
            }
            *to = self.chunk.get(self.at).copied().unwrap_or(0);
            self.at += 1;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), Error> {
        let read = self.chunk.get(..self.at).unwrap_or_default();
        self.crc = extend_crc32(self.crc, read);
        let next = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
        (self.at, self.filled) = (0, next);
        self.left -= next as u64;
        match self.chunk.get_mut(..next).unwrap_or_default() {
            [] => Err(Error::SnapshotDamaged),
            chunk => (self.source)(chunk),
        }
    }

    fn word(&mut self) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        self.take(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a checksum, which must be that of all before it.
    fn check_crc(&mut self) -> Result<(), Error> {
        let read = self.chunk.get(..self.at).unwrap_or_default();
        let expected = extend_crc32(self.crc, read);
        if self.word()? == expected {
            Ok(())
        } else {
            Err(Error::SnapshotDamaged)
        }
    }

    fn is_empty(&self) -> bool {
        self.left == 0 && self.at >= self.filled
    }

    /// Reads the rest: whether it is what was written.
    #[cfg(feature = "embedded-storage")]
    pub(super) fn check_rest(&mut self) -> Result<(), Error> {
        while self.left.saturating_add((self.filled - self.at) as u64) > 4 {
            self.take(&mut [0])?;
        }
        self.check_crc()
    }
}
