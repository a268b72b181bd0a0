//! The shape of a convolution and how its work is cut into tasks, from shapes alone.
//!
//! Knows nothing of element types or of how a task is computed.
use candle_core::{Result, bail};
use std::ops::Range;

/// Columns (output positions) a matrix product should have at least, to run near peak speed.
pub(super) const COLUMNS: usize = 256;
/// Tasks worth having, so that several cores find work when the batch is small.
pub(crate) const TASKS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub b: usize,
    pub ci: usize,
    pub h: usize,
    pub w: usize,
    pub co: usize,
    pub kh: usize,
    pub kw: usize,
    pub oh: usize,
    pub ow: usize,
    pub stride: usize,
    pub padding: usize,
}

/// One matrix product: output rows `rows` of the samples `samples`. Either one sample, or whole
/// planes.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub samples: Range<usize>,
    pub rows: Range<usize>,
}

impl Geometry {
    pub(crate) fn new(
        x: &[usize],
        kernel: &[usize],
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        let (&[b, ci, h, w], &[co, kernel_ci, kh, kw]) = (x, kernel) else {
            bail!(
                "conv2d: expected x [batch, in, h, w] and kernel [out, in, kh, kw], got {x:?} and {kernel:?}"
            )
        };
        if ci != kernel_ci {
            bail!("conv2d: x {x:?} has {ci} channels, but kernel {kernel:?} expects {kernel_ci}")
        }
        if stride == 0 || [ci, co, kh, kw].contains(&0) {
            bail!(
                "conv2d: stride {stride}, x {x:?}, kernel {kernel:?}: stride, channels and kernel must be at least 1"
            )
        }
        if h + 2 * padding < kh || w + 2 * padding < kw {
            bail!(
                "conv2d: input {h}×{w} with padding {padding} is smaller than the kernel {kh}×{kw}"
            )
        }
        let (oh, ow) = (
            (h + 2 * padding - kh) / stride + 1,
            (w + 2 * padding - kw) / stride + 1,
        );
        Ok(Self {
            b,
            ci,
            h,
            w,
            co,
            kh,
            kw,
            oh,
            ow,
            stride,
            padding,
        })
    }

    /// Output positions per plane.
    pub(super) fn plane(&self) -> usize {
        self.oh * self.ow
    }

    /// Kernel positions.
    pub(super) fn taps(&self) -> usize {
        self.kh * self.kw
    }

    /// Terms of one output: the inner dimension of the forward product.
    pub(super) fn depth(&self) -> usize {
        self.taps() * self.ci
    }

    /// The units: several samples where planes are small, several blocks of rows where they are
    /// large. `columns`: how many positions a unit should have at least.
    pub(super) fn units(&self, columns: usize) -> Vec<Unit> {
        let group = (columns / self.plane()).max(1);
        let rows = blocks(
            self.oh,
            if group > 1 {
                self.oh
            } else {
                columns.div_ceil(self.ow)
            },
        );
        let unit = |samples: &Range<usize>, rows: &Range<usize>| Unit {
            samples: samples.clone(),
            rows: rows.clone(),
        };
        blocks(self.b, group)
            .iter()
            .flat_map(|samples| rows.iter().map(move |rows| unit(samples, rows)))
            .collect()
    }
}

impl Unit {
    /// Output positions in the unit.
    pub(super) fn columns(&self, g: &Geometry) -> usize {
        self.samples.len() * self.rows.len() * g.ow
    }
}

/// `0..len` in blocks of `size`, the last perhaps shorter.
pub(crate) fn blocks(len: usize, size: usize) -> Vec<Range<usize>> {
    (0..len)
        .step_by(size)
        .map(|i| i..(i + size).min(len))
        .collect()
}

/// Units in at most `n` contiguous parts of nearly equal length.
pub(super) fn parts(units: &[Unit], n: usize) -> Vec<&[Unit]> {
    let n = units.len().min(n);
    (0..n)
        .map(|i| &units[i * units.len() / n..(i + 1) * units.len() / n])
        .collect()
}
