//! Relative links in Markdown: the file exists, and so does the heading. Looks at no other host.
use super::problem::Problem;
use super::tree::Tree;

/// Checks every Markdown file.
pub fn check(tree: &Tree) -> Vec<Problem> {
    let pages = tree.files.iter().filter(|(path, _)| path.ends_with(".md"));
    pages
        .flat_map(|(path, text)| page(tree, path, text))
        .collect()
}

fn page(tree: &Tree, path: &str, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (line, target) in links(text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (file, heading) = target
            .split_once('#')
            .map_or((target, None), |(file, heading)| (file, Some(heading)));
        let wanted = if file.is_empty() {
            Some(path.to_owned())
        } else {
            resolve(path, file)
        };
        let Some(wanted) =
            wanted.filter(|wanted| tree.paths.contains(wanted) || tree.files.contains_key(wanted))
        else {
            problems.push(Problem::new(
                path,
                line,
                format!("the link {target} leads nowhere"),
                "correct the path",
            ));
            continue;
        };
        if let Some(heading) = heading
            && wanted.ends_with(".md")
            && !headings(tree.text(&wanted)).any(|slug| slug == heading)
        {
            problems.push(Problem::new(
                path,
                line,
                format!("{wanted} has no heading #{heading}"),
                "correct the anchor",
            ));
        }
    }
    problems
}

/// The targets of `[text](target)` and `[name]: target` outside code, with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (line, text) in prose(text) {
        if text.starts_with('[')
            && let Some((_, target)) = text.split_once("]: ")
        {
            found.extend(
                target
                    .split_whitespace()
                    .next()
                    .map(|target| (line, target)),
            );
        }
        let mut code = false;
        for (at, c) in text.char_indices() {
            code ^= c == '`';
            if !code
                && let Some(rest) = text[at..].strip_prefix("](")
                && let Some((target, _)) = rest.split_once(')')
            {
                found.extend(
                    target
                        .split_whitespace()
                        .next()
                        .map(|target| (line, target)),
                );
            }
        }
    }
    found
}

/// The lines outside fenced blocks, from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// Anchors as GitHub makes them: lower case, blanks to `-`, punctuation dropped.
fn headings(text: &str) -> impl Iterator<Item = String> {
    prose(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
}

/// `target` seen from the page at `from`; none if it leaves the repository.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let files = [
            ("docs/a.md", text),
            (
                "README.md",
                "# Read me: `first`, then\n```\n# no heading\n```\n",
            ),
        ];
        let files = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect();
        let paths = ["docs".to_owned(), "crates/x/src/lib.rs".to_owned()].into();
        check(&Tree {
            files,
            paths,
            ..Tree::default()
        })
        .iter()
        .map(ToString::to_string)
        .collect()
    }

    #[test]
    fn good_links_pass() {
        let good = "# A\n[r](../README.md), [h](../README.md#read-me-first-then \"t\") [s](#a)\n[l](../crates/x/src/lib.rs#L3)\
            [d](./) [w](https://example.org/x)\n`[c](nowhere)`\n```\n[c](nowhere)\n```\n[x]: ../README.md\n";
        assert_eq!(found(good), [""; 0]);
    }

    #[test]
    fn dead_links_are_named() {
        for (text, says) in [
            (
                "\n[r](README.md)",
                "docs/a.md:2: the link README.md leads nowhere",
            ),
            (
                "\n[r](../../README.md)",
                "a.md:2: the link ../../README.md leads nowhere",
            ),
            ("\n[x]: gone.md", "a.md:2: the link gone.md"),
            (
                "\n[h](../README.md#no-heading)",
                "README.md has no heading #no-heading",
            ),
            ("\nsee `x` and [h](#b)", "docs/a.md has no heading #b"),
        ] {
            let problems = found(text);
            assert!(
                problems.len() == 1 && problems[0].contains(says),
                "{problems:?}"
            );
        }
    }
}
