//! The sandwich: what is known of a run at each threat and budget, clean ≥ strongest attack ≥
//! certified, on the same samples. Knows no attack and no certificate, only their results, and not
//! how any of it is shown.
use crate::record::{AttackResult, CertifiedResult, Summary};

/// Whom the attacker may touch, and how the budget is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threat {
    /// `joint`, `each` or a modality's name.
    pub name: String,
    /// `l2` or `linf`.
    pub norm: String,
}

impl Threat {
    /// Radii and certificates are about ℓ2 balls.
    pub fn has_claims(&self) -> bool {
        self.norm == "l2"
    }

    fn is_of(&self, attack: &AttackResult) -> bool {
        attack.threat == self.name && attack.norm == self.norm
    }
}

/// Every threat that any run was attacked or certified under: joint first, then as met.
pub fn threats(runs: &[&Summary]) -> Vec<Threat> {
    let mut out: Vec<Threat> = Vec::new();
    let attacked = |run: &Summary| {
        run.attacks
            .iter()
            .map(|a| (a.threat.clone(), a.norm.clone()))
            .collect::<Vec<_>>()
    };
    let claimed = |run: &Summary| {
        run.certified
            .iter()
            .map(|c| (c.threat.clone(), "l2".into()))
            .collect::<Vec<_>>()
    };
    for (name, norm) in runs
        .iter()
        .flat_map(|run| [attacked(run), claimed(run)].concat())
    {
        let threat = Threat { name, norm };
        if !out.contains(&threat) {
            out.push(threat);
        }
    }
    let order = |t: &Threat| (t.norm != "l2", t.name != "joint", t.name != "each");
    out.sort_by_key(order);
    out
}

/// Those of [`threats`] with both sides of the sandwich: attacked in some run; and the others, with
/// claims only. The joint threat is always of the first kind.
pub fn sides(runs: &[&Summary]) -> (Vec<Threat>, Vec<Threat>) {
    let attacked = |threat: &Threat| {
        let mut attacks = runs.iter().flat_map(|run| &run.attacks);
        threat.name == "joint" || attacks.any(|a| threat.is_of(a))
    };
    threats(runs).into_iter().partition(attacked)
}

/// The word for a piece of evidence and its CSS class; whatever is no known certificate is
/// estimated.
pub fn evidence(evidence: &str) -> (&'static str, &'static str) {
    match evidence {
        "proved" => ("certified", "certified"),
        "confident" => ("certified with confidence", "certified"),
        _ => ("estimated", "estimated"),
    }
}

/// Which program a run's certificates are about, and how many radii that cost; none for estimates.
pub fn program(run: &Summary) -> Option<String> {
    let result = run.program.as_ref()?;
    Some(format!(
        "certificates are about the network as computed in {}, less what that rounds; its margins and those of the program \
         that predicts (f32) differ by at most {:.1e}. Radii that are 0 for this: {} where that program names another class, {} \
         where the margins differ by more than a tenth, {} where rounding takes the whole margin",
        result.program,
        result.greatest_difference,
        result.other_class,
        result.other_margin,
        result.rounding
    ))
}

/// What is known of one run at one budget.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The budget.
    pub eps: f64,
    /// Accuracy of the same samples without an attacker.
    pub clean: f64,
    /// Accuracy under the strongest attack; none at budgets that were only certified.
    pub attacked: Option<f64>,
    /// Claims by evidence.
    pub claims: Vec<(String, f64)>,
    /// Number of samples behind it.
    pub samples: u64,
    /// The claims are about the attacked samples themselves.
    pub same: bool,
}

impl Cell {
    /// The part that a certificate covers.
    pub fn certified(&self) -> Option<f64> {
        self.claim("certified")
    }

    /// The part that evidence of this class ([`evidence`]) covers.
    pub fn claim(&self, class: &str) -> Option<f64> {
        self.claims
            .iter()
            .find(|(e, _)| evidence(e).1 == class)
            .map(|(_, v)| *v)
    }

