//! The `caravan` program: typed arguments, nothing else. What the commands do lives in the crates.

mod allocator;
mod bench;
mod chat;
mod data;
mod download;
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
    /// Bring a model from the Hugging Face hub.
    Download(download::Args),
    /// Teach a model to classify or to answer.
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
        Command::Download(args) => download::run(&args),
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Calls `f` with every command that does something, and the words that call it.
    fn leaves(command: &clap::Command, words: &str, f: &mut dyn FnMut(&clap::Command, &str)) {
        let mut has_children = false;
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            has_children = true;
            leaves(child, &format!("{words} {}", child.get_name()), f);
        }
        if !has_children {
            f(command, words);
        }
    }

    #[test]
    fn every_command_shows_an_example_that_its_parser_takes() {
        let mut n = 0;
        leaves(&Args::command(), "caravan", &mut |command, words| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let shown: Vec<&str> =
                help.lines().map(str::trim).filter(|line| line.starts_with("caravan ")).collect();
            assert!(shown.iter().any(|line| line.starts_with(words)), "{words}: {help}");
            for line in shown {
                // What a shell would make of the line, as far as the examples need it.
                let line = line.split(" #").next().unwrap_or_default();
                let line = line.split(" | ").next().unwrap_or_default();
                let line = line.split(" > ").next().unwrap_or_default();
                let (mut args, mut quoted) = (vec![String::new()], false);
                for c in line.trim_end().trim_end_matches(" &").chars() {
                    match c {
                        '"' | '\'' => quoted = !quoted,
                        ' ' if !quoted => args.push(String::new()),
                        c => args.last_mut().expect("a word").push(c),
                    }
                }
                if let Err(error) = Args::try_parse_from(&args) {
                    panic!("{line}: {error}");
                }
                n += 1;
            }
        });
        assert!(n > 20, "{n} examples");
    }
}
