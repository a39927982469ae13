//! Decisions. Pure: nothing here touches files, processes, the network, the environment, git or the
//! clock; time is an argument. Reading order: [`git`] (the words), [`action`] (one run and its
//! retry), [`plan`] (what was seen, and what follows from it), [`status`] (the one word for it),
//! [`change`] (how one tree becomes another, and which trees are refused), [`remote`] (how servers are
//! asked, and what they say), [`wire`] (the same as bytes), [`publish`] (which ref appears where),
//! [`broker`] (how the message bus is reached), [`bus`] (what is said there), [`stomp`] (the same as
//! bytes), [`webhook`] (what git forges say).

pub mod action;
pub mod broker;
pub mod bus;
pub mod change;
pub mod crontab;
pub mod env_file;
pub mod git;
pub mod hash;
pub mod ladder;
pub mod metrics;
pub mod paths;
pub mod plan;
pub mod publication;
pub mod publish;
pub mod remote;
pub mod report;
pub mod status;
pub mod stomp;
pub mod wake;
pub mod webhook;
pub mod wire;
