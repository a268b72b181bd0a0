//! Keeps inputs within what their modality can produce.
//! Does not know budgets.
use crate::{Error, Result, rows::finite};
use candle_core::{DType, Tensor};
use crmt_core::{Domain, Modality};

/// How far outside its domain a clean input may be, relative to the domain's width: rounding of a
/// normalisation in `f32` (an ulp is 6e-8) is no reason to refuse.
const TOLERANCE: f64 = 1e-6;

/// The nearest values inside the domain.
pub(crate) fn clamp(x: &Tensor, modality: &Modality) -> Result<Tensor> {
    Ok(match &modality.domain {
        Domain::Unbounded => x.clone(),
        Domain::Interval { lo, hi } => x.clamp(*lo, *hi)?,
        Domain::Channels { lo, hi } => x
            .broadcast_maximum(&bound(lo, x)?)?
            .broadcast_minimum(&bound(hi, x)?)?,
    })
}

/// How far each element of `x` may move in the direction of `delta`, at least 0; `None`: without
/// end.
pub(crate) fn room(x: &Tensor, delta: &Tensor, modality: &Modality) -> Result<Option<Tensor>> {
    let (down, up) = match &modality.domain {
        Domain::Unbounded => return Ok(None),
        Domain::Interval { lo, hi } => ((x - *lo)?, (x.neg()? + *hi)?),
        Domain::Channels { lo, hi } => (
            x.broadcast_sub(&bound(lo, x)?)?,
            x.neg()?.broadcast_add(&bound(hi, x)?)?,
        ),
    };
    // A clean input may be outside by a rounding.
    Ok(Some(delta.gt(0.)?.where_cond(&up, &down)?.maximum(0.)?))
}

/// One value a channel, in the shape of a batch.
fn bound(values: &[f64], like: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; like.rank()];
    shape[1] = values.len();
    Ok(Tensor::from_slice(values, shape, like.device())?.to_dtype(like.dtype())?)
}

/// Checks that a clean input is finite and inside its domain, so that clamping towards it never
/// leaves a budget.
pub(crate) fn check(x: &Tensor, modality: &Modality) -> Result<()> {
    modality.check(x)?;
    if x.elem_count() == 0 {
        return Ok(());
    }
    let range = |x: &Tensor| -> Result<(f64, f64)> {
        let x = x.flatten_all()?;
        let scalar = |x: Tensor| x.to_dtype(DType::F64)?.to_scalar::<f64>();
        Ok((scalar(x.min(0)?)?, scalar(x.max(0)?)?))
    };
    if let Some(sample) = finite(x)?.iter().position(|finite| !finite) {
        return Err(Error::NotFinite {
            modality: modality.name.clone(),
            what: "the clean input".into(),
            sample,
        });
    }
    let inside = |x: &Tensor, lo: f64, hi: f64| -> Result<()> {
        let (least, most) = range(x)?;
        let slack = TOLERANCE * (hi - lo);
        let value = if least < lo - slack {
            least
        } else if most > hi + slack {
            most
        } else {
            return Ok(());
        };
        Err(Error::OutOfDomain {
            modality: modality.name.clone(),
            value,
            domain: format!("{lo}..={hi}"),
        })
    };
    match &modality.domain {
        Domain::Unbounded => Ok(()),
        Domain::Interval { lo, hi } => inside(x, *lo, *hi),
        Domain::Channels { lo, hi } => {
            if modality.shape.first() != Some(&lo.len()) || lo.len() != hi.len() {
                let got = vec![lo.len()];
                let expected = modality.shape.iter().take(1).copied().collect();
                return Err(crmt_core::Error::Shape {
                    modality: modality.name.clone(),
                    expected,
                    got,
                }
                .into());
            }
            lo.iter()
                .zip(hi)
                .enumerate()
                .try_for_each(|(c, (lo, hi))| inside(&x.narrow(1, c, 1)?, *lo, *hi))
        }
    }
}
