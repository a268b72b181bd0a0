//! One table of operations for every device: what each gives for numbers drawn on the host, with
//! its gradients.
//!
//! The reference is the CPU in `f64`. Knows nothing of who compares, or where.
use candle_core::{D, DType, Device, Result, Shape, Tensor, Var};
use crmt_kernels::*;
use rand::{Rng, SeedableRng};

/// Where an operation runs and in which type.
pub struct Place {
    pub device: Device,
    pub dtype: DType,
}

impl Place {
    /// The same numbers everywhere: uniform in (−1, 1), rounded to `f32`, so that no type changes
    /// them.
    fn tensor(&self, seed: u64, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.elem_count())
            .map(|_| rng.random_range(-1f32..1.))
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu)?
            .to_dtype(self.dtype)?
            .to_device(&self.device)
    }

    fn var(&self, seed: u64, shape: impl Into<Shape>) -> Result<Var> {
        Var::from_tensor(&self.tensor(seed, shape)?)
    }

    /// Positive numbers around 1.
    fn positive(&self, seed: u64, shape: impl Into<Shape>) -> Result<Tensor> {
        (self.tensor(seed, shape)? * 0.5)? + 1.
    }

    /// `y`, and the gradient of `Σ w·y` with random `w` for each leaf.
    fn with_gradients(&self, y: &Tensor, leaves: &[&Var]) -> Result<Vec<Tensor>> {
        let gradients = (y * self.tensor(99, y.shape())?)?.sum_all()?.backward()?;
        let of = |leaf: &&Var| match gradients.get(leaf) {
            Some(gradient) => Ok(gradient.clone()),
            None => candle_core::bail!("a leaf has no gradient"),
        };
        [Ok(y.detach())]
            .into_iter()
            .chain(leaves.iter().map(of))
            .collect()
    }

    fn stats(&self, channels: usize) -> Result<RunningStats> {
        let stats = RunningStats::new(channels, self.dtype, &self.device)?;
        stats.mean.set(&self.tensor(7, channels)?)?;
        stats.variance.set(&self.positive(8, channels)?)?;
        Ok(stats)
    }
}

/// An operation with the relative error that `f32` may have: of the largest element of each result.
pub struct Case {
    pub name: &'static str,
    pub tolerance: f64,
    pub run: fn(&Place) -> Result<Vec<Tensor>>,
}

/// `f32` sums of up to some thousand terms lose five or six bits of 24: 1e-5 is far above that and
/// far below a wrong term.
const USUAL: f64 = 1e-5;
/// Divisions by standard deviations and iterations add to it.
const LOOSE: f64 = 1e-4;

macro_rules! cases {
    ($($name:ident $tolerance:ident |$p:ident| $body:block)*) => {
        /// All operations of this crate.
        pub const CASES: &[Case] = &[$(Case { name: stringify!($name), tolerance: $tolerance, run: |$p| $body }),*];
    };
}

