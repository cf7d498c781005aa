//! Requests to the kernel over netlink, each bounded in time. Decides nothing.

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::Handle;
use tokio::time::timeout;

use super::link::{self, Devices};
use super::neighbour::{self, NeighbourKey, Neighbours};
use super::route::{self, Route};

/// Longest wait for the answer to one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Routes that are read for their gateways: more than any machine has that is not told the routes
/// of the whole Internet, and of that one the gateways are few and among the first.
const ROUTES_READ_MAX: usize = 10_000;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel said no, or the socket failed.
    #[error("{0}")]
    Refused(#[from] rtnetlink::Error),
    /// No answer came.
    #[error("no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Silent,
}

/// The socket for requests. Apart from the one that hears reports: an answer to a request is lost
/// when the receive buffer is full of reports.
#[derive(Clone, Debug)]
pub(super) struct Kernel(Handle);

impl Kernel {
    /// Over a connection that is already served.
    pub const fn new(handle: Handle) -> Self {
        Self(handle)
    }

    /// All devices, in the kernel's words.
    pub async fn link_messages(&self) -> Result<Vec<LinkMessage>, KernelError> {
        collect(self.0.link().get().execute()).await
    }

    /// All addresses of this machine.
    pub async fn address_messages(&self) -> Result<Vec<AddressMessage>, KernelError> {
        collect(self.0.address().get().execute()).await
    }

    /// All neighbours by IP, in the kernel's words.
    pub async fn neighbour_messages(&self) -> Result<Vec<NeighbourMessage>, KernelError> {
        let mut neighbours = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = self.0.neighbours().get().set_address_family(family);
            neighbours.extend(collect(request.execute()).await?);
        }
        Ok(neighbours)
    }

    /// All devices.
    pub async fn devices(&self) -> Result<Devices, KernelError> {
        let messages = self.link_messages().await?;
        Ok(messages.iter().filter_map(link::parse).collect())
    }

    /// All neighbours by IP.
    pub async fn neighbours(&self) -> Result<Neighbours, KernelError> {
        let messages = self.neighbour_messages().await?;
        Ok(messages.iter().filter_map(neighbour::parse).collect())
    }

    /// The gateways of all routes, of the first [`ROUTES_READ_MAX`] of each family.
    pub async fn gateways(&self) -> Result<Vec<NeighbourKey>, KernelError> {
        let mut gateways = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let routes = self.0.route().get(question).execute();
            let routes = collect_first(ROUTES_READ_MAX, routes).await?;
            gateways.extend(routes.iter().flat_map(route::gateways));
        }
        Ok(gateways)
    }

    /// The kernel's own choice of a route to `target`.
    pub async fn route(&self, target: IpAddr) -> Result<Route, KernelError> {
        let mut question = RouteMessage::default();
        (
            question.header.address_family,
            question.header.destination_prefix_length,
        ) = match target {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        let destination = RouteAttribute::Destination(target.into());
        question.attributes.push(destination);
        match collect(self.0.route().get(question).execute()).await {
            Ok(answers) => Ok(answers.first().map_or_else(
                || route::refused(target, &io::Error::other("the kernel's answer is empty")),
                |answer| route::parse(target, answer),
            )),
            Err(KernelError::Refused(rtnetlink::Error::NetlinkError(error))) => {
                Ok(route::refused(target, &error.to_io()))
            }
            Err(error) => Err(error),
        }
    }

    /// Asks the kernel to resolve a neighbour and to keep it resolved. Kernels before 5.16 ignore
    /// the latter, so that it takes a request each time.
    pub async fn keep(&self, key: NeighbourKey) -> Result<(), KernelError> {
        self.touch(key, NeighbourExtFlags::Managed).await
    }

    /// Leaves a neighbour that was kept to its fate.
    pub async fn release(&self, key: NeighbourKey) -> Result<(), KernelError> {
        self.touch(key, NeighbourExtFlags::empty()).await
    }

    /// `Use` in both cases: without it the kernel takes the state in the message for the new one.
    async fn touch(
        &self,
        (ifindex, ip): NeighbourKey,
        flags: NeighbourExtFlags,
    ) -> Result<(), KernelError> {
        let mut request = self
            .0
            .neighbours()
            .add(ifindex, ip)
            .replace()
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use);
        let attributes = &mut request.message_mut().attributes;
        attributes.push(NeighbourAttribute::ExtFlags(flags));
        timeout(REQUEST_TIMEOUT, request.execute())
            .await
            .map_err(|_| KernelError::Silent)?
            .map_err(KernelError::Refused)
    }
}

/// The first items of an answer, at most `most`; it is read no further.
async fn collect_first<T>(
    most: usize,
    answer: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, KernelError> {
    collect(answer.take(most)).await
}

/// The whole of an answer.
async fn collect<T>(
    answer: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, KernelError> {
    let whole = async {
        let mut answer = pin!(answer);
        let mut items = Vec::new();
        while let Some(item) = answer.next().await {
            items.push(item?);
        }
        Ok(items)
    };
    timeout(REQUEST_TIMEOUT, whole)
        .await
        .map_err(|_| KernelError::Silent)?
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn of_an_answer_without_end_the_first_routes_are_read() {
        let mut given = 0;
        let answer = stream::repeat_with(|| {
            given += 1;
            Ok(given)
        });
        let read = collect_first(ROUTES_READ_MAX, answer).await.unwrap();
        assert_eq!(read, (1..=ROUTES_READ_MAX).collect::<Vec<_>>());
        assert_eq!(given, ROUTES_READ_MAX);

        let short = stream::iter([Ok::<_, rtnetlink::Error>(1), Ok(2)]);
        let read = collect_first(ROUTES_READ_MAX, short).await.unwrap();
        assert_eq!(read, [1, 2]);
    }
}
