//! Random search that sees only scores (Andriushchenko et al. 2020), over several inputs at once.
//! Does not use gradients, so nothing that hides them stops it.
use crate::{
    Attack, Budget, Error, Loss, Norm, Problem, Result,
    points::{Point, Rows, stacked},
    standing::{Active, Found},
};
use candle_core::{DType, Tensor};
use crmt_core::PerModality;
use rand::Rng;

/// The square attack (Andriushchenko et al. 2020, "Square attack: a query-efficient black-box
/// adversarial attack via random search"): a change of one window is kept when it raises the margin
/// `max_{j != y} h_j - h_y`.
///
/// A modality of shape `[c, h, w]` is `c` channels of an image, its windows squares of `p h w`
/// pixels across all channels; any other shape is one line of its elements, its windows `p len`
/// neighbours. Per sample:
///
/// ```text
/// x = start, one query
/// repeat:   p halves after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10000 queries (rescaled)
///     m = a modality that may move, each as likely; W = a window of m, anywhere
///     x' = x changed in W, into budget and domain; x = x' if the margin is greater there: one query
/// ```
///
/// *linf.* Start: every column of every channel at one end of its range, the least or the greatest
/// value within budget and domain (on a line: every element). Change: each channel of `W` to one
/// end, drawn again while nothing changes.
///
/// *l2.* With `u = (x - clean) / scale` and `eta` a window of unit length, a peak beside a trough
/// of heights `sum_{j=d..=n} 1 / (j+1)^2` at distance `d` of their centres. Start: tiles of a fifth
/// of the side, each `eta` up or down in each channel, every modality scaled to its radius. Change:
/// a second window `W'` gives its length to `W`,
///
/// ```text
/// v_i    = +-eta + u_{W,i} / |u_{W,i}|                                        for each of the c channels i
/// u_{W'} = 0;  u_{W,i} = v_i / |v_i| sqrt(|u_{W,i}|^2 + |u_{W' \ W,i}|^2 + (radius^2 - |u|^2) / c)
/// ```
///
/// *Joint budgets* (ours): the start gives each of `M` moving modalities `radius / sqrt(M)`; `|u|`
/// is over all of them, and `W'` is in a modality of its own, each as likely, so that length flows
/// between modalities. From another modality, the whole `|u_{W'}|^2` is shared equally by the
/// channels of `W`.
///
/// Windows reach every row and column; those of the released code never reach the last ones, which
/// on small images leaves a part of the start unchanged, and more images standing (`tests/parity`):
/// [`as_released`](Self::as_released).
///
/// It does not: restart; use the cross-entropy (the original does for targeted goals). Success is
/// checked at every query, and a sample that has succeeded asks no more; any other ends at its best
/// point. Costs at most [`queries`](Self::queries) forward evaluations of each sample, and no
/// backward ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Square {
    /// How far to go.
    pub budget: Budget,
    /// Forward evaluations of each sample, at least 1; the published number is 5000.
    pub queries: usize,
    /// Share of the elements in the first windows, above 0 and at most 1; AutoAttack takes 0.8.
    pub p: f64,
    /// Windows never reach the last row and column, and the tiles of an l2 start leave the rim
    /// clean.
    pub as_released: bool,
}

impl Square {
    /// The settings of AutoAttack with this number of queries.
    pub fn new(budget: Budget, queries: usize) -> Self {
        Self {
            budget,
            queries,
            p: 0.8,
            as_released: false,
        }
    }

    /// Share of the elements in the windows of this query.
    fn share(&self, query: usize) -> f64 {
        let halvings = [10., 50., 200., 500., 1000., 2000., 4000., 6000., 8000.];
        let rescaled = query as f64 / self.queries as f64 * 1e4;
        self.p / f64::from(1 << halvings.iter().filter(|at| rescaled > **at).count())
    }

    fn linf(&self) -> bool {
        matches!(
            self.budget,
            Budget::Each {
                norm: Norm::Linf,
                ..
            }
        )
    }

