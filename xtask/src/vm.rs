//! Tests on the oldest kernel that the README promises, in a virtual machine: Debian's own kernel,
//! with this machine's files, which it can only read. All of it is emulated.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use xtask::bpf;
use xtask::command::{self, Runner};

use crate::cargo::TESTS_PACKAGE;
use crate::privilege;

/// The oldest kernel that the README promises, as Debian 12 has it; the newest build of it is
/// taken.
const RELEASE: &str = "6.1.0";
/// A kernel package of Debian's that is there already, in place of the one from apt.
const KERNEL: &str = "DISPATCHER_VM_KERNEL";
/// What the machine needs to get at the files, and the devices that tests make. What they depend
/// on is loaded before them.
const MODULES: [&str; 6] = [
    "9p",
    "9pnet_virtio",
    "virtio_pci",
    "veth",
    "bridge",
    "8021q",
];
/// Longest that all of it may take. An emulated processor does a tenth of the work.
const LIMIT: Duration = Duration::from_secs(3600);
const MEMORY_MIB: u32 = 1536;
/// Lines of the console that are shown when the machine ended without a word.
const LAST_LINES: usize = 40;
/// What precedes the tests on the console, and each of what came of them.
const BEGUN: &str = "dispatcher-vm: begun";
const ENDED: &str = "dispatcher-vm: ended ";

/// A test binary.
pub struct Test {
    /// Its target.
    pub name: String,
    /// Where cargo put it.
    pub executable: PathBuf,
}

/// Runs test binaries in the machine, one after the other, with `dispatcher` to test.
pub fn run(
    tests: &[Test],
    dispatcher: &Path,
    arguments: &[OsString],
    runner: Runner,
) -> Result<()> {
    let directory = bpf::target_directory().join("vm");
    let kernel = Kernel::find(&directory, runner)?;
    if runner.dry_run {
        return runner.run(&mut machine(&kernel, &directory.join("initramfs")));
    }
    let script = script(tests, dispatcher, arguments);
    let initramfs = pack(&directory, &kernel, &script)?;
    let mut machine = machine(&kernel, &initramfs);
    eprintln!("$ {}", command::describe(&machine));
    let begun = Instant::now();
    let machine = Machine(
        machine
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the virtual machine")?,
    );
    let failed = machine.watch(tests, begun + LIMIT)?;
    eprintln!(
        "{} took {:.0} s on {}",
        counted(tests.len(), "target"),
        begun.elapsed().as_secs_f64(),
        kernel.release
    );
    if failed.is_empty() {
        return Ok(());
    }
    let lines = failed
        .iter()
        .map(|name| format!("\n    `-p {TESTS_PACKAGE} --test {name}`"));
    bail!(
        "{} failed on {}:{}",
        counted(failed.len(), "target"),
        kernel.release,
        lines.collect::<String>()
    )
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// An unpacked kernel package.
struct Kernel {
    /// As `uname -r` would say.
    release: String,
    image: PathBuf,
    /// Directory of `modules.dep`.
    modules: PathBuf,
}

impl Kernel {
    /// The one in `DISPATCHER_VM_KERNEL`, or one from apt, unpacked below `directory` unless it is
    /// there.
    fn find(directory: &Path, runner: Runner) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let package = match std::env::var_os(KERNEL) {
            Some(path) => PathBuf::from(path),
            None => download(directory, runner)?,
        };
        let name = package.file_stem().context("the package has no name")?;
        let root = directory.join(name);
        if !root.exists() && !runner.dry_run {
            // Under another name until it is whole.
            let half = directory.join("unpacking");
            let _ = fs::remove_dir_all(&half);
            command::run(Command::new("dpkg-deb").arg("-x").args([&package, &half]))?;
            let release = release_in(&half)?;
            let depmod = privilege::find("depmod").context("there is no depmod")?;
            command::run(Command::new(depmod).arg("-b").arg(&half).arg(&release))?;
            fs::rename(&half, &root)?;
        }
        let release = if runner.dry_run && !root.exists() {
            RELEASE.to_owned()
        } else {
            release_in(&root)?
        };
        Ok(Self {
            image: root.join(format!("boot/vmlinuz-{release}")),
            modules: root.join("lib/modules").join(&release),
            release,
        })
    }

    /// Files of the modules, each after those that it depends on.
    fn modules(&self) -> Result<Vec<PathBuf>> {
        let path = self.modules.join("modules.dep");
        let known = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let order = load_order(&known, &MODULES)?;
        Ok(order.iter().map(|file| self.modules.join(file)).collect())
    }
}

