//! Missing modalities: the golden case, and separability (T9) against brute force over every
//! subset.
#![expect(
    clippy::excessive_precision,
    reason = "golden values keep the digits they were published with"
)]
use candle_core::{DType, Device, Tensor};
use crmt_certify::*;
use crmt_core::{AdditiveScores, Missing, PerModality, Streams};
use rand::Rng;

/// Roundings of a dozen operations, and what they are rounded down by.
const TIGHT: f64 = 1e-12;

fn t(v: &[f64]) -> Tensor {
    Tensor::new(v, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}
fn per<T>(v: Vec<T>) -> PerModality<T> {
    PerModality::new(v).unwrap()
}
fn scores(terms: PerModality<Tensor>, bias: &[f64]) -> AdditiveScores {
    let ones = terms.map(|t| Tensor::ones(t.dim(1).unwrap(), DType::F64, &Device::Cpu).unwrap());
    AdditiveScores {
        unimodal: terms,
        weights: ones,
        bias: Tensor::new(bias, &Device::Cpu).unwrap(),
    }
}
#[track_caller]
fn close(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let near = got
        .iter()
        .zip(want)
        .all(|(g, w)| (g - w).abs() <= TIGHT * w.abs().max(1.));
    assert!(near, "{what}: {got:?} for {want:?}");
}

#[test]
fn g2_with_dropped_terms() {
    let eye = Tensor::eye(3, DType::F64, &Device::Cpu).unwrap();
    let a = [[1., 2., 0.5], [0.5, 1., 1.5]];
    let s = [[3., 0.5, -1.], [1., -0.25, 0.75]];
    let weights = PerModality::from(a.map(|a| Tensor::new(&a, &Device::Cpu).unwrap()));
    let unit = SoundBound::vouched(1.).unwrap();
    let constants =
        MarginConstants::pairwise(&per(vec![eye.clone(), eye]), &weights, &per(vec![unit; 2]))
            .unwrap();
    let bias = Tensor::new(&[0.1f64, -0.2, 0.], &Device::Cpu).unwrap();
    let scores = AdditiveScores {
        unimodal: PerModality::from(s.map(|s| t(&s))),
        weights,
        bias,
    };
    let contributions = Contributions::new(&scores, None).unwrap();
    let all = missing_regions(&constants, &t(&[3.6, 0.55, 0.625]), &[0], &contributions).unwrap();
    let region = &all[0];

    let d: Vec<f64> = region.contributions().flatten().copied().collect();
    close("d", &d, &[2., 0.75, 3.5, -0.625]);
    // `Missing::all(2)`: without the first, without the second.
    let [first, second] = &Missing::all(2)[..] else {
        panic!("two proper subsets")
    };
    close("without 1", &region.margins_without(first), &[1.05, -0.525]);
    close("without 2", &region.margins_without(second), &[2.3, 3.6]);
    assert_eq!(region.joint_without(first), 0.);
    close(
        "radius without 2",
        &[region.joint_without(second)],
        &[1.0285912696499033],
    );
    assert_eq!(region.worst_joint(1), 0.);
    close("worst joint of none", &[region.worst_joint(0)], &[1.22]);
    close(
        "worst margin",
        &[region.worst_margin(0), region.worst_margin(1)],
        &[2.975, -0.525],
    );
    let eps = PerModality::from([0.2, 0.1]);
    close(
        "slack 0",
        &region.slacks(0, &eps).unwrap(),
        &[2.4909830056250526, 2.5932793192416021],
    );
    close(
        "slack 1",
        &region.slacks(1, &eps).unwrap(),
        &[0.93819660112501052, -0.68311388300841897],
    );
    assert!(region.contains(0, &eps).unwrap() && !region.contains(1, &eps).unwrap());
    close(
        "Shapley",
        region.shapley_shares(2).unwrap().as_slice(),
        &[3.5 / 2.875, -0.625 / 2.875],
    );
    assert_eq!(
        region.shapley_shares(0),
        None,
        "the class itself is no rival"
    );
}

/// Random additive models with baselines: `logits = sum_m terms(m) + b`, and all sets of at most
/// `q` modalities.
#[test]
fn the_worst_of_all_subsets_is_found_without_enumeration() {
    for case in 0..500u64 {
        let mut rng = Streams::new(9).stream("missing", case);
        let (modalities, classes) = (1 + case as usize % 5, 2 + case as usize % 7);
        let mut row = |scale: f64| {
            (0..classes)
                .map(|_| scale * rng.random_range(-1. ..1.))
                .collect::<Vec<f64>>()
        };
        let (x, u): (Vec<_>, Vec<_>) = (0..modalities).map(|_| (row(1.), row(0.5))).unzip();
        let b = row(0.2);
        let norms = per((0..modalities).map(|_| row(1.)).collect::<Vec<_>>());
        let norms = norms.map(|t| {
            t.iter()
                .map(|t| SoundBound::vouched(t.abs()).unwrap())
                .collect::<Vec<_>>()
        });
        let ones = PerModality::from_fn(modalities, |_| {
            Tensor::ones(classes, DType::F64, &Device::Cpu).unwrap()
        });
        let constants = MarginConstants::sum(&ones, &ScoreBounds::unweighted(norms)).unwrap();
        let eps = PerModality::from_fn(modalities, |_| rng.random_range(0. ..0.2));

        let logit = |k: usize, gone: usize| {
            b[k] + (0..modalities)
                .map(|m| if gone >> m & 1 == 1 { u[m][k] } else { x[m][k] })
                .sum::<f64>()
        };
        let h: Vec<f64> = (0..classes).map(|k| logit(k, 0)).collect();
        let y = (0..classes).max_by(|i, j| h[*i].total_cmp(&h[*j])).unwrap();
        let tensors = |v: &[Vec<f64>]| per(v.iter().map(|v| t(v)).collect());
        let contributions =
            Contributions::new(&scores(tensors(&x), &b), Some(&scores(tensors(&u), &b))).unwrap();
        let region = &missing_regions(&constants, &t(&h), &[y as u32], &contributions).unwrap()[0];
        let l = |m: usize, j: usize| constants.get(m, y, j);

        for q in 0..=modalities {
            let sets =
                || (0usize..1 << modalities).filter(move |bits| bits.count_ones() as usize <= q);
            let rivals = || (0..classes).filter(|j| *j != y);
            let least = |f: &dyn Fn(usize, usize) -> f64| {
                let of_rival =
                    |j: usize| sets().map(|gone| f(j, gone)).fold(f64::INFINITY, f64::min);
                rivals().map(of_rival).collect::<Vec<f64>>()
            };
            let margin = |j: usize, gone: usize| logit(y, gone) - logit(j, gone);
            let minimum = |v: &[f64]| v.iter().copied().fold(f64::INFINITY, f64::min);
            close(
                "worst margin",
                &[region.worst_margin(q)],
                &[minimum(&least(&margin))],
            );
            let kept = |gone: usize| (0..modalities).filter(move |m| gone >> m & 1 == 0);
            let slack = |j: usize, gone: usize| {
                margin(j, gone) - kept(gone).map(|m| eps[m] * l(m, j)).sum::<f64>()
            };
            let slacks = region.slacks(q, &eps).unwrap();
            close("slack", &slacks, &least(&slack));
            assert!(
                slacks
                    .iter()
                    .zip(least(&slack))
                    .all(|(got, want)| *got <= want + 1e-15),
                "rounded down"
            );
            let joint = |j: usize, gone: usize| {
                let norm = kept(gone).map(|m| l(m, j).powi(2)).sum::<f64>().sqrt();
                ratio(margin(j, gone).max(0.), norm)
            };
            let (got, want) = (region.worst_joint(q), minimum(&least(&joint)));
            // With everything missing nothing can move the margin: infinite, or 0.
            assert!(
                got == want || (got - want).abs() <= 1e-9 * want + TIGHT,
                "joint, q {q}: {got} for {want}"
            );
        }
        for missing in Missing::all(modalities) {
            let gone = (0..modalities)
                .filter(|m| missing.contains(*m))
                .map(|m| 1 << m)
                .sum::<usize>();
            let want: Vec<f64> = (0..classes)
                .filter(|j| *j != y)
                .map(|j| logit(y, gone) - logit(j, gone))
                .collect();
            close("exact margins", &region.margins_without(&missing), &want);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_nan_certifies_nothing() {
    let unit = SoundBound::vouched(1.).unwrap();
    let ones = PerModality::from_fn(2, |_| Tensor::ones(2, DType::F64, &Device::Cpu).unwrap());
    let constants =
        MarginConstants::sum(&ones, &ScoreBounds::unweighted(per(vec![vec![unit; 2]; 2]))).unwrap();
    let two = |a: &[f64], b: &[f64]| scores(PerModality::from([t(a), t(b)]), &[0., 0.]);
    let one = |a: &[f64]| scores(PerModality::from([t(a)]), &[0., 0.]);
    assert!(
        Contributions::new(&two(&[1., 0.], &[1., 0., 0.]), None)
            .unwrap_err()
            .to_string()
            .contains("modality 1")
    );
    assert!(Contributions::new(&two(&[1., 0.], &[1., 0.]), Some(&one(&[0., 0.]))).is_err());
    let alone = Contributions::new(&one(&[1., 0.]), None).unwrap();
    assert!(
        missing_regions(&constants, &t(&[2., 0.]), &[0], &alone)
            .unwrap_err()
            .to_string()
            .contains("contributions")
    );
    let nan = Contributions::new(&two(&[f64::NAN, 0.], &[1., 0.]), None).unwrap();
    let region = &missing_regions(&constants, &t(&[2., 0.]), &[0], &nan).unwrap()[0];
    let eps = PerModality::from([0., 0.]);
    assert!(!region.contains(1, &eps).unwrap() && region.worst_joint(1) == 0.);
    assert!(region.slacks(1, &PerModality::from([0., -1.])).is_err());
    // Weights that were left out: a margin of +4 "with any one missing" for one of -5, once.
    let unweighted = two(&[1., 0.], &[1., 0.]);
    let weights = PerModality::from_fn(2, |m| {
        Tensor::new(&[1f64, [1., 3.][m]], &Device::Cpu).unwrap()
    });
    let weighted = AdditiveScores {
        weights,
        ..unweighted.clone()
    };
    let logits = weighted.logits().unwrap();
    let of = |scores: &AdditiveScores| Contributions::new(scores, None).unwrap();
    assert!(missing_regions(&constants, &logits, &[0], &of(&weighted)).is_ok());
    let other = AdditiveScores {
        unimodal: PerModality::from([t(&[1., 1.]), t(&[1., 1.])]),
        ..weighted
    };
    let message = missing_regions(&constants, &logits, &[0], &of(&other))
        .unwrap_err()
        .to_string();
    assert!(message.contains("sum of the contributions"), "{message}");
}
