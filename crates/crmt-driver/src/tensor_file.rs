//! Arrays for other programs as one safetensors file. Does not know what they mean.
use anyhow::Result;
use candle_core::Tensor;
use safetensors::{Dtype, tensor::TensorView};
use std::collections::HashMap;

/// Arrays by name, in the order in which they were added.
#[derive(Debug, Default)]
pub struct TensorFile(Vec<(String, Dtype, Vec<usize>, Vec<u8>)>);

impl TensorFile {
    /// `I64`, `[n]`.
    pub fn integers(&mut self, name: impl Into<String>, values: &[i64]) {
        self.0.push((name.into(), Dtype::I64, vec![values.len()], bytes(values, |v| v.to_le_bytes())));
    }

    /// `F64`, `[n]`.
    pub fn doubles(&mut self, name: impl Into<String>, values: &[f64]) {
        self.0.push((name.into(), Dtype::F64, vec![values.len()], bytes(values, |v| v.to_le_bytes())));
    }

    /// `F32`, of the tensor's shape.
    pub fn floats(&mut self, name: impl Into<String>, tensor: &Tensor) -> Result<()> {
        self.0.push((name.into(), Dtype::F32, tensor.dims().to_vec(), float_bytes(tensor)?));
        Ok(())
    }

    /// The file; `card` is its metadata entry `crmt`.
    pub fn to_bytes(&self, card: &serde_json::Value) -> Result<Vec<u8>> {
        let views = self
            .0
            .iter()
            .map(|(name, dtype, shape, data)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), data)?)));
        // One entry: several would be written in a random order.
        let metadata = HashMap::from([("crmt".to_owned(), card.to_string())]);
        Ok(safetensors::serialize(views.collect::<Result<Vec<_>>>()?, Some(metadata))?)
    }
}

/// Little-endian f32 values.
pub fn float_bytes(x: &Tensor) -> Result<Vec<u8>> {
    Ok(bytes(&x.flatten_all()?.to_vec1::<f32>()?, |v| v.to_le_bytes()))
}

fn bytes<T: Copy, const N: usize>(values: &[T], of: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|v| of(*v)).collect()
}
