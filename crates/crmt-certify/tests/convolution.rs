//! Convolutions: bounds against the norms of the executed operator on finite inputs, found by power
//! iteration on `conv2d` and its adjoint (always a lower bound of the norm); almost orthogonal
//! kernels; folding and residuals.
use candle_core::{DType, Device, Tensor};
use crmt_certify::*;
use crmt_core::{Layer, Streams};
use rand::Rng;

fn random(rng: &mut impl Rng, shape: &[usize]) -> Tensor {
    let v: Vec<f64> = (0..shape.iter().product())
        .map(|_| rng.sample(rand_distr::StandardNormal))
        .collect();
    Tensor::from_vec(v, shape, &Device::Cpu).unwrap()
}

/// The norm of `x -> conv(x)` on `n x n` inputs, from below.
fn power(kernel: &Tensor, stride: usize, padding: usize, n: usize, steps: usize) -> f64 {
    let k = kernel.dims()[2];
    let mut rng = Streams::new(0).stream("power", n as u64);
    let mut x = random(&mut rng, &[1, kernel.dims()[1], n, n]);
    let norm = |x: &Tensor| {
        x.sqr()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
            .sqrt()
    };
    let mut best = 0f64;
    for _ in 0..steps {
        x = (&x / norm(&x)).unwrap();
        let y = x.conv2d(kernel, padding, stride, 1, 1).unwrap();
        best = best.max(norm(&y));
        let back = (y.dims()[2] - 1) * stride + k - 2 * padding;
        x = y
            .conv_transpose2d(kernel, padding, n - back, stride, 1)
            .unwrap();
    }
    best
}

fn conv(name: &str, kernel: Tensor, stride: usize, padding: usize) -> Layer {
    Layer::Conv2d {
        name: name.into(),
        kernel,
        stride,
        padding,
    }
}

/// At least the norm of the finite operator, and at most 1.03 times it on 16 positions per
/// axis: 0.25 % are the grid's (64 points, two axes), 0.1 % the Gram iteration's at rank 3
/// (3^(2^-11)), the rest is what a finite operator falls short of the supremum. That depends on the
/// kernel: `[1, 0, 1]` acts on even and odd positions apart, and its norm on 16 is `2 cos(pi / 9)`,
/// 6 % below 2. So a few kernels may need 32 positions.
#[test]
fn symbols_bound_finite_operators_and_closely() {
    let mut rng = Streams::new(4).stream("kernels", 0);
    let mut slow = 0;
    for case in 0..40 {
        let (out, inp) = (rng.random_range(1..4), rng.random_range(1..4));
        let k = [2, 3, 3, 5][case % 4];
        let stride = 1 + case / 4 % 3;
        let padding = rng.random_range(0..k);
        let kernel = random(&mut rng, &[out, inp, k, k]);
        let (bound, rows) = (
            conv_bound(&kernel, stride, 64).unwrap(),
            row_sum_bound(&kernel, stride).unwrap(),
        );
        let what = format!("case {case}: {out}x{inp}x{k}x{k}, stride {stride}, padding {padding}");
        let looseness = |positions: usize| {
            let norm = power(
                &kernel,
                stride,
                padding,
                (positions - 1) * stride + k - 2 * padding,
                300,
            );
            assert!(
                norm <= bound && norm <= rows,
                "{what}: {norm} > {bound} or {rows}"
            );
            bound / norm
        };
        // Twice the taps reach twice as far.
        let base = 8 * (k - 1).max(2);
        if looseness(base) > 1.03 {
            slow += 1;
            let wide = looseness(2 * base);
            assert!(wide <= 1.03, "{what}: {wide}");
        }
    }
    assert!(
        slow <= 2,
        "{slow} of 40 kernels are more than 3 % below their bound"
    );
    let comb = Tensor::new(&[1f64, 0., 1.], &Device::Cpu)
        .unwrap()
        .reshape((1, 1, 1, 3))
        .unwrap();
    assert!((2. ..2.003).contains(&conv_bound(&comb, 1, 64).unwrap()));
}

/// The golden kernel `w[o, i, a, b]`, its row sums (t = 1), and what AOL makes of it.
#[test]
fn g9_row_sums_and_almost_orthogonal_kernels() {
    let mut v = vec![];
    for (o, i, a, b) in (0..36).map(|n| (n / 18, n / 9 % 2, n / 3 % 3, n % 3)) {
        v.push(((3 * o + 5 * i + 7 * a + 11 * b + 2 * o * a + i * b) % 7) as f64 - 3.);
    }
    let kernel = Tensor::from_vec(v, (2, 2, 3, 3), &Device::Cpu).unwrap();
    let bound = row_sum_bound(&kernel, 1).unwrap();
    // Between the supremum of the symbol and the plain row sums, sqrt 578.
    assert!(
        (18.440368517760..24.041630560344).contains(&bound),
        "{bound}"
    );
    // Divided by the golden R, every weighted row sum is 1: to the last digits, and from above.
    let r = Tensor::new(&[578f64, 451.], &Device::Cpu)
        .unwrap()
        .sqrt()
        .unwrap()
        .reshape((1, 2, 1, 1))
        .unwrap();
    let aol = kernel.broadcast_div(&r).unwrap();
    let bound = row_sum_bound(&aol, 1).unwrap();
    assert!((1. - 1e-15..1. + 1e-12).contains(&bound), "{bound}");
    // The symbol knows better: the golden norm 0.767033254 within its grid (0.24 % at 64 points)
    // and Gram's 0.04 %.
    let a = audit(&[conv("aol", aol, 1, 1)]).unwrap();
    assert!(
        (0.767033254..0.767033254 * 1.003).contains(&a.bound().value()),
        "{a}"
    );
}

