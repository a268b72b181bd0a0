//! What is wrong with a plan: everything that can be said without the data, all of it at once.
//! Does not know where a value came from.
use super::{schema, sections::SEEDS, whole::Plan};
use crate::{arsenal, settings::flatten};
use anyhow::{Result, bail};
use crmt_data::visible;
use toml::{Table, Value};

/// In characters.
const LONGEST_LABEL: usize = 80;

impl Plan {
    /// Checks everything that can be checked without the data. Returns every fault, one line each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.out_of_range();
        faults.extend(self.compute().err().map(|e| format!("device: {e}")));
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        check(
            self.label.chars().count() <= LONGEST_LABEL
                && !self.label.chars().any(char::is_control),
            "label: one line of at most 80 characters",
        );
        check(
            self.evaluate.norm == "l2" || !self.evaluate.threats.is_empty(),
            "evaluate.norm = \"linf\" has no joint budget: set evaluate.threats (--threat) to \"each\" or names of modalities",
        );
        faults.extend(self.smooth.too_few_draws(1));
        faults.extend(self.training_faults());
        faults.extend(
            arsenal::parse(&self.evaluate.attacks)
                .err()
                .map(|e| visible(&format!("evaluate.attacks: {e}"))),
        );
        faults
    }

    /// Settings that are not what they may be, see [`schema`].
    fn out_of_range(&self) -> Vec<String> {
        let table = match Table::try_from(self) {
            Ok(table) => table,
            // Only whole numbers can be beyond what TOML holds.
            Err(_) => return self.too_large(),
        };
        let fault = |(key, value): (String, Value)| {
            let kind = &schema::setting(&key)?.kind;
            (!kind.allows(&value)).then(|| {
                format!(
                    "{} = {}: expected {kind}",
                    visible(&key),
                    schema::shown(&value)
                )
            })
        };
        flatten(&table).into_iter().filter_map(fault).collect()
    }

    fn too_large(&self) -> Vec<String> {
        let json = serde_json::to_value(self).unwrap_or_default();
        let fault = |setting: &schema::Setting| {
            let value = json
                .pointer(&format!("/{}", setting.key.replace('.', "/")))?
                .as_u64()
                .filter(|n| *n > SEEDS)?;
            Some(format!(
                "{} = {value}: expected {}",
                setting.key, setting.kind
            ))
        };
        schema::settings().iter().filter_map(fault).collect()
    }

    /// Refuses a plan with [`faults`](Self::faults), naming all.
    pub fn check(&self) -> Result<()> {
        match self.faults().as_slice() {
            [] => Ok(()),
            faults => bail!("{}", faults.join("\n")),
        }
    }

    fn is_lipschitz(&self) -> bool {
        let model = &self.model;
        model.memory == 0
            && model.encoder == "lipschitz"
            && model.encoders.values().all(|e| e == "lipschitz")
    }

    /// What can't be of the settings here, one line each.
    fn training_faults(&self) -> Vec<String> {
        let (train, adversary) = (&self.train, &self.adversary);
        let mut faults = vec![];
        let mut check = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        let certified = train.objective == "certified";
        check(
            train.objective != "certified" || self.model.head == "gauged",
            "train.objective = \"certified\" needs model.head = \"gauged\"",
        );
        check(
            self.step2.statistics == "fixed" || !certified,
            "step2.statistics = \"as-released\" moves what the certificate is of: set train.objective to another than \
             \"certified\"",
        );
        check(
            !self.step2.enabled || self.model.head != "concat",
            "step2.enabled needs integration weights: set model.head = \"orthonormal\"",
        );
        check(
            !certified || self.is_lipschitz(),
            "train.objective = \"certified\" needs 1-Lipschitz encoders: set model.encoder = \"lipschitz\" (for every \
             modality) and model.memory = 0",
        );
        check(
            !certified || train.inputs == "clean",
            "train.objective = \"certified\" needs train.inputs = \"clean\": it has a dropout of its own \
             (certified.modality_dropout)",
        );
        check(
            train.rho == 0.0 || train.objective == "cross-entropy",
            "train.rho is the margin term of train.objective = \"cross-entropy\"; set it to 0",
        );
        check(
            adversary.norm == "l2" || adversary.threat != "joint",
            "adversary.norm = \"linf\" has no joint budget: set adversary.threat to \"each\" or the name of a modality",
        );
        check(
            adversary.rule == "exact" || adversary.threat == "joint",
            "adversary.rule = \"as-released\" has a joint budget: set adversary.threat = \"joint\"",
        );
        check(
            adversary.budgets.is_empty() || adversary.threat != "joint",
            "adversary.budgets are of single modalities: set adversary.threat to \"each\" or the name of one",
        );
        check(
            self.select.criterion != "certified" || certified,
            "select.criterion = \"certified\" needs train.objective = \"certified\": other encoders are not 1-Lipschitz",
        );
        check(
            self.select.criterion != "attacked" || self.select.samples > 0,
            "select.criterion = \"attacked\" needs select.samples of at least 1",
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SmoothPlan;

    #[test]
    fn all_faults_are_named_at_once() {
        let mut plan = Plan {
            method: "jtt".into(),
            ..Plan::default()
        };
        plan.train.batch = 0;
        plan.evaluate.eps = vec![-1.0];
        let faults = plan.faults();
        assert_eq!(faults.len(), 3, "{faults:?}");
        for (fault, key) in faults.iter().zip(["evaluate.eps", "method", "train.batch"]) {
            assert!(fault.contains(key), "{fault}");
        }
    }

    #[test]
    fn draws_that_can_never_certify_are_refused() {
        let fault = |draws, alpha, certificates| {
            let plan = SmoothPlan {
                draws,
                alpha,
                ..SmoothPlan::default()
            };
            plan.too_few_draws(certificates)
        };
        // 0.001^(1/9) = 0.464, 0.001^(1/10) = 0.501.
        assert!(fault(9, 0.001, 1).is_some_and(|f| f.contains("at least 10 are needed")));
        assert_eq!(fault(10, 0.001, 1), None);
        // A half itself is not more than a half.
        assert!(fault(1, 0.5, 1).is_some_and(|f| f.contains("at least 2 are needed")));
        assert!(
            fault(10, 0.001, 3)
                .is_some_and(|f| f.contains("shared by 3 certificates; at least 12 are needed"))
        );
        assert!(
            fault(1000, 1e-320, 1).is_some(),
            "{:?}",
            fault(1000, 1e-320, 1)
        );
    }

    #[test]
    fn whole_numbers_beyond_a_file_are_named() {
        let mut plan = Plan::default();
        plan.smooth.draws = u64::MAX;
        plan.seed = u64::MAX;
        let faults = plan.faults().join("\n");
        assert!(
            faults
                .contains("smooth.draws = 18446744073709551615: expected a whole number from 1 to"),
            "{faults}"
        );
        assert!(faults.contains(
            "seed = 18446744073709551615: expected a whole number from 0 to 9223372036854775807"
        ));
    }
}
