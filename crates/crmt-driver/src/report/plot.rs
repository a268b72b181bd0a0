//! A chart with two axes as inline SVG, coloured by CSS classes so that it follows the page's light or dark theme.
//! Knows nothing of runs, attacks or certificates.
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
        let (low, high) = if low.is_finite() && high.is_finite() { (low, high) } else { (0.0, 1.0) };
        // An empty range still needs a width to divide by.
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, label: label.into(), percent: false, whole: false }
    }

    /// Fractions shown as percentages.
    pub fn percent(low: f64, high: f64, label: &str) -> Self {
        Self { percent: true, ..Self::plain(low, high, label) }
    }

    /// With ticks at whole numbers only.
    #[must_use]
    pub fn whole(self) -> Self {
        Self { whole: true, ..self }
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
        ticks.into_iter().map(|t| (t / scale, format!("{t:.decimals$}").replace('-', "−"))).collect()
    }
}

/// Multiples of 1, 2 or 5 times a power of ten inside `low..=high`, about as many as asked, and the decimals they need.
pub fn ticks(low: f64, high: f64, about: usize) -> (Vec<f64>, usize) {
    let raw = (high - low) / about.max(1) as f64;
    if !raw.is_finite() || raw <= 0.0 {
        return (vec![], 0);
    }
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * 0.999).unwrap_or(raw);
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    // The slack keeps an end of the range that rounding put just outside.
    let (first, last) = ((low / step - 1e-6).ceil() as i64, (high / step + 1e-6).floor() as i64);
    // Adding 0 turns -0 into 0.
    ((first..=last).take(50).map(|i| i as f64 * step + 0.0).collect(), decimals)
}

