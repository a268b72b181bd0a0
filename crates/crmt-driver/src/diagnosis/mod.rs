//! What `diagnose` finds out of a trained model: which modality it relies on, and through which it
//! is weakest. Accuracies are fractions in `0..=1`; distances are in each modality's declared
//! units. docs/diagnosis.md has every formula. Does not know the command line nor how any of it is
//! shown.
mod compare;
mod files;
mod formulas;
mod measure;
pub mod quantities;
mod shapley;

pub use compare::{Amount, compare, names, story, table};
pub use files::{read, to_csv, to_json};
pub use measure::{Subject, diagnose};
pub use quantities::{Diagnosis, OfModality, OfSample};
