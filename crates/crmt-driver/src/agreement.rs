//! Whether the program that a certificate is about says what the program that predicts says: where it does not, there is no
//! radius. Does not know how radii are computed.
use crate::{certification::Evaluated, record::ProgramResult, report::SampleRow, threat::Threat};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use crmt_certify::Program;
use crmt_core::{AdditiveClassifier, AdditiveScores, Missing, PerModality};
use crmt_data::DataSet;
use crmt_fusion::Model;

/// Margins of the two programs may differ by this part of the certified one.
const TOLERANCE: f64 = 0.1;

/// `min_j h_y - h_j` of each sample, by what is missing.
pub type Margins = Vec<(Option<Missing>, Vec<f64>)>;

/// The network that predicts.
pub struct Deployed<'a> {
    model: &'a Model,
    baselines: PerModality<Tensor>,
    /// The scores of so many copies of the baselines: in f32, a batch of another size may be rounded otherwise.
    absent: Option<(usize, AdditiveScores)>,
}

impl<'a> Deployed<'a> {
    /// With the data set's baselines in the place of what is missing.
    pub fn new(model: &'a Model, data: &DataSet) -> Result<Self> {
        let device = data.device();
        let baselines = data.baselines.try_map(|b| b.unsqueeze(0)?.to_device(device))?;
        Ok(Self { model, baselines, absent: None })
    }

    /// Margins over the other classes, of a batch of which the network says `scores`.
    pub fn margins(&mut self, scores: &AdditiveScores, labels: &[u32]) -> Result<Margins> {
        let scores = on_host(scores)?;
        let absent = self.absent(labels.len())?;
        let of = |missing: Option<Missing>| {
            let margins = margins(&scores, absent, missing.as_ref(), labels)?;
            Ok((missing, margins))
        };
        missing_sets(scores.unimodal.len()).into_iter().map(of).collect()
    }

    /// Scores where every modality is missing, of a batch of `samples`.
    fn absent(&mut self, samples: usize) -> Result<&AdditiveScores> {
        if self.absent.as_ref().is_none_or(|(n, _)| *n != samples) {
            let copies = self.baselines.try_map(|b| b.repeat([&[samples], &vec![1; b.rank() - 1][..]].concat()))?;
            self.absent = Some((samples, on_host(&self.model.scores(&copies)?)?));
        }
        Ok(&self.absent.as_ref().expect("just computed").1)
    }
}

/// What may be missing under some threat.
fn missing_sets(modalities: usize) -> Vec<Option<Missing>> {
    let mut sets = vec![];
    for missing in Threat::all(modalities).iter().flat_map(|threat| threat.missing(modalities)) {
        if !sets.contains(&missing) {
            sets.push(missing);
        }
    }
    sets
}

/// Writes margins of modalities with these names into the samples' rows. One that is not a number is left out.
pub fn write_to(rows: &mut [SampleRow], margins: &Margins, names: &[String]) {
    for (missing, margins) in margins {
        let key = key(missing.as_ref(), names);
        let defined = rows.iter_mut().zip(margins).filter(|(_, margin)| !margin.is_nan());
        defined.for_each(|(row, margin)| {
            row.margins.insert(key.clone(), *margin);
        });
    }
}

/// What [`write_to`] wrote into rows; NaN where there is none.
pub fn read(rows: &[SampleRow], names: &[String]) -> Margins {
    let of = |missing: Option<Missing>| {
        let key = key(missing.as_ref(), names);
        let margins = rows.iter().map(|row| row.margins.get(&key).copied().unwrap_or(f64::NAN)).collect();
        (missing, margins)
    };
    missing_sets(names.len()).into_iter().map(of).collect()
}

/// Empty where nothing is missing.
fn key(missing: Option<&Missing>, names: &[String]) -> String {
    missing.map(|gone| Threat::Without(gone.clone()).name(names)).unwrap_or_default()
}

/// What the comparison found so far.
pub struct Agreement {
    result: ProgramResult,
}

/// Why a sample has no radius.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    OtherClass,
    OtherMargin,
}

impl Agreement {
    /// Nothing is compared yet with certificates about `program`.
    pub fn new(program: Program) -> Self {
        let result = ProgramResult {
            program: program.to_string(),
            greatest_difference: 0.0,
            other_class: 0,
            other_margin: 0,
            rounding: 0,
            positive: 0,
        };
        Self { result }
    }

