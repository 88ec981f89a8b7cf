//! Answers in the form of OpenAI's objects: whole, and as chunks of a stream.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use caravan_generate::Stop;
use serde_json::{Value, json};

/// Which of the two routes an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Completion,
    Chat,
}

/// What all parts of an answer share.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
}

/// Counts of tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: usize,
    pub(crate) new: usize,
}

impl Usage {
    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt, "completion_tokens": self.new,
            "total_tokens": self.prompt + self.new,
        })
    }
}

/// OpenAI's name of a reason.
fn reason(stop: Stop) -> &'static str {
    match stop {
        Stop::MaxTokens | Stop::ContextFull => "length",
        _ => "stop",
    }
}

impl Head {
    pub(crate) fn new(kind: Kind, model: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{prefix}-{:x}{number:08x}", since.as_micros());
        Self { kind, id, created: since.as_secs(), model: model.to_owned() }
    }

    fn object(&self, is_chunk: bool) -> &'static str {
        match (self.kind, is_chunk) {
            (Kind::Completion, _) => "text_completion",
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
        }
    }

    fn with(&self, is_chunk: bool, choices: &[Value]) -> Value {
        json!({
            "id": self.id, "object": self.object(is_chunk), "created": self.created,
            "model": self.model, "choices": choices,
        })
    }

    /// The whole answer.
    pub(crate) fn whole(&self, choices: Vec<(String, Stop)>, usage: Usage) -> Value {
        let one = |(i, (text, stop)): (usize, (String, Stop))| match self.kind {
            Kind::Completion => {
                json!({ "index": i, "text": text, "logprobs": null, "finish_reason": reason(stop) })
            }
            Kind::Chat => json!({
                "index": i, "message": { "role": "assistant", "content": text, "refusal": null },
                "logprobs": null, "finish_reason": reason(stop),
            }),
        };
        let mut answer =
            self.with(false, &choices.into_iter().enumerate().map(one).collect::<Vec<_>>());
        answer["usage"] = usage.json();
        answer
    }

    /// What a stream of a chat begins each choice with.
    pub(crate) fn first(&self, index: usize) -> Option<Value> {
        let delta = json!({ "role": "assistant", "content": "" });
        (self.kind == Kind::Chat).then(|| self.chunk(index, &delta, &Value::Null))
    }

    /// More text of a choice.
    pub(crate) fn more(&self, index: usize, text: &str) -> Value {
        match self.kind {
            Kind::Completion => self.chunk(index, &json!(text), &Value::Null),
            Kind::Chat => self.chunk(index, &json!({ "content": text }), &Value::Null),
        }
    }

    /// The end of a choice.
    pub(crate) fn last(&self, index: usize, stop: Stop) -> Value {
        match self.kind {
            Kind::Completion => self.chunk(index, &json!(""), &json!(reason(stop))),
            Kind::Chat => self.chunk(index, &json!({}), &json!(reason(stop))),
        }
    }

    /// The counts at the end of a stream that asked for them.
    pub(crate) fn usage(&self, usage: Usage) -> Value {
        let mut chunk = self.with(true, &[]);
        chunk["usage"] = usage.json();
        chunk
    }

    fn chunk(&self, index: usize, content: &Value, finish: &Value) -> Value {
        let name = if self.kind == Kind::Chat { "delta" } else { "text" };
        let choice =
            json!({ "index": index, name: content, "logprobs": null, "finish_reason": finish });
        self.with(true, &[choice])
    }
}
