//! Small XDP programs for the ports of the lab, and their pins.
//!
//! A veth that has any is a target for its peer's `XDP_TX` and redirects; without one those frames
//! are lost. Two of them do to VLAN tags what a switch's port does, on a kernel without VLANs too.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dispatcher_common::header::ETHERTYPE_VLAN;
use dispatcher_common::link::VLAN_ID_MASK;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::bpf::{load_xdp, pin};
use crate::instruction::{
    Instruction, SIZE_16, SIZE_32, XDP_DROP, XDP_PASS, add, call, copy, give, load, mask, set,
    skip_if_beyond, skip_unless_equal, store, store_immediate,
};
use crate::netns::Namespace;

/// Where the BPF file system belongs.
pub const BPF_FS: &str = "/sys/fs/bpf";

/// Number of the helper `bpf_xdp_adjust_head`.
const ADJUST_HEAD: i32 = 44;

/// What a port does with a frame that comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortProgram {
    /// Lets it pass.
    Pass,
    /// Puts an 802.1Q tag with this control information (priority and VLAN id) before its type.
    PushTag(u16),
    /// Takes its 802.1Q tag away; drops it if it has none, or one of another VLAN than this.
    PopTag(u16),
}

/// Offsets of the frame's bounds in `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
/// Holds the context over the call; the frame's start is in 2, its end in 3.
const CONTEXT: u8 = 6;
/// Length of an Ethernet header with a tag.
const TAGGED: i32 = 18;

impl PortProgram {
    fn instructions(self) -> Vec<Instruction> {
        match self {
            Self::Pass => give(XDP_PASS).to_vec(),
            Self::PushTag(tci) => push_tag(tci),
            Self::PopTag(vlan) => pop_tag(vlan),
        }
    }
}

/// A number as a 16-bit load or store has it that means network order.
fn network(number: u16) -> i32 {
    number.to_be().into()
}

fn push_tag(tci: u16) -> Vec<Instruction> {
    let mut tag = Vec::new();
    // The addresses, 12 bytes, move to the new front.
    for word in [0, 4, 8] {
        tag.extend([load(SIZE_32, 4, 2, word + 4), store(SIZE_32, 2, word, 4)]);
    }
    tag.extend([
        store_immediate(SIZE_16, 2, 12, network(ETHERTYPE_VLAN)),
        store_immediate(SIZE_16, 2, 14, network(tci)),
    ]);
    tag.extend(give(XDP_PASS));

    let mut all = vec![
        copy(CONTEXT, 1),
        set(2, -4),
        call(ADJUST_HEAD),
        skip_unless_equal(0, 0, 5 + tag.len() as i16),
        load(SIZE_32, 2, CONTEXT, DATA),
        load(SIZE_32, 3, CONTEXT, DATA_END),
        copy(4, 2),
        add(4, TAGGED),
        skip_if_beyond(4, 3, tag.len() as i16),
    ];
    all.extend(tag);
    all.extend(give(XDP_DROP));
    all
}

fn pop_tag(vlan: u16) -> Vec<Instruction> {
    let mut untag = Vec::new();
    for word in [8, 4, 0] {
        untag.extend([load(SIZE_32, 4, 2, word), store(SIZE_32, 2, word + 4, 4)]);
    }
    untag.extend([copy(1, CONTEXT), set(2, 4), call(ADJUST_HEAD)]);
    untag.extend(give(XDP_PASS));
    let over = untag.len() as i16;

    let mut all = vec![
        copy(CONTEXT, 1),
        load(SIZE_32, 2, CONTEXT, DATA),
        load(SIZE_32, 3, CONTEXT, DATA_END),
        copy(4, 2),
        add(4, TAGGED),
        skip_if_beyond(4, 3, 5 + over),
        load(SIZE_16, 4, 2, 12),
        skip_unless_equal(4, network(ETHERTYPE_VLAN), 3 + over),
        load(SIZE_16, 4, 2, 14),
        mask(4, network(VLAN_ID_MASK)),
        skip_unless_equal(4, network(vlan), over),
    ];
    all.extend(untag);
    all.extend(give(XDP_DROP));
    all
}

/// A program, pinned so that `ip link set … xdp pinned` finds it; unpinned when dropped.
/// Interfaces that have it by then keep it.
#[derive(Debug)]
pub struct PinnedProgram {
    path: PathBuf,
}

impl PinnedProgram {
    /// Loads and pins it under a name that nobody else uses.
    pub fn load(program: PortProgram, name: &str) -> Result<Self> {
        mount_bpf_fs()?;
        let path = Path::new(BPF_FS).join(name);
        let loaded = load_xdp(&program.instructions());
        let program = loaded.with_context(|| format!("cannot load XDP program {program:?}"))?;
        pin(&program, &path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(Self { path })
    }

    /// Attaches it to a device in there, natively.
    pub fn attach(&self, namespace: &Namespace, device: &str) -> Result<()> {
        let path = self.path.to_string_lossy();
        let line = [
            "ip", "link", "set", "dev", device, "xdpdrv", "pinned", &path,
        ];
        namespace.run(&line).map(drop)
    }
}

impl Drop for PinnedProgram {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Mounts the BPF file system where it belongs, if it is not there.
pub fn mount_bpf_fs() -> Result<()> {
    let mounted = statfs(BPF_FS).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    if mounted {
        return Ok(());
    }
    let kind = Some("bpf");
    mount(kind, BPF_FS, kind, MsFlags::empty(), None::<&str>)
        .context("cannot mount the BPF file system on /sys/fs/bpf")
}
