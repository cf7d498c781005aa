//! Frames: the parser and the rewrite.

use dispatcher_common::addr::{Addr, Port};
use dispatcher_common::flow::FlowKey;
use dispatcher_common::parse::{self, Segment};
use dispatcher_common::rewrite::Translation;

/// Whatever a frame is, its parser returns; and what it found lies within the frame.
pub fn parse(frame: &[u8]) {
    let Ok(segment) = parse::parse(frame) else {
        return;
    };
    assert!(segment.ip_offset() < segment.tcp_offset());
    assert!(segment.tcp_offset() + 20 <= frame.len(), "{segment:?}");
    let ip_end = segment.ip_offset() + segment.ip_len as usize;
    assert!(ip_end <= frame.len(), "{segment:?}");
    assert!(segment.tcp_offset() + 20 + segment.tcp.payload as usize <= ip_end);
}

/// The first 18 bytes say where to, the rest is a frame. A rewritten frame parses to the other end,
/// and its sums are as right or wrong as they were.
pub fn rewrite(bytes: &[u8]) {
    let Some((to, frame)) = bytes.split_at_checked(18) else {
        return;
    };
    let Ok(segment) = parse::parse(frame) else {
        return;
    };
    if segment.ttl <= 1 {
        // Such a packet is dropped, not rewritten.
        return;
    }
    let port = Port::new(u16::from_be_bytes([to[16], to[17]]));
    let addr = if segment.is_v4 {
        Addr::from_v4_bytes([to[0], to[1], to[2], to[3]])
    } else {
        Addr::from_v6_bytes(to[..16].try_into().expect("16 bytes"))
    };
    let key = segment.key;
    for (translation, expected) in [
        (
            Translation::to_backend(&key, addr, port),
            FlowKey::new(key.src, key.src_port, addr, port),
        ),
        (
            Translation::to_client(&key, addr, port),
            FlowKey::new(addr, port, key.dst, key.dst_port),
        ),
    ] {
        let mut rewritten = frame.to_vec();
        translation.apply(&mut rewritten[..], &segment);
        let again = parse::parse(&rewritten[..]).expect("it parsed before");
        // An IPv6 address that maps an IPv4 one is the same to a key; on the wire it is not.
        assert_eq!(again.key, expected);
        assert_eq!((again.tcp, again.ip_len), (segment.tcp, segment.ip_len));
        assert_eq!(error(&rewritten, &again), error(frame, &segment));
    }
}

/// By how much the sums of a frame's headers are off: of the IP header, of the TCP segment.
fn error(frame: &[u8], segment: &Segment) -> (u16, u16) {
    let (ip, tcp) = (segment.ip_offset(), segment.tcp_offset());
    let end = ip + segment.ip_len as usize;
    let (header, addresses) = if segment.is_v4 {
        (sum(0, &frame[ip..tcp]), &frame[ip + 12..ip + 20])
    } else {
        (0, &frame[ip + 8..ip + 40])
    };
    let pseudo = sum(6 + (end - tcp) as u64, addresses);
    let segment = sum(u64::from(pseudo), &frame[tcp..end]);
    (header, segment)
}

/// The ones' complement sum, 0 and 0xffff being the same.
pub fn sum(start: u64, bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u64::from(u16::from_be_bytes([pair[0], low]))
    });
    let total = start + words.sum::<u64>();
    (total % 0xffff) as u16
}
