//! What all groups of a process share, and the thread that looks after it.
//!
//! MPI moves a long message on only while its sender is inside some call of MPI. A sender that
//! computes for a second would keep its receiver waiting as long, so a thread moves messages on. The
//! same thread hears which ranks have ended, and ends all ranks when this one waits for such a rank.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::end_all;
use super::ledger::{Farewell, Ledger};
use super::sys::{Comm, Pending};
use crate::error::CollectiveError;
use crate::transport::Fault;

/// How often messages under way are moved on.
const MOVE_ON: Duration = Duration::from_micros(50);

/// How often the thread listens for ranks that have ended.
const LISTEN: Duration = Duration::from_millis(100);

/// The tag of a farewell.
const FAREWELL_TAG: i32 = 0;

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) world_rank: usize,
    /// The largest tag of MPI.
    pub(super) tag_limit: u32,
    /// A message space for farewells.
    control: Comm,
    n_ranks: usize,
    ledgers: Mutex<Vec<Arc<Ledger>>>,
    state: Mutex<State>,
    changed: Condvar,
    is_running: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Messages that have not left yet.
    under_way: Vec<Pending>,
    is_closing: bool,
}

impl Engine {
    /// Collective over `world`.
    pub(super) fn start(world: Comm) -> Result<Arc<Self>, Fault> {
        let engine = Arc::new(Self {
            world_rank: world.rank()?,
            tag_limit: world.tag_limit()?,
            control: world.duplicate()?,
            n_ranks: world.size()?,
            ledgers: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            is_running: AtomicBool::new(true),
            thread: Mutex::new(None),
        });
        let of_thread = Arc::clone(&engine);
        let thread = std::thread::Builder::new()
            .name("messages".to_owned())
            .spawn(move || {
                if let Err(fault) = of_thread.look_after() {
                    end_all(of_thread.world_rank, &format!("{fault:?}"));
                }
            })
            .map_err(|error| super::sys::fault(error.to_string()))?;
        *lock(&engine.thread) = Some(thread);
        Ok(engine)
    }

    /// False once MPI is about to be finalized.
    pub(super) fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Acquire)
    }

    /// Watches the calls of a group.
    pub(super) fn watch(&self, ledger: &Arc<Ledger>) {
        lock(&self.ledgers).push(Arc::clone(ledger));
    }

    /// Keeps a message until it has left.
    pub(super) fn keep(&self, sending: Pending) {
        lock(&self.state).under_way.push(sending);
        self.changed.notify_one();
    }

    /// Tells the others that this rank ends, and waits until they all have, or have been told that
    /// they wait in vain. Messages that nobody will receive any more are given up.
    pub(super) fn close(&self) {
        self.is_running.store(false, Ordering::Release);
        lock(&self.state).is_closing = true;
        self.changed.notify_one();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // A panic in it has ended the process already.
            let _ = thread.join();
        }
    }

    fn look_after(&self) -> Result<(), Fault> {
        let mut farewells: Vec<Option<Farewell>> = (0..self.n_ranks).map(|_| None).collect();
        let mut all_ended: Option<Pending> = None;
        let mut heard = Instant::now();
        let mut state = lock(&self.state);
        loop {
            state.under_way.retain_mut(|sending| !sending.is_complete());
            if state.is_closing && all_ended.is_none() {
                self.say_farewell(&mut state)?;
                all_ended = Some(self.control.start_barrier()?);
            }
            if all_ended.as_mut().is_some_and(Pending::is_complete) {
                for given_up in state.under_way.drain(..) {
                    given_up.abandon();
                }
                return Ok(());
            }
            let is_idle = state.under_way.is_empty() && !state.is_closing;
            state = if is_idle {
                let waited = self.changed.wait_timeout(state, LISTEN);
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                drop(state);
                std::thread::sleep(MOVE_ON);
                lock(&self.state)
            };
            if heard.elapsed() >= LISTEN {
                self.listen(&mut farewells)?;
                heard = Instant::now();
            }
        }
    }

    fn say_farewell(&self, state: &mut State) -> Result<(), Fault> {
        let ledgers = lock(&self.ledgers);
        for to in (0..self.n_ranks).filter(|to| *to != self.world_rank) {
            let words = Farewell::write(&ledgers, to);
            let bytes = bytemuck::cast_slice(&words);
            self.control.send(to, FAREWELL_TAG, bytes, |sending| state.under_way.push(sending))?;
        }
        Ok(())
    }

    fn listen(&self, farewells: &mut [Option<Farewell>]) -> Result<(), Fault> {
        while let Some((from, bytes)) = self.control.poll(FAREWELL_TAG)? {
            let words = bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned::<u64>);
            farewells[from] = Some(Farewell::read(&words.collect::<Vec<_>>()));
        }
        if farewells.iter().all(Option::is_none) {
            return Ok(());
        }
        for ledger in lock(&self.ledgers).iter() {
            if let Some((rank, call)) = ledger.waits_in_vain(farewells) {
                let (waiting, call) = (self.world_rank, call.to_string());
                let axis = ledger.axis.clone();
                let error = CollectiveError::RankEnded { rank, waiting, call, axis };
                end_all(self.world_rank, &error.to_string());
            }
        }
        Ok(())
    }
}

/// Locks, whether or not a thread panicked inside: that ends the process.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
