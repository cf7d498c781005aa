//! The bench's own XDP programs: one makes requests, one gives them to the echo, one counts what
//! came of them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use dispatcher_common::header::ETHERTYPE_IPV4;
use dispatcher_tests::bpf::load_xdp;
use dispatcher_tests::instruction::{
    FRAME_POINTER, Instruction, SIZE_8, SIZE_16, SIZE_32, XDP_DROP, XDP_PASS, add, add_atomic,
    call, copy, give, give_result, instruction, load, set, set_map, skip_if_beyond, skip_if_equal,
    skip_unless_equal, store, store_immediate,
};

/// Numbers of helpers.
const LOOKUP: i32 = 1;
const RANDOM: i32 = 7;
const REDIRECT: i32 = 23;
const REDIRECT_MAP: i32 = 51;
/// Offset of the queue in `struct xdp_md`.
const QUEUE: i16 = 16;
const DATA: i16 = 0;
const DATA_END: i16 = 4;

/// Offsets in a frame: of IPv4's identification, source and protocol, and TCP's source port and
/// sequence number.
const ID: i16 = 18;
const PROTOCOL: i16 = 23;
const SOURCE: i16 = 26;
const PORT: i16 = 34;
const SEQUENCE: i16 = 38;
/// Bytes that a program reads.
const HEADERS: i32 = 54;

/// A port from 1024 on, whichever way its bytes are read.
const HIGH_PORT: i32 = 0x0404;

/// Instructions that drop a frame which is too short for `rest`, which finds it in 2.
fn bounded(rest: Vec<Instruction>) -> Vec<Instruction> {
    let mut all = vec![
        load(SIZE_32, 2, 1, DATA),
        load(SIZE_32, 3, 1, DATA_END),
        copy(4, 2),
        add(4, HEADERS),
        skip_if_beyond(4, 3, rest.len() as i16),
    ];
    all.extend(rest);
    all.extend(give(XDP_DROP));
    all
}

/// Makes each frame another request and sends it by a device of this index.
///
/// The half of the address and the port are random. The identification and the sequence number
/// take up their complements, so that checksums stay what they are (RFC 1071: a word and its
/// complement are a zero). So the frame's must be right with halves that are complements.
pub fn generator(ifindex: u32) -> io::Result<OwnedFd> {
    let complement = |register| instruction(0xa7, register, 0, 0, 0xffff);
    let random = [
        // r6 = context; r0 = random.
        copy(6, 1),
        call(RANDOM),
        copy(1, 6),
    ];
    let mut all = random.to_vec();
    let mut rest = vec![
        store(SIZE_16, 2, SOURCE + 2, 0),
        copy(5, 0),
        complement(5),
        store(SIZE_16, 2, ID, 5),
        store(SIZE_16, 2, SEQUENCE, 5),
        instruction(0x77, 0, 0, 0, 16),
        instruction(0x47, 0, 0, 0, HIGH_PORT),
        store(SIZE_16, 2, PORT, 0),
        complement(0),
        store(SIZE_16, 2, SEQUENCE + 2, 0),
        set(1, ifindex as i32),
        set(2, 0),
        call(REDIRECT),
    ];
    rest.push(give_result());
    all.extend(bounded(rest));
    load_xdp(&all)
}

/// Gives every frame to the socket of its queue.
pub fn punter(sockets: &OwnedFd) -> io::Result<OwnedFd> {
    let mut all = vec![load(SIZE_32, 2, 1, QUEUE)];
    all.extend(set_map(1, sockets.as_raw_fd()));
    all.extend([set(3, XDP_PASS), call(REDIRECT_MAP), give_result()]);
    load_xdp(&all)
}

/// Counts TCP over IPv4 in the only element of an array, and drops it; lets all else pass.
pub fn sink(counter: &OwnedFd) -> io::Result<OwnedFd> {
    let mut count = vec![
        store_immediate(SIZE_32, FRAME_POINTER, -4, 0),
        copy(2, FRAME_POINTER),
        add(2, -4),
    ];
    count.extend(set_map(1, counter.as_raw_fd()));
    count.extend([
        call(LOOKUP),
        skip_if_equal(0, 0, 2),
        set(1, 1),
        add_atomic(0, 0, 1),
    ]);
    count.extend(give(XDP_DROP));
    let over = count.len() as i16;
    let mut rest = vec![
        load(SIZE_16, 5, 2, 12),
        skip_unless_equal(5, ETHERTYPE_IPV4.to_be().into(), 2 + over),
        load(SIZE_8, 5, 2, PROTOCOL),
        skip_unless_equal(5, libc::IPPROTO_TCP, over),
    ];
    rest.extend(count);
    rest.extend(give(XDP_PASS));
    let mut all = bounded(rest);
    // What is too short for TCP is nothing to count.
    let end = all.len() - 2;
    all[end] = set(0, XDP_PASS);
    load_xdp(&all)
}
