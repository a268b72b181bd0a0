//! Golden values computed elsewhere at 40 digits. Tolerance 1e-12 relative unless said: the only
//! differences are a few roundings of `f64`, and constants rounded up by a few ulps.
#![expect(
    clippy::excessive_precision,
    reason = "golden values keep the digits they were published with"
)]
use candle_core::{Device, Tensor};
use crmt_certify::*;
use crmt_core::PerModality;

const TIGHT: f64 = 1e-12;

fn t(v: &[f64]) -> Tensor {
    Tensor::new(v, &Device::Cpu).unwrap()
}
fn logits(v: &[f64]) -> Tensor {
    t(v).unsqueeze(0).unwrap()
}
fn sound<const M: usize>(v: [f64; M]) -> PerModality<SoundBound> {
    PerModality::from(v.map(|v| SoundBound::vouched(v).unwrap()))
}
#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(
            (g - w).abs() <= tolerance * w.abs().max(1e-300),
            "{what}[{i}]: got {g}, expected {w}"
        );
    }
}
fn identity_rows(modalities: usize) -> PerModality<Tensor> {
    let eye = Tensor::eye(3, candle_core::DType::F64, &Device::Cpu).unwrap();
    PerModality::from_fn(modalities, |_| eye.clone())
}
fn one<E: Grade>(constants: &MarginConstants<E>, h: &[f64], y: u32) -> SampleRadii {
    radii(constants, &logits(h), &[y]).unwrap().samples()[0].clone()
}

/// h0 = 3 x1 - 4 x2 + 1, h1 = 0 at (2, 0.5).
fn scores<E: Grade, const M: usize>(bounds: [Vec<LipschitzBound<E>>; M]) -> ScoreBounds<E> {
    ScoreBounds::unweighted(PerModality::from(bounds))
}

#[test]
fn g1_two_class_scalar() {
    let rows = PerModality::from([
        Tensor::new(&[[3f64], [0.]], &Device::Cpu).unwrap(),
        Tensor::new(&[[-4f64], [0.]], &Device::Cpu).unwrap(),
    ]);
    let a = PerModality::from([t(&[1., 1.]), t(&[1., 1.])]);
    let c = MarginConstants::pairwise(&rows, &a, &sound([1., 1.])).unwrap();
    let s = one(&c, &[5., 0.], 0);
    close("r", &[s.joint], &[1.], TIGHT);
    close(
        "P",
        s.unimodal.as_slice(),
        &[1.6666666666666667, 1.25],
        TIGHT,
    );
    close("v", s.shares.as_slice(), &[0.36, 0.64], TIGHT);
    let both = ray(&c, &logits(&[5., 0.]), &[0], &PerModality::from([1., 1.])).unwrap();
    close("r_linf", &both, &[0.7142857142857143], TIGHT);
    // The adversarial point of the exact distance: both classes tie there.
    let (x1, x2) = (1.4f64, 1.3f64);
    assert!(
        (3. * x1 - 4. * x2 + 1.).abs() < 1e-15
            && ((x1 - 2.).hypot(x2 - 0.5) - s.joint).abs() < TIGHT
    );
}

fn g2_weights(scale: f64) -> PerModality<Tensor> {
    PerModality::from([[1., 2., 0.5], [0.5, 1., 1.5]].map(|a| t(&a.map(|a| a * scale))))
}
const G2_LOGITS: [f64; 3] = [3.6, 0.55, 0.625];

#[test]
fn g2_pairwise_and_sum_bound() {
    let pair =
        MarginConstants::pairwise(&identity_rows(2), &g2_weights(1.), &sound([1., 1.])).unwrap();
    let s = one(&pair, &G2_LOGITS, 0);
    close("r", &[s.joint], &[1.22], TIGHT);
    assert_eq!(s.rival, 1);
    close(
        "P",
        s.unimodal.as_slice(),
        &[1.3640014662748717, 1.8815552078001857],
        TIGHT,
    );
    close("v", s.shares.as_slice(), &[0.8, 0.2], TIGHT);
    let split: Vec<f64> = s.shares.iter().map(|v| s.joint * v.sqrt()).collect();
    close(
        "eps*",
        &split,
        &[1.0912011730198974, 0.54560058650994869],
        TIGHT,
    );
    let ones = PerModality::from([1., 1.]);
    close(
        "r_linf",
        &ray(&pair, &logits(&G2_LOGITS), &[0], &ones).unwrap(),
        &[0.90933431084991448],
        TIGHT,
    );
    let r2 = [3.6 - 0.625, pair.get(0, 0, 2).hypot(pair.get(1, 0, 2))];
    close("r_2", &[r2[0] / r2[1]], &[1.5362833939956087], TIGHT);

    let unit = SoundBound::vouched(1.).unwrap();
    let sum =
        MarginConstants::sum(&g2_weights(1.), &scores([vec![unit; 3], vec![unit; 3]])).unwrap();
    let s = one(&sum, &G2_LOGITS, 0);
    close("sum r", &[s.joint], &[0.90933431084991448], TIGHT);
    close(
        "sum P",
        s.unimodal.as_slice(),
        &[1.0166666666666667, 1.4875],
        TIGHT,
    );
    close(
        "sum r_linf",
        &ray(&sum, &logits(&G2_LOGITS), &[0], &ones).unwrap(),
        &[0.67777777777777778],
        TIGHT,
    );
    // The pairwise bound is never the looser one, so the minimum is the pairwise table itself.
    assert_eq!(pair.min(&sum).unwrap(), pair);
}

