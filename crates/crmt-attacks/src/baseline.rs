//! Baselines that serve the defender best: the constant input with which a fixed classifier errs
//! least where a modality is missing. Does not know attacks, nor how the classifier was trained.
use crate::{Error, Result, domain, goal::log_softmax};
use candle_core::{DType, Tensor};
use crmt_core::{Batch, Classifier, Modality, PerModality, input_gradients};

/// Rows that are evaluated together.
const CHUNK: usize = 128;

/// For each modality `m` one sample `u(m)` of its domain, near a minimum of the mean cross-entropy
/// `1/n sum_i CE(f(x_i with x_i(m) = u(m)), y_i)` of the fixed classifier on `batch`: alone `m` is
/// missing, so that no modality's baseline depends on another's. (With two modalities these are all
/// the subsets there are.)
///
/// Projected gradient descent on all of `batch` with the step lengths of Barzilai and Borwein
/// (1988), halved until the loss falls: deterministic, without a learning rate, and never worse on
/// `batch` than `start` (one sample each, inside its domain, no batch axis; the mean of the
/// training samples is a good one). `steps`: evaluations of the gradient for each modality. Fit it
/// on training samples: on those that are reported it would flatter the defender.
///
/// A modality that can't be missing (the only one) or that the classifier ignores keeps its start.
/// Same type as inputs.
///
/// # Errors
/// [`Error`] names the modality whose start has another shape or leaves its domain; also the
/// classifier's own.
pub fn learn_baselines(
    classifier: &dyn Classifier,
    batch: &Batch,
    start: &PerModality<Tensor>,
    steps: usize,
) -> Result<PerModality<Tensor>> {
    let modalities = classifier.modalities();
    batch.inputs.zip(modalities, "inputs")?;
    modalities
        .zip(start, "starts")?
        .try_enumerate(|m, (modality, start)| {
            let start = start.to_dtype(batch.inputs[m].dtype())?.unsqueeze(0)?;
            domain::check(&start, modality)?;
            if modalities.len() == 1 || batch.is_empty() {
                return Ok(start.squeeze(0)?);
            }
            match (Fit {
                classifier,
                batch,
                m,
                modality,
            })
            .descend(start.clone(), steps)
            {
                Err(Error::Core(crmt_core::Error::NoGradient { .. })) => Ok(start.squeeze(0)?),
                found => Ok(found?.squeeze(0)?),
            }
        })
}

/// The baseline of one modality, `[1, ...]` throughout.
struct Fit<'a> {
    classifier: &'a dyn Classifier,
    batch: &'a Batch,
    m: usize,
    modality: &'a Modality,
}

impl Fit<'_> {
    fn descend(&self, mut u: Tensor, steps: usize) -> Result<Tensor> {
        let (mut loss, mut gradient) = self.loss(&u)?;
        // As far as samples are from the start, on average; a unit, where they do not differ from
        // it.
        let square =
            dot(&self.batch.inputs[self.m].broadcast_sub(&u)?, None)? / self.batch.len() as f64;
        let square = if square > 0. {
            square
        } else {
            self.modality.scale.powi(2)
        };
        let mut step = (square / dot(&gradient, None)?).sqrt();
        for _ in 1..steps {
            // Flat, or nothing to compare with.
            if !(step.is_finite() && step > 0.) {
                break;
            }
            let next = domain::clamp(&(&u - (&gradient * step)?)?, self.modality)?;
            let (next_loss, next_gradient) = self.loss(&next)?;
            if next_loss < loss {
                let (moved, bent) = ((&next - &u)?, (&next_gradient - &gradient)?);
                let curvature = dot(&moved, Some(&bent))?;
                step = if curvature > 0. {
                    dot(&moved, None)? / curvature
                } else {
                    2. * step
                };
                (u, loss, gradient) = (next, next_loss, next_gradient);
            } else {
                step *= 0.5;
            }
        }
        Ok(u)
    }

    /// Mean cross-entropy with `u` in place of the modality, and its gradient.
    fn loss(&self, u: &Tensor) -> Result<(f64, Tensor)> {
        let (mut loss, mut gradient, n) = (0., u.zeros_like()?, self.batch.len());
        for start in (0..n).step_by(CHUNK) {
            let part = self.batch.narrow(start, CHUNK.min(n - start))?;
            let (g, sum) = input_gradients(&PerModality::from([u.clone()]), |leaf| {
                let x = part
                    .inputs
                    .try_enumerate(|m, x| -> crmt_core::Result<Tensor> {
                        if m == self.m {
                            Ok(leaf[0].broadcast_as(x.shape())?.contiguous()?)
                        } else {
                            Ok(x.contiguous()?)
                        }
                    })?;
                let log_p = log_softmax(&self.classifier.logits(&x)?)?;
                let sum = log_p
                    .gather(&part.labels.unsqueeze(1)?, 1)?
                    .sum_all()?
                    .neg()?;
                let value = sum.to_dtype(DType::F64)?.to_scalar::<f64>()?;
                Ok((sum, value))
            })?;
            loss += sum / n as f64;
            gradient = (gradient + (&g[0] / n as f64)?)?;
        }
        Ok((loss, gradient))
    }
}

