//! Votes of a classifier under noise: what is drawn, counted and resumed. Does not know what the
//! counts prove.
use crate::{CertifyError, WeightsHash};
use candle_core::{D, DType, Device, Tensor};
use crmt_core::{Classifier, PerModality, Streams};
use rand::Rng;
use rand_distr::StandardNormal;
use std::fmt;

/// The votes for one sample. Plain numbers: write them anywhere, read them back
/// ([`Smoothing::counted`](crate::Smoothing::counted)), and go on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Votes {
    /// The caller's number of the sample, which its noise depends on; unique within a data set.
    pub id: u64,
    /// Votes per class among the draws that choose the class; empty before the first.
    pub selection: Vec<u64>,
    /// Votes per class among the fresh draws that bound its probability; empty before the first.
    pub estimation: Vec<u64>,
    /// What they were drawn with; none before the first.
    pub(crate) drawn: Option<Drawn>,
}

/// What a vote depends on, besides its input.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Drawn {
    pub weights: Option<WeightsHash>,
    pub sigmas: PerModality<f64>,
}

impl Eq for Drawn {}

impl fmt::Display for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sigmas: Vec<String> = self.sigmas.iter().map(f64::to_string).collect();
        let weights = self
            .weights
            .as_ref()
            .map_or("unnamed weights", WeightsHash::as_str);
        write!(f, "with sigma {} of {weights}", sigmas.join(", "))
    }
}

impl Votes {
    /// No draw yet.
    pub fn new(id: u64) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    /// The class with the most selection votes, the first of equals; `None` before the first draw.
    pub fn selected(&self) -> Option<u32> {
        let most = self.selection.iter().max()?;
        self.selection
            .iter()
            .position(|v| v == most)
            .map(|k| k as u32)
    }
}

/// The two sets of draws, independent of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Selection,
    Estimation,
}

impl Phase {
    pub fn votes(self, votes: &mut Votes) -> &mut Vec<u64> {
        match self {
            Self::Selection => &mut votes.selection,
            Self::Estimation => &mut votes.estimation,
        }
    }
}

/// One noisy copy to make: draw number `draw` of sample `row`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draw {
    pub row: usize,
    pub draw: u64,
}

/// Predictions on noisy copies, `[draws]`.
///
/// Noise is keyed by (streams, sample id, modality, phase, draw), so that no chunking changes it.
pub(crate) fn predict(
    model: &dyn Classifier,
    inputs: &PerModality<Tensor>,
    sigmas: &PerModality<f64>,
    streams: &Streams,
    phase: Phase,
    draws: &[Draw],
    ids: impl Fn(usize) -> u64,
) -> Result<(Vec<u32>, usize), CertifyError> {
    let rows: Vec<u32> = draws.iter().map(|d| d.row as u32).collect();
    let noisy = inputs.try_enumerate(|m, x| {
        let copies = x.index_select(&Tensor::new(rows.as_slice(), x.device())?, 0)?;
        if sigmas[m] == 0. {
            return Ok::<_, CertifyError>(copies);
        }
        let sigma = sigmas[m] * model.modalities()[m].scale;
        let size = x.elem_count() / x.dim(0)?.max(1);
        let mut noise = Vec::with_capacity(size * draws.len());
        for d in draws {
            let purpose = format!("smoothing {phase:?} m{m} #{}", ids(d.row));
            let mut rng = streams.stream(&purpose, d.draw);
            noise.extend((0..size).map(|_| sigma * rng.sample::<f64, _>(StandardNormal)));
        }
        let noise = Tensor::from_vec(noise, copies.shape(), &Device::Cpu)?.to_dtype(x.dtype())?;
        Ok((copies + noise.to_device(x.device())?)?)
    })?;
    let logits = model.logits(&noisy)?.detach();
    let (_, classes) = logits.dims2()?;
    // 0 times a number is 0, otherwise NaN, which no sum loses.
    let nothing = (&logits * 0.)?
        .sum(D::Minus1)?
        .to_dtype(DType::F64)?
        .to_vec1::<f64>()?;
    if let Some((_, draw)) = nothing
        .iter()
        .zip(draws)
        .find(|(nothing, _)| **nothing != 0.)
    {
        return Err(CertifyError::NaN { id: ids(draw.row) });
    }
    Ok((logits.argmax(D::Minus1)?.to_vec1::<u32>()?, classes))
}
