//! The forward pass a second time, for its bits: slow, simple, without batches, buffers, rings,
//! tiles or threads. It is written from the docs: the image format (`src/model/image.rs`), from
//! which it reads the weights byte by byte, and the contract of the kernels crate, whose scalar
//! functions are all it shares with the runtime.

use std::num::NonZeroU32;

use pocketlm::model::{
    Config, DType, Kv, Layer, LayerKind, MlpVariant, Model, Rope, TensorId, TensorKind,
};
use pocketlm_kernels::math::{
    bf16_from_f32, bf16_to_f32, exp, f16_from_f32, f16_to_f32, gelu_approx, gelu_exact, silu,
    sin_cos_turns, soft_cap, sqrt,
};

/// A model and its context so far.
pub struct BitExact<'m> {
    config: Config,
    layers: Vec<Layer>,
    kv: Kv,
    image: &'m [u8],
    model: Model<'m>,
    /// `[layer][token]`.
    cache: Vec<Vec<Kept>>,
}

/// What a layer keeps of a token.
#[derive(Clone)]
struct Kept {
    position: u32,
    /// Those of all heads, one after the other; empty in a convolution.
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Numbers as a dot product of integers takes them: groups of values with their scale.
type Groups = Vec<([i32; 32], f32)>;

impl<'m> BitExact<'m> {
    pub fn new(image: &'m [u8], kv: Kv) -> Self {
        let model = Model::open(image).unwrap();
        let layers: Vec<_> = model.layers().iter().collect();
        BitExact {
            config: *model.config(),
            cache: vec![Vec::new(); layers.len()],
            layers,
            kv,
            image,
            model,
        }
    }

    /// The logits after one more token.
    pub fn feed(&mut self, id: u32, position: u32) -> Vec<f32> {
        let config = self.config;
        let mut hidden: Vec<f32> = self
            .embedding(id as usize)
            .iter()
            .map(|x| x * config.embedding_scale)
            .collect();
        for layer in 0..self.layers.len() as u32 {
            let normed = if config.use_pre_attn_norm {
                self.norm(&hidden, layer, TensorKind::PreAttentionNorm)
            } else {
                hidden.clone()
            };
            let mut branch = match self.layers[layer as usize].kind {
                LayerKind::Attention => self.attention(layer, &normed, position),
                LayerKind::Convolution => self.convolution(layer, &normed, position),
            };
            // A layer has one of them at most.
            add(&mut branch, &self.vector(layer, TensorKind::OutputBias));
            add(&mut branch, &self.vector(layer, TensorKind::ConvOutBias));
            if config.use_post_attn_norm {
                branch = self.norm(&branch, layer, TensorKind::PostAttentionNorm);
            }
            add(&mut hidden, &branch);

            let normed = if config.use_pre_ffw_norm {
                self.norm(&hidden, layer, TensorKind::PreFfwNorm)
            } else {
                hidden.clone()
            };
            let mut gate = self.product(layer, TensorKind::GatingLinear, &normed);
            let mut value = self.product(layer, TensorKind::ValueLinear, &normed);
            add(&mut gate, &self.vector(layer, TensorKind::GatingLinearBias));
            add(&mut value, &self.vector(layer, TensorKind::ValueLinearBias));
            for (gate, value) in gate.iter_mut().zip(value) {
                *gate = value
                    * match config.mlp_variant {
                        MlpVariant::GegluExact => gelu_exact(*gate),
                        MlpVariant::GegluApprox => gelu_approx(*gate),
                        MlpVariant::Swiglu => silu(*gate),
                    };
            }
            let mut branch = self.product(layer, TensorKind::OutLinear, &gate);
            add(&mut branch, &self.vector(layer, TensorKind::OutLinearBias));
            if config.use_post_ffw_norm {
                branch = self.norm(&branch, layer, TensorKind::PostFfwNorm);
            }
            add(&mut hidden, &branch);
        }
        let normed = self.norm(&hidden, 0, TensorKind::FinalNorm);
        let head = if config.tie_embedder_and_logits {
            TensorKind::Embedder
        } else {
            TensorKind::LmHead
        };
        let logits = self.product(0, head, &normed);
        logits
            .into_iter()
            .map(|z| config.final_logit_softcap.map_or(z, |cap| soft_cap(z, cap)))
            .collect()
    }

