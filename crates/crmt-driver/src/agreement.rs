//! Whether the program that a certificate is about says what the program that predicts says: where
//! it does not, there is no radius. Does not know how radii are computed.
use crate::{evaluated::Evaluated, record::ProgramResult, sample_row::SampleRow, threat::Threat};
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
    /// The scores of so many copies of the baselines: in f32, a batch of another size may be
    /// rounded otherwise.
    absent: Option<(usize, AdditiveScores)>,
}

impl<'a> Deployed<'a> {
    /// With the data set's baselines in the place of what is missing.
    pub fn new(model: &'a Model, data: &DataSet) -> Result<Self> {
        let device = data.device();
        let baselines = data
            .baselines
            .try_map(|b| b.unsqueeze(0)?.to_device(device))?;
        Ok(Self {
            model,
            baselines,
            absent: None,
        })
    }

    /// Margins over the other classes, of a batch of which the network says `scores`.
    pub fn margins(&mut self, scores: &AdditiveScores, labels: &[u32]) -> Result<Margins> {
        let scores = on_host(scores)?;
        let absent = self.absent(labels.len())?;
        let of = |missing: Option<Missing>| {
            let margins = margins(&scores, absent, missing.as_ref(), labels)?;
            Ok((missing, margins))
        };
        missing_sets(scores.unimodal.len())
            .into_iter()
            .map(of)
            .collect()
    }

    /// Scores where every modality is missing, of a batch of `samples`.
    fn absent(&mut self, samples: usize) -> Result<&AdditiveScores> {
        if self.absent.as_ref().is_none_or(|(n, _)| *n != samples) {
            let copies = self
                .baselines
                .try_map(|b| b.repeat([&[samples], &vec![1; b.rank() - 1][..]].concat()))?;
            self.absent = Some((samples, on_host(&self.model.scores(&copies)?)?));
        }
        Ok(&self.absent.as_ref().expect("just computed").1)
    }
}

/// What may be missing under some threat.
fn missing_sets(modalities: usize) -> Vec<Option<Missing>> {
    let mut sets = vec![];
    for missing in Threat::all(modalities)
        .iter()
        .flat_map(|threat| threat.missing(modalities))
    {
        if !sets.contains(&missing) {
            sets.push(missing);
        }
    }
    sets
}

/// Writes margins of modalities with these names into the samples' rows. One that is not a number
/// is left out.
pub fn write_to(rows: &mut [SampleRow], margins: &Margins, names: &[String]) {
    for (missing, margins) in margins {
        let key = key(missing.as_ref(), names);
        let defined = rows
            .iter_mut()
            .zip(margins)
            .filter(|(_, margin)| !margin.is_nan());
        defined.for_each(|(row, margin)| {
            row.margins.insert(key.clone(), *margin);
        });
    }
}

/// What [`write_to`] wrote into rows; NaN where there is none.
pub fn read(rows: &[SampleRow], names: &[String]) -> Margins {
    let of = |missing: Option<Missing>| {
        let key = key(missing.as_ref(), names);
        let margins = rows
            .iter()
            .map(|row| row.margins.get(&key).copied().unwrap_or(f64::NAN))
            .collect();
        (missing, margins)
    };
    missing_sets(names.len()).into_iter().map(of).collect()
}

