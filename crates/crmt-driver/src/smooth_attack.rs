//! Attacks on a smoothed network: they see through the noise, and votes under fresh noise judge
//! what they find. Does not know how certificates are computed, only how far they claim to reach.
use crate::{
    drawn::ids,
    people::Voice,
    record::{Judged, SmoothedAttack},
    smoothed::Smoothed,
    threat::Threat,
};
use anyhow::Result;
use crmt_attacks::{Averaged, Draws, Goal, Loss, Norm, Pgd, run};
use crmt_certify::{CertifyError, Smoothing, Votes, binomial::lower_bound};
use crmt_core::{Classifier, PerModality, Streams};
use crmt_data::DataSet;
use std::{collections::BTreeSet, ops::ControlFlow};

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
    /// Probability that a certificate is wrong.
    pub alpha: f64,
}

/// Joint and each modality alone, at each budget, on the samples that `certified` is about: `steps`
/// gradient steps on the average, all of them taken, from the clean input.
pub fn attack(
    of: &Target,
    certified: &Smoothed,
    eps: &[f64],
    steps: usize,
    voice: &Voice,
) -> Result<(Vec<SmoothedAttack>, Judged)> {
    let names: Vec<String> = of.data.modalities.iter().map(|m| m.name.clone()).collect();
    let streams = Streams::new(of.seed);
    let averaged = Averaged::new(of.model, of.sigmas, COPIES, streams)?;
    let judge = Smoothing::new(of.sigmas.clone())?.draws(0, DRAWS);
    let threats = Threat::usual(names.len());
    let samples = certified.samples.len();
    let bar = voice.stage(
        "attacking the votes",
        (samples * threats.len() * eps.len()) as u64,
        "samples",
    );
    let mut results = vec![];
    let (mut all_inside, mut all_fell) = (BTreeSet::new(), BTreeSet::new());
    for threat in &threats {
        for eps in eps {
            let name = threat.name(&names);
            let (mut standing, mut inside, mut fell) = (0, 0, 0);
            let pgd = Pgd::quick(
                threat.budget(Norm::L2, *eps, names.len()),
                steps,
                Loss::Margin,
            );
            let pgd = Pgd {
                to_the_end: true,
                ..pgd
            };
            for part in certified.samples.chunks(ROWS) {
                let rows: Vec<usize> = part.iter().map(|s| s.sample as usize).collect();
                let batch = of.data.report.samples(&rows)?;
                let goal = Goal::Avoid(batch.labels.clone());
                let draws = Draws::for_samples(streams, ids(&rows));
                let moved = run(&pgd, &averaged, &batch.inputs, &goal, &draws)?.adversarial;
                // No certificate and no other attack has seen these draws: their ids are beyond any
                // sample's.
                let id = |row: usize| ((results.len() as u64 + 1) << SAMPLE_BITS) + row as u64;
                let mut votes: Vec<Votes> = rows.iter().map(|row| Votes::new(id(*row))).collect();
                let go = |_: &[Votes], _, _| ControlFlow::Continue(());
                let _ = judge
                    .run(of.model, &moved, &streams, &mut votes, of.chunk, go)
                    .map_err(of_sample)?;
                for (s, votes) in part.iter().zip(&votes) {
                    let own = votes.estimation.get(s.label as usize).copied().unwrap_or(0);
                    let most = votes.estimation.iter().max() == Some(&own);
                    // Wrong without an attacker counts as broken.
                    standing += u64::from(most && s.class.is_none_or(|class| class == s.label));
                    if s.class == Some(s.label) && s.radius(&name).is_some_and(|r| r > *eps) {
                        inside += 1;
                        all_inside.insert(s.sample);
                        if (own as f64) < least(DRAWS) {
                            fell += 1;
                            all_fell.insert(s.sample);
                        }
                    }
                }
                bar.inc(votes.len() as u64);
            }
            let accuracy = standing as f64 / samples.max(1) as f64;
            results.push(SmoothedAttack {
                threat: name,
                eps: *eps,
                accuracy,
                draws: DRAWS,
                inside,
                fell,
            });
        }
    }
    let judged = against_chance(
        all_inside.len() as u64,
        all_fell.len() as u64,
        of.alpha,
        results.len(),
    );
    Ok((results, judged))
}

/// A test of `fell` of `samples` independent certificates against chance: each is wrong with
/// probability `alpha` at most, and each of `attacks` is misjudged with [`MISJUDGED`] at most.
fn against_chance(samples: u64, fell: u64, alpha: f64, attacks: usize) -> Judged {
    let chance = (alpha + attacks as f64 * MISJUDGED).min(1.0);
    // Clopper and Pearson's lower bound exceeds `chance` exactly where so many or more have a
    // probability below the level.
    let beyond = fell > 0 && lower_bound(fell, samples, LEVEL) > chance;
    Judged {
        samples,
        fell,
        chance,
        violations: if beyond { fell } else { 0 },
    }
}

/// Of a right program, one run in a million is accused.
const LEVEL: f64 = 1e-6;
/// The probability of fewer than [`least`] votes for a class of probability one half.
const MISJUDGED: f64 = 1.0 / 30_000.0;

/// Of an id, those that number the sample.
const SAMPLE_BITS: u32 = 32;

/// The same about the sample that an id belongs to.
fn of_sample(e: CertifyError) -> CertifyError {
    match e {
        CertifyError::NaN { id } => CertifyError::NaN {
            id: id & ((1 << SAMPLE_BITS) - 1),
        },
        other => other,
    }
}

/// A class of probability one half or more has so many of `draws` votes, but for one time in 30,000
/// (four standard deviations).
fn least(draws: u64) -> f64 {
    0.5 * draws as f64 - 2.0 * (draws as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crmt_certify::binomial::upper_bound;

    #[test]
    fn a_class_of_one_half_is_misjudged_as_rarely_as_said() {
        // So many votes or fewer, by the bound of Clopper and Pearson: p = 1/2 is above it but for
        // one time in 30,000.
        let most = (least(DRAWS).ceil() - 1.0) as u64;
        assert!(
            upper_bound(most, DRAWS, MISJUDGED) < 0.5,
            "{most} votes of {DRAWS}"
        );
    }

    #[test]
    fn only_more_failures_than_chance_explains_are_violations() {
        // One in a thousand and 12 attacks: of 500 certificates 0.7 fall by chance.
        let of = |fell| against_chance(500, fell, 1e-3, 12).violations;
        assert_eq!([of(0), of(1), of(5)], [0, 0, 0]);
        assert_eq!([of(12), of(500)], [12, 500]);
        // P[Binomial(2, 0.0014) = 2] is 2e-6, above the level.
        assert_eq!(against_chance(2, 2, 1e-3, 12).violations, 0);
        assert_eq!(against_chance(0, 0, 1e-3, 12).violations, 0);
    }
}
