//! A named network namespace: made, entered by a thread or a child process, and removed. What is
//! inside it is another file's business.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where iproute2 looks for namespaces by name.
const NAMES: &str = "/run/netns";

/// A network namespace under its name in `/run/netns`; removed when dropped, unless kept.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
    keep: bool,
}

impl Namespace {
    /// Makes a namespace with its loopback still down and IPv6 made predictable: no duplicate
    /// address detection, no router advertisements.
    pub fn create(name: &str) -> Result<Self> {
        fs::create_dir_all(NAMES).context("cannot make /run/netns")?;
        let path = path_of(name);
        File::create_new(&path).with_context(|| format!("network namespace {name} exists"))?;
        let made = thread::scope(|scope| scope.spawn(|| unshare_into(&path)).join());
        if !matches!(made, Ok(Ok(()))) {
            let _ = fs::remove_file(&path);
        }
        made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .with_context(|| format!("cannot make network namespace {name}"))?;
        let mut namespace = Self::open(name)?;
        namespace.keep = false;
        Ok(namespace)
    }

    /// A namespace that exists and stays when this handle is dropped.
    pub fn open(name: &str) -> Result<Self> {
        let file = File::open(path_of(name))
            .with_context(|| format!("there is no network namespace {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            file: Arc::new(file),
            keep: true,
        })
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets it live on when this handle is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Runs `body` on a thread of its own inside the namespace; threads and sockets that it makes
    /// are in there too. A panic of `body` goes on in the caller.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let inside = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&*self.file, CloneFlags::CLONE_NEWNET)
                        .unwrap_or_else(|error| panic!("cannot enter {}: {error}", self.name));
                    body()
                })
                .join()
        });
        inside.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Like [`Self::enter`], without waiting for the end.
    pub fn spawn<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let file = Arc::clone(&self.file);
        let name = self.name.clone();
        thread::spawn(move || {
            setns(&*file, CloneFlags::CLONE_NEWNET)
                .unwrap_or_else(|error| panic!("cannot enter {name}: {error}"));
            body()
        })
    }

    /// A command that will run inside. Only the network is another one: unlike `ip netns exec`,
    /// `/sys` stays, and with it the BPF file system.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = Arc::clone(&self.file);
        // SAFETY: between fork and exec the closure makes one system call on a descriptor that it
        // owns; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(
                move || match libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                },
            );
        }
        command
    }

    /// Runs a command line inside to its end, and returns what it printed; a failure is an error
    /// with its own words.
    pub fn run(&self, line: &[&str]) -> Result<String> {
        let [program, arguments @ ..] = line else {
            bail!("no command given");
        };
        let mut command = self.command(program);
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot start {program}"))?;
        succeeded(&output).with_context(|| format!("in {}: {}", self.name, line.join(" ")))
    }

    /// Gives `script` to `ip -batch -` or `bridge -batch -` inside.
    pub fn batch(&self, program: &str, script: &str) -> Result<()> {
        let mut command = self.command(program);
        feed(command.args(["-batch", "-"]), script)
            .with_context(|| format!("in {}: {program} -batch", self.name))
    }

    /// Writes kernel settings of this namespace: pairs of a path under `/proc/sys/net` and a value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (path, value) in settings {
                fs::write(Path::new("/proc/sys/net").join(path), value)
                    .with_context(|| format!("cannot set net/{path} to {value}"))?;
            }
            Ok(())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.keep {
            remove(&self.name);
        }
    }
}

/// Removes the namespace of this name, if there is one. Processes inside live on without a name.
pub fn remove(name: &str) {
    let path = path_of(name);
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// Names of all namespaces.
pub fn names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(NAMES) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("cannot read /run/netns")?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Feeds `script` to a command of this machine's own namespace, as `ip -batch -`.
pub(crate) fn feed(command: &mut Command, script: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no pipe to the command")?;
    let written = stdin.write_all(script.as_bytes());
    drop(stdin);
    succeeded(&child.wait_with_output()?)?;
    Ok(written?)
}

fn succeeded(output: &Output) -> Result<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        stderr.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn path_of(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// On a thread that ends right after: gives it a new network, and that network a name.
fn unshare_into(path: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("this needs root (CAP_SYS_ADMIN)")?;
    for (setting, value) in [
        ("accept_dad", "0"),
        ("dad_transmits", "0"),
        ("accept_ra", "0"),
    ] {
        for scope in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/{setting}"), value)?;
        }
    }
    let thread_network = Some("/proc/thread-self/ns/net");
    mount(
        thread_network,
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    Ok(())
}
