//! A daemon for tests: one service with one back-end, 5 flows, 3 requests that wait.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{
    BackendAction, BackendDone, BackendOrder, CeilingDone, CeilingOrder, Control, FlowFilter,
    QueueFilter, ReloadDone,
};
use crate::config::Config;
use crate::history::History;
use crate::status::{
    AttachMode, BackendState, BackendStatus, CeilingMove, ChecksStatus, FloodStatus, FlowRow,
    FlowState, FlowTableStatus, FrameStatus, GroupStatus, HealthCheck, HealthStatus,
    InterfaceState, InterfaceStatus, QueueRow, QueueStatus, Rate, Requests, ServiceStatus, Status,
    SuggestedCeiling, TimesBySize, TimesMs, Totals, WaitMs,
};
use crate::telemetry::{QUEUE_WAIT_BUCKETS, TIMES_BUCKETS};

pub(crate) const FLOWS: usize = 5;
pub(crate) const QUEUED: usize = 3;

/// Tells what [`status`] says.
#[derive(Clone)]
pub(crate) struct Fake(Arc<Status>, History);

impl Fake {
    pub(crate) fn new() -> Self {
        Self::telling(status())
    }

    /// Tells this, which is its only sample too.
    pub(crate) fn telling(status: Status) -> Self {
        let (status, history) = (Arc::new(status), History::default());
        history.take(Arc::clone(&status));
        Self(status, history)
    }
}

impl Control for Fake {
    async fn status(&self) -> anyhow::Result<Arc<Status>> {
        Ok(Arc::clone(&self.0))
    }

    async fn flows(&self, filter: FlowFilter) -> anyhow::Result<Vec<FlowRow>> {
        let flows = (1..=FLOWS).map(flow);
        let wanted = flows.filter(|flow| {
            filter
                .service
                .as_ref()
                .is_none_or(|name| *name == flow.service)
                && filter
                    .backend
                    .as_ref()
                    .is_none_or(|name| *name == flow.backend)
                && filter
                    .client
                    .is_none_or(|client| client == flow.client.ip())
        });
        Ok(wanted.take(filter.limit).collect())
    }

    async fn queue(&self, filter: QueueFilter) -> anyhow::Result<Vec<QueueRow>> {
        Ok((1..=QUEUED).map(queued).take(filter.limit).collect())
    }

    async fn set_ceiling(&self, order: CeilingOrder) -> anyhow::Result<CeilingDone> {
        Ok(CeilingDone {
            pinned: order.ceiling.is_some(),
            ceiling: order.ceiling.unwrap_or(32),
            service: order.service,
            backend: order.backend,
            policy: "queue-depth".to_owned(),
        })
    }

    fn history(&self) -> &History {
        &self.1
    }

    async fn set_backend(&self, order: BackendOrder) -> anyhow::Result<BackendDone> {
        Ok(BackendDone {
            state: match order.action {
                BackendAction::Drain => BackendState::Draining,
                BackendAction::Resume => BackendState::Up,
                BackendAction::Disable => BackendState::Disabled,
            },
            service: order.service,
            backend: order.backend,
            connections: 32,
        })
    }

    async fn reload(&self) -> anyhow::Result<ReloadDone> {
        let wrong = Config::parse(Path::new("f.toml"), b"[dataplane]\nflow_capacity = 0\n");
        wrong.map(|_| ReloadDone::default()).map_err(Into::into)
    }
}

/// The `n`th flow, of client 198.51.100.`n`.
pub(crate) fn flow(n: usize) -> FlowRow {
    FlowRow {
        service: "web".to_owned(),
        backend: "web-1".to_owned(),
        client: format!("198.51.100.{n}:40000").parse().unwrap(),
        state: FlowState::HalfOpen,
        packets_in: 10,
        packets_out: 20,
        bytes_in: 1000,
        bytes_out: 20_000,
        age_seconds: 75.5,
        idle_seconds: 0.25,
    }
}

pub(crate) fn queued(n: usize) -> QueueRow {
    QueueRow {
        service: "web".to_owned(),
        client: format!("[2001:db8::{n}]:40000").parse().unwrap(),
        position: n as u64,
        waited_ms: 1500 - n as u64,
        retransmissions: 1,
    }
}

