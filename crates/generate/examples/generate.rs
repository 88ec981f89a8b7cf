//! Samples from a model with random weights: noise as text, but every step of a real generation.
//!
//! Run with `cargo run --release -p caravan-generate --example generate`.

use std::io::Write;
use std::ops::ControlFlow;

use caravan_generate::{Options, Sampler, generate};
use caravan_model::{Kernels, Llama, device, preset};
use caravan_tokenizer::{ByteTokenizer, Encode};

fn main() -> anyhow::Result<()> {
    let tokenizer = ByteTokenizer::new();
    let config = caravan_model::LlamaConfig {
        vocab_size: tokenizer.vocab_size(),
        d_model: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        d_ff: 128,
        max_seq_len: 128,
        ..preset("8m")?
    };
    let model = Llama::init(&config, 1, Kernels::Fused, &device::parse("flex")?)?;

    let sampler = Sampler {
        temperature: 0.8,
        top_k: Some(40),
        top_p: Some(0.95),
        seed: 7,
        ..Sampler::default()
    };
    let options =
        Options { sampler, max_tokens: 60, stop: vec!["\n\n".to_owned()], ..Options::default() };
    let mut out = std::io::stdout();
    let generated = generate(&model, &tokenizer, "Once upon a time", &options, &mut |text| {
        // A closed pipe ends the generation.
        match write!(out, "{text}").and_then(|()| out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    writeln!(out, "\n[{} tokens, {:?}]", generated.ids.len(), generated.stop)?;
    Ok(())
}
