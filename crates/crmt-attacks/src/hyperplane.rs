//! The shortest way to a hyperplane within the domains, in the norm of a budget: what attacks that
//! look for the nearest adversarial are made of. Does not know models, nor batches: one sample at a
//! time, in `f64`.
use crate::{Budget, Norm, points::Point};
use crmt_core::{Domain, Modality, PerModality};

/// `value + normal . (z - x)` as a function of `z`: above 0 behind the boundary, linearised at `x`.
#[derive(Debug, Clone)]
pub(crate) struct Plane {
    /// Of every element; empty for a modality that does not move.
    pub normal: Point,
    /// At `x`.
    pub value: f64,
}

impl Plane {
    /// The value at `z`; linearised at `x`.
    pub fn at(&self, x: &Point, z: &Point) -> f64 {
        let parts = self.normal.iter().zip(x.iter().zip(z));
        self.value
            + parts
                .flat_map(|(g, (x, z))| g.iter().zip(x.iter().zip(z)))
                .map(|(g, (x, z))| g * (z - x))
                .sum::<f64>()
    }
}

/// How moves are measured, and how far each element may move at all.
///
/// The *size* of a move is the multiple of the budget that just allows it: with `r_m` the radii of
/// the sample and `d_m` in declared units, `|d|_2 / r` for a joint budget, otherwise the greatest
/// `|d_m| / r_m`. It is at most 1 within the budget, and infinite if a modality without a radius
/// moves.
pub(crate) struct Space<'a> {
    budget: &'a Budget,
    scales: Vec<f64>,
    /// The least and the greatest value of each element; `None`: unbounded.
    limits: Vec<Option<[Vec<f64>; 2]>>,
}

/// What a move gains from one element, in units in which a move of `u` has size `|u|` by itself: at
/// most `room`, each unit of it `gain`.
#[derive(Debug, Clone, Copy)]
struct Element {
    modality: usize,
    index: usize,
    gain: f64,
    room: f64,
    /// Of its move, in the array's own units.
    unit: f64,
}

impl<'a> Space<'a> {
    pub fn new(budget: &'a Budget, modalities: &PerModality<Modality>) -> Self {
        let scales = modalities.iter().map(|m| m.scale).collect();
        Self {
            budget,
            scales,
            limits: modalities.iter().map(limits).collect(),
        }
    }

    /// The same without domains.
    pub fn unbounded(&self) -> Self {
        Self {
            budget: self.budget,
            scales: self.scales.clone(),
            limits: vec![None; self.limits.len()],
        }
    }

    pub fn budget(&self) -> &Budget {
        self.budget
    }

    pub fn scale(&self, m: usize) -> f64 {
        self.scales[m]
    }

    /// The least and the greatest value of each element; `None`: unbounded.
    pub fn limits(&self, m: usize) -> Option<&[Vec<f64>; 2]> {
        self.limits[m].as_ref()
    }

    /// What a move of size 1 is on each modality, in the array's own units; 0: it does not move.
    fn units(&self, radii: &[f64]) -> Vec<f64> {
        radii
            .iter()
            .zip(&self.scales)
            .map(|(radius, scale)| radius * scale)
            .collect()
    }

    /// The nearest point within the domains; modalities that do not move stay as they are.
    pub fn clamped(&self, radii: &[f64], mut x: Point) -> Point {
        for ((x, unit), limits) in x.iter_mut().zip(self.units(radii)).zip(&self.limits) {
            if let (Some([least, greatest]), true) = (limits, unit > 0.) {
                x.iter_mut()
                    .zip(least.iter().zip(greatest))
                    .for_each(|(x, (lo, hi))| *x = x.max(*lo).min(*hi));
            }
        }
        x
    }

