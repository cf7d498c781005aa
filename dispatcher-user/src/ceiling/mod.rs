//! Ceilings: how many connections a back-end is given, moved by what was measured of it. Pure: a
//! window of measurements goes in, a ceiling and its reason come out. No clock, no input or output.
//!
//! A [`Controller`] belongs to one back-end. It holds the back-end's policy, what that remembers,
//! and the guards that all policies obey:
//! - a ceiling stays within its [`Bounds`], whatever was measured;
//! - it moves by bounded steps, and is raised only if it was reached in the window: otherwise
//!   nothing was learned;
//! - what was measured before the last change took effect is ignored;
//! - a pinned ceiling stays where it is.

mod window;
mod settings;
mod reason;
mod curve;
mod climb;
mod guard;
mod fixed;
mod queue_depth;
mod response_time;
mod throughput;
mod gradient;
mod agent;
mod slow_start;
mod controller;
#[cfg(test)]
mod tests;

pub use agent::{AgentError, AgentReport, AgentState, REPORT_LEN_MAX};
pub use controller::{Change, Controller, Decision};
pub use curve::Suggestion;
pub use reason::Reason;
pub use settings::{
    Agent, Bounds, Gradient, Metric, Policy, QueueDepth, ResponseTime, Settings, Throughput,
};
pub use window::{Times, Window};
