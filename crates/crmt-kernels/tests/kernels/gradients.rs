//! Forward passes against naive references, gradients against finite differences, `f32` against
//! `f64`, over random shapes.
use crate::common::{assert_close, check_gradients, distinct, gradients, random, values};
use candle_core::{DType, Device, Result, Tensor};
use crmt_kernels::*;
use proptest::prelude::*;

/// The definition, term by term.
fn naive_conv(
    x: &Tensor,
    kernel: &Tensor,
    bias: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let ((b, ci, h, w), (co, _, kh, kw)) = (x.dims4()?, kernel.dims4()?);
    let (oh, ow) = (
        (h + 2 * padding - kh) / stride + 1,
        (w + 2 * padding - kw) / stride + 1,
    );
    let (x, kernel, bias) = (values(x)?, values(kernel)?, values(bias)?);
    let mut y = Vec::with_capacity(b * co * oh * ow);
    for (n, o, i, j) in indices(b, co, oh, ow) {
        let mut sum = bias[o];
        for (c, u, v) in indices(1, ci, kh, kw).map(|(_, c, u, v)| (c, u, v)) {
            let (row, column) = (i * stride + u, j * stride + v);
            if (padding..h + padding).contains(&row) && (padding..w + padding).contains(&column) {
                sum += kernel[((o * ci + c) * kh + u) * kw + v]
                    * x[((n * ci + c) * h + row - padding) * w + column - padding];
            }
        }
        y.push(sum);
    }
    Tensor::from_vec(y, (b, co, oh, ow), &Device::Cpu)
}

fn indices(
    a: usize,
    b: usize,
    c: usize,
    d: usize,
) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |i| (i / (b * c * d), i / (c * d) % b, i / d % c, i % d))
}

#[derive(Debug, Clone)]
struct Conv {
    x: [usize; 4],
    kernel: [usize; 4],
    stride: usize,
    padding: usize,
    seed: u64,
}

fn convolutions() -> impl Strategy<Value = Conv> {
    let kernel = prop_oneof![Just((1usize, 1usize)), (1usize..=7, 1usize..=7)];
    (
        kernel,
        1usize..=3,
        0usize..=3,
        1usize..=5,
        1usize..=4,
        1usize..=10,
        0usize..=9,
        0usize..=9,
        any::<u64>(),
    )
        .prop_map(
            |((kh, kw), stride, padding, b, ci, co, more_h, more_w, seed)| {
                let size = |k: usize, more: usize| (k.saturating_sub(2 * padding) + more).max(1);
                Conv {
                    x: [b, ci, size(kh, more_h), size(kw, more_w)],
                    kernel: [co, ci, kh, kw],
                    stride,
                    padding,
                    seed,
                }
            },
        )
}

impl Conv {
    fn inputs(&self) -> Result<[Tensor; 3]> {
        Ok([
            random(self.seed, &self.x)?,
            random(!self.seed, &self.kernel)?,
            random(self.seed ^ 1, &self.kernel[..1])?,
        ])
    }

    fn apply(&self, t: &[Tensor]) -> Result<Tensor> {
        conv2d(&t[0], &t[1], t.get(2), self.stride, self.padding)
    }

