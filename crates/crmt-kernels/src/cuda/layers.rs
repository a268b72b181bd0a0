//! What lies between convolutions, on images `[batch, height, width, channels]`: bias, sum and ReLU
//! in one pass, normalisation, pooling, MaxMin, each with its gradient.
//!
//! Knows arrays of rows of channels, and nothing of networks.
use super::launch::{
    Element, Made, Operand, at, device, each, each_of_channels, fresh, launch, on_images,
};
use super::node::node;
use crate::RunningStats;
use candle_core::cuda_backend::cudarc::driver::LaunchConfig;
use candle_core::{D, IndexOp, Result, Tensor};

/// Channels of a block of a sum over rows, and rows that it reads side by side: LANES and WAYS of
/// kernels.cu.
const LANES: usize = 32;
const WAYS: usize = 8;
/// Blocks of rows that such a sum has at most, so that the second pass stays short.
const PARTS: usize = 256;

/// `[rows, channels]` of a tensor whose last dimension is its channels.
fn rows_and_channels(x: &Tensor) -> Result<[usize; 2]> {
    let channels = x.dim(D::Minus1)?;
    Ok([x.elem_count() / channels.max(1), channels])
}

/// `relu(x + bias + add)`, the last two and the ReLU where asked for. `bias: [channels]`.
pub(super) fn epilogue(
    x: &Tensor,
    bias: Option<&Tensor>,
    add: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor> {
    if bias.is_none() && add.is_none() && !relu {
        return Ok(x.clone());
    }
    let made =
        on_images!("bias, sum and relu", x.dtype(), T => epilogue_of::<T>(x, bias, add, relu)?);
    let channels = x.dim(D::Minus1)?;
    let bias_tracked = bias.is_some_and(Tensor::track_op);
    let backward = move |y: &Tensor, gradient: &Tensor| {
        let gradient = if relu {
            stop(y, gradient)?
        } else {
            gradient.clone()
        };
        let bias = bias_tracked
            .then(|| column_sums(&gradient, channels))
            .transpose()?;
        Result::Ok((gradient, bias))
    };
    match (bias, add) {
        (None, None) => node("epilogue", [x], made, move |y, g| {
            Ok([Some(backward(y, g)?.0)])
        }),
        (Some(bias), None) => node("epilogue", [x, bias], made, move |y, g| {
            let (gradient, bias) = backward(y, g)?;
            Ok([Some(gradient), bias])
        }),
        (None, Some(add)) => node("epilogue", [x, add], made, move |y, g| {
            let (gradient, _) = backward(y, g)?;
            Ok([Some(gradient.clone()), Some(gradient)])
        }),
        (Some(bias), Some(add)) => node("epilogue", [x, bias, add], made, move |y, g| {
            let (gradient, bias) = backward(y, g)?;
            Ok([Some(gradient.clone()), bias, Some(gradient)])
        }),
    }
}

fn epilogue_of<T: Element>(
    x: &Tensor,
    bias: Option<&Tensor>,
    add: Option<&Tensor>,
    relu: bool,
) -> Result<Made> {
    let (device, [_, channels], count) = (device(x)?, rows_and_channels(x)?, x.elem_count());
    let mut y = fresh::<T>(&device, count)?;
    if count > 0 {
        let (xs, biases, adds) = (
            Operand::new(x),
            bias.map(Operand::new),
            add.map(Operand::new),
        );
        let [has_bias, has_add, relu] = [bias.is_some(), add.is_some(), relu].map(i32::from);
        let (bias, add) = (at::<T::Sum>(biases.as_ref())?, at::<T>(adds.as_ref())?);
        launch!(device, T, "epilogue", each_of_channels(count, channels), [
            count as u64, channels as u64, has_bias, has_add, relu, xs.at::<T>()?, bias, add,
        ] => [y]);
    }
    Ok(Made::new(y, x.shape(), &device))
}

/// `gradient` where `y > 0` (or NaN), else 0.
fn stop(y: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let (device, count) = (device(y)?, y.elem_count());
    let (ys, gradients) = (Operand::new(y), Operand::new(gradient));
    on_images!("relu", y.dtype(), T => {
        let mut result = fresh::<T>(&device, count)?;
        if count > 0 {
            launch!(device, T, "stop", each(count), [count as u64, ys.at::<T>()?, gradients.at::<T>()?] => [result]);
        }
        Ok(Made::new(result, y.shape(), &device).tensor())
    })
}

/// The two passes of a sum over rows: how many rows a block takes, and the launch of the first.
fn parts([rows, channels]: [usize; 2]) -> (usize, usize, LaunchConfig) {
    let rows_of_block = rows.div_ceil(PARTS).max(4 * WAYS);
    let blocks = rows.div_ceil(rows_of_block).max(1);
    let grid_dim = (channels.div_ceil(LANES) as u32, blocks as u32, 1);
    (
        rows_of_block,
        blocks,
        LaunchConfig {
            grid_dim,
            block_dim: (LANES as u32, WAYS as u32, 1),
            shared_mem_bytes: 0,
        },
    )
}

/// Mean and biased variance of each channel, `[2, channels]`.
fn moments(x: &Tensor) -> Result<Tensor> {
    let (device, size @ [rows, channels]) = (device(x)?, rows_and_channels(x)?);
    let (rows_of_block, blocks, config) = parts(size);
    let xs = Operand::new(x);
    on_images!("batch_norm", x.dtype(), T => {
        let mut sums = fresh::<f64>(&device, blocks * 2 * channels)?;
        let x = xs.at::<T>()?;
        launch!(device, T, "moments_parts", config, [rows as u64, channels as u64, rows_of_block as u64, x] => [sums]);
        let mut moments = fresh::<<T as Element>::Sum>(&device, 2 * channels)?;
        launch!(device, T, "moments_total", each(channels), [rows as u64, channels as u64, blocks as u64, x] => [sums, moments]);
        Ok(Made::new(moments, (2, channels), &device).tensor())
    })
}

/// What a normalisation has besides its parameters.
#[derive(Clone)]
struct Normal {
    /// Mean and variance, `[2, channels]`.
    moments: Tensor,
    /// Whether these do not depend on the input.
    constant: bool,
    eps: f64,
    relu: bool,
}

/// `Σ g·x̂` and `Σ g` of each channel, `[2, channels]`, of the gradient that the ReLU (whose result
/// is `y`) let pass; without `normal` only the latter.
fn gradient_sums(
    gradient: &Tensor,
    y: &Tensor,
    x: &Tensor,
    normal: Option<&Normal>,
) -> Result<Tensor> {
    let (device, size @ [rows, channels]) = (device(gradient)?, rows_and_channels(gradient)?);
    let (rows_of_block, blocks, config) = parts(size);
    let [gs, ys, xs] = [gradient, y, x].map(Operand::new);
    let moments = normal.map(|normal| Operand::new(&normal.moments));
    let relu = i32::from(normal.is_some_and(|normal| normal.relu));
    on_images!("a sum over rows", gradient.dtype(), T => {
        type Sum<T> = <T as Element>::Sum;
        let mut sums = fresh::<f64>(&device, blocks * 2 * channels)?;
        launch!(device, T, "gradient_parts", config, [
            rows as u64, channels as u64, rows_of_block as u64, relu, i32::from(normal.is_some()),
            normal.map_or(0., |normal| normal.eps), gs.at::<T>()?, ys.at::<T>()?, xs.at::<T>()?, at::<Sum<T>>(moments.as_ref())?,
        ] => [sums]);
        let mut totals = fresh::<Sum<T>>(&device, 2 * channels)?;
        launch!(device, T, "gradient_total", each(2 * channels), [channels as u64, blocks as u64] => [sums, totals]);
        Ok(Made::new(totals, (2, channels), &device).tensor())
    })
}

/// `Σ gradient` over all rows: `[channels]`.
fn column_sums(gradient: &Tensor, channels: usize) -> Result<Tensor> {
    gradient_sums(gradient, gradient, gradient, None)?
        .narrow(0, 1, 1)?
        .reshape(channels)
}

/// `relu(normalised x + add)`, the last two where asked for: with the batch's moments, which also
/// move `running`, if there is a `momentum`, and with the running ones if there is none.
#[expect(
    clippy::too_many_arguments,
    reason = "what a normalisation has and what follows it"
)]
pub(super) fn batch_norm(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running: &RunningStats,
    momentum: Option<f64>,
    eps: f64,
    add: Option<&Tensor>,
    relu: bool,
) -> Result<Tensor> {
    let moments = match momentum {
        Some(momentum) => {
            let batch = moments(x)?;
            move_towards(running, &batch, rows_and_channels(x)?[0], momentum)?;
            batch
        }
        None => Tensor::stack(
            &[
                running.mean.as_detached_tensor(),
                running.variance.as_detached_tensor(),
            ],
            0,
        )?,
    };
    let normal = Normal {
        moments,
        constant: momentum.is_none(),
        eps,
        relu,
    };
    let parameters = Tensor::stack(&[gamma, beta], 0)?;
    let made =
        on_images!("batch_norm", x.dtype(), T => normalise::<T>(x, &parameters, &normal, add)?);
    let (operand, fixed) = (x.clone(), parameters.clone());
    let backward = move |y: &Tensor, gradient: &Tensor| {
        let of_parameters = fixed.track_op();
        let sums = match of_parameters || !normal.constant {
            true => Some(gradient_sums(gradient, y, &operand, Some(&normal))?),
            false => None,
        };
        let dx = operand
            .track_op()
            .then(|| normalise_backward(gradient, y, &operand, &fixed, &normal, sums.as_ref()));
        Result::Ok([dx.transpose()?, sums.filter(|_| of_parameters)])
    };
    match add {
        None => node("batch-norm", [x, &parameters], made, backward),
        Some(add) => {
            let tracked = add.track_op();
            node(
                "batch-norm",
                [x, &parameters, add],
                made,
                move |y, gradient| {
                    let [dx, parameters] = backward(y, gradient)?;
                    let passed = if relu {
                        stop(y, gradient)
                    } else {
                        Ok(gradient.clone())
                    };
                    Ok([dx, parameters, tracked.then_some(passed).transpose()?])
                },
            )
        }
    }
}