cases! {
    relu USUAL |p| {
        let x = p.var(1, (5, 7))?;
        p.with_gradients(&relu(&x)?, &[&x])
    }
    relu_at_zero_and_nan USUAL |p| {
        let x = Var::from_tensor(&Tensor::new(&[0f32, -0., 1., -1., f32::INFINITY], &p.device)?.to_dtype(p.dtype)?)?;
        let y = relu(&x)?;
        let gradient = y.backward()?.remove(&x).expect("x is tracked");
        Ok(vec![y.detach().clamp(-9f32, 9f32)?, gradient])
    }
    max_min_of_features USUAL |p| {
        let x = p.var(1, (5, 6))?;
        p.with_gradients(&max_min(&x)?, &[&x])
    }
    max_min_of_images USUAL |p| {
        let x = p.var(1, (3, 4, 5, 3))?;
        p.with_gradients(&max_min(&x)?, &[&x])
    }
    max_min_on_a_tie USUAL |p| {
        let x = Var::from_tensor(&Tensor::ones((2, 4), p.dtype, &p.device)?)?;
        p.with_gradients(&max_min(&x)?, &[&x])
    }
    batch_norm_in_training_of_images LOOSE |p| {
        let (x, gamma, beta, stats) = (p.var(1, (6, 5, 4, 3))?, p.var(2, 5)?, p.var(3, 5)?, p.stats(5)?);
        let y = batch_norm_train(&x, &gamma, &beta, &stats, 0.1, 1e-5)?;
        let mut all = p.with_gradients(&y, &[&x, &gamma, &beta])?;
        all.extend([stats.mean.as_detached_tensor(), stats.variance.as_detached_tensor()]);
        Ok(all)
    }
    // More elements than a GPU is given threads, in rows that do not divide them.
    batch_norm_of_many_rows LOOSE |p| {
        let (x, gamma, beta, stats) = (p.var(1, (600_001, 7))?, p.var(2, 7)?, p.var(3, 7)?, p.stats(7)?);
        p.with_gradients(&batch_norm_train(&x, &gamma, &beta, &stats, 0.1, 1e-5)?, &[&x, &gamma, &beta])
    }
    batch_norm_with_a_large_mean LOOSE |p| {
        let x = Var::from_tensor(&(p.tensor(1, (700, 40))? + 100.)?)?;
        let (gamma, beta, stats) = (p.var(2, 40)?, p.var(3, 40)?, p.stats(40)?);
        // The inputs themselves are rounded to 100 · 2⁻²⁴ in f32: what is compared is the variance,
        // not each element.
        let y = batch_norm_train(&x, &gamma, &beta, &stats, 1., 1e-5)?;
        Ok(vec![y.sqr()?.mean(0)?.detach(), stats.variance.as_detached_tensor()])
    }
    batch_norm_in_evaluation LOOSE |p| {
        let (x, gamma, beta, stats) = (p.var(1, (6, 5, 4, 3))?, p.var(2, 5)?, p.var(3, 5)?, p.stats(5)?);
        p.with_gradients(&batch_norm_eval(&x, &gamma, &beta, &stats, 1e-5)?, &[&x, &gamma, &beta])
    }
    conv2d_of_stride_1 USUAL |p| {
        let (x, k, bias) = (p.var(1, (3, 4, 9, 7))?, p.var(2, (6, 4, 3, 3))?, p.var(3, 6)?);
        p.with_gradients(&conv2d(&x, &k, Some(&bias), 1, 1)?, &[&x, &k, &bias])
    }
    conv2d_of_stride_2_and_odd_sizes USUAL |p| {
        let (x, k) = (p.var(1, (2, 3, 8, 11))?, p.var(2, (5, 3, 3, 3))?);
        p.with_gradients(&conv2d(&x, &k, None, 2, 1)?, &[&x, &k])
    }
    conv2d_of_7_by_7 USUAL |p| {
        let (x, k) = (p.var(1, (2, 3, 20, 18))?, p.var(2, (8, 3, 7, 7))?);
        p.with_gradients(&conv2d(&x, &k, None, 2, 3)?, &[&x, &k])
    }
    conv2d_of_1_by_1 USUAL |p| {
        let (x, k) = (p.var(1, (2, 6, 7, 5))?, p.var(2, (4, 6, 1, 1))?);
        p.with_gradients(&conv2d(&x, &k, None, 2, 0)?, &[&x, &k])
    }
    conv2d_of_a_kernel_that_is_not_square USUAL |p| {
        let (x, k) = (p.var(1, (2, 2, 9, 8))?, p.var(2, (3, 2, 5, 2))?);
        p.with_gradients(&conv2d(&x, &k, None, 1, 2)?, &[&x, &k])
    }
    conv2d_of_constants_gives_the_image_its_gradient USUAL |p| {
        let (x, k) = (p.var(1, (2, 3, 8, 8))?, p.tensor(2, (5, 3, 3, 3))?);
        p.with_gradients(&conv2d(&x, &k, None, 1, 1)?, &[&x])
    }
    conv2d_of_a_view USUAL |p| {
        let (x, k) = (p.var(1, (6, 3, 8, 8))?, p.var(2, (5, 3, 3, 3))?);
        p.with_gradients(&conv2d(&x.narrow(0, 2, 3)?.transpose(2, 3)?, &k, None, 1, 1)?, &[&x, &k])
    }
    conv2d_relu USUAL |p| {
        let (x, k, bias) = (p.var(1, (3, 4, 9, 7))?, p.var(2, (6, 4, 3, 3))?, p.var(3, 6)?);
        p.with_gradients(&conv2d_relu(&x, &k, Some(&bias), 1, 1)?, &[&x, &k, &bias])
    }
    conv_transpose2d USUAL |p| {
        let (x, k) = (p.var(1, (2, 5, 6, 7))?, p.var(2, (5, 3, 3, 3))?);
        p.with_gradients(&conv_transpose2d(&x, &k, 2, 1)?, &[&x, &k])
    }
    residual_conv2d USUAL |p| {
        let (x, k, bias) = (p.var(1, (2, 4, 6, 7))?, p.var(2, (5, 4, 3, 3))?, p.var(3, 5)?);
        let scale = Var::from_tensor(&p.positive(4, 5)?)?;
        p.with_gradients(&residual_conv2d(&x, &k, &bias, &scale)?, &[&x, &k, &bias, &scale])
    }
    max_pool2d_as_in_resnets USUAL |p| {
        let x = p.var(1, (2, 3, 9, 8))?;
        p.with_gradients(&max_pool2d(&x, 3, 2, 1)?, &[&x])
    }
    max_pool2d_without_overlap USUAL |p| {
        let x = p.var(1, (2, 3, 8, 7))?;
        p.with_gradients(&max_pool2d(&x, 2, 2, 0)?, &[&x])
    }
    max_pool2d_on_a_tie USUAL |p| {
        let x = Var::from_tensor(&Tensor::ones((1, 2, 5, 5), p.dtype, &p.device)?)?;
        p.with_gradients(&max_pool2d(&x, 3, 1, 1)?, &[&x])
    }
    space_to_depth USUAL |p| {
        let x = p.var(1, (2, 3, 6, 4))?;
        p.with_gradients(&space_to_depth(&x, 2)?, &[&x])
    }
    zero_pad2d USUAL |p| {
        let x = p.var(1, (2, 3, 6, 4))?;
        p.with_gradients(&zero_pad2d(&x, [1, 0, 2, 3])?, &[&x])
    }
    gram_abs USUAL |p| {
        let k = p.var(1, (5, 3, 3, 3))?;
        p.with_gradients(&gram_abs(&k)?, &[&k])
    }
    gram_abs_rowsum_squared USUAL |p| {
        let k = p.var(1, (5, 3, 3, 3))?;
        p.with_gradients(&gram_abs_rowsum(&k, 2)?, &[&k])
    }
    residual_scale USUAL |p| {
        let (k, q) = (p.var(1, (5, 3, 3, 3))?, Var::from_tensor(&p.positive(2, 5)?)?);
        p.with_gradients(&residual_scale(&k, &q)?, &[&k, &q])
    }
    polar_rows LOOSE |p| {
        let v = p.var(1, (6, 20))?;
        p.with_gradients(&polar_rows(&v)?, &[&v])
    }
    polar_linear LOOSE |p| {
        let (x, v) = (p.var(1, (7, 20))?, p.var(2, (6, 20))?);
        p.with_gradients(&polar_linear(&x, &v)?, &[&x, &v])
    }
    orthonormal_rows LOOSE |p| {
        let v = p.var(1, (6, 20))?;
        p.with_gradients(&orthonormal_rows(&v, 14)?, &[&v])
    }
    gauged_weights USUAL |p| {
        let (a, b) = (p.var(1, 5)?, p.var(2, (2, 3))?);
        let all = gauged(&[a.as_tensor().clone(), b.as_tensor().clone()])?;
        p.with_gradients(&Tensor::cat(&[all[0].flatten_all()?, all[1].flatten_all()?], 0)?, &[&a, &b])
    }
    residual_network_in_training LOOSE |p| { residual_network(p, Some(0.1), true) }
    residual_network_in_evaluation LOOSE |p| { residual_network(p, None, true) }
    residual_network_frozen LOOSE |p| { residual_network(p, None, false) }
    stack_of_lipschitz_layers USUAL |p| {
        let x = p.var(1, (3, 2, 8, 6))?;
        let (k, bias) = (p.var(2, (6, 2, 3, 3))?, p.var(3, 6)?);
        let (k2, bias2) = (p.var(4, (5, 24, 3, 3))?, p.var(5, 5)?);
        let scale = Var::from_tensor(&p.positive(6, 5)?)?;
        let layers = [
            ImageLayer::Conv2d { kernel: k.as_tensor().clone(), bias: bias.as_tensor().clone() },
            ImageLayer::MaxMin,
            ImageLayer::SpaceToDepth { block: 2 },
            ImageLayer::ResidualConv2d {
                kernel: k2.as_tensor().clone(),
                bias: bias2.as_tensor().clone(),
                scale: scale.as_tensor().clone(),
            },
        ];
        p.with_gradients(&image_stack(&x, &layers)?, &[&x, &k, &bias, &k2, &bias2, &scale])
    }
    sgd USUAL |p| { optimized(p, |all| Ok(Box::new(Sgd { weight_decay: 0.01, ..Sgd::default() }.over(all)?))) }
    sgd_with_momentum USUAL |p| {
        optimized(p, |all| Ok(Box::new(Sgd { momentum: 0.9, weight_decay: 0.01, nesterov: false }.over(all)?)))
    }
    sgd_of_nesterov USUAL |p| {
        optimized(p, |all| Ok(Box::new(Sgd { momentum: 0.9, weight_decay: 0., nesterov: true }.over(all)?)))
    }
    adam LOOSE |p| { optimized(p, |all| Ok(Box::new(AdamW { decoupled: false, ..AdamW::default() }.over(all)?))) }
    adam_w LOOSE |p| { optimized(p, |all| Ok(Box::new(AdamW::default().over(all)?))) }
    norms_of_gradients USUAL |p| {
        let all = parameters(p)?;
        let gradients = loss(&all)?.backward()?;
        let clipped = clip_grad_norm(&gradients, &all, 0.5)?;
        let numbers = clipped.squares.into_iter().chain([clipped.norm, clipped.scale]).collect::<Vec<f64>>();
        Ok(vec![Tensor::new(numbers, &Device::Cpu)?])
    }
}

