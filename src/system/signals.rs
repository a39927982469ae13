//! Signals to a long-running process. Receives them and does not act on them.

use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Request that a signal makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalRequest {
    /// SIGTERM or SIGINT: end.
    End,
    /// SIGHUP: reload the configuration.
    Reload,
}

/// Catches these signals from now on and passes them to `deliver` in a separate thread.
///
/// # Errors
/// When they cannot be caught.
pub fn watch(deliver: impl Fn(SignalRequest) + Send + 'static) -> Result<()> {
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP]).context("signals cannot be caught")?;
    let hear = move || {
        for signal in signals.forever() {
            deliver(if signal == SIGHUP { SignalRequest::Reload } else { SignalRequest::End });
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(hear)
        .context("cannot start the thread for signals")?;
    Ok(())
}