/// `running ← (1 − momentum)·running + momentum·batch`, with the unbiased variance, without waiting
/// for the device.
fn move_towards(running: &RunningStats, batch: &Tensor, rows: usize, momentum: f64) -> Result<()> {
    let unbias = rows as f64 / (rows as f64 - 1.);
    for (i, (running, factor)) in [(&running.mean, 1.), (&running.variance, unbias)]
        .into_iter()
        .enumerate()
    {
        let batch = (batch.i(i)? * (momentum * factor))?;
        running.set(&((running.as_detached_tensor() * (1. - momentum))? + batch)?)?;
    }
    Ok(())
}

fn normalise<T: Element>(
    x: &Tensor,
    parameters: &Tensor,
    normal: &Normal,
    add: Option<&Tensor>,
) -> Result<Made> {
    let (device, [_, channels], count) = (device(x)?, rows_and_channels(x)?, x.elem_count());
    let mut y = fresh::<T>(&device, count)?;
    if count > 0 {
        let [xs, moments, parameters] = [x, &normal.moments, parameters].map(Operand::new);
        let adds = add.map(Operand::new);
        launch!(device, T, "normalise", each_of_channels(count, channels), [
            count as u64, channels as u64, i32::from(add.is_some()), i32::from(normal.relu), normal.eps, xs.at::<T>()?,
            moments.at::<T::Sum>()?, parameters.at::<T::Sum>()?, at::<T>(adds.as_ref())?,
        ] => [y]);
    }
    Ok(Made::new(y, x.shape(), &device))
}

