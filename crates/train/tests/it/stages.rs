//! A curriculum: stages of different scale in one run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use caravan_dataset::Unit;
use caravan_train::{
    Outcome, Plan, Report, RunConfig, RunDir, Stage, open_run, read_rows, resume, train,
};

use crate::support::{Rows, config};

fn stage(unit: Unit, steps: u64, seq_len: usize, global_batch: usize) -> Stage {
    Stage {
        name: None,
        unit,
        steps,
        seq_len: Some(seq_len),
        global_batch: Some(global_batch),
        micro_batch: Some(2),
        weights: None,
    }
}

fn curriculum(dir: &Path) -> RunConfig {
    let stages = vec![
        stage(Unit::Sentence, 4, 8, 8),
        stage(Unit::Paragraph, 3, 16, 4),
        stage(Unit::Document, 3, 32, 2),
    ];
    RunConfig { stages, ..config(dir, &[]) }
}

fn finished(outcome: Outcome) -> Report {
    match outcome {
        Outcome::Finished(report) => *report,
        other => panic!("{other:?}"),
    }
}

fn parameters(dir: &Path) -> Vec<u32> {
    let run = open_run(dir, &caravan_model::device::parse("flex").unwrap()).unwrap();
    let mut bits = Vec::new();
    run.model.flat(&mut |_, _, values| {
        bits.extend(values.into_data().as_slice::<f32>().unwrap().iter().map(|v| v.to_bits()));
    });
    bits
}

#[test]
fn a_run_goes_through_its_stages_and_tells_of_each() {
    let dir = tempfile::tempdir().unwrap();
    let out = RunDir::new(dir.path().join("run"));
    let (no, mut rows) = (AtomicBool::new(false), Rows::default());
    let report = finished(train(curriculum(dir.path()), "flex", &out, &no, &mut rows).unwrap());
    let names: Vec<&str> = rows.rows.iter().filter_map(|r| r.stage.as_deref()).collect();
    let expected = [["sentence"; 4].as_slice(), &["paragraph"; 3], &["document"; 3]].concat();
    assert_eq!(names, expected);
    // No more targets than a batch of the stage has places.
    let mut before = 0;
    for (row, places) in rows.rows.iter().zip([[64; 4].as_slice(), &[64; 3], &[64; 3]].concat()) {
        let n = row.tokens - before;
        assert!(n > 0 && n <= places, "{n} targets in {places} places");
        before = row.tokens;
    }
    let scales: Vec<&str> = report.scales.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(scales, ["sentence", "paragraph", "document"]);
    // The same bytes, however they are cut; more ends to foresee where they are cut more.
    let score = |i: usize| &report.scales[i].1;
    assert!(score(0).n_bytes == score(2).n_bytes && score(1).n_bytes == score(2).n_bytes);
    assert!(score(0).n_tokens > score(2).n_tokens);
    assert!(report.markdown.contains("## By scale"), "{}", report.markdown);
    assert!(report.markdown.contains("| paragraph | paragraph | 16 | 3 | 192 |"));
}

#[test]
fn stopped_in_any_stage_and_resumed_is_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    let no = AtomicBool::new(false);
    let whole = RunDir::new(dir.path().join("whole"));
    let mut all = Rows::default();
    finished(train(curriculum(dir.path()), "flex", &whole, &no, &mut all).unwrap());
    // Inside the first stage, between two, and inside the last.
    for after in [2, 4, 9] {
        let parts = RunDir::new(dir.path().join(format!("parts{after}")));
        let mut first = Rows { stop_after: Some(after), ..Rows::default() };
        let stop = Arc::clone(&first.stop);
        let outcome = train(curriculum(dir.path()), "flex", &parts, &stop, &mut first).unwrap();
        assert!(matches!(outcome, Outcome::Stopped { steps: 10, .. }), "{outcome:?}");
        stop.store(false, Ordering::Relaxed);
        finished(resume(&parts, "flex", Ok, &stop, &mut Rows::default()).unwrap());
        assert_eq!(parameters(whole.path()), parameters(parts.path()), "after {after}");
        let losses = |dir: &RunDir| -> Vec<f64> {
            read_rows(dir.path()).unwrap().iter().map(|r| r.train_loss.unwrap()).collect()
        };
        assert_eq!(losses(&whole), losses(&parts), "after {after}");
    }
    let e = resume(
        &whole,
        "flex",
        |saved| {
            let mut stages = saved.stages.clone();
            stages[1].steps = 4;
            Ok(RunConfig { stages, ..saved })
        },
        &no,
        &mut Rows::default(),
    );
    let e = e.unwrap_err().to_string();
    assert!(e.contains("cannot go on with stages = ") && e.contains("help:"), "{e}");
}