/// A range that holds all finite `values` with a little air, at least `least` wide.
pub fn range(values: impl IntoIterator<Item = f64>, least: f64) -> (f64, f64) {
    let (low, high) = values
        .into_iter()
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
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

/// A chart under construction; later marks lie above earlier ones.
#[derive(Debug)]
pub struct Plot {
    title: String,
    size: (f64, f64),
    x: Axis,
    y: Axis,
    body: String,
    labels: Vec<(f64, String, String)>,
}

impl Plot {
    /// `title` is what a screen reader says.
    pub fn new(title: &str, size: (f64, f64), x: Axis, y: Axis) -> Self {
        Self { title: title.into(), size, x, y, body: String::new(), labels: vec![] }
    }

    /// Labels to the right of the plot, each `(height, class, text)` with a swatch of its series; they never overlap.
    /// They take their room from the plot, hence come before any mark.
    #[must_use]
    pub fn labels(mut self, labels: impl IntoIterator<Item = (f64, String, String)>) -> Self {
        self.labels = labels.into_iter().filter(|(y, ..)| y.is_finite()).collect();
        self.labels.iter_mut().for_each(|(_, _, text)| *text = shorten(text, 16));
        self.labels.sort_by(|a, b| b.0.total_cmp(&a.0));
        self
    }

    /// A line through the points, interrupted where one is not finite, marked at each point when `marks`.
    pub fn line(&mut self, points: &[(f64, f64)], class: &str, marks: bool) {
        for part in points.split(|(x, y)| !x.is_finite() || !y.is_finite()).filter(|part| !part.is_empty()) {
            if part.len() > 1 {
                let path = self.path(part);
                self.body.push_str(&format!("<path class=\"line {class}\" d=\"{path}\"/>"));
            }
            // A lone point would be invisible as a line.
            for &(x, y) in part.iter().filter(|_| marks || part.len() == 1) {
                let (x, y) = self.place(x, y);
                self.body.push_str(&format!("<circle class=\"mark {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\"/>"));
            }
        }
    }

    /// Many small dots, which are darker where they lie upon each other; those that are not finite are left out.
    pub fn dots(&mut self, points: &[(f64, f64)], class: &str) {
        const LAYERS: usize = 6;
        let finite: Vec<_> = points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        // Round caps make a dot of a line without length, in a tenth of the bytes of a circle.
        let dot = |&&(x, y): &&(f64, f64)| {
            let (x, y) = self.place(x, y);
            format!("M{x:.1} {y:.1}h0")
        };
        // What lies upon itself within one path is drawn once.
        let layer = |from: usize| finite.iter().skip(from).step_by(LAYERS).map(dot).collect::<String>();
        let paths = (0..LAYERS).map(layer).filter(|path| !path.is_empty()).map(|path| format!("<path d=\"{path}\"/>"));
        self.body.push_str(&format!("<g class=\"dots {class}\">{}</g>", paths.collect::<String>()));
    }

    /// The region between the points and the lower edge.
    pub fn area(&mut self, points: &[(f64, f64)], class: &str) {
        if let (Some(first), Some(last)) = (points.first(), points.last()) {
            let closed: Vec<_> = points.iter().copied().chain([(last.0, self.y.low), (first.0, self.y.low)]).collect();
            let path = self.path(&closed);
            self.body.push_str(&format!("<path class=\"area {class}\" d=\"{path}Z\"/>"));
        }
    }

    /// A named stretch of the horizontal axis, shaded when `shaded`, its name above if there is room.
    pub fn stretch(&mut self, from: f64, to: f64, name: &str, shaded: bool) {
        let ((left, top), (right, bottom)) = (self.place(from, self.y.high), self.place(to, self.y.low));
        let (width, height) = (right - left, bottom - top);
        if shaded {
            self.body.push_str(&format!(
                "<rect class=\"stretch\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
            ));
        }
        // A name that does not fit would run into its neighbour's.
        if name.chars().count() as f64 * CHARACTER <= width {
            let (x, y) = ((left + right) / 2.0, top - 6.0);
            self.body.push_str(&format!(
                "<text class=\"minor\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>",
                escape(name)
            ));
        }
    }

    /// The finished element.
    pub fn svg(self) -> String {
        let (width, height) = self.size;
        let mut frame = String::new();
        let (left, right, bottom) = (LEFT, self.right(), height - BOTTOM);
        for (value, text) in self.y.texts(5) {
            let y = self.place(self.x.low, value).1;
            frame.push_str(&format!(
                "<path class=\"rule\" d=\"M{left:.1} {y:.1}H{right:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                left - 6.0,
                y + 4.0
            ));
        }
        for (value, text) in self.x.texts(((right - left) / 55.0) as usize) {
            let x = self.place(value, self.y.low).0;
            frame.push_str(&format!(
                "<path class=\"tick\" d=\"M{x:.1} {bottom:.1}v4\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                bottom + 16.0
            ));
        }
        frame.push_str(&format!(
            "<path class=\"axis\" d=\"M{left:.1} {bottom:.1}H{right:.1}\"/>\
             <text class=\"minor\" x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text class=\"minor\" x=\"4\" y=\"11\">{}</text>",
            height - 6.0,
            escape(&self.x.label),
            escape(&self.y.label)
        ));
        let labels = self.place_labels();
        format!(
            "<svg role=\"img\" aria-label=\"{0}\" viewBox=\"0 0 {width} {height}\" style=\"max-width:{1}px\">\
             <title>{0}</title>{frame}{2}{labels}</svg>",
            escape(&self.title),
            width * 1.15,
            self.body
        )
    }

    fn right(&self) -> f64 {
        let longest = self.labels.iter().map(|(_, _, text)| text.chars().count()).max();
        self.size.0 - longest.map_or(12.0, |n| n as f64 * CHARACTER + 26.0)
    }

    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let (right, bottom) = (self.right(), self.size.1 - BOTTOM);
        (LEFT + self.x.at(x) * (right - LEFT), bottom - self.y.at(y) * (bottom - TOP))
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        for (i, &(x, y)) in points.iter().enumerate() {
            let (x, y) = self.place(x, y);
            path.push_str(&format!("{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' }));
        }
        path
    }

    fn place_labels(&self) -> String {
        const GAP: f64 = 15.0;
        let mut heights: Vec<f64> = self.labels.iter().map(|(y, ..)| self.place(self.x.low, *y).1).collect();
        for i in 1..heights.len() {
            heights[i] = heights[i].max(heights[i - 1] + GAP);
        }
        let mut floor = self.size.1 - BOTTOM;
        for height in heights.iter_mut().rev() {
            *height = height.min(floor);
            floor = *height - GAP;
        }
        let x = self.right() + 6.0;
        let mut out = String::new();
        for ((_, class, text), y) in self.labels.iter().zip(heights) {
            out.push_str(&format!(
                "<path class=\"line {class}\" d=\"M{x:.1} {y:.1}h12\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                x + 16.0,
                y + 4.0,
                escape(text)
            ));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 100.0, 5), (vec![0.0, 20.0, 40.0, 60.0, 80.0, 100.0], 0));
        assert_eq!(ticks(-0.3, 0.3, 3).1, 1);
        assert_eq!(ticks(1.0, 1.0, 5).0, Vec::<f64>::new());
        for (low, high) in [(0.97, 1.0), (-13.0, 2.0e3), (1e-5, 3e-5)] {
            let (ticks, _) = ticks(low, high, 5);
            let slack = (high - low) * 1e-6; // the slack that `ticks` itself allows, and no more
            assert!((3..=8).contains(&ticks.len()), "{ticks:?}");
            assert!(ticks.iter().all(|t| (low - slack..=high + slack).contains(t)), "{ticks:?}");
        }
    }

    #[test]
    fn labels_keep_apart_and_inside() {
        let plot = Plot::new("t", (340.0, 220.0), Axis::plain(0.0, 1.0, "x"), Axis::percent(0.0, 1.0, "y"));
        let svg = plot.labels(["a", "b", "c", "d"].map(|name| (0.01, "c0".into(), name.into()))).svg();
        let ys: Vec<f64> = svg
            .split("h12\"/>")
            .skip(1)
            .map(|rest| rest.split("y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(ys.len(), 4);
        assert!(ys.windows(2).all(|w| w[1] - w[0] >= 14.9), "{ys:?}"); // one decimal is written
        assert!(ys.iter().all(|y| *y <= 220.0 - BOTTOM + 4.1), "{ys:?}");
    }
}
