//! Constants of the scores, and whether integration weights are in them already.
//! Does not know margins.
use crate::{Grade, LipschitzBound};
use crmt_core::PerModality;

/// Constants `T_k(m)` of the scores of each modality and class, for
/// [`MarginConstants::sum`](crate::MarginConstants::sum).
///
/// Weights that are counted twice, or not at all, make a bound that is none: so this says which
/// they are.
#[derive(Debug, Clone)]
pub struct ScoreBounds<E: Grade>(pub(crate) Scores<E>);

#[derive(Debug, Clone)]
pub(crate) enum Scores<E: Grade> {
    Unweighted(PerModality<Vec<LipschitzBound<E>>>),
    Weighted(PerModality<Vec<LipschitzBound<E>>>),
}

impl<E: Grade> ScoreBounds<E> {
    /// Of the scores `s_k(m)` themselves, `[classes]` each.
    pub fn unweighted(bounds: PerModality<Vec<LipschitzBound<E>>>) -> Self {
        Self(Scores::Unweighted(bounds))
    }

    /// Of the terms of the sum, `a_k(m) s_k(m)`, `[classes]` each.
    pub fn weighted(bounds: PerModality<Vec<LipschitzBound<E>>>) -> Self {
        Self(Scores::Weighted(bounds))
    }
}
