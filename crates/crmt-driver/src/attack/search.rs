//! What all parts of an evaluation share: whom it attacks, by which attacks, at which budgets.
//! Does not know what parts find.
use crate::{
    arsenal::Named, partial::Parts, plan::EvaluatePlan, precision::Precision, run_dir::RunDir,
};
use candle_core::Tensor;
use crmt_attacks::{Norm, Victim};
use crmt_core::{Missing, PerModality, Streams};
use crmt_data::DataSet;
use crmt_fusion::Model;

/// The nearest so many of each threat are shown in the report.
pub const EXAMPLES: usize = 2;

/// What is attacked, and where finished parts are kept.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The network.
    pub model: &'a Model,
    /// What it computes in.
    pub precision: Precision,
    /// In `f64`, if certificates are about that program and this is not it: it judges what is
    /// found.
    pub judge: Option<&'a Model>,
    /// Its hash.
    pub weights: &'a str,
    /// Its report split is attacked.
    pub data: &'a DataSet,
    /// Of that split, and of [`baselines`](Self::baselines).
    pub data_sha256: [&'a str; 2],
    /// What stands in for missing modalities: one sample each.
    pub baselines: &'a PerModality<Tensor>,
    /// The run's seed.
    pub seed: u64,
    /// The run.
    pub dir: &'a RunDir,
}

/// What is the same for every part.
pub struct Search<'a> {
    pub of: Subject<'a>,
    pub plan: &'a EvaluatePlan,
    pub attacks: Vec<&'static Named>,
    pub norm: Norm,
    /// Ascending.
    pub eps: Vec<f64>,
    pub streams: Streams,
    pub parts: Parts,
}

/// Whom a threat attacks: the model, or what is left of it without some modalities.
pub struct Target<'a> {
    pub missing: Option<Missing>,
    pub victim: Victim<'a>,
}
