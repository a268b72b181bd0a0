//! Attacks referee certificates: inside a proved radius no attack may succeed, and a wrong formula
//! must be caught.
//!
//! One success inside a proved radius means that the certificate (or the attack's budget) is wrong,
//! and fails.
use candle_core::{DType, Device, Tensor};
use crmt_attacks::{
    Averaged, Budget, Draws, Goal, Loss, Norm, Outcome, Pgd, Restart, Start, predictions,
    run_within,
};
use crmt_certify::{
    MarginConstants, Proved, Radii, SmoothCertificate, Smoothing, Votes, audit, radii, ray,
};
use crmt_core::{
    AdditiveClassifier, AdditiveScores, Classifier, Domain, Layer, Modality, PerModality, Result,
    Streams,
};
use rand::Rng;
use rand_distr::StandardNormal;
use std::ops::ControlFlow;

const CLASSES: usize = 5;
const SAMPLES: usize = 24;
/// Strictly inside: radii are rounded down by ulps, budgets hold to 1e-6.
const INSIDE: f64 = 0.999;

/// Encoders `B tanh(A x)` (or `A x`), heads `a_k W_k`, bias.
struct Net {
    modalities: PerModality<Modality>,
    encoders: PerModality<Vec<Tensor>>,
    rows: PerModality<Tensor>,
    weights: PerModality<Tensor>,
    bias: Tensor,
}

impl Net {
    fn draw(modalities: usize, linear: bool, seed: u64) -> (Self, PerModality<Tensor>) {
        let mut rng = Streams::new(seed).stream("falsify", modalities as u64);
        let mut random = |shape: &[usize], size: f64| {
            let v: Vec<f64> = (0..shape.iter().product())
                .map(|_| size * rng.sample::<f64, _>(StandardNormal))
                .collect();
            Tensor::from_vec(v, shape, &Device::Cpu).unwrap()
        };
        let inputs = |m: usize| 3 + 2 * m;
        let scale = |m: usize| [1., 0.4, 2.][m];
        let modality = |m| Modality {
            scale: scale(m),
            ..Modality::new(format!("m{m}"), &[inputs(m)], Domain::Unbounded)
        };
        let net = Self {
            modalities: PerModality::from_fn(modalities, modality),
            encoders: PerModality::from_fn(modalities, |m| match linear {
                true => vec![random(&[4, inputs(m)], 0.5)],
                false => vec![random(&[6, inputs(m)], 0.5), random(&[4, 6], 0.5)],
            }),
            rows: PerModality::from_fn(modalities, |_| random(&[CLASSES, 4], 1.)),
            weights: PerModality::from_fn(modalities, |_| random(&[CLASSES], 1.)),
            bias: random(&[CLASSES], 0.3),
        };
        let x = PerModality::from_fn(modalities, |m| random(&[SAMPLES, inputs(m)], 1.));
        (net, x)
    }

    /// What an auditor is told of encoder `m`.
    fn layers(&self, m: usize) -> Vec<Layer> {
        let linear = |i: usize| Layer::Linear {
            name: format!("{i}"),
            weight: self.encoders[m][i].clone(),
        };
        let mut layers = vec![linear(0)];
        if self.encoders[m].len() == 2 {
            layers.extend([
                Layer::Fixed {
                    name: "tanh".into(),
                    lipschitz: 1.,
                },
                linear(1),
            ]);
        }
        layers
    }

    fn constants(&self) -> MarginConstants<Proved> {
        let audits = PerModality::from_fn(self.encoders.len(), |m| audit(&self.layers(m)).unwrap());
        let constants = MarginConstants::absorbed(&self.rows, &self.weights, &audits).unwrap();
        constants
            .in_units(&self.modalities.map(|m| m.scale))
            .unwrap()
    }
}

impl Classifier for Net {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }
    fn logits(&self, x: &PerModality<Tensor>) -> Result<Tensor> {
        self.scores(x)?.logits()
    }
}

