//! The image: one file that holds everything a model needs, laid out to be used where it lies, in
//! flash or mapped.
//!
//! # The format, version 1
//!
//! All numbers are little-endian. An image is a header and seven sections. Every section starts at
//! a multiple of 64 bytes from the start of the image, right after the one before it: the gaps are
//! shorter than 64 bytes and zero, and so is the gap after the last, so that the image's length is
//! a multiple of 64 too.
//!
//! | header offset | type | |
//! |---|---|---|
//! | 0 | 8 bytes | `pocketlm` |
//! | 8 | u32 | format version, 1 |
//! | 12 | u32 | CRC-32 of the header (bytes 0..256) with this field as 0 |
//! | 16 | u64 | length of the image in bytes |
//! | 24 | u64 | 0 |
//! | 32 + 24 *s* | u64, u64, u32, u32 | section *s*: offset, length in bytes, CRC-32, 0 |
//! | 200 | | zeros up to 256, where section 0 starts |
//!
//! CRC-32 is the one of zlib. An absent section (no tokenizer, no chat template) has length 0.
//!
//! **0, config**: 20 words of 4 bytes, or 22. `u32`: 0 num_kv_heads, 4 query_head_multiplier, 8
//! embedding_dim, 12 projection_dim, 16 mlp_hidden_dim, 20 num_decoder_blocks, 24 vocab_size, 28
//! mlp_variant (0 geglu_exact, 1 geglu_approx, 2 swiglu), 32 flags (bit 0 tie_embedder_and_logits,
//! 1 use_post_attn_norm, 2 use_post_ffw_norm, 3 use_qk_norm, 4 qkv_bias, 5 output_bias, 6 mlp_bias,
//! 7 use_layer_stack, and which of the optional numbers are there: 8 local_rope_wavelength, 9
//! global_scale_factor, 10 final_logit_softcap, 11 attn_logits_soft_cap; then 12 without
//! use_pre_attn_norm, 13 without use_pre_ffw_norm, 14 qk_norm_after_rope, 15
//! qk_norm_only_with_rope, 16 qk_norm_across_heads, 17 conv_bias, 18 attn_temperature's
//! only_without_rope). `f32`: 36 embedding_scale, 40 query_scaling_factor, 44 rms_norm_eps, 48
//! final_logit_softcap, 52 attn_logits_soft_cap, 56 rope_wavelength, 60 local_rope_wavelength, 64
//! global_scale_factor. `u32`: 68 parameter_dtype, 72 activation_dtype (element types, below), 76
//! max_position_embeddings (0: not known). With attn_temperature: `f32` 80 scale, `u32` 84 length,
//! not 0.
//!
//! **1, layers**: for each layer `u32` window (0: global attention) and `u32` rotary frequencies
//! (0 none, 1 global, 2 local). If the latter is 3, the layer is a convolution, and its window,
//! which is the same in all convolutions, is how many taps it has.
//!
//! **2, rope**: the rotary frequencies that some layer uses, the global ones first. They are `f32`,
//! what cosines and sines are multiplied by; `u32` 0; and `projection_dim / 2` numbers `u64`:
//! number *j* says how far channels *j* and *j + projection_dim / 2* turn from one position to the
//! next, in units of 2^−64 turns. With attn_temperature, the factors of its steps follow, an even
//! number of `f32`.
//!
//! **3, tensors**: for each tensor 16 bytes: `u8` kind, `u8` element type, `u16` 0, `u32` layer,
//! `u64` offset from the start of the weights section. First come the embedder, the lm_head unless
//! tied, the final norm; then layer by layer the tensors the layer's kind calls for, in the order
//! of [`TensorKind`]. Element types: 0 f32, 1 f16, 2 bf16, 3 q8, 4 q4, 5 q4min, 6 q5, 7 q6, 8 nl3,
//! 9 nl4. Norms, biases and taps are f32.
//!
//! **4, weights**: the tensors in that order, each at the next multiple of 64. Matrices are
//! `[outputs][inputs]` in tiles of eight rows, laid out as the [kernels
//! crate](pocketlm_kernels#storage) says. Vectors are plain f32.
//!
//! **5, tokenizer**: see [`text::Tokenizer`](crate::text::Tokenizer).
//!
//! **6, chat template**: Jinja source, UTF-8. It needs no variables for special tokens: its first
//! line sets those that it speaks of (`{% set eos_token = "</s>" %}`), and with `trim_blocks`
//! leaves no text. If it speaks of none, there is no such line.

