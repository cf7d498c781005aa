//! The bytes of the received frame: every bounds check and raw packet pointer of the program.

use core::marker::PhantomData;

use aya_ebpf::bindings::{bpf_fib_lookup, xdp_md};
use aya_ebpf::helpers;
use aya_ebpf::programs::XdpContext;
use dispatcher_common::packet::{Header, PacketBytes};

/// The frame that the program was called for.
pub struct Frame<'ctx> {
    ctx: *mut xdp_md,
    start: usize,
    end: usize,
    _ctx: PhantomData<&'ctx XdpContext>,
}

impl<'ctx> Frame<'ctx> {
    /// The frame of `ctx`.
    #[inline(always)]
    pub fn of(ctx: &'ctx XdpContext) -> Self {
        Self {
            ctx: ctx.ctx,
            start: ctx.data(),
            end: ctx.data_end(),
            _ctx: PhantomData,
        }
    }

    /// The context that the kernel called the program with.
    #[inline(always)]
    pub fn context(&self) -> *mut xdp_md {
        self.ctx
    }

    /// The frame without its first `bytes` bytes.
    #[inline(always)]
    pub fn bytes_past(&self, bytes: usize) -> Bytes {
        Bytes {
            start: self.start + bytes,
            end: self.end,
        }
    }

    /// Index of the interface that the frame came in on.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        XdpContext::new(self.ctx).ingress_ifindex() as u32
    }

    /// Cuts `bytes` off the front of the frame, or adds as many when negative. Nothing if the
    /// driver left no room.
    #[inline(always)]
    pub fn adjust_head(&mut self, bytes: i32) -> Option<()> {
        let ctx = XdpContext::new(self.ctx);
        // SAFETY: `ctx` is the context that the kernel called the program with; all pointers into
        // the frame were derived from `start` and `end`, which are read anew right below.
        let refused = unsafe { helpers::bpf_xdp_adjust_head(self.ctx, bytes) } != 0;
        self.start = ctx.data();
        self.end = ctx.data_end();
        if refused { None } else { Some(()) }
    }

    /// Cuts the frame to `len` bytes. Nothing if the kernel refuses, as it does for less than an
    /// Ethernet header.
    #[inline(always)]
    pub fn cut(&mut self, len: usize) -> Option<()> {
        let ctx = XdpContext::new(self.ctx);
        let surplus = self.len() as i32 - len as i32;
        // SAFETY: as in `adjust_head`.
        let refused = unsafe { helpers::bpf_xdp_adjust_tail(self.ctx, -surplus) } != 0;
        self.start = ctx.data();
        self.end = ctx.data_end();
        if refused { None } else { Some(()) }
    }

    /// Largest IP packet, bytes, of the interface that the frame came in on.
    #[inline(always)]
    pub fn ingress_mtu(&self) -> u32 {
        let mut mtu = 0;
        // SAFETY: `ctx` is the context that the kernel called the program with, `mtu` is writable.
        unsafe { helpers::bpf_check_mtu(self.ctx.cast(), 0, &raw mut mtu, 0, 0) };
        mtu
    }

    /// Asks the kernel's routing table; the helper's return code.
    #[inline(always)]
    pub fn fib_lookup(&self, fib: &mut bpf_fib_lookup) -> i64 {
        let size = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: `ctx` is the context that the kernel called the program with, `fib` is writable
        // for `size` bytes.
        unsafe { helpers::bpf_fib_lookup(self.ctx.cast(), fib, size, 0) }
    }
}

/// A part of the frame up to its end: one pointer for the verifier, to which all offsets are
/// constants. It is good until the frame is cut or adjusted.
pub struct Bytes {
    /// Its first byte.
    pub start: usize,
    /// The frame's end.
    pub end: usize,
}

impl Bytes {
    #[inline(always)]
    fn at<T: Header>(&self, offset: usize) -> Option<*mut T> {
        let header = self.start + offset;
        if header + size_of::<T>() > self.end {
            None
        } else {
            Some(header as *mut T)
        }
    }
}

impl PacketBytes for Frame<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.bytes_past(0).len()
    }

    #[inline(always)]
    fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        let header = self.bytes_past(0).at(offset);
        // SAFETY: `at` checked that the header ends within the frame, which is the program's until
        // it returns; `Header` promises alignment 1 and that any bytes are a valid `T`.
        header.map(|header| unsafe { &*header })
    }

    #[inline(always)]
    fn header_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        let header = self.bytes_past(0).at(offset);
        // SAFETY: as in `header`; `&mut self` keeps it the only reference into the frame.
        header.map(|header| unsafe { &mut *header })
    }
}

impl PacketBytes for Bytes {
    #[inline(always)]
    fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        // SAFETY: `at` checked that the header ends within the frame, which is the program's until
        // it returns; `Header` promises alignment 1 and that any bytes are a valid `T`.
        self.at(offset).map(|header| unsafe { &*header })
    }

    #[inline(always)]
    fn header_mut<T: Header>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as in `header`; `&mut self` keeps it the only reference into the frame.
        self.at(offset).map(|header| unsafe { &mut *header })
    }
}