#[test]
fn g3_edges() {
    assert_eq!(ratio(-0.3, 2.), 0.);
    assert_eq!(ratio(0., 2.), 0.);
    assert_eq!(ratio(0.3, 0.), f64::INFINITY);
    assert_eq!(ratio(0., 0.), 0.);
    assert_eq!(ratio(f64::NAN, 1.), 0.);
    assert_eq!(ratio(1., f64::NAN), 0.);
    assert!(ratio(1., 3.) < 1. / 3., "rounds down");
}

/// A negative weight must enter by its absolute value: 0.48, not 2.4.
#[test]
fn g3_negative_weight() {
    let a = PerModality::from([t(&[-1.5, 2.])]);
    let score = |t: f64| SoundBound::vouched(t).unwrap();
    let sum = MarginConstants::sum(&a, &scores([vec![score(1.), score(0.5)]])).unwrap();
    close("L", &[sum.get(0, 0, 1)], &[2.5], TIGHT);
    close("r", &[one(&sum, &[1.2, 0.], 0).joint], &[0.48], TIGHT);
    let rows = PerModality::from([Tensor::eye(2, candle_core::DType::F64, &Device::Cpu).unwrap()]);
    let pair = MarginConstants::pairwise(&rows, &a, &sound([1.])).unwrap();
    close(
        "pairwise r",
        &[one(&pair, &[1.2, 0.], 0).joint],
        &[0.48],
        TIGHT,
    );
    // The mutation this test is for.
    let without_abs = (-1.5f64 * 1. + 2. * 0.5).abs();
    assert!(
        (1.2 / without_abs - 2.4).abs() < TIGHT
            && 1.2 / without_abs > 4. * one(&sum, &[1.2, 0.], 0).joint
    );
}

/// The absolute value in the paper's bound certifies 9.9 for a sample that is not even correct.
#[test]
fn absolute_margins_certify_nothing() {
    // L = 1 for every pair: half a unit from each score.
    let half = SoundBound::vouched(0.5).unwrap();
    let c = MarginConstants::sum(
        &PerModality::from([t(&[1., 1., 1.])]),
        &scores([vec![half; 3]]),
    )
    .unwrap();
    let h = [0., 10., 9.9];
    let wrong = one(&c, &h, 0);
    assert_eq!((wrong.joint, wrong.unimodal[0]), (0., 0.));
    assert!(radii(&c, &logits(&h), &[0]).unwrap().certificates()[0].is_none());
    let paper = h[1..]
        .iter()
        .map(|j| (h[0] - j).abs())
        .fold(f64::INFINITY, f64::min);
    assert!(
        (paper - 9.9).abs() < TIGHT,
        "what the absolute value would certify"
    );
    // 1e-12 absolute: 10 - 9.9 has lost a digit already.
    assert!((one(&c, &h, 1).joint - 0.1).abs() < TIGHT);
}

/// h0 = 2 tanh(x1) + x2, h1 = 0 at (0.8, 0.3): sound, and 0.857 of the true distance.
#[test]
fn g5_nonlinear() {
    let mu = 2. * 0.8f64.tanh() + 0.3;
    close("mu", &[mu], &[1.6280735405356979], TIGHT);
    let rows = PerModality::from([
        Tensor::new(&[[2f64], [0.]], &Device::Cpu).unwrap(),
        Tensor::new(&[[1f64], [0.]], &Device::Cpu).unwrap(),
    ]);
    let a = PerModality::from([t(&[1., 1.]), t(&[1., 1.])]);
    let s = one(
        &MarginConstants::pairwise(&rows, &a, &sound([1., 1.])).unwrap(),
        &[mu, 0.],
        0,
    );
    close("r", &[s.joint], &[0.72809662180131599], TIGHT);
    close(
        "P",
        s.unimodal.as_slice(),
        &[0.81403677026784896, 1.6280735405356979],
        TIGHT,
    );
    close(
        "tightness",
        &[s.joint / 0.84968656157338696],
        &[0.85690024384177657],
        TIGHT,
    );
}

