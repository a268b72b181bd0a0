//! One table, every attack: each row is attack x number of modalities x kind of budget x domain,
//! and each must keep the same promises. A new attack adds a line to [`attacks`].
use candle_core::{DType, Device, Tensor};
use crmt_attacks::*;
use crmt_core::{Classifier, Domain, Modality, PerModality, Streams};
use rand::Rng;
use rand_distr::StandardNormal;

const SAMPLES: usize = 7;
const CLASSES: usize = 4;
/// The promise of [`run`]: budgets and domains hold to a relative 1e-6.
const SLACK: f64 = 1e-6;

/// `sum_m tanh(x_m A_m) B_m + b`: smooth, nonlinear, no structure an attack could exploit.
struct Net {
    modalities: PerModality<Modality>,
    layers: PerModality<(Tensor, Tensor)>,
    bias: Tensor,
}

impl Classifier for Net {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }
    fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        let mut sum = self.bias.clone();
        for (x, (a, b)) in x.iter().zip(&self.layers) {
            sum = x
                .flatten_from(1)?
                .matmul(a)?
                .tanh()?
                .matmul(b)?
                .broadcast_add(&sum)?;
        }
        Ok(sum)
    }
}

fn random(rng: &mut impl Rng, shape: &[usize], dtype: DType) -> Tensor {
    let v: Vec<f64> = (0..shape.iter().product())
        .map(|_| rng.sample(StandardNormal))
        .collect();
    Tensor::from_vec(v, shape, &Device::Cpu)
        .unwrap()
        .to_dtype(dtype)
        .unwrap()
}

/// A net, inputs inside their domains, and the net's own predictions as labels.
struct Case {
    net: Net,
    inputs: PerModality<Tensor>,
    goal: Goal,
}

impl Case {
    fn new(modalities: usize, dtype: DType, seed: u64) -> Self {
        let mut rng = Streams::new(seed).stream("case", modalities as u64);
        let shapes: [&[usize]; 3] = [&[2, 3, 3], &[5], &[1, 4, 2]];
        let domains = [
            Domain::Channels {
                lo: vec![-1., -0.5],
                hi: vec![1., 0.75],
            },
            Domain::Unbounded,
            Domain::Interval { lo: -0.8, hi: 0.8 },
        ];
        let modality = |m: usize| {
            let modality = Modality::new(format!("m{m}"), shapes[m], domains[m].clone());
            Modality {
                scale: [1., 2.5, 0.4][m],
                ..modality
            }
        };
        let net = Net {
            modalities: PerModality::from_fn(modalities, modality),
            layers: PerModality::from_fn(modalities, |m| {
                let inputs = shapes[m].iter().product();
                (
                    random(&mut rng, &[inputs, 6], dtype),
                    random(&mut rng, &[6, CLASSES], dtype),
                )
            }),
            bias: random(&mut rng, &[1, CLASSES], dtype),
        };
        let inputs = PerModality::from_fn(modalities, |m| {
            let shape: Vec<usize> = std::iter::once(SAMPLES)
                .chain(shapes[m].iter().copied())
                .collect();
            // Often on the boundary of the domain, where clamping must act.
            (random(&mut rng, &shape, dtype) * 0.6)
                .unwrap()
                .clamp(-0.5, 0.7)
                .unwrap()
        });
        let labels = Tensor::new(
            predictions(&net.logits(&inputs).unwrap()).unwrap(),
            &Device::Cpu,
        )
        .unwrap();
        Self {
            net,
            inputs,
            goal: Goal::Avoid(labels),
        }
    }

    fn run(&self, attack: &dyn Attack, seed: u64) -> Outcome {
        run(
            attack,
            &self.net,
            &self.inputs,
            &self.goal,
            &Draws::new(Streams::new(seed), 100),
        )
        .unwrap()
    }
}

