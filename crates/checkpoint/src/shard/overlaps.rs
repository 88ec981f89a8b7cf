//! What two shards of one tensor have in common.

use super::{Run, Shard, boxes_meet};

/// Elements that two shards share and that are neighbours in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overlap {
    /// Position of the first in the one shard.
    pub(crate) here: usize,
    /// Position of the first in the other.
    pub(crate) there: usize,
    /// How many.
    pub(crate) len: usize,
}

impl Shard {
    /// The elements shared with `other`, by ascending position.
    ///
    /// Both lists of runs ascend, so one pass over the two finds all; runs that meet nothing are
    /// leapt over, and the time follows the number of overlaps.
    pub(crate) fn overlaps<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Overlap> + 'a {
        let meet = self.shape == other.shape
            && boxes_meet((&self.start, &self.extent), (&other.start, &other.extent));
        let (mut here, mut there) = (Cursor::new(self), Cursor::new(other));
        std::iter::from_fn(move || {
            if !meet {
                return None;
            }
            loop {
                let (a, b) = (here.run?, there.run?);
                if a.global_end() <= b.global {
                    here.seek(b.global);
                } else if b.global_end() <= a.global {
                    there.seek(a.global);
                } else {
                    let from = a.global.max(b.global);
                    let to = a.global_end().min(b.global_end());
                    // What ends here has nothing further to share.
                    if to == a.global_end() {
                        here.step(1);
                    }
                    if to == b.global_end() {
                        there.step(1);
                    }
                    return Some(Overlap {
                        here: a.local + (from - a.global),
                        there: b.local + (from - b.global),
                        len: to - from,
                    });
                }
            }
        })
    }
}

/// A place in the runs of a shard.
struct Cursor<'a> {
    shard: &'a Shard,
    n_runs: usize,
    index: usize,
    /// The run at `index`, `None` behind the last.
    run: Option<Run>,
}

impl<'a> Cursor<'a> {
    fn new(shard: &'a Shard) -> Self {
        let n_runs = shard.n_runs();
        Self { shard, n_runs, index: 0, run: (n_runs > 0).then(|| shard.run(0)) }
    }

    fn step(&mut self, n: usize) {
        self.index += n;
        self.run = (self.index < self.n_runs).then(|| self.shard.run(self.index));
    }

    /// Goes on to the first run that ends behind `global`; the present one does not.
    fn seek(&mut self, global: usize) {
        let ends_before = |index: usize| self.shard.run(index).global_end() <= global;
        // Ever longer leaps until one goes too far, then halves of the last one.
        let (mut low, mut leap) = (self.index, 1);
        while low + leap < self.n_runs && ends_before(low + leap) {
            low += leap;
            leap *= 2;
        }
        let mut high = self.n_runs.min(low + leap);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if ends_before(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        self.step(high - self.index);
    }
}
