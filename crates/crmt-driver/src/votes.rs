//! `votes.json`: votes counted under noise, kept so that a stopped run goes on where it was.
//! Does not know how votes are drawn, nor what they prove.
use crate::{
    people::Voice,
    run_dir::{self, RunDir},
    sealed::hex,
};
use anyhow::{Context, Result, bail};
use crmt_certify::{Smoothing, Votes};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What votes depend on, as text by name. Votes of anything else are of no use.
pub type Origin = BTreeMap<String, String>;

/// Selection and estimation votes of a sample.
type Counts = (Vec<u64>, Vec<u64>);

/// Votes by classifier, which is named by its missing modalities.
pub struct Store<'a> {
    dir: &'a RunDir,
    content: Content,
}

#[derive(Serialize, Deserialize)]
struct Content {
    of: Origin,
    /// By classifier and number of the sample.
    votes: BTreeMap<String, BTreeMap<u64, Counts>>,
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
        let fresh = |of| {
            Ok(Self {
                dir,
                content: Content {
                    of,
                    votes: BTreeMap::new(),
                },
            })
        };
        if !path.exists() {
            return fresh(of);
        }
        let altered = || {
            format!(
                "{} was cut short or altered: delete it to draw its votes again",
                path.display()
            )
        };
        let file: File = serde_json::from_str(&dir.read(run_dir::VOTES)?).with_context(altered)?;
        if file.sha256 != sha256(&file.content) {
            bail!(altered());
        }
        // What is unaltered and can't be read is of another version.
        let Ok(content) = serde_json::from_str::<Content>(&file.content) else {
            voice.say(format!(
                "  {} is of another version of this program: drawing anew",
                path.display()
            ));
            return fresh(of);
        };
        let Some(other) = of
            .keys()
            .chain(content.of.keys())
            .find(|key| of.get(*key) != content.of.get(*key))
        else {
            return Ok(Self { dir, content });
        };
        let value = |of: &Origin| of.get(other).cloned().unwrap_or_else(|| "none".into());
        let (theirs, ours) = (value(&content.of), value(&of));
        voice.say(format!(
            "  {} is of {other} {theirs}, not {ours}: drawing anew",
            path.display()
        ));
        fresh(of)
    }

    /// Votes of a classifier for the samples of these numbers, drawn as `smoothing` asks: the
    /// origin says so.
    pub fn votes(&self, classifier: &str, smoothing: &Smoothing, samples: &[usize]) -> Vec<Votes> {
        let stored = |id: u64| self.content.votes.get(classifier)?.get(&id).cloned();
        let vote = |id: u64| match stored(id) {
            Some((selection, estimation)) => smoothing.counted(id, selection, estimation),
            None => Votes::new(id),
        };
        samples.iter().map(|i| vote(*i as u64)).collect()
    }

    /// Replaces a classifier's votes for these samples, in the file as well; those for others stay.
    pub fn save(&mut self, classifier: &str, votes: &[Votes]) -> Result<()> {
        let counts = votes
            .iter()
            .map(|v| (v.id, (v.selection.clone(), v.estimation.clone())));
        self.content
            .votes
            .entry(classifier.to_owned())
            .or_default()
            .extend(counts);
        let content = serde_json::to_string(&self.content)?;
        let file = File {
            sha256: sha256(&content),
            content,
        };
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
        let smoothing = Smoothing::new(crmt_core::PerModality::from([1.0]))?;
        let votes = |id| smoothing.counted(id, vec![3, 1], vec![]);
        Store::open(&run, of("9"), &voice)?.save("", &[votes(7), votes(1)])?;
        let mut again = Store::open(&run, of("9"), &voice)?;
        assert_eq!(
            again.votes("", &smoothing, &[1, 7, 2]),
            [votes(1), votes(7), Votes::new(2)]
        );
        again.save("", &[votes(4)])?;
        let again = Store::open(&run, of("9"), &voice)?;
        assert_eq!(
            again.votes("", &smoothing, &[7, 4]),
            [votes(7), votes(4)],
            "others are kept"
        );
        assert_eq!(again.votes("audio", &smoothing, &[1]), [Votes::new(1)]);
        assert_eq!(
            Store::open(&run, of("8"), &voice)?.votes("", &smoothing, &[1]),
            [Votes::new(1)]
        );
        // Of a version that kept something else.
        let other = r#"{"of":{"draws":"9"},"votes":{"":[[[3,1],[]]]}}"#.to_owned();
        let file = serde_json::to_vec(&File {
            sha256: sha256(&other),
            content: other,
        })?;
        let ours = run.read(run_dir::VOTES)?;
        run.write(run_dir::VOTES, &file)?;
        assert_eq!(
            Store::open(&run, of("9"), &voice)?.votes("", &smoothing, &[0]),
            [Votes::new(0)]
        );
        run.write(run_dir::VOTES, ours.as_bytes())?;
        let good = run.read(run_dir::VOTES)?;
        for bad in [
            good.replace('3', "2"),
            good[..good.len() / 2].to_owned(),
            String::new(),
        ] {
            run.write(run_dir::VOTES, bad.as_bytes())?;
            let error = Store::open(&run, of("9"), &voice)
                .err()
                .map(|e| format!("{e:#}"))
                .unwrap_or_default();
            assert!(
                error.contains("votes.json") && error.contains("delete"),
                "{error}"
            );
        }
        Ok(())
    }
}
