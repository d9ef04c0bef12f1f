//! One layer of a checkpoint as a model of its own: its tokens are the rows that come into the
//! layer, all of the calibration text. So calibration needs the memory of one layer.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::prelude::rust_2024::*;
use std::rc::Rc;

use pocketlm_kernels::{DType, Engine, Isa, Matrix, Solo};
use rayon::prelude::*;

use super::refuse;
use crate::aligned::AlignedBytes;
use crate::import::{
    self, Checkpoint, Description, Element, ImportError, PackOptions, PackedMatrix, Tensor,
};
use crate::model::{Model, TensorId, TensorKind};
use crate::run::{Observed, Plan, Session};

/// Matrices of a layer that read the same input.
pub(super) const READERS: [&[TensorKind]; 3] = [
    &[TensorKind::Query, TensorKind::Key, TensorKind::Value],
    &[TensorKind::ConvIn],
    &[TensorKind::GatingLinear, TensorKind::ValueLinear],
];

/// The two halves of a layer, attention (or a convolution) and the feed-forward network: the
/// matrices whose product is added to the hidden rows. A layer has one in each half.
pub(super) const WRITERS: [&[TensorKind]; 2] = [
    &[TensorKind::Output, TensorKind::ConvOut],
    &[TensorKind::OutLinear],
];

/// The bias that is added to what each half writes, if the model has it.
pub(super) const BIASES: [&[TensorKind]; 2] = [
    &[TensorKind::OutputBias, TensorKind::ConvOutBias],
    &[TensorKind::OutLinearBias],
];

/// The norm after each half, if the model has it.
pub(super) const POST_NORMS: [TensorKind; 2] =
    [TensorKind::PostAttentionNorm, TensorKind::PostFfwNorm];

/// Sequences that are computed at once by [`OneLayer::after`].
const AT_ONCE: usize = 16;

pub(super) struct OneLayer<'c> {
    checkpoint: &'c dyn Checkpoint,
    layer: u32,
    description: Description,
    hidden: &'c [f32],
    ones: Vec<f32>,
    /// Matrices that are taken as they are.
    packed: PackedLayer,
}

/// Matrices of a layer.
pub(super) type PackedLayer = BTreeMap<TensorKind, Rc<PackedMatrix>>;

impl<'c> OneLayer<'c> {
    /// Layer `layer` of a checkpoint. Matrices that the checkpoint has packed are dequantised.
    /// `hidden` comes into it, `[tokens][embedding_dim]`.
    pub fn new(checkpoint: &'c dyn Checkpoint, layer: u32, hidden: &'c [f32]) -> Self {
        let mut description = checkpoint.description().clone();
        let config = &mut description.config;
        let width = config.embedding_dim as usize;
        config.num_decoder_blocks = 1;
        config.vocab_size = (hidden.len() / width) as u32;
        config.tie_embedder_and_logits = true;
        config.embedding_scale = 1.0;
        config.final_logit_softcap = None;
        description.layers = vec![description.layers[layer as usize]];
        description.tokenizer = None;
        description.chat_template = None;
        OneLayer {
            checkpoint,
            layer,
            description,
            hidden,
            ones: vec![1.0; width],
            packed: PackedLayer::new(),
        }
    }

    /// The same with `packed` in place of the layer's matrices.
    pub fn with_packed(self, packed: PackedLayer) -> Self {
        OneLayer { packed, ..self }
    }

    /// The matrices of the layer in type `dtype`.
    pub fn pack(&self, dtype: DType) -> Result<PackedLayer, ImportError> {
        let image = self.image(dtype)?;
        let model = Model::open(&image).map_err(refuse)?;
        let matrix = |id: TensorId| {
            let bytes = model.bytes(model.location(0, id.kind));
            let words = bytemuck::cast_slice(bytes).to_vec();
            let is_exact = false;
            (
                id.kind,
                Rc::new(PackedMatrix {
                    dtype,
                    words,
                    is_exact,
                }),
            )
        };
        let ids = model.tensors();
        let matrices = ids.filter(|id| id.kind.is_per_layer() && id.kind.is_matrix());
        Ok(matrices.map(matrix).collect())
    }

    fn id(&self, kind: TensorKind) -> TensorId {
        TensorId {
            layer: self.layer,
            kind,
        }
    }

    /// The layer as an image, with matrices of type `dtype`. What comes into it stays f32.
    pub fn image(&self, dtype: DType) -> Result<AlignedBytes, ImportError> {
        let options = PackOptions {
            dtype: Some(dtype),
            embedder_dtype: Some(DType::F32),
            ..PackOptions::default()
        };
        import::pack_to_memory(self, &options, &mut |_, _| {})
    }

