//! All integration tests in one binary, one module per capability. Each test is a sentence over
//! real things: real git, the real binary, a directory of its own.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start programs, write files and read the clock as a person would"
)]

mod alerts;
mod bad_input;
mod bootstrap;
mod broken_entries;
#[cfg(feature = "servers")]
mod bus;
mod check;
mod clones;
mod completions;
mod concurrency;
mod config;
mod counted;
mod crash;
#[cfg(feature = "servers")]
mod dashboard;
mod demo;
mod disk;
mod docs;
mod docs_commands;
mod drift;
mod durability;
mod examples;
#[cfg(feature = "servers")]
mod first_boot;
mod fleet;
mod followed;
mod foreign_processes;
mod forget;
mod gates;
mod hangs;
mod health;
mod holds;
mod hostile;
mod housekeeping;
mod idle;
mod ids;
mod init;
mod init_faults;
#[cfg(feature = "servers")]
mod init_wire;
mod install;
mod install_release;
#[cfg(feature = "servers")]
mod interop;
mod kills;
mod large_files;
mod listen;
mod machine_copy;
mod manual;
mod matrix;
#[cfg(sanitized)]
mod memory;
mod messages;
mod model;
mod notify;
mod odd_repositories;
mod on_action;
mod on_terminal;
mod orders;
#[cfg(feature = "servers")]
mod package;
mod packed_refs;
mod packs;
#[cfg(feature = "servers")]
mod page;
#[cfg(feature = "servers")]
mod presence;
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
mod service;
mod signatures;
mod signed;
#[cfg(not(feature = "servers"))]
mod skipped;
mod splay;
mod states;
mod status;
mod steering;
mod tidy;
mod time;
mod tree_settings;
mod tried;
mod trust;
mod tutorials;
mod updates;
mod upgrade_agent;
mod upgrades;
mod upstream;
mod users;
mod way_back;
mod web;
mod while_acting;
#[cfg(feature = "servers")]
mod wire;
mod worktree;
