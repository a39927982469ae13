//! All integration tests in one binary, one module per capability. Each test is a sentence over
//! real things: real git, the real binary, a folder of its own.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start programs, write files and read the clock as a person would"
)]

mod bad_input;
mod bootstrap;
mod check;
mod clones;
mod concurrency;
mod config;
mod crash;
mod demo;
mod disk;
mod docs;
mod durability;
mod hostile;
mod housekeeping;
mod idle;
mod kills;
#[cfg(not(feature = "servers"))]
mod left_out;
mod model;
mod neighbours;
mod odd_repositories;
mod probe;
mod quiet;
mod repair;
mod sandbox;
mod script_faults;
mod scripts;
#[cfg(feature = "servers")]
mod servers;
mod states;
mod steering;
mod tidy;
mod time;
mod tree_settings;
mod updates;
mod upgrades;
mod users;
mod while_acting;
#[cfg(feature = "servers")]
mod wire;
mod worktree;
