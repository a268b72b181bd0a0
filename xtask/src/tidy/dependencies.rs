//! Dependencies: each has one place (the root's table), one line of justification
//! (docs/dependencies.md) and a user. Knows names only; versions are cargo's business.
use super::problem::Problem;
use super::tree::{Member, Tree, line_of};
use cargo_metadata::DependencyKind;
use std::collections::BTreeSet;

const TABLE: &str = "Cargo.toml";
const REASONS: &str = "docs/dependencies.md";

/// Checks the table, the reasons and the users against each other.
pub fn check(tree: &Tree, members: &[Member]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let root: toml::Table = match tree.text(TABLE).parse() {
        Ok(root) => root,
        Err(error) => {
            return vec![Problem::new(
                TABLE,
                1,
                format!("not TOML: {error}"),
                "correct it",
            )];
        }
    };
    let declared = root
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies"))
        .and_then(toml::Value::as_table);
    let declared: BTreeSet<&str> = declared
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    let ours: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let used: BTreeSet<&str> = members
        .iter()
        .flat_map(|member| &member.dependencies)
        .map(|d| d.name.as_str())
        .collect();
    let reasons: Vec<(usize, &str)> = tree
        .text(REASONS)
        .lines()
        .enumerate()
        .filter_map(|(i, line)| Some((i + 1, subject(line)?)))
        .collect();

    for &name in declared.difference(&ours) {
        let line = line_of(tree.text(TABLE), &format!("\n{name} = ").replace('\n', ""));
        if !reasons.iter().any(|(_, reason)| *reason == name) {
            problems.push(Problem::new(
                TABLE,
                line,
                format!("{name} has no line in {REASONS}"),
                format!("add: - `{name}`: what for, why this one"),
            ));
        }
        if !used.contains(name) {
            problems.push(Problem::new(
                TABLE,
                line,
                format!("no package uses {name}"),
                "take it out of the table",
            ));
        }
    }
    for (index, (line, name)) in reasons.iter().enumerate() {
        if !declared.contains(name) {
            problems.push(Problem::new(
                REASONS,
                *line,
                format!("{name} is not in the root's table"),
                "take the line out",
            ));
        } else if reasons[..index].iter().any(|(_, earlier)| earlier == name) {
            problems.push(Problem::new(
                REASONS,
                *line,
                format!("{name} has two lines"),
                "keep one",
            ));
        }
    }
    for member in members {
        problems.extend(inherits(member));
        problems.extend(unused(tree, member));
    }
    problems
}

/// The dependency a line of [`REASONS`] is about: `` - `name`: … ``.
fn subject(line: &str) -> Option<&str> {
    line.strip_prefix("- `")?
        .split_once("`:")
        .map(|(name, _)| name)
}

/// Versions and features are said once, in the root's table.
fn inherits(member: &Member) -> Vec<Problem> {
    let manifest: toml::Table = member.manifest.parse().unwrap_or_default();
    let mut problems = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (name, value) in manifest
            .get(section)
            .and_then(toml::Value::as_table)
            .into_iter()
            .flatten()
        {
            if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                let what = format!("{name} has a version of its own");
                let fix = "move it to [workspace.dependencies] and write name.workspace = true";
                problems.push(Problem::new(
                    member.manifest_path(),
                    member.line(name),
                    what,
                    fix,
                ));
            }
        }
    }
    problems
}

