//! The packages, by Debian's names, and how to see that what they bring is there: by the command
//! or the header itself, whoever installed it.

use std::path::Path;

use object::read::elf::ProgramHeader as _;

use crate::privilege;

/// A package, and what shows that it is not needed any more.
pub struct Need {
    pub package: &'static str,
    pub why: &'static str,
    sign: Sign,
}

enum Sign {
    Command(&'static str),
    /// One that takes no library.
    StaticCommand(&'static str),
    /// File below a directory for headers.
    Header(&'static str),
    /// What the name of a module of Apache begins with; a version follows.
    ApacheModule(&'static str),
    /// A module of nginx.
    NginxModule(&'static str),
}

impl Need {
    /// What it is and what for.
    pub fn line(&self) -> String {
        format!("{}: {}", self.package, self.why)
    }
}

const fn command(name: &'static str, package: &'static str, why: &'static str) -> Need {
    Need {
        package,
        why,
        sign: Sign::Command(name),
    }
}

const fn header(name: &'static str, package: &'static str, why: &'static str) -> Need {
    Need {
        package,
        why,
        sign: Sign::Header(name),
    }
}

/// All of them.
pub const NEEDS: &[Need] = &[
    command(
        "clang",
        "clang",
        "compiles libxdp's BPF programs, for AF_XDP",
    ),
    header("libelf.h", "libelf-dev", "libbpf reads ELF files with it"),
    header(
        "zlib.h",
        "zlib1g-dev",
        "libbpf reads compressed kernel settings with it",
    ),
    command("pkg-config", "pkg-config", "finds the two libraries"),
    command("m4", "m4", "generates parts of libxdp"),
    command("make", "make", "builds libbpf and libxdp"),
    command(
        "bpftool",
        "bpftool",
        "loads the program alone, and shows programs and maps",
    ),
    command(
        "ip",
        "iproute2",
        "makes network namespaces for demo and tests",
    ),
    command("ethtool", "ethtool", "sets offloads of their interfaces"),
    command(
        "nginx",
        "nginx-light",
        "back-end of demo and tests; its service is not started",
    ),
    command("curl", "curl", "client of demo and tests"),
    command("tcpdump", "tcpdump", "judges checksums in the tests"),
    command(
        "valgrind",
        "valgrind",
        "counts the instructions of decisions, for lint",
    ),
    command(
        "dpkg-shlibdeps",
        "dpkg-dev",
        "finds the libraries that the Debian package depends on",
    ),
    command("sysctl", "procps", "sets forwarding in their namespaces"),
    command(
        "ping",
        "iputils-ping",
        "mends what `dispatcher check` finds, in the tests",
    ),
];

/// What the benchmark `overload` needs besides.
///
/// What brings Apache's service is only recommended by PHP's package, so nothing is started.
pub const OVERLOAD: &[Need] = &[
    command(
        "apache2",
        "apache2-bin",
        "the server that is overloaded; it has no service that would be started",
    ),
    Need {
        package: "libapache2-mod-php",
        why: "makes the pages of that server",
        sign: Sign::ApacheModule("libphp"),
    },
];

/// What the benchmark `contenders` needs besides: those it compares with.
pub const CONTENDERS: &[Need] = &[
    command("nft", "nftables", "the kernel's own NAT"),
    command(
        "haproxy",
        "haproxy",
        "a proxy with a queue; its service is not started",
    ),
    Need {
        package: "libnginx-mod-stream",
        why: "a proxy without one, by nginx",
        sign: Sign::NginxModule("ngx_stream_module.so"),
    },
];

/// What fuzzing needs besides.
pub const FUZZ: &[Need] = &[command(
    "c++",
    "g++",
    "compiles libFuzzer, which is written in C++",
)];

/// What the tests of the status page need, and nothing else does: it is large.
pub const BROWSER: &[Need] = &[command(
    "chromium",
    "chromium",
    "shows the status page in its tests; it takes 300 MB",
)];

/// What the tests of the Debian package need, and nothing else does.
pub const DIST: &[Need] = &[command(
    "debootstrap",
    "debootstrap",
    "makes a fresh Debian to test the package in",
)];

/// What the tests on the oldest kernel need, and nothing else does.
pub const VM: &[Need] = &[
    command(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "the virtual machine; it takes 100 MB",
    ),
    Need {
        package: "busybox-static",
        why: "what runs in it before there is more; it takes the place of busybox",
        sign: Sign::StaticCommand("busybox"),
    },
    command("cpio", "cpio", "packs that"),
    command("depmod", "kmod", "orders the kernel's modules"),
];

/// The compiler that matches its own source of core.
pub const COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// Its clippy, with which `lint` judges the program.
pub const COMPILER_CLIPPY: &str = "rust-web-clippy";

/// Those whose sign is not on this machine.
pub fn missing() -> Vec<&'static Need> {
    missing_of(NEEDS)
}

/// Those of `needs` whose sign is not on this machine.
pub fn missing_of(needs: &'static [Need]) -> Vec<&'static Need> {
    missing_by(needs, Sign::is_there)
}

fn missing_by(needs: &'static [Need], is_there: impl Fn(&Sign) -> bool) -> Vec<&'static Need> {
    needs.iter().filter(|need| !is_there(&need.sign)).collect()
}

impl Sign {
    fn is_there(&self) -> bool {
        match self {
            Self::Command(name) => privilege::find(name).is_some(),
            Self::StaticCommand(name) => privilege::find(name).is_some_and(|path| is_static(&path)),
            Self::Header(name) => header_exists(name),
            Self::ApacheModule(name) => apache_module_exists(name),
            Self::NginxModule(name) => Path::new("/usr/lib/nginx/modules").join(name).exists(),
        }
    }
}

/// Whether it is an executable that names no loader of libraries.
fn is_static(path: &Path) -> bool {
    let Ok(bytes) = std::fs::read(path) else {
        return false;
    };
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(&*bytes);
    file.is_ok_and(|file| {
        let mut headers = file.elf_program_headers().iter();
        headers.all(|header| header.p_type(file.endian()) != object::elf::PT_INTERP)
    })
}

fn apache_module_exists(name: &str) -> bool {
    let modules = std::fs::read_dir("/usr/lib/apache2/modules");
    let names = modules.into_iter().flatten().flatten();
    let mut names = names.map(|entry| entry.file_name());
    names.any(|file| file.to_string_lossy().starts_with(name))
}

fn header_exists(name: &str) -> bool {
    let multiarch = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let directories = ["/usr/include", "/usr/local/include", &multiarch];
    directories
        .iter()
        .any(|directory| Path::new(directory).join(name).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_missing_when_its_sign_is() {
        assert!(missing_by(NEEDS, |_| true).is_empty());
        let missing = missing_by(NEEDS, |sign| {
            !matches!(sign, Sign::Command("m4") | Sign::Header("zlib.h"))
        });
        let names: Vec<_> = missing.iter().map(|need| need.package).collect();
        assert_eq!(names, ["zlib1g-dev", "m4"]);
    }

    #[test]
    fn what_needs_a_library_is_not_static() {
        assert!(!is_static(&std::env::current_exe().unwrap()));
        assert!(!is_static(Path::new("/nowhere")));
    }

    #[test]
    fn on_a_bare_machine_all_are_missing() {
        assert_eq!(missing_by(NEEDS, |_| false).len(), NEEDS.len());
    }
}
