//! Which elements each pixel of a convolution, or of its adjoint, is summed from: pixels with the
//! same taps inside the image form a class, so that nothing is padded and no zero is multiplied.
//!
//! Knows nothing of values, channels of the result or how sums are computed.
use super::geometry::Geometry;
use std::collections::BTreeMap;

/// Neighbouring taps: weights `weight..weight + len` times elements `at + input..at + input + len`,
/// where `at` belongs to the pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub weight: usize,
    pub input: usize,
    pub len: usize,
}

/// A pixel of the result of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pixel {
    /// Element of the channels-last source where its first tap lies.
    pub input: usize,
    /// Its number in the result.
    pub output: usize,
}

/// Pixels that are summed from the same taps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Class {
    pub runs: Vec<Run>,
    pub pixels: Vec<Pixel>,
}

/// `(tap, coordinate in the source)`, by coordinate.
type Taps = Vec<(usize, usize)>;

/// The classes of a convolution: source `[h, w, ci]`, weights `[kh, kw, ci]`, result `[oh, ow]`.
pub(crate) fn forward(g: &Geometry) -> Vec<Class> {
    let axis = |result: usize, source: usize, taps: usize| -> Vec<Taps> {
        let of = |o: usize, t: usize| {
            (o * g.stride + t)
                .checked_sub(g.padding)
                .filter(|i| *i < source)
        };
        (0..result)
            .map(|o| (0..taps).filter_map(|t| Some((t, of(o, t)?))).collect())
            .collect()
    };
    classes(
        &axis(g.oh, g.h, g.kh),
        &axis(g.ow, g.w, g.kw),
        [g.w, g.ow],
        g.kw,
        g.ci,
    )
}

/// The classes of its adjoint: source `[oh, ow, co]`, weights `[kh, kw, co]`, result `[h, w]`.
pub(crate) fn adjoint(g: &Geometry) -> Vec<Class> {
    let axis = |result: usize, source: usize, taps: usize| -> Vec<Taps> {
        let of = |i: usize, t: usize| {
            let distance = (i + g.padding).checked_sub(t)?;
            (distance % g.stride == 0)
                .then_some(distance / g.stride)
                .filter(|o| *o < source)
        };
        (0..result)
            .map(|i| {
                (0..taps)
                    .rev()
                    .filter_map(|t| Some((t, of(i, t)?)))
                    .collect()
            })
            .collect()
    };
    classes(
        &axis(g.h, g.oh, g.kh),
        &axis(g.w, g.ow, g.kw),
        [g.ow, g.w],
        g.kw,
        g.co,
    )
}

fn classes(
    rows: &[Taps],
    columns: &[Taps],
    [width, result]: [usize; 2],
    kw: usize,
    depth: usize,
) -> Vec<Class> {
    let first = |taps: &Taps| taps.first().map_or(0, |(_, at)| *at);
    let columns_by_taps = by_taps(columns);
    let mut classes = Vec::new();
    for (down, ys) in by_taps(rows) {
        for (across, xs) in &columns_by_taps {
            let mut runs: Vec<Run> = Vec::new();
            for (ty, y) in &down {
                for (tx, x) in across {
                    let (weight, input) = ((ty * kw + tx) * depth, (y * width + x) * depth);
                    match runs.last_mut() {
                        Some(run)
                            if [run.weight + run.len, run.input + run.len] == [weight, input] =>
                        {
                            run.len += depth
                        }
                        _ => runs.push(Run {
                            weight,
                            input,
                            len: depth,
                        }),
                    }
                }
            }
            let pixel = |y: usize, x: usize| Pixel {
                input: (first(&rows[y]) * width + first(&columns[x])) * depth,
                output: y * result + x,
            };
            let pixels = ys
                .iter()
                .flat_map(|y| xs.iter().map(|x| pixel(*y, *x)))
                .collect();
            classes.push(Class { runs, pixels });
        }
    }
    classes
}

/// Coordinates by their taps, relative to the first.
fn by_taps(axis: &[Taps]) -> BTreeMap<Taps, Vec<usize>> {
    let mut groups: BTreeMap<Taps, Vec<usize>> = BTreeMap::new();
    for (i, taps) in axis.iter().enumerate() {
        let relative = taps
            .iter()
            .map(|(tap, at)| (*tap, at - taps[0].1))
            .collect();
        groups.entry(relative).or_default().push(i);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stride_two_skips_the_padding() {
        let g = Geometry::new(&[1, 5, 4, 4], &[7, 5, 3, 3], 2, 1).expect("fits");
        let classes = forward(&g);
        // Rows and columns: the first lacks a tap, the second has all three.
        let mut runs: Vec<usize> = classes
            .iter()
            .map(|c| c.runs.iter().map(|r| r.len).sum::<usize>() / 5)
            .collect();
        runs.sort_unstable();
        assert_eq!(runs, [4, 6, 6, 9]);
        // A row of taps is one run of elements.
        assert!(classes.iter().all(|c| c.runs.len() <= 3));
        let pixels: usize = classes.iter().map(|c| c.pixels.len()).sum();
        assert_eq!(pixels, 4);
        // The adjoint has each product of the convolution once.
        let products = |classes: &[Class], depth: usize| -> usize {
            classes
                .iter()
                .map(|c| c.pixels.len() * c.runs.iter().map(|r| r.len / depth).sum::<usize>())
                .sum()
        };
        assert_eq!(products(&classes, 5), products(&adjoint(&g), 7));
    }
}
