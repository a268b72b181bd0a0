//! The short way to certificates: constants once, then batch after batch.
//! Does not know how constants are bounded.
use crate::{
    CertifyError, Contributions, Evaluated, Grade, Limit, MarginConstants, MissingRegion, Radii,
    Region, Threat, limits, missing_regions, radii, regions,
};
use std::sync::Arc;

/// Answers every question about batches of one model.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use crmt_certify::{MarginCertifier, MarginConstants, Threat, audit};
/// use crmt_core::{Layer, PerModality};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // One input, two classes: h(x) = W x.
/// let w = Tensor::new(&[[3.0_f64, 0.0], [0.0, 4.0]], &Device::Cpu)?; let ones = Tensor::ones(2,
/// DType::F64, &Device::Cpu)?; let encoder = audit(&[Layer::Linear { name: "w".into(), weight:
/// w.clone() }])?.out_in(); let identity = Tensor::eye(2, DType::F64, &Device::Cpu)?; let constants
/// = MarginConstants::absorbed(&identity.into(), &ones.into(), &PerModality::from([encoder]))?;
///
/// let x = Tensor::new(&[[1.0_f64, 0.0]], &Device::Cpu)?;
/// let batch = MarginCertifier::new(constants).certify(&x.matmul(&w.t()?)?, &[0])?;
/// // margin / |w_0 - w_1| = 3 / 5
/// assert!((batch.radii().joint()[0] - 0.6).abs() < 1e-12);
/// assert_eq!(batch.limits(&Threat::joint(1))?[0].radius, batch.radii().joint()[0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MarginCertifier<E: Grade> {
    constants: Arc<MarginConstants<E>>,
}

impl<E: Grade> MarginCertifier<E> {
    /// For the model that these constants are of.
    pub fn new(constants: MarginConstants<E>) -> Self {
        Self {
            constants: Arc::new(constants),
        }
    }

    /// What the certifier rests on.
    pub fn constants(&self) -> &MarginConstants<E> {
        &self.constants
    }

    /// `evaluated`: logits `[batch, classes]` in `f64`, or an [`Evaluation`](crate::Evaluation)
    /// where constants are about a program; `labels`: the classes that are to stay, one per sample.
    ///
    /// # Errors
    /// [`CertifyError`] when classes or samples do not line up with the constants.
    pub fn certify<L: Evaluated + Clone>(
        &self,
        evaluated: &L,
        labels: &[u32],
    ) -> Result<CertifiedBatch<E, L>, CertifyError> {
        let radii = radii(&self.constants, evaluated, labels)?;
        let (constants, evaluated) = (Arc::clone(&self.constants), evaluated.clone());
        Ok(CertifiedBatch {
            constants,
            evaluated,
            labels: labels.to_vec(),
            radii,
        })
    }
}

/// What is known of a batch; its radii at once, the rest when asked.
#[derive(Debug, Clone)]
pub struct CertifiedBatch<E: Grade, L> {
    constants: Arc<MarginConstants<E>>,
    evaluated: L,
    labels: Vec<u32>,
    radii: Radii<E>,
}

impl<E: Grade, L: Evaluated> CertifiedBatch<E, L> {
    /// Joint and per-modality radii; [`Radii::certificates`] where constants are proved.
    pub fn radii(&self) -> &Radii<E> {
        &self.radii
    }

    /// How far a threat may grow against each sample: see [`limits`].
    ///
    /// # Errors
    /// When `threat` does not fit the modalities.
    pub fn limits(&self, threat: &Threat) -> Result<Vec<Limit>, CertifyError> {
        limits(&self.constants, &self.evaluated, &self.labels, threat)
    }

    /// All budgets at once that each sample bears: see [`regions`].
    ///
    /// # Errors
    /// As [`MarginCertifier::certify`].
    pub fn regions(&self) -> Result<Vec<Region<E>>, CertifyError> {
        regions(&self.constants, &self.evaluated, &self.labels)
    }

    /// The same where modalities may be missing, too: see [`missing_regions`].
    ///
    /// # Errors
    /// When `contributions` are of another batch or model.
    pub fn missing(
        &self,
        contributions: &Contributions,
    ) -> Result<Vec<MissingRegion<E>>, CertifyError> {
        missing_regions(
            &self.constants,
            &self.evaluated,
            &self.labels,
            contributions,
        )
    }
}