    fn attention(&mut self, layer: u32, normed: &[f32], position: u32) -> Vec<f32> {
        let config = self.config;
        let kind = self.layers[layer as usize];
        let width = config.projection_dim as usize;
        let heads = |matrix, bias, norm: Option<TensorKind>| {
            let mut all = self.product(layer, matrix, normed);
            add(&mut all, &self.vector(layer, bias));
            let is_normed =
                config.use_qk_norm && !(config.qk_norm_only_with_rope && kind.rope == Rope::None);
            if let Some(norm) = norm.filter(|_| is_normed && config.qk_norm_across_heads) {
                all = self.norm(&all, layer, norm);
            }
            let head = |head: &[f32]| {
                let mut head = head.to_vec();
                let Some(norm) = norm else {
                    return head;
                };
                if config.qk_norm_after_rope {
                    self.turn(&mut head, kind.rope, position);
                }
                if is_normed && !config.qk_norm_across_heads {
                    head = self.norm(&head, layer, norm);
                }
                if !config.qk_norm_after_rope {
                    self.turn(&mut head, kind.rope, position);
                }
                head
            };
            all.chunks(width).map(head).collect::<Vec<_>>()
        };
        let mut queries = heads(
            TensorKind::Query,
            TensorKind::QueryBias,
            Some(TensorKind::QueryNorm),
        );
        let keys = heads(
            TensorKind::Key,
            TensorKind::KeyBias,
            Some(TensorKind::KeyNorm),
        );
        let values = heads(TensorKind::Value, TensorKind::ValueBias, None);
        for query in queries.iter_mut().flatten() {
            *query *= config.query_scaling_factor;
            *query *= temperature(&config, kind.rope, position);
        }
        self.cache[layer as usize].push(Kept {
            position,
            keys: keys.concat(),
            values: values.concat(),
        });

        let seen = self.cache[layer as usize].iter();
        let seen: Vec<_> = seen
            .filter(|kept| {
                kind.window
                    .is_none_or(|w| position - kept.position < w.get())
            })
            .collect();
        let mut attended = Vec::new();
        for (index, query) in queries.iter().enumerate() {
            let kv_head = index / config.query_head_multiplier as usize * width;
            let scores: Vec<f32> = seen
                .iter()
                .map(|kept| {
                    let score = self.score(query, &kept.keys[kv_head..][..width]);
                    config
                        .attn_logits_soft_cap
                        .map_or(score, |cap| soft_cap(score, cap))
                })
                .collect();
            let largest = scores
                .iter()
                .fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
            let weights: Vec<f32> = scores.iter().map(|score| exp(score - largest)).collect();
            let normalizer = 1.0 / striped_sum(&weights);
            let mut out = vec![0.0f32; width];
            for (kept, weight) in seen.iter().zip(weights) {
                self.weighted_sum(&kept.values[kv_head..][..width], weight, &mut out);
            }
            attended.extend(out.iter().map(|x| x * normalizer));
        }
        self.product(layer, TensorKind::Output, &attended)
    }

