//! The Internet checksum, changed in place (RFC 1071, RFC 1624).
//!
//! The checksum is the complement of a one's-complement sum of 16-bit words. That sum does not
//! care about byte order as long as all words are read the same way (RFC 1071 2(B)), so words are
//! read in native order and nothing is ever swapped. When words `m` of a covered region become
//! `m'`, the sum grows by `Σ(~m + m')`: the *delta*. A flow changes the same words in every
//! packet, so its delta is computed once and added to each packet's checksum:
//! `HC' = ~(~HC + delta)` (RFC 1624, equation 3).

/// A change of a one's-complement sum, folded to 16 bits, words in native order.
pub type Delta = u16;

/// Folds a sum of 16-bit words to 16 bits with end-around carry.
///
/// Exact for sums of up to 65 536 words.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The delta of both changes.
#[inline(always)]
#[must_use]
pub const fn combine(a: Delta, b: Delta) -> Delta {
    fold(a as u32 + b as u32)
}

/// The delta of replacing `old` by `new`, both an even number of bytes at an even offset.
#[must_use]
pub fn delta(old: &[u8], new: &[u8]) -> Delta {
    combine(!sum(old), sum(new))
}

/// The one's-complement sum of `bytes`; an odd last byte is padded with zero (RFC 1071).
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u16;
    let mut words = bytes.chunks_exact(2);
    for word in words.by_ref() {
        total = combine(total, u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total = combine(total, u16::from_ne_bytes([*last, 0]));
    }
    total
}

/// The delta of replacing one word, both as they stand in memory.
#[inline(always)]
#[must_use]
pub const fn word_delta(old: [u8; 2], new: [u8; 2]) -> Delta {
    combine(!u16::from_ne_bytes(old), u16::from_ne_bytes(new))
}

/// As [`sum`], of an even number of bytes that is known beforehand.
#[inline(always)]
#[must_use]
pub const fn sum_of<const N: usize>(bytes: &[u8; N]) -> u16 {
    const { assert!(N.is_multiple_of(2) && N <= 1 << 16) };
    let mut total = 0;
    let mut at = 0;
    while at < N {
        total += u16::from_ne_bytes([bytes[at], bytes[at + 1]]) as u32;
        at += 2;
    }
    fold(total)
}

/// The checksum field after a change by `delta`.
#[inline(always)]
#[must_use]
pub const fn update(checksum: [u8; 2], delta: Delta) -> [u8; 2] {
    (!combine(!u16::from_ne_bytes(checksum), delta)).to_ne_bytes()
}

/// The checksum field over regions whose sums were combined into `sum`.
#[inline(always)]
#[must_use]
pub const fn finish(sum: u16) -> [u8; 2] {
    (!sum).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1071_section_3_example() {
        // The four words 0001 f203 f4f5 f6f7 sum to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&bytes).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn rfc_1624_section_4_example() {
        // HC = dd2f, m = 5555, m' = 3285: HC' is 0000, and never ffff.
        let delta = delta(&[0x55, 0x55], &[0x32, 0x85]);
        assert_eq!(update([0xdd, 0x2f], delta), [0x00, 0x00]);
    }

    #[test]
    fn both_ways_to_sum_agree() {
        let bytes = [0xff, 0xff, 0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum_of(&bytes), sum(&bytes));
        let (old, new) = ([0x12, 0x34], [0xfe, 0xdc]);
        assert_eq!(word_delta(old, new), delta(&old, &new));
    }

    #[test]
    fn an_odd_byte_is_padded() {
        assert_eq!(sum(&[0x12]).to_ne_bytes(), [0x12, 0x00]);
    }
}
