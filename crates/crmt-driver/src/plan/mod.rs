//! The resolved plan of a run: every setting, typed, with the defaults.
//! Does not know where a value came from; `settings.rs` does.
#[cfg(test)]
mod extremes;
mod faults;
#[cfg(test)]
mod reference;
pub mod schema;
mod sections;
mod size;
mod training;
mod whole;

pub use sections::{CertifyPlan, EvaluatePlan, FalsifyPlan, SmoothPlan};
pub use training::{AdversaryPlan, OptimizerKind, StepTwoPlan, TrainPlan};
pub use whole::Plan;
