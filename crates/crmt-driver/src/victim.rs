//! A model as the adversary of one threat meets it: some modalities gone for good, distances in other
//! units, no valid range. Does not know attacks.
use candle_core::Tensor;
use crmt_core::{Classifier, Domain, Missing, Modality, PerModality, Result};

/// A classifier of the modalities that are left; the others are at their baselines.
pub struct Victim<'a> {
    model: &'a dyn Classifier,
    missing: Option<(Missing, &'a PerModality<Tensor>)>,
    left: PerModality<Modality>,
}

impl<'a> Victim<'a> {
    /// `missing` modalities stay at `baselines` (one sample each); `None`: all are there.
    pub fn new(model: &'a dyn Classifier, missing: Option<Missing>, baselines: &'a PerModality<Tensor>) -> Self {
        let here = |m: usize| !missing.as_ref().is_some_and(|gone| gone.contains(m));
        let all = model.modalities().iter().enumerate();
        let left = all.filter(|(m, _)| here(*m)).map(|(_, modality)| modality.clone()).collect();
        let left = PerModality::new(left).expect("a missing set leaves a modality");
        Self { model, missing: missing.map(|gone| (gone, baselines)), left }
    }

    /// The same without valid ranges: a stronger adversary than any real one, whom a certificate for the
    /// whole space must withstand.
    pub fn unconfined(mut self) -> Self {
        self.left = self.left.map(|m| Modality { domain: Domain::Unbounded, ..m.clone() });
        self
    }

    /// The same with distances on each modality multiplied by `weights`, one for each that is left.
    pub fn weighted(mut self, weights: &PerModality<f64>) -> Self {
        let scaled = |m: usize| Modality { scale: self.left[m].scale / weights[m], ..self.left[m].clone() };
        self.left = PerModality::from_fn(self.left.len(), scaled);
        self
    }

    /// What is left of anything that is there once per modality.
    pub fn part<T: Clone>(&self, all: &PerModality<T>) -> PerModality<T> {
        let kept = all.iter().enumerate().filter(|(m, _)| !self.is_missing(*m)).map(|(_, x)| x.clone());
        PerModality::new(kept.collect()).expect("a missing set leaves a modality")
    }

    /// Inputs of every modality, as the model sees them: what is left, and the baselines of what is missing.
    pub fn complete(&self, left: &PerModality<Tensor>) -> Result<PerModality<Tensor>> {
        let Some((_, baselines)) = &self.missing else { return Ok(left.clone()) };
        let (mut left, rows) = (left.iter(), left[0].dim(0)?);
        baselines.try_enumerate(|m, baseline| -> Result<Tensor> {
            if !self.is_missing(m) {
                return Ok(left.next().expect("one for each modality that is left").clone());
            }
            let row = baseline.unsqueeze(0)?;
            let shape = [&[rows], baseline.dims()].concat();
            Ok(row.broadcast_as(shape)?.contiguous()?)
        })
    }

    fn is_missing(&self, m: usize) -> bool {
        self.missing.as_ref().is_some_and(|(gone, _)| gone.contains(m))
    }
}

impl Classifier for Victim<'_> {
    fn modalities(&self) -> &PerModality<Modality> {
        &self.left
    }

    fn logits(&self, left: &PerModality<Tensor>) -> Result<Tensor> {
        self.model.logits(&self.complete(left)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// `x0 + 10 x1 + 100 x2`.
    struct Sum(PerModality<Modality>);

    impl Classifier for Sum {
        fn modalities(&self) -> &PerModality<Modality> {
            &self.0
        }
        fn logits(&self, x: &PerModality<Tensor>) -> Result<Tensor> {
            Ok(((&x[0] + (&x[1] * 10.)?)? + (&x[2] * 100.)?)?)
        }
    }

    #[test]
    fn what_is_missing_is_at_its_baseline() -> Result<()> {
        let interval = Domain::Interval { lo: 0.0, hi: 1.0 };
        let modality = |m| Modality { scale: 2.0, ..Modality::new(["a", "b", "c"][m], &[2], interval.clone()) };
        let model = Sum(PerModality::from_fn(3, modality));
        let baselines = PerModality::from_fn(3, |m| Tensor::new(&[m as f64, 7.], &Device::Cpu).unwrap());
        let missing = Missing::each(3).remove(1);
        let victim = Victim::new(&model, Some(missing), &baselines);
        let x = PerModality::from_fn(3, |m| Tensor::new(&[[m as f64 + 1., 1.], [0., 0.]], &Device::Cpu).unwrap());
        let left = victim.part(&x);
        assert_eq!(victim.modalities().iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(victim.logits(&left)?.to_vec2::<f64>()?, [[1. + 10. + 300., 1. + 70. + 100.], [10., 70.]]);
        let victim = victim.weighted(&PerModality::from([4.0, 1.0])).unconfined();
        assert_eq!(victim.modalities().map(|m| m.scale).as_slice(), [0.5, 2.0]);
        assert!(victim.modalities().iter().all(|m| matches!(m.domain, Domain::Unbounded)));
        Ok(())
    }
}
