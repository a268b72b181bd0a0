//! Whether a device computes what the CPU does: every operation, and the network, an attack and
//! training as a whole. Knows no timing.
#[path = "../../../crmt-kernels/tests/devices/cases.rs"]
mod cases;

use crate::subject::Subject;
use crate::work::{Counted, EPSILON, objective, pgd, training, training_by};
use crate::{Architecture, Options, Work};
use candle_core::{CpuStorage, DType, Device, Tensor};
use crmt_attacks::{Draws, Goal, perturb};
use crmt_core::{Classifier, PerModality, Streams, Trainable, input_gradients};
use crmt_kernels::Precision;
use crmt_train::{
    Certified, Crmt, GBlend, ModalityDropout, Msefm, OgmGe, Pmr, PmrSettings, Reach, Rules,
    Strategy, TrainingInputs,
};
// The numbers of the table of cases.
use rand_chacha as _;
use serde_json::{Value, json};
use std::error::Error;
use std::num::NonZeroUsize;

/// Of logits, gradients, adversarials and weights, relative to the largest of them: sums of
/// thousands of terms in another order.
const F32: f64 = 1e-4;
/// Factors of 10 bits.
const TF32: f64 = 1e-2;
/// A few roundings of an `f32`, relative.
const NUDGE: f64 = 3e-7;
/// How many times more than such a nudge of the inputs a device may change: it rounds in every
/// layer.
const SENSITIVE: f64 = 10.;
/// What `f64` leaves of an operation's tolerance in `f32`.
const F64: f64 = 1e-6;

/// Every check as JSON, and whether all passed.
pub fn run(options: &Options) -> Result<(Value, bool), Box<dyn Error>> {
    let device = options.device.open()?;
    let mut checks = vec![];
    for (dtype, name, share) in [(DType::F32, "f32", 1.), (DType::F64, "f64", F64)] {
        for case in cases::CASES {
            let place = cases::Place {
                device: device.clone(),
                dtype,
            };
            let tolerance = case.tolerance * share;
            checks.push(judged(
                format!("{} in {name}", case.name),
                cases::error(case, &place).map_err(Into::into),
                tolerance,
            ));
        }
    }
    checks.push(judged(
        "a repeated step is recorded once".into(),
        recorded(&device),
        0.,
    ));
    for name in STRATEGIES {
        let told = format!("weights' way by replayed steps of {name}, against steps that are not");
        checks.push(judged(told, replayed(name, options, &device), 0.));
    }
    for model in [Architecture::Cnn, Architecture::Resnet18] {
        let options = small(options, model, options.classes.get(), 6);
        let cpu = |nudge: f64| Precision::F32.within(|| whole(&options, &Device::Cpu, nudge));
        let (expected, nudged) = (cpu(0.)?, cpu(NUDGE)?);
        for (precision, tolerance) in [(Precision::F32, F32), (Precision::Tf32, TF32)] {
            let got = precision.within(|| whole(&options, &device, 0.));
            for (i, (what, expected)) in expected.iter().enumerate() {
                // No two orders of summation can agree better than a network does with itself when
                // its inputs are rounded another way.
                let tolerance = tolerance.max(SENSITIVE * difference(&nudged[i].1, expected)?);
                let error = match &got {
                    Ok(got) => difference(&got[i].1, expected),
                    Err(why) => Err(why.to_string().into()),
                };
                checks.push(judged(
                    format!("{what} of {} in {precision}", crate::name(model)),
                    error,
                    tolerance,
                ));
            }
        }
    }
    let passed = checks.iter().all(|check| check["passed"] == true);
    Ok((
        json!({ "device": options.device.to_string(), "checks": checks }),
        passed,
    ))
}

