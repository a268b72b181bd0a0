//! The one loop under every strategy: going on equals never having stopped, threads change nothing,
//! rules do what they say, and a strategy with weight zero is the one it extends, bit for bit.
use candle_core::{DType, Device, Tensor};
use crmt_attacks::{Budget, Pgd};
use crmt_certify::RivalRule;
use crmt_core::{Batch, Domain, Encoder, Fusion, Modality, Mode, PerModality, Streams, Trainable};
use crmt_encoders::{Block, Chain};
use crmt_fusion::{BuildError, HeadConfig, Learner, ModelConfig, Rows};
use crmt_kernels::{Adam, AdamW, Optimizer, Parameter, Sgd};
use crmt_train::{
    Batches, Certified, Crmt, EpochReport, Error, GBlend, IntegrationModel, ModalityDropout, Msefm,
    Observer, OgmGe, Phase, Pmr, PmrSettings, RadiusHinge, Rate, Reach, Result, Rules, Schedule,
    Selected, Source, State, Strategy, Tables, TrainingInputs, fit,
};
use rand::Rng;
use rand_distr::StandardNormal;

const CLASSES: usize = 3;
const BATCH: usize = 8;
const STEPS: u64 = 5;
const EPOCHS: u64 = 4;
const DIMS: [usize; 3] = [6, 4, 5];

/// Noisy class centres; the first modality is the clearest.
struct Toy {
    modalities: usize,
}

impl Toy {
    fn batch(&self, purpose: &str, index: u64) -> Result<Batch> {
        let mut rng = Streams::new(5).stream(purpose, index);
        let labels: Vec<u32> = (0..BATCH)
            .map(|_| rng.random_range(0..CLASSES as u32))
            .collect();
        let inputs = PerModality::from_fn(self.modalities, |m| {
            let values: Vec<f32> = labels
                .iter()
                .flat_map(|y| {
                    (0..DIMS[m])
                        .map(|i| f32::from(i % CLASSES == *y as usize))
                        .collect::<Vec<_>>()
                })
                .map(|centre| {
                    centre + (0.3 + 0.4 * m as f32) * rng.sample::<f32, _>(StandardNormal)
                })
                .collect();
            Tensor::from_vec(values, (BATCH, DIMS[m]), &Device::Cpu)
                .expect("as many as the shape holds")
        });
        Ok(Batch::new(inputs, Tensor::new(labels, &Device::Cpu)?)?)
    }
}

impl Source for Toy {
    fn steps(&self) -> u64 {
        STEPS
    }
    fn epoch<'a>(&'a self, epoch: u64) -> Result<Box<dyn Batches + 'a>> {
        Ok(Box::new(Numbered { of: self, epoch }))
    }
}

struct Numbered<'a> {
    of: &'a Toy,
    epoch: u64,
}

impl Batches for Numbered<'_> {
    fn batch(&self, i: u64) -> Result<Batch> {
        self.of.batch("train", self.epoch * STEPS + i)
    }
}

fn modalities(n: usize) -> PerModality<Modality> {
    PerModality::from_fn(n, |m| {
        Modality::new(format!("m{m}"), &[DIMS[m]], Domain::Unbounded)
    })
}

fn learner(n: usize) -> Learner {
    built(n, false)
}

/// `normed`: with batch normalisation, whose running statistics no optimizer knows.
fn built(n: usize, normed: bool) -> Learner {
    let head = HeadConfig::Orthonormal {
        rows: Rows::Orthonormal,
        initial_weight: 1.0,
    };
    let build = |m: usize, modality: &Modality, vb: candle_nn::VarBuilder| {
        let chain = || -> candle_core::Result<Chain> {
            let mut blocks = vec![Block::linear(&vb.pp("fc1"), DIMS[m], 8)?];
            if normed {
                blocks.push(Block::batch_norm(&vb.pp("bn1"), 8)?);
            }
            blocks.extend([Block::Relu, Block::linear(&vb.pp("fc"), 8, 6)?]);
            Ok(Chain::new(blocks, 6))
        };
        let failed = |e| BuildError::Encoder {
            modality: modality.name.clone(),
            source: Box::new(e),
        };
        Ok(Box::new(chain().map_err(failed)?) as Box<dyn Encoder>)
    };
    let config = ModelConfig {
        head,
        classes: CLASSES,
    };
    Learner::new(
        &config,
        &modalities(n),
        &build,
        Streams::new(2),
        &Device::Cpu,
    )
    .expect("a model")
}

