//! Doors: one file per thing outside. A door never decides, and does not import another door,
//! except `files` and `ffi`, `lock` -> `record`, and inside the wire.

pub mod git;
