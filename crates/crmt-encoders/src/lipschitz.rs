//! Layers that are 1-Lipschitz by a theorem about their weights, and how the proof survives
//! rounding. Does not know which network they make up.
//!
//! A layer holds the raw parameters and derives the weights it computes with on every pass, because
//! training changes parameters in place and a frozen twin must follow. Where the parameters no
//! longer change, [`bake`](AolConv2d::bake) derives them once: the same bits, without the cost.
//!
//! # Constants and rounding
//! The theorems hold in real arithmetic, and weights are derived in floating point. So the constant
//! that a layer declares is not a literal 1: it is the theorem's bound evaluated in `f64` for the
//! weights as they came out of the rounding, plus a bound of that evaluation's own error. For `f64`
//! weights it is 1 + 1e-13 or so, for `f32` weights 1 + 1e-6. With
//! `S_ij = Σ_{p,q} |(WᵀW)_ij[p, q]|`, the theorem used is `‖W‖₂² ≤ max_i Σ_j S_ij d_j / d_i` for
//! any positive `d` (a nonnegative matrix's spectral radius is at most any weighted row sum; `W`
//! with zero padding is a compression of `W` on the whole plane).
use crate::length::length;
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use crmt_core::{Layer, Mode};
use crmt_kernels as kernels;

/// Keeps a filter of zeros from being divided by zero. Added to what is divided by, so it costs no
/// soundness.
const FLOOR: f64 = 1e-12;
/// Standard deviation of an AOL kernel around its centre tap, at the start.
const AOL_NOISE: f64 = 0.05;

/// Weights to compute with: derived anew from parameters, or once and for all.
#[derive(Debug, Clone)]
enum Weights {
    /// A parameter that training may change in place.
    Raw(Tensor),
    /// Derived, with the constant of the layer.
    Baked { derived: Tensor, constant: f64 },
}

/// A `k × k` convolution of stride 1 that keeps the image's size (or one along the rows: see
/// [`along_rows`](Self::along_rows)), rescaled to be 1-Lipschitz: with `w = raw + centre`, it
/// computes with `w / √R²` over input channels, `R²` from [`crmt_kernels::gram_abs_rowsum`] (AOL:
/// Prach and Lampert, 2022).
///
/// `centre` is a constant matrix with orthonormal rows or columns (a truncated cosine basis) at the
/// middle tap, so that raw weights that start as small noise start a layer that keeps distances.
#[derive(Debug, Clone)]
pub struct AolConv2d {
    name: String,
    /// `[out, in, k, k]`; raw ones along the rows `[out, in, k]`.
    weights: Weights,
    /// `[out]`.
    bias: Tensor,
}

impl AolConv2d {
    /// Parameters `weight [outputs, inputs, size, size]` and `bias [outputs]`; `size` is odd.
    pub fn new(vb: &VarBuilder, inputs: usize, outputs: usize, size: usize) -> Result<Self> {
        Self::with(vb, &[outputs, inputs, size, size])
    }

    /// A convolution along the rows, for signals as images of one row:
    /// `weight [outputs, inputs, size]`, computed as the middle row of a square kernel (`square`).
    pub fn along_rows(vb: &VarBuilder, inputs: usize, outputs: usize, size: usize) -> Result<Self> {
        Self::with(vb, &[outputs, inputs, size])
    }

    fn with(vb: &VarBuilder, shape: &[usize]) -> Result<Self> {
        odd(shape)?;
        let noise = Init::Randn {
            mean: 0.0,
            stdev: AOL_NOISE,
        };
        let raw = vb.get_with_hints(shape, "weight", noise)?;
        let bias = vb.get_with_hints(shape[0], "bias", Init::Const(0.0))?;
        Ok(Self {
            name: vb.prefix(),
            weights: Weights::Raw(raw),
            bias,
        })
    }

    fn kernel(&self) -> Result<Tensor> {
        match &self.weights {
            Weights::Baked { derived, .. } => Ok(derived.clone()),
            Weights::Raw(raw) => {
                let raw = square(raw)?;
                let kernel = (&raw + centre_tap(&raw)?)?;
                let scale = (kernels::gram_abs_rowsum(&kernel, 1)? + FLOOR)?.sqrt()?;
                kernel.broadcast_div(&scale.reshape((1, (), 1, 1))?)
            }
        }
    }

