//! Fusion heads, and the composed late-fusion model `h_k = Σ_m a_k(m)·s_k(m) + b_k`.
//!
//! Knows how features become scores and how a model is assembled, initialised from a seed and
//! frozen; deliberately knows nothing of losses, data sets or files.
mod head;
mod model;
mod parameters;
mod remembering;

pub use head::{Head, HeadConfig, Rows};
pub use model::{BuildError, Learner, Model, ModelConfig};
pub use parameters::Parameters;
pub use remembering::Remembering;
