//! Batches on the host in `f64`, sample by sample: for searches in which every sample goes its own
//! way. Does not know models.
use crate::Result;
use candle_core::{DType, Tensor};
use crmt_core::PerModality;

/// One sample: the elements of every modality, in order.
pub(crate) type Point = Vec<Vec<f64>>;

/// A batch, `[modality][element]`.
pub(crate) struct Rows {
    all: Point,
    samples: usize,
}

impl Rows {
    pub fn new(x: &PerModality<Tensor>) -> Result<Self> {
        let all = x
            .iter()
            .map(|x| Ok(x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?))
            .collect::<Result<_>>()?;
        Ok(Self {
            all,
            samples: x[0].dim(0)?,
        })
    }

    /// Nothing for a modality without a gradient.
    pub fn of_gradients(gradients: &PerModality<Option<Tensor>>, samples: usize) -> Result<Self> {
        let row = |g: &Option<Tensor>| match g {
            Some(g) => Ok(g.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?),
            None => Ok(vec![]),
        };
        Ok(Self {
            all: gradients.iter().map(row).collect::<Result<_>>()?,
            samples,
        })
    }

    /// Sample `i`.
    pub fn of(&self, i: usize) -> Point {
        let row = |v: &Vec<f64>| {
            let len = v.len() / self.samples;
            v[i * len..(i + 1) * len].to_vec()
        };
        self.all.iter().map(row).collect()
    }

    /// Every sample.
    pub fn points(&self) -> Vec<Point> {
        (0..self.samples).map(|i| self.of(i)).collect()
    }
}

/// These samples as a batch, with the type and the device of `like`, whose shapes but for their
/// number are theirs.
pub(crate) fn stacked(like: &PerModality<Tensor>, points: &[Point]) -> Result<PerModality<Tensor>> {
    like.try_enumerate(|m, like| {
        let values: Vec<f64> = points.iter().flat_map(|p| &p[m]).copied().collect();
        let mut shape = like.dims().to_vec();
        shape[0] = points.len();
        Ok(Tensor::from_vec(values, shape, like.device())?.to_dtype(like.dtype())?)
    })
}

/// `(1 - t) a + t b`; `a` itself, bit for bit, where both are the same.
pub(crate) fn between(a: &Point, b: &Point, t: f64) -> Point {
    let row =
        |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + t * (b - a)).collect();
    a.iter().zip(b).map(row).collect()
}

/// `x + t d`.
pub(crate) fn moved(x: &Point, d: &Point, t: f64) -> Point {
    let row = |(x, d): (&Vec<f64>, &Vec<f64>)| x.iter().zip(d).map(|(x, d)| x + t * d).collect();
    x.iter().zip(d).map(row).collect()
}
