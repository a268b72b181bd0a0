//! Networks that are computed as one operation, against the same layers one by one.
use crate::common::{assert_close, check_gradients, difference, gradients, random};
use candle_core::{DType, Device, Result, Tensor, Var};
use crmt_kernels::{NetworkLayer as Layer, *};
use proptest::prelude::*;

const EPS: f64 = 1e-3;

/// The definition.
fn apart(x: &Tensor, layers: &[Layer]) -> Result<Tensor> {
    layers.iter().try_fold(x.clone(), |x, layer| match layer {
        Layer::Conv2d {
            kernel,
            bias,
            stride,
            padding,
            ..
        } => conv2d(&x, kernel, bias.as_ref(), *stride, *padding),
        Layer::BatchNorm {
            gamma,
            beta,
            running,
            momentum,
            eps,
        } => match momentum {
            Some(momentum) => batch_norm_train(&x, gamma, beta, running, *momentum, *eps),
            None => batch_norm_eval(&x, gamma, beta, running, *eps),
        },
        Layer::Relu => relu(&x),
        Layer::MaxPool2d {
            kernel,
            stride,
            padding,
        } => max_pool2d(&x, *kernel, *stride, *padding),
        Layer::Residual { branch, shortcut } => apart(&x, branch)? + apart(&x, shortcut)?,
        Layer::Mean => x.mean_keepdim(3)?.mean_keepdim(2),
    })
}

/// Random parameters, which a network takes in order.
struct Parameters {
    seed: u64,
    made: Vec<Tensor>,
    given: Vec<Tensor>,
    dtype: DType,
}

impl Parameters {
    fn new(seed: u64, given: &[Tensor], dtype: DType) -> Self {
        Self {
            seed,
            made: vec![],
            given: given.to_vec(),
            dtype,
        }
    }

    /// The next one, `base` plus something in ±`by`.
    fn next(&mut self, shape: &[usize], base: f64, by: f64) -> Result<Tensor> {
        let i = self.made.len();
        let tensor = match self.given.get(i) {
            Some(tensor) => tensor.clone(),
            None => ((random(self.seed ^ (i as u64) << 8, shape)? * by)? + base)?
                .to_dtype(self.dtype)?,
        };
        self.made.push(tensor.clone());
        Ok(tensor)
    }

    fn conv(
        &mut self,
        [from, to]: [usize; 2],
        size: usize,
        stride: usize,
        padding: usize,
        bias: bool,
    ) -> Result<Layer> {
        let by = 2. / ((from * size * size) as f64).sqrt();
        let kernel = self.next(&[to, from, size, size], 0., by)?;
        let bias = bias.then(|| self.next(&[to], 0., 0.5)).transpose()?;
        Ok(Layer::Conv2d {
            kernel,
            bias,
            stride,
            padding,
            cache: KernelCache::default(),
        })
    }

    fn norm(&mut self, channels: usize, momentum: Option<f64>) -> Result<Layer> {
        let (gamma, beta) = (
            self.next(&[channels], 1., 0.5)?,
            self.next(&[channels], 0., 0.5)?,
        );
        let running = RunningStats {
            mean: Var::from_tensor(&(random(3, &[channels])? * 0.1)?.to_dtype(self.dtype)?)?,
            variance: Var::from_tensor(
                &((random(4, &[channels])? * 0.2)? + 1.)?.to_dtype(self.dtype)?,
            )?,
        };
        Ok(Layer::BatchNorm {
            gamma,
            beta,
            running,
            momentum,
            eps: EPS,
        })
    }

    /// `conv [norm] relu conv [norm]` and a shortcut, then a ReLU.
    fn residual(
        &mut self,
        [from, to]: [usize; 2],
        stride: usize,
        norm: Option<Option<f64>>,
    ) -> Result<Vec<Layer>> {
        let mut block = |layers: &mut Vec<Layer>, from, size, stride| -> Result<()> {
            layers.push(self.conv([from, to], size, stride, size / 2, norm.is_none())?);
            if let Some(momentum) = norm {
                layers.push(self.norm(to, momentum)?);
            }
            Ok(())
        };
        let (mut branch, mut shortcut) = (vec![], vec![]);
        block(&mut branch, from, 3, stride)?;
        branch.push(Layer::Relu);
        block(&mut branch, to, 3, 1)?;
        if stride != 1 || from != to {
            block(&mut shortcut, from, 1, stride)?;
        }
        Ok(vec![Layer::Residual { branch, shortcut }, Layer::Relu])
    }
}

