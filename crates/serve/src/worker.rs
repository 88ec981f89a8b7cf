//! The thread that owns the model: passes over it, and in between requests that come, end and are left.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use caravan_generate::{Batcher, ChatTemplate, Request, RequestId, Stop, TextStream};
use caravan_model::Llama;
use caravan_tokenizer::{Encode as _, Tokenizer};
use tokio::sync::mpsc::UnboundedSender;

use crate::metrics::Metrics;

/// A model and all that belongs to it.
#[derive(Debug)]
pub struct Served {
    /// What clients call it.
    pub name: String,
    /// The model, plain (without autodiff).
    pub model: Llama,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// How conversations are written for it; without one the chat route refuses.
    pub template: Option<ChatTemplate>,
    /// Ids that end a text.
    pub ends: Vec<u32>,
}

/// One choice that is to be written.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) stop: Vec<String>,
    /// Bounded by `max_tokens`: every piece is at least a token.
    pub(crate) pieces: UnboundedSender<Piece>,
}

/// What a choice's channel carries.
#[derive(Debug)]
pub(crate) enum Piece {
    /// More text.
    Text(String),
    /// The end: why, and how many tokens were written.
    End { stop: Stop, n_tokens: usize },
    /// Something went wrong in the model.
    Failed(String),
}

struct Writing<'a> {
    text: TextStream<'a>,
    pieces: UnboundedSender<Piece>,
    n_tokens: usize,
}

/// Works until all senders of `jobs` are gone or `ends_now` is set.
pub(crate) fn run(
    model: &Llama,
    tokenizer: &Tokenizer,
    slots: usize,
    jobs: &Receiver<Job>,
    metrics: &Metrics,
    ends_now: &AtomicBool,
) {
    let mut batcher = Batcher::new(model, slots, tokenizer.vocab_size());
    let mut writing = HashMap::<RequestId, Writing<'_>>::new();
    loop {
        let mut is_closed = false;
        // Nothing to do: wait for a job. Else take what has come.
        if batcher.is_idle() {
            match jobs.recv() {
                Ok(job) => begin(job, tokenizer, &mut batcher, &mut writing, metrics),
                Err(_) => return,
            }
        }
        loop {
            match jobs.try_recv() {
                Ok(job) => begin(job, tokenizer, &mut batcher, &mut writing, metrics),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    is_closed = true;
                    break;
                }
            }
        }
        if ends_now.load(Ordering::Relaxed) || is_closed && batcher.is_idle() {
            return;
        }
        writing.retain(|id, one| {
            if one.pieces.is_closed() {
                batcher.cancel(*id);
                metrics.cancelled.fetch_add(1, Ordering::Relaxed);
                metrics.held.fetch_sub(1, Ordering::Relaxed);
            }
            !one.pieces.is_closed()
        });
        let begun = Instant::now();
        let events = in_pool(|| batcher.step());
        for event in events {
            let Some(one) = writing.get_mut(&event.request) else { continue };
            let outcome = advance(one, &event);
            metrics.new_tokens.fetch_add(u64::from(event.id.is_some()), Ordering::Relaxed);
            if outcome {
                batcher.cancel(event.request);
                writing.remove(&event.request);
                metrics.held.fetch_sub(1, Ordering::Relaxed);
            }
        }
        metrics.steps.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        metrics.step_micros.fetch_add(micros, Ordering::Relaxed);
        metrics.running.store(batcher.running(), Ordering::Relaxed);
        metrics.waiting.store(batcher.waiting(), Ordering::Relaxed);
    }
}

fn begin<'a>(
    job: Job,
    tokenizer: &'a Tokenizer,
    batcher: &mut Batcher<'_>,
    writing: &mut HashMap<RequestId, Writing<'a>>,
    metrics: &Metrics,
) {
    let Job { request, stop, pieces } = job;
    let text = TextStream::new(tokenizer, &request.prompt, &stop);
    let begun = text.and_then(|text| Ok((batcher.submit(request)?, text)));
    match begun {
        Ok((id, text)) => {
            writing.insert(id, Writing { text, pieces, n_tokens: 0 });
        }
        // Requests were checked before; a client that has left does not mind.
        Err(error) => {
            metrics.held.fetch_sub(1, Ordering::Relaxed);
            drop(pieces.send(Piece::Failed(error.to_string())));
        }
    }
}

/// Sends what an event brought; whether the choice is over. A reader that has left is noticed before the next pass.
fn advance(one: &mut Writing<'_>, event: &caravan_generate::Event) -> bool {
    let send = |piece| drop(one.pieces.send(piece));
    if let Some(error) = &event.error {
        send(Piece::Failed(error.to_string()));
        return true;
    }
    if let Some(id) = event.id {
        one.n_tokens += 1;
        match one.text.push(id) {
            Ok("") => {}
            Ok(text) => send(Piece::Text(text.to_owned())),
            Err(error) => {
                send(Piece::Failed(error.to_string()));
                return true;
            }
        }
    }
    let stop = if one.text.is_stopped() { Some(Stop::StopString) } else { event.stop };
    let Some(mut stop) = stop else { return false };
    match one.text.finish() {
        Ok(rest) if rest.is_empty() => {}
        Ok(rest) => send(Piece::Text(rest)),
        Err(error) => {
            send(Piece::Failed(error.to_string()));
            return true;
        }
    }
    if one.text.is_stopped() {
        stop = Stop::StopString;
    }
    send(Piece::End { stop, n_tokens: one.n_tokens });
    true
}

/// Runs a pass on the first thread of the pool: a pass is hundreds of short parallel loops, and a thread outside would go to
/// sleep for each.
fn in_pool<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let work = Mutex::new(Some(work));
    let results = rayon::broadcast(|context| {
        let take = || work.lock().unwrap_or_else(PoisonError::into_inner).take();
        (context.index() == 0).then(take).flatten().map(|work| work())
    });
    results.into_iter().flatten().next().expect("a pool has a first thread")
}
