//! Objectives, strategies and the one training loop.
//!
//! A [`Strategy`] says how a batch becomes a loss; [`fit()`] is the only loop; CRMT's second step
//! is another phase of it, on cached scores. Knows models through [`crmt_core::Trainable`];
//! deliberately knows nothing of concrete layers, data formats, files or configuration text.
mod certified;
mod crmt;
mod draws;
mod epoch_report;
mod error;
mod fit;
mod g_blend;
mod inputs;
mod integration;
mod loader;
mod margin;
mod modulation;
mod msefm;
mod ogm_ge;
mod pmr;
mod prepared;
mod schedule;
mod state;
mod strategy;

pub use certified::{Certified, Reach};
pub use crmt::Crmt;
pub use draws::Draws;
pub use epoch_report::{EpochReport, Selected};
pub use error::{Error, Result};
pub use fit::{Batches, Observer, Phase, Rules, Source, fit};
pub use g_blend::GBlend;
pub use inputs::{ModalityDropout, TrainingInputs};
pub use integration::{CachedScores, IntegrationModel, RadiusHinge, Tables};
pub use margin::{MARGIN_FLOOR, MarginRule, margin_term, soft_cross_entropy, unimodal_margins};
pub use modulation::Modulation;
pub use msefm::Msefm;
pub use ogm_ge::OgmGe;
pub use pmr::{Pmr, PmrSettings};
pub use prepared::{Mixed, Prepared};
pub use schedule::{Rate, Schedule};
pub use state::{Means, Position, State};
pub use strategy::{Part, StepLoss, Strategy};
