//! An upper bound of the norm of a convolution from the row sums of its absolute Gram matrix:
//! cheap, and for kernels rescaled to be almost orthogonal (AOL, Prach and Lampert 2022) it finds
//! their theorem, 1, by itself. Does not know how a kernel was made.
//!
//! With `G = W^T W` on the infinite domain, `A_ij = sum_taps |G_ij|`, and any `q > 0`,
//! `|W|^2 <= max_i (A q)_i / q_i` (diagonal dominance of `diag(q)^-1 G diag(q)`; Collatz and
//! Wielandt). AOL divides input channel `i` by `R_i = sqrt(sum_j A_ij)`, after which `q = R` gives
//! exactly 1. Zero padding compresses the operator and a stride takes a part of its rows: neither
//! makes the norm greater.
use crate::{
    conv::phases,
    gram::scaled,
    numbers::{gamma, greatest},
};
use candle_core::{D, Result, Tensor};

/// Steps towards the best `q`: each is a product of a small matrix and a vector.
const STEPS: usize = 200;

/// Elements of an unfolded chunk: bounds memory, changes no value.
const CHUNK: usize = 1 << 22;

/// Multiplications that [`row_sum_bound`] needs.
pub(crate) fn cost(kernel: &[usize], stride: usize) -> usize {
    let [out, inp, height, width] = *kernel else {
        return usize::MAX;
    };
    let of = |inp: usize, h: usize, w: usize| inp * inp * out * h * w * (2 * h - 1) * (2 * w - 1);
    let phases = of(
        inp * stride * stride,
        height.div_ceil(stride),
        width.div_ceil(stride),
    );
    of(inp, height, width) + if stride > 1 { phases } else { 0 }
}

/// An upper bound of the l2 norm of the zero-padded convolution with `kernel`
/// `[out, in, height, width]`, for every input size and padding.
///
/// # Errors
/// The tensor library's, e.g. when `kernel` does not have four axes.
pub fn row_sum_bound(kernel: &Tensor, stride: usize) -> Result<f64> {
    let (kernel, size) = scaled(kernel)?;
    let plain = best(&gram(&kernel)?);
    // Exact for strides, and usually the lesser one; a kernel rescaled for stride 1 is better off
    // without.
    let bound = if stride > 1 {
        plain.min(best(&gram(&phases(&kernel, stride)?)?))
    } else {
        plain
    };
    // Overflow must not pass for a bound.
    Ok(if bound.is_nan() {
        f64::INFINITY
    } else {
        size.times(bound)
    })
}

/// `A`, rounded up.
fn gram(kernel: &Tensor) -> Result<Vec<Vec<f64>>> {
    let (out, inp, height, width) = kernel.dims4()?;
    let w = kernel.transpose(0, 1)?.contiguous()?;
    let padded = w
        .pad_with_zeros(2, height - 1, height - 1)?
        .pad_with_zeros(3, width - 1, width - 1)?;
    // A few input channels at a time: the whole Gram kernel of a wide layer would be hundreds of
    // MB.
    let unfolded = out * height * width * (2 * height - 1) * (2 * width - 1);
    let chunk = (CHUNK / unfolded).clamp(1, inp);
    let rows = (0..inp).step_by(chunk).map(|start| {
        padded
            .narrow(0, start, chunk.min(inp - start))?
            .contiguous()?
            .conv2d(&w, 0, 1, 1, 1)?
            .abs()?
            .sum((2, 3))
    });
    let sums = Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?;
    // Each tap is off by gamma times the sum of absolute products, whose sum over all taps is a
    // product of tap sums.
    let taps = w.abs()?.sum((D::Minus1, D::Minus2))?;
    let error =
        (taps.matmul(&taps.t()?)? * (2. * gamma(out * height * width + 4 * height * width + 8)))?;
    (sums + error)?.to_vec2()
}

/// `sqrt(min over tried q of max_i (A q)_i / q_i)`, rounded up.
fn best(a: &[Vec<f64>]) -> f64 {
    let n = a.len();
    let up = 1. + gamma(n + 8);
    let mut q = vec![1.; n];
    let mut least = f64::INFINITY;
    for _ in 0..STEPS {
        let aq: Vec<f64> = a
            .iter()
            .map(|row| row.iter().zip(&q).map(|(a, q)| a * q).sum())
            .collect();
        let ratio = greatest(aq.iter().zip(&q).map(|(aq, q)| aq / q));
        if ratio.is_nan() {
            return f64::NAN;
        }
        least = least.min(ratio);
        // The mean of q and its image does not oscillate; no component may vanish, whatever the
        // matrix.
        let most = greatest(aq.iter().copied());
        if most == 0. {
            break;
        }
        q.iter_mut()
            .zip(&aq)
            .for_each(|(q, aq)| *q = (0.5 * (*q + aq / most)).max(1e-9));
    }
    (least * up).sqrt() * (1. + 2. * f64::EPSILON)
}
