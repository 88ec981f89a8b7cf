//! What all groups of one world share: whether a rank failed, which ranks have ended.

use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use super::hub::Hub;
use crate::error::RankFailed;
use crate::transport::Fault;

/// The ranks that [`run`](super::run) started.
#[derive(Debug)]
pub(super) struct World {
    fate: Mutex<Fate>,
    /// Every group, so that all who wait can be woken.
    hubs: Mutex<Vec<Weak<Hub>>>,
}

#[derive(Debug)]
struct Fate {
    failed: Option<RankFailed>,
    ended: Vec<bool>,
}

impl World {
    pub(super) fn new(n_ranks: usize) -> Self {
        let fate = Fate { failed: None, ended: vec![false; n_ranks] };
        Self { fate: Mutex::new(fate), hubs: Mutex::new(Vec::new()) }
    }

    /// Has `hub` woken when something happens to a rank.
    pub(super) fn watch(&self, hub: Weak<Hub>) {
        let mut hubs = lock(&self.hubs);
        hubs.retain(|hub| hub.strong_count() > 0);
        hubs.push(hub);
    }

    /// The first rank that failed.
    pub(super) fn failed(&self) -> Option<RankFailed> {
        lock(&self.fate).failed.clone()
    }

    /// Records the failure of `rank` unless another came first, and wakes all who wait.
    ///
    /// Returns the first failure if it is another one.
    pub(super) fn fail(&self, rank: usize, message: &str) -> Result<(), RankFailed> {
        let mut fate = lock(&self.fate);
        if let Some(first) = &fate.failed {
            return Err(first.clone());
        }
        fate.failed = Some(RankFailed { rank, message: message.to_owned() });
        drop(fate);
        self.wake();
        Ok(())
    }

    /// Records that `rank` has returned, and wakes all who wait.
    pub(super) fn end(&self, rank: usize) {
        lock(&self.fate).ended[rank] = true;
        self.wake();
    }

    /// Why nobody should wait for any of `ranks`.
    pub(super) fn fault(&self, mut ranks: impl Iterator<Item = usize>) -> Option<Fault> {
        let fate = lock(&self.fate);
        if let Some(RankFailed { rank, message }) = fate.failed.clone() {
            return Some(Fault::Failed { rank, message });
        }
        ranks.find(|rank| fate.ended[*rank]).map(|rank| Fault::Ended { rank })
    }

    /// Called after the fate has changed, without a lock: a waiter looks at the fate while it holds
    /// its hub's lock, so it either sees the change or is woken.
    fn wake(&self) {
        let hubs = lock(&self.hubs).clone();
        for hub in hubs.iter().filter_map(Weak::upgrade) {
            hub.wake();
        }
    }
}

/// Locks, whether or not a thread panicked inside: every critical section leaves its data whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
