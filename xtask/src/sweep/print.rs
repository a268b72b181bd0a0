//! Text as it may be printed: what breaks or hides a line is told from plain text, and escaped for
//! the terminal, Markdown and LaTeX. Knows no table.

/// Whether a character leaves the line as it is: neither a control character, nor a line separator,
/// nor one that turns the direction of what follows.
pub fn printable(c: char) -> bool {
    let separates = matches!(c, '\u{2028}' | '\u{2029}');
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !(c.is_control() || separates || turns)
}

/// With `\n` and `\u{1b}` in the place of what is not [`printable`].
pub fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| {
            if printable(c) {
                c.to_string()
            } else {
                c.escape_default().to_string()
            }
        })
        .collect()
}

/// A line of Markdown of its own that means itself: no heading, item or quotation.
pub fn paragraph(text: &str) -> String {
    let starts = text.starts_with(['#', '-', '+', '>', '=']);
    format!("{}{}", if starts { "\\" } else { "" }, markdown(text))
}

/// Text in a Markdown table that means itself.
pub fn markdown(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut escaped = String::new();
    for (index, &c) in chars.iter().enumerate() {
        let word = |index: Option<usize>| {
            index
                .and_then(|i| chars.get(i))
                .is_some_and(|c| c.is_alphanumeric())
        };
        let special = match c {
            '\\' | '|' | '`' | '*' | '<' => true,
            // Within a word it is a letter.
            '_' => !(word(index.checked_sub(1)) && word(Some(index + 1))),
            _ => false,
        };
        if special {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Text in LaTeX that means itself.
pub fn latex(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '±' => escaped += "$\\pm$",
            '≥' => escaped += "$\\geq$",
            '→' => escaped += "$\\to$",
            '–' => escaped += "--",
            '\\' => escaped += "\\textbackslash{}",
            '~' => escaped += "\\textasciitilde{}",
            '^' => escaped += "\\textasciicircum{}",
            '<' => escaped += "\\textless{}",
            '>' => escaped += "\\textgreater{}",
            '|' => escaped += "\\textbar{}",
            // After the end of a row these two would be its arguments.
            '[' | ']' | '*' => escaped.extend(['{', c, '}']),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_lines() {
        assert_eq!(
            escaped("a\nb\u{1b}[0m \u{202e}c"),
            "a\\nb\\u{1b}[0m \\u{202e}c"
        );
        assert_eq!(escaped("Löwe, 狮子 ± 5 %"), "Löwe, 狮子 ± 5 %");
    }

    #[test]
    fn markdown_means_itself() {
        assert_eq!(
            markdown("a|b\\|c *d* `e` <f>"),
            "a\\|b\\\\\\|c \\*d\\* \\`e\\` \\<f>"
        );
        assert_eq!(markdown("a_b _c_ 50.0 ± 0.1 -"), "a_b \\_c\\_ 50.0 ± 0.1 -");
        assert_eq!([paragraph("# a"), paragraph("a # b")], ["\\# a", "a # b"]);
    }

    #[test]
    fn latex_means_itself() {
        assert_eq!(
            latex("a_b 5% – {x}~"),
            "a\\_b 5\\% -- \\{x\\}\\textasciitilde{}"
        );
        assert_eq!(latex("[\"a\"] *"), "{[}\"a\"{]} {*}");
        assert_eq!(
            latex("\\end{document}"),
            "\\textbackslash{}end\\{document\\}"
        );
    }
}
