//! What attacks and certificates see: a fixed, differentiable map from inputs to logits.
//! Does not know how the map is built or trained.
use crate::{Modality, PerModality, Result};
use candle_core::Tensor;

/// A fixed, differentiable map from one tensor per modality to class logits.
///
/// *Fixed*: the same inputs give the same logits. Whoever needs dropout or batch statistics
/// chooses the mode before handing the model over.
pub trait Classifier {
    /// What the classifier takes, in order.
    fn modalities(&self) -> &PerModality<Modality>;

    /// `inputs`: each `[batch, ...]`. Returns logits `[batch, classes]`.
    fn logits(&self, inputs: &PerModality<Tensor>) -> Result<Tensor>;
}

/// A classifier whose logits are a weighted sum of per-modality scores:
/// `h_k(x) = sum_m a_k(m) * s_k(m) + b_k`.
///
/// This is what the margin certificate needs.
pub trait AdditiveClassifier: Classifier {
    /// The terms of the sum; `scores(x)?.logits()?` equals `logits(x)?`.
    fn scores(&self, inputs: &PerModality<Tensor>) -> Result<AdditiveScores>;
}

/// The terms an [`AdditiveClassifier`] sums.
#[derive(Debug, Clone)]
pub struct AdditiveScores {
    /// Unweighted scores `s(m)`, each `[batch, classes]`.
    pub unimodal: PerModality<Tensor>,
    /// Integration weights `a(m)`, each `[classes]`.
    pub weights: PerModality<Tensor>,
    /// Bias `b`, `[classes]`.
    pub bias: Tensor,
}

impl AdditiveScores {
    /// The weighted terms `a(m) * s(m)`, each `[batch, classes]`.
    pub fn contributions(&self) -> Result<PerModality<Tensor>> {
        self.unimodal
            .zip(&self.weights, "integration weights")?
            .try_map(|(s, a)| Ok(s.broadcast_mul(a)?))
    }

    /// The sum `h = sum_m a(m) * s(m) + b`, `[batch, classes]`.
    pub fn logits(&self) -> Result<Tensor> {
        let contributions = self.contributions()?;
        let mut terms = contributions.iter();
        let first = terms.next().expect("PerModality is never empty").clone();
        let sum = terms.try_fold(first, |sum, term| sum + term)?;
        Ok(sum.broadcast_add(&self.bias)?)
    }
}

impl<C: Classifier + ?Sized> Classifier for &C {
    fn modalities(&self) -> &PerModality<Modality> {
        (**self).modalities()
    }
    fn logits(&self, inputs: &PerModality<Tensor>) -> Result<Tensor> {
        (**self).logits(inputs)
    }
}

impl<C: AdditiveClassifier + ?Sized> AdditiveClassifier for &C {
    fn scores(&self, inputs: &PerModality<Tensor>) -> Result<AdditiveScores> {
        (**self).scores(inputs)
    }
}