fn normalise_backward(
    gradient: &Tensor,
    y: &Tensor,
    x: &Tensor,
    parameters: &Tensor,
    normal: &Normal,
    sums: Option<&Tensor>,
) -> Result<Tensor> {
    let (device, [_, channels], count) = (device(x)?, rows_and_channels(x)?, x.elem_count());
    let [gs, ys, xs, moments, parameters] =
        [gradient, y, x, &normal.moments, parameters].map(Operand::new);
    let sums = sums.map(Operand::new);
    on_images!("batch_norm", x.dtype(), T => {
        type Sum<T> = <T as Element>::Sum;
        let mut dx = fresh::<T>(&device, count)?;
        if count > 0 {
            launch!(device, T, "normalise_backward", each_of_channels(count, channels), [
                count as u64, channels as u64, i32::from(normal.relu), i32::from(normal.constant), normal.eps,
                gs.at::<T>()?, ys.at::<T>()?, xs.at::<T>()?, moments.at::<Sum<T>>()?, parameters.at::<Sum<T>>()?,
                at::<Sum<T>>(sums.as_ref())?,
            ] => [dx]);
        }
        Ok(Made::new(dx, x.shape(), &device).tensor())
    })
}

/// Square windows over images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    pub(super) size: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

/// Maximum over windows; on a tie the first element gets the gradient.
pub(super) fn max_pool(x: &Tensor, windows: Windows) -> Result<Tensor> {
    let (device, (batch, h, w, channels)) = (device(x)?, x.dims4()?);
    let Windows {
        size,
        stride,
        padding,
    } = windows;
    let [oh, ow] = [h, w].map(|length| (length + 2 * padding - size) / stride + 1);
    let count = batch * oh * ow * channels;
    let sizes = [channels, h, w, oh, ow].map(|v| v as u64);
    let windows = [size, stride, padding].map(|v| v as i32);
    let mut places = fresh::<u32>(&device, count)?;
    let made = on_images!("max_pool2d", x.dtype(), T => {
        let (xs, mut y) = (Operand::new(x), fresh::<T>(&device, count)?);
        if count > 0 {
            launch!(device, T, "max_pool", each(count), [
                count as u64, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], windows[0], windows[1], windows[2], xs.at::<T>()?,
            ] => [y, places]);
        }
        Made::new(y, (batch, oh, ow, channels), &device)
    });
    let places = Made::new(places, count, &device).tensor();
    node("max-pool2d", [x], made, move |_, gradient| {
        let (gs, places) = (Operand::new(gradient), Operand::new(&places));
        let count = batch * h * w * channels;
        let dx = on_images!("max_pool2d", gradient.dtype(), T => {
            let mut dx = fresh::<T>(&device, count)?;
            if count > 0 {
                launch!(device, T, "max_pool_backward", each(count), [
                    count as u64, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], windows[0], windows[1], windows[2],
                    gs.at::<T>()?, places.at::<u32>()?,
                ] => [dx]);
            }
            Made::new(dx, (batch, h, w, channels), &device).tensor()
        });
        Ok([Some(dx)])
    })
}

