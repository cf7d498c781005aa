//! The daemon's configuration as the tests vary it. Everything else keeps the daemon's default.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::topology::{Family, Lab};

/// Port at which services are offered in the lab.
pub const SERVICE_PORT: u16 = 80;
/// Port at which back-ends serve in the lab.
pub const BACKEND_PORT: u16 = 8080;
/// The metrics page of a daemon in the lab.
pub const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// What is written under `[dataplane]`, and the services.
#[derive(Clone, Debug)]
pub struct Config {
    /// Physical interfaces.
    pub interfaces: Vec<String>,
    /// `auto`, `native` or `generic`.
    pub attach_mode: &'static str,
    /// `auto`, `copy` or `zero-copy`.
    pub xsk_mode: &'static str,
    /// Connections that the flow table holds.
    pub flow_capacity: u32,
    /// The admission thread never sleeps.
    pub busy_poll: bool,
    /// `keep` or `detach`.
    pub on_exit: &'static str,
    /// `drop` or `pass`.
    pub unattended: &'static str,
    /// Where the metrics page is, seen from the dispatcher; `None` for none.
    pub metrics: Option<SocketAddr>,
    /// In this order.
    pub services: Vec<Service>,
    /// Lines of TOML after all the rest.
    pub extra: String,
}

/// A `[[service]]`.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Where it is offered.
    pub address: SocketAddr,
    /// How back-ends are chosen.
    pub balance: &'static str,
    /// Requests that may wait.
    pub queue_capacity: u32,
    /// How long they may wait, with its unit.
    pub queue_timeout: &'static str,
    /// `refuse` or `drop`.
    pub overflow: &'static str,
    /// The policy of its ceilings.
    pub policy: &'static str,
    /// Further lines of `[service.ceiling]`, and sections within it.
    pub ceiling: String,
    /// Lines of `[service.flood]`.
    pub flood: &'static str,
    /// `tcp`, `http` or `off`.
    pub health: &'static str,
    /// How long an answer to a SYN may take, with its unit; `None` for the daemon's default.
    pub connect_timeout: Option<&'static str>,
    /// Further lines of `[service.health]`.
    pub health_keys: String,
    /// How long a handshake may take, with its unit.
    pub handshake_timeout: &'static str,
    /// How long a connection may be silent, with its unit.
    pub idle_timeout: &'static str,
    /// How long one side may outlast the other, with its unit.
    pub closing_timeout: &'static str,
    /// In this order.
    pub backends: Vec<Backend>,
}

/// A `[[service.backend]]`.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Where it serves.
    pub address: SocketAddr,
    /// Its ceiling: fixed, or the most it becomes.
    pub ceiling: u32,
    /// Where the ceiling starts; `None` for all of it.
    pub initial: Option<u32>,
    /// What it is capable of; above the ceiling.
    pub capacity: u32,
    /// Its share in balancing.
    pub weight: u32,
    /// The group whose ceiling it shares.
    pub group: Option<&'static str>,
}

impl Config {
    /// One service `web` at the lab's address of this family, with every back-end of the lab at
    /// this fixed ceiling.
    #[must_use]
    pub fn new(lab: &Lab, family: Family, ceiling: u32) -> Self {
        let interfaces = lab.topology().interfaces();
        Self {
            interfaces: interfaces.iter().map(ToString::to_string).collect(),
            attach_mode: "native",
            xsk_mode: "copy",
            flow_capacity: 4096,
            busy_poll: false,
            on_exit: "detach",
            unattended: "drop",
            metrics: Some(METRICS),
            services: vec![Service::new(lab, family, ceiling)],
            extra: String::new(),
        }
    }

    /// The only service, to change it.
    #[must_use]
    pub fn web(&mut self) -> &mut Service {
        &mut self.services[0]
    }

    /// The text of the file.
    #[must_use]
    pub fn to_toml(&self, socket: &Path, pin_path: &Path) -> String {
        let mut toml = String::new();
        self.write(&mut toml, socket, pin_path)
            .expect("writing to a String cannot fail");
        toml
    }