#[test]
fn one_stage_is_a_run_without_stages() {
    let dir = tempfile::tempdir().unwrap();
    let no = AtomicBool::new(false);
    let losses = |config: RunConfig, name: &str| {
        let mut rows = Rows::default();
        let out = RunDir::new(dir.path().join(name));
        finished(train(config, "flex", &out, &no, &mut rows).unwrap());
        rows.rows.iter().map(|row| row.train_loss.unwrap()).collect::<Vec<_>>()
    };
    let plain = losses(config(dir.path(), &["steps=5"]), "plain");
    let stages = vec![stage(Unit::Document, 5, 32, 6)];
    let staged = losses(RunConfig { stages, ..config(dir.path(), &["steps=5"]) }, "staged");
    assert_eq!(plain, staged);
    // A second stage begins with the first sequences again.
    let stages = vec![
        Stage { name: Some("once".to_owned()), ..stage(Unit::Document, 5, 32, 6) },
        Stage { name: Some("again".to_owned()), ..stage(Unit::Document, 5, 32, 6) },
    ];
    let config = config(dir.path(), &["peak_lr=1e-12", "min_lr=0"]);
    let twice = losses(RunConfig { stages, ..config }, "twice");
    for (first, second) in twice[..5].iter().zip(&twice[5..]) {
        assert!((first - second).abs() < 1e-6, "{twice:?}");
    }
}

#[test]
fn a_file_says_what_the_stages_are() {
    let read = |text: &str| RunConfig::from_toml(text, Path::new("c.toml"));
    let text = "global_batch = 4\nmicro_batch = 2\n[[stages]]\nunit = \"sentence\"\nsteps = 3\nseq_len = 16\nweights = [1, 2]\n[[stages]]\nname = \"long\"\nsteps = 2\nseq_len = 64\nglobal_batch = 2\n[data]\ntext = [\"a\", \"b\"]\n";
    let plan = Plan::new(read(text).unwrap(), "flex").unwrap();
    assert_eq!(
        (plan.config.run.steps, plan.config.run.seq_len, plan.model.max_seq_len),
        (5, 64, 64)
    );
    let shape = |i: usize| {
        let (stage, run) = (&plan.stages[i], &plan.stages[i].config.run);
        (stage.first_step, run.steps, run.seq_len, run.global_batch, stage.n_micro_batches)
    };
    assert_eq!((shape(0), shape(1)), ((0, 3, 16, 4, 2), (3, 2, 64, 2, 1)));
    assert_eq!(plan.stages[0].config.data.weights, [1.0, 2.0]);
    let at = |step| plan.stage_after(step).name.clone().unwrap();
    assert_eq!([at(0), at(2), at(3), at(5)], ["sentence", "sentence", "long", "long"]);
    // What is written down and read again is the same plan.
    let again = Plan::new(read(&plan.config.to_toml()).unwrap(), "flex").unwrap();
    assert_eq!(again.stages, plan.stages);

    for (text, expected) in [
        ("[[stages]]\nunit = \"sentence\"\n", "`stages[0]` is no stage: missing field `steps`"),
        ("[[stages]]\nsteps = 1\nlength = 3\n", "`stages[0]` has the unknown key `length`"),
        ("[[stages]]\nsteps = 1\nunit = \"word\"\n", "unknown variant `word`"),
        ("stages = 3\n", "`stages` is no list of tables"),
    ] {
        let message = read(text).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("help:"), "{message}");
    }
    let words = ["seq_len=32".to_owned()];
    let message = read(text).unwrap().with_overrides(&words).unwrap_err().to_string();
    assert!(message.contains("is what the stages make it"), "{message}");
    for (text, expected) in [
        ("[[stages]]\nsteps = 1\n[[stages]]\nsteps = 2\n", "two stages are called `document`"),
        ("[[stages]]\nsteps = 0\n", "steps = 0"),
        (
            "[[stages]]\nsteps = 1\nglobal_batch = 3\nmicro_batch = 2\n",
            "stage `document`: global_batch = 3 is not a multiple",
        ),
    ] {
        let message = Plan::new(read(text).unwrap(), "flex").unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