    /// `x: [batch, in, h, w]` to `[batch, out, h, w]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let kernel = self.kernel()?;
        let padding = kernel.dim(D::Minus1)? / 2;
        kernels::conv2d(x, &kernel, Some(&self.bias), 1, padding)
    }

    /// This layer among others that are computed together.
    pub fn image_layer(&self) -> Result<kernels::ImageLayer> {
        Ok(kernels::ImageLayer::Conv2d {
            kernel: self.kernel()?,
            bias: self.bias.clone(),
        })
    }

    /// The same function with its kernel derived once.
    pub fn bake(&self) -> Result<Self> {
        let weights = Weights::Baked {
            derived: self.kernel()?.detach(),
            constant: self.constant()?,
        };
        Ok(Self {
            name: self.name.clone(),
            weights,
            bias: self.bias.copy()?.detach(),
        })
    }

    fn constant(&self) -> Result<f64> {
        let raw = match &self.weights {
            Weights::Baked { constant, .. } => return Ok(*constant),
            Weights::Raw(raw) => exact(&square(raw)?)?,
        };
        // With d = R every row sum of the exact kernel would be 1.
        let d = (kernels::gram_abs_rowsum(&(&raw + centre_tap(&raw)?)?, 1)? + FLOOR)?.sqrt()?;
        Ok(norm_squared(&exact(&self.kernel()?)?.transpose(0, 1)?, &d)?
            .sqrt()
            .next_up())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn bias(&self) -> &Tensor {
        &self.bias
    }

    pub(crate) fn outputs(&self) -> usize {
        self.bias.elem_count()
    }

    /// `Bounded`: the convolution in use, with the theorem's constant.
    pub fn describe(&self) -> Result<Layer> {
        let kernel = self.kernel()?.detach();
        let padding = kernel.dim(D::Minus1)? / 2;
        let layer = Box::new(Layer::Conv2d {
            name: self.name.clone(),
            kernel,
            stride: 1,
            padding,
        });
        Ok(Layer::Bounded {
            layer,
            lipschitz: self.constant()?,
        })
    }
}

/// `y = x − 2 Cᵀ T⁻¹ relu(C x + b)` with a `k × k` convolution `C` into `hidden` channels, `T` from
/// [`crmt_kernels::residual_scale`] and `q = exp(log_q)` (SLL: Araujo et al., 2023).
///
/// With `P = Cᵀ T^(−1/2)` and `ρ = ‖P‖₂`, differences are mapped by `I − 2 P D Pᵀ` with `D`
/// diagonal in `[0, 1]`, so the constant is `max(1, 2ρ² − 1)`.
#[derive(Debug, Clone)]
pub struct SllConv2d {
    name: String,
    /// `[hidden, channels, k, k]`; along the rows `[hidden, channels, k]`.
    kernel: Tensor,
    /// `[hidden]`.
    bias: Tensor,
    /// Raw: `log q`; baked: `2 / T`. `[hidden]`.
    scale: Weights,
}

impl SllConv2d {
    /// Parameters `weight [hidden, channels, size, size]`, `bias [hidden]` and `log_q [hidden]`;
    /// `size` is odd.
    pub fn new(vb: &VarBuilder, channels: usize, hidden: usize, size: usize) -> Result<Self> {
        Self::with(vb, &[hidden, channels, size, size])
    }

    /// As [`AolConv2d::along_rows`].
    pub fn along_rows(
        vb: &VarBuilder,
        channels: usize,
        hidden: usize,
        size: usize,
    ) -> Result<Self> {
        Self::with(vb, &[hidden, channels, size])
    }

    fn with(vb: &VarBuilder, shape: &[usize]) -> Result<Self> {
        odd(shape)?;
        let (hidden, fan_in) = (shape[0], shape[1..].iter().product::<usize>());
        let init = Init::Randn {
            mean: 0.0,
            stdev: 1.0 / (fan_in as f64).sqrt(),
        };
        Ok(Self {
            name: vb.prefix(),
            kernel: vb.get_with_hints(shape, "weight", init)?,
            bias: vb.get_with_hints(hidden, "bias", Init::Const(0.0))?,
            scale: Weights::Raw(vb.get_with_hints(hidden, "log_q", Init::Const(0.0))?),
        })
    }

    fn kernel(&self) -> Result<Tensor> {
        square(&self.kernel)
    }

    fn scale(&self) -> Result<Tensor> {
        match &self.scale {
            Weights::Baked { derived, .. } => Ok(derived.clone()),
            Weights::Raw(log_q) => {
                let t = (kernels::residual_scale(&self.kernel()?, &log_q.exp()?)? + FLOOR)?;
                t.recip()? * 2.0
            }
        }
    }

