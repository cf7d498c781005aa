//! Makes what users are given, below `target/dist`: a tarball and a Debian package, of the same
//! tree of files. The same source, compiler and tools give the same bytes.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use xtask::bpf;
use xtask::command::{self, Runner};

use crate::cargo;

mod licences;

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Args)]
pub struct Options {
    /// Package this binary, in place of a new one built with optimizations.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the tarball and the package go.
    #[arg(long, value_name = "DIRECTORY")]
    to: Option<PathBuf>,
}

/// Files as they are in the source, and where they go below `usr`.
const FILES: &[(&str, &str)] = &[
    (
        "packaging/dispatcher.service",
        "lib/systemd/system/dispatcher.service",
    ),
    (
        "packaging/grafana/dispatcher.json",
        "share/dispatcher/grafana/dispatcher.json",
    ),
    (
        "packaging/prometheus/alerts.yml",
        "share/dispatcher/prometheus/alerts.yml",
    ),
    (
        "examples/one-armed.toml",
        "share/doc/dispatcher/examples/one-armed.toml",
    ),
    (
        "examples/two-armed.toml",
        "share/doc/dispatcher/examples/two-armed.toml",
    ),
    (
        "examples/policies.toml",
        "share/doc/dispatcher/examples/policies.toml",
    ),
    ("README.md", "share/doc/dispatcher/README.md"),
    ("ARCHITECTURE.md", "share/doc/dispatcher/ARCHITECTURE.md"),
    ("SECURITY.md", "share/doc/dispatcher/SECURITY.md"),
];

/// Completions: the shell, and where it looks for them below `usr`.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "share/bash-completion/completions/dispatcher"),
    ("zsh", "share/zsh/vendor-completions/_dispatcher"),
    ("fish", "share/fish/vendor_completions.d/dispatcher.fish"),
];

/// Files of the package's own control, and their modes.
const CONTROL: &[(&str, u32)] = &[
    ("conffiles", 0o644),
    ("postinst", 0o755),
    ("prerm", 0o755),
    ("postrm", 0o755),
];

pub fn run(options: &Options, runner: Runner) -> Result<()> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => {
            let [dispatcher] =
                cargo::build_binaries(["dispatcher"], cargo::Build::RELEASE, runner)?;
            dispatcher
        }
    };
    let to = match &options.to {
        Some(to) => to.clone(),
        None => bpf::target_directory().join("dist"),
    };
    if runner.dry_run {
        println!("would package {} in {}", binary.display(), to.display());
        return Ok(());
    }
    let dist = Dist::begin(&binary, &to)?;
    for made in [dist.tarball()?, dist.debian()?] {
        let bytes = fs::metadata(&made)?.len();
        println!("{}: {bytes} bytes", made.display());
    }
    fs::remove_dir_all(&dist.work)?;
    Ok(())
}

struct Dist {
    to: PathBuf,
    /// For what is not given to anybody.
    work: PathBuf,
    /// The tree: `usr`, without what only a package needs.
    tree: PathBuf,
    /// When everything was made, seconds since 1970.
    epoch: u64,
}

impl Dist {
    /// Makes the tree.
    fn begin(binary: &Path, to: &Path) -> Result<Self> {
        let work = to.join("work");
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        let tree = work.join("usr");
        let dist = Self {
            to: to.to_owned(),
            tree,
            epoch: epoch()?,
            work,
        };
        let command = dist.tree.join("bin/dispatcher");
        put(&command, &read(binary)?, 0o755)?;
        command::run(Command::new("strip").arg("--strip-all").arg(&command))?;

        for (from, at) in FILES {
            dist.put(at, &read(&bpf::workspace().join(from))?)?;
        }
        for entry in bpf::workspace().join("docs").read_dir()? {
            let entry = entry?;
            let at = Path::new("share/doc/dispatcher/docs").join(entry.file_name());
            dist.put(&at.to_string_lossy(), &read(&entry.path())?)?;
        }
        for (shell, at) in COMPLETIONS {
            let script = command::ask(Command::new(&command).args(["completions", shell]))?;
            dist.put(at, script.as_bytes())?;
        }
        let page = command::ask(Command::new(&command).arg("man"))?;
        let section = section(&page)?;
        let manual = format!("share/man/man{section}/dispatcher.{section}");
        dist.put_compressed(&manual, page.as_bytes())?;

        let changes = read(&bpf::workspace().join("CHANGELOG.md"))?;
        dist.put_compressed("share/doc/dispatcher/changelog", &changes)?;
        let mut ours = read(&bpf::workspace().join("packaging/debian/copyright"))?;
        for text in ["LICENSE-MIT", "LICENSE-APACHE"] {
            ours.push(b'\n');
            ours.extend(read(&bpf::workspace().join(text))?);
        }
        dist.put("share/doc/dispatcher/copyright", &ours)?;
        let theirs = licences::of_dependencies(["dispatcher-user", "dispatcher-ebpf"])?;
        let theirs_at = "share/doc/dispatcher/third-party-licences.txt";
        dist.put_compressed(theirs_at, theirs.as_bytes())?;
        Ok(dist)
    }

