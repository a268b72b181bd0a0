//! The geometry of moving within a budget: nearest points, steps, and how far samples moved.
//! Does not know models.
use crate::{
    Budget, Error, Result,
    ball::{Ball, waits},
    domain,
    rows::{free_and_cut, rows, same, squares, stepped},
    wide::{overflown, widened},
};
use candle_core::{D, DType, Tensor};
use crmt_core::PerModality;

/// How far samples moved, in declared units.
#[derive(Debug, Clone)]
pub(crate) struct Spent {
    /// The joint l2 norm, or the greatest change of any modality for an linf budget.
    pub distance: Vec<f64>,
    /// Of each modality, in the budget's norm.
    pub each: PerModality<Vec<f64>>,
    /// Of what the budget allows: at most 1 inside; 0 for a distance of 0.
    pub used: Vec<f64>,
}

impl Ball<'_> {
    /// The nearest point of the ball within the domains, for each sample, in declared units;
    /// modalities with no radius come back as `clean`, bit for bit. `clean` is within the domains.
    ///
    /// linf: both are boxes around `clean`, and clamping to one after the other is exact. l2: by
    /// the conditions of optimality the nearest point is `clamp(clean + t (moved - clean))`, with
    /// the `t <= 1` at which its length is the radius: a perturbation that the domain cuts is
    /// longer elsewhere.
    pub fn project(
        &self,
        clean: &PerModality<Tensor>,
        moved: &PerModality<Tensor>,
    ) -> Result<PerModality<Tensor>> {
        let wide = |ball: &Ball<'_>| Ok(ball.projected(&widened(clean)?, &widened(moved)?)?.0);
        self.by_size(clean, |ball| ball.projected(clean, moved), wide)
    }

    /// The same, and which samples moved too far for their type.
    fn projected(
        &self,
        clean: &PerModality<Tensor>,
        moved: &PerModality<Tensor>,
    ) -> Result<(PerModality<Tensor>, Vec<bool>)> {
        let deltas = moved
            .zip(clean, "clean inputs")?
            .try_enumerate(|m, (x, x0)| match self.budget.radius(m) > 0. {
                true => Ok::<_, Error>(Some((*x - *x0)?)),
                false => Ok(None),
            })?;
        let squares = deltas.try_map(|delta| delta.as_ref().map(squares).transpose())?;
        let shrinks = if self.budget.linf() {
            deltas.map(|_| None)
        } else {
            self.shrinks(clean, &deltas, &squares)?
        };
        let x = clean.try_enumerate(|m, x0| -> Result<_> {
            let Some(delta) = &deltas[m] else {
                return Ok(x0.clone());
            };
            let x = match &shrinks[m] {
                Some(shrink) => stepped(x0, delta, shrink)?,
                None => {
                    let limit = self.limit(m, delta)?;
                    let delta = rows(delta)?
                        .broadcast_minimum(&limit)?
                        .broadcast_maximum(&limit.neg()?)?;
                    (x0 + delta.reshape(x0.shape())?)?
                }
            };
            domain::clamp(&x, &self.modalities[m])
        })?;
        Ok((x, overflown(&squares)?))
    }

    /// Per sample: is `x` within the domains already, and has it used at most `most` of the budget?
    pub fn holds(
        &self,
        clean: &PerModality<Tensor>,
        x: &PerModality<Tensor>,
        most: f64,
    ) -> Result<Vec<bool>> {
        let mut holds: Vec<bool> = self
            .spent(clean, x)?
            .used
            .iter()
            .map(|used| *used <= most)
            .collect();
        for (x, modality) in x.zip(self.modalities, "modalities")?.iter() {
            let inside = same(x, &domain::clamp(x, modality)?)?;
            holds
                .iter_mut()
                .zip(inside)
                .for_each(|(holds, inside)| *holds &= inside);
        }
        Ok(holds)
    }

    /// Per modality, by what each sample's perturbation must be multiplied before it is clamped,
    /// `[batch, 1]`; `None`: it does not move. `all`: squares of their lengths.
    fn shrinks(
        &self,
        clean: &PerModality<Tensor>,
        deltas: &PerModality<Option<Tensor>>,
        all: &PerModality<Option<Tensor>>,
    ) -> Result<PerModality<Option<Tensor>>> {
        let mut shrinks = self.shrunk(all, None)?;
        let rooms = deltas.try_enumerate(|m, delta| match delta {
            Some(delta) => domain::room(&clean[m], delta, &self.modalities[m]),
            None => Ok(None),
        })?;
        if rooms.iter().all(Option::is_none) {
            return Ok(shrinks);
        }
        // What the domain cuts off stays cut off as `t` grows, so `t` approaches its value from
        // below, and exactly after as many rounds as there are sets of elements on the way that are
        // cut.
        let blind = waits(&clean[0]);
        for _ in 0..if blind { BLIND_ROUNDS } else { ROUNDS } {
            let split = deltas.try_enumerate(|m, delta| -> Result<_> {
                let (Some(delta), Some(all), Some(shrink)) = (delta, &all[m], &shrinks[m]) else {
                    return Ok(None);
                };
                let Some(room) = &rooms[m] else {
                    return Ok(Some((all.clone(), all.zeros_like()?)));
                };
                Ok(Some(free_and_cut(delta, room, shrink)?))
            })?;
            let free = split.map(|s| s.as_ref().map(|s| s.0.clone()));
            let cut = split.map(|s| s.as_ref().map(|s| s.1.clone()));
            let next = self.shrunk(&free, Some(&cut))?;
            let over = !blind && growth(&shrinks, &next)? <= GROWN;
            shrinks = next;
            if over {
                break;
            }
        }
        Ok(shrinks)
    }

    /// `min(1, sqrt((radius^2 - cut) / free))` of squared lengths `[batch, 1]` in the arrays' own
    /// units; 1 where nothing is free.
    fn shrunk(
        &self,
        free: &PerModality<Option<Tensor>>,
        cut: Option<&PerModality<Option<Tensor>>>,
    ) -> Result<PerModality<Option<Tensor>>> {
        let free = self.united(free, -1)?;
        let cut = cut.map(|cut| self.united(cut, -1)).transpose()?;
        free.try_enumerate(|m, free| {
            let Some(free) = free else { return Ok(None) };
            let mut left = self.radius(m, free)?.sqr()?;
            if let Some(cut) = cut.as_ref().and_then(|cut| cut[m].as_ref()) {
                left = left.broadcast_sub(cut)?.maximum(0.)?;
            }
            // Finite for a length of 0: the numerator is then no larger than the denominator.
            Ok(Some(
                left.broadcast_minimum(free)?
                    .broadcast_div(&positive(free)?)?
                    .sqrt()?
                    .maximum(&free.eq(0.)?.to_dtype(free.dtype())?)?,
            ))
        })
    }

    /// l2 lengths `[batch, 1]`, each modality weighted by `scale^power`: joint, the same for every
    /// modality.
    fn lengths(
        &self,
        parts: &PerModality<Option<Tensor>>,
        power: i32,
    ) -> Result<PerModality<Option<Tensor>>> {
        let squares = parts.try_map(|part| part.as_ref().map(squares).transpose())?;
        self.united(&squares, power)?
            .try_map(|own| Ok(own.as_ref().map(Tensor::sqrt).transpose()?))
    }

    /// Squares of lengths `[batch, 1]`, each modality weighted by `scale^(2 power)`: joint, their
    /// sum for every modality.
    fn united(
        &self,
        squares: &PerModality<Option<Tensor>>,
        power: i32,
    ) -> Result<PerModality<Option<Tensor>>> {
        let squares = squares.try_enumerate(|m, own| {
            let weighted = |own: &Tensor| own * self.modalities[m].scale.powi(2 * power);
            own.as_ref().map(weighted).transpose()
        })?;
        let joint = match self.budget {
            Budget::Joint(_) => squares
                .iter()
                .flatten()
                .cloned()
                .map(Ok)
                .reduce(|a, b| a? + b?)
                .transpose()?,
            Budget::Each { .. } => None,
        };
        Ok(squares.map(|own| {
            own.as_ref()
                .map(|own| joint.as_ref().unwrap_or(own).clone())
        }))
    }

    /// Moves `x` by `relative` times the radius in the steepest direction of `gradients`, per
    /// sample.
    ///
    /// Joint: one direction over all modalities, in declared units. Each, l2: one direction per
    /// modality. Each, linf: signs. A zero gradient moves nothing.
    pub fn step(
        &self,
        x: &PerModality<Tensor>,
        gradients: &PerModality<Option<Tensor>>,
        relative: f64,
    ) -> Result<PerModality<Tensor>> {
        let wide = |ball: &Ball<'_>| {
            let gradients =
                gradients.try_map(|g| g.as_ref().map(|g| g.to_dtype(DType::F64)).transpose())?;
            ball.step_in_units(&widened(x)?, &gradients, relative)
        };
        self.by_size(x, |ball| ball.step_in_arrays(x, gradients, relative), wide)
    }

    /// With lengths in the arrays' own units; also which samples' gradients are too long for their
    /// type.
    fn step_in_arrays(
        &self,
        x: &PerModality<Tensor>,
        gradients: &PerModality<Option<Tensor>>,
        relative: f64,
    ) -> Result<(PerModality<Tensor>, Vec<bool>)> {
        if self.budget.linf() {
            return Ok((self.step_by_signs(x, gradients, relative)?, vec![]));
        }
        let mut gradients = gradients.clone();
        let mut lengths = self.lengths(&gradients, 1)?;
        if waits(&x[0]) || smallest(&lengths)? < UNDERFLOW {
            gradients = self.magnified(&gradients)?;
            lengths = self.lengths(&gradients, 1)?;
        }
        let moved = x.try_enumerate(|m, x| -> Result<_> {
            let (Some(g), Some(length)) = (&gradients[m], &lengths[m]) else {
                return Ok(x.clone());
            };
            // In units u = x / s the gradient is s g, and a step du is dx = s du.
            let rate = (self.radius(m, x)? * (relative * self.modalities[m].scale.powi(2)))?;
            // A magnified gradient has a length of 1 or more, or of 0: then it moves nothing, at
            // any finite rate.
            let rate = rate.broadcast_div(&length.maximum(UNDERFLOW)?)?;
            Ok(stepped(x, g, &rate)?)
        })?;
        Ok((moved, overflown(&lengths)?))
    }

    /// With lengths in declared units, relative to each sample's greatest element, so that no unit
    /// is too small.
    fn step_in_units(
        &self,
        x: &PerModality<Tensor>,
        gradients: &PerModality<Option<Tensor>>,
        relative: f64,
    ) -> Result<PerModality<Tensor>> {
        if self.budget.linf() {
            return self.step_by_signs(x, gradients, relative);
        }
        let scaled = gradients
            .try_enumerate(|m, g| g.as_ref().map(|g| g * self.modalities[m].scale).transpose())?;
        let scaled = self.magnified(&scaled)?;
        let lengths = self.lengths(&scaled, 0)?;
        x.try_enumerate(|m, x| {
            let (Some(g), Some(length)) = (&scaled[m], &lengths[m]) else {
                return Ok(x.clone());
            };
            let rate = (self.radius(m, x)? * (relative * self.modalities[m].scale))?;
            Ok(stepped(
                x,
                g,
                &rate.broadcast_div(&length.maximum(UNDERFLOW)?)?,
            )?)
        })
    }

    fn step_by_signs(
        &self,
        x: &PerModality<Tensor>,
        gradients: &PerModality<Option<Tensor>>,
        relative: f64,
    ) -> Result<PerModality<Tensor>> {
        x.try_enumerate(|m, x| {
            let Some(g) = &gradients[m] else {
                return Ok(x.clone());
            };
            let rate = (self.limit(m, x)? * relative)?;
            Ok(stepped(x, &g.sign()?, &rate)?)
        })
    }

    /// Gradients divided by each sample's greatest entry (over all modalities for a joint budget),
    /// so that squares of tiny ones do not underflow; zeros stay zeros.
    fn magnified(&self, g: &PerModality<Option<Tensor>>) -> Result<PerModality<Option<Tensor>>> {
        self.divided(
            g,
            |g| Ok(g.abs()?.max_keepdim(D::Minus1)?),
            |all| Ok(all.max_keepdim(D::Minus1)?),
        )
    }

    /// Gradients divided by the sum of each sample's absolute entries (over all modalities for a
    /// joint budget); zeros stay zeros.
    pub fn relative_to_sums(
        &self,
        g: &PerModality<Option<Tensor>>,
    ) -> Result<PerModality<Option<Tensor>>> {
        let g = self.magnified(g)?;
        self.divided(
            &g,
            |g| Ok(g.abs()?.sum_keepdim(D::Minus1)?),
            |all| Ok(all.sum_keepdim(D::Minus1)?),
        )
    }

    /// Gradients divided by a size of each sample's, taken of each modality's rows, then of all
    /// sizes for a joint budget.
    fn divided(
        &self,
        g: &PerModality<Option<Tensor>>,
        size: impl Fn(&Tensor) -> Result<Tensor>,
        of_all: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<PerModality<Option<Tensor>>> {
        let own = g.try_map(|g| g.as_ref().map(|g| size(&rows(g)?)).transpose())?;
        let joint = match self.budget {
            Budget::Joint(_) => {
                let all: Vec<&Tensor> = own.iter().flatten().collect();
                Some(of_all(&Tensor::cat(&all, 1)?)?)
            }
            Budget::Each { .. } => None,
        };
        g.try_enumerate(|m, g| {
            let (Some(g), Some(own)) = (g, &own[m]) else {
                return Ok(None);
            };
            Ok(Some(
                rows(g)?
                    .broadcast_div(&positive(joint.as_ref().unwrap_or(own))?)?
                    .reshape(g.shape())?,
            ))
        })
    }

    /// How far each sample is from `clean`, in `f64`.
    pub fn spent(&self, clean: &PerModality<Tensor>, moved: &PerModality<Tensor>) -> Result<Spent> {
        let samples = clean[0].dim(0)?;
        let factors = moved.try_enumerate(|m, _| match self.factors {
            Some(f) => f[m].flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>(),
            None => Ok(vec![1.; samples]),
        })?;
        let mut distance = vec![0f64; samples];
        let mut used = vec![0f64; samples];
        let each = moved
            .zip(clean, "clean inputs")?
            .try_enumerate(|m, (x, x0)| -> Result<_> {
                let delta = rows(&(x.to_dtype(DType::F64)? - x0.to_dtype(DType::F64)?)?)?;
                let own = match self.budget.linf() {
                    true => delta.abs()?.max_keepdim(D::Minus1)?,
                    false => delta.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?,
                };
                Ok((own / self.modalities[m].scale)?
                    .flatten_all()?
                    .to_vec1::<f64>()?)
            })?;
        for (m, each) in each.iter().enumerate() {
            for (i, own) in each.iter().copied().enumerate() {
                // `f64::max` would hide a NaN, `hypot` of an infinity too.
                distance[i] = match self.budget.linf() {
                    _ if !own.is_finite() || distance[i].is_nan() => f64::NAN,
                    true => distance[i].max(own),
                    false => distance[i].hypot(own),
                };
                used[i] = match own {
                    0. => used[i],
                    _ if !own.is_finite() => f64::INFINITY,
                    _ => used[i].max(own / (self.budget.radius(m) * factors[m][i])),
                };
            }
        }
        if let Budget::Joint(radius) = self.budget {
            let share = |(d, f): (&f64, &f64)| if *d == 0. { 0. } else { d / (radius * f) };
            used = distance.iter().zip(&factors[0]).map(share).collect();
        }
        Ok(Spent {
            distance,
            each,
            used,
        })
    }

    /// The radius of each sample, `[batch, 1]` or `[1, 1]`, in declared units.
    fn radius(&self, m: usize, like: &Tensor) -> Result<Tensor> {
        let radius = self.budget.radius(m);
        Ok(match self.factors {
            Some(factors) => (&factors[m] * radius)?,
            None => Tensor::full(radius, (1, 1), like.device())?.to_dtype(like.dtype())?,
        })
    }

    /// The greatest change of an element, in the array's own units.
    fn limit(&self, m: usize, like: &Tensor) -> Result<Tensor> {
        Ok((self.radius(m, like)? * self.modalities[m].scale)?)
    }
}

