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
        let [first, last] = addr.halves();
        let [high, low] = port.bytes();
        let words = [
            first,
            last,
            u64::from_ne_bytes([high, low, 0, 0, 0, 0, 0, 0]),
        ];
        // By words, for the reason that `FlowKey::new` gives.
        // SAFETY: both are twenty-four plain bytes without an invalid value.
        unsafe { core::mem::transmute::<[u64; 3], Self>(words) }
    }

    /// The marker of an address.
    #[inline(always)]
    #[must_use]
    pub const fn any_port(addr: Addr) -> Self {
        Self::new(addr, Port::new(0))
    }
}

/// Which keys the `SERVICES` map may have: the element of the `SERVED` map. It has a bit for each,
/// by a hash; so what is for no service costs no lookup, as long as no service shares its bit.
///
/// Wholly written by user space before a new key is found in `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Served {
    bits: [u64; 1 << (SERVED_BITS - 6)],
}

/// log2 of the bits of [`Served`]: with all services that there may be, one stranger in eight is
/// looked up.
const SERVED_BITS: u32 = 12;

impl Served {
    /// No key at all.
    pub const NONE: Self = Self {
        bits: [0; 1 << (SERVED_BITS - 6)],
    };

    /// Word and bit of a key.
    #[inline(always)]
    const fn place(key: &ServiceKey) -> (usize, u64) {
        let [a, b, c, d] = key.addr.words();
        let [high, low] = key.port.bytes();
        let folded = a ^ b ^ c ^ d ^ u32::from_ne_bytes([0, 0, high, low]);
        // The multiplier spreads what is in the low bits over the high ones (Knuth, TAOCP 6.4).
        let hash = folded.wrapping_mul(0x9e37_79b1) >> (u32::BITS - SERVED_BITS);
        ((hash >> 6) as usize, 1 << (hash & 63))
    }

    /// Adds a key.
    pub const fn add(&mut self, key: &ServiceKey) {
        let (word, bit) = Self::place(key);
        self.bits[word] |= bit;
    }

    /// Whether `SERVICES` may have the key; if not, it has not.
    #[inline(always)]
    #[must_use]
    pub const fn may_have(&self, key: &ServiceKey) -> bool {
        let (word, bit) = Self::place(key);
        self.bits[word] & bit != 0
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
const _: () = assert!(size_of::<Served>() == 512);

#[cfg(test)]
mod tests {
    use super::*;

    fn v4([c, d]: [u8; 2], port: u16) -> ServiceKey {
        ServiceKey::new(Addr::from_v4_bytes([192, 0, c, d]), Port::new(port))
    }

    fn v6([c, d]: [u8; 2], port: u16) -> ServiceKey {
        let mut bytes = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[14..].copy_from_slice(&[c, d]);
        ServiceKey::new(Addr::from_v6_bytes(bytes), Port::new(port))
    }

    #[test]
    fn a_key_is_its_fields_and_zero() {
        let key = v4([2, 10], 80);
        assert_eq!(key.addr.v4_bytes(), [192, 0, 2, 10]);
        assert_eq!((key.port.number(), key.zero), (80, [0; 6]));
    }

    #[test]
    fn every_service_is_among_the_served_and_few_strangers() {
        let services = || {
            let each = (0..128).flat_map(|n| [v4([2, n], 80 + u16::from(n)), v6([0, n], 443)]);
            each.flat_map(|key| [key, ServiceKey::any_port(key.addr)])
        };
        let mut served = Served::NONE;
        for key in services() {
            assert!(!Served::NONE.may_have(&key));
            served.add(&key);
        }
        assert!(services().all(|key| served.may_have(&key)));
        let strangers = (0..10_000_u16).map(|n| v4((n + 0x1000).to_be_bytes(), 40_000 + n));
        let taken = strangers.filter(|key| served.may_have(key)).count();
        assert!(taken < 2000, "{taken} of 10000 strangers are looked up");
    }
}