    fn convolution(&mut self, layer: u32, normed: &[f32], position: u32) -> Vec<f32> {
        let mut parts = self.product(layer, TensorKind::ConvIn, normed);
        add(&mut parts, &self.vector(layer, TensorKind::ConvInBias));
        let width = normed.len();
        let [b, c, x] = [0, 1, 2].map(|part| &parts[part * width..][..width]);
        self.cache[layer as usize].push(Kept {
            position,
            keys: Vec::new(),
            values: b.iter().zip(x).map(|(b, x)| b * x).collect(),
        });
        let count = self.layers[layer as usize].window.unwrap().get();
        let taps = self.vector(layer, TensorKind::ConvTaps);
        let mut y = vec![0.0f32; width];
        for tap in 0..count {
            let back = count - 1 - tap;
            let mut kept = self.cache[layer as usize].iter();
            let Some(kept) = kept.find(|kept| kept.position + back == position) else {
                continue;
            };
            for (channel, y) in y.iter_mut().enumerate() {
                *y += taps[tap as usize * width + channel] * kept.values[channel];
            }
        }
        add(&mut y, &self.vector(layer, TensorKind::ConvTapsBias));
        let gated: Vec<f32> = y.iter().zip(c).map(|(y, c)| y * c).collect();
        self.product(layer, TensorKind::ConvOut, &gated)
    }

    fn score(&self, query: &[f32], key: &[f32]) -> f32 {
        let mut sum = 0.0;
        if self.kv == Kv::Q8 {
            for ((q, q_scale), group) in groups(query).iter().zip(key.chunks(32)) {
                let (k, k_scale) = q8(group);
                let dot: i32 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                sum += dot as f32 * (k_scale * q_scale);
            }
        } else {
            for (q, k) in query.iter().zip(key) {
                sum += q * self.rounded(*k);
            }
        }
        sum
    }

    fn weighted_sum(&self, value: &[f32], weight: f32, out: &mut [f32]) {
        if self.kv == Kv::Q8 {
            for (out, group) in out.chunks_mut(32).zip(value.chunks(32)) {
                let (values, scale) = q8(group);
                for (out, value) in out.iter_mut().zip(values) {
                    *out += value as f32 * (weight * scale);
                }
            }
        } else {
            for (out, value) in out.iter_mut().zip(value) {
                *out += weight * self.rounded(*value);
            }
        }
    }

    /// A key or value as the cache keeps it.
    fn rounded(&self, x: f32) -> f32 {
        match self.kv {
            Kv::F32 => x,
            Kv::F16 => f16_to_f32(f16_from_f32(x)),
            Kv::Bf16 => bf16_to_f32(bf16_from_f32(x)),
            Kv::Q8 => unreachable!("kept in groups"),
        }
    }

    /// Rotates a head: table `rope` of the rope section, whose first word is the amplitude.
    fn turn(&self, head: &mut [f32], rope: Rope, position: u32) {
        if rope == Rope::None {
            return;
        }
        let half = head.len() / 2;
        let has_global = self.layers.iter().any(|layer| layer.rope == Rope::Global);
        let table = if rope == Rope::Local && has_global {
            1
        } else {
            0
        };
        let table = &self.section(2)[table * 8 * (1 + half)..];
        let word = |j: usize| u64::from_le_bytes(table[8 * j..][..8].try_into().unwrap());
        let amplitude = f32::from_bits(word(0) as u32);
        for j in 0..half {
            let (sin, cos) = sin_cos_turns(word(1 + j).wrapping_mul(u64::from(position)));
            let sin = sin * amplitude;
            let cos = cos * amplitude;
            let x = head[j];
            let y = head[j + half];
            (head[j], head[j + half]) = (x * cos - y * sin, y * cos + x * sin);
        }
    }

    fn norm(&self, x: &[f32], layer: u32, kind: TensorKind) -> Vec<f32> {
        let squares: Vec<f32> = x.iter().map(|x| x * x).collect();
        let factor = 1.0 / sqrt(striped_sum(&squares) / x.len() as f32 + self.config.rms_norm_eps);
        x.iter()
            .zip(self.vector(layer, kind))
            .map(|(x, weight)| x * factor * weight)
            .collect()
    }

