//! Randomized smoothing of a trained network: votes are drawn, kept, and turned into certificates.
//! Does not know what is made of the certificates, nor radii that follow from Lipschitz constants.
use crate::{
    drawn::drawn,
    effort,
    people::Voice,
    plan::SmoothPlan,
    run_dir::{self, RunDir},
    sealed,
    sigmas::sigmas,
    smoothed::{Certified, Smoothed},
    threat::JOINT,
    votes::{Origin, Store},
};
use anyhow::{Result, bail};
use candle_core::Tensor;
use crmt_certify::{SmoothCertificate, Smoothing, Votes, WeightsHash, binomial::lower_bound};
use crmt_core::{Classifier, Missing, PerModality, Streams};
use crmt_data::DataSet;
use sha2::{Digest, Sha256};
use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

/// Between two writes of the votes.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// Whose votes are counted.
pub struct Subject<'a> {
    /// The network, in f32.
    pub model: &'a dyn Classifier,
    /// Its hash.
    pub weights: &'a str,
    /// What it is smoothed on: the report split.
    pub data: &'a DataSet,
    /// Of that split.
    pub report_sha256: &'a str,
    /// The seed of the noise.
    pub seed: u64,
    /// Where votes are kept.
    pub dir: &'a RunDir,
}

/// One smoothed classifier: with every modality, or without some.
struct Variant {
    missing: Option<Missing>,
    name: String,
    smoothing: Smoothing,
    draws: u64,
    alpha: f64,
    votes: Vec<Votes>,
}

/// Smooths on drawn samples: with every modality first, then, if the plan says so, without each.
pub fn smooth(of: &Subject, plan: &SmoothPlan, voice: &Voice) -> Result<Vec<Smoothed>> {
    let names = of.data.modalities.map(|m| m.name.clone());
    let sigmas = sigmas("smooth.sigmas", plan.sigma, &plan.sigmas, of.data)?;
    let samples = drawn(plan.samples, of.data.report.len(), &Streams::new(of.seed));
    let mut variants = variants(of, plan, &sigmas)?;
    let mut store = Store::open(of.dir, origin(of, plan, &names, &sigmas)?, voice)?;
    let batch = of.data.report.samples(&samples)?;
    draw(
        of,
        plan,
        &samples,
        &batch.inputs,
        &mut variants,
        &mut store,
        voice,
    )?;
    let labels = batch.labels.to_vec1::<u32>()?;
    variants
        .iter()
        .map(|variant| variant.smoothed(&labels, &names, of.weights))
        .collect()
}

/// All that a vote depends on: neither the number of samples nor alpha.
fn origin(
    of: &Subject,
    plan: &SmoothPlan,
    names: &PerModality<String>,
    sigmas: &PerModality<f64>,
) -> Result<Origin> {
    let mut baselines = Sha256::new();
    of.data
        .baselines
        .iter()
        .try_for_each(|b| sealed::bytes(b).map(|bytes| baselines.update(bytes)))?;
    let settings = [
        // Another number where what is counted changes: votes of older programs are not used.
        ("format", "2".to_owned()),
        ("weights", of.weights.to_owned()),
        ("report_sha256", of.report_sha256.to_owned()),
        ("baselines_sha256", sealed::hex(baselines)),
        ("seed", of.seed.to_string()),
        ("selection_draws", plan.selection_draws.to_string()),
        ("draws", plan.draws.to_string()),
    ];
    let sigmas = names
        .iter()
        .zip(sigmas)
        .map(|(name, sigma)| (format!("sigma.{name}"), sigma.to_string()));
    Ok(settings
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .chain(sigmas)
        .collect())
}

