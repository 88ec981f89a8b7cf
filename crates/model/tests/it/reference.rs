//! Logits, losses, gradients and greedy ids of models whose numbers transformers computed.

use std::path::Path;

use anyhow::Result;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use caravan_model::{
    Forward, Kernels, Llama, Positions, SpecialIds, WeightDtype, frequencies, load_hf, save_hf,
};

use crate::support::{self, Reference, difference, flex, host, int, largest, parameters};

/// Issue's demand on logits, and on gradients relative to each tensor's largest element. The references themselves are
/// within 1.2e-5 of float64 (`float64_max_logit_diff`), the mistakes they list move logits by 5e-4 or more.
const TOLERANCE: f32 = 1e-4;

#[test]
fn fixtures_agree() {
    check(&support::fixtures());
}

#[test]
fn shared_references_agree() {
    if let Some(found) = support::shared("shared_references_agree") {
        check(&found);
    }
}

fn check(dirs: &[impl AsRef<Path>]) {
    for dir in dirs {
        let reference = Reference::open(dir.as_ref()).unwrap();
        let name = dir.as_ref().display();
        frequencies_agree(&reference).unwrap();
        for kernels in [Kernels::Reference, Kernels::Fused] {
            let run = |part: &str, check: fn(&Reference, Kernels) -> Result<f32>| {
                let worst = check(&reference, kernels).unwrap();
                println!("{name} {kernels:?}: {part} within {worst:.1e}");
            };
            run("logits", logits_agree);
            run("losses", losses_agree);
            run("gradients", gradients_agree);
            run("greedy ids, smallest margin", greedy_ids_agree);
            run("after export", exported_model_agrees);
        }
    }
}

fn frequencies_agree(reference: &Reference) -> Result<()> {
    let model = reference.model(Kernels::Reference, &flex())?;
    let config = model.config();
    let ours = frequencies(config.rope_theta, config.head_dim, config.rope_scaling);
    for (ours, theirs) in ours.iter().zip(reference.floats("inv_freq")?) {
        // Theirs are computed in f32 with a power in between.
        assert!((ours - f64::from(theirs)).abs() <= 1e-6 * ours, "{ours} is not {theirs}");
    }
    Ok(())
}

fn logits_agree(reference: &Reference, kernels: Kernels) -> Result<f32> {
    let device = flex();
    let model = reference.model(kernels, &device)?;
    let ours = host(model.logits(reference.inputs(&device)?, None));
    let worst = difference(&ours, &reference.floats("logits")?);
    assert!(worst <= TOLERANCE, "logits differ by {worst}");
    Ok(worst)
}

fn losses_agree(reference: &Reference, kernels: Kernels) -> Result<f32> {
    let device = flex();
    let model = reference.model(kernels, &device)?;
    let inputs = reference.inputs(&device)?;
    let [rows, n] = inputs.dims();
    let (targets, count) = reference.targets("input_ids", &device)?;
    let each = host(model.token_losses(inputs.clone(), targets.clone(), None));
    let theirs = reference.floats("token_logprobs")?;
    for row in 0..rows {
        let ours = &each[row * n..(row + 1) * n];
        let log_p: Vec<f32> = ours[..n - 1].iter().map(|loss| -loss).collect();
        let worst = difference(&log_p, &theirs[row * (n - 1)..(row + 1) * (n - 1)]);
        assert!(worst <= TOLERANCE, "log-probabilities differ by {worst}");
        assert_eq!(ours[n - 1], 0.0, "an ignored target costs nothing");
    }
    let tolerance = reference.number("/suggested_tolerance/loss") as f32;
    let mut worst = 0f32;
    let (masked, masked_count) = reference.targets("labels_masked", &device)?;
    for (targets, count, key) in [(targets, count, "/loss"), (masked, masked_count, "/loss_masked")]
    {
        let sum = host(model.loss(inputs.clone(), targets, None))[0];
        let off = (sum / count as f32 - reference.number(key) as f32).abs();
        assert!(off <= tolerance, "{key} differs by {off}");
        worst = worst.max(off);
    }
    Ok(worst)
}