/// A dependency that no code of the package names, or only its tests.
fn unused(tree: &Tree, member: &Member) -> Vec<Problem> {
    let folder = format!("{}/", member.folder);
    let sources: Vec<_> = tree
        .sources
        .iter()
        .filter(|source| source.path.starts_with(&folder))
        .collect();
    let mut problems = Vec::new();
    for dependency in &member.dependencies {
        let mentions = || {
            sources
                .iter()
                .flat_map(|source| &source.tokens)
                .filter(|token| token.text == dependency.ident)
        };
        // Doctests see dev-dependencies too, and they are comments.
        let documented = || {
            sources
                .iter()
                .flat_map(|source| &source.lines)
                .any(|line| line.contains(&format!("{}::", dependency.ident)))
        };
        let normal = dependency.kind == DependencyKind::Normal;
        let fix = match (normal, mentions().next().is_some()) {
            (true, true) if mentions().all(|token| token.test) => "move it to [dev-dependencies]",
            (_, true) => continue,
            (false, false) if documented() => continue,
            _ => "take it out of the manifest",
        };
        let what = if fix.starts_with("move") {
            "only tests use"
        } else {
            "nothing uses"
        };
        problems.push(Problem::new(
            member.manifest_path(),
            member.line(&dependency.name),
            format!("{what} {}", dependency.name),
            fix,
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::tree::Dependency;
    use super::*;

    /// One package `a` that declares `rand` (normal) and `proptest` (dev).
    fn found(table: &str, reasons: &str, manifest: &str, source: &str) -> Vec<String> {
        let files = [
            (TABLE, table),
            (REASONS, reasons),
            ("crates/a/src/lib.rs", source),
        ];
        let files = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect();
        let declared = |name: &str, kind| Dependency {
            name: name.to_owned(),
            ident: name.to_owned(),
            kind,
        };
        let dependencies = vec![
            declared("rand", DependencyKind::Normal),
            declared("proptest", DependencyKind::Development),
        ];
        let member = Member {
            name: "a".into(),
            folder: "crates/a".into(),
            manifest: manifest.into(),
            dependencies,
        };
        let mut tree = Tree {
            files,
            ..Tree::default()
        };
        tree.lex();
        check(&tree, &[member])
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    const BOTH: &str =
        "[workspace.dependencies]\na = { path = \"a\" }\nproptest = \"1\"\nrand = \"0.9\"\n";
    const REASON: &str = "- `rand`: randomness.\n- `proptest`: properties.\n";
    const MANIFEST: &str =
        "[dependencies]\nrand.workspace = true\n[dev-dependencies]\nproptest.workspace = true\n";
    const SOURCE: &str = "use rand::Rng;\n#[cfg(test)]\nmod tests { use proptest::x; }\n";

    #[test]
    fn agreement_passes() {
        assert_eq!(found(BOTH, REASON, MANIFEST, SOURCE), [""; 0]);
        assert_eq!(
            found(BOTH, REASON, MANIFEST, "//! proptest::x\nuse rand::Rng;"),
            [""; 0],
            "doctests use too"
        );
    }

    #[test]
    fn each_disagreement_is_named() {
        let more = format!("{BOTH}gone = \"1\"\n");
        let case = |found: Vec<String>, says: &[&str]| {
            assert_eq!(found.len(), says.len(), "{found:?}");
            assert!(
                found
                    .iter()
                    .zip(says)
                    .all(|(problem, says)| problem.contains(says)),
                "{found:?}"
            );
        };
        case(
            found(&more, REASON, MANIFEST, SOURCE),
            &[
                "Cargo.toml:5: gone has no line",
                "Cargo.toml:5: no package uses gone",
            ],
        );
        case(
            found(BOTH, "- `rand`: r.\n", MANIFEST, SOURCE),
            &["proptest has no line"],
        );
        case(
            found(BOTH, &format!("{REASON}- `old`: x.\n"), MANIFEST, SOURCE),
            &["dependencies.md:3: old is not in"],
        );
        case(
            found(BOTH, &format!("{REASON}- `rand`: x.\n"), MANIFEST, SOURCE),
            &["dependencies.md:3: rand has two"],
        );
        let own = MANIFEST.replace("rand.workspace = true", "rand = \"0.8\"");
        case(
            found(BOTH, REASON, &own, SOURCE),
            &["Cargo.toml:2: rand has a version of its own"],
        );
        case(
            found(
                BOTH,
                REASON,
                MANIFEST,
                "#[test] fn f() { rand::x(proptest) }",
            ),
            &["only tests use rand"],
        );
        case(
            found(BOTH, REASON, MANIFEST, "// rand::x"),
            &["nothing uses rand", "nothing uses proptest"],
        );
        case(found("[", REASON, MANIFEST, SOURCE), &["not TOML"]);
    }
}
