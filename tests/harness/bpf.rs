//! The few BPF system calls that programs written in instructions need.

use std::cell::UnsafeCell;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::instruction::Instruction;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// What a map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = 2,
    /// `BPF_MAP_TYPE_PROG_ARRAY`.
    ProgramArray = 3,
    /// `BPF_MAP_TYPE_XSKMAP`.
    Sockets = 17,
}

/// How a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Mode {
    /// Behind the driver, as on a device whose driver cannot: `XDP_FLAGS_SKB_MODE`.
    Generic = 1 << 1,
    /// By the driver: `XDP_FLAGS_DRV_MODE`.
    Native = 1 << 2,
}

/// The head of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The head of `union bpf_attr` for `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct MapElement {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    /// Log, kernel version, flags, name.
    log_to_name: [u64; 5],
    prog_ifindex: u32,
    expected_attach_type: u32,
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
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// What a batch of test runs gave.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Of one run, the average.
    pub nanoseconds: u64,
    /// What the last one returned.
    pub action: u32,
    /// What the last one made of the frame.
    pub frame: Vec<u8>,
}

/// The head of `union bpf_attr` for `BPF_OBJ_PIN`.
#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The head of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Loads an XDP program.
pub fn load_xdp(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_to_name: [0; 5],
        prog_ifindex: 0,
        // Only programs that say the same may call each other.
        expected_attach_type: BPF_XDP,
    };
    // SAFETY: the attributes are those of the command; the addresses in them are of things that
    // outlive the call and are as long as stated.
    unsafe { open(BPF_PROG_LOAD, &attributes) }
}

/// Makes a map.
pub fn create_map(kind: MapKind, key: usize, value: usize, entries: u32) -> io::Result<OwnedFd> {
    let attributes = MapCreate {
        map_type: kind as u32,
        key_size: key as u32,
        value_size: value as u32,
        max_entries: entries,
    };
    // SAFETY: the attributes are those of the command, and numbers only.
    unsafe { open(BPF_MAP_CREATE, &attributes) }
}

/// Puts an element into a map whose keys and values are as long as these.
///
/// # Safety
///
/// They are.
pub unsafe fn update(map: RawFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    let attributes = MapElement {
        map_fd: map as u32,
        padding: 0,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command; the caller promises that what they point to
    // is as long as the kernel will read.
    unsafe { call(BPF_MAP_UPDATE_ELEM, &attributes) }.map(drop)
}

/// The first element of an array of numbers.
///
/// # Safety
///
/// The map is one: its keys are four bytes, its values eight.
pub unsafe fn number(array: RawFd) -> io::Result<u64> {
    let (key, mut value) = (0_u32, 0_u64);
    let attributes = MapElement {
        map_fd: array as u32,
        padding: 0,
        key: (&raw const key) as u64,
        value: (&raw mut value) as u64,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command; the caller promises that key and value are
    // as long as the kernel will read and write.
    unsafe { call(BPF_MAP_LOOKUP_ELEM, &attributes) }?;
    Ok(value)
}

/// Runs a program on a frame `repeat` times, each time on what the last has made of it.
pub fn test_run(program: &OwnedFd, mut frame: Vec<u8>, repeat: u32) -> io::Result<Ran> {
    let attributes = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_size_out: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: frame.as_mut_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    let mut attributes = UnsafeCell::new(attributes);
    // SAFETY: both addresses are those of the frame, which is as long as stated; the kernel has
    // copied it when it writes to it. What it answers it writes into the cell.
    unsafe { call(BPF_PROG_TEST_RUN, &attributes) }?;
    let told = attributes.get_mut();
    frame.truncate(told.data_size_out as usize);
    Ok(Ran {
        nanoseconds: told.duration.into(),
        action: told.retval,
        frame,
    })
}

/// Makes `count` frames that begin as copies of `frame`, and lets the program send each.
pub fn run_live(program: &OwnedFd, frame: &[u8], count: u32) -> io::Result<()> {
    let attributes = UnsafeCell::new(TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: count,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        ..TestRun::default()
    });
    // SAFETY: the address is that of the frame, which is as long as stated, and is only read. What
    // the kernel answers it writes into the cell.
    unsafe { call(BPF_PROG_TEST_RUN, &attributes) }.map(drop)
}

/// Pins a program or a map.
pub fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjPin {
        pathname: path.as_ptr() as u64,
        bpf_fd: object.as_raw_fd() as u32,
        file_flags: 0,
    };
    // SAFETY: the attributes are those of the command, and the path outlives the call.
    unsafe { call(BPF_OBJ_PIN, &attributes) }.map(drop)
}

/// Attaches an XDP program to an interface of the calling thread's network namespace, for as long
/// as what is returned lives.
pub fn attach_xdp(program: &OwnedFd, ifindex: u32, mode: Mode) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: BPF_XDP,
        flags: mode as u32,
    };
    // SAFETY: the attributes are those of the command, and numbers only.
    unsafe { open(BPF_LINK_CREATE, &attributes) }
}

/// # Safety
///
/// As [`call`]; and the command returns a descriptor.
unsafe fn open<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { call(command, attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
///
/// `attributes` has the layout of the head of `union bpf_attr` for `command`, and what it points to
/// is valid.
unsafe fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the caller's promise is the one that the system call asks for.
    match unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) } {
        result if result < 0 => Err(io::Error::last_os_error()),
        result => Ok(result as RawFd),
    }
}