/// Local gradients promise six million where the truth is one half.
#[test]
fn g6_local_gradients_are_no_bound() {
    let mu = 2. * 10f64.tanh();
    let a = PerModality::from([t(&[-1., 1.])]);
    let local = EstimatedBound::estimated(1.6489228911534795e-7).unwrap();
    let claim = MarginConstants::sum(&a, &scores([vec![local; 2]])).unwrap();
    let claim = radii(&claim, &logits(&[mu, 0.]), &[0]).unwrap();
    close("claim", &claim.joint(), &[6064564.94262238], 1e-9); // the golden constant has 17 digits, the claim 15
    assert_eq!(claim.evidence(), Evidence::Estimated);
    let sound = SoundBound::vouched(20.).unwrap();
    let proved = MarginConstants::sum(&a, &scores([vec![sound; 2]])).unwrap();
    let proved = radii(&proved, &logits(&[mu, 0.]), &[0]).unwrap();
    close("proved", &proved.joint(), &[0.049999999793884638], TIGHT);
    assert_eq!(proved.evidence(), Evidence::Proved);
    assert!(proved.joint()[0] < 0.5 && 0.5 < claim.joint()[0]);
}

#[test]
fn g13_scale_invariance() {
    let at = |scale: f64| {
        let c = MarginConstants::pairwise(&identity_rows(2), &g2_weights(scale), &sound([1., 1.]))
            .unwrap();
        one(&c, &G2_LOGITS.map(|h| h * scale), 0)
    };
    let (plain, scaled) = (at(1.), at(7.5));
    // 1e-14: two roundings more.
    close("r", &[scaled.joint], &[plain.joint], 1e-14);
    close(
        "P",
        scaled.unimodal.as_slice(),
        plain.unimodal.as_slice(),
        1e-14,
    );
    close(
        "v",
        scaled.shares.as_slice(),
        plain.shares.as_slice(),
        1e-14,
    );
}

/// Norms of convolutions: known suprema and bounds. 1e-9: digits given are 12 to 15, plus the Gram
/// iteration's slack where noted.
#[test]
fn g9_convolutions() {
    let row = |v: [f64; 3]| Tensor::from_slice(&v, (1, 1, 1, 3), &Device::Cpu).unwrap();
    // One channel: Gram iteration is exact up to rounding.
    close(
        "[1,2,1] N=16",
        &[conv_bound(&row([1., 2., 1.]), 1, 16).unwrap()],
        &[4.078364632833273],
        1e-9,
    );
    close(
        "[1,2,1] N=32",
        &[conv_bound(&row([1., 2., 1.]), 1, 32).unwrap()],
        &[4.019354289505245],
        1e-9,
    );
    close(
        "[1,0,-1] N=9",
        &[conv_bound(&row([1., 0., -1.]), 1, 9).unwrap()],
        &[2.096021041835080],
        1e-9,
    );
    close(
        "[1,0,-1] N=33",
        &[conv_bound(&row([1., 0., -1.]), 1, 33).unwrap()],
        &[2.006821722507546],
        1e-9,
    );

    let mut v = vec![];
    for (o, i, a, b) in (0..36).map(|n| (n / 18, n / 9 % 2, n / 3 % 3, n % 3)) {
        v.push(((3 * o + 5 * i + 7 * a + 11 * b + 2 * o * a + i * b) % 7) as f64 - 3.);
    }
    let kernel = Tensor::from_vec(v, (2, 2, 3, 3), &Device::Cpu).unwrap();
    for (n, want) in [
        (8, 21.604235565092),
        (16, 19.169982533875),
        (32, 18.619250355098),
        (64, 18.484873376629),
    ] {
        let got = conv_bound(&kernel, 1, n).unwrap();
        // Rank 2, ten Gram steps: at most 2^(2^-11) = 1.00034 above the golden value, never below.
        assert!(
            got >= want * (1. - 1e-12) && got <= want * 1.00035,
            "N={n}: {got} for {want}"
        );
    }
    // Above every finite matrix, and within 3 % of the largest.
    let bound = conv_bound(&kernel, 1, 32).unwrap();
    for norm in [
        15.707009915547,
        17.633947894395,
        18.064100119820,
        18.223947870082,
    ] {
        assert!(norm < bound);
    }
    assert!(bound <= 1.03 * 18.223947870082);
    let strided = conv_bound(&kernel, 2, 32).unwrap();
    assert!(
        11.256459232479 <= strided && strided < bound,
        "stride 2: {strided}"
    );
}