/// Every attack, at a budget.
fn attacks(budget: &Budget) -> Vec<Box<dyn Attack>> {
    let mut all: Vec<Box<dyn Attack>> = vec![
        Box::new(Fgm::new(budget.clone())),
        Box::new(Pgd::quick(budget.clone(), 6, Loss::Margin)),
        Box::new(Pgd::strong(budget.clone()).with_steps(6)),
        Box::new(Pgd::training(budget.clone(), 3, 0.5)),
        Box::new(Apgd::ce(budget.clone()).with_steps(6)),
        Box::new(Apgd::dlr(budget.clone()).with_steps(6).repeated(2)),
        Box::new(Apgd::targeted(budget.clone(), 2).with_steps(6)),
        Box::new(Square::new(budget.clone(), 20)),
        Box::new(Pgd::quick(budget.clone(), 6, Loss::CrossEntropy).with_momentum(1.)),
        Box::new(Ensemble::standard(
            budget.clone(),
            Effort {
                steps: 4,
                targets: 2,
                queries: 8,
            },
        )),
        Box::new(Fab::new(budget.clone()).with_steps(6)),
        Box::new(
            Fab::targeted(budget.clone(), 2)
                .with_steps(3)
                .with_starts(2),
        ),
        Box::new(
            Fab::targeted(budget.clone(), 1)
                .with_steps(6)
                .for_distances(),
        ),
        Box::new(DeepFool::new(budget.clone())),
        Box::new(Stray(budget.clone())),
    ];
    let linf = matches!(
        budget,
        Budget::Each {
            norm: Norm::Linf,
            ..
        }
    );
    if !linf {
        let quick = CarliniWagner {
            searches: 4,
            steps: 15,
            rate: 0.1,
            ..CarliniWagner::new(budget.clone())
        };
        all.push(Box::new(quick.clone()));
        all.push(Box::new(quick.for_distances()));
    }
    match budget {
        Budget::Joint(eps) => {
            all.push(Box::new(released::fgm(*eps)));
            all.push(Box::new(released::pgd4(*eps)));
            all.push(Box::new(released::TrainingPgd::new(*eps, 5)));
        }
        Budget::Each {
            norm: Norm::L2,
            radii,
        } => all.push(Box::new(released::PerModalityPgd::new(radii.clone()))),
        Budget::Each { .. } => {}
    }
    all
}

/// An attack that respects nothing: whatever holds for it is the framework's doing.
struct Stray(Budget);

impl Attack for Stray {
    fn name(&self) -> &str {
        "stray"
    }
    fn budget(&self) -> &Budget {
        &self.0
    }
    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        problem.clean().try_map(|x| Ok(((x * -7.)? + 3.)?))
    }
}

fn budgets(modalities: usize, size: f64) -> Vec<Budget> {
    let radii = |f: fn(usize) -> f64| PerModality::from_fn(modalities, |m| size * f(m));
    vec![
        Budget::Joint(size),
        Budget::Each {
            norm: Norm::L2,
            radii: radii(|m| 1. + m as f64),
        },
        Budget::Each {
            norm: Norm::Linf,
            radii: radii(|m| 0.3 / (1. + m as f64)),
        },
        Budget::only(modalities - 1, modalities, size),
    ]
}

fn table(mut check: impl FnMut(&Case, &Budget, &dyn Attack, &str)) {
    for dtype in [DType::F32, DType::F64] {
        for modalities in 1..=3 {
            let case = Case::new(modalities, dtype, 5);
            for size in [1e-3, 0.4, 3.] {
                for budget in budgets(modalities, size) {
                    for attack in attacks(&budget) {
                        let what = format!(
                            "{} of {modalities} modalities, {dtype:?}, {budget:?}",
                            attack.name()
                        );
                        check(&case, &budget, attack.as_ref(), &what);
                    }
                }
            }
        }
    }
}

