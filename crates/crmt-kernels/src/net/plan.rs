//! What a network computes, step by step: layers that can share a pass over memory become one step,
//! and residual branches become steps that read an earlier result.
//!
//! Knows shapes and which results are needed when, and nothing of elements.
use super::{KernelCache, NetworkLayer};
use crate::RunningStats;
use crate::conv::{Algorithms, Convolution, geometry::Geometry};
use crate::real::Real;
use candle_core::{Result, Tensor, bail};

/// `result = relu(operation(input) + add)`, the last two only where asked for.
#[derive(Debug)]
pub(crate) struct Step {
    pub operation: Operation,
    /// Number of a value: 0 is the network's input, `i + 1` the result of step `i`.
    pub input: usize,
    pub add: Option<usize>,
    pub relu: bool,
    /// Whether the gradient of the result comes with zeros where the ReLU stops it.
    pub stopped: bool,
}

#[derive(Debug)]
pub(crate) enum Operation {
    Convolution {
        conv: Convolution,
        /// Numbers of parameters.
        kernel: usize,
        bias: Option<usize>,
        /// A normalisation by constants that is part of the kernel and the bias.
        folded: Option<Normalisation>,
        cache: KernelCache,
    },
    Normalisation(Normalisation),
    MaxPool {
        kernel: usize,
        stride: usize,
        padding: usize,
    },
    Mean,
    /// The input itself.
    Same,
}

#[derive(Debug)]
pub(crate) struct Normalisation {
    /// Numbers of parameters.
    pub gamma: usize,
    pub beta: usize,
    pub running: RunningStats,
    pub momentum: Option<f64>,
    pub eps: f64,
}

/// `height, width, channels` of a sample.
type Sample = [usize; 3];

#[derive(Debug)]
pub(crate) struct Plan {
    pub batch: usize,
    pub steps: Vec<Step>,
    /// Of each value.
    pub samples: Vec<Sample>,
    pub parameters: Vec<Tensor>,
    /// Which values have a gradient that somebody needs.
    pub needed: Vec<bool>,
    /// The last step that reads each value.
    pub last_use: Vec<usize>,
}

impl Plan {
    pub fn new<T: Real>(
        batch: usize,
        input: Sample,
        layers: &[NetworkLayer],
        algorithms: Algorithms,
        track: bool,
    ) -> Result<Self> {
        let (samples, needed) = (vec![input], vec![]);
        let mut plan = Self {
            batch,
            steps: vec![],
            samples,
            parameters: vec![],
            needed,
            last_use: vec![],
        };
        let last = plan.chain::<T>(layers, 0, algorithms)?;
        if last != plan.steps.len() || plan.steps.is_empty() {
            plan.step(Operation::Same, last, plan.samples[last]);
        }
        plan.need(track);
        plan.last_use = (0..plan.samples.len())
            .map(|value| {
                let reads = |step: &Step| step.input == value || step.add == Some(value);
                plan.steps
                    .iter()
                    .rposition(reads)
                    .unwrap_or(plan.steps.len())
            })
            .collect();
        for i in 0..plan.steps.len() {
            let first = plan
                .steps
                .iter()
                .find(|step| step.input == i + 1 || step.add == Some(i + 1));
            let by_convolution = first.is_some_and(|first| {
                matches!(first.operation, Operation::Convolution { .. }) && first.input == i + 1
            });
            let step = &mut plan.steps[i];
            step.stopped = step.relu
                && by_convolution
                && !matches!(step.operation, Operation::Normalisation(_));
        }
        Ok(plan)
    }

    /// Which gradients are needed, if that of the input is or is not.
    fn need(&mut self, input: bool) {
        self.needed = vec![input];
        for step in &self.steps {
            let tracked = |i: usize| self.parameters[i].track_op();
            let own = match &step.operation {
                Operation::Convolution { kernel, bias, .. } => {
                    tracked(*kernel) || bias.is_some_and(tracked)
                }
                Operation::Normalisation(norm) => tracked(norm.gamma) || tracked(norm.beta),
                Operation::MaxPool { .. } | Operation::Mean | Operation::Same => false,
            };
            let needed =
                own || self.needed[step.input] || step.add.is_some_and(|add| self.needed[add]);
            self.needed.push(needed);
        }
    }

    /// Elements of a value.
    pub fn len(&self, value: usize) -> usize {
        self.batch * self.samples[value].iter().product::<usize>()
    }

    /// `[batch, channels, height, width]`.
    pub fn result_shape(&self) -> Vec<usize> {
        let [height, width, channels] = self.samples[self.samples.len() - 1];
        vec![self.batch, channels, height, width]
    }

    fn step(&mut self, operation: Operation, input: usize, sample: Sample) -> usize {
        self.steps.push(Step {
            operation,
            input,
            add: None,
            relu: false,
            stopped: false,
        });
        self.samples.push(sample);
        self.steps.len()
    }

    fn parameter(&mut self, tensor: &Tensor, expected: &[usize], what: &str) -> Result<usize> {
        if tensor.dims() != expected {
            bail!(
                "image_network: {what} has shape {:?}, expected {expected:?}",
                tensor.dims()
            )
        }
        self.parameters.push(tensor.contiguous()?);
        Ok(self.parameters.len() - 1)
    }

