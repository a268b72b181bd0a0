//! Plausible mistakes in the use of the library: each is an error, or costs tightness, and none is
//! "proved". Does not know right uses.
use candle_core::{DType, Device::Cpu, Tensor};
use crmt_certify::*;
use crmt_core::{Layer, PerModality};

fn t(rows: &[&[f64]]) -> Tensor {
    let flat: Vec<f64> = rows.concat();
    Tensor::from_vec(flat, (rows.len(), rows[0].len()), &Cpu).unwrap()
}
fn linear(weight: Tensor) -> Layer {
    Layer::Linear {
        name: "fc".into(),
        weight,
    }
}
fn ones(classes: usize) -> PerModality<Tensor> {
    PerModality::from([Tensor::ones(classes, DType::F64, &Cpu).unwrap()])
}

/// `x.matmul(w)` with a square `w` that is declared as it is stored: `|v A|` and `|v A^T|` are as
/// different as can be.
#[test]
fn a_square_last_layer_given_transposed_proves_nothing_false() {
    let stored = t(&[&[0., 10.], &[0., 0.]]);
    let rows = PerModality::from([t(&[&[1., 0.], &[-1., 0.]])]);
    let declared = audit(&[linear(stored)]).unwrap();
    let of = |audit: &Audit| {
        MarginConstants::absorbed(&rows, &ones(2), &PerModality::from([audit.clone()]))
            .unwrap()
            .get(0, 1, 0)
    };
    // Read as [in, out], features are (0, 10 x_1), and the margin 2 phi_0 does not move; read as
    // [out, in], it moves by 20.
    assert!(of(&declared) >= 20.);
    let transposed = audit(&[linear(t(&[&[0., 0.], &[10., 0.]]))]).unwrap();
    assert!(of(&transposed) >= 20., "the other way round, too");
    assert!(
        of(&transposed.out_in()) < 1e-13,
        "with the word of somebody, exactly this matrix"
    );
}

#[test]
fn logits_in_less_than_f64_are_refused() {
    let unit = SoundBound::vouched(1.).unwrap();
    let constants = MarginConstants::pairwise(
        &PerModality::from([t(&[&[1.], &[-1.]])]),
        &ones(2),
        &PerModality::from([unit]),
    )
    .unwrap();
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let logits = t(&[&[1.003, 1.]]).to_dtype(dtype).unwrap();
        let message = radii(&constants, &logits, &[0]).unwrap_err().to_string();
        assert!(message.contains("in f64"), "{message}");
    }
}

#[test]
fn chains_that_can_not_be_are_refused() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F64, &Cpu).unwrap();
    let conv = |out: usize, inp: usize| Layer::Conv2d {
        name: "conv".into(),
        kernel: zeros(&[out, inp, 3, 3]),
        stride: 1,
        padding: 1,
    };
    let relu = || Layer::Fixed {
        name: "relu".into(),
        lipschitz: 1.,
    };
    let bn = |n: usize| Layer::Diagonal {
        name: "bn".into(),
        scale: zeros(&[n]),
    };
    let forgotten = [
        vec![linear(zeros(&[8, 4])), relu(), linear(zeros(&[3, 5]))],
        vec![conv(4, 1), relu(), conv(2, 3)],
        vec![conv(4, 1), bn(3)],
        vec![conv(4, 1), Layer::Flatten, linear(zeros(&[2, 7]))],
        vec![Layer::Flatten, linear(zeros(&[8, 4])), conv(1, 8)],
        vec![Layer::Flatten, linear(zeros(&[8, 4])), bn(4)],
        vec![
            linear(zeros(&[8, 4])),
            Layer::Residual {
                name: "block".into(),
                branch: vec![linear(zeros(&[6, 8]))],
            },
        ],
        vec![
            conv(4, 1),
            Layer::Sum {
                name: "block".into(),
                branches: [vec![conv(4, 4)], vec![conv(2, 4)]],
            },
        ],
    ];
    for layers in &forgotten {
        let error = audit(layers).unwrap_err();
        assert!(
            matches!(error, AuditError::Follows { .. }),
            "{layers:?}: {error}"
        );
    }
    assert!(matches!(audit(&[]), Err(AuditError::Empty)));
    let fine = [
        vec![
            conv(4, 1),
            relu(),
            Layer::Flatten,
            linear(zeros(&[2, 36])),
            Layer::Shift {
                name: "b".into(),
                norm: 1.,
            },
            linear(zeros(&[3, 2])),
        ],
        vec![
            conv(4, 1),
            Layer::Exact {
                name: "space-to-depth".into(),
                lipschitz: 1.,
            },
            conv(2, 16),
        ],
    ];
    fine.iter()
        .for_each(|layers| assert_eq!(audit(layers).unwrap().bound().value(), 0.));
}

