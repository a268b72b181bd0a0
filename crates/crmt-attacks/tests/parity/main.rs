//! Robust accuracy of one stored network on real images, by this crate and by independent tools:
//! what the tests hold together, and the table of docs/evaluation.md. Does not know how the other
//! side attacks: parity.py does.
//!
//! The whole table, in half an hour on one core (ATTACK=square: only that):
//! `cargo test --workspace --test parity -- --ignored --nocapture`
mod figures;
mod model;

use candle_core::{DType, Tensor};
use crmt_attacks::*;
use crmt_core::{Classifier, PerModality, Streams};
use figures::{Figure, Figures};
use model::Net;

type Checked<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// In points: five of a thousand images. Two runs of one randomised attack, on either side, differ
/// on more images than that but in accuracy by less (figures.json); a defect that matters costs
/// more.
const TOLERANCE: f64 = 0.5;

/// At the settings that figures.json states.
fn attack(figure: &Figure) -> Option<Box<dyn Attack>> {
    let budget = figure.budget();
    let l2 = figure.norm == "l2";
    let restarts = vec![Restart {
        from: Start::Clean,
        loss: Loss::CrossEntropy,
    }];
    let pgd = |steps, relative| Pgd {
        restarts,
        ..Pgd::training(budget.clone(), steps, relative)
    };
    Some(match figure.attack.as_str() {
        "fgm" => Box::new(Fgm::new(budget)),
        "pgd" if l2 => Box::new(pgd(50, 1. / 40.)),
        "pgd" => Box::new(pgd(40, 1. / 30.)),
        "deepfool" => Box::new(DeepFool::new(budget)),
        "cw" => Box::new(CarliniWagner {
            rate: 0.05,
            ..CarliniWagner::new(budget).with_steps(200)
        }),
        "apgd-ce" => Box::new(Apgd::ce(budget)),
        "apgd-t" => Box::new(Apgd::targeted(budget, 9)),
        "fab-t" => Box::new(Fab::targeted(budget, 9)),
        // The other side's windows.
        "square" => Box::new(Square {
            as_released: true,
            ..Square::new(budget, 5000)
        }),
        "standard" => Box::new(Ensemble::standard(budget, Effort::default())),
        _ => return None,
    })
}

/// The network, and the first images.
struct Case {
    net: Net,
    x: PerModality<Tensor>,
    labels: Vec<u32>,
}

impl Case {
    /// `None` where the images are not.
    fn first(images: usize) -> Checked<Option<Self>> {
        let Some((x, labels)) = model::images(images)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            net: Net::load()?,
            x: PerModality::from([x]),
            labels,
        }))
    }

    /// Which images stand against the attack of `figure`.
    fn stands(&self, figure: &Figure, seed: u64) -> Checked<Vec<bool>> {
        let attack = attack(figure)
            .ok_or_else(|| format!("{}: not an attack of this crate", figure.attack))?;
        let goal = Goal::Avoid(Tensor::new(self.labels.as_slice(), self.x[0].device())?);
        let draws = Draws::new(Streams::new(seed), 0);
        let outcome = run(attack.as_ref(), &self.net, &self.x, &goal, &draws)?;
        Ok(outcome.success.into_iter().map(|fell| !fell).collect())
    }
}

fn figures() -> Checked<Figures> {
    Figures::load().ok_or_else(|| "figures.json is not what parity.py writes".into())
}

