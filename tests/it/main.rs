//! All integration tests in one binary, one module per capability. Each test is a sentence over
//! real things: real git, the real binary, a folder of its own.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start programs, write files and read the clock as a person would"
)]

mod bad_input;
mod bootstrap;
#[cfg(feature = "servers")]
mod bus;
mod check;
mod clones;
mod concurrency;
mod config;
mod crash;
mod demo;
mod disk;
mod docs;
mod durability;
mod examples;
#[cfg(feature = "servers")]
mod first_boot;
mod hostile;
mod housekeeping;
mod idle;
mod init;
mod init_faults;
#[cfg(feature = "servers")]
mod init_wire;
mod install;
mod kills;
#[cfg(not(feature = "servers"))]
mod left_out;
mod listen;
mod manual;
mod messages;
mod model;
mod neighbours;
mod notify;
mod odd_repositories;
#[cfg(feature = "servers")]
mod package;
mod packed_refs;
mod probe;
mod publish;
mod publish_rules;
mod published_names;
mod quiet;
mod releases;
mod repair;
mod sandbox;
mod schedule;
mod script_faults;
mod scripts;
#[cfg(feature = "servers")]
mod servers;
mod splay;
mod states;
mod steering;
mod throwaway;
mod tidy;
mod time;
mod tree_settings;
mod typed;
mod updates;
mod upgrades;
mod users;
mod web;
mod while_acting;
#[cfg(feature = "servers")]
mod wire;
mod worktree;
