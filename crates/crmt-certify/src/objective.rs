//! Bounds as differentiable tensors: what certified training and CRMT's second step optimise.
//! Does not round anything up or down; nothing here certifies.
use candle_core::{Result, Tensor};
use crmt_core::PerModality;

/// Ratio at the own class, where there is none: larger than any that matters, and finite.
pub const OWN_CLASS: f64 = 1e9;

/// Squared distances are kept above this, so that the derivative of their root is finite.
const FLOOR: f64 = 1e-12;

/// The sum bound `|a_y| T_y + |a_j| T_j`, per modality `[classes, classes]`, zero on the diagonal.
///
/// `weights`: `a(m)`, `norms`: `T(m)`, each `[classes]`.
pub fn sum_table(
    weights: &PerModality<Tensor>,
    norms: &PerModality<Tensor>,
) -> crmt_core::Result<PerModality<Tensor>> {
    weights
        .zip(norms, "constants of the scores")?
        .try_map(|(a, t)| {
            let own = (a.abs()? * *t)?;
            Ok(own
                .unsqueeze(1)?
                .broadcast_add(&own.unsqueeze(0)?)?
                .mul(&off_diagonal(a)?)?)
        })
}

/// The pairwise bound `|a_y W_y - a_j W_j| * lip`, per modality `[classes, classes]`, zero on the
/// diagonal.
///
/// `weights`: `a(m)`, each `[classes]`; `rows`: `W(m)`, each `[classes, dim_m]`; `lip`: constants
/// of the encoders. By the Gram matrix, one product per modality: no `[classes, classes, dim]`
/// tensor.
pub fn pairwise_table(
    weights: &PerModality<Tensor>,
    rows: &PerModality<Tensor>,
    lip: &PerModality<f64>,
) -> crmt_core::Result<PerModality<Tensor>> {
    weights
        .zip(rows, "rows of the head")?
        .zip(lip, "encoder bounds")?
        .try_map(|((a, w), lip)| {
            let v = w.broadcast_mul(&a.unsqueeze(1)?)?;
            let squares = v.sqr()?.sum(1)?;
            let gram = v.matmul(&v.t()?)?;
            let distances = (squares
                .unsqueeze(1)?
                .broadcast_add(&squares.unsqueeze(0)?)?
                - (gram * 2.)?)?;
            // The diagonal must not reach the root: its derivative there is infinite, and infinity
            // times 0 is NaN.
            let off = off_diagonal(a)?;
            let distances =
                ((distances * &off)? + (off.affine(-1., 1.))?)?.clamp(FLOOR, f64::INFINITY)?;
            Ok((distances.sqrt()? * (off * **lip)?)?)
        })
}

/// `l_yj = sqrt(sum_m L[m][y][j]^2)` for each sample's own class `y`: `[batch, classes]`, zero at
/// the own class.
///
/// This is what certified training adds to the rivals' logits. `labels`: `[batch]` `u32`.
pub fn rival_constants(tables: &PerModality<Tensor>, labels: &Tensor) -> crmt_core::Result<Tensor> {
    let squares = tables.try_map(|l| l.sqr())?;
    let total = squares
        .into_iter()
        .map(Ok)
        .reduce(|a, b| a? + b?)
        .expect("one per modality")?;
    let own = own_class(labels, &total)?;
    let rows = total.index_select(labels, 0)?;
    let root = ((&rows * own.affine(-1., 1.)?)? + &own)?
        .clamp(FLOOR, f64::INFINITY)?
        .sqrt()?;
    Ok((root * own.affine(-1., 1.)?)?)
}

