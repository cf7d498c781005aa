//! What the daemon may do once it runs, and who else may reach what is its: no thread of it has
//! more than running takes, nothing that it does then takes more, and no other user gets at its
//! pins or its socket.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::{self, Daemon, Files, Manner};
use dispatcher_tests::port_program::{BPF_FS, mount_bpf_fs};
use dispatcher_tests::privilege::{self, RUNNING};
use dispatcher_tests::scenario::{assert_settles, on_all};
use dispatcher_tests::scratch::{Scratch, unique};
use dispatcher_tests::server::{self, Server};
use dispatcher_tests::topology::{Family, Lab, Topology};
use dispatcher_tests::{PATIENCE, client, eventually};
use dispatcher_user::datapath::{AttachMode, Datapath, DatapathConfig, unload};
use dispatcher_user::privileges;
use dispatcher_user::xsk::{XskConfig, XskSocket};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// `nobody`, who owns nothing.
const NOBODY: u32 = 65534;

fn lab() -> Lab {
    Topology::default().up().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_daemon_that_root_starts_keeps_three_capabilities_and_does_all_its_work_with_them() {
    let lab = lab();
    let servers = on_all(&lab, || server::echo);
    let service = lab.service(Family::V4, SERVICE_PORT);
    let connect = || lab.client(0).enter(|| client::connect(service)).unwrap();
    let mut config = Config::new(&lab, Family::V4, 4);
    config.on_exit = "keep";
    let second = config.web().backends.pop().unwrap();
    let mut daemon = Daemon::start(&lab, &config).unwrap();
    let assert_few = |daemon: &Daemon<'_>| {
        let threads = privilege::of_threads(daemon.pid()).unwrap();
        assert!(threads.contains_key("admission"), "{threads:?}");
        for (name, has) in threads {
            assert_eq!(has.effective, RUNNING, "{name}");
            assert_eq!(has.permitted, RUNNING, "{name}");
            assert_eq!((has.inheritable, has.ambient), (0, 0), "{name}");
            assert_eq!(has.bounding, 0, "{name}");
            assert!(has.no_new_privileges, "{name}");
        }
    };
    assert_few(&daemon);
    assert!(
        daemon.log().contains("kept=NET_ADMIN, NET_RAW, IPC_LOCK"),
        "{}",
        daemon.log()
    );

    let mut held = connect();
    assert_eq!(client::exchange(&mut held, b"one").unwrap(), b"one");
    assert_eq!(
        daemon.flows().unwrap()["flows"].as_array().unwrap().len(),
        1
    );
    daemon.ask(&["ceiling", "web/web-1", "1"]).unwrap();
    // A back-end that comes takes elements of maps, and its neighbour is the kernel's to keep.
    config.web().backends.push(second);
    let told = daemon.reload(&config).unwrap();
    assert!(told.contains("web-2"), "{told}");
    let mut other = connect();
    assert_eq!(client::exchange(&mut other, b"two").unwrap(), b"two");
    assert_eq!(servers[1].count().active(), 1, "web-1 is at its ceiling");
    daemon.ask(&["drain", "web/web-1"]).unwrap();
    daemon.ask(&["resume", "web/web-1"]).unwrap();
    daemon.ask(&["disable", "web/web-2"]).unwrap();
    eventually(PATIENCE, "its connections are reset", || {
        client::exchange(&mut other, b"gone").is_err()
    });
    assert!(daemon.metrics().unwrap().contains("dispatcher_"));
    assert_few(&daemon);

    eventually(PATIENCE, "its flow has left the table", || {
        daemon.status().flows() == 1
    });
    daemon.crash().unwrap();
    daemon.restart().unwrap();
    assert_eq!(daemon.status().active(), 1, "the flow was adopted");
    assert_eq!(client::exchange(&mut held, b"after").unwrap(), b"after");
    assert_few(&daemon);
    drop(held);
    assert_settles(&daemon);
    // Stopped, unloaded, and nothing is left.
    daemon.finish().unwrap();
}

