//! A classifier as the adversary of one threat meets it: some modalities gone for good, distances
//! in other units, no valid range. Does not know attacks.
use candle_core::Tensor;
use crmt_core::{Classifier, Domain, Error, Missing, Modality, PerModality, Result};

/// A classifier of the modalities that are left; the others stay at their baselines. Any attack
/// runs on it, so a modality that is missing and a perturbation of the rest are one line:
///
/// ```
/// # use candle_core::{Device, Tensor};
/// # use crmt_attacks::{Budget, Draws, Goal, Pgd, Victim, run};
/// # use crmt_core::{Classifier, Domain, Missing, Modality, PerModality, Streams};
/// # struct Sum(PerModality<Modality>);
/// # impl Classifier for Sum {
/// #     fn modalities(&self) -> &PerModality<Modality> { &self.0 }
/// #     fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> { Ok((&x[0] + &x[1])?) }
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let modality = |name: &str| Modality::new(name, &[2], Domain::Unbounded);
/// # let model = Sum(PerModality::from([modality("camera"), modality("radar")]));
/// # let inputs = PerModality::from([Tensor::new(&[[2f32, 0.]], &Device::Cpu)?, Tensor::new(&[[1f32, 0.]], &Device::Cpu)?]);
/// # let baselines = inputs.try_map(|x| Ok::<_, crmt_core::Error>(x.get(0)?.zeros_like()?))?;
/// # let (goal, draws) = (Goal::Avoid(Tensor::new(&[0u32], &Device::Cpu)?), Draws::new(Streams::new(0), 0));
/// for missing in Missing::all(2) {
///     let victim = Victim::new(&model, Some(missing), &baselines)?;
///     let outcome = run(&Pgd::strong(Budget::Joint(0.5)), &victim, &victim.part(&inputs), &goal, &draws)?;
///     assert!(!outcome.success[0]);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Victim<'a> {
    model: &'a dyn Classifier,
    missing: Option<(Missing, &'a PerModality<Tensor>)>,
    left: PerModality<Modality>,
}

impl<'a> Victim<'a> {
    /// `missing` modalities stay at `baselines` (one sample each, no batch axis); `None`: all are
    /// there.
    ///
    /// # Errors
    /// [`Error::ModalityCount`] when the set or the baselines are of another number of modalities
    /// than the model, and [`Error::Shape`] names a baseline that is no sample of its modality.
    pub fn new(
        model: &'a dyn Classifier,
        missing: Option<Missing>,
        baselines: &'a PerModality<Tensor>,
    ) -> Result<Self> {
        let all = model.modalities();
        for (modality, baseline) in all.zip(baselines, "baselines")?.iter() {
            modality.check(&baseline.unsqueeze(0)?)?;
        }
        if let Some(got) = missing
            .as_ref()
            .map(Missing::modalities)
            .filter(|got| *got != all.len())
        {
            return Err(Error::ModalityCount {
                what: "missing set",
                expected: all.len(),
                got,
            });
        }
        let missing = missing.map(|gone| (gone, baselines));
        let left = left(missing.as_ref().map(|(gone, _)| gone), all);
        Ok(Self {
            model,
            missing,
            left,
        })
    }

    /// The same without valid ranges: a stronger adversary than any real one, whom a certificate
    /// for the whole space must withstand.
    pub fn unconfined(mut self) -> Self {
        self.left = self.left.map(|m| Modality {
            domain: Domain::Unbounded,
            ..m.clone()
        });
        self
    }

    /// The same with distances on each modality that is left multiplied by its weight.
    ///
    /// # Errors
    /// [`Error::ModalityCount`] unless there is one weight for each.
    pub fn weighted(mut self, weights: &PerModality<f64>) -> Result<Self> {
        let weighted = self.left.zip(weights, "weights")?;
        self.left = weighted.map(|(m, w)| Modality {
            scale: m.scale / **w,
            ..(*m).clone()
        });
        Ok(self)
    }

    /// What is left of `all`, in which each modality of the model has one entry; panics when there
    /// are too few.
    pub fn part<T: Clone>(&self, all: &PerModality<T>) -> PerModality<T> {
        left(self.missing.as_ref().map(|(gone, _)| gone), all)
    }

