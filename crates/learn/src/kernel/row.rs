//! Loops over rows, each compiled for three generations of processor; the one
//! at hand is chosen when it is called.

#![allow(unsafe_code)]

/// Numbers that a sum keeps apart, so that it runs in the widest vectors.
const LANES: usize = 16;

/// Makes a function that runs its body compiled for AVX-512, for AVX2, or for
/// whatever the program was built for. All that the body calls must be
/// `#[inline(always)]`, or it stays compiled for the oldest processor.
macro_rules! widest {
    ($(#[$doc:meta])* pub fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        pub fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn body($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $type),*) $(-> $out)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    body($($arg),*)
                }
                if is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("fma")
                {
                    // SAFETY: the processor has what the function is compiled for.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}

#[inline(always)]
fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The inner product.
#[inline(always)]
fn product(a: &[f32], b: &[f32]) -> f32 {
    sum2(
        a,
        b,
        #[inline(always)]
        |sum, a, b| a.mul_add(b, sum),
    )
}

/// Sum of `f(a, b)` over both slices, always in the same order.
#[inline(always)]
fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = f(lanes[i], a[i], b[i]);
        }
    }
    for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[i] = f(lanes[i], *a, *b);
    }
    sum_lanes(lanes)
}

/// `e^x` for `x <= 88`, within 2 units in the last place; 0 below -87.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    // ln 2 in two parts, so that the remainder keeps its digits.
    let r = n.mul_add(-0.693_145_75, clamped);
    let r = n.mul_add(-1.428_606_8e-6, r);
    let mut p = 1.987_569_2e-4_f32;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5.0e-1,
    ] {
        p = p.mul_add(r, c);
    }
    let value = p.mul_add(r * r, r) + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(MAGIC.to_bits());
    let power = f32::from_bits(exponent.wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { value * power }
}

widest! {
    /// The inner product.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        product(a, b)
    }
}

/// `into += from`.
pub fn add(into: &mut [f32], from: &[f32]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into += from;
    }
}

widest! {
    /// `out = x / rms(x) * weight`; gives `1 / rms(x)`.
    pub fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) -> f32 {
        let squares = product(x, x);
        let scale = 1.0 / (squares / x.len() as f32 + epsilon).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = *x * scale * w;
        }
        scale
    }
}

widest! {
    /// Adds to `dx` the gradient of [`rms_norm`] for that of its output, and to
    /// `dweight`, where there is one, that of the weight.
    pub fn rms_norm_backward(dx: &mut [f32], dout: &[f32], x: &[f32], weight: &[f32], scale: f32, dweight: Option<&mut [f32]>,) {
        let mut lanes = [0.0; LANES];
        for (n, ((d, x), w)) in dout.iter().zip(x).zip(weight).enumerate() {
            lanes[n % LANES] += d * w * x;
        }
        let mean = sum_lanes(lanes) / x.len() as f32;
        let pull = mean * scale * scale * scale;
        for (((dx, d), x), w) in dx.iter_mut().zip(dout).zip(x).zip(weight) {
            *dx += d * w * scale - x * pull;
        }
        if let Some(dweight) = dweight {
            for ((dw, d), x) in dweight.iter_mut().zip(dout).zip(x) {
                *dw += d * x * scale;
            }
        }
    }
}

widest! {
    /// `out = silu(gate) * up`.
    pub fn silu_mul(out: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + exp(-g)) * u;
        }
    }
}

widest! {
    /// Replaces `gate` and `up` by the gradients of [`silu_mul`].
    pub fn silu_mul_backward(gate: &mut [f32], up: &mut [f32], dout: &[f32]) {
        for ((g, u), d) in gate.iter_mut().zip(up.iter_mut()).zip(dout) {
            let sigmoid = 1.0 / (1.0 + exp(-*g));
            let silu = *g * sigmoid;
            let slope = sigmoid * (1.0 + *g * (1.0 - sigmoid));
            *g = d * *u * slope;
            *u = d * silu;
        }
    }
}

widest! {
    /// The largest number of a row, and `row = exp(row - largest)` with its sum.
    /// `floor` is the least that counts as the largest.
    pub fn exp_minus_max(row: &mut [f32], scale: f32, floor: f32) -> (f32, f32) {
        let mut top = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                top[i] = if chunk[i] > top[i] { chunk[i] } else { top[i] };
            }
        }
        let mut most = rest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for lane in top {
            most = most.max(lane);
        }
        let most = (most * scale).max(floor);
        let mut lanes = [0.0; LANES];
        let (chunks, rest) = row.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                chunk[i] = exp(chunk[i].mul_add(scale, -most));
                lanes[i] += chunk[i];
            }
        }
        for (i, x) in rest.iter_mut().enumerate() {
            *x = exp(x.mul_add(scale, -most));
            lanes[i] += *x;
        }
        (most, sum_lanes(lanes))
    }
}

widest! {
    /// `ln(sum(e^x))` of a row.
    pub fn log_sum_exp(row: &[f32]) -> f32 {
        log_sum_exp_here(row)
    }
}

