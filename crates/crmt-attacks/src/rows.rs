//! Arithmetic on the samples of a batch seen as rows: what each step of an attack does to whole
//! inputs, in one pass where candle takes one for every operator; which samples are numbers, and
//! choosing among them. Does not know budgets.
//!
//! Sums are added up in `f64`, in an order that depends on shapes alone.
use candle_core::{
    CpuStorage, CustomOp1, CustomOp3, D, DType, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

/// `[batch, everything else]`.
pub(crate) fn rows(x: &Tensor) -> Result<Tensor> {
    x.reshape((x.dim(0)?, ()))
}

/// Per sample: is every element a finite number? A sum may overflow where no element does, so each
/// is looked at.
pub(crate) fn finite(x: &Tensor) -> Result<Vec<bool>> {
    if x.elem_count() == 0 {
        return Ok(vec![true; x.dim(0)?]);
    }
    // 0 times a number is 0, otherwise NaN, which no sum loses.
    let nothing = (rows(x)? * 0.)?
        .sum(D::Minus1)?
        .to_dtype(DType::F64)?
        .to_vec1::<f64>()?;
    Ok(nothing.into_iter().map(|sum| sum == 0.).collect())
}

/// Per sample: has `a` the values of `b`?
pub(crate) fn same(a: &Tensor, b: &Tensor) -> Result<Vec<bool>> {
    if a.elem_count() == 0 {
        return Ok(vec![true; a.dim(0)?]);
    }
    let others = rows(&a.ne(b)?)?
        .to_dtype(DType::F32)?
        .sum(D::Minus1)?
        .to_vec1::<f32>()?;
    Ok(others.into_iter().map(|others| others == 0.).collect())
}

/// The samples of `a` where `take` says so, otherwise those of `b`.
pub(crate) fn chosen(take: &[bool], a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; b.rank()];
    shape[0] = take.len();
    let mask = Tensor::from_iter(take.iter().map(|t| u8::from(*t)), b.device())?.reshape(shape)?;
    mask.broadcast_as(b.shape())?.where_cond(a, b)
}

/// The sum of squares of each sample, `[batch, 1]`.
pub(crate) fn squares(x: &Tensor) -> Result<Tensor> {
    if !at_hand(x) {
        return rows(x)?.sqr()?.sum_keepdim(D::Minus1);
    }
    x.contiguous()?.apply_op1_no_bwd(&Squares)
}

/// `x + rate·g`, with a rate for each sample: `[batch, 1]` or `[1, 1]`.
pub(crate) fn stepped(x: &Tensor, g: &Tensor, rate: &Tensor) -> Result<Tensor> {
    if !at_hand(x) {
        return x + rows(g)?.broadcast_mul(rate)?.reshape(x.shape())?;
    }
    let rate = rate.broadcast_as((x.dim(0)?, 1))?.contiguous()?;
    x.contiguous()?
        .apply_op3_no_bwd(&g.contiguous()?, &rate, &Stepped)
}

/// Perturbations grown to `shrink·delta`, of which `room` cuts elements: the sum of squares of the
/// elements of `delta` that stay free, and of `room` where it cuts; `[batch, 1]` each.
pub(crate) fn free_and_cut(
    delta: &Tensor,
    room: &Tensor,
    shrink: &Tensor,
) -> Result<(Tensor, Tensor)> {
    if !at_hand(delta) {
        let (delta, room) = (rows(delta)?.sqr()?, rows(room)?.sqr()?);
        let (cut, none) = (
            delta.broadcast_mul(&shrink.sqr()?)?.ge(&room)?,
            delta.zeros_like()?,
        );
        let sum = |x: Tensor| x.sum_keepdim(D::Minus1);
        return Ok((
            sum(cut.where_cond(&none, &delta)?)?,
            sum(cut.where_cond(&room, &none)?)?,
        ));
    }
    let shrink = shrink.broadcast_as((delta.dim(0)?, 1))?.contiguous()?;
    let both = delta
        .contiguous()?
        .apply_op3_no_bwd(&room.contiguous()?, &shrink, &FreeAndCut)?;
    Ok((
        both.narrow(1, 0, 1)?.contiguous()?,
        both.narrow(1, 1, 1)?.contiguous()?,
    ))
}

/// Whether the loops below can see the elements.
fn at_hand(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}

