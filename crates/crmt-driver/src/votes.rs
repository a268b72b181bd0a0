//! `votes.json`: votes counted under noise, kept so that a stopped run goes on where it was.
//! Does not know how votes are drawn, nor what they prove.
use crate::{
    people::Voice,
    run_dir::{self, RunDir},
    sealed::hex,
};
use anyhow::{Context, Result, bail};
use crmt_certify::Votes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What votes depend on, as text by name. Votes of anything else are of no use.
pub type Origin = BTreeMap<String, String>;

/// Selection and estimation votes of a sample; its position is its id.
type Counts = (Vec<u64>, Vec<u64>);

/// Votes by classifier, which is named by its missing modalities.
pub struct Store<'a> {
    dir: &'a RunDir,
    content: Content,
}

#[derive(Serialize, Deserialize)]
struct Content {
    of: Origin,
    votes: BTreeMap<String, Vec<Counts>>,
}

#[derive(Serialize, Deserialize)]
struct File {
    /// A [`Content`] as JSON: the very text that was hashed.
    content: String,
    sha256: String,
}

impl<'a> Store<'a> {
    /// The votes that `dir` holds of `of`; none, and a line that says why, when it holds others.
    ///
    /// # Errors
    /// A file that was cut short or altered.
    pub fn open(dir: &'a RunDir, of: Origin, voice: &Voice) -> Result<Self> {
        let path = dir.file(run_dir::VOTES);
        let fresh = |of| Ok(Self { dir, content: Content { of, votes: BTreeMap::new() } });
        if !path.exists() {
            return fresh(of);
        }
        let altered = || format!("{} was cut short or altered: delete it to draw its votes again", path.display());
        let file: File = serde_json::from_str(&dir.read(run_dir::VOTES)?).with_context(altered)?;
        if file.sha256 != sha256(&file.content) {
            bail!(altered());
        }
        let content: Content = serde_json::from_str(&file.content).with_context(altered)?;
        let Some(other) = of.keys().chain(content.of.keys()).find(|key| of.get(*key) != content.of.get(*key)) else {
            return Ok(Self { dir, content });
        };
        let value = |of: &Origin| of.get(other).cloned().unwrap_or_else(|| "none".into());
        let (theirs, ours) = (value(&content.of), value(&of));
        voice.say(format!("  {} is of {other} {theirs}, not {ours}: drawing anew", path.display()));
        fresh(of)
    }

    /// Votes of a classifier for at least `samples` samples.
    pub fn votes(&self, classifier: &str, samples: usize) -> Vec<Votes> {
        let stored = self.content.votes.get(classifier).map_or(&[][..], Vec::as_slice);
        let vote = |id| match stored.get(id).cloned() {
            Some((selection, estimation)) => Votes { id: id as u64, selection, estimation },
            None => Votes::new(id as u64),
        };
        (0..samples.max(stored.len())).map(vote).collect()
    }

    /// Replaces a classifier's votes, in the file as well.
    pub fn save<'v>(&mut self, classifier: &str, votes: impl Iterator<Item = &'v Votes>) -> Result<()> {
        let counts = votes.map(|v| (v.selection.clone(), v.estimation.clone())).collect();
        self.content.votes.insert(classifier.to_owned(), counts);
        let content = serde_json::to_string(&self.content)?;
        let file = File { sha256: sha256(&content), content };
        self.dir.write(run_dir::VOTES, &serde_json::to_vec(&file)?)
    }
}

fn sha256(text: &str) -> String {
    hex(Sha256::new_with_prefix(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_come_back_for_the_same_origin_only() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let run = RunDir::create(dir.path(), false)?;
        let voice = Voice::new(true);
        let of = |draws: &str| Origin::from([("draws".to_owned(), draws.to_owned())]);
        let votes = |id| Votes { id, selection: vec![3, 1], estimation: vec![] };
        Store::open(&run, of("9"), &voice)?.save("", [votes(0), votes(1)].iter())?;
        let again = Store::open(&run, of("9"), &voice)?;
        assert_eq!(again.votes("", 3), [votes(0), votes(1), Votes::new(2)]);
        assert_eq!(again.votes("", 1).len(), 2, "more than asked for are kept");
        assert_eq!(again.votes("audio", 1), [Votes::new(0)]);
        assert_eq!(Store::open(&run, of("8"), &voice)?.votes("", 1), [Votes::new(0)]);
        let good = run.read(run_dir::VOTES)?;
        for bad in [good.replace('3', "2"), good[..good.len() / 2].to_owned(), String::new()] {
            run.write(run_dir::VOTES, bad.as_bytes())?;
            let error = Store::open(&run, of("9"), &voice).err().map(|e| format!("{e:#}")).unwrap_or_default();
            assert!(error.contains("votes.json") && error.contains("delete"), "{error}");
        }
        Ok(())
    }
}
