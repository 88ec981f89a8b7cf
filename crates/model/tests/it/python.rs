//! Checks against Hugging Face's transformers itself.

use std::path::Path;

use caravan_model::{
    Forward, Kernels, Llama, Llama3Scaling, LlamaConfig, PRESETS, RopeScaling, SpecialIds,
    WeightDtype, frequencies, load_gguf, load_hf, preset, save_hf, save_hf_sharded,
};

use crate::support::{self, difference, flex, host, int, largest};

/// What differs between two exports: everything that `config.json` can say.
fn configs() -> [LlamaConfig; 2] {
    let base = LlamaConfig { init_std: 0.2, max_seq_len: 64, ..preset("tiny").unwrap() };
    let scaling = preset("llama3.1-8b").unwrap().rope_scaling.unwrap();
    let RopeScaling::Llama3(scaling) = scaling else { panic!("LLaMA 3.1 scales as LLaMA 3") };
    let scaling = RopeScaling::Llama3(Llama3Scaling { original_max_seq_len: 32, ..scaling });
    [
        LlamaConfig { rope_theta: 500000.0, head_dim: 20, ..base.clone() },
        LlamaConfig { tie_embeddings: true, rope_scaling: Some(scaling), ..base },
    ]
}

#[test]
fn python_transformers_reads_our_export() {
    let device = flex();
    let root = tempfile::tempdir().unwrap();
    let ids: Vec<i32> = (0..40).map(|i| (i * 37 + 11) % 512).collect();
    let written = ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let mut arguments = vec![written];
    for (i, config) in configs().iter().enumerate() {
        let model = Llama::init(config, 4, Kernels::Fused, &device).unwrap();
        let special = SpecialIds { bos: Some(1), eos: Some(2) };
        for dtype in [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::F16] {
            let dir = root.path().join(format!("{i}-{dtype:?}"));
            match config.tie_embeddings {
                true => save_hf_sharded(&model, &dir, dtype, &special, 100_000).unwrap(),
                false => save_hf(&model, &dir, dtype, &special).unwrap(),
            };
            arguments.push(dir.display().to_string());
        }
    }
    let test = "python_transformers_reads_our_export";
    let Some(lines) = support::python(test, "logits.py", &arguments) else { return };
    let mut lines = lines.into_iter();
    for dir in &arguments[1..] {
        assert_eq!(lines.next().unwrap(), "[] 1 2", "{dir}: missing or left over; special ids");
        // What we read back is what they read: rounded weights included.
        let (model, _) = load_hf(Path::new(dir), Kernels::Fused, &device).unwrap();
        let ours = host(model.logits(int(ids.clone(), [1, 40], &device), None));
        let theirs = lines.by_ref().take(ours.len()).map(|line| line.parse().unwrap());
        let theirs: Vec<f32> = theirs.collect();
        let worst = difference(&ours, &theirs);
        println!("{dir}: logits up to {:.2} agree within {worst:.1e}", largest(&theirs));
        assert!(largest(&theirs) > 1.0 && worst <= 1e-4, "{dir}: logits differ by {worst}");
    }
}

#[test]
fn python_frequencies_of_every_preset() {
    let device = flex();
    let root = tempfile::tempdir().unwrap();
    let mut configs = Vec::new();
    let mut arguments = Vec::new();
    for name in PRESETS {
        // The tensors do not matter, so a narrow model carries the settings into config.json.
        let LlamaConfig { rope_theta, head_dim, rope_scaling, .. } = preset(name).unwrap();
        let config = LlamaConfig { rope_theta, head_dim, rope_scaling, ..preset("tiny").unwrap() };
        let model = Llama::init(&config, 0, Kernels::Fused, &device).unwrap();
        let dir = root.path().join(name);
        save_hf(&model, &dir, WeightDtype::F32, &SpecialIds::default()).unwrap();
        arguments.push(dir.join("config.json").display().to_string());
        configs.push(config);
    }
    let test = "python_frequencies_of_every_preset";
    let Some(lines) = support::python(test, "frequencies.py", &arguments) else { return };
    assert_eq!(lines.len(), configs.len());
    for ((config, line), name) in configs.iter().zip(&lines).zip(PRESETS) {
        let ours = frequencies(config.rope_theta, config.head_dim, config.rope_scaling);
        let theirs: Vec<f64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            // Theirs are computed in f32; where a frequency is blended, errors of 1e-7 add up.
            assert!((ours - theirs).abs() <= 2e-6 * ours, "{name}: {ours} is not {theirs}");
        }
    }
}

