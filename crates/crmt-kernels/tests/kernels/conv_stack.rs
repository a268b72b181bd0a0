//! Convolutions with ReLUs that are computed together, against the same ones by one.
use crate::common::{assert_close, check_gradients, gradients, random};
use candle_core::{DType, Device, Result, Tensor, Var};
use crmt_kernels::*;
use proptest::prelude::*;

fn apart(x: &Tensor, layers: &[ConvRelu]) -> Result<Tensor> {
    layers.iter().try_fold(x.clone(), |x, l| conv2d_relu(&x, &l.kernel, Some(&l.bias), l.stride, l.padding))
}

/// A layer for `channels`: kernel `[out, channels, size...]`.
fn layer(seed: u64, channels: usize, out: usize, size: [usize; 2], stride: usize, padding: usize) -> Result<ConvRelu> {
    let kernel = random(seed, &[out, channels, size[0], size[1]])?;
    Ok(ConvRelu { kernel, bias: random(!seed, &[out])?, stride, padding })
}

fn converted(layers: &[ConvRelu], dtype: DType) -> Result<Vec<ConvRelu>> {
    let convert = |l: &ConvRelu| {
        let (kernel, bias) = (l.kernel.to_dtype(dtype)?, l.bias.to_dtype(dtype)?);
        Ok(ConvRelu { kernel, bias, ..*l })
    };
    layers.iter().map(convert).collect()
}

/// Value and gradient of the images, with frozen parameters.
fn both(x: &Tensor, layers: &[ConvRelu]) -> Result<[[Tensor; 2]; 2]> {
    let of = |f: &dyn Fn(&[Tensor]) -> Result<Tensor>| -> Result<[Tensor; 2]> {
        let (y, _, mut grads) = gradients(std::slice::from_ref(x), f, 5)?;
        Ok([y, grads.remove(0)])
    };
    Ok([of(&|t| conv_relu_stack(&t[0], layers))?, of(&|t| apart(&t[0], layers))?])
}

fn check(x: &Tensor, layers: &[ConvRelu]) -> Result<()> {
    let [together, one] = both(x, layers)?;
    // Sums of up to 10⁴ f64 terms in another order, through up to four layers.
    assert_close("value", &together[0], &one[0], 1e-11);
    assert_close("gradient", &together[1], &one[1], 1e-11);
    let [together, _] = both(&x.to_dtype(DType::F32)?, &converted(layers, DType::F32)?)?;
    // A ReLU within f32's rounding of its kink may switch, hence no gradient here.
    assert_close("f32", &together[0], &one[0], 1e-4);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn as_one_by_one(b in 1usize..=9, mut channels in 1usize..=3, h in 1usize..=13, w in 1usize..=13,
                     layers in prop::collection::vec((1usize..=37, 1usize..=4, 1usize..=4, 1usize..=3, 0usize..=2), 1..=3),
                     seed: u64) {
        let x = random(seed, &[b, channels, h, w])?;
        let (mut h, mut w, mut stack) = (h, w, vec![]);
        for (i, (out, kh, kw, stride, padding)) in layers.into_iter().enumerate() {
            let size = [kh.min(h + 2 * padding), kw.min(w + 2 * padding)];
            stack.push(layer(seed ^ i as u64, channels, out, size, stride, padding)?);
            (h, w) = ((h + 2 * padding - size[0]) / stride + 1, (w + 2 * padding - size[1]) / stride + 1);
            channels = out;
        }
        check(&x, &stack)?;
    }
}

/// The networks that attacks meet: many channels, odd sizes, several groups of samples.
#[test]
fn strided_networks() -> Result<()> {
    for (x, channels) in
        [([21, 1, 28, 28], vec![32, 64, 128]), ([9, 3, 33, 30], vec![16, 40]), ([2, 2, 70, 66], vec![33])]
    {
        let mut from = x[1];
        let mut layers = vec![];
        for out in channels {
            layers.push(layer(out as u64, from, out, [3, 3], 2, 1)?);
            from = out;
        }
        check(&random(7, &x)?, &layers)?;
    }
    Ok(())
}

/// Biases that keep every ReLU on one side.
#[test]
fn differences() -> Result<()> {
    for stride in [1, 2] {
        let mut layers = [layer(1, 2, 6, [3, 3], stride, 1)?, layer(2, 6, 5, [3, 2], 2, 1)?];
        layers[0].bias = Tensor::new(&[30f64, -30., 30., 30., 40., -50.], &Device::Cpu)?;
        layers[1].bias = Tensor::new(&[900f64, -900., 900., 900., -900.], &Device::Cpu)?;
        check_gradients(&[random(3, &[3, 2, 7, 6])?], &|t| conv_relu_stack(&t[0], &layers), 4)?;
    }
    Ok(())
}

