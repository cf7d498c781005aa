//! Neighbours: what the kernel says of one, and whether a change of it matters. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use dispatcher_common::addr::Mac;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState,
};

use super::link;

/// Interface index and address: what the kernel knows a neighbour by.
pub(super) type NeighbourKey = (u32, IpAddr);

/// All that the kernel told us; it bounds its own tables (`gc_thresh3`), and with them this one.
pub(super) type Neighbours = HashMap<NeighbourKey, Neighbour>;

/// One entry of the kernel's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Neighbour {
    /// The address to send to, if the entry is in a state where the kernel would.
    pub mac: Option<Mac>,
    /// The kernel keeps it refreshed by itself.
    pub managed: bool,
    /// An operator or a routing daemon maintains it; the kernel must not be asked to, for asking
    /// would clear what they set.
    pub foreign: bool,
}

/// A neighbour of a single machine by IP; nothing for bridge entries, proxies and groups.
pub(super) fn parse(message: &NeighbourMessage) -> Option<(NeighbourKey, Neighbour)> {
    let header = &message.header;
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut ip, mut mac, mut managed) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some((*v6).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = link::mac(bytes),
            NeighbourAttribute::ExtFlags(flags) => {
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    let ip: IpAddr = ip.filter(|ip: &IpAddr| !ip.is_multicast())?;
    let neighbour = Neighbour {
        mac: mac.filter(|_| usable(header.state)),
        managed,
        foreign: matches!(
            header.state,
            NeighbourState::Permanent | NeighbourState::Noarp
        ) || header.flags.contains(NeighbourFlags::ExtLearned),
    };
    Some(((header.ifindex, ip), neighbour))
}

/// Whether the kernel sends to a neighbour in this state at once.
fn usable(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    )
}

/// Whether packets for this neighbour now go elsewhere than before: it appeared, failed or has
/// another address. The kernel's upkeep with the same address is nothing, and so is forgetting one
/// that nobody asked for: as far as anyone knows it is still there.
pub(super) fn matters(before: Option<&Neighbour>, after: Option<&Neighbour>) -> bool {
    after.is_some_and(|after| after.mac != before.and_then(|before| before.mac))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn message(
        key: NeighbourKey,
        state: NeighbourState,
        last_mac_byte: Option<u8>,
    ) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = key.0;
        message.header.state = state;
        message
            .attributes
            .push(NeighbourAttribute::Destination(key.1.into()));
        if let Some(byte) = last_mac_byte {
            let mac = vec![2, 0, 0, 0, 1, byte];
            message
                .attributes
                .push(NeighbourAttribute::LinkLayerAddress(mac));
        }
        message
    }

    fn neighbour(state: NeighbourState, last_mac_byte: u8) -> Neighbour {
        let key = (2, "10.0.0.2".parse().unwrap());
        parse(&message(key, state, Some(last_mac_byte))).unwrap().1
    }

    #[test]
    fn the_kernels_upkeep_does_not_matter() {
        use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
        let usable = [Reachable, Stale, Delay, Probe, Permanent, Noarp];
        for before in usable {
            for after in usable {
                let (before, after) = (neighbour(before, 1), neighbour(after, 1));
                assert!(
                    !matters(Some(&before), Some(&after)),
                    "{before:?} {after:?}"
                );
            }
        }
    }

    #[test]
    fn what_moves_packets_matters() {
        use NeighbourState::{Failed, Incomplete, None as Nothing, Reachable, Stale};
        let there = neighbour(Reachable, 1);
        assert!(matters(None, Some(&there)), "appeared");
        assert!(
            matters(Some(&there), Some(&neighbour(Stale, 2))),
            "another address"
        );
        for state in [Failed, Incomplete, Nothing] {
            let gone = neighbour(state, 1);
            assert!(matters(Some(&there), Some(&gone)), "{state:?}");
            assert!(matters(Some(&gone), Some(&there)), "{state:?}");
        }
    }

    #[test]
    fn a_silent_neighbour_that_stays_silent_does_not_matter() {
        let failed = neighbour(NeighbourState::Failed, 1);
        let asked_again = neighbour(NeighbourState::Incomplete, 1);
        assert!(!matters(None, Some(&failed)));
        assert!(!matters(Some(&failed), Some(&asked_again)));
    }

    #[test]
    fn a_forgotten_neighbour_does_not_matter() {
        assert!(!matters(Some(&neighbour(NeighbourState::Stale, 1)), None));
    }

    #[test]
    fn groups_and_proxies_are_no_neighbours() {
        let group = (2, "ff02::1".parse().unwrap());
        assert_eq!(parse(&message(group, NeighbourState::Noarp, Some(1))), None);
        let mut proxy = message((2, "10.0.0.2".parse().unwrap()), NeighbourState::None, None);
        proxy.header.flags = NeighbourFlags::Proxy;
        assert_eq!(parse(&proxy), None);
    }

    #[test]
    fn what_others_maintain_is_foreign() {
        let key = (2, "10.0.0.2".parse().unwrap());
        let mut learned = message(key, NeighbourState::Reachable, Some(1));
        assert!(!parse(&learned).unwrap().1.foreign);
        learned.header.flags = NeighbourFlags::ExtLearned;
        assert!(parse(&learned).unwrap().1.foreign);
        assert!(neighbour(NeighbourState::Permanent, 1).foreign);
    }
}
