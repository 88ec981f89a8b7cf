//! `caravan generate`

use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::Result;
use caravan_generate::{Options, Sampler, Stop, generate};

use crate::output;
use crate::source::Source;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// Text to go on from.
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Tokens to write at most.
    #[arg(long, default_value_t = 200, value_name = "N")]
    max_tokens: usize,
    /// 0 takes the most probable token each time; 1 samples as the model says.
    #[arg(long, default_value_t = 0.8, value_name = "X")]
    temperature: f64,
    /// Only the K most probable tokens.
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Only the most probable tokens that together have probability P.
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// The same seed gives the same text.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let sampler = Sampler {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
    };
    let options = Options { max_tokens: args.max_tokens, sampler, ..Options::default() };
    let loaded = args.source.load()?;
    let tokenizer = loaded.tokenizer()?;
    let mut failed = Ok(());
    output::piece(&args.prompt)?;
    let generated =
        generate(
            &loaded.model,
            tokenizer,
            &args.prompt,
            &options,
            &mut |text| match output::piece(text) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    failed = Err(e);
                    ControlFlow::Break(())
                }
            },
        )?;
    failed?;
    output::line("")?;
    if generated.stop == Stop::ContextFull {
        output::note("note: the model's context is full");
    }
    Ok(ExitCode::SUCCESS)
}
