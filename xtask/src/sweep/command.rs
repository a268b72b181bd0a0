//! How the driver is told to make a run. Starts nothing.
use super::plan::{Run, plain};
use super::state::State;
use std::path::Path;
use toml::{Table, Value};

/// Settings that have an option of their own; the others go through `--set`.
const OPTIONS: [&str; 3] = ["data", "method", "seed"];

impl Run {
    /// What makes the run of what is there: it is begun, gone on with, or begun anew in the place
    /// of remains.
    pub fn making(&self, state: &State, out: &Path) -> Vec<String> {
        let folder = out.join(&self.slug);
        match state {
            State::Stopped => vec![
                "train".into(),
                "--resume".into(),
                folder.display().to_string(),
            ],
            // The driver looks itself whether it may: at who works there, and that nothing but
            // remains of a run goes.
            State::Remains => [self.arguments(out), vec!["--overwrite".into()]].concat(),
            State::Missing | State::Finished(_) => self.arguments(out),
        }
    }

    /// What the driver is told to train it.
    pub fn arguments(&self, out: &Path) -> Vec<String> {
        let mut arguments = vec!["train".to_owned()];
        for option in OPTIONS {
            arguments.extend(
                self.settings
                    .get(option)
                    .into_iter()
                    .flat_map(|value| [format!("--{option}"), plain(value)]),
            );
        }
        for (key, value) in self
            .settings
            .iter()
            .filter(|(key, _)| !OPTIONS.contains(&key.as_str()))
        {
            arguments.extend(["--set".to_owned(), format!("{key}={}", unmistakable(value))]);
        }
        if let Some(label) = &self.label {
            arguments.extend([
                "--set".to_owned(),
                format!("label={}", Value::from(label.as_str())),
            ]);
        }
        arguments.extend([
            "--out".to_owned(),
            out.join(&self.slug).display().to_string(),
        ]);
        arguments
    }

    /// The command that makes it, as a person would type it.
    pub fn command_line(&self, state: &State, out: &Path) -> String {
        let quoted = self.making(state, out).into_iter().map(|argument| {
            let simple = argument
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_./=+:,".contains(c));
            if simple {
                argument
            } else {
                format!("'{}'", argument.replace('\'', r"'\''"))
            }
        });
        ["crmt-driver".to_owned()]
            .into_iter()
            .chain(quoted)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Like [`plain`], but a string that reads as another kind of value keeps its quotes.
fn unmistakable(value: &Value) -> String {
    let text = plain(value);
    let misread = value.is_str() && format!("x = {text}").parse::<Table>().is_ok();
    if misread { value.to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::plan::expand;
    use super::super::spec::Spec;
    use super::*;

    /// The first run of a sweep.
    fn first(text: &str) -> Run {
        expand(&Spec::parse(&format!("name = \"t\"\n{text}"), false).expect("a good sweep"))
            .remove(0)
    }

    #[test]
    fn the_driver_is_told_everything() {
        let arguments = first(
            "[base]\ndata = \"synthetic\"\nattack.norm = \"l2\"\n[grid]\nmethod = [\"jt\"]\nseed = [0]\nrho = [0.5]\n",
        )
        .arguments(Path::new("runs/t"));
        let start = "train --data synthetic --method jt --seed 0 --set attack.norm=l2 --set rho=0.5 --out runs/t/jt_rho-0.5_seed-0_";
        assert!(arguments.join(" ").starts_with(start), "{arguments:?}");
        let labelled = "[base]\nmethod = \"jt\"\n[[variants]]\nlabel = \"L\"\ntrain.epochs = 9\n";
        assert!(
            first(labelled)
                .arguments(Path::new("o"))
                .contains(&"label=\"L\"".to_owned())
        );
    }

    #[test]
    fn strings_that_look_like_numbers_stay_strings() {
        let told = |value: &str| {
            first(&format!("[base]\nx = {value}")).arguments(Path::new("o"))[2].clone()
        };
        assert_eq!(told("\"1.0\""), "x=\"1.0\"");
        assert_eq!(told("\"true\""), "x=\"true\"");
        assert_eq!(told("\"l2\""), "x=l2");
        assert_eq!(told("1.0"), "x=1.0");
        assert_eq!(told("[1, 2]"), "x=[1, 2]");
        let line = first("[base]\nx = [1, 2]").command_line(&State::Missing, Path::new("o"));
        assert!(
            line.starts_with("crmt-driver train --set 'x=[1, 2]' --out o/"),
            "{line}"
        );
    }
}
