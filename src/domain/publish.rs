//! The refs that appear at a target, the names they have there, and what differs.

pub mod release_paths;
pub mod rules;
pub mod state;
