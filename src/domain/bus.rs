//! Messages between machines: STOMP, topics, web hooks, and the debouncing of hints into ticks.

pub mod broker;
pub mod debounce;
pub mod hook_names;
pub mod message;
pub mod stomp;
pub mod webhook;
