//! Random models, made on the spot: any config, weights from a seed, in memory.

use std::collections::HashMap;
use std::num::NonZeroU32;

use pocketlm::host::AlignedBytes;
use pocketlm::import::{
    self, Checkpoint, Description, Element, ImportError, PackOptions, RopeTable, Tensor,
};
use pocketlm::model::{
    AttnTemperature, Config, DType, Layer, LayerKind, MlpVariant, Rope, TensorId, TensorKind,
};

/// A repeatable stream of numbers (Knuth's MMIX generator).
#[derive(Clone)]
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        numbers.bits();
        numbers
    }

    pub fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// A whole number in `range`.
    pub fn within(&mut self, range: std::ops::RangeInclusive<u32>) -> u32 {
        let span = u64::from(range.end() - range.start()) + 1;
        range.start() + ((u64::from(self.bits()) * span) >> 32) as u32
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u32) -> bool {
        self.within(1..=n) == 1
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.within(0..=choices.len() as u32 - 1) as usize]
    }

    /// A number in −1..1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Token ids below `vocab_size`.
    pub fn tokens(&mut self, count: usize, vocab_size: u32) -> Vec<u32> {
        (0..count)
            .map(|_| self.within(0..=vocab_size - 1))
            .collect()
    }
}

/// A checkpoint that is nowhere but in memory.
pub struct Memory {
    description: Description,
    tensors: HashMap<TensorId, Vec<u8>>,
}

impl Checkpoint for Memory {
    fn description(&self) -> &Description {
        &self.description
    }

    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        let missing = || ImportError::new(format!("tensor {id} is missing"));
        let (rows, columns) = id
            .kind
            .shape(&self.description.config)
            .ok_or_else(missing)?;
        let data = self.tensors.get(&id).ok_or_else(missing)?;
        Tensor::dense(Element::F32, &data[..], rows, columns)
    }
}

impl Memory {
    /// A model of this description with weights from `seed`: matrices that keep the size of what
    /// they multiply, norms around 1, small biases.
    pub fn new(description: Description, seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let config = description.config;
        let mut tensors = HashMap::new();
        for id in description.tensor_ids() {
            let kind = id.kind;
            let (rows, columns) = kind.shape(&config).unwrap();
            let (base, spread) = match kind {
                TensorKind::Embedder | TensorKind::LmHead => (0.0, 1.0),
                TensorKind::ConvTaps => (0.0, 1.0),
                _ if kind.is_matrix() => (0.0, (3.0 / columns as f32).sqrt()),
                _ if format!("{kind:?}").ends_with("Bias") => (0.0, 0.3),
                _ => (1.0, 0.5),
            };
            let data = (0..rows * columns)
                .flat_map(|_| (base + spread * numbers.float()).to_le_bytes())
                .collect();
            tensors.insert(id, data);
        }
        Memory {
            description,
            tensors,
        }
    }

    /// The same model with every weight moved to a neighbouring f32, up or down.
    pub fn nudged(&self, seed: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let mut nudge = |bytes: &[u8]| {
            let bits = u32::from_le_bytes(bytes.try_into().unwrap());
            if numbers.one_in(2) {
                bits + 1
            } else {
                bits.saturating_sub(1)
            }
            .to_le_bytes()
        };
        let mut ids: Vec<_> = self.tensors.keys().copied().collect();
        ids.sort();
        let nudged = ids.into_iter().map(|id| {
            (
                id,
                self.tensors[&id].chunks(4).flat_map(&mut nudge).collect(),
            )
        });
        Memory {
            description: self.description.clone(),
            tensors: nudged.collect(),
        }
    }

    pub fn pack(&self, dtype: DType) -> AlignedBytes {
        self.pack_with(PackOptions {
            dtype: Some(dtype),
            ..PackOptions::default()
        })
    }