    /// Everyone at the clean input.
    fn walkers(&self, problem: &Problem<'_>) -> Result<Vec<Walker<impl Rng + use<>>>> {
        let radii = problem.radii(&self.budget)?;
        let clean = Rows::new(problem.clean())?;
        let end = |sign: f64| -> Result<Rows> {
            if !self.linf() {
                return Rows::new(problem.clean());
            }
            let up = problem
                .clean()
                .try_map(|x| -> Result<_> { Ok(Some((x.ones_like()? * sign)?)) })?;
            Rows::new(&problem.step(&self.budget, problem.clean(), &up, 1.)?)
        };
        let (least, greatest) = (end(-1.)?, end(1.)?);
        let walker = |i: usize| Walker {
            rng: problem.draws().stream("attack.square", i),
            radii: radii.iter().map(|r| r[i]).collect(),
            clean: clean.of(i),
            ends: [least.of(i), greatest.of(i)],
            x: clean.of(i),
            margin: f64::NEG_INFINITY,
        };
        Ok((0..problem.samples()).map(walker).collect())
    }
}

impl Attack for Square {
    fn name(&self) -> &str {
        "square"
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn search(&self, problem: &Problem<'_>) -> Result<PerModality<Tensor>> {
        if self.queries == 0 || !(self.p > 0. && self.p <= 1.) {
            return Err(Error::Setting(
                "square needs at least one query, and a p above 0 and at most 1",
            ));
        }
        let fields: Vec<Field> = problem
            .classifier()
            .modalities()
            .iter()
            .enumerate()
            .map(|(m, modality)| {
                Field::new(
                    &modality.shape,
                    modality.scale,
                    self.budget.radius(m) > 0.,
                    self.as_released,
                )
            })
            .collect();
        let mut found = Found::new(problem.samples());
        if problem.samples() == 0 || fields.iter().all(|f| !f.moves) {
            return found.assemble(problem);
        }
        let rules = Rules {
            fields: &fields,
            joint: matches!(self.budget, Budget::Joint(_)),
            linf: self.linf(),
        };
        let mut active = Active::new(problem, &found)?;
        let mut walkers = self.walkers(problem)?;
        for query in 0..self.queries {
            let share = self.share(query);
            let proposals: Vec<Point> = walkers
                .iter_mut()
                .map(|w| {
                    if query == 0 {
                        w.start(&rules)
                    } else {
                        w.changed(&rules, share)
                    }
                })
                .collect();
            let here = active.problem(problem);
            let x = here.confine(&self.budget, &stacked(here.clean(), &proposals)?)?;
            let logits = here.logits(&x)?;
            let margins = Loss::Margin
                .value(&logits, here.goal())?
                .to_dtype(DType::F64)?
                .to_vec1::<f64>()?;
            let met = here.met_firmly(&logits)?;
            let values = Rows::new(&x)?;
            for (i, (walker, margin)) in walkers.iter_mut().zip(margins).enumerate() {
                if margin > walker.margin {
                    (walker.x, walker.margin) = (values.of(i), margin);
                }
            }
            if active.retire(problem, &mut found, &met, &x)?.is_some() {
                let mut met = met.into_iter();
                walkers.retain(|_| met.next() == Some(false));
                if walkers.is_empty() {
                    return found.assemble(problem);
                }
            }
        }
        let best: Vec<Point> = walkers.into_iter().map(|w| w.x).collect();
        let best = stacked(active.problem(problem).clean(), &best)?;
        found.record(active.rows.into_iter(), best, false);
        found.assemble(problem)
    }
}

/// What is the same for every sample.
struct Rules<'a> {
    fields: &'a [Field],
    joint: bool,
    linf: bool,
}

impl Rules<'_> {
    fn moving(&self) -> Vec<usize> {
        (0..self.fields.len())
            .filter(|m| self.fields[*m].moves)
            .collect()
    }

    fn any(&self, rng: &mut impl Rng) -> usize {
        let moving = self.moving();
        moving[rng.random_range(0..moving.len())]
    }
}

/// How the elements of a modality lie: channels, rows, columns; one row if it is not an image.
struct Field {
    as_released: bool,
    channels: usize,
    height: usize,
    width: usize,
    scale: f64,
    moves: bool,
}

