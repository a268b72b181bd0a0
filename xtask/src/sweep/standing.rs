//! What there is of a sweep's runs, and what they took. Runs nothing.
use super::cost::Costs;
use super::data;
use super::plan::Run;
use super::spec::Spec;
use super::state::State;
use anyhow::Result;
use serde_json::Value;

/// A sweep and what there is of its runs.
pub struct Sweep<'a> {
    pub spec: &'a Spec,
    pub runs: &'a [Run],
    pub states: Vec<State>,
}

impl<'a> Sweep<'a> {
    /// Reads what the runs of this sweep have left, and nothing else that lies in its folder.
    ///
    /// # Errors
    /// If a result is not the one that the sweep asks for, or two were made on data that differ.
    pub fn look(spec: &'a Spec, runs: &'a [Run]) -> Result<Self> {
        let states = runs
            .iter()
            .map(|run| State::of(run, &spec.out))
            .collect::<Result<Vec<State>>>()?;
        let sweep = Self { spec, runs, states };
        data::same(&sweep.finished())?;
        Ok(sweep)
    }

    pub fn finished(&self) -> Vec<(&'a Run, &Value)> {
        let runs = self.runs.iter().zip(&self.states);
        runs.filter_map(|(run, state)| Some((run, state.summary()?)))
            .collect()
    }

    pub fn missing(&self) -> Vec<(&'a Run, &State)> {
        self.runs
            .iter()
            .zip(&self.states)
            .filter(|(_, state)| state.summary().is_none())
            .collect()
    }

    /// What the finished runs say that they took.
    pub fn costs(&self) -> Costs {
        let mut costs = Costs::default();
        for (run, summary) in self.finished() {
            summary["seconds"]
                .as_f64()
                .into_iter()
                .for_each(|seconds| costs.learn(run, seconds));
        }
        costs
    }
}
