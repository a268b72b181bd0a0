//! Arrays for other programs as one file. Does not know what they mean.
use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use crmt_data::write_npy;
use safetensors::{Dtype, tensor::TensorView};
use std::collections::HashMap;
use std::io::{Cursor, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;

/// How arrays are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// All of them, and what they are of as the metadata entry `crmt`.
    Safetensors,
    /// All of them, for `numpy.load`; what they are of is the archive's comment.
    Npz,
    /// The first one alone.
    Npy,
}

impl Format {
    fn ending(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Npz => "npz",
            Self::Npy => "npy",
        }
    }

    /// By the ending of the file that `option` names: one of `formats`.
    pub fn of(option: &str, file: &Path, formats: &[Self]) -> Result<Self> {
        let ending = file.extension().and_then(|ending| ending.to_str());
        if let Some(format) = formats
            .iter()
            .find(|format| ending == Some(format.ending()))
        {
            return Ok(*format);
        }
        let endings: Vec<_> = formats
            .iter()
            .map(|format| format!(".{}", format.ending()))
            .collect();
        bail!(
            "{option} {}: let the name end in {}",
            file.display(),
            endings.join(" or ")
        )
    }
}

/// Arrays by name, in the order in which they were added.
#[derive(Debug, Default)]
pub struct TensorFile(Vec<Array>);

/// Name, type, shape, values.
type Array = (String, Dtype, Vec<usize>, Vec<u8>);

impl TensorFile {
    /// `I64`, `[n]`.
    pub fn integers(&mut self, name: impl Into<String>, values: &[i64]) {
        self.0.push((
            name.into(),
            Dtype::I64,
            vec![values.len()],
            bytes(values, |v| v.to_le_bytes()),
        ));
    }

    /// `F64`, `[n]`.
    pub fn doubles(&mut self, name: impl Into<String>, values: &[f64]) {
        self.0.push((
            name.into(),
            Dtype::F64,
            vec![values.len()],
            bytes(values, |v| v.to_le_bytes()),
        ));
    }

    /// `F32` or `F64`, as the tensor is, of its shape.
    pub fn floats(&mut self, name: impl Into<String>, tensor: &Tensor) -> Result<()> {
        let flat = tensor.flatten_all()?;
        let (dtype, values) = match tensor.dtype() {
            DType::F64 => (
                Dtype::F64,
                bytes(&flat.to_vec1::<f64>()?, |v| v.to_le_bytes()),
            ),
            _ => (
                Dtype::F32,
                bytes(&flat.to_vec1::<f32>()?, |v| v.to_le_bytes()),
            ),
        };
        self.0
            .push((name.into(), dtype, tensor.dims().to_vec(), values));
        Ok(())
    }

    /// The file; `card` says what the arrays are of.
    pub fn to_bytes(&self, format: Format, card: &serde_json::Value) -> Result<Vec<u8>> {
        match format {
            Format::Safetensors => self.safetensors(card),
            Format::Npz => self.npz(card),
            Format::Npy => npy(self.0.first().context("internal: no array")?),
        }
    }

    fn npz(&self, card: &serde_json::Value) -> Result<Vec<u8>> {
        let mut archive = zip::ZipWriter::new(Cursor::new(vec![]));
        archive.set_comment(card.to_string())?;
        // The same arrays are the same bytes, whatever the time; arrays beyond 4 GiB need its large
        // form.
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default());
        for array in &self.0 {
            let bytes = npy(array)?;
            archive.start_file(
                format!("{}.npy", array.0),
                options.large_file(bytes.len() >= u32::MAX as usize),
            )?;
            archive.write_all(&bytes)?;
        }
        Ok(archive.finish()?.into_inner())
    }

    fn safetensors(&self, card: &serde_json::Value) -> Result<Vec<u8>> {
        let views = self.0.iter().map(|(name, dtype, shape, data)| {
            Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), data)?))
        });
        // One entry: several would be written in a random order.
        let metadata = HashMap::from([("crmt".to_owned(), card.to_string())]);
        Ok(safetensors::serialize(
            views.collect::<Result<Vec<_>>>()?,
            Some(metadata),
        )?)
    }
}

fn npy((name, dtype, shape, data): &Array) -> Result<Vec<u8>> {
    let descr = match dtype {
        Dtype::I64 => "<i8",
        Dtype::F64 => "<f8",
        _ => "<f4",
    };
    let mut bytes = Vec::with_capacity(data.len() + 128);
    write_npy(&mut bytes, descr, shape, data.iter().copied()).with_context(|| name.clone())?;
    Ok(bytes)
}

fn bytes<T: Copy, const N: usize>(values: &[T], of: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|v| of(*v)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_decides_and_others_are_refused() {
        let of = |name: &str, formats: &[Format]| {
            Format::of("--save", Path::new(name), formats).map_err(|e| e.to_string())
        };
        let all = [Format::Safetensors, Format::Npz, Format::Npy];
        for (name, format) in [
            ("a/b.npy", Format::Npy),
            ("b.safetensors", Format::Safetensors),
            ("b.npz", Format::Npz),
        ] {
            assert_eq!(of(name, &all), Ok(format));
        }
        for name in ["b", "npy", "b.csv", "b.npy.gz"] {
            let error = of(name, &all).unwrap_err();
            assert_eq!(
                error,
                format!("--save {name}: let the name end in .safetensors or .npz or .npy")
            );
        }
        assert!(of("b.npy", &all[..2]).is_err());
    }
}
