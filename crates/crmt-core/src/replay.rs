//! The same computation many times over: recorded once on a GPU, then replayed without the host.
//!
//! Does not know what is computed.
use crate::{Error, PerModality, Result};
use candle_core::Tensor;

/// A computation that runs again and again, on other values of tensors of the same shapes.
///
/// On a CUDA device its second run is recorded as a CUDA graph, which the device replays for every
/// later one: hundreds of short kernels then cost the host one call. Where tensors of another shape
/// come, or a recording fails, it runs as it would elsewhere. The results are the same either way.
///
/// What is recorded is bound to the tensors that were there: whatever the computation takes besides
/// its inputs (parameters, running statistics) must live as long as this, stay in place, and change
/// only there. A recording has memory of its own.
#[derive(Default)]
pub struct Replay {
    #[cfg(feature = "cuda")]
    state: cuda::State,
}

impl Replay {
    /// One that records nothing.
    pub fn off() -> Self {
        Self {
            #[cfg(feature = "cuda")]
            state: cuda::State::Refused,
        }
    }

    /// `compute(inputs)`.
    ///
    /// `compute` must do the same work every time, whatever the numbers, read none of them, and
    /// take nothing that differs from run to run from elsewhere; it is not called where its
    /// recording is replayed. What it returned is only valid until the next run, which may
    /// overwrite it.
    ///
    /// # Errors
    /// `compute`'s own.
    pub fn run<E: From<Error>>(
        &mut self,
        inputs: Vec<Tensor>,
        compute: impl FnMut(Vec<Tensor>) -> Result<Vec<Tensor>, E>,
    ) -> Result<Vec<Tensor>, E> {
        let mut compute = compute;
        #[cfg(feature = "cuda")]
        if let Some(candle_core::Device::Cuda(device)) = inputs.first().map(|x| x.device().clone())
        {
            return self.state.run(&device, inputs, &mut compute);
        }
        compute(inputs)
    }
}

/// `x ← step(x)`, `steps` times, as [`Replay`] does it: a step gives tensors of the shapes and
/// types that it takes.
///
/// # Errors
/// The step's own.
pub fn repeat<E: From<Error>>(
    x: PerModality<Tensor>,
    steps: usize,
    mut step: impl FnMut(&PerModality<Tensor>) -> Result<PerModality<Tensor>, E>,
) -> Result<PerModality<Tensor>, E> {
    /// Recording costs about as much as a step.
    const WORTH: usize = 3;
    if steps <= WORTH {
        return (0..steps).try_fold(x, |x, _| step(&x));
    }
    let mut replay = Replay::default();
    let mut step = |x: Vec<Tensor>| Ok(step(&modalities(x))?.into_iter().collect());
    (0..steps)
        .try_fold(x.into_iter().collect(), |x, _| replay.run(x, &mut step))
        .map(modalities)
}

fn modalities(x: Vec<Tensor>) -> PerModality<Tensor> {
    PerModality::new(x).expect("a step gives as many tensors as it takes")
}