    /// Takes away the radii of samples on which the program that predicts disagrees; `predicting` are its margins. Which samples
    /// have none of the joint ones for that reason.
    pub fn compare(
        &mut self,
        of: &Evaluated,
        absent: &AdditiveScores,
        predicting: &Margins,
        threats: &mut [(Threat, Vec<f64>)],
    ) -> Result<Vec<bool>> {
        let modalities = of.scores.unimodal.len();
        let mut known: Vec<(Option<Missing>, Vec<Fault>, Vec<f64>)> = vec![];
        let mut joint = vec![false; of.labels.len()];
        for (threat, radii) in threats {
            for missing in threat.missing(modalities) {
                let at = match known.iter().position(|(of, ..)| *of == missing) {
                    Some(at) => at,
                    None => {
                        let certified = margins(&of.scores, absent, missing.as_ref(), &of.labels)?;
                        let predicting = predicting.iter().find(|(set, _)| *set == missing);
                        let (_, predicting) = predicting.context("no margins of the program that predicts")?;
                        let faults = self.faults(&certified, predicting);
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
            match (*own > 0.0, *other > 0.0, agree) {
                // Nothing is certified there.
                (false, ..) | (true, true, true) => Fault::None,
                (true, true, false) => Fault::OtherMargin,
                (true, false, _) => Fault::OtherClass,
            }
        };
        certified.iter().zip(predicting).map(fault).collect()
    }

    /// All of it.
    pub fn result(self) -> ProgramResult {
        self.result
    }
}

/// In the precision they were computed in: sums of rounded terms are rounded again.
fn on_host(scores: &AdditiveScores) -> Result<AdditiveScores> {
    let host = |t: &Tensor| t.to_device(&Device::Cpu);
    Ok(AdditiveScores {
        unimodal: scores.unimodal.try_map(host)?,
        weights: scores.weights.try_map(host)?,
        bias: host(&scores.bias)?,
    })
}

/// Of each sample where some modalities are missing, from logits as the program adds them up.
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
    Ok(logits.to_dtype(DType::F64)?.to_vec2::<f64>()?.iter().zip(labels).map(margin).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        certification::{OfBatch, absent},
        checkpoint::Architecture,
        lipschitz::{Bounds, Constants},
        people::Voice,
        plan::Plan,
        run::open_data,
    };
    use crmt_core::{Classifier, Streams, Trainable};
    use std::collections::BTreeMap;

    /// Every hidden unit shifted up and taken off again: the same function in real arithmetic, and less and less of it in f32.
    /// No sample that the f32 program gets wrong keeps a radius, whatever is missing.
    #[test]
    fn what_predicts_otherwise_has_no_radius() -> Result<()> {
        let mut plan = Plan::default();
        plan.model.encoder = "mlp".into();
        (plan.model.mlp_width, plan.model.mlp_depth, plan.model.features) = (16, 1, 12);
        (plan.synthetic.train, plan.synthetic.select, plan.synthetic.report) = (20, 10, 120);
        plan.certify.evidence = "proved".into();
        let data = open_data(&plan)?;
        let architecture =
            Architecture::new(&data.modalities, &data.classes, plan.head(), |m| plan.encoder(&m.name, &m.shape));
        let learner = architecture.learner(Streams::new(5), &Device::Cpu)?;
        let trained: BTreeMap<String, Tensor> =
            learner.variables().into_iter().map(|v| (v.name, v.var.as_detached_tensor())).collect();
        let mut withdrawn = vec![];
        for shift in [0.0, 4096.0, 65536.0, 262144.0, 1048576.0, 16777216.0] {
            let mut weights = trained.clone();
            for modality in &data.modalities {
                let name = |part: &str| format!("encoders.{}.{part}", modality.name);
                let (bias, last) = (&trained[&name("fc1.bias")], &trained[&name("fc.bias")]);
                let moved = (trained[&name("fc.weight")].sum(1)? * shift)?;
                weights.insert(name("fc1.bias"), (bias + shift)?);
                weights.insert(name("fc.bias"), (last - moved)?);
            }
            let voice = Voice::new(true);
            let bounds = Bounds::of(&plan, &data, Streams::new(0), &architecture, &weights, &voice)?;
            let deployed = architecture.model(&weights, DType::F32, &Device::Cpu)?;
            let batch = data.report.batch(0..data.report.len())?;
            // An untrained network is right about its own predictions.
            let mut of = Evaluated::new(&bounds.model, &batch, &data)?;
            of.labels = of.scores.logits()?.argmax(1)?.to_vec1()?;
            let absent = absent(&bounds.model, &data)?;
            let Constants::Proved(constants) = bounds.constants()? else { unreachable!("proved") };
            let mut radii = OfBatch::new(&constants, &of, &absent)?;
            let mut agreement = Agreement::new(constants.program());
            let predicting = Deployed::new(&deployed, &data)?.margins(&deployed.scores(&batch.inputs)?, &of.labels)?;
            agreement.compare(&of, &absent, &predicting, &mut radii.threats)?;
            let mut kept = 0;
            for (threat, radii) in &radii.threats {
                for missing in threat.missing(data.modalities.len()) {
                    let inputs = match &missing {
                        Some(missing) => missing.apply(&batch.inputs, &data.baselines)?,
                        None => batch.inputs.clone(),
                    };
                    let predicted = deployed.logits(&inputs)?.argmax(1)?.to_vec1::<u32>()?;
                    for (i, radius) in radii.iter().enumerate().filter(|(_, radius)| **radius > 0.0) {
                        assert_eq!(predicted[i], of.labels[i], "shift {shift}, {threat:?}: radius {radius}");
                        kept += 1;
                    }
                }
            }
            let result = agreement.result();
            assert_eq!(result.program, "f64");
            withdrawn.push((result.other_class + result.other_margin, result.rounding, kept));
        }
        // As it was drawn, the two programs agree to 1e-5 or so, and nothing is lost; shifted far enough, most is.
        assert_eq!((withdrawn[0].0, withdrawn[0].1), (0, 0), "{withdrawn:?}");
        assert!(withdrawn[0].2 > 300 && withdrawn[5].0 > 300, "{withdrawn:?}");
        Ok(())
    }
}
