//! The other contenders, as their manuals have them configured for this, from the distribution's
//! packages.

use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use dispatcher_tests::PATIENCE;
use dispatcher_tests::daemon::wait_until;
use dispatcher_tests::scratch::Scratch;
use dispatcher_tests::topology::Lab;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::contender::CONNECTIONS_MAX;

/// Connections that a proxy may have in all: more than its back-ends are given.
const PROXY_CONNECTIONS_MAX: u32 = 4096;
/// Where Debian has nginx's modules.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Destination NAT with connection tracking; gone when dropped.
pub struct Nftables<'lab> {
    lab: &'lab Lab,
}

impl<'lab> Nftables<'lab> {
    /// One rule, which takes back-ends in turn.
    pub fn start(lab: &'lab Lab, service: SocketAddr, backends: &[SocketAddr]) -> Result<Self> {
        let numbered = backends.iter().enumerate();
        let map: Vec<_> = numbered
            .map(|(i, at)| format!("{i} : {} . {}", at.ip(), at.port()))
            .collect();
        let rules = format!(
            "table ip contender {{\n\
               chain prerouting {{\n\
                 type nat hook prerouting priority dstnat; policy accept;\n\
                 ip daddr {} tcp dport {} dnat ip to numgen inc mod {} map {{ {} }}\n\
               }}\n\
             }}\n",
            service.ip(),
            service.port(),
            backends.len(),
            map.join(", ")
        );
        let scratch = Scratch::new("nftables")?;
        let rules = scratch.write("rules.nft", &rules)?;
        let line = ["nft", "--file", &rules.to_string_lossy()];
        lab.dispatcher().run(&line)?;
        Ok(Self { lab })
    }
}

impl Drop for Nftables<'_> {
    fn drop(&mut self) {
        let line = ["nft", "delete", "table", "ip", "contender"];
        let _ = self.lab.dispatcher().run(&line);
    }
}

/// A proxy as a process; ended when dropped.
pub struct Proxy {
    process: Child,
    scratch: Scratch,
}

impl Proxy {
    /// HAProxy in TCP mode: a thread a processor, its queue before each back-end's `maxconn`.
    pub fn haproxy(lab: &Lab, service: SocketAddr, backends: &[SocketAddr]) -> Result<Self> {
        let mut configuration = format!(
            "global\n\
             \x20   maxconn {PROXY_CONNECTIONS_MAX}\n\
             defaults\n\
             \x20   mode tcp\n\
             \x20   timeout connect 5s\n\
             \x20   timeout client 30s\n\
             \x20   timeout server 30s\n\
             \x20   timeout queue 30s\n\
             frontend web\n\
             \x20   bind {service}\n\
             \x20   default_backend servers\n\
             backend servers\n\
             \x20   balance roundrobin\n"
        );
        for (i, at) in backends.iter().enumerate() {
            configuration += &format!("    server web-{i} {at} check maxconn {CONNECTIONS_MAX}\n");
        }
        let scratch = Scratch::new("haproxy")?;
        let file = scratch.write("haproxy.cfg", &configuration)?;
        let mut command = lab.dispatcher().command("haproxy");
        Self::start(command.arg("-db").arg("-f").arg(file), scratch)
    }

    /// nginx's stream module: a worker a processor. It has no queue: more than its back-ends may
    /// have are turned away.
    pub fn nginx(lab: &Lab, service: SocketAddr, backends: &[SocketAddr]) -> Result<Self> {
        let scratch = Scratch::new("stream")?;
        let directory = scratch.path("");
        let servers: Vec<_> = backends
            .iter()
            .map(|at| format!("server {at} max_conns={CONNECTIONS_MAX};\n"))
            .collect();
        let configuration = format!(
            "load_module {NGINX_STREAM};\n\
             daemon off;\n\
             user root;\n\
             worker_processes auto;\n\
             worker_rlimit_nofile {};\n\
             pid {}pid;\n\
             error_log stderr error;\n\
             events {{ worker_connections {}; }}\n\
             stream {{\n\
               upstream servers {{\n\
                 zone servers 64k;\n\
                 {}\
               }}\n\
               server {{\n\
                 listen {service};\n\
                 proxy_connect_timeout 5s;\n\
                 proxy_timeout 30s;\n\
                 proxy_pass servers;\n\
               }}\n\
             }}\n",
            4 * PROXY_CONNECTIONS_MAX,
            directory.display(),
            2 * PROXY_CONNECTIONS_MAX,
            servers.concat()
        );
        let file = scratch.write("nginx.conf", &configuration)?;
        let mut command = lab.dispatcher().command("nginx");
        Self::start(
            command.arg("-c").arg(file).arg("-p").arg(&directory),
            scratch,
        )
    }

    fn start(command: &mut Command, scratch: Scratch) -> Result<Self> {
        let log = File::create(scratch.path("log"))?;
        let process = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        let process =
            process.with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { process, scratch })
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path("log")).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Not gracefully: nobody is left who would be served.
        let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
        if !matches!(wait_until(&mut self.process, PATIENCE), Ok(Some(_))) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// What the packages say of their versions.
pub fn versions() -> Result<Vec<String>> {
    /// How to ask, and how many words of the answer's first line are name and version.
    const ASKED: [(&str, &str, usize); 3] = [
        ("nft", "--version", 2),
        ("haproxy", "-v", 3),
        ("nginx", "-v", 3),
    ];
    ASKED
        .into_iter()
        .map(|(program, argument, words)| {
            let output = Command::new(program).arg(argument).output();
            let output = output.with_context(|| {
                format!("no {program} here; `cargo xtask bench contenders` installs it")
            })?;
            ensure!(output.status.success(), "{program}: {}", output.status);
            // nginx says it where errors go.
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            let line = text.lines().next().unwrap_or_default();
            let line: Vec<_> = line.split(' ').take(words).collect();
            Ok(line.join(" ").replace("nginx version: ", ""))
        })
        .collect()
}
