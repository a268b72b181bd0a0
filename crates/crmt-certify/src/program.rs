//! The programs that a certificate may be about. Does not know what they compute.
use std::fmt;

/// Which program a certificate is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Program {
    /// The network in real arithmetic: nothing that is executed.
    Real,
    /// The network as it is executed in `f64`, every sum of products added up in any order.
    F64,
    /// The same in `f32`.
    F32,
}

impl Program {
    /// Unit roundoff.
    pub fn unit(self) -> f64 {
        match self {
            Self::Real => 0.,
            Self::F64 => f64::EPSILON / 2.,
            Self::F32 => f64::from(f32::EPSILON) / 2.,
        }
    }

    /// The smallest positive number: what a product that underflows may be off by.
    pub(crate) fn smallest(self) -> f64 {
        match self {
            Self::Real => 0.,
            Self::F64 => f64::from_bits(1),
            Self::F32 => f64::from(f32::from_bits(1)),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Real => "real arithmetic",
            Self::F64 => "f64",
            Self::F32 => "f32",
        })
    }
}