impl AdditiveClassifier for Net {
    fn scores(&self, x: &PerModality<Tensor>) -> Result<AdditiveScores> {
        let unimodal = x.try_enumerate(|m, x| -> Result<Tensor> {
            let mut features = x.matmul(&self.encoders[m][0].t()?)?;
            if let Some(second) = self.encoders[m].get(1) {
                features = features.tanh()?.matmul(&second.t()?)?;
            }
            Ok(features.matmul(&self.rows[m].t()?)?)
        })?;
        Ok(AdditiveScores {
            unimodal,
            weights: self.weights.clone(),
            bias: self.bias.clone(),
        })
    }
}

/// A net, inputs, its predictions, and what is proved of them.
struct Case {
    net: Net,
    x: PerModality<Tensor>,
    logits: Tensor,
    labels: Vec<u32>,
    constants: MarginConstants<Proved>,
    radii: Radii<Proved>,
}

impl Case {
    fn new(modalities: usize, linear: bool, seed: u64) -> Self {
        let (net, x) = Net::draw(modalities, linear, seed);
        let logits = net.logits(&x).unwrap();
        let labels = predictions(&logits).unwrap();
        let constants = net.constants();
        let radii = radii(&constants, &logits, &labels).unwrap();
        assert!(
            radii.joint().iter().all(|r| *r > 0.),
            "predictions have positive margins"
        );
        Self {
            net,
            x,
            logits,
            labels,
            constants,
            radii,
        }
    }

    /// How many samples fall to a strong and a multi-targeted attack within `fraction` of their own
    /// `claims`.
    fn beaten(&self, unit: Budget, claims: &[f64], fraction: f64) -> usize {
        // An infinite claim is tested at 20.
        let within: Vec<f64> = claims.iter().map(|r| fraction * r.min(20.)).collect();
        let mut pgd = Pgd::targeting(unit, 20, 0..CLASSES as u32);
        pgd.restarts.push(Restart {
            from: Start::Random,
            loss: Loss::Margin,
        });
        let goal = Goal::Avoid(Tensor::new(self.labels.as_slice(), &Device::Cpu).unwrap());
        let draws = Draws::new(Streams::new(1), 0);
        let Outcome { success, .. } =
            run_within(&pgd, &self.net, &self.x, &goal, &draws, &within).unwrap();
        success.into_iter().filter(|s| *s).count()
    }

    /// Margins and constants of each rival of sample `i`.
    fn rivals(&self, i: usize) -> Vec<(f64, Vec<f64>)> {
        let h = self.logits.get(i).unwrap().to_vec1::<f64>().unwrap();
        let y = self.labels[i] as usize;
        let l = |j: usize| {
            (0..self.x.len())
                .map(|m| self.constants.get(m, y, j))
                .collect()
        };
        (0..CLASSES)
            .filter(|j| *j != y)
            .map(|j| (h[y] - h[j], l(j)))
            .collect()
    }
}

fn l2(l: &[f64]) -> f64 {
    l.iter().map(|l| l * l).sum::<f64>().sqrt()
}

fn least(rivals: &[(f64, Vec<f64>)], norm: impl Fn(&[f64]) -> f64) -> f64 {
    rivals
        .iter()
        .map(|(mu, l)| mu / norm(l))
        .fold(f64::INFINITY, f64::min)
}

#[test]
fn no_attack_beats_a_proved_radius() {
    for modalities in 1..=3 {
        for seed in 0..3 {
            let case = Case::new(modalities, seed == 0, seed);
            let what = format!("{modalities} modalities, seed {seed}");
            assert_eq!(
                case.beaten(Budget::Joint(1.), &case.radii.joint(), INSIDE),
                0,
                "{what}: joint"
            );
            for m in 0..modalities {
                let claims = case.radii.unimodal(m);
                assert_eq!(
                    case.beaten(Budget::only(m, modalities, 1.), &claims, INSIDE),
                    0,
                    "{what}: only m{m}"
                );
            }
            // A ray of per-modality budgets, unequal on purpose.
            let direction = PerModality::from_fn(modalities, |m| [1., 0.3, 2.][m]);
            let claims = ray(&case.constants, &case.logits, &case.labels, &direction).unwrap();
            let each = Budget::Each {
                norm: Norm::L2,
                radii: direction,
            };
            assert_eq!(case.beaten(each, &claims, INSIDE), 0, "{what}: ray");
            // The attack is not toothless: well outside, most samples fall.
            let outside = case.beaten(Budget::Joint(1.), &case.radii.joint(), 6.);
            assert!(
                outside > SAMPLES / 2,
                "{what}: only {outside} fall at six times the radius"
            );
        }
    }
}

