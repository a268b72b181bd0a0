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

/// The batches of one epoch, in order or one by one: any thread may make any of them.
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
    /// All that is random is drawn when the epoch begins.
    drawn: Vec<Drawn>,
    next: usize,
}

/// What a batch is made of.
#[derive(Debug)]
struct Drawn {
    samples: Vec<usize>,
    /// Rows of the other modalities where they are paired by class, one modality after the other.
    partners: Vec<usize>,
    /// Of both halves, for each modality.
    shifts: Vec<[i64; 2]>,
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
            return Err(BatchError::Samples {
                wanted: samples,
                available,
            });
        }
        if plan.batch == 0 || plan.batch > samples {
            return Err(BatchError::BatchSize {
                batch: plan.batch,
                samples,
            });
        }
        let order = choose(available, samples, &mut streams.stream("shuffle", epoch));
        let (mut pairing, mut augment) = (
            streams.stream("pairing", epoch),
            streams.stream("augment", epoch),
        );
        let drawn = order.chunks_exact(plan.batch).map(|samples| Drawn {
            samples: samples.to_vec(),
            partners: split
                .pools(samples)
                .map(|pool| draw(pool, &mut pairing))
                .collect(),
            shifts: shifts
                .iter()
                .map(|most| match *most as i64 {
                    0 => [0; 2],
                    most => [(); 2].map(|()| augment.random_range(-most..=most)),
                })
                .collect(),
        });
        Ok(Self {
            split,
            drawn: drawn.collect(),
            next: 0,
        })
    }

    /// Batch `i`, from 0.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn batch(&self, i: usize) -> Result<Batch, BatchError> {
        let Drawn {
            samples,
            partners,
            shifts,
        } = &self.drawn[i];
        let (mut partners, arrays) = (partners.iter(), self.split.arrays());
        let augment = |m: usize, values: &mut [f32]| {
            let width = arrays[m].shape().last().copied().unwrap_or(1);
            let (first, second) = values.split_at_mut(samples.len() / 2 * arrays[m].row_len());
            for (part, by) in [first, second]
                .into_iter()
                .zip(shifts[m])
                .filter(|(_, by)| *by != 0)
            {
                shift_last_axis(part, width, by);
            }
        };
        self.split.gather(
            samples,
            |_| *partners.next().expect("one was drawn for each"),
            augment,
        )
    }

    /// How many batches there are in all.
    pub fn batches(&self) -> usize {
        self.drawn.len()
    }
}