fn flat(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Distances of each sample, per modality, in declared units; computed here, not by the crate.
fn moved(case: &Case, x: &PerModality<Tensor>, linf: bool) -> Vec<Vec<f64>> {
    let each = x
        .iter()
        .zip(&case.inputs)
        .zip(&case.net.modalities)
        .map(|((x, x0), modality)| {
            let (x, x0) = (flat(x), flat(x0));
            let len = x.len() / SAMPLES;
            let size = |i: usize| {
                let d = (i * len..(i + 1) * len).map(|e| (x[e] - x0[e]).abs() / modality.scale);
                if linf {
                    d.fold(0., f64::max)
                } else {
                    d.map(|d| d * d).sum::<f64>().sqrt()
                }
            };
            (0..SAMPLES).map(size).collect()
        });
    each.collect()
}

fn within_domains(case: &Case, x: &PerModality<Tensor>, what: &str) {
    for (x, modality) in x.iter().zip(&case.net.modalities) {
        let channels: Vec<(f64, f64)> = match &modality.domain {
            Domain::Unbounded => continue,
            Domain::Interval { lo, hi } => vec![(*lo, *hi)],
            Domain::Channels { lo, hi } => lo.iter().copied().zip(hi.iter().copied()).collect(),
        };
        let x = x.reshape((SAMPLES, channels.len(), ())).unwrap();
        for (c, (lo, hi)) in channels.iter().enumerate() {
            let slack = SLACK * (hi - lo);
            let inside = |v: &f64| (lo - slack..=hi + slack).contains(v);
            assert!(
                flat(&x.narrow(1, c, 1).unwrap()).iter().all(inside),
                "{what}: {} leaves its domain",
                modality.name
            );
        }
    }
}

#[test]
fn within_budget_and_domain() {
    table(|case, _, attack, what| {
        let budget = attack.budget();
        let out = case.run(attack, 1);
        let linf = matches!(
            budget,
            Budget::Each {
                norm: Norm::Linf,
                ..
            }
        );
        let sizes = moved(case, &out.adversarial, linf);
        for i in 0..SAMPLES {
            let joint = sizes.iter().map(|s| s[i] * s[i]).sum::<f64>().sqrt();
            match budget {
                Budget::Joint(r) => {
                    assert!(joint <= r * (1. + SLACK), "{what}: sample {i} at {joint}")
                }
                Budget::Each { radii, .. } => {
                    for (m, r) in radii.iter().enumerate() {
                        assert!(
                            sizes[m][i] <= r * (1. + SLACK),
                            "{what}: sample {i}, m{m} at {}",
                            sizes[m][i]
                        );
                    }
                }
            }
            let reported = if linf {
                sizes.iter().map(|s| s[i]).fold(0., f64::max)
            } else {
                joint
            };
            // Same formula, other order of sums.
            assert!(
                (reported - out.distance[i]).abs() <= 1e-9 * reported.max(1.),
                "{what}: distance of {i}"
            );
        }
        within_domains(case, &out.adversarial, what);
    });
}

/// Also: modalities with a radius of 0 in a budget with others.
#[test]
fn no_budget_no_change_bit_for_bit() {
    for modalities in 1..=3 {
        let case = Case::new(modalities, DType::F32, 6);
        for budget in budgets(modalities, 0.) {
            for attack in attacks(&budget) {
                let out = case.run(attack.as_ref(), 1);
                for (x, x0) in out.adversarial.iter().zip(&case.inputs) {
                    let bits = |t: &Tensor| {
                        t.flatten_all()
                            .unwrap()
                            .to_vec1::<f32>()
                            .unwrap()
                            .iter()
                            .map(|v| v.to_bits())
                            .collect::<Vec<_>>()
                    };
                    assert_eq!(bits(x), bits(x0), "{}", attack.name());
                }
                assert!(out.success.iter().all(|s| !s) && out.distance.iter().all(|d| *d == 0.));
            }
        }
    }
    let case = Case::new(3, DType::F32, 6);
    let out = case.run(&Pgd::strong(Budget::only(1, 3, 2.)), 1);
    let same = |m: usize| flat(&out.adversarial[m]) == flat(&case.inputs[m]);
    assert!(same(0) && !same(1) && same(2));
}

#[test]
fn repeatable_and_independent_of_batching() {
    table(|case, _, attack, what| {
        // The released training attack divides by the batch: that is what it reproduces.
        if attack.name() == "released training pgd" {
            return;
        }
        let whole = case.run(attack, 1);
        let again = case.run(attack, 1);
        for (a, b) in whole.adversarial.iter().zip(&again.adversarial) {
            assert_eq!(flat(a), flat(b), "{what}: same seed, same bits");
        }
        let Goal::Avoid(labels) = &case.goal else {
            unreachable!("set in Case::new")
        };
        for (start, len) in [(0, 3), (3, 1), (4, 3)] {
            let part = case.inputs.try_map(|x| x.narrow(0, start, len)).unwrap();
            let goal = Goal::Avoid(labels.narrow(0, start, len).unwrap());
            let draws = Draws::new(Streams::new(1), 100 + start as u64);
            let out = run(attack, &case.net, &part, &goal, &draws).unwrap();
            for (a, b) in out.adversarial.iter().zip(&whole.adversarial) {
                let b = flat(&b.narrow(0, start, len).unwrap());
                let bound = if case.inputs[0].dtype() == DType::F32 {
                    1e-4
                } else {
                    1e-10
                };
                // Matrix products of other shapes may sum in another order; a step's direction
                // amplifies that.
                let close = flat(a)
                    .iter()
                    .zip(&b)
                    .all(|(a, b)| (a - b).abs() <= bound * (1. + b.abs()));
                assert!(close, "{what}: depends on the batch");
            }
            assert_eq!(out.success, whole.success[start..start + len], "{what}");
        }
    });
}

#[test]
fn another_seed_starts_elsewhere() {
    let case = Case::new(2, DType::F64, 7);
    for budget in budgets(2, 1e-3) {
        let random_start = Pgd::training(budget.clone(), 1, 0.1);
        let points: Vec<_> = [1, 2]
            .map(|seed| flat(&case.run(&random_start, seed).adversarial[1]))
            .into();
        assert_ne!(points[0], points[1], "{budget:?}");
        let clean_start = Pgd::quick(budget, 2, Loss::Margin);
        assert_eq!(
            flat(&case.run(&clean_start, 1).adversarial[1]),
            flat(&case.run(&clean_start, 2).adversarial[1])
        );
    }
}

#[test]
fn a_larger_budget_never_helps_the_defender() {
    let case = Case::new(3, DType::F32, 8);
    for shape in 0..4 {
        let ladder: Vec<Budget> = [0., 0.1, 0.4, 1., 2.]
            .map(|size| budgets(3, size).swap_remove(shape))
            .into();
        // All but the released ones, which have budgets of their own, and the stray one.
        let names: Vec<String> = attacks(&ladder[0])
            .iter()
            .map(|a| a.name().into())
            .collect();
        let skipped = |name: &str| name == "stray" || name.starts_with("released");
        for kind in (0..names.len()).filter(|kind| !skipped(&names[*kind])) {
            let attacks: Vec<Box<dyn Attack>> = ladder
                .iter()
                .map(|b| attacks(b).swap_remove(kind))
                .collect();
            let attacks: Vec<&dyn Attack> = attacks.iter().map(Box::as_ref).collect();
            let draws = Draws::new(Streams::new(1), 0);
            let curve = strongest(&attacks, &case.net, &case.inputs, &case.goal, &draws).unwrap();
            for k in 1..ladder.len() {
                let worse = curve
                    .success(k - 1)
                    .iter()
                    .zip(curve.success(k))
                    .all(|(before, after)| after >= *before);
                assert!(worse && curve.standing(k) <= curve.standing(k - 1));
            }
            assert_eq!(
                curve.standing(0),
                1.,
                "labels are the predictions, and the first budget is 0"
            );
            assert!(
                curve.standing(4) < 1.,
                "{} at {:?} is toothless",
                attacks[4].name(),
                ladder[4]
            );
        }
    }
    let (small, large) = (Fgm::new(Budget::Joint(0.1)), Fgm::new(Budget::Joint(0.2)));
    let e = strongest(
        &[&large, &small],
        &case.net,
        &case.inputs,
        &case.goal,
        &Draws::new(Streams::new(1), 0),
    );
    assert!(matches!(e.unwrap_err(), Error::NotAscending(1)));
}

/// Budgets per sample: a unit budget times each sample's own radius.
#[test]
fn own_radii_are_kept_and_zero_means_untouched() {
    let case = Case::new(2, DType::F32, 9);
    let radii: Vec<f64> = (0..SAMPLES).map(|i| 0.25 * i as f64).collect();
    for budget in budgets(2, 1.) {
        for attack in attacks(&budget) {
            // Not built from unit balls.
            if attack.name().starts_with("released") {
                continue;
            }
            let draws = Draws::new(Streams::new(1), 0);
            let out = run_within(
                attack.as_ref(),
                &case.net,
                &case.inputs,
                &case.goal,
                &draws,
                &radii,
            )
            .unwrap();
            let linf = matches!(
                budget,
                Budget::Each {
                    norm: Norm::Linf,
                    ..
                }
            );
            let sizes = moved(&case, &out.adversarial, linf);
            for (i, radius) in radii.iter().enumerate() {
                let joint = sizes.iter().map(|s| s[i] * s[i]).sum::<f64>().sqrt();
                match &budget {
                    Budget::Joint(r) => assert!(joint <= r * radius * (1. + SLACK)),
                    Budget::Each { radii, .. } => {
                        assert!(
                            radii
                                .iter()
                                .enumerate()
                                .all(|(m, r)| sizes[m][i] <= r * radius * (1. + SLACK))
                        )
                    }
                }
            }
            assert_eq!(
                (out.distance[0], out.success[0]),
                (0., false),
                "{}",
                attack.name()
            );
        }
    }
}

/// A radius of each sample for each modality: each is kept, and used where it is not 0.
#[test]
fn each_modality_of_a_sample_has_its_own_radius() {
    let case = Case::new(2, DType::F64, 11);
    let radii = PerModality::from_fn(2, |m| {
        (0..SAMPLES)
            .map(|i| {
                if i % 3 == m {
                    0.
                } else {
                    0.02 * (i + m) as f64
                }
            })
            .collect()
    });
    let draws = Draws::new(Streams::new(1), 0);
    let unit = |norm| Budget::Each {
        norm,
        radii: PerModality::from([1., 1.]),
    };
    for norm in [Norm::L2, Norm::Linf] {
        let attacks: [&dyn Attack; 6] = [
            &Pgd {
                to_the_end: true,
                ..Pgd::quick(unit(norm), 10, Loss::Margin)
            },
            &Apgd::ce(unit(norm)).with_steps(10),
            &Square::new(unit(norm), 50),
            &Fab::new(unit(norm)).with_steps(10),
            &DeepFool::new(unit(norm)),
            &CarliniWagner::new(unit(Norm::L2)).with_steps(20),
        ];
        for attack in attacks
            .into_iter()
            .filter(|a| norm == Norm::L2 || a.name() != "carlini-wagner")
        {
            let out = run_within_each(attack, &case.net, &case.inputs, &case.goal, &draws, &radii)
                .unwrap();
            let sizes = moved(&case, &out.adversarial, norm == Norm::Linf);
            for (m, radii) in radii.iter().enumerate() {
                for (i, r) in radii.iter().enumerate() {
                    assert!(
                        sizes[m][i] <= r * (1. + SLACK),
                        "sample {i}, m{m}: {} beyond {r}",
                        sizes[m][i]
                    );
                    // Gradients are not zero: an attack that may move, does; but a sum of squares
                    // may be spent on one.
                    let free = attack.name() == "carlini-wagner";
                    assert!(
                        out.success[i] || *r == 0. || sizes[m][i] > 0.5 * r || free,
                        "sample {i}, m{m}: {} of {r}",
                        sizes[m][i]
                    );
                }
            }
        }
    }
    let joint = Pgd::quick(Budget::Joint(1.), 1, Loss::Margin);
    let refused =
        run_within_each(&joint, &case.net, &case.inputs, &case.goal, &draws, &radii).unwrap_err();
    assert!(refused.to_string().contains("joint budget"), "{refused}");
}

#[test]
fn samples_already_lost_succeed_at_distance_zero_and_cost_nothing_more() {
    let mut case = Case::new(2, DType::F32, 10);
    let Goal::Avoid(labels) = &case.goal else {
        unreachable!("set in Case::new")
    };
    let mut labels = labels.to_vec1::<u32>().unwrap();
    labels[2] = (labels[2] + 1) % CLASSES as u32;
    case.goal = Goal::Avoid(Tensor::new(labels, &Device::Cpu).unwrap());
    let out = case.run(&Fgm::new(Budget::Joint(1e-4)), 1);
    assert_eq!((out.success[2], out.distance[2]), (true, 0.));
    assert_eq!(
        flat(&out.adversarial[0].get(2).unwrap()),
        flat(&case.inputs[0].get(2).unwrap())
    );
    // One clean forward each, then one gradient and one judgement for the six that stand.
    assert_eq!((out.forwards, out.backwards), (7 + 6 + 6, 6));
    // Training perturbs everybody.
    let draws = Draws::new(Streams::new(1), 0);
    let x = perturb(
        &Fgm::new(Budget::Joint(0.1)),
        &case.net,
        &case.inputs,
        &case.goal,
        &draws,
    )
    .unwrap();
    assert_ne!(
        flat(&x[0].get(2).unwrap()),
        flat(&case.inputs[0].get(2).unwrap())
    );
}

/// Nobody falls to a budget this small: everyone costs one clean forward, the search, and one
/// judgement.
#[test]
fn searches_cost_what_their_docs_say() {
    let case = Case::new(2, DType::F64, 10);
    let n = SAMPLES as u64;
    for budget in budgets(2, 1e-9) {
        let apgd = Apgd::ce(budget.clone()).with_steps(5);
        let targeted = Apgd::targeted(budget.clone(), 2).with_steps(5);
        let attacks: [(&dyn Attack, u64, u64); 8] = [
            (&apgd, 6, 5),
            (&apgd.clone().repeated(3), 18, 15),
            (&targeted, 1 + 12, 10),
            // Four classes: three rivals, whatever was asked for.
            (&Apgd::targeted(budget.clone(), 9).with_steps(5), 1 + 18, 15),
            (&Square::new(budget.clone(), 20), 20, 0),
            (&Fab::new(budget.clone()).with_steps(5), 1 + 20, 15),
            (
                &Fab::targeted(budget.clone(), 2)
                    .with_steps(5)
                    .with_starts(2),
                1 + 40,
                20,
            ),
            (&Fab::targeted(budget.clone(), 9).with_steps(5), 1 + 30, 15),
        ];
        for (attack, forwards, backwards) in attacks {
            let out = case.run(attack, 1);
            assert!(out.success.iter().all(|s| !s));
            assert_eq!(
                (out.forwards, out.backwards),
                (n * (1 + forwards + 1), n * backwards),
                "{}",
                attack.name()
            );
        }
    }
}

/// On a net with domains: what [`nearest`] returns is adversarial, within the domains, as far as it
/// says, and no attack of the table comes 2 % closer.
#[test]
fn nothing_comes_closer_than_the_nearest() {
    let case = Case::new(3, DType::F64, 16);
    let draws = Draws::new(Streams::new(1), 0);
    for budget in budgets(3, 1.) {
        let found = nearest(&budget, &case.net, &case.inputs, &case.goal, &draws).unwrap();
        let logits = case.net.logits(&found.adversarial).unwrap();
        let stands = correct(&logits, case.goal.labels()).unwrap();
        assert!(
            stands.iter().all(|s| !s) && found.distance.iter().all(|d| d.is_finite()),
            "{:?}",
            found.distance
        );
        let sizes = moved(
            &case,
            &found.adversarial,
            matches!(
                budget,
                Budget::Each {
                    norm: Norm::Linf,
                    ..
                }
            ),
        );
        for (m, (spent, sizes)) in found.spent.iter().zip(&sizes).enumerate() {
            for (i, (spent, size)) in spent.iter().zip(sizes).enumerate() {
                assert!(
                    (spent - size).abs() < 1e-12
                        && *size <= budget.radius(m) * found.distance[i] * (1. + 1e-12)
                );
            }
        }
        within_domains(&case, &found.adversarial, "nearest");
        let closer: Vec<f64> = found.distance.iter().map(|d| 0.98 * d).collect();
        for attack in attacks(&budget)
            .iter()
            .filter(|a| !a.name().starts_with("released"))
        {
            let out = run_within(
                attack.as_ref(),
                &case.net,
                &case.inputs,
                &case.goal,
                &draws,
                &closer,
            )
            .unwrap();
            assert!(
                out.success.iter().all(|s| !s),
                "{} comes closer: {budget:?}",
                attack.name()
            );
        }
    }
}

#[test]
fn targeted_attacks_reach_their_class() {
    let case = Case::new(2, DType::F64, 11);
    let target = Tensor::new(vec![1u32; SAMPLES], &Device::Cpu).unwrap();
    let draws = Draws::new(Streams::new(1), 0);
    let pgd = Pgd::strong(Budget::Joint(4.));
    let out = run(
        &pgd,
        &case.net,
        &case.inputs,
        &Goal::Reach(target.clone()),
        &draws,
    )
    .unwrap();
    assert_eq!(
        out.success,
        correct(&case.net.logits(&out.adversarial).unwrap(), &target).unwrap()
    );
    assert!(
        out.success.iter().filter(|s| **s).count() > SAMPLES / 2,
        "{:?}",
        out.success
    );
    let attacks: [&dyn Attack; 5] = [
        &Apgd::ce(Budget::Joint(4.)),
        &Square::new(Budget::Joint(4.), 500),
        &Fab::new(Budget::Joint(4.)).with_starts(5),
        &DeepFool::new(Budget::Joint(4.)),
        &CarliniWagner::new(Budget::Joint(4.)).with_steps(200),
    ];
    for attack in attacks {
        let found = run(
            attack,
            &case.net,
            &case.inputs,
            &Goal::Reach(target.clone()),
            &draws,
        )
        .unwrap();
        assert_eq!(
            found.success,
            correct(&case.net.logits(&found.adversarial).unwrap(), &target).unwrap()
        );
        let count = |o: &Outcome| o.success.iter().filter(|s| **s).count();
        assert!(
            count(&found) + 1 >= count(&out),
            "{}: {:?}, pgd {:?}",
            attack.name(),
            found.success,
            out.success
        );
    }
    // They choose their targets themselves.
    for attack in [
        &Apgd::targeted(Budget::Joint(4.), 2) as &dyn Attack,
        &Fab::targeted(Budget::Joint(4.), 2),
    ] {
        let e = run(
            attack,
            &case.net,
            &case.inputs,
            &Goal::Reach(target.clone()),
            &draws,
        )
        .unwrap_err();
        assert!(e.to_string().contains("Goal::Avoid"), "{e}");
    }
}

/// A flat classifier has zero gradients everywhere.
#[test]
fn zero_gradients_never_give_nan() {
    let mut case = Case::new(2, DType::F32, 12);
    case.net.layers = case
        .net
        .layers
        .map(|(a, b)| (a.clone(), b.zeros_like().unwrap()));
    let labels = predictions(&case.net.logits(&case.inputs).unwrap()).unwrap();
    case.goal = Goal::Avoid(Tensor::new(labels, &Device::Cpu).unwrap());
    for budget in budgets(2, 1.) {
        for attack in attacks(&budget) {
            let out = case.run(attack.as_ref(), 1);
            assert!(
                out.adversarial
                    .iter()
                    .all(|x| flat(x).iter().all(|v| v.is_finite())),
                "{}",
                attack.name()
            );
            assert!(out.success.iter().all(|s| !s));
        }
    }
}

/// Gradients of 1e-25, whose squares vanish in `f32`, still say where to go.
#[test]
fn tiny_gradients_are_followed() {
    let mut case = Case::new(2, DType::F32, 15);
    case.net.modalities = case.net.modalities.map(|m| Modality {
        domain: Domain::Unbounded,
        ..m.clone()
    });
    case.net.layers = case
        .net
        .layers
        .map(|(a, b)| (a.clone(), (b * 1e-25).unwrap()));
    case.net.bias = case.net.bias.zeros_like().unwrap();
    let labels = predictions(&case.net.logits(&case.inputs).unwrap()).unwrap();
    case.goal = Goal::Avoid(Tensor::new(labels, &Device::Cpu).unwrap());
    let out = case.run(&Fgm::new(Budget::Joint(0.5)), 1);
    assert!(
        out.distance.iter().all(|d| (d - 0.5).abs() < 1e-5),
        "{:?}",
        out.distance
    );
}

#[test]
fn missing_modalities_are_replaced_by_their_baselines() {
    let case = Case::new(3, DType::F32, 13);
    let Goal::Avoid(labels) = &case.goal else {
        unreachable!("set in Case::new")
    };
    let batch = crmt_core::Batch::new(case.inputs.clone(), labels.clone()).unwrap();
    let baselines = case.inputs.try_map(|x| x.get(0)?.zeros_like()).unwrap();
    let found = missing_accuracy(&case.net, &batch, &baselines).unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|f| f.missing.describe(&case.net.modalities))
        .collect();
    assert_eq!(names, ["m0", "m1", "m2", "m0+m1", "m0+m2", "m1+m2"]);
    let only_m2 = PerModality::from_fn(3, |m| {
        if m == 2 {
            case.inputs[2].clone()
        } else {
            case.inputs[m].zeros_like().unwrap()
        }
    });
    let want = accuracy(&case.net.logits(&only_m2).unwrap(), labels).unwrap();
    assert_eq!(found[3].accuracy, want);
}