/// Where the symbol's grid overshoots an orthogonal kernel, row sums give its theorem back.
#[test]
fn orthogonal_kernels_are_one() {
    // A shift by one pixel and a permutation of channels: an isometry.
    let mut v = vec![0f64; 2 * 2 * 9];
    v[9] = 1.; // out 0, in 1, tap 0
    v[18 + 8] = 1.; // out 1, in 0, tap 8
    let kernel = Tensor::from_vec(v, (2, 2, 3, 3), &Device::Cpu).unwrap();
    assert!(
        conv_bound(&kernel, 1, 64).unwrap() > 1.001,
        "the grid's factor"
    );
    let a = audit(&[conv("shift", kernel, 1, 1)]).unwrap();
    assert_eq!(a.rows()[0].how, Method::RowSums);
    assert!((1. ..1. + 1e-12).contains(&a.bound().value()), "{a}");
    let zero = Tensor::zeros((2, 2, 3, 3), DType::F64, &Device::Cpu).unwrap();
    assert_eq!(row_sum_bound(&zero, 2).unwrap(), 0.);
    let full = |v: f64| Tensor::full(v, (1, 1, 3, 3), &Device::Cpu).unwrap();
    assert!(
        (9e200..9.1e200).contains(&row_sum_bound(&full(1e200), 1).unwrap()),
        "its squares are no numbers"
    );
    assert_eq!(
        row_sum_bound(&full(1e308), 1).unwrap(),
        f64::INFINITY,
        "an overflow is no bound"
    );
}

/// `x + f(x)` with linear `f` is one map: never above `1 + |f|`, never below the operator, exact
/// where it is known.
#[test]
fn linear_residuals_are_audited_as_one_map() {
    let mut rng = Streams::new(6).stream("residual", 0);
    let block = |layers: Vec<Layer>| {
        audit(&[Layer::Residual {
            name: "block".into(),
            branch: layers,
        }])
        .unwrap()
    };
    let linear = |w: Tensor| Layer::Linear {
        name: "fc".into(),
        weight: w,
    };
    let minus = Tensor::new(&[[-1.5f64, 0.], [0., -0.5]], &Device::Cpu).unwrap();
    let a = block(vec![linear(minus.clone())]);
    // I + W = diag(-0.5, 0.5); Gram iteration on two equal values: 2^(2^-11).
    assert!(
        (0.5..0.5002).contains(&a.bound().value()) && a.rows()[0].how == Method::LinearResidual,
        "{a}"
    );
    // Behind an activation it is not one map.
    let a = block(vec![
        linear(minus),
        Layer::Fixed {
            name: "relu".into(),
            lipschitz: 1.,
        },
    ]);
    assert!(a.bound().value() >= 2.5 && a.rows()[0].how == Method::Residual);
    for _ in 0..5 {
        let (kernel, scale) = (random(&mut rng, &[2, 2, 3, 3]), random(&mut rng, &[2]));
        let folded = kernel
            .broadcast_mul(&scale.reshape((2, 1, 1, 1)).unwrap())
            .unwrap();
        let bn = Layer::Diagonal {
            name: "bn".into(),
            scale,
        };
        let a = block(vec![conv("c", kernel, 1, 1), bn]);
        let mut tap = vec![0f64; 36];
        (tap[4], tap[31]) = (1., 1.);
        let whole = (folded + Tensor::from_vec(tap, (2, 2, 3, 3), &Device::Cpu).unwrap()).unwrap();
        let norm = power(&whole, 1, 1, 16, 60);
        assert!(
            a.bound().value() >= norm && a.bound().value() <= 1.04 * norm,
            "{a}, {norm}"
        );
    }
    // Padding that shrinks or a stride is no residual of one map; the sum still holds.
    let odd = random(&mut rng, &[2, 2, 2, 2]);
    assert_eq!(
        block(vec![conv("c", odd, 1, 1)]).rows()[0].how,
        Method::Residual
    );
}

