//! What the machine can do on as many threads as rayon has: its best matrix product, and its best
//! stream through memory. Knows no model.
use crate::{Options, thousandths};
use candle_core::{DType, Device, Tensor};
use crmt_kernels::Precision;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::error::Error;
use std::time::Instant;

/// Sides of the products: small enough for a cache and large enough to keep every core busy; the
/// best counts.
const SIDES: [usize; 3] = [512, 1024, 2048];
/// On a GPU.
const LARGE_SIDES: [usize; 2] = [4096, 8192];
/// Elements of each array of the stream: 256 MiB, beyond any cache.
const ELEMENTS: usize = 1 << 26;
/// Elements that one task streams.
const PIECE: usize = 1 << 16;

/// Billions of operations and of bytes in a second.
pub fn measure(options: &Options, device: &Device) -> Result<Map<String, Value>, Box<dyn Error>> {
    let repeats = options.warmup + options.iters.get();
    let mut line = Map::new();
    let gpu = !device.is_cpu();
    let (sides, dtype) = match options.precision {
        Precision::Bf16 if gpu => (&LARGE_SIDES[..], DType::BF16),
        _ if gpu => (&LARGE_SIDES[..], DType::F32),
        _ => (&SIDES[..], DType::F32),
    };
    line.insert(
        "gemm_gflops".into(),
        json!(thousandths(gemm(repeats, sides, dtype, device)?)),
    );
    let bandwidth = if gpu {
        copies(repeats, device)?
    } else {
        triad(repeats)
    };
    line.insert("bandwidth_gb_s".into(), json!(thousandths(bandwidth)));
    Ok(line)
}

/// candle's product of matrices is the `gemm` crate's, as our own kernels' are.
fn gemm(
    repeats: usize,
    sides: &[usize],
    dtype: DType,
    device: &Device,
) -> candle_core::Result<f64> {
    let mut best = 0f64;
    for &side in sides {
        let random = || Tensor::randn(0f32, 1., (side, side), device)?.to_dtype(dtype);
        let (a, b) = (random()?, random()?);
        let operations = 2. * (side as f64).powi(3);
        for _ in 0..repeats {
            let start = Instant::now();
            a.matmul(&b)?;
            device.synchronize()?;
            best = best.max(operations / start.elapsed().as_secs_f64() / 1e9);
        }
    }
    Ok(best)
}

/// From one array to another on a GPU: a read and a write for each element.
fn copies(repeats: usize, device: &Device) -> candle_core::Result<f64> {
    let from = Tensor::zeros(4 * ELEMENTS, DType::F32, device)?;
    let mut best = 0f64;
    for _ in 0..repeats {
        device.synchronize()?;
        let start = Instant::now();
        from.copy()?;
        device.synchronize()?;
        best = best.max(2. * 4. * (4 * ELEMENTS) as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    Ok(best)
}

/// `a = b + s·c`: two reads and a write for each element, counted as STREAM counts them.
fn triad(repeats: usize) -> f64 {
    let (mut a, b, c) = (
        vec![0f32; ELEMENTS],
        vec![1f32; ELEMENTS],
        vec![2f32; ELEMENTS],
    );
    let mut best = 0f64;
    for repeat in 0..repeats {
        let scale = repeat as f32;
        let start = Instant::now();
        let pieces = a
            .par_chunks_mut(PIECE)
            .zip(b.par_chunks(PIECE))
            .zip(c.par_chunks(PIECE));
        pieces.for_each(|((a, b), c)| {
            a.iter_mut()
                .zip(b)
                .zip(c)
                .for_each(|((a, b), c)| *a = b + scale * c)
        });
        best = best.max(3. * 4. * ELEMENTS as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    std::hint::black_box(&a);
    best
}