#[test]
fn mistakes_are_named() {
    let case = Case::new(3, DType::F32, 14);
    let draws = Draws::new(Streams::new(1), 0);
    let fgm = |budget: Budget| {
        run(
            &Fgm::new(budget),
            &case.net,
            &case.inputs,
            &case.goal,
            &draws,
        )
        .unwrap_err()
        .to_string()
    };
    assert!(fgm(Budget::Joint(-1.)).contains("-1"));
    let each = |radii: PerModality<f64>| Budget::Each {
        norm: Norm::L2,
        radii,
    };
    assert!(fgm(each(PerModality::from([1., f64::NAN, 1.]))).contains("`m1`"));
    assert!(fgm(each(PerModality::from([1.]))).contains("3 modalities"));

    let outside = PerModality::from_fn(3, |m| {
        (&case.inputs[m] * if m == 2 { 3. } else { 1. }).unwrap()
    });
    let attack = Fgm::new(Budget::Joint(1.));
    let e = run(&attack, &case.net, &outside, &case.goal, &draws).unwrap_err();
    assert!(
        matches!(&e, Error::OutOfDomain { modality, .. } if modality == "m2"),
        "{e}"
    );
    let nan = PerModality::from_fn(3, |m| {
        if m == 1 {
            (&case.inputs[1] * f64::NAN).unwrap()
        } else {
            case.inputs[m].clone()
        }
    });
    let e = run(&attack, &case.net, &nan, &case.goal, &draws).unwrap_err();
    assert!(
        matches!(&e, Error::NotFinite { modality, sample: 0, .. } if modality == "m1"),
        "{e}"
    );

    let classes = Goal::Avoid(Tensor::new(vec![9u32; SAMPLES], &Device::Cpu).unwrap());
    let e = run(&attack, &case.net, &case.inputs, &classes, &draws).unwrap_err();
    assert!(
        matches!(
            e,
            Error::Class {
                class: 9,
                classes: CLASSES,
                ..
            }
        ),
        "{e}"
    );
    let few = Goal::Avoid(Tensor::new(vec![0u32; 2], &Device::Cpu).unwrap());
    assert!(matches!(
        run(&attack, &case.net, &case.inputs, &few, &draws).unwrap_err(),
        Error::Samples { got: 2, .. }
    ));

    let linf = Budget::Each {
        norm: Norm::Linf,
        radii: PerModality::from([1., 1., 1.]),
    };
    let strange: [(&dyn Attack, &str); 9] = [
        (
            &Fab::new(Budget::Joint(1.)).with_steps(0),
            "at least one step",
        ),
        (
            &Fab {
                beta: 1.1,
                ..Fab::new(Budget::Joint(1.))
            },
            "a beta in 0..=1",
        ),
        (
            &DeepFool {
                overshoot: f64::NAN,
                ..DeepFool::new(Budget::Joint(1.))
            },
            "an overshoot",
        ),
        (&CarliniWagner::new(linf), "measures l2"),
        (
            &CarliniWagner {
                rate: 0.,
                ..CarliniWagner::new(Budget::Joint(1.))
            },
            "a rate",
        ),
        (
            &Apgd::ce(Budget::Joint(1.)).with_steps(0),
            "at least one step",
        ),
        (&Apgd::targeted(Budget::Joint(1.), 0), "one restart"),
        (&Square::new(Budget::Joint(1.), 0), "at least one query"),
        (
            &Square {
                p: f64::NAN,
                ..Square::new(Budget::Joint(1.), 5)
            },
            "p above 0",
        ),
    ];
    for (attack, words) in strange {
        let e = run(attack, &case.net, &case.inputs, &case.goal, &draws)
            .unwrap_err()
            .to_string();
        assert!(e.contains(words), "{e}");
    }

    /// Ignores its second modality.
    struct Deaf(Net);
    impl Classifier for Deaf {
        fn modalities(&self) -> &PerModality<Modality> {
            self.0.modalities()
        }
        fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
            let silent = PerModality::from([x[0].clone(), x[1].detach(), x[2].clone()]);
            self.0.logits(&silent)
        }
    }
    let deaf = Deaf(case.net);
    let e = run(&attack, &deaf, &case.inputs, &case.goal, &draws).unwrap_err();
    assert!(
        matches!(&e, Error::NoGradient { modality } if modality == "m1"),
        "{e}"
    );
    let spared = Fgm::new(each(PerModality::from([1., 0., 1.])));
    assert!(run(&spared, &deaf, &case.inputs, &case.goal, &draws).is_ok());
}

