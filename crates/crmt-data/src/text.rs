//! Text that others wrote, before it is shown or becomes a name: no character may act instead of
//! being seen. Does not know what the text is.
use unicode_normalization::UnicodeNormalization;

/// Names of data sets and classes are not longer, in characters.
const LONGEST: usize = 200;

/// Whether a terminal or a browser obeys the character instead of showing it: controls, changes of
/// direction, breaks of lines, marks without a width. Joiners are letters of some scripts.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The same with such characters spelt out, e.g. `\u{1b}`.
pub fn visible(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, c| {
            if acts(c) {
                out.extend(c.escape_unicode())
            } else {
                out.push(c)
            }
            out
        })
}

/// Text may be written on several lines, and is shown on one.
pub(crate) fn on_one_line(text: &str) -> String {
    visible(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What is wrong with a name, if anything is.
pub(crate) fn name_problem(name: &str) -> Option<String> {
    if name.trim().is_empty() {
        return Some("a name is empty".into());
    }
    if let Some(c) = name.chars().find(|c| acts(*c)) {
        return Some(format!(
            "`{}` holds the character {}, which can't be seen",
            visible(name),
            c.escape_unicode()
        ));
    }
    let length = name.chars().count();
    (length > LONGEST)
        .then(|| format!("a name of {length} characters; at most {LONGEST} are allowed"))
}

/// The first of `names` that looks like an earlier one to whom `key` makes look alike.
pub(crate) fn twice<'a>(names: &[&'a str], key: impl Fn(&str) -> String) -> Option<&'a str> {
    let mut seen = std::collections::BTreeSet::new();
    names.iter().find(|name| !seen.insert(key(name))).copied()
}

/// One spelling of all that are written with other code points but look the same.
pub(crate) fn normalised(name: &str) -> String {
    name.nfc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_spelt_out() {
        assert_eq!(
            visible("a\u{1b}[31m\n\u{202e}é日"),
            "a\\u{1b}[31m\\u{a}\\u{202e}é日"
        );
        assert_eq!(on_one_line(" two\n  lines\t\u{7} "), "two lines \\u{7}");
        assert_eq!(name_problem("Katze 🐈‍⬛"), None);
        assert!(name_problem(" ").is_some() && name_problem(&"x".repeat(201)).is_some());
        assert!(name_problem("a\u{2066}b").is_some_and(|p| p.contains("\\u{2066}")));
    }

    #[test]
    fn spellings_of_one_name_are_one() {
        assert_eq!(
            twice(&["e\u{301}", "e", "\u{e9}"], normalised),
            Some("\u{e9}")
        );
        assert_eq!(twice(&["a", "A"], normalised), None);
    }
}
