//! Adversarial attacks on classifiers with several inputs at once.
//!
//! Knows budgets, domains and gradients of any [`Classifier`](crmt_core::Classifier); deliberately
//! knows nothing of certificates, whose referee it is.
//!
//! *The searcher proposes, the framework disposes*: an [`Attack`] returns any point it likes;
//! [`run`] projects it into the budget and the domains, judges it once, and counts. A new attack is
//! one method, and cannot cheat.
//!
//! | attack | sees | what it does | source |
//! |---|---|---|---|
//! | [`Fgm`] | one gradient | one step of the whole budget (FGSM for linf) | Goodfellow et al. 2015 |
//! | [`Pgd`] | gradients | normalised steps on a schedule, restarts on any [`Loss`] | Madry et al. 2018 |
//! | [`Apgd`] | gradients | chooses its own step sizes; on the cross-entropy, the DLR, or the targeted DLR | Croce & Hein 2020 |
//! | [`Fab`] | gradients | walks along the boundary towards the nearest adversarial; untargeted or targeted | Croce & Hein 2020 |
//! | [`DeepFool`] | gradients | straight to the nearest linearised boundary, again and again | Moosavi-Dezfooli et al. 2016 |
//! | [`CarliniWagner`] | gradients | minimises distance and margin together, by Adam; l2 | Carlini & Wagner 2017 |
//! | [`Square`] | scores | random search over windows, for models whose gradients say nothing | Andriushchenko et al. 2020 |
//! | [`Ensemble::standard`] | both | the four of AutoAttack, each on whoever still stands | Croce & Hein 2020 |
//! | [`released`] | gradients | presets of the released code, to reproduce what it published | |
//!
//! All of them take any number of modalities, [`Budget::Joint`] or [`Budget::Each`] (l2 or linf, 0
//! allowed; not linf for [`CarliniWagner`]), and [`Goal::Avoid`]; all but targeted [`Apgd`] and
//! [`Fab`], hence [`Ensemble::standard`], and one preset also [`Goal::Reach`].
//! `tests/conformance.rs` holds every attack to the same promises, `tests/strength.rs` to answers
//! that are known. [`self_check`] says when not to trust any. [`nearest`](nearest()) joins them to
//! bound the distance of each sample to its nearest adversarial from above.
//!
//! Without an adversary: [`missing_accuracy`], and [`Corruption`] for what happens to signals by
//! itself.
//!
//! Distances are in declared units: on modality `m`, the distance in the array divided by its
//! [`scale`](crmt_core::Modality::scale).
#![doc = include_str!("../README.md")]
mod apgd;
mod averaged;
mod ball;
mod baseline;
mod budget;
mod carlini;
mod corruption;
mod curve;
mod deepfool;
mod domain;
mod ensemble;
mod error;
mod fab;
mod fgm;
mod goal;
mod hyperplane;
mod missing;
mod moving;
mod nearest;
mod pgd;
mod planes;
mod points;
mod problem;
pub mod released;
mod rows;
mod run;
mod self_check;
mod shortest;
mod square;
mod standing;
mod victim;
mod wide;

pub use apgd::{Apgd, Climb};
pub use averaged::Averaged;
pub use baseline::learn_baselines;
pub use budget::{Budget, Norm};
pub use carlini::CarliniWagner;
pub use corruption::{Corruption, Severity};
pub use curve::{Curve, strongest};
pub use deepfool::DeepFool;
pub use ensemble::{Effort, Ensemble};
pub use error::{Error, Result};
pub use fab::Fab;
pub use fgm::Fgm;
pub use goal::{Goal, Loss, accuracy, answers, correct, predictions};
pub use missing::{MissingAccuracy, missing_accuracy};
pub use nearest::{Bisection, Nearest, nearest, nearest_by};
pub use pgd::{Pgd, Restart, Start, Steps};
pub use problem::{Draws, Problem};
pub use run::{Attack, Outcome, perturb, run, run_watched, run_within, run_within_each};
pub use self_check::{Finding, self_check, self_check_by};
pub use shortest::Until;
pub use square::Square;
pub use victim::Victim;