/// Empty where nothing is missing.
fn key(missing: Option<&Missing>, names: &[String]) -> String {
    missing
        .map(|gone| Threat::Without(gone.clone()).name(names))
        .unwrap_or_default()
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

    /// Takes away the radii of samples on which the program that predicts disagrees; `predicting`
    /// are its margins. Which samples have none of the joint ones for that reason.
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
                        let (_, predicting) =
                            predicting.context("no margins of the program that predicts")?;
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
                    known.iter().any(|(of, faults, margins)| {
                        of == set && margins[i] > 0.0 && faults[i] == Fault::None
                    })
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
    let unimodal = scores
        .unimodal
        .zip(&absent.unimodal, "baselines")?
        .try_enumerate(|m, (own, absent)| {
            match missing.is_some_and(|missing| missing.contains(m)) {
                true => absent.broadcast_as(own.shape())?.contiguous(),
                false => Ok((*own).clone()),
            }
        })?;
    let logits = AdditiveScores {
        unimodal,
        weights: scores.weights.clone(),
        bias: scores.bias.clone(),
    }
    .logits()?;
    let margin = |(row, label): (&Vec<f64>, &u32)| {
        let own = row[*label as usize];
        let rivals = row
            .iter()
            .enumerate()
            .filter(|(j, _)| *j != *label as usize);
        // NaN is no margin, and stays.
        rivals.fold(f64::INFINITY, |least, (_, h)| {
            if least.is_nan() || (own - h) >= least {
                least
            } else {
                own - h
            }
        })
    };
    Ok(logits
        .to_dtype(DType::F64)?
        .to_vec2::<f64>()?
        .iter()
        .zip(labels)
        .map(margin)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        certification::OfBatch,
        checkpoint::{self, Architecture},
        evaluated::absent,
        lipschitz::{Bounds, Constants},
        people::Voice,
        plan::Plan,
        run::{Run, open_data},
        run_dir,
    };
    use crmt_core::{Classifier, Streams, Trainable};
    use std::collections::BTreeMap;

    type Weights = BTreeMap<String, Tensor>;

    /// Units of the only hidden layer.
    const WIDTH: usize = 8;
    const SEEDS: u64 = 20;

    /// The same function in real arithmetic, in other numbers.
    #[derive(Debug, Clone, Copy)]
    enum Rewritten {
        AsItWas,
        /// Hidden units shifted up, and taken off again.
        Shifted(f64),
        /// Hidden units scaled, and scaled back.
        Scaled(f64),
        /// Two hidden units made equal, then so much of their difference added to every score.
        Cancelling(f64),
    }
    use Rewritten::{AsItWas, Cancelling, Scaled, Shifted};

    const REWRITTEN: [Rewritten; 10] = [
        AsItWas,
        Shifted(4096.0),
        Shifted(65536.0),
        Shifted(262_144.0),
        Shifted(1_048_576.0),
        Shifted(16_777_216.0),
        Scaled((1_u32 << 30) as f64),
        Scaled(1.0 / (1_u32 << 30) as f64),
        Cancelling(1e4),
        Cancelling(1e7),
    ];

    impl Rewritten {
        fn of(self, weights: &Weights, modality: &str) -> Result<Weights> {
            let name = |part: &str| format!("encoders.{modality}.{part}");
            let of = |part: &str| &weights[&name(part)];
            let mut new = weights.clone();
            let mut put = |part: &str, tensor: Tensor| new.insert(name(part), tensor);
            match self {
                AsItWas => {}
                Shifted(by) => {
                    put("fc1.bias", (of("fc1.bias") + by)?);
                    put(
                        "fc.bias",
                        (of("fc.bias") - (of("fc.weight").sum(1)? * by)?)?,
                    );
                }
                Scaled(by) => {
                    put("fc1.bias", (of("fc1.bias") * by)?);
                    put("fc1.weight", (of("fc1.weight") * by)?);
                    put("fc.weight", (of("fc.weight") / by)?);
                }
                Cancelling(weight) => {
                    let twice = |t: &Tensor| {
                        Tensor::cat(
                            &[
                                &t.narrow(0, 0, 1)?,
                                &t.narrow(0, 0, 1)?,
                                &t.narrow(0, 2, WIDTH - 2)?,
                            ],
                            0,
                        )
                    };
                    put("fc1.bias", twice(of("fc1.bias"))?);
                    put("fc1.weight", twice(of("fc1.weight"))?);
                    let signs: Vec<f32> = (0..WIDTH)
                        .map(|unit| [1.0, -1.0].get(unit).copied().unwrap_or(0.0))
                        .collect();
                    let added = (Tensor::from_vec(signs, (1, WIDTH), &Device::Cpu)? * weight)?;
                    put("fc.weight", of("fc.weight").broadcast_add(&added)?);
                }
            }
            Ok(new)
        }
    }

    fn plan(seed: u64) -> Plan {
        let mut plan = Plan {
            seed,
            method: "jt".into(),
            ..Plan::default()
        };
        plan.model.encoder = "mlp".into();
        (
            plan.model.mlp_width,
            plan.model.mlp_depth,
            plan.model.features,
        ) = (WIDTH, 1, 6);
        (
            plan.synthetic.train,
            plan.synthetic.select,
            plan.synthetic.report,
        ) = (60, 20, 40);
        (plan.train.epochs, plan.train.batch) = (3, 20);
        plan.certify.evidence = "proved".into();
        plan
    }

    /// 200 networks, drawn and trained, in other numbers: no sample that the f32 program gets
    /// wrong, whatever is missing, has a radius; where both programs say the same, nothing is lost.
    #[test]
    fn what_predicts_otherwise_has_no_radius() -> Result<()> {
        let voice = Voice::new(true);
        // By rewriting: samples without a radius for the other program, for rounding, and with one.
        let mut counts = [[0; 3]; REWRITTEN.len()];
        for seed in 0..SEEDS {
            let plan = plan(seed);
            let data = open_data(&plan)?;
            let trained = seed % 2 == 1;
            let (architecture, weights) = if trained {
                let dir = tempfile::tempdir()?;
                Run::train(dir.path(), false, &plan, open_data(&plan)?, &voice)?;
                let trained = checkpoint::load(&dir.path().join(run_dir::MODEL))?;
                (trained.architecture, trained.weights)
            } else {
                let architecture =
                    Architecture::new(&data.modalities, &data.classes, plan.head(), |m| {
                        plan.encoder(&m.name, &m.shape)
                    });
                let learner = architecture.learner(Streams::new(seed), &Device::Cpu)?;
                let drawn = learner
                    .variables()
                    .into_iter()
                    .map(|v| (v.name, v.var.as_detached_tensor()))
                    .collect();
                (architecture, drawn)
            };
            for (rewritten, counts) in REWRITTEN.iter().zip(&mut counts) {
                let of_each = |weights: Weights, modality: &str| rewritten.of(&weights, modality);
                let weights = data
                    .modalities
                    .iter()
                    .try_fold(weights.clone(), |weights, m| of_each(weights, &m.name))?;
                let bounds = Bounds::of(
                    &plan,
                    &data,
                    Streams::new(0),
                    &architecture,
                    &weights,
                    &voice,
                )?;
                let deployed = architecture.model(&weights, DType::F32, &Device::Cpu)?;
                let batch = data.report.batch(0..data.report.len())?;
                let mut of = Evaluated::new(&bounds.model, &batch, &data)?;
                if !trained {
                    // Right about its own predictions.
                    of.labels = of.scores.logits()?.argmax(1)?.to_vec1()?;
                }
                let absent = absent(&bounds.model, &data)?;
                let Constants::Proved(constants) = bounds.constants()? else {
                    unreachable!("proved")
                };
                let mut radii = OfBatch::new(&constants, &of, &absent)?;
                let mut agreement = Agreement::new(constants.program());
                let predicting = Deployed::new(&deployed, &data)?
                    .margins(&deployed.scores(&batch.inputs)?, &of.labels)?;
                agreement.compare(&of, &absent, &predicting, &mut radii.threats)?;
                for (threat, radii) in &radii.threats {
                    for missing in threat.missing(data.modalities.len()) {
                        let inputs = match &missing {
                            Some(missing) => missing.apply(&batch.inputs, &data.baselines)?,
                            None => batch.inputs.clone(),
                        };
                        let predicted = deployed.logits(&inputs)?.argmax(1)?.to_vec1::<u32>()?;
                        for (i, radius) in radii
                            .iter()
                            .enumerate()
                            .filter(|(_, radius)| **radius > 0.0)
                        {
                            assert_eq!(
                                predicted[i], of.labels[i],
                                "{seed}, {rewritten:?}, {threat:?}: radius {radius}"
                            );
                            counts[2] += 1;
                        }
                    }
                }
                let result = agreement.result();
                assert_eq!(result.program, "f64");
                counts[0] += result.other_class + result.other_margin;
                counts[1] += result.rounding;
            }
        }
        // As they were, and scaled by a power of two, the two programs agree to 1e-5 or so, and
        // nothing is lost; shifted or cancelling far enough, most is.
        for (rewritten, [other, rounding, kept]) in REWRITTEN.iter().zip(counts) {
            let told = format!("{counts:?}");
            match rewritten {
                AsItWas | Scaled(_) => assert!(
                    other == 0 && rounding == 0 && kept > 2000,
                    "{rewritten:?}: {told}"
                ),
                Shifted(16_777_216.0) | Cancelling(1e7) => {
                    assert!(other > 1000, "{rewritten:?}: {told}")
                }
                Shifted(_) | Cancelling(_) => {}
            }
        }
        Ok(())
    }
}
