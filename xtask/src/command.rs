//! Runs other programs: arguments as lists, never through a shell, and a failure shows what was
//! run.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// How the subcommands run what changes something.
#[derive(Clone, Copy, Debug)]
pub struct Runner {
    /// Print commands in place of running them.
    pub dry_run: bool,
}

impl Runner {
    /// Prints the command, then runs it to its end.
    ///
    /// # Errors
    ///
    /// When the program is not there, or ends with anything but success.
    pub fn run(self, command: &mut Command) -> Result<()> {
        eprintln!("$ {}", describe(command));
        if self.dry_run {
            return Ok(());
        }
        run(command)
    }
}

/// Runs a command to its end; its output goes where ours goes.
///
/// # Errors
///
/// When the program is not there, or ends with anything but success.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    if !status.success() {
        bail!("{status}: {}", describe(command));
    }
    Ok(())
}

/// Runs a command that asks and changes nothing, and returns what it wrote to stdout.
///
/// # Errors
///
/// When the program is not there, ends with anything but success, or writes no UTF-8. What it
/// wrote to stderr is in the error.
pub fn ask(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{}: {}: {}",
            output.status,
            describe(command),
            stderr.trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("no UTF-8 from {}", describe(command)))
}

/// The command as a person would type it.
#[must_use]
pub fn describe(command: &Command) -> String {
    let mut text = String::new();
    for (name, value) in command.get_envs() {
        // What is removed is of no interest to whoever runs it by hand.
        if let Some(value) = value {
            let _ = write!(text, "{}={} ", name.to_string_lossy(), quoted(value));
        }
    }
    text.push_str(&quoted(command.get_program()));
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&quoted(argument));
    }
    text
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reads_as_it_would_be_typed() {
        let mut command = Command::new("cargo");
        command
            .env("RUSTFLAGS", "-C debuginfo=2")
            .env_remove("RUSTC")
            .args(["test", "it's", ""]);
        assert_eq!(
            describe(&command),
            r"RUSTFLAGS='-C debuginfo=2' cargo test 'it'\''s' ''"
        );
    }

    #[test]
    fn a_failure_shows_what_was_run() {
        let error = run(Command::new("false").arg("--why")).unwrap_err();
        assert_eq!(error.to_string(), "exit status: 1: false --why");
    }

    #[test]
    fn a_dry_run_runs_nothing() {
        Runner { dry_run: true }
            .run(&mut Command::new("false"))
            .unwrap();
    }
}
