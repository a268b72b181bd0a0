//! Tensors and their description in one safetensors file, sealed by a SHA-256 over both.
//! Does not know what they mean.
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// The key of the metadata; its value is a JSON object of the description, under the name of its
/// kind, and [`SHA256`].
const METADATA: &str = "crmt";
const SHA256: &str = "sha256";

/// What a file of some kind holds.
#[derive(Debug)]
pub struct Sealed {
    /// The very text that was hashed.
    pub description: String,
    /// By name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Of both.
    pub hash: String,
}

impl Sealed {
    /// Hashes description and tensors.
    pub fn new(description: String, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        let hash = content_hash(&description, &tensors)?;
        Ok(Self {
            description,
            tensors,
            hash,
        })
    }

    /// The file; `kind` names what the description describes.
    pub fn to_bytes(&self, kind: &str) -> Result<Vec<u8>> {
        let values: Vec<Vec<u8>> = self.tensors.values().map(bytes).collect::<Result<_>>()?;
        let views = self
            .tensors
            .iter()
            .zip(&values)
            .map(|((name, tensor), values)| {
                Ok((
                    name,
                    TensorView::new(kind_of(tensor)?, tensor.dims().to_vec(), values)?,
                ))
            });
        // One entry: several would be written in a random order.
        let card = BTreeMap::from([(kind, &self.description), (SHA256, &self.hash)]);
        let metadata = HashMap::from([(METADATA.to_owned(), serde_json::to_string(&card)?)]);
        Ok(safetensors::serialize(
            views.collect::<Result<Vec<_>>>()?,
            Some(metadata),
        )?)
    }

    /// Reads a file of this kind.
    ///
    /// # Errors
    /// A file that is truncated, altered, or not of this program is refused by name.
    pub fn read(path: &Path, kind: &str) -> Result<Self> {
        let name = path.display();
        let bytes = std::fs::read(path).with_context(|| format!("can't read {name}"))?;
        let (_, header) = SafeTensors::read_metadata(&bytes)
            .with_context(|| format!("{name} is not a safetensors file, or was truncated"))?;
        let card = header.metadata().as_ref().and_then(|m| m.get(METADATA));
        let card: Option<BTreeMap<String, String>> =
            card.and_then(|card| serde_json::from_str(card).ok());
        let Some((description, stored)) =
            card.and_then(|mut c| Some((c.remove(kind)?, c.remove(SHA256)?)))
        else {
            bail!(
                "{name} has no `{kind}` in its metadata: it was altered, or is not of this program"
            );
        };
        let tensors = SafeTensors::deserialize(&bytes)
            .with_context(|| format!("{name} was truncated or altered"))?;
        let tensors = tensors.tensors().into_iter().map(|(key, view)| {
            let tensor = from_bytes(view.dtype(), view.data(), view.shape())?;
            Ok((
                key.clone(),
                tensor.with_context(|| format!("{name}: `{key}` is {:?}", view.dtype()))?,
            ))
        });
        let sealed = Self::new(description, tensors.collect::<Result<_>>()?)?;
        if stored != sealed.hash {
            bail!(
                "{name}: its content does not match its hash: the file was altered after it was written"
            );
        }
        Ok(sealed)
    }
}

/// SHA-256 over the description, then names, shapes and little-endian values in the order of the
/// names.
pub fn content_hash(description: &str, tensors: &BTreeMap<String, Tensor>) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(description);
    for (name, tensor) in tensors {
        hash.update(format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.dims()));
        hash.update(bytes(tensor)?);
    }
    Ok(hex(hash))
}

/// The digest as text.
pub fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Little-endian values.
pub fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.flatten_all()?.to_device(&Device::Cpu)?;
    Ok(match tensor.dtype() {
        DType::F32 => flat
            .to_vec1::<f32>()?
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect(),
        DType::F64 => flat
            .to_vec1::<f64>()?
            .into_iter()
            .flat_map(f64::to_le_bytes)
            .collect(),
        DType::I64 => flat
            .to_vec1::<i64>()?
            .into_iter()
            .flat_map(i64::to_le_bytes)
            .collect(),
        other => bail!("a tensor of {other:?} can't be sealed"),
    })
}

fn kind_of(tensor: &Tensor) -> Result<Dtype> {
    Ok(match tensor.dtype() {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::I64 => Dtype::I64,
        other => bail!("a tensor of {other:?} can't be sealed"),
    })
}

/// `None` for a type that [`bytes`] does not write.
fn from_bytes(kind: Dtype, bytes: &[u8], shape: &[usize]) -> Result<Option<Tensor>> {
    let tensor = match kind {
        Dtype::F32 => {
            let values: Vec<f32> = bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect();
            Tensor::from_vec(values, shape, &Device::Cpu)?
        }
        Dtype::F64 => {
            let values: Vec<f64> = bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f64::from_le_bytes(*b))
                .collect();
            Tensor::from_vec(values, shape, &Device::Cpu)?
        }
        Dtype::I64 => {
            let values: Vec<i64> = bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| i64::from_le_bytes(*b))
                .collect();
            Tensor::from_vec(values, shape, &Device::Cpu)?
        }
        _ => return Ok(None),
    };
    Ok(Some(tensor))
}
