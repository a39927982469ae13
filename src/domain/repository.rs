//! One repository: what is observed, what is planned, and in which state it is.

pub mod action;
pub mod change;
pub mod conditions;
pub mod decision;
pub mod desired;
pub mod drift;
pub mod finding;
pub mod gaps;
pub mod gate;
pub mod gates;
pub mod health;
pub mod history;
pub mod hold;
pub mod names;
pub mod observed;
pub mod outcome;
pub mod request;
pub mod sight;
pub mod state;
pub mod status;
pub mod way_back;
pub mod window;

#[cfg(test)]
mod tests;
