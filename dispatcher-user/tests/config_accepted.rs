//! Configurations that are accepted: the examples, the defaults, and every input without a panic.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dispatcher_user::ceiling::{
    self, Gradient, Metric, Policy, QueueDepth, ResponseTime, Settings, Throughput,
};
use dispatcher_user::config::{
    Admin, Agent, AgentKind, AttachMode, Backend, Balance, CeilingBounds, Config, Dataplane, Flood,
    FloodMode, Group, Health, HealthKind, Metrics, OnDown, OnExit, Overflow, Queue, Service,
    Timeouts, Unattended, XskMode,
};
use proptest::prelude::*;

fn examples() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let files = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path());
    files
        .filter(|file| file.extension().is_some_and(|e| e == "toml"))
        .collect()
}

fn parse(text: &str) -> Config {
    Config::parse(Path::new("f.toml"), text.as_bytes()).unwrap()
}

#[test]
fn every_example_is_right() {
    let examples = examples();
    assert!(examples.len() >= 2, "{examples:?}");
    for file in examples {
        if let Err(error) = Config::load(&file) {
            panic!("{error}");
        }
    }
}

#[test]
fn only_what_has_no_default_need_be_given() {
    let config = parse(
        r#"
        dataplane.interfaces = ["eth0"]
        [[service]]
        address = "192.0.2.10:80"
        backend = [{ address = "10.0.0.11:8080", capacity = 256 }]
        "#,
    );
    let service = Service {
        name: "192.0.2.10-80".to_owned(),
        address: "192.0.2.10:80".parse().unwrap(),
        balance: Balance::RoundRobin,
        queue: Queue {
            capacity: 1024,
            timeout: Duration::from_secs(5),
            overflow: Overflow::Refuse,
            per_source: 0,
        },
        ceiling: Settings {
            policy: Policy::QueueDepth(QueueDepth {
                raise_above: 4,
                lower_below: 1,
            }),
            interval: Duration::from_secs(1),
            slow_start: Duration::ZERO,
            response_goal: None,
        },
        agent: None,
        health: Health {
            kind: HealthKind::Tcp,
            port: None,
            source: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            passive: 5,
            on_down: OnDown::Keep,
        },
        timeouts: Timeouts {
            connect: Duration::from_secs(2),
            handshake: Duration::from_secs(5),
            idle: Duration::from_secs(300),
            closing: Duration::from_secs(30),
        },
        flood: Flood {
            mode: FloodMode::Auto,
            rate: 2024,
            hold: Duration::from_secs(10),
            half_open: 50,
            handshake: Duration::from_secs(2),
        },
        backends: vec![Backend {
            name: "10.0.0.11-8080".to_owned(),
            address: "10.0.0.11:8080".parse().unwrap(),
            capacity: 256,
            ceiling: CeilingBounds {
                initial: 10,
                min: 1,
                max: 255,
            },
            weight: 1,
            group: None,
        }],
    };
    let expected = Config {
        admin: Admin {
            socket: PathBuf::from("/run/dispatcher/admin.sock"),
        },
        metrics: None,
        dataplane: Dataplane {
            interfaces: vec!["eth0".to_owned()],
            attach_mode: AttachMode::Auto,
            xsk_mode: XskMode::Auto,
            flow_capacity: 262_144,
            pin_path: PathBuf::from("/sys/fs/bpf/dispatcher"),
            on_exit: OnExit::Keep,
            unattended: Unattended::Drop,
            busy_poll: false,
        },
        services: vec![service],
        groups: Vec::new(),
    };
    assert_eq!(config, expected);
}