fn percent(stands: &[bool]) -> f64 {
    100. * stands.iter().filter(|s| **s).count() as f64 / stands.len() as f64
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn both_sides_see_the_same_network_and_images() -> Checked {
    let theirs = figures()?;
    let Some(case) = Case::first(theirs.images)? else {
        return Ok(());
    };
    let logits = case.net.logits(&case.x)?;
    let few = logits
        .narrow(0, 0, theirs.logits.dim(0)?)?
        .to_dtype(DType::F64)?;
    let apart = (few - &theirs.logits)?
        .abs()?
        .max_all()?
        .to_scalar::<f64>()?;
    // Logits of order 10, sums of 784 products in f32, in another order.
    assert!(apart < 1e-4, "logits differ by {apart}");
    let labels = Tensor::new(case.labels.as_slice(), logits.device())?;
    // Of all images; none is so near a boundary that rounding decides.
    assert!((100. * accuracy(&logits, &labels)? - theirs.clean).abs() < 1e-9);
    Ok(())
}

#[test]
fn quick_attacks_agree_on_all_images() -> Checked {
    let theirs = figures()?;
    let Some(case) = Case::first(theirs.images)? else {
        return Ok(());
    };
    let quick = |f: &&Figure| matches!(f.attack.as_str(), "fgm" | "pgd" | "apgd-ce");
    for figure in theirs.attacks.iter().filter(quick) {
        let Figure {
            attack,
            norm,
            accuracy,
            ..
        } = figure;
        let one = |seed| Ok(percent(&case.stands(figure, seed)?));
        let ours = (0..accuracy.len() as u64)
            .map(one)
            .collect::<Checked<Vec<f64>>>()?;
        let apart = mean(&ours) - mean(accuracy);
        assert!(
            apart.abs() <= TOLERANCE + 1e-9,
            "{attack} in {norm}: {ours:?}, the other side {accuracy:?}"
        );
    }
    Ok(())
}

#[test]
fn the_ensemble_agrees_image_by_image() -> Checked {
    const FIRST: usize = 200;
    let theirs = figures()?;
    let Some(case) = Case::first(FIRST)? else {
        return Ok(());
    };
    for figure in theirs.attacks.iter().filter(|f| f.attack == "standard") {
        let ours = case.stands(figure, 0)?;
        let differ: Vec<usize> = (0..FIRST)
            .filter(|i| ours[*i] != figure.stands[*i])
            .collect();
        // Two runs of one randomised attack differ on some images (of APGD-CE, on 2 % of all:
        // figures.json), the ensemble on fewer; a defect that matters differs on more, and always
        // to the same side.
        assert!(differ.len() <= 4, "{}: images {differ:?}", figure.norm);
        let lean = percent(&ours) - percent(&figure.stands[..FIRST]);
        assert!(
            lean.abs() <= 1.5,
            "{}: {lean:+.1} points on the first {FIRST}",
            figure.norm
        );
    }
    Ok(())
}

/// An image stands against the ensemble if it stands against each of its members: what both sides
/// do to one image does not depend on the others, but for the other side's random draws.
#[test]
#[ignore = "the whole table, which takes minutes"]
fn every_attack_agrees_on_all_images() -> Checked {
    const MEMBERS: [&str; 4] = ["apgd-ce", "apgd-t", "fab-t", "square"];
    let theirs = figures()?;
    let Some(case) = Case::first(theirs.images)? else {
        return Ok(());
    };
    println!(
        "| attack | budget | ours | theirs | difference | only ours stand | only theirs stand |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut weaker = vec![];
    let mut ensemble = vec![true; theirs.images];
    let only = std::env::var("ATTACK").ok();
    for figure in theirs
        .attacks
        .iter()
        .filter(|f| only.as_ref().is_none_or(|only| f.attack == *only))
    {
        let Figure {
            attack,
            norm,
            eps,
            tool,
            accuracy,
            stands,
        } = figure;
        let runs = match attack.as_str() {
            "standard" => vec![std::mem::replace(&mut ensemble, vec![true; theirs.images])],
            _ => (0..accuracy.len() as u64)
                .map(|seed| case.stands(figure, seed))
                .collect::<Checked<_>>()?,
        };
        let mut member = runs[0].clone();
        if attack == "square" {
            // The one that evaluations use, whose windows reach everything.
            let goal = Goal::Avoid(Tensor::new(case.labels.as_slice(), case.x[0].device())?);
            let square = Square::new(figure.budget(), 5000);
            let fell = run(
                &square,
                &case.net,
                &case.x,
                &goal,
                &Draws::new(Streams::new(0), 0),
            )?
            .success;
            member = fell.into_iter().map(|fell| !fell).collect();
            println!(
                "| `square`, ours as it is by default | {norm} {eps} | {:.1} | | | | |",
                percent(&member)
            );
        }
        if MEMBERS.contains(&attack.as_str()) {
            ensemble
                .iter_mut()
                .zip(&member)
                .for_each(|(all, one)| *all &= one);
        }
        let only = |this: bool| {
            runs[0]
                .iter()
                .zip(stands)
                .filter(|(a, b)| a != b && **a == this)
                .count()
        };
        let ours: Vec<f64> = runs.iter().map(|stands| percent(stands)).collect();
        let difference = mean(&ours) - mean(accuracy);
        let list = |v: &[f64]| {
            v.iter()
                .map(|v| format!("{v:.1}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let (a, b, [more, fewer]) = (list(&ours), list(accuracy), [true, false].map(only));
        println!(
            "| `{attack}` | {norm} {eps} | {a} | {b} ({tool}) | {difference:+.1} | {more} | {fewer} |"
        );
        // An attack that leaves fewer standing is no defect; docs/evaluation.md says where and why.
        if difference > TOLERANCE + 1e-9 {
            weaker.push((attack, norm));
        }
    }
    assert!(
        weaker.is_empty(),
        "weaker by more than {TOLERANCE} points: {weaker:?}"
    );
    Ok(())
}
