//! Atomic OR with its old value: `core::sync::atomic` has no such operation on the BPF target.

/// Sets `bits` in the word and returns what it was.
///
/// # Safety
///
/// `word` is valid, aligned, and only written by atomic operations while others may look.
#[inline(always)]
pub unsafe fn fetch_or(word: *mut u32, bits: u32) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        use core::intrinsics::{AtomicOrdering, atomic_or};
        // SeqCst, because LLVM drops the fetched value of a relaxed operation on this target.
        // SAFETY: the caller's promise is the one that the intrinsic asks for.
        unsafe { atomic_or::<u32, u32, { AtomicOrdering::SeqCst }>(word, bits) }
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU32, Ordering};
        // SAFETY: the caller's promise is the one that `from_ptr` asks for.
        unsafe { AtomicU32::from_ptr(word) }.fetch_or(bits, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::fetch_or;

    #[test]
    fn the_old_value_comes_back() {
        let mut word = 0b0011;
        // SAFETY: `word` is a local that nobody else sees.
        let old = unsafe { fetch_or(&raw mut word, 0b0110) };
        assert_eq!((old, word), (0b0011, 0b0111));
    }
}