/// Declared scales before a convolution, or before a flattened linear layer, join it: exactly that
/// map is bounded.
#[test]
fn scales_before_a_layer_fold_into_it() {
    let mut rng = Streams::new(8).stream("fold", 0);
    let scale = Tensor::new(&[4f64, 0.1], &Device::Cpu).unwrap();
    let diagonal = || Layer::Diagonal {
        name: "std".into(),
        scale: scale.clone(),
    };
    let kernel = random(&mut rng, &[3, 2, 3, 3]);
    let by_hand = kernel
        .broadcast_mul(&scale.reshape((1, 2, 1, 1)).unwrap())
        .unwrap();
    let a = audit(&[diagonal(), conv("c", kernel.clone(), 2, 1)]).unwrap();
    let b = audit(&[conv("c", by_hand, 2, 1)]).unwrap();
    assert_eq!((a.bound().value(), a.rows().len()), (b.bound().value(), 1));
    assert!(
        a.bound().value()
            < 4. * audit(&[conv("c", kernel.clone(), 2, 1)])
                .unwrap()
                .bound()
                .value()
    );
    // A second one behind it, too.
    let out = Layer::Diagonal {
        name: "bn".into(),
        scale: Tensor::new(&[1f64, 2., 0.5], &Device::Cpu).unwrap(),
    };
    assert_eq!(
        audit(&[diagonal(), conv("c", kernel.clone(), 2, 1), out])
            .unwrap()
            .rows()[0]
            .name,
        "c * std * bn"
    );
    // Two channels of three values each, flattened: known after a convolution, where channels come
    // first.
    let weight = random(&mut rng, &[4, 6]);
    let flatten = Layer::Fixed {
        name: "flatten".into(),
        lipschitz: 1.,
    };
    let fc = |weight: Tensor| Layer::Linear {
        name: "fc".into(),
        weight,
    };
    let columns = Tensor::new(&[4f64, 4., 4., 0.1, 0.1, 0.1], &Device::Cpu).unwrap();
    let (first, relu) = (conv("first", random(&mut rng, &[2, 1, 1, 1]), 1, 0), || {
        Layer::Exact {
            name: "relu".into(),
            lipschitz: 1.,
        }
    });
    let a = audit(&[
        first.clone(),
        relu(),
        diagonal(),
        flatten.clone(),
        fc(weight.clone()),
    ])
    .unwrap();
    let b = audit(&[fc(weight.broadcast_mul(&columns).unwrap())]).unwrap();
    assert_eq!((a.rows()[2].bound, a.rows().len()), (b.bound().value(), 3));
    // Of an array whose axes nobody told, the diagonal may be the last one: 100 where folding would
    // have proved 1.
    let scale = Tensor::new(&[1f64, 100.], &Device::Cpu).unwrap();
    let wide = Layer::Diagonal {
        name: "std".into(),
        scale,
    };
    let first_half = Tensor::new(&[[0f64, 1., 0., 0.]], &Device::Cpu).unwrap();
    let a = audit(&[wide.clone(), Layer::Flatten, fc(first_half)]).unwrap();
    assert!(a.bound().value() >= 100., "{a}");
    // The same behind a linear layer, which acts on the last axis of [2, 2].
    let tall = Tensor::new(&[[1f64, 0.], [0., 0.01]], &Device::Cpu).unwrap();
    assert!(
        audit(&[fc(tall.clone()), wide.clone()])
            .unwrap()
            .bound()
            .value()
            >= 100.
    );
    // Of vectors there is one axis only.
    assert!(
        audit(&[Layer::Flatten, fc(tall), wide])
            .unwrap()
            .bound()
            .value()
            < 1.01
    );
    // Not directly before a linear layer, which may act on another axis; nor where channels do not
    // fit.
    let two = random(&mut rng, &[4, 2]);
    assert_eq!(audit(&[diagonal(), fc(two)]).unwrap().rows().len(), 2);
    let three = random(&mut rng, &[2, 3, 3, 3]);
    assert_eq!(
        audit(&[diagonal(), conv("c", three, 1, 1)])
            .unwrap()
            .rows()
            .len(),
        2
    );
}

/// AOL on kernels of many channels, random and nearly orthogonal: the theorem, 1, is found without
/// being told.
#[test]
fn rescaled_kernels_of_many_channels_are_one() {
    let mut rng = Streams::new(12).stream("aol", 0);
    for (channels, noise) in [(24, 1.), (24, 0.1), (24, 0.01), (24, 0.001)] {
        let mut tap = vec![0f64; channels * channels * 9];
        (0..channels).for_each(|c| tap[(c * channels + c) * 9 + 4] = 1.);
        let shape = [channels, channels, 3, 3];
        let kernel = (Tensor::from_vec(tap, &shape, &Device::Cpu).unwrap()
            + (random(&mut rng, &shape) * noise).unwrap())
        .unwrap();
        // R^2 by its definition, on the Gram kernel.
        let w = kernel.transpose(0, 1).unwrap().contiguous().unwrap();
        let gram = w.conv2d(&w, 2, 1, 1, 1).unwrap().abs().unwrap();
        let r = gram
            .sum((1, 2, 3))
            .unwrap()
            .sqrt()
            .unwrap()
            .reshape((1, channels, 1, 1))
            .unwrap();
        let bound = row_sum_bound(&kernel.broadcast_div(&r).unwrap(), 1).unwrap();
        println!("noise {noise}: {bound}");
        assert!(
            (1. - 1e-12..1. + 1e-9).contains(&bound),
            "noise {noise}: {bound}"
        );
    }
}
