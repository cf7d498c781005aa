//! What always holds, whatever happens: services, back-ends and groups come, change and go, floods
//! begin and are over, installs fail, timeouts are handled late. No reference here, only what
//! follows from the commands themselves.

use core::hash::{BuildHasher, Hasher as _};
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const SERVICES: usize = 2;
const GROUPS: usize = 3;
const FLOW_CAPACITY: u32 = 6;

/// A service at which a handful of clients that find no room are a flood.
const TIMID: ServiceSettings = ServiceSettings {
    flood: FloodSettings {
        mode: FloodMode::Auto,
        rate: 2,
        hold: Duration::from_secs(2),
        half_open: 50,
        handshake: Duration::from_secs(2),
    },
    ..SETTINGS
};

/// Hashes differently for each seed; nothing that is decided may depend on it.
#[derive(Clone)]
struct Seeded(u64);

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// What happens. Numbers pick one of what there is, modulo how many there are.
#[derive(Clone, Debug)]
enum Happening {
    Syn(usize, u8, u32),
    Phase(usize, Phase),
    InstallFailed(usize, InstallFailure),
    /// With the request, or without.
    ConnectFailed(usize, ConnectFailure, bool),
    LastSeen(usize, u64),
    Missing(usize),
    RemoveFlow(usize),
    Ceiling(usize, u32),
    State(usize, BackendState),
    AddBackend(usize, Change),
    UpdateBackend(usize, Change),
    ResponseTime(usize, Option<u64>),
    GroupCeiling(usize, u32),
    ReplaceGroup(usize),
    Window(usize),
    RemoveBackend(usize),
    ReviveBackend(usize, Change),
    UpdateService(usize, ServiceSettings),
    ReplaceService(usize),
    /// A look for a flood, after so many more unproven and lost requests.
    Look(usize, u64, u64),
    Pass(u64),
}

/// What may be changed of a back-end; a group by its place among them.
#[derive(Clone, Copy, Debug)]
struct Change {
    ceiling: u32,
    weight: u32,
    group: Option<usize>,
}

fn change() -> impl Strategy<Value = Change> {
    let group = prop::option::of(0..GROUPS);
    (0..4u32, 1..4u32, group).prop_map(|(ceiling, weight, group)| Change {
        ceiling,
        weight,
        group,
    })
}

fn flood() -> impl Strategy<Value = FloodSettings> {
    use FloodMode::{Auto, Off, On};
    let mode = prop::sample::select(vec![Off, Auto, Auto, On]);
    (mode, 1..8u32, 1..4000u64, 1..=100u32, 1000..4000u64).prop_map(
        |(mode, rate, hold, half_open, handshake)| FloodSettings {
            mode,
            rate,
            hold: Duration::from_millis(hold),
            half_open,
            handshake: Duration::from_millis(handshake),
        },
    )
}

