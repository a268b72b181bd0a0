//! What must hold of radii for any model: symmetries, orders, and the agreement of reports with
//! training tensors.
use candle_core::{Device, Tensor};
use crmt_certify::*;
use crmt_core::{AdditiveClassifier, AdditiveScores, Classifier, Domain, Modality, PerModality};
use proptest::prelude::*;

/// Roundings of a few dozen operations.
const ROUNDING: f64 = 1e-11;

/// Heads of random models: rows `[classes][features]`, weights, logits.
#[derive(Debug, Clone)]
struct Heads {
    rows: Vec<Vec<Vec<f64>>>,
    weights: Vec<Vec<f64>>,
    lips: Vec<f64>,
    logits: Vec<f64>,
}

fn heads() -> impl Strategy<Value = Heads> {
    (1usize..=3, 2usize..=6, 1usize..=4).prop_flat_map(|(m, k, d)| {
        let value = || -3f64..3.;
        let vec = |n| prop::collection::vec(value(), n);
        (
            prop::collection::vec(prop::collection::vec(vec(d), k), m),
            prop::collection::vec(vec(k), m),
            prop::collection::vec(0.1f64..4., m),
            vec(k),
        )
            .prop_map(|(rows, weights, lips, logits)| Heads {
                rows,
                weights,
                lips,
                logits,
            })
    })
}

fn per<T>(v: Vec<T>) -> PerModality<T> {
    PerModality::new(v).expect("at least one modality")
}

impl Heads {
    fn tensors(&self) -> (PerModality<Tensor>, PerModality<Tensor>) {
        let rows = self
            .rows
            .iter()
            .map(|w| Tensor::new(w.clone(), &Device::Cpu).unwrap())
            .collect();
        let weights = self
            .weights
            .iter()
            .map(|a| Tensor::new(a.as_slice(), &Device::Cpu).unwrap())
            .collect();
        (per(rows), per(weights))
    }

    fn pairwise(&self) -> MarginConstants<Proved> {
        let (rows, weights) = self.tensors();
        let lips = per(self
            .lips
            .iter()
            .map(|l| SoundBound::vouched(*l).unwrap())
            .collect());
        MarginConstants::pairwise(&rows, &weights, &lips).unwrap()
    }

    fn sum(&self) -> MarginConstants<Proved> {
        let (rows, weights) = self.tensors();
        let norms = rows.try_enumerate(|m, w| {
            let norms = w.sqr()?.sum(1)?.sqrt()?.to_vec1::<f64>()?;
            let bound = |n: f64| SoundBound::vouched(n * self.lips[m] * (1. + 1e-14)).unwrap();
            candle_core::Result::Ok(norms.into_iter().map(bound).collect())
        });
        MarginConstants::sum(&weights, &ScoreBounds::unweighted(norms.unwrap())).unwrap()
    }

    fn label(&self) -> usize {
        (0..self.logits.len())
            .max_by(|i, j| self.logits[*i].total_cmp(&self.logits[*j]))
            .unwrap()
    }

    fn radii_with(&self, constants: &MarginConstants<Proved>) -> SampleRadii {
        let h = Tensor::new(self.logits.as_slice(), &Device::Cpu)
            .unwrap()
            .unsqueeze(0)
            .unwrap();
        radii(constants, &h, &[self.label() as u32])
            .unwrap()
            .samples()[0]
            .clone()
    }

    fn radii(&self) -> SampleRadii {
        self.radii_with(&self.pairwise())
    }
}

