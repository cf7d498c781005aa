//! nginx as a back-end: started with a configuration of its own, stopped by its handle.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::wait_until;
use crate::scratch::Scratch;
use crate::topology::{Family, Node};
use crate::{PATIENCE, POLL, client};

/// Bytes of the page at `/`.
pub const PAGE: &str = "hello from nginx\n";
/// Bytes of the file at `/large`.
pub const LARGE_BYTES: u64 = 100 << 20;

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Child,
    scratch: Scratch,
}

impl Nginx {
    /// Serves [`PAGE`] at `/` and a sparse file at `/large`, at this port of all addresses;
    /// returns when it answers.
    pub fn start(node: &Node, port: u16) -> Result<Self> {
        let scratch = Scratch::new("nginx")?;
        std::fs::create_dir(scratch.path("www"))?;
        scratch.write("www/index.html", PAGE)?;
        let large = std::fs::File::create(scratch.path("www/large"))?;
        large.set_len(LARGE_BYTES)?;
        let config = scratch.write("nginx.conf", &configuration(port, &scratch))?;
        let mut command = node.command("nginx");
        let log = std::fs::File::create(scratch.path("stderr"))?;
        command
            .arg("-c")
            .arg(&config)
            .arg("-p")
            .arg(scratch.path(""));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = command.spawn().context("cannot start nginx")?;
        let mut nginx = Self { process, scratch };
        nginx.wait_for(node, port)?;
        Ok(nginx)
    }

    fn wait_for(&mut self, node: &Node, port: u16) -> Result<()> {
        let at = node.at(Family::V4, port);
        let end = std::time::Instant::now() + PATIENCE;
        while node.enter(|| client::fetch(at)).is_err() {
            if std::time::Instant::now() > end || self.process.try_wait()?.is_some() {
                let words = std::fs::read_to_string(self.scratch.path("stderr"))?;
                bail!("nginx does not answer at {at}: {words}");
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
        if !matches!(wait_until(&mut self.process, PATIENCE), Ok(Some(_))) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

fn configuration(port: u16, scratch: &Scratch) -> String {
    let directory = scratch.path("");
    let directory = directory.display();
    format!(
        "daemon off;\n\
         user root;\n\
         worker_processes 1;\n\
         pid {directory}pid;\n\
         error_log stderr warn;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
             access_log off;\n\
             client_body_temp_path {directory}body;\n\
             proxy_temp_path {directory}proxy;\n\
             fastcgi_temp_path {directory}fastcgi;\n\
             uwsgi_temp_path {directory}uwsgi;\n\
             scgi_temp_path {directory}scgi;\n\
             server {{\n\
                 listen 0.0.0.0:{port};\n\
                 listen [::]:{port} ipv6only=on;\n\
                 root {directory}www;\n\
             }}\n\
         }}\n"
    )
}
