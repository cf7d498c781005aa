//! The lab by hand, and the demonstration.
fn main() {}
