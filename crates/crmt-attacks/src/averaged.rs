//! A classifier averaged over noise, for attacks on its smoothed version that see through the
//! noise. Does not know votes or certificates, whose referee it is.
use crate::{Error, Result, goal::log_softmax};
use candle_core::{Device, Tensor};
use crmt_core::{Classifier, Modality, PerModality, Streams};
use rand::Rng;
use rand_distr::StandardNormal;

/// Noisy copies that are evaluated together.
const CHUNK: usize = 512;

/// `log (1/n sum_i softmax f(x + sigma_m scale_m eta_i(m)))`, `eta_i ~ N(0, I)`: expectation over
/// transformation (Athalye et al. 2018) for noise, as in SmoothAdv (Salman et al. 2019), where `f`
/// is to be attacked that is used by majority of votes under noise. The gradients of `f` alone say
/// little of that majority.
///
/// The `n` draws are fixed when it is made (common random numbers), and *the same for every
/// sample*: a [`Classifier`] knows no sample but by its values, and so this one is a fixed function
/// like any other, whatever the batch, and every attack of the crate runs on it. They come in
/// opposite pairs (`eta`, `-eta`), which leaves the mean as it is, makes it exact for what is odd,
/// and so finds the boundary of a linear two-class model exactly. What an attack finds fits these
/// draws: judge it by fresh ones.
///
/// An evaluation costs `n` of `f`. Values are computed a few hundred noisy copies at a time; a
/// gradient keeps what `f` keeps for `n` copies of each row, so attack so many rows at once as fit,
/// e.g. `1000 / n`.
pub struct Averaged<'a> {
    model: &'a dyn Classifier,
    /// Per modality `[n, 1, ...]` in the array's units, `f64`; `None`: no noise on it.
    noise: PerModality<Option<Tensor>>,
    copies: usize,
}

impl<'a> Averaged<'a> {
    /// `sigmas`: standard deviation of the noise per modality, in declared units
    /// ([`Modality::scale`]); 0 for none. `copies`: `n`, drawn from the streams `averaged NAME` of
    /// `streams`.
    ///
    /// # Errors
    /// [`Error`] unless there is one finite sigma of at least 0 for each modality, and one copy.
    pub fn new(
        model: &'a dyn Classifier,
        sigmas: &PerModality<f64>,
        copies: usize,
        streams: Streams,
    ) -> Result<Self> {
        if copies == 0 {
            return Err(Error::Setting(
                "an average over noise needs at least one copy",
            ));
        }
        let noise = model
            .modalities()
            .zip(sigmas, "sigmas")?
            .try_map(|(modality, sigma)| {
                if !(sigma.is_finite() && **sigma >= 0.) {
                    return Err(Error::Sigma {
                        modality: modality.name.clone(),
                        sigma: **sigma,
                    });
                }
                (**sigma > 0.)
                    .then(|| noise(modality, **sigma, copies, streams))
                    .transpose()
            })?;
        Ok(Self {
            model,
            noise,
            copies,
        })
    }
}

/// `[copies, 1, ...]`: copy `2 i` from stream `i`, copy `2 i + 1` its opposite.
fn noise(modality: &Modality, sigma: f64, copies: usize, streams: Streams) -> Result<Tensor> {
    let (size, sigma) = (
        modality.shape.iter().product::<usize>(),
        sigma * modality.scale,
    );
    let purpose = format!("averaged {}", modality.name);
    let mut values = Vec::with_capacity(copies * size);
    for copy in 0..copies {
        let new = values.len();
        if copy % 2 == 0 {
            let mut rng = streams.stream(&purpose, copy as u64 / 2);
            values.extend((0..size).map(|_| sigma * rng.sample::<f64, _>(StandardNormal)));
        } else {
            values.extend_from_within(new - size..);
            values[new..].iter_mut().for_each(|v| *v = -*v);
        }
    }
    Ok(Tensor::from_vec(
        values,
        [&[copies, 1], modality.shape.as_slice()].concat(),
        &Device::Cpu,
    )?)
}

