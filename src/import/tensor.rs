//! A checkpoint's tensor as rows of numbers, in whatever order the file has them.

use std::borrow::Cow;
use std::prelude::rust_2024::*;

use super::ggml::Element;
use super::{ImportError, nearest};
use crate::model::DType;

/// A view of a matrix of a checkpoint, `[rows][columns]`, outputs by inputs. A vector is one row.
///
/// Element `(r, c)` is element `rows[r] + columns[c]` of `data`. So transposed, stacked, fused and
/// permuted tensors need no copy. `Tensor::new` checks that all elements are within `data`; after
/// that, reading a row cannot fail.
///
/// Example: [`Checkpoint`](super::Checkpoint).
#[derive(Clone, Debug)]
pub struct Tensor<'c> {
    element: Element,
    data: Cow<'c, [u8]>,
    rows: Vec<usize>,
    columns: Columns,
    add: f32,
    nearest: DType,
}

/// How the columns of a [`Tensor`] follow each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Columns {
    /// Side by side: column `c` is `c` elements after the row's start. The only choice for block
    /// types.
    Contiguous(usize),
    /// Column `c` is this many elements after the row's start.
    Offsets(Vec<usize>),
}

impl Columns {
    /// How many.
    pub(super) fn count(&self) -> usize {
        match self {
            Columns::Contiguous(count) => *count,
            Columns::Offsets(offsets) => offsets.len(),
        }
    }
}

impl<'c> Tensor<'c> {
    /// Describes a tensor. `data` is the whole stored tensor, little-endian. `rows` says where each
    /// row starts and `columns` where its elements are, both in elements. `add` is added to every
    /// element in f32: 1 for norms that are stored as `w` and mean `1 + w`, else 0.
    ///
    /// # Errors
    /// No rows, no columns, an element outside of `data`, or a block type whose rows are not made
    /// of whole blocks.
    pub(super) fn new(
        element: Element,
        data: impl Into<Cow<'c, [u8]>>,
        rows: Vec<usize>,
        columns: Columns,
        add: f32,
    ) -> Result<Self, ImportError> {
        let data = data.into();
        let (Some(&last), Some(reach)) = (rows.iter().max(), reach(&columns)) else {
            return Err(ImportError::new(format!(
                "a tensor of {} x {} elements",
                rows.len(),
                columns.count()
            )));
        };
        if !element.is_plain() {
            let whole = |n: usize| n.is_multiple_of(element.block_len());
            if !matches!(columns, Columns::Contiguous(count) if whole(count))
                || !rows.iter().all(|&r| whole(r))
            {
                let reason = format!(
                    "rows that are not made of whole {element} blocks of {}",
                    element.block_len()
                );
                return Err(ImportError::new(reason));
            }
        }
        let stored = data.len() / element.block_bytes() * element.block_len();
        if last.checked_add(reach).is_none_or(|end| end > stored) {
            return Err(ImportError::new(format!(
                "a row starts at element {last} and needs {reach}, of {stored}"
            )));
        }
        Ok(Tensor {
            element,
            data,
            rows,
            columns,
            add,
            nearest: nearest(element),
        })
    }

    /// The same tensor with another [nearest](Tensor::nearest) type, for numbers that were stored
    /// in fewer bits than `element` has.
    pub(super) fn with_nearest(self, nearest: DType) -> Self {
        Tensor { nearest, ..self }
    }

    /// A tensor of `rows` rows of `columns` elements, one after the other, nothing added.
    ///
    /// # Errors
    /// There are no rows or no columns, or `data` is not exactly as long as the tensor.
    pub fn dense(
        element: Element,
        data: impl Into<Cow<'c, [u8]>>,
        rows: usize,
        columns: usize,
    ) -> Result<Self, ImportError> {
        let data = data.into();
        let bytes = rows
            .checked_mul(columns)
            .and_then(|elements| element.bytes(elements));
        if bytes != Some(data.len()) {
            let reason = format!(
                "{} bytes for {rows} x {columns} elements of {element}",
                data.len()
            );
            return Err(ImportError::new(reason));
        }
        // With no columns the file's size says nothing about the number of rows.
        let starts = if columns == 0 {
            Vec::new()
        } else {
            (0..rows).map(|r| r * columns).collect()
        };
        Tensor::new(element, data, starts, Columns::Contiguous(columns), 0.0)
    }

    /// The same tensor with only these of its rows, in this order.
    ///
    /// # Errors
    /// There is no such row, or no row at all is left.
    pub(super) fn with_rows(self, kept: &[u32]) -> Result<Self, ImportError> {
        let count = self.rows.len();
        let start = |&r: &u32| {
            let start = self.rows.get(r as usize).copied();
            start.ok_or_else(|| ImportError::new(format!("row {r} of {count}")))
        };
        let rows = kept.iter().map(start).collect::<Result<Vec<_>, _>>()?;
        if rows.is_empty() {
            return Err(ImportError::new("none of its rows is kept"));
        }
        Ok(Tensor { rows, ..self })
    }

    /// How the elements are stored.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The type of an image that is nearest to what the checkpoint stores.
    pub(crate) fn nearest(&self) -> DType {
        self.nearest
    }

    /// How many rows: outputs of a matrix, 1 for a vector.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// How many columns: inputs of a matrix, elements of a vector.
    pub fn column_count(&self) -> usize {
        self.columns.count()
    }

