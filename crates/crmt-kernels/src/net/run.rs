//! The two passes through a network: step by step over the whole batch, each step cut into tasks by
//! itself.
//!
//! Knows what each step needs and leaves, and nothing of how a layer is computed or of autograd.
use super::cache::Direction;
use super::norm;
use super::plan::{Operation, Plan, Step};
use crate::activation::positive_part;
use crate::batch_norm::Moments;
use crate::conv::Epilogue;
use crate::real::{Kept, Read, Real};
use crate::rows::{bias_gradient, each, scale_rows, stop, swap};
use crate::simd::wide;
use candle_core::{Result, bail};
use rayon::prelude::*;

/// What the forward pass leaves for the backward pass.
pub(super) struct Tape<T: Real> {
    values: Vec<Kept<T>>,
    /// Of each step.
    extras: Vec<Extra>,
}

pub(super) enum Extra {
    None,
    Moments(Moments),
    /// For each result of a pooling, which element of its window was the maximum.
    Winners(Vec<u16>),
}

/// The network's result `[batch, channels, height, width]` for `x` in the same order, and the tape,
/// of which only the last value remains unless `keep`. `again` if the same was computed before:
/// running statistics have moved already.
pub(super) fn forward<T: Real>(
    plan: &Plan,
    x: &[T],
    keep: bool,
    again: bool,
) -> Result<(Vec<T>, Tape<T>)> {
    let mut values: Vec<Kept<T>> = plan.samples.iter().map(|_| Kept::new()).collect();
    let mut extras = Vec::with_capacity(plan.steps.len());
    let [height, width, channels] = plan.samples[0];
    swap(x, [channels, height * width], values[0].of(plan.len(0)));
    for (i, step) in plan.steps.iter().enumerate() {
        let (before, after) = values.split_at_mut(i + 1);
        let y = after[0].of(plan.len(i + 1));
        extras.push(one_forward(plan, step, i + 1, before, y, again)?);
        if !keep {
            for value in (0..=i).filter(|value| plan.last_use[*value] == i) {
                values[value] = Kept::new();
            }
        }
    }
    let [height, width, channels] = plan.samples[plan.steps.len()];
    let mut y = vec![T::ZERO; plan.len(plan.steps.len())];
    swap(
        values[plan.steps.len()].all(),
        [height * width, channels],
        &mut y,
    );
    Ok((y, Tape { values, extras }))
}

fn one_forward<T: Real>(
    plan: &Plan,
    step: &Step,
    value: usize,
    values: &[Kept<T>],
    y: &mut [T],
    again: bool,
) -> Result<Extra> {
    let (x, add) = (
        values[step.input].all(),
        step.add.map(|add| values[add].all()),
    );
    let [height, width, channels] = plan.samples[step.input];
    match &step.operation {
        Operation::Convolution {
            conv,
            kernel,
            bias,
            folded,
            cache,
        } => {
            let folded = folded
                .as_ref()
                .map(|norm| Folded::<T>::new(plan, norm))
                .transpose()?;
            let parameter = Read::new(&plan.parameters[*kernel]);
            let elements = parameter.elements()?;
            let own = bias.map(|bias| Read::new(&plan.parameters[bias]));
            let own = own.as_ref().map(Read::elements::<T>).transpose()?;
            let shift = folded.as_ref().map(|folded| folded.bias(own));
            let scale = folded.as_ref().map(|folded| &*folded.scale);
            let weights = cache.weights(
                conv,
                elements,
                Direction::Forward,
                !plan.parameters[*kernel].track_op(),
            );
            let bias = shift.as_deref().or(own);
            conv.forward(
                elements,
                &weights,
                x,
                y,
                &Epilogue {
                    scale,
                    bias,
                    add,
                    relu: step.relu,
                    ..Epilogue::default()
                },
            );
        }
        Operation::Normalisation(n) => {
            let (gamma, beta) = (
                Read::new(&plan.parameters[n.gamma]),
                Read::new(&plan.parameters[n.beta]),
            );
            let moments = match n.momentum {
                None => Moments::running(&n.running)?,
                Some(momentum) => {
                    let moments = norm::moments(x, channels);
                    if !again {
                        n.running.update(&moments, momentum)?;
                    }
                    moments
                }
            };
            let affine =
                norm::scale_and_shift::<T>(&moments, gamma.elements()?, beta.elements()?, n.eps);
            norm::apply(x, &affine, add, step.relu, y);
            return Ok(Extra::Moments(moments));
        }
        Operation::MaxPool {
            kernel,
            stride,
            padding,
        } => {
            let mut winners = vec![0; y.len()];
            let pool = Pool::new(plan, step.input, value, [*kernel, *stride, *padding]);
            pool.forward(x, y, &mut winners);
            return Ok(Extra::Winners(winners));
        }
        Operation::Mean => {
            let pixels = height * width;
            let scale = T::from_f64(1. / pixels as f64);
            y.par_chunks_mut(channels)
                .zip(x.par_chunks(pixels * channels))
                .for_each(|(y, x)| {
                    wide(
                        #[inline(always)]
                        || {
                            y.fill(T::ZERO);
                            for x in x.chunks_exact(channels) {
                                y.iter_mut().zip(x).for_each(|(y, x)| *y += *x);
                            }
                            y.iter_mut().for_each(|y| *y *= scale);
                        },
                    );
                });
        }
        Operation::Same => {
            y.copy_from_slice(x);
            if let Some(add) = add {
                each(
                    y,
                    add,
                    #[inline(always)]
                    |y, add| *y += add,
                );
            }
            if step.relu {
                y.par_iter_mut()
                    .with_min_len(1 << 14)
                    .for_each(|y| *y = positive_part(*y));
            }
        }
    }
    Ok(Extra::None)
}

