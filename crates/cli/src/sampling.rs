//! How tokens are chosen, as `generate` and `chat` are told.

use caravan_generate::Sampler;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// 0 takes the most probable token each time; 1 samples as the model says.
    #[arg(long, default_value_t = 0.8, value_name = "X")]
    temperature: f64,
    /// Only the K most probable tokens.
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Only the most probable tokens that together have probability P.
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Only tokens with at least P times the probability of the most probable one.
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Makes tokens that occurred less probable; 1 does not, 1.1 to 1.3 is usual.
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    repetition_penalty: f64,
    /// The same seed gives the same text.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Args {
    /// The sampler of the `n`th sample, counted from 0.
    pub(crate) fn sampler(&self, n: u64) -> Sampler {
        Sampler {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed.wrapping_add(n),
            ..Sampler::default()
        }
    }
}
