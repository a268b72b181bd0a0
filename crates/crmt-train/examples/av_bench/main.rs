//! Times the product's heavy work through the public crates, the same as `xtask/peers/torch_av.py`
//! under the same flags, and prints one JSON line in its form; `--work roofline` times the machine
//! instead, `--check` holds the device against the CPU. Inputs are random. Knows neither the other
//! program nor targets: `cargo xtask bench` does.
//!
//! `RAYON_NUM_THREADS=2 CANDLE_NUM_THREADS=1 cargo run --release -p crmt-train --example av_bench -- --work step-crmt`
mod check;
mod count;
mod peak;
mod roofline;
mod subject;
mod work;

use candle_core::Device;
use clap::{Parser, ValueEnum};
use crmt_kernels::{Compute, Precision, convolution_plans};
use serde_json::{Map, Value, json};
use std::error::Error;
use std::num::NonZeroUsize;
use std::process::ExitCode;

/// What the binary uses: glibc would return large buffers to the system and fault them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What one repetition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    /// A training step on the cross-entropy
    StepJt,
    /// A training step on cross-entropy and margin term, with an orthonormal head
    StepCrmt,
    /// As step-crmt, on what five steps of joint-l2 PGD make of the batch
    StepAt,
    /// Joint-l2 PGD of --steps steps on the fixed model
    Pgd,
    /// Greatest norms of the input gradients of every score
    Lipschitz,
    /// Logits of the fixed model, without gradients
    Forward,
    /// A large matrix product, and a stream through memory: what the machine can do
    Roofline,
}

/// The encoder of every modality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Architecture {
    /// Four 3×3 convolutions of stride 2; images 1×28×28 and spectrograms
    Cnn,
    /// ResNet-18; clips of --frames RGB images and spectrograms
    #[value(name = "resnet18")]
    Resnet18,
}

/// Times heavy work of this workspace and prints one JSON line.
#[derive(Debug, Clone, Parser)]
struct Options {
    #[arg(long, value_enum, default_value = "step-crmt")]
    work: Work,
    #[arg(long, value_enum, default_value = "cnn")]
    model: Architecture,
    /// Samples
    #[arg(long, default_value = "64")]
    batch: NonZeroUsize,
    #[arg(long, default_value = "10")]
    classes: NonZeroUsize,
    /// Of a clip
    #[arg(long, default_value = "3")]
    frames: NonZeroUsize,
    /// Side of a clip's frames, in pixels
    #[arg(long, default_value = "224")]
    image: NonZeroUsize,
    #[arg(long, value_name = "HxW", default_value = "64x64", value_parser = height_and_width)]
    spectrogram: (usize, usize),
    /// Of the attack that is timed alone
    #[arg(long, default_value = "10")]
    steps: NonZeroUsize,
    /// Repetitions that count
    #[arg(long, default_value = "10")]
    iters: NonZeroUsize,
    /// Repetitions before them
    #[arg(long, default_value = "2")]
    warmup: usize,
    /// An image (or a clip) and a spectrogram in turn
    #[arg(long, default_value = "2")]
    modalities: NonZeroUsize,
    /// Channels of the cnn's first convolution
    #[arg(long, default_value = "32")]
    width: NonZeroUsize,
    /// cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: Compute,
    /// Of convolutions and products on CUDA: f32, tf32 or bf16
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// Do not record training steps as CUDA graphs
    #[arg(long)]
    no_replay: bool,
    /// Hold every operation, an attack and a few training steps on the device against the CPU,
    /// instead of timing
    #[arg(long)]
    check: bool,
}

fn height_and_width(text: &str) -> Result<(usize, usize), String> {
    let parsed = text
        .split_once('x')
        .and_then(|(h, w)| Some((h.parse().ok()?, w.parse().ok()?)));
    parsed
        .filter(|(h, w)| *h > 0 && *w > 0)
        .ok_or_else(|| "expected height and width, such as 64x64".into())
}

fn main() -> ExitCode {
    let options = Options::parse();
    let answer = if options.check {
        check::run(&options)
    } else {
        run(&options).map(|line| (line, true))
    };
    match answer {
        Ok((line, passed)) => {
            println!("{line}");
            if passed {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Value, Box<dyn Error>> {
    let device = options.device.open()?;
    options.precision.set();
    let mut line = Map::new();
    line.insert("peer".into(), "crmt".into());
    line.insert("work".into(), name(options.work).into());
    line.insert("threads".into(), rayon::current_num_threads().into());
    line.insert("device".into(), options.device.to_string().into());
    line.insert("precision".into(), options.precision.to_string().into());
    line.insert("iters".into(), options.iters.get().into());
    let measured = if options.work == Work::Roofline {
        roofline::measure(options, &device)?
    } else {
        timed(options, &device)?
    };
    line.extend(measured);
    line.insert("peak_bytes".into(), json!(peak::bytes()));
    Ok(line.into())
}

fn timed(options: &Options, device: &Device) -> Result<Map<String, Value>, Box<dyn Error>> {
    let subject = subject::Subject::new(options, device)?;
    let work::Timed {
        milliseconds: mut times,
        replayed,
    } = work::timed(options, &subject)?;
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    let median = if times.len() % 2 == 1 {
        times[middle]
    } else {
        (times[middle - 1] + times[middle]) / 2.
    };
    let (height, width) = options.spectrogram;
    let cost = count::of(options, subject.modalities());
    let line = json!({
        "model": name(options.model),
        "batch": options.batch,
        "classes": options.classes,
        "frames": options.frames,
        "image": options.image,
        "spectrogram": format!("{height}x{width}"),
        "steps": options.steps,
        "modalities": options.modalities,
        "width": options.width,
        "median_ms": thousandths(median),
        "min_ms": thousandths(times[0]),
        "samples_per_s": thousandths(options.batch.get() as f64 / median * 1e3),
        "conv_flops": cost.map(|cost| cost.flops),
        "conv_bytes": cost.map(|cost| cost.bytes),
        "replayed": replayed,
        "convolutions": convolution_plans(),
    });
    match line {
        Value::Object(line) => Ok(line),
        other => Err(format!("not an object: {other}").into()),
    }
}

fn name(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

fn thousandths(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}
