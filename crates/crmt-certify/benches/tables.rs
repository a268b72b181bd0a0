//! The table of pairwise constants of 309 classes, 512 features and 2 modalities, and the radii of
//! a batch of 4096, beside the matrix products they contain; and how much memory they need beyond
//! the table.
#![expect(
    missing_docs,
    reason = "criterion_group! makes an undocumented public function"
)]
use candle_core::{Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use crmt_certify::{MarginConstants, Proved, SoundBound, radii};
use crmt_core::{PerModality, Streams};
use rand::Rng;
use rand_distr::StandardNormal;
use std::hint::black_box;

const CLASSES: usize = 309;
const FEATURES: usize = 512;
const MODALITIES: usize = 2;
const BATCH: usize = 4096;

fn random(purpose: &str, shape: &[usize]) -> Tensor {
    let mut rng = Streams::new(0).stream(purpose, 0);
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|_| rng.sample(StandardNormal))
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values as the shape holds")
}

/// High-water mark of resident memory in MB, where the system tells.
fn peak() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim()
        .trim_end_matches(" kB")
        .parse::<f64>()
        .ok()
        .map(|kb| kb / 1024.)
}

fn run(c: &mut Criterion) {
    let rows = PerModality::from_fn(MODALITIES, |m| {
        random(&format!("rows {m}"), &[CLASSES, FEATURES])
    });
    let weights = PerModality::from_fn(MODALITIES, |m| random(&format!("weights {m}"), &[CLASSES]));
    let unit = PerModality::from_fn(MODALITIES, |_| SoundBound::vouched(1.).expect("a constant"));
    let table = || MarginConstants::<Proved>::pairwise(&rows, &weights, &unit).expect("finite");

    let logits = random("logits", &[BATCH, CLASSES]);
    let labels = logits
        .argmax(1)
        .and_then(|l| l.to_vec1::<u32>())
        .expect("predictions");
    let features = PerModality::from_fn(MODALITIES, |m| {
        random(&format!("features {m}"), &[BATCH, FEATURES])
    });
    // Before any product or repetition: no freed buffer is there to be used again unseen.
    let before = peak();
    let constants = table();
    let middle = peak();
    black_box(radii(&constants, &logits, &labels).expect("they line up"));
    if let (Some(before), Some(middle), Some(after)) = (before, middle, peak()) {
        let own = (MODALITIES * CLASSES * CLASSES * 8) as f64 / 1e6;
        let (table, batch) = (middle - before, after - middle);
        println!(
            "peak memory: {table:.1} MB more for the table, which is {own:.1} MB; {batch:.1} MB more for the radii"
        );
    }
    let gram = || rows.try_map(|w| w.matmul(&w.t()?)).expect("shapes fit");
    let scores = || {
        features
            .zip(&rows, "rows")
            .expect("two")
            .try_map(|(f, w)| f.matmul(&w.t()?))
            .expect("shapes fit")
    };
    c.bench_function("product: rows x rows", |b| b.iter(gram));
    c.bench_function("table: pairwise", |b| b.iter(table));
    c.bench_function("product: features x rows", |b| b.iter(scores));
    c.bench_function("radii: batch", |b| {
        b.iter(|| radii(&constants, &logits, &labels))
    });
    c.bench_function("table and radii", |b| {
        b.iter(|| radii(&table(), &logits, &labels))
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(500)).measurement_time(std::time::Duration::from_secs(2));
    targets = run
}
criterion_main!(benches);
