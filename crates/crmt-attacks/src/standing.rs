//! Who still stands during a search, and the point that is kept for each sample.
//! Does not know how attacks move.
use crate::{Problem, Result, problem::select_rows};
use candle_core::Tensor;
use crmt_core::PerModality;

/// The samples still worked on: their rows in the whole problem, and the problem narrowed to them.
pub(crate) struct Active<'a> {
    problem: Option<Problem<'a>>,
    pub rows: Vec<u32>,
}

impl<'a> Active<'a> {
    /// Those for whom nothing has been found.
    pub fn new(whole: &Problem<'a>, found: &Found) -> Result<Self> {
        let rows = found.standing();
        let problem = (rows.len() < whole.samples())
            .then(|| whole.select(&rows))
            .transpose()?;
        Ok(Self { problem, rows })
    }

    pub fn problem<'b>(&'b self, whole: &'b Problem<'a>) -> &'b Problem<'a> {
        self.problem.as_ref().unwrap_or(whole)
    }

    /// Records `x` for the samples that `met` their goal, and works on them no more. Returns which
    /// of the rows so far remain; `None`: all of them.
    pub fn retire(
        &mut self,
        whole: &Problem<'a>,
        found: &mut Found,
        met: &[bool],
        x: &PerModality<Tensor>,
    ) -> Result<Option<Vec<u32>>> {
        let rows_where = |want: bool| -> Vec<u32> {
            (0..)
                .zip(met)
                .filter(|(_, m)| **m == want)
                .map(|r| r.0)
                .collect()
        };
        let (done, keep) = (rows_where(true), rows_where(false));
        if done.is_empty() {
            return Ok(None);
        }
        found.record(
            done.iter().map(|i| self.rows[*i as usize]),
            select_rows(x, &done)?,
            true,
        );
        if !keep.is_empty() {
            self.problem = Some(self.problem(whole).select(&keep)?);
        }
        self.rows = keep.iter().map(|i| self.rows[*i as usize]).collect();
        Ok(Some(keep))
    }
}

/// The best point of each sample, kept in the pieces it was found in.
pub(crate) struct Found {
    /// Row of the concatenated pieces that holds each sample.
    place: Vec<u32>,
    done: Vec<bool>,
    pieces: Vec<PerModality<Tensor>>,
    stored: u32,
}

impl Found {
    /// Nothing yet, for as many samples.
    pub fn new(samples: usize) -> Self {
        Self {
            place: vec![0; samples],
            done: vec![false; samples],
            pieces: vec![],
            stored: 0,
        }
    }

    pub fn standing(&self) -> Vec<u32> {
        (0..self.done.len() as u32)
            .filter(|i| !self.done[*i as usize])
            .collect()
    }

    /// `points`: one row for each of `rows`; `done`: their goal is met.
    pub fn record(
        &mut self,
        rows: impl Iterator<Item = u32>,
        points: PerModality<Tensor>,
        done: bool,
    ) {
        for row in rows {
            self.place[row as usize] = self.stored;
            self.done[row as usize] = done;
            self.stored += 1;
        }
        self.pieces.push(points);
    }

    /// One row for each sample of `problem`, once every one has been recorded.
    pub fn assemble(self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        let Some(first) = self.pieces.first() else {
            return Ok(problem.clean().clone());
        };
        let in_order = self.place.iter().copied().eq(0..self.stored);
        if self.pieces.len() == 1 && in_order {
            return Ok(first.clone());
        }
        let all = first.try_enumerate(|m, _| {
            let parts: Vec<&Tensor> = self.pieces.iter().map(|p| &p[m]).collect();
            Tensor::cat(&parts, 0)
        })?;
        select_rows(&all, &self.place)
    }
}
