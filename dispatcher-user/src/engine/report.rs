//! What the thread tells of itself: the status, the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use dispatcher_common::verdict::{DropReason, Handled};

use super::{BackendInfo, Engine, ServiceInfo};
use crate::admin::QueueFilter;
use crate::admission::{BackendView, Time};
use crate::datapath::AttachedMode;
use crate::status::{
    AttachMode, BackendStatus, ChecksStatus, FloodStatus, FlowTableStatus, GroupStatus, QueueRow,
    QueueStatus, Rate, Requests, ServiceStatus, Status, TimesBySize, TimesMs, Totals, WaitMs,
};

impl Engine {
    /// The whole picture, but for what the program measures of back-ends.
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
        let handled = Handled::ALL.iter().map(|&handled| {
            let count = self.datapath.handled(handled);
            (handled.label().to_owned(), count)
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: now.since(self.started).as_secs_f64(),
            attach_mode: match self.attached {
                Some(AttachedMode::Native) | None => AttachMode::Native,
                Some(AttachedMode::Generic) => AttachMode::Generic,
            },
            flows: FlowTableStatus {
                used: u64::from(self.admission.flow_count()),
                capacity: u64::from(self.admission.flow_capacity()),
            },
            frames: self.sockets.frames(),
            checks: ChecksStatus::default(),
            dropped: dropped.collect(),
            handled: handled.collect(),
            groups: self.groups_status(),
            services: (0..self.services.len())
                .map(|at| self.service_status(now, at))
                .collect(),
            interfaces: self.sockets.status(&self.network),
        }
    }

    fn groups_status(&self) -> Vec<GroupStatus> {
        let groups = self.groups.iter();
        groups
            .filter_map(|group| {
                let view = self.admission.group(group.id)?;
                Some(GroupStatus {
                    name: group.name.to_string(),
                    active: u64::from(view.held),
                    active_max: u64::from(view.held_max),
                    ceiling: u64::from(view.ceiling),
                })
            })
            .collect()
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
            flood: self.flood_status(now, info),
            backends: backends.collect(),
        }
    }

    fn flood_status(&self, now: Time, info: &ServiceInfo) -> FloodStatus {
        let view = self.admission.service(info.id);
        let flood = view.map(|view| view.flood).unwrap_or_default();
        FloodStatus {
            on: flood.since.is_some(),
            since_seconds: flood.since.map(|since| now.since(since).as_secs_f64()),
            count: flood.begun,
            unproven: flood.unproven,
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
            wait_sizes: info.waits.sizes().clone(),
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
            retried: counters.retried,
            admitted_max: counters.admitted_max,
        };
        (queue, requests)
    }

    fn backend_status(&self, info: &BackendInfo, view: &BackendView) -> BackendStatus {
        BackendStatus {
            name: info.name.to_string(),
            address: info.address,
            state: view.state.into(),
            health: None,
            active: u64::from(view.active),
            half_open: u64::from(view.half_open),
            active_max: u64::from(view.active_max),
            ceiling: u64::from(view.ceiling),
            ceiling_min: u64::from(view.ceiling_min),
            ceiling_max: u64::from(view.ceiling_max),
            capacity: u64::from(view.settings.capacity),
            weight: view.settings.weight,
            group: info.group.as_deref().map(str::to_owned),
            policy: info.policy.to_owned(),
            pinned: false,
            moved: None,
            moves: BTreeMap::new(),
            suggested: None,
            response_ms: TimesMs::default(),
            connect_ms: TimesMs::default(),
            response_sizes: TimesBySize::default(),
            connect_sizes: TimesBySize::default(),
            rate: Rate::default(),
            total: Totals {
                connections: view.admitted,
                refused: view.refused,
                silent: view.silent,
                ..Totals::default()
            },
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
