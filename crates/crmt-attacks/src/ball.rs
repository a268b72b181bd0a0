//! What one batch may be moved within. Does not know how.
use crate::Budget;
use candle_core::Tensor;
use crmt_core::{Modality, PerModality};

/// One batch's budget: the radius of each sample on modality `m` is `factors[m][i]` times the
/// budget's.
#[derive(Debug, Clone)]
pub(crate) struct Ball<'a> {
    pub budget: &'a Budget,
    pub modalities: &'a PerModality<Modality>,
    /// Each `[batch, 1]`, in the inputs' type, and all the same for a joint budget; `None`: all 1.
    pub factors: Option<&'a PerModality<Tensor>>,
}

/// Whether reading a number of this tensor holds up the device that it is on.
pub(crate) fn waits(x: &Tensor) -> bool {
    !x.device().is_cpu()
}
