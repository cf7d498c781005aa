//! Admission, compiled alone: with the rest of the daemon around it, `cargo xtask lint` would build
//! for minutes to count its instructions.

// The daemon's own package has its tests.
#![cfg(not(test))]

#[path = "../../dispatcher-user/src/admission/mod.rs"]
pub mod admission;
