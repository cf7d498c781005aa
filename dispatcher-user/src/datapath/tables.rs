//! The small tables that user space fills: services, links, sockets, control.

use std::collections::HashSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use dispatcher_common::control::Control;
use dispatcher_common::link::Link;
use dispatcher_common::measure::{Histogram, Kind};
use dispatcher_common::service::{BackendCounters, Served, Service, ServiceKey};

use aya::Pod;
use aya::maps::{MapError, PerCpuValues};

use super::{Datapath, DatapathError};
use crate::fault::{self, Point};

/// How often an element is asked for when the kernel says that it has no memory, and the pause
/// before each time: twice is what it took with 4096 back-ends.
const STOCK_TRIES_MAX: u32 = 50;
const STOCK_PAUSE: Duration = Duration::from_millis(1);

impl Datapath {
    /// Makes these the services: others go, the addresses of all are marked.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an element.
    pub fn set_services(
        &mut self,
        services: &[(ServiceKey, Service)],
    ) -> Result<(), DatapathError> {
        let refused = |error| DatapathError::refused("a service", &error);
        let marker = Service {
            index: Service::ADDRESS_ONLY,
            guarded: 0,
        };
        let markers = services
            .iter()
            .map(|(key, _)| (ServiceKey::any_port(key.addr), marker));
        let wanted: Vec<_> = services.iter().copied().chain(markers).collect();
        let kept: HashSet<_> = wanted.iter().map(|(key, _)| *key).collect();
        // First those that go: there may be no room for old and new together.
        let gone: Vec<_> = self
            .services
            .keys()
            .flatten()
            .filter(|key| !kept.contains(key))
            .collect();
        for key in gone {
            self.services.remove(&key).map_err(refused)?;
        }
        fault::point(Point::ServicesGone);
        let mut served = Served::NONE;
        for (key, _) in &wanted {
            served.add(key);
        }
        self.served.set(0, served, 0).map_err(refused)?;
        for (key, service) in wanted {
            self.services.insert(key, service, 0).map_err(refused)?;
        }
        Ok(())
    }

    /// Changes a service that the program knows; it is never missing meanwhile.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the element.
    pub fn set_service(&mut self, key: &ServiceKey, service: Service) -> Result<(), DatapathError> {
        self.services
            .insert(key, service, 0)
            .map_err(|error| DatapathError::refused("a service", &error))
    }

    /// Makes these the interfaces that the program knows, by index.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an element.
    pub fn set_links(&mut self, links: &[(u32, Link)]) -> Result<(), DatapathError> {
        let refused = |error| DatapathError::refused("an interface", &error);
        let kept: HashSet<_> = links.iter().map(|(ifindex, _)| *ifindex).collect();
        let gone: Vec<_> = self
            .links
            .keys()
            .flatten()
            .filter(|known| !kept.contains(known))
            .collect();
        for ifindex in gone {
            self.links.remove(&ifindex).map_err(refused)?;
        }
        for (ifindex, link) in links {
            self.links.insert(ifindex, link, 0).map_err(refused)?;
        }
        Ok(())
    }

    /// Has times of a back-end measured; what was measured of one that an earlier daemon knew
    /// stays. Memory is taken for these alone: 3.2 kB for each and for each processor.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an element.
    pub fn measure(&mut self, backend: u32) -> Result<(), DatapathError> {
        for key in Kind::ALL.map(|kind| kind.key(backend)) {
            if self.times.get(&key, 0).is_err() {
                self.insert_times(key)?;
            }
        }
        Ok(())
    }

    /// The kernel takes elements of this map from a small stock of each processor. It fills that up
    /// again in the background, and says meanwhile that it has no memory.
    fn insert_times(&mut self, key: u32) -> Result<(), DatapathError> {
        let mut tries = 0;
        loop {
            let empty = for_each_processor(Histogram::EMPTY)
                .map_err(|error| DatapathError::refused("a value for each processor", &error))?;
            tries += 1;
            match self.times.insert(key, empty, 0) {
                Err(MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOMEM)
                        && tries < STOCK_TRIES_MAX =>
                {
                    std::thread::sleep(STOCK_PAUSE);
                }
                inserted => {
                    return inserted
                        .map_err(|error| DatapathError::refused("a back-end's times", &error));
                }
            }
        }
    }

    /// As [`Self::measure`], for one whose number no flow has: whatever was counted under it is
    /// forgotten.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an element.
    pub fn measure_anew(&mut self, backend: u32) -> Result<(), DatapathError> {
        self.measure_no_more(backend);
        let none = for_each_processor(BackendCounters::default())
            .map_err(|error| DatapathError::refused("a value for each processor", &error))?;
        self.backends
            .set(backend, none, 0)
            .map_err(|error| DatapathError::refused("a back-end's counters", &error))?;
        fault::point(Point::CountsForgotten);
        self.measure(backend)
    }

    /// Has times of a back-end measured no more, and forgets those that were.
    pub fn measure_no_more(&mut self, backend: u32) {
        for key in Kind::ALL.map(|kind| kind.key(backend)) {
            // What is not there is as good as removed.
            let _ = self.times.remove(&key);
        }
    }

    /// Has times of these back-ends alone measured: those that an earlier daemon knew besides are
    /// gone.
    pub fn measure_only(&mut self, backends: &[u32]) {
        let of_both_kinds = |backend: &u32| Kind::ALL.map(|kind| kind.key(*backend));
        let wanted: HashSet<_> = backends.iter().flat_map(of_both_kinds).collect();
        let there: Vec<_> = self.times.keys().flatten().collect();
        for key in there.iter().filter(|key| !wanted.contains(key)) {
            let _ = self.times.remove(key);
        }
    }

    /// Lets the program give connection requests to this socket.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the socket.
    pub fn set_socket(&mut self, index: u32, socket: BorrowedFd<'_>) -> Result<(), DatapathError> {
        self.xsks
            .set(index, socket, 0)
            .map_err(|error| DatapathError::refused("an AF_XDP socket", &error))
    }

    /// Generation of the network that the program was last told.
    #[must_use]
    pub fn network_generation(&self) -> u32 {
        self.control
            .get(&0, 0)
            .map_or(0, |control| control.network_generation)
    }

    /// Tells the program.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the element.
    pub fn set_control(&mut self, control: &Control) -> Result<(), DatapathError> {
        self.control
            .set(0, control, 0)
            .map_err(|error| DatapathError::refused("the control element", &error))
    }
}

fn for_each_processor<T: Pod>(value: T) -> io::Result<PerCpuValues<T>> {
    let processors = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    PerCpuValues::try_from(vec![value; processors])
}
