//! Robust accuracy of one stored network on real images, by this crate and by independent tools: what the tests hold
//! together, and the table of docs/evaluation.md. Does not know how the other side attacks: parity.py does.
//!
//! The whole table, in some minutes: `cargo test --workspace --test parity -- --ignored --nocapture`
mod figures;
mod model;

use candle_core::{DType, Tensor};
use crmt_attacks::*;
use crmt_core::{Classifier, PerModality, Streams};
use figures::{Figure, Figures};
use model::Net;

type Checked = std::result::Result<(), Box<dyn std::error::Error>>;

/// In points, on all images. The randomised attacks differ from themselves by up to 0.3 points over seeds, on either
/// side (the stored figures); a defect that matters to anyone costs more than five images in a thousand.
const TOLERANCE: f64 = 0.5;

/// Both sides at the same settings, which figures.json states; `None` for an attack that this crate does not have.
fn ours(figure: &Figure) -> Option<Vec<Box<dyn Attack>>> {
    let budget = figure.budget();
    let ce = || Box::new(Apgd::ce(budget.clone()));
    let targeted = || Box::new(Apgd::targeted(budget.clone(), 9));
    let fab = || Box::new(Fab::targeted(budget.clone(), 9));
    let square = || Box::new(Square::new(budget.clone(), 5000));
    let pgd = |steps: usize, relative: f64| Pgd {
        schedule: Steps::Constant(relative),
        ..Pgd::training(budget.clone(), steps, relative)
    };
    Some(match (figure.attack.as_str(), figure.norm.as_str()) {
        ("apgd-ce", _) => vec![ce()],
        ("apgd-t", _) => vec![targeted()],
        ("fab-t", _) => vec![fab()],
        ("square", _) => vec![square()],
        ("standard", _) => vec![ce(), targeted(), fab(), square()],
        ("fgm", _) => vec![Box::new(Fgm::new(budget))],
        ("pgd", "l2") => vec![Box::new(pgd(50, 1. / 40.))],
        ("pgd", _) => vec![Box::new(pgd(40, 1. / 30.))],
        ("deepfool", _) => vec![Box::new(DeepFool::new(budget))],
        _ => return None,
    })
}

/// The network and the first images.
struct Case {
    net: Net,
    x: PerModality<Tensor>,
    labels: Vec<u32>,
}

impl Case {
    /// `None` where the images are not.
    fn first(images: usize) -> Result<Option<Self>, Box<dyn std::error::Error>> {
        let Some((x, labels)) = model::images(images)? else { return Ok(None) };
        Ok(Some(Self { net: Net::load()?, x: PerModality::from([x]), labels }))
    }

    /// Which images stand against `attacks`, each of which gets those that stood before.
    fn stands(&self, attacks: &[Box<dyn Attack>], seed: u64) -> Result<Vec<bool>> {
        let attacks: Vec<&dyn Attack> = attacks.iter().map(Box::as_ref).collect();
        let goal = Goal::Avoid(Tensor::new(self.labels.as_slice(), self.x[0].device())?);
        let curve = strongest(&attacks, &self.net, &self.x, &goal, &Draws::new(Streams::new(seed), 0))?;
        Ok(curve.success(attacks.len() - 1).into_iter().map(|fell| !fell).collect())
    }
}

fn percent(stands: &[bool]) -> f64 {
    100. * stands.iter().filter(|s| **s).count() as f64 / stands.len() as f64
}

#[test]
fn both_sides_see_the_same_network_and_images() -> Checked {
    let theirs = Figures::load().ok_or("figures.json is not what parity.py writes")?;
    let Some(case) = Case::first(theirs.images)? else { return Ok(()) };
    let logits = case.net.logits(&case.x)?;
    let few = logits.narrow(0, 0, theirs.logits.dim(0)?)?.to_dtype(DType::F64)?;
    let apart = (few - &theirs.logits)?.abs()?.max_all()?.to_scalar::<f64>()?;
    // Logits of order 10 that are sums of 1568 products in f32, in another order.
    assert!(apart < 1e-4, "logits differ by {apart}");
    let labels = Tensor::new(case.labels.as_slice(), logits.device())?;
    // One image may be on a boundary to rounding.
    assert!((100. * accuracy(&logits, &labels)? - theirs.clean).abs() < 0.15);
    Ok(())
}

#[test]
fn quick_attacks_agree_on_all_images() -> Checked {
    let theirs = Figures::load().ok_or("figures.json is not what parity.py writes")?;
    let Some(case) = Case::first(theirs.images)? else { return Ok(()) };
    let quick = |f: &&Figure| matches!(f.attack.as_str(), "apgd-ce" | "fgm" | "pgd");
    for figure in theirs.attacks.iter().filter(quick) {
        let Some(attacks) = ours(figure) else { continue };
        let ours = percent(&case.stands(&attacks, 0)?);
        let apart = (ours - figure.accuracy[0]).abs();
        // Tenths of a percent as decimal fractions.
        assert!(
            apart < TOLERANCE + 1e-9,
            "{} with {}: {ours}, {} {:?}",
            figure.attack,
            figure.norm,
            figure.tool,
            figure.accuracy
        );
    }
    Ok(())
}

#[test]
fn the_ensemble_agrees_image_by_image() -> Checked {
    const FIRST: usize = 200;
    let theirs = Figures::load().ok_or("figures.json is not what parity.py writes")?;
    let Some(case) = Case::first(FIRST)? else { return Ok(()) };
    for figure in theirs.attacks.iter().filter(|f| f.attack == "standard") {
        let Some(attacks) = ours(figure) else { continue };
        let differ: Vec<usize> = case
            .stands(&attacks, 0)?
            .iter()
            .zip(&figure.stands)
            .enumerate()
            .filter(|(_, (ours, theirs))| ours != theirs)
            .map(|(i, _)| i)
            .collect();
        // Half a percent of 200.
        assert!(differ.len() <= 1, "{} with {}: images {differ:?}", figure.attack, figure.norm);
    }
    Ok(())
}

#[test]
#[ignore = "the whole table, which takes minutes"]
fn every_attack_agrees_on_all_images() -> Checked {
    let theirs = Figures::load().ok_or("figures.json is not what parity.py writes")?;
    let Some(case) = Case::first(theirs.images)? else { return Ok(()) };
    let mut apart = vec![];
    println!(
        "| attack | norm | eps | ours | theirs | difference | only ours stand | only theirs stand |\n|{}",
        "---|".repeat(8)
    );
    for figure in &theirs.attacks {
        let Some(attacks) = ours(figure) else { continue };
        let runs = (0..figure.accuracy.len() as u64).map(|seed| case.stands(&attacks, seed));
        let runs = runs.collect::<Result<Vec<_>>>()?;
        let only = |this: bool| runs[0].iter().zip(&figure.stands).filter(|(a, b)| a != b && **a == this).count();
        let ours: Vec<f64> = runs.iter().map(|stands| percent(stands)).collect();
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let difference = mean(&ours) - mean(&figure.accuracy);
        let Figure { attack, norm, eps, accuracy, .. } = figure;
        println!(
            "| {attack} | {norm} | {eps} | {ours:.1?} | {accuracy:.1?} | {difference:+.1} | {} | {} |",
            only(true),
            only(false)
        );
        if difference.abs() > TOLERANCE {
            apart.push((attack, norm, eps));
        }
    }
    assert!(apart.is_empty(), "more than {TOLERANCE} points apart: {apart:?}");
    Ok(())
}
