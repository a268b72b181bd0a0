//! What 1-Lipschitz networks are made of: transposed and residual convolutions, rearrangements,
//! Gram row sums and polar factors, against definitions, golden values and finite differences.
use crate::common::{
    assert_close, check_gradients, difference, distinct, gradients, random, values,
};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use crmt_kernels::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn transposed_convolution(kh in 1usize..=5, kw in 1usize..=5, stride in 1usize..=3, padding in 0usize..=2, b in 1usize..=4,
                              ci in 1usize..=3, co in 1usize..=5, oh in 1usize..=6, ow in 1usize..=6, seed: u64) {
        prop_assume!((oh - 1) * stride + kh > 2 * padding && (ow - 1) * stride + kw > 2 * padding);
        let (x, kernel) = (random(seed, &[b, co, oh, ow])?, random(!seed, &[co, ci, kh, kw])?);
        let y = conv_transpose2d(&x, &kernel, stride, padding)?;
        // The definition: <Cᵀ x, z> = <x, C z> for every z. Up to 5·6·6·25 terms of size 1 in f64.
        let z = random(seed ^ 1, y.dims())?;
        let right = (&x * conv2d(&z, &kernel, None, stride, padding)?)?.sum_all()?;
        assert_close("adjoint", &(&y * &z)?.sum_all()?, &right, 1e-12);
        check_gradients(&[x, kernel], &|t| conv_transpose2d(&t[0], &t[1], stride, padding), seed)?;
    }

    #[test]
    fn rearrangements(b in 1usize..=3, c in 1usize..=3, h in 1usize..=4, w in 1usize..=4, block in 1usize..=3, pad: [u8; 4], seed: u64) {
        let x = random(seed, &[b, c, h * block, w * block])?;
        let expected = x
            .reshape(vec![b, c, h, block, w, block])?
            .permute(vec![0, 1, 3, 5, 2, 4])?
            .reshape((b, c * block * block, h, w))?;
        prop_assert_eq!(values(&space_to_depth(&x, block)?)?, values(&expected)?);
        let pad = pad.map(|n| usize::from(n % 4));
        let expected = x.pad_with_zeros(2, pad[0], pad[1])?.pad_with_zeros(3, pad[2], pad[3])?;
        let y = zero_pad2d(&x, pad)?;
        prop_assert_eq!(y.dims(), expected.dims());
        prop_assert_eq!(values(&y)?, values(&expected)?);
        check_gradients(std::slice::from_ref(&x), &|t| space_to_depth(&t[0], block), seed)?;
        check_gradients(&[x], &|t| zero_pad2d(&t[0], pad), seed)?;
    }

    #[test]
    fn residual_convolution(k in 0usize..=2, b in 1usize..=3, c in 1usize..=4, hidden in 1usize..=5, h in 1usize..=6, w in 1usize..=6,
                            seed: u64) {
        let k = 2 * k + 1;
        let positive = |t: Tensor| (t + 1.5)?.affine(0.5, 0.);
        let inputs = [
            distinct(seed, &[b, c, h, w])?,
            random(!seed, &[hidden, c, k, k])?,
            random(seed ^ 1, &[hidden])?,
            positive(random(seed ^ 2, &[hidden])?)?,
        ];
        let fused = |t: &[Tensor]| residual_conv2d(&t[0], &t[1], &t[2], &t[3]);
        let apart = |t: &[Tensor]| {
            let u = conv2d_relu(&t[0], &t[1], Some(&t[2]), 1, k / 2)?.broadcast_mul(&t[3].reshape((1, hidden, 1, 1))?)?;
            &t[0] - conv_transpose2d(&u, &t[1], 1, k / 2)?
        };
        // Gradients against the composition of operations that are tested by themselves: finite
        // differences would cross the kink of the ReLU now and then. Sums of a few hundred f64
        // terms in another order.
        let (a, b) = (gradients(&inputs, &fused, seed)?, gradients(&inputs, &apart, seed)?);
        assert_close("value", &a.0, &b.0, 1e-13);
        for (a, b) in a.2.iter().zip(&b.2) {
            assert_close("gradient", a, b, 1e-12);
        }
    }

    #[test]
    fn gram_row_sums(co in 1usize..=4, ci in 1usize..=4, kh in 1usize..=3, kw in 1usize..=3, seed: u64) {
        // Signs by channel, and alternating or constant along the taps: every correlation has terms
        // of one sign, so both signs occur and none is near 0, where |x| has no derivative.
        let sign = |n: usize, shift: u32| {
            let signs = (0..n).map(|i| if seed >> (shift + i as u32) & 1 == 1 { -1f64 } else { 1. });
            Tensor::from_iter(signs, &Device::Cpu)
        };
        let alternating = |n: usize, bit: u32| {
            let signs = (0..n).map(|i| if seed >> bit & 1 == 1 && i % 2 == 1 { -1f64 } else { 1. });
            Tensor::from_iter(signs, &Device::Cpu)
        };
        let kernel = (random(seed, &[co, ci, kh, kw])?.abs()? + 0.1)?
            .broadcast_mul(&sign(co, 0)?.reshape((co, 1, 1, 1))?)?
            .broadcast_mul(&sign(ci, 8)?.reshape((ci, 1, 1))?)?
            .broadcast_mul(&alternating(kh, 16)?.reshape((kh, 1))?)?
            .broadcast_mul(&alternating(kw, 17)?)?;
        let q = random(!seed, &[co])?.exp()?;
        for t in 1..=2 {
            check_gradients(std::slice::from_ref(&kernel), &|k| gram_abs_rowsum(&k[0], t), seed)?;
        }
        check_gradients(&[kernel.clone(), q], &|t| residual_scale(&t[0], &t[1]), seed)?;
        // The theorem at work: the rescaled convolution never enlarges an image.
        let scale = gram_abs_rowsum(&kernel, 1)?.sqrt()?.reshape((1, ci, 1, 1))?;
        let x = random(seed ^ 3, &[1, ci, 7, 6])?;
        let y = conv2d(&x, &kernel.broadcast_div(&scale)?, None, 1, 1)?;
        let norm = |t: &Tensor| t.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>();
        // 1e-14: the rounding of a few hundred f64 operations.
        prop_assert!(norm(&y)? <= norm(&x)? * (1. + 1e-14));
    }

    #[test]
    fn polar_factor(r in 1usize..=5, more in 0usize..=4, seed: u64) {
        let v = (random(seed, &[r, r + more])? + Tensor::eye(r, DType::F64, &Device::Cpu)?.pad_with_zeros(1, 0, more)?.affine(2., 0.)?)?;
        let w = polar_rows(&v)?;
        // Stopped where the next error is below 1e-15, up to rounding times the condition number
        // (below 100 here).
        assert_close("rows", &w.matmul(&w.t()?)?, &Tensor::eye(r, DType::F64, &Device::Cpu)?, 1e-12);
        assert_close("nearest", &w, &orthonormal_rows(&v, 30)?, 1e-11);
        let x = random(!seed, &[more + 1, r + more])?;
        let regrouped = gradients(&[x.clone(), v.clone()], &|t| polar_linear(&t[0], &t[1]), seed)?;
        let plain = gradients(&[x, v.clone()], &|t| t[0].matmul(&polar_rows(&t[1])?.t()?), seed)?;
        assert_close("product", &regrouped.0, &plain.0, 1e-12);
        for (a, b) in regrouped.2.iter().zip(&plain.2) {
            assert_close("gradient", a, b, 1e-10);
        }
        check_gradients(&[v], &|t| polar_rows(&t[0]), seed)?;
    }
}

