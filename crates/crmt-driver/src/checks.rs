//! What a summary must be before anything is drawn, averaged or added up from it.
//! Does not know where it comes from.
use crate::record::{CertifiedResult, RadiusResult, Summary};
use anyhow::{Result, ensure};

impl Summary {
    /// Refuses counts that do not add up and numbers that are none, by the name of the field.
    pub fn check(&self) -> Result<()> {
        self.check_counts()?;
        for (what, accuracy) in self.accuracies() {
            ensure!(
                (0.0..=1.0).contains(&accuracy),
                "{what} is {accuracy}, no fraction"
            );
        }
        certified("certified", &self.certified)?;
        radii("radii", &self.radii)?;
        for classifier in self.smoothing.iter().flat_map(|s| &s.classifiers) {
            certified("smoothing.classifiers.certified", &classifier.certified)?;
            radii("smoothing.classifiers.radii", &classifier.radii)?;
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<()> {
        let classes = self.classes.len();
        let square = self.confusion.len() == classes
            && self.confusion.iter().all(|row| row.len() == classes);
        ensure!(
            square || self.confusion.is_empty(),
            "`confusion` is not a table of {classes} × {classes} classes"
        );
        let total = sum(self.confusion.iter().flatten().copied());
        ensure!(
            total.is_some_and(|total| total <= self.accuracy.samples),
            "the counts of `confusion` add up to more than the {} samples of `accuracy`",
            self.accuracy.samples
        );
        let falsified = sum(self
            .falsification
            .iter()
            .flat_map(|f| [f.samples, f.tightness_samples, f.violations]));
        let smoothed = sum(self
            .smoothing
            .iter()
            .flat_map(|s| &s.attacks)
            .flat_map(|a| [a.inside, a.fell]));
        ensure!(
            falsified.is_some() && smoothed.is_some(),
            "the counts of `falsification` or `smoothing` are too large"
        );
        let possible = |f: &crate::record::Falsification| f.violations <= f.samples;
        ensure!(
            self.falsification.iter().all(possible),
            "`falsification` has more violations than samples"
        );
        Ok(())
    }

    /// With the name of each.
    fn accuracies(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let a = &self.accuracy;
        let missing = a.missing.values().chain(
            a.missing_by_baseline
                .values()
                .flat_map(|table| table.values()),
        );
        let clean = [a.clean]
            .into_iter()
            .chain(missing.chain(a.solo.values()).copied());
        let attacks = self.attacks.iter().flat_map(|a| [a.accuracy, a.clean]);
        let corruptions = self.corruptions.iter().flat_map(|c| [c.accuracy, c.clean]);
        let classifiers = self
            .smoothing
            .iter()
            .flat_map(|s| &s.classifiers)
            .flat_map(|c| [c.accuracy, c.abstained]);
        let smooth_attacks = self
            .smoothing
            .iter()
            .flat_map(|s| &s.attacks)
            .map(|a| a.accuracy);
        let named = |name: &'static str| move |value: f64| (name, value);
        clean
            .map(named("accuracy"))
            .chain(attacks.map(named("attacks.accuracy")))
            .chain(corruptions.map(named("corruptions.accuracy")))
            .chain(classifiers.map(named("smoothing.classifiers.accuracy")))
            .chain(smooth_attacks.map(named("smoothing.attacks.accuracy")))
            .collect::<Vec<_>>()
            .into_iter()
    }
}

fn certified(what: &str, results: &[CertifiedResult]) -> Result<()> {
    for c in results {
        let fractions = [Some(c.accuracy), c.attacked_samples];
        ensure!(
            fractions
                .into_iter()
                .flatten()
                .all(|f| (0.0..=1.0).contains(&f))
                && c.eps.is_finite(),
            "`{what}` of `{}` at {} is no fraction",
            c.threat,
            c.eps
        );
        check_evidence(what, &c.evidence)?;
    }
    Ok(())
}

fn radii(what: &str, results: &[RadiusResult]) -> Result<()> {
    for r in results {
        let ascending =
            r.quantiles.is_sorted() && r.quantiles.iter().chain([&r.mean]).all(|r| *r >= 0.0);
        ensure!(
            ascending,
            "`{what}` of `{}`: radii are positive and their quantiles ascend",
            r.threat
        );
        check_evidence(what, &r.evidence)?;
    }
    Ok(())
}

fn check_evidence(what: &str, evidence: &str) -> Result<()> {
    ensure!(
        ["proved", "confident", "estimated"].contains(&evidence),
        "`{what}`: unknown evidence `{evidence}`"
    );
    Ok(())
}

/// None beyond what a count can be.
fn sum(mut counts: impl Iterator<Item = u64>) -> Option<u64> {
    counts.try_fold(0u64, u64::checked_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Accuracy, AttackResult};

    fn good() -> Summary {
        Summary {
            classes: vec!["a".into(), "b".into()],
            accuracy: Accuracy {
                clean: 0.75,
                samples: 4,
                ..Accuracy::default()
            },
            confusion: vec![vec![2, 0], vec![1, 1]],
            ..Summary::default()
        }
    }

    #[test]
    fn what_can_not_be_is_refused_by_the_name_of_its_field() {
        good().check().expect("good");
        let refused = |part: &str, change: &dyn Fn(&mut Summary)| {
            let mut bad = good();
            change(&mut bad);
            let error = bad.check().expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        };
        refused("confusion", &|s| s.confusion = vec![vec![1 << 63; 2]; 2]);
        refused("confusion", &|s| s.confusion[0][0] += 1);
        refused("confusion", &|s| s.confusion[0].push(0));
        refused("accuracy", &|s| s.accuracy.clean = f64::NAN);
        refused("accuracy", &|s| s.accuracy.clean = -0.25);
        let radius = |mean: f64, quantiles: Vec<f64>, evidence: &str| RadiusResult {
            threat: "joint".into(),
            evidence: evidence.into(),
            mean,
            quantiles,
            vulnerability_share: None,
        };
        refused("radii", &|s| {
            s.radii.push(radius(f64::NAN, vec![], "proved"))
        });
        refused("radii", &|s| {
            s.radii.push(radius(1.0, vec![1.0, 0.0], "proved"))
        });
        refused("radii", &|s| {
            s.radii.push(radius(1.0, vec![0.0, f64::NAN], "proved"))
        });
        refused("certain", &|s| {
            s.radii
                .push(radius(1.0, vec![0.0, f64::INFINITY], "certain"))
        });
        refused("attacks", &|s| {
            let (name, threat, norm) = ("pgd".into(), "joint".into(), "l2".into());
            s.attacks.push(AttackResult {
                name,
                threat,
                norm,
                precision: crate::precision::Precision::F32,
                eps: 1.0,
                accuracy: 1.5,
                clean: 1.0,
                samples: 4,
            });
        });
    }
}
