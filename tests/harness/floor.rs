//! The floor under the program's cost: the least program that looks up one packet's 5-tuple in the
//! same table. Written in instructions, because it must hold nothing that a compiler adds.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use dispatcher_common::flow::FlowEntry;
use dispatcher_common::rewrite::Translation;

use crate::instruction::{
    FRAME_POINTER, Instruction, SIZE_16, SIZE_32, SIZE_64, XDP_DROP, XDP_TX, add, call, copy, give,
    instruction, load, skip_if_beyond, skip_if_equal, store, store_immediate,
};
use crate::packet::Family;

/// What the floor does after it parsed nothing, checked one bound, and built a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Floor {
    /// Not even that: returns at once. What a test run costs by itself.
    Empty,
    /// One lookup.
    Lookup(Family),
    /// One lookup, and the destination that it found is written into the packet, without any
    /// checksum: so the next run looks up another key.
    Chase,
}

/// A loaded floor, attached so that test runs of it are quick: see [`FloorProgram::attach`].
pub struct FloorProgram {
    program: OwnedFd,
    links: Vec<OwnedFd>,
}

/// The key ends where the stack begins.
const KEY: i16 = -40;
/// Holds the start of the frame over the call.
const FRAME: u8 = 7;

impl Floor {
    fn instructions(self, flows: RawFd) -> Vec<Instruction> {
        let family = match self {
            Self::Empty => return give(XDP_DROP).to_vec(),
            Self::Lookup(family) => family,
            Self::Chase => Family::V4,
        };
        let mut hit = Vec::new();
        if self == Self::Chase {
            let translation = std::mem::offset_of!(FlowEntry, translation);
            let addr = translation + std::mem::offset_of!(Translation, addr) + 12;
            let port = translation + std::mem::offset_of!(Translation, port);
            hit.extend([
                load(SIZE_32, 1, 0, addr as i16),
                store(SIZE_32, FRAME, 30, 1),
                load(SIZE_16, 1, 0, port as i16),
                store(SIZE_16, FRAME, 36, 1),
            ]);
        }
        hit.extend(give(XDP_TX));

        let mut look_up = key_of(family);
        look_up.extend([
            // r1 = the map, r2 = the key; call bpf_map_lookup_elem.
            instruction(0x18, 1, 1, 0, flows),
            instruction(0, 0, 0, 0, 0),
            copy(2, FRAME_POINTER),
            add(2, KEY.into()),
            call(1),
            // Over `hit` to the drop.
            skip_if_equal(0, 0, hit.len() as i16),
        ]);

        let end = if family == Family::V4 { 38 } else { 58 };
        let mut all = vec![
            load(SIZE_32, FRAME, 1, 0),
            load(SIZE_32, 3, 1, 4),
            copy(4, FRAME),
            add(4, end),
            // Over all to the drop.
            skip_if_beyond(4, 3, (look_up.len() + hit.len()) as i16),
        ];
        all.extend(look_up);
        all.extend(hit);
        all.extend(give(XDP_DROP));
        all
    }

    /// Loads the program; `flows` is the table.
    #[must_use]
    pub fn load(self, flows: RawFd) -> FloorProgram {
        let instructions = self.instructions(flows);
        let license = c"GPL";
        let attributes = ProgLoad {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            rest: [0; 12],
        };
        // SAFETY: `insns` and `license` point to what outlives the call, as long as stated.
        let fd = unsafe { bpf(BPF_PROG_LOAD, &raw const attributes) };
        FloorProgram {
            program: opened(fd),
            links: Vec::new(),
        }
    }
}

fn opened(fd: libc::c_long) -> OwnedFd {
    assert!(fd >= 0, "bpf: {}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that was just opened, and that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Instructions that write the packet's key where [`KEY`] says.
fn key_of(family: Family) -> Vec<Instruction> {
    let mut all: Vec<_> = (0..5)
        .map(|word| store_immediate(SIZE_64, FRAME_POINTER, KEY + 8 * word, 0))
        .collect();
    let mut take = |size, from, to| {
        all.push(load(size, 5, FRAME, from));
        all.push(store(size, FRAME_POINTER, KEY + to, 5));
    };
    match family {
        Family::V4 => {
            take(SIZE_32, 26, 12);
            take(SIZE_32, 30, 28);
            take(SIZE_32, 34, 32);
            let mapped = i32::from_ne_bytes([0, 0, 0xff, 0xff]);
            all.push(store_immediate(SIZE_32, FRAME_POINTER, KEY + 8, mapped));
            all.push(store_immediate(SIZE_32, FRAME_POINTER, KEY + 24, mapped));
        }
        Family::V6 => {
            for word in 0..4 {
                take(SIZE_64, 22 + 8 * word, 8 * word);
            }
            take(SIZE_32, 54, 32);
        }
    }
    all
}

impl FloorProgram {
    /// Attaches the program to an interface, in generic mode, for as long as `self` lives. A test
    /// run that repeats adds the program to the kernel's XDP dispatcher and removes it afterwards,
    /// and waits some 20 ms for RCU each time, unless it is there already.
    pub fn attach(&mut self, ifindex: u32) {
        let attributes = LinkCreate {
            prog_fd: self.program.as_raw_fd() as u32,
            target_ifindex: ifindex,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_SKB_MODE,
            rest: [0; 4],
        };
        // SAFETY: the attributes are numbers only.
        self.links.push(opened(unsafe {
            bpf(BPF_LINK_CREATE, &raw const attributes)
        }));
    }

    /// Nanoseconds of one run, the average of `repeat`, and what the last one returned.
    #[must_use]
    pub fn time(&self, frame: &[u8], repeat: u32) -> (u64, u32) {
        let mut attributes = TestRun {
            prog_fd: self.program.as_raw_fd() as u32,
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        };
        // SAFETY: `data_in` points to the frame, which is as long as stated; the kernel writes
        // only to the attributes.
        let failed = unsafe { bpf(BPF_PROG_TEST_RUN, &raw mut attributes) };
        assert!(failed == 0, "{}", std::io::Error::last_os_error());
        (attributes.duration.into(), attributes.retval)
    }
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 2;

/// `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    rest: [u64; 4],
}

/// `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    rest: [u64; 12],
}

/// `union bpf_attr` for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    rest: [u64; 5],
}

/// The system call.
///
/// # Safety
///
/// `attributes` is what the kernel expects for `command`, and what it points to is valid.
unsafe fn bpf<T>(command: libc::c_int, attributes: *const T) -> libc::c_long {
    // SAFETY: the caller's promise is the one that the system call asks for.
    unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) }
}
