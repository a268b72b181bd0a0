//! Other programs that chores call: whether they are there, and running them in front of the user.
//! Knows none by name.
use crate::Failed;
use crate::say::say;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Whether `program` starts with `arguments` and succeeds, such as `--version`.
pub fn works(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Refuses to go on without a program.
///
/// # Errors
/// If it doesn't work; the message says what to install.
pub fn need(program: &str, arguments: &[&str], install: &str) -> Result<()> {
    if !works(program, arguments) {
        bail!(
            "`{program} {}` does not work: {install}",
            arguments.join(" ")
        );
    }
    Ok(())
}

/// Runs `command` in front of the user.
///
/// # Errors
/// If it can't be started or fails.
pub fn execute(mut command: Command) -> Result<()> {
    let line = line(&command);
    say(&format!("$ {line}\n"))?;
    let status = command
        .status()
        .with_context(|| format!("starting {line}"))?;
    if !status.success() {
        return Err(Failed(format!("{line}: {status}")).into());
    }
    Ok(())
}

/// What one would type, but for the program's folder and the environment.
pub fn line(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let arguments = command
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned());
    [name]
        .into_iter()
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn a_failing_command_is_named() {
        let mut command = workspace::cargo();
        command.args(["--no-such-flag"]).stderr(Stdio::null());
        let error = execute(command).expect_err("cargo has no such flag");
        assert!(
            error.is::<Failed>(),
            "it ran, so the exit code is 1: {error:?}"
        );
        assert!(
            error.to_string().starts_with("cargo --no-such-flag: "),
            "{error}"
        );
    }

    #[test]
    fn what_is_missing_is_told_with_advice() {
        assert!(need("sh", &["-c", "exit 0"], "install a shell").is_ok());
        for (program, arguments) in [
            ("no-such-program-here", ["-c", "x"]),
            ("sh", ["-c", "exit 3"]),
        ] {
            let error = need(program, &arguments, "install it").expect_err(program);
            assert!(
                !error.is::<Failed>(),
                "nothing ran, so the exit code is 2: {error:?}"
            );
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("`{program} -c ")) && text.ends_with(": install it"),
                "{text}"
            );
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
}
