//! The verifier accepts the program, and what it then costs verifier and processor is what was
//! agreed in `costs.toml`. `cargo xtask lint` runs this.

use dispatcher_tests::program::{Sizes, load, xdp};
use xtask::costs;

#[test]
fn the_verifier_accepts_the_program_at_the_agreed_cost() {
    let mut ebpf = load(Sizes::default());
    let info = xdp(&mut ebpf).info().unwrap();
    let verified = info
        .verified_instruction_count()
        .expect("a kernel of 5.16 or later");
    let translated = info.size_translated().expect("root sees it");
    println!("{verified} instructions verified, {translated} bytes translated");
    let counted = [
        ("verified_instructions", verified.into()),
        ("translated_bytes", translated.into()),
    ];
    if let Err(error) = costs::check("program", &kernel(), &counted) {
        panic!("{error:#}");
    }
    assert!(
        info.size_jitted() > 0,
        "bpf_jit_enable is off: the packet path is interpreted"
    );
}

/// The running kernel, as `Linux 6.18`: what is fixed within a series does not show.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is there");
    let series: Vec<_> = release.trim().split('.').take(2).collect();
    format!("Linux {}", series.join("."))
}
