//! Numbers that are tiny, huge, or none, and points on the very boundary: units do not matter, huge
//! budgets are exact or refused, what is no number is no evidence, and whoever judges an
//! adversarial again agrees.
use candle_core::{DType, Device, Tensor};
use crmt_attacks::*;
use crmt_core::{Classifier, Domain, Modality, PerModality, Streams};
use rand::Rng;
use rand_distr::StandardNormal;

const SAMPLES: usize = 8;
const CLASSES: usize = 5;

/// `sum_m tanh(x_m / unit_m A_m) B_m`: a network that knows the unit of each modality.
struct Net {
    modalities: PerModality<Modality>,
    layers: PerModality<(Tensor, Tensor)>,
}

impl Classifier for Net {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.modalities
    }
    fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        let term = |m: usize| -> crmt_core::Result<Tensor> {
            let (a, b) = &self.layers[m];
            Ok((x[m].flatten_from(1)? / self.modalities[m].scale)?
                .matmul(a)?
                .tanh()?
                .matmul(b)?)
        };
        (1..x.len()).try_fold(term(0)?, |sum, m| Ok((sum + term(m)?)?))
    }
}

const SHAPES: [&[usize]; 2] = [&[2, 3, 3], &[7]];

/// The same network and samples in other units; a power of two changes no digit.
fn case(units: [f64; 2]) -> (Net, PerModality<Tensor>, Goal) {
    let mut rng = Streams::new(4).stream("extremes", 0);
    let mut random = |shape: &[usize], size: f64| {
        let values = (0..shape.iter().product())
            .map(|_| (size * rng.sample::<f64, _>(StandardNormal)) as f32);
        Tensor::from_vec(values.collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
    };
    let layers = [0, 1].map(|m| {
        let inputs = SHAPES[m].iter().product();
        (random(&[inputs, 12], 0.5), random(&[12, CLASSES], 1.))
    });
    let inputs = [0, 1].map(|m| {
        let x = random(&[&[SAMPLES], SHAPES[m]].concat(), 0.6)
            .clamp(-0.75, 0.75)
            .unwrap();
        (x * units[m]).unwrap()
    });
    let domains = |m: usize| match m {
        0 => Domain::Channels {
            lo: vec![-units[0]; 2],
            hi: vec![units[0], 0.75 * units[0]],
        },
        _ => Domain::Unbounded,
    };
    let modality = |m| Modality {
        scale: units[m],
        ..Modality::new(["a", "b"][m], SHAPES[m], domains(m))
    };
    let net = Net {
        modalities: PerModality::from_fn(2, modality),
        layers: layers.into(),
    };
    let inputs: PerModality<Tensor> = inputs.into();
    let labels = Tensor::new(
        predictions(&net.logits(&inputs).unwrap()).unwrap(),
        &Device::Cpu,
    )
    .unwrap();
    (net, inputs, Goal::Avoid(labels))
}

fn attacks(budget: &Budget) -> Vec<Box<dyn Attack>> {
    let linf = matches!(
        budget,
        Budget::Each {
            norm: Norm::Linf,
            ..
        }
    );
    let mut all: Vec<Box<dyn Attack>> = vec![
        Box::new(Fgm::new(budget.clone())),
        Box::new(Pgd::strong(budget.clone()).with_steps(8)),
        Box::new(Apgd::ce(budget.clone()).with_steps(8)),
        Box::new(Apgd::targeted(budget.clone(), 2).with_steps(8)),
        Box::new(Square::new(budget.clone(), 30)),
        Box::new(
            Fab::targeted(budget.clone(), 2)
                .with_steps(10)
                .for_distances(),
        ),
        Box::new(DeepFool::new(budget.clone())),
        Box::new(Ensemble::standard(
            budget.clone(),
            Effort {
                steps: 4,
                targets: 2,
                queries: 8,
            },
        )),
    ];
    if !linf {
        all.push(Box::new(
            CarliniWagner::new(budget.clone())
                .with_steps(60)
                .with_searches(4)
                .for_distances(),
        ));
    }
    all
}

fn budgets(size: f64) -> [Budget; 3] {
    let each = |norm, size: f64| Budget::Each {
        norm,
        radii: PerModality::from([size, 0.7 * size]),
    };
    [
        Budget::Joint(size),
        each(Norm::L2, size),
        each(Norm::Linf, 0.3 * size),
    ]
}

fn draws() -> Draws {
    Draws::new(Streams::new(1), 0)
}

/// A modality in units of 1e-21 (a strain of gravitational waves), of 1e18, or of both: squares of
/// such lengths are 0 or infinite in `f32`, and still every attack does what it does in units of 1.
#[test]
fn units_do_not_matter() {
    let tiny = 2f64.powi(-70);
    let huge = 2f64.powi(60);
    for budget in budgets(0.6) {
        let (net, inputs, goal) = case([1.; 2]);
        for attack in attacks(&budget) {
            let want = run(attack.as_ref(), &net, &inputs, &goal, &draws()).unwrap();
            for units in [[tiny; 2], [tiny, 1.], [1., tiny], [huge, tiny]] {
                let (net, inputs, goal) = case(units);
                let got = run(attack.as_ref(), &net, &inputs, &goal, &draws()).unwrap();
                let what = format!("{} {budget:?} in units of {units:?}", attack.name());
                assert_eq!((&got.success, got.undefined), (&want.success, 0), "{what}");
                for (i, (got, want)) in got.distance.iter().zip(&want.distance).enumerate() {
                    // Iterates that differ by roundings of `f32` part a little.
                    assert!(
                        (got - want).abs() <= 1e-2 * want + 1e-6,
                        "{what}, sample {i}: {got} for {want}"
                    );
                }
            }
        }
    }
}

/// The budget of 1e30 contains everything that the network tells apart: all of it is reached,
/// exactly at the radius where an attack goes that far, and never beyond.
#[test]
fn huge_budgets_are_exact_or_refused_by_name() {
    let (net, inputs, goal) = case([1.; 2]);
    let net = Net {
        modalities: net.modalities.map(|m| Modality {
            domain: Domain::Unbounded,
            ..m.clone()
        }),
        ..net
    };
    for budget in budgets(1e30) {
        for attack in attacks(&budget) {
            let found = run(attack.as_ref(), &net, &inputs, &goal, &draws()).unwrap();
            let what = format!("{} {budget:?}", attack.name());
            assert_eq!(found.undefined, 0, "{what}");
            assert!(
                found
                    .distance
                    .iter()
                    .all(|d| d.is_finite() && *d <= 1e30 * 1.5),
                "{what}: {:?}",
                found.distance
            );
        }
        let strong = run(&Pgd::strong(budget.clone()), &net, &inputs, &goal, &draws()).unwrap();
        assert!(
            strong.success.iter().filter(|s| **s).count() > SAMPLES / 2,
            "{budget:?}: {:?}",
            strong.success
        );
    }
    let far = run(
        &Fgm::new(Budget::Joint(1e30)),
        &net,
        &inputs,
        &goal,
        &draws(),
    )
    .unwrap();
    // A step of the whole budget.
    assert!(
        far.distance.iter().all(|d| (d / 1e30 - 1.).abs() < 1e-5),
        "{:?}",
        far.distance
    );
    for (budget, name) in [
        (Budget::Joint(1e38), "`a`"),
        (Budget::only(1, 2, 1e300), "`b`"),
    ] {
        let e = run(&Fgm::new(budget), &net, &inputs, &goal, &draws())
            .unwrap_err()
            .to_string();
        assert!(
            e.contains(name) && e.contains("f32") && e.contains("below"),
            "{e}"
        );
    }
}

/// Proposes the same value everywhere.
struct Far(Budget, f64);
impl Attack for Far {
    fn name(&self) -> &str {
        "far"
    }
    fn budget(&self) -> &Budget {
        &self.0
    }
    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        problem.clean().try_map(|x| Ok((x.ones_like()? * self.1)?))
    }
}

