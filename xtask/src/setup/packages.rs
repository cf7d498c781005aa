//! The packages, by Debian's names, and how to see that what they bring is there: by the command
//! or the header itself, whoever installed it.

use std::path::Path;

use crate::privilege;

/// A package, and what shows that it is not needed any more.
pub struct Need {
    pub package: &'static str,
    pub why: &'static str,
    sign: Sign,
}

enum Sign {
    Command(&'static str),
    /// File below a directory for headers.
    Header(&'static str),
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
        "dpkg-shlibdeps",
        "dpkg-dev",
        "finds the libraries that the Debian package depends on",
    ),
    command("sysctl", "procps", "sets forwarding in their namespaces"),
];

/// The compiler that matches its own source of core.
pub const COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// Its clippy, with which `lint` judges the program.
pub const COMPILER_CLIPPY: &str = "rust-web-clippy";

/// Those whose sign is not on this machine.
pub fn missing() -> Vec<&'static Need> {
    missing_by(|command| privilege::find(command).is_some(), header_exists)
}

fn missing_by(
    has_command: impl Fn(&str) -> bool,
    has_header: impl Fn(&str) -> bool,
) -> Vec<&'static Need> {
    let absent = |need: &&Need| match need.sign {
        Sign::Command(name) => !has_command(name),
        Sign::Header(name) => !has_header(name),
    };
    NEEDS.iter().filter(absent).collect()
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
        assert!(missing_by(|_| true, |_| true).is_empty());
        let missing = missing_by(|command| command != "m4", |header| header != "zlib.h");
        let names: Vec<_> = missing.iter().map(|need| need.package).collect();
        assert_eq!(names, ["zlib1g-dev", "m4"]);
    }

    #[test]
    fn on_a_bare_machine_all_are_missing() {
        assert_eq!(missing_by(|_| false, |_| false).len(), NEEDS.len());
    }
}
