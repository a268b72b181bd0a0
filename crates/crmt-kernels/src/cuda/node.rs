//! A result that was computed already as a node of candle's graph, with its gradient.
//!
//! Knows nothing of what was computed.
use super::launch::Made;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail,
};
use std::sync::{Mutex, PoisonError};

/// The gradients of the operands, in order, for the result and its gradient (contiguous); `None`
/// for what tracks none.
type Gradients<const N: usize> = Result<[Option<Tensor>; N]>;

/// `made` as a function of `operands`. `backward` is kept with the graph.
pub(super) fn node<const N: usize, B>(
    name: &'static str,
    operands: [&Tensor; N],
    made: Made,
    backward: B,
) -> Result<Tensor>
where
    B: Fn(&Tensor, &Tensor) -> Gradients<N> + Send + Sync + 'static,
{
    if !operands.iter().any(|operand| operand.track_op()) {
        return Ok(made.tensor());
    }
    let node = Node {
        name,
        made: Mutex::new(Some(made)),
        backward,
    };
    match operands.as_slice() {
        [a] => a.apply_op1(node),
        [a, b] => a.apply_op2(b, node),
        [a, b, c] => a.apply_op3(b, c, node),
        _ => bail!("internal: {name} has {N} operands"),
    }
}

struct Node<const N: usize, B> {
    name: &'static str,
    made: Mutex<Option<Made>>,
    backward: B,
}

impl<const N: usize, B: Fn(&Tensor, &Tensor) -> Gradients<N>> Node<N, B> {
    fn result(&self) -> Result<(CudaStorage, Shape)> {
        match self
            .made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            Some(made) => Ok((made.storage, made.shape)),
            None => bail!("internal: {} was handed out twice", self.name),
        }
    }

    fn gradients<const M: usize>(&self, y: &Tensor, gradient: &Tensor) -> Gradients<M> {
        let gradients = (self.backward)(y, &gradient.contiguous()?)?;
        let mut all = gradients.into_iter();
        Ok(std::array::from_fn(|_| all.next().flatten()))
    }

    fn elsewhere<R>(&self) -> Result<R> {
        bail!(
            "internal: {} of a CUDA tensor ran on another device",
            self.name
        )
    }
}

impl<const N: usize, B: Fn(&Tensor, &Tensor) -> Gradients<N> + Send + Sync> CustomOp1
    for Node<N, B>
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.elsewhere()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.result()
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let [a] = self.gradients(y, gradient)?;
        Ok(a)
    }
}

impl<const N: usize, B: Fn(&Tensor, &Tensor) -> Gradients<N> + Send + Sync> CustomOp2
    for Node<N, B>
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.elsewhere()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.result()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = self.gradients(y, gradient)?;
        Ok((a, b))
    }
}

impl<const N: usize, B: Fn(&Tensor, &Tensor) -> Gradients<N> + Send + Sync> CustomOp3
    for Node<N, B>
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.elsewhere()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.result()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = self.gradients(y, gradient)?;
        Ok((a, b, c))
    }
}