/// `x`, of which each run of `2·half` elements is the first and the second of `half` pairs, with
/// the maximum of each pair in the first place and the minimum in the second.
pub(super) fn max_min(x: &Tensor, half: usize) -> Result<Tensor> {
    let (device, pairs) = (device(x)?, x.elem_count() / 2);
    let made = on_images!("max_min", x.dtype(), T => {
        let (xs, mut y) = (Operand::new(x), fresh::<T>(&device, 2 * pairs)?);
        if pairs > 0 {
            launch!(device, T, "max_min", each(pairs), [pairs as u64, half as u64, xs.at::<T>()?] => [y]);
        }
        Made::new(y, x.shape(), &device)
    });
    let operand = x.clone();
    node("max-min", [x], made, move |_, gradient| {
        let (xs, gs) = (Operand::new(&operand), Operand::new(gradient));
        let dx = on_images!("max_min", gradient.dtype(), T => {
            let mut dx = fresh::<T>(&device, 2 * pairs)?;
            if pairs > 0 {
                launch!(device, T, "max_min_backward", each(pairs), [
                    pairs as u64, half as u64, xs.at::<T>()?, gs.at::<T>()?,
                ] => [dx]);
            }
            Made::new(dx, operand.shape(), &device).tensor()
        });
        Ok([Some(dx)])
    })
}