    /// `x: [batch, channels, h, w]` to the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        kernels::residual_conv2d(x, &self.kernel()?, &self.bias, &self.scale()?)
    }

    /// This layer among others that are computed together.
    pub fn image_layer(&self) -> Result<kernels::ImageLayer> {
        let (kernel, bias, scale) = (self.kernel()?, self.bias.clone(), self.scale()?);
        Ok(kernels::ImageLayer::ResidualConv2d {
            kernel,
            bias,
            scale,
        })
    }

    /// The same function with its scale derived once.
    pub fn bake(&self) -> Result<Self> {
        Ok(Self {
            name: self.name.clone(),
            kernel: self.kernel()?.copy()?.detach(),
            bias: self.bias.copy()?.detach(),
            scale: Weights::Baked {
                derived: self.scale()?.detach(),
                constant: self.constant()?,
            },
        })
    }

    fn constant(&self) -> Result<f64> {
        // P = Cᵀ √(s/2) with the s in use; with d = q √T every row sum of the exact P would be 1.
        let root = (exact(&self.scale()?)? * 0.5)?.sqrt()?;
        let q = match &self.scale {
            Weights::Baked { constant, .. } => return Ok(*constant),
            Weights::Raw(log_q) => exact(log_q)?.exp()?,
        };
        let p = exact(&self.kernel()?)?.broadcast_mul(&root.reshape(((), 1, 1, 1))?)?;
        let constant = 2.0 * norm_squared(&p, &(q / &root)?)? - 1.0;
        // `max` would take 1 for NaN.
        Ok(if constant <= 1.0 { 1.0 } else { constant })
    }

    /// The theorem's constant, and what rounding may add where the hidden image has so many
    /// `positions`.
    ///
    /// With `A = |C|`, `D = diag(s)` and `γ = (terms of both sums + a few) u`:
    /// `|t − t̂| ≤ γ (A|x| + |b|)` for `t = C x + b`, what is subtracted is off by
    /// `γ Aᵀ D (A|x| + |b|)`, and `κ = ‖√D A‖₂`, of a kernel without signs at most the Frobenius
    /// norm of the sums of its taps, bounds `‖Aᵀ D A‖₂` by `κ²`.
    pub fn describe(&self, positions: f64) -> Result<Layer> {
        let root = exact(&self.scale()?)?.sqrt()?;
        let kernel = exact(&self.kernel()?)?.abs()?;
        let (hidden, channels, k, _) = kernel.dims4()?;
        let kappa = length(&kernel.sum((2, 3))?.broadcast_mul(&root.unsqueeze(1)?)?)?;
        let beta = length(&(exact(&self.bias)? * root)?)?;
        let beta = if beta == 0.0 {
            0.0
        } else {
            beta * positions.sqrt()
        };
        let terms = ((hidden + channels) * k * k + 12) as f64 * 1.02;
        Ok(Layer::Rounded {
            layer: Box::new(Layer::Fixed {
                name: self.name.clone(),
                lipschitz: self.constant()?,
            }),
            relative: terms * kappa * kappa + 3.0 * (1.0 + kappa * kappa),
            absolute: (terms + 3.0) * kappa * beta,
            at_zero: kappa * beta * 1.02,
        })
    }
}

/// `y = W x + b` where `W: [out, in]` is the polar factor of the raw weights: orthonormal rows if
/// `out ≤ in`, orthonormal columns otherwise. Described by its weights, so that an audit measures
/// how orthonormal they are instead of believing it.
#[derive(Debug, Clone)]
pub struct OrthonormalLinear {
    name: String,
    /// `[out, in]`: raw, or the polar factor if `baked`.
    weight: Tensor,
    /// `[out]`.
    bias: Tensor,
    baked: bool,
}

impl OrthonormalLinear {
    /// Parameters `weight [outputs, inputs]` and `bias [outputs]`. A Gaussian start: its polar
    /// factor is uniformly distributed among orthonormal matrices.
    pub fn new(vb: &VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        // Singular values near 1, so that a learning rate means what it means for orthonormal
        // weights.
        let init = Init::Randn {
            mean: 0.0,
            stdev: 1.0 / (inputs.max(outputs) as f64).sqrt(),
        };
        let weight = vb.get_with_hints((outputs, inputs), "weight", init)?;
        let bias = vb.get_with_hints(outputs, "bias", Init::Const(0.0))?;
        Ok(Self {
            name: vb.prefix(),
            weight,
            bias,
            baked: false,
        })
    }

