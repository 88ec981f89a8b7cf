use std::collections::BTreeMap;

use burn::tensor::Device;
use caravan_finetune::{
    Classifier, Example, Outcome, SavedClassifier, Settings, class_names, classify, measure,
    predict,
};
use caravan_model::{Kernels, Llama, LlamaConfig, preset};
use caravan_tokenizer::{ByteTokenizer, Encode as _};

fn base(device: &Device) -> Llama {
    let vocab_size = ByteTokenizer::new().vocab_size();
    let config = LlamaConfig { vocab_size, init_std: 0.1, ..preset("tiny").unwrap() };
    Llama::init(&config, 3, Kernels::Fused, device).unwrap()
}

/// Which of two letters is in the text?
fn examples(n: usize) -> Vec<Example> {
    let one = |i: usize| {
        let label = if i * i % 5 < 2 { "x" } else { "y" };
        let text = format!("{}{label}{}", i % 7, "z".repeat(i % 4));
        Example { line: i + 1, text, label: label.to_owned() }
    };
    (0..n).map(one).collect()
}

fn settings(changes: &[&str]) -> Settings {
    let mut settings = Settings::default();
    for change in
        ["epochs=8", "batch=16", "evals_per_epoch=1", "peak_lr=5e-3"].iter().chain(changes)
    {
        settings.set(change).unwrap();
    }
    settings
}

fn trained(settings: &Settings) -> (Outcome, Vec<String>) {
    let all = examples(160);
    let (train, dev) = all.split_at(120);
    let names = class_names("f".as_ref(), train).unwrap();
    let model = base(&Device::flex().autodiff());
    let tokenizer = ByteTokenizer::new();
    let outcome =
        classify(model, &tokenizer, &names, [train, dev], settings, &mut |_| Ok(())).unwrap();
    (outcome, names)
}

fn parameters(model: &Llama) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    model.flat(&mut |path, _, values| {
        all.insert(path.to_owned(), values.into_data().try_into_vec().unwrap());
    });
    all
}

#[test]
fn both_methods_learn_and_change_what_they_should() {
    let before = parameters(&base(&Device::flex()));
    for method in ["lora", "full"] {
        let (outcome, _) = trained(&settings(&[&format!("method={method}"), "freeze=blocks.1.*"]));
        assert!(outcome.scores.accuracy > 0.9, "{method}: {:?}", outcome.scores);
        let after = parameters(&outcome.model);
        for (path, old) in &before {
            // The head for tokens is gone; the new one has another shape.
            if path.starts_with("head.output") {
                continue;
            }
            let stays = method == "lora" || path.starts_with("blocks.1.");
            assert_eq!(after[path] == *old, stays, "{method}: {path}");
        }
        let is_zero = |path: &str| after[path].iter().all(|x| *x == 0.0);
        if method == "lora" {
            assert!(is_zero("blocks.1.wq.lora.b") && !is_zero("blocks.0.wq.lora.b"));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let two = [trained(&settings(&["epochs=2"])), trained(&settings(&["epochs=2"]))];
    assert!(parameters(&two[0].0.model) == parameters(&two[1].0.model));
    let other = trained(&settings(&["epochs=2", "seed=1"])).0;
    assert!(parameters(&two[0].0.model) != parameters(&other.model));
}

#[test]
fn adapters_that_are_folded_in_give_the_same_logits() {
    let (outcome, names) = trained(&settings(&[]));
    let texts = ["1xz".to_owned(), "2y".to_owned(), "3xzzz".to_owned()];
    let tokenizer = ByteTokenizer::new();
    let of =
        |model: &Llama| predict(model, &tokenizer, &names, &texts, 64, &settings(&[])).unwrap();
    let (with, folded) = (of(&outcome.model), of(&outcome.model.clone().merged()));
    for (a, b) in with.iter().flatten().zip(folded.iter().flatten()) {
        assert!((a - b).abs() < 1e-5, "{a} is not {b}");
    }
    assert!(outcome.model.merged().parameters().iter().all(|p| !p.path.contains("lora")));
}

#[test]
fn a_saved_classifier_is_the_same_one() {
    for method in ["lora", "full"] {
        let settings = settings(&[&format!("method={method}"), "epochs=3"]);
        let (outcome, names) = trained(&settings);
        let dir = tempfile::tempdir().unwrap();
        let info =
            Classifier::new("base".into(), false, names.clone(), outcome.seq_len, settings.clone());
        info.save(&outcome.model, dir.path()).unwrap();
        let saved = SavedClassifier::open(dir.path()).unwrap();
        let again = saved.load(base(&Device::flex())).unwrap();
        assert!(parameters(&again) == parameters(&outcome.model), "{method}");
        let dev = &examples(160)[120..];
        let scores =
            measure(&again, &ByteTokenizer::new(), &names, dev, outcome.seq_len, &settings)
                .unwrap();
        assert_eq!(scores, outcome.scores, "{method}");
        std::fs::write(dir.path().join("weights.safetensors"), b"x").unwrap();
        let message = saved.load(base(&Device::flex())).unwrap_err().to_string();
        assert!(
            message.contains("weights.safetensors") && message.contains("\nhelp: "),
            "{message}"
        );
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let all = examples(40);
    let names = class_names("f".as_ref(), &all).unwrap();
    let refused = |changes: &[&str], dev: &[Example]| {
        let model = base(&Device::flex().autodiff());
        let result = classify(
            model,
            &ByteTokenizer::new(),
            &names,
            [&all, dev],
            &settings(changes),
            &mut |_| Ok(()),
        );
        result.unwrap_err().to_string()
    };
    let long = vec![Example { text: "x".repeat(300), ..all[0].clone() }];
    assert!(refused(&[], &long).contains("the example at line 1 has 302 tokens"));
    assert!(refused(&["seq_len=4000"], &all).contains("more than the model's context"));
    assert!(refused(&["freeze=nothing.*"], &all).contains("matches no parameter"));
    assert!(refused(&["freeze=*"], &all).contains("leaves nothing to train"));
    let other = vec![Example { label: "w".to_owned(), ..all[0].clone() }];
    assert!(refused(&[], &other).contains("`w` does not occur in training"));
    // Cut where that is asked for.
    for truncate in ["truncate=head", "truncate=tail"] {
        let model = base(&Device::flex().autodiff());
        let settings = settings(&[truncate, "epochs=1"]);
        let tokenizer = ByteTokenizer::new();
        classify(model, &tokenizer, &names, [&all, &long], &settings, &mut |_| Ok(())).unwrap();
    }
}
