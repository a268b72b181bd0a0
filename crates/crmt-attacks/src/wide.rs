//! Balls whose lengths `f32` can't square: which samples have one, and the same geometry in `f64`
//! for them. Does not know the geometry itself.
use crate::{
    Result,
    ball::{Ball, waits},
    rows::chosen,
};
use candle_core::{DType, Tensor};
use crmt_core::PerModality;
use std::ops::RangeInclusive;

/// Squares of these, and of products of two of them, keep all their digits in `f32`.
const ORDINARY: RangeInclusive<f64> = 1e-12..=1e12;

impl Ball<'_> {
    /// `narrow` for samples of ordinary size, also told which of them turn out not to be; the same
    /// in `f64` for all others. A modality's unit therefore does not matter, and samples are
    /// independent of each other.
    pub(crate) fn by_size(
        &self,
        like: &PerModality<Tensor>,
        narrow: impl FnOnce(&Self) -> Result<(PerModality<Tensor>, Vec<bool>)>,
        wide: impl FnOnce(&Ball<'_>) -> Result<PerModality<Tensor>>,
    ) -> Result<PerModality<Tensor>> {
        if like[0].dtype() == DType::F64 {
            return Ok(narrow(self)?.0);
        }
        let mut extreme = self.extreme(like)?;
        let all = !extreme.is_empty() && !extreme.contains(&false);
        let narrowed = if all { None } else { Some(narrow(self)?) };
        if let Some((_, overflown)) = &narrowed {
            extreme
                .iter_mut()
                .zip(overflown)
                .for_each(|(extreme, overflown)| *extreme |= overflown);
        }
        if let Some((x, _)) = narrowed.as_ref().filter(|_| !extreme.contains(&true)) {
            return Ok(x.clone());
        }
        let factors = self
            .factors
            .map(|f| f.try_map(|f| f.to_dtype(DType::F64)))
            .transpose()?;
        let found = wide(&Ball {
            factors: factors.as_ref(),
            ..self.clone()
        })?;
        like.try_enumerate(|m, like| {
            let found = found[m].to_dtype(like.dtype())?;
            let Some((x, _)) = &narrowed else {
                return Ok(found);
            };
            Ok(chosen(&extreme, &found, &x[m])?)
        })
    }

    /// Whose radius, or the unit of what it may move, is beyond [`ORDINARY`].
    fn extreme(&self, like: &PerModality<Tensor>) -> Result<Vec<bool>> {
        let mut extreme = vec![false; like[0].dim(0)?];
        for (m, modality) in self
            .modalities
            .iter()
            .enumerate()
            .filter(|(m, _)| self.budget.radius(*m) > 0.)
        {
            let ordinary = |factor: f64| {
                let radius = self.budget.radius(m) * factor;
                [radius, modality.scale, radius * modality.scale]
                    .iter()
                    .all(|x| *x == 0. || ORDINARY.contains(x))
            };
            match self.factors.filter(|f| !waits(&f[m])) {
                Some(factors) => {
                    let factors = factors[m]
                        .to_dtype(DType::F64)?
                        .flatten_all()?
                        .to_vec1::<f64>()?;
                    extreme
                        .iter_mut()
                        .zip(factors)
                        .for_each(|(extreme, factor)| *extreme |= !ordinary(factor));
                }
                None => extreme
                    .iter_mut()
                    .for_each(|extreme| *extreme |= !ordinary(1.)),
            }
        }
        Ok(extreme)
    }
}

/// In `f64`.
pub(crate) fn widened(x: &PerModality<Tensor>) -> Result<PerModality<Tensor>> {
    x.try_map(|x| Ok(x.to_dtype(DType::F64)?))
}

/// Which samples have a length, `[batch, 1]` of each modality, that is no number; none are looked
/// for where that would hold up the device.
pub(crate) fn overflown(lengths: &PerModality<Option<Tensor>>) -> Result<Vec<bool>> {
    let mut found = vec![];
    for lengths in lengths.iter().flatten().filter(|lengths| !waits(lengths)) {
        let lengths = lengths
            .to_dtype(DType::F64)?
            .flatten_all()?
            .to_vec1::<f64>()?;
        found.resize(lengths.len(), false);
        found
            .iter_mut()
            .zip(lengths)
            .for_each(|(found, length)| *found |= !length.is_finite());
    }
    Ok(found)
}
