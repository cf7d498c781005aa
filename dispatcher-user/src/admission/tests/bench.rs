//! A bench on which clients are letters and commands are sentences.

use super::*;

pub(super) type Hasher = BuildHasherDefault<DefaultHasher>;

/// A request as the tests know it: a client's letter and its initial sequence number.
pub(super) type Ask = (char, u32);

pub(super) fn ms(milliseconds: u64) -> Time {
    Time(milliseconds * 1_000_000)
}

/// Clients of one address each: upper and lower case of a letter share it.
pub(super) fn key(client: char) -> FlowKey {
    let host = client.to_ascii_lowercase() as u8;
    let port = if client.is_ascii_uppercase() {
        50_000
    } else {
        40_000
    };
    let src = Addr::from_v4_bytes(Ipv4Addr::new(198, 51, 100, host).octets());
    let dst = Addr::from_v4_bytes(Ipv4Addr::new(192, 0, 2, 10).octets());
    FlowKey::new(src, Port::new(port), dst, Port::new(80))
}

pub(super) fn backend_settings(ceiling: u32) -> BackendSettings {
    BackendSettings {
        addr: Addr::from_v4_bytes([10, 0, 0, 11]),
        port: Port::new(8080),
        ceiling: Ceiling {
            initial: ceiling,
            min: 0,
            max: 100,
        },
        capacity: 1000,
        weight: 1,
        group: None,
    }
}

/// One service, and a state machine whose commands are carried out by writing them down.
#[derive(Clone)]
pub(super) struct Bench {
    pub(super) admission: Admission<Ask, Hasher>,
    pub(super) service: ServiceId,
    /// The flow that each client was last admitted as.
    pub(super) flows: BTreeMap<char, FlowId>,
}

impl Bench {
    /// A service with a back-end for each ceiling, numbered from 0.
    pub(super) fn new(settings: ServiceSettings, ceilings: &[u32]) -> Self {
        Self::with_flow_capacity(64, settings, ceilings)
    }

    pub(super) fn with_flow_capacity(
        flows: u32,
        settings: ServiceSettings,
        ceilings: &[u32],
    ) -> Self {
        let alone: Vec<_> = ceilings.iter().map(|&ceiling| (ceiling, None)).collect();
        Self::grouped(flows, settings, &alone, &[])
    }

    /// Groups by their ceilings, and back-ends by theirs and the number of the group that they are
    /// in.
    pub(super) fn grouped(
        flows: u32,
        settings: ServiceSettings,
        backends: &[(u32, Option<u32>)],
        groups: &[u32],
    ) -> Self {
        let mut admission = Admission::new(flows, Hasher::default());
        for &ceiling in groups {
            admission.add_group(ceiling).unwrap();
        }
        let service = admission.add_service(settings).unwrap();
        for &(ceiling, group) in backends {
            let settings = BackendSettings {
                group: group.map(GroupId),
                ..backend_settings(ceiling)
            };
            admission
                .add_backend(Time::ZERO, service, settings)
                .unwrap();
        }
        Self {
            admission,
            service,
            flows: BTreeMap::new(),
        }
    }

    /// The client's first request.
    pub(super) fn syn(&mut self, at: u64, client: char) -> Vec<String> {
        self.syn_with(at, client, 1)
    }

    pub(super) fn syn_with(&mut self, at: u64, client: char, isn: u32) -> Vec<String> {
        self.admission
            .handle_syn(ms(at), self.service, key(client), isn, (client, isn));
        self.commands()
    }

    pub(super) fn phase(&mut self, at: u64, client: char, phase: Phase) -> Vec<String> {
        self.admission
            .handle_phase(ms(at), self.flows[&client], phase);
        self.commands()
    }

    pub(super) fn activity(&mut self, at: u64, client: char, last_seen: u64) -> Vec<String> {
        self.admission
            .handle_activity(ms(at), self.flows[&client], ms(last_seen));
        self.commands()
    }

    pub(super) fn missing(&mut self, at: u64, client: char) -> Vec<String> {
        self.admission.handle_missing(ms(at), self.flows[&client]);
        self.commands()
    }

