//! A fresh Debian: a root directory that nothing was done to, and the machine that systemd makes of
//! it in namespaces of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::Pid;

use crate::POLL;
use crate::netns::Namespace;
use crate::scratch::{Scratch, unique};

/// Names a root that debootstrap has made before, to be copied: another one takes minutes.
const ROOT_VARIABLE: &str = "DISPATCHER_DEBIAN_ROOT";
/// The release that is installed.
const RELEASE: &str = "bookworm";
/// What it has besides the least that there can be.
const PACKAGES: &str = "dbus,systemd,systemd-sysv";
/// How long a machine may take to start.
const BOOT: Duration = Duration::from_secs(60);
/// Where programs write what belongs to no package.
const VARIABLE: [&str; 10] = [
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/log",
    "var/tmp",
];

/// A root directory, removed when dropped.
#[derive(Debug)]
pub struct Root {
    scratch: Scratch,
    mounts: Vec<PathBuf>,
}

impl Root {
    /// Installs it from the network, or copies it.
    pub fn fresh() -> Result<Self> {
        let scratch = Scratch::new("debian")?;
        let mut root = Self {
            scratch,
            mounts: Vec::new(),
        };
        let path = root.path();
        let mut install = match std::env::var_os(ROOT_VARIABLE) {
            Some(fresh) => {
                let mut copy = Command::new("cp");
                copy.args(["--archive", "--no-target-directory"]).arg(fresh);
                copy
            }
            None => {
                let mut debootstrap = Command::new("debootstrap");
                debootstrap.args(["--variant=minbase", "--include", PACKAGES, RELEASE]);
                debootstrap
            }
        };
        succeed(install.arg(&path))?;
        for (kind, at) in [("proc", "proc"), ("sysfs", "sys"), ("bpf", "sys/fs/bpf")] {
            let at = path.join(at);
            mount(Some(kind), &at, Some(kind), MsFlags::empty(), None::<&str>)
                .with_context(|| format!("cannot mount {}", at.display()))?;
            root.mounts.push(at);
        }
        Ok(root)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.scratch.path("root")
    }

    /// A command in there, in a network of its own or in this machine's.
    #[must_use]
    pub fn command(&self, network: Option<&Namespace>) -> Command {
        let mut command = match network {
            Some(network) => network.command("chroot"),
            None => Command::new("chroot"),
        };
        command
            .arg(self.path())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command line in there, and returns what it printed.
    pub fn run(&self, line: &[&str]) -> Result<String> {
        succeed(self.command(None).args(line))
    }

    /// Every path that is somebody's.
    pub fn files(&self) -> Result<BTreeSet<PathBuf>> {
        let mut found = BTreeSet::new();
        walk(&self.path(), Path::new(""), &mut found)?;
        Ok(found)
    }

    /// Starts it as a machine of its own, with the interfaces of `network`.
    pub fn boot(&self, network: &Namespace) -> Result<Machine> {
        let group = Group::new()?;
        let mut command = network.command("sh");
        let join = "echo $$ > \"$1/cgroup.procs\"; shift; exec \"$@\"";
        command.args(["-c", join, "sh"]).arg(&group.0);
        command.args([
            "unshare",
            "--fork",
            "--kill-child",
            "--pid",
            "--mount",
            "--uts",
            "--ipc",
        ]);
        command.args(["--cgroup", "--propagation", "private"]);
        command.args(["sh", "-c", include_str!("debian/boot.sh"), "boot.sh"]);
        let process = command
            .arg(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start a machine")?;
        let machine = Machine {
            process,
            _group: group,
        };
        let end = Instant::now() + BOOT;
        while !machine.is_up() {
            ensure!(Instant::now() < end, "no machine after {BOOT:?}");
            std::thread::sleep(POLL);
        }
        Ok(machine)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for at in self.mounts.iter().rev() {
            let _ = umount2(at, MntFlags::MNT_DETACH);
        }
    }
}

fn walk(root: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if VARIABLE.iter().any(|variable| path == Path::new(variable)) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(root, &path, found)?;
        }
        found.insert(path);
    }
    Ok(())
}

/// A running machine; switched off when dropped.
#[derive(Debug)]
pub struct Machine {
    process: Child,
    _group: Group,
}

impl Machine {
    /// Its first process, once there is one.
    fn first(&self) -> Result<Pid> {
        let unshare = self.process.id();
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
        let first = children.split_whitespace().next();
        Ok(Pid::from_raw(first.context("no process yet")?.parse()?))
    }

    /// A command in there.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command
            .args(["--all", "--target", &self.first()?.to_string(), "--"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command line in there, and returns what it printed.
    pub fn run(&self, line: &[&str]) -> Result<String> {
        succeed(self.command()?.args(line))
    }

    /// Whether systemd has started all that it is to start, and all of that runs.
    fn is_up(&self) -> bool {
        let first = self.first().and_then(|first| {
            let name = fs::read_to_string(format!("/proc/{first}/comm"))?;
            Ok(name.trim_end() == "systemd")
        });
        first.is_ok_and(|is| is) && self.run(&["systemctl", "is-system-running"]).is_ok()
    }

    /// A property of a unit, as `systemctl show` has it.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let text = self.run(&["systemctl", "show", "--value", "--property", name, unit])?;
        Ok(text.trim().to_owned())
    }

    /// The main process of a service, as this machine numbers it.
    pub fn main_process(&self, unit: &str) -> Result<Pid> {
        let inside = self.property(unit, "MainPID")?;
        let first = self.first()?;
        // Of all processes in the same place, the one that is numbered so there.
        let own = |pid: &str| -> io::Result<bool> {
            let same = fs::read_link(format!("/proc/{pid}/ns/pid"))?
                == fs::read_link(format!("/proc/{first}/ns/pid"))?;
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let last = numbers.and_then(|numbers| numbers.split_whitespace().last());
            Ok(same && last == Some(&*inside))
        };
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.parse::<u32>().is_ok() && own(&name).unwrap_or(false) {
                return Ok(Pid::from_raw(name.parse()?));
            }
        }
        anyhow::bail!("{unit} has no process {inside}")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its child goes with it, and all else with that.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A control group for a machine, removed with those inside it when dropped.
#[derive(Debug)]
struct Group(PathBuf);

impl Group {
    fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let mut places = mounts.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then_some(place)
        });
        let place = places
            .next()
            .context("control groups (version 2) are not mounted")?;
        let path = Path::new(place).join(unique("machine"));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fn remove(path: &Path) -> io::Result<()> {
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    remove(&entry.path())?;
                }
            }
            fs::remove_dir(path)
        }
        let end = Instant::now() + crate::PATIENCE;
        // It is busy until the last of its processes is gone.
        while remove(&self.0).is_err() && Instant::now() < end {
            std::thread::sleep(POLL);
        }
    }
}

/// Runs a command to its end, and returns what it printed; a failure is an error with its words.
pub fn succeed(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let (printed, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success(),
        "{}: {command:?}\n{printed}{told}",
        output.status
    );
    Ok(printed.into_owned())
}
