use burn::tensor::Device;
use caravan_finetune::{
    Classifier, Example, Outcome, SavedClassifier, Scores, Settings, class_names, measure, predict,
};
use caravan_model::Llama;
use caravan_tokenizer::ByteTokenizer;

use crate::support::{base, classified, examples, parameters, settings};

fn trained(settings: &Settings) -> (Outcome<Scores>, Vec<String>) {
    let all = examples(160);
    let (train, dev) = all.split_at(120);
    (classified([train, dev], settings).unwrap(), class_names("f".as_ref(), train).unwrap())
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
fn a_mean_over_a_mix_of_layers_learns_what_one_position_shows() {
    let outcome = trained(&settings(&["pool=mean", "layer_mix=true"])).0;
    assert!(outcome.scores.accuracy > 0.9, "{:?}", outcome.scores);
    let after = parameters(&outcome.model);
    let mix: Vec<f32> =
        after.iter().filter(|(path, _)| path.ends_with(".mix")).map(|(_, v)| v[0]).collect();
    assert_eq!(mix.len(), 1 + outcome.model.config().n_layers);
    assert!(mix.iter().all(|weight| *weight != 1.0 / mix.len() as f32), "{mix:?}");
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
    for (method, more) in [("lora", ""), ("full", ""), ("lora", "mean")] {
        let mut settings = settings(&[&format!("method={method}"), "epochs=3"]);
        if more == "mean" {
            settings.set("pool=mean").unwrap();
            settings.set("layer_mix=true").unwrap();
        }
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
    let refused = |changes: &[&str], dev: &[Example]| {
        classified([&all, dev], &settings(changes)).unwrap_err().to_string()
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
        classified([&all, &long], &settings(&[truncate, "epochs=1"])).unwrap();
    }
}

#[test]
fn blocks_near_the_input_learn_slower_where_that_is_asked_for() {
    let before = parameters(&base(&Device::flex()));
    let moved = |changes: &[&str], path: &str| {
        let settings = settings(&[&["method=full", "epochs=1", "warmup=0"], changes].concat());
        let after = parameters(&trained(&settings).0.model);
        let change = after[path].iter().zip(&before[path]).map(|(a, b)| f64::from((a - b).abs()));
        change.sum::<f64>() / before[path].len() as f64
    };
    let decay = &["layer_decay=0.1"][..];
    for (path, ratio) in
        [("embed.weight", 1e-3), ("blocks.0.wq.weight", 1e-2), ("blocks.1.wq.weight", 1e-1)]
    {
        let (all, slow) = (moved(&[], path), moved(decay, path));
        // The directions differ a little, the sizes of Adam's steps do not.
        assert!((slow / all / ratio - 1.0).abs() < 0.5, "{path}: {slow} of {all}");
    }
}

#[test]
fn a_rare_class_is_found_where_it_counts_as_much() {
    // One in eight is of class x, and nothing tells the two apart: what is likelier is said.
    let one = |i: usize| Example {
        line: i + 1,
        text: "the same".to_owned(),
        label: if i.is_multiple_of(8) { "x" } else { "y" }.to_owned(),
    };
    let all: Vec<Example> = (0..160).map(one).collect();
    let names = class_names("f".as_ref(), &all).unwrap();
    let rate = |weights: &str, dev: &[Example]| {
        let settings = settings(&[&format!("class_weights={weights}"), "metric=loss"]);
        let model = classified([&all, dev], &settings).unwrap().model;
        let texts = ["the same".to_owned()];
        predict(&model, &ByteTokenizer::new(), &names, &texts, 128, &settings).unwrap()[0][0]
    };
    let plain = rate("", &all);
    assert!((plain - 0.125).abs() < 0.08, "{plain}");
    let balanced = rate("x:7,y:1", &[all[0].clone(), all[1].clone()]);
    assert!((balanced - 0.5).abs() < 0.1, "{balanced}");
    let refused = |weights: &str| {
        let settings = settings(&[&format!("class_weights={weights}")]);
        classified([&all, &all], &settings).unwrap_err().to_string()
    };
    assert!(refused("z:1").contains("there is no class `z`"));
    assert!(refused("x:0").contains("a weight is a number above 0"));
    assert!(refused("heavy").contains("`balanced`"));
}
