//! Where it breaks: adversarial examples to look at, each beside its clean input and what was
//! changed. Knows no modality by name: shape and valid range decide between picture, spectrogram
//! and line.
use super::colour::{byte, diverging, sequential};
use super::html::{budget, distance, escape, percent, section, shorten};
use super::plot::{Axis, Plot, range};
use super::raster::{Layout, Pixels};
use super::run_record::RunRecord;
use super::sandwich::threat_title;
use crate::examples::{Example, ExampleModality};
use crate::sandwich::Threat;

/// Shown of each run.
const EXAMPLES: usize = 6;
/// A line has no more points than this.
const POINTS: usize = 256;

/// The section; runs without examples are left out.
pub fn pictures(runs: &[RunRecord]) -> String {
    let mut content = String::new();
    for run in runs.iter().filter(|run| !run.examples.is_empty()) {
        let figures: String = run
            .examples
            .iter()
            .take(EXAMPLES)
            .map(|example| figure(run, example))
            .collect();
        let (title, figures) = (
            escape(&run.title),
            format!("<div class=\"examples\">{figures}</div>\n"),
        );
        content.push_str(&match content.is_empty() {
            true if runs.len() == 1 => figures,
            true => format!("<h3>{title}</h3>\n{figures}"),
            // The first run shows the form; the others are one click away.
            false => {
                format!("<details><summary>Where {title} breaks</summary>{figures}</details>\n")
            }
        });
    }
    section(
        "Where it breaks",
        "Samples that an attack broke with the least change, their class first and then what the model says under attack. \
         The <b>change</b> is amplified by the factor below it, so that the largest shows at full strength: \
         <span class=\"lowered\">blue</span> is lowered, <span class=\"raised\">orange</span> is raised.",
        &content,
    )
}

fn figure(run: &RunRecord, example: &Example) -> String {
    let class = |k: usize| {
        run.summary
            .classes
            .get(k)
            .map_or_else(|| k.to_string(), |name| escape(&shorten(name, 40)))
    };
    let (label, prediction) = (class(example.label), class(example.prediction));
    let mistaken = match example.clean_prediction == example.label {
        true => String::new(),
        false => format!(" (taken for {})", class(example.clean_prediction)),
    };
    let threat = threat_title(&Threat {
        name: example.threat.clone(),
        norm: example.norm.clone(),
    });
    let rows: String = example.modalities.iter().map(|m| row(example, m)).collect();
    format!(
        "<figure class=\"example\"><figcaption><b>{label}{mistaken} → {prediction}</b>\
         <small>sample {} · falls at ε = {} to {} · distance {}</small><small>{threat}</small></figcaption>\n\
         {}<div class=\"pictures\">{rows}</div></figure>\n",
        example.sample,
        budget(example.eps),
        escape(&example.attack),
        distance(example.distance),
        shares(example)
    )
}

/// Who moved how much, as a bar of the squared distance; nothing when one modality moved alone.
fn shares(example: &Example) -> String {
    let squares: Vec<f64> = example
        .modalities
        .iter()
        .map(|m| m.distance * m.distance)
        .collect();
    let total: f64 = squares.iter().sum();
    let moved = squares.iter().filter(|s| **s > 0.0).count();
    if moved < 2 || example.norm != "l2" || !total.is_finite() {
        return String::new();
    }
    let parts = example
        .modalities
        .iter()
        .zip(&squares)
        .enumerate()
        .filter(|(_, (_, square))| **square > 0.0);
    let (mut bars, mut spoken) = (String::new(), vec![]);
    for (i, (m, square)) in parts {
        let (share, name) = (square / total, escape(&shorten(&m.name, 14)));
        // Narrower than this, the text would not fit.
        let text = if share >= 0.25 {
            format!("{name} {} %", percent(share))
        } else {
            String::new()
        };
        let (class, width) = (i % 6, share * 100.0);
        spoken.push(format!("{} {} %", escape(&m.name), percent(share)));
        bars.push_str(&format!(
            "<i class=\"m{class}\" style=\"width:{width:.1}%\" title=\"{}: {width:.1} %\">{text}</i>",
            escape(&m.name)
        ));
    }
    format!(
        "<div class=\"share\"><div role=\"img\" aria-label=\"Squared distance: {}\">{bars}</div></div>\n",
        spoken.join(", ")
    )
}

