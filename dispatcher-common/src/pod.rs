//! Lets user space read and write the shared types through aya.

use aya::Pod;

use crate::control::Control;
use crate::event::FlowEvent;
use crate::flow::{FlowEntry, FlowKey};
use crate::link::Link;
use crate::measure::Histogram;
use crate::proof::Bucket;
use crate::service::{BackendCounters, Served, Service, ServiceKey};

macro_rules! pod {
    ($($ty:ty),* $(,)?) => {$(
        // SAFETY: `repr(C)` over integers and byte arrays, without padding (each type's size is
        // asserted beside it), so any bytes are a value and all bytes are initialised.
        unsafe impl Pod for $ty {}
    )*};
}
pod!(
    FlowKey,
    FlowEntry,
    ServiceKey,
    Service,
    Served,
    BackendCounters,
    Histogram,
    Link,
    Control,
    FlowEvent,
    Bucket
);

const _: () = assert!(size_of::<BackendCounters>() == 48 && size_of::<Control>() == 36);
