//! Letters as outlines, so that a figure looks alike wherever it is opened. Their licence is beside
//! the font. Knows no language: one letter stands behind the other, from left to right.
use super::plot::Words;
use tiny_skia::{Path, PathBuilder};
use ttf_parser::{Face, GlyphId, OutlineBuilder};

/// The letters' size: that of the page's charts; this font is a little wider than most.
const SIZE: f64 = 11.0;

/// The font that comes along.
pub struct Font {
    face: Face<'static>,
    scale: f64,
}

impl Font {
    /// Reads it.
    pub fn new() -> Self {
        let face = Face::parse(include_bytes!("font/DejaVuSans-subset.ttf"), 0)
            .expect("the font that comes along");
        let scale = SIZE / f64::from(face.units_per_em());
        Self { face, scale }
    }

    /// What the font lacks is drawn as its empty box.
    fn glyph(&self, c: char) -> GlyphId {
        self.face.glyph_index(c).unwrap_or(GlyphId(0))
    }

    fn advance(&self, c: char) -> f64 {
        f64::from(self.face.glyph_hor_advance(self.glyph(c)).unwrap_or(0)) * self.scale
    }

    fn width(&self, text: &str) -> f64 {
        text.chars().map(|c| self.advance(c)).sum()
    }

    /// Lines no wider than `room`, broken at blanks or, in a long word, anywhere.
    pub fn wrapped(&self, text: &str, room: f64) -> Vec<String> {
        let mut lines = vec![];
        let mut line = String::new();
        for word in text.split_inclusive(' ') {
            if !line.is_empty() && self.width(&line) + self.width(word.trim_end()) > room {
                lines.push(std::mem::take(&mut line));
            }
            for c in word.chars() {
                if !line.is_empty() && c != ' ' && self.width(&line) + self.advance(c) > room {
                    lines.push(std::mem::take(&mut line));
                }
                line.push(c);
            }
        }
        lines.push(line);
        lines
    }

    /// The words, moved by `by`; none of blanks.
    pub fn outline(&self, words: &Words, by: (f64, f64)) -> Option<Path> {
        let shift = match words.anchor {
            "middle" => self.width(&words.text) / 2.0,
            "end" => self.width(&words.text),
            _ => 0.0,
        };
        let at = (words.at.0 + by.0 - shift, words.at.1 + by.1);
        let mut pen = Pen {
            path: PathBuilder::new(),
            at,
            scale: self.scale,
        };
        for c in words.text.chars() {
            // A blank has no outline.
            let _ = self.face.outline_glyph(self.glyph(c), &mut pen);
            pen.at.0 += self.advance(c);
        }
        pen.path.finish()
    }
}

/// Puts a letter where it belongs; on paper the vertical axis points down.
struct Pen {
    path: PathBuilder,
    at: (f64, f64),
    scale: f64,
}

impl Pen {
    fn place(&self, x: f32, y: f32) -> (f32, f32) {
        (
            (self.at.0 + f64::from(x) * self.scale) as f32,
            (self.at.1 - f64::from(y) * self.scale) as f32,
        )
    }
}

impl OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.path.move_to(x, y);
    }
    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.path.line_to(x, y);
    }
    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.place(x1, y1), self.place(x, y));
        self.path.quad_to(x1, y1, x, y);
    }
    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) =
            (self.place(x1, y1), self.place(x2, y2), self.place(x, y));
        self.path.cubic_to(x1, y1, x2, y2, x, y);
    }
    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_all_that_is_printed_are_there_and_lines_fit() {
        let font = Font::new();
        for c in "AZaz09 εζησ±−–—…→≥≤∞ℓ₂%‘’“”äßéñçøÅŁžабвΩ\u{fffd}".chars()
        {
            assert!(font.face.glyph_index(c).is_some(), "{c}");
        }
        assert_eq!(font.wrapped("one two", 1000.0), ["one two"]);
        assert_eq!(
            font.wrapped("one two", font.width("one t")),
            ["one ", "two"]
        );
        assert!(
            font.wrapped(&"x".repeat(99), 50.0)
                .iter()
                .all(|line| font.width(line) <= 50.0)
        );
    }
}
