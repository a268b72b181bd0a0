//! What becomes of the encoders' gradients between the backward pass and the step. Does not know
//! what decides it.
use crate::{Draws, Result};
use candle_core::{DType, Device, Tensor, backprop::GradStore};
use crmt_core::PerModality;
use crmt_kernels::Parameter;
use rand::Rng;
use rand_distr::StandardNormal;

/// What becomes of the encoders' gradients before the step.
#[derive(Debug, Clone)]
pub struct Modulation {
    /// Multiply the gradients of each modality's encoder; scalars in `f64`.
    pub factors: PerModality<Tensor>,
    /// Adds Gaussian noise of each parameter's own standard deviation.
    pub noise: bool,
}

impl Modulation {
    /// `owners[i]` is the modality whose encoder has parameter `i`, if any has.
    pub(crate) fn apply(
        &self,
        gradients: &mut GradStore,
        parameters: &[Parameter],
        owners: &[Option<usize>],
        draws: &Draws,
    ) -> Result<()> {
        let mut rng = draws.streams.stream("ogm-ge noise", draws.step);
        for (p, m) in parameters
            .iter()
            .zip(owners)
            .filter_map(|(p, owner)| Some((p, (*owner)?)))
        {
            let Some(g) = gradients.get(&p.var) else {
                continue;
            };
            let times = |x: &Tensor, scalar: &Tensor| x.broadcast_mul(&scalar.to_dtype(x.dtype())?);
            let mut new = times(g, &self.factors[m])?;
            if self.noise {
                let noise: Vec<f32> = (0..g.elem_count())
                    .map(|_| rng.sample(StandardNormal))
                    .collect();
                let noise =
                    Tensor::from_vec(noise, g.shape(), &Device::Cpu)?.to_dtype(g.dtype())?;
                new = (new + times(&noise.to_device(g.device())?, &deviation(g)?)?)?;
            }
            gradients.insert(&p.var, new);
        }
        Ok(())
    }
}

/// The standard deviation of all elements, a scalar.
fn deviation(g: &Tensor) -> candle_core::Result<Tensor> {
    let g = g.flatten_all()?.to_dtype(DType::F64)?;
    g.broadcast_sub(&g.mean_all()?)?.sqr()?.mean_all()?.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use crmt_core::Streams;

    #[test]
    fn gradients_of_encoders_alone_are_changed() -> Result<()> {
        let var = |n: usize| Var::from_tensor(&Tensor::ones(n, DType::F64, &Device::Cpu)?);
        let (a, b, head) = (var(4000)?, var(3)?, var(2)?);
        let slopes = Tensor::arange(0f64, 4000., &Device::Cpu)?;
        let loss = ((a.as_tensor() * &slopes)?.sum_all()? + b.sum_all()? + head.sum_all()?)?;
        let parameters = [
            Parameter::new("a", &a),
            Parameter::new("b", &b),
            Parameter::new("head", &head),
        ];
        let owners = [Some(0), Some(1), None];
        let draws = |step| Draws {
            streams: Streams::new(1),
            step,
        };
        let changed = |noise, step| -> Result<[Vec<f64>; 3]> {
            let mut gradients = loss.backward()?;
            let factor = |factor: f64| Tensor::new(factor, &Device::Cpu);
            let modulation = Modulation {
                factors: PerModality::from([factor(0.25)?, factor(1.0)?]),
                noise,
            };
            modulation.apply(&mut gradients, &parameters, &owners, &draws(step))?;
            let of = |v: &Var| gradients.get(v).expect("tracked").to_vec1::<f64>();
            Ok([of(&a)?, of(&b)?, of(&head)?])
        };
        let plain = changed(false, 0)?;
        assert!(
            plain[0]
                .iter()
                .enumerate()
                .all(|(i, g)| *g == 0.25 * i as f64)
        );
        assert_eq!((&plain[1], &plain[2]), (&vec![1.0; 3], &vec![1.0; 2]));
        let noisy = changed(true, 0)?;
        let noise: Vec<f64> = noisy[0].iter().zip(&plain[0]).map(|(a, b)| a - b).collect();
        let spread = (noise.iter().map(|n| n * n).sum::<f64>() / 4000.).sqrt();
        // The deviation of 0..4000 is 1154.7; four standard errors of a deviation of 4000 draws.
        let expected = ((4000f64.powi(2) - 1.) / 12.).sqrt();
        assert!(
            (spread / expected - 1.).abs() < 4. / 8000f64.sqrt(),
            "{spread} against {expected}"
        );
        // A constant gradient has no deviation, and the head is nobody's.
        assert_eq!((&noisy[1], &noisy[2]), (&plain[1], &plain[2]));
        assert_eq!(changed(true, 0)?, noisy);
        assert_ne!(changed(true, 1)?[0], noisy[0]);
        Ok(())
    }
}