fn close(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= ROUNDING * a.abs().max(b.abs())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn permuted_modalities_permute_the_answer(h in heads()) {
        let r = h.radii();
        let mut turned = h.clone();
        turned.rows.rotate_left(1);
        turned.weights.rotate_left(1);
        turned.lips.rotate_left(1);
        let t = turned.radii();
        prop_assert!(close(r.joint, t.joint));
        let m = h.rows.len();
        for i in 0..m {
            prop_assert!(close(r.unimodal[(i + 1) % m], t.unimodal[i]));
            prop_assert!(close(r.shares[(i + 1) % m], t.shares[i]));
        }
    }

    #[test]
    fn permuted_classes_change_nothing(h in heads()) {
        let r = h.radii();
        let mut turned = h.clone();
        turned.rows.iter_mut().for_each(|w| w.rotate_left(1));
        turned.weights.iter_mut().for_each(|a| a.rotate_left(1));
        turned.logits.rotate_left(1);
        let t = turned.radii();
        let k = h.logits.len() as u32;
        prop_assert!(close(r.joint, t.joint));
        prop_assert_eq!((r.rival + k - 1) % k, t.rival);
        prop_assert!(r.unimodal.iter().zip(&t.unimodal).all(|(a, b)| close(*a, *b)));
    }

    #[test]
    fn scaled_weights_and_logits_change_nothing(h in heads(), c in 0.01f64..50.) {
        let mut scaled = h.clone();
        scaled.weights.iter_mut().flatten().for_each(|a| *a *= c);
        scaled.logits.iter_mut().for_each(|b| *b *= c);
        let (r, s) = (h.radii(), scaled.radii());
        prop_assert!(close(r.joint, s.joint));
        prop_assert!(r.shares.iter().zip(&s.shares).all(|(a, b)| close(*a, *b)));
    }

    /// `min_m P(m) / sqrt(M) <= r <= min_m P(m)`; the pairwise bound is never worse than the sum,
    /// nor their minimum than either.
    #[test]
    fn radii_are_ordered(h in heads()) {
        let r = h.radii();
        let least = r.unimodal.iter().copied().fold(f64::INFINITY, f64::min);
        prop_assert!(r.joint <= least);
        prop_assert!(r.joint >= least / (h.rows.len() as f64).sqrt() * (1. - ROUNDING));
        prop_assert!(close(r.shares.iter().sum::<f64>(), 1.));
        let s = h.radii_with(&h.sum());
        prop_assert!(s.joint <= r.joint * (1. + ROUNDING));
        let both = h.radii_with(&h.pairwise().min(&h.sum()).unwrap());
        prop_assert!(both.joint >= r.joint && both.joint >= s.joint);
    }

    /// In units of `s`, a radius on one modality is divided by `s`.
    #[test]
    fn declared_units_divide_radii(h in heads(), s in 0.1f64..10.) {
        let scales = PerModality::from_fn(h.rows.len(), |_| s);
        let (r, u) = (h.radii(), h.radii_with(&h.pairwise().in_units(&scales).unwrap()));
        prop_assert!(close(r.joint, u.joint * s));
        prop_assert!(r.unimodal.iter().zip(&u.unimodal).all(|(a, b)| close(*a, b * s)));
    }

    /// What training optimises is what the report says.
    #[test]
    fn training_tensors_agree_with_reports(h in heads()) {
        let (rows, weights) = h.tensors();
        let tables = objective::pairwise_table(&weights, &rows, &per(h.lips.clone())).unwrap();
        let logits = Tensor::new(h.logits.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let labels = Tensor::new(&[h.label() as u32], &Device::Cpu).unwrap();
        let ratios = objective::signed_ratios(&logits, &labels, &tables).unwrap();
        let least = objective::min_ratio(&ratios).unwrap().to_vec1::<f64>().unwrap()[0];
        // The Gram form of the training table cancels: 1e-6 relative for rows that are not nearly
        // equal.
        let r = h.radii();
        prop_assume!(r.joint < 1e3);
        prop_assert!((least - r.joint).abs() <= 1e-6 * r.joint.max(1e-3), "{} for {}", least, r.joint);
    }
}

/// Scores `tanh(x A_m)`, so that gradients are known.
struct Tanh {
    modalities: PerModality<Modality>,
    a: PerModality<Tensor>,
    weights: PerModality<Tensor>,
}

impl Classifier for Tanh {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }
    fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        self.scores(x)?.logits()
    }
}

