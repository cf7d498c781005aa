//! Configurations that are refused: where the message points and what it says.

use std::path::Path;

use dispatcher_user::config::{Config, ConfigError, Problem};

/// A right configuration; each row puts one of its lines wrong.
const RIGHT: [&str; 9] = [
    "[dataplane]",
    r#"interfaces = ["eth0"]"#,
    "[[service]]",
    r#"name = "web""#,
    r#"address = "192.0.2.10:80""#,
    "[[service.backend]]",
    r#"name = "web-1""#,
    r#"address = "10.0.0.11:8080""#,
    "capacity = 256",
];

fn problems(text: &[u8]) -> Vec<Problem> {
    match Config::parse(Path::new("f.toml"), text) {
        Err(ConfigError::Wrong { problems, .. }) => problems,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_base_of_all_rows_is_right() {
    Config::parse(Path::new("f.toml"), RIGHT.join("\n").as_bytes()).unwrap();
}

/// Every row is one problem, at its place.
#[test]
fn every_slip_is_told_at_its_place() {
    let table = std::fs::read_to_string(fixture("refused.txt")).unwrap();
    let rows = table
        .lines()
        .filter(|row| !row.is_empty() && !row.starts_with('#'));
    let mut count = 0;
    for row in rows {
        let [line, text, at, says] = row.splitn(4, " | ").collect::<Vec<_>>()[..] else {
            panic!("not a row: {row}");
        };
        let text = text.replace("\\n", "\n");
        let mut lines = RIGHT;
        lines[line.parse::<usize>().unwrap() - 1] = &text;
        let found = problems(lines.join("\n").as_bytes());
        let [
            Problem {
                line,
                column,
                message,
            },
        ] = &found[..]
        else {
            panic!("{row}\none problem expected: {found:#?}");
        };
        assert_eq!(format!("{line}:{column}"), at, "{row}\n{message}");
        assert!(message.contains(says), "{row}\n{message}");
        count += 1;
    }
    assert!(count >= 100, "only {count} rows were read");
}

#[test]
fn a_file_without_sections_lacks_what_has_no_default() {
    let told = Config::parse(Path::new("f.toml"), b"")
        .unwrap_err()
        .to_string();
    assert_eq!(
        told,
        "f.toml:1:1: dataplane.interfaces is missing; it must be a list of interface names, \
         such as [\"eth0\", \"eth1\"]\nf.toml:1:1: 0 services; there must be 1 to 256"
    );
}

#[test]
fn a_service_without_backends() {
    let found = problems(RIGHT[..5].join("\n").as_bytes());
    let message = "service \"web\": 0 back-ends; a service must have 1 to 1024".to_owned();
    assert_eq!(
        found,
        [Problem {
            line: 3,
            column: 1,
            message
        }]
    );
}

#[test]
fn a_service_that_is_no_table() {
    let found = problems(b"service = 5\ndataplane.interfaces = [\"a\"]");
    let message = "service is 5; each begins with [[service]]".to_owned();
    assert_eq!(
        found,
        [Problem {
            line: 1,
            column: 11,
            message
        }]
    );
}

#[test]
fn what_is_no_text() {
    let found = problems(b"[dataplane]\n# \xc3\xa4 \xff\n");
    assert_eq!((found[0].line, found[0].column), (2, 5));
    assert_eq!(found[0].message, "not UTF-8 text");
}

#[test]
fn the_same_twice() {
    let backend = "[[service.backend]]\ncapacity = 9\naddress = \"10.0.0.12:1\"\n";
    let service = "[[service]]\naddress = \"192.0.2.11:80\"\n";
    let right = RIGHT.join("\n");
    for (added, at, says) in [
        (
            backend.replace("]]", "]]\nname = \"web-1\""),
            "11:8",
            "back-end \"web-1\": name is web-1, as that of another back-end (line 7)",
        ),
        (
            backend.replace("10.0.0.12:1", "10.0.0.11:8080"),
            "12:11",
            "back-end 2: address is 10.0.0.11:8080, as that of another back-end (line 8)",
        ),
        (
            format!("[[service]]\nname = \"web\"\naddress = \"192.0.2.11:80\"\n{backend}"),
            "11:8",
            "service \"web\": name is web, as that of another service (line 4)",
        ),
        (
            format!("[[service]]\naddress = \"192.0.2.10:80\"\n{backend}"),
            "11:11",
            "service 2: address is 192.0.2.10:80, as that of another service (line 5)",
        ),
        (
            service.to_owned() + &backend.replace("10.0.0.12:1", "192.0.2.10:80"),
            "14:11",
            "service 2: back-end 1: address is 192.0.2.10:80, which is a service's address",
        ),
    ] {
        let found = problems(format!("{right}\n{added}").as_bytes());
        let [
            Problem {
                line,
                column,
                message,
            },
        ] = &found[..]
        else {
            panic!("{added}: one problem expected: {found:#?}");
        };
        assert_eq!(format!("{line}:{column}"), at, "{added}");
        assert!(message.contains(says), "{message}\nlacks: {says}");
    }
}

/// So many services with so many back-ends each.
fn generated(services: usize, backends: usize) -> String {
    let mut text = RIGHT[..2].join("\n");
    for s in 0..services {
        text += &format!(
            "\n[[service]]\naddress = \"192.0.{}.{}:80\"",
            2 + s / 250,
            1 + s % 250
        );
        for b in 0..backends {
            let (hi, lo) = (b / 250, 1 + b % 250);
            text +=
                &format!("\n[[service.backend]]\naddress = \"10.0.{hi}.{lo}:80\"\ncapacity = 9");
        }
    }
    text
}

#[test]
fn more_than_the_maps_hold() {
    let accepted = |services, backends| {
        let text = generated(services, backends);
        let config = Config::parse(Path::new("f.toml"), text.as_bytes()).unwrap();
        assert_eq!(config.backends_len(), services * backends);
    };
    let refused = |services, backends, says: &str| {
        let found = problems(generated(services, backends).as_bytes());
        assert!(found[0].message.contains(says), "{found:?}");
    };
    accepted(256, 16);
    refused(257, 1, "257 services; there must be 1 to 256");
    accepted(4, 1024);
    refused(1, 1025, "1025 back-ends; a service must have 1 to 1024");
    refused(17, 241, "back-end 4097 of all services; there may be 4096");
}

#[test]
fn more_interfaces_than_there_may_be() {
    let with = |count: usize| {
        let names: Vec<_> = (0..count).map(|i| format!("\"eth{i}\"")).collect();
        let line = format!("interfaces = [{}]", names.join(", "));
        let mut lines = RIGHT;
        lines[1] = &line;
        Config::parse(Path::new("f.toml"), lines.join("\n").as_bytes())
    };
    assert_eq!(with(64).unwrap().dataplane.interfaces.len(), 64);
    let error = with(65).unwrap_err().to_string();
    assert!(
        error.contains("has 65 names; it must have 1 to 64"),
        "{error}"
    );
}

#[test]
fn more_groups_than_there_may_be() {
    // So many services, each with so many back-ends, each of those with a group of its own.
    let grouped = |services: usize, of_each: usize| {
        let text = generated(services, of_each);
        let mut groups = 0;
        let mut lines = Vec::new();
        for line in text.lines() {
            lines.push(line.to_owned());
            if line.starts_with("capacity") {
                lines.push(format!("group = \"g{groups}\""));
                groups += 1;
            }
        }
        let group = |i| format!("[[group]]\nname = \"g{i}\"\nceiling = 1");
        lines.extend((0..groups).map(group));
        lines.join("\n")
    };
    let config = Config::parse(Path::new("f.toml"), grouped(8, 8).as_bytes()).unwrap();
    assert_eq!(config.groups.len(), 64);
    assert_eq!(config.services[7].backends[7].group, Some(63));

    let found = problems(grouped(13, 5).as_bytes());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].message, "65 groups; there may be 64");
    let found = problems(grouped(1, 9).as_bytes());
    assert_eq!(found.len(), 1, "{found:?}");
    let told = "service 1: back-end 9: group is group 9 of this service; its back-ends may have 8 \
                different ones";
    assert_eq!(found[0].message, told);
}