    /// How far `b` is from `a` on each modality, in declared units and the budget's norm.
    pub fn lengths(&self, a: &Point, b: &Point) -> Vec<f64> {
        let length = |((a, b), scale): ((&Vec<f64>, &Vec<f64>), &f64)| {
            let moves = a.iter().zip(b).map(|(a, b)| (b - a).abs() / scale);
            match self.budget {
                Budget::Each {
                    norm: Norm::Linf, ..
                } => greatest(moves),
                _ => moves.map(|d| d * d).sum::<f64>().sqrt(),
            }
        };
        a.iter().zip(b).zip(&self.scales).map(length).collect()
    }

    /// The size of the move from `a` to `b`.
    pub fn size(&self, radii: &[f64], a: &Point, b: &Point) -> f64 {
        let each = self
            .lengths(a, b)
            .into_iter()
            .zip(radii)
            .map(|(d, r)| if d == 0. { 0. } else { d / r });
        match self.budget {
            Budget::Joint(_) => each.fold(0., f64::hypot),
            Budget::Each { .. } => greatest(each),
        }
    }

    /// The size of the shortest move to the hyperplane if there were no domains; infinite if it has
    /// no direction.
    pub fn distance(&self, radii: &[f64], plane: &Plane) -> f64 {
        let each = self
            .units(radii)
            .into_iter()
            .zip(&plane.normal)
            .map(|(unit, normal)| {
                let gains = normal.iter().map(|g| g.abs() * unit);
                match self.budget {
                    Budget::Each {
                        norm: Norm::Linf, ..
                    } => gains.sum(),
                    // No overflow or underflow on the way.
                    _ => gains.fold(0., f64::hypot),
                }
            });
        let steepest = match self.budget {
            Budget::Joint(_) => each.fold(0., f64::hypot),
            Budget::Each { .. } => each.sum::<f64>(),
        };
        if steepest > 0. {
            plane.value.abs() / steepest
        } else {
            f64::INFINITY
        }
    }

    /// The smallest move from `x` within the domains after which `normal . z` is greater by `rise`
    /// (or less, if that is negative); the move within the domains that comes closest to that, if
    /// none does. `x` itself is within the domains. A zero normal moves nothing.
    pub fn toward(&self, radii: &[f64], x: &Point, normal: &Point, rise: f64) -> Point {
        let mut moved: Point = x.iter().map(|x| vec![0.; x.len()]).collect();
        let mut elements = self.elements(radii, x, normal, rise.signum());
        let steepest = elements.iter().fold(0., |most: f64, e| most.max(e.gain));
        // Gains of at most 1, whose squares neither vanish nor overflow.
        let rise = rise.abs() / steepest;
        if !(rise > 0. && rise.is_finite() && steepest.is_finite()) {
            return moved;
        }
        elements.iter_mut().for_each(|e| e.gain /= steepest);
        let multipliers = self.multipliers(&elements, rise);
        for e in elements {
            let length = match self.budget {
                Budget::Each {
                    norm: Norm::Linf, ..
                } => multipliers[0],
                Budget::Each { .. } => multipliers[e.modality] * e.gain,
                Budget::Joint(_) => multipliers[0] * e.gain,
            };
            moved[e.modality][e.index] = length.min(e.room) * e.unit;
        }
        moved
    }

    /// Those that can contribute.
    fn elements(&self, radii: &[f64], x: &Point, normal: &Point, sign: f64) -> Vec<Element> {
        let mut elements = vec![];
        for (modality, unit) in self
            .units(radii)
            .into_iter()
            .enumerate()
            .filter(|(_, unit)| *unit > 0.)
        {
            for (index, g) in normal[modality].iter().enumerate() {
                let up = g * sign > 0.;
                let room = match &self.limits[modality] {
                    None => f64::INFINITY,
                    Some([_, greatest]) if up => greatest[index] - x[modality][index],
                    Some([least, _]) => x[modality][index] - least[index],
                };
                let gain = g.abs() * unit;
                if gain > 0. && room > 0. {
                    let unit = if up { unit } else { -unit };
                    elements.push(Element {
                        modality,
                        index,
                        gain,
                        room: room / unit.abs(),
                        unit,
                    });
                }
            }
        }
        elements
    }

