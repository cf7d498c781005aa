//! What the admin socket is sent: it answers with JSON or ends the connection, and serves the next.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::bail;
use dispatcher_user::admin::{
    AdminServer, BackendDone, BackendOrder, CeilingDone, CeilingOrder, Control, FlowFilter,
    QueueFilter, ReloadDone,
};
use dispatcher_user::history::History;
use dispatcher_user::status::{
    AttachMode, ChecksStatus, FlowRow, FlowTableStatus, FrameStatus, QueueRow, Status,
};

/// A daemon without services: what is asked is read, and there is little to tell.
#[derive(Clone)]
struct Bare(Arc<Status>, History);

impl Control for Bare {
    async fn status(&self) -> anyhow::Result<Arc<Status>> {
        Ok(Arc::clone(&self.0))
    }

    async fn flows(&self, _: FlowFilter) -> anyhow::Result<Vec<FlowRow>> {
        Ok(Vec::new())
    }

    async fn queue(&self, _: QueueFilter) -> anyhow::Result<Vec<QueueRow>> {
        Ok(Vec::new())
    }

    async fn set_ceiling(&self, order: CeilingOrder) -> anyhow::Result<CeilingDone> {
        bail!("no service {:?}", order.service)
    }

    fn history(&self) -> &History {
        &self.1
    }

    async fn set_backend(&self, order: BackendOrder) -> anyhow::Result<BackendDone> {
        bail!("no service {:?}", order.service)
    }

    async fn reload(&self) -> anyhow::Result<ReloadDone> {
        Ok(ReloadDone::default())
    }
}

/// The socket of a server that runs until the process ends.
fn socket() -> &'static PathBuf {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let name = format!("dispatcher-hostile-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let status = Status {
            version: "0".to_owned(),
            uptime_seconds: 0.0,
            attach_mode: AttachMode::Native,
            flows: FlowTableStatus {
                used: 0,
                capacity: 1,
            },
            frames: FrameStatus::default(),
            checks: ChecksStatus::default(),
            dropped: BTreeMap::new(),
            handled: BTreeMap::new(),
            groups: Vec::new(),
            services: Vec::new(),
            interfaces: Vec::new(),
        };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime starts");
        let server = runtime.block_on(async { AdminServer::bind(&path) });
        let server = server.expect("the directory for temporary files is writable");
        let control = Bare(Arc::new(status), History::default());
        std::thread::spawn(move || runtime.block_on(server.serve(control)));
        path
    })
}

/// Sends the bytes, and then a request that must be answered.
pub fn serve(bytes: &[u8]) {
    let answer = exchange(bytes, true);
    // HTTP/1.0 is answered as such.
    let is_answer = answer.starts_with(b"HTTP/1.") && answer.len() > 16;
    assert!(
        answer.is_empty() || is_answer,
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    let answer = exchange(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n", false);
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "it serves no more");
}

/// What is answered, if anything: a server need not answer who has closed, which is `closes`.
fn exchange(bytes: &[u8], closes: bool) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket()).expect("it accepts");
    let time = Some(Duration::from_secs(20));
    stream.set_read_timeout(time).expect("not zero");
    stream.set_write_timeout(time).expect("not zero");
    // It may have heard enough before the end, and have closed.
    let _ = stream.write_all(bytes);
    if closes {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it neither answers nor closes: {error}"),
    }
    answer
}
