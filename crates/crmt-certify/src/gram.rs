//! Verified upper bounds of spectral norms by Gram iteration (theorem T13), for real and complex
//! matrices. Does not know which layer a matrix belongs to.
//!
//! `G_0 = F / f_0`, `f_0 = |F|_F`; `G_{i+1} = G_i* G_i / f_{i+1}`, `f_{i+1} = |G_i* G_i|_F`. Then
//! `|F|_2 <= f_0 prod_i f_i^(2^-i)`, loose by at most `rank^(2^-(t+1))` after `t` steps, and the
//! computed matrices obey the same recursion with an explicit rounding term, evaluated here instead
//! of assumed small.
use crate::numbers::{gamma, greatest, split};
use candle_core::{D, DType, Device, Result, Tensor};

/// Gram steps after which a rank-512 matrix is bounded within 0.3 %.
pub(crate) const STEPS: usize = 10;

/// An upper bound of the spectral norm of `matrix` `[rows, cols]`, computed in `f64`.
///
/// The lesser of two theorems: Gram iteration (T13), and `sqrt(1 + |W W^T - I|_F)` (T12b), which is
/// sharp to the last digits for matrices with nearly orthonormal rows or columns.
///
/// # Errors
/// The tensor library's, e.g. when `matrix` does not have two axes.
pub fn matrix_bound(matrix: &Tensor) -> Result<f64> {
    let (bound, orthonormal) = both_bounds(matrix)?;
    Ok(bound.min(orthonormal))
}

/// The bounds by T13 and by T12b.
pub(crate) fn both_bounds(matrix: &Tensor) -> Result<(f64, f64)> {
    let (rows, cols) = matrix.dims2()?;
    let (matrix, size) = scaled(matrix)?;
    // Fewer columns than rows, so that Gram matrices are as small as they can be.
    let matrix = if cols > rows {
        matrix.t()?.contiguous()?
    } else {
        matrix
    };
    let (long, short) = matrix.dims2()?;
    let mut best = Peak::default();
    best.absorb(&matrix.unsqueeze(0)?, None)?;
    let upper = size.times(best.upper);
    let matrix = (matrix * size.0)?;
    let gram = matrix.t()?.matmul(&matrix)?;
    let frobenius = square_sum(&matrix)?;
    let defect = square_sum(&(gram - Tensor::eye(short, DType::F64, &Device::Cpu)?)?)?.sqrt();
    // The computed Gram matrix is within gamma |W|_F^2 of the true one in Frobenius norm.
    let rounding = gamma(long + 2) * (frobenius + short as f64);
    let orthonormal = ((1. + defect * (1. + gamma(short * short)) + rounding).sqrt()).next_up();
    // What under- or overflows is no bound.
    Ok((
        upper,
        if orthonormal.is_nan() {
            f64::INFINITY
        } else {
            orthonormal
        },
    ))
}

/// A power of two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(f64);

impl Size {
    /// A bound of what was scaled down by this, scaled up again: never 0 unless the bound is.
    pub fn times(self, bound: f64) -> f64 {
        let product = bound * self.0;
        if bound > 0. && product < f64::MIN_POSITIVE {
            product.next_up()
        } else {
            product
        }
    }
}

/// On the host in `f64`, divided by a power of two that puts the greatest element into `1..2`:
/// squares neither vanish nor overflow, and every digit stays. What becomes too small for a number
/// is smaller than the greatest 2^-1022 times.
pub(crate) fn scaled(t: &Tensor) -> Result<(Tensor, Size)> {
    let t = t
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .contiguous()?;
    let most = greatest(t.flatten_all()?.to_vec1::<f64>()?.into_iter().map(f64::abs));
    if most == 0. || !most.is_finite() {
        return Ok((t, Size(1.)));
    }
    let exponent = split(most).1 as i32;
    // In two steps: the inverse of the least power is not a number.
    let half = exponent / 2;
    let down = ((t * 2f64.powi(-half))? * 2f64.powi(half - exponent))?;
    Ok((down, Size(2f64.powi(exponent))))
}

/// The greatest spectral norm over many matrices, from above, and a lower bound that lets matrices
/// which cannot be the greatest be dropped early.
#[derive(Debug, Default)]
pub(crate) struct Peak {
    /// No matrix seen so far has a greater norm.
    pub upper: f64,
    lower: f64,
}

