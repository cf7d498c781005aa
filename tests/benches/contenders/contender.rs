//! Who is compared: started on the lab's dispatcher machine, one at a time, and gone when the
//! handle is dropped. All of them know the same service, the same back-ends in turn, and, where
//! they know such a thing, the same limit of connections to each.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::floor_in_lab::FloorInLab;
use dispatcher_tests::topology::{Family, Lab};
use dispatcher_tests::{PATIENCE, POLL};

use crate::exchange::{BACKENDS, Page};
use crate::peers::{Nftables, Proxy};

/// Connections that each back-end may have: many more than there are clients.
pub const CONNECTIONS_MAX: u32 = 512;
/// Ports of the clients: Linux's own default.
pub const CLIENT_PORTS: RangeInclusive<u16> = 32_768..=60_999;
/// Flows that the dispatcher has room for: its default.
const FLOW_CAPACITY: u32 = 262_144;

/// One of those compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contender {
    /// No dispatcher: the machine routes, and clients take back-ends in turn themselves.
    Routing,
    /// The least XDP program that translates addresses.
    Floor,
    /// This dispatcher.
    Dispatcher,
    /// The kernel's own NAT.
    Nftables,
    /// HAProxy in TCP mode.
    Haproxy,
    /// nginx's stream module.
    Nginx,
}

impl Contender {
    /// All, in the order of tables.
    pub const ALL: [Self; 6] = [
        Self::Routing,
        Self::Floor,
        Self::Dispatcher,
        Self::Nftables,
        Self::Haproxy,
        Self::Nginx,
    ];

    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Routing => "no dispatcher (routing)",
            Self::Floor => "floor (bare XDP NAT)",
            Self::Dispatcher => "this dispatcher",
            Self::Nftables => "nftables DNAT",
            Self::Haproxy => "HAProxy, TCP mode",
            Self::Nginx => "nginx stream",
        }
    }

    /// Starts it, and waits until every back-end has answered through it.
    pub fn start(self, lab: &Lab) -> Result<Running<'_>> {
        let service = lab.service(Family::V4, SERVICE_PORT);
        let backends = backends(lab);
        let handle = match self {
            Self::Routing => Handle::Nothing,
            Self::Floor => Handle::Floor(FloorInLab::between(
                lab,
                SERVICE_PORT,
                BACKEND_PORT,
                CLIENT_PORTS,
            )?),
            Self::Dispatcher => Handle::Dispatcher(Daemon::start(lab, &configuration(lab))?),
            Self::Nftables => Handle::Nftables(Nftables::start(lab, service, &backends)?),
            Self::Haproxy => Handle::Proxy(Proxy::haproxy(lab, service, &backends)?),
            Self::Nginx => Handle::Proxy(Proxy::nginx(lab, service, &backends)?),
        };
        let targets = match self {
            Self::Routing => backends.to_vec(),
            _ => vec![service],
        };
        let running = Running { targets, handle };
        running
            .prove(lab)
            .with_context(|| format!("{}{}", self.name(), running.words()))?;
        Ok(running)
    }
}

/// A contender at work.
pub struct Running<'lab> {
    /// Where clients ask, in turn.
    pub targets: Vec<SocketAddr>,
    handle: Handle<'lab>,
}

enum Handle<'lab> {
    Nothing,
    #[expect(dead_code, reason = "kept for its end, which detaches it")]
    Floor(FloorInLab),
    Dispatcher(Daemon<'lab>),
    #[expect(dead_code, reason = "kept for its end, which removes the rules")]
    Nftables(Nftables<'lab>),
    Proxy(Proxy),
}

impl Running<'_> {
    /// Returns when each client has had an answer of each back-end.
    fn prove(&self, lab: &Lab) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        for client in lab.clients() {
            let mut seen = [false; BACKENDS];
            let mut ask = (0..).map(|turn| {
                let target = self.targets[turn % self.targets.len()];
                client.enter(|| who_answers(target))
            });
            while seen.contains(&false) {
                match ask.next().context("no end to asking")? {
                    Ok(backend) => seen[backend] = true,
                    Err(error) if Instant::now() > end => return Err(error),
                    Err(_) => std::thread::sleep(POLL),
                }
                ensure!(Instant::now() < end, "not every back-end answers: {seen:?}");
            }
        }
        Ok(())
    }

    /// What it had to say, for an error.
    fn words(&self) -> String {
        match &self.handle {
            Handle::Dispatcher(daemon) => format!("\n{}", daemon.log()),
            Handle::Proxy(proxy) => format!("\n{}", proxy.log()),
            Handle::Nothing | Handle::Floor(_) | Handle::Nftables(_) => String::new(),
        }
    }
}

/// Asks for a page and returns the back-end whose answer it is.
fn who_answers(target: SocketAddr) -> Result<usize> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(Page::Last.request())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let from = Page::Last.answers().iter().position(|each| *each == answer);
    from.with_context(|| format!("another answer: {}", String::from_utf8_lossy(&answer)))
}

fn backends(lab: &Lab) -> [SocketAddr; BACKENDS] {
    std::array::from_fn(|i| lab.backend(i).at(Family::V4, BACKEND_PORT))
}

/// As an operator would have it who knows what the back-ends can take.
fn configuration(lab: &Lab) -> Config {
    let mut config = Config::new(lab, Family::V4, CONNECTIONS_MAX);
    config.flow_capacity = FLOW_CAPACITY;
    config.metrics = None;
    config.web().health = "tcp";
    config
}
