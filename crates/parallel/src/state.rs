//! Which elements of which parameters a rank keeps the optimizer's state of: what it saves, and what it reads back.

use std::ops::Range;

use crate::engine::Engine;
use crate::executor::Segment;

/// A part of a parameter, as this rank holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePart {
    /// Dotted module path.
    pub path: String,
    /// Shape of the parameter in the whole model.
    pub shape: Vec<usize>,
    /// The slice that this rank has of it: a dim and the indices in it; `None` for all of it.
    pub slice: Option<(usize, Range<usize>)>,
    /// The elements of that slice, row-major, whose state this rank keeps.
    pub elements: Range<usize>,
    /// Whether this rank saves them; of copies one rank does.
    pub saves: bool,
    segment: Segment,
}

impl Engine {
    /// The parts whose state this rank keeps, in visit order.
    pub fn state_parts(&self) -> Vec<StatePart> {
        let mut parts = Vec::new();
        for layout in self.store().layouts() {
            let range = self.state_range(layout);
            for portion in layout.portions(&range) {
                let param = &layout.params[portion.param];
                let (shape, slice) = self.global(&param.path, &param.shape);
                let saves = self.saves(layout.segment, slice.is_some());
                parts.push(StatePart {
                    path: param.path.clone(),
                    shape,
                    slice,
                    elements: portion.within,
                    saves,
                    segment: layout.segment,
                });
            }
        }
        parts
    }

    /// The weights of a part of [`state_parts`](Self::state_parts).
    pub fn weights(&self, part: &StatePart) -> Vec<f32> {
        let layout = self.store().layout(part.segment);
        let range = self.state_range(layout);
        let portions = layout.portions(&range);
        let portion = portions
            .iter()
            .find(|portion| layout.params[portion.param].path == part.path)
            .expect("a part of this rank");
        if self.store().is_sharded() {
            return self.store().values(part.segment, &range)[portion.at.clone()].to_vec();
        }
        let start = range.start + portion.at.start;
        self.store().values(part.segment, &(start..start + portion.at.len()))
    }

    /// Replaces all weights of this rank by what `read` gives: for each parameter the elements that the rank holds, which
    /// are more than those whose state it keeps where only the state is divided.
    ///
    /// # Errors
    /// What `read` returns.
    pub fn load_weights<E>(
        &mut self,
        read: &mut dyn FnMut(&StatePart) -> Result<Vec<f32>, E>,
    ) -> Result<(), E> {
        let layouts = self.store().layouts().to_vec();
        for layout in layouts {
            let range = match self.store().is_sharded() {
                true => self.state_range(&layout),
                false => 0..layout.len(),
            };
            let mut values = Vec::with_capacity(range.len());
            for portion in layout.portions(&range) {
                let param = &layout.params[portion.param];
                let (shape, slice) = self.global(&param.path, &param.shape);
                let part = StatePart {
                    path: param.path.clone(),
                    shape,
                    slice,
                    elements: portion.within,
                    saves: false,
                    segment: layout.segment,
                };
                values.extend(read(&part)?);
            }
            self.store_mut().replace(layout.segment, values);
        }
        Ok(())
    }

    /// Of the ranks that keep the same state one saves it.
    fn saves(&self, segment: Segment, is_slice: bool) -> bool {
        let (place, layout) = (self.place(), self.layout());
        let replica = match (layout.zero_stage, layout.shard) {
            (0, _) => place.replica(layout) == 0,
            (_, 1) => true,
            _ => place.data == 0,
        };
        let copy_of_tied = segment == Segment::Embed && place.pipeline > 0;
        replica && place.context == 0 && (is_slice || place.tensor == 0) && !copy_of_tied
    }
}
