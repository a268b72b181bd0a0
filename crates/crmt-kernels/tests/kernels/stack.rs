//! The image layers that are computed together, against the same layers one by one.
use crate::common::{assert_close, check_gradients, distinct, gradients, random};
use candle_core::{DType, Device, Result, Tensor, Var};
use crmt_kernels::*;
use proptest::prelude::*;

/// The layers of `together`, one by one. `t`: the image, then the parameters.
fn apart(t: &[Tensor], block: usize) -> Result<Tensor> {
    let padding = |kernel: &Tensor| kernel.dims()[3] / 2;
    let y = conv2d(
        &space_to_depth(&t[0], block)?,
        &t[1],
        Some(&t[2]),
        1,
        padding(&t[1]),
    )?;
    let y = residual_conv2d(&max_min(&y)?, &t[3], &t[4], &t[5])?;
    let y = max_min(&space_to_depth(&max_min(&y)?, block)?)?;
    let y = residual_conv2d(
        &conv2d(&y, &t[6], Some(&t[7]), 1, padding(&t[6]))?,
        &t[3],
        &t[4],
        &t[5],
    )?;
    space_to_depth(&y, 1)
}

fn together(t: &[Tensor], block: usize) -> Result<Tensor> {
    use ImageLayer::*;
    let conv = |i: usize| Conv2d {
        kernel: t[i].clone(),
        bias: t[i + 1].clone(),
    };
    let residual = ResidualConv2d {
        kernel: t[3].clone(),
        bias: t[4].clone(),
        scale: t[5].clone(),
    };
    let fold = SpaceToDepth { block };
    let layers = [
        fold.clone(),
        conv(1),
        MaxMin,
        residual.clone(),
        MaxMin,
        fold,
        MaxMin,
        conv(6),
        residual,
        SpaceToDepth { block: 1 },
    ];
    image_stack(&t[0], &layers)
}

