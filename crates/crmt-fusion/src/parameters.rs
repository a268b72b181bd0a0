//! The storage of a model's parameters: initialised from a seed by name, in a stable order.
//! Does not know which layers use them.
use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use candle_nn::{Init, VarBuilder, init::NormalOrUniform, var_builder::SimpleBackend};
use crmt_core::{Streams, Variable};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Named variables of one model.
///
/// A variable is created when a layer first asks for it, from a random stream of its own name:
/// the same seed gives the same weights whatever the order of the layers.
#[derive(Debug, Clone)]
pub struct Parameters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    streams: Streams,
    variables: Mutex<BTreeMap<String, Var>>,
}

impl Parameters {
    /// An empty store that initialises from `streams`.
    pub fn new(streams: Streams) -> Self {
        Self(Arc::new(Inner {
            streams,
            variables: Mutex::default(),
        }))
    }

    /// A builder whose tensors are the variables themselves: a model built on it learns.
    pub fn live(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(Live(self.clone())), dtype, device.clone())
    }

    /// A builder whose tensors share the variables' storage but track nothing: a model built on
    /// it follows every update, and attacks on it pay for no parameter gradient.
    pub fn frozen(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(Frozen(self.clone())), dtype, device.clone())
    }

    /// All variables, by name.
    pub fn variables(&self) -> Vec<Variable> {
        self.lock()
            .iter()
            .map(|(name, var)| Variable {
                name: name.clone(),
                var: var.clone(),
                learned: !is_statistic(name),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Var>> {
        self.0
            .variables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(
        &self,
        name: &str,
        shape: &Shape,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut rng = self.0.streams.stream(&format!("init:{name}"), 0);
        let n = shape.elem_count();
        let values: Vec<f64> = match init {
            Init::Const(value) => vec![value; n],
            Init::Uniform { lo, up } => (0..n).map(|_| rng.random_range(lo..up)).collect(),
            Init::Randn { mean, stdev } => normal(&mut rng, n, mean, stdev),
            Init::Kaiming {
                dist,
                fan,
                non_linearity,
            } => {
                let deviation = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
                match dist {
                    NormalOrUniform::Normal => normal(&mut rng, n, 0.0, deviation),
                    NormalOrUniform::Uniform => {
                        let bound = 3f64.sqrt() * deviation;
                        (0..n).map(|_| rng.random_range(-bound..bound)).collect()
                    }
                }
            }
        };
        Tensor::from_vec(values, shape, &Device::Cpu)?
            .to_dtype(dtype)?
            .to_device(device)
    }
}

/// Running statistics go by PyTorch's names; everything else is learned.
fn is_statistic(name: &str) -> bool {
    name.ends_with(".running_mean") || name.ends_with(".running_var")
}

fn normal(rng: &mut impl Rng, n: usize, mean: f64, deviation: f64) -> Vec<f64> {
    (0..n)
        .map(|_| {
            let z: f64 = StandardNormal.sample(rng);
            mean + deviation * z
        })
        .collect()
}

struct Live(Parameters);

impl SimpleBackend for Live {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut variables = self.0.lock();
        if let Some(var) = variables.get(name) {
            if var.shape() != &shape {
                bail!(
                    "parameter `{name}` exists with shape {:?}, a layer asks for {shape:?}",
                    var.shape()
                );
            }
            return Ok(var.as_tensor().clone());
        }
        let var = Var::from_tensor(&self.0.draw(name, &shape, init, dtype, device)?)?;
        variables.insert(name.to_owned(), var.clone());
        Ok(var.as_tensor().clone())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        match self.0.lock().get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => bail!("no parameter `{name}`"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.lock().contains_key(name)
    }
}

struct Frozen(Parameters);

impl SimpleBackend for Frozen {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            bail!(
                "parameter `{name}` has shape {:?}, a layer asks for {shape:?}",
                tensor.shape()
            );
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        match self.0.lock().get(name) {
            Some(var) => Ok(var.as_detached_tensor()),
            None => bail!("no parameter `{name}`"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.lock().contains_key(name)
    }
}
