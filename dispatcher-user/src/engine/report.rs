//! What the thread tells of itself: the status, the queue, rates.

use std::time::Duration;

use dispatcher_common::service::BackendCounters;
use dispatcher_common::verdict::DropReason;

use super::{BackendInfo, Engine, ServiceInfo};
use crate::admin::QueueFilter;
use crate::admission::{self, BackendView, Time};
use crate::datapath::AttachedMode;
use crate::status::{
    AttachMode, BackendState, BackendStatus, ConnectMs, FlowTableStatus, QueueRow, QueueStatus,
    Rate, Requests, ResponseMs, ServiceStatus, Status, Totals, WaitMs,
};

/// How often rates are measured.
const WINDOW: Duration = Duration::from_secs(1);

/// Counters of a back-end at the start and at the end of a window.
#[derive(Clone, Copy, Default)]
pub(super) struct Meters {
    /// Counters when the daemon started: those of an earlier one may be in the map.
    base: BackendCounters,
    last: Option<(Time, u64, BackendCounters)>,
    rate: Rate,
}

impl Meters {
    pub(super) fn starting_at(base: BackendCounters) -> Self {
        Self {
            base,
            ..Self::default()
        }
    }

    fn measure(&mut self, now: Time, connections: u64, counters: BackendCounters) {
        if let Some((then, connections_before, before)) = self.last {
            let seconds = now.since(then).as_secs_f64();
            let rate = |after: u64, before: u64| {
                Some(after.saturating_sub(before) as f64 / seconds.max(f64::MIN_POSITIVE))
            };
            self.rate = Rate {
                connections: rate(connections, connections_before),
                requests: None,
                packets_in: rate(counters.packets_in, before.packets_in),
                packets_out: rate(counters.packets_out, before.packets_out),
                bytes_in: rate(counters.bytes_in, before.bytes_in),
                bytes_out: rate(counters.bytes_out, before.bytes_out),
            };
        }
        self.last = Some((now, connections, counters));
    }

    fn totals(&self, connections: u64, counters: BackendCounters) -> Totals {
        Totals {
            connections,
            packets_in: counters.packets_in.saturating_sub(self.base.packets_in),
            packets_out: counters.packets_out.saturating_sub(self.base.packets_out),
            bytes_in: counters.bytes_in.saturating_sub(self.base.bytes_in),
            bytes_out: counters.bytes_out.saturating_sub(self.base.bytes_out),
        }
    }
}

impl Engine {
    /// Measures rates when a window is over.
    pub(super) fn measure(&mut self, now: Time) {
        if now.since(self.measured) < WINDOW {
            return;
        }
        self.measured = now;
        for backend in self
            .services
            .iter_mut()
            .flat_map(|service| &mut service.backends)
        {
            let admitted = self.backends[backend.id.0 as usize].connections;
            backend
                .meters
                .measure(now, admitted, self.datapath.backend(backend.id.0));
        }
    }

    /// The whole picture.
    pub(super) fn status(&mut self, now: Time) -> Status {
        let receive_drops = self.sockets.receive_drops();
        let dropped = DropReason::ALL.iter().map(|&reason| {
            let of_sockets = match reason {
                DropReason::ReceiveFull => receive_drops,
                _ => self.dropped[reason as usize],
            };
            let count = self.datapath.dropped(reason) + of_sockets;
            (reason.label().to_owned(), count)
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: now.since(self.started).as_secs_f64(),
            attach_mode: match self.attached {
                AttachedMode::Native => AttachMode::Native,
                AttachedMode::Generic => AttachMode::Generic,
            },
            flows: FlowTableStatus {
                used: u64::from(self.admission.flow_count()),
                capacity: u64::from(self.admission.flow_capacity()),
            },
            frames: self.sockets.frames(),
            dropped: dropped.collect(),
            services: (0..self.services.len())
                .map(|at| self.service_status(now, at))
                .collect(),
        }
    }

    fn service_status(&mut self, now: Time, at: usize) -> ServiceStatus {
        let wait_ms = self.services[at].waits.quantiles(now);
        let info = &self.services[at];
        let (queue, requests) = self.queue_status(now, info, wait_ms);
        let backends = info.backends.iter().filter_map(|backend| {
            let view = self.admission.backend(backend.id)?;
            Some(self.backend_status(backend, &view))
        });
        ServiceStatus {
            name: info.name.to_string(),
            address: info.address,
            queue,
            requests,
            backends: backends.collect(),
        }
    }

    fn queue_status(
        &self,
        now: Time,
        info: &ServiceInfo,
        wait_ms: WaitMs,
    ) -> (QueueStatus, Requests) {
        let Some(view) = self.admission.service(info.id) else {
            return Default::default();
        };
        let oldest = view
            .oldest
            .map_or(Duration::ZERO, |oldest| now.since(oldest));
        let queue = QueueStatus {
            depth: u64::from(view.queue_depth),
            capacity: u64::from(view.settings.queue_capacity),
            oldest_wait_ms: u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX),
            wait_ms,
        };
        let counters = view.counters;
        let requests = Requests {
            received: counters.received,
            admitted: counters.admitted,
            queued: u64::from(view.queue_depth),
            refused: counters.refused,
            expired: counters.expired,
            abandoned: counters.abandoned,
            retransmitted: counters.retransmitted,
        };
        (queue, requests)
    }

    fn backend_status(&self, info: &BackendInfo, view: &BackendView) -> BackendStatus {
        BackendStatus {
            name: info.name.to_string(),
            address: info.address,
            state: match view.state {
                admission::BackendState::Up => BackendState::Up,
                admission::BackendState::Down => BackendState::Down,
                admission::BackendState::Draining => BackendState::Draining,
                admission::BackendState::Disabled => BackendState::Disabled,
            },
            active: u64::from(view.active),
            half_open: u64::from(view.half_open),
            active_max: u64::from(view.active_max),
            ceiling: u64::from(view.ceiling),
            ceiling_min: u64::from(view.ceiling_min),
            ceiling_max: u64::from(view.ceiling_max),
            capacity: u64::from(view.settings.capacity),
            policy: info.policy.to_owned(),
            response_ms: ResponseMs::default(),
            connect_ms: ConnectMs::default(),
            rate: info.meters.rate,
            total: info.meters.totals(
                self.backends[info.id.0 as usize].connections,
                self.datapath.backend(info.id.0),
            ),
        }
    }

    /// Requests that wait, oldest first.
    pub(super) fn queue(&self, now: Time, filter: &QueueFilter) -> Vec<QueueRow> {
        let wanted = |info: &&ServiceInfo| {
            filter
                .service
                .as_ref()
                .is_none_or(|name| **name == *info.name)
        };
        let mut rows = Vec::new();
        for info in self.services.iter().filter(wanted) {
            for (at, queued) in self.admission.queue(info.id).enumerate() {
                if rows.len() == filter.limit {
                    return rows;
                }
                let waited = now.since(queued.enqueued_at).as_millis();
                rows.push(QueueRow {
                    service: info.name.to_string(),
                    client: (queued.key.src.ip(), queued.key.src_port.number()).into(),
                    position: at as u64 + 1,
                    waited_ms: u64::try_from(waited).unwrap_or(u64::MAX),
                    retransmissions: u32::from(queued.retransmissions),
                });
            }
        }
        rows
    }
}
