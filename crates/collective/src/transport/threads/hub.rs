//! Where the ranks of one group meet: rounds of an exchange, and mailboxes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::world::{World, lock};
use crate::transport::Fault;

/// What a rank deposits in a round.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    /// Bytes for all ranks, or one part per rank, as the operation has it.
    pub(super) parts: Vec<Box<[u8]>>,
    /// A new group, when one is made.
    pub(super) hub: Option<Arc<Hub>>,
}

/// The meeting place of one group.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) world: Arc<World>,
    /// The ranks of the group, as ranks of the world.
    pub(super) members: Vec<usize>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// For each rank, the number of its next round.
    next_round: Vec<u64>,
    /// Rounds that not all ranks have left, by number.
    rounds: HashMap<u64, Round>,
    /// Messages by (from, to, tag), in the order they were sent.
    mail: HashMap<(usize, usize, u32), VecDeque<Box<[u8]>>>,
}

#[derive(Debug)]
struct Round {
    parcels: Vec<Option<Arc<Parcel>>>,
    n_deposited: usize,
    n_taken: usize,
}

impl Hub {
    pub(super) fn new(world: &Arc<World>, members: Vec<usize>) -> Arc<Self> {
        let state = State {
            next_round: vec![0; members.len()],
            rounds: HashMap::new(),
            mail: HashMap::new(),
        };
        let hub = Arc::new(Self {
            world: Arc::clone(world),
            members,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        world.watch(Arc::downgrade(&hub));
        hub
    }

    /// Deposits a parcel and returns those of all ranks, in rank order.
    ///
    /// A rank may be a round ahead of others: rounds are told apart by their number.
    pub(super) fn exchange(&self, rank: usize, parcel: Parcel) -> Result<Vec<Arc<Parcel>>, Fault> {
        let size = self.members.len();
        let mut state = lock(&self.state);
        let number = state.next_round[rank];
        state.next_round[rank] += 1;
        let round = state.rounds.entry(number).or_insert_with(|| Round {
            parcels: vec![None; size],
            n_deposited: 0,
            n_taken: 0,
        });
        round.parcels[rank] = Some(Arc::new(parcel));
        round.n_deposited += 1;
        if round.n_deposited == size {
            self.changed.notify_all();
        }
        while state.rounds[&number].n_deposited < size {
            let absent = state.rounds[&number].parcels.iter().zip(&self.members);
            let absent = absent.filter(|(parcel, _)| parcel.is_none()).map(|(_, member)| *member);
            if let Some(fault) = self.world.fault(absent) {
                return Err(fault);
            }
            state = self.wait(state);
        }
        let round = state.rounds.get_mut(&number).expect("a round stays until all have taken");
        round.n_taken += 1;
        let taken = if round.n_taken == size {
            state.rounds.remove(&number).expect("it was there a line above").parcels
        } else {
            round.parcels.clone()
        };
        Ok(taken.into_iter().flatten().collect())
    }

    /// Leaves a message.
    pub(super) fn post(&self, from: usize, to: usize, tag: u32, message: Box<[u8]>) {
        lock(&self.state).mail.entry((from, to, tag)).or_default().push_back(message);
        self.changed.notify_all();
    }

    /// Waits for a message and takes it.
    pub(super) fn fetch(&self, from: usize, to: usize, tag: u32) -> Result<Box<[u8]>, Fault> {
        let mut state = lock(&self.state);
        loop {
            if let Some(queue) = state.mail.get_mut(&(from, to, tag)) {
                let message = queue.pop_front().expect("an empty queue is removed");
                if queue.is_empty() {
                    state.mail.remove(&(from, to, tag));
                }
                return Ok(message);
            }
            if let Some(fault) = self.world.fault([self.members[from]].into_iter()) {
                return Err(fault);
            }
            state = self.wait(state);
        }
    }

    /// Wakes all who wait here, to look at the fate of the world.
    pub(super) fn wake(&self) {
        // A waiter that has looked but does not sleep yet holds the lock.
        drop(lock(&self.state));
        self.changed.notify_all();
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}
