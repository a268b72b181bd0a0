//! The parts a late-fusion model is composed of, and how a part describes itself to an auditor.
//! Does not know concrete layers; `crmt-encoders` and `crmt-fusion` implement these.
use crate::{AdditiveScores, PerModality, Result};
use candle_core::Tensor;

/// Whether batch statistics are those of the batch (and update the running ones) or fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics; running statistics move.
    Train,
    /// A fixed function of each sample.
    Eval,
}

/// Turns one modality into a feature vector.
pub trait Encoder: Send + Sync {
    /// Number of features.
    fn out_dim(&self) -> usize;

    /// `[batch, ...]` to `[batch, out_dim]`.
    fn encode(&self, x: &Tensor, mode: Mode) -> Result<Tensor>;

    /// The eval-mode computation as a chain of layers, in order of application, so that an
    /// auditor can bound its Lipschitz constant. The composition of the described layers must be
    /// [`encode`](Self::encode) in [`Mode::Eval`]; a certificate is as true as this description.
    fn layers(&self) -> Result<Vec<Layer>>;
}

/// Turns feature vectors into additive scores.
pub trait Fusion: Send + Sync {
    /// `features`: each `[batch, dim_m]`.
    fn fuse(&self, features: &PerModality<Tensor>) -> Result<AdditiveScores>;

    /// The rows `W(m)` with `s_k(m) = <W_k(m), phi(m)>`, each `[classes, dim_m]`, as used in
    /// [`fuse`](Self::fuse).
    fn rows(&self) -> Result<PerModality<Tensor>>;
}

/// One step of an encoder, as an auditor sees it: enough to bound its l2 Lipschitz constant.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Layer {
    /// `y = W x + b`.
    Linear {
        /// Where the weights live, e.g. `encoders.image.fc1`.
        name: String,
        /// `[out, in]`.
        weight: Tensor,
    },
    /// Zero-padded 2-D cross-correlation plus a bias.
    Conv2d {
        /// Where the kernel lives.
        name: String,
        /// `[out, in, height, width]`.
        kernel: Tensor,
        /// Same in both directions.
        stride: usize,
        /// Zeros on each side, both directions.
        padding: usize,
    },
    /// `y_c = scale_c * x_c + shift_c` per channel: eval-mode BatchNorm, declared scales.
    Diagonal {
        /// Where the scale lives.
        name: String,
        /// `[channels]`.
        scale: Tensor,
    },
    /// Anything with a known global constant. What it rounds is not declared, so that no
    /// certificate can be about the program that computes it: see [`Exact`](Self::Exact) and
    /// [`Rounded`](Self::Rounded).
    Fixed {
        /// What it is, e.g. `tanh`.
        name: String,
        /// The constant, by theorem.
        lipschitz: f64,
    },
    /// Moves, selects or negates values, rounds none, and maps zeros to zeros: ReLU and max-min
    /// (constant 1), max-pool, zero-pad, permutations.
    Exact {
        /// What it is, e.g. `relu`.
        name: String,
        /// The constant, by theorem.
        lipschitz: f64,
    },
    /// `[batch, ...]` to `[batch, features]`, rows of the array one after another.
    Flatten,
    /// `y = x + b`, a bias: of no concern to a Lipschitz constant, but to rounding.
    Shift {
        /// Where the bias lives.
        name: String,
        /// At least its l2 norm over the whole output (a convolution's bias counts at every
        /// position); infinite: unknown.
        norm: f64,
    },
    /// A layer whose computation is known to be off by at most `u (relative |x| + absolute)`, in l2
    /// norm, where `u` is the unit roundoff of the numbers it computes with (2^-53 for `f64`).
    Rounded {
        /// What it computes in real arithmetic.
        layer: Box<Layer>,
        /// By the length of the layer's input.
        relative: f64,
        /// Whatever the input.
        absolute: f64,
        /// At least the length of the layer's output at the input 0.
        at_zero: f64,
    },
    /// A layer with a constant known by theorem: the lesser of it and what an audit finds is its
    /// bound.
    Bounded {
        /// What it computes.
        layer: Box<Layer>,
        /// The constant, by theorem.
        lipschitz: f64,
    },
    /// `y = x + f(x)`.
    Residual {
        /// Which block.
        name: String,
        /// `f`, as a chain.
        branch: Vec<Layer>,
    },
    /// `y = f(x) + g(x)`.
    Sum {
        /// Which block.
        name: String,
        /// `f` and `g`, each a chain.
        branches: [Vec<Layer>; 2],
    },
    /// Something with no global constant (LayerNorm, attention): an audit refuses it by name.
    Unbounded {
        /// Which layer.
        name: String,
        /// Why no constant exists.
        why: String,
    },
}
