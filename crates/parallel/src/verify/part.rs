//! What a rank has of a parameter, or of its gradient, and where in the whole that is.

use std::ops::Range;

use crate::engine::Engine;
use crate::executor::Segment;
use crate::sums::{Sums, host};
use crate::tensor::Slice;

/// Elements of one parameter.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Dotted module path.
    pub(super) path: String,
    /// Shape of the whole parameter.
    pub(super) shape: Vec<usize>,
    /// The slice of a tensor rank.
    pub(super) slice: Slice,
    /// The elements of that slice, row-major, that are here.
    pub(super) elements: Range<usize>,
    pub(super) values: Vec<f32>,
}

impl Part {
    /// The same elements of the whole parameter `values`.
    pub(super) fn of_whole(&self, values: &[f32]) -> Vec<f32> {
        self.slice.cut(&self.shape, values)[self.elements.clone()].to_vec()
    }

    /// The index in the whole parameter of an element of the part.
    pub(super) fn index(&self, at: usize) -> Vec<usize> {
        let at = self.elements.start + at;
        let mut runs = self.slice.runs(&self.shape);
        let len = self.slice.shape(&self.shape).iter().product::<usize>() / runs.len();
        let run = runs.nth(at / len).expect("an element of the slice");
        unravel(run.start + at % len, &self.shape)
    }

    /// `[:, 24..48]`, `elements 0..4096 of [48, 102]`: what of the parameter is here; empty for all of it.
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        if let Some(dim) = self.slice.dim {
            let range = self.slice.start..self.slice.start + self.slice.extent;
            let all = |i: usize| if i == dim { format!("{range:?}") } else { ":".to_owned() };
            let dims: Vec<String> = (0..self.shape.len()).map(all).collect();
            text = format!("[{}]", dims.join(", "));
        }
        let n: usize = self.slice.shape(&self.shape).iter().product();
        if self.elements != (0..n) {
            let of = if text.is_empty() { format!("{:?}", self.shape) } else { text };
            text = format!("elements {:?} of {of}", self.elements);
        }
        text
    }
}

/// Which of the `n` elements of a parameter one of `parts` has.
pub(super) fn covered<'a>(n: usize, parts: impl Iterator<Item = &'a Part>) -> Vec<bool> {
    let mut has = vec![false; n];
    for part in parts {
        let all: Vec<usize> = (0..n).collect();
        for at in &part.slice.cut(&part.shape, &all)[part.elements.clone()] {
            has[*at] = true;
        }
    }
    has
}

/// The index of an element of a row-major tensor.
pub(super) fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|n| {
            let i = flat % n;
            flat /= n;
            i
        })
        .collect();
    index.reverse();
    index
}

impl Engine {
    /// The parts of the summed gradient that this rank owns, or has a copy of.
    pub(super) fn gradient_parts(&self, sums: &Sums) -> Vec<Part> {
        let mut parts = Vec::new();
        for (segment, held) in sums {
            let values: Vec<f32> =
                held.values.iter().flat_map(|values| host(values.clone())).collect();
            parts.extend(self.parts(*segment, &held.range, &values));
        }
        parts
    }

    /// The parts of the weights that this rank has.
    pub(super) fn weight_parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        for layout in self.store().layouts() {
            let range = match self.store().is_sharded() {
                true => self.state_range(layout),
                false => 0..layout.len(),
            };
            let values = self.store().values(layout.segment, &range);
            parts.extend(self.parts(layout.segment, &range, &values));
        }
        parts
    }

    /// A range of a segment, parameter by parameter.
    fn parts(&self, segment: Segment, range: &Range<usize>, values: &[f32]) -> Vec<Part> {
        let layout = self.store().layout(segment);
        let part = |portion: crate::segments::Portion| {
            let param = &layout.params[portion.param];
            let path = param.path.clone();
            let (shape, slice) = match self.layout().tensor {
                1 => {
                    let shape = param.shape.clone();
                    let extent = shape[0];
                    (shape, Slice { dim: None, start: 0, extent })
                }
                _ => self.slice(&path, &param.shape, self.place().tensor),
            };
            let values = values[portion.at].to_vec();
            Part { path, shape, slice, elements: portion.within, values }
        };
        layout.portions(range).into_iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(dim: Option<usize>, start: usize, extent: usize, elements: Range<usize>) -> Part {
        let (path, slice) = ("w".to_owned(), Slice { dim, start, extent });
        Part { path, shape: vec![3, 4], slice, elements, values: Vec::new() }
    }

    #[test]
    fn a_part_knows_its_place_in_the_whole() {
        let whole: Vec<f32> = (0..12).map(|i| i as f32).collect();
        // Columns 1 and 2 are 1, 2, 5, 6, 9, 10; of these the middle four.
        let columns = part(Some(1), 1, 2, 1..5);
        assert_eq!(columns.of_whole(&whole), [2.0, 5.0, 6.0, 9.0]);
        assert_eq!(columns.index(0), [0, 2]);
        assert_eq!(columns.index(3), [2, 1]);
        assert_eq!(columns.describe(), "elements 1..5 of [:, 1..3]");
        let rows = part(Some(0), 1, 2, 0..8);
        assert_eq!((rows.index(7), rows.describe()), (vec![2, 3], "[1..3, :]".to_owned()));
        let flat = part(None, 0, 3, 4..12);
        assert_eq!(
            (flat.index(0), flat.describe().as_str()),
            (vec![1, 0], "elements 4..12 of [3, 4]")
        );
        assert_eq!(part(None, 0, 3, 0..12).describe(), "");
        let has = covered(12, [&columns, &rows].into_iter());
        assert_eq!(has.iter().position(|has| !has), Some(0));
        assert_eq!(has.iter().filter(|has| **has).count(), 9); // 2, and 4 to 11
    }
}
