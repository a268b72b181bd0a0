//! Whether parts of a certificate are about the same weights. Does not know where they come from.
use crate::{CertifyError, WeightsHash};

/// Refuses weights other than those a certificate was computed for, and certificates that do not
/// say.
pub(crate) fn check(of: Option<&WeightsHash>, weights: &WeightsHash) -> Result<(), CertifyError> {
    match of {
        Some(own) if own == weights => Ok(()),
        Some(own) => Err(CertifyError::OtherWeights {
            certified: own.clone(),
            given: weights.clone(),
        }),
        None => Err(CertifyError::UnknownWeights),
    }
}

/// What two parts of one computation agree on; nothing if they differ.
pub(crate) fn common(a: Option<&WeightsHash>, b: Option<&WeightsHash>) -> Option<WeightsHash> {
    if a == b { a.cloned() } else { None }
}