/// How many times more or less than it should the host ran a step that was to be repeated: on a GPU
/// once, and once to record it, while another thread brings batches, as loading threads do.
fn recorded(device: &Device) -> Result<f64, Box<dyn Error>> {
    const STEPS: usize = 10;
    let mut calls = 0usize;
    let x = PerModality::from([Tensor::ones(3, DType::F32, device)?]);
    let (upload, mut brought) = (crmt_kernels::uploader(device)?, vec![]);
    let bring = || {
        Ok::<_, candle_core::Error>([
            upload(CpuStorage::F32(vec![1.5; 7]), 7.into())?,
            upload(CpuStorage::U32(vec![1, 2]), 2.into())?,
        ])
    };
    let y = crmt_core::repeat(x, STEPS, |x| {
        calls += 1;
        brought.push(std::thread::scope(|scope| {
            scope.spawn(bring).join().expect("no panic")
        })?);
        Ok::<_, crmt_core::Error>(x.try_map(|x| x * 2.)?)
    })?;
    for [values, labels] in brought {
        if values.to_vec1::<f32>()? != [1.5; 7] || labels.to_vec1::<u32>()? != [1, 2] {
            return Err("what another thread brings meanwhile is not what it sent".into());
        }
    }
    if y[0].to_vec1::<f32>()? != [(1u32 << STEPS) as f32; 3] {
        return Err("the steps do not follow each other".into());
    }
    let expected = if device.is_cpu() { STEPS } else { 2 };
    Ok(calls.abs_diff(expected) as f64)
}

/// Whose steps are recorded.
const STRATEGIES: [&str; 7] = [
    "crmt",
    "mixup",
    "certified",
    "g-blend",
    "ogm-ge",
    "pmr",
    "msefm",
];

fn strategy(
    name: &str,
    options: &Options,
    subject: &Subject,
) -> candle_core::Result<Box<dyn Strategy>> {
    let (clean, sample) = (TrainingInputs::Clean, subject.batch.clone());
    Ok(match name {
        "mixup" => Box::new(Crmt::new(1., TrainingInputs::Mixup { alpha: 1. })),
        "certified" => {
            let baselines = sample.inputs.try_map(|x| x.get(0))?;
            Box::new(Certified {
                eps: 1.,
                reach: Reach::Joint,
                kappa: 3.,
                lambda: 0.1,
                ramp: 0.5,
                steps: 8,
                units: baselines.map(|_| 1.),
                dropout: ModalityDropout {
                    probability: 0.5,
                    baselines,
                },
            })
        }
        "g-blend" => Box::new(GBlend::new(clean, 1, sample.clone(), sample)),
        "ogm-ge" => Box::new(OgmGe {
            inputs: clean,
            alpha: 0.3,
            noise: true,
        }),
        "pmr" => {
            let settings = PmrSettings {
                alpha: 1.,
                mu: 0.1,
                momentum: 0.5,
                early: 3,
                classes: options.classes.get(),
            };
            Box::new(Pmr::new(clean, settings, sample))
        }
        "msefm" => Box::new(Msefm {
            inputs: clean,
            lambda: 1.,
        }),
        _ => Box::new(objective(options)),
    })
}

/// How much weights differ between training whose steps are replayed and the same without. Fails
/// where the host is asked for a loss more or less often than it should: on a GPU once, and once to
/// record it.
fn replayed(name: &str, options: &Options, device: &Device) -> Result<f64, Box<dyn Error>> {
    const STEPS: usize = 6;
    let options = &small(options, Architecture::Cnn, 2, STEPS);
    let weights = |replay: bool, expected: usize| -> Result<Vec<Tensor>, Box<dyn Error>> {
        let subject = Subject::new(options, device)?;
        let mut counted = Counted::new(strategy(name, options, &subject)?);
        training_by(
            &mut counted,
            Rules {
                replay,
                ..Rules::default()
            },
            options,
            &subject,
        )?;
        match counted.losses() {
            losses if losses == expected => {
                let all = subject.learner.variables().into_iter();
                Ok(all
                    .map(|v| v.var.as_detached_tensor().copy())
                    .collect::<candle_core::Result<_>>()?)
            }
            losses => {
                Err(format!("the host was asked for {losses} losses, not for {expected}").into())
            }
        }
    };
    difference(
        &weights(true, if device.is_cpu() { STEPS } else { 2 })?,
        &weights(false, STEPS)?,
    )
}

