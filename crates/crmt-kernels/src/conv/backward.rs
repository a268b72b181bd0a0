//! The three gradients of a convolution, each on its own.
//!
//! Knows nothing of autograd: the caller asks for what is needed.
#![expect(unsafe_code, reason = "tasks write to interleaved channels of one gradient")]
use super::blas::{Shared, product};
use super::geometry::{Geometry, Unit, channel_blocks, parts};
use super::layout::{add_columns, columns, taps_outside, transpose, transpose_into};
use crate::real::{Real, Scratch, channel_sums};
use rayon::prelude::*;
use std::ops::Range;

/// `dL/dx: [b, ci, h, w]` from `dy: [b, co, oh, ow]`: columns of the gradient, added where their windows lie.
pub(super) fn input<T: Real>(g: &Geometry, kernel: &[T], dy: &[T]) -> Vec<T> {
    let mut dx = vec![T::ZERO; g.b * g.ci * g.h * g.w];
    let groups = g.units();
    // Each block of input channels has its own [co, kh, kw, block] of weights.
    let blocks: Vec<(Range<usize>, Vec<T>)> = channel_blocks(g.ci, groups.len())
        .into_iter()
        .map(|block| {
            let part: Vec<T> = kernel
                .chunks(g.depth())
                .flat_map(|kernel| &kernel[block.start * g.taps()..block.end * g.taps()])
                .copied()
                .collect();
            let weights = taps_outside(&part, block.len(), g.taps());
            (block, weights)
        })
        .collect();
    let shared = Shared::new(&mut dx);
    let tasks: Vec<_> = groups.iter().flat_map(|units| blocks.iter().map(move |block| (units, block))).collect();
    tasks.into_par_iter().for_each(|(units, (block, weights))| input_task(g, units, block, weights, dy, &shared));
    dx
}

/// All units of some samples (more than one unit only if it is one sample), for one block of channels.
fn input_task<T: Real>(g: &Geometry, units: &[Unit], block: &Range<usize>, weights: &[T], dy: &[T], dx: &Shared<T>) {
    let [mut positions, mut windows, mut image] = [(); 3].map(|()| Scratch::new());
    let (plane, channels, depth) = (g.plane(), block.len(), g.taps() * block.len());
    let [height, width] = g.footprint(g.oh);
    let samples = units[0].samples.clone();
    let image = image.zeroed(samples.len() * height * width * channels);
    for unit in units {
        let n = unit.columns(g);
        let per_sample = unit.rows.len() * g.ow;
        // [columns, co]
        let positions = positions.of(n * g.co);
        for (sample, positions) in samples.clone().zip(positions.chunks_mut(per_sample * g.co)) {
            let dy = &dy[sample * g.co * plane + unit.rows.start * g.ow..];
            transpose_into(dy, plane, [g.co, per_sample], positions, g.co);
        }
        let first = unit.rows.start * g.stride * width * channels;
        if g.pointwise() {
            // Columns are pixels, and each belongs to one unit: no windows to add.
            product([depth, n, g.co], &mut image[first..], depth, false, weights, depth, positions, [1, g.co]);
            continue;
        }
        let windows = windows.of(n * depth);
        product([depth, n, g.co], windows, depth, false, weights, depth, positions, [1, g.co]);
        for (windows, image) in windows.chunks(per_sample * depth).zip(image.chunks_mut(height * width * channels)) {
            add_columns(g, unit.rows.len(), channels, windows, &mut image[first..]);
        }
    }
    let inside = g.w.min(width.saturating_sub(g.padding));
    for (sample, image) in samples.zip(image.chunks(height * width * channels)) {
        for y in 0..g.h.min(height.saturating_sub(g.padding)) {
            if inside == 0 {
                continue;
            }
            let row = &image[((y + g.padding) * width + g.padding) * channels..];
            transpose(row, channels, [inside, channels], |channel, x, values| {
                let at = ((sample * g.ci + block.start + channel) * g.h + y) * g.w + x;
                // SAFETY: (sample, channel) belong to this task alone, and no other part is alive on this thread.
                unsafe { dx.part(at, values.len()) }.copy_from_slice(values);
            });
        }
    }
}

/// `dL/dkernel: [co, ci, kh, kw]`: windows times output gradients. Each part of the units sums into a
/// matrix of its own; these are added in order.
pub(super) fn kernel<T: Real>(g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    let (depth, plane) = (g.depth(), g.plane());
    let units = g.units().concat();
    let parts = parts(&units);
    let blocks = channel_blocks(g.co, parts.len());
    // [parts, co, kh, kw, ci]
    let mut sums = vec![T::ZERO; parts.len().max(1) * g.co * depth];
    let shared = Shared::new(&mut sums);
    let tasks: Vec<_> = parts.iter().enumerate().flat_map(|p| blocks.iter().map(move |block| (p, block))).collect();
    tasks.into_par_iter().for_each(|((i, part), block)| {
        let [mut padded, mut windows, mut gathered] = [(); 3].map(|()| Scratch::new());
        // SAFETY: (part, block) belong to this task alone.
        let sum = unsafe { shared.part((i * g.co + block.start) * depth, block.len() * depth) };
        for (j, unit) in part.iter().enumerate() {
            let windows = columns(g, unit, x, &mut padded, &mut windows);
            let n = unit.columns(g);
            let of = |sample: usize, channel: usize| (sample * g.co + channel) * plane + unit.rows.start * g.ow;
            let (dy, stride) = if unit.samples.len() == 1 {
                (&dy[of(unit.samples.start, block.start)..], plane)
            } else {
                let gathered = gathered.of(block.len() * n);
                for (channel, row) in block.clone().zip(gathered.chunks_mut(n)) {
                    for (sample, row) in unit.samples.clone().zip(row.chunks_mut(plane)) {
                        row.copy_from_slice(&dy[of(sample, channel)..][..plane]);
                    }
                }
                (&*gathered, n)
            };
            product([depth, block.len(), n], sum, depth, j > 0, windows, depth, dy, [1, stride]);
        }
    });
    let (total, rest) = sums.split_at_mut(g.co * depth);
    total.par_chunks_mut(depth).enumerate().for_each(|(i, total)| {
        for part in rest.chunks(g.co * depth) {
            for (total, &part) in total.iter_mut().zip(&part[i * depth..]) {
                *total += part;
            }
        }
    });
    // [co, kh, kw, ci] → [co, ci, kh, kw]
    taps_outside(total, g.taps(), g.ci)
}

/// `dL/dbias: [co]`.
pub(super) fn bias<T: Real>(g: &Geometry, dy: &[T]) -> Vec<T> {
    channel_sums([g.b, g.co, g.plane()], dy, dy, |_, dy, _| [dy]).iter().map(|[sum]| T::from_f64(*sum)).collect()
}
