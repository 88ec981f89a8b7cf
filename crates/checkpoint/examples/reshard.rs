//! Two ranks save a matrix they hold in columns, three others read it in ranges; the threads here stand
//! for processes on any host that sees the directory.
//!
//! `cargo run --release -p caravan-checkpoint --example reshard`

use std::sync::mpsc;

use caravan_checkpoint::{Meta, RankFile, SaveTensor, Shard, Staging, open_latest_lazy, save_rank};

const ROWS: usize = 3;
const COLUMNS: usize = 5;

#[allow(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> anyhow::Result<()> {
    let run = tempfile::tempdir()?;
    let root = &run.path().join("checkpoints");
    let whole = Shard::whole(&[ROWS, COLUMNS]);
    let value = |position: usize| position as f32;

    // Rank 0 makes the directory and tells its name; reports come back to it. How they travel is the
    // caller's business: a channel here, a broadcast and a gather elsewhere.
    let staging = Staging::begin(root, 100)?;
    let (to_rank_0, reports) = mpsc::channel::<anyhow::Result<Vec<u8>>>();
    std::thread::scope(|scope| {
        for (rank, columns) in [0..2, 2..COLUMNS].into_iter().enumerate() {
            let (shard, name, to_rank_0) =
                (whole.clone().slice(1, columns), staging.name(), to_rank_0.clone());
            scope.spawn(move || {
                // A shard knows where its elements lie in the whole matrix.
                let runs = shard.runs().flat_map(|run| run.global..run.global + run.len);
                let values: Vec<f32> = runs.map(value).collect();
                println!("rank {rank} saves {values:?}");
                let part = SaveTensor::lazy_f32_part("w", shard, || values);
                let report = save_rank(root, name, rank, &mut std::iter::once(part));
                let sent = to_rank_0.send(report.map(|r| r.to_json()).map_err(Into::into));
                sent.expect("rank 0 waits for every report");
            });
        }
    });
    drop(to_rank_0);
    // An error of any rank ends here: the staging is dropped, with all that was written.
    let reports = reports.iter().map(|json| Ok(RankFile::from_json(&json?)?));
    let dir = staging.commit(&Meta::default(), reports.collect::<anyhow::Result<_>>()?)?;
    println!("committed {}", dir.display());

    for rank in 0..3 {
        let n = whole.len();
        let shard = whole.clone().elements(n * rank / 3..n * (rank + 1) / 3);
        let checkpoint = open_latest_lazy(root)?.expect("one was saved");
        let values = checkpoint.read("w", &shard)?;
        println!("rank {rank} of 3 reads {values:?}");
        anyhow::ensure!(values == shard.flat().map(value).collect::<Vec<_>>());
    }
    Ok(())
}
