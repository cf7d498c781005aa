//! Kernel, privileges, memory.

use super::facts::{Facts, Machine};
use super::{Findings, advise, run};
use crate::config::Config;
use crate::xsk::XskConfig;

/// The oldest kernel that this is for.
const KERNEL_MIN: (u32, u32) = (6, 1);
const SUBJECT: &str = "machine";

pub(super) fn check(config: &Config, facts: &Facts, findings: &mut Findings) {
    let machine = &facts.machine;
    kernel(machine, findings);
    if facts.sysctl("net/core/bpf_jit_enable") == Some(0) {
        findings.about("bpf-jit", SUBJECT).warning(
            "BPF programs are interpreted, which is several times slower",
            run("sysctl -w net.core.bpf_jit_enable=1"),
        );
    }
    privileges(machine, findings);
    memory_lock(config, facts, findings);
}

fn kernel(machine: &Machine, findings: &mut Findings) {
    let release = &machine.release;
    let (major, minor) = KERNEL_MIN;
    if version(release).is_some_and(|version| version < KERNEL_MIN) {
        findings.about("kernel", SUBJECT).error(
            format!("Linux {release} is too old"),
            advise(format!("run Linux {major}.{minor} or newer")),
        );
    }
    if machine.architecture != "x86_64" {
        findings.about("architecture", SUBJECT).warning(
            format!("this was never tried on {}", machine.architecture),
            advise("use x86-64"),
        );
    }
    if machine.af_xdp == Some(false) {
        findings.about("af-xdp", SUBJECT).error(
            "this kernel has no AF_XDP",
            advise("run a kernel with CONFIG_XDP_SOCKETS"),
        );
    }
    if !machine.btf {
        findings.about("btf", SUBJECT).note(
            "this kernel does not describe its types (no BTF): bpftool shows less",
            advise("run a kernel with CONFIG_DEBUG_INFO_BTF"),
        );
    }
    if let Some(why) = &machine.bpf_refused {
        findings.about("bpf", SUBJECT).error(
            format!("the system call bpf is refused: {why}"),
            advise("run outside of the container, or let its seccomp profile allow bpf"),
        );
    }
}

fn privileges(machine: &Machine, findings: &mut Findings) {
    let has = machine.privileges;
    let needed = [
        ("CAP_BPF", has.bpf),
        ("CAP_NET_ADMIN", has.net_admin),
        ("CAP_NET_RAW", has.net_raw),
    ];
    let missing: Vec<_> = needed
        .iter()
        .filter(|(_, has)| !has)
        .map(|(name, _)| *name)
        .collect();
    if !missing.is_empty() {
        findings.about("privileges", SUBJECT).note(
            format!(
                "this process has no {}, which the daemon needs; pins and the owners of other XDP \
                 programs could not be looked at",
                missing.join(", ")
            ),
            advise("check as root"),
        );
    }
}

/// The frames of AF_XDP sockets are locked, on every kernel; maps no more since 5.11.
fn memory_lock(config: &Config, facts: &Facts, findings: &mut Findings) {
    let has = facts.machine.privileges;
    let Some(limit) = facts.machine.memory_lock else {
        return;
    };
    // Without CAP_NET_ADMIN this is not who would run the daemon.
    if has.ipc_lock || !has.net_admin {
        return;
    }
    let queues: u64 = config
        .dataplane
        .interfaces
        .iter()
        .filter_map(|name| facts.devices.get(&facts.link(name)?.0))
        .map(|device| u64::from(device.receive_queues))
        .sum();
    let needed = queues * XskConfig::default().memory_bytes(true);
    if needed > limit {
        findings.about("memory-lock", SUBJECT).warning(
            format!(
                "{queues} AF_XDP sockets lock up to {} MiB of memory, and the limit is {} MiB",
                needed >> 20,
                limit >> 20
            ),
            run(format!("ulimit -l {}", needed >> 10)),
        );
    }
}

/// Major and minor.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::facts::Privileges;
    use super::super::made_up::{assert_finds, fit};

    #[test]
    fn a_kernel_that_is_too_old_or_lacks_something_is_told() {
        assert_finds(
            |_, facts| facts.machine.release = "5.15.0-91-generic".into(),
            "error kernel machine: Linux 5.15.0-91-generic is too old; # run Linux 6.1 or newer",
        );
        assert_finds(
            |_, facts| facts.machine.architecture = "aarch64".into(),
            "warning architecture machine: this was never tried on aarch64; # use x86-64",
        );
        assert_finds(
            |_, facts| facts.machine.af_xdp = Some(false),
            "error af-xdp machine: this kernel has no AF_XDP; \
             # run a kernel with CONFIG_XDP_SOCKETS",
        );
        assert_finds(
            |_, facts| facts.machine.btf = false,
            "note btf machine: this kernel does not describe its types (no BTF): bpftool shows \
             less; # run a kernel with CONFIG_DEBUG_INFO_BTF",
        );
        assert_finds(
            |_, facts| facts.machine.bpf_refused = Some("Operation not permitted".into()),
            "error bpf machine: the system call bpf is refused: Operation not permitted; \
             # run outside of the container, or let its seccomp profile allow bpf",
        );
        assert_finds(
            |_, facts| {
                facts.sysctls.insert("net/core/bpf_jit_enable".into(), 0);
            },
            "warning bpf-jit machine: BPF programs are interpreted, which is several times \
             slower; sysctl -w net.core.bpf_jit_enable=1",
        );
    }

    #[test]
    fn newer_kernels_are_new_enough() {
        for release in ["6.1.0", "6.1.0-13-amd64", "6.18.44", "7.0-rc1", "10.2"] {
            let (config, mut facts) = fit();
            facts.machine.release = release.into();
            assert_eq!(super::super::check(&config, &facts), [], "{release}");
        }
    }

    #[test]
    fn what_could_not_be_looked_at_is_told() {
        assert_finds(
            |_, facts| facts.machine.privileges = Privileges::default(),
            "note privileges machine: this process has no CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW, \
             which the daemon needs; pins and the owners of other XDP programs could not be \
             looked at; # check as root",
        );
    }

    #[test]
    fn locked_memory_is_counted_for_who_has_no_leave_to_lock_as_much_as_they_like() {
        assert_finds(
            |_, facts| {
                facts.machine.memory_lock = Some(8 << 20);
                facts.machine.privileges.ipc_lock = false;
            },
            "warning memory-lock machine: 2 AF_XDP sockets lock up to 20 MiB of memory, and the \
             limit is 8 MiB; ulimit -l 20480",
        );
        let (config, mut facts) = fit();
        facts.machine.memory_lock = Some(8 << 20);
        assert_eq!(super::super::check(&config, &facts), []);
    }
}
