//! A soak test: 100,000 steps of the smallest model through the one loop, with loading threads,
//! averaged weights and states kept, and the memory of the process after each tenth. Fails if it
//! grows. Knows no data set.
//!
//! `cargo run --release -p crmt-train --example soak -- --steps 100000`
use candle_core::{Device, Tensor};
use clap::Parser;
use crmt_core::{Batch, Domain, Modality, PerModality, Streams, Trainable};
use crmt_encoders::EncoderConfig;
use crmt_fusion::{BuildError, HeadConfig, Learner, ModelConfig, Rows};
use crmt_kernels::{AdamW, Parameter};
use crmt_train::{
    Batches, Crmt, EpochReport, Error, Observer, Phase, Rate, Result, Rules, Selected, Source,
    State, TrainingInputs, fit,
};
use std::{process::ExitCode, time::Instant};

/// What the binary uses.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs many steps and watches the memory.
#[derive(Parser)]
struct Options {
    /// In all, in ten epochs
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(10..))]
    steps: u64,
}

const CLASSES: usize = 2;
const SAMPLES: usize = 8;
/// How much the memory may grow after the first tenth: allocators keep what they once had.
const SLACK: f64 = 1.05;

/// The same few samples, made anew for each batch.
struct Few {
    steps: u64,
}

impl Source for Few {
    fn steps(&self) -> u64 {
        self.steps
    }
    fn epoch<'a>(&'a self, _: u64) -> Result<Box<dyn Batches + 'a>> {
        struct Made;
        impl Batches for Made {
            fn batch(&self, i: u64) -> Result<Batch> {
                let labels: Vec<u32> = (0..SAMPLES)
                    .map(|s| ((s as u64 + i) % CLASSES as u64) as u32)
                    .collect();
                let inputs = PerModality::from_fn(2, |m| {
                    let value = |y: &u32| [*y as f32, 1.0 - *y as f32, 0.1 * m as f32];
                    labels.iter().flat_map(value).collect::<Vec<_>>()
                });
                let inputs =
                    inputs.try_map(|v| Tensor::from_slice(v, (SAMPLES, 3), &Device::Cpu))?;
                Ok(Batch::new(inputs, Tensor::new(labels, &Device::Cpu)?)?)
            }
        }
        Ok(Box::new(Made))
    }
}

/// Reads the memory after each epoch.
struct Memory {
    start: Instant,
    resident: Vec<u64>,
    states: u64,
}

impl Observer<Error> for Memory {
    fn select(&mut self, _: &dyn Trainable) -> Result<Selected> {
        Ok(Selected {
            accuracy: 0.0,
            attacked: None,
            score: 0.0,
        })
    }
    fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        let resident = resident().unwrap_or(0);
        println!(
            "epoch {:>2}: {:.1} MB resident, loss {:.4}, {:.0} s",
            report.epoch,
            resident as f64 / 1e6,
            report.loss,
            self.start.elapsed().as_secs_f64()
        );
        self.resident.push(resident);
        Ok(())
    }
    fn rest(&mut self, _: bool, state: &dyn Fn() -> Result<State>) -> Result<()> {
        self.states += 1;
        // A copy of everything, now and then.
        if self.states.is_multiple_of(100) {
            state().map(drop)
        } else {
            Ok(())
        }
    }
}

/// Bytes of this process in memory; `None` where the system has no `/proc`.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    kilobytes
        .trim()
        .strip_suffix(" kB")?
        .parse::<u64>()
        .ok()
        .map(|kilobytes| kilobytes * 1024)
}

fn main() -> ExitCode {
    match soak(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("memory grew");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn soak(options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    let modalities = PerModality::from_fn(2, |m| {
        Modality::new(format!("m{m}"), &[3], Domain::Unbounded)
    });
    let head = HeadConfig::Orthonormal {
        rows: Rows::Orthonormal,
        initial_weight: 0.1,
    };
    let build = |_: usize, modality: &Modality, vb: candle_nn::VarBuilder| {
        let failed = |e| BuildError::Encoder {
            modality: modality.name.clone(),
            source: Box::new(e),
        };
        EncoderConfig::Linear { features: 2 }
            .build(&modality.shape, vb)
            .map_err(failed)
    };
    let config = ModelConfig {
        head,
        classes: CLASSES,
    };
    let model = Learner::new(&config, &modalities, &build, Streams::new(0), &Device::Cpu)?;
    let learned = model.variables().into_iter().filter(|v| v.learned);
    let mut optimizer = AdamW::default().over(learned.map(|v| Parameter::new(v.name, &v.var)))?;
    let mut strategy = Crmt::new(2.0, TrainingInputs::Mixup { alpha: 1.0 });
    let mut phase = Phase {
        name: "soak",
        strategy: &mut strategy,
        source: &Few {
            steps: options.steps / 10,
        },
        epochs: 10,
        rate: Rate::constant(1e-3),
        streams: Streams::new(0),
        rules: Rules {
            average: Some(0.999),
            loaders: 2,
            clip: 5.0,
            ..Rules::default()
        },
    };
    let mut memory = Memory {
        start: Instant::now(),
        resident: vec![],
        states: 0,
    };
    fit(&model, &mut optimizer, &mut phase, None, &mut memory)?;
    let first = memory.resident[0] as f64;
    Ok(memory
        .resident
        .iter()
        .all(|now| *now as f64 <= first * SLACK))
}
