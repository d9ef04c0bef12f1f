//! The forward pass as plain as it can be written: f64, whole matrices, no cache, no kernels. It
//! reads a checkpoint through the importer and nothing else of the crate, so a difference from an
//! oracle is the importer's.

use pocketlm::import::{Checkpoint, RopeTable, Tensor};
use pocketlm::model::{Config, LayerKind, MlpVariant, Rope, TensorId, TensorKind};

pub type Matrix = Vec<Vec<f64>>;

/// Reads a tensor as rows of f32.
pub fn read(tensor: &Tensor<'_>) -> Vec<Vec<f32>> {
    let row = |r| {
        let mut row = vec![0.0; tensor.column_count()];
        tensor
            .row(r, &mut row)
            .unwrap_or_else(|error| panic!("{error}"));
        row
    };
    (0..tensor.row_count()).map(row).collect()
}

/// A model read whole.
pub struct Reference<'c> {
    checkpoint: &'c dyn Checkpoint,
    embedder: Matrix,
    head: Matrix,
    final_norm: Vec<f64>,
    layers: Vec<Block>,
}

struct Block {
    pre_attention_norm: Option<Vec<f64>>,
    mixer: Mixer,
    post_attention_norm: Option<Vec<f64>>,
    pre_ffw_norm: Option<Vec<f64>>,
    gating_linear: Linear,
    value_linear: Linear,
    out_linear: Linear,
    post_ffw_norm: Option<Vec<f64>>,
}

enum Mixer {
    Attention(Attention),
    Convolution(Convolution),
}

struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    query_norm: Option<Vec<f64>>,
    key_norm: Option<Vec<f64>>,
    output: Linear,
}

struct Convolution {
    input: Linear,
    /// `[taps][D]`, the oldest first.
    taps: Matrix,
    taps_bias: Option<Vec<f64>>,
    output: Linear,
}

struct Linear {
    rows: Matrix,
    bias: Option<Vec<f64>>,
}

impl<'c> Reference<'c> {
    pub fn new(checkpoint: &'c dyn Checkpoint) -> Self {
        let config = &checkpoint.description().config;
        let matrix = |layer: u32, kind: TensorKind| -> Matrix {
            let tensor = checkpoint
                .tensor(TensorId { layer, kind })
                .unwrap_or_else(|error| panic!("{error}"));
            read(&tensor)
                .into_iter()
                .map(|row| row.into_iter().map(f64::from).collect())
                .collect()
        };
        let vector = |layer, kind| matrix(layer, kind).into_iter().next().unwrap();
        let optional = |on: bool, layer, kind| on.then(|| vector(layer, kind));
        let block = |i| {
            let linear = |kind, bias, on| Linear {
                rows: matrix(i, kind),
                bias: optional(on, i, bias),
            };
            let attention = || Attention {
                query: linear(TensorKind::Query, TensorKind::QueryBias, config.qkv_bias),
                key: linear(TensorKind::Key, TensorKind::KeyBias, config.qkv_bias),
                value: linear(TensorKind::Value, TensorKind::ValueBias, config.qkv_bias),
                query_norm: optional(config.use_qk_norm, i, TensorKind::QueryNorm),
                key_norm: optional(config.use_qk_norm, i, TensorKind::KeyNorm),
                output: linear(
                    TensorKind::Output,
                    TensorKind::OutputBias,
                    config.output_bias,
                ),
            };
            let convolution = || Convolution {
                input: linear(TensorKind::ConvIn, TensorKind::ConvInBias, config.conv_bias),
                taps: vector(i, TensorKind::ConvTaps)
                    .chunks(config.embedding_dim as usize)
                    .map(<[f64]>::to_vec)
                    .collect(),
                taps_bias: optional(config.conv_bias, i, TensorKind::ConvTapsBias),
                output: linear(
                    TensorKind::ConvOut,
                    TensorKind::ConvOutBias,
                    config.conv_bias,
                ),
            };
            Block {
                pre_attention_norm: optional(
                    config.use_pre_attn_norm,
                    i,
                    TensorKind::PreAttentionNorm,
                ),
                mixer: match checkpoint.description().layers[i as usize].kind {
                    LayerKind::Attention => Mixer::Attention(attention()),
                    LayerKind::Convolution => Mixer::Convolution(convolution()),
                },
                post_attention_norm: optional(
                    config.use_post_attn_norm,
                    i,
                    TensorKind::PostAttentionNorm,
                ),
                pre_ffw_norm: optional(config.use_pre_ffw_norm, i, TensorKind::PreFfwNorm),
                gating_linear: linear(
                    TensorKind::GatingLinear,
                    TensorKind::GatingLinearBias,
                    config.mlp_bias,
                ),
                value_linear: linear(
                    TensorKind::ValueLinear,
                    TensorKind::ValueLinearBias,
                    config.mlp_bias,
                ),
                out_linear: linear(
                    TensorKind::OutLinear,
                    TensorKind::OutLinearBias,
                    config.mlp_bias,
                ),
                post_ffw_norm: optional(config.use_post_ffw_norm, i, TensorKind::PostFfwNorm),
            }
        };
        Reference {
            checkpoint,
            embedder: matrix(0, TensorKind::Embedder),
            head: matrix(
                0,
                if config.tie_embedder_and_logits {
                    TensorKind::Embedder
                } else {
                    TensorKind::LmHead
                },
            ),
            final_norm: vector(0, TensorKind::FinalNorm),
            layers: (0..config.num_decoder_blocks).map(block).collect(),
        }
    }