impl Classifier for Averaged<'_> {
    fn modalities(&self) -> &PerModality<Modality> {
        self.model.modalities()
    }

    fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
        self.noise.zip(x, "inputs")?;
        let rows = x[0].dim(0)?;
        let together = (CHUNK / rows.max(1)).max(1);
        let mut parts = vec![];
        for start in (0..self.copies).step_by(together) {
            let copies = together.min(self.copies - start);
            let noisy = x.try_enumerate(|m, x| -> crmt_core::Result<Tensor> {
                let all = x
                    .unsqueeze(0)?
                    .broadcast_as([&[copies], x.dims()].concat())?;
                let noisy = match &self.noise[m] {
                    None => all.contiguous()?,
                    Some(noise) => {
                        let noise = noise
                            .narrow(0, start, copies)?
                            .to_dtype(x.dtype())?
                            .to_device(x.device())?;
                        all.broadcast_add(&noise)?
                    }
                };
                Ok(noisy.flatten(0, 1)?)
            })?;
            let log_p = log_softmax(&self.model.logits(&noisy)?)?;
            parts.push(log_p.reshape((copies, rows, ()))?);
        }
        let all = Tensor::cat(&parts, 0)?;
        // The shift cancels in the value and its derivative: treating it as a constant is exact.
        let shift = all.max_keepdim(0)?.detach();
        Ok((all.broadcast_sub(&shift)?.exp()?.mean_keepdim(0)?.log()? + shift)?.squeeze(0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Budget, Draws, Goal, Loss, Pgd, correct, run_within};
    use crmt_core::{Domain, Missing};

    /// `h = (g(x), 0)` with `g` of the sum of all features of each modality, weighted.
    struct Scalar<F> {
        modalities: PerModality<Modality>,
        g: F,
    }

    impl<F: Fn(&Tensor) -> candle_core::Result<Tensor>> Classifier for Scalar<F> {
        fn modalities(&self) -> &PerModality<Modality> {
            &self.modalities
        }
        fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
            let term = |m: usize| x[m].sum_keepdim(1)? * WEIGHTS[m];
            let sum = (1..x.len()).try_fold(term(0)?, |sum, m| sum + term(m)?)?;
            let h = (self.g)(&sum)?;
            Ok(Tensor::cat(&[&h, &h.zeros_like()?], 1)?)
        }
    }

    const WEIGHTS: [f64; 2] = [1., -2.];

    fn scalar<F>(g: F) -> Scalar<F> {
        let modality = |m| Modality {
            scale: [1., 0.5][m],
            ..Modality::new(["a", "b"][m], &[m + 1], Domain::Unbounded)
        };
        Scalar {
            modalities: PerModality::from_fn(2, modality),
            g,
        }
    }

    fn points(values: &[f64]) -> PerModality<Tensor> {
        let column = |width: usize, v: &dyn Fn(f64) -> f64| {
            let rows: Vec<f64> = values.iter().flat_map(|x| vec![v(*x); width]).collect();
            Tensor::from_vec(rows, (values.len(), width), &Device::Cpu).unwrap()
        };
        PerModality::from([column(1, &|x| x), column(2, &|_| 0.)])
    }

    /// How many of samples on class 0 change class within `fraction` of their distances, and where
    /// they end.
    fn attack(
        model: &dyn Classifier,
        x: &PerModality<Tensor>,
        distances: &[f64],
        fraction: f64,
    ) -> Result<(usize, PerModality<Tensor>)> {
        let goal = Goal::Avoid(Tensor::zeros(
            distances.len(),
            candle_core::DType::U32,
            &Device::Cpu,
        )?);
        let within: Vec<f64> = distances.iter().map(|d| fraction * d).collect();
        let pgd = Pgd {
            to_the_end: true,
            ..Pgd::quick(Budget::Joint(1.), 40, Loss::Margin)
        };
        let outcome = run_within(
            &pgd,
            model,
            x,
            &goal,
            &Draws::new(Streams::new(0), 0),
            &within,
        )?;
        Ok((
            outcome.success.iter().filter(|s| **s).count(),
            outcome.adversarial,
        ))
    }

    /// In declared units `a x - 2 (b1 + b2) = 0` lies at `x / |(1, 2 * 0.5 * sqrt 2)|`.
    fn distance(x: f64) -> f64 {
        x / 3f64.sqrt()
    }

    /// A linear model's smoothed version has the model's own boundary, whatever the noise: attacks
    /// on the average get through just beyond it and not before, though the noise is far larger
    /// than the distance.
    #[test]
    fn the_boundary_of_a_smoothed_linear_model_is_reached_exactly() -> Result<()> {
        let model = scalar(|sum: &Tensor| sum * 3.);
        let x = [0.1, 0.5, 1., 2.];
        let distances = x.map(distance);
        for (sigmas, copies) in [([1., 2.], 2), ([3., 0.], 10), ([0.5, 0.5], 64)] {
            let averaged = Averaged::new(&model, &sigmas.into(), copies, Streams::new(1))?;
            // Budgets hold to 1e-6, and f64 knows the boundary to less.
            let inside = attack(&averaged, &points(&x), &distances, 0.9999)?.0;
            let beyond = attack(&averaged, &points(&x), &distances, 1.0001)?.0;
            assert_eq!((inside, beyond), (0, 4), "{sigmas:?}, {copies} copies");
        }
        Ok(())
    }

    /// `sum + 0.5 sin(12 sum)` has troughs below 0 on the side of class 0 and slopes that lead
    /// away; of its smoothed version (odd, and the ripple is gone) only the far side of 0 is
    /// class 1. The plain attack ends in a trough or on the wrong side, the averaged one where the
    /// votes change.
    #[test]
    fn ripples_stop_the_plain_attack_only() -> Result<()> {
        let model = scalar(|sum: &Tensor| (sum * 12.)?.sin()? * 0.5 + sum);
        let x = [0.6, 0.8];
        let distances = x.map(distance);
        let sigmas = PerModality::from([0.5, 0.3]);
        // Shares of fresh noise, 2000 draws: 1.1 % off (one standard deviation) where they are near
        // one half.
        let votes = |x: &PerModality<Tensor>| -> Result<Vec<f64>> {
            let fresh = PerModality::from([0, 1])
                .try_map(|m| noise(&model.modalities[*m], sigmas[*m], 2000, Streams::new(9)))?;
            let of = |row: usize| -> Result<f64> {
                let noisy = x.try_enumerate(|m, x| {
                    x.narrow(0, row, 1)?.broadcast_add(&fresh[m].squeeze(1)?)
                })?;
                let zero = correct(
                    &model.logits(&noisy)?,
                    &Tensor::zeros(2000, candle_core::DType::U32, &Device::Cpu)?,
                )?;
                Ok(zero.iter().filter(|z| **z).count() as f64 / 2000.)
            };
            (0..2).map(of).collect()
        };
        let averaged = Averaged::new(&model, &sigmas, 128, Streams::new(1))?;
        let of_plain = |fraction| votes(&attack(&model, &points(&x), &distances, fraction)?.1);
        let of_averaged =
            |fraction| votes(&attack(&averaged, &points(&x), &distances, fraction)?.1);
        // By integration: 0.77 and 0.85 unattacked; at 1.3 distances, which end at -0.18
        // and -0.24, 0.42 and 0.39.
        let (clean, plain, found) = (of_plain(0.)?, of_plain(1.3)?, of_averaged(1.3)?);
        assert!(clean.iter().all(|v| *v > 0.7), "{clean:?}");
        assert!(
            plain.iter().all(|v| *v > 0.6),
            "the votes hardly mind: {plain:?}"
        );
        assert!(found.iter().all(|v| *v < 0.46), "{found:?}");
        // Inside, there is nothing to find: 0.59 and 0.63 at 0.7 distances.
        let inside = of_averaged(0.7)?;
        assert!(inside.iter().all(|v| *v > 0.54), "{inside:?}");
        Ok(())
    }

    #[test]
    fn it_is_the_mean_of_probabilities_whatever_the_batch() -> Result<()> {
        let model = scalar(|sum: &Tensor| sum.tanh()? * 2.);
        let sigmas = PerModality::from([0.7, 0.]);
        let (copies, x) = (37, [0.3, -1., 2.]);
        let averaged = Averaged::new(&model, &sigmas, copies, Streams::new(4))?;
        let all = averaged.logits(&points(&x))?.to_vec2::<f64>()?;
        // By hand: `a` has scale 1 and weight 1, `b` no noise and value 0.
        let eta = noise(&model.modalities[0], 0.7, copies, Streams::new(4))?
            .flatten_all()?
            .to_vec1::<f64>()?;
        assert!(
            eta.chunks_exact(2).all(|pair| pair[0] == -pair[1]) && eta[36] != 0.,
            "{eta:?}"
        );
        for (x, row) in x.iter().zip(&all) {
            let p = eta
                .iter()
                .map(|e| 1. / (1. + (-2. * (x + e).tanh()).exp()))
                .sum::<f64>()
                / copies as f64;
            // A few roundings of numbers near 1.
            assert!(
                (row[0] - p.ln()).abs() < 1e-13 && (row[1] - (1. - p).ln()).abs() < 1e-13,
                "{row:?} for {p}"
            );
        }
        // More rows than are evaluated together, and any sample alone.
        let many: Vec<f64> = (0..700).map(|i| x[i % 3]).collect();
        let many = averaged.logits(&points(&many))?.to_vec2::<f64>()?;
        for (i, row) in many.iter().enumerate() {
            assert!(
                row.iter()
                    .zip(&all[i % 3])
                    .all(|(a, b)| (a - b).abs() < 1e-13),
                "row {i}"
            );
        }
        // Without a modality: the average of what is left.
        let baselines = PerModality::from([
            Tensor::new(&[0.5], &Device::Cpu)?,
            Tensor::new(&[0., 0.], &Device::Cpu)?,
        ]);
        let victim = crate::Victim::new(&model, Some(Missing::each(2).remove(0)), &baselines)?;
        let left = Averaged::new(&victim, &PerModality::from([0.2]), 8, Streams::new(0))?;
        assert_eq!(left.logits(&victim.part(&points(&x)))?.dims(), [3, 2]);
        Ok(())
    }

    /// Central differences of `f64`: off by about `h^2` and `1e-16 / h`.
    #[test]
    fn gradients_flow_through_every_copy() -> Result<()> {
        let model = scalar(|sum: &Tensor| sum.tanh()? * 2. + (sum * 0.3)?.sin()?);
        let averaged = Averaged::new(&model, &PerModality::from([0.7, 0.4]), 600, Streams::new(4))?;
        let at = points(&[0.3, -1.]);
        let own = |x: &PerModality<Tensor>| -> crmt_core::Result<Tensor> {
            Ok(averaged.logits(x)?.narrow(1, 0, 1)?.sum_all()?)
        };
        let (g, ()) = crmt_core::input_gradients(&at, |x| Ok((own(x)?, ())))?;
        let h = 1e-4;
        for m in 0..2 {
            let moved = |by: f64| -> Result<f64> {
                let x = at.try_enumerate(|i, x| if i == m { x + by } else { Ok(x.clone()) })?;
                Ok(own(&x)?.to_scalar()?)
            };
            let want = (moved(h)? - moved(-h)?) / (2. * h);
            let got = g[m].sum_all()?.to_scalar::<f64>()?;
            assert!(
                (got - want).abs() < 1e-6 && want.abs() > 0.01,
                "m{m}: {got} for {want}"
            );
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let model = scalar(|sum: &Tensor| Ok(sum.clone()));
        let refused = |sigmas: &[f64], copies| {
            let sigmas = PerModality::new(sigmas.to_vec()).unwrap();
            Averaged::new(&model, &sigmas, copies, Streams::new(0))
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default()
        };
        assert!(
            refused(&[1., -1.], 4).contains("`b`") && refused(&[f64::NAN, 1.], 4).contains("`a`")
        );
        assert!(refused(&[1.], 4).contains("sigmas") && refused(&[1., 1.], 0).contains("copy"));
    }
}
