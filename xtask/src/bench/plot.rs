//! The growth of a training step and the roofline as one picture. Knows points and axes, not how
//! they were measured.
use super::growth::{Axis, Point, Roof};
use super::measure::spread;
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One panel.
const PANEL: (u32, u32) = (380, 290);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(60, 60, 60);
/// Okabe and Ito's, which colour-blind readers tell apart; one for each series.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
];

/// A panel for each series, and one that holds all points against `roof`. SVG.
///
/// # Errors
/// If the drawing fails.
pub fn draw(points: &[Point], roof: &Roof) -> Result<String> {
    let mut svg = String::new();
    {
        let root =
            SVGBackend::with_string(&mut svg, (3 * PANEL.0, 2 * PANEL.1)).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let panels = root.split_evenly((2, 3));
        for ((axis, colour), area) in Axis::ALL.into_iter().zip(COLOURS).zip(&panels) {
            let series: Vec<&Point> = points.iter().filter(|point| point.axis == axis).collect();
            growth(area, axis, &series, colour)?;
        }
        if let Some(area) = panels.last() {
            roofline(area, points, roof)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

/// Time against one size, the rounds' spread as a stroke, with the line of a time in proportion to
/// the operations (for threads: in inverse proportion to their number).
fn growth(area: &Area, axis: Axis, series: &[&Point], colour: RGBColor) -> Result<()> {
    let Some(first) = series.first() else {
        return Ok(());
    };
    let value = |point: &Point| f64::from(point.value);
    let times: Vec<(f64, f64)> = series
        .iter()
        .map(|point| (value(point), point.time()))
        .collect();
    let share = |point: &Point| match axis {
        Axis::Threads => value(first) / value(point),
        _ => point.flops / first.flops,
    };
    let expected: Vec<(f64, f64)> = series
        .iter()
        .map(|point| (value(point), first.time() * share(point)))
        .collect();
    let rounds: Vec<[(f64, f64); 2]> = series
        .iter()
        .map(|point| {
            let (least, most) = spread(point.times.iter().copied());
            [(value(point), least), (value(point), most)]
        })
        .collect();
    let grey = if axis == Axis::Threads {
        "in inverse proportion"
    } else {
        "as the operations grow"
    };
    let chart = Chart {
        title: format!("a step against its {} (grey: {grey})", axis.name()),
        x: Scale::around(times.iter().map(|(x, _)| *x)),
        y: Scale::around(
            expected
                .iter()
                .chain(rounds.as_flattened())
                .map(|(_, y)| *y),
        ),
        labels: (axis.label(), "time of a step (ms)"),
        ticks: Some(times.iter().map(|(x, _)| *x).collect()),
    };
    let mut lines = vec![(&expected[..], INK.mix(0.5)), (&times[..], colour.mix(1.))];
    lines.extend(rounds.iter().map(|ends| (&ends[..], colour.mix(0.5))));
    chart.draw(area, &lines, &[(times.clone(), colour)])
}

/// Speed against arithmetic intensity, below what the machine allows.
fn roofline(area: &Area, points: &[Point], roof: &Roof) -> Result<()> {
    let steps = || {
        points
            .iter()
            .filter(|point| point.sizes.threads == roof.threads)
    };
    let ridge = roof.gflops / roof.bandwidth;
    let x = Scale::around(
        steps()
            .map(Point::intensity)
            .chain([ridge / 2., ridge * 2.]),
    );
    let limits = [x.low, ridge, x.high].map(|intensity| (intensity, roof.limit(intensity)));
    let dots: Vec<(Vec<(f64, f64)>, RGBColor)> = Axis::ALL
        .into_iter()
        .zip(COLOURS)
        .map(|(axis, colour)| {
            let own = steps().filter(|point| point.axis == axis);
            (
                own.map(|point| (point.intensity(), point.gflops()))
                    .collect(),
                colour,
            )
        })
        .collect();
    let threads = if roof.threads == 1 {
        "1 thread".to_owned()
    } else {
        format!("{} threads", roof.threads)
    };
    let chart = Chart {
        title: format!("roofline on {threads}, colours as in the other panels"),
        y: Scale::around(
            steps()
                .map(Point::gflops)
                .chain(limits.map(|limit| limit.1)),
        ),
        x,
        labels: ("convolutions: FLOP / byte", "GFLOP/s"),
        ticks: None,
    };
    chart.draw(area, &[(&limits, INK.mix(1.))], &dots)
}

/// The range of a logarithmic axis.
#[derive(Debug, Clone, Copy)]
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// Holds all `values` with a little air.
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = spread(values.filter(|value| value.is_finite() && *value > 0.));
        if low > high {
            return Self { low: 0.5, high: 2. };
        }
        let air = (high / low).powf(0.08).max(1.1);
        Self {
            low: low / air,
            high: high * air,
        }
    }

    /// Round values inside, at most about `most` of them: 1, 2 and 5 times powers of ten, or powers
    /// of ten alone.
    fn ticks(self, most: usize) -> Vec<f64> {
        let powers = || {
            (self.low.log10().floor() as i32..=self.high.log10().ceil() as i32)
                .map(|p| 10f64.powi(p))
        };
        let inside = |steps: &[f64]| -> Vec<f64> {
            let all = powers().flat_map(|power| steps.iter().map(move |step| step * power));
            all.filter(|tick| (self.low..=self.high).contains(tick))
                .collect()
        };
        let choices: [&[f64]; 4] = [
            &[1., 1.5, 2., 3., 4., 5., 7.],
            &[1., 2., 5.],
            &[1., 3.],
            &[1.],
        ];
        let mut found = choices.map(inside).into_iter();
        found.find(|ticks| ticks.len() <= most).unwrap_or_default()
    }
}

/// A logarithmic axis whose ticks are given: plotters' own has none between powers of ten.
struct Logarithmic {
    scale: Scale,
    ticks: Vec<f64>,
}

impl Ranged for Logarithmic {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let at = (value / self.scale.low).ln() / (self.scale.high / self.scale.low).ln();
        from + (f64::from(to - from) * at).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.scale.low..self.scale.high
    }
}

