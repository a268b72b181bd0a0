//! The page docs/settings.md, written from the plan's own types, and the test that it is not older
//! than they are. Does not know what any setting does.
use super::{
    Plan,
    schema::{Kind, settings},
};
use crate::settings::flatten;
use std::{fmt::Write, path::Path};
use toml::Table;

/// The page docs/settings.md: every key with its default, its meaning and what it may be.
fn reference() -> String {
    let defaults = flatten(&Table::try_from(Plan::default()).expect("the default plan is a table"));
    let mut page = String::from(REFERENCE);
    let mut section = None;
    for setting in settings() {
        let of = setting.key.split_once('.').map_or("", |(table, _)| table);
        if section != Some(of) {
            let title = if of.is_empty() {
                "Of the whole run".to_owned()
            } else {
                format!("`{of}`")
            };
            let _ = write!(
                page,
                "\n## {title}\n\n| key | default | meaning | expected |\n|---|---|---|---|\n"
            );
            section = Some(of);
        }
        let default = defaults
            .iter()
            .find(|(key, _)| *key == setting.key)
            .map(|(_, value)| format!("`{value}`"));
        let cell = |text: &str| text.replace('|', "\\|");
        let expected = match &setting.kind {
            Kind::Text { choices, .. } if !choices.is_empty() => {
                format!("`{}`", choices.join("`, `"))
            }
            kind => kind.to_string(),
        };
        let default = default.unwrap_or_default();
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            setting.key,
            cell(&default),
            cell(&setting.meaning),
            cell(&expected)
        );
    }
    page
}

const REFERENCE: &str = "\
# Settings

Every key of a run's `config.toml`, of `--config FILE` and of `--set KEY=VALUE`. `train --explain` prints the same with the
values that a command would use and where each comes from; a method is a few of them (`train --help`). A key that ends in
`NAME` is one for each modality, by its name. This page is written from the types in
[plan](../crates/crmt-driver/src/plan/mod.rs); a test compares the two.
";

#[test]
fn the_reference_page_is_what_the_plan_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/settings.md");
    if std::env::var_os("CRMT_WRITE_DOCS").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == reference(),
        "docs/settings.md is old: CRMT_WRITE_DOCS=1 cargo test -p crmt-driver reference_page"
    );
}
