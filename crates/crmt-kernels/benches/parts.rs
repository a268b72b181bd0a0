//! The parts of training and attacking, one by one, at the shapes of the small CNN, ResNet-18 and
//! the certified network: each operation alone (`forward`), and with the gradients of everything
//! that goes in (`gradients`).
//! `RAYON_NUM_THREADS=2 CANDLE_NUM_THREADS=1 cargo bench -p crmt-kernels --bench parts [-- FILTER]`.
#![expect(
    missing_docs,
    reason = "criterion_group! makes an undocumented public function"
)]
use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use crmt_kernels::{
    AdamW, ImageLayer, Optimizer, Parameter, RunningStats, Sgd, batch_norm_train, conv2d,
    image_stack, max_min, max_pool2d, polar_linear, relu,
};
use std::time::Duration;

/// What the binary uses: glibc would return large buffers to the system and fault them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Batch, channels in and out, side of the image, side of the kernel, stride, padding.
const CONVOLUTIONS: [(usize, usize, usize, usize, usize, usize, usize); 9] = [
    // The small CNN, on spectrograms 1×64×64.
    (64, 1, 32, 64, 3, 2, 1),
    (64, 32, 64, 32, 3, 2, 1),
    (64, 64, 128, 16, 3, 2, 1),
    (64, 128, 256, 8, 3, 2, 1),
    // ResNet-18, on frames 3×112×112.
    (8, 3, 64, 112, 7, 2, 3),
    (8, 64, 64, 28, 3, 1, 1),
    (8, 64, 128, 28, 3, 2, 1),
    (8, 64, 128, 28, 1, 2, 0),
    (8, 512, 512, 4, 3, 1, 1),
];

/// Activations: the small CNN's first layer, and ResNet-18's.
const IMAGES: [[usize; 4]; 2] = [[64, 32, 32, 32], [8, 64, 56, 56]];

/// Batch, what goes in and out of the certified network's dense layers.
const DENSE: [(usize, usize, usize); 2] = [(128, 512, 256), (128, 256, 128)];

/// The largest kernel of ResNet-18.
const PARAMETER: [usize; 4] = [512, 512, 3, 3];

fn random(shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::randn(0f32, 1., shape, &Device::Cpu)
}

/// Times `operation` on `arguments` without gradients and with those of all of them.
fn part(
    c: &mut Criterion,
    name: &str,
    arguments: &[Tensor],
    operation: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let variables: Vec<Var> = arguments
        .iter()
        .map(Var::from_tensor)
        .collect::<Result<_>>()?;
    let tracked: Vec<Tensor> = variables
        .iter()
        .map(|variable| variable.as_tensor().clone())
        .collect();
    // What can't run is told here; inside a benchmark it would only be fast.
    operation(&tracked)?.backward()?;
    let mut group = c.benchmark_group(name);
    group.bench_function("forward", |b| b.iter(|| operation(arguments)));
    group.bench_function("gradients", |b| b.iter(|| operation(&tracked)?.backward()));
    group.finish();
    Ok(())
}

fn convolutions(c: &mut Criterion) -> Result<()> {
    for (batch, input, output, side, k, stride, padding) in CONVOLUTIONS {
        let name =
            format!("conv2d {k}×{k} stride {stride}, {batch}×{input}×{side}×{side} to {output}");
        let arguments = [
            random((batch, input, side, side))?,
            random((output, input, k, k))?,
            random(output)?,
        ];
        part(c, &name, &arguments, |a| {
            conv2d(&a[0], &a[1], Some(&a[2]), stride, padding)
        })?;
    }
    Ok(())
}

fn images(c: &mut Criterion) -> Result<()> {
    for shape in IMAGES {
        let (x, [batch, channels, height, width]) = (random(&shape)?, shape);
        let size = format!("{batch}×{channels}×{height}×{width}");
        let running = RunningStats::new(channels, DType::F32, &Device::Cpu)?;
        let normalised = [x.clone(), random(channels)?, random(channels)?];
        part(c, &format!("batch_norm_train {size}"), &normalised, |a| {
            batch_norm_train(&a[0], &a[1], &a[2], &running, 0.1, 1e-5)
        })?;
        let x = [x];
        part(c, &format!("max_pool2d 3×3 stride 2, {size}"), &x, |a| {
            max_pool2d(&a[0], 3, 2, 1)
        })?;
        part(c, &format!("relu {size}"), &x, |a| relu(&a[0]))?;
        part(c, &format!("max_min {size}"), &x, |a| max_min(&a[0]))?;
    }
    Ok(())
}

fn certified(c: &mut Criterion) -> Result<()> {
    for (batch, input, output) in DENSE {
        let arguments = [random((batch, input))?, random((output, input))?];
        part(
            c,
            &format!("polar_linear {batch}×{input} to {output}"),
            &arguments,
            |a| polar_linear(&a[0], &a[1]),
        )?;
    }
    // The first stage on images 28×28 padded to 32×32, after space-to-depth.
    let arguments = [
        random((128, 4, 16, 16))?,
        (random((16, 4, 3, 3))? * 0.1)?,
        random(16)?,
        (random((16, 16, 3, 3))? * 0.1)?,
        random(16)?,
        Tensor::ones(16, DType::F32, &Device::Cpu)?,
    ];
    part(
        c,
        "image_stack of the first stage, 128×4×16×16 to 16",
        &arguments,
        |a| {
            let [x, kernel, bias, inner, shift, scale] = a else {
                candle_core::bail!("six arguments, got {}", a.len())
            };
            let layers = [
                ImageLayer::Conv2d {
                    kernel: kernel.clone(),
                    bias: bias.clone(),
                },
                ImageLayer::MaxMin,
                ImageLayer::ResidualConv2d {
                    kernel: inner.clone(),
                    bias: shift.clone(),
                    scale: scale.clone(),
                },
                ImageLayer::SpaceToDepth { block: 2 },
            ];
            image_stack(x, &layers)
        },
    )
}

fn optimizers(c: &mut Criterion) -> Result<()> {
    let variable = Var::from_tensor(&random(&PARAMETER)?)?;
    let gradients = variable.as_tensor().sqr()?.sum_all()?.backward()?;
    let parameter = || [Parameter::new("kernel", &variable)];
    let mut sgd = Sgd {
        momentum: 0.9,
        weight_decay: 1e-4,
        ..Sgd::default()
    }
    .over(parameter())?;
    let mut adam = AdamW::default().over(parameter())?;
    let mut group = c.benchmark_group(format!("a step of {} parameters", variable.elem_count()));
    // Small enough that no run drives the parameters anywhere.
    group.bench_function("sgd with momentum", |b| {
        b.iter(|| sgd.step(&gradients, 1e-9))
    });
    group.bench_function("adamw", |b| b.iter(|| adam.step(&gradients, 1e-9)));
    group.finish();
    Ok(())
}

fn run(c: &mut Criterion) {
    for suite in [convolutions, images, certified, optimizers] {
        suite(c).expect("the shapes above are valid");
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2));
    targets = run
}
criterion_main!(benches);
