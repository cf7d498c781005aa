//! Keeps Debian from starting nginx's service when the package is installed: the lab wants the
//! program, not a server on port 80 of this machine, now or after the next boot.
//!
//! Debian asks `/usr/sbin/policy-rc.d` before it starts a service. Ours stands there during the
//! installation, refuses nginx, and means nothing once this process is gone.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use xtask::command::Runner;

use crate::privilege;

const POLICY: &str = "/usr/sbin/policy-rc.d";
/// "Action forbidden by policy."
const FORBIDDEN: u8 = 101;

/// While an installation runs.
pub struct Quiet {
    nginx: bool,
    ours: bool,
}

impl Quiet {
    /// Before the installation of `packages`.
    pub fn begin(packages: &[&str], runner: Runner) -> Result<Self> {
        let nginx = packages.iter().any(|package| package.starts_with("nginx"));
        // Somebody else's policy is theirs; containers have one that refuses everything.
        let ours = nginx && !Path::new(POLICY).exists();
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
        Ok(Self { nginx, ours })
    }

    /// After it, whether it succeeded or not.
    pub fn end(self, runner: Runner) -> Result<()> {
        if self.ours {
            runner.run(privilege::elevated("rm")?.args(["-f", POLICY]))?;
        }
        let systemd = Path::new("/run/systemd/system").exists();
        if self.nginx && systemd && has_unit() {
            runner.run(privilege::elevated("systemctl")?.args(["disable", "nginx.service"]))?;
        }
        Ok(())
    }
}

fn has_unit() -> bool {
    Command::new("systemctl")
        .args(["--quiet", "is-enabled", "nginx.service"])
        .status()
        .is_ok_and(|status| status.success())
}

fn policy(process: u32) -> String {
    format!(
        "#!/bin/sh\n\
         # Of `cargo xtask setup`; without its process this file means nothing and may go.\n\
         [ -d /proc/{process} ] || exit 0\n\
         case \"$1\" in nginx*) exit {FORBIDDEN} ;; esac\n\
         exit 0\n"
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
    fn only_nginx_is_refused_and_only_while_we_run() {
        let own = std::process::id();
        assert_eq!(asked(own, "nginx"), Some(101));
        assert_eq!(asked(own, "nginx.service"), Some(101));
        assert_eq!(asked(own, "ssh"), Some(0));
        // No process has this id: it is above the kernel's highest.
        assert_eq!(asked(u32::MAX, "nginx"), Some(0));
    }
}
