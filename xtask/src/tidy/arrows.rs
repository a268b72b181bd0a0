//! Which of our crates may depend on which, and what the libraries may take from outside. The table
//! is docs/architecture.md's; knows manifests only.
use super::problem::Problem;
use super::tree::{Member, Tree};
use cargo_metadata::DependencyKind;
use std::collections::BTreeSet;

/// The map of crates that people read.
const MAP: &str = "docs/architecture.md";

/// What a library may depend on.
struct Room {
    name: &'static str,
    /// Of our crates.
    ours: &'static [&'static str],
    /// From outside; `None` where anything but [`OUTER`] goes.
    outside: Option<&'static [&'static str]>,
}

/// The libraries, inner before outer. Attacks and certificates must work on any candle model, so
/// they and the vocabulary they share take as little from outside as they can.
const ROOMS: &[Room] = &[
    Room {
        name: "crmt-core",
        ours: &[],
        outside: Some(&["candle-core", "rand", "rand_chacha", "thiserror"]),
    },
    Room {
        name: "crmt-kernels",
        ours: &[],
        outside: None,
    },
    Room {
        name: "crmt-data",
        ours: &["crmt-core"],
        outside: None,
    },
    Room {
        name: "crmt-encoders",
        ours: &["crmt-core", "crmt-kernels"],
        outside: None,
    },
    Room {
        name: "crmt-fusion",
        ours: &["crmt-core", "crmt-kernels"],
        outside: None,
    },
    Room {
        name: "crmt-certify",
        ours: &["crmt-core"],
        outside: Some(&["candle-core", "rand", "rand_distr", "statrs", "thiserror"]),
    },
    Room {
        name: "crmt-attacks",
        ours: &["crmt-core"],
        outside: Some(&["candle-core", "rand", "rand_distr", "rayon", "thiserror"]),
    },
    Room {
        name: "crmt-train",
        ours: &["crmt-core", "crmt-certify", "crmt-attacks", "crmt-kernels"],
        outside: None,
    },
];

/// Our packages that are no library: the driver takes all of them, chores only what data speaks.
const CHORES: (&str, &[&str]) = ("xtask", &["crmt-core", "crmt-data"]);
const DRIVER: &str = "crmt-driver";

/// Only programs take these.
const OUTER: &[&str] = &["anyhow", "clap"];

/// Whether `name` is one of our libraries.
pub fn is_library(name: &str) -> bool {
    ROOMS.iter().any(|room| room.name == name)
}

/// Checks every arrow, and that [`MAP`] draws the same ones.
pub fn check(tree: &Tree, members: &[Member]) -> Vec<Problem> {
    let mut problems = map_problems(tree.text(MAP));
    problems.extend(
        members
            .iter()
            .flat_map(|member| member_problems(member, members)),
    );
    problems
}

/// The rows `| [crmt-x](…) | … | core, kernels | … |` of the map against [`ROOMS`].
fn map_problems(map: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for room in ROOMS {
        let row = map
            .lines()
            .enumerate()
            .find(|(_, line)| line.starts_with(&format!("| [{}]", room.name)));
        let Some((index, row)) = row else {
            let fix = "add its row: crate, what it knows, what of ours it depends on";
            problems.push(Problem::new(
                MAP,
                1,
                format!("{} is not on the map", room.name),
                fix,
            ));
            continue;
        };
        let drawn: BTreeSet<String> = row
            .split('|')
            .nth(3)
            .unwrap_or_default()
            .split(',')
            .map(|name| format!("crmt-{}", name.trim()))
            .collect();
        let ours: BTreeSet<String> = if room.ours.is_empty() {
            ["crmt-–".to_owned()].into()
        } else {
            room.ours.iter().map(|name| (*name).to_owned()).collect()
        };
        if drawn != ours {
            let what = format!(
                "the map draws other arrows from {} than xtask/src/tidy/arrows.rs",
                room.name
            );
            problems.push(Problem::new(MAP, index + 1, what, "make both say the same"));
        }
    }
    problems
}

