//! The action on one repository, carried out by its worker process: clone, fetch, apply, recover,
//! repair, housekeeping.

pub mod apply;
pub mod before;
pub mod clone;
pub mod deploy;
pub mod drift;
pub mod failure;
pub mod fetch;
pub mod housekeeping;
pub mod reconcile;
pub mod recover;
pub mod repair;
pub(in crate::engine) mod revision_search;
pub mod sight;
pub mod way_back;
