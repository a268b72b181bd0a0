//! The margins of a batch, rounded down, and the least ratio over all rivals.
//! Does not know what the constants that divide margins mean.
use crate::{CertifyError, Evaluated, Grade, MarginConstants, Program};
use candle_core::DType;

/// How far a margin `mu` that changes at most `l` per unit distance stays positive: 0 if `mu <= 0`
/// or NaN, infinite if `mu > 0` and `l == 0`, else `mu / l` rounded down.
///
/// A negative margin has radius 0, whatever its size: a sample that is already wrong is not
/// "robustly" anything.
pub fn ratio(mu: f64, l: f64) -> f64 {
    if mu.is_nan() || l.is_nan() || mu <= 0. {
        0.
    } else if l == 0. {
        f64::INFINITY
    } else {
        (mu / l).next_down().max(0.)
    }
}

/// A radius and the rival that limits it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// 0 unless every margin is positive.
    pub radius: f64,
    /// The class that binds (for a radius of 0: the one with the least margin).
    pub rival: u32,
}

/// Margins `mu_j = h_y - h_j` of each sample, `[batch, classes]`, infinite at the reference class
/// `y`; less what the program that the constants are about may have rounded.
pub(crate) struct Margins {
    classes: usize,
    reference: Vec<usize>,
    values: Vec<f64>,
    /// Of each margin, what one evaluation of the program may round; empty where nothing is
    /// executed.
    rounding: Vec<f64>,
}

impl Margins {
    pub fn new<E: Grade>(
        constants: &MarginConstants<E>,
        evaluated: &(impl Evaluated + ?Sized),
        reference: &[u32],
    ) -> Result<Self, CertifyError> {
        let (logits, classes) = (evaluated.logits(), constants.classes());
        let (batch, got) = logits.dims2()?;
        if got != classes || classes < 2 {
            let expected = format!("{classes} classes, at least 2");
            return Err(CertifyError::shape(
                "logits",
                expected,
                format!("{got} classes"),
            ));
        }
        if reference.len() != batch {
            return Err(CertifyError::shape(
                "reference classes",
                batch,
                reference.len(),
            ));
        }
        if let Some((sample, &class)) = reference
            .iter()
            .enumerate()
            .find(|(_, c)| **c as usize >= classes)
        {
            return Err(CertifyError::Class {
                sample,
                class,
                classes,
            });
        }
        if logits.dtype() != DType::F64 {
            return Err(CertifyError::Precision {
                got: logits.dtype(),
            });
        }
        let mut values = logits.flatten_all()?.to_vec1::<f64>()?;
        let reference: Vec<usize> = reference.iter().map(|c| *c as usize).collect();
        for (row, y) in values.chunks_exact_mut(classes).zip(&reference) {
            let own = row[*y];
            // An overflown logit is no evidence: a NaN margin certifies nothing.
            let margin = |h: f64| {
                if h.is_finite() && own.is_finite() {
                    (own - h).next_down()
                } else {
                    f64::NAN
                }
            };
            row.iter_mut().for_each(|h| *h = margin(*h));
            row[*y] = f64::INFINITY;
        }
        let mut margins = Self {
            classes,
            reference,
            values,
            rounding: vec![],
        };
        if constants.program() != Program::Real {
            margins.subtract_rounding(constants, evaluated)?;
        }
        Ok(margins)
    }

    /// Once for the logits that were computed, and once for those that will be.
    fn subtract_rounding<E: Grade>(
        &mut self,
        constants: &MarginConstants<E>,
        evaluated: &(impl Evaluated + ?Sized),
    ) -> Result<(), CertifyError> {
        let program = constants.program();
        let (Some(slack), Some(lengths)) = (constants.slack(), evaluated.lengths()) else {
            return Err(CertifyError::Lengths { program });
        };
        if lengths.len() != constants.modalities() {
            let what = "lengths of the inputs, one list per modality";
            return Err(CertifyError::shape(
                what,
                constants.modalities(),
                lengths.len(),
            ));
        }
        if let Some(of) = lengths.iter().find(|of| of.len() != self.reference.len()) {
            return Err(CertifyError::shape(
                "lengths of the inputs",
                self.reference.len(),
                of.len(),
            ));
        }
        self.rounding = vec![0.; self.values.len()];
        for (i, y) in self.reference.iter().enumerate() {
            let own: Vec<f64> = lengths.iter().map(|of| of[i]).collect();
            for j in (0..self.classes).filter(|j| j != y) {
                let rounding = slack.at(&own, *y, j);
                self.rounding[i * self.classes + j] = rounding;
                let margin = &mut self.values[i * self.classes + j];
                *margin = (*margin - 2. * rounding).next_down();
            }
        }
        Ok(())
    }