#[test]
fn everything_given_is_taken() {
    let config = parse(
        r#"
        [admin]
        socket = "/tmp/d.sock"
        [metrics]
        listen = "[::]:9999"
        [dataplane]
        interfaces = ["eth0", "eth1.100"]
        attach_mode = "generic"
        xsk_mode = "zero-copy"
        flow_capacity = 1_000_000
        pin_path = "/sys/fs/bpf/other"
        on_exit = "detach"
        unattended = "pass"
        busy_poll = true
        [[service]]
        name = "six"
        address = "[2001:db8::10]:443"
        balance = "least-response-time"
        queue = { capacity = 7, timeout = "1m 30s", overflow = "drop", per_source = 3 }
        health = { kind = "off", interval = "500ms", rise = 1, fall = 9 }
        timeouts = { handshake = "10ms", idle = "24h", closing = "1s" }
        flood = { mode = "on", rate = 500, hold = "1m", half_open = "5%", handshake = "1s" }
        [service.ceiling]
        policy = "fixed"
        interval = "250ms"
        slow_start = "1m"
        response_goal = "80ms"
        [[service.backend]]
        name = "b"
        address = "[2001:db8::11]:8443"
        capacity = 100
        ceiling = { initial = 20, min = 10, max = 30 }
        weight = 1000
        group = "db"
        [[group]]
        name = "db"
        ceiling = 100
        "#,
    );
    assert_eq!(config.admin.socket, PathBuf::from("/tmp/d.sock"));
    let listen = "[::]:9999".parse().unwrap();
    assert_eq!(config.metrics, Some(Metrics { listen }));
    let dataplane = &config.dataplane;
    assert_eq!(dataplane.interfaces, ["eth0", "eth1.100"]);
    assert_eq!(dataplane.attach_mode, AttachMode::Generic);
    assert_eq!(dataplane.xsk_mode, XskMode::ZeroCopy);
    assert_eq!(dataplane.flow_capacity, 1_000_000);
    assert_eq!(dataplane.pin_path, PathBuf::from("/sys/fs/bpf/other"));
    assert_eq!(dataplane.on_exit, OnExit::Detach);
    assert_eq!(dataplane.unattended, Unattended::Pass);
    assert!(dataplane.busy_poll);
    let service = &config.services[0];
    assert_eq!(service.queue.capacity, 7);
    assert_eq!(service.queue.timeout, Duration::from_secs(90));
    assert_eq!(service.queue.overflow, Overflow::Drop);
    assert_eq!(service.queue.per_source, 3);
    assert_eq!(service.balance, Balance::LeastResponseTime);
    let ceiling = Settings {
        policy: Policy::Fixed,
        interval: Duration::from_millis(250),
        slow_start: Duration::from_secs(60),
        response_goal: Some(Duration::from_millis(80)),
    };
    assert_eq!(service.ceiling, ceiling);
    // The default of 1 s would outlast the interval.
    assert_eq!(service.health.timeout, Duration::from_millis(500));
    // Nor may an answer take longer than the handshake.
    assert_eq!(service.timeouts.connect, Duration::from_millis(10));
    assert_eq!(service.timeouts.idle, Duration::from_secs(86_400));
    let flood = Flood {
        mode: FloodMode::On,
        rate: 500,
        hold: Duration::from_secs(60),
        half_open: 5,
        handshake: Duration::from_secs(1),
    };
    assert_eq!(service.flood, flood);
    let bounds = service.backends[0].ceiling;
    assert_eq!((bounds.initial, bounds.min, bounds.max), (20, 10, 30));
    assert_eq!(service.backends[0].weight, 1000);
    assert_eq!(service.backends[0].group, Some(0));
    let db = Group {
        name: "db".to_owned(),
        ceiling: 100,
    };
    assert_eq!(config.groups, [db]);
}

/// A service with these lines, and one back-end with this ceiling.
fn service_with(lines: &str, ceiling: &str) -> Service {
    let text = format!(
        "dataplane.interfaces = [\"e\"]\n[[service]]\naddress = \"192.0.2.1:1\"\n{lines}\n\
         [[service.backend]]\naddress = \"192.0.2.2:1\"\ncapacity = 100\nceiling = {ceiling}\n"
    );
    parse(&text).services.remove(0)
}

#[test]
fn health_takes_what_its_kind_has() {
    let http = |path: &str, host: Option<&str>, status| HealthKind::Http {
        path: path.to_owned(),
        host: host.map(str::to_owned),
        status,
    };
    for (keys, kind) in [
        ("kind = \"tcp\"", HealthKind::Tcp),
        ("kind = \"http\"", http("/", None, 200..=399)),
        (
            "kind = \"http\"\npath = \"/up?full\"\nhost = \"web.example:8080\"\nstatus = 204",
            http("/up?full", Some("web.example:8080"), 204..=204),
        ),
        (
            "kind = \"http\"\nhost = \"[2001:db8::1]\"\nstatus = \"200-299\"",
            http("/", Some("[2001:db8::1]"), 200..=299),
        ),
        (
            "kind = \"http\"\nstatus = \"503\"",
            http("/", None, 503..=503),
        ),
        // Turned off by one word.
        (
            "kind = \"off\"\npath = \"/up\"\nhost = \"a\"\nstatus = 204",
            HealthKind::Off,
        ),
    ] {
        let service = service_with(&format!("[service.health]\n{keys}"), "{}");
        assert_eq!(service.health.kind, kind, "{keys}");
        let passive = if kind == HealthKind::Off { 0 } else { 5 };
        assert_eq!(service.health.passive, passive, "{keys}");
    }
    let keys = "port = 81\nsource = \"192.0.2.9\"\non_down = \"reset\"\npassive = 3";
    let health = service_with(&format!("[service.health]\n{keys}"), "{}").health;
    assert_eq!(health.port, NonZeroU16::new(81));
    assert_eq!(health.source, Some("192.0.2.9".parse().unwrap()));
    assert_eq!((health.passive, health.on_down), (3, OnDown::Reset));
}

