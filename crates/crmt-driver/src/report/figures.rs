//! Charts as files that stand alone: SVG with its colours and letters in it, and the same outlines
//! as PNG. Knows nothing of runs; what a chart shows is its title.
use super::font::Font;
use super::html::escape;
use super::plot::{Mark, Piece, Plot, RADIUS, Shape, Words};
use anyhow::{Context, Result};
use std::cell::RefCell;
use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, PathSegment, Pixmap, Stroke,
    StrokeDash, Transform,
};

/// By this, files that may be replaced are told from those of others.
const MARK: &str = "figure of a crmt-driver report";
/// Names of files are cut to this length.
const LONGEST_NAME: usize = 100;
/// PNG pixels for each unit of a chart: enough for print.
const SCALE: f64 = 3.0;
/// Between lines of text.
const LINE: f64 = 17.0;
const MARGIN: f64 = 8.0;

/// The charts of a page, in order.
#[derive(Debug, Default)]
pub struct Gallery {
    plots: RefCell<Vec<Plot>>,
}

impl Gallery {
    /// Keeps the chart, and gives it as the page shows it.
    pub fn hang(&self, plot: Plot) -> String {
        let svg = plot.svg();
        self.plots.borrow_mut().push(plot);
        svg
    }

    /// All of them, each under a name of its own.
    pub fn figures(self) -> Vec<Figure> {
        let mut figures: Vec<Figure> = vec![];
        for plot in self.plots.into_inner() {
            let slug = slug(plot.title());
            let numbered = (2..).map(|n| format!("{slug}-{n}"));
            let free = |name: &String| figures.iter().all(|figure| figure.name != *name);
            let name = std::iter::once(slug.clone())
                .chain(numbered)
                .find(free)
                .expect("numbers do not end");
            figures.push(Figure {
                name,
                drawing: Drawing::of(&plot),
            });
        }
        figures
    }
}

/// A chart that needs nothing else.
#[derive(Debug)]
pub struct Figure {
    /// Of its files, without an ending.
    pub name: String,
    drawing: Drawing,
}

impl Figure {
    /// The SVG file.
    pub fn svg(&self) -> String {
        let Drawing {
            title,
            width,
            height,
            parts,
        } = &self.drawing;
        let title = escape(title);
        let parts: String = parts.iter().map(Part::svg).collect();
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title><desc>{MARK}</desc>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n{parts}</svg>\n"
        )
    }

    /// The PNG file: the same outlines.
    pub fn png(&self) -> Result<Vec<u8>> {
        let Drawing {
            width,
            height,
            parts,
            ..
        } = &self.drawing;
        let pixels = |length: f64| (length * SCALE).ceil() as u32;
        let mut page =
            Pixmap::new(pixels(*width), pixels(*height)).context("a figure without size")?;
        page.fill(Color::WHITE);
        parts.iter().for_each(|part| part.paint(&mut page));
        let mut file = vec![];
        let mut encoder = png::Encoder::new(&mut file, page.width(), page.height());
        encoder.set_color(png::ColorType::Rgb);
        encoder.add_text_chunk("Software".into(), MARK.into())?;
        // The paper is opaque, so that no alpha is left to take out.
        let rgb: Vec<u8> = page
            .data()
            .chunks_exact(4)
            .flat_map(|p| [p[0], p[1], p[2]])
            .collect();
        encoder.write_header()?.write_image_data(&rgb)?;
        Ok(file)
    }
}

/// Whether a file is a figure that a report wrote.
pub fn is_ours(file: &[u8]) -> bool {
    let start = &file[..file.len().min(2048)];
    start
        .windows(MARK.len())
        .any(|part| part == MARK.as_bytes())
}

/// Lower-case letters, digits and dashes.
fn slug(title: &str) -> String {
    let mut name = String::new();
    for c in title.to_lowercase().chars() {
        match c {
            c if c.is_ascii_alphanumeric() => name.push(c),
            _ if name.ends_with('-') || name.is_empty() => {}
            _ => name.push('-'),
        }
    }
    name.truncate(LONGEST_NAME);
    name.trim_end_matches('-').to_owned()
}

