//! Matrices with orthonormal rows by Newton–Schulz iteration.
//!
//! Knows nothing of the head that uses the matrix or of certificates.
use candle_core::{Result, Tensor, bail};

/// The polar factor of `v: [r, c]`, `r ≤ c`: the nearest matrix whose rows are orthonormal.
///
/// `X₀ = V / √‖V Vᵀ‖_F`, then `steps` times `X ← 1.5·X − 0.5·(X Xᵀ)·X`. Since `‖V Vᵀ‖_F ≥ ‖V‖₂²`
/// the singular values of `X₀` lie in (0, 1], where the iteration converges to 1, quadratically at
/// the end; 10–14 steps suffice unless `V` is close to losing row rank. In `f32` the rows end up
/// orthonormal to about 1e-6. The gradient flows through every step. A rank-deficient `V` has no
/// orthonormal rows to converge to; measure `‖X Xᵀ − I‖` where that matters.
///
/// # Errors
/// `v` is not a matrix, has more rows than columns, or, on a CPU, is zero or not finite.
pub fn orthonormal_rows(v: &Tensor, steps: usize) -> Result<Tensor> {
    let &[r, c] = v.dims() else {
        bail!(
            "orthonormal_rows: expected a matrix [rows, columns], got {:?}",
            v.dims()
        )
    };
    if r > c {
        bail!(
            "orthonormal_rows: {r} rows can't be orthonormal in {c} dimensions; give the head at least {r} features, \
             or make the columns orthonormal instead (pass the transpose)"
        )
    }
    let gram_norm = v.matmul(&v.t()?)?.sqr()?.sum_all()?.sqrt()?;
    // Elsewhere the answer would have to be waited for; the rows become NaN.
    if v.device().is_cpu() {
        let size = gram_norm
            .to_dtype(candle_core::DType::F64)?
            .to_scalar::<f64>()?;
        if !(size > 0. && size.is_finite()) {
            bail!(
                "orthonormal_rows: the [{r}, {c}] matrix has Gram norm {size}; it must be finite and not zero"
            )
        }
    }
    let mut x = v.broadcast_div(&gram_norm.sqrt()?)?;
    for _ in 0..steps {
        let gram = x.matmul(&x.t()?)?;
        x = ((&x * 1.5)? - (gram.matmul(&x)? * 0.5)?)?;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn golden_polar_factor() -> Result<()> {
        // Polar factor of [[1,2,0],[0,1,1]], computed independently with 40 digits.
        let expected = [
            [
                0.526_598_632_371_090_4,
                0.816_496_580_927_726,
                -0.236_700_683_814_454_8,
            ],
            [
                -0.236_700_683_814_454_8,
                0.408_248_290_463_863,
                0.881_649_658_092_772_6,
            ],
        ];
        let x = orthonormal_rows(
            &Tensor::new(&[[1f64, 2., 0.], [0., 1., 1.]], &Device::Cpu)?,
            14,
        )?
        .to_vec2::<f64>()?;
        for (got, expected) in x.iter().flatten().zip(expected.iter().flatten()) {
            // 1e-12: 14 steps have converged; what is left is rounding of a few dozen f64
            // operations.
            assert!((got - expected).abs() < 1e-12, "{got} {expected}");
        }
        Ok(())
    }

    #[test]
    fn refuses_what_cannot_be() -> Result<()> {
        let v = Tensor::zeros((3, 2), DType::F32, &Device::Cpu)?;
        assert!(
            orthonormal_rows(&v, 14)
                .unwrap_err()
                .to_string()
                .contains("at least 3 features")
        );
        assert!(
            orthonormal_rows(&v.t()?, 14)
                .unwrap_err()
                .to_string()
                .contains("not zero")
        );
        assert!(orthonormal_rows(&v.flatten_all()?, 14).is_err());
        Ok(())
    }
}
