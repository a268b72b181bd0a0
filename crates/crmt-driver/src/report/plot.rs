//! A chart with two axes: as inline SVG, coloured by CSS classes so that it follows the page's
//! light or dark theme. Knows nothing of runs, attacks or certificates, nor how a figure stands
//! alone.
use super::html::{escape, shorten};

/// One axis: its range, its label and whether values are fractions shown as percentages.
#[derive(Debug, Clone)]
pub struct Axis {
    low: f64,
    high: f64,
    label: String,
    percent: bool,
    whole: bool,
}

impl Axis {
    /// Values shown as they are.
    pub fn plain(low: f64, high: f64, label: &str) -> Self {
        let (low, high) = if low.is_finite() && high.is_finite() {
            (low, high)
        } else {
            (0.0, 1.0)
        };
        // An empty range still needs a width to divide by.
        let high = if high > low { high } else { low + 1.0 };
        Self {
            low,
            high,
            label: label.into(),
            percent: false,
            whole: false,
        }
    }

    /// Fractions shown as percentages.
    pub fn percent(low: f64, high: f64, label: &str) -> Self {
        Self {
            percent: true,
            ..Self::plain(low, high, label)
        }
    }

    /// With ticks at whole numbers only.
    #[must_use]
    pub fn whole(self) -> Self {
        Self {
            whole: true,
            ..self
        }
    }

    /// Position of `value` within the range, from 0 to 1, clamped.
    fn at(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    fn texts(&self, about: usize) -> Vec<(f64, String)> {
        let scale = if self.percent { 100.0 } else { 1.0 };
        let (mut ticks, mut decimals) = ticks(self.low * scale, self.high * scale, about);
        if self.whole && decimals > 0 {
            ticks.retain(|t| (t - t.round()).abs() < 1e-6);
            decimals = 0;
        }
        ticks
            .into_iter()
            .map(|t| (t / scale, format!("{t:.decimals$}").replace('-', "−")))
            .collect()
    }
}

/// Multiples of 1, 2 or 5 times a power of ten inside `low..=high`, about as many as asked, and the
/// decimals they need.
pub fn ticks(low: f64, high: f64, about: usize) -> (Vec<f64>, usize) {
    let raw = (high - low) / about.max(1) as f64;
    if !raw.is_finite() || raw <= 0.0 {
        return (vec![], 0);
    }
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|m| m * power)
        .find(|s| *s >= raw * 0.999)
        .unwrap_or(raw);
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    // The slack keeps an end of the range that rounding put just outside.
    let (first, last) = (
        (low / step - 1e-6).ceil() as i64,
        (high / step + 1e-6).floor() as i64,
    );
    // Adding 0 turns -0 into 0.
    (
        (first..=last)
            .take(50)
            .map(|i| i as f64 * step + 0.0)
            .collect(),
        decimals,
    )
}

/// A range that holds all finite `values` with a little air, at least `least` wide.
pub fn range(values: impl IntoIterator<Item = f64>, least: f64) -> (f64, f64) {
    let (low, high) = values
        .into_iter()
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
            (a.min(v), b.max(v))
        });
    if low > high {
        return (0.0, 1.0);
    }
    let air = ((high - low) * 0.06).max((least - (high - low)) / 2.0);
    (low - air, high + air)
}

const TOP: f64 = 32.0;
const BOTTOM: f64 = 38.0;
const LEFT: f64 = 40.0;
const CHARACTER: f64 = 6.4;

/// What a chart is drawn of, in order.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Something coloured by its class.
    Mark(Mark),
    /// One line of text.
    Words(Words),
}

/// A shape, and its class in the style sheet: what it is, and of which series.
#[derive(Debug, Clone)]
pub struct Mark {
    /// E.g. `line s0`.
    pub class: String,
    /// Where it is.
    pub shape: Shape,
}

/// Places are from the upper left corner of the chart.
#[derive(Debug, Clone)]
pub enum Shape {
    /// Through these points.
    Line(Vec<(f64, f64)>),
    /// Enclosed by these points.
    Area(Vec<(f64, f64)>),
    /// Around a point.
    Circle((f64, f64)),
    /// Layers of points, darker where they lie upon each other.
    Dots(Vec<Vec<(f64, f64)>>),
}

