//! Lipschitz constants of a trained model: proved by an audit of its layers, or estimated from
//! gradients at training samples. Does not know radii.
use crate::{
    batches::EVAL_BATCH,
    checkpoint::{self, Architecture},
    people::Voice,
    plan::Plan,
    precision::F32,
};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use crmt_certify::{
    Audit, CertifyError, Estimated, GradientNorms, LipschitzRule, MarginConstants, Program, Proved,
    ScoreBounds, WeightsHash,
};
use crmt_core::{AdditiveClassifier, Fusion, PerModality, Streams};
use crmt_data::DataSet;
use crmt_fusion::Model;
use crmt_train::Tables;
use std::collections::BTreeMap;

/// Constants of a model's encoders or scores, of one kind or the other.
pub struct Bounds {
    /// What the constants are of, on the CPU: in f64, or in f32 if certificates shall be about that
    /// program.
    pub model: Model,
    /// The constants.
    pub kind: Kind,
    /// Of architecture and weights.
    pub weights: WeightsHash,
}

/// Why one may believe them.
pub enum Kind {
    /// Layer by layer.
    Proved(PerModality<Audit>),
    /// Per class, from gradients.
    Estimated(PerModality<Vec<f64>>),
}

/// Constants of margins, of one kind or the other.
pub enum Constants {
    /// From audits.
    Proved(MarginConstants<Proved>),
    /// From gradients.
    Estimated(MarginConstants<Estimated>),
}

impl Constants {
    /// As in reports.
    pub fn evidence(&self) -> &'static str {
        match self {
            Self::Proved(_) => "proved",
            Self::Estimated(_) => "estimated",
        }
    }
}

impl Bounds {
    /// Of the model with these weights, as `plan.certify` asks.
    pub fn of(
        plan: &Plan,
        data: &DataSet,
        streams: Streams,
        architecture: &Architecture,
        weights: &BTreeMap<String, Tensor>,
        voice: &Voice,
    ) -> Result<Self> {
        let proved = match plan.certify.evidence.as_str() {
            "proved" => true,
            "estimated" => false,
            // A product of layer norms is a theorem for a CNN too, but says nothing useful of one.
            _ => !architecture
                .modalities
                .iter()
                .any(|m| m.encoder.is_convolutional()),
        };
        let dtype = if proved && plan.certify.program == F32 {
            DType::F32
        } else {
            DType::F64
        };
        let model = architecture.model(weights, dtype, &Device::Cpu)?;
        let kind = if proved {
            if dtype == DType::F32
                && let Some(m) = architecture
                    .modalities
                    .iter()
                    .find(|m| m.encoder.is_convolutional())
            {
                bail!(
                    "certify.program = \"f32\": the encoder of `{}` computes convolutions by a method whose rounding nobody \
                     bounded; certify the f64 program",
                    m.name
                );
            }
            Kind::Proved(audits(&model, architecture)?)
        } else {
            Kind::Estimated(estimate(plan, data, streams, architecture, weights, voice)?)
        };
        Ok(Self {
            model,
            kind,
            weights: WeightsHash::new(checkpoint::hash(architecture, weights)?),
        })
    }

    /// Constants of margins in declared units, about the program that computes the model.
    pub fn constants(&self) -> Result<Constants> {
        let head = self.model.head();
        let (rows, weights) = (head.rows()?, head.weights()?);
        self.combined(&rows, &weights, |constants, audits| {
            constants.executed(self.program(), &rows, &weights, head.bias(), audits)
        })
    }

    /// Constants in real arithmetic for another head on the same encoders: its rows `W(m)` and
    /// integration weights `a(m)` (f64). To compare heads by; what is reported is about a program.
    pub fn constants_of(
        &self,
        rows: &PerModality<Tensor>,
        weights: &PerModality<Tensor>,
    ) -> Result<Constants> {
        self.combined(rows, weights, |constants, _| Ok(constants))
    }

