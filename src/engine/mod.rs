//! The steps of the agent, in the order in which they happen. It never prints, and names no library of
//! the outside. Each room uses only the rooms above it in this list:
//!
//! - [`context`], [`request`], [`error`], [`finding`]: what every room needs.
//! - [`fleet`]: what the machines publish in a status repository.
//! - [`discovery`]: which repositories this machine has, and whether their paths are safe.
//! - [`repository`]: reads one repository: opens, polls and observes it, finds damage, reads its targets.
//! - [`run`]: runs scripts and hooks, and records the run.
//! - [`publish`]: writes trees to targets.
//! - [`action`]: the worker's action on one repository, from clone to housekeeping.
//! - [`tick`]: one pass over all repositories, which starts workers and helpers as processes.
//! - [`operator`], [`machine`], [`listen`]: what people ask for, the machine's schedule, and the message
//!   bus with its web hooks.

pub mod action;
pub mod context;
pub mod discovery;
pub mod error;
pub mod finding;
pub mod fleet;
pub mod listen;
pub mod machine;
pub mod operator;
pub mod publish;
pub mod repository;
pub mod request;
pub mod run;
pub mod tick;
