//! Apache with PHP inside, as a back-end that real overload hurts: a process for each request
//! (prefork, the numbers that Debian gives it), all of them within a limit of memory.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::cgroup::{MemoryGroup, MemoryUse};
use crate::scratch::Scratch;
use crate::topology::{Family, Node};
use crate::{PATIENCE, POLL, client};

/// Requests in service at most, `MaxRequestWorkers`; 511 more wait in the listener's backlog.
pub const WORKERS_MAX: u32 = 150;
/// How every whole page ends.
pub const PAGE_END: &str = "lines matched\n";
/// Where Debian has the modules.
const MODULES: &str = "/usr/lib/apache2/modules";
/// Rows that queries lock.
const LOCKS: u32 = 16;

/// A page as from a database: an answer of 2 MiB is kept while two more queries run, each of which
/// locks one of [`LOCKS`] rows for 16 ms and is matched with all of the answer.
const PAGE: &str = r#"<?php
$answer = str_repeat(md5('items') . "\n", 65536);
$lines = 0;
foreach (['prices', 'stock'] as $query) {
    $row = fopen('../locks/' . random_int(1, LOCKS), 'r');
    flock($row, LOCK_EX);
    usleep(16000);
    fclose($row);
    for ($at = 32; $at < strlen($answer); $at += 33 * 64) {
        $lines += $answer[$at] === "\n" ? 64 : 0;
    }
}
echo $lines, " PAGE_END";
"#;

/// A running Apache.
#[derive(Debug)]
pub struct Apache {
    process: Child,
    scratch: Scratch,
    group: MemoryGroup,
}

/// A line of its log: a request that it has finished, whether or not the client still waited.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// When, since the Unix epoch.
    pub at: Duration,
    /// From the request's first byte to the response's last.
    pub took: Duration,
    /// Whether the page was made.
    pub whole: bool,
}

impl Apache {
    /// Serves the page at this port of all addresses, within `memory` bytes; returns when it
    /// answers.
    pub fn start(node: &Node, port: u16, memory: u64) -> Result<Self> {
        let group = MemoryGroup::new(memory)?;
        let scratch = Scratch::new("apache")?;
        fs::create_dir(scratch.path("locks"))?;
        for row in 1..=LOCKS {
            scratch.write(&format!("locks/{row}"), "")?;
        }
        fs::create_dir(scratch.path("www"))?;
        let page = PAGE
            .replace("LOCKS", &LOCKS.to_string())
            .replace("PAGE_END", PAGE_END);
        scratch.write("www/index.php", &page)?;
        let config = scratch.write("apache.conf", &configuration(port, &scratch)?)?;
        let mut command = node.command("apache2");
        command
            .args(["-D", "FOREGROUND", "-d"])
            .arg(scratch.path(""))
            .arg("-f")
            .arg(&config);
        let output = fs::File::create(scratch.path("stderr"))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        // When it ends it sends a signal to its whole process group.
        command.process_group(0);
        group.confine(&mut command)?;
        confine_to_last_processor(&mut command)?;
        let process = command.spawn().context("cannot start apache2")?;
        let mut apache = Self {
            process,
            scratch,
            group,
        };
        apache.wait_for(node, port)?;
        Ok(apache)
    }

