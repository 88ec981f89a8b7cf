//! `caravan finetune`

mod classify;
mod instruct;
mod predict;
mod run;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a classifier on labelled texts.
    Classify(classify::Args),
    /// Train a model to answer, on conversations.
    Instruct(instruct::Args),
    /// Label texts with a classifier; a JSON line for each.
    Predict(predict::Args),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Classify(args) => classify::run(args),
        Command::Instruct(args) => instruct::run(args),
        Command::Predict(args) => predict::run(args),
    }
}