/// Of `a` and `b`, or of `a` and itself.
fn dot(a: &Tensor, b: Option<&Tensor>) -> Result<f64> {
    let b = b.unwrap_or(a);
    let product = |a: &Tensor, b: &Tensor| -> Result<f64> {
        Ok((a * b)?.to_dtype(DType::F64)?.sum_all()?.to_scalar()?)
    };
    let found = product(a, b)?;
    // Products of what is tiny or huge are lost in `f32`, but not in `f64`.
    match (1e-30..1e30).contains(&found.abs()) {
        true => Ok(found),
        false => product(&a.to_dtype(DType::F64)?, &b.to_dtype(DType::F64)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{accuracy, missing_accuracy};
    use candle_core::Device;
    use crmt_core::{Domain, Missing, Streams};
    use rand::Rng;

    /// `h = (0, sum_m w_m . x(m))`, and the modality `c` that nothing depends on.
    struct Logistic(PerModality<Modality>, PerModality<Tensor>);

    impl Logistic {
        fn new(domain: Domain) -> Self {
            let names = ["a", "b", "c"].map(|name| Modality::new(name, &[2], domain.clone()));
            let w = [[1f64, 2.], [3., 0.], [0., 0.]]
                .map(|w| Tensor::new(&w, &Device::Cpu).unwrap().unsqueeze(1).unwrap());
            Self(names.into(), w.into())
        }
    }

    impl Classifier for Logistic {
        fn modalities(&self) -> &PerModality<Modality> {
            &self.0
        }
        fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
            let h = (x[0].matmul(&self.1[0])? + x[1].matmul(&self.1[1])?)?;
            Ok(Tensor::cat(&[&h.zeros_like()?, &h], 1)?)
        }
    }

    /// 300 rows at `b = 0`, a quarter of them of class 0.
    fn batch() -> Batch {
        let labels: Vec<u32> = (0..300).map(|i| u32::from(i % 4 > 0)).collect();
        let zeros = Tensor::zeros((300, 2), DType::F64, &Device::Cpu).unwrap();
        let a = zeros.affine(0., 0.5).unwrap();
        let labels = Tensor::new(labels.as_slice(), &Device::Cpu).unwrap();
        Batch::new(PerModality::from([a, zeros.clone(), zeros]), labels).unwrap()
    }

    fn zeros(n: usize) -> PerModality<Tensor> {
        PerModality::from_fn(n, |_| Tensor::zeros(2, DType::F64, &Device::Cpu).unwrap())
    }

    /// Where nothing else tells classes apart the minimum is the prior's log-odds: `w . u = ln 3`,
    /// minus what the others say; within a domain, its end.
    #[test]
    fn of_a_logistic_model_the_minimum_is_known() -> Result<()> {
        let model = Logistic::new(Domain::Unbounded);
        let learned = learn_baselines(&model, &batch(), &zeros(3), 60)?;
        let at = |m: usize| -> Result<f64> {
            Ok(learned[m]
                .unsqueeze(0)?
                .matmul(&model.1[m])?
                .flatten_all()?
                .to_vec1::<f64>()?[0])
        };
        // Descent ends where the loss no longer falls in f64: it is flat to 1e-16, so its argument
        // is known to 1e-8.
        assert!((at(0)? - 3f64.ln()).abs() < 1e-6, "{}", at(0)?);
        // With `a` there, at w . a = 1.5.
        assert!((at(1)? - (3f64.ln() - 1.5)).abs() < 1e-6, "{}", at(1)?);
        assert_eq!(
            learned[2].to_vec1::<f64>()?,
            [0., 0.],
            "nothing depends on it"
        );
        let box_of = |hi| Domain::Interval { lo: 0., hi };
        let small = learn_baselines(&Logistic::new(box_of(0.2)), &batch(), &zeros(3), 60)?;
        assert_eq!(
            small[0].to_vec1::<f64>()?,
            [0.2, 0.2],
            "0.2 + 2 * 0.2 is still below ln 3"
        );
        Ok(())
    }

    /// `sum_m tanh(x A) B`, against finite improvements: never worse than any start, the same
    /// twice, inside.
    struct Net(PerModality<Modality>, PerModality<(Tensor, Tensor)>);

    impl Classifier for Net {
        fn modalities(&self) -> &PerModality<Modality> {
            &self.0
        }
        fn logits(&self, x: &PerModality<Tensor>) -> crmt_core::Result<Tensor> {
            let term = |m: usize| -> crmt_core::Result<Tensor> {
                Ok(x[m].matmul(&self.1[m].0)?.tanh()?.matmul(&self.1[m].1)?)
            };
            (1..x.len()).try_fold(term(0)?, |sum, m| Ok((sum + term(m)?)?))
        }
    }

    #[test]
    fn never_worse_than_the_start_and_the_same_again() -> Result<()> {
        for (modalities, seed) in [(1, 0), (2, 1), (2, 2), (3, 3)] {
            let mut rng = Streams::new(seed).stream("learned", 0);
            let mut random = |shape: (usize, usize)| {
                let values: Vec<f32> = (0..shape.0 * shape.1)
                    .map(|_| rng.random_range(-1. ..1.))
                    .collect();
                Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
            };
            let domain = Domain::Interval { lo: -1., hi: 1. };
            let names = |m| Modality::new(format!("m{m}"), &[4], domain.clone());
            let layer = |random: &mut dyn FnMut((usize, usize)) -> Tensor| {
                (
                    (random((4, 8)) * 2.).unwrap(),
                    (random((8, 5)) * 2.).unwrap(),
                )
            };
            let model = Net(
                PerModality::from_fn(modalities, names),
                PerModality::from_fn(modalities, |_| layer(&mut random)),
            );
            let inputs = PerModality::from_fn(modalities, |_| random((200, 4)));
            let batch = Batch::new(inputs.clone(), model.logits(&inputs)?.argmax(1)?)?;
            let start = inputs.try_map(|x| x.mean(0))?;
            let learned = learn_baselines(&model, &batch, &start, 40)?;
            let fit = |m| Fit {
                classifier: &model,
                batch: &batch,
                m,
                modality: &model.0[m],
            };
            for m in 0..modalities {
                let loss = |u: &Tensor| -> Result<f64> { Ok(fit(m).loss(&u.unsqueeze(0)?)?.0) };
                let (before, after) = (loss(&start[m])?, loss(&learned[m])?);
                assert!(after <= before, "m{m}: {after} after {before}");
                // A random net leans on every modality: the mean is not the best there is, if a
                // good one.
                assert!(
                    modalities == 1 || after < before,
                    "m{m}: {after} after {before}"
                );
                let values = learned[m].to_vec1::<f32>()?;
                assert!(values.iter().all(|v| (-1. ..=1.).contains(v)), "{values:?}");
                // One evaluation is the start's own, so nothing has moved.
                assert_eq!(
                    learn_baselines(&model, &batch, &start, 1)?[m].to_vec1::<f32>()?,
                    start[m].to_vec1::<f32>()?
                );
                assert_eq!(
                    learn_baselines(&model, &batch, &start, 40)?[m].to_vec1::<f32>()?,
                    values
                );
            }
            let table = missing_accuracy(&model, &batch, &learned)?;
            assert_eq!(table.len(), Missing::all(modalities).len());
            for row in table {
                let direct = accuracy(
                    &model.logits(&row.missing.apply(&inputs, &learned)?)?,
                    &batch.labels,
                )?;
                assert_eq!(row.accuracy, direct);
            }
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let model = Logistic::new(Domain::Interval { lo: 0., hi: 1. });
        let far = zeros(3).map(|u| (u + 2.).unwrap());
        let e = learn_baselines(&model, &batch(), &far, 5)
            .unwrap_err()
            .to_string();
        assert!(e.contains("`a`") && e.contains("domain"), "{e}");
        assert!(
            learn_baselines(&model, &batch(), &zeros(2), 5)
                .unwrap_err()
                .to_string()
                .contains("starts")
        );
    }
}
