//! `caravan verify`: a configuration's layout, made small, against one rank.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use caravan_parallel::verify::{self, Case, Change, Demand, Report};
use caravan_train::{Plan, group};

use crate::{output, train};

#[derive(Debug, clap::Args)]
#[command(
    long_about = "Check that a layout of ranks computes what one rank computes.\n\n\
        Takes a training run's configuration, shrinks the model and keeps every axis, runs all ranks as threads of \
        this machine on made-up tokens, and compares activations, loss, every gradient and a few updates with one \
        rank. Says what differs first and on which rank; exit code 0 only if nothing does.",
    after_help = format!("Examples:
  caravan verify --ranks 4 pipeline_parallel=2
  caravan verify --config configs/fixtures.toml tensor_parallel=2 data_parallel=2 zero_stage=1

{}", train::keys_help())
)]
pub(crate) struct Args {
    /// TOML file with settings, as for `train`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ranks of the run; by default as many as the degrees multiply to.
    #[arg(long, value_name = "N")]
    ranks: Option<usize>,
    /// Where to compute: flex, tch, cuda, cuda:1, ...
    #[arg(long, default_value = "flex")]
    device: String,
    /// Settings on top of the configuration, key=value.
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (mut config, _) = train::configuration(args.config.as_deref(), &[], &args.settings)?;
    if let Some(n_ranks) = args.ranks {
        config = train::spread(&args.settings, false, config, n_ranks);
    }
    let plan = Plan::new(config, &args.device)?;
    if let Some(n_ranks) = args.ranks {
        plan.layout.check_world(n_ranks)?;
    }
    let whole = plan.verify_case();
    whole.check()?;
    let (case, changes) = whole.shrunk();
    describe(&case, &changes)?;
    let mut written = Ok(());
    let report = verify::run(&case, &mut |check| {
        let line = output::line(&check.to_string());
        if written.is_ok() {
            written = line;
        }
    })?;
    written?;
    conclude(&report)
}

/// What is run, and what was made smaller for it.
fn describe(case: &Case, changes: &[Change]) -> Result<()> {
    let layout = &case.layout;
    output::line(&format!(
        "{}: {} ranks as threads of this machine, against one rank",
        layout.describe(),
        layout.world()
    ))?;
    let changes: Vec<String> =
        changes.iter().map(|Change { key, from, to }| format!("{key} {from} -> {to}")).collect();
    let made = if changes.is_empty() { "nothing".to_owned() } else { changes.join(", ") };
    output::line(&format!("made smaller: {made}"))?;
    let m = &case.model;
    output::line(&format!(
        "kept: every degree, {} query heads to a key head, {} embeddings, {}; micro-batches of a replica: {}",
        m.n_heads / m.n_kv_heads,
        if m.tie_embeddings { "tied" } else { "untied" },
        if case.document_mask { "documents apart" } else { "no document mask" },
        case.n_micro_batches / layout.replicas(),
    ))?;
    output::line(&match case.demand() {
        Demand::SameBits => {
            format!(
                "{} parameters; this layout promises the bits of one rank",
                group(m.param_count())
            )
        }
        Demand::Within(most) => format!(
            "{} parameters; sums have another order here, and {most:e} of a tensor's largest element is allowed",
            group(m.param_count())
        ),
    })
}

/// The exit code of what was found.
///
/// # Errors
/// If anything differs, with the place.
fn conclude(report: &Report) -> Result<ExitCode> {
    let Some(check) = report.first_failure() else { return Ok(ExitCode::SUCCESS) };
    bail!(
        "this layout is not one rank's run; first {}\nhelp: do not train with it: please report this command and the lines above, and use a layout that passes",
        check.place()
    )
}

#[cfg(test)]
mod tests {
    use caravan_parallel::verify::{Check, Difference, Found};

    use super::*;

    fn check(found: Found) -> Check {
        Check { name: "gradients", demand: Demand::SameBits, found }
    }

    #[test]
    fn only_a_report_without_a_difference_succeeds() {
        let equal = check(Found::Equal { n: 3, apart: 0.0 });
        let difference = Difference {
            what: "blocks.1.wo.weight".to_owned(),
            rank: 1,
            place: "rank 1 (data 1)".to_owned(),
            part: String::new(),
            index: vec![0, 2],
            found: 1.0,
            expected: 2.0,
            against: "one rank has",
            size: 1.0,
            largest: 2.0,
            n_differ: 1,
            n: 4,
        };
        let first = Box::new(difference);
        let ranks = vec![1];
        let differs = check(Found::Differs { n_differ: 1, n: 3, first, in_model: None, ranks });
        assert!(conclude(&Report { checks: vec![equal.clone()] }).is_ok());
        let error = conclude(&Report { checks: vec![equal, differs] }).unwrap_err().to_string();
        assert!(error.contains("gradients: blocks.1.wo.weight on rank 1 (data 1)"), "{error}");
        assert!(error.contains("\nhelp: "), "{error}");
        let message = "rank 2 (tensor 0): out of memory".to_owned();
        let failed = check(Found::Failed { message });
        assert!(conclude(&Report { checks: vec![failed] }).is_err());
    }
}