/// `(h_y - h_j) / l_yj`, `[batch, classes]`: signed, so that a misclassified sample still has a
/// slope; [`OWN_CLASS`] at `j = y`. `logits`: `[batch, classes]`, `labels`: `[batch]` `u32`,
/// `tables`: per modality `[classes, classes]`.
pub fn signed_ratios(
    logits: &Tensor,
    labels: &Tensor,
    tables: &PerModality<Tensor>,
) -> crmt_core::Result<Tensor> {
    let constants = rival_constants(tables, labels)?.clamp(1e-6, f64::INFINITY)?;
    let own = own_class(labels, logits)?;
    let margins = logits
        .gather(&labels.unsqueeze(1)?, 1)?
        .broadcast_sub(logits)?;
    Ok(((margins / constants)? + (own * OWN_CLASS)?)?)
}

/// The hard minimum over rivals of [`signed_ratios`], `[batch]`.
pub fn min_ratio(ratios: &Tensor) -> crmt_core::Result<Tensor> {
    Ok(ratios.min(1)?)
}

/// 1 at each sample's own class, 0 elsewhere, like `like`'s rows.
fn own_class(labels: &Tensor, like: &Tensor) -> Result<Tensor> {
    Tensor::eye(like.dim(1)?, like.dtype(), like.device())?.index_select(labels, 0)
}

fn off_diagonal(like: &Tensor) -> Result<Tensor> {
    Tensor::eye(like.dim(0)?, like.dtype(), like.device())?.affine(-1., 1.)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn tables_agree_with_hand_values_and_have_finite_gradients() -> crmt_core::Result<()> {
        let dev = &Device::Cpu;
        let a = Var::new(&[1f64, 2., 0.5], dev)?;
        let w = Tensor::eye(3, candle_core::DType::F64, dev)?;
        let per = |t: &Tensor| PerModality::from([t.clone()]);
        let pair = pairwise_table(&per(&a), &per(&w), &PerModality::from([1.]))?;
        let sum = sum_table(
            &per(&a),
            &per(&Tensor::ones(3, candle_core::DType::F64, dev)?),
        )?;
        assert!((pair[0].to_vec2::<f64>()?[0][1] - 5f64.sqrt()).abs() < 1e-15);
        assert_eq!(sum[0].to_vec2::<f64>()?[0], [0., 3., 1.5]);
        let labels = Tensor::new(&[0u32, 1], dev)?;
        let logits = Tensor::new(&[[3.6f64, 0.55, 0.625], [0., -1., 2.]], dev)?;
        for table in [pair, sum] {
            let ratios = signed_ratios(&logits, &labels, &table)?;
            assert!(ratios.to_vec2::<f64>()?[0][0] >= OWN_CLASS);
            let least = min_ratio(&ratios)?;
            assert!(
                least.to_vec1::<f64>()?[1] < 0.,
                "a misclassified sample has a negative ratio"
            );
            let g = least.sum_all()?.backward()?;
            let g = g.get(&a).expect("depends on a").to_vec1::<f64>()?;
            assert!(
                g.iter().all(|g| g.is_finite()) && g.iter().any(|g| *g != 0.),
                "{g:?}"
            );
        }
        Ok(())
    }

    #[test]
    fn equal_rows_do_not_make_gradients_infinite() -> crmt_core::Result<()> {
        let dev = &Device::Cpu;
        let a = Var::new(&[0f64, 0., 1.], dev)?;
        let w = Tensor::new(&[[1f64, 0.], [1., 0.], [0., 1.]], dev)?;
        let table = pairwise_table(
            &PerModality::from([a.as_tensor().clone()]),
            &PerModality::from([w]),
            &PerModality::from([1.]),
        )?;
        let labels = Tensor::new(&[0u32], dev)?;
        let ratios = signed_ratios(&Tensor::new(&[[1f64, 0., 0.]], dev)?, &labels, &table)?;
        let g = ratios.narrow(1, 1, 2)?.sum_all()?.backward()?;
        assert!(
            g.get(&a)
                .expect("depends on a")
                .to_vec1::<f64>()?
                .iter()
                .all(|g| g.is_finite())
        );
        Ok(())
    }
}
