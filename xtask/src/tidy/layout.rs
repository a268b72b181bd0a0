//! Where things are: what may stand at the root, how members are declared, and that no file names a
//! place that only one machine has. Knows nothing of what the files are for.
use super::problem::Problem;
use super::tree::{Member, Tree, line_of};

/// All that may stand at the root.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "crates",
    "datasets",
    "docs",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "xtask",
];

/// Folders that are somebody's; written apart from their slashes so that this file passes.
const MACHINE: &[&str] = &["work", "tmp", "root", "home", "Users"];

/// How near to a path outside the repository the variable that overrides it must be named, in
/// lines.
const NEAR: usize = 3;

/// Checks the layout.
pub fn check(tree: &Tree, members: &[Member]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in tree.top.iter().filter(|name| !TOP.contains(&name.as_str())) {
        problems.push(Problem::new(
            name,
            1,
            format!("{name} stands at the root"),
            "move it into docs/, crates/ or xtask/, or ignore it",
        ));
    }
    problems.extend(profiles(tree, members));
    for member in members {
        problems.extend(manifest(member));
    }
    for (path, text) in tree.files.iter().filter(|(path, _)| *path != "Cargo.lock") {
        problems.extend(places(path, text));
    }
    problems
}

fn profiles(tree: &Tree, members: &[Member]) -> Vec<Problem> {
    let text = tree.text("Cargo.toml");
    let root: toml::Table = text.parse().unwrap_or_default();
    let profiles = root
        .get("profile")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flatten();
    let packages = profiles
        .filter_map(|(_, profile)| profile.get("package")?.as_table())
        .flatten();
    let unknown = packages.filter(|(name, _)| {
        *name != "*" && name.starts_with("crmt") && !members.iter().any(|m| m.name == **name)
    });
    unknown
        .map(|(name, _)| {
            let line = line_of(text, &format!(".package.{name}]"));
            Problem::new(
                "Cargo.toml",
                line,
                format!("a profile for {name}, which is no member"),
                "correct the name",
            )
        })
        .collect()
}

fn manifest(member: &Member) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |line, what: String, fix: &str| {
        problems.push(Problem::new(member.manifest_path(), line, what, fix))
    };
    let manifest: toml::Table = member.manifest.parse().unwrap_or_default();
    if member.folder.rsplit('/').next() != Some(&member.name) {
        add(
            line_of(&member.manifest, "name"),
            format!("the package {} is in {}", member.name, member.folder),
            "give both one name",
        );
    }
    if manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(toml::Value::as_bool)
        != Some(true)
    {
        add(
            1,
            "the workspace's lints are not inherited".into(),
            "add [lints] workspace = true",
        );
    }
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        let inherited = manifest
            .get("package")
            .and_then(|package| package.get(key)?.get("workspace")?.as_bool());
        if inherited != Some(true) {
            add(
                line_of(&member.manifest, key),
                format!("package.{key} is not inherited"),
                "write key.workspace = true",
            );
        }
    }
    if manifest.contains_key("profile") {
        add(
            line_of(&member.manifest, "[profile"),
            "a profile in a member, which cargo ignores".into(),
            "move it to the root",
        );
    }
    problems
}

/// Absolute paths of some machine, and paths outside the repository that no variable overrides.
fn places(path: &str, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        for folder in MACHINE {
            let place = format!("/{folder}/");
            let own = line
                .match_indices(&place)
                .any(|(at, _)| starts_path(&line[..at]));
            if own {
                problems.push(Problem::new(
                    path,
                    index + 1,
                    format!("{place} is a folder of one machine"),
                    "use a relative path or a variable",
                ));
            }
        }
        let outside = concat!("..", "/shared");
        let around = &lines[index.saturating_sub(NEAR)..(index + NEAR + 1).min(lines.len())];
        if line.contains(outside) && !around.iter().any(|line| line.contains("CRMT_DATA")) {
            problems.push(Problem::new(
                path,
                index + 1,
                format!("{outside} is outside the repository"),
                "read CRMT_DATA, with this as its default only",
            ));
        }
    }
    problems
}

/// Whether a path may begin after `before`: not in the middle of a longer one or of a URL.
fn starts_path(before: &str) -> bool {
    !before.ends_with(|c: char| {
        c.is_alphanumeric()
            || matches!(c, '.' | '_' | '-' | '~' | '/' | ':' | '}' | ')' | '>' | '*')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[package]\nname = \"a\"\nversion.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n\
        license.workspace = true\npublish.workspace = true\n[lints]\nworkspace = true\n";

    fn found(top: &str, root: &str, manifest: &str, page: &str) -> Vec<String> {
        let files = [("Cargo.toml", root), ("docs/x.md", page)];
        let files = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect();
        let tree = Tree {
            files,
            top: vec!["docs".into(), top.into()],
            ..Tree::default()
        };
        let member = Member {
            name: "a".into(),
            folder: "crates/a".into(),
            manifest: manifest.into(),
            ..Member::default()
        };
        check(&tree, &[member])
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_good_layout_passes() {
        let root = "[profile.dev.package.\"*\"]\nopt-level = 3\n";
        let page = "see https://example.org/work/x, $HOME/.cache, a/tmp/b and ~/x\nCRMT_DATA (default\n../shared/data)";
        assert_eq!(found("crates", root, MANIFEST, page), [""; 0]);
    }

    #[test]
    fn each_breach_is_named() {
        let profile = "\n[profile.dev.package.crmt-gone]\nopt-level = 3\n";
        let slash = |name: &str| format!("\nopen `/{name}/x`");
        for (problems, says) in [
            (
                found("notes.txt", "", MANIFEST, ""),
                "notes.txt:1: notes.txt stands at the root",
            ),
            (
                found("docs", profile, MANIFEST, ""),
                "Cargo.toml:2: a profile for crmt-gone",
            ),
            (
                found(
                    "docs",
                    "",
                    &MANIFEST
                        .replace("\"a\"", "\"b\"")
                        .replace("[lints]", "[lint]"),
                    "",
                ),
                "lints are not inherited",
            ),
            (
                found(
                    "docs",
                    "",
                    &MANIFEST.replace("edition.workspace = true", "edition = \"2021\""),
                    "",
                ),
                ":4: package.edition",
            ),
            (
                found(
                    "docs",
                    "",
                    &format!("{MANIFEST}[profile.dev]\nopt-level = 1\n"),
                    "",
                ),
                ":10: a profile in a member",
            ),
            (
                found("docs", "", MANIFEST, &slash("work")),
                "docs/x.md:2: /work",
            ),
            (
                found("docs", "", MANIFEST, &slash("home")),
                "is a folder of one machine",
            ),
            (
                found("docs", "", MANIFEST, concat!("\n\n..", "/shared/data")),
                "is outside the repository",
            ),
        ] {
            assert!(
                problems.len() == 1 && problems[0].contains(says),
                "{says}: {problems:?}"
            );
        }
    }

    #[test]
    fn a_package_has_its_folders_name() {
        let member = Member {
            name: "b".into(),
            folder: "crates/a".into(),
            manifest: MANIFEST.into(),
            ..Member::default()
        };
        let problems = manifest(&member);
        assert!(
            problems.len() == 1 && problems[0].what.contains("the package b is in crates/a"),
            "{problems:?}"
        );
    }
}
