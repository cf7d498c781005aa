//! Services as the program knows them: an address and a port that requests are dispatched for.

use core::ops::AddAssign;

use crate::addr::{Addr, Port};

/// A key of the `SERVICES` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceKey {
    /// Address of the service.
    pub addr: Addr,
    /// Its port; 0 marks that some service has this address, for packets whose port is unknown.
    pub port: Port,
    /// 0.
    pub zero: [u8; 6],
}

impl ServiceKey {
    /// The key of a service.
    #[inline(always)]
    #[must_use]
    pub const fn new(addr: Addr, port: Port) -> Self {
        Self {
            addr,
            port,
            zero: [0; 6],
        }
    }

    /// The marker of an address.
    #[inline(always)]
    #[must_use]
    pub const fn any_port(addr: Addr) -> Self {
        Self::new(addr, Port::new(0))
    }
}

/// A value of the `SERVICES` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Service {
    /// Index of the service in user space; [`Service::ADDRESS_ONLY`] in a marker.
    pub index: u32,
    /// Not 0 while a flood is on: requests that have not proved alive are dropped.
    pub guarded: u32,
}

impl Service {
    /// The value of an address's marker.
    pub const ADDRESS_ONLY: u32 = u32::MAX;
}

/// A value of the `BACKENDS` map, one for each processor: what passed to and from a back-end.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendCounters {
    /// Packets from clients to the back-end.
    pub packets_in: u64,
    /// Packets from the back-end to clients.
    pub packets_out: u64,
    /// Bytes from clients, from the IP header on.
    pub bytes_in: u64,
    /// Bytes to clients, from the IP header on.
    pub bytes_out: u64,
    /// Requests for which a clock started (see [`measure`](crate::measure)); what turned out to be
    /// a farewell is among them.
    pub requests: u64,
    /// Connections that ended while a request on them had no answer.
    pub unanswered: u64,
}

impl BackendCounters {
    /// What was counted since `earlier`.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            packets_in: self.packets_in.wrapping_sub(earlier.packets_in),
            packets_out: self.packets_out.wrapping_sub(earlier.packets_out),
            bytes_in: self.bytes_in.wrapping_sub(earlier.bytes_in),
            bytes_out: self.bytes_out.wrapping_sub(earlier.bytes_out),
            requests: self.requests.wrapping_sub(earlier.requests),
            unanswered: self.unanswered.wrapping_sub(earlier.unanswered),
        }
    }
}

impl AddAssign for BackendCounters {
    fn add_assign(&mut self, other: Self) {
        self.packets_in += other.packets_in;
        self.packets_out += other.packets_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.requests += other.requests;
        self.unanswered += other.unanswered;
    }
}

const _: () = assert!(size_of::<ServiceKey>() == 24 && size_of::<Service>() == 8);
