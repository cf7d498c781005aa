//! A client that connects anew from a port whose connection nobody has ended: it gets through, and
//! the new connection is one of its own.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dispatcher_common::flow::Direction;
use dispatcher_tests::config::{BACKEND_PORT, Config, SERVICE_PORT};
use dispatcher_tests::daemon::Daemon;
use dispatcher_tests::scenario::{assert_settles, one_backend};
use dispatcher_tests::server::Server;
use dispatcher_tests::topology::Family;
use dispatcher_tests::{PATIENCE, POLL, client, each_at_once, eventually};
use dispatcher_user::datapath::FlowTable;

const PORT: u16 = 40_001;

/// The kernel forgets the connection when this is dropped, and says nothing (`TCP_REPAIR`).
fn forget_on_close(stream: &TcpStream) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and the kernel reads as many
    // bytes as it is told.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether each end has acknowledged all that the other has sent, so that neither has anything to
/// say.
fn is_quiet(table: &FlowTable) -> bool {
    let mut tracks = [None, None];
    table
        .for_each(|_, entry| tracks[entry.translation.direction() as usize] = Some(entry.track))
        .unwrap();
    let [Some(forward), Some(reply)] =
        [Direction::Forward, Direction::Reply].map(|of| tracks[of as usize])
    else {
        return false;
    };
    forward.ack == reply.seq_end && reply.ack == forward.seq_end
}

/// The client loses its connection, and so does the back-end, if it `forgets`.
fn connects_anew(family: Family, forgets: bool) {
    let lab = one_backend();
    let lost = Arc::new(AtomicBool::new(false));
    let talk = {
        let lost = Arc::clone(&lost);
        move |stream: &mut TcpStream, _: &_| {
            let mut asked = [0];
            stream.read_exact(&mut asked)?;
            stream.write_all(&asked)?;
            if asked == *b"1" && forgets {
                while !lost.load(Ordering::SeqCst) {
                    std::thread::sleep(POLL);
                }
                return forget_on_close(stream);
            }
            // Until the client closes, or what is left of it resets.
            stream.read(&mut asked).map(drop)
        }
    };
    let server = Server::start(lab.backend(0), BACKEND_PORT, talk).unwrap();
    let daemon = Daemon::start(&lab, &Config::new(&lab, family, 1)).unwrap();
    let table = daemon.flow_table().unwrap();
    let service = lab.service(family, SERVICE_PORT);
    let ask = |what: &[u8; 1]| {
        let mut stream = client::connect_from(PORT, service).unwrap();
        let answer = client::exchange(&mut stream, what).unwrap();
        assert_eq!(answer, what);
        stream
    };

    lab.client(0).enter(|| {
        let first = ask(b"1");
        eventually(PATIENCE, "all is acknowledged", || is_quiet(&table));
        forget_on_close(&first).unwrap();
    });
    lost.store(true, Ordering::SeqCst);
    if forgets {
        eventually(PATIENCE, "the back-end has forgotten", || {
            server.count().active() == 0
        });
    }
    assert_eq!(daemon.status().flows(), 1, "no packet showed it");

    lab.client(0).enter(|| {
        let second = ask(b"2");
        let status = daemon.status();
        assert_eq!((status.flows(), status.requests("admitted")), (1, 2));
        eventually(PATIENCE, "all is acknowledged", || is_quiet(&table));
        drop(second);
    });
    assert_settles(&daemon);
    daemon.finish().unwrap();
}

#[test]
fn both_ends_have_lost_the_connection() {
    each_at_once([Family::V4, Family::V6], |family| {
        connects_anew(family, true);
    });
}

#[test]
fn the_client_alone_has_lost_the_connection() {
    each_at_once([Family::V4, Family::V6], |family| {
        connects_anew(family, false);
    });
}
