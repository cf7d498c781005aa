//! The user half of Dispatcher, module by module in the order in which a connection request
//! meets them; the last ones are what people touch.
//!
//! `admission` and `ceiling` decide and do nothing else; `xsk`, `datapath`, `network`, `agent`
//! and `health` act and decide nothing but whether a back-end is well; they meet in `engine` and in
//! `governor`.

pub mod xsk;
pub mod admission;
pub mod ceiling;
pub mod measure;
pub mod datapath;
pub mod network;
pub mod exchange;
pub mod agent;
pub mod health;
pub mod engine;
pub mod governor;
pub mod watchdog;
pub mod privileges;
pub mod daemon;
pub mod fault;

pub mod config;
pub mod reload;
pub mod status;
pub mod history;
pub mod telemetry;
pub mod page;
pub mod human;
pub mod admin;
pub mod preflight;
pub mod cli;
pub mod top;