/// Radius of a [`Shape::Circle`].
pub const RADIUS: f64 = 3.2;

impl Mark {
    fn svg(&self) -> String {
        let class = &self.class;
        match &self.shape {
            Shape::Line(points) => format!("<path class=\"{class}\" d=\"{}\"/>", path(points)),
            Shape::Area(points) => format!("<path class=\"{class}\" d=\"{}Z\"/>", path(points)),
            Shape::Circle((x, y)) => {
                format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{RADIUS}\"/>")
            }
            Shape::Dots(layers) => {
                // Round caps make a dot of a line without length, in a tenth of the bytes of a
                // circle.
                let layer = |points: &Vec<(f64, f64)>| {
                    points
                        .iter()
                        .map(|(x, y)| format!("M{x:.1} {y:.1}h0"))
                        .collect()
                };
                let layers = layers
                    .iter()
                    .map(layer)
                    .map(|d: String| format!("<path d=\"{d}\"/>"));
                format!("<g class=\"{class}\">{}</g>", layers.collect::<String>())
            }
        }
    }
}

fn path(points: &[(f64, f64)]) -> String {
    let point = |(i, (x, y)): (usize, &(f64, f64))| {
        format!("{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' })
    };
    points.iter().enumerate().map(point).collect()
}

/// One line of text in a chart.
#[derive(Debug, Clone)]
pub struct Words {
    /// Left end of the base line; its middle or right end by `anchor`.
    pub at: (f64, f64),
    /// `start`, `middle` or `end`.
    pub anchor: &'static str,
    /// Softer than the rest.
    pub minor: bool,
    /// Not escaped.
    pub text: String,
}

impl Words {
    fn svg(&self) -> String {
        let (x, y) = self.at;
        let class = if self.minor { "class=\"minor\" " } else { "" };
        let anchor = if self.anchor == "start" {
            String::new()
        } else {
            format!(" text-anchor=\"{}\"", self.anchor)
        };
        format!(
            "<text {class}x=\"{x:.1}\" y=\"{y:.1}\"{anchor}>{}</text>",
            escape(&self.text)
        )
    }
}

/// A chart under construction; later marks lie above earlier ones.
#[derive(Debug, Clone)]
pub struct Plot {
    title: String,
    size: (f64, f64),
    x: Axis,
    y: Axis,
    body: Vec<Piece>,
    labels: Vec<(f64, String, String)>,
    key: Vec<(String, String)>,
}

impl Plot {
    /// `title` is what a screen reader says, and the heading and name of the figure where it stands
    /// alone.
    pub fn new(title: &str, size: (f64, f64), x: Axis, y: Axis) -> Self {
        Self {
            title: title.into(),
            size,
            x,
            y,
            body: vec![],
            labels: vec![],
            key: vec![],
        }
    }

    /// What a class of marks means, for a figure that stands alone; on the page, one key serves
    /// many charts.
    pub fn explain(&mut self, class: &str, meaning: &str) {
        self.key.push((class.to_owned(), meaning.to_owned()));
    }

    /// What [`Self::explain`] was told.
    pub fn key(&self) -> &[(String, String)] {
        &self.key
    }

    /// What it shows.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Width and height.
    pub fn size(&self) -> (f64, f64) {
        self.size
    }

    fn draw(&mut self, class: &str, shape: Shape) {
        self.body.push(Piece::Mark(Mark {
            class: class.to_owned(),
            shape,
        }));
    }

    /// Labels to the right of the plot, each `(height, class, text)` with a swatch of its series;
    /// they never overlap. They take their room from the plot, hence come before any mark.
    #[must_use]
    pub fn labels(mut self, labels: impl IntoIterator<Item = (f64, String, String)>) -> Self {
        self.labels = labels.into_iter().filter(|(y, ..)| y.is_finite()).collect();
        self.labels
            .iter_mut()
            .for_each(|(_, _, text)| *text = shorten(text, 16));
        self.labels.sort_by(|a, b| b.0.total_cmp(&a.0));
        self
    }

    /// A line through the points, interrupted where one is not finite, marked at each point when
    /// `marks`.
    pub fn line(&mut self, points: &[(f64, f64)], class: &str, marks: bool) {
        for part in points
            .split(|(x, y)| !x.is_finite() || !y.is_finite())
            .filter(|part| !part.is_empty())
        {
            let part = self.places(part);
            if part.len() > 1 {
                self.draw(&format!("line {class}"), Shape::Line(part.clone()));
            }
            // A lone point would be invisible as a line.
            for place in part.iter().filter(|_| marks || part.len() == 1) {
                self.draw(&format!("mark {class}"), Shape::Circle(*place));
            }
        }
    }

    /// Many small dots, which are darker where they lie upon each other; those that are not finite
    /// are left out.
    pub fn dots(&mut self, points: &[(f64, f64)], class: &str) {
        const LAYERS: usize = 6;
        let finite: Vec<_> = points
            .iter()
            .copied()
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .collect();
        let places = self.places(&finite);
        // What lies upon itself within one path is drawn once.
        let layer = |from: usize| {
            places
                .iter()
                .skip(from)
                .step_by(LAYERS)
                .copied()
                .collect::<Vec<_>>()
        };
        let layers = (0..LAYERS)
            .map(layer)
            .filter(|layer| !layer.is_empty())
            .collect();
        self.draw(&format!("dots {class}"), Shape::Dots(layers));
    }

    /// The region between the points and the lower edge.
    pub fn area(&mut self, points: &[(f64, f64)], class: &str) {
        let low = self.y.low;
        self.band(
            &points
                .iter()
                .map(|(x, y)| (*x, low, *y))
                .collect::<Vec<_>>(),
            class,
        );
    }

    /// The region between two heights at each place, `(place, low, high)`.
    pub fn band(&mut self, points: &[(f64, f64, f64)], class: &str) {
        let up = points.iter().map(|(x, _, high)| (*x, *high));
        let outline: Vec<(f64, f64)> = up
            .chain(points.iter().rev().map(|(x, low, _)| (*x, *low)))
            .collect();
        if points.len() > 1 && outline.iter().all(|(x, y)| x.is_finite() && y.is_finite()) {
            self.draw(&format!("area {class}"), Shape::Area(self.places(&outline)));
        }
    }

    /// A named stretch of the horizontal axis, shaded when `shaded`, its name above if there is
    /// room.
    pub fn stretch(&mut self, from: f64, to: f64, name: &str, shaded: bool) {
        let ((left, top), (right, bottom)) =
            (self.place(from, self.y.high), self.place(to, self.y.low));
        if shaded {
            self.draw(
                "stretch",
                Shape::Area(vec![
                    (left, top),
                    (right, top),
                    (right, bottom),
                    (left, bottom),
                ]),
            );
        }
        // A name that does not fit would run into its neighbour's.
        if name.chars().count() as f64 * CHARACTER <= right - left {
            let at = ((left + right) / 2.0, top - 6.0);
            self.body.push(Piece::Words(Words {
                at,
                anchor: "middle",
                minor: true,
                text: name.to_owned(),
            }));
        }
    }

    /// The finished element, for the page.
    pub fn svg(&self) -> String {
        let (width, height) = self.size;
        let title = escape(&self.title);
        let drawn = |piece: Piece| match piece {
            Piece::Mark(mark) => mark.svg(),
            Piece::Words(words) => words.svg(),
        };
        format!(
            "<svg role=\"img\" aria-label=\"{title}\" viewBox=\"0 0 {width} {height}\" style=\"max-width:{}px\">\
             <title>{title}</title>{}</svg>",
            width * 1.15,
            self.pieces().into_iter().map(drawn).collect::<String>()
        )
    }

    /// Frame, marks and labels, without title and key.
    pub fn pieces(&self) -> Vec<Piece> {
        let mut frame = vec![];
        let mark = |class: &str, from, to| {
            Piece::Mark(Mark {
                class: class.to_owned(),
                shape: Shape::Line(vec![from, to]),
            })
        };
        let words = |at, anchor, minor, text: &str| {
            Piece::Words(Words {
                at,
                anchor,
                minor,
                text: text.to_owned(),
            })
        };
        let (left, right, bottom) = (LEFT, self.right(), self.size.1 - BOTTOM);
        for (value, text) in self.y.texts(5) {
            let y = self.place(self.x.low, value).1;
            frame.push(mark("rule", (left, y), (right, y)));
            frame.push(words((left - 6.0, y + 4.0), "end", false, &text));
        }
        for (value, text) in self.x.texts(((right - left) / 55.0) as usize) {
            let x = self.place(value, self.y.low).0;
            frame.push(mark("tick", (x, bottom), (x, bottom + 4.0)));
            frame.push(words((x, bottom + 16.0), "middle", false, &text));
        }
        frame.push(mark("axis", (left, bottom), (right, bottom)));
        frame.push(words(
            (right, self.size.1 - 6.0),
            "end",
            true,
            &self.x.label,
        ));
        frame.push(words((4.0, 11.0), "start", true, &self.y.label));
        frame
            .into_iter()
            .chain(self.body.iter().cloned())
            .chain(self.place_labels())
            .collect()
    }

    fn right(&self) -> f64 {
        let longest = self
            .labels
            .iter()
            .map(|(_, _, text)| text.chars().count())
            .max();
        self.size.0 - longest.map_or(12.0, |n| n as f64 * CHARACTER + 26.0)
    }

    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let (right, bottom) = (self.right(), self.size.1 - BOTTOM);
        (
            LEFT + self.x.at(x) * (right - LEFT),
            bottom - self.y.at(y) * (bottom - TOP),
        )
    }

    fn places(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        points.iter().map(|(x, y)| self.place(*x, *y)).collect()
    }

    fn place_labels(&self) -> Vec<Piece> {
        const GAP: f64 = 15.0;
        let mut heights: Vec<f64> = self
            .labels
            .iter()
            .map(|(y, ..)| self.place(self.x.low, *y).1)
            .collect();
        for i in 1..heights.len() {
            heights[i] = heights[i].max(heights[i - 1] + GAP);
        }
        let mut floor = self.size.1 - BOTTOM;
        for height in heights.iter_mut().rev() {
            *height = height.min(floor);
            floor = *height - GAP;
        }
        let x = self.right() + 6.0;
        let placed = self
            .labels
            .iter()
            .zip(heights)
            .flat_map(|((_, class, text), y)| {
                let swatch = Mark {
                    class: format!("line {class}"),
                    shape: Shape::Line(vec![(x, y), (x + 12.0, y)]),
                };
                let words = Words {
                    at: (x + 16.0, y + 4.0),
                    anchor: "start",
                    minor: false,
                    text: text.clone(),
                };
                [Piece::Mark(swatch), Piece::Words(words)]
            });
        placed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(
            ticks(0.0, 100.0, 5),
            (vec![0.0, 20.0, 40.0, 60.0, 80.0, 100.0], 0)
        );
        assert_eq!(ticks(-0.3, 0.3, 3).1, 1);
        assert_eq!(ticks(1.0, 1.0, 5).0, Vec::<f64>::new());
        for (low, high) in [(0.97, 1.0), (-13.0, 2.0e3), (1e-5, 3e-5)] {
            let (ticks, _) = ticks(low, high, 5);
            let slack = (high - low) * 1e-6; // the slack that `ticks` itself allows, and no more
            assert!((3..=8).contains(&ticks.len()), "{ticks:?}");
            assert!(
                ticks
                    .iter()
                    .all(|t| (low - slack..=high + slack).contains(t)),
                "{ticks:?}"
            );
        }
    }

    #[test]
    fn labels_keep_apart_and_inside() {
        let plot = Plot::new(
            "t",
            (340.0, 220.0),
            Axis::plain(0.0, 1.0, "x"),
            Axis::percent(0.0, 1.0, "y"),
        );
        let svg = plot
            .labels(["a", "b", "c", "d"].map(|name| (0.01, "c0".into(), name.into())))
            .svg();
        let swatches = svg.split("class=\"line c0\" d=\"M").skip(1);
        let height = |rest: &str| rest.split([' ', 'L']).nth(1).and_then(|y| y.parse().ok());
        let ys: Vec<f64> = swatches.filter_map(height).collect();
        assert_eq!(ys.len(), 4);
        assert!(ys.windows(2).all(|w| w[1] - w[0] >= 14.9), "{ys:?}"); // one decimal is written
        assert!(ys.iter().all(|y| *y <= 220.0 - BOTTOM + 0.1), "{ys:?}");
    }
}
