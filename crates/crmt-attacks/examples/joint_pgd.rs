//! Times a joint-l2 PGD attack of ten steps on 64 samples of a two-modality CNN with random weights, the work of
//! `torch_av.py --work pgd --model cnn --batch 64`, and prints one JSON line in its form:
//! `RAYON_NUM_THREADS=2 CANDLE_NUM_THREADS=1 cargo run --release --example joint_pgd [ROUNDS]`.
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use crmt_attacks::{Budget, Draws, Goal, Loss, Pgd, Restart, Start, Steps, perturb};
use crmt_core::{Domain, Modality, PerModality, Streams};
use crmt_encoders::{Block, Chain};
use crmt_fusion::{HeadConfig, Learner, ModelConfig, Rows};
use std::time::Instant;

/// What the binary uses: glibc would return large buffers to the system and fault them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 64;
const CLASSES: usize = 10;
const STEPS: usize = 10;
const EPSILON: f64 = 0.5;

/// Four convolutions 3×3 of stride 2 with ReLUs, 1→32→64→128→256 channels, and the mean over all pixels.
fn cnn(vb: &VarBuilder) -> candle_core::Result<Chain> {
    let mut blocks = vec![];
    for (i, channels) in [1, 32, 64, 128, 256].windows(2).enumerate() {
        blocks.extend([Block::conv2d(&vb.pp(i), channels[0], channels[1], 3, 2, 1)?, Block::Relu]);
    }
    blocks.push(Block::Mean);
    Ok(Chain::new(blocks, 256))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rounds = std::env::args().nth(1).map_or(Ok(5), |n| n.parse())?;
    let modalities = PerModality::from([
        Modality::new("image", &[1, 28, 28], Domain::Unbounded),
        Modality::new("spectrogram", &[1, 64, 64], Domain::Unbounded),
    ]);
    let head = HeadConfig::Orthonormal { rows: Rows::Orthonormal, initial_weight: 1. };
    let config = ModelConfig { head, classes: CLASSES };
    let learner =
        Learner::new(&config, &modalities, &|_, _, vb| Ok(Box::new(cnn(&vb)?)), Streams::new(0), &Device::Cpu)?;
    let random = |m: &Modality| Tensor::randn(0f32, 1., (BATCH, 1, m.shape[1], m.shape[2]), &Device::Cpu);
    let inputs = modalities.try_map(random)?;
    let labels = Tensor::from_iter((0..BATCH as u32).map(|i| i % CLASSES as u32), &Device::Cpu)?;
    let goal = Goal::Avoid(labels);
    let attack = Pgd {
        budget: Budget::Joint(EPSILON),
        steps: STEPS,
        schedule: Steps::Constant(2.5 / STEPS as f64),
        restarts: vec![Restart { from: Start::Clean, loss: Loss::CrossEntropy }],
        to_the_end: true,
        momentum: 0.,
    };
    let mut times = vec![];
    for round in 0..rounds + 2 {
        let start = Instant::now();
        perturb(&attack, learner.model(), &inputs, &goal, &Draws::new(Streams::new(1), 0))?;
        // The first two warm up.
        if round >= 2 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    let (median, threads) = (times[times.len() / 2], std::env::var("RAYON_NUM_THREADS").unwrap_or_default());
    println!(
        "{{\"peer\": \"crmt\", \"work\": \"pgd\", \"model\": \"cnn\", \"batch\": {BATCH}, \"steps\": {STEPS}, \"threads\": \
         \"{threads}\", \"iters\": {rounds}, \"median_ms\": {median:.3}, \"min_ms\": {:.3}}}",
        times[0]
    );
    Ok(())
}