fn adam(model: &dyn Trainable) -> Adam {
    let learned = model.variables().into_iter().filter(|v| v.learned);
    AdamW::default()
        .over(learned.map(|v| Parameter::new(v.name, &v.var)))
        .expect("distinct parameters")
}

fn bits(model: &dyn Trainable) -> Vec<Vec<f32>> {
    let flat = |v: crmt_core::Variable| {
        v.var
            .flatten_all()
            .and_then(|t| t.to_vec1::<f32>())
            .expect("f32")
    };
    model.variables().into_iter().map(flat).collect()
}

/// Keeps every state and every report.
#[derive(Default)]
struct Kept {
    states: Vec<State>,
    reports: Vec<EpochReport>,
    /// Scores of the epochs; the epoch's number where there are none.
    scores: Vec<f64>,
}

impl Observer<Error> for Kept {
    fn select(&mut self, model: &dyn Trainable) -> Result<Selected> {
        let batch = Toy {
            modalities: model.fixed().modalities().len(),
        }
        .batch("select", 0)?;
        let accuracy =
            crmt_attacks::accuracy(&model.fixed().logits(&batch.inputs)?, &batch.labels)?;
        let epoch = self.reports.len();
        let score = self.scores.get(epoch).copied().unwrap_or(epoch as f64);
        Ok(Selected {
            accuracy,
            attacked: None,
            score,
        })
    }
    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        self.reports.push(report.clone());
        Ok(())
    }
    fn rest(&mut self, _: bool, state: &dyn Fn() -> Result<State>) -> Result<()> {
        self.states.push(state()?);
        Ok(())
    }
}

fn run(
    n: usize,
    strategy: &mut dyn Strategy,
    rules: Rules,
    from: Option<&State>,
    kept: &mut Kept,
) -> Result<Vec<Vec<f32>>> {
    let model = built(n, true);
    // Both kinds of optimizer, each with a state of its own.
    let mut optimizer: Box<dyn Optimizer> = match rules.accumulate {
        1 => Box::new(adam(&model)),
        _ => {
            let learned = model.variables().into_iter().filter(|v| v.learned);
            let parameters = learned.map(|v| Parameter::new(v.name, &v.var));
            Box::new(
                Sgd {
                    momentum: 0.9,
                    ..Sgd::default()
                }
                .over(parameters)?,
            )
        }
    };
    let mut phase = Phase {
        name: "toy",
        strategy,
        source: &Toy { modalities: n },
        epochs: EPOCHS,
        rate: Rate {
            peak: 0.01,
            schedule: Schedule::Cosine,
            warmup: 0.2,
        },
        streams: Streams::new(9),
        rules,
    };
    fit(&model, optimizer.as_mut(), &mut phase, from, kept)?;
    Ok(bits(&model))
}

fn clean() -> TrainingInputs {
    TrainingInputs::Clean
}

fn jt() -> Crmt {
    Crmt::new(0.0, clean())
}

fn pmr(n: usize, alpha: f64, mu: f64) -> Pmr {
    let settings = PmrSettings {
        alpha,
        mu,
        momentum: 0.5,
        early: 8,
        classes: CLASSES,
    };
    Pmr::new(
        clean(),
        settings,
        Toy { modalities: n }
            .batch("prototypes", 0)
            .expect("a batch"),
    )
}

