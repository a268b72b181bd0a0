//! Splits in batches: the training split as a source of the loop, and how many samples are
//! evaluated at once. Does not know what is done with them.
use crate::plan::Plan;
use anyhow::{Result, bail};
use crmt_core::{Batch, Streams};
use crmt_data::{DataSet, Epoch, EpochPlan};
use crmt_train::{Batches, Source};

/// Report samples per forward pass: large enough to keep the cores busy, small enough for caches.
pub const EVAL_BATCH: usize = 250;

/// A data set's training split as a source of the loop.
pub struct Epochs<'a> {
    pub data: &'a DataSet,
    pub streams: Streams,
    pub plan: EpochPlan,
}

/// The training split as `plan` reads it.
pub fn epochs<'a>(plan: &Plan, data: &'a DataSet) -> Result<Epochs<'a>> {
    let available = data.train.len();
    let samples = if plan.train.samples == 0 {
        available
    } else {
        plan.train.samples.min(available)
    };
    if plan.train.batch > samples {
        bail!(
            "train.batch = {} is larger than an epoch of {samples} samples: lower it",
            plan.train.batch
        );
    }
    let of = EpochPlan {
        samples: Some(samples),
        batch: plan.train.batch,
    };
    Ok(Epochs {
        data,
        streams: Streams::new(plan.seed),
        plan: of,
    })
}

impl Source for Epochs<'_> {
    fn steps(&self) -> u64 {
        (self.plan.samples.unwrap_or(0) / self.plan.batch) as u64
    }

    fn epoch<'b>(&'b self, epoch: u64) -> crmt_train::Result<Box<dyn Batches + 'b>> {
        Ok(Box::new(Drawn(
            self.data
                .epoch(&self.streams, epoch, self.plan)
                .map_err(failed)?,
        )))
    }
}

/// Of the loop: a batch could not be made.
pub fn failed(e: crmt_data::BatchError) -> crmt_train::Error {
    crmt_train::Error::Source(Box::new(e))
}

struct Drawn<'a>(Epoch<'a>);

impl Batches for Drawn<'_> {
    fn batch(&self, i: u64) -> crmt_train::Result<Batch> {
        self.0.batch(i as usize).map_err(failed)
    }
}