fn settings() -> impl Strategy<Value = ServiceSettings> {
    let balance = prop::sample::select(vec![
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::LeastResponseTime,
        Balance::SourceHash,
    ]);
    (
        0..6u32,
        1..8000u64,
        any::<bool>(),
        0..3u32,
        balance,
        flood(),
    )
        .prop_map(
            |(queue_capacity, timeout, refuse, per_source, balance, flood)| ServiceSettings {
                balance,
                flood,
                queue_capacity,
                queue_timeout: Duration::from_millis(timeout),
                overflow: if refuse {
                    Overflow::Refuse
                } else {
                    Overflow::Drop
                },
                per_source,
                ..SETTINGS
            },
        )
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    use Happening as H;
    let phase = prop::sample::select(vec![ESTABLISHED, CLOSING, ENDED, ENDED, RESET]);
    let failure = prop::sample::select(vec![InstallFailure::Collision, InstallFailure::TableFull]);
    let connect_failure =
        prop::sample::select(vec![ConnectFailure::Refused, ConnectFailure::Silent]);
    let state = prop::sample::select(vec![
        BackendState::Up,
        BackendState::Up,
        BackendState::Down,
        BackendState::Draining,
        BackendState::Disabled,
    ]);
    let which = any::<usize>();
    let happening = prop_oneof![
        40 => (which, 0..12u8, 1..3u32).prop_map(|(s, client, isn)| H::Syn(s, client, isn)),
        20 => (which, phase).prop_map(|(flow, phase)| H::Phase(flow, phase)),
        5 => (which, failure).prop_map(|(flow, failure)| H::InstallFailed(flow, failure)),
        10 => (which, connect_failure, prop::bool::weighted(0.9))
            .prop_map(|(flow, failure, kept)| H::ConnectFailed(flow, failure, kept)),
        3 => (which, 0..400_000u64).prop_map(|(flow, ago)| H::LastSeen(flow, ago)),
        1 => which.prop_map(H::Missing),
        1 => which.prop_map(H::RemoveFlow),
        5 => (which, 0..4u32).prop_map(|(backend, ceiling)| H::Ceiling(backend, ceiling)),
        4 => (which, state).prop_map(|(backend, state)| H::State(backend, state)),
        2 => (which, change()).prop_map(|(service, new)| H::AddBackend(service, new)),
        3 => (which, change()).prop_map(|(backend, new)| H::UpdateBackend(backend, new)),
        2 => (which, prop::option::of(0..50u64)).prop_map(|(b, ms)| H::ResponseTime(b, ms)),
        4 => (which, 0..5u32).prop_map(|(group, ceiling)| H::GroupCeiling(group, ceiling)),
        1 => which.prop_map(H::ReplaceGroup),
        3 => which.prop_map(H::Window),
        2 => which.prop_map(H::RemoveBackend),
        4 => (which, change()).prop_map(|(backend, new)| H::ReviveBackend(backend, new)),
        2 => (which, settings()).prop_map(|(service, new)| H::UpdateService(service, new)),
        1 => which.prop_map(H::ReplaceService),
        15 => (which, 0..4u64, 0..2u64).prop_map(|(s, unproven, lost)| H::Look(s, unproven, lost)),
        10 => (0..5000u64).prop_map(H::Pass),
        2 => (0..400_000u64).prop_map(H::Pass),
    ];
    prop::collection::vec(happening, 1..250)
}

/// The state machine, and what a caller can know of it.
struct World {
    admission: Admission<u64, Seeded>,
    services: [ServiceId; SERVICES],
    groups: [GroupId; GROUPS],
    now: u64,
    /// Of each back-end, what its windows told of the connections that it was given, and of those
    /// that are over.
    told: BTreeMap<BackendId, (u64, u64)>,
    /// Flows that were admitted and not removed.
    live: BTreeMap<FlowId, FlowKey>,
    /// What the program counts as unproven of each service.
    unproven: [u64; SERVICES],
    /// Requests that were handed in and not given back.
    held: BTreeSet<u64>,
    requests: u64,
    history: String,
}