fn adversarial(attack: Pgd, mode: Mode) -> TrainingInputs {
    TrainingInputs::Adversarial {
        attack: Box::new(attack),
        mode,
    }
}

fn strategies(n: usize) -> Vec<(&'static str, Box<dyn Strategy>)> {
    let toy = Toy { modalities: n };
    let sample = |purpose| toy.batch(purpose, 0).expect("a batch");
    let baselines = PerModality::from_fn(n, |m| {
        Tensor::zeros(DIMS[m], DType::F32, &Device::Cpu).expect("zeros")
    });
    let dropout = || ModalityDropout {
        probability: 0.5,
        baselines: baselines.clone(),
    };
    let attack = Pgd::training(Budget::Joint(0.3), 2, 0.5);
    let certified = Certified {
        eps: 0.2,
        reach: Reach::Joint,
        kappa: 2.0,
        lambda: 0.1,
        ramp: 0.5,
        steps: EPOCHS * STEPS,
        units: PerModality::from_fn(n, |_| 1.0),
        dropout: dropout(),
    };
    let sigmas = PerModality::from_fn(n, |_| 0.2);
    vec![
        (
            "at",
            Box::new(Crmt::new(0.0, adversarial(attack, Mode::Eval))),
        ),
        (
            "noise",
            Box::new(Crmt::new(0.0, TrainingInputs::Noise { sigmas })),
        ),
        ("certified", Box::new(certified)),
        ("crmt", Box::new(Crmt::new(2.0, clean()))),
        (
            "mixup",
            Box::new(Crmt::new(2.0, TrainingInputs::Mixup { alpha: 1.0 })),
        ),
        (
            "dropout",
            Box::new(Crmt::new(0.0, TrainingInputs::Dropout(dropout()))),
        ),
        (
            "ogm-ge",
            Box::new(OgmGe {
                inputs: clean(),
                alpha: 0.5,
                noise: true,
            }),
        ),
        (
            "g-blend",
            Box::new(GBlend::new(clean(), 2, sample("blend"), sample("select"))),
        ),
        ("pmr", Box::new(pmr(n, 1.0, 0.1))),
        (
            "msefm",
            Box::new(Msefm {
                inputs: clean(),
                lambda: 0.5,
            }),
        ),
    ]
}

