//! The real daemon in the lab: started with a configuration, asked over its command line, stopped
//! by its handle. Nothing of it is left when the handle is dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dispatcher_user::datapath::FlowTable;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::client;
use crate::config::{Config, METRICS};
use crate::netns::Namespace;
use crate::port_program::{BPF_FS, mount_bpf_fs};
use crate::scratch::{Scratch, unique};
use crate::status::Status;
use crate::topology::Lab;
use crate::{PATIENCE, POLL};

/// A running daemon.
#[derive(Debug)]
pub struct Daemon<'lab> {
    namespace: &'lab Namespace,
    process: Option<Child>,
    files: Files,
    manner: Manner,
}

/// How a daemon is started; by default plainly.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// Words in front of its own: a program that limits it.
    pub through: Vec<String>,
    /// What it finds in its environment, besides what is there.
    pub environment: Vec<(String, String)>,
}

/// Where a daemon keeps its things.
#[derive(Debug)]
pub struct Files {
    scratch: Scratch,
    /// Its configuration.
    pub config: PathBuf,
    /// Its admin socket.
    pub socket: PathBuf,
    /// Directory of its pins.
    pub pin_path: PathBuf,
    /// What it logged.
    pub log: PathBuf,
    /// Where it finds systemd, or what stands in for it; a socket only if a test makes one.
    pub notify: PathBuf,
}

impl Files {
    /// Writes `config` with places that nobody else uses.
    pub fn new(config: &Config) -> Result<Self> {
        let scratch = Scratch::new("daemon")?;
        let socket = scratch.path("admin.sock");
        let pin_path = Path::new(BPF_FS).join(unique("pins"));
        let config = scratch.write("dispatcher.toml", &config.to_toml(&socket, &pin_path))?;
        let log = scratch.path("log");
        let notify = scratch.path("notify");
        Ok(Self {
            scratch,
            config,
            socket,
            pin_path,
            log,
            notify,
        })
    }

    /// Replaces the configuration; the daemon learns of it by `reload`.
    pub fn rewrite(&self, config: &Config) -> Result<()> {
        let toml = config.to_toml(&self.socket, &self.pin_path);
        self.scratch.write("dispatcher.toml", &toml).map(drop)
    }
}

impl<'lab> Daemon<'lab> {
    /// Starts it in the lab's dispatcher and waits until it answers.
    pub fn start(lab: &'lab Lab, config: &Config) -> Result<Self> {
        Self::start_with(lab, Files::new(config)?)
    }

    /// Starts it with files that are there already, as after an earlier daemon.
    pub fn start_with(lab: &'lab Lab, files: Files) -> Result<Self> {
        Self::start_in(lab, files, Manner::default())
    }

    /// Starts it in a manner that its restarts keep.
    pub fn start_in(lab: &'lab Lab, files: Files, manner: Manner) -> Result<Self> {
        let mut daemon = Self::unstarted(lab, files)?;
        daemon.manner = manner;
        daemon.launch()?;
        Ok(daemon)
    }

    /// One that does not run yet; [`Self::restart`] starts it.
    pub fn unstarted(lab: &'lab Lab, files: Files) -> Result<Self> {
        mount_bpf_fs()?;
        Ok(Self {
            namespace: lab.dispatcher(),
            process: None,
            files,
            manner: Manner::default(),
        })
    }

    /// Another manner for the starts that follow.
    pub fn set_manner(&mut self, manner: Manner) {
        self.manner = manner;
    }

    /// Runs `dispatcher run` with `config` to its end: for configurations that it refuses.
    pub fn refused(lab: &Lab, config: &Config) -> Result<Output> {
        mount_bpf_fs()?;
        let files = Files::new(config)?;
        let output = Self::run_to_end(lab.dispatcher(), &files.config)?;
        ensure!(
            !files.pin_path.exists(),
            "refused, but left {}",
            files.pin_path.display()
        );
        Ok(output)
    }