    fn put(&self, at: &str, contents: &[u8]) -> Result<()> {
        put(&self.tree.join(at), contents, 0o644)
    }

    fn put_compressed(&self, at: &str, contents: &[u8]) -> Result<()> {
        self.put(at, contents)?;
        let file = self.tree.join(at);
        command::run(Command::new("gzip").args(["-9", "--no-name"]).arg(file))
    }

    /// `dispatcher-0.1.0-x86_64-linux.tar.gz`: the tree, under a directory of that name.
    fn tarball(&self) -> Result<PathBuf> {
        let name = format!("dispatcher-{VERSION}-{}-linux", std::env::consts::ARCH);
        let root = self.work.join(&name);
        copy(&self.tree, &root)?;
        settle(&root, self.epoch)?;
        let tarball = self.to.join(format!("{name}.tar.gz"));
        let mut tar = Command::new("tar");
        tar.args(["--create", "--format=gnu", "--sort=name"])
            .args(["--owner=0", "--group=0", "--numeric-owner"])
            .args(["--use-compress-program", "gzip -9 --no-name"])
            .arg("--file")
            .arg(&tarball)
            .arg("--directory")
            .arg(&self.work)
            .arg(&name);
        command::run(&mut tar)?;
        Ok(tarball)
    }

    /// `dispatcher_0.1.0_amd64.deb`.
    fn debian(&self) -> Result<PathBuf> {
        let root = self.work.join("debian");
        copy(&self.tree, &root.join("usr"))?;
        let packaging = bpf::workspace().join("packaging/debian");
        put(
            &root.join("etc/default/dispatcher"),
            &read(&packaging.join("default"))?,
            0o644,
        )?;
        fs::create_dir_all(root.join("etc/dispatcher"))?;

        let architecture = command::ask(Command::new("dpkg").arg("--print-architecture"))?;
        let architecture = architecture.trim();
        let template = fs::read_to_string(packaging.join("control"))?;
        let control = filled_in(
            &template,
            &[
                ("VERSION", VERSION),
                ("ARCHITECTURE", architecture),
                ("KIBIBYTES", &kibibytes(&root)?.to_string()),
                ("DEPENDS", &self.dependencies()?),
            ],
        )?;
        let sums = sums(&root)?;
        let own = root.join("DEBIAN");
        put(&own.join("control"), control.as_bytes(), 0o644)?;
        put(&own.join("md5sums"), sums.as_bytes(), 0o644)?;
        for (name, mode) in CONTROL {
            put(&own.join(name), &read(&packaging.join(name))?, *mode)?;
        }
        settle(&root, self.epoch)?;
        let package = self
            .to
            .join(format!("dispatcher_{VERSION}_{architecture}.deb"));
        let mut dpkg = Command::new("dpkg-deb");
        // What several threads compress depends on how many they are.
        dpkg.args(["--root-owner-group", "--threads-max=1", "-Zxz", "--build"])
            .args([&root, &package])
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string());
        command::ask(&mut dpkg)?;
        Ok(package)
    }

    /// Packages of the libraries that the binary asks for, as Debian knows them.
    fn dependencies(&self) -> Result<String> {
        let place = self.work.join("shlibdeps");
        let control = "Source: dispatcher\n\nPackage: dispatcher\nArchitecture: any\n";
        put(&place.join("debian/control"), control.as_bytes(), 0o644)?;
        let mut shlibdeps = Command::new("dpkg-shlibdeps");
        shlibdeps.current_dir(&place).args(["-O", "-e"]);
        let found =
            command::ask(shlibdeps.arg(fs::canonicalize(self.tree.join("bin/dispatcher"))?))?;
        let found = found.trim().strip_prefix("shlibs:Depends=");
        let found = found.context("dpkg-shlibdeps names no dependencies")?;
        // For its helpers, which the maintainer scripts use.
        Ok(format!("{found}, init-system-helpers (>= 1.54~)"))
    }
}

