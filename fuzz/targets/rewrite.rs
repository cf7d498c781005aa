//! Frames for the rewrite.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (dispatcher_hostile::targets::body("rewrite"))(bytes));
