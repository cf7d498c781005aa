//! The kernel half of Dispatcher: an XDP program, a file a stage, in the order in which a packet
//! meets them. Here stands only the entry point.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "see atomic.rs")
)]
#![expect(
    missing_docs,
    reason = "the macro of the entry point makes a function without any"
)]

mod pipeline;

mod ingress;
mod flow;
mod event;
mod measure;
mod classify;
mod proof;
mod punt;
mod egress;
mod icmp;
mod notice;

mod atomic;
mod counters;
#[cfg(feature = "log")]
mod log;
mod maps;

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

/// The program, attached to every configured interface.
#[xdp]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro passes the context by value"
)]
pub fn dispatcher(ctx: XdpContext) -> u32 {
    let verdict = pipeline::run(&ctx);
    #[cfg(feature = "log")]
    log::tell(&ctx, &verdict);
    verdict.carry_out()
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// `bpf_fib_lookup` and `bpf_ringbuf_output` are for programs under the GPL or a dual licence.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("this is the kernel half of Dispatcher: build it with `cargo xtask build-ebpf`");
    std::process::exit(2);
}