/// The only kernel in an unpacked package.
fn release_in(root: &Path) -> Result<String> {
    let modules = root.join("lib/modules");
    let mut found = fs::read_dir(&modules)
        .with_context(|| format!("no kernel's modules in {}", modules.display()))?;
    let first = found.next().context("no kernel's modules")??;
    Ok(first.file_name().to_string_lossy().into_owned())
}

/// Files by `modules.dep`, whose lines tell of each what it needs, the innermost last.
fn load_order<'a>(known: &'a str, wanted: &[&str]) -> Result<Vec<&'a str>> {
    let mut order: Vec<&str> = Vec::new();
    for name in wanted {
        let end = format!("/{name}.ko");
        let line = known
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(file, _)| file.ends_with(&end));
        let (file, needs) = line.with_context(|| {
            format!("the kernel has no module {name}, or a compressed one, as Debian 12's are not")
        })?;
        for each in needs.split_whitespace().rev().chain([file]) {
            if !order.contains(&each) {
                order.push(each);
            }
        }
    }
    Ok(order)
}

/// The newest build that apt knows, downloaded unless it is there.
fn download(directory: &Path, runner: Runner) -> Result<PathBuf> {
    let pattern = format!("^linux-image-{}-[0-9]+-amd64$", RELEASE.replace('.', r"\."));
    let found = command::ask(Command::new("apt-cache").args(["--names-only", "search", &pattern]))
        .with_context(|| format!("without Debian's apt, name a kernel package in {KERNEL}"))?;
    let package = newest(&found).with_context(|| {
        format!("apt knows no kernel {RELEASE}: add Debian 12's archive, or name one in {KERNEL}")
    })?;
    let begins = format!("{package}_");
    if let Some(there) = file_in(directory, &begins)? {
        return Ok(there);
    }
    // As whoever runs this: it is only unpacked, not installed.
    let mut apt = Command::new("apt-get");
    runner.run(
        apt.current_dir(directory)
            .args(["--quiet", "download", package]),
    )?;
    if runner.dry_run {
        return Ok(directory.join(format!("{package}.deb")));
    }
    file_in(directory, &begins)?.context("apt-get has downloaded nothing")
}

/// Of lines that begin with a package's name, the name with the highest build.
fn newest(found: &str) -> Option<&str> {
    let names = found.lines().filter_map(|line| line.split(' ').next());
    names.max_by_key(|name| {
        let build = name.trim_end_matches("-amd64").rsplit('-').next();
        build.and_then(|build| build.parse::<u32>().ok())
    })
}

fn file_in(directory: &Path, begins: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(begins) && name.ends_with(".deb") {
            return Ok(Some(directory.join(name)));
        }
    }
    Ok(None)
}

/// What the machine runs in the place of an init, before it has this machine's files.
fn init(modules: &[PathBuf]) -> String {
    let names = modules.iter().filter_map(|path| path.file_name());
    let load: String = names
        .map(|name| format!("insmod /{}\n", name.to_string_lossy()))
        .collect();
    format!(
        "#!/busybox sh\n\
         set -e\n\
         trap '/busybox poweroff -f' EXIT\n\
         export PATH=/\n\
         for applet in cat chroot insmod mkdir mount; do /busybox ln -s /busybox $applet; done\n\
         {load}\
         mkdir /host\n\
         mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,ro,msize=524288 host /host\n\
         mount -t proc proc /host/proc\n\
         mount -t sysfs sys /host/sys\n\
         mount -t bpf bpf /host/sys/fs/bpf\n\
         mount -t devtmpfs dev /host/dev\n\
         mount -t tmpfs tmpfs /host/tmp\n\
         mount -t tmpfs tmpfs /host/run\n\
         chroot /host /bin/sh -c \"$(cat /script)\" < /host/dev/null\n"
    )
}

