//! [`Plan`]: how much memory a session needs. The header of an image and the chosen limits
//! determine, in `const` arithmetic, the size of every buffer and where it lies.

use core::mem::size_of;

use pocketlm_kernels::{GROUP, InputGroup, InputTile, TILE_ROWS};

use super::buffer::{Buffer, Layout, layout};
use super::snapshot::HEADER_BYTES;
#[cfg(feature = "source")]
use crate::model::{ALIGNMENT, Config, LayerKind, TensorKind};
use crate::model::{Dims, Header, Kv, Layer, Layers};

/// The memory plan of a session for one model: its limits, and the bytes that they need.
///
/// The sizes in bytes, where `B` is the batch and the other letters are those of
/// [`TensorKind`](crate::model::TensorKind):
///
/// | part | holds |
/// |---|---|
/// | `tokens` | ids and positions of the context, 8 each |
/// | `hidden` | the residual stream, 4 B D |
/// | `branch` | input of a branch off `hidden`, normed, or its output, 4 B D |
/// | `scratch` | buffers of attention or of the feed-forward, see below |
/// | `logits` | 4 V for each of as many tokens as [`Plan::logits`] says |
/// | `groups` | quantised inputs, see below |
/// | `rope` | rotary angles of the batch with global and local frequencies, 8 B P |
/// | `weights` | only for weights that are not in memory, see below |
/// | `cache` | keys and values, and what convolutions keep: [`Plan::layer_cache_bytes`] of every layer |
///
/// * `scratch` is the largest of three: attention's queries, keys, values, output and scores,
///   4 (B P (2H + 2K) + H R), where `R` is the length of the longest attention layer's cache; the
///   feed-forward's two vectors, 8 B F; and a convolution's four, 16 B D, if a layer is one.
/// * `groups` takes 72 for each 32 numbers, B times: of the widest input, or of all queries with
///   each head rounded up to 32, whichever is more. Batches of 32 and more take 136 for each 32
///   numbers in addition, in the form that matrix units read.
/// * `weights` holds both halves of [`Plan::weight_buffer`], and the vectors of a layer.
#[derive(Clone, Copy)]
pub struct Plan<'m> {
    dims: Dims,
    layers: Layers<'m>,
    checksum: u32,
    context: u32,
    batch: u32,
    logits: u32,
    kv: Kv,
    #[cfg(feature = "source")]
    weight_buffer: usize,
    /// Numbers in all vectors of a layer, or in the final norm if that is more.
    #[cfg(feature = "source")]
    vectors: usize,
    /// Bytes of every part. They are kept so that a program whose plan is a `const` holds these
    /// numbers and not their arithmetic.
    sizes: [usize; PARTS.len()],
    /// Where the stages' buffers lie, for the same reason.
    layout: Layout,
}

/// Buffers of a build with convolutions. Others have fewer.
#[doc(hidden)] // for the C interface
pub const BUFFERS: usize = 15;
const _: () = assert!(Buffer::COUNT <= BUFFERS);

/// The parts, in the order in which they lie in the arena.
const PARTS: [&str; 9] = [
    "tokens", "hidden", "branch", "scratch", "logits", "groups", "rope", "weights", "cache",
];

/// A buffer in the arena.
///
/// Example: [`Plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Part {
    /// Its name in [`Plan`]'s table.
    pub name: &'static str,
    /// Its length, padded to a multiple of 64.
    pub bytes: usize,
}

/// The product of sizes. It saturates: what overflows is larger than any memory, so no arena is
/// large enough.
const fn product(factors: &[usize]) -> usize {
    let mut product: usize = 1;
    let mut i = 0;
    while i < factors.len() {
        product = product.saturating_mul(factors[i]);
        i += 1;
    }
    product
}

const fn padded(bytes: usize) -> usize {
    match bytes.checked_next_multiple_of(crate::model::ALIGNMENT) {
        Some(bytes) => bytes,
        None => usize::MAX,
    }
}

