//! `dispatcher check` on real interfaces: a lab that is fit is told so; what is broken one thing at
//! a time is told with a command that, run as it stands, mends it; and nothing is changed by
//! looking.

use std::net::TcpListener;
use std::process::{Output, Stdio};

use dispatcher_tests::config::{Config, SERVICE_PORT};
use dispatcher_tests::daemon::{Daemon, Files, binary};
use dispatcher_tests::each_at_once;
use dispatcher_tests::port_program::{PinnedProgram, PortProgram, mount_bpf_fs};
use dispatcher_tests::scenario::everybody_answers;
use dispatcher_tests::scratch::unique;
use dispatcher_tests::topology::{Family, Lab, Shape, Topology};
use serde_json::Value;

/// What is to be seen of veths whose other ends are in the switch's namespace.
const ELSEWHERE: [&str; 2] = [
    "note veth-checksum interface front",
    "note veth-checksum interface back",
];

/// A lab whose back-ends have been spoken to, and its configuration.
fn lab(topology: Topology, family: Family) -> (Lab, Files) {
    mount_bpf_fs().unwrap();
    let lab = topology.up().unwrap();
    everybody_answers(&lab);
    let files = Files::new(&Config::new(&lab, family, 4)).unwrap();
    (lab, files)
}

fn two_armed() -> (Lab, Files) {
    lab(Topology::default(), Family::V4)
}

fn run_check(lab: &Lab, files: &Files, arguments: &[&str]) -> Output {
    let mut command = lab.dispatcher().command(binary().unwrap());
    command.args(["check", "--config"]).arg(&files.config);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    output.unwrap()
}

/// What `check --json` finds.
struct Checked {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Checked {
    fn new(lab: &Lab, files: &Files) -> Self {
        let output = run_check(lab, files, &["--json"]);
        let text = String::from_utf8_lossy(&output.stdout);
        let told: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}"));
        let code = output.status.code();
        assert_eq!(told["ok"], code == Some(0), "{text}");
        let findings = told["findings"].as_array().unwrap().clone();
        Self { code, findings }
    }

    /// Severity, check and subject of each.
    fn lines(&self) -> Vec<String> {
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
        let line = |finding: &Value| {
            let [severity, check, subject] =
                ["severity", "check", "subject"].map(|key| text(finding, key));
            format!("{severity} {check} {subject}")
        };
        self.findings.iter().map(line).collect()
    }

    /// The finding that begins like this.
    #[track_caller]
    fn get(&self, line: &str) -> &Value {
        let at = self.lines().iter().position(|found| found == line);
        &self.findings[at.unwrap_or_else(|| panic!("no {line:?} in {:#?}", self.findings))]
    }
}

/// Breaks something, sees it found, has it mended by the command that was told, and sees the lab as
/// it was.
#[track_caller]
fn is_found_and_mended(breaking: &[&str], line: &str, mend: &str) {
    let (lab, files) = two_armed();
    let before = Checked::new(&lab, &files);
    assert_eq!(before.lines(), ELSEWHERE, "{:#?}", before.findings);
    lab.dispatcher().run(breaking).unwrap();
    found_and_mended(&lab, &files, line, mend);
    let after = Checked::new(&lab, &files);
    assert_eq!(after.lines(), ELSEWHERE, "{:#?}", after.findings);
}

#[track_caller]
fn found_and_mended(lab: &Lab, files: &Files, line: &str, mend: &str) {
    let broken = Checked::new(lab, files);
    let finding = broken.get(line);
    assert_eq!(finding["mend"], mend);
    let fit = !line.starts_with("error");
    assert_eq!(broken.code, Some(i32::from(!fit)), "{:#?}", broken.findings);
    lab.dispatcher().run(&["sh", "-c", mend]).unwrap();
    let after = Checked::new(lab, files);
    let lines = after.lines();
    assert!(!lines.iter().any(|found| found == line), "{lines:#?}");
}

#[test]
fn a_fit_lab_is_fit_in_both_families() {
    each_at_once([Family::V4, Family::V6], |family| {
        let (lab, files) = lab(Topology::default(), family);
        let checked = Checked::new(&lab, &files);
        assert_eq!(checked.lines(), ELSEWHERE, "{:#?}", checked.findings);
        assert_eq!(checked.code, Some(0));
    });
}