/// The network with every modality, and without each.
fn variants(of: &Subject, plan: &SmoothPlan, sigmas: &PerModality<f64>) -> Result<Vec<Variant>> {
    let modalities = sigmas.len();
    if plan.missing && modalities == 1 {
        bail!("smooth.missing: nothing is left without the only modality; leave --missing out");
    }
    let each = if plan.missing {
        Missing::each(modalities)
    } else {
        vec![]
    };
    let certificates = 1 + each.len();
    if let Some(fault) = plan.too_few_draws(certificates) {
        bail!(fault);
    }
    let variant = |missing: Option<Missing>| {
        // A baseline gets no noise.
        let gone = |m| missing.as_ref().is_some_and(|missing| missing.contains(m));
        let sigmas = PerModality::from_fn(modalities, |m| if gone(m) { 0.0 } else { sigmas[m] });
        let name = missing
            .as_ref()
            .map_or_else(String::new, |missing| missing.describe(&of.data.modalities));
        if sigmas.iter().all(|s| *s == 0.0) {
            let without = if name.is_empty() {
                String::new()
            } else {
                format!(" without {name}")
            };
            bail!(
                "smooth.sigma: every modality{without} has sigma 0, so nothing is smoothed; give one a positive sigma"
            );
        }
        let smoothing = Smoothing::new(sigmas)?
            .draws(plan.selection_draws, plan.draws)
            .alpha(plan.alpha)?;
        let smoothing = smoothing
            .one_of(certificates)
            .for_weights(WeightsHash::new(of.weights));
        let alpha = plan.alpha / certificates as f64;
        Ok(Variant {
            missing,
            name,
            smoothing,
            draws: plan.draws,
            alpha,
            votes: vec![],
        })
    };
    [None]
        .into_iter()
        .chain(each.into_iter().map(Some))
        .map(variant)
        .collect()
}

