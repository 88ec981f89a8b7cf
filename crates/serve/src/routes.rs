//! The routes, and what stands before them: the key, counting, errors in one form.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use caravan_generate::Stop;
use futures_util::stream::{Stream, unfold};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::api::{Head, Kind, Usage};
use crate::body;
use crate::error::ApiError;
use crate::limits::{Limits, same_secret};
use crate::metrics::Metrics;
use crate::request::{self, Checked};
use crate::worker::{Job, Piece, Served};

/// What every route sees.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) served: Arc<Served>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) jobs: Sender<Job>,
    pub(crate) stopping: Arc<AtomicBool>,
}

type Context = State<Arc<Shared>>;

/// The chat page: one file, nothing from elsewhere.
const PAGE: &str = include_str!("page.html");

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let guarded = Router::new()
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/metrics", get(metrics))
        .layer(from_fn_with_state(Arc::clone(&shared), key));
    Router::new()
        .route("/", get(page))
        .route("/health", get(health))
        .merge(guarded)
        .method_not_allowed_fallback(other_method)
        .fallback(nothing_here)
        .layer(from_fn_with_state(Arc::clone(&shared), count))
        .with_state(shared)
}

async fn page() -> Response {
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(PAGE)).into_response()
}

async fn health(State(shared): Context) -> Response {
    let is_stopping = shared.stopping.load(Ordering::Relaxed);
    match is_stopping {
        true => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping").into_response(),
        false => Json(json!({ "status": "ok" })).into_response(),
    }
}

async fn metrics(State(shared): Context) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, shared.metrics.text()).into_response()
}

fn model_object(shared: &Shared) -> serde_json::Value {
    json!({
        "id": shared.served.name, "object": "model", "created": 0, "owned_by": "caravan",
        "has_chat_template": shared.served.template.is_some(),
        "context_length": shared.served.model.config().max_seq_len,
    })
}

async fn models(State(shared): Context) -> Response {
    Json(json!({ "object": "list", "data": [model_object(&shared)] })).into_response()
}

async fn model(
    State(shared): Context,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> Response {
    if name == shared.served.name {
        return Json(model_object(&shared)).into_response();
    }
    let message = format!("no model `{name}` here; there is `{}`", shared.served.name);
    ApiError::new(StatusCode::NOT_FOUND, message).code("model_not_found").into_response()
}

async fn nothing_here(request: Request) -> ApiError {
    let message = format!(
        "nothing at {}; there are /v1/completions, /v1/chat/completions, /v1/models, /health, /metrics and /",
        request.uri().path()
    );
    ApiError::new(StatusCode::NOT_FOUND, message)
}

async fn other_method(request: Request) -> ApiError {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Refuses requests without the key, where there is one.
async fn key(State(shared): Context, request: Request, next: Next) -> Response {
    if let Some(expected) = &shared.limits.api_key {
        let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let given = given.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
        if !same_secret(given, expected.as_bytes()) {
            let message = "the key is missing or wrong; send `Authorization: Bearer KEY`";
            return ApiError::new(StatusCode::UNAUTHORIZED, message)
                .code("invalid_api_key")
                .into_response();
        }
    }
    next.run(request).await
}

async fn count(State(shared): Context, request: Request, next: Next) -> Response {
    let route = match request.uri().path() {
        "/v1/completions" => "/v1/completions",
        "/v1/chat/completions" => "/v1/chat/completions",
        path if path.starts_with("/v1/models") => "/v1/models",
        "/health" => "/health",
        "/metrics" => "/metrics",
        "/" => "/",
        _ => "other",
    };
    let response = next.run(request).await;
    shared.metrics.answered(route, response.status().as_u16());
    response
}

async fn completions(State(shared): Context, headers: HeaderMap, request: Request) -> Response {
    answer(shared, Kind::Completion, &headers, request).await.into_response()
}

async fn chat(State(shared): Context, headers: HeaderMap, request: Request) -> Response {
    answer(shared, Kind::Chat, &headers, request).await.into_response()
}

async fn answer(
    shared: Arc<Shared>,
    kind: Kind,
    headers: &HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    let Limits { body_bytes, read, .. } = shared.limits;
    let body = body::read(headers, request.into_body(), body_bytes, read).await?;
    if shared.stopping.load(Ordering::Relaxed) {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"));
    }
    // A long prompt takes a while to encode: not on a thread that carries connections.
    let for_check = Arc::clone(&shared);
    let checked = tokio::task::spawn_blocking(move || {
        let check = if kind == Kind::Chat { request::chat } else { request::completion };
        check(&body, &for_check.served, &for_check.limits)
    });
    let gone = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "reading the request failed");
    let checked = checked.await.map_err(gone)??;
    let choices = submit(&shared, &checked)?;
    let head = Head::new(kind, &shared.served.name);
    match checked.stream {
        true => Ok(streamed(head, choices, &checked)),
        false => whole(head, choices, &checked).await,
    }
}

/// Queues all choices of a request, or none.
fn submit(shared: &Shared, checked: &Checked) -> Result<Vec<UnboundedReceiver<Piece>>, ApiError> {
    let n = checked.n_choices();
    let Limits { queue, slots, .. } = shared.limits;
    let most = queue + slots;
    let metrics = &shared.metrics;
    let add = |held: usize| (held + n <= most).then_some(held + n);
    if let Err(held) = metrics.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
        let message = format!(
            "{held} choices are being written or wait, {most} is the most: try again later"
        );
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("queue_full"));
    }
    metrics.prompt_tokens.fetch_add(checked.prompt_tokens() as u64, Ordering::Relaxed);
    (0..n)
        .map(|i| {
            let (pieces, receiver) = unbounded_channel();
            let request = checked.request(i, &shared.served.ends);
            let job = Job { request, stop: checked.stop.clone(), pieces };
            let gone = |_| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping");
            shared.jobs.send(job).map_err(gone)?;
            Ok(receiver)
        })
        .collect()
}