    fn wait_for(&mut self, node: &Node, port: u16) -> Result<()> {
        let at = node.at(Family::V4, port);
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = node.enter(|| client::fetch_within(at, PATIENCE));
            if answer.is_ok_and(|answer| is_whole(answer.as_bytes())) {
                return Ok(());
            }
            if Instant::now() > end || self.process.try_wait()?.is_some() {
                let words = |name| fs::read_to_string(self.scratch.path(name)).unwrap_or_default();
                bail!(
                    "Apache makes no page at {at}: {}{}",
                    words("stderr"),
                    words("errors")
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// Its processes, the one that starts the others not counted.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.group.processes().saturating_sub(1)
    }

    /// Its memory.
    pub fn memory(&self) -> Result<MemoryUse> {
        self.group.usage()
    }

    /// What it has finished since it started.
    pub fn finished(&self) -> Result<Vec<Finished>> {
        let log = fs::read_to_string(self.scratch.path("log"))?;
        let line = |line: &str| {
            let mut columns = line.split(' ');
            let at = columns.next()?.parse().ok()?;
            let took = columns.next()?.parse().ok()?;
            Some(Finished {
                at: Duration::from_millis(at),
                took: Duration::from_micros(took),
                whole: columns.next()? == "200",
            })
        };
        // The last line may be half written.
        Ok(log.lines().filter_map(line).collect())
    }
}

/// Overload is the server's: whoever measures it keeps the other processors.
fn confine_to_last_processor(command: &mut Command) -> Result<()> {
    let own = sched_getaffinity(Pid::from_raw(0))?;
    let mut processors = (0..CpuSet::count()).filter(|cpu| own.is_set(*cpu) == Ok(true));
    let mut last = CpuSet::new();
    last.set(processors.next_back().context("no processor")?)?;
    let confine = move || Ok(sched_setaffinity(Pid::from_raw(0), &last)?);
    // SAFETY: between fork and exec the closure makes one system call on a value that it owns; it
    // allocates nothing and takes no lock.
    unsafe { command.pre_exec(confine) };
    Ok(())
}

impl Drop for Apache {
    fn drop(&mut self) {
        // Under pressure it would take its time to end; its workers go with the group.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether these bytes are a response with the whole page.
#[must_use]
pub fn is_whole(response: &[u8]) -> bool {
    response.starts_with(b"HTTP/1.1 200 ") && response.ends_with(PAGE_END.as_bytes())
}

/// What the program says of its version.
pub fn version() -> Result<String> {
    let output = Command::new("apache2")
        .arg("-v")
        .output()
        .context("no apache2 here; `cargo xtask bench overload` installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("Server version: "));
    Ok(version.unwrap_or("Apache").to_owned())
}

/// PHP's module, whose name has its version.
fn php() -> Result<PathBuf> {
    let modules = fs::read_dir(MODULES).context("Apache has no modules here")?;
    let paths = modules.filter_map(|entry| Some(entry.ok()?.path()));
    let newest = paths
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libphp") && name.ends_with(".so")
        })
        .max();
    newest.with_context(|| format!("no PHP for Apache in {MODULES}"))
}

/// The numbers of workers are those of Debian's `mpm_prefork.conf`.
fn configuration(port: u16, scratch: &Scratch) -> Result<String> {
    let directory = scratch.path("");
    let directory = directory.display().to_string();
    let php = php()?.display().to_string();
    ensure!(
        !directory.contains(['"', '\\']),
        "Apache cannot be told of {directory}"
    );
    Ok(format!(
        "ServerName lab\n\
         Listen {port}\n\
         DefaultRuntimeDir \"{directory}\"\n\
         PidFile \"{directory}pid\"\n\
         Mutex \"fcntl:{directory}\" default\n\
         ErrorLog \"{directory}errors\"\n\
         LogLevel warn\n\
         LoadModule mpm_prefork_module {MODULES}/mod_mpm_prefork.so\n\
         LoadModule authz_core_module {MODULES}/mod_authz_core.so\n\
         LoadModule dir_module {MODULES}/mod_dir.so\n\
         LoadModule php_module \"{php}\"\n\
         User www-data\n\
         Group www-data\n\
         StartServers 5\n\
         MinSpareServers 5\n\
         MaxSpareServers 10\n\
         MaxRequestWorkers {WORKERS_MAX}\n\
         MaxConnectionsPerChild 0\n\
         KeepAlive Off\n\
         DocumentRoot \"{directory}www\"\n\
         DirectoryIndex index.php\n\
         <FilesMatch \"\\.php$\">\n\
         SetHandler application/x-httpd-php\n\
         </FilesMatch>\n\
         LogFormat \"%{{end:msec}}t %D %>s\" times\n\
         CustomLog \"{directory}log\" times\n"
    ))
}
