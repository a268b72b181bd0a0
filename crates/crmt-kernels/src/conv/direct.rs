//! Convolutions of channels-last images without a copy of their windows: sums of a few pixels at a time are gathered
//! from where the elements lie.
//!
//! Knows weights and classes of pixels, and nothing of what is done with a sum.
use super::geometry::Geometry;
use super::taps::Class;
use crate::real::{Kept, Real};
use rayon::prelude::*;

/// Most elements that [`Tile::sum`](super::tile::Tile::sum) computes at a time: 8 pixels of two vectors of 64 bytes.
const SUMS: usize = 8 * 2 * 16;

/// Elements that are finished at a time: a constant, so that the compiler needs no loop.
const STEP: usize = 4;

/// A kernel, arranged in blocks of result channels: `[block, kh, kw, depth, vectors · lanes]`, where a block has two
/// vectors of channels, the last perhaps one; past the last channel are zeros.
pub(crate) struct Weights<T: Real> {
    channels: usize,
    /// Of one channel: `kh · kw · depth`.
    of_channel: usize,
    values: Kept<T>,
}

impl<T: Real> Weights<T> {
    /// Of the convolution with `kernel: [co, ci, kh, kw]`.
    pub fn forward(g: &Geometry, kernel: &[T]) -> Self {
        Self::new(g.co, [g.ci, g.taps()], kernel, |channel, k| channel * g.ci + k)
    }

    /// Of its adjoint.
    pub fn adjoint(g: &Geometry, kernel: &[T]) -> Self {
        Self::new(g.ci, [g.co, g.taps()], kernel, |channel, k| k * g.ci + channel)
    }

    /// `from(channel, k)`: which taps of the kernel lead from channel `k` of the source to `channel` of the result.
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
        values.par_chunks_mut(2 * lanes * of_channel).enumerate().for_each(|(i, values)| {
            let width = values.len() / of_channel;
            let block = 2 * lanes * i..channels.min(2 * lanes * i + width);
            if block.len() < width {
                values.fill(T::ZERO);
            }
            let mut at = [0; SUMS];
            for k in 0..depth {
                block.clone().zip(&mut at).for_each(|(channel, at)| *at = from(channel, k) * taps);
                for tap in 0..taps {
                    let row = &mut values[(tap * depth + k) * width..][..block.len()];
                    row.iter_mut().zip(&at).for_each(|(value, at)| *value = kernel[at + tap]);
                }
            }
        });
        Self { channels, of_channel, values: kept }
    }
}

/// Sums of all pixels of some samples: `x` has `source` elements a sample, `y` has `pixels` pixels of all channels.
/// `finish(part of y, sums, first channel, place of the part)` for all channels of each pixel, a few at a time.
pub(crate) fn sweep<T: Real>(
    weights: &Weights<T>,
    classes: &[Class],
    samples: usize,
    [source, pixels]: [usize; 2],
    x: &[T],
    y: &mut [T],
    finish: impl Fn(&mut [T], &[T], usize, usize),
) {
    let tile = T::tile();
    let mut sums = [T::ZERO; SUMS];
    let [mut from, mut to] = [[0; SUMS]; 2];
    for (block, values) in weights.values.all().chunks(2 * tile.lanes * weights.of_channel).enumerate() {
        let width = values.len() / weights.of_channel;
        let start = 2 * tile.lanes * block;
        let channels = width.min(weights.channels - start);
        for class in classes {
            let total = samples * class.pixels.len();
            let (mut sample, mut pixels_of) = (0, class.pixels.iter());
            // Tiles of nearly equal size: a small one leaves the processor waiting for its own sums.
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
                tile.sum(width / tile.lanes, &class.runs, values, x, &from[..n], &mut sums);
                for (sums, &at) in sums.chunks(width).zip(&to[..n]) {
                    let (sums, y) = (&sums[..channels], &mut y[at..at + channels]);
                    let ((sums, last_sums), (y, last)) = (sums.as_chunks::<STEP>(), y.as_chunks_mut::<STEP>());
                    let done = STEP * sums.len();
                    for (i, (sums, y)) in sums.iter().zip(y).enumerate() {
                        finish(y, sums, start + STEP * i, at + STEP * i);
                    }
                    if !last.is_empty() {
                        finish(last, last_sums, start + done, at + done);
                    }
                }
            }
        }
    }
}
