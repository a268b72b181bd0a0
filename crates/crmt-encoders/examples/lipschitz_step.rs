//! Times training steps of the certified two-modality digits network (128 images 1×28×28 and 128
//! spectrograms 1×32×32, random), forward + certified loss + backward + Adam, and prints medians
//! and minima in milliseconds, at last those of the step as one JSON line, in the form of
//! `xtask/peers/torch_certified.py`:
//! `RAYON_NUM_THREADS=2 CANDLE_NUM_THREADS=1 cargo run --release -p crmt-encoders --example lipschitz_step [-- --iters N]`.
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::encoding::one_hot;
use candle_nn::{Init, VarBuilder, VarMap};
use crmt_core::{Encoder, Mode};
use crmt_encoders::EncoderConfig;
use crmt_kernels::{AdamW, Optimizer, Parameter, gauged, polar_rows};
use std::time::Instant;

/// What the binary uses: glibc would return large buffers to the system and fault them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Steps that count, unless `--iters` says otherwise, and steps before them.
const STEPS: usize = 40;
const WARMUP: usize = 2;
const CLASSES: usize = 10;
/// Of the certified loss, as in the digits recipe, halfway up its ramp.
const KAPPA: f64 = 4.;
const RADIUS: f64 = 0.5 * 1.58;
const LAMBDA: f64 = 0.1;

/// The peak of the resident set, in bytes; `None` where the system has no `/proc`.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .parse::<u64>()
        .ok()
        .map(|kilobytes| kilobytes * 1024)
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let steps = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => STEPS,
        ["--iters", n] => n.parse::<std::num::NonZeroUsize>()?.get(),
        _ => return Err("usage: lipschitz_step [--iters N]".into()),
    };
    let device = &Device::Cpu;
    let parameters = VarMap::new();
    let vb = VarBuilder::from_varmap(&parameters, DType::F32, device);
    let config = EncoderConfig::Lipschitz {
        width: 16,
        blocks: 1,
        hidden: vec![256],
        features: 128,
    };
    let mut modalities: Vec<(Tensor, Box<dyn Encoder>, Tensor)> = vec![];
    let mut raw = vec![];
    for (name, shape) in [("image", [1, 28, 28]), ("audio", [1, 32, 32])] {
        let x = Tensor::rand(0f32, 1., (128, shape[0], shape[1], shape[2]), device)?;
        let vb = vb.pp(name);
        let head = vb.get_with_hints(
            (CLASSES, 128),
            "head",
            Init::Randn {
                mean: 0.,
                stdev: 0.1,
            },
        )?;
        raw.push(vb.get_with_hints(CLASSES, "raw_a", Init::Const(0.5413))?);
        modalities.push((x, config.build(&shape, vb)?, head));
    }
    let bias = vb.get_with_hints(CLASSES, "bias", Init::Const(0.))?;
    let labels = Tensor::from_vec(
        (0..128u32).map(|i| i % CLASSES as u32).collect(),
        128,
        device,
    )?;
    let mut variables: Vec<(String, Var)> = parameters
        .data()
        .lock()
        .expect("one thread")
        .clone()
        .into_iter()
        .collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    let mut adam = AdamW {
        weight_decay: 0.,
        ..AdamW::default()
    }
    .over(
        variables
            .iter()
            .map(|(name, var)| Parameter::new(name.clone(), var)),
    )?;

    let mut times = [const { Vec::new() }; 4];
    for _ in 0..WARMUP + steps {
        let start = Instant::now();
        let mut scores = vec![];
        for (x, encoder, head) in &modalities {
            scores.push(
                encoder
                    .encode(x, Mode::Train)?
                    .matmul(&polar_rows(head)?.t()?)?,
            );
        }
        let loss = certified(&scores, &gauged(&raw)?, &bias, &labels)?;
        let forward = Instant::now();
        let gradients = loss.backward()?;
        let backward = Instant::now();
        adam.step(&gradients, 1e-2)?;
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
    let mut line =
        serde_json::json!({ "peer": "crmt", "iters": steps, "peak_bytes": peak_bytes() });
    for (name, mut times) in ["forward", "backward", "optimizer", "step"]
        .into_iter()
        .zip(times)
    {
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

/// `mean CE(κ(h + r·ℓ_y), y) + λ · mean log(Σ_{m, k≠y} exp(κ(s_k(m) − s_y(m))) + 1e-5)` with
/// `h = Σ_m a(m) s(m) + b` and `ℓ_yj = sqrt(Σ_m a_y(m)² + a_j(m)²)`, 0 for `j = y`.
fn certified(
    scores: &[Tensor],
    weights: &[Tensor],
    bias: &Tensor,
    labels: &Tensor,
) -> Result<Tensor> {
    let targets = one_hot(labels.clone(), CLASSES, 1f32, 0f32)?;
    let (mut logits, mut squares) = (
        bias.unsqueeze(0)?.broadcast_as(targets.shape())?,
        bias.zeros_like()?.detach(),
    );
    for (s, a) in scores.iter().zip(weights) {
        logits = (logits + s.broadcast_mul(a)?)?;
        squares = (squares + a.sqr()?)?;
    }
    let reach = squares
        .unsqueeze(1)?
        .broadcast_add(&squares.unsqueeze(0)?)?
        .sqrt()?
        .index_select(labels, 0)?;
    let hardened = ((logits + (reach * (targets.neg()? + 1.)?)? * RADIUS)? * KAPPA)?;
    let cross_entropy =
        (log_sum_exp(&hardened)? - (hardened * &targets)?.sum_keepdim(1)?)?.mean_all()?;
    // What is far below zero adds nothing to the sum.
    let hidden = (&targets * -1e9)?;
    let margins = scores.iter().map(|s| {
        let own = (s * &targets)?.sum_keepdim(1)?;
        (s.broadcast_sub(&own)? * KAPPA)? + &hidden
    });
    let mut margins = margins.collect::<Result<Vec<_>>>()?;
    margins.push(Tensor::full(
        1e-5f32.ln(),
        (targets.dim(0)?, 1),
        targets.device(),
    )?);
    cross_entropy + (log_sum_exp(&Tensor::cat(&margins, 1)?)?.mean_all()? * LAMBDA)?
}

/// `[batch, n]` to `[batch, 1]`.
fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    let peak = x.max_keepdim(D::Minus1)?.detach();
    x.broadcast_sub(&peak)?.exp()?.sum_keepdim(1)?.log()? + peak
}
