//! Convolutions of channels-last images without a copy of their windows: sums of a few pixels at a
//! time are gathered from where the elements lie.
//!
//! Knows weights and classes of pixels, and nothing of what is done with a sum.
use super::geometry::Geometry;
use super::taps::Class;
use crate::real::{Kept, Real};
use rayon::prelude::*;
use std::ops::Range;

/// Most elements that [`Tile::sum`](super::tile::Tile::sum) computes at a time: 8 pixels of two
/// vectors of 64 bytes.
const SUMS: usize = 8 * 2 * 16;

/// A kernel, arranged in blocks of result channels: `[block, kh, kw, depth, vectors · lanes]`,
/// where a block has two vectors of channels, the last perhaps one; past the last channel are
/// zeros.
pub(crate) struct Weights<T: Real> {
    channels: usize,
    /// Of one channel: `kh · kw · depth`.
    of_channel: usize,
    values: Kept<T>,
}

impl<T: Real> Weights<T> {
    /// Of the convolution with `kernel: [co, ci, kh, kw]`.
    pub fn forward(g: &Geometry, kernel: &[T]) -> Self {
        Self::new(g.co, [g.ci, g.taps()], kernel, |channel, k| {
            channel * g.ci + k
        })
    }

    /// Of its adjoint.
    pub fn adjoint(g: &Geometry, kernel: &[T]) -> Self {
        Self::new(g.ci, [g.co, g.taps()], kernel, |channel, k| {
            k * g.ci + channel
        })
    }

    /// Of the windows `[kh, kw, ci]` that the adjoint adds up, from one pixel each.
    pub fn windows(g: &Geometry, kernel: &[T]) -> Self {
        let taps = g.taps();
        Self::new(taps * g.ci, [g.co, 1], kernel, |channel, k| {
            (k * g.ci + channel % g.ci) * taps + channel / g.ci
        })
    }

    /// The weights `[kh, kw, depth, width]` of each block, if the channels fill all blocks of this
    /// width.
    pub fn blocks_of(&self, width: usize) -> impl Iterator<Item = &[T]> {
        self.values.all().chunks_exact(self.of_channel * width)
    }

    /// Blocks of channels.
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(2 * T::tile().lanes)
    }

    /// `from(channel, k)`: which taps of the kernel lead from channel `k` of the source to
    /// `channel` of the result.
    fn new(
        channels: usize,
        [depth, taps]: [usize; 2],
        kernel: &[T],
        from: impl Fn(usize, usize) -> usize + Sync,
    ) -> Self {
        let lanes = T::tile().lanes;
        let of_channel = taps * depth;
        let mut kept = Kept::new();
        let values = kept.of(channels.div_ceil(lanes) * lanes * of_channel);
        values
            .par_chunks_mut(2 * lanes * of_channel)
            .enumerate()
            .for_each(|(i, values)| {
                let width = values.len() / of_channel;
                let block = 2 * lanes * i..channels.min(2 * lanes * i + width);
                if block.len() < width {
                    values.fill(T::ZERO);
                }
                let mut at = [0; SUMS];
                for k in 0..depth {
                    block
                        .clone()
                        .zip(&mut at)
                        .for_each(|(channel, at)| *at = from(channel, k) * taps);
                    for tap in 0..taps {
                        let row = &mut values[(tap * depth + k) * width..][..block.len()];
                        row.iter_mut()
                            .zip(&at)
                            .for_each(|(value, at)| *value = kernel[at + tap]);
                    }
                }
            });
        Self {
            channels,
            of_channel,
            values: kept,
        }
    }
}

/// Sums of all pixels of some samples and of the channels in `blocks` of [`Weights::blocks`]: `x`
/// has `source` elements a sample, the result `pixels` pixels of all channels.
/// `put(sums, channel, place)` for the channels of a block from `channel` on, for each pixel.
#[inline(always)]
pub(crate) fn sweep<T: Real>(
    weights: &Weights<T>,
    blocks: Range<usize>,
    classes: &[Class],
    samples: Range<usize>,
    [source, pixels]: [usize; 2],
    x: &[T],
    put: impl Fn(&[T], usize, usize),
) {
    let tile = T::tile();
    let mut sums = [T::ZERO; SUMS];
    let [mut from, mut to] = [[0; SUMS]; 2];
    let of_block = 2 * tile.lanes * weights.of_channel;
    for (block, values) in weights
        .values
        .all()
        .chunks(of_block)
        .enumerate()
        .take(blocks.end)
        .skip(blocks.start)
    {
        let width = values.len() / weights.of_channel;
        let start = 2 * tile.lanes * block;
        let channels = width.min(weights.channels - start);
        for class in classes {
            let total = samples.len() * class.pixels.len();
            let (mut sample, mut pixels_of) = (samples.start, class.pixels.iter());
            // Tiles of nearly equal size: a small one leaves the processor waiting for its own
            // sums.
            let tiles = total.div_ceil(tile.pixels);
            for i in 0..tiles {
                let n = (i + 1) * total / tiles - i * total / tiles;
                for (from, to) in from[..n].iter_mut().zip(&mut to) {
                    let pixel = pixels_of.next().unwrap_or_else(|| {
                        sample += 1;
                        pixels_of = class.pixels[1..].iter();
                        &class.pixels[0]
                    });
                    *from = sample * source + pixel.input;
                    *to = (sample * pixels + pixel.output) * weights.channels + start;
                }
                tile.sum(
                    width / tile.lanes,
                    &class.runs,
                    values,
                    x,
                    &from[..n],
                    &mut sums,
                );
                for (sums, &at) in sums.chunks(width).zip(&to[..n]) {
                    put(&sums[..channels], start, at);
                }
            }
        }
    }
}