    fn write(&self, toml: &mut String, socket: &Path, pin_path: &Path) -> std::fmt::Result {
        writeln!(toml, "[admin]\nsocket = {socket:?}\n")?;
        if let Some(listen) = self.metrics {
            writeln!(toml, "[metrics]\nlisten = \"{listen}\"\n")?;
        }
        writeln!(toml, "[dataplane]")?;
        writeln!(toml, "interfaces    = {:?}", self.interfaces)?;
        writeln!(toml, "attach_mode   = {:?}", self.attach_mode)?;
        writeln!(toml, "xsk_mode      = {:?}", self.xsk_mode)?;
        writeln!(toml, "flow_capacity = {}", self.flow_capacity)?;
        if self.busy_poll {
            writeln!(toml, "busy_poll     = true")?;
        }
        writeln!(toml, "pin_path      = {pin_path:?}")?;
        writeln!(toml, "on_exit       = {:?}", self.on_exit)?;
        writeln!(toml, "unattended    = {:?}", self.unattended)?;
        for service in &self.services {
            service.write(toml)?;
        }
        toml.write_str(&self.extra)
    }
}

impl Service {
    /// As in [`Config::new`].
    #[must_use]
    pub fn new(lab: &Lab, family: Family, ceiling: u32) -> Self {
        let backends = lab.backends().iter().zip(1..).map(|(node, i)| Backend {
            name: format!("web-{i}"),
            address: node.at(family, BACKEND_PORT),
            ceiling,
            initial: None,
            capacity: 2 * ceiling,
            weight: 1,
            group: None,
        });
        Self {
            name: "web".to_owned(),
            address: lab.service(family, SERVICE_PORT),
            balance: "round-robin",
            queue_capacity: 1024,
            queue_timeout: "30s",
            overflow: "refuse",
            policy: "fixed",
            ceiling: String::new(),
            flood: "",
            health: "off",
            connect_timeout: None,
            health_keys: String::new(),
            handshake_timeout: "5s",
            idle_timeout: "5m",
            closing_timeout: "30s",
            backends: backends.collect(),
        }
    }

    fn write(&self, toml: &mut String) -> std::fmt::Result {
        writeln!(toml, "\n[[service]]")?;
        writeln!(toml, "name    = {:?}", self.name)?;
        writeln!(toml, "address = \"{}\"", self.address)?;
        writeln!(toml, "balance = {:?}", self.balance)?;
        writeln!(toml, "\n[service.queue]")?;
        writeln!(toml, "capacity = {}", self.queue_capacity)?;
        writeln!(toml, "timeout  = {:?}", self.queue_timeout)?;
        writeln!(toml, "overflow = {:?}", self.overflow)?;
        writeln!(toml, "\n[service.ceiling]\npolicy = {:?}", self.policy)?;
        writeln!(toml, "{}", self.ceiling)?;
        writeln!(toml, "\n[service.flood]\n{}", self.flood)?;
        writeln!(toml, "\n[service.health]\nkind = {:?}", self.health)?;
        writeln!(toml, "{}", self.health_keys)?;
        writeln!(toml, "\n[service.timeouts]")?;
        if let Some(connect) = self.connect_timeout {
            writeln!(toml, "connect   = {connect:?}")?;
        }
        writeln!(toml, "handshake = {:?}", self.handshake_timeout)?;
        writeln!(toml, "idle      = {:?}", self.idle_timeout)?;
        writeln!(toml, "closing   = {:?}", self.closing_timeout)?;
        for backend in &self.backends {
            let ceiling = backend.ceiling;
            let initial = backend.initial.unwrap_or(ceiling);
            writeln!(toml, "\n[[service.backend]]")?;
            writeln!(toml, "name     = {:?}", backend.name)?;
            writeln!(toml, "address  = \"{}\"", backend.address)?;
            writeln!(toml, "capacity = {}", backend.capacity)?;
            writeln!(
                toml,
                "ceiling  = {{ initial = {initial}, min = 1, max = {ceiling} }}"
            )?;
            writeln!(toml, "weight   = {}", backend.weight)?;
            if let Some(group) = backend.group {
                writeln!(toml, "group    = {group:?}")?;
            }
        }
        Ok(())
    }
}
