//! The objective that a plan asks for, on its data set. A new strategy is a line here.
//! Does not know the loop.
use crate::{
    drawn::drawn,
    plan::{AdversaryPlan, Plan},
    sigmas::sigmas,
};
use anyhow::{Context, Result, bail};
use crmt_attacks::{Attack, Budget, Norm, Pgd, released::TrainingPgd};
use crmt_core::{Mode, PerModality, Streams};
use crmt_data::DataSet;
use crmt_train::{
    Certified, Crmt, GBlend, MarginRule, ModalityDropout, Msefm, OgmGe, Pmr, PmrSettings, Reach,
    Strategy, TrainingInputs,
};

/// For a first phase of `steps` batches.
pub fn strategy(
    plan: &Plan,
    data: &DataSet,
    streams: &Streams,
    steps: u64,
) -> Result<Box<dyn Strategy>> {
    let inputs = inputs(plan, data)?;
    Ok(match plan.train.objective.as_str() {
        "certified" => Box::new(certified(plan, data, steps)),
        "g-blend" => {
            let samples = plan.g_blend.samples;
            let select = data
                .select
                .samples(&drawn(samples, data.select.len(), streams))?;
            Box::new(GBlend::new(
                inputs,
                plan.g_blend.every,
                data.train_sample(streams, samples)?,
                select,
            ))
        }
        "ogm-ge" => Box::new(OgmGe {
            inputs,
            alpha: plan.ogm_ge.alpha,
            noise: plan.ogm_ge.noise,
        }),
        "pmr" => {
            let settings = PmrSettings {
                alpha: plan.pmr.alpha,
                mu: plan.pmr.mu,
                momentum: plan.pmr.momentum,
                early: (plan.pmr.early * steps as f64) as u64,
                classes: data.classes.len(),
            };
            Box::new(Pmr::new(
                inputs,
                settings,
                data.train_sample(streams, plan.pmr.samples)?,
            ))
        }
        "msefm" => Box::new(Msefm {
            inputs,
            lambda: plan.msefm.lambda,
        }),
        _ => Box::new(Crmt {
            rho: plan.train.rho,
            mixed_margin: match plan.train.mixed_margin.as_str() {
                "as-released" => MarginRule::AsReleased,
                _ => MarginRule::Exact,
            },
            inputs,
        }),
    })
}

fn certified(plan: &Plan, data: &DataSet, steps: u64) -> Certified {
    let settings = &plan.certified;
    Certified {
        eps: settings.eps,
        reach: match settings.threat.as_str() {
            "each" => Reach::Each,
            "one" => Reach::One,
            _ => Reach::Joint,
        },
        kappa: settings.kappa,
        lambda: settings.lambda,
        ramp: settings.ramp,
        steps,
        units: data.modalities.map(|m| m.scale),
        dropout: dropout(settings.modality_dropout, data),
    }
}

fn dropout(probability: f64, data: &DataSet) -> ModalityDropout {
    ModalityDropout {
        probability,
        baselines: data.baselines.clone(),
    }
}

fn inputs(plan: &Plan, data: &DataSet) -> Result<TrainingInputs> {
    Ok(match plan.train.inputs.as_str() {
        "adversarial" => TrainingInputs::Adversarial {
            attack: adversary(&plan.adversary, data)?,
            mode: if plan.adversary.statistics == "as-released" {
                Mode::Train
            } else {
                Mode::Eval
            },
        },
        "mixup" => TrainingInputs::Mixup {
            alpha: plan.train.mixup_alpha,
        },
        "noise" => TrainingInputs::Noise {
            sigmas: sigmas("train.noises", plan.train.noise, &plan.train.noises, data)?,
        },
        "dropout" => TrainingInputs::Dropout(dropout(plan.train.modality_dropout, data)),
        _ => TrainingInputs::Clean,
    })
}

fn adversary(plan: &AdversaryPlan, data: &DataSet) -> Result<Box<dyn Attack>> {
    if plan.rule == "as-released" {
        return Ok(Box::new(TrainingPgd::new(plan.eps, plan.steps)));
    }
    Ok(Box::new(Pgd::training(
        budget(plan, data)?,
        plan.steps,
        plan.relative_step,
    )))
}

fn budget(plan: &AdversaryPlan, data: &DataSet) -> Result<Budget> {
    let norm = if plan.norm == "linf" {
        Norm::Linf
    } else {
        Norm::L2
    };
    let radii = sigmas("adversary.budgets", plan.eps, &plan.budgets, data)?;
    match plan.threat.as_str() {
        "joint" => return Ok(Budget::Joint(plan.eps)),
        "each" if radii.iter().all(|r| *r == 0.0) => {
            bail!("adversary.budgets leave nothing to any modality")
        }
        "each" => return Ok(Budget::Each { norm, radii }),
        _ => {}
    }
    let names: Vec<&str> = data.modalities.iter().map(|m| m.name.as_str()).collect();
    let known = || format!("joint, each, {}", names.join(", "));
    let Some(attacked) = names.iter().position(|name| *name == plan.threat) else {
        bail!(
            "adversary.threat = \"{}\": expected one of {}",
            plan.threat,
            known()
        );
    };
    if radii[attacked] == 0.0 {
        bail!(
            "adversary.budgets.{} = 0: nothing is left to the modality that is attacked",
            plan.threat
        );
    }
    let radii = PerModality::from_fn(radii.len(), |m| if m == attacked { radii[m] } else { 0.0 });
    Ok(Budget::Each { norm, radii })
}

/// Refuses what only the data can tell.
pub fn check(plan: &Plan, data: &DataSet) -> Result<()> {
    budget(&plan.adversary, data).context("adversarial training")?;
    sigmas("train.noises", plan.train.noise, &plan.train.noises, data).map(|_| ())
}