    /// The rows that come out of the layer, with matrices of type `dtype`. `sequences` stand one
    /// after the other in the rows that come in.
    pub fn after(
        &self,
        dtype: DType,
        sequences: &[Vec<u32>],
        isa: &'static Isa,
    ) -> Result<Vec<f32>, ImportError> {
        let image = self.image(dtype)?;
        let model = Model::open(&image).map_err(refuse)?;
        let mut after = Vec::with_capacity(self.hidden.len());
        for ranges in ranges(sequences).chunks(AT_ONCE) {
            for computed in compute(&model, ranges, Kept::Out, isa).map_err(refuse)? {
                let [_, hidden] = computed.residual;
                after.extend(hidden);
            }
        }
        Ok(after)
    }
}

impl Checkpoint for OneLayer<'_> {
    fn description(&self) -> &Description {
        &self.description
    }

    fn tensor(&self, id: TensorId) -> Result<Tensor<'_>, ImportError> {
        let dense = |values, rows, columns| {
            Tensor::dense(Element::F32, bytemuck::cast_slice(values), rows, columns)
        };
        let width = self.ones.len();
        match id.kind {
            TensorKind::Embedder => dense(self.hidden, self.hidden.len() / width, width),
            TensorKind::FinalNorm => dense(&self.ones, 1, width),
            kind => dequantized(self.checkpoint, self.id(kind))?.into_tensor(),
        }
    }

    fn packed(&self, id: TensorId) -> Option<&PackedMatrix> {
        self.packed.get(&id.kind).map(|matrix| &**matrix)
    }
}

/// A matrix or a vector that is packed already, or as the checkpoint has it.
pub(super) enum Numbers<'c> {
    Stored(Tensor<'c>),
    Packed(Matrix<'c>),
}

/// A tensor as the image will have it, if it is packed already.
pub(super) fn dequantized(
    checkpoint: &dyn Checkpoint,
    id: TensorId,
) -> Result<Numbers<'_>, ImportError> {
    let tensor = checkpoint.tensor(id)?;
    let Some(packed) = checkpoint.packed(id) else {
        return Ok(Numbers::Stored(tensor));
    };
    let words = bytemuck::cast_slice(&packed.words);
    let (rows, columns) = (tensor.row_count(), tensor.column_count());
    let matrix = Matrix::new(packed.dtype, rows, columns, words);
    Ok(Numbers::Packed(matrix.expect("packed for this shape")))
}

impl<'c> Numbers<'c> {
    pub fn rows(&self) -> usize {
        match self {
            Numbers::Stored(tensor) => tensor.row_count(),
            Numbers::Packed(matrix) => matrix.rows(),
        }
    }

    pub fn columns(&self) -> usize {
        match self {
            Numbers::Stored(tensor) => tensor.column_count(),
            Numbers::Packed(matrix) => matrix.columns(),
        }
    }

    pub fn row(&self, r: usize, out: &mut [f32]) -> Result<(), ImportError> {
        match self {
            Numbers::Stored(tensor) => tensor.row(r, out),
            Numbers::Packed(matrix) => {
                matrix.row(r, out);
                Ok(())
            }
        }
    }

    fn into_tensor(self) -> Result<Tensor<'c>, ImportError> {
        let matrix = match self {
            Numbers::Stored(tensor) => return Ok(tensor),
            Numbers::Packed(matrix) => matrix,
        };
        let (rows, columns) = (matrix.rows(), matrix.columns());
        let mut bytes = vec![0; 4 * rows * columns];
        let row_bytes = bytes.par_chunks_exact_mut(4 * columns);
        row_bytes.enumerate().for_each(|(r, bytes)| {
            let mut row = vec![0.0f32; columns];
            matrix.row(r, &mut row);
            bytes.copy_from_slice(bytemuck::cast_slice(&row));
        });
        Tensor::dense(Element::F32, bytes, rows, columns)
    }
}

/// Where each sequence is among the tokens of all.
pub(super) fn ranges(sequences: &[Vec<u32>]) -> Vec<Range<u32>> {
    let mut end = 0;
    let range = |sequence: &Vec<u32>| {
        let start = end;
        end += sequence.len() as u32;
        start..end
    };
    sequences.iter().map(range).collect()
}