#[test]
fn with_what_is_kept_a_socket_is_opened_and_the_program_attached_and_nothing_is_loaded() {
    let lab = lab();
    mount_bpf_fs().unwrap();
    let [interface, ..] = lab.topology().interfaces() else {
        panic!("a lab without interfaces");
    };
    let at = |pin_path| DatapathConfig {
        pin_path,
        flow_capacity: 64,
    };
    let pins = [unique("pins"), unique("pins")].map(|name| Path::new(BPF_FS).join(name));
    lab.dispatcher().enter(|| {
        privileges::begin().unwrap();
        let (mut datapath, mut attacher) = Datapath::open(&at(pins[0].clone())).unwrap();
        assert_eq!(
            privileges::settle().unwrap().to_string(),
            "NET_ADMIN, NET_RAW, IPC_LOCK"
        );
        // As for an interface that comes back.
        let socket = XskSocket::open(interface, 0, &XskConfig::default()).unwrap();
        datapath.set_socket(0, socket.fd()).unwrap();
        let interfaces = [(*interface).to_owned()];
        attacher.attach(&interfaces, AttachMode::Native).unwrap();
        let refused = Datapath::open(&at(pins[1].clone())).map(drop).unwrap_err();
        assert!(refused.to_string().contains("refused"), "{refused}");
        assert!(!pins[1].exists(), "refused, but left something");
        drop((datapath, attacher));
        assert_eq!(unload(&pins[0]).unwrap().interfaces, [*interface]);
    });
    daemon::ensure_detached(lab.dispatcher()).unwrap();
}

#[test]
fn no_other_user_reaches_the_pins_and_only_its_group_the_socket() {
    let lab = lab();
    let config = Config::new(&lab, Family::V4, 1);
    let mut files = Files::new(&config).unwrap();
    let directory = files.socket.with_file_name("run");
    files.socket = directory.join("admin.sock");
    files.rewrite(&config).unwrap();
    let daemon = Daemon::start_with(&lab, files).unwrap();
    let (socket, pins) = (&daemon.files().socket, &daemon.files().pin_path);
    assert_eq!((mode(&directory), mode(socket)), (0o750, 0o660));
    assert_eq!(mode(pins), 0o700);
    let mut pinned = 0;
    for pin in fs::read_dir(pins).unwrap() {
        let path = pin.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        pinned += 1;
    }
    assert!(pinned > lab.topology().interfaces().len(), "maps and links");

    let as_group = |group, program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).uid(NOBODY).gid(group);
        command.output().unwrap()
    };
    let (socket, pins) = (socket.display().to_string(), pins.display().to_string());
    let status = [
        "-sS",
        "--fail",
        "--unix-socket",
        &socket,
        "http://d/v1/status",
    ];
    let refused = as_group(NOBODY, "curl", &status);
    // It could not connect.
    assert_eq!(refused.status.code(), Some(7), "{refused:?}");
    let answered = as_group(0, "curl", &status);
    assert!(answered.status.success(), "{answered:?}");
    for group in [NOBODY, 0] {
        for path in [pins.clone(), format!("{pins}/FLOWS")] {
            let refused = as_group(group, "ls", &[&path]);
            assert!(!refused.status.success(), "{refused:?}");
            assert!(
                stderr(&refused).contains("Permission denied"),
                "{refused:?}"
            );
        }
    }
    daemon.finish().unwrap();
}

