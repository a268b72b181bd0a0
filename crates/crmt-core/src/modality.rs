//! Modalities and collections with one entry for each.
use crate::{Error, Result};
use candle_core::Tensor;

/// One input of a multi-modal model.
#[derive(Debug, Clone, PartialEq)]
pub struct Modality {
    /// Stable name used in configs, reports and error messages, e.g. `audio`.
    pub name: String,
    /// Shape of one sample.
    pub shape: Vec<usize>,
    /// Values an input may take, in the units the encoder sees.
    pub domain: Domain,
    /// The natural unit of a perturbation: budgets and radii on this modality are distances
    /// divided by `scale`. 1 unless the data set declares otherwise; always positive.
    pub scale: f64,
}

impl Modality {
    /// A modality whose perturbations are measured in the array's own units.
    pub fn new(name: impl Into<String>, shape: &[usize], domain: Domain) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            domain,
            scale: 1.0,
        }
    }

    /// Checks that `x` is `[batch, shape...]`.
    ///
    /// # Errors
    /// [`Error::Shape`] names the modality, the expected and the given shape.
    pub fn check(&self, x: &Tensor) -> Result<()> {
        if x.dims().get(1..) == Some(&self.shape) {
            return Ok(());
        }
        Err(Error::Shape {
            modality: self.name.clone(),
            expected: self.shape.clone(),
            got: x.dims().get(1..).unwrap_or_default().to_vec(),
        })
    }
}

/// Valid range of an input, in the units the encoder sees.
#[derive(Debug, Clone, PartialEq)]
pub enum Domain {
    /// Any real value, e.g. a normalised log-spectrogram.
    Unbounded,
    /// Every element lies in `lo..=hi`.
    Interval {
        /// Smallest allowed value.
        lo: f64,
        /// Largest allowed value.
        hi: f64,
    },
    /// Channel `c` (the first axis of a sample) lies in `lo[c]..=hi[c]`: images normalised by
    /// channel.
    Channels {
        /// Smallest allowed value of each channel.
        lo: Vec<f64>,
        /// Largest allowed value of each channel.
        hi: Vec<f64>,
    },
}

impl Domain {
    /// Whether every element may have this value.
    pub fn contains(&self, value: f64) -> bool {
        match self {
            Self::Unbounded => true,
            Self::Interval { lo, hi } => (*lo..=*hi).contains(&value),
            Self::Channels { lo, hi } => lo
                .iter()
                .zip(hi)
                .all(|(lo, hi)| (*lo..=*hi).contains(&value)),
        }
    }
}

/// One `T` per modality, in the model's order. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerModality<T>(Vec<T>);

impl<T> PerModality<T> {
    /// `None` when `items` is empty.
    pub fn new(items: Vec<T>) -> Option<Self> {
        (!items.is_empty()).then_some(Self(items))
    }

    /// `f(0), f(1), …` for `modalities` modalities; panics when that is zero.
    pub fn from_fn(modalities: usize, f: impl FnMut(usize) -> T) -> Self {
        assert!(modalities > 0, "a model has at least one modality");
        Self((0..modalities).map(f).collect())
    }

    /// Number of modalities, at least one.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In modality order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    /// In modality order.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// Applies `f` to each modality.
    pub fn map<'a, U>(&'a self, f: impl FnMut(&'a T) -> U) -> PerModality<U> {
        PerModality(self.0.iter().map(f).collect())
    }

    /// Applies `f` to each modality, stopping at the first error.
    pub fn try_map<'a, U, E>(
        &'a self,
        f: impl FnMut(&'a T) -> Result<U, E>,
    ) -> Result<PerModality<U>, E> {
        self.0
            .iter()
            .map(f)
            .collect::<Result<_, E>>()
            .map(PerModality)
    }

    /// Applies `f` to each modality and its index, stopping at the first error.
    pub fn try_enumerate<'a, U, E>(
        &'a self,
        mut f: impl FnMut(usize, &'a T) -> Result<U, E>,
    ) -> Result<PerModality<U>, E> {
        self.0
            .iter()
            .enumerate()
            .map(|(m, t)| f(m, t))
            .collect::<Result<_, E>>()
            .map(PerModality)
    }

    /// Pairs two collections of one model; `what` names the other one in the error.
    pub fn zip<'a, U>(
        &'a self,
        other: &'a PerModality<U>,
        what: &'static str,
    ) -> Result<PerModality<(&'a T, &'a U)>> {
        if self.len() != other.len() {
            return Err(Error::ModalityCount {
                what,
                expected: self.len(),
                got: other.len(),
            });
        }
        Ok(PerModality(self.0.iter().zip(&other.0).collect()))
    }
}

impl<T, const N: usize> From<[T; N]> for PerModality<T> {
    fn from(items: [T; N]) -> Self {
        const { assert!(N > 0, "a model has at least one modality") };
        Self(items.into())
    }
}

/// The only input of a model.
impl From<Tensor> for PerModality<Tensor> {
    fn from(input: Tensor) -> Self {
        Self::from([input])
    }
}

/// The only input of a model; tensors share their data.
impl From<&Tensor> for PerModality<Tensor> {
    fn from(input: &Tensor) -> Self {
        Self::from([input.clone()])
    }
}

/// Tensors share their data.
impl From<&Self> for PerModality<Tensor> {
    fn from(inputs: &Self) -> Self {
        inputs.clone()
    }
}

/// The only modality of a model.
impl From<Modality> for PerModality<Modality> {
    fn from(modality: Modality) -> Self {
        Self::from([modality])
    }
}

impl<T> IntoIterator for PerModality<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a PerModality<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T> std::ops::Index<usize> for PerModality<T> {
    type Output = T;
    fn index(&self, modality: usize) -> &T {
        &self.0[modality]
    }
}