    fn product(&self, layer: u32, kind: TensorKind, x: &[f32]) -> Vec<f32> {
        let (dtype, rows, columns) = self.model.tensor_type(TensorId { layer, kind }).unwrap();
        let data = self.tensor(layer, kind).unwrap();
        assert_eq!(x.len(), columns);
        let groups = groups(x);
        let output = |row: usize| {
            let mut sum = 0.0;
            if !dtype.is_quantized() {
                for (column, x) in x.iter().enumerate() {
                    sum += float(dtype, data, columns, row, column) * x;
                }
                return sum;
            }
            for (g, (x, x_scale)) in groups.iter().enumerate() {
                let (weights, scale, minimum) = group(dtype, data, groups.len(), row, g);
                let dot: i32 = weights.iter().zip(x).map(|(w, x)| w * x).sum();
                sum += dot as f32 * (scale * x_scale);
                if let Some(minimum) = minimum {
                    sum += x.iter().sum::<i32>() as f32 * (minimum * x_scale);
                }
            }
            sum
        };
        (0..rows).map(output).collect()
    }

    fn embedding(&self, row: usize) -> Vec<f32> {
        let (dtype, _, columns) = self
            .model
            .tensor_type(TensorId {
                layer: 0,
                kind: TensorKind::Embedder,
            })
            .unwrap();
        let data = self.tensor(0, TensorKind::Embedder).unwrap();
        let weight = |column| {
            if !dtype.is_quantized() {
                return float(dtype, data, columns, row, column);
            }
            let (weights, scale, minimum) =
                group(dtype, data, columns.div_ceil(32), row, column / 32);
            let product = weights[column % 32] as f32 * scale;
            minimum.map_or(product, |minimum| product + minimum)
        };
        (0..columns).map(weight).collect()
    }

    /// A vector; empty if the model has none.
    fn vector(&self, layer: u32, kind: TensorKind) -> Vec<f32> {
        let Some((_, _, columns)) = self.model.tensor_type(TensorId { layer, kind }) else {
            return Vec::new();
        };
        let Some(data) = self.tensor(layer, kind) else {
            return Vec::new();
        };
        let data = &data[..4 * columns];
        data.chunks(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect()
    }

    /// The weights from this tensor on, found through the tensors section.
    fn tensor(&self, layer: u32, kind: TensorKind) -> Option<&'m [u8]> {
        let entries = self.section(3).chunks(16);
        let mut entries = entries.filter(|e| e[0] == kind as u8 && e[4..8] == layer.to_le_bytes());
        let offset = u64::from_le_bytes(entries.next()?[8..].try_into().unwrap());
        Some(&self.section(4)[offset as usize..])
    }

    fn section(&self, index: usize) -> &'m [u8] {
        let word =
            |at: usize| u64::from_le_bytes(self.image[at..at + 8].try_into().unwrap()) as usize;
        &self.image[word(32 + 24 * index)..][..word(40 + 24 * index)]
    }
}

