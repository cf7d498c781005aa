//! How a socket is made: mode, sizes, and the reasons for their defaults. Opens nothing.

use serde::{Deserialize, Serialize};

use super::XskError;

/// Bytes of a frame unless the interface's MTU asks for more: the smallest that the kernel takes.
/// 1792 of them are for the packet, the rest is the XDP program's headroom.
pub const FRAME_SIZE_DEFAULT: u32 = 2048;
/// Bytes of a frame on an interface with jumbo frames: the most that the kernel takes (a page).
pub const FRAME_SIZE_JUMBO: u32 = 4096;
/// Bytes at the start of a frame that the kernel reserves for XDP programs
/// (`XDP_PACKET_HEADROOM`).
pub(super) const XDP_HEADROOM: u32 = 256;

/// Received frames that may wait for user space. At half a million connection requests a second
/// it is 4 ms of them, longer than a scheduler makes the engine wait; what finds the ring full is
/// dropped, and the client sends it again.
pub const RECEIVE_RING_DEFAULT: u32 = 2048;
/// Frames that may be on their way out: the engine flushes after each round, and one round makes
/// at most a few hundred.
pub const TRANSMIT_RING_DEFAULT: u32 = 1024;
/// Largest ring that is accepted: 256 MiB of frames for each socket.
pub const RING_MAX: u32 = 32_768;

/// Drivers known to serve this program better in zero-copy mode; [`XskMode::Auto`] tries it with
/// these only.
///
/// None is: established packets far outnumber requests, and zero-copy costs them a copy each. It
/// is there to be asked for by name (`i40e`, `ice`, `igc`, `ixgbe` and `mlx5_core` have it, among
/// others), for a queue that gets connection requests and little else.
pub const ZERO_COPY_DRIVERS: [&str; 0] = [];

/// Who moves a frame between the driver's memory and the socket's.
///
/// Zero-copy saves a copy of each punted frame, and costs one of each that the program sends on:
/// all buffers of the queue are then the socket's, and the kernel copies a frame out of them
/// before `XDP_TX` or a redirect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XskMode {
    /// Zero-copy with [`ZERO_COPY_DRIVERS`], unless the driver then refuses; else copy.
    #[default]
    Auto,
    /// The kernel copies. Every driver can.
    Copy,
    /// The network card reads and writes the socket's memory; an error where the driver cannot.
    ZeroCopy,
}

impl XskMode {
    /// Whether [`XskMode::Auto`] tries zero-copy with this driver.
    #[must_use]
    pub fn is_known_good(driver: &str) -> bool {
        ZERO_COPY_DRIVERS.contains(&driver)
    }
}

/// Sizes and mode of one socket.
///
/// Memory: [`XskConfig::memory_bytes`], 6 MiB by default, 10 MiB in zero-copy mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XskConfig {
    /// Copy or zero-copy.
    pub mode: XskMode,
    /// Bytes of a frame: 2048 or 4096, see [`frame_size_for_mtu`].
    pub frame_size: u32,
    /// Slots of the receive ring, a power of two.
    pub receive_ring: u32,
    /// Slots of the transmit ring and transmit frames, a power of two.
    pub transmit_ring: u32,
}

impl Default for XskConfig {
    fn default() -> Self {
        Self {
            mode: XskMode::Auto,
            frame_size: FRAME_SIZE_DEFAULT,
            receive_ring: RECEIVE_RING_DEFAULT,
            transmit_ring: TRANSMIT_RING_DEFAULT,
        }
    }
}

impl XskConfig {
    /// Frames for receiving, and slots of the fill ring.
    ///
    /// In zero-copy mode the queue's whole traffic arrives in them, and those on the receive ring
    /// wait for user space: with as many again, a daemon that stands still delays connection
    /// requests and not the established flows.
    #[must_use]
    pub fn receive_frames(&self, zero_copy: bool) -> u32 {
        if zero_copy {
            2 * self.receive_ring
        } else {
            self.receive_ring
        }
    }

    /// Bytes of frames that one socket takes.
    #[must_use]
    pub fn memory_bytes(&self, zero_copy: bool) -> u64 {
        let frames = self.receive_frames(zero_copy) + self.transmit_ring;
        u64::from(frames) * u64::from(self.frame_size)
    }

    /// Longest frame that can be sent, bytes.
    #[must_use]
    pub fn frame_len_max(&self) -> usize {
        (self.frame_size - XDP_HEADROOM) as usize
    }

    pub(super) fn validate(&self) -> Result<(), XskError> {
        if ![FRAME_SIZE_DEFAULT, FRAME_SIZE_JUMBO].contains(&self.frame_size) {
            return Err(XskError::FrameSize {
                frame_size: self.frame_size,
            });
        }
        for (ring, slots) in [
            ("receive", self.receive_ring),
            ("transmit", self.transmit_ring),
        ] {
            if !slots.is_power_of_two() || slots > RING_MAX {
                return Err(XskError::RingSize { ring, slots });
            }
        }
        Ok(())
    }
}

/// The frame size for an interface with this MTU, in bytes of IP packet.
///
/// It matters in zero-copy mode, where the driver puts every packet of the queue into such frames
/// and refuses those that are too small. In copy mode only punted packets need to fit.
/// An MTU that fits no frame gives the largest.
#[must_use]
pub fn frame_size_for_mtu(mtu: u32) -> u32 {
    /// Ethernet header and two VLAN tags.
    const LINK_HEADERS: u32 = 14 + 2 * 4;
    if mtu.saturating_add(LINK_HEADERS + XDP_HEADROOM) <= FRAME_SIZE_DEFAULT {
        FRAME_SIZE_DEFAULT
    } else {
        FRAME_SIZE_JUMBO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ethernet_mtu_fits_the_small_frame_and_a_jumbo_one_does_not() {
        assert_eq!(frame_size_for_mtu(1500), 2048);
        assert_eq!(frame_size_for_mtu(1770), 2048);
        assert_eq!(frame_size_for_mtu(1771), 4096);
        assert_eq!(frame_size_for_mtu(u32::MAX), 4096);
    }

    #[test]
    fn the_memory_of_a_socket_is_what_the_documentation_says() {
        let config = XskConfig::default();
        assert_eq!(config.memory_bytes(false), 6 << 20);
        assert_eq!(config.memory_bytes(true), 10 << 20);
    }

    #[test]
    fn sizes_that_the_kernel_would_refuse_are_refused_by_name() {
        let config = XskConfig::default();
        assert!(config.validate().is_ok());
        for (broken, message) in [
            (
                XskConfig {
                    frame_size: 3000,
                    ..config
                },
                "a frame of 3000 bytes is not possible: 2048 or 4096",
            ),
            (
                XskConfig {
                    receive_ring: 1000,
                    ..config
                },
                "a receive ring of 1000 slots is not possible: a power of two, at most 32768",
            ),
            (
                XskConfig {
                    transmit_ring: 0,
                    ..config
                },
                "a transmit ring of 0 slots is not possible: a power of two, at most 32768",
            ),
        ] {
            let error = broken.validate().expect_err("refused");
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn the_mode_is_written_as_in_the_configuration_file() {
        for (mode, text) in [
            (XskMode::Auto, "\"auto\""),
            (XskMode::Copy, "\"copy\""),
            (XskMode::ZeroCopy, "\"zero-copy\""),
        ] {
            assert_eq!(serde_json::to_string(&mode).expect("serializes"), text);
        }
    }

    #[test]
    fn zero_copy_is_tried_with_known_drivers_only() {
        assert!(!XskMode::is_known_good("ice"));
        assert!(!XskMode::is_known_good("veth"));
    }
}