/// A normalisation by constants: `sum · scale + shift`, each `[channels]`.
struct Folded<T> {
    scale: Vec<T>,
    shift: Vec<T>,
}

impl<T: Real> Folded<T> {
    fn new(plan: &Plan, norm: &super::plan::Normalisation) -> Result<Self> {
        let (gamma, beta) = (
            Read::new(&plan.parameters[norm.gamma]),
            Read::new(&plan.parameters[norm.beta]),
        );
        let moments = Moments::running(&norm.running)?;
        let both =
            norm::scale_and_shift::<T>(&moments, gamma.elements()?, beta.elements()?, norm.eps);
        let [scale, shift] = both.map(|v| v.into_iter().map(T::from_f64).collect());
        Ok(Self { scale, shift })
    }

    fn bias(&self, own: Option<&[T]>) -> Vec<T> {
        match own {
            None => self.shift.clone(),
            Some(own) => own
                .iter()
                .zip(&self.scale)
                .zip(&self.shift)
                .map(|((b, scale), shift)| *b * *scale + *shift)
                .collect(),
        }
    }
}

/// The gradient of the network's input, if needed, and of each parameter that tracks one, for the
/// gradient `dy` of its result `[batch, channels, height, width]`. What the tape holds is given up
/// step by step if this is the `last_time`.
#[expect(clippy::type_complexity, reason = "two kinds of gradients")]
pub(super) fn backward<T: Real>(
    plan: &Plan,
    tape: &mut Tape<T>,
    dy: &[T],
    last_time: bool,
) -> Result<(Option<Vec<T>>, Vec<Option<Vec<T>>>)> {
    let mut parameters: Vec<Option<Vec<T>>> = plan.parameters.iter().map(|_| None).collect();
    let mut gradients: Vec<Option<Kept<T>>> = plan.samples.iter().map(|_| None).collect();
    let last = plan.steps.len();
    let [height, width, channels] = plan.samples[last];
    let mut first = Kept::new();
    swap(dy, [channels, height * width], first.of(dy.len()));
    gradients[last] = Some(first);
    for (i, step) in plan.steps.iter().enumerate().rev() {
        let Some(g) = gradients[i + 1].take().filter(|_| plan.needed[i + 1]) else {
            continue;
        };
        one_backward(plan, tape, step, i, g, &mut gradients, &mut parameters)?;
        if last_time {
            tape.values[i + 1] = Kept::new();
        }
    }
    let dx = gradients[0].take().map(|g| {
        let [height, width, channels] = plan.samples[0];
        let mut dx = vec![T::ZERO; g.all().len()];
        swap(g.all(), [height * width, channels], &mut dx);
        dx
    });
    Ok((dx, parameters))
}