/// Buffers are reused: what an earlier, larger pass left in them must not matter.
#[test]
fn twice() -> Result<()> {
    let layers = converted(&[layer(1, 2, 24, [3, 3], 2, 1)?, layer(2, 24, 17, [3, 3], 1, 1)?], DType::F32)?;
    let x = random(3, &[70, 2, 11, 12])?.to_dtype(DType::F32)?;
    let [first, _] = both(&x, &layers)?;
    both(&x.narrow(0, 3, 33)?, &layers)?;
    let [again, _] = both(&x, &layers)?;
    for (first, again) in first.iter().zip(&again) {
        assert_close("again", again, first, 0.);
    }
    let [part, _] = both(&x.narrow(0, 3, 33)?, &layers)?;
    // Sums are over one sample: samples together or apart give the same bits.
    assert_close("part", &part[0], &first[0].narrow(0, 3, 33)?, 0.);
    Ok(())
}

#[test]
fn parameters_that_learn_get_their_gradients() -> Result<()> {
    let layers = [layer(1, 2, 6, [3, 3], 2, 1)?, layer(2, 6, 5, [3, 3], 2, 1)?];
    let x = random(3, &[4, 2, 9, 8])?;
    let inputs: Vec<Tensor> =
        [x].into_iter().chain(layers.iter().flat_map(|l| [l.kernel.clone(), l.bias.clone()])).collect();
    let stack = |t: &[Tensor]| -> Vec<ConvRelu> {
        let layer = |p: &[Tensor]| ConvRelu { kernel: p[0].clone(), bias: p[1].clone(), stride: 2, padding: 1 };
        t[1..].chunks(2).map(layer).collect()
    };
    let together = gradients(&inputs, &|t| conv_relu_stack(&t[0], &stack(t)), 6)?;
    let one = gradients(&inputs, &|t| apart(&t[0], &stack(t)), 6)?;
    assert_close("value", &together.0, &one.0, 0.);
    for (a, b) in together.2.iter().zip(&one.2) {
        assert_close("gradient", a, b, 0.);
    }
    Ok(())
}

#[test]
fn the_gradient_at_zero_is_zero_and_nan_stays() -> Result<()> {
    let one = Tensor::ones((1, 1, 1, 1), DType::F64, &Device::Cpu)?;
    let layers = [ConvRelu { kernel: one, bias: Tensor::zeros(1, DType::F64, &Device::Cpu)?, stride: 1, padding: 0 }];
    let x = Var::from_tensor(&Tensor::new(&[0f64, -1., 2., f64::NAN], &Device::Cpu)?.reshape((1, 1, 2, 2))?)?;
    let y = conv_relu_stack(&x, &layers)?;
    let grads = y.sum_all()?.backward()?;
    let values = y.flatten_all()?.to_vec1::<f64>()?;
    assert!(values[..3] == [0., 0., 2.] && values[3].is_nan(), "{values:?}");
    assert_eq!(grads.get(&x).expect("tracked").flatten_all()?.to_vec1::<f64>()?, [0., 0., 1., 1.]);
    Ok(())
}

#[test]
fn limits() -> Result<()> {
    let x = random(1, &[2, 3, 4, 4])?;
    let fails = |x: &Tensor, layers: &[ConvRelu]| conv_relu_stack(x, layers).unwrap_err().to_string();
    let good = layer(2, 3, 4, [3, 3], 2, 1)?;
    let long = ConvRelu { bias: random(3, &[5])?, ..good.clone() };
    for (error, part) in [
        (fails(&random(1, &[2, 3])?, std::slice::from_ref(&good)), "[2, 3]"),
        (fails(&x, &[long]), "expected [4]"),
        (fails(&x, &[good.clone(), good.clone()]), "4 channels"),
        (fails(&x, &[layer(2, 3, 4, [9, 3], 2, 1)?]), "smaller than the kernel"),
        (fails(&x.to_dtype(DType::F32)?, std::slice::from_ref(&good)), "convert one of them"),
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_close("nothing", &conv_relu_stack(&x, &[])?, &x, 0.);
    let none = Var::zeros((0, 3, 4, 4), DType::F64, &Device::Cpu)?;
    let y = conv_relu_stack(&none, &[good])?;
    assert_eq!(y.dims(), [0, 4, 2, 2]);
    y.sum_all()?.backward()?;
    Ok(())
}
