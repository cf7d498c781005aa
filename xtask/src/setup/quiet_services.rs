//! Keeps Debian from starting services of nginx and HAProxy when their packages are installed: lab
//! and benches want the programs, not servers on this machine, now or after the next boot.
//!
//! Debian asks `/usr/sbin/policy-rc.d` before it starts a service. Ours stands there during the
//! installation, refuses these, and means nothing once this process is gone.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use xtask::command::Runner;

use crate::privilege;

const POLICY: &str = "/usr/sbin/policy-rc.d";
/// "Action forbidden by policy."
const FORBIDDEN: u8 = 101;

/// Services, by what the names of their packages begin with.
const SERVICES: [&str; 2] = ["nginx", "haproxy"];

/// While an installation runs.
pub struct Quiet {
    /// Services of what is installed.
    services: Vec<&'static str>,
    ours: bool,
}

impl Quiet {
    /// Before the installation of `packages`.
    pub fn begin(packages: &[&str], runner: Runner) -> Result<Self> {
        let is_installed =
            |service: &&str| packages.iter().any(|package| package.starts_with(*service));
        let services: Vec<_> = SERVICES.into_iter().filter(is_installed).collect();
        // Somebody else's policy is theirs; containers have one that refuses everything.
        let ours = !services.is_empty() && !Path::new(POLICY).exists();
        if ours {
            let draft = std::env::temp_dir().join(format!("policy-rc.d.{}", std::process::id()));
            let text = policy(std::process::id());
            std::fs::write(&draft, text)
                .with_context(|| format!("cannot write {}", draft.display()))?;
            let mut install = privilege::elevated("install")?;
            let installed = runner.run(install.args(["-m", "0755"]).arg(&draft).arg(POLICY));
            std::fs::remove_file(&draft)?;
            installed?;
        }
        Ok(Self { services, ours })
    }

    /// After it, whether it succeeded or not.
    pub fn end(self, runner: Runner) -> Result<()> {
        if self.ours {
            runner.run(privilege::elevated("rm")?.args(["-f", POLICY]))?;
        }
        let systemd = Path::new("/run/systemd/system").exists();
        for service in self.services {
            let unit = format!("{service}.service");
            if systemd && is_enabled(&unit) {
                runner.run(privilege::elevated("systemctl")?.args(["disable", &unit]))?;
            }
        }
        Ok(())
    }
}

fn is_enabled(unit: &str) -> bool {
    Command::new("systemctl")
        .args(["--quiet", "is-enabled", unit])
        .status()
        .is_ok_and(|status| status.success())
}

fn policy(process: u32) -> String {
    format!(
        "#!/bin/sh\n\
         # Of `cargo xtask setup`; without its process this file means nothing and may go.\n\
         [ -d /proc/{process} ] || exit 0\n\
         case \"$1\" in {}*) exit {FORBIDDEN} ;; esac\n\
         exit 0\n",
        SERVICES.join("*|")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(process: u32, service: &str) -> Option<i32> {
        let script = policy(process);
        let status = Command::new("sh")
            .args(["-c", &script, "policy-rc.d", service])
            .status();
        status.unwrap().code()
    }

    #[test]
    fn only_our_services_are_refused_and_only_while_we_run() {
        let own = std::process::id();
        assert_eq!(asked(own, "nginx"), Some(101));
        assert_eq!(asked(own, "nginx.service"), Some(101));
        assert_eq!(asked(own, "haproxy.service"), Some(101));
        assert_eq!(asked(own, "ssh"), Some(0));
        // No process has this id: it is above the kernel's highest.
        assert_eq!(asked(u32::MAX, "nginx"), Some(0));
    }
}
