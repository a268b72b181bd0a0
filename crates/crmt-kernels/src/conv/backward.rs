//! The three gradients of a convolution, each on its own.
//!
//! Knows nothing of autograd: the caller asks for what is needed.
#![expect(unsafe_code, reason = "tasks write to interleaved channels of one gradient")]
use super::blas::{Shared, product};
use super::geometry::{COLUMNS, Geometry, TASKS, Unit, blocks, channel_blocks, parts};
use super::layout::{add_windows, taps_outside, transpose, transpose_into, windows};
use crate::real::{PIECE, Real, Scratch, channel_sums};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// `dL/dx: [b, ci, h, w]` from `dy: [b, co, oh, ow]`: windows of the gradient, added where they lie.
pub(super) fn input<T: Real>(g: &Geometry, kernel: &[T], dy: &[T]) -> Vec<T> {
    let mut dx = vec![T::ZERO; g.b * g.ci * g.h * g.w];
    let groups = g.units(g.columns());
    // Each block of input channels has its own weights [co, kh, kw, block].
    let blocks: Vec<(Range<usize>, Vec<T>)> = channel_blocks(g.ci, groups.len())
        .into_iter()
        .map(|block| {
            let mut weights = Cow::Borrowed(kernel);
            if block.len() < g.ci {
                let part = block.start * g.taps()..block.end * g.taps();
                weights = kernel.chunks(g.depth()).flat_map(|kernel| &kernel[part.clone()]).copied().collect();
            }
            let weights = taps_outside(&weights, block.len(), g.taps());
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
    let [mut positions, mut windows, mut images] = [(); 3].map(|()| Scratch::new());
    let (plane, channels, depth) = (g.plane(), block.len(), g.taps() * block.len());
    let width = g.w + 2 * g.padding;
    let image_len = (g.h + 2 * g.padding) * width * channels;
    let samples = units[0].samples.clone();
    let images = images.zeroed(samples.len() * image_len);
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
            // Windows are pixels, and each belongs to one unit: nothing to add.
            product([depth, n, g.co], &mut images[first..], depth, false, weights, depth, positions, [1, g.co]);
            continue;
        }
        let windows = windows.of(n * depth);
        product([depth, n, g.co], windows, depth, false, weights, depth, positions, [1, g.co]);
        for (windows, image) in windows.chunks(per_sample * depth).zip(images.chunks_mut(image_len)) {
            add_windows(g, unit.rows.len(), channels, windows, &mut image[first..]);
        }
    }
    let pixel = |i: usize| ((i / g.w + g.padding) * width + i % g.w + g.padding) * channels;
    for (sample, image) in samples.zip(images.chunks(image_len)) {
        transpose(image, pixel, [g.h * g.w, channels], |channel, i, part| {
            let at = (sample * g.ci + block.start + channel) * g.h * g.w + i;
            // SAFETY: (sample, channel) belong to this task alone, and no other part is alive on this thread.
            let dx = unsafe { dx.part(at, part.len) };
            part.write(dx, |v| v);
        });
    }
}

/// `dL/dkernel: [co, ci, kh, kw]`: windows times output gradients. Each part of the units sums into a
/// matrix of its own; these are added in order.
pub(super) fn kernel<T: Real>(g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    let (size, plane) = (g.co * g.depth(), g.plane());
    let units = g.units(COLUMNS).concat();
    // Rows of a large kernel are tasks of their own: unlike blocks of output channels they repeat no windows.
    let split_rows = if size < PIECE { g.kh } else { 1 };
    let splits = blocks(g.kh, split_rows);
    let parts = parts(&units, TASKS.div_ceil(splits.len()));
    let channels = channel_blocks(g.co, parts.len() * splits.len());
    let mut tasks = Vec::new();
    for part in parts.iter().enumerate() {
        for split in &splits {
            tasks.extend(channels.iter().map(|block| (part, split, block)));
        }
    }
    // [parts, splits, co, split_rows, kw, ci]
    let mut sums = vec![T::ZERO; parts.len().max(1) * size];
    let shared = Shared::new(&mut sums);
    tasks.into_par_iter().for_each(|((i, part), split, block)| {
        let [mut image, mut columns, mut gathered] = [(); 3].map(|()| Scratch::new());
        let depth = split.len() * g.kw * g.ci;
        let at = i * size + split.start * g.kw * g.ci * g.co + block.start * depth;
        // SAFETY: (part, split, block) belong to this task alone.
        let sum = unsafe { shared.part(at, block.len() * depth) };
        for (j, unit) in part.iter().enumerate() {
            let columns = windows(g, unit, split.clone(), x, &mut image, &mut columns);
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
            product([depth, block.len(), n], sum, depth, j > 0, columns, depth, dy, [1, stride]);
        }
    });
    let (total, rest) = sums.split_at_mut(size);
    total.par_chunks_mut(PIECE).enumerate().for_each(|(i, total)| {
        for part in rest.chunks(size) {
            for (total, &part) in total.iter_mut().zip(&part[i * PIECE..]) {
                *total += part;
            }
        }
    });
    let (taps, split_taps) = (g.taps(), split_rows * g.kw);
    let mut dk = vec![T::ZERO; size];
    dk.par_chunks_mut(g.depth()).enumerate().for_each(|(channel, dk)| {
        let start = |tap: usize| ((tap / split_taps * g.co + channel) * split_taps + tap % split_taps) * g.ci;
        transpose(total, start, [taps, g.ci], |ci, tap, part| {
            part.write(&mut dk[ci * taps + tap..], |v| v);
        });
    });
    dk
}

/// `dL/dbias: [co]`.
pub(super) fn bias<T: Real>(g: &Geometry, dy: &[T]) -> Vec<T> {
    channel_sums([g.b, g.co, g.plane()], dy, dy, |_, dy, _| [dy]).iter().map(|[sum]| T::from_f64(*sum)).collect()
}
