//! What attacks and smoothing will cost: passes through the network that a plan asks for, times one
//! measured pass. Does not know what is found on the way.
use crate::{arsenal::Named, people::Voice, plan::EvaluatePlan, precision::Precision};
use crmt_core::{Classifier, PerModality, Result, input_gradients};
use crmt_data::DataSet;
use std::time::{Duration, Instant};

/// Work that is shorter needs no announcement.
const WORTH_TELLING: Duration = Duration::from_secs(60);

/// Samples of the measured pass.
const PROBE: usize = 100;

/// So much of a gradient's time is a forward pass alone.
const FORWARD: f64 = 0.4;

/// Gradients of one sample at one budget that an attack takes, if nothing falls before; passes
/// without a gradient count for their part.
pub fn gradients(attack: &Named, plan: &EvaluatePlan, classes: usize, restarts: usize) -> f64 {
    let (steps, standard) = (plan.steps as f64, plan.standard_steps as f64);
    let targets = plan.targets.min(classes.saturating_sub(1)) as f64;
    let rivals = classes.saturating_sub(1) as f64;
    let restarts = if plan.restarts > 0 {
        plan.restarts
    } else {
        restarts
    } as f64;
    match attack.name {
        "fgm" | "released-fgm" => 1.0,
        "pgd" | "pgd-momentum" => steps * restarts,
        "released-pgd" => 4.0,
        "apgd-ce" | "apgd-dlr" => standard,
        "apgd-t" => standard * targets,
        "fab" | "deepfool" => standard * rivals,
        "fab-t" => standard * targets * 2.0,
        "square" => FORWARD * plan.queries as f64,
        "cw" => 9.0 * 100.0,
        "nearest" => 3.0 * standard * targets,
        // `standard`: its four members.
        _ => standard * (1.0 + 3.0 * targets) + FORWARD * plan.queries as f64,
    }
}

/// The time of one gradient of one sample, of a network that computes so.
pub fn seconds_per_gradient(
    model: &dyn Classifier,
    precision: Precision,
    data: &DataSet,
) -> anyhow::Result<f64> {
    let batch = precision.batch(data.report.batch(0..PROBE.min(data.report.len()))?)?;
    let samples = batch.labels.dim(0)?;
    let once = || -> Result<f64> {
        let start = Instant::now();
        let (gradients, ()) = input_gradients(&batch.inputs, |x: &PerModality<_>| {
            Ok((model.logits(x)?.sum_all()?, ()))
        })?;
        // On a GPU, waits until it is done.
        gradients.iter().try_for_each(|g| {
            g.flatten_all()?
                .get(0)?
                .to_device(&candle_core::Device::Cpu)
                .map(drop)
        })?;
        Ok(start.elapsed().as_secs_f64() / samples as f64)
    };
    // The first one warms up; of two more, the faster is less disturbed.
    once()?;
    Ok(once()?.min(once()?))
}

/// The time of `forward` passes of one sample.
pub fn forward_seconds(model: &dyn Classifier, data: &DataSet, passes: f64) -> anyhow::Result<f64> {
    Ok(FORWARD * passes * seconds_per_gradient(model, Precision::F32, data)?)
}

/// Says what is about to begin will take, and what would make it shorter, if it is long.
pub fn announce(what: &str, seconds: f64, cheaper: &str, voice: &Voice) {
    if seconds > WORTH_TELLING.as_secs_f64() {
        voice.say(format!(
            "  {what}: up to about {}; {cheaper}",
            spoken(seconds)
        ));
    }
}

/// To two digits, in the unit in which people say it.
fn spoken(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} seconds"),
        s if s < 5400.0 => format!("{:.0} minutes", s / 60.0),
        s if s < 36_000.0 => format!("{:.1} hours", s / 3600.0),
        s if s < 172_800.0 => format!("{:.0} hours", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arsenal, plan::Plan};

    #[test]
    fn stronger_attacks_cost_more_and_effort_follows_the_settings() {
        let of = |name: &str, plan: &EvaluatePlan| {
            gradients(arsenal::parse(&[name.to_owned()]).unwrap()[0], plan, 10, 3)
        };
        let plan = Plan::default().evaluate;
        assert_eq!(
            (of("fgm", &plan), of("pgd", &plan)),
            (1.0, 3.0 * plan.steps as f64)
        );
        assert!(
            of("pgd", &plan) < of("apgd-t", &plan) && of("apgd-t", &plan) < of("standard", &plan)
        );
        let longer = EvaluatePlan {
            steps: 2 * plan.steps,
            ..plan.clone()
        };
        assert_eq!(of("pgd", &longer), 2.0 * of("pgd", &plan));
        // Each attack has an estimate of its own: none falls to the last line but the ensemble.
        let ensemble = of("standard", &plan);
        let same: Vec<_> = arsenal::ATTACKS
            .iter()
            .filter(|a| gradients(a, &plan, 10, 3) == ensemble)
            .map(|a| a.name)
            .collect();
        assert_eq!(same, ["standard"]);
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        for (seconds, words) in [
            (75.0, "75 seconds"),
            (600.0, "10 minutes"),
            (9000.0, "2.5 hours"),
            (1e6, "12 days"),
        ] {
            assert_eq!(spoken(seconds), words);
        }
    }
}