/// Draws what is not drawn yet. Votes are saved at once, so that a full disk is noticed before
/// hours of work, then now and then, and at the end.
fn draw(
    of: &Subject,
    plan: &SmoothPlan,
    samples: &[usize],
    inputs: &PerModality<Tensor>,
    variants: &mut [Variant],
    store: &mut Store,
    voice: &Voice,
) -> Result<()> {
    let counted = |votes: &[Votes]| {
        votes
            .iter()
            .flat_map(|v| v.selection.iter().chain(&v.estimation))
            .sum::<u64>()
    };
    let total = (variants.len() * samples.len()) as u64 * (plan.selection_draws + plan.draws);
    let known: u64 = variants
        .iter()
        .map(|v| counted(&store.votes(&v.name, &v.smoothing, samples)))
        .sum();
    if known > 0 {
        voice.say(format!(
            "  {known} of {total} draws are in {} already",
            of.dir.file(run_dir::VOTES).display()
        ));
    }
    let seconds = effort::forward_seconds(of.model, of.data, total.saturating_sub(known) as f64)?;
    effort::announce(
        "smoothing",
        seconds,
        "--samples and --draws make it shorter",
        voice,
    );
    let bar = voice.stage("smoothing", total.saturating_sub(known), "draws");
    let mut saved: Option<Instant> = None;
    for variant in variants {
        let inputs = match &variant.missing {
            Some(missing) => missing.apply(inputs, &of.data.baselines)?,
            None => inputs.clone(),
        };
        let mut votes = store.votes(&variant.name, &variant.smoothing, samples);
        let mut seen = counted(&votes);
        let mut failed = None;
        let progress = |votes: &[Votes], done: u64, _: u64| {
            bar.inc(done - seen);
            seen = done;
            if saved.is_none_or(|at| at.elapsed() >= SAVE_EVERY) {
                saved = Some(Instant::now());
                failed = store.save(&variant.name, votes).err();
            }
            if failed.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let flow = variant.smoothing.run(
            of.model,
            &inputs,
            &Streams::new(of.seed),
            &mut votes,
            plan.chunk,
            progress,
        )?;
        if let (ControlFlow::Break(()), Some(e)) = (flow, failed) {
            return Err(e);
        }
        store.save(&variant.name, &votes)?;
        variant.votes = votes;
    }
    Ok(())
}

impl Variant {
    fn smoothed(
        &self,
        labels: &[u32],
        names: &PerModality<String>,
        weights: &str,
    ) -> Result<Smoothed> {
        let weights = WeightsHash::new(weights);
        let gone = |m: usize| {
            self.missing
                .as_ref()
                .is_some_and(|missing| missing.contains(m))
        };
        let present: Vec<usize> = (0..names.len()).filter(|m| !gone(*m)).collect();
        let certified = |(votes, label): (&Votes, &u32)| {
            // One-sided, as agreed before the draws: bounding rivals as well would take half of
            // alpha, and of a clear winner certify less; the better of the two, chosen afterwards,
            // would fail more often than alpha.
            let certificate = self.smoothing.certificate(votes)?;
            certificate.iter().try_for_each(|c| c.check(&weights))?;
            let each = certificate.as_ref().map(SmoothCertificate::unimodal);
            let alone = |m: usize| each.as_ref().map_or(0.0, |each| each[m]);
            let joint = present
                .iter()
                .map(|m| alone(*m))
                .fold(f64::INFINITY, f64::min);
            let alone = present.iter().map(|m| (names[*m].clone(), alone(*m)));
            let count = votes
                .selected()
                .and_then(|k| votes.estimation.get(k as usize))
                .copied()
                .unwrap_or(0);
            Ok(Certified {
                sample: votes.id,
                label: *label,
                class: certificate.as_ref().map(SmoothCertificate::class),
                count,
                p_lower: lower_bound(count, self.draws, self.alpha),
                radius: certificate.as_ref().map_or(0.0, SmoothCertificate::radius),
                radii: [(JOINT.to_owned(), joint)]
                    .into_iter()
                    .chain(alone)
                    .collect(),
            })
        };
        let samples = self
            .votes
            .iter()
            .zip(labels)
            .map(certified)
            .collect::<Result<_>>()?;
        Ok(Smoothed {
            missing: self.name.clone(),
            samples,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::Plan, run::open_data};
    use crmt_core::Modality;
    use std::cell::RefCell;

    /// Keeps the inputs that it is asked about, of each modality, and has no preference.
    struct Recording {
        modalities: PerModality<Modality>,
        seen: PerModality<RefCell<Vec<Vec<f32>>>>,
    }

    impl Classifier for Recording {
        fn modalities(&self) -> &PerModality<Modality> {
            &self.modalities
        }
        fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
            let mut logits = Tensor::zeros((x[0].dim(0)?, 10), x[0].dtype(), x[0].device())?;
            for (x, seen) in x.iter().zip(&self.seen) {
                let flat = x.flatten_from(1)?;
                logits = logits.broadcast_add(&flat.sum_keepdim(1)?)?;
                // Gradients are asked for to tell how long votes take.
                if !x.track_op() {
                    seen.borrow_mut().extend(flat.to_vec2::<f32>()?);
                }
            }
            Ok(logits)
        }
    }

    /// The certificate without a modality is about its declared baseline, on which there is no
    /// noise; what is there has noise on every copy.
    #[test]
    fn what_is_missing_gets_no_noise() -> Result<()> {
        let mut plan = Plan::default();
        (
            plan.synthetic.train,
            plan.synthetic.select,
            plan.synthetic.report,
        ) = (20, 10, 10);
        let smooth_plan = SmoothPlan {
            samples: 2,
            draws: 12,
            selection_draws: 3,
            missing: true,
            ..plan.smooth.clone()
        };
        let data = open_data(&plan)?;
        let model = Recording {
            modalities: data.modalities.clone(),
            seen: data.modalities.map(|_| RefCell::new(vec![])),
        };
        let out = tempfile::tempdir()?;
        let dir = RunDir::create(&out.path().join("r"), false)?;
        let of = Subject {
            model: &model,
            weights: "w",
            data: &data,
            report_sha256: "r",
            seed: 0,
            dir: &dir,
        };
        smooth(&of, &smooth_plan, &Voice::new(true))?;
        // With everything there, and without each: two samples, fifteen draws.
        for (m, seen) in model.seen.iter().enumerate() {
            let baseline = data.baselines[m].flatten_all()?.to_vec1::<f32>()?;
            let seen = seen.borrow();
            let at_baseline =
                |copies: &[Vec<f32>]| copies.iter().filter(|copy| **copy == baseline).count();
            assert_eq!(seen.len(), (1 + data.modalities.len()) * 30);
            for (variant, copies) in seen.chunks(30).enumerate() {
                let expected = if variant == m + 1 { 30 } else { 0 };
                assert_eq!(
                    at_baseline(copies),
                    expected,
                    "modality {m}, variant {variant}"
                );
            }
        }
        Ok(())
    }
}