    /// The step whose result is `value`, if its value before a sum or a ReLU is not needed by
    /// itself.
    fn open(&mut self, value: usize, from: usize) -> Option<&mut Step> {
        // A value from before this list of layers may be read elsewhere.
        let last = value == self.steps.len() && value > from;
        self.steps
            .last_mut()
            .filter(|step| last && !step.relu && takes_sum(&step.operation))
    }

    fn chain<T: Real>(
        &mut self,
        layers: &[NetworkLayer],
        from: usize,
        algorithms: Algorithms,
    ) -> Result<usize> {
        let mut value = from;
        for layer in layers {
            let sample @ [height, width, channels] = self.samples[value];
            value = match layer {
                NetworkLayer::Conv2d {
                    kernel,
                    bias,
                    stride,
                    padding,
                    cache,
                } => {
                    let g = Geometry::new(
                        &[self.batch, channels, height, width],
                        kernel.dims(),
                        *stride,
                        *padding,
                    )?;
                    let bias = bias
                        .as_ref()
                        .map(|b| self.parameter(b, &[g.co], "a convolution's bias"))
                        .transpose()?;
                    let kernel = self.parameter(kernel, kernel.dims(), "a kernel")?;
                    let (conv, cache) = (Convolution::new::<T>(g, algorithms), cache.clone());
                    let operation = Operation::Convolution {
                        conv,
                        kernel,
                        bias,
                        folded: None,
                        cache,
                    };
                    self.step(operation, value, [g.oh, g.ow, g.co])
                }
                NetworkLayer::BatchNorm {
                    gamma,
                    beta,
                    running,
                    momentum,
                    eps,
                } => {
                    let gamma =
                        self.parameter(gamma, &[channels], "batch normalisation's gamma")?;
                    let beta = self.parameter(beta, &[channels], "batch normalisation's beta")?;
                    for (what, moment) in [("mean", &running.mean), ("variance", &running.variance)]
                    {
                        if moment.dims() != [channels] {
                            bail!(
                                "image_network: running {what} has shape {:?}, expected [{channels}]",
                                moment.dims()
                            )
                        }
                    }
                    if momentum.is_some() && self.batch * height * width < 2 {
                        bail!(
                            "image_network: {} samples of {height}×{width} pixels give {} value(s) for each of {channels} \
                             channels; batch statistics need at least 2, use a larger batch",
                            self.batch,
                            self.batch * height * width
                        )
                    }
                    let norm = Normalisation {
                        gamma,
                        beta,
                        running: running.clone(),
                        momentum: *momentum,
                        eps: *eps,
                    };
                    let constant = momentum.is_none()
                        && !self.parameters[gamma].track_op()
                        && !self.parameters[beta].track_op();
                    self.normalise(norm, constant, value, from, sample)
                }
                NetworkLayer::Relu => {
                    if self.open(value, from).is_none() {
                        value = self.step(Operation::Same, value, sample);
                    }
                    if let Some(step) = self.open(value, from) {
                        step.relu = true;
                    }
                    value
                }
                NetworkLayer::MaxPool2d {
                    kernel,
                    stride,
                    padding,
                } => {
                    let (kernel, stride, padding) = (*kernel, *stride, *padding);
                    crate::pool::check([height, width], kernel, stride, padding)?;
                    let out = |len: usize| (len + 2 * padding - kernel) / stride + 1;
                    let to = [out(height), out(width), channels];
                    self.step(
                        Operation::MaxPool {
                            kernel,
                            stride,
                            padding,
                        },
                        value,
                        to,
                    )
                }
                NetworkLayer::Residual { branch, shortcut } => {
                    let add = self.chain::<T>(shortcut, value, algorithms)?;
                    let start = self.steps.len();
                    let end = self.chain::<T>(branch, value, algorithms)?;
                    if self.samples[add] != self.samples[end] {
                        let ([h, w, c], [height, width, channels]) =
                            (self.samples[add], self.samples[end]);
                        bail!(
                            "image_network: a residual branch gives {channels} channels of {height}×{width}, its \
                             shortcut {c} of {h}×{w}"
                        )
                    }
                    // The branch's own last step takes the sum, unless it has one.
                    let open = end > start && end == self.steps.len() && {
                        let step = &self.steps[end - 1];
                        !step.relu && step.add.is_none() && takes_sum(&step.operation)
                    };
                    let end = if open {
                        end
                    } else {
                        self.step(Operation::Same, end, self.samples[end])
                    };
                    self.steps[end - 1].add = Some(add);
                    end
                }
                NetworkLayer::Mean => self.step(Operation::Mean, value, [1, 1, channels]),
            };
        }
        Ok(value)
    }

    /// As part of the convolution before if all are constants, or a step of its own.
    fn normalise(
        &mut self,
        norm: Normalisation,
        constant: bool,
        value: usize,
        from: usize,
        sample: Sample,
    ) -> usize {
        let parameters = &self.parameters;
        let last = value == self.steps.len() && value > from;
        if let Some(step) = self
            .steps
            .last_mut()
            .filter(|step| last && constant && !step.relu && step.add.is_none())
            && let Operation::Convolution {
                kernel,
                bias,
                folded: folded @ None,
                ..
            } = &mut step.operation
            && !parameters[*kernel].track_op()
            && bias.is_none_or(|bias| !parameters[bias].track_op())
        {
            *folded = Some(norm);
            return value;
        }
        self.step(Operation::Normalisation(norm), value, sample)
    }
}

fn takes_sum(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Convolution { .. } | Operation::Normalisation(_) | Operation::Same
    )
}