use core::fmt;

use super::{Config, LayerKind, Layers, Rope, TensorId, TensorKind};
use crate::Error;

/// The version this build writes and reads.
pub(crate) const VERSION: u32 = 1;
/// The first bytes of an image.
pub const MAGIC: [u8; 8] = *b"pocketlm";
/// Sections and tensors start at multiples of this many bytes, and so must the image in memory
/// ([`include_image!`](crate::include_image) and memory maps see to it).
pub const ALIGNMENT: usize = 64;
/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 256;
/// Bytes of an entry in the tensors section.
pub(crate) const ENTRY_BYTES: usize = 16;

/// The parts of an image.
///
/// Example: [`Scrub`](super::Scrub).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Section {
    /// The config.
    Config = 0,
    /// Windows, rotary frequencies and kinds of the layers.
    Layers,
    /// Rotary frequencies.
    Rope,
    /// Where each tensor is.
    Tensors,
    /// The parameters.
    Weights,
    /// The tokenizer.
    Tokenizer,
    /// The chat template.
    ChatTemplate,
    /// The header itself, which the table of sections does not list.
    Header,
}

// `ALL` lists every section but the header.
const _: () = assert!(Section::ALL.len() == Section::Header as usize);

impl Section {
    /// The sections, in order.
    pub const ALL: [Section; 7] = [
        Section::Config,
        Section::Layers,
        Section::Rope,
        Section::Tensors,
        Section::Weights,
        Section::Tokenizer,
        Section::ChatTemplate,
    ];

    /// Where it is in the table of sections, which does not list the header.
    const fn index(self) -> Option<usize> {
        match self {
            Section::Config
            | Section::Layers
            | Section::Rope
            | Section::Tensors
            | Section::Weights
            | Section::Tokenizer
            | Section::ChatTemplate => Some(self as usize),
            Section::Header => None,
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Section::Config => "config",
            Section::Layers => "layers",
            Section::Rope => "rope",
            Section::Tensors => "tensors",
            Section::Weights => "weights",
            Section::Tokenizer => "tokenizer",
            Section::ChatTemplate => "chat template",
            Section::Header => "header",
        })
    }
}

/// The u32 at byte `at`; 0 where there is none.
// Where flash is scarce it is a function, for which a call is enough.
#[cfg_attr(target_os = "none", inline(never))]
pub(super) const fn u32_at(bytes: &[u8], at: usize) -> u32 {
    match bytes.split_at_checked(at) {
        Some((_, rest)) => match rest.first_chunk() {
            Some(chunk) => u32::from_le_bytes(*chunk),
            None => 0,
        },
        None => 0,
    }
}

/// The u64 at byte `at`; 0 where there is none.
#[cfg_attr(target_os = "none", inline(never))]
pub(super) const fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at) as u64 | (u32_at(bytes, at.saturating_add(4)) as u64) << 32
}

/// The bytes `start .. start + length`, if they exist.
const fn slice(bytes: &[u8], start: u64, length: u64) -> Option<&[u8]> {
    if start > bytes.len() as u64 {
        return None;
    }
    match bytes.split_at_checked(start as usize) {
        Some((_, rest)) if length <= rest.len() as u64 => {
            match rest.split_at_checked(length as usize) {
                Some((section, _)) => Some(section),
                None => None,
            }
        }
        _ => None,
    }
}

