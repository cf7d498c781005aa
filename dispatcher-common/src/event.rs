//! What the program reports of a flow, once for each.

/// A record of the `EVENTS` ring.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowEvent {
    /// Index of the flow in user space's table.
    pub flow: u32,
    /// Generation of that index.
    pub generation: u32,
    /// [`Phase`](crate::tcp::Phase) bits of the flow after the packet.
    pub phase: u32,
    /// Phase bits that the packet added.
    pub added: u32,
}

const _: () = assert!(size_of::<FlowEvent>() == 16);
