#![allow(unsafe_code)]
//! Sharing work between cores without changing a bit of it.
//!
//! A job is a function that claims pieces of work, one index at a time, until none is left. Any
//! number of cores may call it at the same time; the result of a piece does not depend on the core.
//! This is the only module outside `arch` that hands out memory by index, and so needs `unsafe`.

use core::marker::PhantomData;
use core::num::NonZeroUsize;
use core::ops::Range;

#[cfg(target_has_atomic = "ptr")]
use super::sync::{AtomicUsize, Ordering};

/// Cores that can run a job.
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use pocketlm_kernels::{Solo, Workers, for_each_part};
///
/// /// Two threads, started for each job.
/// struct Two;
///
/// impl Workers for Two {
///     fn count(&self) -> usize {
///         2
///     }
///
///     fn run(&self, job: &(dyn Fn() + Sync)) {
///         std::thread::scope(|scope| {
///             scope.spawn(job);
///             job();
///         });
///     }
/// }
///
/// for workers in [&Solo as &dyn Workers, &Two] {
///     let sum = AtomicU32::new(0);
///     for_each_part(workers, 0..100, |part| {
///         sum.fetch_add(part.sum::<usize>() as u32, Ordering::Relaxed);
///     });
///     assert_eq!(sum.into_inner(), 4950);
/// }
/// ```
pub trait Workers: Sync {
    /// Calls `job` at least once, on as many cores as there are, and returns when all calls have
    /// returned. Each call claims work until none is left, so a single call is correct.
    fn run(&self, job: &(dyn Fn() + Sync));

    /// How many cores that may be. It changes no bit, only how large the pieces are that are
    /// claimed at a time.
    fn count(&self) -> usize;
}

/// The calling core alone.
///
/// Example: [`Workers`].
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Solo;

impl Workers for Solo {
    fn run(&self, job: &(dyn Fn() + Sync)) {
        job();
    }

    fn count(&self) -> usize {
        1
    }
}

/// Calls `job` with parts of `range` that together are all of it, shared between `workers`.
///
/// Each worker starts on its own contiguous stretch. The first to arrive gets the first stretch:
/// that is usually the caller, whose cache still holds it from the job before. A worker then claims
/// half of what is left of a stretch, or less if several workers share it. Parts are large at
/// first, because long stretches of memory are read faster than short ones, and become smaller, so
/// that the others can help with the rest and no core waits long for another. One core alone gets
/// the whole range at once.
///
/// The job is a type parameter, here and below, and only [`Workers::run`] takes a `dyn Fn`: in a
/// firmware, each `dyn Fn` brings a second copy of itself, in the vtable's slot for `FnOnce`.
#[cfg(target_has_atomic = "ptr")]
pub fn for_each_part(
    workers: &dyn Workers,
    range: Range<usize>,
    job: impl Fn(Range<usize>) + Sync,
) {
    let count = workers.count().max(1);
    let stretches = count.min(STRETCHES);
    let share = if count == 1 {
        1
    } else {
        count.saturating_mul(2) / stretches
    };
    let length = range.len() / stretches;
    let longer = range.len() % stretches;
    let start = |stretch: usize| range.start + stretch * length + stretch.min(longer);
    let left: [Left; STRETCHES] = core::array::from_fn(|stretch| Left {
        next: AtomicUsize::new(start(stretch.min(stretches))),
        end: start((stretch + 1).min(stretches)),
        share: NonZeroUsize::new(share).unwrap_or(NonZeroUsize::MIN),
    });
    let came = AtomicUsize::new(0);
    workers.run(&|| {
        let own = if STRETCHES == 1 {
            0
        } else {
            came.fetch_add(1, Ordering::Relaxed)
        };
        for next in 0..stretches {
            while let Some(part) = left
                .get(own.wrapping_add(next) % stretches)
                .and_then(Left::claim)
            {
                job(part);
            }
        }
    });
}