#[test]
fn units_are_not_mixed() {
    let unit = SoundBound::vouched(1.).unwrap();
    let rows = PerModality::from([t(&[&[1.], &[-1.]])]);
    let plain = MarginConstants::pairwise(&rows, &ones(2), &PerModality::from([unit])).unwrap();
    let scaled = plain.in_units(&PerModality::from([10.])).unwrap();
    assert!(
        plain
            .min(&scaled)
            .unwrap_err()
            .to_string()
            .contains("units")
    );
    assert!(
        scaled
            .in_units(&PerModality::from([10.]))
            .unwrap_err()
            .to_string()
            .contains("units")
    );
    assert!(scaled.min(&scaled).is_ok());
}

/// Constants of the terms `a s` are not multiplied by `a` again: a tenth of the truth, once.
#[test]
fn weights_count_once() {
    let a = PerModality::from([Tensor::new(&[0.1f64, 0.1], &Cpu).unwrap()]);
    let bound = |l: f64| PerModality::from([vec![SoundBound::vouched(l).unwrap(); 2]]);
    let of = |scores: ScoreBounds<Proved>| MarginConstants::sum(&a, &scores).unwrap().get(0, 1, 0);
    let (plain, terms) = (
        of(ScoreBounds::unweighted(bound(1.))),
        of(ScoreBounds::weighted(bound(0.1))),
    );
    // 0.1 is rounded, and sums are rounded up.
    assert!(
        (plain - 0.2).abs() < 1e-15 && (terms - 0.2).abs() < 1e-15,
        "{plain} {terms}"
    );
}

/// Numbers whose squares or products are no numbers: bounds stay above norms, and nothing has an
/// infinite radius.
#[test]
fn extremes_are_bounded() {
    for size in [
        5e-324, 1e-300, 1e-170, 1e-163, 1e-20, 1., 1e20, 1e170, 1e300,
    ] {
        let matrix = t(&[&[size, 0.], &[0., size / 2.]]);
        let norm = matrix_bound(&matrix).unwrap();
        assert!(
            norm >= size && norm <= size * 1.001 + 1e-322,
            "matrix {size}: {norm}"
        );
        let kernel = matrix.reshape((2, 2, 1, 1)).unwrap();
        for bound in [
            conv_bound(&kernel, 1, 8).unwrap(),
            row_sum_bound(&kernel, 1).unwrap(),
        ] {
            assert!(
                bound >= size && bound <= size * 1.01 + 1e-322,
                "kernel {size}: {bound}"
            );
        }
        let layer = || linear(matrix.clone());
        let inverse = |exponent: f64| Layer::Fixed {
            name: "scale".into(),
            lipschitz: size.powf(exponent),
        };
        if (1e-300..=1e300).contains(&size) {
            for order in [vec![layer(), inverse(-1.)], vec![inverse(-1.), layer()]] {
                let bound = audit(&order).unwrap().bound().value();
                assert!((1. ..1.001).contains(&bound), "{size}: {bound}");
            }
        }
    }
    let chain = [1e-200, 1e-200, 1e200, 1e200].map(|lipschitz| Layer::Fixed {
        name: "scale".into(),
        lipschitz,
    });
    assert!((1. ..1. + 1e-12).contains(&audit(&chain).unwrap().bound().value()));
    let unit = SoundBound::vouched(1.).unwrap();
    let constants = MarginConstants::pairwise(
        &PerModality::from([t(&[&[1.], &[-1.]])]),
        &ones(2),
        &PerModality::from([unit]),
    )
    .unwrap();
    let far = limits(
        &constants,
        &t(&[&[1., 0.]]),
        &[0],
        &Threat::L2(PerModality::from([1e170])),
    )
    .unwrap();
    assert!(
        far[0].radius <= 5e169 * 1.000001 && far[0].radius > 4.9e169,
        "{:?}",
        far[0]
    );
    let hair = MarginConstants::pairwise(
        &PerModality::from([t(&[&[1e-170], &[-1e-170]])]),
        &PerModality::from([Tensor::new(&[1e-170f64, 1e-170], &Cpu).unwrap()]),
        &PerModality::from([SoundBound::vouched(1.).unwrap()]),
    )
    .unwrap();
    assert!(hair.get(0, 1, 0) > 0.);
    // An infinity or NaN anywhere is refused, wherever it stands among others.
    for bad in [f64::NAN, f64::INFINITY] {
        for place in 0..3 {
            let mut values = [1f64; 3];
            values[place] = bad;
            let scale = Tensor::new(&values, &Cpu).unwrap();
            assert!(
                audit(&[Layer::Diagonal {
                    name: "bn".into(),
                    scale: scale.clone()
                }])
                .is_err()
            );
            assert!(
                !row_sum_bound(&scale.reshape((3, 1, 1, 1)).unwrap(), 1)
                    .is_ok_and(|b| b.is_finite())
            );
            assert!(!matrix_bound(&scale.reshape((3, 1)).unwrap()).is_ok_and(|b| b.is_finite()));
        }
    }
}
