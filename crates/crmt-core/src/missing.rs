//! Which modalities are missing, and what stands in for them.
use crate::{Error, Modality, PerModality, Result};
use candle_core::Tensor;

/// A set of missing modalities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(PerModality<bool>);

impl Missing {
    /// The modalities that are `gone`; `None` when none is, or when none is left.
    pub fn new(gone: PerModality<bool>) -> Option<Self> {
        let count = gone.iter().filter(|gone| **gone).count();
        (count > 0 && count < gone.len()).then_some(Self(gone))
    }

    /// Every set that is not empty and leaves at least one modality, smallest sets first.
    pub fn all(modalities: usize) -> Vec<Self> {
        assert!(
            modalities < usize::BITS as usize,
            "subsets of {modalities} modalities cannot be enumerated"
        );
        let mut sets: Vec<usize> = (1..(1usize << modalities).saturating_sub(1)).collect();
        sets.sort_by_key(|bits| (bits.count_ones(), *bits));
        sets.into_iter()
            .map(|bits| Self(PerModality::from_fn(modalities, |m| bits >> m & 1 == 1)))
            .collect()
    }

    /// Each modality alone.
    pub fn each(modalities: usize) -> Vec<Self> {
        (0..modalities)
            .map(|gone| Self(PerModality::from_fn(modalities, |m| m == gone)))
            .collect()
    }

    /// How many modalities the model has, missing or not.
    pub fn modalities(&self) -> usize {
        self.0.len()
    }

    /// Whether modality `m` is missing.
    pub fn contains(&self, m: usize) -> bool {
        self.0[m]
    }

    /// Names joined by `+`, e.g. `audio+depth`.
    pub fn describe(&self, modalities: &PerModality<Modality>) -> String {
        let names: Vec<_> = self
            .0
            .iter()
            .zip(modalities.iter())
            .filter(|(gone, _)| **gone)
            .map(|(_, m)| m.name.as_str())
            .collect();
        names.join("+")
    }

    /// `inputs` with every missing modality replaced by its baseline.
    ///
    /// `baselines`: one sample each (no batch dimension), repeated for every row.
    pub fn apply(
        &self,
        inputs: &PerModality<Tensor>,
        baselines: &PerModality<Tensor>,
    ) -> Result<PerModality<Tensor>> {
        let expected = inputs.len();
        if self.0.len() != expected {
            return Err(Error::ModalityCount {
                what: "missing set",
                expected,
                got: self.0.len(),
            });
        }
        inputs
            .zip(baselines, "baselines")?
            .try_enumerate(|m, (x, baseline)| {
                if !self.0[m] {
                    return Ok((*x).clone());
                }
                Ok(baseline
                    .to_dtype(x.dtype())?
                    .unsqueeze(0)?
                    .broadcast_as(x.shape())?
                    .contiguous()?)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Domain;

    #[test]
    fn subsets_are_proper_and_named() {
        let names = |n: usize| {
            let m = PerModality::from_fn(n, |i| {
                Modality::new(["a", "b", "c"][i], &[1], Domain::Unbounded)
            });
            Missing::all(n)
                .iter()
                .map(|s| s.describe(&m))
                .collect::<Vec<_>>()
        };
        assert!(names(1).is_empty());
        assert_eq!(names(2), ["a", "b"]);
        assert_eq!(names(3), ["a", "b", "c", "a+b", "a+c", "b+c"]);
        assert_eq!(Missing::each(3), Missing::all(3)[..3]);
        assert_eq!(
            Missing::new(PerModality::from([true, false, true])).as_ref(),
            Missing::all(3).get(4)
        );
        assert_eq!(
            [true, false].map(|all| Missing::new(PerModality::from([all, all]))),
            [None, None]
        );
    }
}
