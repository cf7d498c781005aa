//! What becomes of a frame. Every drop has a reason, and the reason is the counter's index, the
//! metric's label and a row in docs/observing.md.

macro_rules! counters {
    (
        $(#[$enum_doc:meta])*
        $name:ident {
            $($(#[doc = $doc:literal])* $variant:ident = $index:literal, $label:literal;)*
        }
    ) => {
        $(#[$enum_doc])*
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[doc = $doc])* $variant = $index,)* }

        impl $name {
            /// All of them, by index.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The label in metrics and documents.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

counters! {
    /// Why a frame was dropped. Numbers are never used again for another reason.
    DropReason {
        /// Addressed to a service, no connection request, and of no known flow.
        NoFlow = 0, "no_flow";
        /// A fragment addressed to a service.
        Fragment = 1, "fragment";
        /// IPv4 options or IPv6 extension headers, addressed to a service.
        IpOptions = 2, "ip_options";
        /// Addressed to a service, with lengths or flags that contradict each other.
        Malformed = 3, "malformed";
        /// TTL or hop limit would reach zero; the sender of a segment was told so by an ICMP error.
        TtlExpired = 4, "ttl_expired";
        /// A connection request that no AF_XDP socket took: no daemon runs.
        Unattended = 5, "unattended";
        /// The driver left no room in front of the frame for a VLAN tag.
        NoHeadroom = 6, "no_headroom";
        /// A connection request that the daemon could not parse, or for no service of its own.
        NotARequest = 7, "not_a_request";
        /// A frame to send found the transmit ring full.
        TransmitFull = 8, "transmit_full";
        /// A frame could not be sent: no way to its receiver is known.
        Unreachable = 9, "unreachable";
        /// The service's queue was full, and its configuration says to drop.
        QueueFull = 10, "queue_full";
        /// A connection request with a wrong TCP checksum; the usual cause on virtual interfaces
        /// is transmit checksum offload at the sender.
        BadChecksum = 11, "bad_checksum";
        /// A connection request that found its AF_XDP socket full: user space was too slow.
        ReceiveFull = 12, "receive_full";
        /// A back-end refused a connection request, or answered after it had: the request goes to
        /// another back-end, and the client hears nothing of it.
        RefusedByBackend = 13, "refused_by_backend";
        /// A connection request that had not proved alive, while a flood is on.
        Unproven = 14, "unproven";
        /// An ICMP error about a segment that its flow has not sent, or that has arrived: forged or
        /// late.
        IcmpOutOfWindow = 15, "icmp_out_of_window";
        /// Longer than the way out takes; its sender was told so by an ICMP error.
        TooBig = 16, "too_big";
        /// As [`Self::TtlExpired`] or [`Self::TooBig`], and its sender was not told: so many had
        /// been told within the second.
        IcmpLimited = 17, "icmp_limited";
    }
}

counters! {
    /// What else the program counts; packets that it sent on are counted by back-end.
    Handled {
        /// Not for a service: left to the host's stack.
        Passed = 0, "passed";
        /// Of a flow: rewritten and left to the host's stack, which knows the way or finds it.
        HandedToHost = 1, "handed_to_host";
        /// A connection request, given to user space.
        Punted = 2, "punted";
        /// An event that the full ring did not take; user space finds out by reconciling.
        EventLost = 3, "event_lost";
        /// An ICMP error about a flow: translated and sent on.
        IcmpTranslated = 4, "icmp_translated";
        /// A ping of a service's address, answered.
        PingAnswered = 5, "ping_answered";
    }
}

/// Slots of the `COUNTERS` map: one for each [`DropReason`], then one for each [`Handled`].
pub const COUNTERS_LEN: u32 = (DropReason::ALL.len() + Handled::ALL.len()) as u32;

impl DropReason {
    /// Its slot in the `COUNTERS` map.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        self as u32
    }
}

impl Handled {
    /// Its slot in the `COUNTERS` map.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        DropReason::ALL.len() as u32 + self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_is_its_place_in_the_list() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.counter() as usize, index);
        }
        for (index, handled) in Handled::ALL.iter().enumerate() {
            assert_eq!(handled.counter() as usize, DropReason::ALL.len() + index);
        }
    }
}