fn one_backward<T: Real>(
    plan: &Plan,
    tape: &Tape<T>,
    step: &Step,
    i: usize,
    mut g: Kept<T>,
    gradients: &mut [Option<Kept<T>>],
    parameters: &mut [Option<Vec<T>>],
) -> Result<()> {
    let (x, y) = (tape.values[step.input].all(), tape.values[i + 1].all());
    let [height, width, channels] = plan.samples[step.input];
    let to = plan.samples[i + 1];
    let tracked = |parameter: usize| plan.parameters[parameter].track_op();
    let wanted = plan.needed[step.input];
    if step.relu && !step.stopped && !matches!(step.operation, Operation::Normalisation(_)) {
        stop(g.all_mut(), y);
    }
    let add = step.add.filter(|add| plan.needed[*add]);
    if let Operation::Normalisation(n) = &step.operation {
        let Extra::Moments(moments) = &tape.extras[i] else {
            bail!("internal: no moments were kept")
        };
        let gamma = Read::new(&plan.parameters[n.gamma]);
        let mut dx = Kept::new();
        let stopped = step.relu.then_some(y);
        let own = norm::gradients(
            moments,
            n.momentum.is_none(),
            n.eps,
            gamma.elements()?,
            x,
            stopped,
            g.all_mut(),
            wanted.then_some(&mut dx),
        );
        parameters[n.gamma] = tracked(n.gamma).then_some(own.gamma);
        parameters[n.beta] = tracked(n.beta).then_some(own.beta);
        if let Some(add) = add {
            give(&mut gradients[add], g);
        }
        if wanted {
            give(&mut gradients[step.input], dx);
        }
        return Ok(());
    }
    if let Some(add) = add {
        match &mut gradients[add] {
            Some(sum) => plus(sum, g.all()),
            empty => {
                let mut copy = Kept::new();
                copy.of(g.all().len()).copy_from_slice(g.all());
                *empty = Some(copy);
            }
        }
    }
    match &step.operation {
        Operation::Convolution {
            conv,
            kernel,
            bias,
            folded,
            cache,
        } => {
            if let Some(bias) = bias.filter(|bias| tracked(*bias)) {
                parameters[bias] = Some(bias_gradient(g.all(), to[2]));
            }
            if tracked(*kernel) {
                parameters[*kernel] = Some(conv.kernel_gradient(x, g.all()));
            }
            if wanted {
                if let Some(norm) = folded {
                    scale_rows(g.all_mut(), &Folded::<T>::new(plan, norm)?.scale);
                }
                let parameter = Read::new(&plan.parameters[*kernel]);
                let elements = parameter.elements()?;
                let weights = cache.weights(conv, elements, Direction::Adjoint, !tracked(*kernel));
                let accumulate = gradients[step.input].is_some();
                let before = step
                    .input
                    .checked_sub(1)
                    .is_some_and(|before| plan.steps[before].stopped && first_use(plan, i));
                let epilogue = Epilogue {
                    accumulate,
                    gate: before.then_some(x),
                    ..Epilogue::default()
                };
                let mut dx = gradients[step.input].take().unwrap_or_else(Kept::new);
                conv.input_gradient(elements, &weights, g.all(), dx.of(x.len()), &epilogue);
                gradients[step.input] = Some(dx);
            }
        }
        Operation::MaxPool {
            kernel,
            stride,
            padding,
        } if wanted => {
            let Extra::Winners(winners) = &tape.extras[i] else {
                bail!("internal: no winners were kept")
            };
            let pool = Pool::new(plan, step.input, i + 1, [*kernel, *stride, *padding]);
            let mut dx = Kept::new();
            pool.backward(g.all(), winners, dx.of(x.len()));
            give(&mut gradients[step.input], dx);
        }
        Operation::Mean if wanted => {
            let (pixels, mut dx) = (height * width, Kept::new());
            let scale = T::from_f64(1. / pixels as f64);
            let samples = dx
                .of(x.len())
                .par_chunks_mut(pixels * channels)
                .zip(g.all().par_chunks(channels));
            samples.for_each(|(dx, g)| {
                for dx in dx.chunks_exact_mut(channels) {
                    dx.iter_mut().zip(g).for_each(|(dx, g)| *dx = *g * scale);
                }
            });
            give(&mut gradients[step.input], dx);
        }
        Operation::Same if wanted => give(&mut gradients[step.input], g),
        _ => (),
    }
    Ok(())
}