/// Networks of moments, trained for `steps` steps.
fn small(options: &Options, model: Architecture, classes: usize, steps: usize) -> Options {
    let small = |n: usize| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
    Options {
        model,
        batch: small(8),
        classes: small(classes),
        frames: small(1),
        image: small(32),
        spectrogram: (32, 32),
        width: small(8),
        iters: small(steps),
        warmup: 0,
        work: Work::StepCrmt,
        ..options.clone()
    }
}

fn judged(name: String, error: Result<f64, Box<dyn Error>>, tolerance: f64) -> Value {
    match error {
        Ok(error) => {
            json!({ "name": name, "passed": error <= tolerance, "error": error, "tolerance": tolerance })
        }
        Err(why) => {
            json!({ "name": name, "passed": false, "error": why.to_string(), "tolerance": tolerance })
        }
    }
}

/// Tensors by what they are.
type Seen = (&'static str, Vec<Tensor>);

/// What a user sees of a network: logits, gradients of its inputs, adversarials, and how its
/// weights move in training.
fn whole(options: &Options, device: &Device, nudge: f64) -> Result<Vec<Seen>, Box<dyn Error>> {
    let mut subject = Subject::new(options, device)?;
    let nudged = |x: &Tensor| x + ((x * 1e6)?.sin()? * nudge)?;
    subject.batch.inputs = subject
        .batch
        .inputs
        .try_map(|x| if nudge > 0. { nudged(x) } else { Ok(x.clone()) })?;
    let inputs = &subject.batch.inputs;
    let logits = subject.fixed().logits(inputs)?;
    let scalar = |x: &PerModality<Tensor>| Ok((subject.fixed().logits(x)?.sqr()?.sum_all()?, ()));
    let (gradients, ()) = input_gradients(inputs, scalar)?;
    let goal = Goal::Avoid(subject.batch.labels.clone());
    let adversarials = perturb(
        &pgd(EPSILON, 10),
        subject.fixed(),
        inputs,
        &goal,
        &Draws::new(Streams::new(1), 0),
    )?;
    let steps = adversarials
        .zip(inputs, "inputs")?
        .try_map(|(x, clean)| *x - *clean)?;
    let learned = || {
        subject
            .learner
            .variables()
            .into_iter()
            .filter(|v| v.learned)
    };
    let before = learned()
        .map(|v| v.var.as_detached_tensor().copy())
        .collect::<candle_core::Result<Vec<_>>>()?;
    let mut all = vec![
        ("logits", vec![logits]),
        ("input gradients", gradients.iter().cloned().collect()),
        ("steps of PGD", steps.iter().cloned().collect()),
    ];
    // Normalisation by the moments of few samples, layer upon layer, magnifies the rounding of its
    // inputs a millionfold: how a ResNet's weights move says nothing here. Gradients through such a
    // network are among the operations above.
    if options.model == Architecture::Cnn {
        training(options, &subject)?;
        let moved = learned()
            .zip(&before)
            .map(|(v, before)| v.var.as_detached_tensor() - before);
        all.push((
            "weights' way in training by CRMT",
            moved.collect::<candle_core::Result<_>>()?,
        ));
    }
    Ok(all)
}

/// The largest difference, relative to the largest element of the tensor that it is in.
fn difference(got: &[Tensor], expected: &[Tensor]) -> Result<f64, Box<dyn Error>> {
    let mut worst = 0f64;
    for (got, expected) in got.iter().zip(expected) {
        let values = |t: &Tensor| {
            t.to_device(&Device::Cpu)?
                .to_dtype(DType::F64)?
                .flatten_all()?
                .to_vec1::<f64>()
        };
        let (got, expected) = (values(got)?, values(expected)?);
        let size = expected.iter().fold(1e-6f64, |size, v| size.max(v.abs()));
        let apart = got.iter().zip(&expected).map(|(a, b)| (a - b).abs() / size);
        worst = apart.fold(worst, |worst, d| {
            if d.is_nan() {
                f64::INFINITY
            } else {
                worst.max(d)
            }
        });
    }
    Ok(worst)
}
