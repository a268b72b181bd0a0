//! Attacks on a smoothed network: they see through the noise, and votes under fresh noise judge what they find.
//! Does not know how certificates are computed, only how far they claim to reach.
use crate::{people::Voice, record::SmoothedAttack, smoothed::Smoothed, threat::Threat};
use anyhow::Result;
use crmt_attacks::{Averaged, Draws, Goal, Loss, Norm, Pgd, run};
use crmt_certify::{Smoothing, Votes};
use crmt_core::{Classifier, PerModality, Streams};
use crmt_data::DataSet;
use std::ops::ControlFlow;

/// Noisy copies in the attacked average.
const COPIES: usize = 16;
/// Samples attacked together: a gradient keeps all of their copies.
const ROWS: usize = 50;
/// Fresh draws that judge a sample.
const DRAWS: u64 = 1000;

/// A smoothed network with every modality.
pub struct Target<'a> {
    /// The network under the noise.
    pub model: &'a dyn Classifier,
    /// The report split is attacked.
    pub data: &'a DataSet,
    /// In declared units.
    pub sigmas: &'a PerModality<f64>,
    /// Of noise and starts.
    pub seed: u64,
    /// Noisy copies judged at once.
    pub chunk: usize,
}

/// Joint and each modality alone, at each budget, on the samples that `certified` is about: `steps` gradient steps on
/// the average, all of them taken, from the clean input.
pub fn attack(
    of: &Target,
    certified: &Smoothed,
    eps: &[f64],
    steps: usize,
    voice: &Voice,
) -> Result<Vec<SmoothedAttack>> {
    let names: Vec<String> = of.data.modalities.iter().map(|m| m.name.clone()).collect();
    let streams = Streams::new(of.seed);
    let averaged = Averaged::new(of.model, of.sigmas, COPIES, streams)?;
    let judge = Smoothing::new(of.sigmas.clone())?.draws(0, DRAWS);
    let threats = Threat::usual(names.len());
    let samples = certified.samples.len();
    let bar = voice.stage("attacking the votes", (samples * threats.len() * eps.len()) as u64);
    let mut results = vec![];
    for threat in &threats {
        for eps in eps {
            let name = threat.name(&names);
            let (mut standing, mut inside, mut fell) = (0, 0, 0);
            let pgd = Pgd::quick(threat.budget(Norm::L2, *eps, names.len()), steps, Loss::Margin);
            let pgd = Pgd { to_the_end: true, ..pgd };
            for start in (0..samples).step_by(ROWS) {
                let rows = start..(start + ROWS).min(samples);
                let batch = of.data.report.batch(rows.clone())?;
                let goal = Goal::Avoid(batch.labels.clone());
                let moved = run(&pgd, &averaged, &batch.inputs, &goal, &Draws::new(streams, start as u64))?.adversarial;
                // No certificate and no other attack has seen these draws: their ids are beyond any sample's.
                let id = |row: usize| ((results.len() as u64 + 1) << 32) + row as u64;
                let mut votes: Vec<Votes> = rows.clone().map(|row| Votes::new(id(row))).collect();
                let go = |_: &[Votes], _, _| ControlFlow::Continue(());
                let _ = judge.run(of.model, &moved, &streams, &mut votes, of.chunk, go)?;
                for (s, votes) in certified.samples[rows].iter().zip(&votes) {
                    let own = votes.estimation.get(s.label as usize).copied().unwrap_or(0);
                    let most = votes.estimation.iter().max() == Some(&own);
                    // Wrong without an attacker counts as broken.
                    standing += u64::from(most && s.class.is_none_or(|class| class == s.label));
                    if s.class == Some(s.label) && s.radius(&name).is_some_and(|r| r > *eps) {
                        inside += 1;
                        fell += u64::from((own as f64) < least(DRAWS));
                    }
                }
                bar.inc(votes.len() as u64);
            }
            let accuracy = standing as f64 / samples.max(1) as f64;
            results.push(SmoothedAttack { threat: name, eps: *eps, accuracy, draws: DRAWS, inside, fell });
        }
    }
    Ok(results)
}

/// A class of probability one half or more has so many of `draws` votes, but for one time in 30,000 (four standard
/// deviations).
fn least(draws: u64) -> f64 {
    0.5 * draws as f64 - 2.0 * (draws as f64).sqrt()
}