const fn larger(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

impl<'m> Plan<'m> {
    /// A plan for a context of 256 tokens, a batch of 1, and keys and values in f32.
    pub const fn new(header: &Header<'m>) -> Plan<'m> {
        Plan {
            dims: header.config.dims(),
            layers: header.layers,
            checksum: header.checksum(),
            context: 256,
            batch: 1,
            logits: 1,
            kv: Kv::F32,
            #[cfg(feature = "source")]
            weight_buffer: 0,
            #[cfg(feature = "source")]
            vectors: vectors(&header.config),
            sizes: [0; PARTS.len()],
            layout: [[0; 2]; Buffer::COUNT],
        }
        .with_sizes()
    }

    /// The plan whose numbers the `sizes` of another plan are, without computing them: made from
    /// the image with the checksum `checksum`, for the limits `context` and `batch`. Buffers that
    /// are not there take no room. Wrong numbers are not dangerous: a session computes nonsense.
    #[doc(hidden)] // for the C interface
    pub fn of_sizes(
        header: &Header<'m>,
        checksum: u32,
        [context, batch]: [u32; 2],
        kv: Kv,
        (parts, buffers): (&[usize; PARTS.len()], &[[usize; 2]; BUFFERS]),
    ) -> Plan<'m> {
        Plan {
            dims: header.config.dims(),
            layers: header.layers,
            checksum,
            context,
            batch,
            logits: 1,
            kv,
            #[cfg(feature = "source")]
            weight_buffer: 0,
            #[cfg(feature = "source")]
            vectors: 0,
            sizes: *parts,
            layout: buffers
                .first_chunk()
                .copied()
                .unwrap_or([[0; 2]; Buffer::COUNT]),
        }
    }

    /// The numbers of [`of_sizes`](Plan::of_sizes).
    #[doc(hidden)] // for the C interface
    pub const fn buffers(&self) -> &[[usize; 2]] {
        &self.layout
    }

    /// How many tokens a session can hold.
    pub const fn context(mut self, tokens: u32) -> Self {
        self.context = tokens;
        self.with_sizes()
    }

    /// How many tokens of a prompt are computed together. More is faster and needs more memory.
    pub const fn batch(mut self, tokens: u32) -> Self {
        self.batch = tokens;
        self.with_sizes()
    }

    /// How many tokens' logits there is room for. Where the logits of all tokens are wanted
    /// ([`Session::feed_each`](super::Session::feed_each)), as many are computed together.
    pub const fn logits(mut self, tokens: u32) -> Self {
        self.logits = tokens;
        self.with_sizes()
    }

    /// The type that keys and values are kept in.
    pub const fn kv(mut self, kv: Kv) -> Self {
        self.kv = kv;
        self.with_sizes()
    }

    /// Bytes of the buffer for weights that are not in memory
    /// ([`Session::with_source`](super::Session::with_source)). A session computes with one half
    /// while it reads into the other, so a half must hold a tile row of the widest matrix. More is
    /// faster where a read has a fixed cost.
    #[cfg(feature = "source")]
    pub const fn weight_buffer(mut self, bytes: usize) -> Self {
        self.weight_buffer = bytes;
        self.with_sizes()
    }

    /// Bytes of the whole arena; `usize::MAX` if the size overflows.
    pub const fn bytes(&self) -> usize {
        let mut bytes: usize = 0;
        let mut i = 0;
        while i < self.sizes.len() {
            bytes = bytes.saturating_add(self.sizes[i]);
            i += 1;
        }
        bytes
    }

    /// Every buffer, in the order in which they lie in the arena.
    pub const fn parts(&self) -> [Part; 9] {
        let mut parts = [Part { name: "", bytes: 0 }; PARTS.len()];
        let mut i = 0;
        while i < parts.len() {
            parts[i] = Part {
                name: PARTS[i],
                bytes: self.sizes[i],
            };
            i += 1;
        }
        parts
    }

    /// Bytes of every buffer, in that order.
    pub(super) const fn sizes(&self) -> &[usize; PARTS.len()] {
        &self.sizes
    }

    /// Where the buffers of the stages lie.
    pub(super) const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The sizes of the model.
    pub(super) const fn dims(&self) -> &Dims {
        &self.dims
    }

    /// The same plan with the sizes that follow from its limits.
    const fn with_sizes(mut self) -> Self {
        let batch = self.batch as usize;
        let dims = &self.dims;
        let hidden = padded(product(&[4, batch, dims.embedding]));
        let branch = hidden;
        let scratch = padded(product(&[4, self.scratch()]));
        let logits = padded(product(&[4, self.logits as usize, dims.vocabulary]));
        // Queries that meet int8 keys are quantised head by head.
        let query_groups = product(&[
            dims.kv_heads,
            dims.query_heads_per_kv,
            dims.head_width.div_ceil(GROUP),
        ]);
        let groups = product(&[
            size_of::<InputGroup>(),
            batch,
            larger(self.widest().div_ceil(GROUP), query_groups),
        ]);
        self.sizes = [
            padded(product(&[8, self.context as usize])),
            hidden,
            branch,
            scratch,
            logits,
            padded(groups).saturating_add(self.input_tile_bytes()),
            padded(product(&[8, batch, dims.head_width])),
            self.weight_bytes(),
            padded(self.cache_bytes()),
        ];
        self.layout = layout(
            dims,
            batch,
            [hidden / 4, branch / 4, scratch / 4, logits / 4],
        );
        self
    }

    /// Bytes of the input tiles at the end of `groups`. Short batches, as boards have, do without.
    pub(super) const fn input_tile_bytes(&self) -> usize {
        let batch = self.batch as usize;
        if batch < 2 * InputTile::INPUTS {
            return 0;
        }
        product(&[
            size_of::<InputTile>(),
            batch.div_ceil(InputTile::INPUTS),
            self.widest().div_ceil(GROUP),
        ])
    }

    /// Numbers in the widest input of a product.
    const fn widest(&self) -> usize {
        let dims = &self.dims;
        larger(
            dims.embedding,
            larger(dims.queries_width, dims.feed_forward),
        )
    }

    /// The context.
    pub const fn context_tokens(&self) -> u32 {
        self.context
    }

    /// The batch.
    pub const fn batch_tokens(&self) -> u32 {
        self.batch
    }

    /// The tokens whose logits there is room for.
    pub const fn logits_tokens(&self) -> u32 {
        self.logits
    }

    /// The type of keys and values.
    pub const fn kv_type(&self) -> Kv {
        self.kv
    }

    /// How many positions a layer's cache has room for. A global layer keeps the whole context. A
    /// sliding-window layer keeps a ring of `window + batch − 1`, so that a batch never overwrites
    /// a key that its first token still sees. Rounded up to whole tiles of 8. A convolution keeps
    /// such a ring, not rounded.
    pub const fn cache_rows(&self, layer: Layer) -> usize {
        let rows = match layer.window {
            Some(window) => {
                let ring =
                    (window.get() as usize).saturating_add(self.batch.saturating_sub(1) as usize);
                if ring < self.context as usize {
                    ring
                } else {
                    self.context as usize
                }
            }
            None => self.context as usize,
        };
        if layer.kind.is_convolution() {
            return rows;
        }
        product(&[rows.div_ceil(TILE_ROWS), TILE_ROWS])
    }

    /// Bytes of the keys and values of a layer; of a convolution, those of an f32 vector as wide as
    /// the embedding for each of its [`cache_rows`](Plan::cache_rows).
    pub const fn layer_cache_bytes(&self, layer: Layer) -> usize {
        product(&[self.cache_heads(layer), self.head_cache_bytes(layer).0])
    }

    /// How many kv heads a layer's cache has: one, whose values are the vectors, if the layer is a
    /// convolution.
    pub(super) const fn cache_heads(&self, layer: Layer) -> usize {
        if layer.kind.is_convolution() {
            1
        } else {
            self.dims.kv_heads
        }
    }

    /// Bytes of the keys and values of one kv head of a layer, and how many of them are keys, which
    /// come first.
    pub(super) const fn head_cache_bytes(&self, layer: Layer) -> (usize, usize) {
        let rows = self.cache_rows(layer);
        if layer.kind.is_convolution() {
            return (product(&[rows, 4, self.dims.embedding]), 0);
        }
        let keys = self.kv.dtype().matrix_bytes(rows, self.dims.head_width);
        let value = self.kv.value_bytes(self.dims.head_width);
        match (keys, value) {
            (Some(keys), Some(value)) => (keys.saturating_add(product(&[rows, value])), keys),
            _ => (usize::MAX, usize::MAX),
        }
    }

    /// Bytes of all that layers keep: layer by layer, kv head by kv head, keys then values.
    pub(super) const fn cache_bytes(&self) -> usize {
        let mut bytes: usize = 0;
        let mut i = 0;
        while i < self.layers.len() {
            bytes = bytes.saturating_add(self.layer_cache_bytes(self.layers.get(i)));
            i += 1;
        }
        bytes
    }

    /// Bytes of the largest [snapshot](super::Session::save) of `tokens` tokens. One whose
    /// positions have gaps may be smaller.
    pub const fn snapshot_bytes(&self, tokens: u32) -> usize {
        let tokens = tokens as usize;
        let row = match self.kv.value_bytes(self.dims.head_width) {
            // A key is as long as a value.
            Some(value) => product(&[2, self.dims.kv_heads, value]),
            None => usize::MAX,
        };
        let mut bytes = (HEADER_BYTES + 4).saturating_add(product(&[8, tokens]));
        let mut i = 0;
        while i < self.layers.len() {
            let layer = self.layers.get(i);
            let rows = match layer.window {
                Some(window) if (window.get() as usize) <= tokens => window.get() as usize - 1,
                _ => tokens,
            };
            let row = if layer.kind.is_convolution() {
                product(&[4, self.dims.embedding])
            } else {
                row
            };
            bytes = bytes.saturating_add(product(&[rows, row]));
            i += 1;
        }
        bytes
    }

    /// The longest cache of any attention layer.
    pub(super) const fn longest_cache(&self) -> usize {
        let mut longest = 0;
        let mut i = 0;
        while i < self.layers.len() {
            let layer = self.layers.get(i);
            if layer.kind.is_attention() {
                longest = larger(longest, self.cache_rows(layer));
            }
            i += 1;
        }
        longest
    }

    /// Bytes of each of the two buffers for weights, and of the one for the vectors of a layer.
    #[cfg(feature = "source")]
    pub(super) const fn weight_parts(&self) -> (usize, usize) {
        if self.weight_buffer == 0 {
            return (0, 0);
        }
        let half = self.weight_buffer / 2 / ALIGNMENT * ALIGNMENT;
        (half, padded(product(&[4, self.vectors])))
    }

    #[cfg(feature = "source")]
    const fn weight_bytes(&self) -> usize {
        let (half, vectors) = self.weight_parts();
        product(&[2, half]).saturating_add(vectors)
    }

    #[cfg(not(feature = "source"))]
    const fn weight_bytes(&self) -> usize {
        0
    }

    /// Numbers in the scratch part.
    const fn scratch(&self) -> usize {
        let batch = self.batch as usize;
        let dims = &self.dims;
        let rows = product(&[2, batch, dims.queries_width.saturating_add(dims.keys_width)]);
        let scores = product(&[dims.kv_heads, dims.query_heads_per_kv, self.longest_cache()]);
        let feed_forward = product(&[2, batch, dims.feed_forward]);
        let most = larger(rows.saturating_add(scores), feed_forward);
        #[cfg(feature = "convolution")]
        let most = larger(most, product(&[4, batch, dims.convolved]));
        most
    }

    /// Whether this plan was made from the header of this image.
    pub(super) fn is_for(&self, header: &Header<'_>) -> bool {
        self.checksum == header.checksum()
    }
}

/// Numbers in all vectors of a layer, or in the final norm if that is more.
#[cfg(feature = "source")]
const fn vectors(config: &Config) -> usize {
    let mut most = config.dims().embedding;
    let mut kind = 0;
    while kind < LayerKind::COUNT {
        let layer = LayerKind::ALL[kind];
        if !layer.is_convolution() || config.conv_taps.is_some() {
            most = larger(most, vectors_of(config, layer));
        }
        kind += 1;
    }
    most
}

#[cfg(feature = "source")]
const fn vectors_of(config: &Config, layer: LayerKind) -> usize {
    let mut vectors: usize = 0;
    let mut kind = 0;
    while kind < TensorKind::ALL.len() {
        if TensorKind::ALL[kind].is_per_layer() {
            vectors = vectors.saturating_add(TensorKind::ALL[kind].vector_len(config, layer));
        }
        kind += 1;
    }
    vectors
}
