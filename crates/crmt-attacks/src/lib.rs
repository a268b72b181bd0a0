//! Adversarial attacks on classifiers with several inputs at once.
//!
//! Knows budgets, domains and gradients of any [`Classifier`](crmt_core::Classifier); deliberately knows nothing of
//! certificates, whose referee it is.
//!
//! *The searcher proposes, the framework disposes*: an [`Attack`] returns any point it likes; [`run`] projects it into
//! the budget and the domains, judges it once, and counts. A new attack is one method, and cannot cheat.
//!
//! Distances are in declared units: on modality `m`, the distance in the array divided by its
//! [`scale`](crmt_core::Modality::scale).
mod budget;
mod curve;
mod domain;
mod error;
mod fgm;
mod goal;
mod missing;
mod pgd;
mod problem;
pub mod released;
mod run;
mod standing;

pub use budget::{Budget, Norm};
pub use curve::{Curve, strongest};
pub use error::{Error, Result};
pub use fgm::Fgm;
pub use goal::{Goal, Loss, accuracy, correct, predictions};
pub use missing::{MissingAccuracy, missing_accuracy};
pub use pgd::{Pgd, Restart, Start, Steps};
pub use problem::{Draws, Problem};
pub use run::{Attack, Outcome, perturb, run, run_within, run_within_each};