impl Iterator for Epoch<'_> {
    type Item = Result<Batch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.next < self.drawn.len()).then(|| {
            self.next += 1;
            self.batch(self.next - 1)
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.drawn.len() - self.next;
        (left, Some(left))
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
    *pool
        .choose(rng)
        .expect("checked: every class of the first modality has a partner in the others")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Array, Augment, DataSet, Manifest, ModalitySpec, Pairing, Samples};
    use crmt_core::PerModality;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// 30 "images" (their row number), 12 "sounds" of width 5 (class * 100 + row), paired by class.
    fn by_class(shift: usize) -> DataSet {
        let mut sound = ModalitySpec::new("sound", &[5]);
        sound.augment = Augment {
            shift_last_axis: shift,
        };
        let manifest = Manifest::new(
            "x",
            ["a", "b", "c"],
            vec![ModalitySpec::new("image", &[1]), sound],
        );
        let images: Vec<u32> = (0..30).map(|i| i * i % 3).collect();
        let sounds: Vec<u32> = (0..12).map(|i| i % 3).collect();
        let arrays = vec![
            Array::floats(&[1], (0..30).map(|i| i as f32).collect()).expect("whole"),
            Array::floats(
                &[5],
                (0..60)
                    .map(|i| (sounds[i / 5] * 100) as f32 + (i / 5) as f32)
                    .collect(),
            )
            .expect("whole"),
        ];
        let fixed = Samples {
            arrays: arrays.clone(),
            pairing: Pairing::Index {
                table: vec![3, 4, 0, 0],
                labels: vec![0, 0],
            },
        };
        let train = Samples {
            arrays,
            pairing: Pairing::Class {
                labels: PerModality::from([images, sounds]),
            },
        };
        DataSet::new(manifest, train, fixed.clone(), fixed).expect("consistent")
    }

    fn plan(samples: Option<usize>, batch: usize) -> EpochPlan {
        EpochPlan { samples, batch }
    }

    fn values(
        data: &DataSet,
        epoch: u64,
        plan: EpochPlan,
    ) -> Result<Vec<[Vec<f32>; 2]>, BatchError> {
        let flat = |b: Batch| -> Result<_, BatchError> {
            Ok([
                b.inputs[0].flatten_all()?.to_vec1()?,
                b.inputs[1].flatten_all()?.to_vec1()?,
            ])
        };
        data.epoch(&Streams::new(7), epoch, plan)?
            .map(|b| flat(b?))
            .collect()
    }

    #[test]
    fn epochs_repeat_by_their_number_and_differ_otherwise() -> Outcome {
        let data = by_class(2);
        let all = plan(None, 8);
        assert_eq!(values(&data, 3, all)?, values(&data, 3, all)?);
        assert_ne!(values(&data, 3, all)?, values(&data, 4, all)?);
        // 30 samples, 8 in a batch: the last 6 are dropped; nothing appears twice.
        let epoch = data.epoch(&Streams::new(7), 3, all)?;
        assert_eq!(epoch.len(), 3);
        let mut seen: Vec<_> = values(&data, 3, all)?
            .into_iter()
            .flat_map(|[image, _]| image)
            .collect();
        seen.sort_by(f32::total_cmp);
        seen.dedup();
        assert_eq!(seen.len(), 24);
        assert_eq!(values(&data, 0, plan(Some(10), 5))?.len(), 2);
        Ok(())
    }

    #[test]
    fn partners_have_the_samples_class_and_vary() -> Outcome {
        let data = by_class(0);
        let mut partners = std::collections::BTreeSet::new();
        for epoch in 0..20 {
            for batch in data.epoch(&Streams::new(7), epoch, plan(None, 10))? {
                let batch = batch?;
                let sounds = batch.inputs[1].to_vec2::<f32>()?;
                for (sound, label) in sounds.iter().zip(batch.labels.to_vec1::<u32>()?) {
                    assert_eq!((sound[0] / 100.) as u32, label);
                    partners.insert(sound[0] as u32);
                }
            }
        }
        // Images have classes 0 and 1 only, so of 12 sounds these 8 are partners.
        assert_eq!(
            partners.into_iter().collect::<Vec<_>>(),
            [0, 3, 6, 9, 101, 104, 107, 110]
        );
        Ok(())
    }

    #[test]
    fn halves_are_shifted_as_one_and_filled_with_zeros() -> Outcome {
        let data = by_class(2);
        let mut shifts = std::collections::BTreeSet::new();
        for epoch in 0..40 {
            for [_, sounds] in values(&data, epoch, plan(Some(10), 10))? {
                let rows: Vec<_> = sounds.chunks(5).filter(|r| r[2] != 0.).collect();
                let shift = |row: &[f32]| match (
                    row.iter().position(|v| *v != 0.),
                    row.iter().rposition(|v| *v != 0.),
                ) {
                    (Some(first), Some(4)) => first as i64,
                    (_, Some(last)) => last as i64 - 4,
                    _ => unreachable!("the middle stays"),
                };
                assert!(
                    rows.iter()
                        .all(|r| r.iter().all(|v| *v == 0. || *v == r[2]))
                );
                let of = |half: usize| {
                    sounds
                        .chunks(5)
                        .skip(half * 5)
                        .take(5)
                        .filter(|r| r[2] != 0.)
                        .map(shift)
                        .collect::<std::collections::BTreeSet<_>>()
                };
                assert!(of(0).len() <= 1 && of(1).len() <= 1);
                shifts.extend(of(0));
            }
        }
        assert_eq!(shifts.into_iter().collect::<Vec<_>>(), [-2, -1, 0, 1, 2]);
        Ok(())
    }

    #[test]
    fn shifts_are_exact() {
        let shifted = |by| {
            let mut v = [1., 2., 3., 4., 5., 6.];
            shift_last_axis(&mut v, 3, by);
            v
        };
        assert_eq!(shifted(1), [0., 1., 2., 0., 4., 5.]);
        assert_eq!(shifted(-2), [3., 0., 0., 6., 0., 0.]);
        assert_eq!(shifted(0), [1., 2., 3., 4., 5., 6.]);
        assert_eq!(shifted(9), [0.; 6]);
    }

    #[test]
    fn samples_are_distinct_unaugmented_and_repeatable() -> Outcome {
        let data = by_class(2);
        let take = |n| -> Result<Vec<f32>, BatchError> {
            Ok(data.train_sample(&Streams::new(1), n)?.inputs[0]
                .flatten_all()?
                .to_vec1()?)
        };
        assert_eq!(take(10)?, take(10)?);
        let mut all = take(1000)?;
        all.sort_by(f32::total_cmp);
        assert_eq!(all, (0..30).map(|i| i as f32).collect::<Vec<_>>());
        let sounds = data.train_sample(&Streams::new(1), 30)?.inputs[1].to_vec2::<f32>()?;
        assert!(sounds.iter().all(|row| row.iter().all(|v| *v == row[0])));
        Ok(())
    }

    #[test]
    fn impossible_plans_are_named() {
        let data = by_class(0);
        let message = |plan| {
            data.epoch(&Streams::new(0), 0, plan)
                .expect_err("refused")
                .to_string()
        };
        assert_eq!(
            message(plan(Some(31), 1)),
            "an epoch of 31 samples was asked for, the training split has 30"
        );
        assert!(message(plan(None, 0)).starts_with("batches of 0 were asked for"));
        assert!(
            message(plan(Some(5), 6)).ends_with("an epoch has 5 samples: no batch would be full")
        );
        assert!(matches!(data.train.batch(0..1), Err(BatchError::NotFixed)));
        let range = data.report.batch(1..3).expect_err("refused").to_string();
        assert_eq!(range, "samples 1..3 were asked for, the split has 2");
    }

    #[test]
    fn fixed_splits_follow_their_table() -> Outcome {
        let data = by_class(2);
        let batch = data.report.batch(0..2)?;
        assert_eq!(batch.inputs[0].to_vec2::<f32>()?, [[3.], [0.]]);
        assert_eq!(batch.inputs[1].to_vec2::<f32>()?, [[104.; 5], [0.; 5]]);
        assert_eq!(data.report.batches(1).count(), 2);
        Ok(())
    }
}