/// The next multiple of [`ALIGNMENT`].
pub(crate) const fn align(bytes: u64) -> Option<u64> {
    match bytes.checked_add(ALIGNMENT as u64 - 1) {
        Some(end) => Some(end & !(ALIGNMENT as u64 - 1)),
        None => None,
    }
}

/// Whether the header's fields without a meaning are 0, so that a later version can give them one.
const fn reserved_is_zero(image: &[u8]) -> bool {
    let mut reserved = u64_at(image, 24);
    let mut s = 0;
    while s < Section::ALL.len() {
        reserved |= u32_at(image, 52 + 24 * s) as u64;
        s += 1;
    }
    let mut at = 32 + 24 * Section::ALL.len();
    while at < HEADER_BYTES {
        reserved |= u64_at(image, at);
        at += 8;
    }
    reserved == 0
}

/// What the header of an image says, checked as far as that needs no look at the weights: cheap,
/// and possible in a `const`, which is how a firmware sizes its arena at compile time (see
/// [`Plan`](crate::run::Plan)).
///
/// Example: [`Plan`](crate::run::Plan).
#[derive(Clone, Copy)]
pub struct Header<'m> {
    /// The config.
    pub config: Config,
    /// The layers.
    pub layers: Layers<'m>,
    sections: [&'m [u8]; Section::ALL.len()],
    checksums: [u32; Section::ALL.len()],
    checksum: u32,
    /// Where the weights start, and how many bytes they are.
    #[cfg(feature = "source")]
    weights: (u64, u64),
    /// Bytes of the image.
    #[cfg(feature = "source")]
    length: u64,
}

/// Where a section starts, and how many bytes it has.
pub(super) const fn section_range(start: &[u8], section: usize) -> (u64, u64) {
    (
        u64_at(start, 32 + 24 * section),
        u64_at(start, 40 + 24 * section),
    )
}

const fn truncated(expected: u64, found: u64) -> Error {
    const fn saturated(bytes: u64) -> usize {
        if bytes > usize::MAX as u64 {
            usize::MAX
        } else {
            bytes as usize
        }
    }
    Error::Truncated {
        expected: saturated(expected),
        found: saturated(found),
    }
}

/// Checks that this is the head of an image of `found` bytes, each section right after the one
/// before.
pub(super) const fn check_table(start: &[u8], found: u64) -> Result<(), Error> {
    if u64_at(start, 0) != u64::from_le_bytes(MAGIC) {
        return Err(Error::NotAnImage);
    }
    if u32_at(start, 8) != VERSION {
        return Err(Error::Version(u32_at(start, 8)));
    }
    let expected = u64_at(start, 16);
    if expected != found || found < HEADER_BYTES as u64 {
        return Err(truncated(expected, found));
    }
    let mut end = HEADER_BYTES as u64;
    let mut s = 0;
    while s < Section::ALL.len() {
        let (offset, length) = section_range(start, s);
        match (align(end), offset.checked_add(length)) {
            (Some(start), Some(next)) if start == offset && next <= found => end = next,
            _ => return Err(Error::Layout(Section::ALL[s])),
        }
        s += 1;
    }
    match align(end) {
        Some(expected) if expected == found => Ok(()),
        Some(expected) => Err(truncated(expected, found)),
        None => Err(Error::Layout(Section::ChatTemplate)),
    }
}

