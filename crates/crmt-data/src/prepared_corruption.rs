//! What someone corrupted in its own domain. Does not know the data set that it belongs to.
use crate::Array;

/// Versions of one modality's report array, from weak to strong.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedCorruption {
    /// Name of the modality.
    pub modality: String,
    /// Letters, digits, `_` and `-`; part of the file names.
    pub name: String,
    /// At most five; severity `s`, counted from 1, is `severities[s - 1]`. Row by row the
    /// modality's report array.
    pub severities: Vec<Array>,
}
