//! Attaches the program alone with bpftool, and detaches it. There is no daemon behind it: the
//! maps stay empty until somebody fills them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;
use xtask::bpf;
use xtask::command::{self, Runner};

use crate::{build, privilege};

const BPFFS: &str = "/sys/fs/bpf";

#[derive(Args)]
pub struct LoadOptions {
    /// Network interface.
    #[arg(long)]
    interface: String,
    /// In the driver, or in the stack for drivers without XDP.
    #[arg(long, value_enum, default_value_t = AttachMode::Native)]
    attach_mode: AttachMode,
}

#[derive(Args)]
pub struct UnloadOptions {
    /// Network interface.
    #[arg(long)]
    interface: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum AttachMode {
    Native,
    Generic,
}

impl AttachMode {
    /// As bpftool calls it.
    const fn attach_type(self) -> &'static str {
        match self {
            Self::Native => "xdpdrv",
            Self::Generic => "xdpgeneric",
        }
    }
}

pub fn load(options: &LoadOptions, runner: Runner) -> Result<()> {
    let interface = &options.interface;
    let pins = pins(interface)?;
    if let Some(attached) = attached(interface)? {
        bail!(
            "{interface} has XDP program {} already; detach it first, with \
             `cargo xtask unload --interface {interface}` if `load` attached it",
            attached.program
        );
    }
    let object = bpf::build(&bpf::target_directory().join("bpf"), false)?;
    let data = fs::read(&object)?;
    let functions = build::functions(&object, &data)?;
    let program = functions
        .iter()
        .find(|function| function.section.starts_with("xdp"))
        .with_context(|| format!("no XDP program in {}", object.display()))?;
    // Of a load that was cut short, or of an interface that is gone.
    remove(&pins, runner)?;
    runner.run(
        privilege::elevated(bpftool()?)?
            .args(["prog", "loadall"])
            .arg(&object)
            .args([&pins, "pinmaps", &pins]),
    )?;
    let pinned = format!("{pins}/{}", program.name);
    let mode = options.attach_mode.attach_type();
    let mut attach = privilege::elevated(bpftool()?)?;
    attach.args(["net", "attach", mode, "pinned", &pinned, "dev", interface]);
    if let Err(error) = runner.run(&mut attach) {
        remove(&pins, runner)?;
        return Err(error).with_context(|| {
            format!("{interface} took no program; does its driver know XDP? --attach-mode generic")
        });
    }
    println!("attached to {interface}; its program and maps are pinned under {pins}");
    println!("look:   bpftool prog show pinned {pinned}");
    println!("detach: cargo xtask unload --interface {interface}");
    Ok(())
}

pub fn unload(options: &UnloadOptions, runner: Runner) -> Result<()> {
    let interface = &options.interface;
    let pins = pins(interface)?;
    if let Some(attached) = attached(interface)? {
        let Attached { program, mode } = attached;
        ensure!(
            is_pinned(program, &pins)?,
            "XDP program {program} of {interface} is not pinned under {pins}: `load` did not \
             attach it"
        );
        let mode = mode.attach_type();
        let mut detach = privilege::elevated(bpftool()?)?;
        runner.run(detach.args(["net", "detach", mode, "dev", interface]))?;
    } else {
        println!("{interface} has no XDP program");
    }
    remove(&pins, runner)
}

fn remove(pins: &str, runner: Runner) -> Result<()> {
    runner.run(privilege::elevated("rm")?.args(["-rf", "--", pins]))
}

/// Whether a program is pinned in the directory `pins`.
fn is_pinned(program: u64, pins: &str) -> Result<bool> {
    let mut ask = privilege::elevated(bpftool()?)?;
    ask.args([
        "--json",
        "--bpffs",
        "prog",
        "show",
        "id",
        &program.to_string(),
    ]);
    let shown: Value = serde_json::from_str(&command::ask(&mut ask)?)?;
    let paths = shown["pinned"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let directory = format!("{pins}/");
    Ok(paths.into_iter().any(|path| path.starts_with(&directory)))
}

/// Directory of the pins of one interface.
fn pins(interface: &str) -> Result<String> {
    // Of this network namespace; /sys may be that of another.
    let devices = fs::read_to_string("/proc/net/dev").context("no /proc/net/dev")?;
    ensure!(
        has_interface(&devices, interface) && !interface.contains('.'),
        "there is no interface {interface:?} here, or bpffs takes no such name"
    );
    Ok(format!("{BPFFS}/dispatcher-load-{interface}"))
}

fn has_interface(devices: &str, interface: &str) -> bool {
    let names = devices
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0));
    names.map(str::trim).any(|name| name == interface)
}

fn bpftool() -> Result<PathBuf> {
    privilege::find("bpftool").context("there is no bpftool: run `cargo xtask setup`")
}

struct Attached {
    program: u64,
    mode: AttachMode,
}

/// The XDP program that an interface has.
fn attached(interface: &str) -> Result<Option<Attached>> {
    let mut ask = privilege::elevated(bpftool()?)?;
    let shown = command::ask(ask.args(["--json", "net", "show", "dev", interface]))?;
    let shown = serde_json::from_str(&shown).context("bpftool's answer is no JSON")?;
    Ok(parse_attached(&shown))
}

fn parse_attached(shown: &Value) -> Option<Attached> {
    let first = &shown[0]["xdp"][0];
    let program = first["id"].as_u64()?;
    let generic = first["mode"] == "generic";
    let mode = if generic {
        AttachMode::Generic
    } else {
        AttachMode::Native
    };
    Some(Attached { program, mode })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_interface_is_known_by_its_whole_name() {
        let devices = "Inter-|   Receive\n face |bytes\n    lo: 0 0\n veth0: 1 2\n";
        assert!(has_interface(devices, "veth0"));
        assert!(!has_interface(devices, "veth"));
    }

    #[test]
    fn what_is_attached_is_read_from_bpftool() {
        let none = json!([{ "xdp": [], "tc": [], "flow_dissector": [] }]);
        assert!(parse_attached(&none).is_none());
        let generic = json!([{ "xdp": [{ "devname": "a", "mode": "generic", "id": 7 }] }]);
        let attached = parse_attached(&generic).unwrap();
        assert_eq!(attached.program, 7);
        assert_eq!(attached.mode.attach_type(), "xdpgeneric");
    }
}
