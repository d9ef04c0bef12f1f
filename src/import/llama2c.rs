//! llama2.c's `.bin` files, as its `export.py` writes them: version 0 (f32, without a magic
//! number), 1 (f32) and 2 (8 bits).
//!
//! ```text
//! 0:    i32 dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len;
//!       vocab_size < 0: not tied
//!       embedder, per layer stacked: attention norms, wq, wk, wv, wo, ffn norms, w1, w2, w3;
//!       final norm, cosines and sines (not read), the output matrix if not tied
//! 1, 2: "24ka" (0x616b3432), i32 version, the same seven numbers, u8 tied,
//!       in version 2: i32 group; zeros up to byte 256
//!       attention norms, ffn norms, final norm, embedder, wq of all layers, wk, wv, wo, w1, w2,
//!       w3, the output matrix if not tied
//! ```
//! In version 2 a matrix is its 8-bit values, followed by an f32 scale for each group of them.
//! [`Element`] has no such type (the scales of Q8_0 are f16), so it is read as f32. Constants that
//! the format does not store are those of `run.c`: epsilon 1e-5, rotary base 10000, SwiGLU. The two
//! channels of a rotary pair are adjacent rows of a query or key matrix, as in Meta's own files.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::prelude::rust_2024::*;

use super::file::{self, MappedFile};
use super::rope::{self, Pairing};
use super::tokenizer::from_llama2c;
use super::{Checkpoint, Columns, Description, Element, ImportError, RopeTable, Tensor, heads_fit};
use crate::model::{Config, DType, Layer, Rope, TensorId, TensorKind};

const MAGIC: u32 = 0x616b_3432;
/// Bytes of the header of versions 1 and 2.
const HEADER: usize = 256;
/// Bytes of the header of version 0.
const OLD_HEADER: usize = 28;
const ROPE_BASE: f64 = 10_000.0;

/// The order of the tensors in versions 1 and 2.
const ORDER: [TensorKind; 12] = [
    TensorKind::PreAttentionNorm,
    TensorKind::PreFfwNorm,
    TensorKind::FinalNorm,
    TensorKind::Embedder,
    TensorKind::Query,
    TensorKind::Key,
    TensorKind::Value,
    TensorKind::Output,
    TensorKind::GatingLinear,
    TensorKind::OutLinear,
    TensorKind::ValueLinear,
    TensorKind::LmHead,
];
/// The same in version 0.
const OLD_ORDER: [TensorKind; 12] = [
    TensorKind::Embedder,
    TensorKind::PreAttentionNorm,
    TensorKind::Query,
    TensorKind::Key,
    TensorKind::Value,
    TensorKind::Output,
    TensorKind::PreFfwNorm,
    TensorKind::GatingLinear,
    TensorKind::OutLinear,
    TensorKind::ValueLinear,
    TensorKind::FinalNorm,
    TensorKind::LmHead,
];

/// Whether the file begins as a llama2.c checkpoint does. Version 0 has no magic number; it is
/// recognised by being exactly as long as its seven numbers say.
pub fn looks_like(path: &Path) -> bool {
    let mut start = [0; 48];
    let header = Llama2cHeader::read(file::start(path, &mut start));
    header.is_ok_and(|header| {
        let is_its_length = |end: usize| path.metadata().is_ok_and(|file| file.len() == end as u64);
        header.version != 0
            || header
                .layout()
                .is_ok_and(|layout| is_its_length(layout.end))
    })
}

/// Opens a checkpoint, with the tokenizer beside it if there is one: see [`tokenizer_beside`].
///
/// # Errors
/// The file cannot be read, or is not exactly as long as its header says; the header cannot
/// describe a model; or the tokenizer has another number of tokens.
pub fn open(path: &Path) -> Result<impl Checkpoint + use<>, ImportError> {
    Model::open(path).map_err(|error| error.in_file(path))
}