impl AdditiveClassifier for Tanh {
    fn scores(&self, x: &PerModality<Tensor>) -> crmt_core::Result<AdditiveScores> {
        let unimodal = x
            .zip(&self.a, "layers")?
            .try_map(|(x, a)| Ok::<_, crmt_core::Error>(x.matmul(a)?.tanh()?))?;
        let bias = self.weights[0].zeros_like()?;
        Ok(AdditiveScores {
            unimodal,
            weights: self.weights.clone(),
            bias,
        })
    }
}

#[test]
fn gradient_norms_are_those_of_the_formula_and_merge() {
    let dev = &Device::Cpu;
    let model = Tanh {
        modalities: PerModality::from(
            ["a", "b"].map(|n| Modality::new(n, &[2], Domain::Unbounded)),
        ),
        a: PerModality::from(
            [
                [[1f64, 0., 2.], [0., 3., 1.]],
                [[0.5, 1., 0.], [1., -1., 0.25]],
            ]
            .map(|a| Tensor::new(&a, dev).unwrap()),
        ),
        weights: PerModality::from(
            [[2f64, -1., 0.5], [1., 1., 3.]].map(|a| Tensor::new(&a, dev).unwrap()),
        ),
    };
    let x = PerModality::from(
        [[[0.3f64, -0.2], [1., 0.1]], [[0.7, 0.4], [-0.5, 0.2]]]
            .map(|x| Tensor::new(&x, dev).unwrap()),
    );
    let norms = gradient_norms(&model, &x).unwrap();
    for m in 0..2 {
        let (a, x) = (
            model.a[m].to_vec2::<f64>().unwrap(),
            x[m].to_vec2::<f64>().unwrap(),
        );
        for (k, got) in norms.greatest()[m].iter().enumerate() {
            let norm = |x: &Vec<f64>| {
                let z: f64 = (0..2).map(|i| x[i] * a[i][k]).sum();
                (1. - z.tanh().powi(2)) * a[0][k].hypot(a[1][k])
            };
            let want = x.iter().map(norm).fold(0., f64::max);
            assert!(close(*got, want), "modality {m}, class {k}");
        }
    }
    let half =
        |i: usize| gradient_norms(&model, &x.try_map(|x| x.narrow(0, i, 1)).unwrap()).unwrap();
    let merged = half(0).merge(&half(1)).unwrap();
    assert_eq!((merged.greatest(), merged.samples()), (norms.greatest(), 2));
    assert_eq!(
        norms.bounds().unwrap()[1][2].value(),
        norms.greatest()[1][2]
    );
}

#[test]
fn mistakes_are_named() {
    let unit = SoundBound::vouched(1.).unwrap();
    let a = |v: &[f64]| Tensor::new(v, &Device::Cpu).unwrap();
    let sum = |a: Vec<Tensor>, t: Vec<Vec<SoundBound>>| {
        MarginConstants::sum(&per(a), &ScoreBounds::unweighted(per(t)))
    };
    let e = sum(
        vec![a(&[1., 1.]), a(&[1., 1., 1.])],
        vec![vec![unit; 2], vec![unit; 2]],
    )
    .unwrap_err();
    assert!(e.to_string().contains("modality 1"), "{e}");
    assert!(
        sum(vec![a(&[1., 1.])], vec![vec![unit; 3]])
            .unwrap_err()
            .to_string()
            .contains("got 3")
    );
    assert!(sum(vec![a(&[1., f64::NAN])], vec![vec![unit; 2]]).is_err());
    let c = sum(vec![a(&[1., 1.])], vec![vec![unit; 2]]).unwrap();
    let h = Tensor::new(&[[1f64, 0.]], &Device::Cpu).unwrap();
    assert!(matches!(
        radii(&c, &h, &[2]).unwrap_err(),
        CertifyError::Class {
            class: 2,
            classes: 2,
            ..
        }
    ));
    assert!(
        radii(&c, &h, &[0, 1]).is_err()
            && radii(&c, &Tensor::new(&[[1f64]], &Device::Cpu).unwrap(), &[0]).is_err()
    );
    assert!(
        c.in_units(&PerModality::from([0.])).is_err()
            && c.in_units(&PerModality::from([1., 1.])).is_err()
    );
    assert!(ray(&c, &h, &[0], &PerModality::from([-1.])).is_err());
}