/// Outlines on paper, in order.
#[derive(Debug)]
struct Drawing {
    title: String,
    width: f64,
    height: f64,
    parts: Vec<Part>,
}

impl Drawing {
    /// The chart under its title, with its key below.
    fn of(plot: &Plot) -> Self {
        let font = Font::new();
        let (width, height) = plot.size();
        let title = plot.title().to_owned();
        let mut drawing = Self {
            title,
            width: width + 2.0 * MARGIN,
            height: 0.0,
            parts: vec![],
        };
        let words = |x, y, text: String| Words {
            at: (x, y),
            anchor: "start",
            minor: false,
            text,
        };
        let mut y = MARGIN;
        for line in font.wrapped(plot.title(), width - 8.0) {
            drawing.words(&font, &words(4.0, 13.0, line), (MARGIN, y));
            y += LINE;
        }
        y += 4.0;
        for piece in plot.pieces() {
            match piece {
                Piece::Mark(mark) => drawing.mark(&mark, (MARGIN, y)),
                Piece::Words(words) => drawing.words(&font, &words, (MARGIN, y)),
            }
        }
        y += height + 4.0;
        for (class, meaning) in plot.key() {
            let swatch = Shape::Line(vec![(4.0, 8.0), (24.0, 8.0)]);
            drawing.mark(
                &Mark {
                    class: format!("line {class}"),
                    shape: swatch,
                },
                (MARGIN, y),
            );
            for line in font.wrapped(meaning, width - 34.0) {
                drawing.words(&font, &words(30.0, 12.0, line), (MARGIN, y));
                y += LINE;
            }
        }
        drawing.height = y + MARGIN;
        drawing
    }

    fn mark(&mut self, mark: &Mark, (dx, dy): (f64, f64)) {
        let at = |(x, y): &(f64, f64)| ((x + dx) as f32, (y + dy) as f32);
        let through = |points: &[(f64, f64)], closed: bool| {
            let mut path = PathBuilder::new();
            for (i, (x, y)) in points.iter().map(at).enumerate() {
                if i == 0 {
                    path.move_to(x, y)
                } else {
                    path.line_to(x, y)
                }
            }
            if closed {
                path.close();
            }
            path.finish()
        };
        let paths = match &mark.shape {
            Shape::Line(points) => vec![through(points, false)],
            Shape::Area(points) => vec![through(points, true)],
            Shape::Circle(centre) => {
                let (x, y) = at(centre);
                vec![PathBuilder::from_circle(x, y, RADIUS as f32)]
            }
            Shape::Dots(layers) => layers
                .iter()
                .map(|points| dots(points.iter().map(at)))
                .collect(),
        };
        let style = Style::of(&mark.class);
        self.parts
            .extend(paths.into_iter().flatten().map(|path| Part {
                path,
                style,
                says: String::new(),
            }));
    }

    fn words(&mut self, font: &Font, words: &Words, (dx, dy): (f64, f64)) {
        let style = Style::of(if words.minor { "minor" } else { "ink" });
        let path = font.outline(words, (dx, dy));
        self.parts.extend(path.map(|path| Part {
            path,
            style,
            says: words.text.clone(),
        }));
    }
}

/// Strokes of nearly no length, which round caps make dots of.
fn dots(places: impl Iterator<Item = (f32, f32)>) -> Option<Path> {
    let mut path = PathBuilder::new();
    for (x, y) in places {
        path.move_to(x, y);
        path.line_to(x + 0.01, y);
    }
    path.finish()
}

/// An outline and its colours.
#[derive(Debug)]
struct Part {
    path: Path,
    style: Style,
    /// What its letters say.
    says: String,
}