/// Builds layers from parameters, the same whenever it is called.
type Build<'a> = dyn Fn(&mut Parameters) -> Result<Vec<Layer>> + 'a;

fn parameters(build: &Build, seed: u64, dtype: DType) -> Result<Vec<Tensor>> {
    let mut parameters = Parameters::new(seed, &[], dtype);
    build(&mut parameters)?;
    Ok(parameters.made)
}

/// Value and gradients of images and parameters, together and apart.
fn both(
    x: &Tensor,
    build: &Build,
    parameters: &[Tensor],
    algorithms: Algorithms,
) -> Result<[(Tensor, Vec<Tensor>); 2]> {
    let inputs = [std::slice::from_ref(x), parameters].concat();
    let layers = |t: &[Tensor]| build(&mut Parameters::new(0, &t[1..], x.dtype()));
    let (y, _, together) = gradients(
        &inputs,
        &|t| image_network(&t[0], &layers(t)?, algorithms),
        5,
    )?;
    let (z, _, one) = gradients(&inputs, &|t| apart(&t[0], &layers(t)?), 5)?;
    Ok([(y, together), (z, one)])
}

fn check(x: &Tensor, build: &Build, seed: u64) -> Result<()> {
    let parameters = parameters(build, seed, DType::F64)?;
    let [(y, together), (z, one)] = both(x, build, &parameters, Algorithms::Fastest)?;
    // Sums of up to 10⁴ f64 terms in another order, through up to five layers; a batch of few
    // values divides by little.
    assert_close("value", &y, &z, 1e-9);
    for (i, (a, b)) in together.iter().zip(&one).enumerate() {
        assert_close(&format!("gradient {i}"), a, b, 1e-9);
    }
    // Frozen: the same value, and the same gradient of the images.
    let layers = build(&mut Parameters::new(0, &parameters, DType::F64))?;
    let apart = gradients(std::slice::from_ref(x), &|t| apart(&t[0], &layers), 5)?;
    for _ in 0..2 {
        let frozen = gradients(
            std::slice::from_ref(x),
            &|t| image_network(&t[0], &layers, Algorithms::Fastest),
            5,
        )?;
        assert_close("frozen value", &frozen.0, &apart.0, 1e-9);
        assert_close("frozen gradient", &frozen.2[0], &apart.2[0], 1e-9);
    }
    Ok(())
}

/// One layer after another, as numbers say.
fn chain(
    p: &mut Parameters,
    [mut channels, mut h, mut w]: [usize; 3],
    layers: &[(usize, usize, usize, usize)],
) -> Result<Vec<Layer>> {
    let mut network = vec![];
    for &(kind, out, size, stride) in layers {
        match kind {
            0 | 1 if h.min(w) + 2 >= size => {
                network.push(p.conv([channels, out], size, stride, 1, kind == 0)?);
                (channels, h, w) = (
                    out,
                    (h + 2 - size) / stride + 1,
                    (w + 2 - size) / stride + 1,
                );
            }
            2 => network.push(p.norm(channels, (out % 2 == 0).then_some(0.1))?),
            3 => network.push(Layer::Relu),
            4 if h.min(w) + 2 * (size / 2) >= size => {
                network.push(Layer::MaxPool2d {
                    kernel: size,
                    stride,
                    padding: size / 2,
                });
                (h, w) = (
                    (h + 2 * (size / 2) - size) / stride + 1,
                    (w + 2 * (size / 2) - size) / stride + 1,
                );
            }
            5 => {
                network.extend(p.residual(
                    [channels, out],
                    stride,
                    [None, Some(None), Some(Some(0.1))][size % 3],
                )?);
                (channels, h, w) = (out, (h - 1) / stride + 1, (w - 1) / stride + 1);
            }
            6 => network.push(Layer::Residual {
                branch: vec![Layer::Relu],
                shortcut: vec![],
            }),
            7 => network.push(Layer::Residual {
                branch: vec![],
                shortcut: vec![Layer::Relu],
            }),
            8 => (network.push(Layer::Mean), (h, w) = (1, 1)).1,
            _ => (),
        }
    }
    Ok(network)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn as_one_by_one(b in 2usize..=6, channels in 1usize..=4, h in 2usize..=11, w in 2usize..=11,
                     layers in prop::collection::vec((0usize..=8, 1usize..=19, 1usize..=4, 1usize..=3), 1..=5), seed: u64) {
        let x = random(seed, &[b, channels, h, w])?;
        check(&x, &|p| chain(p, [channels, h, w], &layers), seed)?;
    }
}

