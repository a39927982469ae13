//! `agent listen`: stays up and runs ticks on messages, web hooks and the timer. Prints what a tick under
//! cron would print. Does not know how events become ticks.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::{after_tick, tick};
use crate::cli::GlobalArgs;
use crate::cmd::format;
use crate::domain::text::EscapeControls;
use crate::engine::discovery::safe_paths;
use crate::engine::machine::presence::PresencePublisher;
use crate::engine::{error, listen};
use crate::exit::ExitStatus;
use crate::system::host;
use crate::system::process::{self, ChildReaper};
use crate::system::signals::{self, SignalRequest};

/// `agent listen`
///
/// # Errors
/// When the configuration cannot be used at the start, or the system gives no thread.
pub fn run(global: &GlobalArgs) -> Result<ExitStatus> {
    if process::is_init() {
        return as_init();
    }
    let quiet = global.quiet;
    let load = || {
        let mut settings = super::settings(global)?;
        for fault in safe_paths::leave_out_unsafe_sections(&mut settings) {
            tracing::error!("{}", format::escaped(&error::one_line(&fault)));
        }
        Ok(settings)
    };
    listen::listen(
        &load,
        Arc::new(move |context, done| {
            let printed = if quiet { Ok(()) } else { tick::print_notices(context, done) };
            let troubles = after_tick::carry_out(context, done, PresencePublisher::Thread);
            for error in printed.err().into_iter().chain(troubles) {
                tracing::error!("after a tick: {}", format!("{error:#}").escape_controls());
            }
            if let Some(warning) = &done.warning {
                tracing::error!("{}", format!("{warning:#}").escape_controls());
            }
        }),
    )?;
    Ok(ExitStatus::Fine)
}

/// Runs as process 1 of a container or machine: starts `agent listen` once more, and reaps orphaned
/// processes. The child waits for its own children, and no two processes wait for the same one.
fn as_init() -> Result<ExitStatus> {
    let child = ChildReaper::start(&host::arguments())?;
    let process = child.process();
    signals::watch(move |asked| process::hand_on(process, asked == SignalRequest::Reload))?;
    match child.reap()? {
        0 => Ok(ExitStatus::Fine),
        code @ 0..=127 => Ok(ExitStatus::of(code)),
        code => bail!("agent listen was ended by signal {}", code - 128),
    }
}