#[test]
fn going_on_equals_never_having_stopped() -> Result<()> {
    for n in 1..=3 {
        for (rules, label) in [
            (Rules::default(), "plain"),
            (
                Rules {
                    clip: 0.5,
                    accumulate: 2,
                    average: Some(0.9),
                    ..Rules::default()
                },
                "averaged",
            ),
        ] {
            for (name, mut strategy) in strategies(n) {
                let mut kept = Kept::default();
                let whole = run(n, strategy.as_mut(), rules, None, &mut kept)?;
                // After each epoch, and after each step but an epoch's last (its end follows at
                // once).
                let within = if rules.accumulate == 2 { 2 } else { 4 };
                assert_eq!(
                    kept.states.len() as u64,
                    EPOCHS * (1 + within),
                    "{name}, {label}"
                );
                for (i, state) in kept.states.iter().enumerate().step_by(2) {
                    let mut fresh = strategies(n)
                        .into_iter()
                        .find(|s| s.0 == name)
                        .expect("the same list")
                        .1;
                    // What was reported before belongs to the scores' count.
                    let reports = kept.reports[..state.position.epoch as usize].to_vec();
                    let mut after = Kept {
                        reports,
                        ..Kept::default()
                    };
                    let resumed = run(n, fresh.as_mut(), rules, Some(state), &mut after)?;
                    assert!(
                        resumed == whole,
                        "{name}, {label}, {n} modalities, state {i}: other bits"
                    );
                    assert_eq!(
                        after.reports, kept.reports,
                        "{name}, {label}, {n} modalities, state {i}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn loading_threads_change_no_bit() -> Result<()> {
    let with = |loaders| {
        run(
            2,
            &mut jt(),
            Rules {
                loaders,
                ..Rules::default()
            },
            None,
            &mut Kept::default(),
        )
    };
    let none = with(0)?;
    for loaders in [1, 2, 16] {
        assert!(with(loaders)? == none, "{loaders} threads");
    }
    Ok(())
}

#[test]
fn a_weight_of_zero_is_the_method_it_extends() -> Result<()> {
    let plain = run(2, &mut jt(), Rules::default(), None, &mut Kept::default())?;
    let zero: [(&str, Box<dyn Strategy>); 3] = [
        (
            "ogm-ge",
            Box::new(OgmGe {
                inputs: clean(),
                alpha: 0.0,
                noise: false,
            }),
        ),
        ("pmr", Box::new(pmr(2, 0.0, 0.0))),
        (
            "msefm",
            Box::new(Msefm {
                inputs: clean(),
                lambda: 0.0,
            }),
        ),
    ];
    for (name, mut strategy) in zero {
        assert!(
            run(
                2,
                strategy.as_mut(),
                Rules::default(),
                None,
                &mut Kept::default()
            )? == plain,
            "{name}"
        );
    }
    for (name, mut strategy) in strategies(2) {
        let other = run(
            2,
            strategy.as_mut(),
            Rules::default(),
            None,
            &mut Kept::default(),
        )?;
        assert!(other != plain, "{name} is joint training by another name");
    }
    Ok(())
}

#[test]
fn the_record_tells_parts_margins_and_gradients() -> Result<()> {
    let mut kept = Kept::default();
    run(
        2,
        &mut Crmt::new(2.0, clean()),
        Rules::default(),
        None,
        &mut kept,
    )?;
    let (first, last) = (&kept.reports[0], &kept.reports[EPOCHS as usize - 1]);
    for report in [first, last] {
        assert_eq!(
            report.parts.keys().collect::<Vec<_>>(),
            ["cross_entropy", "margin"]
        );
        assert_eq!(report.margins.keys().collect::<Vec<_>>(), ["m0", "m1"]);
        assert_eq!(
            report.gradients.keys().collect::<Vec<_>>(),
            ["head", "m0", "m1"]
        );
        assert!(report.gradients.values().all(|norm| *norm > 0.0));
        let whole = report.parts["cross_entropy"] + 2.0 * report.parts["margin"];
        // Sums in f32 of numbers below 10.
        assert!(
            (report.loss - whole).abs() < 1e-5,
            "{} is not {whole}",
            report.loss
        );
    }
    assert!(
        last.margins["m0"] > first.margins["m0"],
        "margins grow: {first:?}, {last:?}"
    );
    Ok(())
}

/// The mean gradient of two batches is the gradient of both as one, for a loss that is a mean.
#[test]
fn accumulating_is_a_larger_batch() -> Result<()> {
    struct Pairs;
    impl Source for Pairs {
        fn steps(&self) -> u64 {
            1
        }
        fn epoch<'a>(&'a self, epoch: u64) -> Result<Box<dyn Batches + 'a>> {
            struct Both(u64);
            impl Batches for Both {
                fn batch(&self, _: u64) -> Result<Batch> {
                    let toy = Toy { modalities: 2 };
                    let [a, b] = [0, 1].map(|i| toy.batch("train", self.0 * STEPS + i));
                    let (a, b) = (a?, b?);
                    let inputs = a
                        .inputs
                        .zip(&b.inputs, "inputs")?
                        .try_map(|(a, b)| Tensor::cat(&[*a, *b], 0))?;
                    Ok(Batch::new(
                        inputs,
                        Tensor::cat(&[&a.labels, &b.labels], 0)?,
                    )?)
                }
            }
            Ok(Box::new(Both(epoch)))
        }
    }
    struct Two(Toy);
    impl Source for Two {
        fn steps(&self) -> u64 {
            2
        }
        fn epoch<'a>(&'a self, epoch: u64) -> Result<Box<dyn Batches + 'a>> {
            self.0.epoch(epoch)
        }
    }
    let train = |source: &dyn Source, accumulate| -> Result<Vec<Vec<f32>>> {
        let model = learner(2);
        let mut optimizer = adam(&model);
        let mut strategy = jt();
        let rules = Rules {
            accumulate,
            clip: 0.1,
            ..Rules::default()
        };
        let rate = Rate::constant(0.01);
        let mut phase = Phase {
            name: "toy",
            strategy: &mut strategy,
            source,
            epochs: 3,
            rate,
            streams: Streams::new(9),
            rules,
        };
        fit(
            &model,
            &mut optimizer,
            &mut phase,
            None,
            &mut Kept::default(),
        )?;
        Ok(bits(&model))
    };
    let (one, two) = (train(&Pairs, 1)?, train(&Two(Toy { modalities: 2 }), 2)?);
    for (a, b) in one.iter().flatten().zip(two.iter().flatten()) {
        // Adam's steps of 0.01 turn a rounding of a tiny gradient into a visible part of a step.
        assert!((a - b).abs() < 1e-3, "{a} against {b}");
    }
    // Without accumulating it is another training.
    assert!(
        train(&Two(Toy { modalities: 2 }), 1)?
            .concat()
            .iter()
            .zip(one.concat())
            .any(|(a, b)| (a - b).abs() > 5e-3)
    );
    Ok(())
}

#[test]
fn patience_ends_and_the_best_epoch_is_kept() -> Result<()> {
    let mut kept = Kept {
        scores: vec![1.0, 3.0, 2.0, 2.5],
        ..Kept::default()
    };
    let rules = Rules {
        patience: Some(1),
        ..Rules::default()
    };
    let stopped = run(2, &mut jt(), rules, None, &mut kept)?;
    assert_eq!(
        kept.reports.len(),
        3,
        "the third was no better than the second"
    );
    let best = &kept
        .states
        .iter()
        .find(|s| s.position.epoch == 2)
        .expect("the state after the second")
        .tensors;
    let second: Vec<f32> = best["model.head.bias"].to_vec1()?;
    assert!(
        stopped.contains(&second),
        "the second epoch's weights are kept"
    );
    Ok(())
}

#[test]
fn averaged_weights_are_the_mean_of_the_steps() -> Result<()> {
    let mut kept = Kept::default();
    let decay = 0.6;
    run(
        1,
        &mut jt(),
        Rules {
            average: Some(decay),
            ..Rules::default()
        },
        None,
        &mut kept,
    )?;
    let name = "head.bias";
    let get = |state: &State, kind: &str| state.tensors[&format!("{kind}.{name}")].to_vec1::<f32>();
    let mut mean = [0f64; CLASSES];
    // The head's bias starts at 0; a state follows each step, an epoch's last is told by its end.
    for (i, state) in kept.states.iter().enumerate() {
        let t = (i + 1) as f64;
        let keep = decay.min((1. + t) / (10. + t));
        for (mean, now) in mean.iter_mut().zip(get(state, "model")?) {
            *mean = *mean * keep + f64::from(now) * (1. - keep);
        }
        for (mean, kept) in mean.iter().zip(get(state, "average")?) {
            // Roundings of f32 means of numbers below 1.
            assert!(
                (mean - f64::from(kept)).abs() < 1e-6,
                "step {t}: {mean} against {kept}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_state_of_something_else_is_refused_by_name() -> Result<()> {
    let mut kept = Kept::default();
    run(2, &mut jt(), Rules::default(), None, &mut kept)?;
    let state = &kept.states[0];
    let refused = |n, strategy: &mut dyn Strategy, state: &State| {
        run(
            n,
            strategy,
            Rules::default(),
            Some(state),
            &mut Kept::default(),
        )
        .expect_err("refused")
        .to_string()
    };
    assert!(
        refused(3, &mut jt(), state).contains("`model.encoders.m2."),
        "another model"
    );
    assert!(
        refused(2, &mut pmr(2, 1.0, 0.1), state).contains("`strategy.prototypes.0` is missing")
    );
    let mut cut = state.clone();
    cut.tensors
        .retain(|name, _| !name.starts_with("optimizer."));
    assert!(refused(2, &mut jt(), &cut).contains("is missing"));
    let mut bent = state.clone();
    bent.tensors.insert(
        "model.head.bias".into(),
        Tensor::zeros(7, DType::F32, &Device::Cpu)?,
    );
    assert!(refused(2, &mut jt(), &bent).contains("`model.head.bias` is F32 [7]"));
    Ok(())
}

/// The attack inside adversarial training leaves the model as it is; as released it moves the
/// running statistics.
#[test]
fn statistics_move_under_the_attack_only_as_released() -> Result<()> {
    let (batch, draws) = (
        Toy { modalities: 2 }.batch("train", 0)?,
        crmt_train::Draws {
            streams: Streams::new(1),
            step: 0,
        },
    );
    for mode in [Mode::Eval, Mode::Train] {
        let model = built(2, true);
        let before = bits(&model);
        let attack = Pgd::training(Budget::Joint(0.5), 3, 0.5);
        let at = Crmt::new(0.0, adversarial(attack, mode));
        let prepared = at.prepare(&model, &batch, &draws)?;
        assert_ne!(
            prepared.inputs[0].to_vec2::<f32>()?,
            batch.inputs[0].to_vec2::<f32>()?
        );
        for ((before, now), v) in before.iter().zip(bits(&model)).zip(model.variables()) {
            assert_eq!(
                *before != now,
                mode == Mode::Train && !v.learned,
                "{} in {mode:?}",
                v.name
            );
        }
    }
    Ok(())
}

/// The second step leaves statistics as they are; as released, each of its batches moves them, and
/// scores follow the batch.
#[test]
fn statistics_move_in_the_second_step_only_as_released() -> Result<()> {
    let (batch, draws) = (
        Toy { modalities: 2 }.batch("train", 0)?,
        crmt_train::Draws {
            streams: Streams::new(1),
            step: 0,
        },
    );
    let model = built(2, true);
    let head = model.integration().expect("an orthonormal head");
    let rows = model
        .model()
        .head()
        .rows()?
        .try_map(|w| w.to_dtype(DType::F64))?;
    let tables = Tables::Pairwise {
        features: rows.map(|_| 1.0),
        rows,
    };
    let hinge = RadiusHinge {
        tables,
        target: 9.0,
        rival: RivalRule::Minimum,
    };
    let exact = |scores: &PerModality<Tensor>| -> Result<Vec<Vec<Vec<f64>>>> {
        Ok(scores
            .try_map(|s| s.to_dtype(DType::F64)?.to_vec2())?
            .into_iter()
            .collect())
    };
    let modalities = model.fixed().modalities();
    let fixed = IntegrationModel::new(modalities, &head, None)?;
    let before = bits(&model);
    let scores = model.fixed().scores(&batch.inputs)?.unimodal;
    let prepared = hinge.prepare(
        &fixed,
        &Batch {
            inputs: scores.clone(),
            labels: batch.labels.clone(),
        },
        &draws,
    )?;
    assert_eq!(exact(&prepared.inputs)?, exact(&scores)?);
    assert_eq!(bits(&model), before);

    let moving = IntegrationModel::new(modalities, &head, None)?.moving(&model);
    let prepared = hinge.prepare(&moving, &batch, &draws)?;
    assert_ne!(exact(&prepared.inputs)?, exact(&scores)?);
    assert_eq!(
        exact(&prepared.inputs)?,
        exact(&model.scores(&batch.inputs, Mode::Train)?.unimodal)?
    );
    let gradients = hinge.loss(&moving, &prepared)?.total.backward()?;
    for ((before, now), v) in before.iter().zip(bits(&model)).zip(model.variables()) {
        assert_eq!(*before != now, !v.learned, "{}", v.name);
        assert!(gradients.get(&v.var).is_none(), "{} is not trained", v.name);
    }
    // What is kept of the best epoch includes them.
    let kept = |model: &dyn Trainable| model.variables().iter().filter(|v| !v.learned).count();
    assert_eq!((kept(&moving), kept(&fixed)), (kept(&model), 0));
    Ok(())
}

/// Whose confidence is greater learns more slowly, by the formula; the other as before.
#[test]
fn ogm_ge_slows_whoever_is_ahead() -> Result<()> {
    let model = learner(2);
    let batch = Toy { modalities: 2 }.batch("train", 0)?;
    // The first modality knows the answer.
    for v in model
        .variables()
        .iter()
        .filter(|v| v.name.starts_with("head.m") && v.name.ends_with(".a"))
    {
        let size = if v.name.contains("m0") { 4.0 } else { 0.1 };
        v.var.set(&(v.var.ones_like()? * size)?)?;
    }
    let draws = crmt_train::Draws {
        streams: Streams::new(1),
        step: 0,
    };
    let ogm = OgmGe {
        inputs: clean(),
        alpha: 0.7,
        noise: false,
    };
    let loss = ogm.loss(&model, &ogm.prepare(&model, &batch, &draws)?)?;
    let scores = model.fixed().scores(&batch.inputs)?;
    let labels = batch.labels.to_vec1::<u32>()?;
    let confidence = scores.contributions()?.try_map(|s| -> Result<f64> {
        let p = candle_nn::ops::softmax(s, 1)?.to_vec2::<f32>()?;
        Ok(p.iter()
            .zip(&labels)
            .map(|(p, y)| f64::from(p[*y as usize]))
            .sum())
    })?;
    let (ahead, other) = if confidence[0] > confidence[1] {
        (0, 1)
    } else {
        (1, 0)
    };
    let factors = loss
        .modulation
        .expect("it modulates")
        .factors
        .try_map(|factor| factor.to_scalar::<f64>())?;
    let expected = 1.0 - (0.7 * confidence[ahead] / confidence[other]).tanh();
    // Sums of f32 softmaxes.
    assert!(
        (factors[ahead] - expected).abs() < 1e-5,
        "{factors:?}, expected {expected}"
    );
    assert_eq!(factors[other], 1.0);
    Ok(())
}

/// Prototypes are the class means, and move as the features do.
#[test]
fn pmr_prototypes_are_class_means_and_move() -> Result<()> {
    let model = learner(2);
    let sample = Toy { modalities: 2 }.batch("prototypes", 0)?;
    let mut strategy = pmr(2, 1.0, 0.1);
    let prototypes = |strategy: &Pmr| -> Result<Vec<Vec<f32>>> {
        Ok(strategy
            .state()?
            .iter()
            .map(|(_, t)| t.flatten_all()?.to_vec1())
            .collect::<candle_core::Result<_>>()?)
    };
    let means = || -> Result<Vec<Vec<f32>>> {
        let labels = sample.labels.to_vec1::<u32>()?;
        let features = model.features(&sample.inputs, Mode::Eval)?;
        let mean = |f: &Tensor| -> Result<Vec<f32>> {
            let rows = f.to_vec2::<f32>()?;
            Ok((0..CLASSES as u32)
                .flat_map(|class| {
                    let own: Vec<&Vec<f32>> = rows
                        .iter()
                        .zip(&labels)
                        .filter(|r| *r.1 == class)
                        .map(|r| r.0)
                        .collect();
                    (0..rows[0].len())
                        .map(|i| own.iter().map(|r| r[i]).sum::<f32>() / own.len().max(1) as f32)
                        .collect::<Vec<_>>()
                })
                .collect())
        };
        features.iter().map(mean).collect()
    };
    // Sums of eight f32 numbers near 1, in another order.
    let close = |a: &[Vec<f32>], b: &[Vec<f32>]| {
        a.concat()
            .iter()
            .zip(b.concat())
            .all(|(a, b)| (a - b).abs() < 1e-5)
    };
    strategy.begin_epoch(&model, 0)?;
    let (first, before) = (prototypes(&strategy)?, means()?);
    assert!(close(&first, &before), "{first:?} against {before:?}");
    for v in model
        .variables()
        .iter()
        .filter(|v| v.name.ends_with("fc.weight"))
    {
        v.var.set(&(v.var.as_tensor() * 3.0)?)?;
    }
    strategy.begin_epoch(&model, 1)?;
    let mixed: Vec<Vec<f32>> = before
        .iter()
        .zip(means()?)
        .map(|(old, new)| {
            old.iter()
                .zip(new)
                .map(|(old, new)| 0.5 * old + 0.5 * new)
                .collect()
        })
        .collect();
    let second = prototypes(&strategy)?;
    assert!(close(&second, &mixed) && !close(&second, &first));
    Ok(())
}

/// The weights of a model whose first modality has learned are those of the losses, measured by
/// hand.
#[test]
fn g_blend_weights_follow_the_losses() -> Result<()> {
    let model = learner(2);
    let toy = Toy { modalities: 2 };
    let (train, select) = (toy.batch("blend", 0)?, toy.batch("select", 0)?);
    let mut strategy = GBlend::new(clean(), 1, train.clone(), select.clone());
    let losses = |batch: &Batch| -> Result<Vec<f64>> {
        let scores = model.fixed().scores(&batch.inputs)?;
        let labels = batch.labels.to_vec1::<u32>()?;
        let share = (&scores.bias / 2.0)?;
        let alone = scores
            .contributions()?
            .try_map(|s| s.broadcast_add(&share))?;
        let all = alone.into_iter().chain([scores.logits()?]);
        all.map(|logits| {
            let log = candle_nn::ops::log_softmax(&logits, 1)?.to_vec2::<f32>()?;
            Ok(-log
                .iter()
                .zip(&labels)
                .map(|(p, y)| f64::from(p[*y as usize]))
                .sum::<f64>()
                / labels.len() as f64)
        })
        .collect()
    };
    strategy.begin_epoch(&model, 0)?;
    assert_eq!(strategy.weights(), [1.0 / 3.0; 3]);
    let before = (losses(&train)?, losses(&select)?);
    let mut optimizer = adam(&model);
    let mut inner = jt();
    let mut phase = Phase {
        name: "toy",
        strategy: &mut inner,
        source: &toy,
        epochs: 2,
        rate: Rate::constant(0.02),
        streams: Streams::new(9),
        rules: Rules::default(),
    };
    fit(
        &model,
        &mut optimizer,
        &mut phase,
        None,
        &mut Kept::default(),
    )?;
    strategy.begin_epoch(&model, 1)?;
    let now = (losses(&train)?, losses(&select)?);
    let ratio = |k: usize| {
        let gain = (before.1[k] - now.1[k]).max(0.0);
        let overfit = ((now.1[k] - now.0[k]) - (before.1[k] - before.0[k]))
            .abs()
            .max(GBlend::LEAST);
        gain / overfit.powi(2)
    };
    let total: f64 = (0..3).map(ratio).sum();
    assert!(total > 0.0, "training lowered a loss");
    for (k, weight) in strategy.weights().iter().enumerate() {
        // Losses in f32, whose differences are divided by a squared difference of 1e-3 or more.
        assert!(
            (weight - ratio(k) / total).abs() < 0.02,
            "{k}: {weight} against {}",
            ratio(k) / total
        );
    }
    Ok(())
}