    /// The multipliers `l` of the smallest move, `min(l gain, room)` of each element,
    /// `min(l, room)` for linf; one for each modality where budgets are its own and l2, otherwise a
    /// single one. Infinite if all room is needed.
    fn multipliers(&self, elements: &[Element], rise: f64) -> Vec<f64> {
        match self.budget {
            Budget::Joint(_) => {
                vec![least(
                    elements.iter().map(|e| (e.gain * e.gain, e.gain * e.room)),
                    rise,
                )]
            }
            Budget::Each {
                norm: Norm::Linf, ..
            } => {
                vec![least(
                    elements.iter().map(|e| (e.gain, e.gain * e.room)),
                    rise,
                )]
            }
            Budget::Each { .. } => {
                // Elements lie in the order of their modalities.
                let parts: Vec<&[Element]> =
                    elements.chunk_by(|a, b| a.modality == b.modality).collect();
                let mut multipliers = vec![0.; self.scales.len()];
                for (part, l) in parts.iter().zip(shared(&parts, rise)) {
                    multipliers[part[0].modality] = l;
                }
                multipliers
            }
        }
    }
}

/// The least `x >= 0` with `sum_e min(p_e x, q_e) >= rise`, for terms `(p_e, q_e)`; infinite if
/// there is none.
///
/// The sum is concave and piecewise linear: Newton's steps from 0 never go too far, and are exact
/// once no further term reaches its greatest value on the way.
fn least(terms: impl Iterator<Item = (f64, f64)> + Clone, rise: f64) -> f64 {
    let mut x = 0.;
    loop {
        let (mut full, mut slope) = (0., 0.);
        for (p, q) in terms.clone() {
            if p * x >= q { full += q } else { slope += p }
        }
        if slope <= 0. {
            return f64::INFINITY;
        }
        let next = (rise - full) / slope;
        if next <= x {
            return x;
        }
        x = next;
    }
}

/// For parts with balls of their own, the multiplier of each at the least common radius `t` at
/// which the most that they gain together, `sum_m f_m(t)`, is `rise`.
///
/// In one ball and its box the most is gained by `u_e = min(l gain_e, room_e)` of length `t`, and
/// grows by `t / l` with `t`. The sum is concave, so Newton's steps from 0 never go too far here
/// either.
fn shared(parts: &[&[Element]], rise: f64) -> Vec<f64> {
    /// Steps double their digits; only at the very corner of a box they do not, and then it is
    /// nearly reached.
    const STEPS: usize = 100;
    let (mut t, mut lengths) = (0f64, vec![0.; parts.len()]);
    for _ in 0..STEPS {
        let (mut gained, mut slope) = (0., 0.);
        for (part, l) in parts.iter().zip(&mut lengths) {
            // |u|^2 as a function of l^2.
            *l = least(
                part.iter().map(|e| (e.gain * e.gain, e.room * e.room)),
                t * t,
            )
            .sqrt();
            gained += part
                .iter()
                .map(|e| e.gain * (*l * e.gain).min(e.room))
                .sum::<f64>();
            let all = || part.iter().map(|e| e.gain * e.gain).sum::<f64>().sqrt();
            slope += if t > 0. { t / *l } else { all() };
        }
        let next = t + (rise - gained) / slope;
        // Also when the slope is 0: all room is used.
        if !(next > t * (1. + 1e-15) && next.is_finite()) {
            break;
        }
        t = next;
    }
    lengths
}

/// At least 0; NaN if any is, so that what is no point has no size.
fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0., |most: f64, v| {
        if most.is_nan() || v.is_nan() {
            f64::NAN
        } else {
            most.max(v)
        }
    })
}