fn inputs(
    [b, c, h, w]: [usize; 4],
    half: usize,
    block: usize,
    sizes: [usize; 3],
    seed: u64,
) -> Result<Vec<Tensor>> {
    let (c1, deep) = (2 * half, 2 * half * block * block);
    Ok(vec![
        distinct(seed, &[b, c, h * block * block, w * block * block])?,
        random(!seed, &[c1, c * block * block, sizes[0], sizes[0]])?,
        random(seed ^ 1, &[c1])?,
        random(seed ^ 2, &[3, c1, sizes[1], sizes[1]])?,
        random(seed ^ 3, &[3])?,
        random(seed ^ 4, &[3])?.affine(0.5, 0.75)?,
        random(seed ^ 5, &[c1, deep, sizes[2], sizes[2]])?,
        random(seed ^ 6, &[c1])?,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn as_one_by_one(b in 1usize..=9, c in 1usize..=3, h in 1usize..=4, w in 1usize..=4, half in 1usize..=5, block in 1usize..=2,
                     sizes: [bool; 3], seed: u64) {
        let inputs = inputs([b, c, h, w], half, block, sizes.map(|large| if large { 3 } else { 1 }), seed)?;
        let one = gradients(&inputs, &|t| apart(t, block), seed)?;
        let all = gradients(&inputs, &|t| together(t, block), seed)?;
        // Sums of some hundred f64 terms in another order, through four layers.
        assert_close("value", &all.0, &one.0, 1e-12);
        for (a, b) in all.2.iter().zip(&one.2) {
            assert_close("gradient", a, b, 1e-11);
        }
    }
}

/// Biases that keep every ReLU on one side, and distances between halves that no step closes.
#[test]
fn differences() -> Result<()> {
    let scale = Tensor::new(&[0.3f64, 0.2, 0.4], &Device::Cpu)?;
    let bias = Tensor::new(&[30f64, -30., 30.], &Device::Cpu)?;
    let inputs = [
        distinct(1, &[2, 2, 4, 6])?,
        random(2, &[4, 8, 3, 3])?,
        random(3, &[4])?,
        random(4, &[3, 4, 3, 3])?,
        bias,
        scale,
    ];
    let f = |t: &[Tensor]| {
        let conv = ImageLayer::Conv2d {
            kernel: t[1].clone(),
            bias: t[2].clone(),
        };
        let residual = ImageLayer::ResidualConv2d {
            kernel: t[3].clone(),
            bias: t[4].clone(),
            scale: t[5].clone(),
        };
        image_stack(
            &t[0],
            &[
                ImageLayer::MaxMin,
                ImageLayer::SpaceToDepth { block: 2 },
                conv,
                residual,
            ],
        )
    };
    check_gradients(&inputs, &f, 5)
}

#[test]
fn ties_share_the_gradient() -> Result<()> {
    let x = Var::ones((1, 2, 1, 1), DType::F64, &Device::Cpu)?;
    let weight = Tensor::new(&[1f64, 3.], &Device::Cpu)?.reshape((1, 2, 1, 1))?;
    let y = image_stack(&x, &[ImageLayer::MaxMin])?;
    let grads = (y * weight)?.sum_all()?.backward()?;
    assert_eq!(
        grads
            .get(&x)
            .expect("tracked")
            .flatten_all()?
            .to_vec1::<f64>()?,
        [2., 2.]
    );
    Ok(())
}

/// Buffers are reused: what an earlier, larger pass left in them must not matter.
#[test]
fn single_precision_twice() -> Result<()> {
    let inputs = inputs([70, 3, 5, 4], 4, 2, [3, 3, 3], 7)?;
    let halved = inputs
        .iter()
        .map(|t| t.to_dtype(DType::F32))
        .collect::<Result<Vec<_>>>()?;
    let smaller: Vec<_> = [halved[0].narrow(0, 3, 33)?]
        .into_iter()
        .chain(halved[1..].iter().cloned())
        .collect();
    let first = gradients(&halved, &|t| together(t, 2), 8)?;
    let before = gradients(&smaller, &|t| together(t, 2), 8)?;
    let again = gradients(&halved, &|t| together(t, 2), 8)?;
    let exact = gradients(&inputs, &|t| apart(t, 2), 8)?;
    // Sums of up to 10⁵ terms in f32, relative to the largest.
    assert_close("value", &first.0, &exact.0, 1e-5);
    assert_close("value", &before.0, &exact.0.narrow(0, 3, 33)?, 1e-5);
    for ((a, b), c) in first.2.iter().zip(&again.2).zip(&exact.2) {
        assert_close("again", a, b, 0.);
        assert_close("gradient", a, c, 1e-4);
    }
    Ok(())
}

#[test]
fn frozen_arguments_get_no_gradient() -> Result<()> {
    let t = inputs([3, 2, 2, 2], 2, 2, [3, 1, 3], 9)?;
    let all = gradients(&t, &|t| together(t, 2), 10)?;
    let weight = random(10, all.0.dims())?;
    let image = Var::from_tensor(&t[0])?;
    let frozen: Vec<_> = [image.as_tensor().clone()]
        .into_iter()
        .chain(t[1..].iter().cloned())
        .collect();
    let grads = (together(&frozen, 2)? * &weight)?.sum_all()?.backward()?;
    assert!(grads.get(&t[1]).is_none());
    assert_close("image", grads.get(&image).expect("tracked"), &all.2[0], 0.);
    let kernel = Var::from_tensor(&t[1])?;
    let mut fixed = t.clone();
    fixed[1] = kernel.as_tensor().clone();
    let grads = (together(&fixed, 2)? * &weight)?.sum_all()?.backward()?;
    assert!(grads.get(&t[0]).is_none());
    assert_close(
        "kernel",
        grads.get(&kernel).expect("tracked"),
        &all.2[1],
        0.,
    );
    Ok(())
}

#[test]
fn limits() -> Result<()> {
    let x = random(1, &[2, 3, 4, 4])?;
    let image = |shape: &[usize]| random(1, shape);
    let conv = |shape: &[usize], bias: usize| -> Result<_> {
        Ok(ImageLayer::Conv2d {
            kernel: random(2, shape)?,
            bias: random(3, &[bias])?,
        })
    };
    let fails = |x: &Tensor, layer: ImageLayer| image_stack(x, &[layer]).unwrap_err().to_string();
    for (error, part) in [
        (fails(&image(&[2, 3])?, ImageLayer::MaxMin), "[2, 3]"),
        (
            fails(&x, ImageLayer::MaxMin),
            "even number of channels, got 3",
        ),
        (
            fails(&x, ImageLayer::SpaceToDepth { block: 3 }),
            "blocks of 3",
        ),
        (
            fails(&x, ImageLayer::SpaceToDepth { block: 0 }),
            "blocks of 0",
        ),
        (fails(&x, conv(&[4, 2, 3, 3], 4)?), "[out, 3, k, k]"),
        (fails(&x, conv(&[4, 3, 2, 2], 4)?), "odd k"),
        (fails(&x, conv(&[4, 3, 3, 3], 5)?), "expected [4]"),
        (fails(&image(&[2, 0, 4, 4])?, ImageLayer::MaxMin), "empty"),
        (
            fails(&x.to_dtype(DType::F32)?, conv(&[4, 3, 3, 3], 4)?),
            "convert one of them",
        ),
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_close("nothing", &image_stack(&x, &[])?, &x, 0.);
    let none = Var::zeros((0, 3, 4, 4), DType::F64, &Device::Cpu)?;
    let y = image_stack(&none, &[conv(&[4, 3, 3, 3], 4)?])?;
    assert_eq!(y.dims(), [0, 4, 4, 4]);
    y.sum_all()?.backward()?;
    Ok(())
}
