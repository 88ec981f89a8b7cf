//! Ranks that go through a run together: the same steps, and the same end when one of them cannot go on.

use caravan_collective::{Communicator, ReduceOp};

use crate::error::{Result, TrainError};
use crate::identity::Identity;

/// All ranks of a run, seen from one.
#[derive(Clone, Debug)]
pub struct Ranks {
    world: Communicator,
}

impl Ranks {
    /// The ranks of `world`.
    pub fn new(world: Communicator) -> Self {
        Self { world }
    }

    /// Whether this rank speaks to the user and to the disk.
    pub fn is_first(&self) -> bool {
        self.world.rank() == 0
    }

    /// This one's number.
    pub fn rank(&self) -> usize {
        self.world.rank()
    }

    /// Whether all ranks were started alike; a note where that is not enough for equal bits. Called by all ranks, before
    /// anything else.
    ///
    /// # Errors
    /// The first that was not, on every rank.
    pub(crate) fn same(&self, mine: impl FnOnce() -> Identity) -> Result<Option<String>> {
        if self.world.size() == 1 {
            return Ok(None);
        }
        Identity::compare(&self.gather(&mine().to_bytes()))
    }

    /// Refuses ranks that found something else than the first. Called by all ranks.
    ///
    /// # Errors
    /// The first that did, on every rank.
    pub fn equal(&self, mine: &str, help: &'static str) -> Result<()> {
        let all = self.gather(mine.as_bytes());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match all.iter().position(|other| *other != all[0]) {
            None => Ok(()),
            Some(rank) => Err(TrainError::MixedRanks {
                rank,
                found: text(&all[rank]),
                expected: text(&all[0]),
                help,
            }),
        }
    }

    /// This rank's result, if all ranks have one. Called by all ranks.
    ///
    /// # Errors
    /// This rank's own error, or what the first of the others says.
    pub fn agree<T>(&self, result: Result<T>) -> Result<T> {
        let mine = result.as_ref().map_or_else(|error| error.to_string(), |_| String::new());
        let all = self.world.all_gather_v(mine.as_bytes());
        let failed = all.iter().enumerate().find(|(_, text)| !text.is_empty());
        match (result, failed) {
            (Ok(value), None) => Ok(value),
            (Err(error), _) => Err(error),
            (Ok(_), Some((rank, text))) => Err(TrainError::OtherRank {
                rank,
                message: String::from_utf8_lossy(text).into_owned(),
            }),
        }
    }

    /// What only the first rank does; the others wait for it.
    ///
    /// # Errors
    /// As [`agree`](Self::agree).
    pub fn first<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        self.agree(if self.is_first() { work().map(Some) } else { Ok(None) })
    }

    /// What every rank does, the first before the others: it makes files that they find.
    ///
    /// # Errors
    /// As [`agree`](Self::agree).
    pub fn first_then_others<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_first() {
            let made = self.agree(work())?;
            return self.agree(Ok(made));
        }
        self.agree(Ok(()))?;
        self.agree(work())
    }

    /// The first rank's bytes, on every rank.
    pub fn tell(&self, bytes: &[u8]) -> Vec<u8> {
        let mine = if self.is_first() { bytes } else { &[] };
        self.world.all_gather_v(mine).swap_remove(0)
    }

    /// Everybody's bytes, in rank order.
    pub fn gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.world.all_gather_v(bytes)
    }

    /// Whether any rank says yes.
    pub fn any(&self, yes: bool) -> bool {
        let mut answer = [u8::from(yes)];
        self.world.all_reduce(ReduceOp::Max, &mut answer);
        answer[0] == 1
    }

    /// The largest of the ranks' numbers.
    pub fn largest(&self, value: f64) -> f64 {
        let mut values = [value];
        self.world.all_reduce(ReduceOp::Max, &mut values);
        values[0]
    }
}
