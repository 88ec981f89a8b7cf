//! Plain float64 loops that the kernels are held against, and their own check by differences.
//!
//! Written from the formulas, without a view to the kernels. Each returns the value and the
//! gradients of its inputs for an incoming gradient.

pub(crate) fn rms_norm(x: &[f64], w: &[f64], eps: f64, dy: &[f64]) -> [Vec<f64>; 3] {
    let d = w.len();
    let (mut y, mut dx, mut dw) = (vec![], vec![], vec![0.0; d]);
    for (x, dy) in x.chunks(d).zip(dy.chunks(d)) {
        let mean_square = x.iter().map(|x| x * x).sum::<f64>() / d as f64;
        let root = (mean_square + eps).sqrt();
        let inner: f64 = (0..d).map(|i| dy[i] * w[i] * x[i]).sum();
        for i in 0..d {
            y.push(x[i] / root * w[i]);
            dw[i] += dy[i] * x[i] / root;
            dx.push(dy[i] * w[i] / root - x[i] * inner / (d as f64 * root.powi(3)));
        }
    }
    [y, dx, dw]
}

/// `x: [rows, s, head_dim]`, `cos` and `sin`: `[s, head_dim / 2]`.
pub(crate) fn rope(x: &[f64], cos: &[f64], sin: &[f64], s: usize, dy: &[f64]) -> [Vec<f64>; 2] {
    let half = cos.len() / s;
    let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    for row in 0..x.len() / (2 * half) {
        let position = row % s;
        for i in 0..half {
            let (c, n) = (cos[position * half + i], sin[position * half + i]);
            let (a, b) = (row * 2 * half + i, row * 2 * half + half + i);
            y[a] = x[a] * c - x[b] * n;
            y[b] = x[a] * n + x[b] * c;
            dx[a] = dy[a] * c + dy[b] * n;
            dx[b] = -dy[a] * n + dy[b] * c;
        }
    }
    [y, dx]
}

pub(crate) fn swiglu(gate: &[f64], up: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let at = |f: &dyn Fn(usize) -> f64| (0..gate.len()).map(f).collect::<Vec<f64>>();
    [
        at(&|i| gate[i] * sigmoid(gate[i]) * up[i]),
        at(&|i| {
            let s = sigmoid(gate[i]);
            dy[i] * up[i] * (s + gate[i] * s * (1.0 - s))
        }),
        at(&|i| dy[i] * gate[i] * sigmoid(gate[i])),
    ]
}

/// The losses, and the gradient of the logits for `dy` at their sum.
pub(crate) fn cross_entropy(logits: &[f64], targets: &[i64], dy: f64) -> [Vec<f64>; 2] {
    let vocab = logits.len() / targets.len();
    let (mut losses, mut dlogits) = (vec![], vec![]);
    for (x, &target) in logits.chunks(vocab).zip(targets) {
        let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = x.iter().map(|x| (x - max).exp()).sum();
        if target == -1 {
            losses.push(0.0);
            dlogits.extend(vec![0.0; vocab]);
        } else {
            losses.push(total.ln() + max - x[target as usize]);
            dlogits.extend((0..vocab).map(|i| {
                let p = (x[i] - max).exp() / total;
                dy * if i as i64 == target { p - 1.0 } else { p }
            }));
        }
    }
    [losses, dlogits]
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionDims {
    pub(crate) b: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) s: usize,
    pub(crate) t: usize,
    pub(crate) head_dim: usize,
}

