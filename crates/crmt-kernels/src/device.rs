//! Opening the device that tensors are to live on, and saying what is missing where it can't be.
//!
//! Knows nothing of what is computed there.
use candle_core::Device;
use std::fmt;
use std::str::FromStr;

/// `cpu`, `cuda` (the first GPU) or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compute {
    /// The processor, on as many threads as rayon has.
    #[default]
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl FromStr for Compute {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.split_once(':').unwrap_or((s, "0")) {
            ("cpu", _) if s == "cpu" => Ok(Self::Cpu),
            ("cuda", number) if number.parse::<usize>().is_ok() => {
                Ok(Self::Cuda(number.parse().unwrap_or_default()))
            }
            _ => Err(format!(
                "unknown device '{s}'; it is cpu, cuda, or cuda:N for GPU number N"
            )),
        }
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// Why a device can't be opened, in one line, with advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

impl Compute {
    /// The device. On CUDA, a stream of its own, and memory that is freed is kept for later tensors
    /// instead of going back to the driver at every synchronisation.
    ///
    /// # Errors
    /// The program was built without the feature `cuda`, there is no driver or no such GPU, or the
    /// driver refuses; the message says which, and what to do.
    pub fn open(self) -> Result<Device, Unavailable> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => crate::cuda::open(number)
                .map_err(|why| Unavailable(format!("device {self}: {why}"))),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(Unavailable(format!(
                "device {self}: this program was built without CUDA; build it with `--features cuda,cudnn` \
                 (docs/cuda.md), or use `--device cpu`"
            ))),
        }
    }
}

/// Gives memory of `device` that is free but kept for later back to the driver, so that others can
/// have it: recordings (`Replay` of `crmt-core`), for one, have memory of their own. Waits for the
/// device; on a CPU there is nothing to do.
///
/// # Errors
/// What has gone wrong on the device before.
pub fn give_back(device: &Device) -> candle_core::Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::cuda::give_back(device).map_err(candle_core::Error::wrap),
        _ => Ok(()),
    }
}

/// How cuDNN computes each convolution that this thread has asked it for, in words, sorted; empty
/// without it.
pub fn convolution_plans() -> Vec<String> {
    #[cfg(feature = "cuda")]
    return crate::cuda::convolution_plans();
    #[cfg(not(feature = "cuda"))]
    vec![]
}

/// Whether an operation failed because a device had no memory left.
pub fn is_out_of_memory(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(e) = error {
        // candle keeps the driver's error as text and as a source that is not always linked.
        let told = format!("{e} {e:?}");
        if ["OUT_OF_MEMORY", "ALLOC_FAILED", "ALLOCATION_FAILED"]
            .iter()
            .any(|code| told.contains(code))
        {
            return true;
        }
        error = e.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for (name, device) in [
            ("cpu", Compute::Cpu),
            ("cuda:0", Compute::Cuda(0)),
            ("cuda:3", Compute::Cuda(3)),
        ] {
            assert_eq!(name.parse(), Ok(device));
            assert_eq!(device.to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(Compute::Cuda(0)));
        for wrong in ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "", "CUDA"] {
            assert!(
                wrong.parse::<Compute>().unwrap_err().contains("cuda:N"),
                "{wrong}"
            );
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_cuda_the_advice_is_to_build_with_it() {
        let why = Compute::Cuda(1).open().unwrap_err().to_string();
        assert!(
            why.starts_with("device cuda:1: ")
                && why.contains("--features cuda,cudnn")
                && !why.contains('\n'),
            "{why}"
        );
    }

    #[test]
    fn memory_that_ran_out_is_found_in_an_error() {
        let error = candle_core::Error::Msg(
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into(),
        );
        assert!(is_out_of_memory(&error.context("a step")));
        assert!(!is_out_of_memory(&candle_core::Error::Msg(
            "shape mismatch".into()
        )));
    }
}