/// The nearest point of a ball far smaller, or larger, than `f32` can square, against the same in
/// units of 1.
#[test]
fn a_far_proposal_comes_back_to_the_ball() {
    let (net, inputs, goal) = case([1.; 2]);
    let net = Net {
        modalities: net.modalities.map(|m| Modality {
            domain: Domain::Unbounded,
            ..m.clone()
        }),
        ..net
    };
    for far in [1e3, 1e25, 3e38] {
        let found = run(&Far(Budget::Joint(2.), far), &net, &inputs, &goal, &draws()).unwrap();
        assert_eq!(found.undefined, 0);
        // All of the radius, to the 1e-6 that `run` promises.
        assert!(
            found.distance.iter().all(|d| (d / 2. - 1.).abs() < 2e-6),
            "{far}: {:?}",
            found.distance
        );
    }
}

/// `h = (sqrt(x - x) + 1, 0, ...)`: finite, with a gradient that is not.
struct NoGradient(PerModality<Modality>);

impl Classifier for NoGradient {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.0
    }
    fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        let root = x[0].sub(&x[0])?.sqrt()?.sum_keepdim(1)?;
        Ok(Tensor::cat(&[&(&root + 1.)?, &root.zeros_like()?], 1)?)
    }
}

#[test]
fn a_proposal_that_is_no_number_breaks_nothing_and_is_told() {
    let model = NoGradient(PerModality::from([Modality::new(
        "x",
        &[3],
        Domain::Unbounded,
    )]));
    let x = PerModality::from([Tensor::ones((4, 3), DType::F32, &Device::Cpu).unwrap()]);
    let goal = Goal::Avoid(Tensor::zeros(4, DType::U32, &Device::Cpu).unwrap());
    let budget = Budget::Joint(1.);
    let steps = || Pgd::quick(budget.clone(), 3, Loss::Margin);
    let ensemble = Ensemble::new(
        "two",
        vec![Box::new(steps()), Box::new(Fgm::new(budget.clone()))],
    )
    .unwrap();
    for attack in [&steps() as &dyn Attack, &ensemble] {
        let found = run(attack, &model, &x, &goal, &draws()).unwrap();
        assert_eq!(
            (found.undefined, &found.lost),
            (4, &vec![true; 4]),
            "{}",
            attack.name()
        );
        assert_eq!(
            found.robust_accuracy(),
            0.,
            "no number is no evidence of robustness"
        );
        assert_eq!(
            (found.success, found.distance),
            (vec![false; 4], vec![0.; 4])
        );
    }
    // One that finds something makes up for one that does not.
    let both = Ensemble::new(
        "both",
        vec![Box::new(steps()), Box::new(Square::new(budget.clone(), 5))],
    )
    .unwrap();
    assert_eq!(
        run(&both, &model, &x, &goal, &draws()).unwrap().undefined,
        0
    );
}