fn member_problems(member: &Member, members: &[Member]) -> Vec<Problem> {
    let problem = |dependency: &str, what: String, fix: &str| {
        Problem::new(member.manifest_path(), member.line(dependency), what, fix)
    };
    let name = member.name.as_str();
    let room = ROOMS.iter().find(|room| room.name == name);
    if room.is_none() && name != DRIVER && name != CHORES.0 {
        return vec![problem(
            "name",
            format!("{name} has no place in the table of crates"),
            "give it a row in xtask/src/tidy/arrows.rs and docs/architecture.md",
        )];
    }
    let mut problems = Vec::new();
    for dependency in &member.dependencies {
        let other = dependency.name.as_str();
        if matches!(
            (name, other),
            ("crmt-certify", "crmt-attacks") | ("crmt-attacks", "crmt-certify")
        ) {
            let what = format!("{name} knows {other}: each is the other's referee");
            problems.push(problem(
                other,
                what,
                "test both together in crates/crmt-driver/tests",
            ));
            continue;
        }
        if dependency.kind == DependencyKind::Development {
            continue;
        }
        if members.iter().any(|member| member.name == other) {
            let may = match room {
                Some(room) => room.ours.contains(&other),
                None if name == DRIVER => is_library(other),
                None => CHORES.1.contains(&other),
            };
            if !may {
                let what = format!("{name} may not depend on {other}");
                problems.push(problem(
                    other,
                    what,
                    "move what it needs inwards, or pass it in from the driver",
                ));
            }
        } else if let Some(room) = room {
            if OUTER.contains(&other) {
                let what = format!(
                    "{other} in {name}: libraries have small error enums and no command line"
                );
                problems.push(problem(
                    other,
                    what,
                    "use thiserror here and keep it to crmt-driver and xtask",
                ));
            } else if room
                .outside
                .is_some_and(|outside| !outside.contains(&other))
            {
                let what = format!(
                    "{name} takes {other} from outside, which its row in the table does not list"
                );
                problems.push(problem(
                    other,
                    what,
                    "do without it, or argue for it in docs/architecture.md and list it",
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::tree::Dependency;
    use super::*;

    fn member(name: &str, dependencies: &[(&str, DependencyKind)]) -> Member {
        let declared = |(name, kind): &(&str, DependencyKind)| Dependency {
            name: (*name).to_owned(),
            ident: name.replace('-', "_"),
            kind: *kind,
        };
        let manifest = dependencies
            .iter()
            .map(|(name, _)| format!("{name}.workspace = true\n"))
            .collect();
        let dependencies = dependencies.iter().map(declared).collect();
        Member {
            name: name.to_owned(),
            folder: format!("crates/{name}"),
            manifest,
            dependencies,
        }
    }

    fn found(name: &str, dependencies: &[(&str, DependencyKind)]) -> Vec<String> {
        let mut members: Vec<Member> = ROOMS
            .iter()
            .filter(|room| room.name != name)
            .map(|room| member(room.name, &[]))
            .collect();
        members.push(member(name, dependencies));
        members
            .iter()
            .flat_map(|member| member_problems(member, &members))
            .map(|problem| problem.to_string())
            .collect()
    }

    #[test]
    fn the_map_must_draw_the_same_arrows() {
        let row = |room: &Room| {
            let ours: Vec<&str> = room
                .ours
                .iter()
                .map(|name| name.trim_start_matches("crmt-"))
                .collect();
            let ours = if ours.is_empty() {
                "–".to_owned()
            } else {
                ours.join(", ")
            };
            format!("| [{}](../crates) | much | {ours} | little |\n", room.name)
        };
        let map: String = ROOMS.iter().map(row).collect();
        assert_eq!(map_problems(&map), []);
        let wrong = map
            .replace("core, certify, attacks, kernels", "core, kernels")
            .replace("[crmt-data]", "[data]");
        let problems: Vec<String> = map_problems(&wrong)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(
            problems[0].contains("crmt-data is not on the map"),
            "{problems:?}"
        );
        assert!(
            problems[1].contains("architecture.md:8: the map draws other arrows from crmt-train"),
            "{problems:?}"
        );
    }

    #[test]
    fn arrows_of_the_table_pass() {
        use DependencyKind::{Development, Normal};
        assert_eq!(
            found("crmt-core", &[("rand", Normal), ("thiserror", Normal)]),
            [""; 0]
        );
        assert_eq!(
            found(
                "crmt-train",
                &[("crmt-certify", Normal), ("crmt-attacks", Normal)]
            ),
            [""; 0]
        );
        assert_eq!(
            found("crmt-driver", &[("crmt-train", Normal), ("anyhow", Normal)]),
            [""; 0]
        );
        assert_eq!(
            found("crmt-fusion", &[("crmt-encoders", Development)]),
            [""; 0]
        );
        assert_eq!(
            found("xtask", &[("crmt-data", Normal), ("clap", Normal)]),
            [""; 0]
        );
    }

    #[test]
    fn every_wrong_arrow_is_named() {
        use DependencyKind::{Build, Development, Normal};
        for (name, dependency, kind, says) in [
            (
                "crmt-fusion",
                "crmt-encoders",
                Normal,
                "crmt-fusion may not depend on crmt-encoders",
            ),
            ("crmt-core", "crmt-kernels", Build, "may not depend on"),
            ("crmt-certify", "crmt-attacks", Development, "referee"),
            ("crmt-attacks", "crmt-certify", Development, "referee"),
            ("crmt-data", "anyhow", Normal, "anyhow in crmt-data"),
            ("crmt-train", "clap", Normal, "clap in crmt-train"),
            (
                "crmt-certify",
                "candle-nn",
                Normal,
                "takes candle-nn from outside",
            ),
            (
                "xtask",
                "crmt-train",
                Normal,
                "xtask may not depend on crmt-train",
            ),
            ("crmt-new", "thiserror", Normal, "no place in the table"),
        ] {
            let problems = found(name, &[("first", Development), (dependency, kind)]);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(says), "{problems:?}");
            assert!(
                name == "crmt-new" || problems[0].contains("Cargo.toml:2:"),
                "{problems:?}"
            );
        }
    }
}
