//! Sections that are read and judged, but whose work this version does not do yet. Saying nothing
//! would let somebody believe that it was done. The only such list: what becomes available leaves it.

use super::file::File;
use super::source::{Error, Source};

/// Refuses the sections that are not available.
pub fn refuse_sections(source: &Source, file: &File) -> Result<(), Error> {
    let Some(webhook) = &file.webhook else { return Ok(()) };
    let reason = format!(
        "[webhook] is not available in this version of the agent ({})\nhint: leave it out",
        env!("CARGO_PKG_VERSION")
    );
    Err(source.error(webhook.span(), &reason))
}
