//! What an interface's driver says about itself: its name, and how many queues it has. Changes
//! nothing.

use std::ffi::{CStr, c_char, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `ETHTOOL_GDRVINFO` of `linux/ethtool.h`.
const ETHTOOL_GDRVINFO: u32 = 0x03;
/// `ETHTOOL_GCHANNELS` of `linux/ethtool.h`.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_drvinfo`; only the driver's name is read.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [c_char; 32],
    rest: [u8; 160],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

/// A structure that begins with the command and that the kernel fills for it.
///
/// # Safety
///
/// The layout is the kernel's for [`Self::COMMAND`], and any bytes make a valid value.
unsafe trait Query {
    const COMMAND: u32;
}

// SAFETY: 4 + 32 + 160 bytes as in linux/ethtool.h (checked below), of integers only.
unsafe impl Query for DriverInfo {
    const COMMAND: u32 = ETHTOOL_GDRVINFO;
}

// SAFETY: nine u32 as in linux/ethtool.h.
unsafe impl Query for Channels {
    const COMMAND: u32 = ETHTOOL_GCHANNELS;
}

const _: () = assert!(size_of::<DriverInfo>() == 196 && size_of::<Channels>() == 36);

/// Asks the driver. The socket makes it a question about the current network namespace.
fn ask<Q: Query>(interface: &str, query: &mut Q) -> io::Result<()> {
    let control: OwnedFd = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let name = interface.as_bytes();
    // One byte of the array stays zero, for the end.
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut ifr_name: [c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: std::ptr::from_mut(query).cast::<c_char>(),
        },
    };
    // SAFETY: `request` is a whole ifreq with a terminated name; its data is `query`, exclusively
    // borrowed over the call, which begins with the command and is as long as the kernel writes
    // for that command (contract of `Query`).
    let result = unsafe {
        libc::ioctl(
            control.as_raw_fd(),
            libc::SIOCETHTOOL,
            std::ptr::from_mut(&mut request).cast::<c_void>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Name of the driver of an interface, such as `veth` or `ice`.
///
/// # Errors
///
/// `ENODEV`: no such interface in this network namespace. `EOPNOTSUPP`: it has no driver that
/// answers.
pub fn driver_name(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        cmd: DriverInfo::COMMAND,
        driver: [0; 32],
        rest: [0; 160],
    };
    ask(interface, &mut info)?;
    let bytes = info.driver.map(c_char::cast_unsigned);
    let name = CStr::from_bytes_until_nul(&bytes).map_err(io::Error::other)?;
    Ok(name.to_string_lossy().into_owned())
}

/// Number of receive queues in use of an interface: each needs a socket, or what arrives on it
/// cannot be punted.
///
/// The driver is asked; for one that does not say, sysfs is counted if it shows this network
/// namespace, and else it is taken to have one.
///
/// # Errors
///
/// `ENODEV`: no such interface in this network namespace.
pub fn receive_queues(interface: &str) -> io::Result<u32> {
    queues(interface, |channels| channels.rx_count, "rx-")
}

/// Number of transmit queues in use of an interface. A socket on a queue beyond them receives and
/// cannot send.
///
/// # Errors
///
/// `ENODEV`: no such interface in this network namespace.
pub fn transmit_queues(interface: &str) -> io::Result<u32> {
    queues(interface, |channels| channels.tx_count, "tx-")
}

fn queues(interface: &str, own: fn(&Channels) -> u32, prefix: &str) -> io::Result<u32> {
    let mut channels = Channels {
        cmd: Channels::COMMAND,
        ..Channels::default()
    };
    let answered = match ask(interface, &mut channels) {
        Ok(()) => channels.combined_count.saturating_add(own(&channels)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Err(error),
        Err(_) => 0,
    };
    if answered > 0 {
        return Ok(answered);
    }
    Ok(count_in_sysfs(interface, prefix).unwrap_or(1).max(1))
}

/// Counts the queues in sysfs; nothing if it shows another network namespace, where the interface
/// of that name has another index or does not exist.
fn count_in_sysfs(interface: &str, prefix: &str) -> Option<u32> {
    let directory = Path::new("/sys/class/net").join(interface);
    let shown = std::fs::read_to_string(directory.join("ifindex")).ok()?;
    if shown.trim().parse() != Ok(if_nametoindex(interface).ok()?) {
        return None;
    }
    let entries = std::fs::read_dir(directory.join("queues")).ok()?;
    let count = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .count();
    u32::try_from(count).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_channels_and_counts_as_one_queue() {
        assert_eq!(receive_queues("lo").expect("lo exists"), 1);
        assert_eq!(transmit_queues("lo").expect("lo exists"), 1);
    }

    #[test]
    fn an_interface_that_does_not_exist_is_an_error_and_not_one_queue() {
        for name in [
            "no-such-if",
            "",
            "a-name-that-is-too-long-for-linux",
            "a\0b",
        ] {
            let error = receive_queues(name).expect_err("no such interface");
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name:?}");
            let error = driver_name(name).expect_err("no such interface");
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name:?}");
        }
    }
}