/// The first layers of a ResNet: a stem with pooling, a block with a convolution in its shortcut,
/// one without, and the mean.
fn residual_network(p: &Place, momentum: Option<f64>, tracked: bool) -> Result<Vec<Tensor>> {
    let x = p.var(1, (3, 2, 17, 14))?;
    let mut leaves = vec![x.clone()];
    let mut leaf = |t: Tensor| -> Result<Tensor> {
        if !tracked {
            return Ok(t);
        }
        let var = Var::from_tensor(&t)?;
        leaves.push(var.clone());
        Ok(var.as_tensor().clone())
    };
    let mut seed = 10;
    let mut conv =
        |out: usize, channels: usize, size: usize, stride: usize| -> Result<[NetworkLayer; 2]> {
            seed += 5;
            let kernel = leaf((p.tensor(seed, (out, channels, size, size))? * 0.5)?)?;
            let (gamma, beta) = (
                leaf(p.positive(seed + 1, out)?)?,
                leaf(p.tensor(seed + 2, out)?)?,
            );
            let norm = NetworkLayer::BatchNorm {
                gamma,
                beta,
                running: p.stats(out)?,
                momentum,
                eps: 1e-5,
            };
            Ok([
                NetworkLayer::Conv2d {
                    kernel,
                    bias: None,
                    stride,
                    padding: size / 2,
                    cache: KernelCache::default(),
                },
                norm,
            ])
        };
    let [stem, stem_norm] = conv(4, 2, 7, 2)?;
    let ([a, a_norm], [b, b_norm], [s, s_norm]) =
        (conv(6, 4, 3, 2)?, conv(6, 6, 3, 1)?, conv(6, 4, 1, 2)?);
    let ([c, c_norm], [d, d_norm]) = (conv(6, 6, 3, 1)?, conv(6, 6, 3, 1)?);
    let relu = || NetworkLayer::Relu;
    let layers = [
        stem,
        stem_norm,
        relu(),
        NetworkLayer::MaxPool2d {
            kernel: 3,
            stride: 2,
            padding: 1,
        },
        NetworkLayer::Residual {
            branch: vec![a, a_norm, relu(), b, b_norm],
            shortcut: vec![s, s_norm],
        },
        relu(),
        NetworkLayer::Residual {
            branch: vec![c, c_norm, relu(), d, d_norm],
            shortcut: vec![],
        },
        relu(),
        NetworkLayer::Mean,
    ];
    let y = image_network(&x, &layers, Algorithms::Fastest)?.flatten_from(1)?;
    p.with_gradients(&y, &leaves.iter().collect::<Vec<_>>())
}