/// Of the search for the exact projection: more rounds than elements are ever cut one after another
/// in practice. What is left is shorter than the radius, never longer.
const ROUNDS: usize = 50;

/// The same where looking whether it is over would hold up a GPU.
const BLIND_ROUNDS: usize = 10;

/// A perturbation that would grow by less of itself is where it should be.
const GROWN: f64 = 1e-7;

/// Lengths below this are measured again: squares of `f32` lose digits below 1e-38.
const UNDERFLOW: f64 = 1e-17;

/// By how much the sample that grew most has grown; at least 0.
fn growth(
    before: &PerModality<Option<Tensor>>,
    after: &PerModality<Option<Tensor>>,
) -> Result<f64> {
    let pairs = after.iter().flatten().zip(before.iter().flatten());
    let each = pairs.map(|(a, b)| {
        (a - b)?
            .flatten_all()?
            .max(0)?
            .to_dtype(DType::F64)?
            .to_scalar::<f64>()
    });
    Ok(each
        .collect::<candle_core::Result<Vec<_>>>()?
        .into_iter()
        .fold(0., f64::max))
}

/// The smallest of all lengths; infinite for none.
fn smallest(lengths: &PerModality<Option<Tensor>>) -> Result<f64> {
    let each = lengths.iter().flatten().map(|l| {
        l.flatten_all()?
            .min(0)?
            .to_dtype(DType::F64)?
            .to_scalar::<f64>()
    });
    Ok(each
        .collect::<candle_core::Result<Vec<_>>>()?
        .into_iter()
        .fold(f64::INFINITY, f64::min))
}

