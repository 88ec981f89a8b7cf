//! The flat index of a segment's parameters, and how ranks divide it.
//!
//! A segment's parameters lie one after the other in visit order, each row-major. The index is cut only at the ends of
//! parameters and of their 4,096-element blocks (`caravan_optim::BLOCK`), so that the sums of a gradient norm never
//! cross a cut. Everything here is a pure function of shapes: every rank computes what any other one holds.

use std::ops::Range;

use caravan_model::ParamInfo;
use caravan_optim::BLOCK;

use crate::executor::Segment;

/// One parameter's place in its segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentParam {
    /// Dotted module path.
    pub path: String,
    /// Its shape on this rank.
    pub shape: Vec<usize>,
    /// Its elements in the segment's flat index.
    pub range: Range<usize>,
}

/// The parameters of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentLayout {
    /// Which segment; a tied use has the embedding's layout.
    pub segment: Segment,
    /// In visit order.
    pub params: Vec<SegmentParam>,
}

/// A part of one parameter: what a range of the segment holds of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Index into [`SegmentLayout::params`].
    pub param: usize,
    /// Elements of the parameter's own flat index.
    pub within: Range<usize>,
    /// The same elements, counted from the start of the range that was asked for.
    pub at: Range<usize>,
}

impl SegmentLayout {
    /// The segments of a model, in visit order, from its parameters as they are on this rank.
    ///
    /// # Panics
    /// If a path does not begin with `embed.`, `blocks.N.` or `head.`.
    pub fn of(params: &[ParamInfo]) -> Vec<Self> {
        let mut segments: Vec<Self> = Vec::new();
        for ParamInfo { path, shape } in params {
            let segment = segment_of(path);
            if segments.last().is_none_or(|last| last.segment != segment) {
                segments.push(Self { segment, params: Vec::new() });
            }
            let last = segments.last_mut().expect("just pushed");
            let start = last.len();
            let range = start..start + shape.iter().product::<usize>();
            last.params.push(SegmentParam { path: path.clone(), shape: shape.clone(), range });
        }
        segments
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.params.last().map_or(0, |param| param.range.end)
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of blocks: each parameter's own, the last of which may be short.
    pub fn n_blocks(&self) -> usize {
        self.params.iter().map(|param| param.range.len().div_ceil(BLOCK)).sum()
    }

    /// The part of rank `index` of `count`: as even as whole blocks allow. Parts of `count` are unions of parts of any
    /// multiple of `count`.
    pub fn part(&self, index: usize, count: usize) -> Range<usize> {
        assert!(index < count, "part {index} of {count}");
        let n = self.n_blocks();
        self.start_of(index * n / count)..self.start_of((index + 1) * n / count)
    }

    /// The blocks of [`part`](Self::part), numbered through the segment.
    pub fn blocks_of_part(&self, index: usize, count: usize) -> Range<usize> {
        let n = self.n_blocks();
        index * n / count..(index + 1) * n / count
    }

    /// What a range of the flat index holds of each parameter, in order.
    pub fn portions(&self, range: &Range<usize>) -> Vec<Portion> {
        let cut = |(param, p): (usize, &SegmentParam)| {
            let (start, end) = (p.range.start.max(range.start), p.range.end.min(range.end));
            (start < end).then(|| Portion {
                param,
                within: start - p.range.start..end - p.range.start,
                at: start - range.start..end - range.start,
            })
        };
        self.params.iter().enumerate().filter_map(cut).collect()
    }

    /// First element of a block; the length for the block past the last.
    fn start_of(&self, mut block: usize) -> usize {
        for param in &self.params {
            let n = param.range.len().div_ceil(BLOCK);
            if block < n {
                return param.range.start + block * BLOCK;
            }
            block -= n;
        }
        self.len()
    }
}

fn segment_of(path: &str) -> Segment {
    let mut names = path.split('.');
    match (names.next(), names.next().map(str::parse)) {
        (Some("embed"), _) => Segment::Embed,
        (Some("blocks"), Some(Ok(index))) => Segment::Block(index),
        (Some("head"), _) => Segment::Head,
        _ => panic!("`{path}` belongs to no segment"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(sizes: &[usize]) -> SegmentLayout {
        let infos: Vec<ParamInfo> = sizes
            .iter()
            .enumerate()
            .map(|(i, &n)| ParamInfo { path: format!("blocks.3.p{i}.weight"), shape: vec![n] })
            .collect();
        SegmentLayout::of(&infos).remove(0)
    }

    #[test]
    fn paths_fall_into_segments_in_visit_order() {
        let info = |path: &str, n| ParamInfo { path: path.to_owned(), shape: vec![n, 2] };
        let segments = SegmentLayout::of(&[
            info("embed.weight", 5),
            info("blocks.0.wq.weight", 3),
            info("blocks.0.wo.weight", 4),
            info("blocks.1.wq.weight", 3),
            info("head.norm.weight", 1),
        ]);
        let found: Vec<_> = segments.iter().map(|s| (s.segment, s.len())).collect();
        assert_eq!(
            found,
            [
                (Segment::Embed, 10),
                (Segment::Block(0), 14),
                (Segment::Block(1), 6),
                (Segment::Head, 2)
            ]
        );
        assert_eq!(segments[1].params[1].range, 6..14);
    }

    proptest! {
        #[test]
        fn parts_tile_the_segment_at_block_boundaries(
            sizes in prop::collection::vec(1usize..20_000, 1..6), count in 1usize..9, finer in 1usize..4,
        ) {
            let layout = layout(&sizes);
            let mut at = 0;
            let mut blocks = 0;
            for index in 0..count {
                let part = layout.part(index, count);
                prop_assert_eq!(part.start, at);
                at = part.end;
                let fine: Vec<_> = (0..finer).map(|i| layout.part(index * finer + i, count * finer)).collect();
                prop_assert_eq!((fine[0].start, fine[finer - 1].end), (part.start, part.end));
                let portions = layout.portions(&part);
                let n: usize = portions.iter().map(|p| p.within.len().div_ceil(BLOCK)).sum();
                prop_assert_eq!(n, layout.blocks_of_part(index, count).len());
                prop_assert_eq!(layout.blocks_of_part(index, count).start, blocks);
                blocks += n;
                for portion in portions {
                    prop_assert_eq!(portion.within.start % BLOCK, 0);
                    let param = &layout.params[portion.param].range;
                    prop_assert_eq!(param.start + portion.within.start, part.start + portion.at.start);
                    prop_assert_eq!(portion.within.len(), portion.at.len());
                }
            }
            prop_assert_eq!(at, layout.len());
            prop_assert_eq!(blocks, layout.n_blocks());
        }
    }
}
