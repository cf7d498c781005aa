//! A program of two instructions that lets every frame pass. A veth that has one is a target for
//! its peer's `XDP_TX` and redirects; without one those frames are lost.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Where the BPF file system belongs.
pub const BPF_FS: &str = "/sys/fs/bpf";

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_TYPE_XDP: u32 = 6;

/// `r0 = XDP_PASS; exit`, as `struct bpf_insn`.
const PASS: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];

/// The program, pinned so that `ip link set … xdp pinned` finds it; unpinned when dropped.
/// Interfaces that have it by then keep it.
#[derive(Debug)]
pub struct PinnedPass {
    path: PathBuf,
}

impl PinnedPass {
    /// Loads and pins it under a name that nobody else uses.
    pub fn load(name: &str) -> Result<Self> {
        mount_bpf_fs()?;
        let path = Path::new(BPF_FS).join(name);
        let program = load_pass().context("cannot load a two-instruction XDP program")?;
        pin(&program, &path).with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its pin.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PinnedPass {
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

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The head of `union bpf_attr` for `BPF_OBJ_PIN`.
#[repr(C)]
struct PinAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

fn load_pass() -> io::Result<OwnedFd> {
    let license = c"MIT";
    let attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: PASS.len() as u32,
        insns: PASS.as_ptr() as u64,
        license: license.as_ptr() as u64,
    };
    // SAFETY: `attr` has the layout of the head of `union bpf_attr` for this command and its size
    // is given; the addresses in it are of statics.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &attr, size_of::<LoadAttr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn pin(program: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let attr = PinAttr {
        pathname: path.as_ptr() as u64,
        bpf_fd: program.as_raw_fd() as u32,
        file_flags: 0,
    };
    // SAFETY: as above; `path` and `program` outlive the call.
    match unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_PIN, &attr, size_of::<PinAttr>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