/// Logits of many models: of each a line with its path, then its values.
fn with_logits(lines: &[String], n: usize) -> Vec<(String, Vec<f32>)> {
    let of_one = |lines: &[String]| {
        let values = lines[1..].iter().map(|line| line.parse().expect("a number")).collect();
        (lines[0].clone(), values)
    };
    lines.chunks(n + 1).map(of_one).collect()
}

fn ids_below(vocab_size: i32) -> (Vec<i32>, String) {
    let ids: Vec<i32> = (0..40).map(|i| (i * 37 + 11) % vocab_size).collect();
    let written = ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    (ids, written)
}

#[test]
fn python_transformers_models_of_every_kind() {
    let device = flex();
    let root = tempfile::tempdir().unwrap();
    let (ids, written) = ids_below(160);
    let test = "python_transformers_models_of_every_kind";
    let arguments = [root.path().join("in").display().to_string(), written.clone()];
    let Some(lines) = support::python(test, "variants.py", &arguments) else { return };
    let models = with_logits(&lines, 40 * 160);
    assert_eq!(models.len(), 10);
    let mut exports = vec![written];
    for (folder, theirs) in &models {
        let (model, report) = load_hf(Path::new(folder), Kernels::Fused, &device).unwrap();
        assert!(report.unused.is_empty() && report.n_bytes > 0, "{folder}: {report:?}");
        let ours = host(model.logits(int(ids.clone(), [1, 40], &device), None));
        let worst = difference(&ours, theirs);
        println!("{folder}: logits up to {:.2} agree within {worst:.1e}", largest(theirs));
        assert!(largest(theirs) > 1.0 && worst <= 1e-4, "{folder}: logits differ by {worst}");
        let out = root.path().join("out").join(Path::new(folder).file_name().unwrap());
        save_hf(&model, &out, WeightDtype::F32, &report.special).unwrap();
        exports.push(out.display().to_string());
    }
    let lines = support::python(test, "logits.py", &exports).expect("it ran before");
    for ((folder, theirs), again) in models.iter().zip(with_logits(&lines, 40 * 160)) {
        assert!(again.0.starts_with("[] "), "{folder}: missing or left over: {}", again.0);
        let worst = difference(&again.1, theirs);
        assert!(worst <= 1e-4, "{folder}: the export's logits differ by {worst}");
    }
}

#[test]
fn python_gguf_files_of_every_type() {
    let device = flex();
    let root = tempfile::tempdir().unwrap();
    let (ids, written) = ids_below(160);
    let test = "python_gguf_files_of_every_type";
    let arguments = [root.path().display().to_string(), written];
    let Some(lines) = support::python(test, "gguf_models.py", &arguments) else { return };
    let models = with_logits(&lines, 40 * 160);
    assert_eq!(models.len(), 15);
    for (path, theirs) in models {
        let (model, report) = load_gguf(Path::new(&path), Kernels::Fused, &device).unwrap();
        assert!(report.unused.is_empty(), "{path}: {report:?}");
        let ours = host(model.logits(int(ids.clone(), [1, 40], &device), None));
        let worst = difference(&ours, &theirs);
        println!("{path}: logits up to {:.2} agree within {worst:.1e}", largest(&theirs));
        assert!(largest(&theirs) > 1.0 && worst <= 1e-4, "{path}: logits differ by {worst}");
    }
}