#[test]
fn one_armed_says_what_cannot_be_seen_from_here() {
    let topology = Topology {
        shape: Shape::OneArmed,
        ..Topology::default()
    };
    let (lab, files) = lab(topology, Family::V4);
    let checked = Checked::new(&lab, &files);
    let expected = [
        "note veth-checksum interface one",
        "warning reply-path back-end web/web-1",
        "warning reply-path back-end web/web-2",
    ];
    assert_eq!(checked.lines(), expected, "{:#?}", checked.findings);
    let mend = checked.get(expected[1])["mend"].as_str().unwrap();
    assert!(
        mend.contains("ip route replace default via 10.0.0.1"),
        "{mend}"
    );
    assert_eq!(checked.code, Some(0));

    let set = ["sysctl", "-w", "net.ipv4.conf.one.send_redirects=1"];
    lab.dispatcher().run(&set).unwrap();
    found_and_mended(
        &lab,
        &files,
        "warning redirects interface one",
        "sysctl -w net.ipv4.conf.one.send_redirects=0",
    );
}

#[test]
fn people_read_a_line_for_each_finding_without_colour_in_a_pipe() {
    let (lab, files) = two_armed();
    let set = ["ip", "link", "set", "dev", "back", "down"];
    lab.dispatcher().run(&set).unwrap();
    let output = run_check(&lab, &files, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let first = format!("{}: ok: 1 service, 2 back-ends", files.config.display());
    assert_eq!(lines.next(), Some(&*first));
    assert!(text.contains("\ninterface back\n  error: is down; run: ip link set dev back up\n"));
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("this machine is not fit: "), "{last}");
    assert!(!text.contains('\x1b'));
}

