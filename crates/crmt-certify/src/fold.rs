//! Layers next to each other as one: a diagonal and what it scales, the identity and a linear
//! branch. Does not know bounds.
use crate::{
    AuditError,
    exact::{exact, tensor},
    layout::{Layout, is_flatten},
};
use candle_core::{DType, Device, Tensor};
use crmt_core::Layer;

/// The first layer with the diagonals next to it folded in, and how many layers that takes. No
/// layer is a shift.
pub(crate) fn fold_first(layers: &[Layer], from: Layout) -> Result<(Layer, usize), AuditError> {
    let (mut layer, mut used, mut layout) = (layers[0].clone(), 1, from);
    while let Some(next) = layers.get(used) {
        // A diagonal acts on channels, so flattening after it repeats each entry: known where
        // channels come first.
        let flattened = matches!(layer, Layer::Diagonal { .. }) && is_flatten(next);
        let (next, skipped) = match layers.get(used + 1) {
            Some(linear @ Layer::Linear { .. }) if flattened && layout.is_image() => (linear, 2),
            _ => (next, 1),
        };
        // A linear layer acts on the last axis, which is the diagonal's only of vectors.
        let linear = |layer: &Layer| matches!(layer, Layer::Linear { .. });
        let other_axis = skipped == 1 && (linear(&layer) || linear(next)) && !layout.is_vector();
        let folded = if other_axis {
            None
        } else {
            fold(&layer, next)?
        };
        let Some(folded) = folded else { break };
        layout = if skipped == 2 {
            Layout::any_vector()
        } else {
            layout
        };
        (layer, used) = (folded, used + skipped);
    }
    Ok((layer, used))
}

/// `second` after `first` as one layer, if one of them is a diagonal that fits the other.
fn fold(first: &Layer, second: &Layer) -> Result<Option<Layer>, AuditError> {
    // Along the outputs (axis 0 of the weights) for a diagonal that comes second, along the inputs
    // (1) else.
    let (diagonal, scale, other, axis) = match (first, second) {
        (_, Layer::Diagonal { name, scale }) => (name, scale, first, 0),
        (Layer::Diagonal { name, scale }, _) => (name, scale, second, 1),
        _ => return Ok(None),
    };
    let scaled = |name: &String, weight: &Tensor| -> Result<Option<(String, Tensor)>, AuditError> {
        let (Ok(size), Ok(channels)) = (weight.dim(axis), scale.dims1()) else {
            return Ok(None);
        };
        let linear = weight.rank() == 2 && axis == 1;
        if channels == 0 || !(size == channels || (linear && size % channels == 0)) {
            return Ok(None);
        }
        let repeat = |s: Tensor| s.unsqueeze(1)?.repeat((1, size / channels))?.flatten_all();
        let mut shape = vec![1; weight.rank()];
        shape[axis] = size;
        let scale = repeat(exact(diagonal, scale)?)
            .and_then(|s| s.reshape(shape))
            .map_err(tensor(diagonal))?;
        let weight = exact(name, weight)?
            .broadcast_mul(&scale)
            .map_err(tensor(name))?;
        Ok(Some((format!("{name} * {diagonal}"), weight)))
    };
    Ok(match other {
        Layer::Linear { name, weight } => {
            scaled(name, weight)?.map(|(name, weight)| Layer::Linear { name, weight })
        }
        Layer::Conv2d {
            name,
            kernel,
            stride,
            padding,
        } => scaled(name, kernel)?.map(|(name, kernel)| Layer::Conv2d {
            name,
            kernel,
            stride: *stride,
            padding: *padding,
        }),
        _ => None,
    })
}

/// `I + branch` as one layer, where the branch is one linear map that keeps the shape.
pub(crate) fn with_identity(branch: &[Layer], from: Layout) -> Result<Option<Layer>, AuditError> {
    let bare: Vec<Layer> = branch
        .iter()
        .filter(|layer| !matches!(layer, Layer::Shift { .. }))
        .cloned()
        .collect();
    if bare.is_empty() {
        return Ok(None);
    }
    let (layer, used) = fold_first(&bare, from)?;
    if used < bare.len() {
        return Ok(None);
    }
    let eye = |n: usize| Tensor::eye(n, DType::F64, &Device::Cpu);
    Ok(match layer {
        Layer::Linear { name, weight } => match weight.dims() {
            [out, inp] if out == inp && *out > 0 => {
                let weight = eye(*out)
                    .and_then(|i| exact_sum(&weight, i))
                    .map_err(tensor(&name))?;
                Some(Layer::Linear { name, weight })
            }
            _ => None,
        },
        Layer::Conv2d {
            name,
            kernel,
            stride: 1,
            padding,
        } => match *kernel.dims() {
            [out, inp, h, w] if out == inp && out > 0 && h == 2 * padding + 1 && w == h => {
                let tap = eye(out).and_then(|i| {
                    let tap = i.reshape((out, out, 1, 1))?;
                    exact_sum(
                        &kernel,
                        tap.pad_with_zeros(2, padding, padding)?
                            .pad_with_zeros(3, padding, padding)?,
                    )
                });
                Some(Layer::Conv2d {
                    kernel: tap.map_err(tensor(&name))?,
                    name,
                    stride: 1,
                    padding,
                })
            }
            _ => None,
        },
        _ => None,
    })
}

/// The sum in `f64`: each entry rounds once, which the few ulps added to every bound cover.
fn exact_sum(weight: &Tensor, identity: Tensor) -> candle_core::Result<Tensor> {
    weight.to_device(&Device::Cpu)?.to_dtype(DType::F64)? + identity
}
