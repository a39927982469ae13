//! All integration tests in one binary, one module per capability. Each test is a sentence over
//! real things: real git, the real binary, a folder of its own.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start programs, write files and read the clock as a person would"
)]

mod bad_input;
mod bootstrap;
mod check;
mod concurrency;
mod config;
mod crash;
mod demo;
mod disk;
mod docs;
mod hostile;
mod housekeeping;
mod idle;
mod kills;
mod model;
mod probe;
mod quiet;
mod repair;
mod sandbox;
mod script_faults;
mod scripts;
mod states;
mod steering;
mod tidy;
mod time;
mod tree_settings;
mod updates;
mod users;
mod while_acting;
mod worktree;
