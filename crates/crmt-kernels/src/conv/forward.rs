//! The output of a convolution: windows times kernel.
//!
//! Knows nothing of gradients.
#![expect(unsafe_code, reason = "units write to interleaved rows of one output")]
use super::blas::{Shared, product};
use super::geometry::{Geometry, channel_blocks};
use super::layout::{taps_outside, transpose, transpose_into, windows};
use crate::real::{Real, Scratch};
use rayon::prelude::*;

/// Rows of the weight matrix that one task transposes.
const ROWS: usize = 128;

/// `activation(convolution + bias): [b, co, oh, ow]`.
pub(super) fn output<T: Real>(
    g: &Geometry,
    x: &[T],
    kernel: &[T],
    bias: Option<&[T]>,
    activation: impl Fn(T) -> T + Sync,
) -> Vec<T> {
    let (plane, depth) = (g.plane(), g.depth());
    let mut y = vec![T::ZERO; g.b * g.co * plane];
    // [kh, kw, ci, co]: output channels innermost, as the product wants its left matrix.
    let mut weights = vec![T::ZERO; kernel.len()];
    let outside = taps_outside(kernel, g.ci, g.taps());
    weights.par_chunks_mut(ROWS * g.co).enumerate().for_each(|(i, weights)| {
        transpose_into(&outside[i * ROWS..], depth, [g.co, weights.len() / g.co], weights, g.co);
    });
    let units = g.units(g.columns()).concat();
    let channels = channel_blocks(g.co, units.len());
    let shared = Shared::new(&mut y);
    let tasks: Vec<_> = units.iter().flat_map(|u| channels.iter().map(move |c| (u, c))).collect();
    tasks.into_par_iter().for_each(|(unit, block)| {
        let [mut image, mut columns, mut result] = [(); 3].map(|()| Scratch::new());
        let columns = windows(g, unit, 0..g.kh, x, &mut image, &mut columns);
        let (n, m) = (unit.columns(g), block.len());
        let result = result.of(n * m);
        product([m, n, depth], result, m, false, &weights[block.start..], g.co, columns, [1, depth]);
        let per_sample = unit.rows.len() * g.ow;
        for (sample, result) in unit.samples.clone().zip(result.chunks(per_sample * m)) {
            transpose(
                result,
                |i| i * m,
                [per_sample, m],
                |channel, position, part| {
                    let channel = block.start + channel;
                    let at = (sample * g.co + channel) * plane + unit.rows.start * g.ow + position;
                    // SAFETY: (sample, channel, rows) belong to this task alone, positions to this call alone, and
                    // no other part is alive on this thread.
                    let y = unsafe { shared.part(at, part.len) };
                    let bias = bias.map_or(T::ZERO, |bias| bias[channel]);
                    part.write(y, |value| activation(value + bias));
                },
            );
        }
    });
    y
}