    /// Runs `dispatcher run` to its end, which must come soon.
    pub fn run_to_end(namespace: &Namespace, config: &Path) -> Result<Output> {
        let mut command = dispatcher_in(namespace)?;
        command.args(["run", "--config"]).arg(config);
        let process = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = process.spawn().context("cannot start the daemon")?;
        if wait_until(&mut process, PATIENCE)?.is_none() {
            let _ = process.kill();
            let output = process.wait_with_output()?;
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("the daemon ran where it should have refused: {words}");
        }
        Ok(process.wait_with_output()?)
    }

    fn launch(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.files.log)?;
        let mut command = match self.manner.through.split_first() {
            None => dispatcher_in(self.namespace)?,
            Some((program, arguments)) => {
                let mut command = self.namespace.command(program);
                command.args(arguments).arg(binary()?);
                command
            }
        };
        command.args(["run", "--config"]).arg(&self.files.config);
        command.env("NOTIFY_SOCKET", &self.files.notify);
        command
            .envs(self.manner.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.process = Some(command.spawn().context("cannot start the daemon")?);
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.exited()? {
                bail!("the daemon ended ({status}):\n{}", self.log());
            }
            if self.try_status().is_ok() {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "the daemon does not answer after {PATIENCE:?}:\n{}",
                self.log()
            );
            std::thread::sleep(POLL);
        }
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        let process = self.process.as_mut().context("the daemon is not running")?;
        Ok(process.try_wait()?)
    }

    /// Its paths.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Processor time that all its threads have used.
    pub fn processor_time(&self) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // Nanoseconds on a processor, waiting for one, and times.
            let line = fs::read_to_string(task?.path().join("schedstat"))?;
            let nanos = line.split(' ').next().and_then(|text| text.parse().ok());
            total += Duration::from_nanos(nanos.context("no schedstat")?);
        }
        Ok(total)
    }

    /// The most memory that it ever had, bytes.
    pub fn memory_peak(&self) -> Result<u64> {
        self.kernel_tells("VmHWM:")
    }

    /// The memory that it has now, bytes.
    pub fn memory(&self) -> Result<u64> {
        self.kernel_tells("VmRSS:")
    }

    fn kernel_tells(&self, what: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.with_context(|| format!("no {what}"))?.trim().parse()?;
        Ok(kib << 10)
    }

    /// Descriptors that it has open.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// The flow table that it has pinned, or has left behind.
    pub fn flow_table(&self) -> Result<FlowTable> {
        Ok(FlowTable::open_pinned(&self.files().pin_path)?)
    }

    /// Entries in it.
    pub fn flow_entries(&self) -> Result<usize> {
        let mut entries = 0;
        self.flow_table()?.for_each(|_, _| entries += 1)?;
        Ok(entries)
    }

    /// Sends it a signal that it outlives.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid(), signal)?)
    }

    /// Its process id; panics when it was stopped.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let process = self.process.as_ref().expect("the daemon is running");
        Pid::from_raw(process.id() as i32)
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.exited(), Ok(None))
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.files.log).unwrap_or_default()
    }

    /// Runs a command that talks to it, whatever comes of it.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary()?);
        command
            .args(arguments)
            .arg("--socket")
            .arg(&self.files.socket);
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// Runs a command that talks to it: `["drain", "web/web-1"]`. Returns what that printed.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        ensure!(
            output.status.success(),
            "dispatcher {} ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    fn ask_json(&self, command: &str) -> Result<Value> {
        let text = self.ask(&[command, "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("{command} --json printed {text}"))
    }

    /// Replaces the configuration and has it read; returns what `dispatcher reload` printed.
    pub fn reload(&self, config: &Config) -> Result<String> {
        self.files.rewrite(config)?;
        self.ask(&["reload"])
    }

    /// `dispatcher status --json`.
    pub fn try_status(&self) -> Result<Value> {
        self.ask_json("status")
    }

    /// `dispatcher status --json`; panics with the log when it does not answer.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> Status {
        match self.try_status() {
            Ok(status) => Status(status),
            Err(error) => panic!("no status: {error:#}\n{}", self.log()),
        }
    }

    /// `dispatcher flows --json`.
    pub fn flows(&self) -> Result<Value> {
        self.ask_json("flows")
    }

    /// `dispatcher queue --json`.
    pub fn queue(&self) -> Result<Value> {
        self.ask_json("queue")
    }

    /// `GET` on the metrics page, from inside its namespace.
    pub fn metrics(&self) -> Result<String> {
        client::curl(self.namespace, &[&format!("http://{METRICS}/metrics")])
    }

    /// The sum of all samples of a metric whose labels contain `label`; 0 without any.
    pub fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let page = self.metrics()?;
        let samples = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (metric, labels) = series.split_once('{').unwrap_or((series, ""));
            (metric == name && labels.contains(label)).then(|| value.parse::<f64>().ok())?
        });
        Ok(samples.sum())
    }

    /// Asks it to end (SIGTERM) and waits.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGTERM)
    }

    /// Kills it as a crash would.
    pub fn crash(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGKILL)
    }

    /// Starts it again after [`Self::stop`] or [`Self::crash`].
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon still runs");
        self.launch()
    }

    /// Waits until it has ended by itself; it may have done so while it started.
    pub fn await_end(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the daemon is not running")?;
        match wait_until(&mut process, PATIENCE)? {
            Some(status) => Ok(status),
            None => {
                self.process = Some(process);
                bail!("the daemon still runs:\n{}", self.log())
            }
        }
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the daemon is not running")?;
        kill(Pid::from_raw(process.id() as i32), signal)?;
        if let Some(status) = wait_until(&mut process, PATIENCE)? {
            return Ok(status);
        }
        process.kill()?;
        process.wait()?;
        bail!(
            "the daemon did not end {PATIENCE:?} after {signal}:\n{}",
            self.log()
        )
    }

    /// `dispatcher unload`: detaches the program and removes the pins.
    pub fn unload(&self) -> Result<()> {
        let output = self.run_unload(&[])?;
        ensure!(
            output.status.success(),
            "dispatcher unload ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// `dispatcher unload` with further words, whatever comes of it.
    pub fn run_unload(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = dispatcher_in(self.namespace)?;
        command.args(["unload", "--config"]).arg(&self.files.config);
        Ok(command.args(arguments).stdin(Stdio::null()).output()?)
    }

    /// Stops and unloads; fails if a pin or an attached program is left.
    pub fn finish(mut self) -> Result<()> {
        self.stop()?;
        self.unload()?;
        let pins = &self.files.pin_path;
        ensure!(!pins.exists(), "{} is left after unload", pins.display());
        ensure_detached(self.namespace)
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if self.process.is_some() {
            let _ = self.end(Signal::SIGTERM);
        }
        let _ = self.unload();
        let _ = fs::remove_dir_all(&self.files.pin_path);
        if std::thread::panicking() {
            eprintln!("--- log of the daemon ---\n{}---", self.log());
        }
    }
}

/// Asserts that a command failed, and that its last line has all of these words.
#[track_caller]
pub fn assert_refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().last().unwrap_or_default();
    for word in words {
        assert!(
            line.contains(word),
            "no {word:?} in the last line of:\n{text}"
        );
    }
}

/// Fails if an interface in there still has an XDP program after a while: the kernel detaches one
/// a moment after its last reference is gone, not at once.
pub fn ensure_detached(namespace: &Namespace) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while has_program(namespace)? {
        ensure!(Instant::now() < end, "a program is still attached");
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Whether an interface in there has an XDP program.
pub fn has_program(namespace: &Namespace) -> Result<bool> {
    Ok(namespace
        .run(&["ip", "-details", "link", "show"])?
        .contains("prog/xdp"))
}

/// The `dispatcher` binary: `DISPATCHER_BIN`, or beside this program or a directory above it.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("DISPATCHER_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("dispatcher"))
        .find(|path| path.is_file())
        .context("no dispatcher binary beside this program; build it, or set DISPATCHER_BIN")
}

fn dispatcher_in(namespace: &Namespace) -> Result<Command> {
    Ok(namespace.command(binary()?))
}

/// Waits for the end of a process; `None` when it still runs after `patience`.
pub fn wait_until(process: &mut Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if let Some(status) = process.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(POLL);
    }
    Ok(None)
}
