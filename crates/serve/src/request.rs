//! Bodies of requests: read, checked, and made into jobs.

use caravan_generate::{Message, Request, Sampler};
use caravan_tokenizer::Encode as _;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::limits::Limits;
use crate::worker::Served;

/// What both routes have in common, checked.
#[derive(Debug)]
pub(crate) struct Checked {
    /// Prompts as ids; each is continued `n` times.
    pub(crate) prompts: Vec<Vec<u32>>,
    pub(crate) n: usize,
    pub(crate) max_tokens: usize,
    pub(crate) sampler: Sampler,
    pub(crate) stop: Vec<String>,
    pub(crate) stream: bool,
    /// Whether a stream ends with the counts of tokens.
    pub(crate) include_usage: bool,
}

/// Fields that change the answer and are not built: refused rather than ignored.
const NOT_BUILT: [&str; 12] = [
    "logprobs",
    "top_logprobs",
    "echo",
    "suffix",
    "best_of",
    "logit_bias",
    "tools",
    "functions",
    "function_call",
    "tool_choice",
    "audio",
    "prediction",
];
/// Most stop strings of a request.
const MAX_STOPS: usize = 16;
/// Most choices of a request.
const MAX_CHOICES: usize = 128;

type Result<T> = std::result::Result<T, ApiError>;

/// Reads the body of a request to `/v1/completions`.
pub(crate) fn completion(body: &[u8], served: &Served, limits: &Limits) -> Result<Checked> {
    let fields = Fields::parse(body)?;
    let prompts = prompts(&fields, served)?;
    fields.checked(prompts, Some(16), served, limits)
}

/// Reads the body of a request to `/v1/chat/completions`.
pub(crate) fn chat(body: &[u8], served: &Served, limits: &Limits) -> Result<Checked> {
    let fields = Fields::parse(body)?;
    let messages = messages(&fields)?;
    let Some(template) = &served.template else {
        return Err(ApiError::field(
            "messages",
            "this model has no chat template: it was not trained on conversations; start the server with --chat-template, or use /v1/completions",
        ));
    };
    let text =
        template.render(&messages, true).map_err(|e| ApiError::field("messages", e.to_string()))?;
    let encoded = served.tokenizer.encode_with_special(&text);
    let mut ids = encoded.map_err(|e| ApiError::field("messages", e.to_string()))?;
    let begin = served.tokenizer.bos_id().filter(|_| served.tokenizer.adds_bos());
    if let Some(bos) = begin.filter(|bos| ids.first() != Some(bos)) {
        ids.insert(0, bos);
    }
    fields.checked(vec![ids], None, served, limits)
}

fn messages(fields: &Fields) -> Result<Vec<Message>> {
    const EXPECTED: &str =
        "`messages` must be a list of {\"role\": text, \"content\": text}, with at least one";
    let wrong = |i: usize, what: &str| {
        ApiError::field(&format!("messages[{i}]"), format!("{what}; {EXPECTED}"))
    };
    let list = fields.map.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| ApiError::field("messages", EXPECTED))?;
    let one = |(i, message): (usize, &Value)| {
        let role = message.get("role").and_then(Value::as_str);
        let role = role.ok_or_else(|| wrong(i, "it has no role"))?;
        let content = match message.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => {
                let text = |part: &Value| {
                    let is_text = part.get("type").is_some_and(|kind| kind == "text");
                    part.get("text").and_then(Value::as_str).filter(|_| is_text).map(str::to_owned)
                };
                let parts: Option<Vec<String>> = parts.iter().map(text).collect();
                parts.ok_or_else(|| wrong(i, "its content has a part that is no text"))?.concat()
            }
            _ => return Err(wrong(i, "its content is no text")),
        };
        Ok(Message { role: role.to_owned(), content })
    };
    list.iter().enumerate().map(one).collect()
}

