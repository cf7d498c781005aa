//! Configuration files.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (dispatcher_hostile::targets::body("config"))(bytes));
