//! An operation of one input and any number of parameters, on candle's operations of at most three
//! arguments.
//!
//! The input is an argument. Parameters that track a gradient enter the graph two at a time through
//! a chain of empty tensors, the last of which is the other argument; they are neither copied nor
//! put together. The backward pass of the operation leaves the parameters' gradients where the
//! chain, which comes later, finds them. Knows nothing of what is computed.
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail,
};
use std::sync::{Arc, Mutex, PoisonError};

/// What is computed.
pub(crate) trait Operation: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    /// The result for `x`, contiguous; the parameters are the operation's own.
    fn forward(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)>;
    /// The gradients of `x` and of the parameters, in their order, for that of the result; none for
    /// what tracks none.
    fn backward(
        &self,
        x: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Vec<Option<Tensor>>)>;
}

/// Applies `operation`, whose parameters are `parameters`, to `x`.
pub(crate) fn apply(
    x: &Tensor,
    parameters: &[&Tensor],
    operation: impl Operation,
) -> Result<Tensor> {
    let tracked: Vec<usize> = (0..parameters.len())
        .filter(|i| parameters[*i].track_op())
        .collect();
    let x = x.contiguous()?;
    let left = Arc::new(Mutex::new(Vec::new()));
    let with = Main {
        operation,
        left: left.clone(),
    };
    if tracked.is_empty() {
        return x.apply_op1(with);
    }
    let mut link = Tensor::zeros(0, DType::F32, x.device())?;
    for pair in tracked.chunks(2) {
        let (first, second) = (pair[0], pair[pair.len() - 1]);
        let both = [Some(first), (first != second).then_some(second)];
        link = link.apply_op3(
            parameters[first],
            parameters[second],
            Link {
                parameters: both,
                left: left.clone(),
            },
        )?;
    }
    x.apply_op2(&link, with)
}

type Left = Arc<Mutex<Vec<Option<Tensor>>>>;

struct Main<O> {
    operation: O,
    left: Left,
}

impl<O: Operation> Main<O> {
    fn backward(&self, x: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (dx, parameters) = self.operation.backward(x, &gradient.contiguous()?)?;
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = parameters;
        Ok(dx)
    }
}

impl<O: Operation> CustomOp1 for Main<O> {
    fn name(&self) -> &'static str {
        self.operation.name()
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.operation.forward(x, layout)
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.backward(x, gradient)
    }
}

impl<O: Operation> CustomOp2 for Main<O> {
    fn name(&self) -> &'static str {
        self.operation.name()
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.operation.forward(x, layout)
    }

    fn bwd(
        &self,
        x: &Tensor,
        link: &Tensor,
        _y: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.backward(x, gradient)?, Some(link.zeros_like()?)))
    }
}

struct Link {
    /// Numbers of the second and third argument; the third may be the second again.
    parameters: [Option<usize>; 2],
    left: Left,
}

impl CustomOp3 for Link {
    fn name(&self) -> &'static str {
        "parameters"
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
        Ok((CpuStorage::F32(vec![]), 0.into()))
    }

    fn bwd(
        &self,
        link: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let [first, second] = self.parameters.map(|number| match number {
            None => Ok(None),
            Some(i) => match left.get_mut(i).and_then(Option::take) {
                Some(gradient) => Ok(Some(gradient)),
                None => bail!("internal: no gradient was left for parameter {i}"),
            },
        });
        Ok((
            link.track_op().then(|| link.zeros_like()).transpose()?,
            first?,
            second?,
        ))
    }
}