    /// The logits after each of `ids`, at positions 0, 1, 2, …
    pub fn logits(&self, ids: &[u32]) -> Matrix {
        let tokens: Vec<(u32, u32)> = ids.iter().copied().zip(0..).collect();
        self.logits_at(&tokens)
    }

    /// The logits after each of some `(id, position)`, positions rising.
    pub fn logits_at(&self, tokens: &[(u32, u32)]) -> Matrix {
        let config = &self.checkpoint.description().config;
        let eps = f64::from(config.rms_norm_eps);
        let embed = |&(id, _): &(u32, u32)| {
            scaled(&self.embedder[id as usize], config.embedding_scale.into())
        };
        let mut x: Matrix = tokens.iter().map(embed).collect();
        let positions: Vec<u32> = tokens.iter().map(|token| token.1).collect();
        for (i, block) in self.layers.iter().enumerate() {
            let norm = |x: &Vec<f64>, weights: &Option<Vec<f64>>| {
                weights
                    .as_ref()
                    .map_or(x.clone(), |weights| rms_norm(x, weights, eps))
            };
            let normed: Matrix = x
                .iter()
                .map(|x| norm(x, &block.pre_attention_norm))
                .collect();
            let mixed = match &block.mixer {
                Mixer::Attention(attention) => self.attention(i, attention, &normed, &positions),
                Mixer::Convolution(convolution) => convolution.apply(&normed, &positions),
            };
            for (x, mut mixed) in x.iter_mut().zip(mixed) {
                if let Some(weights) = &block.post_attention_norm {
                    mixed = rms_norm(&mixed, weights, eps);
                }
                add(x, &mixed);
                let mut ffw = block.feed_forward(config.mlp_variant, &norm(x, &block.pre_ffw_norm));
                if let Some(weights) = &block.post_ffw_norm {
                    ffw = rms_norm(&ffw, weights, eps);
                }
                add(x, &ffw);
            }
        }
        let head = |x: &Vec<f64>| {
            let x = rms_norm(x, &self.final_norm, eps);
            self.head
                .iter()
                .map(|row| soft_cap(dot(row, &x), config.final_logit_softcap))
                .collect()
        };
        x.iter().map(head).collect()
    }

    fn attention(
        &self,
        layer: usize,
        block: &Attention,
        inputs: &Matrix,
        positions: &[u32],
    ) -> Matrix {
        let description = self.checkpoint.description();
        let config = &description.config;
        let kind = description.layers[layer];
        let head_dim = config.projection_dim as usize;
        let table = match kind.rope {
            Rope::None => None,
            Rope::Global => Some(&description.global_rope),
            Rope::Local => Some(description.local_rope.as_ref().unwrap()),
        };
        let heads = |x: &Vec<f64>, position, linear: &Linear, norm: &Option<Vec<f64>>| -> Matrix {
            let norm = norm
                .as_ref()
                .filter(|_| table.is_some() || !config.qk_norm_only_with_rope);
            let normed = |head: Vec<f64>| {
                let norm = norm.filter(|_| !config.qk_norm_across_heads);
                norm.map_or(head.clone(), |w| {
                    rms_norm(&head, w, config.rms_norm_eps.into())
                })
            };
            let turned = |head: Vec<f64>| {
                table.map_or(head.clone(), |table| rotated(&head, table, position))
            };
            let head = |head: &[f64]| {
                if config.qk_norm_after_rope {
                    normed(turned(head.to_vec()))
                } else {
                    turned(normed(head.to_vec()))
                }
            };
            let mut all = linear.apply(x);
            if let Some(weights) = norm.filter(|_| config.qk_norm_across_heads) {
                all = rms_norm(&all, weights, config.rms_norm_eps.into());
            }
            all.chunks(head_dim).map(head).collect()
        };
        let with_positions = || inputs.iter().zip(positions.iter().copied());
        let queries: Vec<_> = with_positions()
            .map(|(x, p)| heads(x, p, &block.query, &block.query_norm))
            .collect();
        let keys: Vec<_> = with_positions()
            .map(|(x, p)| heads(x, p, &block.key, &block.key_norm))
            .collect();
        let values: Vec<_> = inputs.iter().map(|x| block.value.apply(x)).collect();
        let attend = |(queries, &p): (&Matrix, &u32)| {
            let visible = |r: &usize| {
                positions[*r] <= p
                    && kind
                        .window
                        .is_none_or(|window| p - positions[*r] < window.get())
            };
            let visible: Vec<usize> = (0..positions.len()).filter(visible).collect();
            let mut mixed = Vec::new();
            for (h, query) in queries.iter().enumerate() {
                let kv = h / config.query_head_multiplier as usize;
                let query = scaled(query, config.query_scaling_factor.into());
                let query = scaled(&query, temperature(config, kind.rope, p));
                let score =
                    |&r: &usize| soft_cap(dot(&query, &keys[r][kv]), config.attn_logits_soft_cap);
                let weights = softmax(&visible.iter().map(score).collect::<Vec<_>>());
                let mut head = vec![0.0; head_dim];
                for (r, weight) in visible.iter().zip(weights) {
                    add(
                        &mut head,
                        &scaled(&values[*r][kv * head_dim..][..head_dim], weight),
                    );
                }
                mixed.extend(head);
            }
            block.output.apply(&mixed)
        };
        queries.iter().zip(positions).map(attend).collect()
    }
}