/// A rectangle of a field, across all channels.
#[derive(Clone, Copy)]
struct Window {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Field {
    fn new(shape: &[usize], scale: f64, may_move: bool, as_released: bool) -> Self {
        let (channels, height, width) = match *shape {
            [c, h, w] => (c, h, w),
            _ => (1, 1, shape.iter().product()),
        };
        Self {
            as_released,
            channels,
            height,
            width,
            scale,
            moves: may_move && channels * height * width > 0,
        }
    }

    /// Anywhere, with this share of the elements; for l2 with an odd side of 3 or more, where there
    /// is room.
    fn window(&self, share: f64, linf: bool, rng: &mut impl Rng) -> Window {
        let area = share * (self.height * self.width) as f64;
        let side = if self.height.min(self.width) == 1 {
            area
        } else {
            area.sqrt()
        };
        let side = side.round() as usize;
        let side = if linf { side.max(1) } else { side.max(3) | 1 };
        let (height, width) = (side.min(self.height), side.min(self.width));
        // As released, the last place is never taken where there is another.
        let places = |room: usize| {
            if self.as_released {
                room.max(1)
            } else {
                room + 1
            }
        };
        let (tops, lefts) = (places(self.height - height), places(self.width - width));
        let (top, left) = (rng.random_range(0..tops), rng.random_range(0..lefts));
        Window {
            top,
            left,
            height,
            width,
        }
    }

    /// Tiles of a fifth of the shorter side (a line: of its length), those at the end cut off.
    fn tiles(&self) -> Vec<Window> {
        let shorter = self.height.min(self.width);
        let shorter = if shorter == 1 {
            self.height.max(self.width)
        } else {
            shorter
        };
        let side = (shorter / 5).max(1);
        let first = if self.as_released {
            shorter.saturating_sub(5 * side) / 2
        } else {
            0
        };
        // As released: five in the middle, whose surroundings stay clean.
        let starts = |len: usize| {
            let end = if self.as_released && len > first {
                (first + len / side * side).min(len)
            } else {
                len
            };
            (if len > first { first } else { 0 }..end).step_by(side)
        };
        let rows = starts(self.height);
        let tile = |top: usize, left: usize| {
            let (height, width) = (side.min(self.height - top), side.min(self.width - left));
            Window {
                top,
                left,
                height,
                width,
            }
        };
        rows.flat_map(|top| starts(self.width).map(move |left| tile(top, left)))
            .collect()
    }

