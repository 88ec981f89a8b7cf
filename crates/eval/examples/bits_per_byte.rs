//! Bits per byte of a few sentences under a model with random weights: close to the 8 bits that knowing nothing costs.
//!
//! Run with `cargo run --release -p caravan-eval --example bits_per_byte`.

use std::io::Write;

use caravan_eval::{EvalDocument, TextOptions, evaluate_text};
use caravan_model::{Kernels, Llama, LlamaConfig, device, preset};
use caravan_tokenizer::{ByteTokenizer, Encode};

fn main() -> anyhow::Result<()> {
    let tokenizer = ByteTokenizer::new();
    let config = LlamaConfig {
        vocab_size: tokenizer.vocab_size(),
        d_model: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        d_ff: 128,
        max_seq_len: 64,
        ..preset("8m")?
    };
    let model = Llama::init(&config, 1, Kernels::Fused, &device::parse("flex")?)?;

    let texts = [
        "A caravan crosses the pass.",
        "商队翻过了山口。",
        "Nobody counted the llamas, so nobody knew.",
    ];
    let documents = texts
        .iter()
        .map(|text| EvalDocument::from_text(&tokenizer, text))
        .collect::<Result<Vec<_>, _>>()?;
    let options = TextOptions { seq_len: 64, stride: 64, rows: 4, packed: true };
    let score = evaluate_text(&model, documents, &options)?;
    writeln!(
        std::io::stdout(),
        "{:.3} bits per byte, perplexity {:.1}, over {} tokens and {} bytes of {} documents",
        score.bits_per_byte(),
        score.perplexity(),
        score.n_tokens,
        score.n_bytes,
        score.n_documents
    )?;
    Ok(())
}