impl Part {
    fn svg(&self) -> String {
        let says = match self.says.as_str() {
            "" => String::new(),
            says => format!(" aria-label=\"{}\"", escape(says)),
        };
        format!(
            "<path{}{says} d=\"{}\"/>\n",
            self.style.svg(),
            outline(&self.path)
        )
    }

    fn paint(&self, page: &mut Pixmap) {
        let scale = Transform::from_scale(SCALE as f32, SCALE as f32);
        if let Some(ink) = &self.style.fill {
            page.fill_path(&self.path, &ink.paint(), FillRule::Winding, scale, None);
        }
        if let Some(ink) = &self.style.stroke {
            page.stroke_path(&self.path, &ink.paint(), &self.style.pen(), scale, None);
        }
    }
}

/// A path as SVG spells it.
fn outline(path: &Path) -> String {
    let segment = |segment| match segment {
        PathSegment::MoveTo(p) => format!("M{:.2} {:.2}", p.x, p.y),
        PathSegment::LineTo(p) => format!("L{:.2} {:.2}", p.x, p.y),
        PathSegment::QuadTo(a, p) => format!("Q{:.2} {:.2} {:.2} {:.2}", a.x, a.y, p.x, p.y),
        PathSegment::CubicTo(a, b, p) => format!(
            "C{:.2} {:.2} {:.2} {:.2} {:.2} {:.2}",
            a.x, a.y, b.x, b.y, p.x, p.y
        ),
        PathSegment::Close => "Z".to_owned(),
    };
    path.segments().map(segment).collect()
}

/// A colour, and how much of it.
#[derive(Debug, Clone, Copy)]
struct Ink {
    colour: &'static str,
    opacity: f32,
}

impl Ink {
    fn paint(&self) -> Paint<'static> {
        let [r, g, b] = bytes(self.colour);
        let mut paint = Paint {
            anti_alias: true,
            ..Paint::default()
        };
        paint.set_color_rgba8(r, g, b, (self.opacity * 255.0).round() as u8);
        paint
    }

    fn svg(&self, what: &str) -> String {
        let opacity = if self.opacity < 1.0 {
            format!(" {what}-opacity=\"{}\"", self.opacity)
        } else {
            String::new()
        };
        format!(" {what}=\"{}\"{opacity}", self.colour)
    }
}

/// How a class of the page's style sheet looks on white paper.
#[derive(Debug, Clone, Copy)]
struct Style {
    fill: Option<Ink>,
    stroke: Option<Ink>,
    width: f32,
    dashed: bool,
    round: bool,
}

const DASHES: [f32; 2] = [5.0, 4.0];

impl Style {
    fn of(class: &str) -> Self {
        let mut words = class.split(' ');
        let what = words.next().unwrap_or_default();
        let series = words.next().unwrap_or_default();
        let colour = colour(match (what, series) {
            ("rule", _) => "grid",
            ("axis" | "tick" | "stretch" | "minor", _) | (_, "s6") => "soft",
            ("ink", _) | (_, "total") => "ink",
            (_, series) => series,
        });
        let ink = |opacity| Some(Ink { colour, opacity });
        let none = Self {
            fill: None,
            stroke: None,
            width: 1.0,
            dashed: false,
            round: false,
        };
        match what {
            "ink" | "minor" => Self {
                fill: ink(1.0),
                ..none
            },
            "stretch" => Self {
                fill: ink(0.09),
                ..none
            },
            "area" => Self {
                fill: ink(0.16),
                ..none
            },
            "mark" => Self {
                fill: ink(1.0),
                stroke: Some(Ink {
                    colour: "#ffffff",
                    opacity: 1.0,
                }),
                width: 1.2,
                ..none
            },
            "dots" => Self {
                stroke: ink(0.4),
                width: 5.0,
                round: true,
                ..none
            },
            "line" => {
                let width = match series {
                    "clean" => 1.5,
                    "total" => 4.0,
                    _ => 2.0,
                };
                let dashed = series == "estimated" || words.next() == Some("dashed");
                Self {
                    stroke: ink(1.0),
                    width,
                    dashed,
                    ..none
                }
            }
            _ => Self {
                stroke: ink(1.0),
                ..none
            },
        }
    }