/// Every kind of step against difference quotients.
#[test]
fn finite_differences() -> Result<()> {
    let momentum = Some(0.1);
    let build = |p: &mut Parameters| -> Result<Vec<Layer>> {
        let mut layers = vec![p.conv([2, 3], 3, 2, 1, false)?, p.norm(3, momentum)?];
        layers.push(Layer::MaxPool2d {
            kernel: 3,
            stride: 2,
            padding: 1,
        });
        layers.extend(p.residual([3, 3], 1, Some(momentum))?);
        layers.extend(p.residual([3, 4], 2, None)?);
        layers.push(Layer::Mean);
        Ok(layers)
    };
    let x = random(1, &[3, 2, 13, 12])?;
    let inputs = [vec![x], parameters(&build, 9, DType::F64)?].concat();
    let f = |t: &[Tensor]| {
        image_network(
            &t[0],
            &build(&mut Parameters::new(0, &t[1..], DType::F64))?,
            Algorithms::Fastest,
        )
    };
    check_gradients(&inputs, &f, 2)
}

/// What `Fastest` promises: in `f32`, errors of values and all gradients below 5e-5 of the largest
/// element with stride 1, and below 5e-6 with stride 2, for sizes that are no multiple of a tile
/// and more channels than a task takes.
#[test]
fn fewer_multiplications_cost_few_digits() -> Result<()> {
    for (x, out, stride) in [
        ([16, 16, 15, 13], 24, 1),
        ([16, 16, 31, 33], 24, 2),
        ([16, 16, 36, 34], 40, 2),
        ([3, 64, 33, 30], 64, 1),
        ([4, 32, 28, 56], 72, 2),
        ([24, 256, 4, 4], 264, 1),
        ([8, 512, 8, 8], 512, 1),
        ([40, 136, 16, 16], 256, 2),
    ] {
        let build = |p: &mut Parameters| Ok(vec![p.conv([x[1], out], 3, stride, 1, true)?]);
        let (images, exact) = (random(3, &x)?, parameters(&build, 4, DType::F64)?);
        let single = exact
            .iter()
            .map(|t| t.to_dtype(DType::F32))
            .collect::<Result<Vec<_>>>()?;
        let [_, (y, gradients)] = both(&images, &build, &exact, Algorithms::Direct)?;
        let [(z, fast), _] = both(
            &images.to_dtype(DType::F32)?,
            &build,
            &single,
            Algorithms::Fastest,
        )?;
        let [(direct, _), _] = both(
            &images.to_dtype(DType::F32)?,
            &build,
            &single,
            Algorithms::Direct,
        )?;
        let bound = if stride == 1 { 5e-5 } else { 5e-6 };
        let all = [&z]
            .into_iter()
            .chain(&fast)
            .zip([&y].into_iter().chain(&gradients));
        let errors = all
            .map(|(a, b)| difference(a, b))
            .collect::<Result<Vec<_>>>()?;
        // `cargo test -p crmt-kernels --test kernels few_digits -- --nocapture` prints what the
        // documentation states.
        println!(
            "{x:?} to {out}, stride {stride}: {} of the largest; direct {:.1e}",
            errors
                .iter()
                .map(|e| format!("{e:.1e}"))
                .collect::<Vec<_>>()
                .join(" "),
            difference(&direct, &y)?
        );
        assert!(
            errors.iter().all(|e| *e < bound),
            "{x:?}, stride {stride}: {errors:?}"
        );
        // Another method was used: these shapes are ones it is chosen for.
        assert!(difference(&direct, &z)? > 0., "{x:?}, stride {stride}");
    }
    Ok(())
}

