//! `evaluate --save-adversarials`: the nearest adversarials as one safetensors file, for other programs.
//! Does not know how they were found.
use crate::{attack::Attacked, plan::EvaluatePlan, record::Summary};
use anyhow::Result;
use candle_core::{DType, Tensor};
use crmt_data::DataSet;
use safetensors::{Dtype, tensor::TensorView};
use std::collections::HashMap;

/// Tensors: `label` (I64, `[samples]`); by threat and modality `THREAT.NORM.MODALITY` (F32, `[samples, ...]`, the clean
/// input where no adversarial was found) and `THREAT.NORM.distance` (F64, in declared units; infinite where none was
/// found, 0 where the clean input is misclassified). Row `i` is sample `i` of the report split. The metadata name the
/// run's method, data, weights, attacks and budgets.
pub fn to_bytes(found: &Attacked, data: &DataSet, run: &Summary, plan: &EvaluatePlan) -> Result<Vec<u8>> {
    let mut entries: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = vec![];
    let samples = found.adversarials.first().map_or(0, |a| a.distance.len());
    let labels = data.report.batch(0..samples)?.labels.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    entries.push(("label".into(), Dtype::I64, vec![samples], bytes(&labels, |l| l.to_le_bytes())));
    for of in &found.adversarials {
        let key = |what: &str| format!("{}.{}.{what}", of.threat, plan.norm);
        for (x, modality) in of.inputs.iter().zip(&data.modalities) {
            entries.push((key(&modality.name), Dtype::F32, x.dims().to_vec(), floats(x)?));
        }
        let distance = bytes(&of.distance, |d| d.to_le_bytes());
        entries.push((key("distance"), Dtype::F64, vec![of.distance.len()], distance));
    }
    let views = entries
        .iter()
        .map(|(name, dtype, shape, data)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), data)?)));
    // One entry: several would be written in a random order.
    let card = serde_json::json!({
        "method": run.method, "data": run.data, "weights": run.weights, "attacks": plan.attacks, "eps": plan.eps,
        "report_sha256": run.report_sha256,
    });
    let metadata = HashMap::from([("crmt".to_owned(), card.to_string())]);
    Ok(safetensors::serialize(views.collect::<Result<Vec<_>>>()?, Some(metadata))?)
}

fn floats(x: &Tensor) -> Result<Vec<u8>> {
    Ok(bytes(&x.flatten_all()?.to_vec1::<f32>()?, |v| v.to_le_bytes()))
}

fn bytes<T: Copy, const N: usize>(values: &[T], of: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|v| of(*v)).collect()
}