/// One panel, both axes logarithmic.
struct Chart {
    title: String,
    x: Scale,
    y: Scale,
    labels: (&'static str, &'static str),
    /// Of the horizontal axis, where not chosen by its range.
    ticks: Option<Vec<f64>>,
}

impl Chart {
    fn draw(
        self,
        area: &Area,
        lines: &[(&[(f64, f64)], RGBAColor)],
        dots: &[(Vec<(f64, f64)>, RGBColor)],
    ) -> Result<()> {
        let x = Logarithmic {
            ticks: self.ticks.unwrap_or_else(|| self.x.ticks(8)),
            scale: self.x,
        };
        let y = Logarithmic {
            ticks: self.y.ticks(8),
            scale: self.y,
        };
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 15, &INK))
            .margin(10)
            .x_label_area_size(38)
            .y_label_area_size(52)
            .build_cartesian_2d(x, y)
            .map_err(failed)?;
        let tick = |value: &f64| {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.12))
            .axis_style(INK)
            .label_style((FONT, 12, &INK))
            .axis_desc_style((FONT, 13, &INK))
            .x_desc(self.labels.0)
            .y_desc(self.labels.1)
            .x_label_formatter(&tick)
            .y_label_formatter(&tick)
            .draw()
            .map_err(failed)?;
        for (points, colour) in lines {
            chart
                .draw_series(LineSeries::new(
                    points.iter().copied(),
                    colour.stroke_width(2),
                ))
                .map_err(failed)?;
        }
        for (points, colour) in dots {
            let circles = points
                .iter()
                .map(|point| Circle::new(*point, 4, colour.filled()));
            chart.draw_series(circles).map_err(failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::growth::series;
    use super::*;

    /// As many circles as points: each in its own panel, and once more below the roof if it ran on
    /// as many threads.
    #[test]
    fn every_point_is_drawn() {
        let roof = Roof {
            threads: 2,
            gflops: 100.,
            bandwidth: 10.,
        };
        let point = |axis, (value, sizes)| {
            let time = 10. + f64::from(value);
            Point {
                axis,
                value,
                sizes,
                times: vec![time],
                flops: 1e9 * time,
                bytes: 1e8,
            }
        };
        let points: Vec<Point> = Axis::ALL
            .into_iter()
            .flat_map(|axis| series(axis, 2, 4).into_iter().map(move |s| point(axis, s)))
            .collect();
        let svg = draw(&points, &roof).expect("a picture");
        let below = points
            .iter()
            .filter(|point| point.sizes.threads == 2)
            .count();
        assert_eq!(svg.matches("<circle").count(), points.len() + below);
        for axis in Axis::ALL {
            assert!(svg.contains(axis.label()), "{axis:?} has no label");
        }
        assert!(svg.contains("time of a step (ms)") && svg.contains("GFLOP/s"));
    }

    #[test]
    fn ticks_are_round_inside_and_few() {
        for (low, high) in [
            (7., 270.),
            (11., 13.),
            (1e-3, 1e4),
            (90., 1200.),
            (0.9, 4.4),
        ] {
            let ticks = Scale { low, high }.ticks(8);
            assert!(
                ticks.len() <= 8 && ticks.iter().all(|tick| (low..=high).contains(tick)),
                "{low}: {ticks:?}"
            );
            assert!(
                high / low < 2. || ticks.len() >= 2,
                "{low} to {high}: {ticks:?}"
            );
        }
        let around = Scale::around([2., 8.].into_iter());
        assert!(
            around.low < 2. && around.low > 1. && around.high > 8. && around.high < 10.,
            "{around:?}"
        );
    }
}
