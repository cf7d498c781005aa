//! The few uses of bpf(2) that the bench makes: programs of a few instructions, maps of one or a
//! few elements.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use dispatcher_tests::instruction::Instruction;
use nix::net::if_::if_nametoindex;

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;

/// How a program is attached: by the driver.
pub const NATIVE: u32 = 1 << 2;
/// Behind the driver, as on a device whose driver cannot.
pub const GENERIC: u32 = 1 << 1;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 1 << 1;

/// `BPF_MAP_TYPE_ARRAY`.
pub const ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_XSKMAP`.
pub const XSKMAP: u32 = 17;

#[repr(C)]
struct MapAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct ElementAttr {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct LoadAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

#[repr(C)]
struct LinkAttr {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` for test runs.
#[repr(C)]
#[derive(Default)]
struct RunAttr {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    processor: u32,
    batch_size: u32,
    padding: u32,
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a whole prefix of `union bpf_attr` for `command`, and its length goes with
    // it; what the callers' pointers in it point to outlives the call and is as long as they say.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// A map with keys of four bytes.
pub fn map(kind: u32, value_size: u32) -> io::Result<OwnedFd> {
    let mut attr = MapAttr {
        kind,
        key_size: 4,
        value_size,
        max_entries: 1,
        flags: 0,
    };
    bpf(MAP_CREATE, &mut attr).map(owned)
}

/// Puts a descriptor into the only element of a map of descriptors.
pub fn put(map: &OwnedFd, fd: RawFd) -> io::Result<()> {
    let (key, value) = (0_u32, fd);
    let mut attr = element(map, &key, std::ptr::from_ref(&value) as u64);
    bpf(MAP_UPDATE, &mut attr).map(drop)
}

/// The only element of a map of numbers.
pub fn number(map: &OwnedFd) -> io::Result<u64> {
    let (key, mut value) = (0_u32, 0_u64);
    let mut attr = element(map, &key, std::ptr::from_mut(&mut value) as u64);
    bpf(MAP_LOOKUP, &mut attr)?;
    Ok(value)
}

fn element(map: &OwnedFd, key: &u32, value: u64) -> ElementAttr {
    ElementAttr {
        map: map.as_raw_fd() as u32,
        padding: 0,
        key: std::ptr::from_ref(key) as u64,
        value,
        flags: 0,
    }
}

/// Loads an XDP program.
pub fn load(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        kind: PROG_TYPE_XDP,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    bpf(PROG_LOAD, &mut attr).map(owned)
}

/// Attaches it to a device of the calling thread's network namespace, until the link is dropped.
pub fn attach(program: &OwnedFd, device: &str, mode: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkAttr {
        program: program.as_raw_fd() as u32,
        ifindex: if_nametoindex(device)?,
        attach_type: ATTACH_XDP,
        flags: mode,
    };
    bpf(LINK_CREATE, &mut attr).map(owned)
}

/// Makes `count` frames that begin as copies of `frame`, and lets the program send each.
pub fn run_live(program: &OwnedFd, frame: &[u8], count: u32) -> io::Result<()> {
    let mut attr = RunAttr {
        program: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: count,
        flags: LIVE_FRAMES,
        ..RunAttr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr).map(drop)
}
