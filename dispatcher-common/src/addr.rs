//! Addresses and ports as they stand on the wire. Nothing here resolves or parses text.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address mapped into IPv6 (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2).
///
/// Aligned, because the kernel's verifier refuses unaligned access to the BPF stack.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr {
    bytes: [u8; 16],
}

/// The third word of a mapped address, as it stands in memory.
const MAPPED_PREFIX_END: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Addr {
    /// `::`, which no packet is sent to.
    pub const UNSPECIFIED: Self = Self { bytes: [0; 16] };

    /// The mapped form of four bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn from_v4_bytes(v4: [u8; 4]) -> Self {
        Self::from_words([0, 0, MAPPED_PREFIX_END, u32::from_ne_bytes(v4)])
    }

    /// Sixteen bytes in network order, as they stand in an IPv6 header.
    #[inline(always)]
    #[must_use]
    pub const fn from_v6_bytes(v6: [u8; 16]) -> Self {
        Self { bytes: v6 }
    }

    /// All sixteen bytes, network order.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.bytes
    }

    /// The last four bytes: the IPv4 address, when [`Self::is_v4`].
    #[inline(always)]
    #[must_use]
    pub const fn v4_bytes(&self) -> [u8; 4] {
        self.words()[3].to_ne_bytes()
    }

    /// Whether this is an IPv4 address in mapped form.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        let words = self.words();
        words[0] | words[1] == 0 && words[2] == MAPPED_PREFIX_END
    }

    /// Whether this is an IPv6 multicast address (RFC 4291 2.7).
    #[inline(always)]
    #[must_use]
    pub const fn is_v6_multicast(&self) -> bool {
        const FIRST_BYTE: u32 = u32::from_ne_bytes([0xff, 0, 0, 0]);
        self.words()[0] & FIRST_BYTE == FIRST_BYTE
    }

    // By words and not by bytes, because the BPF code generator takes byte-wise assembly literally,
    // and the verifier then refuses the unaligned halves of it that it merges.
    #[inline(always)]
    const fn from_words(words: [u32; 4]) -> Self {
        // SAFETY: both are sixteen plain bytes without an invalid value.
        let bytes = unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) };
        Self { bytes }
    }

    /// All sixteen bytes as four words, each as it stands in memory.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u32; 4] {
        // SAFETY: as in `from_words`.
        unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(self.bytes) }
    }

    /// All sixteen bytes as two words, as they stand in memory: for hashing.
    #[inline(always)]
    #[must_use]
    pub const fn halves(&self) -> [u64; 2] {
        // SAFETY: as in `from_words`.
        unsafe { core::mem::transmute::<[u8; 16], [u64; 2]>(self.bytes) }
    }

    /// Writes all sixteen bytes into a header.
    // By halves, because the BPF code generator copies more than a word byte by byte.
    #[inline(always)]
    pub fn write_v6(&self, v6: &mut [u8; 16]) {
        let [first, last] = self.halves();
        let (start, end) = v6.split_at_mut(8);
        start.copy_from_slice(&first.to_ne_bytes());
        end.copy_from_slice(&last.to_ne_bytes());
    }

    /// The address in the standard library's form, IPv4 unmapped.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from(self.v4_bytes()))
        } else {
            IpAddr::V6(Ipv6Addr::from(self.bytes))
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4_bytes(v4.octets()),
            IpAddr::V6(v6) => Self::from_v6_bytes(v6.octets()),
        }
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.ip(), f)
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.ip(), f)
    }
}

/// A TCP port: two bytes in network order. Aligned for the same reason as [`Addr`].
#[repr(C, align(2))]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Port {
    bytes: [u8; 2],
}

impl Port {
    /// From a number in host order.
    #[inline(always)]
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self {
            bytes: number.to_be_bytes(),
        }
    }

    /// From the bytes of a header.
    #[inline(always)]
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 2]) -> Self {
        Self { bytes }
    }

    /// Host order.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u16 {
        u16::from_be_bytes(self.bytes)
    }

    /// Network order.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(self) -> [u8; 2] {
        self.bytes
    }
}

impl core::fmt::Debug for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.number(), f)
    }
}

/// An Ethernet address.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All zero: no neighbour known.
    pub const UNKNOWN: Self = Self([0; 6]);

    /// Writes all six bytes into a header.
    // In pieces, for the reason of `Addr::write_v6`.
    #[inline(always)]
    pub fn write(&self, mac: &mut Self) {
        let (from, to) = (self.0.split_at(4), mac.0.split_at_mut(4));
        to.0.copy_from_slice(from.0);
        to.1.copy_from_slice(from.1);
    }

    /// Whether it is that of a group: multicast or broadcast (IEEE 802.3 3.2.3).
    #[inline(always)]
    #[must_use]
    pub const fn is_group(&self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl core::fmt::Debug for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_is_mapped_and_comes_back() {
        let ip: IpAddr = "192.0.2.10".parse().unwrap();
        let addr = Addr::from(ip);
        assert!(addr.is_v4());
        assert_eq!(addr.ip(), ip);
        assert_eq!(addr.v4_bytes(), [192, 0, 2, 10]);
        assert_eq!(
            addr.bytes(),
            &"::ffff:192.0.2.10".parse::<Ipv6Addr>().unwrap().octets()
        );
    }

    #[test]
    fn an_ipv6_address_is_itself() {
        let ip: IpAddr = "2001:db8::10".parse().unwrap();
        assert!(!Addr::from(ip).is_v4());
        assert_eq!(Addr::from(ip).ip(), ip);
    }

    #[test]
    fn a_port_is_network_order_inside() {
        assert_eq!(Port::new(0x1234).bytes(), [0x12, 0x34]);
        assert_eq!(Port::from_bytes([0x12, 0x34]).number(), 0x1234);
    }
}
