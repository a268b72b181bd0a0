//! Gradient norms at samples: an *estimate* (a lower bound) of how fast the scores can change.
//! Does not know margins; nothing here is ever a proof.
use crate::{CertifyError, EstimatedBound};
use candle_core::{D, DType, Tensor, Var};
use crmt_core::{AdditiveClassifier, AdditiveScores, Error, PerModality};

/// Per modality and class, the greatest gradient norm seen.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientNorms {
    greatest: PerModality<Vec<f64>>,
    samples: usize,
}

impl GradientNorms {
    pub(crate) fn new(greatest: PerModality<Vec<f64>>, samples: usize) -> Self {
        Self { greatest, samples }
    }

    /// `max_i |d s_k(m) / d x(m)|` over the samples seen, per modality and class.
    pub fn greatest(&self) -> &PerModality<Vec<f64>> {
        &self.greatest
    }

    /// How many samples were seen.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The same as constants of the scores, for
    /// [`MarginConstants::sum`](crate::MarginConstants::sum).
    ///
    /// # Errors
    /// [`CertifyError::Bound`] when a gradient was not finite.
    pub fn bounds(&self) -> Result<PerModality<Vec<EstimatedBound>>, CertifyError> {
        self.greatest
            .try_map(|t| t.iter().map(|t| EstimatedBound::estimated(*t)).collect())
    }

    /// Takes the samples of another batch into account.
    ///
    /// # Errors
    /// [`CertifyError`] when modalities or classes differ.
    pub fn merge(&self, other: &Self) -> Result<Self, CertifyError> {
        let pairs = self.greatest.zip(&other.greatest, "gradient norms")?;
        let greatest = pairs.try_enumerate(|m, (a, b)| {
            if a.len() != b.len() {
                return Err(CertifyError::shape(
                    format!("modality {m}: gradient norms"),
                    a.len(),
                    b.len(),
                ));
            }
            Ok(a.iter()
                .zip(b.iter())
                .map(|(a, b)| f64::max(*a, *b))
                .collect())
        })?;
        Ok(Self {
            greatest,
            samples: self.samples + other.samples,
        })
    }
}

/// Norms `|d s_k(m) / d x(m)|_2` of the unweighted scores at `inputs`, greatest over the samples.
///
/// One forward and `classes` backward passes in all: scores of modality `m` depend on `x(m)` only,
/// and samples do not depend on each other, so one pass serves every modality and sample.
///
/// # Errors
/// [`crmt_core::Error::NoGradient`] when a score does not depend on its modality.
pub fn gradient_norms(
    model: &dyn AdditiveClassifier,
    inputs: &PerModality<Tensor>,
) -> Result<GradientNorms, CertifyError> {
    let samples = inputs[0].dim(0)?;
    let per_class = score_gradients(model, inputs, |s| Ok(s.unimodal.clone()))?;
    let mut greatest: Vec<Vec<f64>> = vec![vec![]; inputs.len()];
    for gradients in per_class {
        for (g, norms) in gradients.iter().zip(&mut greatest) {
            norms.push(greatest_row(g)?);
        }
    }
    Ok(GradientNorms {
        greatest: PerModality::new(greatest).expect("one per modality"),
        samples,
    })
}

/// For each class, the gradient of `sum_i sum_m terms(m)[i, k]` with respect to every input.
pub(crate) fn score_gradients(
    model: &dyn AdditiveClassifier,
    inputs: &PerModality<Tensor>,
    terms: impl FnOnce(&AdditiveScores) -> crmt_core::Result<PerModality<Tensor>>,
) -> Result<Vec<PerModality<Tensor>>, CertifyError> {
    let leaves =
        inputs.try_map(|x| Var::from_tensor(&x.detach()).map(|v| v.as_tensor().clone()))?;
    let terms = terms(&model.scores(&leaves)?)?;
    let classes = terms[0].dim(1)?;
    let gradients = (0..classes).map(|k| {
        let mut gradients = terms
            .iter()
            .map(|s| s.narrow(1, k, 1)?.sum_all())
            .reduce(|a, b| a? + b?)
            .expect("one per modality")?
            .backward()?;
        Ok(leaves.try_enumerate(|modality, x| {
            gradients.remove(x).ok_or(Error::NoGradient { modality })
        })?)
    });
    gradients.collect()
}

/// The greatest l2 norm of a row of `[batch, ...]`; 0 for no rows.
pub(crate) fn greatest_row(g: &Tensor) -> Result<f64, CertifyError> {
    let norms = g
        .to_dtype(DType::F64)?
        .flatten_from(1)?
        .sqr()?
        .sum(D::Minus1)?
        .sqrt()?
        .to_vec1::<f64>()?;
    // `f64::max` would lose a NaN.
    Ok(norms
        .into_iter()
        .fold(0., |a, b| if b.is_nan() || b > a { b } else { a }))
}