impl Peak {
    /// Takes `re + i im`, each `[points, rows, cols]` in `f64`; `None`: real matrices.
    pub fn absorb(&mut self, re: &Tensor, im: Option<&Tensor>) -> Result<()> {
        let (_, rows, cols) = re.dims3()?;
        // Complex products cost three times the rounding of real ones.
        let error = |terms: usize| gamma(terms + 2) * if im.is_some() { 3. } else { 1. };
        let rank = rows.min(cols) as f64;
        let (mut re, mut im) = (re.clone(), im.cloned());
        let mut norms: Vec<Vec<f64>> = vec![];
        normalise(&mut re, &mut im, &mut norms)?;
        for step in 1..=STEPS {
            let gram = re.t()?.matmul(&re)?;
            (re, im) = match &im {
                None => (gram, None),
                Some(im) => {
                    let cross = re.t()?.matmul(im)?;
                    ((gram + im.t()?.matmul(im)?)?, Some((&cross - cross.t()?)?))
                }
            };
            normalise(&mut re, &mut im, &mut norms)?;
            // Overflow must not pass for a bound.
            let sound = |b: f64| if b.is_nan() { f64::INFINITY } else { b };
            let upper: Vec<f64> = norms
                .iter()
                .map(|f| sound(bound(f, error(rows), error(cols))))
                .collect();
            let slack = rank.powf(-(0.5f64.powi(step as i32 + 1))) * (1. - 1e-9);
            let found = greatest(upper.iter().copied());
            self.lower = self.lower.max(found * slack);
            if step == STEPS {
                self.upper = self.upper.max(found);
                break;
            }
            let keep: Vec<u32> = (0..upper.len() as u32)
                .filter(|i| upper[*i as usize] >= self.lower)
                .collect();
            if keep.is_empty() {
                // Every norm here lies below one already seen, whose upper bound is even greater.
                break;
            }
            if keep.len() < upper.len() {
                norms = keep.iter().map(|i| norms[*i as usize].clone()).collect();
                let keep = Tensor::new(keep, re.device())?;
                re = re.index_select(&keep, 0)?;
                im = im.map(|im| im.index_select(&keep, 0)).transpose()?;
            }
        }
        Ok(())
    }
}

/// Divides each matrix by its Frobenius norm, which joins its `norms`.
fn normalise(re: &mut Tensor, im: &mut Option<Tensor>, norms: &mut Vec<Vec<f64>>) -> Result<()> {
    let points = re.dim(0)?;
    let mut squares = re.flatten_from(1)?.sqr()?.sum(D::Minus1)?;
    if let Some(im) = im {
        squares = (squares + im.flatten_from(1)?.sqr()?.sum(D::Minus1)?)?;
    }
    let frobenius = squares.sqrt()?;
    norms.resize(points, vec![]);
    for (f, history) in frobenius.to_vec1::<f64>()?.into_iter().zip(norms) {
        history.push(f);
    }
    // A zero matrix stays zero: its norms are zeros, and so is its bound but for rounding.
    let divisor = frobenius
        .clamp(f64::MIN_POSITIVE, f64::INFINITY)?
        .reshape((points, 1, 1))?;
    *re = re.broadcast_div(&divisor)?;
    *im = im
        .as_ref()
        .map(|im| im.broadcast_div(&divisor))
        .transpose()?;
    Ok(())
}

/// `f_0 s_0` with `s_t = 1 + e`, `s_i = sqrt(f_{i+1} s_{i+1} + e_i)`.
fn bound(norms: &[f64], first_error: f64, error: f64) -> f64 {
    let [f0, rest @ ..] = norms else { return 0. };
    if *f0 == 0. {
        return 0.;
    }
    let s = rest.iter().enumerate().rev().fold(1. + error, |s, (i, f)| {
        let e = if i == 0 {
            first_error.max(error)
        } else {
            error
        };
        (f * s + e).sqrt()
    });
    // The Frobenius norm f_0 and this recursion are themselves rounded.
    f0 * s * (1. + 64. * f64::EPSILON + first_error)
}

fn square_sum(x: &Tensor) -> Result<f64> {
    x.sqr()?.sum_all()?.to_scalar()
}
