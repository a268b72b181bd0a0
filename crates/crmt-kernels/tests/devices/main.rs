//! Every operation on every device that is at hand, against the CPU in `f64`.
//!
//! A device that is absent is skipped with a message, unless `CRMT_REQUIRE_CUDA` is set.
mod cases;

use candle_core::{DType, Device};
use cases::{CASES, Place, error};
use crmt_kernels::{Compute, Precision};

fn check(device: &Device, dtype: DType, tolerance: impl Fn(f64) -> f64) {
    let mut failed = vec![];
    for case in CASES {
        let place = Place {
            device: device.clone(),
            dtype,
        };
        match error(case, &place) {
            Ok(error) if error <= tolerance(case.tolerance) => (),
            Ok(error) => failed.push(format!(
                "{}: off by {error:e}, more than {:e}",
                case.name,
                tolerance(case.tolerance)
            )),
            Err(why) => failed.push(format!("{}: {why}", case.name)),
        }
    }
    assert!(
        failed.is_empty(),
        "{dtype:?} on {:?}:\n{}",
        device.location(),
        failed.join("\n")
    );
}

/// The GPU, or `None` with a message.
fn gpu() -> Option<Device> {
    match Compute::Cuda(0).open() {
        Ok(device) => Some(device),
        Err(why) => {
            assert!(std::env::var_os("CRMT_REQUIRE_CUDA").is_none(), "{why}");
            eprintln!("skipped: {why}");
            None
        }
    }
}

#[test]
fn every_operation_on_the_cpu() {
    check(&Device::Cpu, DType::F32, |tolerance| tolerance);
}

#[test]
fn every_operation_on_cuda() {
    let Some(device) = gpu() else { return };
    check(&device, DType::F32, |tolerance| tolerance);
    // 29 bits more; what is left are sums in another order.
    check(&device, DType::F64, |tolerance| tolerance * 1e-6);
}

#[test]
fn reduced_precision_is_reduced_and_no_worse_than_it_says() {
    let Some(device) = gpu() else { return };
    // 10 and 7 bits of mantissa, through seven layers with normalisations between them, which
    // divide by small deviations.
    for (precision, tolerance) in [(Precision::Tf32, 1e-2f64), (Precision::Bf16, 0.2)] {
        precision.within(|| check(&device, DType::F32, |usual| tolerance.max(usual)));
    }
}
