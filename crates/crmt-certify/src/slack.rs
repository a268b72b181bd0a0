//! What the rounding of a program may take from a margin: at the input that is certified, and at
//! those around it. Does not know radii.
//!
//! With `R_k(x) = sum_m r_k(m) |x(m)| + o_k`, the logit `h_k` that a program computes at `x` is
//! within `R_k(x)` of real arithmetic, for every `x`. So its margin at `x'` is at least
//! `mu_j(x) - 2 (R_y + R_j)(x) - sum_m (L_j(m) + r_y(m) + r_j(m))
//! |x'(m) - x(m)|`: margins lose a number, constants grow by another, and every certificate stays what it is.
use crate::{Audit, CertifyError, Program, numbers::gamma_of};
use candle_core::{DType, Device, Tensor};
use crmt_core::PerModality;

/// `r_k(m)` and `o_k`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slack {
    program: Program,
    /// Per modality `[classes]`.
    slopes: PerModality<Vec<f64>>,
    /// `[classes]`.
    offsets: Vec<f64>,
}

/// Covers the rounding of these few operations themselves.
const UP: f64 = 1. + 1e-9;

impl Slack {
    pub fn new(
        program: Program,
        rows: &PerModality<Tensor>,
        weights: &PerModality<Tensor>,
        bias: &Tensor,
        audits: &PerModality<Audit>,
    ) -> Result<Self, CertifyError> {
        let u = program.unit();
        let bias = host(bias)?;
        let classes = bias.len();
        // Of a logit: one product and sum per modality, and the bias.
        let outer = gamma_of(rows.len() + 8, u);
        let mut offsets: Vec<f64> = bias.iter().map(|b| outer * b.abs() * UP).collect();
        let parts = rows.zip(weights, "integration weights")?;
        let slopes = parts
            .zip(audits, "audits")?
            .try_enumerate(|m, ((w, a), audit)| {
                let drift = audit
                    .drift(program)
                    .ok_or(CertifyError::Rounding { modality: m })?;
                let (k, dim) = w.dims2()?;
                let (w, a) = (host(w)?, host(a)?);
                if k != classes || a.len() != classes {
                    let what = format!("modality {m}: rows of the head and integration weights");
                    return Err(CertifyError::shape(
                        what,
                        classes,
                        format!("{k} and {}", a.len()),
                    ));
                }
                // The inner product, and what becomes of it in the sum.
                let inner = gamma_of(dim + rows.len() + 16, u);
                let of_class = |k: usize| {
                    let row = a[k].abs()
                        * crate::numbers::norm_up(w[k * dim..(k + 1) * dim].iter().copied());
                    let computed =
                        |size: f64, error: f64| row * (error + inner * (size + error)) * UP;
                    let slope = computed(drift.size.slope, drift.error.slope);
                    offsets[k] += computed(drift.size.offset, drift.error.offset);
                    slope
                };
                Ok((0..classes).map(of_class).collect::<Vec<_>>())
            })?;
        offsets.iter_mut().for_each(|o| *o = (*o * UP).next_up());
        let finite = slopes
            .iter()
            .flatten()
            .chain(&offsets)
            .all(|v| v.is_finite());
        if !finite {
            return Err(CertifyError::Bound {
                what: format!("rounding of the program in {program}"),
                value: f64::INFINITY,
            });
        }
        Ok(Self {
            program,
            slopes,
            offsets,
        })
    }

    pub fn program(&self) -> Program {
        self.program
    }

    /// `r_y(m) + r_j(m)`, rounded up.
    pub fn slope(&self, m: usize, y: usize, j: usize) -> f64 {
        (self.slopes[m][y] + self.slopes[m][j]).next_up()
    }

    /// `(R_y + R_j)(x)`, rounded up; `lengths`: `|x(m)|`.
    pub fn at(&self, lengths: &[f64], y: usize, j: usize) -> f64 {
        let terms = lengths
            .iter()
            .enumerate()
            .map(|(m, length)| self.slope(m, y, j) * length);
        (terms.sum::<f64>() + self.offsets[y] + self.offsets[j]) * UP
    }
}

fn host(t: &Tensor) -> Result<Vec<f64>, CertifyError> {
    Ok(t.to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .flatten_all()?
        .to_vec1()?)
}