    /// Output and gradients agree with plain definitions: the output with [`naive_conv`], and the
    /// gradients with the adjoint identity
    /// `Σ weight·(conv(x, k) with one of them replaced) = Σ gradient·replacement`.
    fn check_large(&self) -> Result<()> {
        let inputs = self.inputs()?;
        let (y, weight, grads) = gradients(&inputs, &|t| self.apply(t), 5)?;
        let expected = naive_conv(
            &inputs[0],
            &inputs[1],
            &inputs[2],
            self.stride,
            self.padding,
        )?;
        // Sums of thousands of f64 terms of size 1: 1e-11 is far above rounding, far below one lost
        // term.
        assert_close("large forward", &y, &expected, 1e-11);
        let zero_bias = inputs[2].zeros_like()?;
        for i in 0..2 {
            let mut moved = inputs.clone();
            moved[i] = random(77, inputs[i].dims())?;
            let y = naive_conv(&moved[0], &moved[1], &zero_bias, self.stride, self.padding)?;
            let left = (&weight * y)?.sum_all()?;
            assert_close(
                "adjoint",
                &(&grads[i] * &moved[i])?.sum_all()?,
                &left,
                1e-11,
            );
        }
        assert_close("bias", &grads[2], &weight.sum((0, 2, 3))?, 1e-11);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolution(c in convolutions()) {
        let inputs = c.inputs()?;
        // At most 4·49 + 1 terms of size 1: rounding stays below 1e-13.
        assert_close("forward", &c.apply(&inputs)?, &naive_conv(&inputs[0], &inputs[1], &inputs[2], c.stride, c.padding)?, 1e-13);
        check_gradients(&inputs, &|t| c.apply(t), c.seed)?;
        check_gradients(&inputs[..2], &|t| c.apply(t), c.seed)?;
    }

    #[test]
    fn convolution_with_relu(c in convolutions()) {
        for n in [2, 3] {
            let inputs = &c.inputs()?[..n];
            let fused = gradients(inputs, &|t| conv2d_relu(&t[0], &t[1], t.get(2), c.stride, c.padding), c.seed)?;
            let apart = gradients(inputs, &|t| relu(&c.apply(t)?), c.seed)?;
            // The same operations in the same order: the same bits.
            prop_assert_eq!(values(&fused.0)?, values(&apart.0)?);
            for (a, b) in fused.2.iter().zip(&apart.2) {
                prop_assert_eq!(values(a)?, values(b)?);
            }
        }
    }

    #[test]
    fn convolution_in_f32(c in convolutions()) {
        let inputs = c.inputs()?;
        let halved = inputs.iter().map(|t| t.to_dtype(DType::F32)).collect::<Result<Vec<_>>>()?;
        let (y, _, grads) = gradients(&inputs, &|t| c.apply(t), c.seed)?;
        let (y32, _, grads32) = gradients(&halved, &|t| c.apply(t), c.seed)?;
        // Rounded inputs and sums of n ≤ 5·15·15 terms: about √n·6e-8 ≈ 2e-6 of the size of a term.
        assert_close("forward", &y32, &y, 1e-5);
        for (a, b) in grads32.iter().zip(&grads) {
            assert_close("gradient", a, b, 1e-5);
        }
    }

    #[test]
    fn max_pooling(b in 1usize..=3, c in 1usize..=3, h in 1usize..=9, w in 1usize..=9, kernel in 1usize..=5, stride in 1usize..=3,
                   padding in 0usize..=2, seed: u64) {
        let padding = padding.min(kernel / 2);
        prop_assume!(h.min(w) + 2 * padding >= kernel);
        let x = distinct(seed, &[b, c, h, w])?;
        let y = max_pool2d(&x, kernel, stride, padding)?;
        let (xs, (_, _, oh, ow)) = (values(&x)?, y.dims4()?);
        let expected: Vec<f64> = indices(b, c, oh, ow).map(|(n, c_, i, j)| {
            indices(1, 1, kernel, kernel).filter_map(|(_, _, u, v)| {
                let (row, column) = ((i * stride + u).checked_sub(padding)?, (j * stride + v).checked_sub(padding)?);
                (row < h && column < w).then(|| xs[((n * c + c_) * h + row) * w + column])
            }).fold(f64::NEG_INFINITY, f64::max)
        }).collect();
        prop_assert_eq!(values(&y)?, expected);
        check_gradients(&[x], &|t| max_pool2d(&t[0], kernel, stride, padding), seed)?;
    }

    #[test]
    fn activations(b in 1usize..=4, c in 1usize..=4, h in 1usize..=4, flat: bool, seed: u64) {
        let shape = if flat { vec![b, 2 * c] } else { vec![b, 2 * c, h, 3] };
        let x = distinct(seed, &shape)?;
        check_gradients(std::slice::from_ref(&x), &|t| relu(&t[0]), seed)?;
        check_gradients(std::slice::from_ref(&x), &|t| max_min(&t[0]), seed)?;
        let (a, b) = (x.narrow(1, 0, c)?, x.narrow(1, c, c)?);
        let expected = Tensor::cat(&[a.maximum(&b)?, a.minimum(&b)?], 1)?;
        prop_assert_eq!(values(&max_min(&x)?)?, values(&expected)?);
    }

    #[test]
    fn batch_normalisation(b in 2usize..=6, c in 1usize..=4, h in 1usize..=5, w in 1usize..=4, flat: bool, seed: u64) {
        let shape = if flat { vec![b, c] } else { vec![b, c, h, w] };
        let (x, gamma, beta) = (random(seed, &shape)?, random(!seed, &[c])?, random(seed ^ 1, &[c])?);
        let running = RunningStats::new(c, DType::F64, &Device::Cpu)?;
        // eps = 0.1 bounds the curvature when two values nearly coincide, so that differences stay
        // accurate.
        let train = |t: &[Tensor]| batch_norm_train(&t[0], &t[1], &t[2], &running, 0.1, 0.1);
        check_gradients(&[x.clone(), gamma.clone(), beta.clone()], &train, seed)?;
        let eval = |t: &[Tensor]| batch_norm_eval(&t[0], &t[1], &t[2], &running, 1e-5);
        check_gradients(&[x, gamma, beta], &eval, seed)?;
    }

    #[test]
    fn orthonormal(r in 1usize..=4, more in 0usize..=4, seed: u64) {
        let v = random(seed, &[r, r + more])?;
        // Few steps: the gradient of the iteration itself, whether or not it has converged.
        check_gradients(&[v], &|t| orthonormal_rows(&t[0], 3), seed)?;
    }
}

/// Shapes that reach every way of cutting the work: row blocks, groups of samples, blocks of
/// channels.
#[test]
fn large_convolutions() -> Result<()> {
    for (x, kernel, stride, padding) in [
        ([1, 3, 40, 37], [8, 3, 7, 7], 2, 3),
        ([2, 64, 20, 21], [96, 64, 3, 3], 1, 1),
        ([5, 64, 7, 6], [128, 64, 3, 3], 2, 1),
        ([9, 64, 5, 5], [64, 64, 1, 1], 1, 0),
        ([1, 32, 24, 24], [64, 32, 1, 1], 1, 0),
        ([3, 32, 17, 18], [33, 32, 1, 1], 2, 0),
        ([40, 2, 12, 3], [3, 2, 2, 3], 1, 0),
    ] {
        Conv {
            x,
            kernel,
            stride,
            padding,
            seed: 11,
        }
        .check_large()?;
    }
    Ok(())
}

#[test]
fn rows_become_orthonormal() -> Result<()> {
    for (r, c) in [(2, 2), (5, 9), (31, 64)] {
        let x = orthonormal_rows(&random(3, &[r, c])?, 30)?;
        let eye = Tensor::eye(r, DType::F64, &Device::Cpu)?;
        // Converged after 30 steps for any reasonably conditioned matrix; rounding of c-term sums
        // remains.
        assert_close("gram", &x.matmul(&x.t()?)?, &eye, 1e-12);
    }
    Ok(())
}