fn pick<T: Copy>(which: usize, from: &[T]) -> Option<T> {
    from.get(which.checked_rem(from.len())?).copied()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut admission = Admission::new(FLOW_CAPACITY, Seeded(seed));
        let services = [SETTINGS, TIMID].map(|settings| admission.add_service(settings).unwrap());
        let groups = [1, 2, 4].map(|ceiling| admission.add_group(ceiling).unwrap());
        let mut world = Self {
            admission,
            services,
            groups,
            now: 0,
            told: BTreeMap::new(),
            live: BTreeMap::new(),
            unproven: [0; SERVICES],
            held: BTreeSet::new(),
            requests: 0,
            history: String::new(),
        };
        for service in 0..SERVICES {
            for (ceiling, group) in [(1, None), (2, Some(0)), (3, Some(1))] {
                let new = Change {
                    ceiling,
                    weight: 1,
                    group,
                };
                world.happen(&Happening::AddBackend(service, new));
            }
        }
        world
    }

    fn happen(&mut self, happening: &Happening) {
        self.now += 1;
        let queues = self.queues();
        let flooded = self.flooded();
        let skipped = self.act(happening);
        // A number may be given to another back-end.
        let admission = &self.admission;
        self.told.retain(|id, _| admission.backend(*id).is_some());
        let told: Vec<_> = core::iter::from_fn(|| self.admission.poll_command()).collect();
        for command in &told {
            self.follow(command);
        }
        self.check_order(&queues, &told, skipped);
        self.check_ceilings(&told);
        self.check_floods(&flooded, &told);
        self.check_records();
        self.check_queues();
        self.check_groups();
        self.history += &format!("{happening:?} at {}: {told:?}\n", self.now);
    }

    /// Does it; tells the key of a request that is not in a queue but may be admitted.
    fn act(&mut self, happening: &Happening) -> Option<FlowKey> {
        let flows: Vec<_> = self.live.keys().copied().collect();
        let backends: Vec<_> = self
            .admission
            .backends()
            .map(|backend| backend.id)
            .collect();
        let (now, services, groups) = (ms(self.now), self.services, self.groups);
        let admission = &mut self.admission;
        match *happening {
            Happening::Syn(service, client, isn) => {
                let service = services[service % SERVICES];
                self.requests += 1;
                self.held.insert(self.requests);
                let mut key = key(char::from(b'a' + client % 8));
                // Some clients share an address.
                key.src_port = Port::new(40_000 + u16::from(client));
                key.dst_port = Port::new(service.0 as u16);
                admission.handle_syn(now, service, key, isn, self.requests);
            }
            Happening::InstallFailed(flow, failure) => {
                let flow = pick(flow, &flows)?;
                let key = self.live.remove(&flow);
                self.requests += 1;
                self.held.insert(self.requests);
                admission.handle_install_failed(now, flow, failure, self.requests);
                return key;
            }
            Happening::ConnectFailed(flow, failure, kept) => {
                let flow = pick(flow, &flows)?;
                let before = admission.flow(flow)?;
                self.requests += 1;
                let request = kept.then_some(self.requests);
                let service = |admission: &Admission<_, _>| {
                    admission.service(before.service).map(|view| view.counters)
                };
                let was = service(admission)?;
                admission.handle_connect_failed(now, flow, failure, request);
                // Given back, or not taken: a flow that is left alone still has its own.
                let is = service(admission);
                let given_up = admission.commands.iter().any(|command| {
                    let timeout = RemoveReason::HandshakeTimeout;
                    matches!(command, Command::Remove { reason, .. } if *reason == timeout)
                });
                if kept
                    && !given_up
                    && is.is_none_or(|is| is.refused + is.retried > was.refused + was.retried)
                {
                    self.held.insert(self.requests);
                }
            }
            Happening::Phase(flow, phase) => {
                admission.handle_phase(now, pick(flow, &flows)?, phase);
            }
            Happening::LastSeen(flow, ago) => {
                let last_seen = ms(self.now.saturating_sub(ago));
                admission.handle_activity(now, pick(flow, &flows)?, last_seen);
            }
            Happening::Missing(flow) => admission.handle_missing(now, pick(flow, &flows)?),
            Happening::RemoveFlow(flow) => admission.remove_flow(now, pick(flow, &flows)?),
            Happening::Ceiling(backend, ceiling) => {
                admission.set_ceiling(now, pick(backend, &backends)?, ceiling);
            }
            Happening::State(backend, state) => {
                admission.set_state(now, pick(backend, &backends)?, state);
            }
            Happening::AddBackend(service, new) => {
                let settings = BackendSettings {
                    weight: new.weight,
                    group: new.group.map(|group| groups[group]),
                    ..backend_settings(new.ceiling)
                };
                admission
                    .add_backend(now, services[service % SERVICES], settings)
                    .unwrap();
            }
            Happening::UpdateBackend(backend, new) => {
                let ceiling = backend_settings(new.ceiling).ceiling;
                let group = new.group.map(|group| groups[group]);
                let id = pick(backend, &backends)?;
                admission
                    .update_backend(now, id, ceiling, 1000, new.weight, group)
                    .unwrap();
            }
            Happening::ResponseTime(backend, millis) => {
                let response = millis.map(Duration::from_millis);
                admission.set_response_time(pick(backend, &backends)?, response);
            }
            Happening::GroupCeiling(group, ceiling) => {
                admission.set_group_ceiling(now, groups[group % GROUPS], ceiling);
            }
            Happening::ReplaceGroup(group) => {
                let id = groups[group % GROUPS];
                let used = admission
                    .backends()
                    .any(|backend| backend.group == Some(id));
                assert_eq!(admission.remove_group(id).is_err(), used);
                if !used {
                    self.groups[group % GROUPS] = admission.add_group(2).unwrap();
                }
            }
            Happening::Window(service) => {
                let window = admission.take_window(now, services[service % SERVICES]);
                for backend in window?.backends {
                    let (admitted, over) = self.told.entry(backend.id).or_default();
                    *admitted += backend.admitted;
                    *over += backend.ended + backend.failed;
                    let view = admission.backend(backend.id)?;
                    assert_eq!(*over, view.ended + view.failed, "{backend:?}");
                    // More, if one was told that could not be installed afterwards.
                    assert!(*admitted >= view.admitted);
                    assert!(backend.held_mean <= f64::from(backend.held_max));
                    assert!(backend.held_max >= view.half_open + view.active);
                }
            }
            Happening::RemoveBackend(backend) => {
                admission.remove_backend(now, pick(backend, &backends)?);
            }
            Happening::ReviveBackend(backend, new) => {
                let id = pick(backend, &backends)?;
                let was = admission.backend(id)?;
                let settings = BackendSettings {
                    weight: new.weight,
                    group: new.group.map(|group| groups[group]),
                    ..backend_settings(new.ceiling)
                };
                let service = admission.service(was.service)?;
                let expected = if was.leaving && service.leaving {
                    Err(AddError::NoService)
                } else {
                    Ok(was.leaving)
                };
                assert_eq!(admission.revive_backend(now, id, settings), expected);
            }
            Happening::UpdateService(service, settings) => {
                admission.update_service(now, services[service % SERVICES], settings);
            }
            Happening::ReplaceService(service) => {
                let service = service % SERVICES;
                admission.remove_service(now, services[service]);
                self.services[service] = admission.add_service(TIMID).unwrap();
            }
            Happening::Look(service, unproven, lost) => {
                let (place, id) = (service % SERVICES, services[service % SERVICES]);
                self.unproven[place] += unproven;
                let was_on = admission.service(id)?.flood.since.is_some();
                let change = admission.handle_flood(now, id, self.unproven[place], lost);
                let view = admission.service(id)?;
                let is_on = view.flood.since.is_some();
                let expected = match (was_on, is_on) {
                    (false, true) => Some(FloodChange::Begun),
                    (true, false) => Some(FloodChange::Over),
                    _ => None,
                };
                assert_eq!(change, expected);
                match view.settings.flood.mode {
                    FloodMode::On => assert!(is_on),
                    FloodMode::Off => assert!(!is_on),
                    FloodMode::Auto => {}
                }
            }
            Happening::Pass(time) => {
                self.now += time;
                admission.handle_timeout(ms(self.now));
            }
        }
        None
    }

    /// No command names a flow that is not live, nor a request that was not handed in.
    fn follow(&mut self, command: &Command<u64>) {
        match *command {
            Command::Admit {
                flow, key, request, ..
            } => {
                assert!(
                    !self.live.values().any(|live| *live == key),
                    "{key:?} is live"
                );
                assert_eq!(self.live.insert(flow, key), None);
                assert!(self.held.remove(&request));
            }
            Command::Refuse { request, .. } | Command::Discard { request, .. } => {
                assert!(self.held.remove(&request));
            }
            Command::Remove { flow, key, .. } => assert_eq!(self.live.remove(&flow), Some(key)),
            Command::Probe { flow, key, .. } | Command::Unanswered { flow, key, .. } => {
                assert_eq!(self.live.get(&flow), Some(&key));
            }
        }
    }

    fn queues(&self) -> BTreeMap<ServiceId, Vec<FlowKey>> {
        let services = self.admission.services();
        let queue = |id| self.admission.queue(id).map(|queued| queued.key).collect();
        services
            .map(|service| (service.id, queue(service.id)))
            .collect()
    }

    /// Who waited was released in order, and nobody before them was left behind.
    fn check_order(
        &self,
        before: &BTreeMap<ServiceId, Vec<FlowKey>>,
        told: &[Command<u64>],
        skipped: Option<FlowKey>,
    ) {
        for (service, queue) in before {
            let released = told.iter().filter_map(|command| match command {
                Command::Admit {
                    key,
                    waited: Some(_),
                    ..
                } if Some(*key) != skipped => queue.iter().position(|waiting| waiting == key),
                _ => None,
            });
            let released: Vec<_> = released.collect();
            assert!(released.is_sorted());
            let left: Vec<_> = self
                .admission
                .queue(*service)
                .map(|queued| queued.key)
                .collect();
            let overtaken = &queue[..released.last().map_or(0, |last| last + 1)];
            assert!(overtaken.iter().all(|key| !left.contains(key)));
        }
    }

    /// A back-end that was given a request holds no more than its ceiling.
    fn check_ceilings(&self, told: &[Command<u64>]) {
        for command in told {
            if let Command::Admit { backend, .. } = command
                && let Some(view) = self.admission.backend(*backend)
            {
                assert!(view.half_open + view.active <= view.ceiling, "{view:?}");
                assert!(view.active_max >= view.half_open + view.active);
                let group = view.group.and_then(|group| self.admission.group(group));
                assert!(
                    group.is_none_or(|group| group.held <= group.ceiling),
                    "{group:?}"
                );
            }
        }
    }

    /// Services at which a flood is on.
    fn flooded(&self) -> BTreeSet<ServiceId> {
        let services = self.admission.services();
        let flooded = services.filter(|service| service.flood.since.is_some());
        flooded.map(|service| service.id).collect()
    }

    /// While one is on, nobody is answered by RST but for a back-end's own refusal, and whoever is
    /// admitted finds its back-end with no more unfinished handshakes than may be.
    fn check_floods(&self, before: &BTreeSet<ServiceId>, told: &[Command<u64>]) {
        let after = self.flooded();
        let is_on = |service| before.contains(service) && after.contains(service);
        for command in told {
            match command {
                Command::Refuse {
                    service, reason, ..
                } if is_on(service) => assert_eq!(*reason, RefuseReason::BackendsRefused),
                Command::Admit {
                    service, backend, ..
                } if is_on(service) => {
                    let view = self.admission.backend(*backend);
                    let most = view.as_ref().map(|view| self.half_open_max(view));
                    let view = view.filter(|view| Some(view.half_open) > most);
                    assert_eq!(view.map(|view| view.half_open), None, "{most:?} may be");
                }
                _ => {}
            }
        }
    }

    /// Most unfinished handshakes that a back-end may be given.
    fn half_open_max(&self, backend: &BackendView) -> u32 {
        let service = self.admission.service(backend.service);
        match service.filter(|service| service.flood.since.is_some()) {
            Some(service) => (backend.ceiling * service.settings.flood.half_open / 100).max(1),
            None => u32::MAX,
        }
    }

    /// Records are where they are expected, and nowhere twice.
    fn check_records(&self) {
        let flows: BTreeMap<_, _> = self
            .admission
            .flows()
            .map(|flow| (flow.id, flow.key))
            .collect();
        assert_eq!(flows, self.live);
        assert!(self.admission.flow_count() <= FLOW_CAPACITY);

        let queues = self.queues();
        let keys: Vec<_> = flows.values().chain(queues.values().flatten()).collect();
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
        let waiting = queues
            .keys()
            .flat_map(|service| self.admission.queue(*service));
        assert_eq!(
            waiting
                .map(|queued| *queued.request)
                .collect::<BTreeSet<_>>(),
            self.held
        );

        for backend in self.admission.backends() {
            let states = self
                .admission
                .flows()
                .filter(|flow| flow.backend == backend.id);
            let states: Vec<_> = states.map(|flow| flow.state).collect();
            let count = |wanted| states.iter().filter(|state| **state == wanted).count() as u32;
            assert_eq!(backend.half_open, count(FlowState::HalfOpen));
            let active = count(FlowState::Established) + count(FlowState::Closing);
            assert_eq!(backend.active, active);
            let over = backend.ended + backend.failed;
            let held = u64::from(backend.half_open + backend.active);
            assert_eq!(backend.admitted, over + held);
            assert!(
                !backend.leaving || !states.is_empty(),
                "it is gone with its last flow"
            );
        }
    }

    /// Every request is accounted for, none waits without need, and none that nobody will look at.
    fn check_queues(&self) {
        for view in self.admission.services() {
            let counters = view.counters;
            let done = counters.admitted + counters.refused + counters.expired + counters.abandoned;
            assert_eq!(
                counters.received,
                done + u64::from(view.queue_depth),
                "{counters:?}"
            );

            // Who is first may have been put back from some; those behind do not overtake it.
            let first = self.admission.services[view.id.0].queue.first();
            let tried = first.map(|index| self.admission.backlog.get(index).tried);
            let was_tried = |backend: &BackendView| {
                let position = self.admission.backends[backend.id.0].position;
                tried.is_some_and(|tried| tried.has(position))
            };
            let available = self.admission.backends().any(|backend| {
                backend.service == view.id
                    && !was_tried(&backend)
                    && backend.state == BackendState::Up
                    && backend.half_open + backend.active < backend.ceiling
                    && backend.half_open < self.half_open_max(&backend)
                    && backend.group.is_none_or(|group| {
                        let group = self.admission.group(group).unwrap();
                        group.held < group.ceiling
                    })
            });
            let full = self.admission.flow_count() == FLOW_CAPACITY;
            assert!(view.queue_depth == 0 || !available || full, "{view:?}");

            let sources = &self.admission.services[view.id.0].sources;
            let mut waiting = BTreeMap::new();
            for queued in self.admission.queue(view.id) {
                *waiting.entry(queued.key.src).or_insert(0) += 1;
            }
            if view.settings.per_source == 0 {
                waiting.clear();
            }
            let counted: BTreeMap<_, _> = sources.iter().map(|(addr, n)| (*addr, *n)).collect();
            assert_eq!(counted, waiting);
        }
        let records = self.admission.flow_count() + self.admission.queued_count();
        assert_eq!(self.admission.poll_timeout().is_some(), records > 0);
    }

    /// What a group holds is what its back-ends hold, removed ones too.
    fn check_groups(&self) {
        for group in self.admission.groups() {
            let members = self.admission.backends();
            let members = members.filter(|backend| backend.group == Some(group.id));
            let held: u32 = members
                .map(|backend| backend.half_open + backend.active)
                .sum();
            assert_eq!(group.held, held);
            assert!(group.held_max >= held);
        }
    }
}

proptest! {
    #![proptest_config(seeded())]

    #[test]
    fn whatever_happens_every_request_and_every_slot_is_accounted_for(
        happenings in happenings(),
    ) {
        let mut world = World::new(1);
        for happening in &happenings {
            world.happen(happening);
        }
    }

    #[test]
    fn the_same_happenings_make_the_same_history_however_keys_are_hashed(
        happenings in happenings(),
    ) {
        let history = |seed| {
            let mut world = World::new(seed);
            for happening in &happenings {
                world.happen(happening);
            }
            world.history
        };
        prop_assert_eq!(history(1), history(2));
    }
}