/// Waits for the end of all choices.
async fn whole(
    head: Head,
    choices: Vec<UnboundedReceiver<Piece>>,
    checked: &Checked,
) -> Result<Response, ApiError> {
    let mut usage = Usage { prompt: checked.prompt_tokens(), new: 0 };
    let mut done = Vec::new();
    for mut choice in choices {
        let mut text = String::new();
        let stop = loop {
            match choice.recv().await {
                Some(Piece::Text(more)) => text.push_str(&more),
                Some(Piece::End { stop, n_tokens }) => {
                    usage.new += n_tokens;
                    break stop;
                }
                Some(Piece::Failed(message)) => {
                    return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message));
                }
                None => {
                    let message = "the server ended while it was writing";
                    return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message));
                }
            }
        };
        done.push((text, stop));
    }
    Ok(Json(head.whole(done, usage)).into_response())
}

/// Server-sent events as the pieces come, `[DONE]` at the end.
fn streamed(head: Head, choices: Vec<UnboundedReceiver<Piece>>, checked: &Checked) -> Response {
    let usage = Usage { prompt: checked.prompt_tokens(), new: 0 };
    let first: Vec<String> =
        (0..choices.len()).filter_map(|i| head.first(i)).map(|chunk| chunk.to_string()).collect();
    let state = Streaming {
        head,
        choices: choices.into_iter().map(Some).collect(),
        turn: 0,
        ready: first.into(),
        usage,
        include_usage: checked.include_usage,
        is_over: false,
    };
    Sse::new(events(state)).keep_alive(KeepAlive::default()).into_response()
}

struct Streaming {
    head: Head,
    /// Gone once it has ended.
    choices: Vec<Option<UnboundedReceiver<Piece>>>,
    /// Whose turn it is to be looked at first, so that no choice starves.
    turn: usize,
    ready: std::collections::VecDeque<String>,
    usage: Usage,
    include_usage: bool,
    is_over: bool,
}

fn events(state: Streaming) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold(state, |mut state| async move {
        loop {
            if let Some(data) = state.ready.pop_front() {
                return Some((Ok(Event::default().data(data)), state));
            }
            if state.is_over {
                return None;
            }
            state.advance().await;
        }
    })
}

impl Streaming {
    /// Waits for a piece of any choice and makes it ready to be sent.
    async fn advance(&mut self) {
        let n = self.choices.len();
        let turn = self.turn;
        let next = std::future::poll_fn(|cx| {
            for k in 0..n {
                let i = (turn + k) % n;
                if let Some(choice) = &mut self.choices[i]
                    && let std::task::Poll::Ready(piece) = choice.poll_recv(cx)
                {
                    return std::task::Poll::Ready((i, piece));
                }
            }
            std::task::Poll::Pending
        });
        let (i, piece) = next.await;
        self.turn = (i + 1) % n;
        match piece {
            Some(Piece::Text(text)) => self.ready.push_back(self.head.more(i, &text).to_string()),
            Some(Piece::End { stop, n_tokens }) => {
                self.usage.new += n_tokens;
                self.end(i, stop);
            }
            Some(Piece::Failed(message)) => self.fail(&message),
            None => self.fail("the server ended while it was writing"),
        }
    }

    fn end(&mut self, i: usize, stop: Stop) {
        self.choices[i] = None;
        self.ready.push_back(self.head.last(i, stop).to_string());
        if self.choices.iter().all(Option::is_none) {
            if self.include_usage {
                self.ready.push_back(self.head.usage(self.usage).to_string());
            }
            self.ready.push_back("[DONE]".to_owned());
            self.is_over = true;
        }
    }

    /// The status line is long gone: an error inside the stream, then its end.
    fn fail(&mut self, message: &str) {
        let error = json!({ "error": { "message": message, "type": "server_error" } });
        self.ready.push_back(error.to_string());
        self.choices.iter_mut().for_each(|choice| *choice = None);
        self.is_over = true;
    }
}