/// The tokenizer file that belongs to a checkpoint: `tokenizer.bin` beside it, else the only
/// `tok*.bin` there is.
pub fn tokenizer_beside(path: &Path) -> Option<PathBuf> {
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let usual = folder.join("tokenizer.bin");
    if usual.is_file() {
        return Some(usual);
    }
    let is_tokenizer = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("tok") && name.ends_with(".bin") && path.is_file()
    };
    let mut found = folder
        .read_dir()
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(is_tokenizer);
    found.next().filter(|_| found.next().is_none())
}

/// The numbers at the start of a file.
#[derive(Clone, Copy, Debug)]
struct Llama2cHeader {
    version: u32,
    dim: u32,
    hidden_dim: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    vocab: u32,
    seq_len: u32,
    tied: bool,
    /// How many elements share a scale; version 2 only.
    group: u32,
}

impl Llama2cHeader {
    fn read(file: &[u8]) -> Result<Self, ImportError> {
        let Some((numbers, _)) = file.split_at_checked(OLD_HEADER) else {
            return Err(ImportError::new(format!(
                "{} bytes, too short for a llama2.c checkpoint",
                file.len()
            )));
        };
        let magic = numbers[..4] == MAGIC.to_le_bytes();
        let (version, start) = if magic { (int(file, 4)?, 8) } else { (0, 0) };
        if !(0..=2).contains(&version) || magic && version == 0 {
            return Err(ImportError::new(format!(
                "llama2.c checkpoint version {version}, expected 1 or 2"
            )));
        }
        let number = |i: usize, name: &str| {
            let value = int(file, start + 4 * i)?;
            above_zero(value, name, magic)
        };
        let vocab = int(file, start + 20)?;
        let tied = if magic { is_shared(file)? } else { vocab > 0 };
        let header = Llama2cHeader {
            version: version as u32,
            dim: number(0, "dim")?,
            hidden_dim: number(1, "hidden_dim")?,
            layers: number(2, "n_layers")?,
            heads: number(3, "n_heads")?,
            kv_heads: number(4, "n_kv_heads")?,
            vocab: if magic {
                number(5, "vocab_size")?
            } else {
                vocab.unsigned_abs()
            },
            seq_len: number(6, "seq_len")?,
            tied,
            group: match version {
                2 => u32::try_from(int(file, 37)?).unwrap_or(0),
                _ => 1,
            },
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), ImportError> {
        let Llama2cHeader {
            dim,
            heads,
            kv_heads,
            ..
        } = *self;
        let reason = if self.vocab == 0 {
            "vocab_size is 0".into()
        } else if !dim.is_multiple_of(heads) || !(dim / heads).is_multiple_of(2) {
            format!("dim is {dim}, expected an even number of channels for each of {heads} heads")
        } else if !heads.is_multiple_of(kv_heads) {
            format!("n_heads is {heads}, not a multiple of n_kv_heads, {kv_heads}")
        } else if self.group == 0 {
            "the group size is not above 0".into()
        } else {
            return Ok(());
        };
        Err(ImportError::new(reason))
    }

    /// Rows and columns of the tensor of a kind; a vector is one row.
    fn shape(&self, kind: TensorKind) -> (u64, u64) {
        let dim = self.dim.into();
        let hidden = self.hidden_dim.into();
        let vocab = self.vocab.into();
        match kind {
            TensorKind::Embedder | TensorKind::LmHead => (vocab, dim),
            TensorKind::Key | TensorKind::Value => (
                u64::from(self.kv_heads) * u64::from(self.dim / self.heads),
                dim,
            ),
            TensorKind::GatingLinear | TensorKind::ValueLinear => (hidden, dim),
            TensorKind::OutLinear => (dim, hidden),
            TensorKind::PreAttentionNorm | TensorKind::PreFfwNorm | TensorKind::FinalNorm => {
                (1, dim)
            }
            _ => (dim, dim),
        }
    }

    /// Where everything is, computed from the header.
    fn layout(&self) -> Result<Layout, ImportError> {
        let (order, mut at) = if self.version == 0 {
            (OLD_ORDER, OLD_HEADER)
        } else {
            (ORDER, HEADER)
        };
        let mut stacks = Vec::new();
        for kind in order {
            let is_head = kind == TensorKind::LmHead;
            if is_head && self.version == 0 {
                // Skips cosines and sines; newer versions of `run.c` compute them.
                let head_dim = u64::from(self.dim / self.heads);
                at = self.advance(at, u64::from(self.seq_len) * head_dim * 4)?;
            }
            if is_head && self.tied {
                continue;
            }
            let stack = self.stack(kind, at)?;
            at = stack.bytes.end;
            stacks.push(stack);
        }
        Ok(Layout { stacks, end: at })
    }

    /// The tensors of a kind, which begin at byte `start`.
    fn stack(&self, kind: TensorKind, start: usize) -> Result<Stack, ImportError> {
        use TensorKind::*;
        let (rows, columns) = self.shape(kind);
        // Nothing here overflows: the numbers have 31 bits.
        let elements = rows * columns;
        let quantised =
            self.version == 2 && !matches!(kind, PreAttentionNorm | PreFfwNorm | FinalNorm);
        let group = self.group;
        if quantised && !elements.is_multiple_of(group.into()) {
            let reason = format!("a matrix of {rows} x {columns} is not made of groups of {group}");
            return Err(ImportError::new(reason));
        }
        let each = if quantised {
            elements.checked_add(elements / u64::from(group) * 4)
        } else {
            elements.checked_mul(4)
        };
        let count = if matches!(kind, Embedder | LmHead | FinalNorm) {
            1
        } else {
            self.layers
        };
        let bytes = each.and_then(|each| each.checked_mul(count.into()));
        let end = self.advance(start, bytes.unwrap_or(u64::MAX))?;
        Ok(Stack {
            kind,
            bytes: start..end,
            each: (end - start) / count as usize,
            quantised,
        })
    }

    fn advance(&self, at: usize, bytes: u64) -> Result<usize, ImportError> {
        let end = usize::try_from(bytes)
            .ok()
            .and_then(|bytes| at.checked_add(bytes));
        end.ok_or_else(|| ImportError::new("the header describes a model larger than any memory"))
    }

    fn config(&self) -> Config {
        let head = self.dim / self.heads;
        Config {
            num_kv_heads: self.kv_heads,
            query_head_multiplier: self.heads / self.kv_heads,
            embedding_dim: self.dim,
            projection_dim: head,
            mlp_hidden_dim: self.hidden_dim,
            num_decoder_blocks: self.layers,
            vocab_size: self.vocab,
            tie_embedder_and_logits: self.tied,
            rope_wavelength: ROPE_BASE as f32,
            query_scaling_factor: (1.0 / libm::sqrt(f64::from(head))) as f32,
            parameter_dtype: if self.version == 2 {
                DType::Q8
            } else {
                DType::F32
            },
            max_position_embeddings: NonZeroU32::new(self.seq_len),
            ..Config::PLAIN
        }
    }
}

/// The number at byte `at` of the header.
fn int(file: &[u8], at: usize) -> Result<i32, ImportError> {
    let bytes = file.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(i32::from_le_bytes)
        .ok_or_else(|| ImportError::new("cut short within the header"))
}

/// Checks a number of the header; `magic` is whether the file begins with the magic number.
fn above_zero(value: i32, name: &str, magic: bool) -> Result<u32, ImportError> {
    let number = u32::try_from(value).ok().filter(|&value| value > 0);
    number.ok_or_else(|| {
        let reason = format!("{name} is {value}, expected a number above 0");
        ImportError::new(reason).help(if magic {
            "the file is damaged: download it again"
        } else {
            "perhaps this is not a llama2.c file: version 0 has no magic number that tells"
        })
    })
}

/// Whether the output matrix is the embedding table, in versions 1 and 2.
fn is_shared(file: &[u8]) -> Result<bool, ImportError> {
    match file.get(36) {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(ImportError::new(
            "byte 36: whether the classifier is shared must be 0 or 1",
        )),
    }
}

/// The tensors of one kind, layer after layer.
#[derive(Debug)]
struct Stack {
    kind: TensorKind,
    bytes: Range<usize>,
    /// Bytes of one layer's.
    each: usize,
    /// True: 8-bit values, then one scale a group. False: f32.
    quantised: bool,
}

#[derive(Debug)]
struct Layout {
    stacks: Vec<Stack>,
    /// Where the file must end.
    end: usize,
}

struct Model {
    path: PathBuf,
    file: MappedFile,
    stacks: Vec<Stack>,
    group: usize,
    description: Description,
}

impl Model {
    fn open(path: &Path) -> Result<Self, ImportError> {
        let file = MappedFile::open(path)?;
        let header = Llama2cHeader::read(&file)?;
        let Layout { stacks, end } = header.layout()?;
        if end != file.len() {
            let Llama2cHeader { version, .. } = header;
            let reason = format!(
                "{} bytes, but a version {version} header that describes {end}",
                file.len()
            );
            return Err(ImportError::new(reason).help(match version {
                0 => "is this a llama2.c checkpoint at all? Version 0 has no magic number to tell",
                _ => "the file seems to be cut short, or to be damaged",
            }));
        }
        let config = header.config();
        if !heads_fit(&config) {
            return Err(ImportError::new(
                "n_heads times their width does not fit 32 bits",
            ));
        }
        let description = Description {
            config,
            layers: vec![
                Layer {
                    rope: Rope::Global,
                    ..Layer::default()
                };
                header.layers as usize
            ],
            global_rope: RopeTable {
                amplitude: 1.0,
                frequencies: rope::plain(ROPE_BASE, config.projection_dim),
            },
            local_rope: None,
            tokenizer: tokenizer_beside(path).map(|path| from_llama2c(path, header.vocab as usize)),
            chat_template: None,
        };
        Ok(Model {
            path: path.into(),
            file,
            stacks,
            group: header.group as usize,
            description,
        })
    }