/// What it runs then.
fn script(tests: &[Test], dispatcher: &Path, arguments: &[OsString]) -> String {
    let mut script = String::from(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         export HOME=/tmp\n\
         ip link set lo up\n",
    );
    script.push_str(&format!("echo; echo '{BEGUN}'\n"));
    let package = bpf::workspace().join("tests");
    let mut at = Command::new("cd");
    script.push_str(&format!("{}\n", command::describe(at.arg(package))));
    for test in tests {
        let mut command = Command::new(&test.executable);
        command
            .env("DISPATCHER_BIN", dispatcher)
            .args(arguments)
            // Those of VLAN devices are ignored elsewhere, where there are none.
            .args(["--test-threads=1", "--include-ignored"]);
        script.push_str(&format!(
            "echo '     Running {name}'\n{}\necho \"{ENDED}{name} $?\"\n",
            command::describe(&command),
            name = test.name
        ));
    }
    script
}

/// Makes the initial file system: busybox, the modules, what to run.
fn pack(directory: &Path, kernel: &Kernel, script: &str) -> Result<PathBuf> {
    let root = directory.join("root");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    let busybox = privilege::find("busybox").context("there is no busybox")?;
    let modules = kernel.modules()?;
    let mut names = vec!["busybox".to_owned()];
    fs::copy(busybox, root.join("busybox"))?;
    for module in &modules {
        let name = module.file_name().context("a module without a name")?;
        fs::copy(module, root.join(name)).with_context(|| module.display().to_string())?;
        names.push(name.to_string_lossy().into_owned());
    }
    for (name, text) in [("init", &*init(&modules)), ("script", script)] {
        fs::write(root.join(name), text)?;
        names.push(name.to_owned());
    }
    command::run(Command::new("chmod").arg("755").arg(root.join("init")))?;
    let initramfs = directory.join("initramfs");
    let mut cpio = Command::new("cpio");
    cpio.current_dir(&root)
        .args(["--create", "--format=newc", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(File::create(&initramfs)?);
    let mut packing = cpio.spawn().context("cannot run cpio")?;
    let mut list = packing.stdin.take().context("no pipe to cpio")?;
    list.write_all(names.join("\n").as_bytes())?;
    drop(list);
    let status = packing.wait()?;
    ensure!(status.success(), "cpio: {status}");
    Ok(initramfs)
}

fn machine(kernel: &Kernel, initramfs: &Path) -> Command {
    let processors = thread::available_parallelism().map_or(1, |count| count.get().min(4));
    let mut qemu = Command::new("qemu-system-x86_64");
    // Emulated also where there is KVM: in a virtual machine that is often there and hangs.
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-smp", &processors.to_string()])
        .args(["-m", &MEMORY_MIB.to_string()])
        .args(["-nographic", "-no-reboot", "-nic", "none"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .args([
            "-virtfs",
            "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        ]);
    qemu
}

/// A running machine, which ends with its handle.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    /// Shows what the tests say; returns the names of those that failed.
    fn watch(mut self, tests: &[Test], end: Instant) -> Result<Vec<String>> {
        let console = self.0.stdout.take().context("the machine has no console")?;
        let (line, lines) = mpsc::channel();
        let reader = thread::spawn(move || {
            for text in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&text);
                if line.send(text.trim_end_matches('\r').to_owned()).is_err() {
                    return;
                }
            }
        });
        let mut report = Report::default();
        loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if report.hears(&line) {
                        println!("{line}");
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the virtual machine did not end within {LIMIT:?}")
                }
            }
        }
        drop(self);
        let _ = reader.join();
        report.failed(tests)
    }
}

/// What the console told.
#[derive(Default)]
struct Report {
    begun: bool,
    ended: Vec<(String, i32)>,
    last: VecDeque<String>,
}

impl Report {
    /// Takes a line; returns whether it is one of the tests'.
    fn hears(&mut self, line: &str) -> bool {
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
        if line == BEGUN {
            self.begun = true;
            return false;
        }
        let ended = line
            .strip_prefix(ENDED)
            .and_then(|rest| rest.split_once(' '))
            .and_then(|(name, code)| Some((name.to_owned(), code.parse().ok()?)));
        let own = ended.is_some();
        self.ended.extend(ended);
        self.begun && !own
    }

    /// The tests that ended with anything but success.
    fn failed(&self, tests: &[Test]) -> Result<Vec<String>> {
        let code = |name: &str| {
            let mut ended = self.ended.iter();
            ended.find_map(|(each, code)| (each == name).then_some(*code))
        };
        if let Some(missing) = tests.iter().find(|test| code(&test.name).is_none()) {
            let last: Vec<_> = self.last.iter().map(String::as_str).collect();
            bail!(
                "the virtual machine ended before {} did; its last words:\n{}",
                missing.name,
                last.join("\n")
            );
        }
        let names = tests.iter().map(|test| test.name.clone());
        Ok(names.filter(|name| code(name) != Some(0)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_loaded_after_what_it_needs_and_once() {
        let known = "kernel/a/bridge.ko: kernel/a/stp.ko kernel/a/llc.ko\n\
                     kernel/a/stp.ko: kernel/a/llc.ko\n\
                     kernel/a/8021q.ko: kernel/a/garp.ko kernel/a/stp.ko kernel/a/llc.ko\n";
        let order = load_order(known, &["bridge", "8021q"]).unwrap();
        let names = ["llc", "stp", "bridge", "garp", "8021q"];
        assert_eq!(order, names.map(|name| format!("kernel/a/{name}.ko")));
        assert!(load_order(known, &["veth"]).is_err());
    }

    #[test]
    fn the_newest_build_has_the_highest_number() {
        let found = "linux-image-6.1.0-9-amd64 - a kernel\nlinux-image-6.1.0-56-amd64 - a kernel\n";
        assert_eq!(newest(found), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(newest(""), None);
    }

    fn tests() -> [Test; 2] {
        ["verifier", "contract"].map(|name| Test {
            name: name.to_owned(),
            executable: PathBuf::from(format!("/t/{name}")),
        })
    }

    fn report(console: &[&str]) -> Report {
        let mut report = Report::default();
        for line in console {
            report.hears(line);
        }
        report
    }

    #[test]
    fn what_the_tests_say_is_shown_and_what_the_machine_says_is_not() {
        let mut report = Report::default();
        assert!(!report.hears("SeaBIOS"));
        assert!(!report.hears(BEGUN));
        assert!(report.hears("test result: ok."));
        assert!(!report.hears("dispatcher-vm: ended verifier 0"));
    }

    #[test]
    fn a_test_has_failed_when_it_says_so_or_says_nothing() {
        let ended = |codes: [u32; 2]| {
            let first = format!("{ENDED}verifier {}", codes[0]);
            let second = format!("{ENDED}contract {}", codes[1]);
            report(&[BEGUN, &first, &second])
        };
        assert!(ended([0, 0]).failed(&tests()).unwrap().is_empty());
        assert_eq!(ended([0, 101]).failed(&tests()).unwrap(), ["contract"]);
        let silent = report(&[BEGUN, "dispatcher-vm: ended verifier 0", "Kernel panic"]);
        let words = silent.failed(&tests()).unwrap_err().to_string();
        assert!(words.contains("before contract did"), "{words}");
        assert!(words.ends_with("Kernel panic"), "{words}");
    }
}
