//! Service notifications to systemd: ready, alive and stopping (sd_notify(3)). Does nothing without
//! systemd. Does not know what the service does.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::domain::text::EscapeControls;
use crate::system::host;

/// Notification socket of systemd, where there is one.
#[derive(Debug)]
pub struct SdNotify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    patience: Option<Duration>,
}

impl SdNotify {
    /// Reads the socket and the watchdog interval from the environment.
    ///
    /// # Errors
    /// When `NOTIFY_SOCKET` is not a valid socket address.
    pub fn of_ours() -> Result<Self> {
        let Some(name) = host::variable(&["NOTIFY_SOCKET"]) else {
            return Ok(Self { socket: None, patience: None });
        };
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&name),
        };
        let address = address.with_context(|| {
            format!("NOTIFY_SOCKET is \"{}\", which is no socket", name.escape_controls())
        })?;
        let socket = UnixDatagram::unbound().context("no socket to speak to systemd")?;
        // A supervisor that does not read must not block us.
        socket.set_nonblocking(true)?;
        let patience = host::variable(&["WATCHDOG_USEC"])
            .and_then(|text| text.parse().ok())
            .filter(|_| is_for_us(host::variable(&["WATCHDOG_PID"])))
            .map(Duration::from_micros);
        Ok(Self { socket: Some((socket, address)), patience })
    }

    /// Interval for [`SdNotify::alive`], half of the watchdog timeout; `None` without a watchdog.
    pub fn beat(&self) -> Option<Duration> {
        self.patience.map(|patience| patience / 2)
    }

    /// Reports that start-up is complete.
    pub fn ready(&self) {
        self.notify("READY=1");
    }

    /// Reports that the service is alive.
    pub fn alive(&self) {
        self.notify("WATCHDOG=1");
    }

    /// Reports that the service is stopping.
    pub fn stopping(&self) {
        self.notify("STOPPING=1");
    }

    fn notify(&self, text: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::warn!(%error, "systemd does not accept {text}");
        }
    }
}

fn is_for_us(pid: Option<String>) -> bool {
    pid.is_none_or(|pid| pid == std::process::id().to_string())
}