    pub(super) fn install_failed(
        &mut self,
        at: u64,
        client: char,
        failure: InstallFailure,
    ) -> Vec<String> {
        let flow = self.flows[&client];
        self.admission
            .handle_install_failed(ms(at), flow, failure, (client, 1));
        self.commands()
    }

    /// The client's SYN has failed, and the caller still has its request.
    pub(super) fn failed(&mut self, at: u64, client: char, failure: ConnectFailure) -> Vec<String> {
        self.failed_with(at, client, failure, Some((client, 1)))
    }

    pub(super) fn failed_with(
        &mut self,
        at: u64,
        client: char,
        failure: ConnectFailure,
        request: Option<Ask>,
    ) -> Vec<String> {
        let flow = self.flows[&client];
        self.admission
            .handle_connect_failed(ms(at), flow, failure, request);
        self.commands()
    }

    pub(super) fn set_ceiling(&mut self, at: u64, backend: u32, ceiling: u32) -> Vec<String> {
        self.admission
            .set_ceiling(ms(at), BackendId(backend), ceiling);
        self.commands()
    }

    pub(super) fn set_group_ceiling(&mut self, at: u64, group: u32, ceiling: u32) -> Vec<String> {
        self.admission
            .set_group_ceiling(ms(at), GroupId(group), ceiling);
        self.commands()
    }

    pub(super) fn window(&mut self, at: u64) -> ServiceWindow {
        self.admission.take_window(ms(at), self.service).unwrap()
    }

    /// Time passes, as a caller lets it pass: every timeout is handled when it is due.
    pub(super) fn pass(&mut self, until: u64) -> Vec<String> {
        while let Some(due) = self.admission.poll_timeout()
            && due <= ms(until)
        {
            self.admission.handle_timeout(due);
        }
        self.commands()
    }

    /// All commands, so that a story that compares them says "and no more".
    pub(super) fn commands(&mut self) -> Vec<String> {
        let commands = core::iter::from_fn(|| self.admission.poll_command()).collect::<Vec<_>>();
        commands
            .into_iter()
            .map(|command| self.tell(&command))
            .collect()
    }

    pub(super) fn tell(&mut self, command: &Command<Ask>) -> String {
        match *command {
            Command::Admit {
                flow,
                backend,
                key: admitted,
                isn,
                request: (client, request_isn),
                waited,
                ..
            } => {
                assert_eq!((admitted, isn), (key(client), request_isn));
                self.flows.insert(client, flow);
                let waited =
                    waited.map_or(String::new(), |w| format!(" after {} ms", w.as_millis()));
                format!("admit {client}{isn} to {}{waited}", backend.0)
            }
            Command::Refuse {
                request: (client, isn),
                reason,
                ..
            } => format!("refuse {client}{isn}: {reason:?}"),
            Command::Discard {
                request: (client, isn),
                reason,
                ..
            } => format!("discard {client}{isn}: {reason:?}"),
            Command::Remove {
                key,
                backend,
                reason,
                ..
            } => format!("remove {} from {}: {reason:?}", client_of(&key), backend.0),
            Command::Probe { key, .. } => format!("probe {}", client_of(&key)),
            Command::Unanswered { key, backend, .. } => {
                format!("no answer to {} from {}", client_of(&key), backend.0)
            }
        }
    }

    pub(super) fn waiting(&self) -> String {
        self.admission
            .queue(self.service)
            .map(|queued| queued.request.0)
            .collect()
    }

    pub(super) fn counters(&self) -> ServiceCounters {
        self.admission.service(self.service).unwrap().counters
    }

    /// Where the client was last sent.
    pub(super) fn backend_of(&self, client: char) -> u32 {
        let flow = self.admission.flow(self.flows[&client]).unwrap();
        flow.backend.0
    }

    pub(super) fn backend(&self, backend: u32) -> BackendView {
        self.admission.backend(BackendId(backend)).unwrap()
    }
}

pub(super) fn client_of(key: &FlowKey) -> char {
    let letter = char::from(key.src.v4_bytes()[3]);
    if key.src_port.number() == 50_000 {
        letter.to_ascii_uppercase()
    } else {
        letter
    }
}