#[test]
fn every_policy_takes_its_keys_and_has_defaults() {
    let ms = Duration::from_millis;
    for (keys, policy) in [
        ("policy = \"fixed\"", Policy::Fixed),
        (
            "policy = \"queue-depth\"",
            Policy::QueueDepth(QueueDepth::default()),
        ),
        (
            "raise_above = 20\nlower_below = 0",
            Policy::QueueDepth(QueueDepth {
                raise_above: 20,
                lower_below: 0,
            }),
        ),
        (
            "policy = \"response-time\"\nlow = \"20ms\"\nhigh = \"80ms\"",
            Policy::ResponseTime(ResponseTime {
                metric: Metric::Mean,
                low: ms(20),
                high: ms(80),
            }),
        ),
        (
            "policy = \"response-time\"\nmetric = \"p99\"\nlow = \"10us\"\nhigh = \"1ms\"",
            Policy::ResponseTime(ResponseTime {
                metric: Metric::P99,
                low: Duration::from_micros(10),
                high: ms(1),
            }),
        ),
        (
            "policy = \"throughput\"",
            Policy::Throughput(Throughput { minimum: 0 }),
        ),
        (
            "policy = \"throughput\"\nminimum = 500",
            Policy::Throughput(Throughput { minimum: 500 }),
        ),
        (
            "policy = \"gradient\"",
            Policy::Gradient(Gradient::default()),
        ),
        (
            "policy = \"gradient\"\ntolerance = \"150%\"\nprobe_ceiling = 2\n\
             probe_interval = \"5m\"",
            Policy::Gradient(Gradient {
                tolerance_percent: 150,
                probe_ceiling: 2,
                probe_interval: ms(300_000),
            }),
        ),
    ] {
        let service = service_with(&format!("[service.ceiling]\n{keys}"), "{}");
        assert_eq!(service.ceiling.policy, policy, "{keys}");
        assert_eq!(service.agent, None);
    }
}

#[test]
fn an_agent_is_asked_as_the_configuration_says() {
    let ms = Duration::from_millis;
    let with = |keys: &str| {
        let lines = format!("ceiling.policy = \"agent\"\n[service.ceiling.agent]\n{keys}");
        let service = service_with(&lines, "{}");
        let Policy::Agent(policy) = service.ceiling.policy else {
            panic!("{keys}: {:?}", service.ceiling.policy);
        };
        (policy, service.agent.unwrap())
    };
    let (policy, agent) = with("kind = \"http\"");
    assert_eq!(policy, ceiling::Agent::default());
    let expected = Agent {
        kind: AgentKind::Http {
            path: "/".to_owned(),
        },
        port: None,
        interval: ms(2000),
        timeout: ms(1000),
    };
    assert_eq!(agent, expected);

    let (policy, agent) = with(
        "kind = \"tcp\"\nport = 9000\nsend = \"load\\n\"\ninterval = \"20s\"\n\
         timeout = \"20s\"\nload_low = \"50%\"\nload_high = \"120%\"",
    );
    let expected = ceiling::Agent {
        load_low_percent: 50,
        load_high_percent: 120,
        // Three intervals, which is longer than the default.
        stale_after: ms(60_000),
    };
    assert_eq!(policy, expected);
    let expected = Agent {
        kind: AgentKind::Tcp {
            send: "load\n".to_owned(),
        },
        port: NonZeroU16::new(9000),
        interval: ms(20_000),
        timeout: ms(20_000),
    };
    assert_eq!(agent, expected);

    // The default of 95 % would be no more than what the load may be.
    let (policy, _) = with("kind = \"http\"\nload_low = \"95%\"\nstale_after = \"2s\"");
    assert_eq!(
        (policy.load_low_percent, policy.load_high_percent),
        (95, 96)
    );
    assert_eq!(policy.stale_after, ms(2000));
}

#[test]
fn where_a_ceiling_starts_depends_on_whether_it_moves() {
    for (policy, bounds, initial) in [
        ("fixed", "{}", 99),
        ("fixed", "{ max = 50 }", 50),
        ("queue-depth", "{}", 10),
        ("throughput", "{}", 10),
        ("gradient", "{ max = 7 }", 7),
        ("gradient", "{ min = 30 }", 30),
        ("gradient", "{ initial = 99 }", 99),
    ] {
        let service = service_with(&format!("ceiling.policy = \"{policy}\""), bounds);
        assert_eq!(
            service.backends[0].ceiling.initial, initial,
            "{policy} {bounds}"
        );
    }
}