/// Parameters of several lengths, one longer than a block of any kernel.
fn parameters(p: &Place) -> Result<Vec<Parameter>> {
    let shapes = [
        Shape::from(3),
        Shape::from((70, 90)),
        Shape::from((2, 3, 4)),
    ];
    let named = shapes.into_iter().enumerate();
    let all = named.map(|(i, shape)| {
        Ok(Parameter::new(
            format!("p{i}"),
            &p.var(20 + i as u64, shape)?,
        ))
    });
    all.collect()
}

fn loss(parameters: &[Parameter]) -> Result<Tensor> {
    let each = parameters
        .iter()
        .map(|q| q.var.as_tensor().sqr()?.sum_all()? + q.var.sin()?.sum_all()?);
    Tensor::stack(&each.collect::<Result<Vec<_>>>()?, 0)?.sum(D::Minus1)
}

/// Parameters and state after five steps.
fn optimized(
    p: &Place,
    over: fn(Vec<Parameter>) -> Result<Box<dyn Optimizer>>,
) -> Result<Vec<Tensor>> {
    let all = parameters(p)?;
    let mut optimizer = over(all.clone())?;
    for step in 0..5 {
        optimizer.step_scaled(&loss(&all)?.backward()?, 0.05, 1. / (1. + step as f64))?;
    }
    let state = optimizer
        .state()?
        .into_iter()
        .map(|(_, t)| t)
        .filter(|t| t.dtype() == p.dtype);
    Ok(all
        .iter()
        .map(|q| q.var.as_detached_tensor())
        .chain(state)
        .collect())
}

