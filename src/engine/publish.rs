//! Makes targets show what is desired: stages trees, runs hooks, switches links, removes old releases.

pub(crate) mod hooks;
pub(crate) mod multi_ref;
pub(crate) mod object_cache;
pub(crate) mod restore;
pub(crate) mod single_ref;
pub(crate) mod stage;
