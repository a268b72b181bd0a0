//! Gradients with respect to inputs, and to nothing else.
use crate::{Error, PerModality, Result};
use candle_core::{Tensor, Var};

/// Evaluates the scalar `f` at `inputs` and returns it with its gradient for every input.
///
/// Each gradient has the shape of its input. The computation inside `f` should not track
/// parameters (a frozen model): what is tracked is paid for.
///
/// # Errors
/// [`Error::NoGradient`] when `f` does not depend on a modality.
pub fn input_gradients<T>(
    inputs: &PerModality<Tensor>,
    f: impl FnOnce(&PerModality<Tensor>) -> Result<(Tensor, T)>,
) -> Result<(PerModality<Tensor>, T)> {
    // `Var::from_tensor` copies, so the caller's storage is never shared with the graph.
    let leaves =
        inputs.try_map(|x| Var::from_tensor(&x.detach()).map(|v| v.as_tensor().clone()))?;
    let (scalar, extra) = f(&leaves)?;
    let mut gradients = scalar.backward()?;
    let gradients = leaves
        .try_enumerate(|modality, x| gradients.remove(x).ok_or(Error::NoGradient { modality }))?;
    Ok((gradients, extra))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn gradient_of_a_product_is_the_other_factor() -> Result<()> {
        let x = PerModality::from([
            Tensor::new(&[2f64, 3.], &Device::Cpu)?,
            Tensor::new(&[5f64, 7.], &Device::Cpu)?,
        ]);
        let (g, value) = input_gradients(&x, |x| {
            let s = (&x[0] * &x[1])?.sum_all()?;
            let value = s.to_scalar::<f64>()?;
            Ok((s, value))
        })?;
        assert_eq!(value, 31.);
        assert_eq!(g[0].to_vec1::<f64>()?, [5., 7.]);
        assert_eq!(g[1].to_vec1::<f64>()?, [2., 3.]);
        Ok(())
    }

    #[test]
    fn an_ignored_modality_is_named() -> Result<()> {
        let one = Tensor::new(&[1f32], &Device::Cpu)?;
        let x = PerModality::from([one.clone(), one]);
        let e = input_gradients(&x, |x| Ok((x[0].sum_all()?, ()))).unwrap_err();
        assert!(matches!(e, Error::NoGradient { modality: 1 }), "{e}");
        Ok(())
    }
}