/// One modality: clean, under attack, and the change.
fn row(example: &Example, m: &ExampleModality) -> String {
    let entries: usize = m.shape.iter().product();
    let whole = |values: &Vec<f32>| values.len() == entries;
    if entries == 0 || !whole(&m.clean) || !m.adversarial.iter().all(whole) {
        return String::new();
    }
    let change: Vec<f32> = m
        .adversarial
        .iter()
        .flat_map(|moved| moved.iter().zip(&m.clean))
        .map(|(a, c)| a - c)
        .collect();
    let most = change.iter().fold(0.0, |most, d| d.abs().max(most));
    let subject = Subject {
        example,
        m,
        change: (most > 0.0).then_some((change, most)),
    };
    let cells = match Layout::of(&m.shape) {
        Some(layout) => subject.picture(&layout),
        None => subject.lines(),
    };
    let moved = match (&m.adversarial, &subject.change) {
        (None, _) => "missing: its baseline stands in".into(),
        (_, None) => "not changed".into(),
        _ => format!("distance {}", distance(m.distance)),
    };
    format!("<p><b>{}</b> {moved}</p>{cells}", escape(&m.name))
}

/// What is drawn.
struct Subject<'a> {
    example: &'a Example,
    m: &'a ExampleModality,
    /// Entry by entry, and the largest; none when nothing changed.
    change: Option<(Vec<f32>, f32)>,
}

