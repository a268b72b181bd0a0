//! Convolutions of images `[batch, height, width, channels]` with kernels `[out, kh, kw, in]`:
//! forward, the gradient of the images and that of the kernel, each computed only where somebody
//! asks.
//!
//! By cuDNN where the program has it and it serves the shape, else as products of matrices of
//! patches. Knows nothing of layers.
use super::launch::{Made, Operand, device, each, fresh, launch, on_images};
use super::node::node;
use crate::conv::geometry::Geometry;
use candle_core::{Result, Tensor};

/// `y[n, i, j, o] = Σ kernel[o, u, v, c] · x[n, i·stride + u − padding, j·stride + v − padding, c]`.
pub(super) fn convolution(x: &Tensor, kernel: &Tensor, g: Geometry) -> Result<Tensor> {
    let made = forward(x, kernel, &g)?;
    let (images, weights) = (x.clone(), kernel.clone());
    node("convolution", [x, kernel], made, move |_, gradient| {
        let dx = images
            .track_op()
            .then(|| of_images(gradient, &weights, &g).map(Made::tensor))
            .transpose()?;
        let dk = weights
            .track_op()
            .then(|| of_kernel(&images, gradient, &g).map(Made::tensor))
            .transpose()?;
        Ok([dx, dk])
    })
}

/// The adjoint of [`convolution`]: from results to images.
pub(super) fn adjoint(y: &Tensor, kernel: &Tensor, g: Geometry) -> Result<Tensor> {
    let made = of_images(y, kernel, &g)?;
    let (results, weights) = (y.clone(), kernel.clone());
    node(
        "convolution-adjoint",
        [y, kernel],
        made,
        move |_, gradient| {
            let dy = results
                .track_op()
                .then(|| forward(gradient, &weights, &g).map(Made::tensor))
                .transpose()?;
            let dk = weights
                .track_op()
                .then(|| of_kernel(gradient, &results, &g).map(Made::tensor))
                .transpose()?;
            Ok([dy, dk])
        },
    )
}

fn forward(x: &Tensor, kernel: &Tensor, g: &Geometry) -> Result<Made> {
    #[cfg(feature = "cudnn")]
    if let Some(made) = super::cudnn::forward(x, kernel, g)? {
        return Ok(made);
    }
    let y = patches(x, g)?.matmul(&kernel.reshape((g.co, patch(g)))?.t()?)?;
    taken(y, (g.b, g.oh, g.ow, g.co))
}

/// The gradient of the images for that of the results.
fn of_images(dy: &Tensor, kernel: &Tensor, g: &Geometry) -> Result<Made> {
    #[cfg(feature = "cudnn")]
    if let Some(made) = super::cudnn::of_images(dy, kernel, g)? {
        return Ok(made);
    }
    let columns = dy
        .detach()
        .reshape((results(g), g.co))?
        .matmul(&kernel.detach().reshape((g.co, patch(g)))?)?;
    let (device, count) = (device(dy)?, g.b * g.h * g.w * g.ci);
    let columns = Operand::new(&columns);
    on_images!("a convolution", dy.dtype(), T => {
        let mut dx = fresh::<T>(&device, count)?;
        if count > 0 {
            let [sizes, taps] = arguments(g);
            launch!(device, T, "patches_adjoint", each(count), [
                count as u64, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], taps[0] as i32, taps[1] as i32,
                taps[2] as i32, taps[3] as i32, columns.at::<T>()?,
            ] => [dx]);
        }
        Ok(Made::new(dx, (g.b, g.h, g.w, g.ci), &device))
    })
}

/// The gradient of the kernel for that of the results.
fn of_kernel(x: &Tensor, dy: &Tensor, g: &Geometry) -> Result<Made> {
    #[cfg(feature = "cudnn")]
    if let Some(made) = super::cudnn::of_kernel(x, dy, g)? {
        return Ok(made);
    }
    let dk = dy
        .detach()
        .reshape((results(g), g.co))?
        .t()?
        .matmul(&patches(x, g)?)?;
    taken(dk, (g.co, g.kh, g.kw, g.ci))
}

/// Pixels of all results.
fn results(g: &Geometry) -> usize {
    g.b * g.oh * g.ow
}

/// Elements of a patch.
fn patch(g: &Geometry) -> usize {
    g.kh * g.kw * g.ci
}

/// Sizes as the patch kernels take them: channels, h, w, oh, ow; kh, kw, stride, padding.
fn arguments(g: &Geometry) -> [[u64; 5]; 2] {
    [
        [g.ci, g.h, g.w, g.oh, g.ow],
        [g.kh, g.kw, g.stride, g.padding, 0],
    ]
    .map(|sizes| sizes.map(|size| size as u64))
}

/// What each result sees of the images: `[results, patch]`.
fn patches(x: &Tensor, g: &Geometry) -> Result<Tensor> {
    let (device, count) = (device(x)?, results(g) * patch(g));
    let xs = Operand::new(x);
    on_images!("a convolution", x.dtype(), T => {
        let mut columns = fresh::<T>(&device, count)?;
        if count > 0 {
            let [sizes, taps] = arguments(g);
            launch!(device, T, "patches", each(count), [
                count as u64, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], taps[0] as i32, taps[1] as i32,
                taps[2] as i32, taps[3] as i32, xs.at::<T>()?,
            ] => [columns]);
        }
        Ok(Made::new(columns, (results(g), patch(g)), &device).tensor())
    })
}

/// A product's elements, in memory of their own, as a result of another shape.
fn taken(product: Tensor, shape: (usize, usize, usize, usize)) -> Result<Made> {
    let device = device(&product)?;
    let operand = Operand::new(&product);
    on_images!("a convolution", product.dtype(), T => Ok(Made::new(operand.copy::<T>()?, shape, &device)))
}