/// Finite values whose sum is not are finite; what is not is named where it is.
#[test]
fn only_what_is_not_finite_is_called_so() {
    let modality = || PerModality::from([Modality::new("x", &[4], Domain::Unbounded)]);
    struct Zero(PerModality<Modality>);
    impl Classifier for Zero {
        fn modalities(&self) -> &PerModality<Modality> {
            &self.0
        }
        fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
            Ok(Tensor::cat(
                &[&x[0].narrow(1, 0, 1)?, &x[0].narrow(1, 1, 1)?],
                1,
            )?)
        }
    }
    let mut values = vec![[1f32, 0., 0., 0.]; 8];
    values[5] = [f32::MAX, 0., f32::MAX, f32::MAX];
    let attack = |values: &[[f32; 4]]| {
        let x =
            PerModality::from([
                Tensor::from_slice(values.as_flattened(), (8, 4), &Device::Cpu).unwrap(),
            ]);
        let goal = Goal::Avoid(Tensor::zeros(8, DType::U32, &Device::Cpu).unwrap());
        run(
            &Fgm::new(Budget::Joint(0.1)),
            &Zero(modality()),
            &x,
            &goal,
            &draws(),
        )
    };
    assert_eq!(attack(&values).unwrap().undefined, 0);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        values[6][2] = bad;
        let e = attack(&values).unwrap_err().to_string();
        assert!(
            e.contains("`x`") && e.contains("clean input") && e.contains("sample 6"),
            "{e}"
        );
    }
}

