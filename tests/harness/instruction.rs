//! BPF instructions, for programs so small that a compiler would only hide them.

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// 4 bytes.
pub const SIZE_32: u8 = 0x00;
/// 2 bytes.
pub const SIZE_16: u8 = 0x08;
/// 1 byte.
pub const SIZE_8: u8 = 0x10;
/// 8 bytes.
pub const SIZE_64: u8 = 0x18;

/// The register that points past the stack's end.
pub const FRAME_POINTER: u8 = 10;

/// Drops the frame.
pub const XDP_DROP: i32 = 1;
/// Gives the frame to the host's stack.
pub const XDP_PASS: i32 = 2;
/// Sends the frame out where it came in.
pub const XDP_TX: i32 = 3;

/// Any instruction.
#[must_use]
pub const fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: src << 4 | dst,
        offset,
        immediate,
    }
}

/// `dst = *(size *)(src + offset)`.
#[must_use]
pub const fn load(size: u8, dst: u8, src: u8, offset: i16) -> Instruction {
    instruction(0x61 | size, dst, src, offset, 0)
}

/// `*(size *)(dst + offset) = src`.
#[must_use]
pub const fn store(size: u8, dst: u8, offset: i16, src: u8) -> Instruction {
    instruction(0x63 | size, dst, src, offset, 0)
}

/// `*(size *)(dst + offset) = immediate`.
#[must_use]
pub const fn store_immediate(size: u8, dst: u8, offset: i16, immediate: i32) -> Instruction {
    instruction(0x62 | size, dst, 0, offset, immediate)
}

/// `dst = src`.
#[must_use]
pub const fn copy(dst: u8, src: u8) -> Instruction {
    instruction(0xbf, dst, src, 0, 0)
}

/// `dst = immediate`.
#[must_use]
pub const fn set(dst: u8, immediate: i32) -> Instruction {
    instruction(0xb7, dst, 0, 0, immediate)
}

/// `dst += immediate`.
#[must_use]
pub const fn add(dst: u8, immediate: i32) -> Instruction {
    instruction(0x07, dst, 0, 0, immediate)
}

/// `dst += src`.
#[must_use]
pub const fn add_register(dst: u8, src: u8) -> Instruction {
    instruction(0x0f, dst, src, 0, 0)
}

/// `dst ^= immediate`.
#[must_use]
pub const fn flip(dst: u8, immediate: i32) -> Instruction {
    instruction(0xa7, dst, 0, 0, immediate)
}

/// `dst >>= immediate`, unsigned.
#[must_use]
pub const fn shift_right(dst: u8, immediate: i32) -> Instruction {
    instruction(0x77, dst, 0, 0, immediate)
}

/// `dst &= immediate`.
#[must_use]
pub const fn mask(dst: u8, immediate: i32) -> Instruction {
    instruction(0x57, dst, 0, 0, immediate)
}

/// Calls the helper of this number.
#[must_use]
pub const fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

/// Skips the next `count` instructions if `dst == immediate`.
#[must_use]
pub const fn skip_if_equal(dst: u8, immediate: i32, count: i16) -> Instruction {
    instruction(0x15, dst, 0, count, immediate)
}

/// Skips the next `count` instructions if `dst != immediate`.
#[must_use]
pub const fn skip_unless_equal(dst: u8, immediate: i32, count: i16) -> Instruction {
    instruction(0x55, dst, 0, count, immediate)
}

/// Skips the next `count` instructions if `dst > src`, unsigned.
#[must_use]
pub const fn skip_if_beyond(dst: u8, src: u8, count: i16) -> Instruction {
    instruction(0x2d, dst, src, count, 0)
}

/// `return action`.
#[must_use]
pub const fn give(action: i32) -> [Instruction; 2] {
    [set(0, action), instruction(0x95, 0, 0, 0, 0)]
}
