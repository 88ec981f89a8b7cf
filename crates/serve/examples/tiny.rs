//! A server in a few lines: a model with random weights, one question, and the end.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use burn::tensor::Device;
use caravan_model::{Kernels, Llama, LlamaConfig, preset};
use caravan_serve::{Limits, Served, start};
use caravan_tokenizer::{Encode as _, TrainConfig, train_bpe};

#[allow(clippy::print_stdout, reason = "an example shows what it got")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = "the quick brown fox jumps over the lazy dog\n".repeat(50);
    let config = TrainConfig { vocab_size: 300, ..TrainConfig::default() };
    let texts = [Ok::<_, std::convert::Infallible>(text)];
    let tokenizer = Arc::new(train_bpe(&config, texts.into_iter(), &mut |_| {})?.tokenizer()?);
    let config = LlamaConfig { vocab_size: tokenizer.vocab_size(), ..preset("tiny")? };
    let model = Llama::init(&config, 0, Kernels::Fused, &Device::flex())?;
    let ends = tokenizer.eos_id().into_iter().collect();
    let served = Served { name: "tiny".to_owned(), model, tokenizer, template: None, ends };
    let server = start(served, "127.0.0.1:0", Limits::default())?;

    let body = r#"{"prompt": "the quick", "max_tokens": 8}"#;
    let mut client = std::net::TcpStream::connect(server.address())?;
    write!(
        client,
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    println!("{answer}");
    server.stop(&|| false);
    Ok(())
}
