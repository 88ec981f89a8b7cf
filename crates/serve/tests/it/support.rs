use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use burn::tensor::Device;
use caravan_generate::{ChatTemplate, TEMPLATES};
use caravan_model::{Kernels, Llama, LlamaConfig, preset};
use caravan_serve::{Limits, Running, Served, start};
use caravan_tokenizer::{Encode as _, Tokenizer, TrainConfig, train_bpe};
use serde_json::Value;

pub(crate) const CONTEXT: usize = 256;

pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    static MADE: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let make = || {
        let text =
            "the quick brown fox jumps over the lazy dog; <|im_start|> user assistant\n".repeat(40);
        let config = TrainConfig { vocab_size: 320, ..TrainConfig::default() };
        let trained = {
            let texts = [Ok::<_, std::convert::Infallible>(text)];
            train_bpe(&config, texts.into_iter(), &mut |_| {}).unwrap()
        };
        Arc::new(trained.tokenizer().unwrap())
    };
    Arc::clone(MADE.get_or_init(make))
}

pub(crate) fn model() -> Llama {
    let config = LlamaConfig {
        vocab_size: tokenizer().vocab_size(),
        max_seq_len: CONTEXT,
        init_std: 0.3, // far from uniform, so that greedy choices are clear
        ..preset("tiny").unwrap()
    };
    Llama::init(&config, 5, Kernels::Fused, &Device::flex()).unwrap()
}

pub(crate) fn server(limits: Limits) -> Running {
    server_with(limits, tokenizer().eos_id().into_iter().collect())
}

/// A server whose texts end at these ids alone.
pub(crate) fn server_with(limits: Limits, ends: Vec<u32>) -> Running {
    let source = TEMPLATES.iter().find(|(name, _)| *name == "plain").unwrap().1;
    let served = Served {
        name: "tiny".to_owned(),
        model: model(),
        tokenizer: tokenizer(),
        template: Some(ChatTemplate::new(source, "<s>", "</s>").unwrap()),
        ends,
    };
    start(served, "127.0.0.1:0", limits).unwrap()
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The data of a stream's events.
    pub(crate) fn events(&self) -> Vec<String> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(str::to_owned).collect()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends raw bytes and reads to the end.
pub(crate) fn raw(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(address);
    stream.write_all(bytes).unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let all = String::from_utf8(all).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or((&all, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = match head.to_lowercase().contains("transfer-encoding: chunked") {
        true => unchunked(body),
        false => body.to_owned(),
    };
    Answer { status, head: head.to_owned(), body }
}

fn unchunked(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        out.push_str(&rest[..size]);
        body = rest[size..].strip_prefix("\r\n").unwrap_or("");
    }
    out
}

pub(crate) fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    raw(address, request("POST", path, "", body).as_bytes())
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    raw(address, request("GET", path, "", "").as_bytes())
}
