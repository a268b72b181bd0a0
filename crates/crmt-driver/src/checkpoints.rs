//! What training goes on from after it was stopped, in a run directory: the last few states, each a
//! sealed file. Does not know how a model is trained.
use crate::{
    checkpoint::Architecture,
    plan::Plan,
    run_dir::{self, RunDir, make_folder, write_file},
    sealed::Sealed,
};
use anyhow::{Context, Result, bail};
use crmt_train::{Position, State};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};
use toml::{Table, Value};

/// What a file's metadata describes.
const KIND: &str = "training state";
const EXTENSION: &str = "safetensors";

#[derive(Serialize, Deserialize)]
struct Card {
    /// What the state is of.
    plan: Plan,
    architecture: Architecture,
    /// SHA-256 of the training and selection splits.
    data: String,
    position: Position,
}

/// The checkpoints of one run.
pub struct Checkpoints {
    dir: PathBuf,
    keep: usize,
    plan: Plan,
    architecture: Architecture,
    data: String,
}

impl Checkpoints {
    /// Of a model of this plan and architecture. Nothing is read or written yet.
    pub fn new(run: &RunDir, plan: &Plan, architecture: &Architecture, data: String) -> Self {
        let (dir, keep) = (run.file(run_dir::CHECKPOINTS), plan.train.keep_checkpoints);
        Self {
            dir,
            keep,
            plan: essence(plan),
            architecture: architecture.clone(),
            data,
        }
    }

    /// Whether a run has any.
    pub fn exist(run: &Path) -> bool {
        names(&run.join(run_dir::CHECKPOINTS)).is_ok_and(|names| !names.is_empty())
    }

    /// Keeps a state, and no more than the last few.
    pub fn write(&self, state: State) -> Result<()> {
        make_folder(&self.dir)?;
        let State { position, tensors } = state;
        // Epoch and batch, so that names sort as states follow each other.
        let name = format!(
            "epoch-{:06}-batch-{:08}.{EXTENSION}",
            position.epoch, position.batch
        );
        let card = Card {
            plan: self.plan.clone(),
            architecture: self.architecture.clone(),
            data: self.data.clone(),
            position,
        };
        let sealed = Sealed::new(serde_json::to_string(&card)?, tensors)?;
        write_file(&self.dir.join(name), &sealed.to_bytes(KIND)?)?;
        let names = names(&self.dir)?;
        for old in &names[..names.len().saturating_sub(self.keep)] {
            fs::remove_file(old).with_context(|| format!("can't remove {}", old.display()))?;
        }
        Ok(())
    }

    /// The last state; none if there is none yet.
    ///
    /// # Errors
    /// A file that is truncated, altered, or of another model is refused by name.
    pub fn last(&self) -> Result<Option<State>> {
        let Some(path) = names(&self.dir)?.pop() else {
            return Ok(None);
        };
        let name = path.display();
        let advice = || {
            format!(
                "remove {name} to go on from the checkpoint before it, or train anew with --overwrite"
            )
        };
        let Sealed {
            description,
            tensors,
            ..
        } = Sealed::read(&path, KIND).with_context(advice)?;
        let card: Card = serde_json::from_str(&description)
            .with_context(|| format!("{name} is not of this version"))
            .with_context(advice)?;
        if let Some(difference) = difference(&card.plan, &self.plan)? {
            bail!(
                "{name} is of another run: {difference}; go on under the settings that it was trained with, or train anew with \
                 --overwrite"
            );
        }
        if card.architecture != self.architecture {
            bail!(
                "{name} is of another model, for other modalities or classes; restore the data set, or train anew"
            );
        }
        if card.data != self.data {
            bail!(
                "{name} is of other data than `{}` holds now: restore them, or train anew",
                self.plan.data
            );
        }
        Ok(Some(State {
            position: card.position,
            tensors,
        }))
    }

    /// Removes all of a run's.
    pub fn remove(run: &RunDir) -> Result<()> {
        run.remove_all(run_dir::CHECKPOINTS)
    }
}

/// The states' files, oldest first.
fn names(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(vec![]),
        read => read.with_context(|| format!("can't read {}", dir.display()))?,
    };
    let mut names = vec![];
    for entry in read {
        let path = entry
            .with_context(|| format!("can't read {}", dir.display()))?
            .path();
        if path.extension().is_some_and(|e| e == EXTENSION) {
            names.push(path);
        }
    }
    names.sort();
    Ok(names)
}

/// A plan without what changes no weight.
fn essence(plan: &Plan) -> Plan {
    let defaults = Plan::default();
    let mut plan = plan.clone();
    (plan.train.loaders, plan.train.checkpoint_seconds) = (0, 0.0);
    (plan.train.replay, plan.train.keep_checkpoints) =
        (defaults.train.replay, defaults.train.keep_checkpoints);
    (plan.certify, plan.evaluate) = (defaults.certify, defaults.evaluate);
    (plan.falsify, plan.smooth) = (defaults.falsify, defaults.smooth);
    plan
}

/// The first setting that differs, in words.
fn difference(there: &Plan, here: &Plan) -> Result<Option<String>> {
    let flat = |plan: &Plan| -> Result<BTreeMap<String, Value>> {
        Ok(crate::settings::flatten(&Table::try_from(plan)?)
            .into_iter()
            .collect())
    };
    let (there, here) = (flat(there)?, flat(here)?);
    let told = |value: Option<&Value>| value.map_or("unset".to_owned(), ToString::to_string);
    let mut keys = here.keys().chain(there.keys());
    let key = keys.find(|key| here.get(*key) != there.get(*key));
    Ok(key.map(|key| {
        format!(
            "{key} = {} there, {} here",
            told(there.get(key)),
            told(here.get(key))
        )
    }))
}