    /// Indices of the elements of one channel of a window, row by row.
    fn elements(&self, channel: usize, w: Window) -> impl Iterator<Item = usize> + use<> {
        let (height, width) = (self.height, self.width);
        let row = move |r| (channel * height + w.top + r) * width + w.left;
        (0..w.height).flat_map(move |r| row(r)..row(r) + w.width)
    }
}

/// A peak beside a trough (one above the other, or side by side), of length 1, row by row.
fn eta(height: usize, width: usize, rng: &mut impl Rng) -> Vec<f64> {
    let above = rng.random::<bool>();
    let above = if height.min(width) < 2 {
        height > width
    } else {
        above
    };
    let (long, short) = if above {
        (height, width)
    } else {
        (width, height)
    };
    let peak = long / 2;
    let mut values: Vec<f64> = (0..height * width)
        .map(|i| {
            let (r, c) = if above {
                (i / width, i % width)
            } else {
                (i % width, i / width)
            };
            if r < peak {
                hill(peak, short, r, c)
            } else {
                -hill(long - peak, short, r - peak, c)
            }
        })
        .collect();
    scale_to(&mut values, 1.);
    values
}

/// Height of the hill of `rows * columns` there: `sum_{j=d..=n} 1 / (j+1)^2`, `d` from the centre,
/// `n` half the longer side.
fn hill(rows: usize, columns: usize, r: usize, c: usize) -> f64 {
    let distance = r.abs_diff(rows / 2).max(c.abs_diff(columns / 2));
    (distance..=rows.max(columns) / 2)
        .map(|j| ((j + 1) as f64).powi(-2))
        .sum()
}

fn length(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Zeros stay zeros.
fn scale_to(values: &mut [f64], to: f64) {
    let length = length(values);
    if length > 0. {
        values.iter_mut().for_each(|v| *v *= to / length);
    }
}

/// One sample's search.
struct Walker<R> {
    rng: R,
    /// Of each modality, in declared units.
    radii: Vec<f64>,
    clean: Point,
    /// The least and the greatest value of each element within an linf budget and the domain;
    /// unused in l2.
    ends: [Point; 2],
    /// Best so far.
    x: Point,
    margin: f64,
}

impl<R: Rng> Walker<R> {
    fn start(&mut self, rules: &Rules<'_>) -> Point {
        let moving = rules.moving();
        let part = if rules.joint {
            (moving.len() as f64).sqrt().recip()
        } else {
            1.
        };
        let mut x = self.clean.clone();
        for m in moving {
            let field = &rules.fields[m];
            if rules.linf {
                for channel in 0..field.channels {
                    for left in 0..field.width {
                        let column = Window {
                            top: 0,
                            left,
                            height: field.height,
                            width: 1,
                        };
                        let end = usize::from(self.rng.random::<bool>());
                        field
                            .elements(channel, column)
                            .for_each(|i| x[m][i] = self.ends[end][m][i]);
                    }
                }
                continue;
            }
            let mut u = vec![0.; x[m].len()];
            for tile in field.tiles() {
                let eta = eta(tile.height, tile.width, &mut self.rng);
                for channel in 0..field.channels {
                    let sign = self.sign();
                    field
                        .elements(channel, tile)
                        .zip(&eta)
                        .for_each(|(i, e)| u[i] = sign * e);
                }
            }
            scale_to(&mut u, self.radii[m] * part);
            x[m].iter_mut()
                .zip(u)
                .for_each(|(x, u)| *x += u * field.scale);
        }
        x
    }

    fn changed(&mut self, rules: &Rules<'_>, share: f64) -> Point {
        if rules.linf {
            self.changed_linf(rules, share)
        } else {
            self.changed_l2(rules, share)
        }
    }

    fn changed_linf(&mut self, rules: &Rules<'_>, share: f64) -> Point {
        /// At a corner of the domain nothing may change, whatever is drawn.
        const TRIES: usize = 10;
        let mut x = self.x.clone();
        for _ in 0..TRIES {
            let m = rules.any(&mut self.rng);
            let field = &rules.fields[m];
            let window = field.window(share, true, &mut self.rng);
            for channel in 0..field.channels {
                let end = usize::from(self.rng.random::<bool>());
                field
                    .elements(channel, window)
                    .for_each(|i| x[m][i] = self.ends[end][m][i]);
            }
            if x[m] != self.x[m] {
                break;
            }
        }
        x
    }

    fn changed_l2(&mut self, rules: &Rules<'_>, share: f64) -> Point {
        let m = rules.any(&mut self.rng);
        let giver = if rules.joint {
            rules.any(&mut self.rng)
        } else {
            m
        };
        let (field, giving) = (&rules.fields[m], &rules.fields[giver]);
        let window = field.window(share, false, &mut self.rng);
        let given = giving.window(share, false, &mut self.rng);
        // Everything in declared units.
        let mut u: Point = (0..self.x.len())
            .map(|k| {
                self.x[k]
                    .iter()
                    .zip(&self.clean[k])
                    .map(|(x, x0)| (x - x0) / rules.fields[k].scale)
                    .collect()
            })
            .collect();
        let spent: f64 = if rules.joint {
            u.iter().map(|u| length(u).powi(2)).sum()
        } else {
            length(&u[m]).powi(2)
        };
        let unused = (self.radii[m].powi(2) - spent).max(0.);

        let mut take = |k: usize, channel: usize, w: Window| -> Vec<f64> {
            rules.fields[k]
                .elements(channel, w)
                .map(|i| std::mem::take(&mut u[k][i]))
                .collect()
        };
        let old: Vec<Vec<f64>> = (0..field.channels).map(|c| take(m, c, window)).collect();
        let freed: Vec<f64> = (0..giving.channels)
            .map(|c| length(&take(giver, c, given)).powi(2))
            .collect();
        let eta = eta(window.height, window.width, &mut self.rng);
        for (channel, old) in old.into_iter().enumerate() {
            let before = length(&old);
            let sign = self.sign();
            let mut v: Vec<f64> = eta
                .iter()
                .zip(&old)
                .map(|(e, o)| sign * e + o / before.max(f64::MIN_POSITIVE))
                .collect();
            // Opposites cancel: only their rounding is left, which says nothing.
            if length(&v) < 1e-6 {
                v = eta.iter().map(|e| sign * e).collect();
            }
            let freed = if giver == m {
                freed[channel]
            } else {
                freed.iter().sum::<f64>() / field.channels as f64
            };
            scale_to(
                &mut v,
                (before.powi(2) + freed + unused / field.channels as f64).sqrt(),
            );
            field
                .elements(channel, window)
                .zip(v)
                .for_each(|(i, v)| u[m][i] = v);
        }
        let mut x = self.x.clone();
        for k in [m, giver] {
            let scale = rules.fields[k].scale;
            x[k] = self.clean[k]
                .iter()
                .zip(&u[k])
                .map(|(x0, u)| x0 + u * scale)
                .collect();
        }
        x
    }

    fn sign(&mut self) -> f64 {
        if self.rng.random() { 1. } else { -1. }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crmt_core::Streams;

    #[test]
    fn windows_shrink_as_published() {
        let square = Square::new(Budget::Joint(1.), 10_000);
        let at = [0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001, 9999];
        let halvings = at.map(|q| (0.8 / square.share(q)).log2());
        assert_eq!(halvings, [0., 0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 9.]);
    }

    #[test]
    fn eta_is_a_peak_beside_a_trough() {
        let mut rng = Streams::new(1).stream("eta", 0);
        for (height, width) in [(1, 1), (1, 6), (5, 1), (3, 3), (7, 4)] {
            let eta = eta(height, width, &mut rng);
            assert_eq!(eta.len(), height * width);
            assert!((length(&eta) - 1.).abs() < 1e-12);
            let both = eta.iter().any(|e| *e > 0.) && eta.iter().any(|e| *e < 0.);
            assert!(both || height * width == 1, "{eta:?}");
        }
        // Centre of 3 x 3: 1 + 1/4; around it 1/4.
        assert_eq!((hill(3, 3, 1, 1), hill(3, 3, 0, 2)), (1.25, 0.25));
    }

    /// In l2 every change spends the whole radius, jointly or on each modality.
    #[test]
    fn changes_spend_the_radius() {
        let fields = [
            Field::new(&[2, 6, 5], 2., true, false),
            Field::new(&[9], 0.5, true, false),
            Field::new(&[4], 1., false, false),
        ];
        for joint in [true, false] {
            let rules = Rules {
                fields: &fields,
                joint,
                linf: false,
            };
            let clean: Point = vec![vec![0.; 60], vec![0.; 9], vec![0.; 4]];
            let radii = if joint { vec![3.; 3] } else { vec![3., 1., 0.] };
            let rng = Streams::new(2).stream("walk", 0);
            let ends = [clean.clone(), clean.clone()];
            let mut w = Walker {
                rng,
                radii,
                x: clean.clone(),
                clean,
                ends,
                margin: 0.,
            };
            w.x = w.start(&rules);
            for _ in 0..50 {
                let size: Vec<f64> =
                    w.x.iter()
                        .zip(&fields)
                        .map(|(x, f)| length(x) / f.scale)
                        .collect();
                let full = if joint {
                    size[0].hypot(size[1]) - 3.
                } else {
                    (size[0] - 3.).abs() + (size[1] - 1.).abs()
                };
                assert!(full.abs() < 1e-9 && size[2] == 0., "{size:?}");
                w.x = w.changed(&rules, 0.3);
            }
        }
    }
}
