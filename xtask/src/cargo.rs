//! Cargo, as xtask calls it: commands, what it built, and which test targets there are. Paths come
//! from cargo's own messages.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use xtask::bpf;
use xtask::command::{self, Runner};

/// Package of everything that needs a kernel.
pub const TESTS_PACKAGE: &str = "dispatcher-tests";

/// Cargo in the workspace; rustup chooses the toolchain that runs us.
pub fn command(subcommand: &str) -> Command {
    let mut command = Command::new("cargo");
    command
        .current_dir(bpf::workspace())
        .args([subcommand, "--locked"]);
    command
}

/// How binaries are built; by default as developers want them.
#[derive(Clone, Copy, Default)]
pub struct Build {
    /// With optimizations.
    pub release: bool,
    /// With a program that can tell what becomes of packets.
    pub program_log: bool,
}

impl Build {
    /// What users are given.
    pub const RELEASE: Self = Self {
        release: true,
        program_log: false,
    };
}

/// Builds binaries of the workspace and returns the paths of those named, in that order.
///
/// All of them are built at once, always: with another selection of packages cargo would choose
/// other features of the dependencies, and build those twice.
pub fn build_binaries<const N: usize>(
    names: [&str; N],
    build: Build,
    runner: Runner,
) -> Result<[PathBuf; N]> {
    let mut cargo = command("build");
    cargo.args(["--workspace", "--bins"]);
    if build.release {
        cargo.arg("--release");
    }
    if build.program_log {
        cargo.args(["--features", "dispatcher-user/program-log"]);
    }
    if runner.dry_run {
        runner.run(&mut cargo)?;
        let profile = if build.release { "release" } else { "debug" };
        return Ok(names.map(|name| bpf::target_directory().join(profile).join(name)));
    }
    let messages = messages(&mut cargo)?;
    let mut paths = [const { None }; N];
    for (path, name) in paths.iter_mut().zip(names) {
        *path = Some(
            executable(&messages, name)
                .with_context(|| format!("no package of the workspace has a binary {name}"))?,
        );
    }
    Ok(paths.map(Option::unwrap_or_default))
}

/// Builds test targets and returns the path of each, in the order of `names`.
///
/// Of the whole workspace, for the reason of [`build_binaries`].
pub fn build_tests(names: &[String], runner: Runner) -> Result<Vec<PathBuf>> {
    let mut cargo = command("test");
    cargo.args(["--workspace", "--no-run"]);
    for name in names {
        cargo.args(["--test", name]);
    }
    if runner.dry_run {
        runner.run(&mut cargo)?;
        return Ok(names.iter().map(PathBuf::from).collect());
    }
    let messages = messages(&mut cargo)?;
    names
        .iter()
        .map(|name| {
            executable(&messages, name).with_context(|| format!("cargo has built no test {name}"))
        })
        .collect()
}

/// Runs a build to its end; returns what cargo says of it to programs.
fn messages(cargo: &mut Command) -> Result<String> {
    cargo.arg("--message-format=json-render-diagnostics");
    eprintln!("$ {}", command::describe(cargo));
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", command::describe(cargo)))?;
    if !output.status.success() {
        bail!("{}: {}", output.status, command::describe(cargo));
    }
    String::from_utf8(output.stdout).context("cargo's messages are no UTF-8")
}

fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| {
            let named = message["target"]["name"] == name;
            let executable = message["executable"].as_str()?;
            named.then(|| PathBuf::from(executable))
        })
}

/// A target of a package of the workspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its package.
    pub package: String,
    /// Its own name.
    pub name: String,
}

/// Targets of a kind (`test`, `bench`), in cargo's order.
pub fn targets(kind: &str) -> Result<Vec<Target>> {
    let metadata = command::ask(command("metadata").args(["--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
    Ok(parse_targets(&metadata, kind))
}

fn parse_targets(metadata: &Value, kind: &str) -> Vec<Target> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        for target in package["targets"].as_array().into_iter().flatten() {
            let kinds = target["kind"].as_array();
            if kinds.is_some_and(|kinds| kinds.iter().any(|each| each == kind)) {
                found.push(Target {
                    package: text(&package["name"]),
                    name: text(&target["name"]),
                });
            }
        }
    }
    found
}

/// Name and value of the variable that makes cargo run what it built as root: cargo itself, and
/// the compilers, stay the user's.
pub fn elevating_runner() -> Result<Option<(String, String)>> {
    let words = crate::privilege::elevation()?;
    if words.is_empty() {
        return Ok(None);
    }
    let version = command::ask(Command::new("rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not tell its host")?;
    let triple = host.to_uppercase().replace(['-', '.'], "_");
    Ok(Some((
        format!("CARGO_TARGET_{triple}_RUNNER"),
        words.join(" "),
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_executable_is_the_one_that_cargo_names() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"dispatcher"},"executable":null}"#,
            "\nnot json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"dispatcher"},"executable":"/t/d"}"#,
        );
        assert_eq!(
            executable(messages, "dispatcher"),
            Some(PathBuf::from("/t/d"))
        );
        assert_eq!(executable(messages, "other"), None);
    }

    #[test]
    fn targets_are_found_by_kind() {
        let metadata = json!({ "packages": [ { "name": "p", "targets": [
            { "name": "lib", "kind": ["lib"] },
            { "name": "netns_a", "kind": ["test"] },
        ] } ] });
        let found = parse_targets(&metadata, "test");
        assert_eq!(
            found,
            [Target {
                package: "p".to_owned(),
                name: "netns_a".to_owned()
            }]
        );
    }
}
