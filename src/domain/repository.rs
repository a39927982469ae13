//! One repository: what is observed, what is planned, and in which state it is.

pub mod action;
pub mod change;
pub mod conditions;
pub mod decision;
pub mod desired;
pub mod finding;
pub mod gaps;
pub mod history;
pub mod hold;
pub mod names;
pub mod observed;
pub mod request;
pub mod state;
pub mod status;

#[cfg(test)]
mod tests;
