//! What the convolutions cost a plain direct implementation, by arithmetic alone. Does not know
//! ours, which may skip some of it (padding, say) and may need more memory.
use crate::subject::channels;
use crate::{Architecture, Options, work};
use crmt_core::{Modality, PerModality};

/// Of one repetition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Two for each multiplication of a window's element, padding included, with a weight.
    pub flops: u64,
    /// Each of the three tensors that a pass of a convolution takes or gives, read or written once,
    /// in `f32`.
    pub bytes: u64,
}

/// `None` for architectures that are not counted.
pub fn of(options: &Options, modalities: &PerModality<Modality>) -> Option<Cost> {
    if options.model != Architecture::Cnn {
        return None;
    }
    let mut cost = Cost::default();
    for modality in modalities {
        let &[input, mut height, mut width] = &modality.shape[..] else {
            return None;
        };
        for (i, pair) in channels(input, options.width.get()).windows(2).enumerate() {
            let before = pair[0] * height * width;
            (height, width) = (height.div_ceil(2), width.div_ceil(2));
            let (after, kernel) = (pair[1] * height * width, pair[0] * pair[1] * 9);
            let (batch, passes) = (options.batch.get(), work::passes(options, i == 0));
            cost.flops += (2 * batch * kernel * height * width * passes) as u64;
            cost.bytes += (4 * (batch * (before + after) + kernel) * passes) as u64;
        }
    }
    Some(cost)
}