/// Into how many stretches work is divided at most.
#[cfg(target_has_atomic = "ptr")]
const STRETCHES: usize = if cfg!(target_os = "none") { 1 } else { 8 };

/// The part of a stretch that is not claimed yet. On a cache line of its own.
#[cfg(target_has_atomic = "ptr")]
#[cfg_attr(not(target_os = "none"), repr(align(64)))]
struct Left {
    next: AtomicUsize,
    end: usize,
    /// A part is what is left, divided by this.
    share: NonZeroUsize,
}

#[cfg(target_has_atomic = "ptr")]
impl Left {
    /// The next part; `None` once nothing is left.
    // Where flash is scarce, it is one function for all jobs.
    #[cfg_attr(target_os = "none", inline(never))]
    fn claim(&self) -> Option<Range<usize>> {
        let length = |start: usize| self.end.saturating_sub(start).div_ceil(self.share.get());
        // Relaxed: the counter orders nothing but itself; `run` returning is what publishes the
        // results.
        let claimed = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |start| {
                match length(start) {
                    0 => None,
                    length => Some(start + length),
                }
            });
        let start = claimed.ok()?;
        Some(start..start + length(start))
    }
}

/// Calls `job` with the whole range. Without atomic read-modify-write (Armv6-M) nothing can be
/// claimed safely, so the calling core does it all.
#[cfg(not(target_has_atomic = "ptr"))]
pub fn for_each_part(
    _workers: &dyn Workers,
    range: Range<usize>,
    job: impl Fn(Range<usize>) + Sync,
) {
    if !range.is_empty() {
        job(range);
    }
}

/// The same rows of every vector of an output `[vectors][rows]`: the part that one piece of a
/// product may write.
///
/// Example: [`Isa`](crate::Isa).
pub struct RowsMut<'a> {
    first: *mut f32,
    length: usize,
    stride: usize,
    vectors: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> RowsMut<'a> {
    /// All rows of an output of `rows` rows a vector.
    pub fn all(output: &'a mut [f32], rows: usize) -> Self {
        let vectors = output.len().checked_div(rows).unwrap_or(0);
        RowsMut {
            first: output.as_mut_ptr(),
            length: rows,
            stride: rows,
            vectors,
            borrow: PhantomData,
        }
    }

    /// The rows `rows` of these, as a view of their own. Rows past the end are left out.
    pub fn part(&mut self, rows: Range<usize>) -> RowsMut<'_> {
        let start = rows.start.min(self.length);
        let length = rows.end.min(self.length).saturating_sub(start);
        RowsMut {
            first: self.first.wrapping_add(start),
            length,
            borrow: PhantomData,
            ..*self
        }
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> usize {
        self.vectors
    }

    /// These rows of vector `vector`; empty if there is no such vector.
    #[inline]
    pub fn vector(&mut self, vector: usize) -> &mut [f32] {
        if vector >= self.vectors {
            return &mut [];
        }
        // SAFETY: `first .. first + length` lies in the first vector of the output this view was
        // made from, and `vector < vectors` whole strides further it lies in that vector; the view
        // holds the only claim to these rows (`all` borrows the output, `split_rows` gives every
        // range out once), and `&mut self` the only use.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.first.wrapping_add(vector * self.stride),
                self.length,
            )
        }
    }
}

/// A pointer that several cores may hold. Each use of it says why it is sound.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: the functions below give every core a different part of what it points to.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

/// An output `[vectors][rows]`, of which the rows `range` are to be computed.
///
/// Example: [`Workers`].
pub struct Output<'a> {
    /// `[vectors][rows]`.
    pub values: &'a mut [f32],
    /// Rows of a vector.
    pub rows: usize,
    /// Which of them.
    pub range: Range<usize>,
}

