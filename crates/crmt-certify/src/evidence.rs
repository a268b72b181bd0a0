//! Why one may believe a number, carried by the type system so that an estimate can never pass for
//! a proof. Does not know how any number is obtained.
use crate::CertifyError;
use std::marker::PhantomData;

/// Why one may believe a radius.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Evidence {
    /// Follows from proved constants.
    Proved,
    /// Holds with probability at least `1 - alpha` over the certifier's own randomness.
    Confident {
        /// Probability of being wrong.
        alpha: f64,
    },
    /// Rests on constants estimated from samples: no guarantee.
    Estimated,
}

/// Marks numbers that follow from a theorem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proved {}

/// Marks numbers estimated from samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Estimated {}

/// [`Proved`] or [`Estimated`], and nothing else.
pub trait Grade: sealed::Sealed {
    /// The same, as a value for reports.
    const EVIDENCE: Evidence;
}

impl Grade for Proved {
    const EVIDENCE: Evidence = Evidence::Proved;
}
impl Grade for Estimated {
    const EVIDENCE: Evidence = Evidence::Estimated;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Proved {}
    impl Sealed for super::Estimated {}
}

/// An l2 Lipschitz constant, finite and at least 0, and the grade of its evidence.
#[derive(Debug)]
pub struct LipschitzBound<E: Grade> {
    value: f64,
    grade: PhantomData<E>,
}

/// A proved upper bound of a Lipschitz constant: from [`audit`](crate::audit()) or
/// [`SoundBound::vouched`].
pub type SoundBound = LipschitzBound<Proved>;

/// A guess at a Lipschitz constant (power iteration, gradient norms at samples): usually a *lower*
/// bound.
pub type EstimatedBound = LipschitzBound<Estimated>;

impl SoundBound {
    /// A constant that the caller proves: every certificate built on it is as true as that proof.
    ///
    /// # Errors
    /// [`CertifyError::Bound`] unless `value` is finite and at least 0.
    pub fn vouched(value: f64) -> Result<Self, CertifyError> {
        Self::new(value)
    }
}

impl EstimatedBound {
    /// A constant that nobody proved.
    ///
    /// # Errors
    /// [`CertifyError::Bound`] unless `value` is finite and at least 0.
    pub fn estimated(value: f64) -> Result<Self, CertifyError> {
        Self::new(value)
    }
}

impl<E: Grade> LipschitzBound<E> {
    pub(crate) fn new(value: f64) -> Result<Self, CertifyError> {
        if value.is_finite() && value >= 0. {
            return Ok(Self {
                value,
                grade: PhantomData,
            });
        }
        Err(CertifyError::Bound {
            what: "Lipschitz constant".into(),
            value,
        })
    }

    /// The constant.
    pub fn value(&self) -> f64 {
        self.value
    }
}

impl<E: Grade> Clone for LipschitzBound<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E: Grade> Copy for LipschitzBound<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_constants_of_at_least_zero_are_bounds() {
        assert_eq!(SoundBound::vouched(0.).unwrap().value(), 0.);
        for bad in [-1e-300, f64::NAN, f64::INFINITY] {
            let message = SoundBound::vouched(bad).unwrap_err().to_string();
            assert!(message.contains(&bad.to_string()), "{message}");
        }
    }
}