impl<'m> Header<'m> {
    /// Reads the header, config and layers of an image.
    pub const fn read(image: &'m [u8]) -> Result<Header<'m>, Error> {
        Header::read_parts(image, &[], image.len() as u64)
    }

    /// [`read`](Header::read) from an image of `length` bytes in two parts: `before` ends where
    /// the weights start, `after` is what comes after them; or `before` is all of it.
    pub(super) const fn read_parts(
        before: &'m [u8],
        after: &'m [u8],
        length: u64,
    ) -> Result<Header<'m>, Error> {
        if let Err(error) = check_table(before, length) {
            return Err(error);
        }
        let mapped = before.len() as u64 == length;
        let mut sections: [&[u8]; Section::ALL.len()] = [&[]; Section::ALL.len()];
        let mut checksums = [0; Section::ALL.len()];
        let mut s = 0;
        while s < Section::ALL.len() {
            let (offset, bytes) = section_range(before, s);
            let section: Option<&[u8]> = if mapped || s < Section::Weights as usize {
                slice(before, offset, bytes)
            } else if s == Section::Weights as usize {
                Some(&[])
            } else {
                slice(after, offset - (length - after.len() as u64), bytes)
            };
            match section {
                Some(section) => sections[s] = section,
                None => return Err(Error::Layout(Section::ALL[s])),
            }
            checksums[s] = u32_at(before, 48 + 24 * s);
            s += 1;
        }
        if !reserved_is_zero(before) {
            return Err(Error::Layout(Section::Header));
        }
        let mut config = match Config::read(sections[Section::Config as usize]) {
            Ok(config) => config,
            Err(error) => return Err(error),
        };
        let layers = match Layers::read(
            sections[Section::Layers as usize],
            config.num_decoder_blocks,
        ) {
            Ok(layers) => layers,
            Err(error) => return Err(error),
        };
        if cfg!(feature = "convolution") {
            config.conv_taps = match layers.conv_taps() {
                Ok(taps) => taps,
                Err(error) => return Err(error),
            };
        }
        Ok(Header {
            config,
            layers,
            sections,
            checksums,
            checksum: u32_at(before, 12),
            #[cfg(feature = "source")]
            weights: section_range(before, Section::Weights as usize),
            #[cfg(feature = "source")]
            length,
        })
    }

    /// The bytes of a section; none of the weights if those are not in memory.
    pub const fn section(&self, section: Section) -> &'m [u8] {
        match section.index() {
            Some(index) => self.sections[index],
            None => &[],
        }
    }

    /// The checksum of the header, which covers those of the sections: a fingerprint of the whole
    /// image.
    pub const fn checksum(&self) -> u32 {
        self.checksum
    }

    /// Bytes of everything but the weights: what must be in memory when those stay in a
    /// [`WeightSource`](super::WeightSource).
    #[cfg(feature = "source")]
    pub const fn resident_bytes(&self) -> usize {
        match align(self.weights.0.saturating_add(self.weights.1)) {
            Some(end) => {
                (self.length.saturating_sub(end) as usize).saturating_add(self.weights.0 as usize)
            }
            None => usize::MAX,
        }
    }

    /// Where in the image the weights start, and how many bytes they are.
    #[cfg(feature = "source")]
    pub(crate) const fn weights_range(&self) -> (u64, u64) {
        self.weights
    }

    /// Whether the weights are in memory.
    #[cfg(feature = "source")]
    pub(crate) const fn is_mapped(&self) -> bool {
        self.sections[Section::Weights as usize].len() as u64 == self.weights.1
    }

    /// The checksum the header gives for a section.
    pub(super) const fn section_checksum(&self, section: Section) -> u32 {
        match section.index() {
            Some(index) => self.checksums[index],
            None => self.checksum,
        }
    }

    /// How many u64 the rope section must hold, and where the local table starts.
    pub(super) const fn rope_lengths(&self) -> (usize, usize) {
        let words = 1 + self.config.projection_dim as usize / 2;
        let global = if self.layers.use_rope(Rope::Global) {
            words
        } else {
            0
        };
        let local = if self.layers.use_rope(Rope::Local) {
            words
        } else {
            0
        };
        (global.saturating_add(local), global)
    }
}

/// An entry of the tensors section.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub kind: u8,
    pub dtype: u8,
    pub zero: u16,
    pub layer: u32,
    pub offset: u64,
}

