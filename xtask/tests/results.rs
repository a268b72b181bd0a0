//! `cargo xtask results`: the pages of this repository, and of a small one made for the purpose
//! with a history of its own.
#![cfg(unix)]

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn xtask(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("results").args(arguments);
    command
}

#[test]
fn the_published_tables_say_what_made_them_and_are_what_the_sweeps_wrote() {
    xtask(&["--check"])
        .assert()
        .success()
        .stdout(contains("every table says what made it"));
}

const TABLE: &str = "| method | n | certified 1.0 |\n|---|--:|--:|\n| jt | 1 | 50.0 |\n";

/// A repository with a sweep, its table, and code that can change numbers.
struct Repository(TempDir);

impl Repository {
    fn new() -> Self {
        let repository = Self(tempfile::tempdir().expect("a scratch folder"));
        repository.git(&["init", "--quiet"]);
        repository.write("crates/crmt-core/src/lib.rs", "1");
        repository.write("crates/crmt-driver/src/report/mod.rs", "1");
        repository.write("xtask/Cargo.toml", "");
        repository.write(
            "docs/sweeps/s.toml",
            "name = \"s\"\n[grid]\nmethod = [\"jt\"]\nseed = [0]\n",
        );
        repository.write("docs/sweeps/tables/s.md", TABLE);
        repository.commit("the code");
        let commit = repository.head();
        repository.write(
            "docs/results.md",
            &format!("# R\n\n*docs/sweeps/s.toml, table 1, commit {commit}.*\n\n{TABLE}"),
        );
        let quote = "It is <!-- s 1: jt | certified 1.0 -->50.0<!-- --> %.";
        repository.write(
            "README.md",
            &format!("{quote}\n\n*docs/sweeps/s.toml, table 1, commit {commit}.*\n"),
        );
        repository.commit("the results");
        repository
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a writable scratch folder");
        fs::write(path, text).expect("a writable scratch folder");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).expect(name)
    }

    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{name} has no {from}");
        self.write(name, &text.replace(from, to));
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut command = std::process::Command::new("git");
        command
            .arg("-C")
            .arg(self.path())
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(arguments);
        let output = command.output().expect("git");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn commit(&self, message: &str) {
        self.git(&["add", "."]);
        self.git(&["commit", "--quiet", "--no-gpg-sign", "-m", message]);
    }

    fn head(&self) -> String {
        self.git(&["rev-parse", "--short=10", "HEAD"])
    }

    fn results(&self, arguments: &[&str]) -> Assert {
        let mut command = xtask(arguments);
        command
            .env("CARGO_MANIFEST_DIR", self.path().join("xtask"))
            .current_dir(self.path())
            .assert()
    }

    fn check(&self) -> Assert {
        self.results(&["--check"])
    }
}

#[test]
fn a_table_older_than_the_code_must_say_so() {
    let repository = Repository::new();
    repository.check().success().stdout(contains("older").not());
    repository.write("crates/crmt-driver/src/report/mod.rs", "2");
    repository.write("docs/other.md", "2");
    repository.commit("What prints");
    repository.check().success().stdout(contains("older").not());
    repository.write("crates/crmt-core/src/lib.rs", "2");
    repository.commit("Another rounding");
    let faults = repository.check().failure().code(1);
    faults.stderr(
        contains("docs/results.md:5: of ")
            .and(contains("Another rounding: make it again, or mark")),
    );
    for page in ["docs/results.md", "README.md"] {
        repository.check().failure();
        repository.edit(page, ".*", ": older than the code.*");
    }
    repository
        .check()
        .success()
        .stdout(contains("Another rounding: docs/results.md:5, README.md"));
}

