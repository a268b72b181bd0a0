//! The same bits with one thread and with two.
use crate::common::{gradients, random};
use candle_core::{DType, Device, Result, Tensor, Var};
use crmt_kernels::*;

/// Everything a training step computes, as bits.
fn step() -> Result<Vec<u32>> {
    let input = |seed, shape: &[usize]| random(seed, shape)?.to_dtype(DType::F32);
    let mut outputs = Vec::new();
    let mut keep = |(y, _, grads): (Tensor, Tensor, Vec<Tensor>)| {
        outputs.push(y);
        outputs.extend(grads);
    };
    for (b, ci, h, w, co, k, stride, padding) in [
        (1, 3, 40, 37, 8, 7, 2, 3),
        (13, 64, 7, 6, 96, 3, 2, 1),
        (33, 16, 5, 5, 64, 1, 1, 0),
        (70, 8, 9, 9, 16, 3, 1, 1),
    ] {
        let inputs = [
            input(1, &[b, ci, h, w])?,
            input(2, &[co, ci, k, k])?,
            input(3, &[co])?,
        ];
        keep(gradients(
            &inputs,
            &|t| conv2d(&t[0], &t[1], Some(&t[2]), stride, padding),
            4,
        )?);
    }
    let x = input(5, &[9, 20, 33, 31])?;
    keep(gradients(
        std::slice::from_ref(&x),
        &|t| max_min(&relu(&max_pool2d(&t[0], 3, 2, 1)?)?),
        6,
    )?);
    let running = RunningStats::new(20, DType::F32, &Device::Cpu)?;
    let inputs = [x, input(7, &[20])?, input(8, &[20])?];
    keep(gradients(
        &inputs,
        &|t| batch_norm_train(&t[0], &t[1], &t[2], &running, 0.1, 1e-5),
        9,
    )?);
    keep(gradients(
        &inputs,
        &|t| batch_norm_eval(&t[0], &t[1], &t[2], &running, 1e-5),
        9,
    )?);
    keep(gradients(
        &[input(10, &[40, 300])?],
        &|t| orthonormal_rows(&t[0], 12),
        11,
    )?);

    keep(gradients(
        &[input(20, &[150, 300])?],
        &|t| polar_rows(&t[0]),
        21,
    )?);
    keep(gradients(
        &[input(29, &[70, 300])?, input(20, &[150, 300])?],
        &|t| polar_linear(&t[0], &t[1]),
        21,
    )?);
    let inputs = [
        input(22, &[33, 16, 12, 10])?,
        input(23, &[24, 16, 3, 3])?,
        input(24, &[24])?,
    ];
    let residual = |t: &[Tensor]| {
        let scale = residual_scale(&t[1], &t[2].exp()?)?.recip()?;
        space_to_depth(
            &zero_pad2d(&residual_conv2d(&t[0], &t[1], &t[2], &scale)?, [1, 1, 0, 2])?,
            2,
        )
    };
    keep(gradients(&inputs, &residual, 25)?);
    let stack = |t: &[Tensor]| {
        let (kernel, bias, scale) = (t[1].clone(), t[2].clone(), t[2].exp()?);
        let residual = ImageLayer::ResidualConv2d {
            kernel,
            bias,
            scale,
        };
        image_stack(
            &t[0],
            &[
                ImageLayer::MaxMin,
                residual,
                ImageLayer::SpaceToDepth { block: 2 },
            ],
        )
    };
    keep(gradients(&inputs, &stack, 28)?);
    let conv = |t: &Tensor, stride: usize| NetworkLayer::Conv2d {
        kernel: t.clone(),
        bias: None,
        stride,
        padding: t.dim(3).unwrap_or(0) / 2,
        cache: KernelCache::default(),
    };
    let norm = |t: &Tensor| -> Result<NetworkLayer> {
        let running = RunningStats::new(t.dim(0)?, t.dtype(), t.device())?;
        Ok(NetworkLayer::BatchNorm {
            gamma: t.clone(),
            beta: t.clone(),
            running,
            momentum: Some(0.1),
            eps: 1e-5,
        })
    };
    let network = |t: &[Tensor]| {
        let branch = vec![
            conv(&t[1], 1),
            norm(&t[3])?,
            NetworkLayer::Relu,
            conv(&t[2], 2),
            norm(&t[3])?,
        ];
        let residual = NetworkLayer::Residual {
            branch,
            shortcut: vec![conv(&t[4], 2)],
        };
        let pool = NetworkLayer::MaxPool2d {
            kernel: 3,
            stride: 2,
            padding: 1,
        };
        image_network(
            &t[0],
            &[residual, NetworkLayer::Relu, pool, NetworkLayer::Mean],
            Algorithms::Fastest,
        )
    };
    // Groups of tiles, points of large kernels, and sums of few channels.
    for [from, to] in [[16, 24], [136, 264], [3, 24]] {
        let kernels = [[to, from, 3, 3], [to, to, 3, 3]].map(|shape| input(30, &shape));
        let [first, second] = kernels;
        let inputs = [
            input(32, &[19, from, 13, 12])?,
            first?,
            second?,
            input(31, &[to])?,
            input(33, &[to, from, 1, 1])?,
        ];
        keep(gradients(&inputs, &network, 33)?);
    }
    keep(gradients(
        &[input(26, &[33, 24, 12, 10])?, input(23, &[24, 16, 3, 3])?],
        &|t| {
            conv_transpose2d(&t[0], &t[1], 1, 1)?
                .broadcast_mul(&gram_abs_rowsum(&t[1], 2)?.reshape((1, 16, 1, 1))?)
        },
        27,
    )?);

    let p = Var::from_tensor(&input(12, &[300, 301])?)?;
    let mut sgd = Sgd {
        momentum: 0.9,
        weight_decay: 0.1,
        nesterov: false,
    }
    .over([Parameter::new("p", &p)])?;
    let mut adam = AdamW::default().over([Parameter::new("p", &p)])?;
    let optimizers: [&mut dyn Optimizer; 2] = [&mut sgd, &mut adam];
    for optimizer in optimizers {
        let grads = p.as_tensor().sqr()?.sum_all()?.backward()?;
        let clipped = clip_grad_norm(&grads, optimizer.parameters(), 1.)?;
        outputs.push(Tensor::new(
            &[clipped.norm as f32, clipped.scale as f32],
            &Device::Cpu,
        )?);
        optimizer.step_scaled(&grads, 0.01, clipped.scale)?;
        outputs.push(p.as_tensor().copy()?);
    }
    let mut bits = Vec::new();
    for t in &outputs {
        bits.extend(
            t.flatten_all()?
                .to_vec1::<f32>()?
                .into_iter()
                .map(f32::to_bits),
        );
    }
    Ok(bits)
}

#[test]
fn same_bits_with_one_thread_and_two() -> Result<()> {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a thread pool");
        pool.install(step)
    };
    let (one, two, again) = (with(1)?, with(2)?, with(2)?);
    assert!(
        one == two,
        "{} of {} values differ",
        one.iter().zip(&two).filter(|(a, b)| a != b).count(),
        one.len()
    );
    assert!(two == again);
    Ok(())
}
