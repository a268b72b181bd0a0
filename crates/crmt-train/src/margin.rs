//! The two loss terms of CRMT's first step, on soft targets.
//! Does not know where scores come from.
use candle_core::{D, Result, Tensor};
use crmt_core::PerModality;

/// The constant inside the margin term's logarithm. It bounds the term from below; without it the
/// loss has no minimum.
pub const MARGIN_FLOOR: f64 = 1e-5;

/// Stands for `-inf` where a gradient must pass: `exp` of it is 0 in f32 and f64.
const MASKED: f64 = -1e30;

/// `log( Σ_m Σ_k∉T exp(s_k(m) − s_T(m)) + 1e-5 )`, per sample.
///
/// `scores`: each `[batch, classes]`. `targets`: `[batch, classes]`, rows sum to one. `T` is the
/// set of classes with a positive target and `s_T = Σ_k targets_k·s_k`; with one label this is the
/// margin term of Yang et al. (2024), eq. 12, and with two the one of CRMT-Mix. Computed as one
/// log-sum-exp, so no score overflows. Returns `[batch]`.
pub fn margin_term(scores: &PerModality<Tensor>, targets: &Tensor) -> Result<Tensor> {
    let own = (targets.gt(0f64)?.to_dtype(targets.dtype())? * MASKED)?;
    let mut columns = vec![];
    for s in scores {
        let reference = (s * targets)?.sum_keepdim(D::Minus1)?;
        columns.push((s.broadcast_sub(&reference)? + &own)?);
    }
    let floor = Tensor::full(MARGIN_FLOOR.ln(), (targets.dim(0)?, 1), targets.device())?;
    columns.push(floor.to_dtype(targets.dtype())?);
    log_sum_exp(&Tensor::cat(&columns, 1)?)
}

/// Each sample's own margin `s_y − max_{j≠y} s_j` of one modality's scores `[batch, classes]`;
/// `[batch]`, constant.
pub fn unimodal_margins(scores: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let scores = scores.detach();
    let own = labels.unsqueeze(1)?;
    let score = scores.gather(&own, 1)?;
    let low = (score.zeros_like()? + MASKED)?;
    let rivals = scores
        .scatter(&own.broadcast_as(score.shape())?.contiguous()?, &low, 1)?
        .max(D::Minus1)?;
    score.squeeze(1)? - rivals
}

/// Which margin term mixed samples get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarginRule {
    /// [`margin_term`].
    Exact,
    /// `log Σ_m (Σ_k exp(s_k(m)) − Σ_{t∈T} s_t(m)) · exp(−s_T(m))`, what the released code
    /// computes: the labels' scores are subtracted, not their exponentials, and there is no floor.
    /// Mixing the classes well apart hardly lowers it.
    AsReleased,
}

impl MarginRule {
    /// The term of mixed samples, per sample; arguments as of [`margin_term`].
    pub fn of_mixed(self, scores: &PerModality<Tensor>, targets: &Tensor) -> Result<Tensor> {
        if self == Self::Exact {
            return margin_term(scores, targets);
        }
        let own = targets.gt(0f64)?.to_dtype(targets.dtype())?;
        let mut columns = vec![];
        for s in scores {
            let reference = (s * targets)?.sum_keepdim(D::Minus1)?;
            // Both parts of the sum, which is positive (exp(s) > s), over exp(shift), so that
            // neither overflows.
            let shift = s.max_keepdim(D::Minus1)?.detach().relu()?;
            let all = s.broadcast_sub(&shift)?.exp()?.sum_keepdim(D::Minus1)?;
            let labels = ((s * &own)?.sum_keepdim(D::Minus1)? * shift.neg()?.exp()?)?;
            columns.push((((all - labels)?.log()? + shift)? - reference)?);
        }
        log_sum_exp(&Tensor::cat(&columns, 1)?)
    }
}

/// `−Σ_k targets_k · log softmax(logits)_k`, per sample; both `[batch, classes]`.
pub fn soft_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    log_sum_exp(logits)? - (logits * targets)?.sum(D::Minus1)?
}

