//! Uses of bpf(2) that aya does not offer: reading, writing and emptying a hash map in batches,
//! which interface a link is attached to, and which links there are.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::Pod;

use super::inspect::XdpLink;

/// `enum bpf_cmd` of linux/bpf.h.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_long = 31;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
/// `BPF_LINK_TYPE_XDP` of `enum bpf_link_type`.
const LINK_TYPE_XDP: u32 = 6;

/// Elements asked for at once: enough to make the call's own cost small, and twice what a bucket
/// of a well-sized table holds.
const BATCH: usize = 4096;

/// The part of `union bpf_attr` for batches.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part of `union bpf_attr` for object information.
#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// The part of `union bpf_attr` for opening a pin.
#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `struct bpf_link_info` as far as an XDP link fills it.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    zero: u32,
    ifindex: u32,
    // The kernel writes as much as it is told there is room for.
    rest: [u32; 11],
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a whole prefix of `union bpf_attr` for `command`, and its length goes with
    // it; the pointers inside are valid for the lengths that the callers put beside them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Calls `each` for every element of the hash map `fd`.
pub(super) fn for_each_element<K: Pod, V: Pod>(
    fd: RawFd,
    mut each: impl FnMut(&K, &V),
) -> io::Result<()> {
    // The kernel writes a value every so many bytes as its size rounded up to 8.
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    let mut room = BATCH;
    // The position is a bucket number; the kernel asks for as much room as a key has.
    let mut position = MaybeUninit::<K>::zeroed();
    let mut first = true;
    loop {
        let mut keys = Vec::<K>::with_capacity(room);
        let mut values = Vec::<V>::with_capacity(room);
        let at = position.as_mut_ptr() as u64;
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { at },
            out_batch: at,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: fd as u32,
            elem_flags: 0,
            flags: 0,
        };
        let ended = match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => false,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => true,
                // A bucket holds more than there is room for.
                Some(libc::ENOSPC) => {
                    room *= 2;
                    continue;
                }
                _ => return Err(error),
            },
        };
        // SAFETY: the kernel wrote `count` keys and as many values, at most `room` of each, at
        // the distances that `K` and `V` have (asserted above), and any bytes are a `Pod`.
        unsafe {
            keys.set_len(attr.count as usize);
            values.set_len(attr.count as usize);
        }
        keys.iter()
            .zip(&values)
            .for_each(|(key, value)| each(key, value));
        if ended {
            return Ok(());
        }
        first = false;
    }
}

/// Writes elements to the hash map `fd`, one after the other, over what is there. Says how many
/// are written when one cannot be; those after it are not tried.
pub(super) fn write_elements<K: Pod, V: Pod>(
    fd: RawFd,
    keys: &[K],
    values: &[V],
) -> Result<(), (usize, io::Error)> {
    // The kernel reads a value every so many bytes as its size rounded up to 8.
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    let count = keys.len().min(values.len());
    change_elements(
        BPF_MAP_UPDATE_BATCH,
        fd,
        &keys[..count],
        values.as_ptr() as u64,
    )
}

/// Removes elements of the hash map `fd`, one after the other. Says how many are removed when one
/// cannot be; those after it are not tried.
pub(super) fn remove_elements<K: Pod>(fd: RawFd, keys: &[K]) -> Result<(), (usize, io::Error)> {
    change_elements(BPF_MAP_DELETE_BATCH, fd, keys, 0)
}

/// `values` is the address of as many as there are keys, or 0 if the command takes none.
fn change_elements<K: Pod>(
    command: libc::c_long,
    fd: RawFd,
    keys: &[K],
    values: u64,
) -> Result<(), (usize, io::Error)> {
    let count = keys.len();
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values,
        count: count as u32,
        map_fd: fd as u32,
        elem_flags: 0,
        flags: 0,
    };
    match bpf(command, &mut attr) {
        Ok(_) => Ok(()),
        // A call that was refused as a whole leaves the count as it was.
        Err(error) if attr.count as usize >= count => Err((0, error)),
        Err(error) => Err((attr.count as usize, error)),
    }
}

/// The part of `union bpf_attr` for objects by their ids.
#[repr(C)]
struct IdAttr {
    id: u32,
    next_id: u32,
    flags: u32,
}

/// The interface that the XDP link pinned at `path` is attached to; 0 when it is gone.
pub(super) fn link_ifindex(path: &Path) -> io::Result<u32> {
    Ok(link_info(&pinned(path)?)?.ifindex)
}

/// Whether this process may call bpf(2) at all: opens a pin that is not there.
pub(super) fn probe() -> io::Result<()> {
    match pinned(Path::new("/nonexistent")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The XDP links that there are, in all network namespaces.
pub(super) fn xdp_links() -> io::Result<Vec<XdpLink>> {
    let mut links = Vec::new();
    let mut attr = IdAttr {
        id: 0,
        next_id: 0,
        flags: 0,
    };
    loop {
        match bpf(BPF_LINK_GET_NEXT_ID, &mut attr) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(links),
            Err(error) => return Err(error),
        }
        attr.id = attr.next_id;
        let mut one = IdAttr {
            id: attr.id,
            next_id: 0,
            flags: 0,
        };
        // One that went in between is no failure.
        let Ok(fd) = bpf(BPF_LINK_GET_FD_BY_ID, &mut one) else {
            continue;
        };
        // SAFETY: the kernel made this descriptor just now, and nobody else knows of it.
        let link = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let info = link_info(&link)?;
        if info.kind == LINK_TYPE_XDP {
            links.push(XdpLink {
                id: info.id,
                program: info.program,
                ifindex: info.ifindex,
            });
        }
    }
}

fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = PinAttr {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &mut attr)? as RawFd;
    // SAFETY: the kernel made this descriptor just now, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn link_info(link: &OwnedFd) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        fd: link.as_raw_fd() as u32,
        len: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}