#[cfg(feature = "cuda")]
mod cuda {
    use crate::{Error, Result};
    use candle_core::cuda_backend::WrapErr as _;
    use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, sys};
    use candle_core::{CudaDevice, Tensor};
    use std::sync::Arc;

    /// How far a computation has come.
    #[derive(Default)]
    pub(super) enum State {
        #[default]
        Fresh,
        /// It has run once, on tensors like these.
        Warm {
            inputs: Vec<Tensor>,
            outputs: Vec<Tensor>,
        },
        Recorded(Recorded),
        /// It can't be recorded.
        Refused,
    }

    pub(super) struct Recorded {
        graph: CudaGraph,
        stream: Arc<CudaStream>,
        /// Where it reads and writes.
        inputs: Vec<Tensor>,
        outputs: Vec<Tensor>,
    }

    type Compute<'a, E> = dyn FnMut(Vec<Tensor>) -> Result<Vec<Tensor>, E> + 'a;

    impl State {
        pub(super) fn run<E: From<Error>>(
            &mut self,
            device: &CudaDevice,
            inputs: Vec<Tensor>,
            compute: &mut Compute<'_, E>,
        ) -> Result<Vec<Tensor>, E> {
            match self {
                Self::Refused => compute(inputs),
                Self::Fresh => {
                    // What the recording adds must have run once, too: a recording can't load its
                    // code, find algorithms or bring constants from the host.
                    let _constants = device.enable_cuda_graph_htod_cache();
                    let inputs = contiguous(&inputs)?;
                    let outputs = contiguous(&compute(inputs.clone())?)?;
                    let places = |all: &[Tensor]| {
                        all.iter()
                            .map(Tensor::copy)
                            .collect::<candle_core::Result<Vec<_>>>()
                    };
                    let places =
                        || Ok::<_, candle_core::Error>((places(&inputs)?, places(&outputs)?));
                    *self = match places()
                        .and_then(|places| write(&places.1, &outputs).map(|()| places))
                    {
                        Ok((inputs, outputs)) => Self::Warm { inputs, outputs },
                        Err(_no_memory) => Self::Refused,
                    };
                    Ok(outputs)
                }
                Self::Warm {
                    inputs: places,
                    outputs,
                } if alike(places, &inputs) => {
                    let (places, outputs) = (std::mem::take(places), std::mem::take(outputs));
                    // Nothing has run yet where this fails; and where the recording's memory is not
                    // to be had, nor will it.
                    match Recorded::new(device, places, outputs, compute)
                        .and_then(|recorded| Ok(recorded.run(&inputs).map(|y| (recorded, y))?))
                    {
                        Ok((recorded, outputs)) => {
                            *self = Self::Recorded(recorded);
                            Ok(outputs)
                        }
                        Err(_cannot_be_recorded) => {
                            *self = Self::Refused;
                            compute(inputs)
                        }
                    }
                }
                Self::Recorded(recorded) if alike(&recorded.inputs, &inputs) => {
                    match recorded.run(&inputs) {
                        Ok(outputs) => Ok(outputs),
                        // Nothing of it has run.
                        Err(_cannot_be_launched) => {
                            *self = Self::Refused;
                            compute(inputs)
                        }
                    }
                }
                // The last batch of an epoch, for one.
                Self::Warm { .. } | Self::Recorded(_) => compute(inputs),
            }
        }
    }

    fn contiguous(all: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(all
            .iter()
            .map(|x| x.detach().contiguous())
            .collect::<candle_core::Result<_>>()?)
    }

    fn alike(a: &[Tensor], b: &[Tensor]) -> bool {
        a.len() == b.len()
            && a.iter()
                .zip(b)
                .all(|(a, b)| a.shape() == b.shape() && a.dtype() == b.dtype())
    }

    /// `places ← values`.
    fn write(places: &[Tensor], values: &[Tensor]) -> candle_core::Result<()> {
        let flat = |x: &Tensor| x.detach().contiguous()?.flatten_all();
        places
            .iter()
            .zip(values)
            .try_for_each(|(place, value)| flat(place)?.slice_set(&flat(value)?, 0, 0))
    }

    impl Recorded {
        /// One run from `inputs` to `outputs`, which does not happen yet.
        fn new<E: From<Error>>(
            device: &CudaDevice,
            inputs: Vec<Tensor>,
            outputs: Vec<Tensor>,
            compute: &mut Compute<'_, E>,
        ) -> Result<Self, E> {
            let _constants = device.enable_cuda_graph_htod_cache();
            let stream = device.cuda_stream();
            // Other threads, which load batches, go on as they like.
            stream
                .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
                .w()
                .map_err(Error::from)?;
            let recording = Recording(&stream);
            let recorded = compute(inputs.clone()).and_then(|results| {
                if !alike(&outputs, &results) {
                    return Err(Error::from(candle_core::Error::Msg(
                        "results of another shape".into(),
                    ))
                    .into());
                }
                Ok(write(&outputs, &results).map_err(Error::from)?)
            });
            // All that was made on the way is gone by now: what a recording takes it must give
            // back.
            let end = || stream.end_capture(sys::CUgraphInstantiate_flags(0));
            // An error from before comes first, and leaves the recording going.
            let graph = end().or_else(|_| end()).w().map_err(Error::from);
            drop(recording);
            if recorded.is_err() {
                // What was given up on the way has left errors that would meet whoever calls next.
                let _of_the_recording = stream.context().check_err();
            }
            recorded?;
            match graph? {
                Some(graph) => Ok(Self {
                    graph,
                    stream,
                    inputs,
                    outputs,
                }),
                None => {
                    Err(Error::from(candle_core::Error::Msg("nothing was recorded".into())).into())
                }
            }
        }

        fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
            write(&self.inputs, inputs)?;
            self.graph.launch().w()?;
            Ok(self.outputs.clone())
        }
    }

    impl Drop for Recorded {
        /// A recording must not go before its work is done.
        fn drop(&mut self) {
            let _whatever_failed_shows_at_the_next_call = self.stream.synchronize();
        }
    }

    /// A stream that records until this goes, whatever happens in between.
    struct Recording<'a>(&'a Arc<CudaStream>);

    impl Drop for Recording<'_> {
        fn drop(&mut self) {
            if !matches!(
                self.0.capture_status(),
                Ok(sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
            ) {
                let _unfinished = self.0.end_capture(sys::CUgraphInstantiate_flags(0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn steps_follow_each_other() -> Result<()> {
        let x = PerModality::from([Tensor::new(&[1f64, 2.], &Device::Cpu)?]);
        let y = repeat(x, 5, |x| x.try_map(|x| (x * 2.)? + 1.).map_err(Error::from))?;
        assert_eq!(y[0].to_vec1::<f64>()?, [63., 95.]);
        Ok(())
    }
}