/// The largest difference of a case from the reference, relative to the largest element of the
/// result that it is in.
pub fn error(case: &Case, place: &Place) -> Result<f64> {
    let reference = (case.run)(&Place {
        device: Device::Cpu,
        dtype: DType::F64,
    })?;
    let results = (case.run)(place)?;
    if results.len() != reference.len() {
        candle_core::bail!(
            "{}: {} results instead of {}",
            case.name,
            results.len(),
            reference.len()
        )
    }
    let mut worst = 0f64;
    for (got, expected) in results.iter().zip(&reference) {
        if got.dims() != expected.dims() {
            candle_core::bail!(
                "{}: a result of shape {:?} instead of {:?}",
                case.name,
                got.dims(),
                expected.dims()
            )
        }
        let values = |t: &Tensor| {
            t.to_device(&Device::Cpu)?
                .to_dtype(DType::F64)?
                .flatten_all()?
                .to_vec1::<f64>()
        };
        let (got, expected) = (values(got)?, values(expected)?);
        let size = expected
            .iter()
            .fold(0f64, |size, v| size.max(v.abs()))
            .max(1e-3);
        for (got, expected) in got.iter().zip(&expected) {
            let difference = (got - expected).abs() / size;
            worst = if difference.is_nan() {
                f64::INFINITY
            } else {
                worst.max(difference)
            };
        }
    }
    Ok(worst)
}
