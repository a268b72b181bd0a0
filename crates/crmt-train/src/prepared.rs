//! What a loss is computed of: tensors alone, so that the same loss can be recorded once and
//! replayed. Does not know what was done to get them.
use crate::Result;
use candle_core::{DType, Tensor};
use crmt_core::{Batch, PerModality};

/// All of a loss that differs from step to step.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What the model sees, each `[batch, ...]`.
    pub inputs: PerModality<Tensor>,
    /// Classes, `[batch]`, `u32`.
    pub labels: Tensor,
    /// Where samples are mixed: the others in them.
    pub mixed: Option<Mixed>,
    /// What the strategy makes of the step's number, e.g. a radius that grows; a scalar in `f64`.
    pub schedule: Option<Tensor>,
}

/// The second samples of a mixture.
#[derive(Debug, Clone)]
pub struct Mixed {
    /// Their classes, `[batch]`.
    pub labels: Tensor,
    /// How much of the first samples there is, and of these; scalars.
    pub shares: [Tensor; 2],
}

impl Mixed {
    pub(crate) fn mix(&self, first: &Tensor, second: &Tensor) -> candle_core::Result<Tensor> {
        let [own, other] = &self.shares;
        first.broadcast_mul(own)? + second.broadcast_mul(other)?
    }
}

impl Prepared {
    /// The batch itself.
    pub fn clean(batch: &Batch) -> Self {
        Self {
            inputs: batch.inputs.clone(),
            labels: batch.labels.clone(),
            mixed: None,
            schedule: None,
        }
    }

    /// The same with a number that depends on the step.
    pub fn scheduled(self, value: f64) -> Result<Self> {
        Ok(Self {
            schedule: Some(Tensor::new(value, self.labels.device())?),
            ..self
        })
    }

    /// `[batch, classes]`, rows sum to one.
    pub fn targets(&self, classes: usize) -> Result<Tensor> {
        let dtype = self.inputs[0].dtype();
        let own = one_hot(&self.labels, classes, dtype)?;
        Ok(match &self.mixed {
            None => own,
            Some(mixed) => mixed.mix(&own, &one_hot(&mixed.labels, classes, dtype)?)?,
        })
    }

    /// All tensors, in an order that [`with`](Self::with) knows.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        let mixed = self
            .mixed
            .iter()
            .flat_map(|mixed| [&mixed.labels, &mixed.shares[0], &mixed.shares[1]]);
        self.inputs
            .iter()
            .chain([&self.labels])
            .chain(mixed)
            .chain(&self.schedule)
            .cloned()
            .collect()
    }

    /// The same made of others, which are as many.
    pub(crate) fn with(&self, tensors: Vec<Tensor>) -> Self {
        let mut tensors = tensors.into_iter();
        let mut next = || tensors.next().expect("as many as there were");
        Self {
            inputs: self.inputs.map(|_| next()),
            labels: next(),
            mixed: self.mixed.as_ref().map(|_| Mixed {
                labels: next(),
                shares: [next(), next()],
            }),
            schedule: self.schedule.as_ref().map(|_| next()),
        }
    }
}

/// `[batch, classes]` of labels `[batch]`, each less than `classes`. On a GPU without waiting for
/// it, or bringing anything there.
pub(crate) fn one_hot(
    labels: &Tensor,
    classes: usize,
    dtype: DType,
) -> candle_core::Result<Tensor> {
    let (batch, device) = (labels.dim(0)?, labels.device());
    let ones = Tensor::ones((batch, 1), dtype, device)?;
    Tensor::zeros((batch, classes), dtype, device)?.scatter(&labels.unsqueeze(1)?, &ones, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn targets_are_shares_of_classes() -> Result<()> {
        let device = &Device::Cpu;
        let inputs = PerModality::from([Tensor::zeros((2, 3), DType::F64, device)?]);
        let batch = Batch::new(inputs, Tensor::new(&[2u32, 0], device)?)?;
        let clean = Prepared::clean(&batch);
        assert_eq!(
            clean.targets(3)?.to_vec2::<f64>()?,
            [[0., 0., 1.], [1., 0., 0.]]
        );
        let shares = [Tensor::new(0.75f64, device)?, Tensor::new(0.25f64, device)?];
        let mixed = Prepared {
            mixed: Some(Mixed {
                labels: Tensor::new(&[1u32, 0], device)?,
                shares,
            }),
            ..clean
        };
        assert_eq!(
            mixed.targets(3)?.to_vec2::<f64>()?,
            [[0., 0.25, 0.75], [1., 0., 0.]]
        );
        assert!(mixed.targets(2).is_err(), "class 2 of two");
        // Taken apart and put together again.
        let scheduled = mixed.scheduled(0.5)?;
        let same = scheduled.with(scheduled.tensors());
        assert_eq!(same.tensors().len(), 6);
        assert_eq!(
            same.targets(3)?.to_vec2::<f64>()?,
            scheduled.targets(3)?.to_vec2::<f64>()?
        );
        assert_eq!(same.schedule.expect("scheduled").to_scalar::<f64>()?, 0.5);
        Ok(())
    }
}
