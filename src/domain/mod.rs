//! Pure decisions and formats: no files, processes, network, environment or clock; time is an argument.
//!
//! - [`git`]: object ids, ref names and remotes. [`remote`]: how remotes are polled, and what they
//!   answer.
//! - [`repository`]: the observed facts, the plan, the state and the tree changes of one repository.
//! - [`publish`]: the refs that appear at a target, and what differs there.
//! - [`wire`]: git's protocol as bytes. [`bus`]: STOMP, messages, web hooks and debouncing.
//! - [`report`]: notices, metrics and presence. [`fleet`]: what the machines of a fleet say of themselves.
//! - [`page`]: a machine and a fleet as web pages.
//! - [`signature`]: who may sign what is applied. [`followed`]: what a repository follows. [`versions`]: the order of tags.
//! - [`trust`], [`paths`], [`script_paths`], [`crontab`], [`env_file`], [`hash`], [`name_time`],
//!   [`text`]: one small rule each.

pub mod bus;
pub mod crontab;
pub mod env_file;
pub mod fleet;
pub mod followed;
pub mod git;
pub mod hash;
pub mod name_time;
pub mod page;
pub mod password_cache;
pub mod paths;
pub mod publish;
pub mod remote;
pub mod report;
pub mod repository;
pub mod script_paths;
pub mod signature;
pub mod text;
pub mod trust;
pub mod versions;
pub mod wire;
