//! A thread that makes batches ahead of their use.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use crate::{DatasetError, Loader, TokenBatch};

/// Batches that are made ahead.
const AHEAD: usize = 4;

/// The iterator of [`Loader::prefetch`]: `(first sequence, batch)`. It ends after an error, or with
/// the numbers it was given. Dropping it ends the thread.
#[derive(Debug)]
pub struct Prefetch {
    receiver: Option<Receiver<Result<(u64, TokenBatch), DatasetError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    pub(crate) fn new(
        loader: Arc<Loader>,
        sequences: impl Iterator<Item = u64> + Send + 'static,
        rows: usize,
    ) -> Self {
        let (sender, receiver) = sync_channel(AHEAD);
        let thread = std::thread::spawn(move || {
            for sequence in sequences {
                let batch = loader.batch(sequence, rows).map(|batch| (sequence, batch));
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        Self { receiver: Some(receiver), thread: Some(thread) }
    }

    /// Waits for the thread, and passes its panic on.
    fn join(&mut self) {
        self.receiver = None;
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Iterator for Prefetch {
    type Item = Result<(u64, TokenBatch), DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.receiver.as_ref()?.recv() {
            Ok(item) => Some(item),
            Err(_) => {
                self.join();
                None
            }
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.join();
    }
}
