//! Saves three checkpoints of a toy run, prunes them, opens the latest and goes on from it.
//!
//! `cargo run --release -p caravan-checkpoint --example save_and_load`

use caravan_checkpoint::{Meta, RunLock, SaveTensor, list, open_latest, prune, save};
use serde_json::json;

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> anyhow::Result<()> {
    let run = tempfile::tempdir()?;
    let _lock = RunLock::acquire(run.path())?; // one writer per run directory
    let root = run.path().join("checkpoints");

    let mut weights = vec![1.0f32, 2.0, 3.0, 4.0];
    for step in [100, 200, 300] {
        weights.iter_mut().for_each(|w| *w *= 0.5);
        let meta = Meta {
            config: json!({"d_model": 2}),
            tokenizer_hash: "0".repeat(64),
            data: json!({"sequence": step * 8}),
            state: json!({"adamw_step": step}),
        };
        // Values are asked for one tensor at a time, while the file is written.
        let mut tensors =
            [SaveTensor::lazy_f32("model/w", &[2, 2], || weights.clone())].into_iter();
        let dir = save(&root, step, &meta, &mut tensors)?;
        println!("saved {}", dir.display());
    }
    println!("pruned {:?}", prune(&root, 2, &|_| false)?);
    println!("kept {:?}", list(&root)?.iter().map(|l| l.step).collect::<Vec<_>>());

    let checkpoint = open_latest(&root)?.expect("three were saved");
    let restored = checkpoint.f32_values_of_shape("model/w", &[2, 2])?;
    println!("step {} with {restored:?}", checkpoint.step());
    println!("data position {}", checkpoint.manifest().data);
    anyhow::ensure!(restored == weights);
    Ok(())
}
