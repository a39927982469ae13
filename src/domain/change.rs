//! How one tree becomes another.