/// Whether step `i` is the first that reads its input, hence the last that adds to its gradient.
fn first_use(plan: &Plan, i: usize) -> bool {
    let input = plan.steps[i].input;
    plan.steps[..i]
        .iter()
        .all(|step| step.input != input && step.add != Some(input))
}

fn give<T: Real>(to: &mut Option<Kept<T>>, gradient: Kept<T>) {
    match to {
        Some(sum) => plus(sum, gradient.all()),
        empty => *empty = Some(gradient),
    }
}

fn plus<T: Real>(sum: &mut Kept<T>, more: &[T]) {
    each(
        sum.all_mut(),
        more,
        #[inline(always)]
        |sum, more| *sum += more,
    );
}

/// Max-pooling of channels-last images.
struct Pool {
    from: [usize; 2],
    to: [usize; 2],
    channels: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Pool {
    /// From one value to another.
    fn new(
        plan: &Plan,
        input: usize,
        result: usize,
        [kernel, stride, padding]: [usize; 3],
    ) -> Self {
        let ([height, width, channels], [rows, columns, _]) =
            (plan.samples[input], plan.samples[result]);
        Self {
            from: [height, width],
            to: [rows, columns],
            channels,
            kernel,
            stride,
            padding,
        }
    }

    /// The elements of the window `i` on an axis of `len` pixels: the place in the window of the
    /// first, and where it lies.
    fn window(&self, i: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
        let (start, padding) = (i * self.stride, self.padding);
        (0..self.kernel).filter_map(move |t| {
            Some((t, (start + t).checked_sub(padding).filter(|at| *at < len)?))
        })
    }

    /// The first of equal elements wins, and NaN over any number.
    fn forward<T: Real>(&self, x: &[T], y: &mut [T], winners: &mut [u16]) {
        let (row, [height, width]) = (self.to[1] * self.channels, self.from);
        let rows = y
            .par_chunks_mut(row)
            .zip(winners.par_chunks_mut(row))
            .enumerate();
        rows.for_each(|(i, (y, winners))| {
            let (sample, oy) = (i / self.to[0], i % self.to[0]);
            let pixels = y
                .chunks_exact_mut(self.channels)
                .zip(winners.chunks_exact_mut(self.channels));
            wide(
                #[inline(always)]
                || {
                    for (ox, (y, winners)) in pixels.enumerate() {
                        let mut first = true;
                        for (ty, iy) in self.window(oy, height) {
                            for (tx, ix) in self.window(ox, width) {
                                let x = &x[((sample * height + iy) * width + ix) * self.channels..]
                                    [..self.channels];
                                let tap = (ty * self.kernel + tx) as u16;
                                for ((y, winner), x) in y.iter_mut().zip(&mut *winners).zip(x) {
                                    #[expect(
                                        clippy::eq_op,
                                        reason = "true for NaN alone, which has to win"
                                    )]
                                    let wins = first || *x > *y || *x != *x;
                                    *y = if wins { *x } else { *y };
                                    *winner = if wins { tap } else { *winner };
                                }
                                first = false;
                            }
                        }
                    }
                },
            );
        });
    }

    fn backward<T: Real>(&self, g: &[T], winners: &[u16], dx: &mut [T]) {
        let [height, width] = self.from;
        let (from, to) = (
            height * width * self.channels,
            self.to[0] * self.to[1] * self.channels,
        );
        let samples = dx
            .par_chunks_mut(from)
            .zip(g.par_chunks(to))
            .zip(winners.par_chunks(to));
        samples.for_each(|((dx, g), winners)| {
            dx.fill(T::ZERO);
            let pixels = g
                .chunks_exact(self.channels)
                .zip(winners.chunks_exact(self.channels))
                .enumerate();
            for (i, (g, winners)) in pixels {
                let (oy, ox) = (i / self.to[1] * self.stride, i % self.to[1] * self.stride);
                for (channel, (g, winner)) in g.iter().zip(winners).enumerate() {
                    let (ty, tx) = (
                        *winner as usize / self.kernel,
                        *winner as usize % self.kernel,
                    );
                    let at = (oy + ty - self.padding) * width + ox + tx - self.padding;
                    dx[at * self.channels + channel] += *g;
                }
            }
        });
    }
}
