//! `evaluate --save-adversarials`: the nearest adversarials as one file, for other programs.
//! Does not know how they were found.
use crate::{
    attack::Attacked,
    plan::EvaluatePlan,
    record::Summary,
    tensor_file::{Format, TensorFile},
};
use anyhow::Result;
use candle_core::DType;
use crmt_data::DataSet;

/// How adversarials can be written.
pub const FORMATS: [Format; 2] = [Format::Safetensors, Format::Npz];

/// Tensors: `label` and `sample` (I64, `[samples]`): the true class, and the number in the report
/// split; by threat and modality `adversarial.THREAT.NORM.MODALITY` (F32, or F64 after
/// `--precision f64`, `[samples, ...]`, the clean input where no adversarial was found) and
/// `distance.THREAT.NORM` (F64, in declared units; infinite where none was found, 0 where the clean
/// input is misclassified). The metadata name the run's method, data, weights, attacks and budgets.
pub fn to_bytes(
    found: &Attacked,
    data: &DataSet,
    run: &Summary,
    plan: &EvaluatePlan,
    format: Format,
) -> Result<Vec<u8>> {
    let mut file = TensorFile::default();
    file.integers(
        "sample",
        &found.samples.iter().map(|i| *i as i64).collect::<Vec<_>>(),
    );
    file.integers(
        "label",
        &data
            .report
            .samples(&found.samples)?
            .labels
            .to_dtype(DType::I64)?
            .to_vec1::<i64>()?,
    );
    for of in &found.adversarials {
        let threat = format!("{}.{}", of.threat, plan.norm);
        for (x, modality) in of.inputs.iter().zip(&data.modalities) {
            file.floats(format!("adversarial.{threat}.{}", modality.name), x)?;
        }
        file.doubles(format!("distance.{threat}"), &of.distance);
    }
    let card = serde_json::json!({
        "method": run.method, "data": run.data, "weights": run.weights, "attacks": plan.attacks, "eps": plan.eps,
        "precision": plan.precision,
        "report_sha256": run.report_sha256,
    });
    file.to_bytes(format, &card)
}
