//! Certified regions and threats: golden values (40 digits, compared at 1e-12 relative: a few
//! roundings), dual norms against brute force, and the hash of the weights.
#![expect(
    clippy::excessive_precision,
    reason = "golden values keep the digits they were published with"
)]
use candle_core::{DType, Device, Tensor};
use crmt_certify::*;
use crmt_core::{PerModality, Streams};
use rand::Rng;

const TIGHT: f64 = 1e-12;

fn t(v: &[f64]) -> Tensor {
    Tensor::new(v, &Device::Cpu).unwrap()
}
fn logits(v: &[f64]) -> Tensor {
    t(v).unsqueeze(0).unwrap()
}
fn per<T>(v: Vec<T>) -> PerModality<T> {
    PerModality::new(v).unwrap()
}
fn close(got: f64, want: f64) -> bool {
    (got - want).abs() <= TIGHT * want.abs()
}
#[track_caller]
fn all_close(got: &PerModality<f64>, want: &[f64]) {
    assert!(
        got.len() == want.len() && got.iter().zip(want).all(|(g, w)| close(*g, *w)),
        "{got:?} for {want:?}"
    );
}

/// h0 = 3 x1 - 4 x2 + 1, h1 = 0 at (2, 0.5).
fn g1() -> MarginConstants<Proved> {
    let rows =
        PerModality::from([3., -4.].map(|v| Tensor::new(&[[v], [0f64]], &Device::Cpu).unwrap()));
    let unit = SoundBound::vouched(1.).unwrap();
    MarginConstants::pairwise(
        &rows,
        &PerModality::from([t(&[1., 1.]), t(&[1., 1.])]),
        &per(vec![unit; 2]),
    )
    .unwrap()
}

fn g2() -> (MarginConstants<Proved>, MarginConstants<Proved>) {
    let eye = Tensor::eye(3, DType::F64, &Device::Cpu).unwrap();
    let a = PerModality::from([t(&[1., 2., 0.5]), t(&[0.5, 1., 1.5])]);
    let unit = SoundBound::vouched(1.).unwrap();
    let pair =
        MarginConstants::pairwise(&per(vec![eye.clone(), eye]), &a, &per(vec![unit; 2])).unwrap();
    let sum =
        MarginConstants::sum(&a, &ScoreBounds::unweighted(per(vec![vec![unit; 3]; 2]))).unwrap();
    (pair, sum)
}
const G2_LOGITS: [f64; 3] = [3.6, 0.55, 0.625];

#[test]
fn g1_and_g2_under_every_mixture() {
    let ones = || PerModality::from([1., 1.]);
    let (pair, sum) = g2();
    type Case<'a> = (&'a MarginConstants<Proved>, &'a [f64], [f64; 5]);
    // l2, linf, l1, modality 0 alone, modality 1 alone.
    let cases: [Case; 3] = [
        (
            &g1(),
            &[5., 0.],
            [1., 0.7142857142857143, 1.25, 1.6666666666666667, 1.25],
        ),
        (
            &pair,
            &G2_LOGITS,
            [
                1.22,
                0.90933431084991448,
                1.3640014662748717,
                1.3640014662748717,
                1.8815552078001857,
            ],
        ),
        (
            &sum,
            &G2_LOGITS,
            [
                0.90933431084991448,
                0.67777777777777778,
                1.0166666666666667,
                1.0166666666666667,
                1.4875,
            ],
        ),
    ];
    for (constants, h, want) in cases {
        let threats = [
            Threat::L2(ones()),
            Threat::Linf(ones()),
            Threat::L1(ones()),
            Threat::Only(0),
            Threat::Only(1),
        ];
        let region = &regions(constants, &logits(h), &[0]).unwrap()[0];
        for (threat, want) in threats.iter().zip(want) {
            let limit = limits(constants, &logits(h), &[0], threat).unwrap()[0];
            assert!(
                close(limit.radius, want),
                "{threat:?}: {limit:?} for {want}"
            );
            assert_eq!(region.limit(threat).unwrap(), limit);
        }
    }
    let region = &regions(&pair, &logits(&G2_LOGITS), &[0]).unwrap()[0];
    assert_eq!(
        (region.class(), region.rivals(), region.evidence()),
        (0, &[1, 2][..], Evidence::Proved)
    );
    all_close(&per(region.margins().to_vec()), &[3.05, 2.975]);
    let facets: Vec<&[f64]> = region.constants().collect();
    all_close(
        &per(facets.concat()),
        &[5f64.sqrt(), 1.25f64.sqrt(), 1.25f64.sqrt(), 2.5f64.sqrt()],
    );
    all_close(&region.shares(&ones()).unwrap(), &[0.8, 0.2]);
    all_close(
        &region.optimal_split(&ones()).unwrap(),
        &[1.0912011730198974, 0.54560058650994869],
    );
    let sample = &radii(&pair, &logits(&G2_LOGITS), &[0]).unwrap().samples()[0].clone();
    all_close(
        &sample.optimal_split(),
        &[1.0912011730198974, 0.54560058650994869],
    );
    assert!(
        close(sample.indicator(0, 1), 2.),
        "L(0) / L(1) = sqrt 5 / sqrt 1.25"
    );
    assert!(close(
        sample.effective_modalities(),
        (-0.8f64 * 0.8f64.ln() - 0.2 * 0.2f64.ln()).exp()
    ));
    // Just inside and just outside the worst split; 1e-9 is far above the roundings.
    let scaled = |s: f64| sample.optimal_split().map(|e| e * s);
    assert!(
        region.contains(&scaled(1. - 1e-9)).unwrap()
            && !region.contains(&scaled(1. + 1e-9)).unwrap()
    );
}

