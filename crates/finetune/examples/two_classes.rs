//! A classifier of two classes from a model with random weights: which word came, `up` or `down`?

use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use caravan_collective::Communicator;
use caravan_finetune::{Ended, Example, Session, Settings, class_names, classify};
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
    // Where the run would go on if it were interrupted.
    let state = tempfile::tempdir()?;
    let stop = AtomicBool::new(false);
    let session = Session { state: state.path(), world: Communicator::alone(), stop: &stop };
    let sets = [train, dev];
    let ended = classify(model, &tokenizer, &names, sets, &settings, &session, &mut |progress| {
        println!("{}/{}: accuracy {:.3}", progress.step, progress.steps, progress.scores.accuracy);
        Ok(())
    })?;
    if let Ended::Finished(outcome) = ended {
        println!("best after {} updates: {:.3}", outcome.best_step, outcome.scores.accuracy);
    }
    Ok(())
}