/// Shares the ranges of several outputs between `workers`. A piece is `piece` rows, counted from
/// the start of a range, of `together` vectors. `job` gets the index of an output, a range of
/// vectors, a range of rows, and a view of exactly these rows of these vectors.
pub fn split_rows<const N: usize>(
    workers: &dyn Workers,
    outputs: [Output<'_>; N],
    (piece, together): (usize, usize),
    job: impl Fn(usize, Range<usize>, Range<usize>, RowsMut<'_>) + Sync,
) {
    // `max(1)` would not do: inside a closure the optimiser does not see it, and leaves a panic for
    // a division by 0.
    let [piece, together] =
        [piece, together].map(|number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN));
    let mut most = 0;
    let outputs = outputs.map(
        |Output {
             values,
             rows,
             range,
         }| {
            let vectors = values.len().checked_div(rows).unwrap_or(0);
            most = vectors.max(most);
            (
                Shared(values.as_mut_ptr()),
                rows,
                vectors,
                range.start..range.end.min(rows),
            )
        },
    );
    let pieces = |rows: &Range<usize>| rows.len().div_ceil(piece.get());
    // Set by set of vectors, output by output. A microcontroller has too few vectors for sets, and
    // little flash.
    let sets = if cfg!(target_os = "none") {
        1
    } else {
        most.div_ceil(together.get())
    };
    let pieces_of_set: usize = outputs.iter().map(|(.., range)| pieces(range)).sum();
    for_each_part(workers, 0..sets * pieces_of_set, |part| {
        let mut before = 0;
        for set in 0..sets {
            let first_vector = if set == 0 { 0 } else { set * together.get() };
            let end = if sets == 1 {
                usize::MAX
            } else {
                first_vector.saturating_add(together.get())
            };
            for (index, (shared, rows, vectors, range)) in outputs.iter().enumerate() {
                // The part's pieces of this output.
                let first = part.start.max(before) - before;
                let last = part.end.min(before + pieces(range)).saturating_sub(before);
                before += pieces(range);
                if first < last {
                    let start = range.start + first * piece.get();
                    let rows_of_part = start..range.end.min(range.start + last * piece.get());
                    let vectors = first_vector..end.min(*vectors).max(first_vector);
                    // `for_each_part` gives every piece out once, and different pieces have
                    // different rows, all of them below `rows`, or different vectors: no other view
                    // has this part of the output, which stays borrowed until all is done.
                    let (first, length) =
                        (shared.at(first_vector * rows + start), rows_of_part.len());
                    let count = vectors.len();
                    job(
                        index,
                        vectors,
                        rows_of_part,
                        RowsMut {
                            first,
                            length,
                            stride: *rows,
                            vectors: count,
                            borrow: PhantomData,
                        },
                    );
                }
            }
        }
    });
}

/// Shares buffers between `workers`. Piece `i` gets chunk `i` of each buffer; the number beside a
/// buffer is the length of its chunks. Pieces that do not fit all buffers are left out. A buffer
/// with chunks of length 0 fits any number of pieces.
pub fn split_chunks<T: Send, const N: usize>(
    workers: &dyn Workers,
    buffers: [(&mut [T], usize); N],
    pieces: Range<usize>,
    job: impl Fn(usize, [&mut [T]; N]) + Sync,
) {
    let mut end = pieces.end;
    let buffers = buffers.map(|(buffer, chunk)| {
        end = end.min(buffer.len().checked_div(chunk).unwrap_or(usize::MAX));
        (Shared(buffer.as_mut_ptr()), chunk)
    });
    for_each_part(workers, pieces.start..end, |part| {
        for index in part {
            let chunks = buffers.each_ref().map(|(buffer, chunk)| {
                // SAFETY: `index` is below the number of whole chunks in each buffer, is given out
                // once, and chunks of different indices do not overlap; the buffers stay borrowed
                // until every call has returned.
                unsafe { core::slice::from_raw_parts_mut(buffer.at(index * chunk), *chunk) }
            });
            job(index, chunks);
        }
    });
}
