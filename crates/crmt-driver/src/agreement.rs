//! Whether the program that a certificate is about says what the program that predicts says: where it does not, there is no
//! radius. Does not know how radii are computed.
use crate::{
    certification::{Evaluated, absent, exact},
    record::ProgramResult,
    threat::Threat,
};
use anyhow::Result;
use crmt_certify::Program;
use crmt_core::{AdditiveClassifier, AdditiveScores, Batch, Missing};
use crmt_data::DataSet;
use crmt_fusion::Model;

/// Margins of the two programs may differ by this part of the certified one.
const TOLERANCE: f64 = 0.1;

/// The network that predicts.
pub struct Deployed<'a> {
    model: &'a Model,
    absent: AdditiveScores,
}

impl<'a> Deployed<'a> {
    /// With the data set's baselines in the place of what is missing.
    pub fn new(model: &'a Model, data: &DataSet) -> Result<Self> {
        Ok(Self { model, absent: absent(model, data)? })
    }
}

/// What the comparison found so far.
pub struct Agreement<'a> {
    deployed: Deployed<'a>,
    result: ProgramResult,
}

/// Why a sample has no radius.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    OtherClass,
    OtherMargin,
}

impl<'a> Agreement<'a> {
    /// Nothing is compared yet.
    pub fn new(deployed: Deployed<'a>, program: Program) -> Self {
        let result = ProgramResult {
            program: program.to_string(),
            greatest_difference: 0.0,
            other_class: 0,
            other_margin: 0,
            rounding: 0,
            positive: 0,
        };
        Self { deployed, result }
    }

    /// Takes away the radii of samples on which the program that predicts disagrees. Which samples have none of the joint ones
    /// for that reason.
    pub fn compare(
        &mut self,
        of: &Evaluated,
        absent: &AdditiveScores,
        batch: &Batch,
        threats: &mut [(Threat, Vec<f64>)],
    ) -> Result<Vec<bool>> {
        let scores = exact(&self.deployed.model.scores(&batch.inputs)?)?;
        let modalities = scores.unimodal.len();
        let mut known: Vec<(Option<Missing>, Vec<Fault>, Vec<f64>)> = vec![];
        let mut joint = vec![false; batch.len()];
        for (threat, radii) in threats {
            for missing in threat.missing(modalities) {
                let at = match known.iter().position(|(of, ..)| *of == missing) {
                    Some(at) => at,
                    None => {
                        let certified = margins(&of.scores, absent, missing.as_ref(), &of.labels)?;
                        let predicting = margins(&scores, &self.deployed.absent, missing.as_ref(), &of.labels)?;
                        let faults = self.faults(&certified, &predicting);
                        known.push((missing, faults, certified));
                        known.len() - 1
                    }
                };
                let (_, faults, certified) = &known[at];
                for (i, (radius, fault)) in radii.iter_mut().zip(faults).enumerate() {
                    if *radius == 0.0 {
                        continue;
                    }
                    match fault {
                        Fault::None => continue,
                        Fault::OtherClass => self.result.other_class += 1,
                        Fault::OtherMargin => self.result.other_margin += 1,
                    }
                    *radius = 0.0;
                    joint[i] |= *threat == Threat::Joint && certified[i] > 0.0;
                }
            }
            let sets = threat.missing(modalities);
            let all_positive = |i: usize| {
                sets.iter().all(|set| {
                    known.iter().any(|(of, faults, margins)| of == set && margins[i] > 0.0 && faults[i] == Fault::None)
                })
            };
            for (i, radius) in radii.iter().enumerate() {
                self.result.positive += u64::from(*radius > 0.0);
                self.result.rounding += u64::from(*radius == 0.0 && all_positive(i));
            }
        }
        Ok(joint)
    }

    fn faults(&mut self, certified: &[f64], predicting: &[f64]) -> Vec<Fault> {
        let fault = |(own, other): (&f64, &f64)| {
            let difference = (own - other).abs();
            self.result.greatest_difference = self.result.greatest_difference.max(difference);
            // Also false for NaN.
            let agree = difference <= TOLERANCE * own.abs();
            match (*other > 0.0, agree) {
                _ if !(*own > 0.0) => Fault::None,
                (true, true) => Fault::None,
                (true, false) => Fault::OtherMargin,
                (false, _) => Fault::OtherClass,
            }
        };
        certified.iter().zip(predicting).map(fault).collect()
    }

    /// All of it.
    pub fn result(self) -> ProgramResult {
        self.result
    }
}

/// `min_j h_y - h_j` of each sample where some modalities are missing.
fn margins(
    scores: &AdditiveScores,
    absent: &AdditiveScores,
    missing: Option<&Missing>,
    labels: &[u32],
) -> Result<Vec<f64>> {
    let unimodal =
        scores.unimodal.zip(&absent.unimodal, "baselines")?.try_enumerate(|m, (own, absent)| {
            match missing.is_some_and(|missing| missing.contains(m)) {
                true => absent.broadcast_as(own.shape())?.contiguous(),
                false => Ok((*own).clone()),
            }
        })?;
    let logits = AdditiveScores { unimodal, weights: scores.weights.clone(), bias: scores.bias.clone() }.logits()?;
    let margin = |(row, label): (&Vec<f64>, &u32)| {
        let own = row[*label as usize];
        let rivals = row.iter().enumerate().filter(|(j, _)| *j != *label as usize);
        // NaN is no margin, and stays.
        rivals.fold(f64::INFINITY, |least, (_, h)| if least.is_nan() || (own - h) >= least { least } else { own - h })
    };
    Ok(logits.to_vec2::<f64>()?.iter().zip(labels).map(margin).collect())
}
