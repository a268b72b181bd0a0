//! How exactly convolutions and matrix products are computed on a CUDA device.
//!
//! One setting for the whole program, as in PyTorch. Knows nothing of what is computed, and changes
//! nothing on a CPU.
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// The arithmetic of convolutions and matrix products of `f32` tensors on a CUDA device. Sums,
/// normalisations, losses and optimizers are computed in `f32` (sums over many rows in `f64`)
/// whatever is set here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Precision {
    /// `f32` throughout: results agree with a CPU up to rounding. The only one to measure and
    /// certify with.
    #[default]
    F32,
    /// Factors are rounded to 10 bits of mantissa, sums kept in `f32`: about 1e-3 relative.
    Tf32,
    /// The images between the layers of a network are kept in `bf16` too (7 bits of mantissa): half
    /// the memory traffic, about 1e-2 relative.
    Bf16,
}

static CURRENT: AtomicU8 = AtomicU8::new(Precision::F32 as u8);

impl Precision {
    /// Sets it for everything that is computed from now on.
    pub fn set(self) {
        CURRENT.store(self as u8, Ordering::Relaxed);
        #[cfg(feature = "cuda")]
        candle_core::cuda_backend::set_gemm_reduced_precision_f32(self != Self::F32);
    }

    /// What is set.
    pub fn current() -> Self {
        match CURRENT.load(Ordering::Relaxed) {
            1 => Self::Tf32,
            2 => Self::Bf16,
            _ => Self::F32,
        }
    }

    /// `f` in this precision; afterwards what was set before is set again.
    pub fn within<R>(self, f: impl FnOnce() -> R) -> R {
        struct Restore(Precision);
        impl Drop for Restore {
            fn drop(&mut self) {
                self.0.set();
            }
        }
        let _restore = Restore(Self::current());
        self.set();
        f()
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "f32" => Ok(Self::F32),
            "tf32" => Ok(Self::Tf32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("unknown precision '{s}'; it is f32, tf32 or bf16")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_restores_also_after_a_panic() {
        assert_eq!(Precision::current(), Precision::F32);
        assert_eq!(Precision::Bf16.within(Precision::current), Precision::Bf16);
        let _panic = std::panic::catch_unwind(|| Precision::Tf32.within(|| panic!("on purpose")));
        assert_eq!(Precision::current(), Precision::F32);
    }

    #[test]
    fn names_are_read_back() {
        for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
            assert_eq!(precision.to_string().parse(), Ok(precision));
        }
        assert!(
            "fp8"
                .parse::<Precision>()
                .unwrap_err()
                .contains("f32, tf32 or bf16")
        );
    }
}
