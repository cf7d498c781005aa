//! x

pub mod program;
pub mod packet;
