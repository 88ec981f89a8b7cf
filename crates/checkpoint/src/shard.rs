//! Which part of a tensor a rank holds, and where that part lies in the whole.
//!
//! Two cuts, one after the other, describe every layout: tensor parallelism takes a box out of the
//! tensor, ZeRO takes a range out of the box's elements in row-major order.
//!
//! ```text
//! shape [4, 6], rows 0..4 and columns 2..4, of these 8 elements 1..6:
//!
//!    .  .  0  1  .  .          .  .  .  x  .  .       run 1: global 3,   local 0, length 1
//!    .  .  2  3  .  .    ->    .  .  x  x  .  .       run 2: global 8,   local 1, length 2
//!    .  .  4  5  .  .          .  .  x  x  .  .       run 3: global 14,  local 3, length 2
//!    .  .  6  7  .  .          .  .  .  .  .  .
//! ```
//!
//! Everything here is arithmetic on the two cuts: no list of elements is ever made, so a shard of a
//! tensor of any size costs nothing.

use std::ops::Range;

use crate::error::CheckpointError;

mod overlaps;

/// A part of a tensor: a box of its global shape, and a range of that box's row-major order.
///
/// ```
/// use caravan_checkpoint::{Run, Shard};
///
/// let shard = Shard::whole(&[4, 6]).slice(1, 2..4).elements(1..6);
/// assert_eq!(shard.len(), 5);
/// let runs: Vec<Run> = shard.runs().collect();
/// assert_eq!(runs[1], Run { global: 8, local: 1, len: 2 });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shard {
    shape: Vec<usize>,
    start: Vec<usize>,
    extent: Vec<usize>,
    flat: Range<usize>,
}

/// Elements of a shard that are neighbours in the whole tensor too. Units are elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Row-major position of the first in the whole tensor.
    pub global: usize,
    /// Position of the first in the shard.
    pub local: usize,
    /// How many.
    pub len: usize,
}

impl Run {
    /// One past the last, in the whole tensor.
    pub(crate) fn global_end(self) -> usize {
        self.global + self.len
    }
}

impl Shard {
    /// The elements `flat` of the box that begins at `start` and reaches `extent` far in each dim.
    ///
    /// # Errors
    /// [`CheckpointError::BadShard`] if the box lies outside `shape`, or `flat` outside the box.
    pub fn new(
        shape: &[usize],
        start: &[usize],
        extent: &[usize],
        flat: Range<usize>,
    ) -> Result<Self, CheckpointError> {
        let (shape, start, extent) = (shape.to_vec(), start.to_vec(), extent.to_vec());
        match check(&shape, &start, &extent, &flat) {
            Ok(()) => Ok(Self { shape, start, extent, flat }),
            Err(reason) => Err(CheckpointError::BadShard { shape, start, extent, flat, reason }),
        }
    }

    /// All of a tensor.
    ///
    /// # Panics
    /// If a `usize` cannot hold the number of elements.
    pub fn whole(shape: &[usize]) -> Self {
        let n = n_elements(shape).expect("the elements of a tensor can be counted");
        let start = vec![0; shape.len()];
        Self { shape: shape.to_vec(), start, extent: shape.to_vec(), flat: 0..n }
    }

    /// Narrows the box to `range` of `dim`, in indices of the whole tensor. Before
    /// [`elements`](Self::elements), if both cut.
    ///
    /// # Panics
    /// If `range` leaves the box, or the elements were cut already.
    #[must_use]
    pub fn slice(mut self, dim: usize, range: Range<usize>) -> Self {
        assert!(self.flat == (0..self.volume()), "slice a box before its elements are cut");
        let (start, extent) = (self.start[dim], self.extent[dim]);
        assert!(
            start <= range.start && range.start <= range.end && range.end <= start + extent,
            "{range:?} of dim {dim} leaves {start}..{}",
            start + extent
        );
        self.start[dim] = range.start;
        self.extent[dim] = range.len();
        self.flat = 0..self.volume();
        self
    }

