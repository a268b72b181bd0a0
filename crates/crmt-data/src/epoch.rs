//! Training order: which samples, in which batches, paired and augmented how.
//! Does not know what training does with them.
use crate::{BatchError, Split};
use crmt_core::{Batch, Streams};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

/// How much of the training split an epoch shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochPlan {
    /// How many random samples; all when `None`.
    pub samples: Option<usize>,
    /// Samples per batch. A last batch that would be smaller is dropped.
    pub batch: usize,
}

/// The batches of one epoch.
///
/// - Order: a random permutation of the training samples (of the rows of the first modality when
///   paired by class), of which the plan's number is used.
/// - Pairing by class: every other modality gets a row drawn uniformly, with replacement, from
///   its rows of the same class.
/// - Augmentation: the first and the second half of a batch are each shifted along the last axis
///   by one number of steps, uniform in `-s..=s`, and filled with zeros.
#[derive(Debug)]
pub struct Epoch<'a> {
    split: &'a Split,
    shifts: Vec<usize>,
    batches: std::vec::IntoIter<Vec<usize>>,
    pairing: ChaCha8Rng,
    augment: ChaCha8Rng,
}

impl<'a> Epoch<'a> {
    pub(crate) fn new(
        split: &'a Split,
        shifts: Vec<usize>,
        streams: &Streams,
        epoch: u64,
        plan: EpochPlan,
    ) -> Result<Self, BatchError> {
        let available = split.len();
        let samples = plan.samples.unwrap_or(available);
        if samples > available {
            return Err(BatchError::Samples { wanted: samples, available });
        }
        if plan.batch == 0 || plan.batch > samples {
            return Err(BatchError::BatchSize { batch: plan.batch, samples });
        }
        let order = choose(available, samples, &mut streams.stream("shuffle", epoch));
        let batches: Vec<_> = order.chunks_exact(plan.batch).map(<[usize]>::to_vec).collect();
        Ok(Self {
            split,
            shifts,
            batches: batches.into_iter(),
            pairing: streams.stream("pairing", epoch),
            augment: streams.stream("augment", epoch),
        })
    }
}

impl Iterator for Epoch<'_> {
    type Item = Result<Batch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let samples = self.batches.next()?;
        let (shifts, arrays) = (&self.shifts, self.split.arrays());
        let augment = |m: usize, values: &mut [f32]| {
            let most = shifts[m] as i64;
            if most == 0 {
                return;
            }
            let half = samples.len() / 2 * arrays[m].row_len();
            let width = arrays[m].shape().last().copied().unwrap_or(1);
            let (first, second) = values.split_at_mut(half);
            for part in [first, second] {
                shift_last_axis(part, width, self.augment.random_range(-most..=most));
            }
        };
        Some(self.split.gather(&samples, |pool| draw(pool, &mut self.pairing), augment))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.batches.size_hint()
    }
}

impl ExactSizeIterator for Epoch<'_> {}

/// Distinct random samples, without augmentation.
pub(crate) fn sample(split: &Split, streams: &Streams, n: usize) -> Result<Batch, BatchError> {
    let mut rng = streams.stream("train-sample", 0);
    let samples = choose(split.len(), n.min(split.len()), &mut rng);
    split.gather(&samples, |pool| draw(pool, &mut rng), |_, _| ())
}

fn choose(available: usize, samples: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<_> = (0..available).collect();
    order.partial_shuffle(rng, samples).0.to_vec()
}

fn draw(pool: &[usize], rng: &mut ChaCha8Rng) -> usize {
    *pool.choose(rng).expect("checked: every class of the first modality has a partner in the others")
}

/// Moves each run of `width` values by `by` places (to the right if positive); zeros move in.
fn shift_last_axis(values: &mut [f32], width: usize, by: i64) {
    let places = (by.unsigned_abs() as usize).min(width);
    for run in values.chunks_exact_mut(width) {
        if by >= 0 {
            run.copy_within(..width - places, places);
            run[..places].fill(0.);
        } else {
            run.copy_within(places.., 0);
            run[width - places..].fill(0.);
        }
    }
}