/// A text, texts, ids, or lists of ids.
fn prompts(fields: &Fields, served: &Served) -> Result<Vec<Vec<u32>>> {
    let expected = || {
        ApiError::field(
            "prompt",
            "`prompt` must be a text, a list of texts, a list of token ids or a list of such lists",
        )
    };
    let text = |text: &str| -> Result<Vec<u32>> {
        let begin = served.tokenizer.bos_id().filter(|_| served.tokenizer.adds_bos());
        let mut ids: Vec<u32> = begin.into_iter().collect();
        let encoded = served.tokenizer.encode(text);
        ids.extend(encoded.map_err(|e| ApiError::field("prompt", e.to_string()))?);
        Ok(ids)
    };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = |list: &Vec<Value>| list.iter().map(id).collect::<Option<Vec<u32>>>();
    let prompts = match fields.map.get("prompt") {
        Some(Value::String(one)) => vec![text(one)?],
        Some(Value::Array(list)) if list.is_empty() => return Err(expected()),
        Some(Value::Array(list)) if list.iter().all(Value::is_number) => {
            vec![ids(list).ok_or_else(expected)?]
        }
        Some(Value::Array(list)) => {
            let one = |value: &Value| match value {
                Value::String(one) => text(one),
                Value::Array(list) => ids(list).ok_or_else(expected),
                _ => Err(expected()),
            };
            list.iter().map(one).collect::<Result<_>>()?
        }
        _ => return Err(expected()),
    };
    Ok(prompts)
}

/// A JSON object whose fields are asked for by type.
struct Fields {
    map: Map<String, Value>,
}