/// The defaults of `queue-depth` are 4 and 1, which a queue of two never reaches.
#[test]
fn defaults_stay_within_what_is_configured() {
    let service = service_with("queue.capacity = 2", "{}");
    let policy = Policy::QueueDepth(QueueDepth {
        raise_above: 1,
        lower_below: 1,
    });
    assert_eq!(service.ceiling.policy, policy);
    let service = service_with("queue.capacity = 1", "{}");
    let policy = Policy::QueueDepth(QueueDepth {
        raise_above: 0,
        lower_below: 0,
    });
    assert_eq!(service.ceiling.policy, policy);
    let service = service_with(
        "ceiling = { policy = \"gradient\", interval = \"2m\" }",
        "{}",
    );
    let Policy::Gradient(gradient) = service.ceiling.policy else {
        panic!("{:?}", service.ceiling.policy);
    };
    assert_eq!(gradient.probe_interval, Duration::from_secs(120));
}

#[test]
fn every_balance_has_its_word() {
    for (word, balance) in [
        ("round-robin", Balance::RoundRobin),
        ("least-connections", Balance::LeastConnections),
        ("least-response-time", Balance::LeastResponseTime),
        ("source-hash", Balance::SourceHash),
    ] {
        let service = service_with(&format!("balance = \"{word}\""), "{}");
        assert_eq!(service.balance, balance);
    }
}

#[test]
fn back_ends_of_several_services_share_a_group() {
    let service = |port| {
        format!(
            "[[service]]\naddress = \"192.0.2.1:{port}\"\n[[service.backend]]\n\
             address = \"192.0.2.2:1\"\ncapacity = 2\ngroup = \"db\"\n"
        )
    };
    let group = "[[group]]\nname = \"db\"\nceiling = 1\n";
    // The group may stand before or after those that name it.
    let config = parse(&format!(
        "dataplane.interfaces = [\"e\"]\n{}{group}{}",
        service(80),
        service(443)
    ));
    assert_eq!(config.groups.len(), 1);
    let groups = config
        .services
        .iter()
        .map(|service| service.backends[0].group);
    assert_eq!(groups.collect::<Vec<_>>(), [Some(0), Some(0)]);
}

#[test]
fn metrics_are_served_at_the_default_place_when_only_the_section_is_there() {
    let example = "[metrics]\n[dataplane]\ninterfaces = [\"e\"]\n[[service]]\n\
        address = \"192.0.2.1:1\"\n[[service.backend]]\naddress = \"192.0.2.2:1\"\ncapacity = 2\n";
    let config = parse(example);
    let listen = "127.0.0.1:9464".parse().unwrap();
    assert_eq!(config.metrics, Some(Metrics { listen }));
    // The least capacity leaves room for one ceiling.
    let bounds = config.services[0].backends[0].ceiling;
    assert_eq!((bounds.initial, bounds.min, bounds.max), (1, 1, 1));
}

#[test]
fn two_services_may_share_a_back_end_and_its_name() {
    let service = |port| {
        format!(
            "[[service]]\naddress = \"192.0.2.1:{port}\"\n[[service.backend]]\nname = \"one\"\n\
             address = \"192.0.2.2:1\"\ncapacity = 2\n"
        )
    };
    let text = format!(
        "dataplane.interfaces = [\"e\"]\n{}{}",
        service(80),
        service(443)
    );
    assert_eq!(parse(&text).services.len(), 2);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = Config::parse(Path::new("f.toml"), &bytes);
    }

    /// Bytes of an example changed, cut out and put in: most of it is still read.
    #[test]
    fn a_damaged_example_never_panics(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        removed in 0..40_usize,
        inserted in "[\\[\\]{}=\"a-z0-9.,: \n_-]{0,12}",
    ) {
        let examples = examples();
        let mut text = std::fs::read(&examples[which.index(examples.len())]).unwrap();
        let at = at.index(text.len());
        let end = (at + removed).min(text.len());
        text.splice(at..end, inserted.bytes());
        if let Err(error) = Config::parse(Path::new("f.toml"), &text) {
            prop_assert!(error.to_string().lines().all(|line| line.starts_with("f.toml:")));
        }
    }

    /// Whatever bounds are accepted keep their order.
    #[test]
    fn accepted_ceilings_stay_below_capacity(
        capacity in 0..40_u32, initial in 0..40_u32, min in 0..40_u32, max in 0..40_u32,
    ) {
        let text = format!(
            "dataplane.interfaces = [\"e\"]\n[[service]]\naddress = \"192.0.2.1:1\"\n\
             [[service.backend]]\naddress = \"192.0.2.2:1\"\ncapacity = {capacity}\n\
             ceiling = {{ initial = {initial}, min = {min}, max = {max} }}\n"
        );
        let right = 1 <= min && min <= initial && initial <= max && max < capacity;
        let parsed = Config::parse(Path::new("f.toml"), text.as_bytes());
        prop_assert_eq!(parsed.is_ok(), right);
    }
}
