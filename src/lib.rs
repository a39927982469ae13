//! Push-Me-Pull-You: servers pull their git repositories and act upon each new revision.
//!
//! The library exists so that tests, benches and fuzz targets reach the inside; it promises nothing
//! to anybody else. Modules in reading order, and who may use whom:
//!
//! `main -> cmd -> engine -> {system, domain, config}`; `system -> domain`; `config -> domain`;
//! `domain` uses nothing of ours. `tests/it/tidy.rs` keeps it so.

pub mod domain;

pub mod config;

pub mod system;

pub mod engine;

pub mod cmd;

pub mod cli;
pub mod exit;
pub mod usage;
