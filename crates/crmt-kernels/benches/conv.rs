//! Forward pass, input gradient and weight gradient of the four layers of the small CNN
//! (3×3, stride 2, padding 1, batch 128, 28×28 input).
#![expect(missing_docs, reason = "criterion_group! makes an undocumented public function")]
use candle_core::{DType, Device, Result, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use crmt_kernels::conv2d;

fn layers(c: &mut Criterion) -> Result<()> {
    let random = |shape: (usize, usize, usize, usize)| Tensor::randn(0f32, 1., shape, &Device::Cpu);
    for (ci, co, side) in [(1, 32, 28), (32, 64, 14), (64, 128, 7), (128, 256, 4)] {
        let (x, kernel) = (random((128, ci, side, side))?, random((co, ci, 3, 3))?);
        let (x_var, kernel_var) = (Var::from_tensor(&x)?, Var::from_tensor(&kernel)?);
        let bias = Tensor::zeros(co, DType::F32, &Device::Cpu)?;
        let mut group = c.benchmark_group(format!("{ci}-{co}"));
        group.bench_function("forward", |b| b.iter(|| conv2d(&x, &kernel, Some(&bias), 2, 1)));
        // The backward pass also fills a gradient of ones and adds to one of zeros, as autograd does.
        let dx = conv2d(&x_var, &kernel, Some(&bias), 2, 1)?;
        group.bench_function("input gradient", |b| b.iter(|| dx.backward()));
        let dw = conv2d(&x, &kernel_var, Some(&bias), 2, 1)?;
        group.bench_function("weight gradient", |b| b.iter(|| dw.backward()));
    }
    Ok(())
}

fn run(c: &mut Criterion) {
    layers(c).expect("the shapes above are valid");
}

criterion_group!(benches, run);
criterion_main!(benches);
