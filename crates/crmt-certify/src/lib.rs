//! Robustness certificates for additive multi-modal classifiers
//! `h_k(x) = sum_m a_k(m) s_k(m)(x(m)) + b_k`: how far may the inputs move before the prediction
//! can change?
//!
//! Knows margins and Lipschitz constants; deliberately knows nothing of attacks, which are its
//! referee.
//!
//! The way to a certificate, and the only one:
//!
//! 1. [`audit`] bounds the Lipschitz constant of each encoder from the layers it declares (or
//!    [`SoundBound::vouched`] takes a constant that the caller proves);
//! 2. [`MarginConstants`] turns these into one constant per modality and pair of classes;
//! 3. [`radii`] divides margins by constants: joint and per-modality radii, and which modality is
//!    vulnerable;
//! 4. [`Radii::certificates`] exists for proved constants only, and each is for the weights that
//!    [`MarginConstants::for_weights`] named.
//!
//! [`MarginCertifier`] asks all of this of batch after batch.
//!
//! | question | answer |
//! |---|---|
//! | all modalities under one l2 budget; each alone | [`radii`]: `min_j mu_j / sqrt(sum_m L_mj^2)`, `min_j mu_j / L_mj` |
//! | weighted l2, l1, linf mixtures, rays | [`limits`] of a [`Threat`]: `min_j mu_j / N(L_j)`, `N` the dual norm |
//! | any budgets at once; plots | [`regions`]: `sum_m eps_m L_mj < mu_j` for all `j` |
//! | modalities missing, others attacked | [`missing_regions`]: `mu_j - sum eps_m L_mj - top_q max(0, d_mj - eps_m L_mj)` |
//! | which modality is weak; which is relied on | [`SampleRadii::shares`], [`SampleRadii::indicator`]; [`MissingRegion::shapley_shares`] |
//! | a classifier that is not additive, or has no constants | [`Smoothing`]: `sum_m eps_m^2 / sigma_m^2 < Phi^-1(p_A)^2`, with confidence |
//!
//! Estimated constants ([`gradient_norms`]) walk the same road to [`Radii`] and stop there:
//!
//! ```compile_fail
//! use crmt_certify::{Certificate, Estimated, Radii};
//! fn promise(radii: &Radii<Estimated>) -> Vec<Option<Certificate>> {
//!     radii.certificates() // no such method: an estimate certifies nothing
//! }
//! ```
//! ```
//! use crmt_certify::{Certificate, Proved, Radii};
//! fn promise(radii: &Radii<Proved>) -> Vec<Option<Certificate>> {
//!     radii.certificates()
//! }
//! ```
//!
//! "Proved" means: a theorem, with constants rounded up and radii rounded down. What about is a
//! [`Program`]: the network in real arithmetic ([`Program::Real`], where nothing else is said), or
//! the program that computes its logits, whose rounding [`MarginConstants::executed`] takes from
//! every margin. Logits are in `f64`; others are refused.
#![doc = include_str!("../README.md")]
mod audit;
pub mod binomial;
mod certifier;
mod constants;
mod conv;
mod diagnosis;
mod ellipsoid;
mod error;
mod estimate;
mod evaluation;
mod evidence;
mod exact;
mod fold;
mod gram;
mod layout;
mod margins;
mod missing;
mod numbers;
pub mod objective;
mod program;
mod radius;
mod region;
mod released;
mod rounding;
mod row_sums;
pub mod rule;
mod same_weights;
mod scores;
mod slack;
mod smoothing;
mod threat;
mod votes;
mod weights;

pub use audit::{Audit, AuditRow, Method, audit};
pub use certifier::{CertifiedBatch, MarginCertifier};
pub use constants::MarginConstants;
pub use conv::conv_bound;
pub use ellipsoid::{SmoothCertificate, smoothed_radius};
pub use error::{AuditError, CertifyError};
pub use estimate::{GradientNorms, gradient_norms};
pub use evaluation::{Evaluated, Evaluation};
pub use evidence::{
    Estimated, EstimatedBound, Evidence, Grade, LipschitzBound, Proved, SoundBound,
};
pub use gram::matrix_bound;
pub use margins::{Limit, ratio};
pub use missing::{Contributions, MissingRegion, missing_regions};
pub use program::Program;
pub use radius::{Certificate, Radii, SampleRadii, limits, radii, ray};
pub use region::{Region, regions};
pub use released::{LipschitzRule, RivalRule, rival_ratio, runner_up};
pub use row_sums::row_sum_bound;
pub use scores::ScoreBounds;
pub use smoothing::Smoothing;
pub use threat::Threat;
pub use votes::Votes;
pub use weights::WeightsHash;
