use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use caravan_collective::Communicator;
use caravan_finetune::{
    Ended, Example, FinetuneError, Outcome, Scores, Session, Settings, class_names, classify,
};
use caravan_model::{Kernels, Llama, LlamaConfig, preset};
use caravan_tokenizer::{ByteTokenizer, Encode as _};

pub(crate) fn base(device: &Device) -> Llama {
    let vocab_size = ByteTokenizer::new().vocab_size();
    let config = LlamaConfig { vocab_size, init_std: 0.1, ..preset("tiny").unwrap() };
    Llama::init(&config, 3, Kernels::Fused, device).unwrap()
}

/// Which of two letters is in the text?
pub(crate) fn examples(n: usize) -> Vec<Example> {
    let one = |i: usize| {
        let label = if i * i % 5 < 2 { "x" } else { "y" };
        let text = format!("{}{label}{}", i % 7, "z".repeat(i % 4));
        Example { line: i + 1, text, label: label.to_owned() }
    };
    (0..n).map(one).collect()
}

pub(crate) fn settings(changes: &[&str]) -> Settings {
    let mut settings = Settings::default();
    for change in
        ["epochs=8", "batch=16", "evals_per_epoch=1", "peak_lr=5e-3"].iter().chain(changes)
    {
        settings.set(change).unwrap();
    }
    settings
}

/// A classifier, trained by one rank in one go.
pub(crate) fn classified(
    sets: [&[Example]; 2],
    settings: &Settings,
) -> Result<Outcome<Scores>, FinetuneError> {
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    match classified_on(Communicator::alone(), dir.path(), &stop, sets, settings)? {
        Ended::Finished(outcome) => Ok(*outcome),
        other => panic!("{other:?}"),
    }
}

/// The same on a rank, with its state in a folder.
pub(crate) fn classified_on(
    world: Communicator,
    state: &Path,
    stop: &AtomicBool,
    sets: [&[Example]; 2],
    settings: &Settings,
) -> Result<Ended<Outcome<Scores>>, FinetuneError> {
    let names = class_names("f".as_ref(), sets[0]).unwrap();
    let session = Session { state, world, stop };
    let model = base(&Device::flex().autodiff());
    let tokenizer = ByteTokenizer::new();
    classify(model, &tokenizer, &names, sets, settings, &session, &mut |_| Ok(()))
}

pub(crate) fn parameters(model: &Llama) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    model.flat(&mut |path, _, values| {
        all.insert(path.to_owned(), values.into_data().try_into_vec().unwrap());
    });
    all
}