    /// Reads row `r` as f32: the stored values, plus what is to be added.
    ///
    /// # Errors
    /// There is no such row, or `out` is not as long as a row.
    pub fn row(&self, r: usize, out: &mut [f32]) -> Result<(), ImportError> {
        let Some(&start) = self.rows.get(r) else {
            return Err(ImportError::new(format!("row {r} of {}", self.row_count())));
        };
        if out.len() != self.column_count() {
            let reason = format!(
                "{} numbers wanted of a row of {}",
                out.len(),
                self.column_count()
            );
            return Err(ImportError::new(reason));
        }
        match &self.columns {
            Columns::Contiguous(count) => self.element.dequantize(self.bytes(start, *count), out),
            Columns::Offsets(offsets) => {
                for (y, offset) in out.iter_mut().zip(offsets) {
                    self.element
                        .dequantize(self.bytes(start + offset, 1), std::slice::from_mut(y));
                }
            }
        }
        if self.add != 0.0 {
            out.iter_mut().for_each(|y| *y += self.add);
        }
        Ok(())
    }

    /// The stored blocks of row `r`, for packing without loss: [`Element::block_len`] elements in
    /// each [`Element::block_bytes`] bytes. `None` if there is no such row, if its columns are not
    /// contiguous, or if something is added to them.
    pub fn blocks(&self, r: usize) -> Option<&[u8]> {
        match (self.rows.get(r), &self.columns) {
            (Some(&start), &Columns::Contiguous(count)) if self.add == 0.0 => {
                Some(self.bytes(start, count))
            }
            _ => None,
        }
    }

    /// The bytes of `count` elements from `start` on; whole blocks that lie within the data, as
    /// `new` has checked.
    fn bytes(&self, start: usize, count: usize) -> &[u8] {
        let at = |elements| elements / self.element.block_len() * self.element.block_bytes();
        &self.data[at(start)..at(start + count)]
    }
}

/// How many elements a row spans from its start; `None` without columns.
fn reach(columns: &Columns) -> Option<usize> {
    match columns {
        Columns::Contiguous(count) => Some(*count).filter(|&count| count > 0),
        Columns::Offsets(offsets) => offsets.iter().max()?.checked_add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: u8) -> Vec<u8> {
        (0..n).flat_map(|i| f32::from(i).to_le_bytes()).collect()
    }

    fn rows(tensor: &Tensor<'_>) -> Vec<Vec<f32>> {
        (0..tensor.row_count())
            .map(|r| {
                let mut row = vec![0.0; tensor.column_count()];
                tensor.row(r, &mut row).unwrap();
                row
            })
            .collect()
    }

    #[test]
    fn rows_and_columns_may_lie_anywhere_in_the_data() {
        let data = numbers(6);
        let transposed = Tensor::new(
            Element::F32,
            &data[..],
            vec![0, 1, 2],
            Columns::Offsets(vec![0, 3]),
            0.5,
        )
        .unwrap();
        assert_eq!(rows(&transposed), [[0.5, 3.5], [1.5, 4.5], [2.5, 5.5]]);
        assert_eq!(transposed.blocks(0), None);
        let swapped = Tensor::new(
            Element::F32,
            &data[..],
            vec![3, 0],
            Columns::Contiguous(3),
            0.0,
        )
        .unwrap();
        assert_eq!(rows(&swapped), [[3.0, 4.0, 5.0], [0.0, 1.0, 2.0]]);
        assert_eq!(swapped.blocks(0), Some(&data[12..]));
        assert_eq!(swapped.blocks(2), None);
    }

    #[test]
    fn a_tensor_that_reaches_beyond_its_data_is_refused() {
        let data = numbers(6);
        let new = |starts: &[usize], columns| {
            Tensor::new(Element::F32, &data[..], starts.to_vec(), columns, 0.0)
        };
        assert!(new(&[0, 3], Columns::Contiguous(3)).is_ok());
        assert!(new(&[0, 4], Columns::Contiguous(3)).is_err());
        assert!(new(&[4, 0], Columns::Contiguous(3)).is_err());
        assert!(new(&[3], Columns::Offsets(vec![3, 0])).is_err());
        assert!(new(&[usize::MAX], Columns::Contiguous(3)).is_err());
        assert!(new(&[3], Columns::Offsets(vec![usize::MAX])).is_err());
        assert!(new(&[], Columns::Contiguous(3)).is_err());
        assert!(new(&[0], Columns::Contiguous(0)).is_err());
        assert!(new(&[0], Columns::Offsets(Vec::new())).is_err());
        assert!(Tensor::dense(Element::F32, &data[..], 2, 3).is_ok());
        assert!(Tensor::dense(Element::F32, &data[..], 1, 3).is_err());
        assert!(Tensor::dense(Element::F32, &data[..0], usize::MAX, 0).is_err());
        assert!(Tensor::dense(Element::F32, &data[..], usize::MAX, 3).is_err());
    }

    #[test]
    fn rows_of_blocks_start_and_end_on_blocks() {
        let data = [0; 68];
        let new = |start: usize, columns| {
            Tensor::new(Element::Q8_0, &data[..], vec![start], columns, 0.0)
        };
        assert!(new(32, Columns::Contiguous(32)).is_ok());
        assert!(new(32, Columns::Contiguous(64)).is_err());
        assert!(new(16, Columns::Contiguous(32)).is_err());
        assert!(new(0, Columns::Contiguous(16)).is_err());
        assert!(new(0, Columns::Offsets(vec![0])).is_err());
        assert_eq!(
            new(32, Columns::Contiguous(32)).unwrap().blocks(0),
            Some(&data[34..])
        );
    }
}