/// A kernel that changes in place, as training changes it, is not mistaken for the one before.
#[test]
fn kept_kernels_follow_changes() -> Result<()> {
    let device = &Device::Cpu;
    let kernel = Var::from_tensor(&random(1, &[16, 16, 3, 3])?.to_dtype(DType::F32)?)?;
    let layer = Layer::Conv2d {
        kernel: kernel.as_detached_tensor(),
        bias: None,
        stride: 1,
        padding: 1,
        cache: KernelCache::default(),
    };
    let x = random(2, &[4, 16, 12, 12])?.to_dtype(DType::F32)?;
    let run = |algorithms| -> Result<[Tensor; 2]> {
        let layers = std::slice::from_ref(&layer);
        let (y, _, grads) = gradients(
            std::slice::from_ref(&x),
            &|t| image_network(&t[0], layers, algorithms),
            5,
        )?;
        Ok([y, grads[0].clone()])
    };
    run(Algorithms::Fastest)?;
    // Also where only the last element, and only the sign of a zero, is another.
    let mut last = vec![0f32; 16 * 16 * 9];
    last[16 * 16 * 9 - 1] = 1.;
    for change in [
        random(3, &[16, 16, 3, 3])?.to_dtype(DType::F32)?,
        Tensor::from_vec(last, (16, 16, 3, 3), device)?,
    ] {
        kernel.set(&(kernel.as_detached_tensor() + change)?)?;
        for (a, b) in run(Algorithms::Fastest)?
            .iter()
            .zip(&run(Algorithms::Direct)?)
        {
            assert_close("after a change", a, b, 5e-5);
        }
    }
    Ok(())
}

/// One forward pass serves any number of backward passes.
#[test]
fn many_gradients_of_one_forward_pass() -> Result<()> {
    let build = |p: &mut Parameters| -> Result<Vec<Layer>> {
        let mut layers = vec![p.conv([1, 8], 3, 2, 1, true)?, Layer::Relu];
        layers.extend(p.residual([8, 12], 2, Some(None))?);
        layers.push(Layer::Mean);
        Ok(layers)
    };
    let (x, p) = (
        random(6, &[5, 1, 12, 10])?,
        parameters(&build, 7, DType::F64)?,
    );
    let p = p.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let tracked: Vec<Tensor> = p.iter().map(|v| v.as_tensor().clone()).collect();
    let layers = build(&mut Parameters::new(0, &tracked, DType::F64))?;
    let x = Var::from_tensor(&x)?;
    let of = |y: &Tensor, k: u64| -> Result<Vec<Tensor>> {
        let store = (y * random(k, y.dims())?)?.sum_all()?.backward()?;
        Ok(p.iter()
            .chain([&x])
            .map(|v| store.get(v).expect("tracked").clone())
            .collect())
    };
    let shared = image_network(&x, &layers, Algorithms::Fastest)?;
    for k in 0..3 {
        for (a, b) in of(&shared, k)?
            .iter()
            .zip(of(&image_network(&x, &layers, Algorithms::Fastest)?, k)?)
        {
            // The same operations on the same numbers.
            assert_eq!(difference(a, &b)?, 0.);
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_named() -> Result<()> {
    let mut p = Parameters::new(1, &[], DType::F64);
    let x = random(1, &[2, 3, 8, 8])?;
    let error = |layers: &[Layer]| {
        image_network(&x, layers, Algorithms::Fastest)
            .unwrap_err()
            .to_string()
    };
    assert!(error(&[p.conv([4, 3], 3, 1, 1, false)?]).contains("channels"));
    assert!(error(&[p.norm(5, None)?]).contains("gamma"));
    let shortcut = vec![p.conv([3, 3], 1, 2, 0, false)?];
    assert!(
        error(&[Layer::Residual {
            branch: vec![],
            shortcut
        }])
        .contains("shortcut")
    );
    let pool = Layer::MaxPool2d {
        kernel: 2,
        stride: 0,
        padding: 0,
    };
    assert!(error(&[pool]).contains("stride"));
    assert!(
        image_network(&x.get(0)?, &[], Algorithms::Fastest)
            .unwrap_err()
            .to_string()
            .contains("[batch")
    );
    // No layer is the identity.
    assert_close(
        "no layer",
        &image_network(&x, &[], Algorithms::Fastest)?,
        &x,
        0.,
    );
    Ok(())
}