/// `[out, dq, dk, dv]` of `q: [b, n_heads, s, head_dim]` over `k, v: [b, n_kv_heads, t, head_dim]`.
pub(crate) fn attention(
    dims: AttentionDims,
    [q, k, v, dout]: [&[f64]; 4],
    starts: Option<&[i64]>,
) -> [Vec<f64>; 4] {
    let AttentionDims { b, n_heads, n_kv_heads, s, t, head_dim: d } = dims;
    let scale = 1.0 / (d as f64).sqrt();
    let (mut out, mut dq) = (vec![0.0; q.len()], vec![0.0; q.len()]);
    let (mut dk, mut dv) = (vec![0.0; k.len()], vec![0.0; v.len()]);
    for bi in 0..b {
        for h in 0..n_heads {
            let kv = h / (n_heads / n_kv_heads);
            for i in 0..s {
                let row = ((bi * n_heads + h) * s + i) * d;
                let key = |j: usize| ((bi * n_kv_heads + kv) * t + j) * d;
                let dot = |a: &[f64], a0: usize, c: &[f64], c0: usize| -> f64 {
                    (0..d).map(|x| a[a0 + x] * c[c0 + x]).sum()
                };
                let first = starts.map_or(0, |starts| starts[bi * s + i] as usize);
                let keys: Vec<usize> = (first..=t - s + i).collect();
                let scores: Vec<f64> =
                    keys.iter().map(|&j| dot(q, row, k, key(j)) * scale).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|x| (x - max).exp()).sum();
                let p: Vec<f64> = scores.iter().map(|x| (x - max).exp() / total).collect();
                for (&j, p) in keys.iter().zip(&p) {
                    for x in 0..d {
                        out[row + x] += p * v[key(j) + x];
                    }
                }
                let dp: Vec<f64> = keys.iter().map(|&j| dot(dout, row, v, key(j))).collect();
                let inner: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for ((&j, p), dp) in keys.iter().zip(&p).zip(&dp) {
                    let ds = p * (dp - inner) * scale;
                    for x in 0..d {
                        dq[row + x] += ds * k[key(j) + x];
                        dk[key(j) + x] += ds * q[row + x];
                        dv[key(j) + x] += p * dout[row + x];
                    }
                }
            }
        }
    }
    [out, dq, dk, dv]
}

mod by_differences {
    use super::super::support::values;
    use super::*;

    /// Central differences in f64: truncation 1e-10 with this step, rounding 1e-16 / 1e-5.
    const STEP: f64 = 1e-5;
    const TOLERANCE: f64 = 1e-8;

    /// `found` against the slope of `sum(dy * f(x))` at every element of `x`.
    fn check(f: impl Fn(&[f64]) -> Vec<f64>, x: &[f64], dy: &[f64], found: &[f64]) {
        let loss = |x: &[f64]| -> f64 { f(x).iter().zip(dy).map(|(y, dy)| y * dy).sum() };
        for i in 0..x.len() {
            let at = |step: f64| {
                let mut x = x.to_vec();
                x[i] += step;
                loss(&x)
            };
            let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            assert!((slope - found[i]).abs() < TOLERANCE, "element {i}: {slope} and {}", found[i]);
        }
    }

    #[test]
    fn rms_norm_gradients() {
        let (x, w, dy) = (values(12, 1), values(4, 2), values(12, 3));
        let [_, dx, dw] = rms_norm(&x, &w, 1e-3, &dy);
        let y = |x: &[f64], w: &[f64]| rms_norm(x, w, 1e-3, &dy)[0].clone();
        check(|x| y(x, &w), &x, &dy, &dx);
        check(|w| y(&x, w), &w, &dy, &dw);
    }

    #[test]
    fn rope_gradient() {
        let (x, dy) = (values(24, 1), values(24, 2));
        let (cos, sin) = (values(6, 3), values(6, 4));
        let [_, dx] = rope(&x, &cos, &sin, 3, &dy);
        check(|x| rope(x, &cos, &sin, 3, &dy)[0].clone(), &x, &dy, &dx);
    }

    #[test]
    fn swiglu_gradients() {
        let (gate, up, dy) = (values(9, 1), values(9, 2), values(9, 3));
        let [_, dgate, dup] = swiglu(&gate, &up, &dy);
        check(|gate| swiglu(gate, &up, &dy)[0].clone(), &gate, &dy, &dgate);
        check(|up| swiglu(&gate, up, &dy)[0].clone(), &up, &dy, &dup);
    }

    #[test]
    fn cross_entropy_gradient() {
        let (logits, targets) = (values(20, 1), [3, -1, 0, 4]);
        let [_, dlogits] = cross_entropy(&logits, &targets, 0.7);
        let losses = |logits: &[f64]| cross_entropy(logits, &targets, 0.7)[0].clone();
        check(losses, &logits, &[0.7; 4], &dlogits);
    }

    #[test]
    fn attention_gradients() {
        let dims = AttentionDims { b: 1, n_heads: 4, n_kv_heads: 2, s: 3, t: 5, head_dim: 2 };
        let (q, k, v, dout) = (values(24, 1), values(20, 2), values(20, 3), values(24, 4));
        let starts = [0, 2, 3];
        let out = |q: &[f64], k: &[f64], v: &[f64]| {
            attention(dims, [q, k, v, &dout], Some(&starts))[0].clone()
        };
        let [_, dq, dk, dv] = attention(dims, [&q, &k, &v, &dout], Some(&starts));
        check(|q| out(q, &k, &v), &q, &dout, &dq);
        check(|k| out(&q, k, &v), &k, &dout, &dk);
        check(|v| out(&q, &k, v), &v, &dout, &dv);
    }
}
