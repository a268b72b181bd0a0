//! The nearest adversarial of each sample, for attacks that look for it. Does not know how they
//! look, nor how moves are measured.
use crate::{
    Problem, Result,
    points::{Point, stacked},
};
use candle_core::Tensor;
use crmt_core::PerModality;

/// When an attack that looks for the nearest adversarial is done with a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// At the first adversarial inside the budget: for robust accuracy.
    Inside,
    /// When its steps are used up; the nearest adversarial of all is kept: for distances.
    Nearest,
}

/// What is kept of every sample.
pub(crate) struct Shortest {
    until: Until,
    best: Vec<(f64, Point)>,
}

impl Shortest {
    /// Nothing yet, for as many samples.
    pub fn new(until: Until, samples: usize) -> Self {
        Self {
            until,
            best: vec![(f64::INFINITY, vec![]); samples],
        }
    }

    /// The size of the move to what is kept of this sample; infinite if it is no adversarial.
    pub fn size(&self, row: u32) -> f64 {
        self.best[row as usize].0
    }

    /// Whether this sample needs no more work.
    pub fn done(&self, row: u32) -> bool {
        self.until == Until::Inside && self.size(row) <= 1.
    }

    /// Those that do.
    pub fn standing(&self) -> Vec<u32> {
        (0..self.best.len() as u32)
            .filter(|row| !self.done(*row))
            .collect()
    }

    /// An adversarial, which is kept if none was nearer.
    pub fn see(&mut self, row: u32, size: f64, point: &Point) {
        if size < self.size(row) {
            self.best[row as usize] = (size, point.clone());
        }
    }

    /// Where a search ended, which is kept if there was no adversarial.
    pub fn end(&mut self, row: u32, point: &Point) {
        if self.size(row) == f64::INFINITY {
            self.best[row as usize].1 = point.clone();
        }
    }

    /// One row for each sample of `problem`, once something is kept of every one.
    pub fn assemble(self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        let points: Vec<Point> = self.best.into_iter().map(|(_, point)| point).collect();
        if points.is_empty() {
            Ok(problem.clean().clone())
        } else {
            stacked(problem.clean(), &points)
        }
    }
}
