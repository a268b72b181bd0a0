//! Times training steps of the small CNN (four 3×3 stride-2 convolutions, 1→32→64→128→256 channels,
//! on 128×1×28×28), forward + backward + SGD, and prints medians and minima in milliseconds:
//! `RAYON_NUM_THREADS=2 cargo run --example cnn_step`.
use candle_core::{D, DType, Device, Result, Tensor, Var};
use crmt_kernels::{Optimizer, Parameter, Sgd, conv2d_relu};
use std::time::Instant;

/// What the binary uses: glibc would return large buffers to the system and fault them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STEPS: usize = 60;

fn main() -> Result<()> {
    let device = &Device::Cpu;
    let channels = [1, 32, 64, 128, 256];
    let mut weights = Vec::new();
    for pair in channels.windows(2) {
        let scale = (2. / (9 * pair[0]) as f64).sqrt();
        let kernel = (Tensor::randn(0f32, 1., (pair[1], pair[0], 3, 3), device)? * scale)?;
        weights.push((
            Var::from_tensor(&kernel)?,
            Var::zeros(pair[1], DType::F32, device)?,
        ));
    }
    let head = Var::randn(0f32, 0.05, (256, 10), device)?;
    let parameters = weights
        .iter()
        .flat_map(|(k, b)| [k, b])
        .chain([&head])
        .enumerate();
    let parameters = parameters.map(|(i, v)| Parameter::new(i.to_string(), v));
    let mut sgd = Sgd {
        momentum: 0.9,
        weight_decay: 1e-4,
        nesterov: false,
    }
    .over(parameters)?;
    let x = Tensor::randn(0f32, 1., (128, 1, 28, 28), device)?;
    let labels = Tensor::from_vec((0..128u32).map(|i| i % 10).collect(), (128, 1), device)?;

    let mut times = [const { Vec::new() }; 4];
    for _ in 0..STEPS {
        let start = Instant::now();
        let mut y = x.clone();
        for (kernel, bias) in &weights {
            y = conv2d_relu(&y, kernel, Some(bias), 2, 1)?;
        }
        let logits = y.mean((2, 3))?.matmul(&head)?;
        let peak = logits.max_keepdim(D::Minus1)?.detach();
        let log_sum = (logits.broadcast_sub(&peak)?.exp()?.sum_keepdim(1)?.log()? + peak)?;
        let loss = (log_sum - logits.gather(&labels, 1)?)?.mean_all()?;
        let forward = Instant::now();
        let gradients = loss.backward()?;
        let backward = Instant::now();
        sgd.step(&gradients, 1e-2)?;
        let end = Instant::now();
        let phases = [
            forward - start,
            backward - forward,
            end - backward,
            end - start,
        ];
        for (times, phase) in times.iter_mut().zip(phases) {
            times.push(phase.as_secs_f64() * 1e3);
        }
    }
    for (name, mut times) in ["forward", "backward", "optimizer", "step"]
        .into_iter()
        .zip(times)
    {
        times.sort_by(f64::total_cmp);
        println!(
            "{name}: median {:.2} ms, min {:.2} ms",
            times[STEPS / 2],
            times[0]
        );
    }
    Ok(())
}