    /// Narrows the shard to these elements of its box, counted in the box's row-major order.
    ///
    /// # Panics
    /// If `range` leaves the box.
    #[must_use]
    pub fn elements(mut self, range: Range<usize>) -> Self {
        let n = self.volume();
        assert!(range.start <= range.end && range.end <= n, "{range:?} of {n} elements");
        self.flat = range;
        self
    }

    /// Shape of the whole tensor.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// First index of the box in each dim.
    pub fn start(&self) -> &[usize] {
        &self.start
    }

    /// Shape of the box.
    pub fn extent(&self) -> &[usize] {
        &self.extent
    }

    /// The elements of the box.
    pub fn flat(&self) -> Range<usize> {
        self.flat.clone()
    }

    /// Elements of the shard.
    pub fn len(&self) -> usize {
        self.flat.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.flat.is_empty()
    }

    /// All elements of the box, so that the shard has a shape, which is [`extent`](Self::extent).
    pub fn is_box(&self) -> bool {
        self.flat == (0..self.volume())
    }

    /// The shard as runs of neighbours, by ascending position, each as long as it can be.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = Run> + '_ {
        (0..self.n_runs()).map(|index| self.run(index))
    }

    /// Elements of the box.
    pub(crate) fn volume(&self) -> usize {
        self.extent.iter().product() // at most the elements of the tensor, which were counted
    }

    fn n_runs(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let row = self.row();
        (self.flat.end - 1) / row - self.flat.start / row + 1
    }

    /// The run at `index`, which is below [`n_runs`](Self::n_runs).
    fn run(&self, index: usize) -> Run {
        let row = self.row();
        let first = (self.flat.start / row + index) * row;
        let (from, to) = (self.flat.start.max(first), self.flat.end.min(first + row));
        Run { global: self.position(from), local: from - self.flat.start, len: to - from }
    }

    /// Elements of the box that are neighbours in the tensor: everything behind the last dim that is
    /// cut is whole, and one index of the dims before it makes one stretch.
    fn row(&self) -> usize {
        let cut = self.shape.iter().zip(&self.extent).rposition(|(n, extent)| n != extent);
        self.extent[cut.unwrap_or(0)..].iter().product()
    }

    /// Where an element of a box that is not empty lies in the whole tensor.
    fn position(&self, element: usize) -> usize {
        let (mut rest, mut stride, mut position) = (element, 1, 0);
        for dim in (0..self.shape.len()).rev() {
            position += (self.start[dim] + rest % self.extent[dim]) * stride;
            rest /= self.extent[dim];
            stride *= self.shape[dim];
        }
        position
    }
}

/// Elements of a tensor, `None` where a `usize` cannot hold them.
pub(crate) fn n_elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// Boxes of one tensor share an element.
pub(crate) fn boxes_meet(a: (&[usize], &[usize]), b: (&[usize], &[usize])) -> bool {
    let (starts, extents) = (a.0.iter().zip(b.0), a.1.iter().zip(b.1));
    // Not empty in any dim: the larger start lies before the smaller end.
    starts.zip(extents).all(|((&sa, &sb), (&ea, &eb))| sa.max(sb) < (sa + ea).min(sb + eb))
}

fn check(
    shape: &[usize],
    start: &[usize],
    extent: &[usize],
    flat: &Range<usize>,
) -> Result<(), String> {
    n_elements(shape).ok_or("the tensor is impossibly large")?;
    if start.len() != shape.len() || extent.len() != shape.len() {
        return Err(format!("the box does not have the tensor's {} dims", shape.len()));
    }
    for (dim, ((&n, &start), &extent)) in shape.iter().zip(start).zip(extent).enumerate() {
        if start.checked_add(extent).is_none_or(|end| end > n) {
            return Err(format!("{extent} from {start} on leave dim {dim} of {n}"));
        }
    }
    let n: usize = extent.iter().product();
    if flat.start > flat.end || flat.end > n {
        return Err(format!("{flat:?} leaves the {n} elements of the box"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