#[inline(always)]
fn log_sum_exp_here(row: &[f32]) -> f32 {
    let mut top = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            top[i] = if chunk[i] > top[i] { chunk[i] } else { top[i] };
        }
    }
    let mut most = f32::NEG_INFINITY;
    for x in top.iter().chain(rest) {
        most = if *x > most { *x } else { most };
    }
    let sum = sum2(
        row,
        row,
        #[inline(always)]
        |sum, x, _| sum + exp(x - most),
    );
    most + sum.ln()
}

widest! {
    /// Replaces a row of scores by its probabilities, `e^(scale * score -
    /// log_sum)`, and a row of their gradients by those of the scores; `delta`
    /// is the inner product of output and its gradient (FlashAttention, 2.3).
    pub fn softmax_backward(scores: &mut [f32], gradients: &mut [f32], scale: f32, log_sum: f32, delta: f32) {
        for (s, g) in scores.iter_mut().zip(gradients.iter_mut()) {
            let p = exp(s.mul_add(scale, -log_sum));
            *s = p;
            *g = p * (*g - delta) * scale;
        }
    }
}

widest! {
    /// The negative log-likelihood of a token, whose row of logits is replaced
    /// by `weight` times its gradient.
    pub fn cross_entropy(row: &mut [f32], target: usize, weight: f32) -> f32 {
        let log_sum = log_sum_exp_here(row);
        let loss = log_sum - row[target];
        for x in row.iter_mut() {
            *x = exp(*x - log_sum) * weight;
        }
        row[target] -= weight;
        loss
    }
}

widest! {
    /// One step of AdamW (arXiv 1711.05101) over a slice: `pull` scales the
    /// gradient, `decay` is learning rate times weight decay, `rates` are
    /// learning rate, both betas, their corrections `1 - beta^t`, and epsilon.
    pub fn adamw(x: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], pull: f32, decay: f32, rates: [f32; 6]) {
        let [rate, beta1, beta2, correction1, correction2, epsilon] = rates;
        for (((x, g), m), v) in x.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut()) {
            let g = g * pull;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            let step = (*m / correction1) / ((*v / correction2).sqrt() + epsilon);
            *x = *x * (1.0 - decay) - rate * step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0_f64;
        for n in -870_000..=880_000 {
            let x = n as f32 / 10_000.0;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / want - 1.0).abs());
        }
        assert!(worst < 2.4e-7, "relative error {worst}");
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    /// Gradients against differences of the function itself.
    #[test]
    fn gradients_are_those_of_the_functions() {
        let x: Vec<f32> = (0..37).map(|i| ((i * 7 % 11) as f32 - 5.0) * 0.3).collect();
        let w: Vec<f32> = (0..37).map(|i| 1.0 + (i % 5) as f32 * 0.1).collect();
        let pull: Vec<f32> = (0..37).map(|i| (i % 3) as f32 - 0.7).collect();
        let normed = |x: &[f32], w: &[f32]| {
            let mut out = vec![0.0; x.len()];
            let scale = rms_norm(&mut out, x, w, 1e-5);
            (dot(&out, &pull), scale)
        };
        let gated = |gate: &[f32], up: &[f32]| {
            let mut out = vec![0.0; gate.len()];
            silu_mul(&mut out, gate, up);
            dot(&out, &pull)
        };
        let (_, scale) = normed(&x, &w);
        let (mut dx, mut dw) = (vec![0.0; 37], vec![0.0; 37]);
        rms_norm_backward(&mut dx, &pull, &x, &w, scale, Some(&mut dw));
        let (mut dgate, mut dup) = (x.clone(), w.clone());
        silu_mul_backward(&mut dgate, &mut dup, &pull);
        for i in 0..37 {
            let moved = |v: &[f32], by: f32| {
                let mut v = v.to_vec();
                v[i] += by;
                v
            };
            let step = 1e-2;
            let slope = |f: &dyn Fn(f32) -> f32| (f(step) - f(-step)) / (2.0 * step);
            let pairs = [
                (dx[i], slope(&|s| normed(&moved(&x, s), &w).0)),
                (dw[i], slope(&|s| normed(&x, &moved(&w, s)).0)),
                (dgate[i], slope(&|s| gated(&moved(&x, s), &w))),
                (dup[i], slope(&|s| gated(&x, &moved(&w, s)))),
            ];
            for (got, want) in pairs {
                assert!((got - want).abs() < 2e-3, "{i}: {pairs:?}");
            }
        }
    }

    #[test]
    fn a_row_that_is_not_a_number_stays_so() {
        assert!(log_sum_exp(&[1.0, f32::NAN, 2.0]).is_nan());
        let mut row = vec![f32::NAN; 20];
        assert!(exp_minus_max(&mut row, 1.0, f32::NEG_INFINITY).1.is_nan());
    }

    #[test]
    fn sums_of_odd_lengths_are_whole() {
        for n in [0, 1, 15, 16, 17, 100] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let want: f32 = a.iter().map(|x| x * x).sum();
            assert_eq!(dot(&a, &a), want, "{n}");
        }
        let mut row = [0.0, 1.0, 2.0];
        let (most, sum) = exp_minus_max(&mut row, 0.5, f32::NEG_INFINITY);
        assert_eq!(most, 1.0);
        let want = (-1.0_f32).exp() + (-0.5_f32).exp() + 1.0;
        assert!((sum - want).abs() < 1e-6);
        assert!((log_sum_exp(&[0.0, 1.0, 2.0]) - 2.407_606).abs() < 1e-6);
    }
}