/// Logits that are not finite are a wrong answer before an attack and after one, whichever label
/// they are compared with.
#[test]
fn outputs_that_are_no_numbers_are_wrong_answers() {
    struct Overflowing(PerModality<Modality>);
    impl Classifier for Overflowing {
        fn modalities(&self) -> &PerModality<Modality> {
            &self.0
        }
        fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
            // Infinite for the label beyond 1e19: its square.
            Ok(Tensor::cat(&[&x[0].sqr()?, &x[0].ones_like()?.neg()?], 1)?)
        }
    }
    let model = Overflowing(PerModality::from([Modality::new(
        "x",
        &[1],
        Domain::Unbounded,
    )]));
    let x = PerModality::from([Tensor::new(&[[1f32], [1e30]], &Device::Cpu).unwrap()]);
    let labels = Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap();
    assert_eq!(
        correct(&model.logits(&x).unwrap(), &labels).unwrap(),
        [true, false]
    );
    let found = run(
        &Far(Budget::Joint(1e21), 1e20),
        &model,
        &x,
        &Goal::Avoid(labels),
        &draws(),
    )
    .unwrap();
    assert_eq!(
        (found.success, found.prediction),
        (vec![true; 2], vec![None; 2])
    );
    assert!(
        (found.distance[0] / 1e20 - 1.).abs() < 1e-6 && found.distance[1] == 0.,
        "{:?}",
        found.distance
    );
}

/// Attacks that go to the boundary itself: what they say they found is adversarial, sample by
/// sample and in any company; and the search by all of them finds whatever its parts find.
#[test]
fn what_is_found_on_the_boundary_is_beyond_it_for_everybody() {
    let (net, inputs, goal) = case([1.; 2]);
    for budget in budgets(0.6) {
        let l2 = !matches!(
            budget,
            Budget::Each {
                norm: Norm::Linf,
                ..
            }
        );
        let mut closest: Vec<Box<dyn Attack>> = vec![
            Box::new(Bisection {
                budget: budget.clone(),
            }),
            Box::new(Fab::targeted(budget.clone(), 9).for_distances()),
        ];
        if l2 {
            closest.push(Box::new(
                CarliniWagner::new(budget.clone())
                    .with_steps(60)
                    .with_searches(4)
                    .for_distances(),
            ));
        }
        let mut fell = vec![];
        for attack in &closest {
            let found = run(attack.as_ref(), &net, &inputs, &goal, &draws()).unwrap();
            for together in [1, 3, SAMPLES] {
                for start in (0..SAMPLES).step_by(together) {
                    let rows = together.min(SAMPLES - start);
                    let part = found
                        .adversarial
                        .try_map(|x| x.narrow(0, start, rows))
                        .unwrap();
                    let labels = goal.labels().narrow(0, start, rows).unwrap();
                    let right = correct(&net.logits(&part).unwrap(), &labels).unwrap();
                    for (i, right) in right.into_iter().enumerate() {
                        let what = format!(
                            "{} {budget:?}: sample {} of {together}",
                            attack.name(),
                            start + i
                        );
                        assert!(!(found.success[start + i] && right), "{what}");
                    }
                }
            }
            fell.push(found.success);
        }
        fell.push(
            run(
                &Apgd::targeted(budget.clone(), 9),
                &net,
                &inputs,
                &goal,
                &draws(),
            )
            .unwrap()
            .success,
        );
        for part in &fell[1..] {
            assert!(
                part.iter().zip(&fell[0]).all(|(part, all)| *all || !part),
                "{budget:?}: {fell:?}"
            );
        }
        assert!(fell[0].contains(&true), "{budget:?}");
    }
}

/// The longest search says how far it is, many times, to the end, and never back.
#[test]
fn the_search_for_the_nearest_tells_how_far_it_is() {
    let (net, inputs, goal) = case([1.; 2]);
    let told = std::cell::RefCell::new(vec![]);
    let watch = |share: f64| told.borrow_mut().push(share);
    let attack = Bisection {
        budget: Budget::Joint(0.6),
    };
    run_watched(&attack, &net, &inputs, &goal, &draws(), &watch).unwrap();
    let told = told.into_inner();
    assert!(
        told.len() > 20 && told.last() == Some(&1.) && told.is_sorted(),
        "{told:?}"
    );
}