    /// Of each sample, what one evaluation of the program may take from each margin; nothing where
    /// none is executed.
    pub fn rounding(&self, sample: usize) -> Option<&[f64]> {
        (!self.rounding.is_empty()).then(|| &self.rounding[sample * self.classes..][..self.classes])
    }

    /// Reference class and margins of each sample.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, &[f64])> {
        self.reference
            .iter()
            .copied()
            .zip(self.values.chunks_exact(self.classes))
    }
}

/// The least [`ratio`] of `margins` to `constants` over all classes; infinite margins (the own
/// class) never bind. On ties, the least margin binds.
pub(crate) fn least(margins: &[f64], constants: &[f64]) -> Limit {
    let limit = |radius, rival: usize| Limit {
        radius,
        rival: rival as u32,
    };
    if !margins.iter().all(|mu| *mu > 0.) {
        return limit(0., least_margin(margins));
    }
    // Rounding down is monotone, so the least quotient gives the least ratio. Lanes, so that it
    // vectorises.
    const LANES: usize = 8;
    let mut best = [f64::INFINITY; LANES];
    let (mu, l) = (margins.chunks_exact(LANES), constants.chunks_exact(LANES));
    let rest = mu.remainder().iter().zip(l.remainder());
    let tail = rest.fold(f64::INFINITY, |best, (mu, l)| f64::min(best, mu / l));
    for (mu, l) in mu.zip(l) {
        for i in 0..LANES {
            let q = mu[i] / l[i];
            best[i] = if q < best[i] { q } else { best[i] };
        }
    }
    let quotient = best.into_iter().fold(tail, f64::min);
    let mut rival = usize::MAX;
    for (j, (mu, l)) in margins.iter().zip(constants).enumerate() {
        if mu / l == quotient && (rival == usize::MAX || *mu < margins[rival]) {
            rival = j;
        }
    }
    let radius = if quotient == f64::INFINITY {
        quotient
    } else {
        ratio(quotient, 1.)
    };
    limit(
        radius,
        if radius > 0. {
            rival
        } else {
            least_margin(margins)
        },
    )
}

fn least_margin(margins: &[f64]) -> usize {
    (0..margins.len())
        .min_by(|i, j| margins[*i].total_cmp(&margins[*j]))
        .expect("two classes or more")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the definition, on sizes around the lanes.
    #[test]
    fn least_is_the_least_ratio() {
        for n in [2, 3, 8, 9, 17, 31] {
            for seed in 0..20usize {
                let mu = |j: usize| ((j * 7 + seed * 13) % 23) as f64 / 3. + 0.1;
                let l = |j: usize| ((j * 5 + seed * 3) % 11) as f64 / 2.;
                let mut margins: Vec<f64> = (0..n).map(mu).collect();
                margins[seed % n] = f64::INFINITY;
                let constants: Vec<f64> = (0..n).map(l).collect();
                let got = least(&margins, &constants);
                let all: Vec<f64> = margins
                    .iter()
                    .zip(&constants)
                    .map(|(mu, l)| ratio(*mu, *l))
                    .collect();
                let rivals = all.iter().enumerate().filter(|(j, _)| *j != seed % n);
                let want = rivals.map(|(_, r)| *r).fold(f64::INFINITY, f64::min);
                assert_eq!(got.radius, want, "n {n} seed {seed}");
                assert_eq!(all[got.rival as usize], want);
                assert!(got.rival as usize != seed % n || want == f64::INFINITY);
                margins[(seed + 1) % n] = -0.5;
                assert_eq!(
                    least(&margins, &constants),
                    Limit {
                        radius: 0.,
                        rival: ((seed + 1) % n) as u32
                    }
                );
                margins[(seed + 1) % n] = f64::NAN;
                assert_eq!(
                    least(&margins, &constants).radius,
                    0.,
                    "NaN certifies nothing"
                );
            }
        }
    }

    #[test]
    fn a_rival_that_no_modality_moves_binds_never_and_is_named() {
        let limit = least(&[f64::INFINITY, 3., 2.], &[0., 0., 0.]);
        assert_eq!(
            limit,
            Limit {
                radius: f64::INFINITY,
                rival: 2
            }
        );
    }
}
