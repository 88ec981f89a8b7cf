//! `caravan export`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use caravan_model::{SpecialIds, WeightDtype, save_hf};
use caravan_tokenizer::Encode;
use caravan_train::open_run;

use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of a training run.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// New folder for the model in Hugging Face form.
    #[arg(long, value_name = "HFDIR")]
    out: PathBuf,
    /// Number format of the weights.
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16", "f16"])]
    dtype: String,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let device = caravan_model::device::parse("flex")?;
    let run = open_run(&args.run, &device)?;
    let dtype = match args.dtype.as_str() {
        "bf16" => WeightDtype::Bf16,
        "f16" => WeightDtype::F16,
        _ => WeightDtype::F32,
    };
    let special = SpecialIds { bos: run.tokenizer.bos_id(), eos: run.tokenizer.eos_id() };
    save_hf(&run.model, &args.out, dtype, &special)?;
    run.tokenizer.save_into(&args.out)?;
    output::note(&format!(
        "wrote `{}`: step {} of `{}`, {}",
        args.out.display(),
        run.step,
        args.run.display(),
        args.dtype
    ));
    Ok(ExitCode::SUCCESS)
}