/// Seconds since 1970 that count as the time of making: of the last commit, unless
/// `SOURCE_DATE_EPOCH` says otherwise.
fn epoch() -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => {
            let mut git = Command::new("git");
            git.current_dir(bpf::workspace());
            command::ask(git.args(["log", "-1", "--format=%ct"]))
                .context("no commit tells the time of making: set SOURCE_DATE_EPOCH")?
        }
    };
    let seconds = text.trim().parse();
    seconds.with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, no number of seconds"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn put(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, contents).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(())
}

/// Everything below `path`, itself last, in the order of names.
fn below(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if path.is_dir() {
        let entries: std::io::Result<Vec<_>> = fs::read_dir(path)?.collect();
        let mut entries: Vec<_> = entries?.iter().map(fs::DirEntry::path).collect();
        entries.sort();
        for entry in entries {
            found.extend(below(&entry)?);
        }
    }
    found.push(path.to_owned());
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for path in below(from)?.iter().filter(|path| path.is_file()) {
        let at = to.join(path.strip_prefix(from)?);
        put(&at, &read(path)?, fs::metadata(path)?.permissions().mode())?;
    }
    Ok(())
}

/// Gives all below `root` the time of making, and directories their mode, whatever the umask.
fn settle(root: &Path, epoch: u64) -> Result<()> {
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch);
    for path in below(root)? {
        if path.is_dir() {
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        }
        File::open(&path)?.set_modified(made)?;
    }
    Ok(())
}

fn kibibytes(root: &Path) -> Result<u64> {
    let mut total = 0;
    for path in below(root)? {
        let bytes = if path.is_file() {
            fs::metadata(&path)?.len()
        } else {
            0
        };
        // A directory counts as one, as dpkg has it.
        total += bytes.div_ceil(1024).max(1);
    }
    Ok(total)
}

/// The list by which dpkg finds files that were changed; files of the configuration have their own.
fn sums(root: &Path) -> Result<String> {
    let mut md5sum = Command::new("md5sum");
    md5sum.current_dir(root);
    for path in below(&root.join("usr"))?
        .iter()
        .filter(|path| path.is_file())
    {
        md5sum.arg(path.strip_prefix(root)?);
    }
    command::ask(&mut md5sum)
}

/// The section of a manual page, as its heading has it: `.TH dispatcher 1`.
fn section(page: &str) -> Result<&str> {
    let heading = page.lines().find_map(|line| line.strip_prefix(".TH "));
    let section = heading.and_then(|heading| heading.split_whitespace().nth(1));
    section.context("the manual page has no heading")
}

fn filled_in(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    if let Some(line) = text.lines().find(|line| line.split('@').count() > 2) {
        bail!("nothing is known to fill in: {line}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn the_section_is_that_of_the_heading() {
        let page = ".ie \\n(.g .ds Aq\n.TH dispatcher 8  \"dispatcher 0.1.0\" \n.SH NAME\n";
        assert_eq!(section(page).unwrap(), "8");
        assert!(section(".SH NAME\n").is_err());
    }

    #[test]
    fn a_template_is_filled_in_wholly_or_not_at_all() {
        let filled = filled_in("A: @A@\nMail: <a@b>\n", &[("A", "1")]).unwrap();
        assert_eq!(filled, "A: 1\nMail: <a@b>\n");
        let error = filled_in("A: @A@\nB: @B@\n", &[("A", "1")]).unwrap_err();
        assert_eq!(error.to_string(), "nothing is known to fill in: B: @B@");
    }

    #[test]
    fn everything_that_is_packaged_is_in_the_source() {
        let control = CONTROL
            .iter()
            .map(|(name, _)| format!("packaging/debian/{name}"));
        let files = FILES.iter().map(|(from, _)| (*from).to_owned());
        for file in control.chain(files) {
            assert!(bpf::workspace().join(&file).is_file(), "{file}");
        }
        for example in below(&bpf::workspace().join("examples")).unwrap() {
            let name = example.strip_prefix(bpf::workspace()).unwrap();
            let packaged = FILES.iter().any(|(from, _)| OsStr::new(from) == name);
            assert!(
                packaged || example.is_dir(),
                "{} is not packaged",
                name.display()
            );
        }
    }
}
