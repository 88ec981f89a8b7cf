//! Initial weights: a function of (seed, module path, index), computed on the host.
//!
//! Any element can be computed alone, so ranks that hold shards, and any number of threads, produce the same bits.

use std::f64::consts::TAU;

use rayon::prelude::*;

use crate::LlamaConfig;
use crate::philox::philox4x32;

/// Elements per parallel task; a multiple of the four that one draw gives.
const CHUNK: usize = 1 << 14;

/// The distribution of a parameter's initial values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All one: the gain of a norm.
    Ones,
    /// All zero: a bias.
    Zeros,
    /// Uniform between `-bound` and `bound`.
    Uniform {
        /// The largest size.
        bound: f64,
    },
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
}

/// The distribution of the parameter at `path`.
///
/// Norms are ones, biases zeros, and matrices normal with `init_std`, but those that write into the residual stream (`wo`, `w_down`) are
/// smaller by `sqrt(2 * n_layers)`, the number of such additions.
///
/// # Reference
/// Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019, section 2.3.
pub fn distribution(config: &LlamaConfig, path: &str) -> Init {
    if path.ends_with(".bias") {
        return Init::Zeros;
    }
    let layer = path.strip_suffix(".weight").unwrap_or(path).rsplit('.').next().unwrap_or(path);
    match layer {
        "attention_norm" | "ffn_norm" | "norm" => Init::Ones,
        "wo" | "w_down" => {
            Init::Normal { std: config.init_std / ((2 * config.n_layers) as f64).sqrt() }
        }
        _ => Init::Normal { std: config.init_std },
    }
}

/// Fills `out` with elements `start ..` of the parameter's flat, row-major initial value.
pub fn fill(init: Init, seed: u64, path: &str, start: u64, out: &mut [f32]) {
    match init {
        Init::Ones => out.fill(1.0),
        Init::Zeros => out.fill(0.0),
        Init::Uniform { bound } => {
            let stream = fnv1a(path.as_bytes());
            for (i, out) in (start..).zip(out) {
                let unit = words(seed, stream, i / 4)[(i % 4) as usize];
                *out = (bound * (2.0 * unit - 1.0)) as f32;
            }
        }
        Init::Normal { std } => {
            let stream = fnv1a(path.as_bytes());
            out.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, out)| {
                let start = start + (chunk * CHUNK) as u64;
                fill_normal(std, seed, stream, start, out);
            });
        }
    }
}

/// Every draw of the generator gives four normals: element `i` is number `i % 4` of draw `i / 4`.
fn fill_normal(std: f64, seed: u64, stream: u64, start: u64, out: &mut [f32]) {
    let mut at = start;
    let mut out = out.iter_mut();
    while out.len() > 0 {
        let draw = normals(seed, stream, at / 4);
        for (value, out) in
            draw[(at % 4) as usize..].iter().zip(out.by_ref().take((4 - at % 4) as usize))
        {
            *out = (std * value) as f32;
        }
        at += 4 - at % 4;
    }
}

/// Four numbers inside (0, 1) from the draw with key `seed` and counter `(draw, stream)`.
fn words(seed: u64, stream: u64, draw: u64) -> [f64; 4] {
    let halves = |x: u64| [x as u32, (x >> 32) as u32];
    let ([d0, d1], [s0, s1]) = (halves(draw), halves(stream));
    let words = philox4x32([d0, d1, s0, s1], halves(seed));
    words.map(|w| (f64::from(w) + 0.5) / 4_294_967_296.0)
}

/// Four standard normals from the draw with key `seed` and counter `(draw, stream)`.
///
/// Words `(w0, w1)` and `(w2, w3)` each give a pair `r cos(a), r sin(a)`, `r = sqrt(-2 ln u0)`, `a = 2 pi u1`,
/// `u = (w + 1/2) / 2^32`, which is never 0.
///
/// # Reference
/// Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.
fn normals(seed: u64, stream: u64, draw: u64) -> [f64; 4] {
    let u = words(seed, stream, draw);
    let pair = |u0: f64, u1: f64| {
        let radius = (-2.0 * u0.ln()).sqrt();
        let (sin, cos) = (TAU * u1).sin_cos();
        [radius * cos, radius * sin]
    };
    let ([a, b], [c, d]) = (pair(u[0], u[1]), pair(u[2], u[3]));
    [a, b, c, d]
}

/// The 64-bit FNV-1a hash, which turns a path into the number of a stream.
///
/// # Reference
/// Fowler, Noll, Vo and Eastlake, "The FNV Non-Cryptographic Hash Algorithm", RFC 9923, section 2.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset;
    use proptest::prelude::*;

    const UNIT: Init = Init::Normal { std: 1.0 };

    #[test]
    fn fnv_known_answers() {
        // RFC 9923, appendix C.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn residual_outputs_start_smaller_and_norms_at_one() {
        let config = preset("8m").unwrap();
        assert_eq!(distribution(&config, "blocks.3.ffn_norm.weight"), Init::Ones);
        assert_eq!(distribution(&config, "head.norm.weight"), Init::Ones);
        assert_eq!(distribution(&config, "embed.weight"), Init::Normal { std: 0.02 });
        assert_eq!(distribution(&config, "head.output.weight"), Init::Normal { std: 0.02 });
        let Init::Normal { std } = distribution(&config, "blocks.0.w_down.weight") else {
            panic!()
        };
        assert!((std - 0.02 / 12f64.sqrt()).abs() < 1e-15);
    }

    #[test]
    fn moments_are_those_of_a_normal() {
        let n = 1_000_000;
        let mut x = vec![0.0; n];
        fill(UNIT, 1, "embed.weight", 0, &mut x);
        let mean =
            |f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(f64::from(x))).sum::<f64>() / n as f64;
        // Five standard errors of each moment: sqrt(1/n), sqrt(2/n), sqrt(96/n).
        assert!(mean(&|x| x).abs() < 5e-3);
        assert!((mean(&|x| x * x) - 1.0).abs() < 7.1e-3);
        assert!((mean(&|x| x.powi(4)) - 3.0).abs() < 4.9e-2);
    }

    #[test]
    fn threads_do_not_matter() {
        let draw = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut x = vec![0.0; 3 * CHUNK + 5];
            pool.install(|| fill(UNIT, 7, "blocks.0.wq.weight", 0, &mut x));
            x
        };
        assert_eq!(draw(1), draw(3));
    }

    proptest! {
        #[test]
        fn any_part_can_be_drawn_alone(start in 0usize..60_000, n in 0usize..40_000) {
            let mut whole = vec![0.0; start + n];
            fill(UNIT, 3, "p", 0, &mut whole);
            let mut part = vec![0.0; n];
            fill(UNIT, 3, "p", start as u64, &mut part);
            prop_assert!(whole[start..] == part[..]);
        }
    }
}