/// Golden case G9: 2×2×3×3 integers, sums computed independently.
#[test]
fn golden_gram_row_sums() -> Result<()> {
    let w = |o: i64, i: i64, a: i64, b: i64| {
        ((3 * o + 5 * i + 7 * a + 11 * b + 2 * o * a + i * b).rem_euclid(7) - 3) as f64
    };
    let all = (0..36)
        .map(|n| w(n / 18, n / 9 % 2, n / 3 % 3, n % 3))
        .collect();
    let kernel = Tensor::from_vec(all, (2, 2, 3, 3), &Device::Cpu)?;
    for (t, expected) in [
        (1, [578., 451.]),
        (2, [413.903_370_365_6, 325.159_960_634_8]),
        (3, [364.080_233_262_3, 287.774_232_210_5]),
    ] {
        // The golden values have 13 digits.
        assert_close(
            "R²",
            &gram_abs_rowsum(&kernel, t)?,
            &Tensor::new(&expected, &Device::Cpu)?,
            1e-12,
        );
        let single = gram_abs_rowsum(&kernel.to_dtype(DType::F32)?, t)?;
        // f32: 1e-6 for a few dozen operations.
        assert_close(
            "R² in f32",
            &single,
            &Tensor::new(&expected, &Device::Cpu)?,
            1e-6,
        );
    }
    let t = residual_scale(&kernel, &Tensor::ones(2, DType::F64, &Device::Cpu)?)?;
    assert_eq!(values(&t)?, [492., 453.]);
    Ok(())
}

