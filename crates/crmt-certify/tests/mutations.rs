//! Mistakes that would make a bound too small, each on the smallest case where it shows.
//! Does not know the formulas as wholes; other tests compare those.
use candle_core::{DType, Device::Cpu, Tensor};
use crmt_certify::*;
use crmt_core::{Layer, PerModality};

fn t(rows: &[&[f64]]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Cpu).unwrap()
}
fn linear(rows: &[&[f64]]) -> Layer {
    Layer::Linear {
        name: "fc".into(),
        weight: t(rows),
    }
}
fn fixed(lipschitz: f64) -> Layer {
    Layer::Exact {
        name: "relu".into(),
        lipschitz,
    }
}
fn one<T>(x: T) -> PerModality<T> {
    PerModality::from([x])
}
fn ones(classes: usize) -> PerModality<Tensor> {
    one(Tensor::ones(classes, DType::F64, &Cpu).unwrap())
}

/// `relu(x) + relu(-x) = |x|` has slope 1, though `V A = 0`: absorption stops at a nonlinearity.
#[test]
fn nothing_is_absorbed_through_a_nonlinearity() {
    let a = audit(&[linear(&[&[1.], &[-1.]]), fixed(1.)]).unwrap();
    let rows = one(t(&[&[1., 1.], &[0., 0.]]));
    assert!(
        MarginConstants::absorbed(&rows, &ones(2), &one(a))
            .unwrap()
            .get(0, 0, 1)
            >= 1.
    );
    let linear_only = audit(&[linear(&[&[1.], &[-1.]])]).unwrap();
    assert!(
        MarginConstants::absorbed(&rows, &ones(2), &one(linear_only))
            .unwrap()
            .get(0, 0, 1)
            < 1e-12
    );
}

/// Nearly orthonormal is not orthonormal: the distance from it counts, however small.
#[test]
fn the_defect_of_nearly_orthonormal_rows_counts() {
    for defect in [1e-3, 4e-4, 1e-6, 1e-9, 1e-13] {
        let size = 1. + defect;
        let bound = matrix_bound(&t(&[&[size, 0.], &[0., 1.]])).unwrap();
        assert!(
            bound >= size && bound < 1. + 4. * defect + 1e-14,
            "{defect}: {bound}"
        );
    }
}

#[test]
fn branches_add_up() {
    let double = || vec![linear(&[&[2., 0.], &[0., 2.]])];
    let sum = Layer::Sum {
        name: "block".into(),
        branches: [double(), double()],
    };
    assert!(audit(&[sum]).unwrap().bound().value() >= 4.);
    // To the last digit: 1 + 2^-60 is more than 1.
    let hair = Layer::Residual {
        name: "block".into(),
        branch: vec![fixed(2f64.powi(-60))],
    };
    assert!(audit(&[hair]).unwrap().bound().value() > 1.);
}

/// `1 - 2^-60` is less than 1, which is what it rounds to.
#[test]
fn margins_are_rounded_down_and_constants_up() {
    let rows = one(t(&[&[1.], &[0.]]));
    let unit =
        MarginConstants::pairwise(&rows, &ones(2), &one(SoundBound::vouched(1.).unwrap())).unwrap();
    let margin = regions(&unit, &t(&[&[1., 2f64.powi(-60)]]), &[0]).unwrap()[0].margins()[0];
    assert!(margin < 1. && margin > 1. - 1e-12, "{margin}");
    for k in 1..200u32 {
        let (l, scale) = (1. + f64::from(k) / 7., 1. + f64::from(k * k) / 11.);
        let constants =
            MarginConstants::pairwise(&rows, &ones(2), &one(SoundBound::vouched(l).unwrap()))
                .unwrap();
        let (before, after) = (
            constants.get(0, 0, 1),
            constants.in_units(&one(scale)).unwrap().get(0, 0, 1),
        );
        // The fused product tells on which side of the true product a number lies.
        assert!(
            before.mul_add(scale, -after) <= 0.,
            "{l} * {scale}: {after}"
        );
    }
}

/// A dense layer of one number, in f32: what the program may round is taken twice from the margin,
/// grows with the input (or the baseline, if that is longer), and enlarges the constant.
#[test]
fn rounding_is_taken_from_margins_and_grows_with_inputs() {
    let (rows, bias) = (
        one(t(&[&[1.], &[0.]])),
        Tensor::new(&[0f64, 0.], &Cpu).unwrap(),
    );
    let audits = one(audit(&[
        linear(&[&[3.]]),
        Layer::Shift {
            name: "b".into(),
            norm: 10.,
        },
    ])
    .unwrap());
    let real = || MarginConstants::absorbed(&rows, &ones(2), &audits).unwrap();
    let program = real()
        .executed(Program::F32, &rows, &ones(2), &bias, &audits)
        .unwrap();
    assert_eq!(
        (program.program(), real().program()),
        (Program::F32, Program::Real)
    );
    let u = f64::from(f32::EPSILON) / 2.;
    // One product is rounded at x, and one at x': at least 3 u each.
    assert!(program.get(0, 0, 1) >= real().get(0, 0, 1) + 3. * u);
    let of = |constants: &MarginConstants<Proved>, x: f64, baseline: f64| {
        let inputs = one(t(&[&[x]]));
        let evaluation = Evaluation::new(&t(&[&[30., 0.]]), &inputs).unwrap();
        let evaluation = evaluation.or_missing(&one(t(&[&[baseline]]))).unwrap();
        regions(constants, &evaluation, &[0]).unwrap()[0].margins()[0]
    };
    let lost = |x: f64, baseline: f64| 30. - of(&program, x, baseline);
    // |w||x| and |b| are each off by u, at least, and that twice.
    assert!(
        lost(10., 0.) >= 2. * u * (3. * 10. + 10.),
        "{}",
        lost(10., 0.)
    );
    assert!(lost(10., 0.) < 1e-3, "but not by much: {}", lost(10., 0.));
    assert!(lost(1000., 0.) > 20. * lost(10., 0.) && lost(10., 1000.) >= lost(1000., 0.));
    // Twice what a unit of length adds to the constant: at the input, and at what an attack makes
    // of it.
    let slope = program.get(0, 0, 1) - real().get(0, 0, 1);
    let growth = lost(1000., 0.) - lost(10., 0.);
    // Differences of numbers near 1 and 30 keep ten digits.
    assert!(
        (growth / (2. * slope * 990.) - 1.).abs() < 1e-6,
        "{growth} for {slope}"
    );
    // A tensor says nothing of lengths.
    let message = radii(&program, &t(&[&[30., 0.]]), &[0])
        .unwrap_err()
        .to_string();
    assert!(message.contains("Evaluation"), "{message}");
    // Nor does a layer that does not say what it rounds.
    let tanh = audit(&[
        linear(&[&[3.]]),
        Layer::Fixed {
            name: "tanh".into(),
            lipschitz: 1.,
        },
    ])
    .unwrap();
    let of_tanh = MarginConstants::absorbed(&rows, &ones(2), &one(tanh.clone())).unwrap();
    let refused = of_tanh
        .executed(Program::F64, &rows, &ones(2), &bias, &one(tanh))
        .unwrap_err();
    assert!(
        matches!(refused, CertifyError::Rounding { modality: 0 }),
        "{refused}"
    );
}
