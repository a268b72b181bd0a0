//! Objectives, strategies and the one training loop.
//!
//! A [`Strategy`] says how a batch becomes a loss; [`fit()`] is the only loop; CRMT's second step is
//! another phase of it, on cached scores. Knows models through [`crmt_core::Trainable`];
//! deliberately knows nothing of concrete layers, data formats, files or configuration text.
mod certified;
mod crmt;
mod error;
mod fit;
mod integration;
mod margin;
mod schedule;
mod strategy;

pub use certified::{Certified, ModalityDropout, Reach};
pub use crmt::{Crmt, TrainingInputs};
pub use error::{Error, Result};
pub use fit::{EpochReport, Phase, Selected, Source, fit};
pub use integration::{CachedScores, IntegrationModel, RadiusHinge, Tables};
pub use margin::{MARGIN_FLOOR, margin_term, soft_cross_entropy};
pub use schedule::Schedule;
pub use strategy::{Draws, StepLoss, Strategy};
