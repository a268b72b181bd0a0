//! An upper bound of the norm of a convolution, whatever the size of its input (theorem T12).
//! Does not know layers or strides' bookkeeping beyond the kernel itself.
//!
//! The symbol of the stride-1 operator is `F(w) = sum_ab K[:, :, a, b] exp(i (a w_1 + b w_2))`; for
//! every zero-padded input
//! `|conv|_2 <= sup_w |F(w)|_2 <= prod_d 1/cos((k_d - 1) pi / (2 N_d)) * max_grid |F|_2` on a
//! uniform grid of `N_d > k_d - 1` points. Stride `s` is exact, by polyphase: the strided
//! convolution is a stride-1 convolution of the input's `s * s` phases, taken as channels.
use crate::{
    gram::{Peak, scaled},
    numbers::gamma,
};
use candle_core::{Device, Result, Tensor};
use std::f64::consts::PI;

/// Elements of one batch of symbols: bounds memory, changes no value.
const CHUNK: usize = 1 << 20;

/// An upper bound of the l2 norm of the zero-padded 2-D convolution with `kernel`
/// `[out, in, height, width]`, for every input size and padding, on a grid of `points` frequencies
/// per axis with 3 taps, `points (k - 1) / 2` with `k`.
///
/// Looser than the supremum of the symbol by at most `1/cos(pi / points)` per axis (0.5 % at 32)
/// and the Gram iteration's 0.3 %.
///
/// # Errors
/// The tensor library's, e.g. when `kernel` does not have four axes.
pub fn conv_bound(kernel: &Tensor, stride: usize, points: usize) -> Result<f64> {
    let (kernel, size) = scaled(kernel)?;
    let kernel = phases(&kernel, stride)?;
    let (out, inp, height, width) = kernel.dims4()?;
    // |F| is the norm of its adjoint too: the narrow side last keeps Gram matrices small.
    let taps = if inp > out {
        kernel.permute((2, 3, 1, 0))?
    } else {
        kernel.permute((2, 3, 0, 1))?
    };
    let (rows, cols) = (out.max(inp), out.min(inp));
    let taps = taps.reshape((height * width, rows * cols))?;
    let (n, m) = (grid(height, points), grid(width, points));
    let frequencies: Vec<(f64, f64)> = half_grid(n, m);
    let mut peak = Peak::default();
    for chunk in frequencies.chunks((CHUNK / (rows * cols)).max(1)) {
        let angle = |trig: fn(f64) -> f64| {
            let table: Vec<f64> = chunk
                .iter()
                .flat_map(|(w1, w2)| {
                    (0..height).flat_map(move |a| {
                        (0..width).map(move |b| trig(a as f64 * w1 + b as f64 * w2))
                    })
                })
                .collect();
            let symbols = Tensor::from_vec(table, (chunk.len(), height * width), &Device::Cpu)?
                .matmul(&taps)?;
            symbols.reshape((chunk.len(), rows, cols))
        };
        peak.absorb(&angle(f64::cos)?, Some(&angle(f64::sin)?))?;
    }
    // Each symbol is a rounded sum of taps times rounded sines: gamma |K|_F sqrt(taps) at most, in
    // Frobenius norm. Angles of up to 2 pi (height + width) are rounded, too.
    let frobenius: f64 = taps.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt();
    let rounding = 2.
        * gamma(height * width + 16 * (height + width) + 8)
        * ((height * width) as f64).sqrt()
        * frobenius;
    let factor = |k: usize, n: usize| ((k - 1) as f64 * PI / (2. * n as f64)).cos().recip();
    Ok(size.times(
        (peak.upper + rounding) * factor(height, n) * factor(width, m) * (1. + 8. * f64::EPSILON),
    ))
}

/// `K'[o, (i, p, q), a, b] = K[o, i, s a + p, s b + q]`.
pub(crate) fn phases(kernel: &Tensor, s: usize) -> Result<Tensor> {
    if s == 1 {
        return kernel.contiguous();
    }
    let (out, inp, height, width) = kernel.dims4()?;
    let (h, w) = (height.div_ceil(s), width.div_ceil(s));
    kernel
        .pad_with_zeros(2, 0, h * s - height)?
        .pad_with_zeros(3, 0, w * s - width)?
        .reshape(vec![out, inp, h, s, w, s])?
        .permute(vec![0, 1, 3, 5, 2, 4])?
        .reshape((out, inp * s * s, h, w))
}

/// Grid points on an axis with `k` taps, so that every `k` is as tight as 3 taps on `points`; one
/// tap needs one.
fn grid(k: usize, points: usize) -> usize {
    (points.max(3) * (k - 1)).div_ceil(2).max(1)
}

/// Half of the `n x m` grid: a real kernel has `F(-w) = conj F(w)`, of equal norm.
fn half_grid(n: usize, m: usize) -> Vec<(f64, f64)> {
    let point = |i: usize, n: usize| 2. * PI * i as f64 / n as f64;
    (0..n)
        .flat_map(|i| (0..m).map(move |j| (i, j)))
        .filter(|&(i, j)| (i, j) <= ((n - i) % n, (m - j) % m))
        .map(|(i, j)| (point(i, n), point(j, m)))
        .collect()
}
