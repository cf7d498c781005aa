//! Builds the BPF object and the dispatcher, and runs the latter. What the object is made with is
//! `xtask::bpf`'s business.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind};
use xtask::bpf;
use xtask::command::{self, Runner};

use crate::{cargo, privilege};

/// Bytes of a BPF instruction; a 64-bit constant takes two.
const INSTRUCTION_BYTES: u64 = 8;

#[derive(Args)]
pub struct Options {
    /// Build with optimizations.
    #[arg(long)]
    release: bool,
    /// Let the program tell in the log, at level debug, what becomes of packets.
    #[arg(long)]
    program_log: bool,
}

impl Options {
    fn build(&self) -> cargo::Build {
        cargo::Build {
            release: self.release,
            program_log: self.program_log,
        }
    }
}

#[derive(Args)]
pub struct RunOptions {
    #[command(flatten)]
    build: Options,
    /// What the dispatcher is given.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

pub fn build_ebpf(runner: Runner) -> Result<()> {
    if runner.dry_run {
        return runner.run(&mut bpf::cargo_build(false)?);
    }
    let path = bpf::build(&bpf::target_directory().join("bpf"), false)?;
    let data = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    println!("{}: {} bytes", path.display(), data.len());
    print!("{}", summary(&path, &data)?);
    Ok(())
}

/// Programs with their instructions, then maps.
fn summary(path: &Path, data: &[u8]) -> Result<String> {
    let mut text = String::new();
    for function in functions(path, data)? {
        let Function {
            section,
            name,
            instructions,
        } = function;
        text += &format!("program {name} in section {section}: {instructions} instructions\n");
    }
    for map in maps(path, data)? {
        text += &format!("map {map}\n");
    }
    Ok(text)
}

/// A function of the object, in a section of its own kind.
#[derive(Debug)]
pub struct Function {
    pub section: String,
    pub name: String,
    pub instructions: u64,
}

/// Functions of the object, but not those of `.text`, which are called by others.
pub fn functions(path: &Path, data: &[u8]) -> Result<Vec<Function>> {
    let object = parse(path, data)?;
    let mut found = Vec::new();
    for section in object
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
    {
        let section_name = section.name().unwrap_or_default();
        let symbols = object.symbols().filter(|symbol| {
            symbol.kind() == SymbolKind::Text
                && symbol.section_index() == Some(section.index())
                && section_name != ".text"
        });
        found.extend(symbols.map(|symbol| Function {
            section: section_name.to_owned(),
            name: symbol.name().unwrap_or_default().to_owned(),
            instructions: symbol.size() / INSTRUCTION_BYTES,
        }));
    }
    Ok(found)
}

fn maps<'data>(path: &Path, data: &'data [u8]) -> Result<Vec<&'data str>> {
    let object = parse(path, data)?;
    let Some(section) = object.section_by_name(".maps") else {
        return Ok(Vec::new());
    };
    let symbols = object.symbols().filter(|symbol| {
        symbol.section_index() == Some(section.index()) && symbol.kind() == SymbolKind::Data
    });
    let mut names: Vec<_> = symbols.filter_map(|symbol| symbol.name().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

fn parse<'data>(path: &Path, data: &'data [u8]) -> Result<object::File<'data>> {
    object::File::parse(data).with_context(|| format!("{} is no object file", path.display()))
}

pub fn run(options: &Options, runner: Runner) -> Result<()> {
    let [dispatcher] = cargo::build_binaries(["dispatcher"], options.build(), runner)?;
    println!("{}", dispatcher.display());
    Ok(())
}

pub fn run_daemon(options: &RunOptions, runner: Runner) -> Result<()> {
    let [dispatcher] = cargo::build_binaries(["dispatcher"], options.build.build(), runner)?;
    let mut daemon = privilege::elevated(dispatcher)?;
    daemon.args(&options.arguments);
    if runner.dry_run {
        return runner.run(&mut daemon);
    }
    // In our place, so that signals and the exit code are the daemon's own.
    let error = daemon.exec();
    Err(error).with_context(|| format!("cannot run {}", command::describe(&daemon)))
}