/// Weighted l2 on the linear problem G1, where the radius is a distance in scaled coordinates.
#[test]
fn weights_are_units() {
    let w = PerModality::from([2., 0.5]);
    let h = logits(&[5., 0.]);
    let want = 5. / (3f64 / 2.).hypot(4. / 0.5);
    let region = &regions(&g1(), &h, &[0]).unwrap()[0];
    assert!(close(
        region.limit(&Threat::L2(w.clone())).unwrap().radius,
        want
    ));
    // The worst split is on the hyperplane, and has that weighted norm.
    let eps = region.optimal_split(&w).unwrap();
    assert!(close(3. * eps[0] + 4. * eps[1], 5.) && close((2. * eps[0]).hypot(0.5 * eps[1]), want));
    // Constants in units 1 / w say the same.
    let scaled = g1().in_units(&w.map(|w| 1. / w)).unwrap();
    assert!(close(radii(&scaled, &h, &[0]).unwrap().joint()[0], want));
}

/// Every threat's radius against the region itself: on random problems, budgets just inside are
/// contained whatever their direction, and some direction just outside is not.
#[test]
fn threats_touch_the_region() {
    let mut rng = Streams::new(3).stream("threats", 0);
    for case in 0..200 {
        let (modalities, classes) = (1 + case % 4, 2 + case % 9);
        let mut row = |n: usize| {
            (0..n)
                .map(|_| rng.random_range(-1. ..1.))
                .collect::<Vec<f64>>()
        };
        let bound = |t: f64| SoundBound::vouched(t.abs()).unwrap();
        let t_of = per((0..modalities)
            .map(|_| row(classes).into_iter().map(bound).collect())
            .collect::<Vec<Vec<_>>>());
        let a = per((0..modalities).map(|_| t(&row(classes))).collect());
        let constants = MarginConstants::sum(&a, &ScoreBounds::unweighted(t_of)).unwrap();
        let mut h = row(classes);
        h[0] += 2.;
        let w = per(row(modalities).into_iter().map(|w| w.abs() + 0.1).collect());
        let region = &regions(&constants, &logits(&h), &[0]).unwrap()[0];
        type Norm = fn(&[f64]) -> f64;
        let threats: [(Threat, Norm); 3] = [
            (Threat::L1(w.clone()), |v| v.iter().sum()),
            (Threat::L2(w.clone()), |v| {
                v.iter().map(|v| v * v).sum::<f64>().sqrt()
            }),
            (Threat::Linf(w.clone()), |v| {
                v.iter().copied().fold(0., f64::max)
            }),
        ];
        for (threat, norm) in threats {
            let limit = region.limit(&threat).unwrap();
            let on_sphere = |direction: Vec<f64>, r: f64| {
                let scaled: Vec<f64> = direction.iter().zip(&w).map(|(d, w)| d * w).collect();
                per(direction.iter().map(|d| d * r / norm(&scaled)).collect())
            };
            for _ in 0..10 {
                let direction: Vec<f64> = (0..modalities)
                    .map(|_| rng.random_range(0.01..1.))
                    .collect();
                let eps = on_sphere(direction, limit.radius * (1. - 1e-9));
                assert!(region.contains(&eps).unwrap(), "{threat:?}");
            }
            // The direction that attains Hölder's inequality at the binding rival.
            let l: Vec<f64> = (0..modalities)
                .map(|m| constants.get(m, 0, limit.rival as usize) / w[m])
                .collect();
            let greatest = l.iter().copied().fold(0., f64::max);
            let worst = match &threat {
                Threat::L1(w) => l
                    .iter()
                    .zip(w)
                    .map(|(l, w)| if *l == greatest { 1. / w } else { 0. })
                    .collect(),
                Threat::L2(w) => l.iter().zip(w).map(|(l, w)| l / w).collect(),
                _ => w.iter().map(|w| 1. / w).collect(),
            };
            assert!(
                !region
                    .contains(&on_sphere(worst, limit.radius * (1. + 1e-9)))
                    .unwrap(),
                "{threat:?}"
            );
        }
    }
}

