//! What user space tells the running program: the one element of the `CONTROL` map.

/// Read by the program with plain loads: each field stands for itself.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Control {
    /// [`LAYOUT`] of whoever made the maps.
    pub layout: u32,
    /// Raised whenever a route, link or neighbour changed; never 0. Next hops of other generations
    /// are looked up anew.
    pub network_generation: u32,
    /// Time as user space last told it, in units of [`TICK_MS`]; stamps entries as last seen.
    pub ticks: u32,
    /// What a connection request gets while no socket takes it: [`UNATTENDED_DROP`] or
    /// [`UNATTENDED_PASS`].
    pub unattended: u32,
    /// Random, and known to nobody else: what requests are remembered by
    /// ([`Mark::of`](crate::proof::Mark::of)).
    pub secret: [u32; 4],
}

/// Version of every type and map shared across the kernel boundary. Raised with any change of
/// them, so that a daemon refuses pins that it would misread.
pub const LAYOUT: u32 = 5;

/// Milliseconds in a tick.
pub const TICK_MS: u64 = 100;

/// `XDP_DROP`: the client tries again.
pub const UNATTENDED_DROP: u32 = 1;
/// `XDP_PASS`: the host's stack answers.
pub const UNATTENDED_PASS: u32 = 2;