/// The rows that come into the first layer.
pub(super) fn embed(
    checkpoint: &dyn Checkpoint,
    sequences: &[Vec<u32>],
) -> Result<Vec<f32>, ImportError> {
    let config = checkpoint.description().config;
    let id = TensorId {
        layer: 0,
        kind: TensorKind::Embedder,
    };
    let embedder = dequantized(checkpoint, id)?;
    let width = config.embedding_dim as usize;
    let mut hidden = vec![0.0; width * sequences.iter().map(Vec::len).sum::<usize>()];
    let ids = sequences.iter().flatten();
    for (id, row) in ids.zip(hidden.chunks_exact_mut(width)) {
        embedder.row(*id as usize, row)?;
        row.iter_mut().for_each(|x| *x *= config.embedding_scale);
    }
    Ok(hidden)
}

/// What a layer computed of a sequence.
#[derive(Default)]
pub(super) struct Computed {
    /// The inputs of [`READERS`], `[tokens][width]` each; empty if the layer has no such matrix.
    pub readers: [Vec<f32>; READERS.len()],
    /// The same of [`WRITERS`].
    pub writers: [Vec<f32>; WRITERS.len()],
    /// What each half computed, before its bias and its norm, `[tokens][embedding_dim]`.
    pub branches: [Vec<f32>; WRITERS.len()],
    /// The hidden rows after each half, `[tokens][embedding_dim]`.
    pub residual: [Vec<f32>; WRITERS.len()],
}

/// What is kept of a layer.
#[derive(Clone, Copy)]
pub(super) enum Kept {
    /// The inputs of [`READERS`], and the hidden rows after each half.
    Readers,
    /// The input of the writer of this half, what it writes, and the hidden rows after the half. No
    /// more is computed.
    Writer(usize),
    /// The hidden rows that come out of the layer.
    Out,
}

impl Kept {
    /// The last half that is computed.
    fn last_half(self) -> usize {
        match self {
            Kept::Readers | Kept::Out => WRITERS.len() - 1,
            Kept::Writer(half) => half,
        }
    }
}

impl Computed {
    /// Copies what is to be kept of what the session shows.
    fn keep(&mut self, kept: Kept, observed: Observed, values: &[f32]) {
        let half_of = |kind| POST_NORMS.iter().position(|norm| *norm == kind);
        let group_of =
            |groups: &[&[TensorKind]], kind| groups.iter().position(|g| g.contains(&kind));
        let place = match (observed, kept) {
            (Observed::Input(kind), Kept::Readers) => {
                group_of(&READERS, kind).map(|group| &mut self.readers[group])
            }
            (Observed::Input(kind), Kept::Writer(half)) => group_of(&WRITERS, kind)
                .filter(|of| *of == half)
                .map(|half| &mut self.writers[half]),
            (Observed::Branch(norm), Kept::Writer(half)) => half_of(norm)
                .filter(|of| *of == half)
                .map(|half| &mut self.branches[half]),
            (Observed::Residual(norm), _) => half_of(norm)
                .filter(|of| matches!(kept, Kept::Readers) || *of == kept.last_half())
                .map(|half| &mut self.residual[half]),
            (Observed::Input(_), Kept::Out) | (Observed::Branch(_), Kept::Readers | Kept::Out) => {
                None
            }
        };
        if let Some(place) = place {
            *place = values.to_vec();
        }
    }
}

/// Computes some sequences of the tokens of a [`OneLayer`].
pub(super) fn compute(
    model: &Model<'_>,
    sequences: &[Range<u32>],
    kept: Kept,
    isa: &'static Isa,
) -> Result<Vec<Computed>, crate::Error> {
    let longest = sequences.iter().map(|s| s.len() as u32).max().unwrap_or(1);
    let plan = Plan::new(model.header()).context(longest).batch(longest);
    sequences
        .par_iter()
        .map_init(
            || AlignedBytes::zeroed(plan.bytes()),
            |arena, sequence| {
                let engine = Engine {
                    isa,
                    workers: &Solo,
                };
                let mut session = Session::new(model, &plan, arena, engine)?;
                let ids: Vec<u32> = sequence.clone().collect();
                let mut computed = Computed::default();
                session.feed_observed(&ids, &mut |observed, values| {
                    computed.keep(kept, observed, values);
                    match observed {
                        Observed::Residual(norm) if norm == POST_NORMS[kept.last_half()] => {
                            ControlFlow::Break(())
                        }
                        _ => ControlFlow::Continue(()),
                    }
                })?;
                Ok(computed)
            },
        )
        .collect()
}
