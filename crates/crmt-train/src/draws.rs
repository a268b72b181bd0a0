//! The randomness of one training step. Does not know what is drawn.
use crmt_core::Streams;

/// Randomness of one training step: the run's streams, and which step this is.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    /// The run's streams.
    pub streams: Streams,
    /// Counts steps from 0 through the whole phase.
    pub step: u64,
}
