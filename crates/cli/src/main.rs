//! The `caravan` program: typed arguments, nothing else. What the commands do lives in the crates.

mod allocator;
mod bench;
mod chat;
mod data;
mod evaluate;
mod export;
mod finetune;
mod generate;
mod output;
mod ranks;
mod sampling;
mod serve;
mod source;
mod tokenizer;
mod train;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Trains LLaMA models from raw text to a model that talks.
#[derive(Debug, Parser)]
#[command(name = "caravan", version, about, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model; without arguments the default configuration on the fixtures.
    Train(train::Args),
    /// Check that a layout of ranks computes what one rank computes.
    Verify(verify::Args),
    /// Let a model write.
    Generate(generate::Args),
    /// Talk with a model in the terminal.
    Chat(chat::Args),
    /// Put a model behind HTTP, in the protocol of OpenAI, with a chat page.
    Serve(serve::Args),
    /// Teach a model to classify.
    Finetune(finetune::Args),
    /// Score a model on text, tasks or given ids.
    Eval(evaluate::Args),
    /// Train and use tokenizers.
    Tokenizer(tokenizer::Args),
    /// Build and look into shards.
    Data(data::Args),
    /// Write a run's model in Hugging Face form.
    Export(export::Args),
    /// Measure speed.
    Bench(bench::Args),
}

fn main() -> ExitCode {
    allocator::keep_pages();
    let result = match Args::parse().command {
        Command::Train(args) => train::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Finetune(args) => finetune::run(&args),
        Command::Eval(args) => evaluate::run(&args),
        Command::Tokenizer(args) => tokenizer::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(code) => code,
        // The reader of our output left, as `head` does: nothing to complain about.
        Err(e) if output::is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            output::error(&e);
            ExitCode::FAILURE
        }
    }
}