/// Runs `$body` with `$T` bound to the element type.
macro_rules! dispatch {
    ($storage:expr, $T:ident => $body:expr) => {
        match $storage {
            CpuStorage::F32(_) => {
                type $T = f32;
                $body
            }
            CpuStorage::F64(_) => {
                type $T = f64;
                $body
            }
            _ => bail!("internal: an attack's operand is neither F32 nor F64"),
        }
    };
}

/// All elements, and how many make a sample.
fn elements<'a, T: WithDType>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<(&'a [T], usize)> {
    let Some((from, to)) = layout.contiguous_offsets() else {
        bail!("internal: a non-contiguous operand reached an attack")
    };
    let samples = layout.dims().first().copied().unwrap_or(1).max(1);
    Ok((
        &T::cpu_storage_as_slice(storage)?[from..to],
        ((to - from) / samples).max(1),
    ))
}

/// Sums that are added up side by side, so that the processor does many at once.
const LANES: usize = 16;

/// `Σ term(i)`.
#[inline(always)]
fn sum<const N: usize>(len: usize, term: impl Fn(usize) -> [f64; N]) -> [f64; N] {
    let mut lanes = [[0f64; LANES]; N];
    let whole = len - len % LANES;
    for start in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            let terms = term(start + lane);
            for (lanes, term) in lanes.iter_mut().zip(terms) {
                lanes[lane] += term;
            }
        }
    }
    for i in whole..len {
        for (lanes, term) in lanes.iter_mut().zip(term(i)) {
            lanes[i - whole] += term;
        }
    }
    lanes.map(|lanes| lanes.iter().sum())
}

struct Squares;

impl CustomOp1 for Squares {
    fn name(&self) -> &'static str {
        "squares"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        dispatch!(storage, T => {
            let (x, len) = elements::<T>(storage, layout)?;
            let each = x.par_chunks(len).map(|x| {
                let [square] = sum(x.len(), #[inline(always)] |i| [x[i].to_f64() * x[i].to_f64()]);
                T::from_f64(square)
            });
            let each: Vec<T> = each.collect();
            let samples = each.len();
            Ok((T::to_cpu_storage_owned(each), (samples, 1).into()))
        })
    }
}

struct Stepped;

impl CustomOp3 for Stepped {
    fn name(&self) -> &'static str {
        "stepped"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!(s1, T => {
            let ((x, len), (g, _), (rates, _)) = (elements::<T>(s1, l1)?, elements::<T>(s2, l2)?, elements::<T>(s3, l3)?);
            if x.len() != g.len() || rates.len() != x.len().div_ceil(len) {
                bail!("internal: {} elements move along {} at {} rates", x.len(), g.len(), rates.len());
            }
            let mut y = vec![0 as T; x.len()];
            let samples = y.par_chunks_mut(len).zip(x.par_chunks(len)).zip(g.par_chunks(len)).zip(rates);
            samples.for_each(|(((y, x), g), rate)| {
                y.iter_mut().zip(x).zip(g).for_each(|((y, x), g)| *y = *x + *g * *rate);
            });
            Ok((T::to_cpu_storage_owned(y), l1.shape().clone()))
        })
    }
}

struct FreeAndCut;

impl CustomOp3 for FreeAndCut {
    fn name(&self) -> &'static str {
        "free-and-cut"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!(s1, T => {
            let ((d, len), (r, _), (shrinks, _)) = (elements::<T>(s1, l1)?, elements::<T>(s2, l2)?, elements::<T>(s3, l3)?);
            if d.len() != r.len() || shrinks.len() != d.len().div_ceil(len) {
                bail!("internal: {} elements have room for {} at {} rates", d.len(), r.len(), shrinks.len());
            }
            let samples = d.par_chunks(len).zip(r.par_chunks(len)).zip(shrinks);
            let both: Vec<[T; 2]> = samples.map(|((d, r), shrink)| {
                let grown = shrink.to_f64() * shrink.to_f64();
                sum(d.len(), #[inline(always)] |i| {
                    let (free, room) = (d[i].to_f64() * d[i].to_f64(), r[i].to_f64() * r[i].to_f64());
                    if free * grown >= room { [0., room] } else { [free, 0.] }
                })
                .map(T::from_f64)
            }).collect();
            let samples = both.len();
            Ok((T::to_cpu_storage_owned(both.into_flattened()), (samples, 2).into()))
        })
    }
}
