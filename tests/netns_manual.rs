//! The commands of the manual, run: each block says in its first line where, or why it cannot be
//! run here. `sh lab` runs beside a daemon that serves, `sh client` at one of its clients,
//! `sh machine` on a machine with nothing set up but two interfaces; blocks of one section run on
//! the same. With `fails` a block must end with 1. What a `text prints` block shows was printed by
//! the block before.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use dispatcher_tests::config::{Config, SERVICE_PORT};
use dispatcher_tests::daemon::{Daemon, binary};
use dispatcher_tests::scenario::on_all;
use dispatcher_tests::scratch::Scratch;
use dispatcher_tests::topology::{Family, Topology};
use dispatcher_tests::{client, server};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const CONFIG: &str = "/etc/dispatcher/dispatcher.toml";
const SOCKET: &str = "/run/dispatcher/admin.sock";
const PINS: &str = "/sys/fs/bpf/dispatcher";

/// Where a block of commands is run.
const PLACES: [&str; 3] = ["lab", "client", "machine"];
/// Why one is not: it installs on the machine, wants a network card, is of the source tree (which
/// CI runs), wants a person at a terminal, or is for another machine.
const REASONS: [&str; 5] = ["install", "hardware", "source", "terminal", "elsewhere"];

/// Seconds that a block may take, on a loaded machine too.
const BLOCK_SECONDS: &str = "30";

/// A machine before it is set up: what its interfaces lead to takes frames and finishes checksums.
const MACHINE: &str = r#"
mount -t tmpfs none /run
mkdir /run/dispatcher
mount -t bpf none /sys/fs/bpf
ip link set lo up
for i in eth0 eth1; do
    ip link add $i type veth peer name $i-peer
    ethtool -K $i-peer tx off gro on >/dev/null
    ip link set $i-peer up
done
sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
"#;

/// A fenced block.
struct Block {
    document: String,
    /// That of the fence, counted from 1.
    line: usize,
    /// Headings of second level before it.
    section: usize,
    words: Vec<String>,
    text: String,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.document, self.line)
    }
}

impl Block {
    fn is(&self, word: &str) -> bool {
        self.words.iter().any(|given| given == word)
    }

    fn is_run_at(&self, place: &str) -> bool {
        self.words[0] == "sh" && self.is(place)
    }
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    let mut documents = vec![root.join("README.md")];
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "md") {
            documents.push(path);
        }
    }
    documents.sort_unstable();
    documents
}

fn blocks() -> Vec<Block> {
    let documents = documents();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(ROOT).unwrap().display().to_string();
        blocks_of(&name, &fs::read_to_string(path).unwrap())
    };
    documents.iter().flat_map(read).collect()
}

fn blocks_of(document: &str, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut inside, mut section) = (false, 0);
    for (line, number) in text.lines().zip(1..) {
        match line.strip_prefix("```") {
            Some(_) if inside => inside = false,
            Some(words) => {
                inside = true;
                blocks.push(Block {
                    document: document.to_owned(),
                    line: number,
                    section,
                    words: words.split(' ').map(str::to_owned).collect(),
                    text: String::new(),
                });
            }
            None if inside => {
                let block = blocks.last_mut().unwrap();
                block.text.push_str(line);
                block.text.push('\n');
            }
            None => section += usize::from(line.starts_with("## ")),
        }
    }
    blocks
}

#[test]
fn every_block_of_commands_says_where_it_is_run_or_why_not() {
    let blocks = blocks();
    let (mut run, mut not) = (0, 0);
    for (index, block) in blocks.iter().enumerate() {
        let words: Vec<_> = block.words.iter().map(String::as_str).collect();
        match words[..] {
            ["sh", place] | ["sh", place, "fails"] if PLACES.contains(&place) => run += 1,
            ["sh", reason] if REASONS.contains(&reason) => not += 1,
            ["text", "prints"] => {
                let before = blocks[..index].last().expect("a block before it");
                let near = before.document == block.document && before.section == block.section;
                let place = PLACES.iter().any(|place| before.is_run_at(place));
                assert!(near && place, "{block}: nothing before it is run");
            }
            ["text" | "toml" | "json" | "yaml"] => {}
            _ => panic!("{block}: `{}` is no mark", words.join(" ")),
        }
    }
    println!("{run} blocks are run, {not} are not");
    assert!(run > not, "{run} blocks are run, {not} are not");
}

