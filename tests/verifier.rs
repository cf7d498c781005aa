//! The program loads, and costs the verifier and the processor no more than was agreed: a change
//! that needs more must raise the number here, where review sees it.

use dispatcher_tests::program::{Sizes, load, xdp};

/// Instructions that the verifier walked, over all paths. The kernel gives up at a million, but
/// older kernels prune less, so the budget leaves them room.
const VERIFIED_INSTRUCTIONS_MAX: u32 = 45_000;
/// Bytes of the program after translation, eight each instruction. Half of them are functions that
/// common packets do not call: ICMP of each family, notices, the question to the routing table.
const TRANSLATED_BYTES_MAX: u32 = 37_000;

#[test]
fn the_verifier_accepts_the_program_within_its_budget() {
    let mut ebpf = load(Sizes::default());
    let info = xdp(&mut ebpf).info().unwrap();
    let verified = info
        .verified_instruction_count()
        .expect("a kernel of 5.16 or later");
    let translated = info.size_translated().expect("root sees it");
    println!("{verified} instructions verified, {translated} bytes translated");
    assert!(
        (1000..=VERIFIED_INSTRUCTIONS_MAX).contains(&verified),
        "{verified} instructions verified, budget {VERIFIED_INSTRUCTIONS_MAX}"
    );
    assert!(
        (1000..=TRANSLATED_BYTES_MAX).contains(&translated),
        "{translated} bytes translated, budget {TRANSLATED_BYTES_MAX}"
    );
    assert!(
        info.size_jitted() > 0,
        "bpf_jit_enable is off: the packet path is interpreted"
    );
}
