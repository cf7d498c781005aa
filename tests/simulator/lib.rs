//! Ceiling policies against simulated clients and servers: discrete events in simulated time, drawn
//! from a seed. Admission and the controllers are the real ones.

pub mod random;
pub mod server;
pub mod scenario;
pub mod run;
pub mod judge;
pub mod table;
pub mod picture;
pub mod manual;