    fn pen(&self) -> Stroke {
        Stroke {
            width: self.width,
            line_join: LineJoin::Round,
            line_cap: if self.round {
                LineCap::Round
            } else {
                LineCap::Butt
            },
            dash: if self.dashed {
                StrokeDash::new(DASHES.to_vec(), 0.0)
            } else {
                None
            },
            ..Stroke::default()
        }
    }

    fn svg(&self) -> String {
        let mut text = self
            .fill
            .map_or_else(|| " fill=\"none\"".to_owned(), |ink| ink.svg("fill"));
        if let Some(ink) = self.stroke {
            text.push_str(&format!(
                "{} stroke-width=\"{}\" stroke-linejoin=\"round\"",
                ink.svg("stroke"),
                self.width
            ));
        }
        if self.dashed {
            text.push_str(&format!(
                " stroke-dasharray=\"{} {}\"",
                DASHES[0], DASHES[1]
            ));
        }
        if self.round {
            text.push_str(" stroke-linecap=\"round\"");
        }
        text
    }
}

/// A light colour of the page, by the name of its variable; what has none is ink.
fn colour(name: &str) -> &'static str {
    let sheet = include_str!("style.css");
    let declared = |name: &str| {
        sheet
            .split_once(&format!("--{name}: #"))
            .map(|(before, _)| &sheet[before.len() + name.len() + 4..])
    };
    let value = declared(name)
        .or_else(|| declared("ink"))
        .and_then(|rest| rest.split(';').next());
    value.unwrap_or("#000000")
}

/// Red, green and blue of `#rrggbb`.
fn bytes(colour: &str) -> [u8; 3] {
    [1, 3, 5].map(|i| {
        colour
            .get(i..i + 2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::super::plot::Axis;
    use super::*;

    fn chart(title: &str) -> Plot {
        let mut plot = Plot::new(
            title,
            (340.0, 230.0),
            Axis::plain(0.0, 2.0, "budget ε"),
            Axis::percent(0.0, 1.0, "%"),
        );
        plot.area(&[(0.0, 0.2), (2.0, 0.2)], "certified");
        plot.line(&[(0.0, 0.5), (2.0, 0.5)], "attacked", false);
        plot.explain("attacked", "strongest attack");
        plot
    }

    #[test]
    fn a_figure_needs_nothing_else_and_its_picture_shows_what_was_drawn() -> Result<()> {
        let nasty = "a <b> & \"c\" \u{202e}ε 音";
        let gallery = Gallery::default();
        assert!(gallery.hang(chart(nasty)).starts_with("<svg"));
        gallery.hang(chart(nasty));
        let figures = gallery.figures();
        assert_eq!([&figures[0].name, &figures[1].name], ["a-b-c", "a-b-c-2"]);
        let svg = figures[0].svg();
        for foreign in ["var(", "url(", "<text", "href", "@import", "<style", "<b>"] {
            assert!(!svg.contains(foreign), "{foreign}: {svg}");
        }
        assert!(is_ours(svg.as_bytes()) && !is_ours(b"<svg></svg>"));
        let png = figures[0].png()?;
        assert!(is_ours(&png) && png == figures[0].png()?);
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info()?;
        let mut pixels = vec![0; reader.output_buffer_size().context("small")?];
        let info = reader.next_frame(&mut pixels)?;
        let has = |colour: &str| {
            pixels[..info.buffer_size()]
                .chunks(3)
                .any(|p| p == bytes(colour))
        };
        assert!(pixels[..3] == [255; 3], "paper is white");
        assert!(
            has(colour("attacked")) && has(colour("ink")),
            "the line and the letters"
        );
        assert!(!has(colour("certified")), "an area is pale");
        Ok(())
    }
}