impl Fields {
    fn parse(body: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|e| ApiError::field("body", format!("the body is no JSON: {e}")))?;
        let Value::Object(mut map) = value else {
            return Err(ApiError::field("body", "the body must be a JSON object"));
        };
        map.retain(|_, value| !value.is_null());
        Ok(Self { map })
    }

    fn wrong(name: &str, expected: &str) -> ApiError {
        ApiError::field(name, format!("`{name}` must be {expected}"))
    }

    fn number(&self, name: &str, default: f64, low: f64, high: f64) -> Result<f64> {
        let Some(value) = self.map.get(name) else { return Ok(default) };
        let number = value.as_f64().filter(|x| (low..=high).contains(x));
        number.ok_or_else(|| Self::wrong(name, &format!("a number from {low} to {high}")))
    }

    fn count(&self, name: &str, low: usize, high: usize) -> Result<Option<usize>> {
        let Some(value) = self.map.get(name) else { return Ok(None) };
        let count = value.as_u64().and_then(|n| usize::try_from(n).ok());
        let count = count.filter(|n| (low..=high).contains(n));
        count
            .map(Some)
            .ok_or_else(|| Self::wrong(name, &format!("a whole number from {low} to {high}")))
    }

    fn flag(&self, name: &str) -> Result<bool> {
        let Some(value) = self.map.get(name) else { return Ok(false) };
        value.as_bool().ok_or_else(|| Self::wrong(name, "true or false"))
    }

    fn stop(&self) -> Result<Vec<String>> {
        let wrong =
            || Self::wrong("stop", &format!("a text or up to {MAX_STOPS} texts, none empty"));
        let stop = match self.map.get("stop") {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(list)) => {
                let texts: Option<Vec<String>> =
                    list.iter().map(|value| value.as_str().map(str::to_owned)).collect();
                texts.ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        match stop.len() <= MAX_STOPS && stop.iter().all(|one| !one.is_empty()) {
            true => Ok(stop),
            false => Err(wrong()),
        }
    }

    fn refuse(&self, served: &Served) -> Result<()> {
        if let Some(model) = self.map.get("model")
            && model != &served.name
        {
            let message = format!("no model {model} here; there is \"{}\"", served.name);
            let status = axum::http::StatusCode::NOT_FOUND;
            return Err(ApiError::new(status, message).code("model_not_found"));
        }
        for name in NOT_BUILT {
            // A default that is spelt out asks for nothing.
            let is_default = self.map.get(name).is_none_or(|value| {
                value == &Value::Bool(false)
                    || value.as_array().is_some_and(Vec::is_empty)
                    || value.as_object().is_some_and(Map::is_empty)
                    || (name == "best_of" && value == &Value::from(1))
                    || (name == "tool_choice" && value == "none")
            });
            if !is_default {
                return Err(
                    ApiError::field(name, format!("`{name}` is not supported")).code("unsupported")
                );
            }
        }
        if let Some(format) = self.map.get("response_format")
            && format.get("type").is_none_or(|kind| kind != "text")
        {
            return Err(ApiError::field("response_format", "only the type `text` is supported")
                .code("unsupported"));
        }
        Ok(())
    }

    fn checked(
        &self,
        prompts: Vec<Vec<u32>>,
        default_tokens: Option<usize>,
        served: &Served,
        limits: &Limits,
    ) -> Result<Checked> {
        self.refuse(served)?;
        let (context, vocab_size) = {
            let config = served.model.config();
            (config.max_seq_len, config.vocab_size)
        };
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        if prompts.iter().any(Vec::is_empty) {
            return Err(ApiError::field("prompt", "an empty prompt has nothing to go on from"));
        }
        if let Some(id) = prompts.iter().flatten().find(|id| **id as usize >= vocab_size) {
            return Err(ApiError::field(
                "prompt",
                format!("token id {id} is not below {vocab_size}"),
            ));
        }
        let asked = self.count("max_completion_tokens", 1, limits.max_tokens)?;
        let asked = asked.or(self.count("max_tokens", 1, limits.max_tokens)?);
        let room = context.saturating_sub(longest);
        let wanted = asked.or(default_tokens).unwrap_or(1);
        if wanted > room {
            let message = format!(
                "this model's context holds {context} tokens, but {longest} in the prompt and {wanted} to write were asked for; shorten the prompt or lower max_tokens"
            );
            return Err(ApiError::field("messages", message).code("context_length_exceeded"));
        }
        let n = self.count("n", 1, MAX_CHOICES)?.unwrap_or(1);
        if prompts.len().saturating_mul(n) > MAX_CHOICES {
            return Err(Self::wrong(
                "n",
                &format!("so that all prompts have at most {MAX_CHOICES} choices together"),
            ));
        }
        let sampler = Sampler {
            temperature: self.number("temperature", 1.0, 0.0, 2.0)?,
            top_p: Some(self.number("top_p", 1.0, 0.0, 1.0)?).filter(|p| *p < 1.0),
            top_k: self.count("top_k", 1, usize::MAX)?,
            min_p: self
                .map
                .get("min_p")
                .map(|_| self.number("min_p", 0.0, 0.0, 1.0))
                .transpose()?
                .filter(|p| *p > 0.0),
            repetition_penalty: self.number("repetition_penalty", 1.0, 0.01, 10.0)?,
            presence_penalty: self.number("presence_penalty", 0.0, -2.0, 2.0)?,
            frequency_penalty: self.number("frequency_penalty", 0.0, -2.0, 2.0)?,
            seed: match self.map.get("seed") {
                None => fresh_seed(),
                Some(seed) => seed
                    .as_i64()
                    .map(i64::cast_unsigned)
                    .or(seed.as_u64())
                    .ok_or_else(|| Self::wrong("seed", "a whole number"))?,
            },
        };
        // `top_p` of 0 is OpenAI's way to say "the likeliest".
        let sampler = match sampler.top_p {
            Some(0.0) => Sampler { top_p: None, top_k: Some(1), ..sampler },
            _ => sampler,
        };
        let options = self.map.get("stream_options");
        Ok(Checked {
            prompts,
            n,
            max_tokens: asked.or(default_tokens).unwrap_or(room.min(limits.max_tokens)),
            sampler,
            stop: self.stop()?,
            stream: self.flag("stream")?,
            include_usage: options
                .and_then(|o| o.get("include_usage"))
                .is_some_and(|f| f == &Value::Bool(true)),
        })
    }
}

/// A seed for those who did not name one.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The standard library's only source of randomness.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

impl Checked {
    /// The request of choice `i`, counted over all prompts.
    pub(crate) fn request(&self, i: usize, ends: &[u32]) -> Request {
        let seed = self.sampler.seed.wrapping_add((i % self.n) as u64);
        Request {
            prompt: self.prompts[i / self.n].clone(),
            max_tokens: self.max_tokens,
            sampler: Sampler { seed, ..self.sampler.clone() },
            ends: ends.to_vec(),
        }
    }

    pub(crate) fn n_choices(&self) -> usize {
        self.prompts.len() * self.n
    }

    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompts.iter().map(Vec::len).sum()
    }
}