/// Gradients of the whole model as one graph, in the parameters' own layout.
fn gradients(model: &Llama, gradients: &Gradients) -> Vec<Vec<f32>> {
    struct Collect<'a> {
        gradients: &'a Gradients,
        found: Vec<Vec<f32>>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(self.gradients).expect("every parameter is used");
            // Linear weights are [d_in, d_out] here, [d_out, d_in] there; both orders are tried by shape below.
            self.found.push(host(gradient));
        }
    }
    let mut collect = Collect { gradients, found: Vec::new() };
    model.visit(&mut collect);
    collect.found
}

fn gradients_agree(reference: &Reference, kernels: Kernels) -> Result<f32> {
    let device = flex().autodiff();
    let model = reference.model(kernels, &device)?;
    let (targets, count) = reference.targets("labels_masked", &device)?;
    let loss = model.loss(reference.inputs(&device)?, targets, None) / count as f64;
    let found = gradients(&model, &loss.backward());
    let mut worst = 0f32;
    for (info, ours) in model.parameters().iter().zip(found) {
        let name = hugging_face_name(&info.path);
        let mut theirs = reference.floats(&format!("grad.{name}"))?;
        if info.shape.len() == 2 && info.path != "embed.weight" {
            theirs = transposed(&theirs, info.shape[1], info.shape[0]);
        }
        let off = difference(&ours, &theirs) / largest(&theirs);
        assert!(off <= TOLERANCE, "gradient of {} differs by {off}", info.path);
        worst = worst.max(off);
    }
    Ok(worst)
}

/// Written apart from the library's own table.
fn hugging_face_name(path: &str) -> String {
    let mut name = path.to_owned();
    for (ours, theirs) in [
        ("embed.", "model.embed_tokens."),
        ("blocks.", "model.layers."),
        ("attention_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("w_gate", "mlp.gate_proj"),
        ("w_up", "mlp.up_proj"),
        ("w_down", "mlp.down_proj"),
        ("wq", "self_attn.q_proj"),
        ("wk", "self_attn.k_proj"),
        ("wv", "self_attn.v_proj"),
        ("wo", "self_attn.o_proj"),
        ("head.norm", "model.norm"),
        ("head.output", "lm_head"),
    ] {
        name = name.replace(ours, theirs);
    }
    name
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

fn greedy_ids_agree(reference: &Reference, kernels: Kernels) -> Result<f32> {
    let device = flex();
    let model = reference.model(kernels, &device)?;
    let (expected, [_, n]) = reference.ints("greedy_ids")?;
    let prompt_len = reference.number("/greedy/prompt_len") as usize;
    let mut cache = model.new_cache(1, n);
    let mut ids = expected[..prompt_len].to_vec();
    let mut next = ids.clone();
    while ids.len() < n {
        let shape = [1, next.len()];
        let logits = host(model.extend(int(next, shape, &device), &mut cache, Positions::Last));
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        next = vec![best as i32];
        ids.push(best as i32);
    }
    assert_eq!(ids, expected);
    Ok(reference.number("/greedy/smallest_margin") as f32)
}

fn exported_model_agrees(reference: &Reference, kernels: Kernels) -> Result<f32> {
    let device = flex();
    let model = reference.model(kernels, &device)?;
    let dir = tempfile::tempdir()?;
    save_hf(&model, dir.path(), WeightDtype::F32, &SpecialIds::default())?;
    let (again, report) = load_hf(dir.path(), kernels, &device)?;
    assert!(report.unused.is_empty() && report.notes.is_empty());
    assert_eq!(model.config(), again.config());
    assert!(parameters(&model) == parameters(&again), "exported weights must keep every bit");
    let worst = difference(
        &host(again.logits(reference.inputs(&device)?, None)),
        &reference.floats("logits")?,
    );
    assert!(worst <= TOLERANCE);
    Ok(worst)
}