/// For a linear model the distance to the boundary is known: just beyond it PGD finds a way, just
/// inside there is none.
#[test]
fn linear_models_fall_exactly_at_their_distance() {
    struct Linear(PerModality<Modality>, PerModality<Tensor>);
    impl Classifier for Linear {
        fn modalities(&self) -> &PerModality<Modality> {
            &self.0
        }
        fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
            let terms = x.iter().zip(&self.1).map(|(x, w)| x.matmul(w));
            Ok(terms.reduce(|a, b| a? + b?).expect("one per modality")?)
        }
    }
    for modalities in 1..=3usize {
        let mut rng = Streams::new(3).stream("linear", modalities as u64);
        let scale = |m: usize| [1., 0.5, 3.][m];
        let modality = |m: usize| Modality {
            scale: scale(m),
            ..Modality::new(format!("m{m}"), &[4], Domain::Unbounded)
        };
        let w = PerModality::from_fn(modalities, |_| random(&mut rng, &[4, 3], DType::F64));
        let net = Linear(PerModality::from_fn(modalities, modality), w);
        let x = PerModality::from_fn(modalities, |_| random(&mut rng, &[20, 4], DType::F64));
        let logits = net.logits(&x).unwrap();
        let labels = predictions(&logits).unwrap();
        // min over rivals of margin / |normal|, in declared units; per modality the same with its
        // part of the normal.
        let rows = logits.to_vec2::<f64>().unwrap();
        let distance = |only: Option<usize>| -> Vec<f64> {
            let each = rows.iter().zip(&labels).map(|(h, y)| {
                let y = *y as usize;
                let rivals = (0..3).filter(|j| *j != y).map(|j| {
                    let part = |m: usize| {
                        let w = net.1[m].to_vec2::<f64>().unwrap();
                        (0..4).map(|i| (w[i][y] - w[i][j]).powi(2)).sum::<f64>() * scale(m).powi(2)
                    };
                    let square: f64 = (0..modalities)
                        .filter(|m| only.is_none_or(|o| o == *m))
                        .map(part)
                        .sum();
                    (h[y] - h[j]) / square.sqrt()
                });
                rivals.fold(f64::INFINITY, f64::min)
            });
            each.collect()
        };
        let goal = Goal::Avoid(Tensor::new(labels.clone(), &Device::Cpu).unwrap());
        let draws = Draws::new(Streams::new(4), 0);
        let threats = (0..modalities).map(Some).chain([None]);
        for only in threats {
            let budget = only.map_or(Budget::Joint(1.), |m| Budget::only(m, modalities, 1.));
            // Towards each rival in turn, in a straight line: the nearest boundary is reached at
            // its distance.
            let pgd = Pgd::targeting(budget, 20, 0..3);
            let at = |factor: f64| {
                let radii: Vec<f64> = distance(only).iter().map(|d| d * factor).collect();
                run_within(&pgd, &net, &x, &goal, &draws, &radii)
                    .unwrap()
                    .success
            };
            assert!(
                at(0.9999).iter().all(|s| !s),
                "{modalities} modalities, {only:?}: inside the distance"
            );
            // Beyond what rounding and the 1e-6 of disposal can hide.
            assert!(
                at(1.0001).iter().all(|s| *s),
                "{modalities} modalities, {only:?}: just beyond the distance"
            );
        }
    }
}
