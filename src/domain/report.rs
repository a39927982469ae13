//! Reports: errors as text, notices for people, metrics for monitoring, the presence of a machine for others.

pub mod error_report;
pub mod metrics;
pub mod notices;
pub mod presence;
