//! Text and numbers as HTML: escaping, percentages, distances, sections.
//! Knows nothing of what they mean.

/// Safe as element content and inside a double-quoted attribute.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters are not allowed in a document at all; those of direction turn what
            // stands beside a name.
            c if (c.is_control() && c != '\n' && c != '\t') || turns(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Whether a character only changes the direction of its neighbours.
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// At most `limit` characters, an ellipsis for what is left out of the middle: names often differ
/// at their ends alone. Not escaped.
pub fn shorten(text: &str, limit: usize) -> String {
    let all: Vec<char> = text.chars().collect();
    if all.len() <= limit {
        return text.to_string();
    }
    let kept = limit.saturating_sub(1);
    let (start, end) = (kept.div_ceil(2), kept / 2);
    all[..start]
        .iter()
        .chain(&['…'])
        .chain(&all[all.len() - end..])
        .collect()
}

/// A fraction in `0..=1` as a percentage without its sign: `73.4`.
pub fn percent(fraction: f64) -> String {
    if fraction.is_finite() {
        format!("{:.1}", fraction * 100.0)
    } else {
        "–".into()
    }
}

/// A distance with the decimals a reader needs: `1.94`, `0.039`, `0.0007`, `1.8e308`, `∞`.
pub fn distance(value: f64) -> String {
    match value {
        v if v.is_nan() => "–".into(),
        v if v.is_infinite() => if v > 0.0 { "∞" } else { "−∞" }.into(),
        v if v.abs() >= 1e9 => format!("{v:.1e}"),
        v if v.abs() >= 100.0 => format!("{v:.0}"),
        v if v.abs() >= 0.1 || v == 0.0 => format!("{v:.2}"),
        v if v.abs() >= 0.01 => format!("{v:.3}"),
        v if v.abs() >= 0.0001 => format!("{v:.4}"),
        v => format!("{v:.1e}"),
    }
}

/// A budget as someone would write it: `1`, `1.58`, `0.0314`.
pub fn budget(eps: f64) -> String {
    if !eps.is_finite() {
        return distance(eps);
    }
    let short = format!("{:.2e}", eps).parse::<f64>().unwrap_or(eps);
    if short != 0.0 && !(1e-4..1e6).contains(&short.abs()) {
        format!("{short:e}")
    } else {
        short.to_string()
    }
}

/// `10000` as `10,000`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `[a, b, c]` as `a, b and c`.
pub fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [start @ .., last] => format!("{} and {last}", start.join(", ")),
    }
}

/// A titled part of the page with one introductory sentence (HTML); nothing at all without content.
pub fn section(title: &str, lead: &str, content: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    format!("<section>\n<h2>{title}</h2>\n<p class=\"lead\">{lead}</p>\n{content}</section>\n")
}

/// A captioned chart.
pub fn figure(caption: &str, content: &str) -> String {
    format!("<figure><figcaption>{caption}</figcaption>{content}</figure>\n")
}

/// A captioned table from its parts; where it is wider than the page it scrolls by itself.
pub fn table(class: &str, caption: &str, head: &str, bodies: &str) -> String {
    let table = format!("<table class=\"{class}\"><thead><tr>{head}</tr></thead>{bodies}</table>");
    figure(
        caption,
        &format!("<div class=\"scroll\" tabindex=\"0\">{table}</div>"),
    )
}

/// Rows of a table under a heading of their own, over `columns` columns.
pub fn group(heading: &str, columns: usize, rows: &str) -> String {
    format!(
        "<tbody><tr><th scope=\"rowgroup\" colspan=\"{columns}\">{heading}</th></tr>{rows}</tbody>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well_and_survive_what_is_not_finite() {
        assert_eq!(
            (percent(0.734), percent(f64::NAN)),
            ("73.4".into(), "–".into())
        );
        assert_eq!(
            (distance(1.9444), distance(f64::INFINITY)),
            ("1.94".into(), "∞".into())
        );
        assert_eq!(
            (distance(f64::MAX), distance(123_456.0)),
            ("1.8e308".into(), "123456".into())
        );
        assert_eq!(
            (budget(0.1 + 0.2), budget(8.0 / 255.0), budget(1.0)),
            ("0.3".into(), "0.0314".into(), "1".into())
        );
        assert_eq!(
            (count(1_234_567), count(12)),
            ("1,234,567".into(), "12".into())
        );
        assert_eq!(listed(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(
            (shorten("short", 5), shorten("modality-of-the-left", 9)),
            ("short".into(), "moda…left".into())
        );
    }

    #[test]
    fn escaping_leaves_no_markup() {
        assert_eq!(escape("a\u{202e}b\u{2066}שלום"), "a\u{fffd}b\u{fffd}שלום");
        assert_eq!(
            escape("<a b='c'>&\"\u{7}"),
            "&lt;a b=&#39;c&#39;&gt;&amp;&quot;\u{fffd}"
        );
    }
}