#[test]
fn a_directory_of_pins_that_is_anothers_is_refused() {
    let lab = lab();
    mount_bpf_fs().unwrap();
    let config = Config::new(&lab, Family::V4, 1);
    let assert_refused = |files: &Files| {
        let output = Daemon::run_to_end(lab.dispatcher(), &files.config).unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(
            stderr(&output).contains("it is not this user's own directory"),
            "{output:?}"
        );
    };
    let files = Files::new(&config).unwrap();
    fs::create_dir(&files.pin_path).unwrap();
    chown(&files.pin_path, Some(NOBODY), None).unwrap();
    assert_refused(&files);
    fs::remove_dir(&files.pin_path).unwrap();

    let elsewhere = Path::new(BPF_FS).join(unique("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &files.pin_path).unwrap();
    assert_refused(&files);
    fs::remove_file(&files.pin_path).unwrap();
    fs::remove_dir(&elsewhere).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_again_is_told_at_the_start() {
    let lab = lab();
    let config = Config::new(&lab, Family::V4, 1);
    let files = Files::new(&config).unwrap();
    chown(&files.config, Some(NOBODY), None).unwrap();
    fs::set_permissions(&files.config, Permissions::from_mode(0o600)).unwrap();
    let daemon = Daemon::start_with(&lab, files).unwrap();
    assert!(
        daemon.log().contains("a reload will fail"),
        "{}",
        daemon.log()
    );
    let refused = daemon.run(&["reload"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("Permission denied"),
        "{refused:?}"
    );
    let file = &daemon.files().config;
    fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(daemon.ask(&["reload"]).unwrap(), "nothing has changed\n");
    daemon.finish().unwrap();
}

/// A BPF file system of one's own.
struct BpfFs(Scratch);

impl BpfFs {
    fn new() -> Self {
        let scratch = Scratch::new("bpffs").unwrap();
        let kind = Some("bpf");
        mount(
            kind,
            &scratch.path(""),
            kind,
            MsFlags::empty(),
            Some("mode=0755"),
        )
        .unwrap();
        Self(scratch)
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = umount2(&self.0.path(""), MntFlags::MNT_DETACH);
    }
}

#[test]
fn it_serves_as_another_user_than_root_given_a_directory_for_its_pins() {
    let lab = lab();
    let bpf_fs = BpfFs::new();
    let server = Server::start(lab.backend(0), BACKEND_PORT, server::echo).unwrap();
    let mut config = Config::new(&lab, Family::V4, 1);
    config.web().backends.truncate(1);
    let mut files = Files::new(&config).unwrap();
    let own = |name: &str| files.socket.with_file_name(name);
    // Whoever builds may have closed the way to the binary to others.
    let copy = own("dispatcher");
    fs::copy(daemon::binary().unwrap(), &copy).unwrap();
    let directory = own("run");
    fs::create_dir(&directory).unwrap();
    files.pin_path = bpf_fs.0.path("pins");
    fs::create_dir(&files.pin_path).unwrap();
    for path in [&directory, &files.pin_path] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    files.socket = directory.join("admin.sock");
    files.rewrite(&config).unwrap();
    let all = "+bpf,+perfmon,+net_admin,+net_raw,+ipc_lock";
    let start = format!("shift; exec {} \"$@\"", copy.display());
    let through = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        &format!("--inh-caps={all}"),
        &format!("--ambient-caps={all}"),
        "sh",
        "-c",
        &start,
        "sh",
    ];
    let manner = Manner {
        through: through.map(str::to_owned).to_vec(),
        environment: Vec::new(),
    };
    let mut daemon = Daemon::start_in(&lab, files, manner).unwrap();
    for (name, has) in privilege::of_threads(daemon.pid()).unwrap() {
        assert_eq!((has.effective, has.permitted), (RUNNING, RUNNING), "{name}");
        assert_eq!((has.inheritable, has.ambient), (0, 0), "{name}");
    }
    let service = lab.service(Family::V4, SERVICE_PORT);
    let mut held = lab.client(0).enter(|| client::connect(service)).unwrap();
    assert_eq!(client::exchange(&mut held, b"hello").unwrap(), b"hello");
    assert_eq!(server.count().active(), 1);
    assert_eq!(daemon.ask(&["reload"]).unwrap(), "nothing has changed\n");
    drop(held);
    assert_settles(&daemon);
    assert!(daemon.stop().unwrap().success());
    let left = fs::read_dir(&daemon.files().pin_path).map(Iterator::count);
    assert_eq!(left.unwrap_or(0), 0, "detached, but pins are left");
}