impl Entry {
    pub(super) fn read(section: &[u8], index: usize) -> Entry {
        let start = index.saturating_mul(ENTRY_BYTES);
        let [kind, dtype, z0, z1] = u32_at(section, start).to_le_bytes();
        Entry {
            kind,
            dtype,
            zero: u16::from_le_bytes([z0, z1]),
            layer: u32_at(section, start.saturating_add(4)),
            offset: u64_at(section, start.saturating_add(8)),
        }
    }
}

/// The tensors of a model in the order of an image. `layer_kind` knows the kind of each layer.
pub fn tensor_ids<F: Fn(u32) -> LayerKind>(
    config: &Config,
    layer_kind: F,
) -> impl Iterator<Item = TensorId> + use<F> {
    let config = *config;
    let mut layer = 0;
    let mut next = 0;
    core::iter::from_fn(move || {
        loop {
            let Some(&kind) = TensorKind::ALL.get(next) else {
                (layer, next) = (layer + 1, TensorKind::PreAttentionNorm as usize);
                continue;
            };
            if kind.is_per_layer() && layer >= config.num_decoder_blocks {
                return None;
            }
            next += 1;
            if kind.is_present(&config, layer_kind(layer)) {
                return Some(TensorId { layer, kind });
            }
        }
    })
}

/// Bytes at the alignment an image needs: what [`include_image!`](crate::include_image) makes of a
/// file.
#[doc(hidden)]
#[repr(C, align(64))]
pub struct Aligned<B: ?Sized>(pub B);

/// Puts an image file into the program, aligned as it must be: a `&'static [u8]`, usable in a
/// `const` or a `static`. The path is relative to the source file, as for [`include_bytes!`].
///
/// ```
/// static STORY: &[u8] = pocketlm::include_image!("../bin/pocketlm/story/story.plm");
/// let model = pocketlm::model::Model::open(STORY)?;
/// assert_eq!(model.config().num_decoder_blocks, 4);
/// # Ok::<(), pocketlm::Error>(())
/// ```
///
/// With `section`, the image is in a section of the program of its own, which a linker script can
/// place: in external flash, for example. The section must hold constants, and the memory must be
/// readable from the first use on.
///
/// ```
/// # #[cfg(target_os = "linux")] {
/// static STORY: &[u8] =
///     pocketlm::include_image!("../bin/pocketlm/story/story.plm", section = ".external_flash");
/// # assert!(pocketlm::model::Model::open(STORY).is_ok());
/// # }
/// ```
#[macro_export]
macro_rules! include_image {
    ($path:expr $(,)?) => {{
        const ALIGNED: &$crate::model::Aligned<[u8]> =
            &$crate::model::Aligned(*::core::include_bytes!($path));
        &ALIGNED.0
    }};
    ($path:expr, section = $section:literal $(,)?) => {{
        const LENGTH: usize = ::core::include_bytes!($path).len();
        #[unsafe(link_section = $section)]
        static ALIGNED: $crate::model::Aligned<[u8; LENGTH]> =
            $crate::model::Aligned(*::core::include_bytes!($path));
        &ALIGNED.0 as &'static [u8]
    }};
}

#[cfg(all(test, feature = "std", target_os = "linux"))]
mod tests {
    use object::{Object, ObjectSection};

    #[test]
    #[allow(unsafe_code)] // of the attribute `link_section`
    fn an_image_lies_in_the_section_that_is_named() {
        const IMAGE: &[u8] =
            crate::include_image!("../bin/pocketlm/story/story.plm", section = ".test_image");
        assert!(crate::model::Model::open(IMAGE).is_ok());
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let program = object::File::parse(&*program).unwrap();
        let section = program.section_by_name(".test_image").unwrap();
        assert_eq!(section.data().unwrap(), IMAGE);
        assert_eq!(section.align(), super::ALIGNMENT as u64);
    }
}
