//! What differs from layer to layer: the layers section of an image.

use core::num::NonZeroU32;

use super::ConfigField;
use super::image::u32_at;
use crate::Error;

/// Bytes of one layer in the section.
const LAYER_BYTES: usize = 8;
/// What the section says of a convolution, in place of rotary frequencies.
pub(crate) const CONVOLUTION: u32 = 3;

/// Which rotary frequencies a layer uses.
///
/// Example: [`Config`](super::Config).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum Rope {
    /// None: the layer sees no positions (SmolLM3's NoPE layers).
    #[default]
    None = 0,
    /// Those of the global layers.
    Global = 1,
    /// Those of the local (sliding-window) layers.
    Local = 2,
}

/// How a layer mixes tokens. Everything else is the same in all layers.
///
/// Example: [`Layer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum LayerKind {
    /// Attention.
    #[default]
    Attention,
    /// A short convolution (LFM2). Of a layer's input, `in` makes three vectors `b`, `c` and `x` of
    /// `D` numbers each. With `u = b * x`, the output is `out (c * y)`, where
    /// `y[t] = sum_j taps[j] * u[t - (T - 1) + j]` over the layer's window of `T` positions.
    Convolution,
}

impl LayerKind {
    /// How many kinds this build can run.
    pub(crate) const COUNT: usize = 1 + cfg!(feature = "convolution") as usize;

    /// The kinds that this build can run.
    pub(crate) const ALL: [LayerKind; LayerKind::COUNT] = [
        LayerKind::Attention,
        #[cfg(feature = "convolution")]
        LayerKind::Convolution,
    ];

    // In a build without convolutions `Layers::read` refuses them. There these three are constants,
    // so that the code for convolutions is left out. A third kind needs a question of its own, and
    // a look at every caller of these.

    /// Its index in [`ALL`](LayerKind::ALL).
    pub(crate) const fn index(self) -> usize {
        match self {
            LayerKind::Attention => 0,
            LayerKind::Convolution => cfg!(feature = "convolution") as usize,
        }
    }

    pub(crate) const fn is_attention(self) -> bool {
        match self {
            LayerKind::Attention => true,
            LayerKind::Convolution => !cfg!(feature = "convolution"),
        }
    }

    pub(crate) const fn is_convolution(self) -> bool {
        match self {
            LayerKind::Attention => false,
            LayerKind::Convolution => cfg!(feature = "convolution"),
        }
    }
}

const _: () = {
    let mut index = 0;
    while index < LayerKind::COUNT {
        assert!(LayerKind::ALL[index].index() == index);
        index += 1;
    }
};

/// What differs from layer to layer: penzai's `attention_type`, expanded to one entry a layer.
///
/// ```
/// use pocketlm::model::{Layer, LayerKind, Rope};
/// use core::num::NonZeroU32;
///
/// let global = Layer { rope: Rope::Global, ..Layer::default() };
/// assert_eq!(global.window, None);
/// let convolution = Layer {
///     kind: LayerKind::Convolution,
///     window: NonZeroU32::new(3),
///     rope: Rope::None,
/// };
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Layer {
    /// How it mixes tokens.
    pub kind: LayerKind,
    /// `Some(w)`: the layer sees `w` positions, the token's own included: sliding-window causal
    /// attention, or a convolution, which has as many taps
    /// ([`conv_taps`](super::Config::conv_taps)). `None`: global causal attention.
    pub window: Option<NonZeroU32>,
    /// The rotary frequencies of attention.
    pub rope: Rope,
}

/// The layers of a model, read in place from an image.
///
/// Example: [`Model`](super::Model).
#[derive(Clone, Copy)]
pub struct Layers<'m>(&'m [u8]);

impl<'m> Layers<'m> {
    /// Checks the layers section.
    pub(super) const fn read(bytes: &'m [u8], count: u32) -> Result<Self, Error> {
        if bytes.len() != (count as usize).saturating_mul(LAYER_BYTES) {
            return Err(Error::Config(ConfigField::NumDecoderBlocks));
        }
        let mut i = 0;
        while i < count as usize {
            match u32_at(bytes, i * LAYER_BYTES + 4) {
                0..=2 => {}
                CONVOLUTION if cfg!(feature = "convolution") => {}
                CONVOLUTION => return Err(Error::ConvolutionDisabled),
                _ => return Err(Error::Config(ConfigField::AttentionType)),
            }
            i += 1;
        }
        Ok(Layers(bytes))
    }

    /// How many taps the convolutions have; `None` if there are none.
    pub(super) const fn conv_taps(&self) -> Result<Option<NonZeroU32>, Error> {
        let mut taps: Option<NonZeroU32> = None;
        let mut i = 0;
        while i < self.len() {
            let layer = self.get(i);
            if layer.kind.is_convolution() {
                match (layer.window, taps) {
                    (Some(found), Some(taps)) if found.get() != taps.get() => {
                        return Err(Error::Config(ConfigField::ConvTaps));
                    }
                    (None, _) => return Err(Error::Config(ConfigField::ConvTaps)),
                    (window, _) => taps = window,
                }
            }
            i += 1;
        }
        Ok(taps)
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len() / LAYER_BYTES
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Layer `index`; a global layer without RoPE beyond the last.
    pub const fn get(&self, index: usize) -> Layer {
        let start = index.saturating_mul(LAYER_BYTES);
        Layer {
            kind: self.kind(index),
            window: NonZeroU32::new(u32_at(self.0, start)),
            rope: match u32_at(self.0, start.saturating_add(4)) {
                1 => Rope::Global,
                2 => Rope::Local,
                _ => Rope::None,
            },
        }
    }

    /// The kind of layer `index`.
    #[inline(always)]
    pub(crate) const fn kind(&self, index: usize) -> LayerKind {
        let start = index.saturating_mul(LAYER_BYTES);
        if cfg!(feature = "convolution") && u32_at(self.0, start.saturating_add(4)) == CONVOLUTION {
            LayerKind::Convolution
        } else {
            LayerKind::Attention
        }
    }

    /// The layers in order.
    pub fn iter(&self) -> impl Iterator<Item = Layer> + use<'m> {
        let layers = *self;
        (0..self.len()).map(move |i| layers.get(i))
    }

    /// Whether any layer uses the rotary frequencies `rope`.
    #[inline(always)]
    pub(super) const fn use_rope(&self, rope: Rope) -> bool {
        let mut i = 0;
        while i < self.len() {
            if u32_at(self.0, i * LAYER_BYTES + 4) == rope as u32 {
                return true;
            }
            i += 1;
        }
        false
    }
}

#[cfg(all(test, not(feature = "convolution")))]
mod tests {
    use super::*;

    #[test]
    fn convolutions_that_are_not_compiled_in_are_refused_by_name() {
        let layers = |kind: u8| Layers::read(&[3, 0, 0, 0, kind, 0, 0, 0], 1).map(|_| ());
        assert_eq!(layers(2), Ok(()));
        assert_eq!(layers(3), Err(Error::ConvolutionDisabled));
        let unknown = Error::Config(ConfigField::AttentionType);
        assert_eq!(layers(4), Err(unknown));
    }
}
