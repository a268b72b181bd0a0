//! Times training steps of the certified two-modality digits network (128 images 1×28×28 and 128 spectrograms
//! 1×32×32, random), forward + backward + Adam, and prints medians and minima in milliseconds, at last those of the
//! step as one JSON line, in the form of `xtask/peers/torch_certified.py`:
//! `RAYON_NUM_THREADS=2 CANDLE_NUM_THREADS=1 cargo run --release -p crmt-encoders --example lipschitz_step [-- --iters N]`.
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{Init, VarBuilder, VarMap};
use crmt_core::{Encoder, Mode};
use crmt_encoders::EncoderConfig;
use crmt_kernels::{AdamW, Optimizer, Parameter, orthonormal_rows};
use std::time::Instant;

/// What the binary uses: glibc would return large buffers to the system and fault them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Steps that count, unless `--iters` says otherwise, and steps before them.
const STEPS: usize = 40;
const WARMUP: usize = 2;

/// The peak of the resident set, in bytes; `None` where the system has no `/proc`.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let steps = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => STEPS,
        ["--iters", n] => n.parse::<std::num::NonZeroUsize>()?.get(),
        _ => return Err("usage: lipschitz_step [--iters N]".into()),
    };
    let device = &Device::Cpu;
    let parameters = VarMap::new();
    let vb = VarBuilder::from_varmap(&parameters, DType::F32, device);
    let config = EncoderConfig::Lipschitz { width: 16, blocks: 1, hidden: vec![256], features: 128 };
    let mut modalities: Vec<(Tensor, Box<dyn Encoder>, Tensor)> = vec![];
    for (name, shape) in [("image", [1, 28, 28]), ("audio", [1, 32, 32])] {
        let x = Tensor::rand(0f32, 1., (128, shape[0], shape[1], shape[2]), device)?;
        let head = vb.get_with_hints((10, 128), &format!("{name}.head"), Init::Randn { mean: 0., stdev: 0.1 })?;
        modalities.push((x, config.build(&shape, vb.pp(name))?, head));
    }
    let labels = Tensor::from_vec((0..128u32).map(|i| i % 10).collect(), (128, 1), device)?;
    let mut variables: Vec<(String, Var)> = parameters.data().lock().expect("one thread").clone().into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    let mut adam = AdamW { weight_decay: 0., ..AdamW::default() }
        .over(variables.iter().map(|(name, var)| Parameter::new(name.clone(), var)))?;

    let mut times = [const { Vec::new() }; 4];
    for _ in 0..WARMUP + steps {
        let start = Instant::now();
        let mut logits = Tensor::zeros((128, 10), DType::F32, device)?;
        for (x, encoder, head) in &modalities {
            logits = (logits + encoder.encode(x, Mode::Train)?.matmul(&orthonormal_rows(head, 14)?.t()?)?)?;
        }
        let logits = (logits * 4.)?;
        let peak = logits.max_keepdim(D::Minus1)?.detach();
        let log_sum = (logits.broadcast_sub(&peak)?.exp()?.sum_keepdim(1)?.log()? + peak)?;
        let loss = (log_sum - logits.gather(&labels, 1)?)?.mean_all()?;
        let forward = Instant::now();
        let gradients = loss.backward()?;
        let backward = Instant::now();
        adam.step(&gradients, 1e-2)?;
        let end = Instant::now();
        let phases = [forward - start, backward - forward, end - backward, end - start];
        for (times, phase) in times.iter_mut().zip(phases) {
            times.push(phase.as_secs_f64() * 1e3);
        }
    }
    let mut line = serde_json::json!({ "peer": "crmt", "iters": steps, "peak_bytes": peak_bytes() });
    for (name, mut times) in ["forward", "backward", "optimizer", "step"].into_iter().zip(times) {
        times.drain(..WARMUP);
        times.sort_by(f64::total_cmp);
        let median = (times[(steps - 1) / 2] + times[steps / 2]) / 2.;
        println!("{name}: median {median:.2} ms, min {:.2} ms", times[0]);
        line["median_ms"] = ((median * 1e3).round() / 1e3).into();
        line["min_ms"] = ((times[0] * 1e3).round() / 1e3).into();
    }
    println!("{line}");
    Ok(())
}
