//! What the system says to a process that stays up. Hears of signals and does nothing about them.

use std::thread;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// TERM or INT: end.
    End,
    /// HUP: read the configuration anew.
    Reload,
}

/// From now on these signals end nothing; `deliver` hears of them, in a thread of its own.
///
/// # Errors
/// When they cannot be caught.
pub fn watch(deliver: impl Fn(Asked) + Send + 'static) -> Result<()> {
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP]).context("signals cannot be caught")?;
    let hear = move || {
        for signal in signals.forever() {
            deliver(if signal == SIGHUP { Asked::Reload } else { Asked::End });
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(hear)
        .context("cannot start the thread that hears of signals")?;
    Ok(())
}