    fn locate(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        let find = |stack: &&Stack| stack.kind == id.kind;
        let bytes = self.stacks.iter().find(find).and_then(|stack| {
            let start = (id.layer as usize)
                .checked_mul(stack.each)?
                .checked_add(stack.bytes.start)?;
            let end = start
                .checked_add(stack.each)
                .filter(|&end| end <= stack.bytes.end)?;
            Some((self.file.get(start..end)?, stack.quantised))
        });
        let Some((bytes, quantised)) = bytes else {
            return Err(ImportError::new(format!(
                "no tensor {:?} in layer {}",
                id.kind, id.layer
            )));
        };
        let data = if quantised {
            Cow::Owned(dequantise(bytes, self.group))
        } else {
            Cow::Borrowed(bytes)
        };
        let config = &self.description.config;
        let (rows, columns) = id.kind.shape(config).unwrap_or_default();
        let order = match id.kind {
            TensorKind::Query | TensorKind::Key => {
                let head_dim = config.projection_dim as usize;
                Pairing::Adjacent.rows(0..rows, head_dim, head_dim / 2)
            }
            _ => (0..rows).collect(),
        };
        let starts = order.iter().map(|row| row * columns).collect();
        Tensor::new(
            Element::F32,
            data,
            starts,
            Columns::Contiguous(columns),
            0.0,
        )
    }
}

impl Checkpoint for Model {
    fn description(&self) -> &Description {
        &self.description
    }

    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        self.locate(id).map_err(|error| error.in_file(&self.path))
    }
}

/// `n` 8-bit values followed by `n / group` f32 scales, as little-endian f32s: value times scale,
/// as `runq.c` does it.
fn dequantise(bytes: &[u8], group: usize) -> Vec<u8> {
    let groups = bytes.len() / (group + 4);
    let (values, scales) = bytes.split_at(groups * group);
    let scaled = |(values, scale): (&[u8], &[u8; 4])| {
        let scale = f32::from_le_bytes(*scale);
        values
            .iter()
            .flat_map(|&v| (f32::from(v as i8) * scale).to_le_bytes())
            .collect::<Vec<u8>>()
    };
    values
        .chunks(group)
        .zip(scales.as_chunks().0)
        .flat_map(scaled)
        .collect()
}