    fn weight(&self) -> Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        match self.baked {
            true => Ok(self.weight.clone()),
            false if outputs <= inputs => kernels::polar_rows(&self.weight),
            false => kernels::polar_rows(&self.weight.t()?.contiguous()?)?
                .t()?
                .contiguous(),
        }
    }

    /// `x: [batch, in]` to `[batch, out]`. In train mode the product is grouped otherwise, to be
    /// cheaper with the weights' gradient: the same up to rounding.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        let y = match mode {
            Mode::Train if !self.baked && outputs <= inputs => {
                kernels::polar_linear(x, &self.weight)?
            }
            Mode::Train | Mode::Eval => x.matmul(&self.weight()?.t()?)?,
        };
        y.broadcast_add(&self.bias)
    }

    /// The same function with its weights derived once.
    pub fn bake(&self) -> Result<Self> {
        let (weight, bias) = (self.weight()?.detach(), self.bias.copy()?.detach());
        Ok(Self {
            name: self.name.clone(),
            weight,
            bias,
            baked: true,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn bias(&self) -> &Tensor {
        &self.bias
    }

    pub(crate) fn outputs(&self) -> usize {
        self.bias.elem_count()
    }

    /// `Linear`, with the weights in use.
    pub fn describe(&self) -> Result<Layer> {
        Ok(Layer::Linear {
            name: self.name.clone(),
            weight: self.weight()?.detach(),
        })
    }
}

fn odd(kernel: &[usize]) -> Result<()> {
    let size = kernel[kernel.len() - 1];
    if size.is_multiple_of(2) {
        candle_core::bail!(
            "a convolution that keeps the image's size needs an odd kernel, got {size}"
        )
    }
    Ok(())
}

/// `kernel: [out, in, k, k]` itself; `[out, in, k]` as the middle row of `[out, in, k, k]`, zeros
/// elsewhere. On an image of one row the other rows see nothing but padding, and zeros add nothing
/// to a Gram kernel, so every theorem about the square kernel is the one about the row.
fn square(kernel: &Tensor) -> Result<Tensor> {
    match kernel.dims() {
        &[_, _, k] => kernels::zero_pad2d(&kernel.unsqueeze(2)?, [k / 2, k / 2, 0, 0]),
        _ => Ok(kernel.clone()),
    }
}

/// On the host, in `f64`, tracking nothing.
fn exact(t: &Tensor) -> Result<Tensor> {
    t.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)
}

/// Zeros like `kernel: [out, in, k, k]`, but for the middle tap: the first columns or rows of the
/// orthonormal cosine basis (DCT-IV) `√(2/n) cos(π (o + ½)(i + ½) / n)`, `n = max(out, in)`.
fn centre_tap(kernel: &Tensor) -> Result<Tensor> {
    let (outputs, inputs, k, _) = kernel.dims4()?;
    let n = outputs.max(inputs) as f64;
    let mut values = vec![0f64; kernel.elem_count()];
    for (i, tap) in values
        .iter_mut()
        .skip(k / 2 * k + k / 2)
        .step_by(k * k)
        .enumerate()
    {
        let (o, i) = ((i / inputs) as f64 + 0.5, (i % inputs) as f64 + 0.5);
        *tap = (2.0 / n).sqrt() * (std::f64::consts::PI * o * i / n).cos();
    }
    Tensor::from_vec(values, kernel.shape(), &Device::Cpu)?
        .to_dtype(kernel.dtype())?
        .to_device(kernel.device())
}

/// An upper bound of `‖C‖₂²` for the convolution with `kernel: [n, c, kh, kw]` (`f64`), or of its
/// transpose, by the theorem above with weights `d: [n]`: `max_i Σ_j S_ij d_j / d_i`, where `S` is
/// computed from `C Cᵀ` and enlarged by what rounding may have taken from it.
fn norm_squared(kernel: &Tensor, d: &Tensor) -> Result<f64> {
    let (n, _, kh, kw) = kernel.dims4()?;
    let s = kernels::gram_abs(kernel)?.flatten_all()?.to_vec1::<f64>()?;
    let d = d.to_vec1::<f64>()?;
    // A term of S is a sum of c·kh·kw products, then (2kh − 1)(2kw − 1) of those are added; the
    // error of both is at most (number of additions + 2)·u times the sum of the absolute products,
    // Σ_c |w_ic|₁ |w_jc|₁.
    let taps = kernel.abs()?.sum((2, 3))?;
    let products = taps.matmul(&taps.t()?)?.flatten_all()?.to_vec1::<f64>()?;
    // Doubled for the rounding of this very bound, of the weighted row sums (n + 3 operations), and
    // of `d`'s quotient.
    let terms = kernel.elem_count() / n + (2 * kh - 1) * (2 * kw - 1) + n + 8;
    let slack = 2.0 * terms as f64 * f64::EPSILON;
    let row = |i: usize| {
        (0..n)
            .map(|j| (s[i * n + j] + slack * products[i * n + j]) * d[j] / d[i])
            .sum::<f64>()
    };
    let worst = (0..n).map(row).fold(0.0, |a: f64, b| {
        if a.is_nan() || b.is_nan() {
            f64::NAN
        } else {
            a.max(b)
        }
    });
    Ok(worst * (1.0 + slack))
}
