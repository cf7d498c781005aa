//! A reference for one service: the rules once more, by looking at everything each time. It is as
//! slow and as simple as can be, and speaks the sentences of [`Bench`].

use super::*;

/// Times in milliseconds.
#[derive(Clone)]
pub(super) struct Model {
    settings: ServiceSettings,
    flow_capacity: usize,
    /// Ceilings, and the group that each is in.
    backends: Vec<(u32, Option<u32>)>,
    /// Ceilings.
    groups: Vec<u32>,
    cursor: usize,
    waiting: Vec<Waiting>,
    flows: Vec<ModelFlow>,
    /// Counts arming of timers: of two that are due together, the one armed first fires first.
    armed: usize,
    pub(super) counters: ServiceCounters,
    /// SYNs that each back-end has not answered.
    silent: Vec<u64>,
    told: Vec<String>,
    /// What there was after each change since the window began, and just before that.
    notes: Vec<Note>,
    window_begun: u64,
}

#[derive(Clone)]
struct Note {
    at: u64,
    waiting: u32,
    held: Vec<u32>,
    ceilings: Vec<u32>,
}

/// What was measured, on average and at most.
pub(super) struct Measured {
    /// Requests that waited.
    pub(super) queue: (f64, u32),
    /// Slots held at each back-end, and whether its ceiling was reached.
    pub(super) backends: Vec<(f64, u32, bool)>,
}

#[derive(Clone)]
struct Waiting {
    client: char,
    isn: u32,
    since: u64,
    seen: u64,
    gap: Option<u64>,
    /// Back-ends that it was put back from, and until when it is kept from these.
    tried: Vec<usize>,
    tried_until: u64,
    put_back: bool,
    /// When its timer fires: not after it is due, but it may find out that it is not.
    timer: u64,
    armed: usize,
}