impl Convolution {
    fn apply(&self, inputs: &Matrix, positions: &[u32]) -> Matrix {
        let width = inputs.first().map_or(0, Vec::len);
        let parts: Matrix = inputs.iter().map(|x| self.input.apply(x)).collect();
        let product =
            |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a * b).collect() };
        let kept = |part: &Vec<f64>| product(&part[..width], &part[2 * width..]);
        let kept: Matrix = parts.iter().map(kept).collect();
        let output = |(part, &position): (&Vec<f64>, &u32)| {
            let mut y = self.taps_bias.clone().unwrap_or(vec![0.0; width]);
            for (kept, &other) in kept.iter().zip(positions).filter(|(_, p)| **p <= position) {
                let back = (position - other) as usize;
                if back < self.taps.len() {
                    add(
                        &mut y,
                        &product(&self.taps[self.taps.len() - 1 - back], kept),
                    );
                }
            }
            self.output.apply(&product(&y, &part[width..2 * width]))
        };
        parts.iter().zip(positions).map(output).collect()
    }
}

impl Block {
    fn feed_forward(&self, variant: MlpVariant, x: &[f64]) -> Vec<f64> {
        let act = |a: f64| match variant {
            MlpVariant::Swiglu => a / (1.0 + (-a).exp()),
            MlpVariant::GegluExact => 0.5 * a * libm::erfc(-a / 2f64.sqrt()),
            MlpVariant::GegluApprox => {
                0.5 * a
                    * (1.0
                        + ((2.0 / std::f64::consts::PI).sqrt() * (a + 0.044715 * a.powi(3))).tanh())
            }
        };
        let gate = self.gating_linear.apply(x);
        let value = self.value_linear.apply(x);
        self.out_linear.apply(
            &gate
                .iter()
                .zip(value)
                .map(|(&gate, value)| act(gate) * value)
                .collect::<Vec<_>>(),
        )
    }
}

impl Linear {
    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let mut y: Vec<f64> = self.rows.iter().map(|row| dot(row, x)).collect();
        if let Some(bias) = &self.bias {
            add(&mut y, bias);
        }
        y
    }
}

/// What the query of a position is multiplied by on top of the config's factor.
fn temperature(config: &Config, rope: Rope, position: u32) -> f64 {
    let Some(temperature) = config.attn_temperature else {
        return 1.0;
    };
    let first = if temperature.only_without_rope { 1 } else { 0 };
    if first == 1 && rope != Rope::None {
        return 1.0;
    }
    let positions = config.max_position_embeddings.map_or(1 << 17, |n| n.get());
    let last = (positions / temperature.length) | 1;
    let steps = ((position + first) / temperature.length).min(last);
    1.0 + f64::from(temperature.scale) * (1.0 + f64::from(steps)).ln()
}

fn rotated(x: &[f64], table: &RopeTable, position: u32) -> Vec<f64> {
    let half = x.len() / 2;
    assert_eq!(table.frequencies.len(), half);
    let mut y = x.to_vec();
    for j in 0..half {
        let (sin, cos) = (f64::from(position) * table.frequencies[j]).sin_cos();
        let sin = sin * f64::from(table.amplitude);
        let cos = cos * f64::from(table.amplitude);
        (y[j], y[j + half]) = (
            x[j] * cos - x[j + half] * sin,
            x[j + half] * cos + x[j] * sin,
        );
    }
    y
}

fn rms_norm(x: &[f64], weights: &[f64], eps: f64) -> Vec<f64> {
    let mean = dot(x, x) / x.len() as f64;
    x.iter()
        .zip(weights)
        .map(|(x, w)| x / (mean + eps).sqrt() * w)
        .collect()
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    scaled(&exps, 1.0 / exps.iter().sum::<f64>())
}

fn soft_cap(x: f64, cap: Option<f32>) -> f64 {
    cap.map(f64::from).map_or(x, |cap| cap * (x / cap).tanh())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    assert_eq!(x.len(), y.len());
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn scaled(x: &[f64], by: f64) -> Vec<f64> {
    x.iter().map(|x| x * by).collect()
}