/// Of each element of a sample; `None`: of none.
fn limits(modality: &Modality) -> Option<[Vec<f64>; 2]> {
    let len: usize = modality.shape.iter().product();
    match &modality.domain {
        Domain::Unbounded => None,
        Domain::Interval { lo, hi } => Some([vec![*lo; len], vec![*hi; len]]),
        Domain::Channels { lo, hi } => {
            let spread = |b: &[f64]| {
                b.iter()
                    .flat_map(|b| vec![*b; len / lo.len().max(1)])
                    .collect()
            };
            Some([spread(lo), spread(hi)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::moved;
    use proptest::prelude::*;

    /// Three modalities of two elements, in a box around 0 or without bounds.
    fn modalities(scales: &[f64], boxed: bool) -> PerModality<Modality> {
        PerModality::from_fn(scales.len(), |m| {
            let domain = match (boxed, m) {
                (false, _) => Domain::Unbounded,
                (true, 1) => Domain::Channels {
                    lo: vec![-1., -0.25],
                    hi: vec![0.5, 1.],
                },
                (true, _) => Domain::Interval { lo: -1., hi: 0.75 },
            };
            Modality {
                scale: scales[m],
                ..Modality::new(format!("m{m}"), &[2], domain)
            }
        })
    }

    fn budgets(modalities: usize) -> [Budget; 3] {
        let each = |norm| Budget::Each {
            norm,
            radii: PerModality::from_fn(modalities, |_| 1.),
        };
        [Budget::Joint(1.), each(Norm::L2), each(Norm::Linf)]
    }

    /// The most that `normal . d` can be for moves of at most `size`: by bisection on the
    /// multiplier of the length, of every part of the move that has a length of its own.
    fn most(space: &Space<'_>, radii: &[f64], x: &Point, normal: &Point, size: f64) -> f64 {
        let elements = space.elements(radii, x, normal, 1.);
        if matches!(
            space.budget,
            Budget::Each {
                norm: Norm::Linf,
                ..
            }
        ) {
            return elements.iter().map(|e| e.gain * e.room.min(size)).sum();
        }
        let joint = matches!(space.budget, Budget::Joint(_));
        let parts = elements.chunk_by(|a, b| joint || a.modality == b.modality);
        let gained = |part: &[Element]| -> f64 {
            let at = |l: f64| part.iter().map(move |e| (e.gain, (l * e.gain).min(e.room)));
            let (mut below, mut above) = (0., 1e9);
            for _ in 0..200 {
                let l = 0.5 * (below + above);
                let length = at(l).map(|(_, u)| u * u).sum::<f64>().sqrt();
                if length <= size { below = l } else { above = l }
            }
            at(below).map(|(gain, u)| gain * u).sum()
        };
        parts.map(gained).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        /// The move is inside the domains and reaches the hyperplane; nothing of a smaller size
        /// does. If nothing at all does, the move gains the most that there is to gain.
        #[test]
        fn moves_are_the_smallest_that_reach(
            count in 1..=3usize,
            boxed: bool,
            x in prop::collection::vec(-0.25..0.5f64, 6),
            g in prop::collection::vec(prop_oneof![Just(0.), -1.0..1.0f64], 6),
            scales in prop::collection::vec(0.3..3.0f64, 3),
            radii in prop::collection::vec(prop_oneof![1 => Just(0.), 4 => 0.1..2.0f64], 3),
            rise in -2.0..2.0f64,
        ) {
            let modalities = modalities(&scales[..count], boxed);
            let split = |v: &[f64]| -> Point { v.chunks(2).take(count).map(<[f64]>::to_vec).collect() };
            let (x, g) = (split(&x), split(&g));
            for budget in budgets(count) {
                let mut radii = radii[..count].to_vec();
                if budget == Budget::Joint(1.) {
                    radii = vec![radii[0]; count];
                }
                let space = Space::new(&budget, &modalities);
                let d = space.toward(&radii, &x, &g, rise);
                let z = moved(&x, &d, 1.);
                let size = space.size(&radii, &x, &z);
                let plane = Plane { normal: g.clone(), value: -rise };
                let reached = rise + plane.at(&x, &z);
                // The same with a rise, for what follows.
                let up: Point = g.iter().map(|g| g.iter().map(|g| g * rise.signum()).collect()).collect();
                // Coordinates are of order 1 and sums of six terms.
                let rounding = 1e-12;
                for (m, modality) in modalities.iter().enumerate() {
                    if let Some([lo, hi]) = limits(modality) {
                        let inside = |e: usize| z[m][e] >= lo[e] - rounding && z[m][e] <= hi[e] + rounding;
                        prop_assert!(inside(0) && inside(1), "{z:?}");
                    }
                    prop_assert!(radii[m] > 0. || d[m] == [0., 0.]);
                }
                let possible = most(&space, &radii, &x, &up, 1e6);
                if possible >= rise.abs() * (1. + 1e-9) {
                    prop_assert!((reached - rise).abs() < 1e-9, "{budget:?}: {reached} for {rise}");
                    let below = most(&space, &radii, &x, &up, size * (1. - 1e-6));
                    prop_assert!(below < rise.abs(), "{budget:?}: {size} is not the smallest: {below}");
                    if !boxed {
                        prop_assert!((size - space.distance(&radii, &plane)).abs() < 1e-9 * size);
                    }
                } else {
                    prop_assert!((reached.abs() - possible).abs() < 1e-9, "{budget:?}: {reached} of {possible}");
                    prop_assert!(reached * rise >= 0.);
                }
            }
        }
    }

    /// By hand: two elements, one stopped by the domain.
    #[test]
    fn what_one_element_may_not_do_the_other_does() {
        let modalities = PerModality::from([Modality::new(
            "m",
            &[2],
            Domain::Interval { lo: 0., hi: 1. },
        )]);
        let (x, g) = (vec![vec![0.9, 0.]], vec![vec![1., 1.]]);
        for budget in budgets(1) {
            let space = Space::new(&budget, &modalities);
            let d = space.toward(&[1.], &x, &g, 0.5);
            // Two roundings.
            assert!(
                (d[0][0] - 0.1).abs() < 1e-15 && (d[0][1] - 0.4).abs() < 1e-15,
                "{budget:?}: {d:?}"
            );
            let d = space.toward(&[1.], &x, &g, 5.);
            assert!(
                (d[0][0] - 0.1).abs() < 1e-15 && d[0][1] == 1.,
                "as far as there is room: {d:?}"
            );
            let d = space.toward(&[1.], &x, &g, -0.9);
            assert!(
                (d[0][0] + 0.9).abs() < 1e-15 && d[0][1] == 0.,
                "{budget:?}: {d:?}"
            );
        }
    }

    /// A point that is none is at no distance, so that no search takes it for near.
    #[test]
    fn what_is_no_point_has_no_size() {
        let modalities = modalities(&[1., 2.], false);
        let x = vec![vec![0.; 2]; 2];
        for budget in budgets(2) {
            for strange in [
                vec![vec![f64::NAN, 1.], vec![1.; 2]],
                vec![vec![1.; 2], vec![0., f64::INFINITY]],
            ] {
                let size = Space::new(&budget, &modalities).size(&[1., 1.], &x, &strange);
                assert!(!size.is_finite(), "{budget:?}: {size}");
            }
        }
    }

    /// Nothing to follow, or numbers that are none: no move, and no NaN.
    #[test]
    fn strange_normals_move_nothing() {
        let modalities = modalities(&[1., 2.], true);
        let x = vec![vec![0.; 2]; 2];
        for budget in budgets(2) {
            let space = Space::new(&budget, &modalities);
            for (g, rise) in [
                (0., 1.),
                (f64::NAN, 1.),
                (f64::INFINITY, 1.),
                (1., f64::NAN),
                (1., 0.),
            ] {
                let d = space.toward(&[1., 1.], &x, &vec![vec![g; 2]; 2], rise);
                assert!(d.iter().flatten().all(|d| *d == 0.), "{budget:?}: {d:?}");
            }
            // Squares of these are 0, or infinite.
            for tiny in [1e-200, 1e200] {
                let d = space.toward(&[1., 1.], &x, &vec![vec![tiny; 2]; 2], 0.1 * tiny);
                let gained: f64 = d.iter().flatten().sum();
                assert!((gained - 0.1).abs() < 1e-12, "{budget:?}: {d:?}");
            }
        }
    }
}
