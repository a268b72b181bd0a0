//! Finished parts of an evaluation, one file each, to go on from when it is stopped.
//! Does not know how a part is made.
use crate::{
    run_dir::{RunDir, make_folder, write_file},
    sealed::Sealed,
};
use anyhow::Result;
use candle_core::Tensor;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, path::PathBuf};

/// All that a part depends on, as text by name. A part of anything else is of no use.
pub type Origin = BTreeMap<String, String>;

/// What the files' metadata describes.
const KIND: &str = "part";

#[derive(Serialize, Deserialize)]
struct Card<T> {
    origin: Origin,
    content: T,
}

/// The parts of one evaluation of one run.
pub struct Parts {
    dir: PathBuf,
    origin: Origin,
}

impl Parts {
    /// Those in the directory `name` of a run. Nothing is read or written yet.
    pub fn new(run: &RunDir, name: &str, origin: Origin) -> Self {
        Self {
            dir: run.file(name),
            origin,
        }
    }

    /// A part and its tensors by name; none if it is not there, or truncated, altered or of another
    /// origin: then it is to be made again.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Option<(T, BTreeMap<String, Tensor>)> {
        let sealed = Sealed::read(&self.path(name), KIND).ok()?;
        let card: Card<T> = serde_json::from_str(&sealed.description).ok()?;
        (card.origin == self.origin).then_some((card.content, sealed.tensors))
    }

    /// Keeps a part, with tensors (f32): all of it, or none.
    pub fn write<T: Serialize>(
        &self,
        name: &str,
        content: &T,
        tensors: BTreeMap<String, Tensor>,
    ) -> Result<()> {
        make_folder(&self.dir)?;
        let card = serde_json::to_string(&Card {
            origin: self.origin.clone(),
            content,
        })?;
        write_file(
            &self.path(name),
            &Sealed::new(card, tensors)?.to_bytes(KIND)?,
        )
    }

    /// Removes the parts in the directory `name` of a run, whatever their origin.
    pub fn remove(run: &RunDir, name: &str) -> Result<()> {
        run.remove_all(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.safetensors"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use std::fs;

    #[test]
    fn a_part_comes_back_only_where_it_belongs() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let run = RunDir::create(dir.path(), false)?;
        let origin = |seed: &str| Origin::from([("seed".to_owned(), seed.to_owned())]);
        let parts = Parts::new(&run, "parts", origin("0"));
        let tensors = BTreeMap::from([(
            "x".to_owned(),
            Tensor::new(&[[1f32, 2.], [3., 4.]], &Device::Cpu)?,
        )]);
        assert!(parts.read::<Vec<u32>>("joint-0").is_none());
        parts.write("joint-0", &vec![7u32], tensors)?;
        let (content, back) = parts.read::<Vec<u32>>("joint-0").expect("written");
        assert_eq!(
            (content, back["x"].to_vec2::<f32>()?),
            (vec![7], vec![vec![1., 2.], vec![3., 4.]])
        );
        assert!(
            Parts::new(&run, "parts", origin("1"))
                .read::<Vec<u32>>("joint-0")
                .is_none()
        );
        let path = dir.path().join("parts/joint-0.safetensors");
        let bytes = fs::read(&path)?;
        fs::write(&path, &bytes[..bytes.len() - 1])?;
        assert!(parts.read::<Vec<u32>>("joint-0").is_none(), "truncated");
        Parts::remove(&run, "parts")?;
        Parts::remove(&run, "parts")?;
        assert!(!dir.path().join("parts").exists());
        Ok(())
    }
}