    pub fn pack_with(&self, options: PackOptions) -> AlignedBytes {
        import::pack_to_memory(self, &options, &mut |_, _| {})
            .unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Rotary frequencies of this base, with pair `still` (if it exists) not turning.
pub fn rope_table(projection_dim: u32, base: f64, amplitude: f32, still: u32) -> RopeTable {
    let frequency = |j: u32| {
        if j == still {
            0.0
        } else {
            libm::pow(base, -2.0 * f64::from(j) / f64::from(projection_dim))
        }
    };
    RopeTable {
        amplitude,
        frequencies: (0..projection_dim / 2).map(frequency).collect(),
    }
}

pub fn window(window: u32, rope: Rope) -> Layer {
    Layer {
        window: NonZeroU32::new(window),
        rope,
        ..Layer::default()
    }
}

/// A plain config with `layers`: nothing optional is on, and no two sizes are alike.
pub fn plain(layers: Vec<Layer>) -> Description {
    let config = Config {
        num_kv_heads: 2,
        query_head_multiplier: 2,
        embedding_dim: 20,
        projection_dim: 6,
        mlp_hidden_dim: 37,
        num_decoder_blocks: layers.len() as u32,
        vocab_size: 43,
        query_scaling_factor: 0.4,
        conv_taps: layers
            .iter()
            .find(|layer| layer.kind == LayerKind::Convolution)
            .and_then(|layer| layer.window),
        ..Config::PLAIN
    };
    Description {
        config,
        layers,
        global_rope: rope_table(6, 1e4, 1.0, u32::MAX),
        local_rope: Some(rope_table(6, 100.0, 1.0, u32::MAX)),
        tokenizer: None,
        chat_template: None,
    }
}

/// Makes convolutions of some layers.
fn convolve(numbers: &mut Numbers, config: &mut Config, layers: &mut [Layer]) {
    config.conv_bias = numbers.one_in(2);
    let taps = NonZeroU32::new(numbers.pick(&[1, 2, 3, 3, 4, 7, 12]));
    for layer in layers.iter_mut() {
        if numbers.one_in(2) {
            *layer = convolution(taps.map_or(0, NonZeroU32::get));
            config.conv_taps = taps;
        }
    }
}

/// A convolution.
pub fn convolution(taps: u32) -> Layer {
    Layer {
        kind: LayerKind::Convolution,
        ..window(taps, Rope::None)
    }
}

/// Any config at all, small.
pub fn any(numbers: &mut Numbers) -> Description {
    let mut layers: Vec<Layer> = (0..numbers.within(0..=4))
        .map(|_| {
            let size = numbers.pick(&[0, 0, 1, 2, 3, 7, 8, 9, 15, 1000, u32::MAX]);
            window(
                size,
                numbers.pick(&[
                    Rope::None,
                    Rope::Global,
                    Rope::Global,
                    Rope::Local,
                    Rope::Local,
                ]),
            )
        })
        .collect();
    let projection_dim = numbers.pick(&[2, 4, 6, 8, 10, 16, 20, 30, 32, 34, 48]);
    let (num_kv_heads, query_head_multiplier) = numbers.pick(&[
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 5),
        (2, 1),
        (2, 2),
        (2, 3),
        (3, 1),
        (4, 2),
        (5, 1),
    ]);
    let cap = |numbers: &mut Numbers| {
        numbers
            .one_in(3)
            .then(|| 1.0 + 10.0 * numbers.float().abs())
    };
    let table = |numbers: &mut Numbers| {
        let base = numbers.pick(&[1.0, 10.0, 1e4, 1e6]);
        let amplitude = numbers.pick(&[1.0, 1.0, 0.7, 1.3]);
        let still = numbers.within(0..=2 * projection_dim);
        rope_table(projection_dim, base, amplitude, still)
    };
    let mut config = Config {
        num_kv_heads,
        query_head_multiplier,
        embedding_dim: numbers.pick(&[1, 2, 5, 8, 16, 20, 31, 32, 33, 64, 65]),
        projection_dim,
        mlp_hidden_dim: numbers.pick(&[1, 3, 8, 24, 32, 37, 64, 71]),
        num_decoder_blocks: layers.len() as u32,
        vocab_size: numbers.pick(&[1, 2, 7, 8, 9, 31, 43, 64]),
        mlp_variant: numbers.pick(&[
            MlpVariant::GegluExact,
            MlpVariant::GegluApprox,
            MlpVariant::Swiglu,
        ]),
        tie_embedder_and_logits: numbers.one_in(2),
        embedding_scale: numbers.pick(&[1.0, 1.0, 4.472_136, 0.1, -2.0]),
        rms_norm_eps: numbers.pick(&[1e-6, 1e-5, 1e-2]),
        use_post_attn_norm: numbers.one_in(2),
        use_post_ffw_norm: numbers.one_in(2),
        final_logit_softcap: cap(numbers),
        attn_logits_soft_cap: cap(numbers),
        query_scaling_factor: numbers.pick(&[
            (projection_dim as f32).powf(-0.5),
            0.0625,
            1.0,
            -0.5,
        ]),
        use_qk_norm: numbers.one_in(2),
        qkv_bias: numbers.one_in(2),
        output_bias: numbers.one_in(2),
        mlp_bias: numbers.one_in(2),
        use_pre_attn_norm: !numbers.one_in(4),
        use_pre_ffw_norm: !numbers.one_in(4),
        qk_norm_after_rope: numbers.one_in(3),
        qk_norm_across_heads: numbers.one_in(4),
        qk_norm_only_with_rope: numbers.one_in(3),
        ..plain(Vec::new()).config
    };
    let global_rope = table(numbers);
    let local_rope = Some(table(numbers));
    if numbers.one_in(3) {
        convolve(numbers, &mut config, &mut layers);
    }
    let attn_temperature = numbers.one_in(4).then(|| AttnTemperature {
        scale: numbers.pick(&[0.1, 0.5, 3.0]),
        length: NonZeroU32::new(numbers.pick(&[1, 3, 7, 1000])).unwrap(),
        only_without_rope: numbers.one_in(2),
    });
    Description {
        config: Config {
            attn_temperature,
            // Bounds the table of factors.
            max_position_embeddings: attn_temperature.and(NonZeroU32::new(2048)),
            ..config
        },
        layers,
        global_rope,
        local_rope,
        tokenizer: None,
        chat_template: None,
    }
}