#[test]
fn a_misclassified_sample_has_an_empty_region_and_mistakes_are_named() {
    let region = &regions(&g1(), &logits(&[0., 1.]), &[0]).unwrap()[0];
    assert!(!region.contains(&PerModality::from([0., 0.])).unwrap());
    assert_eq!(
        region.limit(&Threat::joint(2)).unwrap(),
        Limit {
            radius: 0.,
            rival: 1
        }
    );
    let overflown = &regions(&g1(), &logits(&[f64::INFINITY, 1.]), &[0]).unwrap()[0];
    assert!(!overflown.contains(&PerModality::from([0., 0.])).unwrap());
    assert_eq!(
        radii(&g1(), &logits(&[f64::INFINITY, 1.]), &[0])
            .unwrap()
            .joint(),
        [0.]
    );
    assert!(region.contains(&PerModality::from([0.])).is_err());
    assert!(
        region
            .contains(&PerModality::from([0., f64::NAN]))
            .unwrap_err()
            .to_string()
            .contains("modality 1")
    );
    for wrong in [
        Threat::Only(2),
        Threat::joint(3),
        Threat::L1(PerModality::from([1., 0.])),
    ] {
        assert!(region.limit(&wrong).is_err(), "{wrong:?}");
        assert!(limits(&g1(), &logits(&[5., 0.]), &[0], &wrong).is_err());
    }
}

#[test]
fn a_certificate_is_refused_for_other_weights() {
    let (this, other) = (WeightsHash::new("1f"), WeightsHash::new("2e"));
    let certificate = |c: &MarginConstants<Proved>| {
        radii(c, &logits(&[5., 0.]), &[0]).unwrap().certificates()[0]
            .clone()
            .unwrap()
    };
    let bound = g1().for_weights(this.clone());
    let scaled = bound.in_units(&PerModality::from([2., 1.])).unwrap();
    for constants in [&bound, &scaled] {
        let c = certificate(constants);
        assert!(c.check(&this).is_ok());
        let region = &regions(constants, &logits(&[5., 0.]), &[0]).unwrap()[0];
        assert!(region.check(&this).is_ok() && region.check(&other).is_err());
        let e = c.check(&other).unwrap_err();
        assert!(
            matches!(e, CertifyError::OtherWeights { .. }) && e.to_string().contains("2e"),
            "{e}"
        );
    }
    // What does not say whose it is, is refused too; so is a mixture.
    let mixed = bound.min(&g1().for_weights(other.clone())).unwrap();
    for constants in [&g1(), &mixed] {
        assert!(matches!(
            certificate(constants).check(&this),
            Err(CertifyError::UnknownWeights)
        ));
    }
    let mut all = radii(&bound, &logits(&[5., 0.]), &[0]).unwrap();
    all.extend(radii(&bound, &logits(&[5., 0.]), &[0]).unwrap());
    assert!(
        all.certificates()
            .iter()
            .flatten()
            .all(|c| c.check(&this).is_ok())
    );
    all.extend(radii(&g1(), &logits(&[5., 0.]), &[0]).unwrap());
    assert_eq!(all.weights(), None);
}
