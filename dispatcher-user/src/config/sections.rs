//! The configuration file from the top: its text, its sections, and those that are no service.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use dispatcher_common::maps;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostics, Problem};
use super::group::Groups;
use super::reader::Table;
use super::scalar::{
    boolean, choice, describe, integer, interface, pin_path, socket_address, socket_path,
};
use super::service::services;
use super::{
    Admin, AttachMode, Config, ConfigError, Dataplane, FLOW_CAPACITY_MAX, INTERFACES_MAX, Metrics,
    OnExit, PIN_PATH_DEFAULT, SOCKET_DEFAULT, Unattended, XskMode,
};

const METRICS_LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// Reads a whole file.
pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Config, ConfigError> {
    let wrong = |problems| ConfigError::Wrong {
        file: file.to_path_buf(),
        problems,
    };
    let text = str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let (line, column) = Diagnostics::new(&good).position(error.valid_up_to());
        let message = "not UTF-8 text".to_owned();
        wrong(vec![Problem {
            line,
            column,
            message,
        }])
    })?;
    let diagnostics = Diagnostics::new(text);
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            // Some of the library's messages have several lines; ours have one.
            diagnostics.note(at, error.message().replace('\n', "; "));
            return Err(wrong(diagnostics.into_problems()));
        }
    };
    let config = root(Table::root(document.get_ref(), &diagnostics));
    match (config, diagnostics.into_problems()) {
        (Some(config), problems) if problems.is_empty() => Ok(config),
        (_, problems) => Err(wrong(problems)),
    }
}

/// Nothing only if a problem was noted.
fn root(mut table: Table<'_>) -> Option<Config> {
    let admin = admin(table.section("admin"));
    let metrics = table
        .has("metrics")
        .then(|| metrics(table.section("metrics")));
    let dataplane = dataplane(table.section("dataplane"));
    let mut groups = Groups::read(&mut table);
    let services = services(&mut table, &mut groups);
    let groups = groups.finish(services.is_some(), table.diagnostics());
    table.finish();
    Some(Config {
        admin,
        metrics,
        dataplane: dataplane?,
        services: services?,
        groups: groups?,
    })
}

fn admin(mut table: Table<'_>) -> Admin {
    let socket = table.value("socket", PathBuf::from(SOCKET_DEFAULT), socket_path);
    table.finish();
    Admin { socket }
}

fn metrics(mut table: Table<'_>) -> Metrics {
    let listen = table.value("listen", METRICS_LISTEN_DEFAULT, socket_address);
    table.finish();
    Metrics { listen }
}

fn dataplane(mut table: Table<'_>) -> Option<Dataplane> {
    let interfaces = interfaces(&mut table);
    let attach_modes = [
        ("auto", AttachMode::Auto),
        ("native", AttachMode::Native),
        ("generic", AttachMode::Generic),
    ];
    let xsk_modes = [
        ("auto", XskMode::Auto),
        ("copy", XskMode::Copy),
        ("zero-copy", XskMode::ZeroCopy),
    ];
    let on_exits = [("keep", OnExit::Keep), ("detach", OnExit::Detach)];
    let unattendeds = [("drop", Unattended::Drop), ("pass", Unattended::Pass)];

    let attach_mode = table.value("attach_mode", AttachMode::Auto, choice(&attach_modes));
    let xsk_mode = table.value("xsk_mode", XskMode::Auto, choice(&xsk_modes));
    let flow_capacity = table.value(
        "flow_capacity",
        maps::FLOW_CAPACITY_DEFAULT,
        integer(1..=FLOW_CAPACITY_MAX, ""),
    );
    let pin_path = table.value("pin_path", PathBuf::from(PIN_PATH_DEFAULT), pin_path);
    let on_exit = table.value("on_exit", OnExit::Keep, choice(&on_exits));
    let unattended = table.value("unattended", Unattended::Drop, choice(&unattendeds));
    let busy_poll = table.value("busy_poll", false, boolean);
    table.finish();
    Some(Dataplane {
        interfaces: interfaces?,
        attach_mode,
        xsk_mode,
        flow_capacity,
        pin_path,
        on_exit,
        unattended,
        busy_poll,
    })
}

fn interfaces(table: &mut Table<'_>) -> Option<Vec<String>> {
    let what = r#"a list of interface names, such as ["eth0", "eth1"]"#;
    let list = table.required("interfaces", what, |value| match value.as_array() {
        Some(items) => Ok(items),
        None => Err(format!("is {}; it must be {what}", describe(value))),
    })?;
    let count = list.value.len();
    if !(1..=INTERFACES_MAX).contains(&count) {
        let predicate = format!("has {count} names; it must have 1 to {INTERFACES_MAX}");
        table.note(list.at, "interfaces", &predicate);
        return None;
    }
    let mut names = Vec::with_capacity(count);
    for item in list.value {
        let checked = match item.get_ref() {
            DeValue::String(name) if names.iter().any(|known| known == name) => {
                Err(format!("has {name:?} twice"))
            }
            DeValue::String(name) => interface(name).map(|()| names.push(name.to_string())),
            other => Err(format!("has {}; it must be {what}", describe(other))),
        };
        if let Err(predicate) = checked {
            table.note(item.span().start, "interfaces", &predicate);
        }
    }
    Some(names)
}
