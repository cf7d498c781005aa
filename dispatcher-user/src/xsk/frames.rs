//! Which frame is where: the bookkeeping that makes it impossible to lose a frame or to use one
//! twice. Pure; touches no memory and no ring.

/// A frame of the UMEM, by number. Whoever holds it may touch the frame's memory, so there is
/// never more than one: it is neither `Copy` nor `Clone`, and only a [`FramePool`] makes them.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Frame(u32);

impl Frame {
    /// Its number in the UMEM, from 0.
    pub(super) fn index(&self) -> usize {
        self.0 as usize
    }
}

/// Where the frames of one socket are. The four always add up to `total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameCounts {
    /// All of them.
    pub total: u32,
    /// Receive frames at home: in the kernel's hands, to be filled or waiting on the receive ring.
    pub receive_home: u32,
    /// Receive frames in user space. Between two calls, few if any: those whose slot of the fill
    /// ring the kernel had not yet freed, and they follow with the next call.
    pub receive_held: u32,
    /// Transmit frames at home: on the free list.
    pub transmit_free: u32,
    /// Transmit frames in the kernel's hands.
    pub transmit_in_flight: u32,
}

impl FrameCounts {
    /// Whether every frame is at home: nothing held, nothing in flight.
    #[must_use]
    pub fn all_home(&self) -> bool {
        self.receive_held == 0 && self.transmit_in_flight == 0
    }
}

/// The kernel gave back something that it did not have: no frame of the pool, one that is here
/// already, or bytes beyond the frame's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stray;

/// Frames that go back and forth between this side and the kernel.
#[derive(Debug)]
pub(super) struct FramePool {
    frame_size: usize,
    /// Number of the first frame; they are consecutive.
    first: usize,
    /// For each frame, whether the kernel has it.
    lent: Vec<bool>,
    /// The others.
    idle: Vec<Frame>,
}

impl FramePool {
    /// A pool of `count` frames of `frame_size` bytes, numbered from `first`, all on this side.
    pub(super) fn new(first: u32, count: u32, frame_size: u32) -> Self {
        Self {
            frame_size: frame_size as usize,
            first: first as usize,
            lent: vec![false; count as usize],
            // The first one last, because the end is where frames are taken.
            idle: (first..first + count).rev().map(Frame).collect(),
        }
    }

    /// Frames on this side.
    pub(super) fn idle(&self) -> u32 {
        // A pool is made of a u32 of frames.
        self.idle.len() as u32
    }

    /// Frames in the kernel's hands.
    pub(super) fn lent(&self) -> u32 {
        (self.lent.len() - self.idle.len()) as u32
    }

    /// Gives one frame to the kernel by `give`, which says whether the kernel took it; if it did
    /// not, or panics, the frame stays. False if there is no frame or it was not taken.
    pub(super) fn lend(&mut self, give: impl FnOnce(&Frame) -> bool) -> bool {
        let taken = self.idle.last().is_some_and(give);
        if taken && let Some(frame) = self.idle.pop() {
            self.lent[frame.index() - self.first] = true;
        }
        taken
    }

    /// Takes back the frame that `address` (bytes from the start of the UMEM) lies in, with `len`
    /// bytes from there on.
    ///
    /// # Errors
    ///
    /// [`Stray`]: nothing may be read there. A frame of the pool that was lent is taken back even
    /// if the length is wrong.
    pub(super) fn take_back(&mut self, address: usize, len: usize) -> Result<(), Stray> {
        let index = address / self.frame_size;
        let slot = index.checked_sub(self.first).ok_or(Stray)?;
        let lent = self.lent.get_mut(slot).ok_or(Stray)?;
        if !*lent {
            return Err(Stray);
        }
        *lent = false;
        // Numbers of a pool are below `first + count`, which is a u32.
        self.idle.push(Frame(index as u32));
        if len > self.frame_size - address % self.frame_size {
            return Err(Stray);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u32 = 2048;

    fn address(frame: usize) -> usize {
        frame * SIZE as usize + 256
    }

    fn lend_one(pool: &mut FramePool) -> Option<usize> {
        let mut lent = None;
        pool.lend(|frame| {
            lent = Some(frame.index());
            true
        });
        lent
    }

    #[test]
    fn every_frame_is_lent_once_and_comes_back_once() {
        let mut pool = FramePool::new(4, 3, SIZE);
        assert_eq!((pool.idle(), pool.lent()), (3, 0));

        let lent: Vec<_> = std::iter::from_fn(|| lend_one(&mut pool)).collect();
        assert_eq!(lent, [4, 5, 6]);
        assert_eq!((pool.idle(), pool.lent()), (0, 3));

        for frame in lent {
            assert_eq!(pool.take_back(address(frame), 60), Ok(()));
            assert_eq!(pool.take_back(address(frame), 60), Err(Stray));
        }
        assert_eq!((pool.idle(), pool.lent()), (3, 0));
    }

    #[test]
    fn a_frame_that_the_kernel_does_not_take_stays() {
        let mut pool = FramePool::new(0, 1, SIZE);
        assert!(!pool.lend(|_| false));
        assert_eq!((pool.idle(), pool.lent()), (1, 0));
        assert!(pool.lend(|_| true));
        assert!(!pool.lend(|_| panic!("there is no frame to give")));
    }

    #[test]
    fn a_frame_stays_when_writing_it_panics() {
        let mut pool = FramePool::new(0, 1, SIZE);
        let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.lend(|_| panic!("the writer of the frame fails"));
        }));
        assert!(attempt.is_err());
        assert_eq!((pool.idle(), pool.lent()), (1, 0));
    }

    #[test]
    fn frames_of_another_pool_and_of_nobody_are_strays() {
        let mut pool = FramePool::new(4, 3, SIZE);
        while lend_one(&mut pool).is_some() {}
        for frame in [0, 3, 7, usize::MAX / SIZE as usize - 1] {
            assert_eq!(pool.take_back(address(frame), 60), Err(Stray), "{frame}");
        }
        assert_eq!(pool.lent(), 3);
    }

    #[test]
    fn bytes_beyond_the_end_of_a_frame_are_a_stray_and_the_frame_is_back() {
        let mut pool = FramePool::new(0, 1, SIZE);
        lend_one(&mut pool);
        assert_eq!(pool.take_back(address(0), 1793), Err(Stray));
        assert_eq!((pool.idle(), pool.lent()), (1, 0));
        lend_one(&mut pool);
        assert_eq!(pool.take_back(address(0), 1792), Ok(()));
    }

    proptest! {
        /// Whatever the kernel returns in whatever order, frames here and there add up, and none
        /// is on both sides.
        #[test]
        fn frames_add_up(steps in prop::collection::vec((any::<bool>(), 0usize..12), 0..200)) {
            let mut pool = FramePool::new(2, 8, SIZE);
            let mut with_kernel = Vec::new();
            for (lend, frame) in steps {
                if lend {
                    if let Some(lent) = lend_one(&mut pool) {
                        prop_assert!(!with_kernel.contains(&lent));
                        with_kernel.push(lent);
                    }
                } else {
                    let known = with_kernel.iter().position(|lent| *lent == frame);
                    let back = pool.take_back(address(frame), 60);
                    prop_assert_eq!(back.is_ok(), known.is_some());
                    if let Some(place) = known {
                        with_kernel.swap_remove(place);
                    }
                }
                prop_assert_eq!(pool.idle() + pool.lent(), 8);
                prop_assert_eq!(pool.lent() as usize, with_kernel.len());
            }
        }
    }
}
