//! Robustness certificates for additive multi-modal classifiers
//! `h_k(x) = sum_m a_k(m) s_k(m)(x(m)) + b_k`: how far may the inputs move before the prediction can change?
//!
//! Knows margins and Lipschitz constants; deliberately knows nothing of attacks, which are its referee.
//!
//! The way to a certificate, and the only one:
//!
//! 1. [`audit`] bounds the Lipschitz constant of each encoder from the layers it declares (or
//!    [`SoundBound::vouched`] takes a constant that the caller proves);
//! 2. [`MarginConstants`] turns these into one constant per modality and pair of classes;
//! 3. [`radii`] divides margins by constants: joint and per-modality radii, and which modality is vulnerable;
//! 4. [`Radii::certificates`] exists for proved constants only.
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
//! "Proved" means: a theorem about the network in real arithmetic, with constants rounded up and radii rounded
//! down. Logits should be computed in `f64`; the floating-point error of the executed network is the caller's to
//! subtract from the margins.
mod audit;
pub mod binomial;
mod constants;
mod conv;
mod diagnosis;
mod ellipsoid;
mod error;
mod estimate;
mod evidence;
mod gram;
mod margins;
mod missing;
pub mod objective;
mod radius;
mod region;
mod released;
mod smoothing;
mod threat;
mod votes;
mod weights;

pub use audit::{Audit, AuditRow, Method, audit};
pub use constants::MarginConstants;
pub use conv::conv_bound;
pub use ellipsoid::{SmoothCertificate, smoothed_radius};
pub use error::{AuditError, CertifyError};
pub use estimate::{GradientNorms, gradient_norms};
pub use evidence::{Estimated, EstimatedBound, Evidence, Grade, LipschitzBound, Proved, SoundBound};
pub use gram::matrix_bound;
pub use margins::{Limit, ratio};
pub use missing::{Contributions, MissingRegion, missing_regions};
pub use radius::{Certificate, Radii, SampleRadii, limits, radii, ray};
pub use region::{Region, regions};
pub use released::{LipschitzRule, RivalRule, rival_ratio, runner_up};
pub use smoothing::Smoothing;
pub use threat::Threat;
pub use votes::Votes;
pub use weights::WeightsHash;
