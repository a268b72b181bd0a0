//! Whether what the second step made of a model may be kept: the conditions, and in words those
//! that it breaks. Does not know how anything was measured.
use crate::plan::StepTwoPlan;

/// What the selection split says of a model.
#[derive(Debug, Clone, Copy)]
pub struct Judged {
    /// Accuracy.
    pub clean: f64,
    /// Mean over the accepting budgets: certified accuracy for a certified method, else accuracy
    /// under attack.
    pub robust: f64,
    /// Accuracy with the modality missing that hurts most.
    pub missing: f64,
}

/// Clean accuracy may fall by the tolerance, and
/// - attacked accuracy must rise (an attack that finds no less has shown nothing);
/// - certified accuracy must not fall, nor accuracy with one modality missing by more than the
///   tolerance;
/// - what is left when modalities are pruned can't miss one, so it must certify more.
#[derive(Debug, Clone, Copy)]
pub struct Conditions<'a> {
    pub settings: &'a StepTwoPlan,
    /// Robust accuracy is certified accuracy.
    pub certified: bool,
    /// Some modality was pruned.
    pub pruned: bool,
}

impl Conditions<'_> {
    /// Those that `after` breaks, each with the setting that decides it; it may be kept if there
    /// are none.
    pub fn broken(&self, before: Judged, after: Judged) -> Vec<String> {
        let rises = self.pruned || !self.certified;
        let robust = if rises {
            after.robust > before.robust
        } else {
            after.robust >= before.robust
        };
        let mut broken = vec![];
        if !robust {
            broken.push(self.robust_words(before.robust, after.robust, rises));
        }
        broken.extend(self.fallen("clean accuracy", before.clean, after.clean));
        if self.certified && !self.pruned {
            broken.extend(self.fallen(
                "accuracy with a modality missing",
                before.missing,
                after.missing,
            ));
        }
        let as_good = after.clean >= before.clean && after.robust >= before.robust;
        if !robust && as_good && (self.pruned || after.missing >= before.missing) {
            broken.push(
                "nothing is worse than before, but nothing was shown to be better either".into(),
            );
        }
        broken
    }

    fn fallen(&self, what: &str, before: f64, after: f64) -> Option<String> {
        let tolerance = self.settings.tolerance;
        (after < before - tolerance).then(|| {
            let (fell, may) = (points(before - after), points(tolerance));
            format!("{what} fell by {fell} points, and step2.tolerance = {tolerance} allows {may}")
        })
    }

    fn robust_words(&self, before: f64, after: f64, rises: bool) -> String {
        let what = if self.certified {
            "certified"
        } else {
            "attacked"
        };
        let must = if rises { "must rise" } else { "must not fall" };
        let went = match before - after {
            0.0 => format!("stayed at {} %", points(before)),
            fell => format!("fell by {} points", points(fell)),
        };
        let hint = match (before == after, before) {
            (true, 0.0) => ": these budgets are so large that nothing stands, try smaller ones",
            (true, 1.0) => ": these budgets are so small that everything stands, try larger ones",
            (true, _) => ": budgets at which more samples change sides would tell more",
            _ => "",
        };
        format!(
            "{what} accuracy, the mean over step2.accept_eps = {:?}, {must} and {went}{hint}",
            self.settings.accept_eps
        )
    }
}

/// A fraction in percentage points, with the digits that tell it from 0.
fn points(fraction: f64) -> String {
    let points = 100.0 * fraction;
    if points != 0.0 && points.abs() < 0.1 {
        format!("{points:.2}")
    } else {
        format!("{points:.1}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(clean: f64, robust: f64, missing: f64) -> Judged {
        Judged {
            clean,
            robust,
            missing,
        }
    }

    fn broken(certified: bool, pruned: bool, before: Judged, after: Judged) -> String {
        let settings = StepTwoPlan {
            tolerance: 0.005,
            accept_eps: vec![0.5, 1.0],
            ..StepTwoPlan::default()
        };
        Conditions {
            settings: &settings,
            certified,
            pruned,
        }
        .broken(before, after)
        .join("; ")
    }

    #[test]
    fn the_condition_that_rejects_is_named_with_its_setting_and_by_how_much() {
        let before = judged(0.9, 0.5, 0.7);
        assert_eq!(broken(false, false, before, judged(0.896, 0.51, 0.1)), "");
        let told = broken(false, false, before, judged(0.88, 0.4, 0.7));
        for part in [
            "attacked accuracy",
            "step2.accept_eps = [0.5, 1.0], must rise and fell by 10.0 points",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(
            told.ends_with(
                "clean accuracy fell by 2.0 points, and step2.tolerance = 0.005 allows 0.5"
            ),
            "{told}"
        );
        // Certified: equal is enough, but not without a modality, nor when one is pruned.
        assert_eq!(broken(true, false, before, before), "");
        assert!(
            broken(true, false, before, judged(0.9, 0.49, 0.7))
                .contains("must not fall and fell by 1.0 points")
        );
        assert!(
            broken(true, false, before, judged(0.9, 0.6, 0.6))
                .contains("with a modality missing fell by 10.0")
        );
        assert_eq!(broken(true, true, before, judged(0.9, 0.6, 0.1)), "");
        assert!(
            broken(true, true, before, before).contains("certified accuracy")
                && !broken(true, true, before, before).contains("fell")
        );
    }

    #[test]
    fn a_draw_is_told_as_one() {
        for (standing, hint) in [
            (0.0, "try smaller ones"),
            (1.0, "try larger ones"),
            (0.5, "must rise and stayed at 50.0 %"),
        ] {
            let same = judged(0.9, standing, 0.7);
            let told = broken(false, false, same, same);
            assert!(
                told.contains(hint) && told.contains("nothing is worse than before"),
                "{told}"
            );
        }
        // Worse in something that is allowed to be: no draw.
        assert!(
            !broken(false, false, judged(0.9, 0.5, 0.7), judged(0.899, 0.5, 0.7))
                .contains("nothing is worse")
        );
    }
}