/// For division: a zero becomes a number that is not, and is divided into a zero only.
fn positive(x: &Tensor) -> Result<Tensor> {
    let least = if x.dtype() == DType::F64 {
        f64::MIN_POSITIVE
    } else {
        f64::from(f32::MIN_POSITIVE)
    };
    Ok(x.maximum(least)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Norm;
    use candle_core::Device;
    use crmt_core::{Domain, Modality, Streams};
    use rand::Rng;
    use rand_distr::StandardNormal;

    const SAMPLES: usize = 40;

    fn modalities(bounded: [bool; 3]) -> PerModality<Modality> {
        PerModality::from_fn(3, |m| {
            let domain = match (bounded[m], m) {
                (false, _) => Domain::Unbounded,
                (true, 0) => Domain::Channels {
                    lo: vec![-1., -0.5],
                    hi: vec![1., 0.25],
                },
                _ => Domain::Interval { lo: -0.6, hi: 0.9 },
            };
            let shapes: [&[usize]; 3] = [&[2, 3], &[5], &[4]];
            Modality {
                scale: [1., 2.5, 0.4][m],
                ..Modality::new(format!("m{m}"), shapes[m], domain)
            }
        })
    }

    fn normal(rng: &mut impl Rng, shape: &[usize], size: f64) -> Tensor {
        let shape = [&[SAMPLES], shape].concat();
        let values: Vec<f64> = (0..shape.iter().product())
            .map(|_| size * rng.sample::<f64, _>(StandardNormal))
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn flat(x: &Tensor) -> Vec<f64> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Squared distance of each sample in declared units, per modality.
    fn squares(
        modalities: &PerModality<Modality>,
        a: &PerModality<Tensor>,
        b: &PerModality<Tensor>,
    ) -> Vec<[f64; 3]> {
        let own = |m: usize| -> Vec<f64> {
            let d = rows(&(&a[m] - &b[m]).unwrap())
                .unwrap()
                .sqr()
                .unwrap()
                .sum(1)
                .unwrap();
            flat(&d)
                .into_iter()
                .map(|d| d / modalities[m].scale.powi(2))
                .collect()
        };
        let all = [0, 1, 2].map(own);
        (0..SAMPLES).map(|i| [0, 1, 2].map(|m| all[m][i])).collect()
    }

    /// The nearest point `z` of a convex set is the one from which no point of the set lies in the
    /// direction of `x`: `<x - z, y - z> <= 0` for all `y` in it. Random `y`, on the surface and
    /// inside, must not find a better one; and a set that is cut by a box has a point at full
    /// length wherever the box leaves room for it.
    #[test]
    fn projections_are_the_nearest_points_of_ball_and_box() {
        for bounded in [
            [true; 3],
            [true, false, true],
            [false, true, false],
            [false; 3],
        ] {
            let modalities = modalities(bounded);
            for budget in [
                Budget::Joint(1.3),
                Budget::Each {
                    norm: Norm::L2,
                    radii: PerModality::from([0.5, 0.9, 2.]),
                },
                Budget::Each {
                    norm: Norm::Linf,
                    radii: PerModality::from([0.2, 0.3, 1.]),
                },
            ] {
                let ball = Ball {
                    budget: &budget,
                    modalities: &modalities,
                    factors: None,
                };
                let mut rng = Streams::new(1).stream("projection", 0);
                let inside = |x: PerModality<Tensor>| {
                    x.try_enumerate(|m, x| domain::clamp(x, &modalities[m]))
                        .unwrap()
                };
                let clean = inside(modalities.map(|m| normal(&mut rng, &m.shape, 0.5)));
                for size in [0.05, 1., 20.] {
                    let x = modalities.map(|m| normal(&mut rng, &m.shape, size * m.scale));
                    let z = ball.project(&clean, &x).unwrap();
                    let spent = ball.spent(&clean, &z).unwrap();
                    // f64, and a search that stops within 1e-7 of the radius, from below.
                    assert!(spent.used.iter().all(|u| *u <= 1. + 1e-12), "{budget:?}");
                    let clamped = inside(z.clone());
                    assert!(
                        z.iter().zip(&clamped).all(|(z, c)| flat(z) == flat(c)),
                        "in the domains"
                    );
                    for spread in [0.01, 0.3, 3.] {
                        let there = z
                            .try_enumerate(|m, z| {
                                z + normal(
                                    &mut rng,
                                    &modalities[m].shape,
                                    spread * modalities[m].scale,
                                )
                            })
                            .unwrap();
                        let there = ball.project(&clean, &there).unwrap();
                        let (own, other) = (
                            squares(&modalities, &x, &z),
                            squares(&modalities, &x, &there),
                        );
                        if ball.budget.linf() {
                            continue;
                        }
                        for (own, other) in own.iter().zip(&other) {
                            let better = own.iter().sum::<f64>() - other.iter().sum::<f64>();
                            // The radius is met to 1e-7, hence the distance to as much of the
                            // lengths involved.
                            assert!(
                                better <= 1e-6 * (1. + own.iter().sum::<f64>()),
                                "{budget:?}: {own:?}, {other:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    /// One element may move by 0.1 of the 1 that the ball allows, another freely: it gets what is
    /// left of the ball.
    #[test]
    fn what_the_box_cuts_off_is_spent_elsewhere() {
        let modalities = PerModality::from([Modality::new(
            "m",
            &[2],
            Domain::Interval { lo: 0., hi: 2. },
        )]);
        let clean = PerModality::from([Tensor::new(&[[1.9, 0.]], &Device::Cpu).unwrap()]);
        let x = PerModality::from([Tensor::new(&[[11.9, 10.]], &Device::Cpu).unwrap()]);
        let budget = Budget::Joint(1.);
        let ball = Ball {
            budget: &budget,
            modalities: &modalities,
            factors: None,
        };
        let z = flat(&ball.project(&clean, &x).unwrap()[0]);
        assert!(
            (z[0] - 2.).abs() < 1e-12 && (z[1] - 0.99f64.sqrt()).abs() < 1e-7,
            "{z:?}"
        );
        // Everything is cut: the corner.
        let budget = Budget::Joint(5.);
        let ball = Ball {
            budget: &budget,
            ..ball
        };
        assert_eq!(flat(&ball.project(&clean, &x).unwrap()[0]), [2., 2.]);
    }
}