    /// The program that certificates are about.
    pub fn program(&self) -> Program {
        match self.model.head().bias().dtype() {
            DType::F32 => Program::F32,
            _ => Program::F64,
        }
    }

    fn combined(
        &self,
        rows: &PerModality<Tensor>,
        weights: &PerModality<Tensor>,
        of_program: impl FnOnce(
            MarginConstants<Proved>,
            &PerModality<Audit>,
        ) -> Result<MarginConstants<Proved>, CertifyError>,
    ) -> Result<Constants> {
        let scales = scales(&self.model);
        Ok(match &self.kind {
            Kind::Proved(audits) => {
                let constants = MarginConstants::absorbed(rows, weights, audits)?;
                let constants = of_program(constants, audits)?.in_units(&scales)?;
                Constants::Proved(constants.for_weights(self.weights.clone()))
            }
            Kind::Estimated(norms) => {
                let bounds = norms.try_map(|norms| {
                    norms
                        .iter()
                        .map(|n| crmt_certify::EstimatedBound::estimated(*n))
                        .collect::<Result<Vec<_>, _>>()
                })?;
                Constants::Estimated(
                    MarginConstants::sum(weights, &ScoreBounds::unweighted(bounds))?
                        .in_units(&scales)?,
                )
            }
        })
    }

    /// The same as functions of the integration weights, for CRMT's second step.
    pub fn tables(&self) -> Result<Tables> {
        let scales = scales(&self.model);
        Ok(match &self.kind {
            Kind::Proved(audits) => Tables::Pairwise {
                rows: self.model.head().rows()?,
                features: audits
                    .zip(&scales, "scales")?
                    .map(|(audit, scale)| audit.bound().value() * **scale),
            },
            Kind::Estimated(norms) => {
                let scaled = norms.zip(&scales, "scales")?;
                let tensor = |(norms, scale): &(&Vec<f64>, &f64)| {
                    let norms: Vec<f64> = norms.iter().map(|n| n * **scale).collect();
                    Tensor::new(norms, &Device::Cpu)
                };
                Tables::Sum {
                    norms: scaled.try_map(tensor)?,
                }
            }
        })
    }
}

/// The declared unit of each modality.
pub fn scales(model: &dyn AdditiveClassifier) -> PerModality<f64> {
    model.modalities().map(|m| m.scale)
}

/// The bound of every layer of every encoder.
pub fn audits(model: &Model, architecture: &Architecture) -> Result<PerModality<Audit>> {
    model.encoders().try_enumerate(|m, encoder| {
        let layers = encoder.layers()?;
        // Our encoders store weights as they describe them.
        crmt_certify::audit(&layers)
            .map(Audit::out_in)
            .with_context(|| {
                format!(
                    "modality `{}` has no proved bound",
                    architecture.modalities[m].name
                )
            })
    })
}

fn estimate(
    plan: &Plan,
    data: &DataSet,
    streams: Streams,
    architecture: &Architecture,
    weights: &BTreeMap<String, Tensor>,
    voice: &Voice,
) -> Result<PerModality<Vec<f64>>> {
    // An estimate gains nothing from f64, and f32 is twice as fast.
    let model = architecture.model(weights, DType::F32, data.device())?;
    let sample = data.train_sample(&streams, plan.certify.samples)?;
    let bar = voice.stage("gradient norms", sample.len() as u64, "samples");
    let mut all: Option<GradientNorms> = None;
    let rule = match plan.certify.lipschitz.as_str() {
        "as-released" => LipschitzRule::AsReleased,
        _ => LipschitzRule::MaxGradient,
    };
    for start in (0..sample.len()).step_by(EVAL_BATCH) {
        let batch = sample.narrow(start, EVAL_BATCH.min(sample.len() - start))?;
        let norms = rule.gradient_norms(&model, &batch.inputs)?;
        all = Some(match all {
            None => norms,
            Some(all) => all.merge(&norms)?,
        });
        bar.inc(batch.len() as u64);
    }
    Ok(all
        .context("no training sample to estimate Lipschitz constants on")?
        .greatest()
        .clone())
}
