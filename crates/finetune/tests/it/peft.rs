use std::path::Path;
use std::process::Command;

use burn::tensor::{Device, Int, Tensor, TensorData};
use caravan_finetune::{load_peft, save_peft};
use caravan_model::{
    Forward as _, Kernels, Llama, LlamaConfig, LoraConfig, SpecialIds, WeightDtype, preset, save_hf,
};

fn base() -> Llama {
    let config = LlamaConfig { init_std: 0.2, max_seq_len: 64, ..preset("tiny").unwrap() };
    Llama::init(&config, 4, Kernels::Fused, &Device::flex()).unwrap()
}

fn ids() -> Vec<i32> {
    (0..40).map(|i| (i * 37 + 11) % 512).collect()
}

fn logits(model: &Llama) -> Vec<f32> {
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids(), [1, 40]), &Device::flex());
    model.logits(tokens, None).into_data().try_into_vec().unwrap()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Adapters that change something: `b` is not zero.
fn adapted(lora: &LoraConfig) -> Llama {
    let model = base().with_lora(lora, 7).unwrap();
    model.map_flat(&mut |path, _, values| {
        if !path.ends_with(".lora.b") {
            return values;
        }
        let n = values.dims()[0];
        let value = |i: usize| ((i * 7919 % 1013) as f32 / 1013.0 - 0.5) * 0.2;
        Tensor::from_data(TensorData::new((0..n).map(value).collect(), [n]), &values.device())
    })
}

#[test]
fn what_is_written_is_read() {
    let targets = ["wq", "w_down"].map(str::to_owned).to_vec();
    let lora = LoraConfig { rank: 3, alpha: 12.0, targets };
    let model = adapted(&lora);
    let dir = tempfile::tempdir().unwrap();
    save_peft(&model, &lora, "base", dir.path()).unwrap();
    let (again, found) = load_peft(base(), dir.path()).unwrap();
    assert_eq!(found, lora);
    assert_eq!(logits(&again), logits(&model));
    assert!(difference(&logits(&base()), &logits(&model)) > 0.1);
    let config = dir.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"use_dora\": false", "\"use_dora\": true")).unwrap();
    let message = load_peft(base(), dir.path()).unwrap_err().to_string();
    assert!(message.contains("`use_dora` is true, expected false"), "{message}");
    assert!(save_peft(&base(), &lora, "base", dir.path()).is_err());
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the test runner says where Python is")]
fn python_peft_reads_ours_and_we_read_theirs() {
    let Some(interpreter) = std::env::var_os("CARAVAN_PYTHON") else {
        eprintln!("NOT RUN: python_peft_reads_ours_and_we_read_theirs: no Python (CARAVAN_PYTHON)");
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    save_hf(&base(), &at("base"), WeightDtype::F32, &SpecialIds::default()).unwrap();
    let targets = caravan_model::TARGETS.map(str::to_owned).to_vec();
    let lora = LoraConfig { rank: 4, alpha: 6.0, targets };
    let model = adapted(&lora);
    save_peft(&model, &lora, "base", &at("ours")).unwrap();
    let written = ids().iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/adapters.py");
    let output = Command::new(interpreter)
        .arg("-B")
        .arg(script)
        .args([at("base"), at("ours"), at("theirs")])
        .arg(written)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(why) = text.strip_prefix("NOT RUN: ") {
        eprintln!("NOT RUN: python_peft_reads_ours_and_we_read_theirs: {}", why.trim());
        return;
    }
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let values: Vec<f32> = text.lines().map(|line| line.parse().unwrap()).collect();
    let (ours, theirs) = values.split_at(values.len() / 2);
    let worst = difference(&logits(&model), ours);
    assert!(worst <= 1e-4, "our adapter in peft: logits differ by {worst}");
    let (read, found) = load_peft(base(), &at("theirs")).unwrap();
    assert_eq!((found.rank, found.targets.len()), (5, 3));
    let worst = difference(&logits(&read), theirs);
    assert!(worst <= 1e-4, "their adapter here: logits differ by {worst}");
}