#[test]
fn what_an_agent_is_sent_is_bounded() {
    let with = |key: &str, value: &str| {
        let kind = if key == "send" { "tcp" } else { "http" };
        let mut lines = RIGHT.map(str::to_owned);
        lines[3] = format!(
            "ceiling.policy = \"agent\"\nceiling.agent = {{ kind = \"{kind}\", port = 9, \
             {key} = \"{value}\" }}"
        );
        lines.join("\n")
    };
    for (key, most, says) in [
        (
            "send",
            "x".repeat(256),
            "has 257 bytes; an agent is sent at most 256",
        ),
        (
            "path",
            format!("/{}", "x".repeat(1023)),
            "it must be an HTTP path of at most 1024 bytes",
        ),
    ] {
        Config::parse(Path::new("f.toml"), with(key, &most).as_bytes()).unwrap();
        let found = problems(with(key, &(most + "x")).as_bytes());
        assert_eq!(found.len(), 1);
        assert!(found[0].message.contains(says), "{found:?}");
    }
}

#[test]
fn all_problems_are_told_in_the_order_of_the_file() {
    let text = std::fs::read(fixture("many_problems.toml")).unwrap();
    let told = Config::parse(Path::new("many_problems.toml"), &text)
        .unwrap_err()
        .to_string();
    let expected = std::fs::read_to_string(fixture("many_problems.txt")).unwrap();
    assert_eq!(told, expected.trim_end());
}

#[test]
fn problems_without_end_are_counted() {
    let unknown: String = (0..150).map(|i| format!("zz{i} = 1\n")).collect();
    let found = problems(format!("{unknown}{}", RIGHT.join("\n")).as_bytes());
    assert_eq!(found.len(), 101);
    assert_eq!(found[100].message, "50 more problems after this one");
}

#[test]
fn a_file_that_cannot_be_read() {
    let error = Config::load(Path::new("/no/such/file.toml")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/no/such/file.toml: No such file or directory (os error 2)"
    );
    let error = Config::load(Path::new("/dev/zero")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/dev/zero: larger than 4194304 bytes, the most that is read"
    );
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}