pub(crate) fn status() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        uptime_seconds: 12.5,
        attach_mode: AttachMode::Native,
        flows: FlowTableStatus {
            used: 12,
            capacity: 262_144,
        },
        frames: FrameStatus {
            total: 4096,
            home: 4090,
            in_flight: 6,
        },
        checks: ChecksStatus {
            running: 3,
            most: 512,
            waited: 9,
        },
        dropped: BTreeMap::from([("no_flow".to_owned(), 7), ("fragment".to_owned(), 0)]),
        handled: BTreeMap::from([("punted".to_owned(), 100), ("event_lost".to_owned(), 2)]),
        groups: vec![GroupStatus {
            name: "db".to_owned(),
            active: 32,
            active_max: 40,
            ceiling: 100,
        }],
        services: vec![ServiceStatus {
            name: "web".to_owned(),
            address: "192.0.2.10:80".parse().unwrap(),
            queue: QueueStatus {
                depth: 3,
                capacity: 1024,
                oldest_wait_ms: 120,
                wait_ms: WaitMs {
                    p50: Some(40),
                    p99: Some(180),
                    max: None,
                },
                wait_sizes: TimesBySize {
                    at_most: (1..=QUEUE_WAIT_BUCKETS.len() as u64).collect(),
                    count: 60,
                    sum_seconds: 61.5,
                },
            },
            requests: Requests {
                received: 100,
                admitted: 60,
                queued: 3,
                refused: 20,
                expired: 10,
                abandoned: 7,
                retransmitted: 11,
                retried: 5,
                admitted_max: 61,
            },
            flood: FloodStatus {
                on: true,
                since_seconds: Some(12.5),
                count: 2,
                unproven: 4_000_000,
            },
            backends: vec![backend()],
        }],
        interfaces: vec![
            InterfaceStatus {
                name: "eth0".to_owned(),
                state: InterfaceState::Up,
                attach_mode: Some(AttachMode::Native),
                queues: 4,
                why: None,
            },
            InterfaceStatus {
                name: "eth1".to_owned(),
                state: InterfaceState::Missing,
                attach_mode: None,
                queues: 0,
                why: None,
            },
        ],
    }
}

fn backend() -> BackendStatus {
    BackendStatus {
        name: "web-1".to_owned(),
        address: "10.0.0.11:8080".parse().unwrap(),
        state: BackendState::Up,
        health: Some(HealthStatus {
            kind: "http".to_owned(),
            verdict: "up".to_owned(),
            since_seconds: 60.0,
            why: Some("checks in succession: 2".to_owned()),
            last: Some(HealthCheck {
                result: "passed".to_owned(),
                why: None,
                took_ms: 1.5,
                seconds_ago: 0.5,
            }),
            checks: BTreeMap::from([("passed".to_owned(), 20), ("status".to_owned(), 3)]),
        }),
        active: 30,
        half_open: 2,
        active_max: 32,
        ceiling: 32,
        ceiling_min: 1,
        ceiling_max: 255,
        capacity: 256,
        weight: 1,
        group: Some("db".to_owned()),
        policy: "queue-depth".to_owned(),
        pinned: false,
        moved: Some(CeilingMove {
            from: 30,
            to: 32,
            reason: "raised_queue".to_owned(),
            why: "queue 12.3 > 1".to_owned(),
            seconds_ago: 3.0,
        }),
        moves: BTreeMap::from([("raised_queue".to_owned(), 11)]),
        suggested: Some(SuggestedCeiling {
            ceiling: 28,
            why: "best 950 requests/s at 28 connections".to_owned(),
        }),
        response_ms: TimesMs {
            mean: Some(4.1),
            p50: Some(3.9),
            p99: Some(9.0),
            max: Some(12.0),
        },
        connect_ms: TimesMs::default(),
        response_sizes: TimesBySize {
            at_most: (1..=TIMES_BUCKETS.len() as u64).collect(),
            count: 58,
            sum_seconds: 0.25,
        },
        connect_sizes: TimesBySize {
            at_most: vec![0; TIMES_BUCKETS.len()],
            ..TimesBySize::default()
        },
        rate: Rate {
            connections: Some(900.0),
            ..Rate::default()
        },
        total: Totals {
            connections: 60,
            requests: 58,
            unanswered: 1,
            packets_in: 5400,
            packets_out: 5401,
            bytes_in: 100_000,
            bytes_out: 900_000,
            refused: 4,
            silent: 1,
        },
    }
}
