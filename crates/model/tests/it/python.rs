//! Checks against Hugging Face's transformers itself.

use caravan_model::{
    Forward, Kernels, Llama, LlamaConfig, SpecialIds, WeightDtype, frequencies, load_hf, preset,
    save_hf, save_hf_sharded,
};

use crate::support::{self, difference, flex, host, int, largest};

#[test]
fn python_transformers_reads_our_export() {
    let device = flex();
    let scaled = preset("llama3.1-8b").unwrap().rope_scaling;
    let base = LlamaConfig { init_std: 0.2, max_seq_len: 64, ..preset("tiny").unwrap() };
    let original = caravan_model::RopeScaling { original_max_seq_len: 32, ..scaled.unwrap() };
    let configs = [
        LlamaConfig { rope_theta: 500000.0, head_dim: 20, ..base.clone() },
        LlamaConfig { tie_embeddings: true, rope_scaling: Some(original), ..base },
    ];
    for (config, dtype) in configs.iter().flat_map(|c| {
        [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::F16].map(|dtype| (c, dtype))
    }) {
        let model = Llama::init(config, 4, Kernels::Fused, &device).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let special = SpecialIds { bos: Some(1), eos: Some(2) };
        match config.tie_embeddings {
            true => save_hf_sharded(&model, dir.path(), dtype, &special, 100_000).unwrap(),
            false => save_hf(&model, dir.path(), dtype, &special).unwrap(),
        };
        let ids: Vec<i32> = (0..40).map(|i| (i * 37 + 11) % 512).collect();
        let mut arguments = vec![dir.path().display().to_string()];
        arguments.extend(ids.iter().map(i32::to_string));
        let test = "python_transformers_reads_our_export";
        let Some(lines) = support::python(test, "logits.py", &arguments) else { return };
        assert_eq!(lines[0], "[] 1 2", "nothing missing, nothing unexpected, our special ids");
        let theirs: Vec<f32> = lines[1..].iter().map(|line| line.parse().unwrap()).collect();
        // What we read back is what they read: rounded weights included.
        let (model, _) = load_hf(dir.path(), Kernels::Fused, &device).unwrap();
        let ours = host(model.logits(int(ids, [1, 40], &device), None));
        let worst = difference(&ours, &theirs);
        println!("{dtype:?}: logits up to {:.2} agree within {worst:.1e}", largest(&theirs));
        assert!(largest(&theirs) > 1.0 && worst <= 1e-4, "{dtype:?}: logits differ by {worst}");
    }
}

#[test]
fn python_frequencies_of_every_preset() {
    let device = flex();
    let mut settings: Vec<(f64, usize, Option<caravan_model::RopeScaling>)> = Vec::new();
    for name in caravan_model::PRESETS {
        let config = preset(name).unwrap();
        let setting = (config.rope_theta, config.head_dim, config.rope_scaling);
        if settings.contains(&setting) {
            continue;
        }
        settings.push(setting);
        // The tensors do not matter, so a narrow model carries the settings into config.json.
        let narrow = LlamaConfig {
            rope_theta: setting.0,
            head_dim: setting.1,
            rope_scaling: setting.2,
            ..preset("tiny").unwrap()
        };
        let model = Llama::init(&narrow, 0, Kernels::Fused, &device).unwrap();
        let dir = tempfile::tempdir().unwrap();
        save_hf(&model, dir.path(), WeightDtype::F32, &SpecialIds::default()).unwrap();
        let path = dir.path().join("config.json").display().to_string();
        let test = "python_frequencies_of_every_preset";
        let Some(lines) = support::python(test, "frequencies.py", &[path]) else { return };
        let ours = frequencies(setting.0, setting.1, setting.2);
        assert_eq!(ours.len(), lines.len());
        for (ours, theirs) in ours.iter().zip(&lines) {
            let theirs: f64 = theirs.parse().unwrap();
            // Theirs are computed in f32; where a frequency is blended, errors of 1e-7 add up.
            assert!((ours - theirs).abs() <= 2e-6 * ours, "{name}: {ours} is not {theirs}");
        }
    }
}