#[test]
fn a_table_is_what_its_sweep_wrote_and_says_of_which_commit_it_is() {
    for (page, from, to, says) in [
        (
            "docs/results.md",
            "| 50.0 |",
            "| 51.0 |",
            "line 3 differs from what the sweep wrote",
        ),
        (
            "README.md",
            "50.0",
            "51.0",
            "the number 51.0 of s: the table has 50.0",
        ),
        (
            "README.md",
            "s 1: jt",
            "s 1: at",
            "the table has no such cell",
        ),
        (
            "README.md",
            "*docs",
            "docs",
            "no line of the page says of which commit",
        ),
        (
            "docs/results.md",
            "*docs",
            "docs",
            "the line above this table does not say what made it",
        ),
        (
            "docs/results.md",
            "table 1,",
            "table 2,",
            "does not show table 1 of docs/sweeps/tables/s.md",
        ),
        (
            "docs/results.md",
            "s.toml",
            "t.toml",
            "docs/sweeps/tables/t.md is missing",
        ),
    ] {
        let repository = Repository::new();
        repository.edit(page, from, to);
        repository.check().failure().code(1).stderr(contains(says));
    }
    let repository = Repository::new();
    let commit = repository
        .read("docs/results.md")
        .split("commit ")
        .nth(1)
        .map(|rest| rest[..10].to_owned());
    repository.edit("docs/results.md", &commit.expect("a commit"), "0123456789");
    repository
        .check()
        .failure()
        .stderr(contains("the history has no commit 0123456789"));
}

#[test]
fn what_cannot_be_checked_is_said() {
    let repository = Repository::new();
    let shallow = tempfile::tempdir().expect("a scratch folder");
    let (from, to) = (
        format!("file://{}", repository.path().display()),
        shallow.path().join("s").display().to_string(),
    );
    repository.git(&["clone", "--quiet", "--depth", "1", &from, &to]);
    let check = || {
        let mut command = xtask(&["--check"]);
        command
            .env("CARGO_MANIFEST_DIR", format!("{to}/xtask"))
            .env("GIT_CEILING_DIRECTORIES", shallow.path())
            .assert()
    };
    check()
        .success()
        .stdout(contains("age not checked, for the history is cut off"));
    fs::remove_dir_all(format!("{to}/.git")).expect("a repository");
    check().success().stdout(contains(
        "age not checked, for there is no git repository here",
    ));
}

#[test]
fn a_finished_sweep_is_put_into_the_pages() {
    let repository = Repository::new();
    let sweep = repository.read("docs/sweeps/s.toml");
    let (old, new) = (
        repository.read("docs/results.md"),
        TABLE.replace("50.0", "61.5 ± 0.2"),
    );
    repository.write("runs/s/sweep.toml", &sweep);
    repository.write(
        "runs/s/table.md",
        &format!("{new}\nMean ± sample standard deviation.\n"),
    );
    repository.write("runs/s/table.csv", "method,finished,planned\njt,1,1\n");
    repository.write("crates/crmt-core/src/lib.rs", "2");
    repository.git(&["add", "crates"]);
    repository.git(&[
        "commit",
        "--quiet",
        "--no-gpg-sign",
        "-m",
        "Another rounding",
    ]);
    let update = |more: &[&str]| repository.results(&[&["--update", "s", "runs/s"], more].concat());
    update(&[])
        .failure()
        .code(2)
        .stderr(contains("commits.toml"));
    repository.write("runs/s/commits.toml", "");
    update(&[])
        .failure()
        .code(2)
        .stderr(contains("say it by --commit"));
    assert_eq!(
        repository.read("docs/results.md"),
        old,
        "nothing is half done"
    );
    repository.write("runs/s/table.csv", "method,finished,planned\njt,1,2\n");
    update(&["--commit", &repository.head()])
        .failure()
        .code(2)
        .stderr(contains("runs are missing"));
    repository.write("runs/s/table.csv", "method,finished,planned\njt,1,1\n");
    update(&["--commit", &repository.head()]).success();
    let results = repository.read("docs/results.md");
    assert!(
        results.contains(&format!("commit {}.*\n\n{new}", repository.head())),
        "{results}"
    );
    assert!(
        repository.read("README.md").contains("-->61.5<!-- -->"),
        "{}",
        repository.read("README.md")
    );
    repository.check().success().stdout(contains("older").not());
    repository.write("runs/s/sweep.toml", &format!("{sweep}#"));
    update(&["--commit", &repository.head()])
        .failure()
        .stderr(contains("was not made by docs/sweeps/s.toml as it is now"));
}
