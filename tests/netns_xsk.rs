//! AF_XDP sockets on a real veth pair: every frame arrives whole, none is lost uncounted, and all
//! memory comes back. Needs root; makes and removes two network namespaces for each test.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dispatcher_user::xsk::{
    SendError, TRANSMIT_RING_DEFAULT, XskConfig, XskError, XskMode, XskSocket, driver_name,
    receive_queues, transmit_queues,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

#[path = "netns_xsk/lab.rs"]
mod lab;

use lab::{ETHERTYPE, LB, Net, PEER, Punt, ip, packet_socket};

/// How long a frame may be on its way over a veth before a test gives up on it.
const PATIENCE_MS: u16 = 2000;

/// Length of frame `number`: from the shortest Ethernet frame to the longest.
fn len_of(number: u64) -> usize {
    60 + (number as usize * 97) % (1514 - 60 + 1)
}

/// Writes frame `number`: addresses, type, the number, and bytes that follow from it.
fn write_frame(number: u64, frame: &mut [u8]) {
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    frame[14..22].copy_from_slice(&number.to_be_bytes());
    for (place, byte) in frame[22..].iter_mut().enumerate() {
        *byte = (number as usize + place) as u8;
    }
}

/// The number of a frame, after a look at every byte of it.
fn read_frame(frame: &[u8]) -> u64 {
    assert_eq!(frame[12..14], ETHERTYPE.to_be_bytes(), "{frame:02x?}");
    let number = u64::from_be_bytes(frame[14..22].try_into().expect("8 bytes"));
    let mut expected = vec![0; len_of(number)];
    write_frame(number, &mut expected);
    assert_eq!(frame, expected, "frame {number}");
    number
}

fn send(socket: &mut XskSocket, number: u64) -> Result<(), SendError> {
    socket.send(len_of(number), |frame| write_frame(number, frame))
}

fn wait_readable(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let ready = poll(&mut fds, PollTimeout::from(PATIENCE_MS)).expect("poll");
    assert!(ready > 0, "nothing arrived for {PATIENCE_MS} ms");
}

/// Receives until `count` frames are there, and checks each.
fn receive_exactly(socket: &mut XskSocket, count: u64, mut each: impl FnMut(u64)) {
    let mut received = 0;
    while received < count {
        let n = socket.receive(256, |frame| each(read_frame(frame)));
        if n == 0 {
            wait_readable(socket.fd());
        }
        received += n as u64;
    }
    assert_eq!(received, count, "no frame twice");
}

/// Flushes until everything that was sent is back.
fn drain(socket: &mut XskSocket) {
    let deadline = Instant::now() + Duration::from_millis(PATIENCE_MS.into());
    while socket.frames().transmit_in_flight > 0 {
        socket.flush().expect("the interface is there");
        assert!(Instant::now() < deadline, "not back: {:?}", socket.frames());
    }
}

/// Every frame is back, and the kernel refused none.
fn assert_all_home(socket: &mut XskSocket) {
    // The kernel may have freed slots of the fill ring since the last frame was read.
    socket.receive(0, |_| ());
    let frames = socket.frames();
    assert!(frames.all_home(), "{frames:?}");
    let sum = frames.receive_home
        + frames.receive_held
        + frames.transmit_free
        + frames.transmit_in_flight;
    assert_eq!(sum, frames.total);
    let statistics = socket.statistics().expect("statistics");
    assert_eq!((statistics.strays, statistics.tx_invalid), (0, 0));
    assert_eq!((statistics.rx_invalid, statistics.multi_buffer), (0, 0));
}

fn print_rate(what: &str, frames: u64, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    println!(
        "{what}: {frames} frames, {:.0} a second",
        frames as f64 / seconds
    );
}

