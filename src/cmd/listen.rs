//! `agent listen`: stays up, and ticks when the message bus, a web hook or the timer says so. What a
//! tick under cron would print is printed here as well.

use std::sync::Arc;

use anyhow::Result;

use super::tick;
use crate::cli::Global;
use crate::engine::listen;
use crate::exit::Code;

/// `agent listen`
///
/// # Errors
/// When the configuration cannot be used at the start, or the system gives no thread.
pub fn run(global: &Global) -> Result<Code> {
    let quiet = global.quiet;
    let load = || Ok(super::settings(global)?);
    listen::listen(
        &load,
        Arc::new(move |here, done| {
            let told = if quiet { Ok(()) } else { tick::print_notices(here, done) };
            for error in told.err().into_iter().chain(tick::after(here, done)) {
                tracing::error!("after a tick: {}", format!("{error:#}").escape_debug());
            }
        }),
    )?;
    Ok(Code::Fine)
}
