//! Updates of all parameters, and norms of all gradients, in one launch each.
//!
//! Knows the arithmetic's names, and nothing of learning rates' schedules.
use super::launch::{Element, Operand, device, fresh, launch};
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, LaunchConfig};
use candle_core::{DType, Result, Tensor};

/// Elements that a block updates: PART of kernels.cu.
const PART: usize = 4096;
/// Threads of a block; a power of two, for sums by halves.
const THREADS: u32 = 256;
/// Words of a Slot of kernels.cu.
const WORDS: usize = 9;

/// One parameter with what its update needs.
pub(crate) struct Update<'a> {
    pub(crate) parameter: &'a Tensor,
    /// Contiguous.
    pub(crate) gradient: Tensor,
    /// Of SGD with momentum and Adam.
    pub(crate) first: Option<&'a Tensor>,
    /// Of Adam.
    pub(crate) second: Option<&'a Tensor>,
    pub(crate) decay: f64,
    /// Of Adam.
    pub(crate) shrink: f64,
    pub(crate) rate: f64,
    pub(crate) root: f64,
}

/// What is done to every element.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    Sgd {
        lr: f64,
        scale: f64,
        momentum: Option<f64>,
        nesterov: bool,
    },
    Adam {
        scale: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
    },
}

/// Changes the parameters and what the optimizer keeps of them, in place.
pub(crate) fn update(updates: &[Update<'_>], rule: Rule) -> Result<()> {
    for dtype in [DType::F32, DType::F64] {
        let of_type: Vec<&Update<'_>> = updates
            .iter()
            .filter(|update| update.parameter.dtype() == dtype)
            .collect();
        match dtype {
            _ if of_type.is_empty() => (),
            DType::F32 => update_of::<f32>(&of_type, rule)?,
            _ => update_of::<f64>(&of_type, rule)?,
        }
    }
    Ok(())
}

fn update_of<T: Element>(updates: &[&Update<'_>], rule: Rule) -> Result<()> {
    let device = device(updates[0].parameter)?;
    let slots = updates.iter().map(|update| {
        let tensors = [
            Some(update.parameter),
            Some(&update.gradient),
            update.first,
            update.second,
        ];
        let numbers = [update.decay, update.shrink, update.rate, update.root];
        Slot::new::<T>(tensors, numbers)
    });
    let table = Table::new(&device, &slots.collect::<Result<Vec<_>>>()?)?;
    let [slots, starts, count] = table.arguments(&device);
    match rule {
        Rule::Sgd {
            lr,
            scale,
            momentum,
            nesterov,
        } => {
            let (flags, momentum) = (
                [momentum.is_some(), nesterov].map(i32::from),
                momentum.unwrap_or(0.),
            );
            launch!(device, T, "sgd", table.config(), [
                slots, starts, count, lr, scale, momentum, flags[0], flags[1],
            ] => []);
        }
        Rule::Adam {
            scale,
            beta1,
            beta2,
            eps,
        } => {
            launch!(device, T, "adam", table.config(), [slots, starts, count, scale, beta1, beta2, eps] => []);
        }
    }
    Ok(())
}

/// The sum of squares of each gradient, in `f64` in a fixed order. Waits for the device once.
pub(crate) fn square_norms(gradients: &[&Tensor]) -> Result<Vec<f64>> {
    let mut squares = vec![0.; gradients.len()];
    for dtype in [DType::F32, DType::F64] {
        let of_type: Vec<usize> = (0..gradients.len())
            .filter(|i| gradients[*i].dtype() == dtype)
            .collect();
        let of_type_gradients: Vec<&Tensor> = of_type.iter().map(|i| gradients[*i]).collect();
        let sums = match dtype {
            _ if of_type.is_empty() => continue,
            DType::F32 => square_norms_of::<f32>(&of_type_gradients)?,
            _ => square_norms_of::<f64>(&of_type_gradients)?,
        };
        of_type
            .iter()
            .zip(sums)
            .for_each(|(i, sum)| squares[*i] = sum);
    }
    Ok(squares)
}

fn square_norms_of<T: Element>(gradients: &[&Tensor]) -> Result<Vec<f64>> {
    let device = device(gradients[0])?;
    let slots = gradients
        .iter()
        .map(|gradient| Slot::new::<T>([None, Some(gradient), None, None], [0.; 4]));
    let table = Table::new(&device, &slots.collect::<Result<Vec<_>>>()?)?;
    let [slots, starts, count] = table.arguments(&device);
    let mut parts = fresh::<f64>(&device, table.blocks)?;
    launch!(device, T, "squares", table.config(), [slots, starts, count] => [parts]);
    let parts = device.clone_dtoh(&parts)?;
    let of_slot = |i: usize| parts[table.starts[i]..table.starts[i + 1]].iter().sum();
    Ok((0..gradients.len()).map(of_slot).collect())
}

/// A Slot of kernels.cu: four addresses, a length, four numbers.
#[derive(Debug, PartialEq)]
struct Slot([u64; WORDS]);

impl Slot {
    fn new<T: Element>(tensors: [Option<&Tensor>; 4], numbers: [f64; 4]) -> Result<Self> {
        let mut words = [0; WORDS];
        for (word, tensor) in words.iter_mut().zip(tensors) {
            if let Some(tensor) = tensor {
                *word = Operand::new(tensor).at::<T>()?;
            }
        }
        words[4] = tensors
            .iter()
            .flatten()
            .next()
            .map_or(0, |tensor| tensor.elem_count()) as u64;
        words[5..]
            .iter_mut()
            .zip(numbers)
            .for_each(|(word, number)| *word = number.to_bits());
        Ok(Self(words))
    }
}

/// All slots on the device, and after them the first block of each and the number of blocks.
struct Table {
    words: CudaSlice<u64>,
    starts: Vec<usize>,
    blocks: usize,
}

impl Table {
    fn new(device: &CudaDevice, slots: &[Slot]) -> Result<Self> {
        let starts = first_blocks(slots.iter().map(|slot| slot.0[4] as usize));
        let blocks = starts.last().copied().unwrap_or(0);
        let words: Vec<u64> = slots
            .iter()
            .flat_map(|slot| slot.0)
            .chain(starts.iter().map(|start| *start as u64))
            .collect();
        Ok(Self {
            words: device.clone_htod(&words)?,
            starts,
            blocks,
        })
    }

    /// Addresses of the slots and of the first blocks, and how many slots there are.
    fn arguments(&self, device: &CudaDevice) -> [u64; 3] {
        let count = self.starts.len() - 1;
        let slots = self.words.device_ptr(&device.cuda_stream()).0;
        [
            slots,
            slots + (count * WORDS * size_of::<u64>()) as u64,
            count as u64,
        ]
    }

    fn config(&self) -> LaunchConfig {
        LaunchConfig {
            grid_dim: (self.blocks as u32, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        }
    }
}

/// The first block of each of some arrays, and the number of blocks; none has fewer than one.
fn first_blocks(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut starts = vec![0];
    let mut blocks = 0;
    for length in lengths {
        blocks += length.div_ceil(PART).max(1);
        starts.push(blocks);
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_one_block() {
        assert_eq!(
            first_blocks([1, PART, PART + 1, 0, 3 * PART].into_iter()),
            [0, 1, 2, 4, 5, 8]
        );
    }
}
