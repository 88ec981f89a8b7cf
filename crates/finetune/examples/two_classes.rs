//! A classifier of two classes from a model with random weights: which word came, `up` or `down`?

use burn::tensor::Device;
use caravan_finetune::{Example, Settings, class_names, classify};
use caravan_model::{Kernels, Llama, LlamaConfig, preset};
use caravan_tokenizer::{ByteTokenizer, Encode as _};

#[allow(clippy::print_stdout, reason = "an example shows what it got")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tokenizer = ByteTokenizer::new();
    let example = |i: usize| {
        let label = if i.is_multiple_of(3) { "up" } else { "down" };
        Example { line: i + 1, text: format!("{i} {label} {}", i * 7), label: label.to_owned() }
    };
    let examples: Vec<Example> = (0..120).map(example).collect();
    let (train, dev) = examples.split_at(90);
    let config = LlamaConfig { vocab_size: tokenizer.vocab_size(), ..preset("tiny")? };
    let model = Llama::init(&config, 0, Kernels::Fused, &Device::flex().autodiff())?;
    let mut settings = Settings::default();
    for setting in ["method=full", "peak_lr=2e-3", "epochs=6", "batch=16", "evals_per_epoch=1"] {
        settings.set(setting)?;
    }
    let names = class_names("examples".as_ref(), train)?;
    let outcome = classify(model, &tokenizer, &names, [train, dev], &settings, &mut |progress| {
        let accuracy = progress.scores.as_ref().map_or(0.0, |scores| scores.accuracy);
        println!("{}/{}: accuracy {accuracy:.3}", progress.step, progress.steps);
        Ok(())
    })?;
    println!("best after {} updates: {:.3}", outcome.best_step, outcome.scores.accuracy);
    Ok(())
}
