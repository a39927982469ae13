//! Reports: errors as text, notices for people, metrics for monitoring.

pub mod error_report;
pub mod metrics;
pub mod notices;