#[test]
fn what_the_manual_does_beside_a_daemon_works() {
    let lab = Topology::default().up().unwrap();
    let _servers = on_all(&lab, || server::http(Duration::from_millis(2)));
    let mut config = Config::new(&lab, Family::V4, 64);
    config.web().policy = "queue-depth";
    config
        .web()
        .backends
        .iter_mut()
        .for_each(|backend| backend.initial = Some(10));
    let daemon = Daemon::start(&lab, &config).unwrap();
    let service = lab.service(Family::V4, SERVICE_PORT);
    lab.client(0).enter(|| client::fetch(service)).unwrap();
    let files = daemon.files();
    let places = [
        (CONFIG, files.config.display().to_string()),
        (SOCKET, files.socket.display().to_string()),
        (PINS, files.pin_path.display().to_string()),
    ];
    let mut printed = None;
    for block in blocks() {
        if block.is("prints") {
            if let Some(printed) = printed.take() {
                assert_eq!(block.text, printed, "{block}");
            }
            continue;
        }
        let (name, namespace) = match () {
            () if block.is_run_at("lab") => ("lab", lab.dispatcher()),
            () if block.is_run_at("client") => ("client", lab.client(0)),
            () => {
                printed = None;
                continue;
            }
        };
        let text = places.iter().fold(block.text.clone(), |text, (from, to)| {
            text.replace(from, to)
        });
        let mut bash = namespace.command("timeout");
        bash.args([BLOCK_SECONDS, "bash", "-euo", "pipefail", "-c"]);
        bash.arg(format!("exec 2>&1\n{text}"));
        bash.env("DISPATCHER_SOCKET", &files.socket);
        let told = run(bash, &block, name);
        let back = |text: String, (from, to): &(&str, String)| text.replace(to, from);
        printed = Some(places.iter().fold(told, back));
    }
    daemon.finish().unwrap();
}

#[test]
fn what_the_manual_does_on_a_machine_works() {
    let mut sections: Vec<Vec<Block>> = Vec::new();
    for block in blocks()
        .into_iter()
        .filter(|block| block.is_run_at("machine"))
    {
        match sections.last_mut() {
            Some(section)
                if section[0].document == block.document && section[0].section == block.section =>
            {
                section.push(block);
            }
            _ => sections.push(vec![block]),
        }
    }
    assert!(!sections.is_empty());
    for section in &sections {
        let etc = Scratch::new("manual").unwrap();
        let texts: String = section.iter().map(|block| block.text.as_str()).collect();
        let own = etc.path("").display().to_string();
        let texts = texts.replace("/etc/dispatcher/", &own);
        // All that is started, mounted and made goes with the first process.
        let mut bash = Command::new("timeout");
        bash.args([
            "--foreground",
            BLOCK_SECONDS,
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
        ]);
        bash.args([
            "--kill-child",
            "--mount-proc",
            "bash",
            "-euo",
            "pipefail",
            "-c",
        ]);
        bash.arg(format!("exec 2>&1\n{MACHINE}\nset -x\n{texts}"));
        run(bash, &section[0], "machine");
    }
}

/// Runs a block and judges how it ended; what it printed.
fn run(mut bash: Command, block: &Block, place: &str) -> String {
    let programs = binary().unwrap().parent().unwrap().to_path_buf();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [programs].into_iter().chain(std::env::split_paths(&path));
    bash.env("PATH", std::env::join_paths(path).unwrap());
    bash.current_dir(ROOT).stdin(Stdio::null());
    let output = bash.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = i32::from(block.is("fails"));
    assert_eq!(
        output.status.code(),
        Some(expected),
        "{block}, run at {place}:\n{}\nprinted:\n{printed}",
        block.text
    );
    printed
}

#[test]
fn blocks_are_found_with_their_marks() {
    let text = "# a\n```sh lab fails\nx\ny\n```\n## b\n```text prints\n```\n";
    let blocks = blocks_of("doc.md", text);
    assert_eq!(blocks.len(), 2);
    assert_eq!((blocks[0].line, blocks[0].section), (2, 0));
    assert!(blocks[0].is_run_at("lab") && blocks[0].is("fails"));
    assert_eq!(blocks[0].text, "x\ny\n");
    assert_eq!((blocks[1].line, blocks[1].section), (7, 1));
    assert!(!blocks[1].is_run_at("lab"));
}