#[derive(Clone)]
pub(super) struct ModelFlow {
    pub(super) client: char,
    pub(super) isn: u32,
    backend: usize,
    arrived: u64,
    tried: Vec<usize>,
    pub(super) state: FlowState,
    /// Whether its back-end answers, if that is known.
    answers: Option<bool>,
    admitted: u64,
    changed: u64,
    due: u64,
    armed: usize,
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl Model {
    pub(super) fn new(
        flows: u32,
        settings: ServiceSettings,
        backends: &[(u32, Option<u32>)],
        groups: &[u32],
    ) -> Self {
        let mut model = Self {
            settings,
            flow_capacity: flows as usize,
            backends: backends.to_vec(),
            groups: groups.to_vec(),
            cursor: 0,
            waiting: Vec::new(),
            flows: Vec::new(),
            armed: 0,
            counters: ServiceCounters::default(),
            silent: vec![0; backends.len()],
            told: Vec::new(),
            notes: Vec::new(),
            window_begun: 0,
        };
        model.note(0);
        model
    }

    pub(super) fn syn_with(&mut self, at: u64, client: char, isn: u32) -> Vec<String> {
        if let Some(place) = self
            .waiting
            .iter()
            .position(|waiting| waiting.client == client)
        {
            let before = self.due(&self.waiting[place]);
            let waiting = &mut self.waiting[place];
            if waiting.isn == isn {
                self.counters.retransmitted += 1;
                (waiting.gap, waiting.seen) = (Some(at - waiting.seen), at);
                self.told
                    .push(format!("discard {client}{isn}: Retransmission"));
            } else {
                self.counters.abandoned += 1;
                self.counters.received += 1;
                self.counters.queued += 1;
                self.told
                    .push(format!("discard {client}{}: Replaced", waiting.isn));
                *waiting = Waiting {
                    client,
                    isn,
                    since: at,
                    seen: at,
                    gap: None,
                    tried: vec![],
                    tried_until: 0,
                    put_back: waiting.put_back,
                    ..*waiting
                };
            }
            if self.due(&self.waiting[place]) < before {
                self.set_timer(place);
            }
            self.release(at);
            return self.told();
        }
        if let Some(place) = self.flow(client) {
            let flow = &self.flows[place];
            match flow.state {
                FlowState::Lingering => self.remove(at, place, "Replaced"),
                FlowState::HalfOpen if flow.isn == isn => {
                    self.counters.retransmitted += 1;
                    self.told
                        .push(format!("discard {client}{isn}: Retransmission"));
                    return self.told();
                }
                _ => {
                    self.told.push(format!("discard {client}{isn}: FlowLive"));
                    self.told.push(format!("probe {client}"));
                    return self.told();
                }
            }
        }
        self.counters.received += 1;
        if !self.waiting.is_empty() || !self.any_available() {
            if self.waiting.len() < self.settings.queue_capacity as usize {
                self.counters.queued += 1;
                let new = Waiting {
                    client,
                    isn,
                    since: at,
                    seen: at,
                    gap: None,
                    tried: vec![],
                    tried_until: 0,
                    put_back: false,
                    timer: 0,
                    armed: 0,
                };
                self.waiting.push(new);
                self.set_timer(self.waiting.len() - 1);
                self.note(at);
            } else {
                self.turn_away(client, isn, "QueueFull");
            }
        } else if self.make_room(at) {
            self.admit(at, (client, isn, at), vec![], "");
        } else {
            self.turn_away(client, isn, "TableFull");
        }
        self.release(at);
        self.told()
    }

    pub(super) fn phase(&mut self, at: u64, client: char, phase: Phase) -> Vec<String> {
        let armed = self.arm();
        let state = FlowState::of(phase);
        if let Some(place) = self.flow(client)
            && self.flows[place].state < state
        {
            let rest = match state {
                FlowState::HalfOpen => self.settings.handshake,
                FlowState::Established => self.settings.idle,
                FlowState::Closing => self.settings.closing,
                FlowState::Lingering => LINGER,
            };
            let flow = &mut self.flows[place];
            (flow.state, flow.changed, flow.due) = (state, at, at + millis(rest));
            flow.armed = armed;
            self.note(at);
            self.release(at);
        } else if let Some(place) = self.flow(client)
            && self.flows[place].state == FlowState::HalfOpen
            && self.flows[place].answers != Some(true)
            && phase.has(Phase::ANSWERED)
        {
            let end = self.handshake_end(place);
            let flow = &mut self.flows[place];
            (flow.answers, flow.due, flow.armed) = (Some(true), end.max(at), armed);
        }
        self.told()
    }

    fn handshake_end(&self, place: usize) -> u64 {
        self.flows[place].admitted + millis(self.settings.handshake)
    }

    pub(super) fn activity(&mut self, at: u64, client: char, last_seen: u64) -> Vec<String> {
        let Some(place) = self.flow(client) else {
            return self.told();
        };
        let armed = self.arm();
        let (silence, reason) = match self.flows[place].state {
            FlowState::Established => (self.settings.idle, "IdleTimeout"),
            FlowState::Closing => (self.settings.closing, "ClosingTimeout"),
            FlowState::HalfOpen | FlowState::Lingering => return self.told(),
        };
        let flow = &mut self.flows[place];
        let deadline = last_seen.max(flow.changed).min(at) + millis(silence);
        if deadline > at {
            (flow.due, flow.armed) = (deadline, armed);
        } else {
            self.remove(at, place, reason);
            self.release(at);
        }
        self.told()
    }

    pub(super) fn missing(&mut self, at: u64, client: char) -> Vec<String> {
        if let Some(place) = self.flow(client) {
            self.remove(at, place, "Missing");
            self.release(at);
        }
        self.told()
    }

    pub(super) fn failed(&mut self, at: u64, client: char, failure: ConnectFailure) -> Vec<String> {
        let may_fail =
            |flow: &ModelFlow| flow.state == FlowState::HalfOpen && flow.answers != Some(true);
        let Some(place) = self.flow(client).filter(|&at| may_fail(&self.flows[at])) else {
            return vec![];
        };
        let flow = self.flows[place].clone();
        if failure == ConnectFailure::Silent {
            self.silent[flow.backend] += u64::from(flow.answers.is_none());
            self.flows[place].answers = Some(false);
        }
        let mut tried = flow.tried;
        tried.push(flow.backend);
        let elsewhere = (0..self.backends.len()).any(|backend| !tried.contains(&backend));
        match (failure, elsewhere) {
            (ConnectFailure::Silent, false) => {
                if self.handshake_end(place) <= at {
                    self.remove(at, place, "HandshakeTimeout");
                }
            }
            (ConnectFailure::Refused, false) => {
                self.counters.admitted -= 1;
                self.counters.refused += 1;
                let told = format!("refuse {client}{}: BackendsRefused", flow.isn);
                self.told.push(told);
                self.remove(at, place, "Refused");
            }
            (_, true) => {
                self.remove(at, place, &format!("{failure:?}"));
                self.put_back(at, (client, flow.isn, flow.arrived), tried);
            }
        }
        self.release(at);
        self.told()
    }

    fn put_back(&mut self, at: u64, request: (char, u32, u64), tried: Vec<usize>) {
        let (client, isn, arrived) = request;
        self.counters.admitted -= 1;
        self.counters.retried += 1;
        if arrived + millis(self.settings.queue_timeout) <= at {
            self.counters.expired += 1;
            self.refuse(client, isn, "Expired");
            return;
        }
        if self.next_in_turn(&tried).is_some() && self.make_room(at) {
            self.admit(at, request, tried, "");
            return;
        }
        if self.waiting.len() >= self.settings.queue_capacity as usize {
            let Some(last) = self.waiting.pop() else {
                self.turn_away(client, isn, "QueueFull");
                return;
            };
            self.note(at);
            self.turn_away(last.client, last.isn, "QueueFull");
        }
        self.counters.queued += 1;
        let mut place = self.waiting.iter().take_while(|one| one.put_back).count();
        while place > 0 && self.waiting[place - 1].since > arrived {
            place -= 1;
        }
        let waiting = Waiting {
            client,
            isn,
            since: arrived,
            seen: at,
            gap: Some(at - arrived),
            tried,
            tried_until: at + millis(TRIED_FOR),
            put_back: true,
            timer: 0,
            armed: 0,
        };
        self.waiting.insert(place, waiting);
        self.set_timer(place);
        self.note(at);
    }

    pub(super) fn set_ceiling(&mut self, at: u64, backend: u32, ceiling: u32) -> Vec<String> {
        self.backends[backend as usize].0 = ceiling;
        self.note(at);
        self.release(at);
        self.told()
    }

    pub(super) fn set_group_ceiling(&mut self, at: u64, group: u32, ceiling: u32) -> Vec<String> {
        self.groups[group as usize] = ceiling;
        self.release(at);
        self.told()
    }

    /// What a window shows.
    pub(super) fn window(&mut self, at: u64) -> Measured {
        self.note(at);
        let notes = core::mem::take(&mut self.notes);
        let (begun, length) = (self.window_begun, at - self.window_begun);
        let mean = |value: &dyn Fn(&Note) -> u32| {
            let spans = notes
                .windows(2)
                .map(|pair| u64::from(value(&pair[0])) * (pair[1].at - pair[0].at.max(begun)));
            match length {
                0 => f64::from(value(&notes[notes.len() - 1])),
                _ => spans.sum::<u64>() as f64 / length as f64,
            }
        };
        let max = |value: &dyn Fn(&Note) -> u32| notes.iter().map(value).max().unwrap_or(0);
        let backends = 0..self.backends.len();
        let backends = backends.map(|backend| {
            let reached = |note: &Note| note.held[backend] >= note.ceilings[backend];
            (
                mean(&|note| note.held[backend]),
                max(&|note| note.held[backend]),
                notes.iter().any(reached),
            )
        });
        let measured = Measured {
            queue: (mean(&|note| note.waiting), max(&|note| note.waiting)),
            backends: backends.collect(),
        };
        self.window_begun = at;
        self.note(at);
        measured
    }

    fn note(&mut self, at: u64) {
        let backends = 0..self.backends.len();
        self.notes.push(Note {
            at,
            waiting: self.waiting.len() as u32,
            held: backends.map(|backend| self.held(backend)).collect(),
            ceilings: self.backends.iter().map(|(ceiling, _)| *ceiling).collect(),
        });
    }

    pub(super) fn pass(&mut self, until: u64) -> Vec<String> {
        while let Some((due, armed)) = self.next_timer()
            && due <= until
        {
            if let Some(place) = self
                .waiting
                .iter()
                .position(|waiting| waiting.armed == armed)
            {
                if self.due(&self.waiting[place]) > due {
                    self.set_timer(place);
                    continue;
                }
                self.lapse(place, due);
            } else if let Some(place) = self.flows.iter().position(|flow| flow.armed == armed) {
                match self.flows[place].state {
                    FlowState::HalfOpen => {
                        let (end, armed) = (self.handshake_end(place), self.arm());
                        let flow = &mut self.flows[place];
                        if end <= due && flow.answers.is_some() {
                            self.remove(due, place, "HandshakeTimeout");
                        } else {
                            let again = due + millis(PROBE_RETRY);
                            flow.due = if due < end { end } else { again };
                            flow.armed = armed;
                            let (client, backend) = (flow.client, flow.backend);
                            let asks = format!("no answer to {client} from {backend}");
                            self.told.push(asks);
                            continue;
                        }
                    }
                    FlowState::Lingering => self.remove(due, place, "Ended"),
                    FlowState::Established | FlowState::Closing => {
                        self.told
                            .push(format!("probe {}", self.flows[place].client));
                        self.flows[place].due = due + millis(PROBE_RETRY);
                        self.flows[place].armed = self.arm();
                        continue;
                    }
                }
            }
            self.release(due);
        }
        self.told()
    }

    /// The timer that fires next.
    fn next_timer(&self) -> Option<(u64, usize)> {
        let waiting = self.waiting.iter();
        waiting
            .map(|waiting| (waiting.timer, waiting.armed))
            .chain(self.flows.iter().map(|flow| (flow.due, flow.armed)))
            .min()
    }

    fn set_timer(&mut self, place: usize) {
        let (due, armed) = (self.due(&self.waiting[place]), self.arm());
        let waiting = &mut self.waiting[place];
        (waiting.timer, waiting.armed) = (due, armed);
    }

    /// When something is due next, and which it is.
    pub(super) fn next_due(&self) -> Option<(u64, usize)> {
        let waiting = self
            .waiting
            .iter()
            .map(|waiting| (self.due(waiting), waiting.armed));
        waiting
            .chain(self.flows.iter().map(|flow| (flow.due, flow.armed)))
            .min()
    }

    pub(super) fn waiting(&self) -> String {
        self.waiting.iter().map(|waiting| waiting.client).collect()
    }

    pub(super) fn flows(&self) -> &[ModelFlow] {
        &self.flows
    }

    pub(super) fn held(&self, backend: usize) -> u32 {
        let holds =
            |flow: &&ModelFlow| flow.backend == backend && flow.state != FlowState::Lingering;
        self.flows.iter().filter(holds).count() as u32
    }

    pub(super) fn silent(&self, backend: usize) -> u64 {
        self.silent[backend]
    }

    pub(super) fn ceiling(&self, backend: usize) -> u32 {
        self.backends[backend].0
    }

    pub(super) fn is_available(&self, backend: usize) -> bool {
        let (ceiling, group) = self.backends[backend];
        let group_has_room = |group| self.group_held(group) < self.groups[group as usize];
        self.held(backend) < ceiling && group.is_none_or(group_has_room)
    }

    pub(super) fn group_held(&self, group: u32) -> u32 {
        let members = (0..self.backends.len()).filter(|&b| self.backends[b].1 == Some(group));
        members.map(|backend| self.held(backend)).sum()
    }

    pub(super) fn groups(&self) -> &[u32] {
        &self.groups
    }

    pub(super) fn any_available(&self) -> bool {
        (0..self.backends.len()).any(|backend| self.is_available(backend))
    }

    /// Whether the first that waits could go to a back-end now.
    pub(super) fn first_could_go(&self) -> bool {
        let first = self.waiting.first();
        first.is_some_and(|first| self.next_in_turn(&first.tried).is_some())
    }

    fn next_in_turn(&self, tried: &[usize]) -> Option<usize> {
        let count = self.backends.len();
        let mut in_turn = (self.cursor..self.cursor + count).map(|turn| turn % count);
        in_turn.find(|&backend| self.is_available(backend) && !tried.contains(&backend))
    }

    pub(super) fn is_table_full(&self) -> bool {
        self.flows.len() == self.flow_capacity
    }

    fn due(&self, waiting: &Waiting) -> u64 {
        let end = self.end_of_wait(waiting);
        if waiting.tried.is_empty() {
            end
        } else {
            end.min(waiting.tried_until)
        }
    }

    fn end_of_wait(&self, waiting: &Waiting) -> u64 {
        let first = waiting.since + 3000;
        let again = waiting
            .gap
            .map_or(0, |gap| waiting.seen + (2 * gap).max(1000));
        (first.max(again) + 500).min(waiting.since + millis(self.settings.queue_timeout))
    }

    fn lapse(&mut self, place: usize, at: u64) {
        if self.end_of_wait(&self.waiting[place]) > at {
            self.waiting[place].tried.clear();
            self.set_timer(place);
            return;
        }
        let Waiting {
            client, isn, since, ..
        } = self.waiting.remove(place);
        self.note(at);
        if at >= since + millis(self.settings.queue_timeout) {
            self.counters.expired += 1;
            self.refuse(client, isn, "Expired");
        } else {
            self.counters.abandoned += 1;
            self.told.push(format!("discard {client}{isn}: Abandoned"));
        }
    }

    fn release(&mut self, at: u64) {
        while let Some(first) = self.waiting.first()
            && self.any_available()
        {
            if self.due(first) <= at {
                self.lapse(0, at);
            } else if self.make_room(at) && self.first_could_go() {
                let first = self.waiting.remove(0);
                self.note(at);
                let waited = format!(" after {} ms", at - first.since);
                // The turn is that of what it has not tried; from now on it has tried nothing.
                let backend = self.next_in_turn(&first.tried);
                let request = (first.client, first.isn, first.since);
                self.admit_to(at, backend, request, vec![], &waited);
            } else {
                return;
            }
        }
    }

    fn make_room(&mut self, at: u64) -> bool {
        if self.is_table_full() {
            let lingering = self.flows.iter().enumerate();
            let oldest = lingering
                .filter(|(_, flow)| flow.state == FlowState::Lingering)
                .min_by_key(|(_, flow)| flow.armed);
            match oldest {
                Some((place, flow)) if at - flow.changed >= millis(RECLAIM_AFTER) => {
                    self.remove(at, place, "Reclaimed");
                }
                _ => return false,
            }
        }
        true
    }

    fn admit(&mut self, at: u64, request: (char, u32, u64), tried: Vec<usize>, waited: &str) {
        let backend = self.next_in_turn(&tried);
        self.admit_to(at, backend, request, tried, waited);
    }

    fn admit_to(
        &mut self,
        at: u64,
        backend: Option<usize>,
        (client, isn, arrived): (char, u32, u64),
        tried: Vec<usize>,
        waited: &str,
    ) {
        let backend = backend.unwrap();
        self.cursor = backend + 1;
        let counters = &mut self.counters;
        counters.admitted += 1;
        counters.admitted_max = counters.admitted_max.max(counters.admitted);
        let due = at + millis(self.settings.handshake.min(self.settings.connect));
        let armed = self.arm();
        self.flows.push(ModelFlow {
            client,
            isn,
            backend,
            arrived,
            tried,
            state: FlowState::HalfOpen,
            answers: None,
            admitted: at,
            changed: at,
            due,
            armed,
        });
        self.note(at);
        self.told
            .push(format!("admit {client}{isn} to {backend}{waited}"));
    }

    fn turn_away(&mut self, client: char, isn: u32, reason: &str) {
        self.counters.refused += 1;
        self.refuse(client, isn, reason);
    }

    fn refuse(&mut self, client: char, isn: u32, reason: &str) {
        self.told.push(match self.settings.overflow {
            Overflow::Refuse => format!("refuse {client}{isn}: {reason}"),
            Overflow::Drop => format!("discard {client}{isn}: Refused({reason})"),
        });
    }

    fn remove(&mut self, at: u64, place: usize, reason: &str) {
        let flow = self.flows.remove(place);
        self.note(at);
        self.told.push(format!(
            "remove {} from {}: {reason}",
            flow.client, flow.backend
        ));
    }

    fn flow(&self, client: char) -> Option<usize> {
        self.flows.iter().position(|flow| flow.client == client)
    }

    fn arm(&mut self) -> usize {
        self.armed += 1;
        self.armed
    }

    fn told(&mut self) -> Vec<String> {
        core::mem::take(&mut self.told)
    }
}
