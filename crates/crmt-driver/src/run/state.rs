//! What is known of a run, in memory. Does not know how it was measured or kept.
use crate::{
    checkpoint::Architecture, diagnosis::Diagnosis, examples::Example, plan::Plan, record::Summary,
    run_dir::RunDir, sample_row::SampleRow,
};
use anyhow::{Context, Result};
use candle_core::Tensor;
use crmt_core::Streams;
use crmt_data::{DataSet, SyntheticOptions, Upload};
use crmt_kernels::uploader;
use std::collections::BTreeMap;

/// How warnings of the attacks' self-checks begin.
pub(super) const DOUBT: &str = "attack check, ";

/// A trained model and everything measured of it so far.
pub struct Run {
    pub(super) dir: RunDir,
    pub(super) plan: Plan,
    pub(super) data: DataSet,
    pub(super) architecture: Architecture,
    pub(super) weights: BTreeMap<String, Tensor>,
    /// What is known.
    pub summary: Summary,
    pub(super) rows: Vec<SampleRow>,
    /// What attacks broke most easily.
    pub(super) examples: Vec<Example>,
    /// `smoothed.csv`, if it is new.
    pub(super) smoothed: Option<Vec<u8>>,
    /// Of the model and the radii as they are.
    pub(super) diagnosis: Option<Diagnosis>,
    /// An evaluation was completed: what was kept of it can go.
    pub(super) attacked: bool,
    /// The training split is the one that the model was trained on.
    pub(super) train_known: bool,
}

impl Run {
    /// Of what is drawn for measurements.
    pub(super) fn streams(&self) -> Streams {
        Streams::new(self.plan.seed)
    }
}

/// Opens the device and the data set that a plan names.
pub fn open_data(plan: &Plan) -> Result<DataSet> {
    let device = plan.compute()?.open()?;
    let s = &plan.synthetic;
    s.check_size()?;
    let data = match plan.data.as_str() {
        "synthetic" => crmt_data::synthetic(&SyntheticOptions {
            seed: plan.seed,
            train: s.train,
            select: s.select,
            report: s.report,
            image_snr_db: s.image_snr_db,
            audio_snr_db: s.audio_snr_db,
        })?,
        path => DataSet::open(path)?,
    };
    let data = match plan.modalities.is_empty() {
        true => data,
        false => data.subset(&plan.modalities).context("modalities")?,
    };
    Ok(data.on(&Upload::new(&device, uploader(&device)?))?)
}