/// Over the last dimension. The maximum is a constant shift: its gradient cancels.
fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    let max = x.max_keepdim(D::Minus1)?.detach();
    x.broadcast_sub(&max)?.exp()?.sum(D::Minus1)?.log()? + max.squeeze(D::Minus1)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Case G10 of the design: one sample, three classes, label 0.
    fn g10(scale: f64) -> (PerModality<Var>, Tensor) {
        let var = |s: [f64; 3]| Var::new(&[s.map(|v| v * scale)], &Device::Cpu).unwrap();
        let targets = Tensor::new(&[[1f64, 0., 0.]], &Device::Cpu).unwrap();
        (
            PerModality::from([var([2., 0.5, -1.]), var([-0.5, 1.5, 0.])]),
            targets,
        )
    }

    #[test]
    fn margin_term_is_a_log_sum_exp_with_a_floor() -> Result<()> {
        let (scores, targets) = g10(1.0);
        let term = margin_term(&scores.map(|v| v.as_tensor().clone()), &targets)?;
        let value = term.to_vec1::<f64>()?[0];
        // Without the floor the value is 2.231163696255373; the floor adds log(1 + 1e-5/e^2.23…).
        let exact = (2.231163696255373f64.exp() + MARGIN_FLOOR).ln();
        // 1e-14: a few roundings of numbers near 2.
        assert!((value - exact).abs() < 1e-14, "{value} vs {exact}");
        let gradients = term.sum_all()?.backward()?;
        let g = gradients.get(&scores[0]).unwrap().to_vec2::<f64>()?;
        let golden = [
            -0.02931223075135632,
            0.023964931702607356,
            0.005347299048748962,
        ];
        let shrink = 2.231163696255373f64.exp() / (2.231163696255373f64.exp() + MARGIN_FLOOR);
        for (a, b) in g[0].iter().zip(golden) {
            assert!((a - b * shrink).abs() < 1e-14, "{a} vs {b}");
        }
        Ok(())
    }

    #[test]
    fn huge_scores_do_not_overflow() -> Result<()> {
        let (scores, targets) = g10(1000.0);
        let value =
            margin_term(&scores.map(|v| v.as_tensor().clone()), &targets)?.to_vec1::<f64>()?[0];
        // exp(-500) and the floor vanish beside exp(2000): exactly 2000 in f64.
        assert_eq!(value, 2000.0);
        Ok(())
    }

    #[test]
    fn of_mixed_samples_the_released_term_is_its_formula() -> Result<()> {
        let (scores, _) = g10(1.0);
        let scores = scores.map(|v| v.as_tensor().clone());
        let raw = scores.try_map(|s| Ok::<_, candle_core::Error>(s.to_vec2::<f64>()?.remove(0)))?;
        for targets in [[0.7f64, 0.3, 0.], [0., 1., 0.]] {
            let sum: f64 = raw
                .iter()
                .map(|s| {
                    let exponentials: f64 = s.iter().map(|v| v.exp()).sum();
                    let labels: f64 = s
                        .iter()
                        .zip(targets)
                        .filter(|(_, t)| *t > 0.)
                        .map(|(s, _)| s)
                        .sum();
                    let reference: f64 = s.iter().zip(targets).map(|(s, t)| s * t).sum();
                    (exponentials - labels) * (-reference).exp()
                })
                .sum();
            let targets = Tensor::new(&[targets], &Device::Cpu)?;
            let released = MarginRule::AsReleased
                .of_mixed(&scores, &targets)?
                .to_vec1::<f64>()?[0];
            // 1e-14: a few roundings of numbers near 3.
            assert!(
                (released - sum.ln()).abs() < 1e-14,
                "{released} vs {}",
                sum.ln()
            );
            // exp(s) − s of each label is left over.
            assert!(
                released
                    > MarginRule::Exact
                        .of_mixed(&scores, &targets)?
                        .to_vec1::<f64>()?[0]
                        + 0.1
            );
        }
        let (far, targets) = (
            g10(1000.0).0,
            Tensor::new(&[[0.5f64, 0.5, 0.]], &Device::Cpu)?,
        );
        let far = far.map(|v| v.as_tensor().clone());
        let value = MarginRule::AsReleased
            .of_mixed(&far, &targets)?
            .to_vec1::<f64>()?[0];
        // exp(2000) beside exp(1500), over the means 1250 and 500: the second modality decides.
        assert_eq!(value, 1000.0);
        Ok(())
    }

    #[test]
    fn cross_entropy_agrees_with_its_definition() -> Result<()> {
        let logits = Tensor::new(&[[1f64, 2., 4.], [1000., 0., 0.]], &Device::Cpu)?;
        let targets = Tensor::new(&[[0.25f64, 0., 0.75], [1., 0., 0.]], &Device::Cpu)?;
        let got = soft_cross_entropy(&logits, &targets)?.to_vec1::<f64>()?;
        let log_total = (1f64.exp() + 2f64.exp() + 4f64.exp()).ln();
        // 1e-14: a few roundings of numbers near 4.
        assert!((got[0] - (log_total - 0.25 - 3.)).abs() < 1e-14);
        assert_eq!(got[1], 0.);
        Ok(())
    }
}
