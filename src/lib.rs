//! Push-Me-Pull-You: servers pull their git repositories and deploy each new revision.
//!
//! The library exists so that tests, benches and fuzz targets reach its inside; it is no public interface.
//! Modules in reading order, and which may use which:
//!
//! `main -> cmd -> engine -> {system, domain, config}`; `system -> domain`; `config -> domain`;
//! `domain` uses nothing of ours. `tests/it/tidy.rs` checks this.

pub mod domain;

pub mod config;

pub mod system;

pub mod engine;

pub mod cmd;

pub mod cli;
pub mod exit;
pub mod usage;