/// On affine nets the radius is the distance, so every formula that claims more must be beaten.
#[test]
fn wrong_formulas_are_caught() {
    type Formula = fn(&[(f64, Vec<f64>)]) -> f64;
    let mutations: [(&str, Formula); 6] = [
        ("x 1.35", |r| 1.35 * least(r, l2)),
        ("x 1.01", |r| 1.01 * least(r, l2)),
        ("a modality dropped", |r| least(r, |l| l2(&l[1..]))),
        ("max for l2", |r| {
            least(r, |l| l.iter().copied().fold(0., f64::max))
        }),
        ("runner-up for minimum", |r| {
            let (mu, l) = r.iter().min_by(|a, b| a.0.total_cmp(&b.0)).expect("rivals");
            mu / l2(l)
        }),
        ("mean for minimum", |r| {
            r.iter().map(|(mu, l)| mu / l2(l)).sum::<f64>() / r.len() as f64
        }),
    ];
    let cases: Vec<Case> = (2..=3)
        .flat_map(|m| (0..3).map(move |seed| Case::new(m, true, 40 + seed)))
        .collect();
    for (name, formula) in mutations {
        let beaten: usize = cases
            .iter()
            .map(|case| {
                let claims: Vec<f64> = (0..SAMPLES).map(|i| formula(&case.rivals(i))).collect();
                case.beaten(Budget::Joint(1.), &claims, INSIDE)
            })
            .sum();
        assert!(
            beaten >= 10,
            "mutation `{name}` was beaten on {beaten} of {} samples only",
            SAMPLES * cases.len()
        );
    }
    // The formula itself, through the same comparison.
    for case in &cases {
        let claims: Vec<f64> = (0..SAMPLES).map(|i| least(&case.rivals(i), l2)).collect();
        assert_eq!(case.beaten(Budget::Joint(1.), &claims, INSIDE), 0);
    }
}

/// The runner-up logit is not the binding rival: built so, and certified at the true distance all
/// the same.
#[test]
fn the_binding_rival_need_not_be_the_runner_up() {
    let eye = |v: [f64; 3]| Tensor::new(&v, &Device::Cpu).unwrap();
    let net = Net {
        modalities: PerModality::from([Modality::new("x", &[3], Domain::Unbounded)]),
        encoders: PerModality::from([vec![Tensor::eye(3, DType::F64, &Device::Cpu).unwrap()]]),
        rows: PerModality::from([Tensor::eye(3, DType::F64, &Device::Cpu).unwrap()]),
        weights: PerModality::from([eye([1., 0.1, 10.])]),
        bias: eye([0., 0.8, -5.]),
    };
    let x = PerModality::from([Tensor::new(&[[1f64, 0., 0.5]], &Device::Cpu).unwrap()]);
    let logits = net.logits(&x).unwrap();
    assert_eq!(logits.to_vec2::<f64>().unwrap()[0], [1., 0.8, 0.]);
    let s = &radii(&net.constants(), &logits, &[0]).unwrap().samples()[0].clone();
    assert_eq!(
        s.rival, 2,
        "class 1 is the runner-up, class 2 moves a hundred times faster"
    );
    // 1e-12: a few roundings.
    assert!((s.joint - 1. / 101f64.sqrt()).abs() < 1e-12);
}

/// Noisy copies in the attack: what gradients can know of the smoothed net.
const COPIES: usize = 48;
const DRAWS: u64 = 1000;

