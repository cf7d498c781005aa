//! Atomic operations with their old value: `core::sync::atomic` has none on the BPF target.

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

/// Adds to the word and returns what it was.
///
/// # Safety
///
/// As [`fetch_or`].
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u64, added: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        use core::intrinsics::{AtomicOrdering, atomic_xadd};
        // SAFETY: the caller's promise is the one that the intrinsic asks for.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(word, added) }
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering};
        // SAFETY: the caller's promise is the one that `from_ptr` asks for.
        unsafe { AtomicU64::from_ptr(word) }.fetch_add(added, Ordering::SeqCst)
    }
}

/// Sets the word to `new` if it is `old`, and tells whether it was.
///
/// # Safety
///
/// As [`fetch_or`].
#[inline(always)]
pub unsafe fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        use core::intrinsics::{AtomicOrdering, atomic_cxchg};
        const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
        // SAFETY: the caller's promise is the one that the intrinsic asks for.
        unsafe { atomic_cxchg::<u64, { ORDER }, { ORDER }>(word, old, new) }.1
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        use core::sync::atomic::{AtomicU64, Ordering};
        // SAFETY: the caller's promise is the one that `from_ptr` asks for.
        let word = unsafe { AtomicU64::from_ptr(word) };
        let done = word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
        done.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{fetch_add, fetch_or, replace};

    #[test]
    fn a_word_is_added_to_and_replaced() {
        let mut word = 5;
        // SAFETY: `word` is a local that nobody else sees.
        let (old, replaced, kept) = unsafe {
            let word = &raw mut word;
            (fetch_add(word, 2), replace(word, 7, 9), replace(word, 7, 8))
        };
        assert_eq!((old, replaced, kept, word), (5, true, false, 9));
    }

    #[test]
    fn the_old_value_comes_back() {
        let mut word = 0b0011;
        // SAFETY: `word` is a local that nobody else sees.
        let old = unsafe { fetch_or(&raw mut word, 0b0110) };
        assert_eq!((old, word), (0b0011, 0b0111));
    }
}