fn half(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

/// A weight of a float matrix.
fn float(dtype: DType, data: &[u8], columns: usize, row: usize, column: usize) -> f32 {
    let index = (row / 8 * columns + column) * 8 + row % 8;
    match dtype {
        DType::F32 => f32::from_le_bytes(data[4 * index..][..4].try_into().unwrap()),
        DType::F16 => f16_to_f32(half(&data[2 * index..])),
        _ => bf16_to_f32(half(&data[2 * index..])),
    }
}

/// 32 weights of a quantised matrix, as integers, with their scale and minimum.
fn group(
    dtype: DType,
    data: &[u8],
    groups: usize,
    row: usize,
    index: usize,
) -> ([i32; 32], f32, Option<f32>) {
    // The bytes of a tile row's header and of a tile's scales and minima, and the bits that each
    // plane of a tile holds.
    let (header, scales, planes): (_, _, &[usize]) = match dtype {
        DType::Q8 => (0, 16, &[8]),
        DType::Q6 => (0, 16, &[4, 2]),
        DType::Q5 => (0, 16, &[4, 1]),
        DType::Q4 => (0, 16, &[4]),
        DType::Nl4 => (16, 8, &[4]),
        DType::Nl3 => (16, 8, &[2, 1]),
        _ => (0, 32, &[4]),
    };
    let bytes = scales + 32 * planes.iter().sum::<usize>();
    let tile_row = &data[row / 8 * (header + groups * bytes)..];
    let tile = &tile_row[header + index * bytes..][..bytes];
    let lane = row % 8;
    let code = |c: usize| {
        let mut start = scales;
        let mut width = 0;
        let mut code = 0;
        for bits in planes {
            let byte = tile[start + c / 4 * bits / 8 * 32 + lane * 4 + c % 4] as usize;
            code |= (byte >> (c / 4 * bits % 8) & ((1 << bits) - 1)) << width;
            width += bits;
            start += 32 * bits;
        }
        code
    };
    let weights = std::array::from_fn(|c| match dtype {
        DType::Q8 => code(c) as i8 as i32,
        DType::Q6 => code(c) as i32 - 32,
        DType::Q5 => code(c) as i32 - 16,
        DType::Q4 => code(c) as i32 - 8,
        DType::Nl4 | DType::Nl3 => dtype.levels()[code(c)] as i32,
        _ => code(c) as i32,
    });
    let minimum = (dtype == DType::Q4Min).then(|| f16_to_f32(half(&tile[16 + 2 * lane..])));
    let scale = match dtype {
        DType::Nl4 | DType::Nl3 => {
            tile[lane] as i8 as f32 * bf16_to_f32(half(&tile_row[2 * lane..]))
        }
        _ => f16_to_f32(half(&tile[2 * lane..])),
    };
    (weights, scale, minimum)
}

/// The input of an integer product: the largest magnitude of 32 becomes 32767.
fn groups(x: &[f32]) -> Groups {
    let group = |x: &[f32]| {
        let largest = x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let mut values = [0; 32];
        if largest < 1e-30 {
            return (values, 0.0);
        }
        for (value, x) in values.iter_mut().zip(x) {
            *value = (x * (32767.0 / largest)).round_ties_even() as i32;
        }
        (values, largest / 32767.0)
    };
    x.chunks(32).map(group).collect()
}

/// Up to 32 keys or values as the q8 cache keeps them.
fn q8(x: &[f32]) -> ([i32; 32], f32) {
    let largest = x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    let scale = f16_to_f32(f16_from_f32(largest / 127.0));
    let mut values = [0; 32];
    if scale > 0.0 {
        for (value, x) in values.iter_mut().zip(x) {
            *value = (x / scale).clamp(-127.0, 127.0).round_ties_even() as i32;
        }
    }
    (values, scale)
}

/// Element `i` goes to stripe `i mod 8`, the stripes are joined by a tree.
fn striped_sum(x: &[f32]) -> f32 {
    let mut s = [0.0f32; 8];
    for (i, x) in x.iter().enumerate() {
        s[i % 8] += x;
    }
    ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// An image holds an even number of factors, and those beyond are the last.
fn last_step(config: &Config) -> u32 {
    let positions = config
        .max_position_embeddings
        .map_or(1 << 17, NonZeroU32::get);
    config
        .attn_temperature
        .map_or(0, |temperature| positions / temperature.length)
        | 1
}

/// What the query of a position is multiplied by on top of the config's factor.
fn temperature(config: &Config, rope: Rope, position: u32) -> f32 {
    let Some(temperature) = config.attn_temperature else {
        return 1.0;
    };
    if temperature.only_without_rope && rope != Rope::None {
        return 1.0;
    }
    let steps = (position + u32::from(temperature.only_without_rope)) / temperature.length.get();
    let steps = steps.min(last_step(config));
    (1.0 + f64::from(temperature.scale) * libm::log(f64::from(steps) + 1.0)) as f32
}