fn votes(net: &Net, smoothing: &Smoothing, x: &PerModality<Tensor>, seed: u64) -> Vec<Votes> {
    let mut votes: Vec<Votes> = (0..SAMPLES as u64).map(Votes::new).collect();
    let go = |_: &[Votes], _: u64, _: u64| ControlFlow::Continue(());
    assert!(
        smoothing
            .run(net, x, &Streams::new(seed), &mut votes, 3000, go)
            .unwrap()
            .is_continue()
    );
    votes
}

/// A certificate holds with probability 0.999, and the fresh votes that judge it err at four
/// standard deviations: of the few hundred here none may fall.
#[test]
fn no_attack_beats_a_smoothed_certificate() {
    type Claim = fn(&SmoothCertificate) -> f64;
    for (modalities, seed) in [(2, 1), (3, 2)] {
        let (net, x) = Net::draw(modalities, false, seed);
        let sigmas = PerModality::from_fn(modalities, |m| [0.4, 1., 0.2][m]);
        let smoothing = Smoothing::new(sigmas.clone()).unwrap().draws(50, DRAWS);
        let certificates: Vec<_> = votes(&net, &smoothing, &x, 0)
            .iter()
            .map(|v| smoothing.certificate(v).unwrap())
            .collect();
        let averaged = Averaged::new(&net, &sigmas, COPIES, Streams::new(9)).unwrap();
        // How many certified samples lose their class, by fresh votes, within `fraction` of their
        // claims.
        let beaten = |unit: Budget, claim: &dyn Fn(&SmoothCertificate) -> f64, fraction: f64| {
            let within: Vec<f64> = certificates
                .iter()
                .map(|c| c.as_ref().map_or(0., |c| fraction * claim(c)))
                .collect();
            let classes: Vec<u32> = certificates
                .iter()
                .map(|c| c.as_ref().map_or(0, |c| c.class()))
                .collect();
            let goal = Goal::Avoid(Tensor::new(classes.as_slice(), &Device::Cpu).unwrap());
            let pgd = Pgd::quick(unit, 30, Loss::Margin);
            let draws = Draws::new(Streams::new(1), 0);
            let moved = run_within(&pgd, &averaged, &x, &goal, &draws, &within)
                .unwrap()
                .adversarial;
            let fell = |(c, v): &(&Option<SmoothCertificate>, Votes)| {
                // Of at least half the probability, as many votes at least.
                let least = 0.5 * DRAWS as f64 - 4. * (0.25 * DRAWS as f64).sqrt();
                c.as_ref()
                    .is_some_and(|c| (v.estimation[c.class() as usize] as f64) < least)
            };
            certificates
                .iter()
                .zip(votes(&net, &smoothing, &moved, 1))
                .filter(fell)
                .count()
        };
        let certified = certificates.iter().flatten().count();
        let joint: Claim = SmoothCertificate::joint;
        assert_eq!(
            beaten(Budget::Joint(1.), &joint, INSIDE),
            0,
            "{modalities} modalities: joint"
        );
        for m in 0..modalities {
            let claim = |c: &SmoothCertificate| c.unimodal()[m];
            assert_eq!(
                beaten(Budget::only(m, modalities, 1.), &claim, INSIDE),
                0,
                "{modalities} modalities: only m{m}"
            );
        }
        let ray = |c: &SmoothCertificate| c.ray(&sigmas).unwrap();
        let each = |radii: &PerModality<f64>| Budget::Each {
            norm: Norm::L2,
            radii: radii.clone(),
        };
        assert_eq!(
            beaten(each(&sigmas), &ray, INSIDE),
            0,
            "{modalities} modalities: ray"
        );
        // The attack is not toothless: well outside, along the ellipsoid's own diagonal, samples
        // fall.
        let outside = beaten(each(&sigmas), &ray, 2.);
        assert!(
            3 * outside > certified && certified > SAMPLES / 3,
            "{outside} of {certified} fall at twice the radius"
        );
    }
}
