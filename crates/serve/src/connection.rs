//! Listening, connections with their limits, and the end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use crate::error::ServeError;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::routes::{Shared, router};
use crate::worker::{self, Served};

/// Threads that carry connections; the model has the others.
const CONNECTION_THREADS: usize = 2;
/// Between two looks at whether everybody is done.
const POLL: Duration = Duration::from_millis(20);

/// A server that runs until it is told to stop.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    runtime: Option<Runtime>,
    worker: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    stopping: Arc<AtomicBool>,
    ends_now: Arc<AtomicBool>,
    connections: Arc<Semaphore>,
    limits: Limits,
}

/// Starts a server that listens on `address`, such as `127.0.0.1:8080`; port 0 takes a free one.
///
/// # Errors
/// See [`ServeError`].
pub fn start(served: Served, address: &str, limits: Limits) -> Result<Running, ServeError> {
    use caravan_tokenizer::Encode as _;
    let (tokenizer, model) = (served.tokenizer.vocab_size(), served.model.config().vocab_size);
    if tokenizer > model {
        return Err(ServeError::Vocabulary { tokenizer, model });
    }
    let start = |source| ServeError::Start { source };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONNECTION_THREADS)
        .enable_all()
        .build()
        .map_err(start)?;
    let listen = |source| ServeError::Listen { address: address.to_owned(), source };
    let listener = runtime.block_on(TcpListener::bind(address)).map_err(listen)?;
    let local = listener.local_addr().map_err(listen)?;

    let (jobs, queue) = mpsc::channel();
    let metrics = Arc::new(Metrics::default());
    let (stopping, ends_now) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let served = Arc::new(served);
    let worker = {
        let (served, metrics) = (Arc::clone(&served), Arc::clone(&metrics));
        let (ends_now, slots) = (Arc::clone(&ends_now), limits.slots);
        let work = move || {
            worker::run(&served.model, &served.tokenizer, slots, &queue, &metrics, &ends_now);
        };
        std::thread::Builder::new().name("model".to_owned()).spawn(work).map_err(start)?
    };
    let shared =
        Shared { served, limits: limits.clone(), metrics, jobs, stopping: Arc::clone(&stopping) };
    let (stop, told) = watch::channel(false);
    let connections = Arc::new(Semaphore::new(limits.connections));
    let accepting =
        accept(listener, router(Arc::new(shared)), limits.read, Arc::clone(&connections), told);
    runtime.spawn(accepting);
    Ok(Running {
        address: local,
        runtime: Some(runtime),
        worker: Some(worker),
        stop,
        stopping,
        ends_now,
        connections,
        limits,
    })
}

/// Takes connections while there is room, until told to stop.
async fn accept(
    listener: TcpListener,
    router: Router,
    read: Duration,
    room: Arc<Semaphore>,
    mut told: watch::Receiver<bool>,
) {
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = told.changed() => return,
        };
        // A connection that broke at once, or no file handle left: the next may do better.
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(POLL).await;
            continue;
        };
        let (router, told) = (router.clone(), told.clone());
        tokio::spawn(async move {
            carry(stream, router, read, told).await;
            drop(permit);
        });
    }
}

/// One connection, until the client or the server ends it.
async fn carry(stream: TcpStream, router: Router, read: Duration, mut told: watch::Receiver<bool>) {
    // Small events go out at once.
    let _ = stream.set_nodelay(true);
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(read).keep_alive(true);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            // How it ended is the client's affair.
            _ = connection.as_mut() => return,
            _ = told.changed(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nothing more, lets running requests end within [`Limits::shutdown`] or until `hurry` says so, and returns
    /// whether all of them did.
    pub fn stop(mut self, hurry: &dyn Fn() -> bool) -> bool {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = self.stop.send(true);
        let begun = Instant::now();
        let all = self.limits.connections;
        // The permit that waits for the next connection is given back when accepting ends.
        let is_done = || self.connections.available_permits() == all;
        while !is_done() && begun.elapsed() < self.limits.shutdown && !hurry() {
            std::thread::sleep(POLL);
        }
        let done = is_done();
        self.end();
        done
    }

    fn end(&mut self) {
        self.ends_now.store(true, Ordering::Relaxed);
        // Drops all routes, and with them the last sender of jobs.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
