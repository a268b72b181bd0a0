//! Shares of the modalities as one bar, and the key to its colours.
//! Knows no run, nor what is shared.
use super::html::{escape, percent, shorten};

/// Colours of modalities in the style sheet.
const COLOURS: usize = 6;
/// Narrower parts carry no text.
const ROOM: f64 = 14.0;

/// One row of a `shares` grid: `title`, then each part `(name, share, place in the model's order)`,
/// as wide as its part of the sum. `what` is told to screen readers. Nothing if there is nothing to
/// share.
pub fn bar(title: &str, what: &str, parts: &[(&str, f64, usize)]) -> String {
    let width = |share: f64| {
        if share.is_finite() {
            share.max(0.0)
        } else {
            0.0
        }
    };
    let total: f64 = parts.iter().map(|(_, share, _)| width(*share)).sum();
    if total <= 0.0 {
        return String::new();
    }
    let part = |(name, share, place): &(&str, f64, usize)| {
        let (share, colour) = (width(*share) / total * 100.0, place % COLOURS);
        let text = if share >= ROOM {
            format!("{} {share:.1} %", escape(&shorten(name, 14)))
        } else {
            String::new()
        };
        format!(
            "<i class=\"m{colour}\" style=\"width:{share:.1}%\" title=\"{}: {share:.1} %\">{text}</i>",
            escape(name)
        )
    };
    let spoken: Vec<String> = parts
        .iter()
        .map(|(name, share, _)| format!("{} {} %", escape(name), percent(*share)))
        .collect();
    format!(
        "<div class=\"share\"><span>{}</span><div role=\"img\" aria-label=\"{what}: {}\">{}</div></div>\n",
        escape(title),
        spoken.join(", "),
        parts.iter().map(part).collect::<String>()
    )
}

/// Which colour is which modality.
pub fn key<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let swatch = |(place, name): (usize, &str)| {
        format!(
            "<span><span class=\"swatch box m{}\"></span>{}</span> ",
            place % COLOURS,
            escape(name)
        )
    };
    format!(
        "<p class=\"key\">{}</p>\n",
        names
            .into_iter()
            .enumerate()
            .map(swatch)
            .collect::<String>()
    )
}
