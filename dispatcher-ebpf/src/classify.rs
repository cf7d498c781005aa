//! A packet without a flow: is it for a service, and is it a connection request?

use dispatcher_common::addr::Addr;
use dispatcher_common::flow::FlowKey;
use dispatcher_common::header::TcpFlags;
use dispatcher_common::parse::Segment;
use dispatcher_common::service::{Service, ServiceKey};
use dispatcher_common::verdict::DropReason;

use crate::maps::{SERVED, SERVICES};

/// What a segment without a flow is.
pub enum Classified {
    /// Not addressed to a service.
    NotOurs,
    /// A connection request to this service.
    Request(Service),
    /// Addressed to a service, and nothing that it can use.
    Unwanted(DropReason),
}

/// Classifies a segment.
#[inline(always)]
pub fn segment(segment: &Segment) -> Classified {
    let Some(service) = service(&segment.key) else {
        return Classified::NotOurs;
    };
    if segment.tcp.flags.is_connection_request() {
        Classified::Request(*service)
    } else if segment.tcp.flags.any(TcpFlags::SYN) && segment.tcp.flags.any(CONTRADICTS_SYN) {
        Classified::Unwanted(DropReason::Malformed)
    } else {
        Classified::Unwanted(DropReason::NoFlow)
    }
}

const CONTRADICTS_SYN: TcpFlags = TcpFlags::FIN.with(TcpFlags::RST);

/// Whether packets with this key are addressed to a service.
#[inline(always)]
pub fn is_service(key: &FlowKey) -> bool {
    service(key).is_some()
}

#[inline(always)]
fn service(key: &FlowKey) -> Option<&'static Service> {
    let service = find(ServiceKey::new(key.dst, key.dst_port));
    service.filter(|service| service.index != Service::ADDRESS_ONLY)
}

/// Whether some service has this address: for packets whose port could not be read.
#[inline(always)]
pub fn is_service_address(addr: Addr) -> bool {
    find(ServiceKey::any_port(addr)).is_some()
}

#[inline(always)]
fn find(key: ServiceKey) -> Option<&'static Service> {
    if !SERVED.get(0)?.may_have(&key) {
        return None;
    }
    // SAFETY: user space writes an element before it is found, and afterwards replaces one word.
    unsafe { SERVICES.get(key) }
}
