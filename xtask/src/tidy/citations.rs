//! Theorems and golden cases by number: what a source cites, `docs/theorems.md` states. Does not
//! know mathematics.
use super::problem::Problem;
use super::source::Source;
use super::tree::Tree;
use std::collections::BTreeSet;

/// Where they are stated, each under a heading `### T9: …`.
const STATED: &str = "docs/theorems.md";

/// Checks the comments of every file, and names such as `g5_nonlinear`.
pub fn check(tree: &Tree) -> Vec<Problem> {
    let stated = stated(tree.text(STATED));
    tree.sources
        .iter()
        .flat_map(|source| of_file(source, &stated))
        .collect()
}

fn stated(page: &str) -> BTreeSet<&str> {
    let headings = page.lines().filter_map(|line| line.strip_prefix("### "));
    headings
        .filter_map(|heading| heading.split(':').next())
        .collect()
}

fn of_file(source: &Source, stated: &BTreeSet<&str>) -> Vec<Problem> {
    let comments = source.lines.iter().enumerate().filter_map(|(i, line)| {
        let (_, comment) = line.split_once("//")?;
        Some((i + 1, comment))
    });
    let in_comments = comments.flat_map(|(line, comment)| {
        comment
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| is_number(word))
            .map(move |word| (line, word.to_owned()))
    });
    let in_names = source.tokens.iter().filter_map(|token| {
        let (first, _) = token.text.split_once('_')?;
        let cited = first.to_uppercase();
        (first.starts_with('g') && is_number(&cited)).then_some((token.line, cited))
    });
    let unknown = in_comments
        .chain(in_names)
        .filter(|(_, cited)| !stated.contains(cited.as_str()));
    unknown
        .map(|(line, cited)| {
            let what = format!("{cited} is cited, and {STATED} has no heading `### {cited}: …`");
            Problem::new(
                &source.path,
                line,
                what,
                "state it there, or say it in words here",
            )
        })
        .collect()
}

/// `T9`, `T12b`, `G1`: at most two digits.
fn is_number(word: &str) -> bool {
    let Some(rest) = word.strip_prefix(['T', 'G']) else {
        return false;
    };
    let digits = rest.strip_suffix('b').unwrap_or(rest);
    (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cited_is_stated() {
        let stated = stated("# T1: no\n### T9: missing modalities\n\n### G5: tanh\n");
        let found = |text: &str| -> Vec<String> {
            of_file(&Source::new("src/x.rs", text), &stated)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(
            found("/// Of theorem T9 (T9), in GB and T100.\nfn g5_nonlinear<T1>() {}"),
            [""; 0]
        );
        let problems = found("//! T12b\nfn f() {} // see G5 and T1\nfn g6_gradients() {}");
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(
            problems[0].contains("src/x.rs:1: T12b is cited"),
            "{problems:?}"
        );
        assert!(
            problems[1].contains("src/x.rs:2: T1 is cited"),
            "{problems:?}"
        );
        assert!(
            problems[2].contains("src/x.rs:3: G6 is cited"),
            "{problems:?}"
        );
    }
}