impl Subject<'_> {
    /// The valid range by channel, one entry for all.
    fn bounds(&self) -> Option<Vec<(f64, f64)>> {
        let (lo, hi) = self.m.range.as_ref()?;
        let bounds: Vec<_> = lo.iter().copied().zip(hi.iter().copied()).collect();
        let told = bounds
            .iter()
            .all(|(lo, hi)| lo.is_finite() && hi.is_finite() && lo < hi);
        (told && !bounds.is_empty()).then_some(bounds)
    }

    /// The range of these values themselves.
    fn reach(&self) -> (f64, f64) {
        let values = self
            .m
            .clean
            .iter()
            .chain(self.m.adversarial.iter().flatten());
        let wide = |(low, high): (f64, f64), v: &f32| (low.min((*v).into()), high.max((*v).into()));
        match values
            .filter(|v| v.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), wide)
        {
            (low, high) if low < high => (low, high),
            (low, high) if low == high => (low - 0.5, low + 0.5),
            _ => (0.0, 1.0),
        }
    }

    /// The scale of what is drawn: the valid range, or else that of the values.
    fn extent(&self) -> Vec<(f64, f64)> {
        self.bounds().unwrap_or_else(|| vec![self.reach()])
    }

    /// Below the change: how much larger it is drawn than on the scale of what is beside it.
    fn factor(&self, most: f32) -> String {
        let span = self
            .extent()
            .into_iter()
            .map(|(low, high)| high - low)
            .fold(0.0, f64::max);
        let factor = match span / f64::from(most) {
            f if f < 10.0 => format!("{f:.1}"),
            f if f < 1e6 => format!("{f:.0}"),
            f => format!("{f:.0e}"),
        };
        format!("change ×{factor}")
    }

    fn picture(&self, layout: &Layout) -> String {
        let extent = self.extent();
        let bounded = self.bounds().is_some();
        // The range of a mean is the mean of the ranges.
        let mean = |of: &dyn Fn(&(f64, f64)) -> f64| {
            extent.iter().map(of).sum::<f64>() / extent.len() as f64
        };
        let whole = (mean(&|e| e.0), mean(&|e| e.1));
        let part = |plane: usize, v: f64| {
            let (low, high) = if layout.is_coloured() {
                extent[plane.min(extent.len() - 1)]
            } else {
                whole
            };
            (v - low) / (high - low)
        };
        // What has no range and no colours is taken for a spectrogram: low rows lie low.
        let spectrogram = !bounded && !layout.is_coloured();
        let upright = |pixels: Pixels| if spectrogram { pixels.upward() } else { pixels };
        let shown = |values: &[f32], caption: &str| {
            let pixels = upright(layout.means(values));
            let uri = match (layout.is_coloured(), bounded) {
                (true, _) => pixels.uri(|v| {
                    [
                        byte(part(0, v[0])),
                        byte(part(1, v[1])),
                        byte(part(2, v[2])),
                    ]
                }),
                (false, true) => pixels.uri(|v| [byte(part(0, v[0]))]),
                (false, false) => pixels.uri(|v| sequential(part(0, v[0]))),
            };
            self.image(&pixels, &uri, caption)
        };
        let mut cells = shown(&self.m.clean, "clean");
        if let (Some(moved), Some((change, most))) = (&self.m.adversarial, &self.change) {
            cells.push_str(&shown(moved, "under attack"));
            let pixels = upright(layout.extremes(change));
            let uri = pixels.uri(|v| diverging(v[0] / f64::from(*most)));
            cells.push_str(&self.image(&pixels, &uri, &self.factor(*most)));
        }
        cells
    }

    fn image(&self, pixels: &Pixels, uri: &str, caption: &str) -> String {
        let (width, height) = pixels.size();
        // A few channels over a long time are stretched until they can be seen.
        let ratio = (width as f64 / height as f64).clamp(0.5, 3.0);
        format!(
            "<span><img style=\"aspect-ratio:{ratio:.3}\" src=\"{uri}\" alt=\"{}\"/><small>{caption}</small></span>",
            self.spoken(caption)
        )
    }

    fn spoken(&self, caption: &str) -> String {
        format!(
            "{} of sample {}, {caption}",
            escape(&self.m.name),
            self.example.sample
        )
    }

    fn lines(&self) -> String {
        let moved = self
            .m
            .adversarial
            .as_ref()
            .filter(|_| self.change.is_some());
        let values = self
            .m
            .clean
            .iter()
            .chain(moved.into_iter().flatten())
            .map(|v| f64::from(*v));
        let mut both = self.plot("clean and under attack", 350.0, range(values, 1e-9));
        both.line(&points(&self.m.clean), "clean", false);
        let mut caption = "<span class=\"swatch clean\"></span>clean".to_owned();
        let mut cells = String::new();
        if let (Some(moved), Some((change, most))) = (moved, &self.change) {
            both.line(&points(moved), "attacked", false);
            caption.push_str(" <span class=\"swatch attacked\"></span>under attack");
            let (most, factor) = (f64::from(*most), self.factor(*most));
            let mut plot = self.plot(&factor, 190.0, (-most, most));
            plot.line(&[(0.0, 0.0), (change.len() as f64, 0.0)], "clean", false);
            plot.line(&points(change), "attacked", false);
            cells = format!("<span>{}<small>{factor}</small></span>", plot.svg());
        }
        format!(
            "<span class=\"wide\">{}<small>{caption}</small></span>{cells}",
            both.svg()
        )
    }

    fn plot(&self, caption: &str, width: f64, (low, high): (f64, f64)) -> Plot {
        let x = Axis::plain(0.0, self.m.clean.len().saturating_sub(1) as f64, "entry").whole();
        Plot::new(
            &self.spoken(caption),
            (width, 170.0),
            x,
            Axis::plain(low, high, ""),
        )
    }
}

/// Entries over their positions; of too many, the least and the greatest of each stretch.
fn points(values: &[f32]) -> Vec<(f64, f64)> {
    let all = values
        .iter()
        .enumerate()
        .map(|(i, v)| (i as f64, f64::from(*v)));
    if values.len() <= POINTS {
        return all.collect();
    }
    let all: Vec<_> = all.collect();
    let ends = |stretch: &[(f64, f64)]| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let mut ends = [
            stretch.iter().min_by(by_value),
            stretch.iter().max_by(by_value),
        ]
        .map(|p| *p.expect("not empty"));
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends
    };
    all.chunks(all.len().div_ceil(POINTS / 2))
        .flat_map(ends)
        .collect()
}