    /// The inputs of every modality as the model sees them: what is `left`, and the baselines of
    /// what is missing, each `[batch, ...]`.
    ///
    /// # Errors
    /// [`Error::ModalityCount`] unless there is one input for each modality that is left.
    pub fn complete(&self, left: &PerModality<Tensor>) -> Result<PerModality<Tensor>> {
        let Some((gone, baselines)) = &self.missing else {
            return Ok(left.clone());
        };
        self.left.zip(left, "inputs")?;
        let (rows, dtype, mut left) = (left[0].dim(0)?, left[0].dtype(), left.iter());
        baselines.try_enumerate(|m, baseline| -> Result<Tensor> {
            if !gone.contains(m) {
                return Ok(left
                    .next()
                    .expect("one for each modality that is left")
                    .clone());
            }
            let shape = [&[rows], baseline.dims()].concat();
            Ok(baseline
                .to_dtype(dtype)?
                .unsqueeze(0)?
                .broadcast_as(shape)?
                .contiguous()?)
        })
    }
}

fn left<T: Clone>(missing: Option<&Missing>, all: &PerModality<T>) -> PerModality<T> {
    let here = |m: usize| !missing.is_some_and(|gone| gone.contains(m));
    let kept = all
        .iter()
        .enumerate()
        .filter(|(m, _)| here(*m))
        .map(|(_, x)| x.clone());
    PerModality::new(kept.collect()).expect("a missing set leaves a modality")
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

    fn sum() -> Sum {
        let interval = Domain::Interval { lo: 0.0, hi: 1.0 };
        let modality = |m| Modality {
            scale: 2.0,
            ..Modality::new(["a", "b", "c"][m], &[2], interval.clone())
        };
        Sum(PerModality::from_fn(3, modality))
    }

    #[test]
    fn what_is_missing_is_at_its_baseline() -> Result<()> {
        let model = sum();
        // Of another type than the inputs: what the model sees is the inputs' own.
        let baselines =
            PerModality::from_fn(3, |m| Tensor::new(&[m as f32, 7.], &Device::Cpu).unwrap());
        let missing = Missing::each(3).remove(1);
        let victim = Victim::new(&model, Some(missing), &baselines)?;
        let x = PerModality::from_fn(3, |m| {
            Tensor::new(&[[m as f64 + 1., 1.], [0., 0.]], &Device::Cpu).unwrap()
        });
        let left = victim.part(&x);
        assert_eq!(
            victim
                .modalities()
                .iter()
                .map(|m| m.name.as_str())
                .collect::<Vec<_>>(),
            ["a", "c"]
        );
        assert_eq!(
            victim.logits(&left)?.to_vec2::<f64>()?,
            [[1. + 10. + 300., 1. + 70. + 100.], [10., 70.]]
        );
        let victim = victim
            .weighted(&PerModality::from([4.0, 1.0]))?
            .unconfined();
        assert_eq!(victim.modalities().map(|m| m.scale).as_slice(), [0.5, 2.0]);
        assert!(
            victim
                .modalities()
                .iter()
                .all(|m| matches!(m.domain, Domain::Unbounded))
        );
        // Two gone: one is left; none gone: the model itself.
        let alone = Victim::new(&model, Some(Missing::all(3).remove(5)), &baselines)?;
        assert_eq!(
            alone.logits(&alone.part(&x))?.to_vec2::<f64>()?,
            [[211., 771.], [210., 770.]]
        );
        let whole = Victim::new(&model, None, &baselines)?;
        assert_eq!(
            whole.logits(&x)?.to_vec2::<f64>()?,
            model.logits(&x)?.to_vec2::<f64>()?
        );
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let model = sum();
        let baselines = |n, size: usize| {
            PerModality::from_fn(n, |_| Tensor::new(vec![0f64; size], &Device::Cpu).unwrap())
        };
        let (fitting, few, long) = (baselines(3, 2), baselines(2, 2), baselines(3, 4));
        let refused = |missing, baselines: &PerModality<Tensor>| {
            Victim::new(&model, missing, baselines)
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default()
        };
        assert!(refused(None, &few).contains("baselines"));
        assert!(
            refused(None, &long).contains("`a`"),
            "{}",
            refused(None, &long)
        );
        assert!(refused(Some(Missing::each(2).remove(0)), &fitting).contains("missing set"));
        let victim = Victim::new(&model, Some(Missing::each(3).remove(0)), &fitting).unwrap();
        assert!(
            victim
                .logits(&few.map(|_| fitting[0].unsqueeze(0).unwrap()))
                .is_ok()
        );
        assert!(
            victim.logits(&fitting).is_err(),
            "three inputs for the two that are left"
        );
        assert!(victim.weighted(&PerModality::from([1.])).is_err());
    }
}