#[test]
fn every_frame_arrives_in_order_and_whole() {
    // Given a sender that never has more than 64 frames on their way,
    const FRAMES: u64 = 200_000;
    let net = Net::new(1, 1);
    let mut lb = net.open_lb(0);
    let mut peer = net.open_peer(0);
    let punt = net.in_lb(|| Punt::attach(LB));
    punt.register(&lb);

    // when it sends a hundred times more than there are receive frames,
    let start = Instant::now();
    let mut next = 0;
    for batch in 0..FRAMES / 64 {
        for number in batch * 64..(batch + 1) * 64 {
            send(&mut peer, number).expect("room for 64");
        }
        peer.flush().expect("the interface is there");
        receive_exactly(&mut lb, 64, |number| {
            assert_eq!(number, next);
            next += 1;
        });
    }
    print_rate(
        "sent and received, one thread, contents checked",
        next,
        start,
    );

    // then all of them came, and all memory is back.
    assert_eq!(next, FRAMES / 64 * 64);
    drain(&mut peer);
    assert_all_home(&mut lb);
    assert_all_home(&mut peer);
    let statistics = lb.statistics().expect("statistics");
    assert_eq!(statistics.dropped(), 0);
}

#[test]
fn at_full_rate_every_frame_arrives_or_is_counted_as_dropped() {
    // Given a sender in its own thread that waits for nobody,
    const FRAMES: u64 = 400_000;
    let net = Net::new(1, 1);
    let mut lb = net.open_lb(0);
    let mut peer = net.open_peer(0);
    let punt = net.in_lb(|| Punt::attach(LB));
    punt.register(&lb);
    let done = AtomicBool::new(false);

    // when it sends,
    let start = Instant::now();
    let mut received = 0;
    std::thread::scope(|scope| {
        let done = &done;
        let sender = scope.spawn(move || {
            for number in 0..FRAMES {
                while peer.send(60, |frame| write_frame(0, frame)) == Err(SendError::Full) {
                    peer.flush().expect("the interface is there");
                }
                if number % 64 == 63 {
                    peer.flush().expect("the interface is there");
                }
            }
            drain(&mut peer);
            done.store(true, Ordering::Release);
            peer
        });
        loop {
            let finished = done.load(Ordering::Acquire);
            let n = lb.receive(256, |frame| assert_eq!(frame.len(), 60));
            received += n as u64;
            if n == 0 {
                if finished {
                    break;
                }
                let mut fds = [PollFd::new(lb.fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::from(10_u8)).expect("poll");
            }
        }
        assert_all_home(&mut sender.join().expect("the sender"));
    });
    print_rate("received at full rate, two threads", received, start);

    // then what did not arrive was counted.
    let statistics = lb.statistics().expect("statistics");
    let on_the_wire = net.peer_dropped();
    println!("{received} of {FRAMES}, {on_the_wire} dropped by veth, {statistics:?}");
    assert_eq!(received + statistics.dropped() + on_the_wire, FRAMES);
    assert_all_home(&mut lb);
}

#[test]
fn the_other_side_gets_every_frame_that_was_sent() {
    // Given a plain packet socket on the other end,
    const FRAMES: u64 = 100_000;
    let net = Net::new(1, 1);
    let mut lb = net.open_lb(0);
    let capture = net.in_peer(|| packet_socket(PEER));

    // when frames are sent, 64 at a time,
    let start = Instant::now();
    let mut buffer = [0; 2048];
    let mut next = 0;
    while next < FRAMES {
        let batch = (FRAMES - next).min(64);
        for number in next..next + batch {
            send(&mut lb, number).expect("room for 64");
        }
        assert_eq!(lb.flush().expect("the interface is there"), 0);
        for _ in 0..batch {
            wait_readable(capture.as_fd());
            let n = recv(capture.as_raw_fd(), &mut buffer, MsgFlags::empty());
            // then it gets each, in order and whole.
            assert_eq!(read_frame(&buffer[..n.expect("a frame")]), next);
            next += 1;
        }
    }
    print_rate(
        "sent to a packet socket, one thread, contents checked",
        next,
        start,
    );
    drain(&mut lb);
    assert_all_home(&mut lb);
}

#[test]
fn each_queue_has_a_socket_of_its_own() {
    // Given an interface with four queues and a socket on each,
    let net = Net::new(4, 4);
    let (receive, transmit, driver) =
        net.in_lb(|| (receive_queues(LB), transmit_queues(LB), driver_name(LB)));
    assert_eq!(receive.expect("receive queues"), 4);
    assert_eq!(transmit.expect("transmit queues"), 4);
    assert_eq!(driver.expect("driver"), "veth");
    let mut sockets: Vec<_> = (0..4).map(|queue| net.open_lb(queue)).collect();
    let punt = net.in_lb(|| Punt::attach(LB));
    for socket in &sockets {
        punt.register(socket);
    }
    // when 100 frames are sent by each queue of the other end,
    for queue in 0..4_u64 {
        let mut peer = net.open_peer(queue as u32);
        for number in 0..100 {
            send(&mut peer, queue * 100 + number).expect("room for 100");
        }
        peer.flush().expect("the interface is there");
        drain(&mut peer);
    }
    // then each socket gets those of its queue.
    for (queue, socket) in (0..).zip(&mut sockets) {
        let mut next = queue * 100;
        receive_exactly(socket, 100, |number| {
            assert_eq!(number, next);
            next += 1;
        });
        assert_all_home(socket);
        assert_eq!(socket.receive(1, |_| panic!("a frame of another queue")), 0);
    }
}

#[test]
fn a_queue_has_one_socket_and_is_free_when_that_is_dropped() {
    let net = Net::new(1, 1);
    let first = net.open_lb(0);
    let error = net
        .in_lb(|| XskSocket::open(LB, 0, &XskConfig::default()))
        .expect_err("a second socket");
    assert_eq!(
        error.to_string(),
        "queue 0 of lb0 already has an AF_XDP socket: is another dispatcher running?"
    );
    drop(first);

    // A socket that comes right after another works, also with frames still on their way.
    let mut peer = net.open_peer(0);
    let punt = net.in_lb(|| Punt::attach(LB));
    for number in 0..20 {
        let mut lb = net.open_lb(0);
        punt.register(&lb);
        send(&mut peer, number).expect("room for one");
        peer.flush().expect("the interface is there");
        receive_exactly(&mut lb, 1, |received| assert_eq!(received, number));
        for number in 0..100 {
            send(&mut lb, number).expect("room for 100");
        }
        lb.flush().expect("the interface is there");
    }
}

#[test]
fn a_full_transmit_ring_says_so_and_recovers() {
    let net = Net::new(1, 1);
    let mut lb = net.open_lb(0);
    for round in 0..3 {
        // Given a ring that nobody flushes, when it is filled, then the next frame is refused.
        for number in 0..u64::from(TRANSMIT_RING_DEFAULT) {
            assert_eq!(send(&mut lb, number), Ok(()), "round {round}");
        }
        let refused = lb.send(60, |_| panic!("nothing may be written"));
        assert_eq!(refused, Err(SendError::Full));
        assert_eq!(lb.frames().transmit_free, 0);

        // While the interface is down everything stays queued.
        ip(&format!("-n {} link set {LB} down", net.lb));
        let queued = lb.flush().expect("the interface is there");
        assert_eq!(queued, TRANSMIT_RING_DEFAULT);

        // When it is up again, everything leaves.
        ip(&format!("-n {} link set {LB} up", net.lb));
        // Not at once on every kernel: 6.1 wakes the interface's queues a moment later.
        drain(&mut lb);
        assert_all_home(&mut lb);
    }
}

#[test]
fn a_reader_that_stands_still_costs_frames_and_no_memory() {
    // Given a socket that nobody reads,
    const SENT: u64 = 5000;
    let config = XskConfig::default();
    let net = Net::new(1, 1);
    let mut lb = net.open_lb(0);
    let mut peer = net.open_peer(0);
    let punt = net.in_lb(|| Punt::attach(LB));
    punt.register(&lb);
    // when more frames come than its ring holds,
    for number in 0..SENT {
        send(&mut peer, number).expect("a frame, as each is flushed");
        peer.flush().expect("the interface is there");
        drain(&mut peer);
    }
    // then it has a ring full of the first ones, and the others are counted.
    let ring = u64::from(config.receive_ring);
    let mut next = 0;
    receive_exactly(&mut lb, ring, |number| {
        assert_eq!(number, next);
        next += 1;
    });
    let statistics = lb.statistics().expect("statistics");
    assert_eq!(statistics.dropped(), SENT - ring, "{statistics:?}");
    assert_all_home(&mut lb);
    // And it works on.
    for round in 0..10 * ring {
        send(&mut peer, round).expect("a frame, as each is flushed");
        peer.flush().expect("the interface is there");
        drain(&mut peer);
        receive_exactly(&mut lb, 1, |number| assert_eq!(number, round));
    }
    assert_all_home(&mut lb);
}

#[test]
fn a_reader_that_panics_loses_no_frame() {
    let net = Net::new(1, 1);
    let mut lb = net.open_lb(0);
    let mut peer = net.open_peer(0);
    let punt = net.in_lb(|| Punt::attach(LB));
    punt.register(&lb);
    for number in 0..10 {
        send(&mut peer, number).expect("room for 10");
    }
    peer.flush().expect("the interface is there");
    wait_readable(lb.fd());

    let attempt = catch_unwind(AssertUnwindSafe(|| {
        lb.receive(10, |_| panic!("the reader fails"));
    }));
    assert!(attempt.is_err());
    assert!(lb.frames().receive_held > 0);

    lb.receive(10, |_| ());
    assert_all_home(&mut lb);
}

#[test]
fn what_cannot_be_opened_is_said_in_one_line() {
    let net = Net::new(2, 1);
    let open = |queue, mode| {
        let config = XskConfig {
            mode,
            ..XskConfig::default()
        };
        net.in_lb(|| XskSocket::open(LB, queue, &config))
    };
    // The peer has two receive queues and this end one transmit queue.
    let message = |result: Result<XskSocket, XskError>| result.expect_err("refused").to_string();
    assert_eq!(
        message(open(2, XskMode::Auto)),
        "queue 2 of lb0 does not exist: it has 2, numbered from 0"
    );
    assert_eq!(
        message(open(0, XskMode::ZeroCopy)),
        "driver veth of lb0 cannot do zero-copy (Operation not supported (os error 95)); use \
         xsk_mode = \"copy\""
    );
    let socket = open(0, XskMode::Auto).expect("copy mode");
    assert!(!socket.is_zero_copy());
    assert!(socket.can_transmit());
    drop(socket);

    // A queue for receiving only says so instead of keeping frames for ever.
    let mut socket = open(1, XskMode::Copy).expect("a receive queue");
    assert!(!socket.can_transmit());
    let refused = socket.send(60, |_| panic!("nothing may be written"));
    assert_eq!(refused, Err(SendError::NoTransmitQueue { queue: 1 }));
    drop(socket);

    let mut socket = open(0, XskMode::Copy).expect("a socket");
    for len in [0, 13, 1793, usize::MAX] {
        let refused = socket.send(len, |_| panic!("nothing may be written"));
        let (min, max) = (14, 1792);
        assert_eq!(refused, Err(SendError::Length { len, min, max }));
    }
}

#[test]
fn a_socket_can_be_opened_before_its_interface_is_up() {
    let net = Net::new(1, 1);
    ip(&format!("-n {} link set {LB} down", net.lb));
    let mut lb = net.open_lb(0);
    let punt = net.in_lb(|| Punt::attach(LB));
    punt.register(&lb);

    ip(&format!("-n {} link set {LB} up", net.lb));
    let mut peer = net.open_peer(0);
    send(&mut peer, 1).expect("room for one");
    peer.flush().expect("the interface is there");
    receive_exactly(&mut lb, 1, |number| assert_eq!(number, 1));
}

#[test]
fn a_socket_outlives_its_interface_and_says_so_when_it_sends() {
    let net = Net::new(1, 1);
    let mut lb = net.open_lb(0);
    ip(&format!("-n {} link del {LB}", net.lb));

    // Nothing tells a reader.
    let mut fds = [PollFd::new(lb.fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::ZERO).expect("poll"), 0);
    assert_eq!(lb.receive(1, |_| ()), 0);
    // A sender is told by the flush.
    send(&mut lb, 1).expect("room for one");
    assert_eq!(
        lb.flush().expect_err("no interface").to_string(),
        "transmitting by the AF_XDP socket on queue 0 of lb0: No such device or address (os error \
         6)"
    );
}
