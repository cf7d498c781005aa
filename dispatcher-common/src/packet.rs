//! Access to the bytes of a frame, wherever they are: a slice in user space, a driver's buffer in
//! the kernel. All bounds are checked here and nowhere else.

/// A header that can be laid over any bytes.
///
/// # Safety
///
/// The type is `repr(C)` or `repr(transparent)`, has alignment 1 and no padding, and every bit
/// pattern is a value of it.
pub unsafe trait Header: Copy {}

// SAFETY: a byte array has alignment 1, no padding, and no invalid value.
unsafe impl<const N: usize> Header for [u8; N] {}

/// Bytes of one frame, first byte of the Ethernet header at offset 0.
pub trait PacketBytes {
    /// Number of bytes in the frame.
    fn len(&self) -> usize;

    /// Whether there is no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The header at `offset`; nothing if the frame ends before the header does.
    fn header<T: Header>(&self, offset: usize) -> Option<&T>;

    /// The same, to be written.
    fn header_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T>;
}

impl PacketBytes for [u8] {
    #[inline]
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    #[inline]
    fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        let bytes = self.get(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: `bytes` is exactly as long as `T`, and `Header` promises alignment 1 and that
        // any bytes are a valid `T`; the borrow of `self` goes on in the result.
        Some(unsafe { &*bytes.as_ptr().cast::<T>() })
    }

    #[inline]
    fn header_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        let bytes = self.get_mut(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: as in `header`; the exclusive borrow of `self` goes on in the result.
        Some(unsafe { &mut *bytes.as_mut_ptr().cast::<T>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_must_lie_wholly_inside() {
        let bytes: &[u8] = &[1, 2, 3, 4];
        assert_eq!(bytes.header::<[u8; 4]>(0), Some(&[1, 2, 3, 4]));
        assert_eq!(bytes.header::<[u8; 2]>(2), Some(&[3, 4]));
        assert_eq!(bytes.header::<[u8; 2]>(3), None);
        assert_eq!(bytes.header::<[u8; 1]>(usize::MAX), None);
    }
}