    /// The attack left fewer of the same samples standing than the claim allows, so the claim is
    /// wrong.
    pub fn beats(&self, claim: f64) -> bool {
        // Both are counts over the same number of samples; the slack is for their division, far
        // below one sample.
        self.same
            && self
                .attacked
                .is_some_and(|attacked| attacked < claim - 1e-9)
    }
}

/// Equal up to how a budget is written.
pub fn same_budget(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// Ascending, each once.
pub fn budgets(all: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut budgets: Vec<f64> = all.into_iter().collect();
    budgets.sort_by(f64::total_cmp);
    budgets.dedup_by(|a, b| same_budget(*a, *b));
    budgets
}

/// One cell per budget that was attacked or certified, ascending. All are of the attacked samples,
/// where there are any.
pub fn cells(run: &Summary, threat: &Threat) -> Vec<Cell> {
    let attacks: Vec<_> = run.attacks.iter().filter(|a| threat.is_of(a)).collect();
    let claims: Vec<_> = run
        .certified
        .iter()
        .filter(|c| threat.has_claims() && c.threat == threat.name)
        .collect();
    let any = attacks.first();
    let cell = |eps| {
        let here = || attacks.iter().filter(|a| same_budget(a.eps, eps));
        let strongest = here()
            .find(|a| a.name == "strongest")
            .or_else(|| here().min_by(|a, b| a.accuracy.total_cmp(&b.accuracy)));
        let like = strongest.or(any);
        let claims: Vec<_> = claims.iter().filter(|c| same_budget(c.eps, eps)).collect();
        let of_the_same = |c: &CertifiedResult| match like {
            Some(a) if a.samples != c.samples => c.attacked_samples,
            _ => Some(c.accuracy),
        };
        Cell {
            eps,
            clean: like.map_or(run.accuracy.clean, |a| a.clean),
            attacked: strongest.map(|a| a.accuracy),
            same: claims.iter().all(|c| of_the_same(c).is_some()),
            claims: claims
                .iter()
                .map(|c| (c.evidence.clone(), of_the_same(c).unwrap_or(c.accuracy)))
                .collect(),
            samples: like.map_or(run.accuracy.samples, |a| a.samples),
        }
    };
    budgets(
        attacks
            .iter()
            .map(|a| a.eps)
            .chain(claims.iter().map(|c| c.eps)),
    )
    .into_iter()
    .map(cell)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_budget_is_told_of_the_same_samples() {
        let attack = |norm: &str| AttackResult {
            name: "strongest".into(),
            threat: "joint".into(),
            norm: norm.into(),
            precision: crate::precision::Precision::F32,
            eps: 0.5,
            accuracy: 0.6,
            clean: 0.8,
            samples: 10,
        };
        let claim = |eps, accuracy, attacked| CertifiedResult {
            threat: "joint".into(),
            eps,
            accuracy,
            evidence: "proved".into(),
            samples: 100,
            attacked_samples: attacked,
        };
        let mut run = Summary {
            attacks: vec![attack("l2")],
            ..Summary::default()
        };
        run.accuracy.clean = 0.9;
        run.certified = vec![claim(2.0, 0.1, Some(0.2)), claim(0.5, 0.4, Some(0.5))];
        let told = |run: &Summary| {
            let cell = |c: Cell| (c.eps, c.clean, c.attacked, c.certified(), c.samples);
            cells(run, &threats(&[run])[0])
                .into_iter()
                .map(cell)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            told(&run),
            [
                (0.5, 0.8, Some(0.6), Some(0.5), 10),
                (2.0, 0.8, None, Some(0.2), 10)
            ]
        );
        run.attacks = vec![attack("linf")];
        let [l2, linf] = &threats(&[&run])[..] else {
            panic!("two norms")
        };
        assert_eq!(
            (
                cells(&run, l2)[0].certified(),
                cells(&run, linf)[0].certified()
            ),
            (Some(0.4), None)
        );
        run.attacks.clear();
        assert_eq!(told(&run)[1], (2.0, 0.9, None, Some(0.1), 0));
    }
}