#[test]
fn golden_polar_factor() -> Result<()> {
    // Polar factor of [[1,2,0],[0,1,1]], computed independently with 40 digits.
    let expected = Tensor::new(
        &[
            [
                0.526_598_632_371_090_4,
                0.816_496_580_927_726,
                -0.236_700_683_814_454_8,
            ],
            [
                -0.236_700_683_814_454_8,
                0.408_248_290_463_863,
                0.881_649_658_092_772_6,
            ],
        ],
        &Device::Cpu,
    )?;
    let v = Tensor::new(&[[1f64, 2., 0.], [0., 1., 1.]], &Device::Cpu)?;
    // Rounding of a few dozen operations, in each precision.
    assert_close("f64", &polar_rows(&v)?, &expected, 1e-14);
    assert_close(
        "f32",
        &polar_rows(&v.to_dtype(DType::F32)?)?,
        &expected,
        1e-6,
    );
    for (bad, part) in [
        (v.t()?, "3 rows"),
        (v.zeros_like()?, "not zero"),
        ((&v * f64::INFINITY)?, "finite"),
        (v.flatten_all()?, "matrix"),
    ] {
        let error = polar_rows(&bad).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    Ok(())
}

/// More rows than one task multiplies, and badly conditioned: singular values from 1 to 1000.
#[test]
fn large_polar_factor() -> Result<()> {
    let (r, c) = (150, 200);
    let q = orthonormal_rows(&random(1, &[r, r])?, 40)?;
    let p = orthonormal_rows(&random(2, &[r, c])?, 40)?;
    let sizes: Vec<f64> = (0..r)
        .map(|i| 1000f64.powf(i as f64 / (r - 1) as f64))
        .collect();
    let v = q
        .broadcast_mul(&Tensor::new(sizes, &Device::Cpu)?)?
        .matmul(&p)?;
    // The Gram matrix has condition 1e6, which multiplies 1e-16 times the root of the size.
    assert_close("f64", &polar_rows(&v)?, &q.matmul(&p)?, 1e-8);
    Ok(())
}

#[test]
fn frozen_arguments_get_no_gradient() -> Result<()> {
    let (x, kernel, one) = (
        random(1, &[2, 3, 6, 6])?,
        random(2, &[4, 3, 3, 3])?,
        Tensor::ones(4, DType::F64, &Device::Cpu)?,
    );
    let (x_var, k_var) = (Var::from_tensor(&x)?, Var::from_tensor(&kernel)?);
    let y = |x: &Tensor, k: &Tensor| residual_conv2d(x, k, &one, &one)?.sum_all()?.backward();
    let grads = y(&x_var, &kernel)?;
    assert!(
        grads.get(&x_var).is_some() && grads.get(&kernel).is_none() && grads.get(&one).is_none()
    );
    let grads = y(&x, &k_var)?;
    assert!(grads.get(&k_var).is_some() && grads.get(&x).is_none());
    let (m, v) = (random(5, &[2, 4])?, random(6, &[3, 4])?);
    let (m_var, v_var) = (Var::from_tensor(&m)?, Var::from_tensor(&v)?);
    let grads = polar_linear(&m_var, &v)?.sum_all()?.backward()?;
    assert!(grads.get(&m_var).is_some() && grads.get(&v).is_none());
    let grads = polar_linear(&m, &v_var)?.sum_all()?.backward()?;
    assert!(grads.get(&v_var).is_some() && grads.get(&m).is_none());
    let z = random(3, &[2, 4, 5, 5])?;
    let grads = conv_transpose2d(&z, &k_var, 1, 1)?.sum_all()?.backward()?;
    assert!(grads.get(&k_var).is_some() && grads.get(&z).is_none());
    Ok(())
}

#[test]
fn shapes_that_do_not_fit_are_explained() -> Result<()> {
    let t = |shape: &[usize]| random(1, shape);
    let message = |r: Result<Tensor>| r.unwrap_err().to_string();
    let one = t(&[4])?;
    for (error, parts) in [
        (
            message(conv_transpose2d(
                &t(&[1, 3, 5, 5])?,
                &t(&[4, 3, 3, 3])?,
                1,
                1,
            )),
            ["3 channels", "expects 4"],
        ),
        (
            message(conv_transpose2d(
                &t(&[1, 4, 1, 5])?,
                &t(&[4, 3, 3, 3])?,
                1,
                2,
            )),
            ["padding 2", "1×5"],
        ),
        (
            message(conv_transpose2d(&t(&[1, 4])?, &t(&[4, 3, 3, 3])?, 1, 2)),
            ["[batch, out, h, w]", "[1, 4]"],
        ),
        (
            message(residual_conv2d(
                &t(&[1, 3, 5, 5])?,
                &t(&[4, 3, 2, 2])?,
                &one,
                &one,
            )),
            ["odd", "[4, 3, 2, 2]"],
        ),
        (
            message(residual_conv2d(
                &t(&[1, 3, 5, 5])?,
                &t(&[4, 3, 3, 3])?,
                &one,
                &t(&[3])?,
            )),
            ["scale has shape [3]", "[4]"],
        ),
        (
            message(space_to_depth(&t(&[1, 3, 5, 4])?, 2)),
            ["blocks of 2", "5×4"],
        ),
        (
            message(space_to_depth(&t(&[3, 4])?, 2)),
            ["[batch, channels, h, w]", "[3, 4]"],
        ),
        (
            message(zero_pad2d(&t(&[3, 4])?, [1; 4])),
            ["[batch, channels, h, w]", "[3, 4]"],
        ),
        (
            message(polar_linear(&t(&[2, 4])?, &t(&[5, 4])?)),
            ["at most 4 rows", "[5, 4]"],
        ),
        (
            message(polar_linear(&t(&[2, 4])?, &t(&[2, 3])?)),
            ["[rows, 4]", "[2, 3]"],
        ),
        (
            message(gram_abs_rowsum(&t(&[3, 4])?, 1)),
            ["[out, in, kh, kw]", ""],
        ),
        (
            message(gram_abs_rowsum(&t(&[3, 4, 3, 3])?, 0)),
            ["t = 0", "1 and 16"],
        ),
    ] {
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    Ok(())
}

#[test]
fn an_empty_batch_passes_through() -> Result<()> {
    let x = Var::zeros((0, 3, 6, 8), DType::F32, &Device::Cpu)?;
    let (kernel, one) = (
        Tensor::ones((4, 3, 3, 3), DType::F32, &Device::Cpu)?,
        Tensor::ones(4, DType::F32, &Device::Cpu)?,
    );
    let y = space_to_depth(
        &zero_pad2d(&residual_conv2d(&x, &kernel, &one, &one)?, [1, 1, 0, 0])?,
        2,
    )?;
    assert_eq!(y.dims(), [0, 12, 4, 4]);
    y.sum_all()?.backward()?;
    Ok(())
}

/// In `f32` as in `f64`, up to rounding.
#[test]
fn single_precision() -> Result<()> {
    let inputs = [
        random(1, &[3, 6, 9, 7])?,
        random(2, &[5, 6, 3, 3])?,
        random(3, &[5])?,
        random(4, &[5])?.exp()?,
    ];
    let f = |t: &[Tensor]| {
        let y = residual_conv2d(
            &t[0],
            &t[1],
            &t[2],
            &t[3].broadcast_div(&residual_scale(&t[1], &t[3])?)?,
        )?;
        polar_rows(&y.flatten_from(D::Minus2)?.mean(0)?)
    };
    let halved = inputs
        .iter()
        .map(|t| t.to_dtype(DType::F32))
        .collect::<Result<Vec<_>>>()?;
    let (a, b) = (gradients(&inputs, &f, 5)?, gradients(&halved, &f, 5)?);
    // Rounded inputs and a few hundred f32 operations, times the condition of the Gram matrix
    // (about 100).
    assert!(difference(&b.0, &a.0)? < 1e-4);
    for (b, a) in b.2.iter().zip(&a.2) {
        assert!(difference(b, a)? < 1e-3);
    }
    Ok(())
}
