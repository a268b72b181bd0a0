//! Procedurally drawn digits: stroke skeletons, a random hand, a 28x28 canvas.
//! Does not know labels' meaning beyond 0-9, noise, or sound.
use rand::Rng;
use rand_distr::StandardNormal;

/// Width and height of the canvas in pixels.
pub(crate) const SIDE: usize = 28;

type Point = [f64; 2];

/// Part of a skeleton in the unit square, y down.
enum Stroke {
    Line(&'static [Point]),
    /// Centre, radii, and angles in degrees (clockwise from the right).
    Arc(Point, Point, [f64; 2]),
}
use Stroke::{Arc, Line};

#[rustfmt::skip]
const SKELETONS: [&[Stroke]; 10] = [
    &[Arc([0.5, 0.5], [0.32, 0.45], [-90., 270.])],
    &[Line(&[[0.32, 0.22], [0.55, 0.05], [0.55, 0.95]])],
    &[Arc([0.5, 0.3], [0.3, 0.25], [180., 400.]), Line(&[[0.73, 0.46], [0.2, 0.95], [0.82, 0.95]])],
    &[Arc([0.45, 0.28], [0.3, 0.23], [200., 450.]), Arc([0.45, 0.73], [0.33, 0.22], [270., 510.])],
    &[Line(&[[0.6, 0.05], [0.15, 0.65], [0.88, 0.65]]), Line(&[[0.65, 0.35], [0.65, 0.97]])],
    &[Line(&[[0.8, 0.05], [0.3, 0.05], [0.26, 0.47]]), Arc([0.48, 0.67], [0.32, 0.28], [220., 500.])],
    &[Arc([0.75, 0.65], [0.52, 0.6], [270., 180.]), Arc([0.5, 0.68], [0.27, 0.25], [180., 540.])],
    &[Line(&[[0.18, 0.08], [0.82, 0.08], [0.4, 0.95]])],
    &[Arc([0.5, 0.28], [0.24, 0.22], [90., 450.]), Arc([0.5, 0.73], [0.3, 0.23], [-90., 270.])],
    &[Arc([0.48, 0.32], [0.27, 0.26], [0., 360.]), Line(&[[0.75, 0.32], [0.72, 0.6], [0.6, 0.95]])],
];

/// Draws `digit` in a random hand, with clutter: `SIDE * SIDE` values in `0..=1`, row-major.
pub(crate) fn draw(digit: usize, rng: &mut impl Rng) -> Vec<f64> {
    let mut canvas = vec![0.; SIDE * SIDE];
    let hand = Hand::random(rng);
    let width = rng.random_range(1.2..3.0);
    for stroke in SKELETONS[digit] {
        let points = stroke
            .points(rng)
            .map(|p| hand.place(p))
            .collect::<Vec<_>>();
        points
            .windows(2)
            .for_each(|s| segment(&mut canvas, s[0], s[1], width, 1.));
    }
    for _ in 0..rng.random_range(0..=CLUTTER) {
        let side = SIDE as f64;
        let from = [rng.random_range(0. ..side), rng.random_range(0. ..side)];
        let (angle, length) = (
            rng.random_range(0. ..std::f64::consts::TAU),
            rng.random_range(3. ..10.),
        );
        let to = [
            from[0] + length * angle.cos(),
            from[1] + length * angle.sin(),
        ];
        segment(
            &mut canvas,
            from,
            to,
            rng.random_range(1. ..2.5),
            rng.random_range(0.4..1.),
        );
    }
    canvas
}

/// Most clutter strokes in one image.
const CLUTTER: usize = 3;
/// Segments that an arc is drawn with.
const ARC_STEPS: usize = 14;
/// Standard deviation of a control point, in units of the skeleton's square.
const WOBBLE: f64 = 0.035;

impl Stroke {
    /// A polyline, its control points wobbling.
    fn points(&self, rng: &mut impl Rng) -> impl Iterator<Item = Point> {
        let mut wobble = |v: f64| v + WOBBLE * rng.sample::<f64, _>(StandardNormal);
        match self {
            Line(points) => points
                .iter()
                .map(|p| p.map(&mut wobble))
                .collect::<Vec<_>>(),
            Arc(centre, radii, angles) => {
                let (c, r) = (centre.map(&mut wobble), radii.map(&mut wobble));
                // One wobble unit is worth about ten degrees.
                let a = angles.map(|a| a + 300. * wobble(0.));
                let angle =
                    |i: usize| (a[0] + (a[1] - a[0]) * i as f64 / ARC_STEPS as f64).to_radians();
                (0..=ARC_STEPS)
                    .map(|i| [c[0] + r[0] * angle(i).cos(), c[1] + r[1] * angle(i).sin()])
                    .collect()
            }
        }
        .into_iter()
    }
}

/// A random affine map from the unit square to pixels.
struct Hand {
    matrix: [[f64; 2]; 2],
    offset: Point,
}

impl Hand {
    fn random(rng: &mut impl Rng) -> Self {
        let (sin, cos) = f64::sin_cos(0.2 * rng.sample::<f64, _>(StandardNormal));
        let shear = 0.2 * rng.sample::<f64, _>(StandardNormal);
        let (sx, sy) = (rng.random_range(11. ..19.), rng.random_range(14. ..22.));
        // Rotation times shear times scale.
        let matrix = [
            [cos * sx, (cos * shear - sin) * sy],
            [sin * sx, (sin * shear + cos) * sy],
        ];
        let middle = SIDE as f64 / 2.;
        Self {
            matrix,
            offset: [
                middle + rng.random_range(-3. ..3.),
                middle + rng.random_range(-3. ..3.),
            ],
        }
    }

    fn place(&self, p: Point) -> Point {
        let [x, y] = [p[0] - 0.5, p[1] - 0.5];
        [0, 1].map(|i| self.matrix[i][0] * x + self.matrix[i][1] * y + self.offset[i])
    }
}

/// Draws a line of `width` pixels with soft edges; the brighter value stays.
fn segment(canvas: &mut [f64], a: Point, b: Point, width: f64, ink: f64) {
    let reach = width / 2. + 0.5;
    let [dx, dy] = [b[0] - a[0], b[1] - a[1]];
    let length2 = (dx * dx + dy * dy).max(1e-12);
    let pixels = |i: usize| {
        let (lo, hi) = (a[i].min(b[i]) - reach, a[i].max(b[i]) + reach);
        (lo.max(0.) as usize)..(hi.ceil().clamp(0., SIDE as f64) as usize)
    };
    for row in pixels(1) {
        for column in pixels(0) {
            // Centre of the pixel, and the nearest point of the segment.
            let [x, y] = [column as f64 + 0.5, row as f64 + 0.5];
            let along = (((x - a[0]) * dx + (y - a[1]) * dy) / length2).clamp(0., 1.);
            let distance = (x - a[0] - along * dx).hypot(y - a[1] - along * dy);
            let pixel = &mut canvas[row * SIDE + column];
            *pixel = pixel.max(ink * (reach - distance).clamp(0., 1.));
        }
    }
}