#[test]
fn the_file_alone_is_looked_at_when_asked_for() {
    let (lab, files) = two_armed();
    let set = ["ip", "link", "set", "dev", "back", "down"];
    lab.dispatcher().run(&set).unwrap();
    let output = run_check(&lab, &files, &["--file-only"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn forwarding_that_is_off() {
    is_found_and_mended(
        &["sysctl", "-w", "net.ipv4.ip_forward=0"],
        "error forwarding machine",
        "sysctl -w net.ipv4.ip_forward=1",
    );
    is_found_and_mended(
        &["sysctl", "-w", "net.ipv4.conf.back.forwarding=0"],
        "error forwarding interface back",
        "sysctl -w net.ipv4.conf.back.forwarding=1",
    );
}

#[test]
fn a_strict_filter_where_clients_come_in_by_another_way_than_back() {
    let (lab, files) = two_armed();
    let make = "link add mgmt0 type veth peer name mgmt0-peer\n\
                link set mgmt0 up\nlink set mgmt0-peer up\n\
                address add 172.16.0.2/24 dev mgmt0\n\
                route add default via 172.16.0.1\n";
    lab.dispatcher().batch("ip", make).unwrap();
    let strict = [("ipv4/conf/front/rp_filter", "1")];
    lab.dispatcher().sysctl(&strict).unwrap();
    found_and_mended(
        &lab,
        &files,
        "warning reverse-path interface front",
        "sysctl -w net.ipv4.conf.front.rp_filter=2",
    );
}

#[test]
fn a_route_that_is_missing() {
    let (lab, files) = two_armed();
    let backend = lab.backend(0).ip(Family::V4);
    let delete = ["ip", "route", "del", "10.0.0.0/24", "dev", "back"];
    lab.dispatcher().run(&delete).unwrap();
    found_and_mended(
        &lab,
        &files,
        "error backend-route back-end web/web-1",
        &format!("ip route add {backend}/32 dev back"),
    );
    assert_eq!(Checked::new(&lab, &files).lines().len(), 3, "web-2 is left");
}

#[test]
fn a_route_by_another_interface() {
    let (lab, files) = two_armed();
    let make = "link add mgmt0 type veth peer name mgmt0-peer\n\
                link set mgmt0 up\nlink set mgmt0-peer up\n\
                route add 10.0.0.11/32 dev mgmt0\n";
    lab.dispatcher().batch("ip", make).unwrap();
    let checked = Checked::new(&lab, &files);
    let finding = checked.get("error backend-route back-end web/web-1");
    let advice = "# add \"mgmt0\" to dataplane.interfaces, or route it by another";
    assert_eq!(finding["mend"], advice);
}

#[test]
fn a_backend_behind_a_gateway() {
    let (lab, files) = two_armed();
    let route = ["ip", "route", "add", "10.0.0.11/32", "via", "10.0.0.12"];
    lab.dispatcher().run(&route).unwrap();
    let checked = Checked::new(&lab, &files);
    let finding = checked.get("warning reply-path back-end web/web-1");
    let advice = "# at 10.0.0.12: route the clients' networks by 10.0.0.1";
    assert_eq!(finding["mend"], advice);
    assert_eq!(checked.code, Some(0));
}

#[test]
fn a_neighbour_that_was_not_spoken_to() {
    is_found_and_mended(
        &["ip", "neighbour", "flush", "dev", "back", "to", "10.0.0.11"],
        "note neighbour back-end web/web-1",
        "ping -c 1 -W 2 -I back 10.0.0.11",
    );
}

#[test]
fn an_mtu_that_the_other_end_may_have_too() {
    let (lab, _) = two_armed();
    let switch = lab.switch().name();
    let make = format!("link add third mtu 9000 up type veth peer name third-port netns {switch}");
    lab.dispatcher().batch("ip", &make).unwrap();
    let up = ["ip", "link", "set", "dev", "third-port", "up"];
    lab.switch().run(&up).unwrap();
    let mut config = Config::new(&lab, Family::V4, 4);
    config.interfaces.insert(0, "third".to_owned());
    let files = Files::new(&config).unwrap();
    found_and_mended(
        &lab,
        &files,
        "warning veth-mtu interface third",
        "ip link set dev third mtu 3506",
    );
    let lost = "warning veth-redirect interface third";
    Checked::new(&lab, &files).get(lost);
    let on = ["ethtool", "-K", "third-port", "gro", "on"];
    lab.switch().run(&on).unwrap();
    let lines = Checked::new(&lab, &files).lines();
    assert!(!lines.iter().any(|line| line == lost), "{lines:#?}");
}

#[test]
fn an_address_that_this_machine_has_itself() {
    let (lab, files) = two_armed();
    let add = ["ip", "address", "add", "10.0.0.11/24", "dev", "back"];
    lab.dispatcher().run(&add).unwrap();
    let checked = Checked::new(&lab, &files);
    let finding = checked.get("error backend-address back-end web/web-1");
    // Words, as it could cut off who runs it; the command in them is right all the same.
    let advice = finding["mend"].as_str().unwrap();
    assert!(advice.starts_with("# serve from another machine"));
    let (_, command) = advice.rsplit_once("by mistake: ").unwrap();
    assert_eq!(command, "ip address del 10.0.0.11/24 dev back");
    lab.dispatcher().run(&["sh", "-c", command]).unwrap();
    let lines = Checked::new(&lab, &files).lines();
    assert!(
        !lines.iter().any(|line| line.contains("backend-address")),
        "{lines:#?}"
    );
}

#[test]
fn a_service_address_that_nobody_answers_for() {
    let (lab, files) = two_armed();
    let script = "address del 192.0.2.10/32 dev lo\naddress add 192.0.2.1/24 dev front\n";
    lab.dispatcher().batch("ip", script).unwrap();
    found_and_mended(
        &lab,
        &files,
        "warning service-address service web",
        "ip address add 192.0.2.10/32 dev front",
    );
}

#[test]
fn an_interface_that_does_not_exist() {
    let (lab, _) = two_armed();
    let mut config = Config::new(&lab, Family::V4, 4);
    config.interfaces = vec!["front".to_owned(), "nowhere0".to_owned()];
    let files = Files::new(&config).unwrap();
    let checked = Checked::new(&lab, &files);
    let finding = checked.get("error interface-exists interface nowhere0");
    let found = finding["found"].as_str().unwrap();
    assert!(found.contains("there is front, back"), "{found}");
    assert_eq!(checked.code, Some(1));
}

#[test]
fn another_program_is_named_and_detached_by_the_command() {
    // Attached by netlink, as `ip` does.
    let (lab, files) = two_armed();
    let pass = PinnedProgram::load(PortProgram::Pass, &unique("check-pass")).unwrap();
    pass.attach(lab.dispatcher(), "front").unwrap();
    found_and_mended(
        &lab,
        &files,
        "error xdp-attached interface front",
        "ip link set dev front xdpdrv off",
    );
}

#[test]
fn a_program_by_a_link_is_detached_by_the_command() {
    // Another dispatcher's, with pins of its own.
    let (lab, files) = two_armed();
    let mut config = Config::new(&lab, Family::V4, 4);
    config.on_exit = "keep";
    let mut other = Daemon::start(&lab, &config).unwrap();
    let running = Checked::new(&lab, other.files());
    let note = "note admin-socket daemon";
    assert_eq!(running.lines()[0], note, "{:#?}", running.findings);
    assert_eq!(running.code, Some(0), "its own program is no other");
    assert!(other.stop().unwrap().success());

    let left = Checked::new(&lab, other.files());
    assert_eq!(left.lines(), ELSEWHERE, "{:#?}", left.findings);
    for interface in ["front", "back"] {
        let line = format!("error xdp-attached interface {interface}");
        let checked = Checked::new(&lab, &files);
        let finding = checked.get(&line);
        let found = finding["found"].as_str().unwrap();
        assert!(found.contains("(dispatcher)"), "{found}");
        let mend = finding["mend"].as_str().unwrap().to_owned();
        assert!(mend.starts_with("bpftool link detach id "), "{mend}");
        found_and_mended(&lab, &files, &line, &mend);
    }
    other.unload().unwrap();
}

#[test]
fn pins_of_another_flow_capacity() {
    let (lab, _) = two_armed();
    let mut config = Config::new(&lab, Family::V4, 4);
    config.on_exit = "keep";
    let mut daemon = Daemon::start(&lab, &config).unwrap();
    assert!(daemon.stop().unwrap().success());
    config.flow_capacity *= 2;
    daemon.files().rewrite(&config).unwrap();
    let checked = Checked::new(&lab, daemon.files());
    let finding = checked.get("error pins daemon");
    let found = finding["found"].as_str().unwrap();
    assert!(
        found.ends_with("they hold 4096 flows, and flow_capacity is 8192"),
        "{found}"
    );
    daemon.unload().unwrap();
    assert_eq!(Checked::new(&lab, daemon.files()).lines(), ELSEWHERE);
}

#[test]
fn what_listens_in_the_way() {
    let (lab, files) = two_armed();
    let at = |address: &str| {
        lab.dispatcher()
            .enter(|| TcpListener::bind(address).unwrap())
    };
    let _metrics = at("127.0.0.1:9464");
    let _service = at(&format!("0.0.0.0:{SERVICE_PORT}"));
    let checked = Checked::new(&lab, &files);
    checked.get("error metrics-address daemon");
    checked.get("note service-listener service web");
    assert_eq!(checked.code, Some(1));
}

#[test]
fn the_other_end_of_a_veth_in_this_namespace() {
    let (lab, _) = two_armed();
    let make = "link add third type veth peer name third-peer\n\
                link set third up\nlink set third-peer up\n";
    lab.dispatcher().batch("ip", make).unwrap();
    let mut config = Config::new(&lab, Family::V4, 4);
    config.interfaces.push("third".to_owned());
    let files = Files::new(&config).unwrap();
    let off = ["ethtool", "-K", "third-peer", "gro", "off"];
    lab.dispatcher().run(&off).unwrap();
    let sysctl = [
        ("ipv4/conf/third/rp_filter", "0"),
        ("ipv4/conf/third/send_redirects", "0"),
    ];
    lab.dispatcher().sysctl(&sysctl).unwrap();
    found_and_mended(
        &lab,
        &files,
        "warning veth-redirect interface third",
        "ethtool -K third-peer gro on",
    );
    found_and_mended(
        &lab,
        &files,
        "warning veth-checksum interface third",
        "ethtool -K third-peer tx off",
    );
    // One more than native XDP takes: the daemon agrees, before and after.
    let large = ["ip", "link", "set", "dev", "third-peer", "mtu", "3507"];
    lab.dispatcher().run(&large).unwrap();
    let refused = Daemon::refused(&lab, &config).unwrap();
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(words.contains("cannot attach to third"), "{words}");
    found_and_mended(
        &lab,
        &files,
        "error attach-mode interface third",
        "ip link set dev third-peer mtu 3506",
    );
    Daemon::start(&lab, &config).unwrap().finish().unwrap();
    let down = ["ip", "link", "set", "dev", "third-peer", "down"];
    lab.dispatcher().run(&down).unwrap();
    found_and_mended(
        &lab,
        &files,
        "warning interface-carrier interface third",
        "ip link set dev third-peer up",
    );
}

#[test]
fn without_privilege_it_says_what_could_not_be_looked_at() {
    let (lab, files) = two_armed();
    let mut command = lab.dispatcher().command("setpriv");
    let bounding = ["--bounding-set=-all", "--inh-caps=-all", "--"];
    command.args(bounding).arg(binary().unwrap());
    command.args(["check", "--config"]).arg(&files.config);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        text.contains("has no CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW"),
        "{text}"
    );
}

#[test]
fn looking_changes_nothing() {
    let (lab, files) = two_armed();
    let look = || {
        let lines: [&[&str]; 5] = [
            &["ip", "-details", "-json", "link"],
            &["ip", "-json", "address"],
            &["ip", "-json", "route", "show", "table", "all"],
            &["ethtool", "-k", "front"],
            &[
                "sysctl",
                "-a",
                "--pattern",
                "net.ipv[46].conf.(all|front|back)",
            ],
        ];
        lines.map(|line| lab.dispatcher().run(line).unwrap())
    };
    let before = look();
    Checked::new(&lab, &files);
    assert_eq!(look(), before);
    assert!(!files.pin_path.exists());
    assert!(!files.socket.exists());
}
