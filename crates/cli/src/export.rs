//! `caravan export`: a model in Hugging Face form, read back to see that it is the same.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use burn::tensor::{Int, Tensor, TensorData};
use caravan_model::{Forward, Kernels, Llama, SpecialIds, WeightDtype, load_hf, save_hf};
use caravan_tokenizer::{Encode as _, Tokenizer};

use crate::output;
use crate::source::Source;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  caravan export --run runs/1 --out exported
  caravan export --model model.gguf --adapter tuned/adapter --out merged --dtype bf16")]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// New folder for the model in Hugging Face form.
    #[arg(long, value_name = "HFDIR")]
    out: PathBuf,
    /// Number format of the weights.
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16", "f16"])]
    dtype: String,
}

/// How far a logit of the export may lie from one of the model that was written, of the largest. The weights are the same,
/// so this is the rounding of the format.
fn tolerance(dtype: WeightDtype) -> f32 {
    match dtype {
        WeightDtype::F32 => 0.0,
        // 8 and 11 bits, and the errors of many layers add up.
        WeightDtype::Bf16 => 0.1,
        WeightDtype::F16 => 0.02,
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let loaded = args.source.load()?;
    let dtype = match args.dtype.as_str() {
        "bf16" => WeightDtype::Bf16,
        "f16" => WeightDtype::F16,
        _ => WeightDtype::F32,
    };
    let template = loaded.chat_template.as_deref();
    write(&loaded.model, loaded.tokenizer.as_deref(), template, dtype, &args.out)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a model with what belongs to it as the new folder `out`, and reads it back.
///
/// # Errors
/// The folder cannot be written, or what is read back gives other logits.
pub(crate) fn write(
    model: &Llama,
    tokenizer: Option<&Tokenizer>,
    chat_template: Option<&str>,
    dtype: WeightDtype,
    out: &Path,
) -> Result<()> {
    let special = SpecialIds {
        bos: tokenizer.and_then(|t| t.bos_id()),
        eos: tokenizer.and_then(|t| t.eos_id()),
    };
    let report = save_hf(model, out, dtype, &special)?;
    if let Some(tokenizer) = tokenizer {
        tokenizer.save_into(out)?;
    }
    if let Some(template) = chat_template {
        write_template(template, out)?;
    }
    for note in &report.notes {
        output::note(&format!("note: {note}"));
    }
    let (worst, largest) = compare(model, out)?;
    if worst > tolerance(dtype) * largest {
        bail!(
            "the export `{}` was written, but read back it gives logits that differ by {worst:.1e}, where the largest is {largest:.1}\nhelp: do not use it; check the disk, or export with --dtype f32",
            out.display()
        );
    }
    output::note(&format!(
        "wrote `{}`: {}, {}, read back: logits up to {largest:.1} agree within {worst:.1e}",
        out.display(),
        name(dtype),
        caravan_train::show_bytes(report.n_weight_bytes),
    ));
    Ok(())
}

/// Writes a chat template where transformers looks for it.
pub(crate) fn write_template(template: &str, dir: &Path) -> Result<()> {
    let path = dir.join("chat_template.jinja");
    std::fs::write(&path, template)
        .with_context(|| format!("writing {}\nhelp: check the folder", path.display()))
}

fn name(dtype: WeightDtype) -> &'static str {
    match dtype {
        WeightDtype::F32 => "f32",
        WeightDtype::Bf16 => "bf16",
        WeightDtype::F16 => "f16",
    }
}

/// Reads the export and gives the largest difference of its logits from the model's on some tokens, and the largest logit.
fn compare(model: &Llama, out: &Path) -> Result<(f32, f32)> {
    let device = model.device();
    let (again, _) = load_hf(out, Kernels::Fused, &device)?;
    let config = model.config();
    // Any tokens do: a stride that visits the vocabulary far and wide.
    let n = config.max_seq_len.min(16);
    let ids: Vec<i32> = (0..n).map(|i| ((i + 1) * 7919 % config.vocab_size) as i32).collect();
    let logits = |model: &Llama| -> Vec<f32> {
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [1, n]), &device);
        let data = model.logits(tokens, None).into_data().convert::<f32>();
        data.try_into_vec().expect("the data was just converted to f32")
    };
    let (ours, theirs) = (logits(model), logits(&again));
    let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    Ok((worst, ours.iter().fold(0.0, |m, x| m.max(x.abs()))))
}
