//! Frames with ICMP messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (dispatcher_hostile::targets::body("icmp"))(bytes));
