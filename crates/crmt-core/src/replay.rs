//! The same step many times over: recorded once on a GPU, then replayed without the host.
//!
//! Does not know what a step computes.
use crate::{Error, PerModality, Result};
use candle_core::Tensor;

/// `x ← step(x)`, `steps` times.
///
/// On a CUDA device the second step is recorded as a CUDA graph, which the device replays for the rest: a step of hundreds
/// of short kernels then costs the host one call. A step must give tensors of the shapes and types that it takes, do the same
/// work every time, whatever the numbers, and read none of them; one that can't be recorded runs as it would elsewhere. The
/// results are the same either way.
///
/// # Errors
/// The step's own.
pub fn repeat<E: From<Error>>(
    x: PerModality<Tensor>,
    steps: usize,
    mut step: impl FnMut(&PerModality<Tensor>) -> Result<PerModality<Tensor>, E>,
) -> Result<PerModality<Tensor>, E> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = x[0].device().clone()
        && steps > cuda::WORTH
    {
        return cuda::repeat(&device, x, steps, &mut step);
    }
    (0..steps).try_fold(x, |x, _| step(&x))
}

#[cfg(feature = "cuda")]
mod cuda {
    use crate::{Error, PerModality, Result};
    use candle_core::CudaDevice;
    use candle_core::Tensor;
    use candle_core::cuda_backend::WrapErr as _;
    use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, sys};
    use std::sync::Arc;

    /// Recording costs about as much as a step.
    pub(super) const WORTH: usize = 3;

    type Step<'a, E> = dyn FnMut(&PerModality<Tensor>) -> Result<PerModality<Tensor>, E> + 'a;

    pub(super) fn repeat<E: From<Error>>(
        device: &CudaDevice,
        x: PerModality<Tensor>,
        steps: usize,
        step: &mut Step<'_, E>,
    ) -> Result<PerModality<Tensor>, E> {
        // Small constants that steps bring from the host are kept on the device, so that a recording needs no copies.
        let _constants = device.enable_cuda_graph_htod_cache();
        // The first step finds algorithms and takes memory, which a recording can't.
        let next = step(&x)?;
        let x = next.try_map(|x| Ok::<_, Error>(x.detach().contiguous()?.copy()?))?;
        // So must whatever the recording adds to it have run once: a recording can't load its code.
        write(&x, &next).map_err(Error::from)?;
        drop(next);
        let graph = record(device, &x, step);
        // Where the recording's memory is not to be had, `x` is as it was.
        match graph.and_then(|graph| Ok(graph.launch().w().map(|()| graph).map_err(Error::from)?)) {
            Ok(graph) => Ok(replay(device, &graph, steps - 2).map(|()| x)?),
            Err(_cannot_be_recorded) => (1..steps).try_fold(x, |x, _| step(&x)),
        }
    }

    fn replay(device: &CudaDevice, graph: &CudaGraph, times: usize) -> Result<()> {
        for _ in 0..times {
            graph.launch().w()?;
        }
        // The recording must not go before its work is done.
        Ok(device.cuda_stream().synchronize().w()?)
    }

    /// `x ← next`, in place.
    fn write(x: &PerModality<Tensor>, next: &PerModality<Tensor>) -> candle_core::Result<()> {
        x.iter().zip(next).try_for_each(|(x, next)| x.slice_set(&next.detach().contiguous()?, 0, 0))
    }

    /// A stream that records until this goes, whatever happens in between.
    struct Recording<'a>(&'a Arc<CudaStream>);

    impl Drop for Recording<'_> {
        fn drop(&mut self) {
            if !matches!(self.0.capture_status(), Ok(sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)) {
                let _unfinished = self.0.end_capture(sys::CUgraphInstantiate_flags(0));
            }
        }
    }

    /// One step from `x` into `x`, which does not run yet.
    fn record<E: From<Error>>(
        device: &CudaDevice,
        x: &PerModality<Tensor>,
        step: &mut Step<'_, E>,
    ) -> Result<CudaGraph, E> {
        let stream = device.cuda_stream();
        // Other threads, which load batches, go on as they like.
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w().map_err(Error::from)?;
        let _recording = Recording(&stream);
        let recorded = step(x).and_then(|next| Ok(write(x, &next).map_err(Error::from)?));
        // All that the step made is gone by now: what a recording takes it must give back.
        let end = || stream.end_capture(sys::CUgraphInstantiate_flags(0));
        // An error from before comes first, and leaves the recording going.
        let graph = end().or_else(|_| end()).w().map_err(Error::from);
        recorded?;
        graph?.ok_or_else(|| Error::from(candle_core::Error::Msg("nothing was recorded".into())).into())
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
