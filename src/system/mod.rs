//! Doors: one file per thing outside. A door never decides, and does not import another door, except
//! `files`, `ffi`, and `node` and `pid` for who and when; `lock` -> `record`; inside the wire; and the few
//! that `tests/it/tidy.rs` lists.

pub mod access;
pub mod ffi;
pub mod files;
pub mod git;
pub mod lock;
pub mod logs;
pub mod machine;
pub mod node;
pub mod pid;
pub mod privilege;
pub mod process;
pub mod record;
pub mod release;
pub mod remote;
pub mod requests;
pub mod rivals;
pub mod root;
pub mod schedule;
pub mod scratch;
pub mod scripts;
pub mod signals;
pub mod skeleton;
pub mod stomp;
pub mod supervisor;
pub mod sweep;
pub mod syslog;
pub mod tcp;
pub mod tls;
pub mod web;
pub mod worktree;
