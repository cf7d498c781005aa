//! x

pub mod program;
pub mod packet;
pub mod floor;
