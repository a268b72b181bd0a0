//! Seeded parameters by name, random tensors, and the search for a large ratio
//! `‖f(x) − f(y)‖ / ‖x − y‖`.
use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use crmt_core::{Encoder, Mode, Streams};
use rand_distr::{Distribution, StandardNormal};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// Variables by name, each initialised by its hint from a stream of its own.
#[derive(Clone)]
pub struct Store {
    pub variables: Arc<Mutex<BTreeMap<String, Var>>>,
    seed: u64,
    live: bool,
}

impl Store {
    pub fn new(seed: u64) -> Self {
        Self {
            variables: Arc::default(),
            seed,
            live: true,
        }
    }

    /// Variables that track gradients.
    pub fn live(&self, dtype: DType) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, Device::Cpu)
    }

    /// Tensors that share the variables' storage.
    pub fn frozen(&self, dtype: DType) -> VarBuilder<'static> {
        VarBuilder::from_backend(
            Box::new(Self {
                live: false,
                ..self.clone()
            }),
            dtype,
            Device::Cpu,
        )
    }

    pub fn names(&self) -> Vec<String> {
        self.variables.lock().unwrap().keys().cloned().collect()
    }

    /// Adds noise of this relative size to every parameter (in place, as training does).
    pub fn disturb(&self, seed: u64, size: f64) -> Result<()> {
        for (i, var) in self.variables.lock().unwrap().values().enumerate() {
            let scale = var
                .abs()?
                .mean_all()?
                .to_dtype(DType::F64)?
                .to_scalar::<f64>()?
                .max(0.05);
            let noise =
                (random(seed + i as u64, var.dims())? * (size * scale))?.to_dtype(var.dtype())?;
            var.set(&(var.as_tensor() + noise)?)?;
        }
        Ok(())
    }
}

impl SimpleBackend for Store {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        _: &Device,
    ) -> Result<Tensor> {
        let mut variables = self.variables.lock().unwrap();
        if !variables.contains_key(name) {
            let key = name.bytes().fold(self.seed, |k, b| {
                k.wrapping_mul(31).wrapping_add(u64::from(b))
            });
            let value = match init {
                Init::Const(c) => (Tensor::ones(&shape, DType::F64, &Device::Cpu)? * c)?,
                Init::Randn { mean, stdev } => random(key, shape.dims())?.affine(stdev, mean)?,
                other => candle_core::bail!("{name}: unexpected initialisation {other:?}"),
            };
            variables.insert(name.into(), Var::from_tensor(&value.to_dtype(dtype)?)?);
        }
        let var = &variables[name];
        Ok(if self.live {
            var.as_tensor().clone()
        } else {
            var.as_detached_tensor()
        })
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("`{name}` has no shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.variables.lock().unwrap().contains_key(name)
    }
}

/// Standard normal, `f64`.
pub fn random(seed: u64, shape: &[usize]) -> Result<Tensor> {
    let mut rng = Streams::new(seed).stream("test", 0);
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|_| StandardNormal.sample(&mut rng))
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn per_sample_norm(t: &Tensor) -> Result<Tensor> {
    t.flatten_from(1)?.sqr()?.sum(1)?.sqrt()
}

fn ratios(f: &dyn Encoder, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let encode = |x: &Tensor| f.encode(x, Mode::Eval).map_err(candle_core::Error::wrap);
    per_sample_norm(&(encode(x)? - encode(y)?)?)? / per_sample_norm(&(x - y)?)?
}

/// The largest ratio found from random pairs, near and far, by gradient ascent on `y`; and the mean
/// ratio of the random pairs before.
pub fn search(f: &dyn Encoder, shape: &[usize], seed: u64, steps: usize) -> Result<(f64, f64)> {
    const PAIRS: usize = 8;
    let batch: Vec<usize> = [PAIRS].iter().chain(shape).copied().collect();
    let (mut best, mut mean) = (0f64, 0f64);
    // Far pairs cross many kinks; near ones see one linear piece.
    let distances = [1.0, 0.1, 1e-3];
    for (i, distance) in distances.into_iter().enumerate() {
        let x = random(seed + 10 * i as u64, &batch)?;
        let d = random(seed + 10 * i as u64 + 1, &batch)?;
        let y = Var::from_tensor(&(&x + (d * distance)?)?)?;
        mean += ratios(f, &x, y.as_tensor())?
            .mean_all()?
            .to_scalar::<f64>()?
            / distances.len() as f64;
        for step in 0..=steps {
            let ratio = ratios(f, &x, y.as_tensor())?;
            best = best.max(ratio.max(0)?.to_scalar::<f64>()?);
            if step == steps {
                break;
            }
            let grads = ratio.sum_all()?.backward()?;
            let Some(grad) = grads.get(&y) else {
                candle_core::bail!("no input gradient")
            };
            // A step of half the distance, which keeps its length.
            let size = per_sample_norm(&(y.as_tensor() - &x)?)?;
            let column = |t: &Tensor| {
                t.reshape(
                    [PAIRS]
                        .iter()
                        .copied()
                        .chain(shape.iter().map(|_| 1))
                        .collect::<Vec<_>>(),
                )
            };
            let step =
                grad.broadcast_mul(&column(&(&size / (per_sample_norm(grad)? + 1e-300)?)?)?)?;
            let moved = ((y.as_tensor() - &x)? + (step * 0.5)?)?;
            let moved = moved.broadcast_mul(&column(&(&size / per_sample_norm(&moved)?)?)?)?;
            y.set(&(&x + moved)?.detach())?;
        }
    }
    Ok((best, mean))
}
