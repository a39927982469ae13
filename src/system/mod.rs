//! Access to everything outside the process: one module for each external thing. A module here never
//! decides, and imports no other one except `files`, `ffi`, `trust`, `watchdog`, `clock`, `users`,
//! `packages`, and `host` and `pid` for this machine and its processes; `lock` -> `repo_state`; inside the remote transports; and the few that
//! `tests/it/tidy.rs` lists.

pub mod agent_state;
pub mod atomic_dir;
pub mod clock;
pub mod ffi;
pub mod files;
pub mod fleet_cache;
pub mod frames;
pub mod git;
pub mod host;
pub mod lock;
pub mod logs;
pub mod packages;
pub mod permissions;
pub mod pid;
pub mod privilege;
pub mod privileged_rpc;
pub mod process;
pub mod release;
pub mod remote;
pub mod repo_dir_scan;
pub mod repo_state;
pub mod schedule;
pub mod scripts;
pub mod sd_notify;
pub mod signals;
pub mod signers;
pub mod stale_files;
pub mod stomp;
pub mod syslog;
pub mod tcp;
pub mod temp_dir;
pub mod time_zone;
pub mod tls;
pub mod trust;
pub mod users;
pub mod watchdog;
pub mod web;
pub mod worktree;
