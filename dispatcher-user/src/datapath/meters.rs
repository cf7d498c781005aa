//! What the program measures of back-ends, summed over processors. With handles of its own, so that
//! another thread than the one that admits can read it.

use std::path::Path;

use aya::Pod;
use aya::maps::{Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues};
use dispatcher_common::maps;
use dispatcher_common::measure::{Histogram, Kind};
use dispatcher_common::service::BackendCounters;

use super::{Datapath, DatapathError};
use crate::measure::{Reading, add_processor};

/// The maps `BACKENDS` and `TIMES`, for reading.
pub struct Meters {
    backends: PerCpuArray<MapData, BackendCounters>,
    times: PerCpuHashMap<MapData, u32, Histogram>,
}

impl Meters {
    /// Opens the maps that a daemon has pinned.
    ///
    /// # Errors
    ///
    /// When nothing is pinned there, or something else.
    pub fn open_pinned(pin_path: &Path) -> Result<Self, DatapathError> {
        Ok(Self {
            backends: open(pin_path, maps::BACKENDS.name, Map::PerCpuArray)?,
            times: open(pin_path, maps::TIMES.name, Map::PerCpuHashMap)?,
        })
    }

    /// All that was counted of a back-end so far; nothing of one that there is not.
    #[must_use]
    pub fn read(&self, backend: u32) -> Reading {
        let times = |kind: Kind| sum(&self.times.get(&kind.key(backend), 0), add_processor);
        Reading {
            counters: sum(&self.backends.get(&backend, 0), |total, one| {
                *total += *one;
            }),
            response: times(Kind::Response),
            connect: times(Kind::Connect),
        }
    }
}

impl Datapath {
    /// Meters of this program.
    ///
    /// # Errors
    ///
    /// When the kernel refuses another handle.
    pub fn meters(&self) -> Result<Meters, DatapathError> {
        Meters::open_pinned(&self.pin_path)
    }
}

/// The sum over processors; nothing of an element that there is not.
fn sum<T: Pod + Default>(
    values: &Result<PerCpuValues<T>, MapError>,
    add: impl Fn(&mut T, &T),
) -> T {
    let mut total = T::default();
    for one in values.iter().flat_map(|values| values.iter()) {
        add(&mut total, one);
    }
    total
}

fn open<T>(
    pin_path: &Path,
    name: &str,
    of_type: impl Fn(MapData) -> Map,
) -> Result<T, DatapathError>
where
    T: TryFrom<Map, Error: std::error::Error + 'static>,
{
    let path = pin_path.join(name);
    let map = MapData::from_pin(&path)
        .map_err(|error| DatapathError::refused(path.display().to_string(), &error))?;
    T::try_from(of_type(map))
        .map_err(|error| DatapathError::refused(path.display().to_string(), &error))
}

/// Whoever reads may do so on a thread of its own.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Meters>();
};
