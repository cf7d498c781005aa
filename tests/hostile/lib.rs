//! What must be survived, without a kernel: every order of a connection's packets on a network that
//! loses, repeats and reorders them.

pub mod random;
pub mod end;
pub mod wire;
