//! Who started us and watches over us, when it is systemd: told that we are up, that we are alive, and
//! that we end (sd_notify(3)). Without it nothing is said to nobody.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use anyhow::{Context, Result};

use super::node;

/// The supervisor, where there is one.
#[derive(Debug)]
pub struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    patience: Option<Duration>,
}

impl Supervisor {
    /// As our environment has it.
    ///
    /// # Errors
    /// When it names a socket that cannot be one.
    pub fn of_ours() -> Result<Self> {
        let Some(name) = node::variable(&["NOTIFY_SOCKET"]) else {
            return Ok(Self { socket: None, patience: None });
        };
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&name),
        };
        let address = address.with_context(|| {
            format!("NOTIFY_SOCKET is \"{}\", which is no socket", name.escape_debug())
        })?;
        let socket = UnixDatagram::unbound().context("no socket to speak to systemd")?;
        // A supervisor that does not listen must not stop us.
        socket.set_nonblocking(true)?;
        let patience = node::variable(&["WATCHDOG_USEC"])
            .and_then(|text| text.parse().ok())
            .filter(|_| is_for_us(node::variable(&["WATCHDOG_PID"])))
            .map(Duration::from_micros);
        Ok(Self { socket: Some((socket, address)), patience })
    }

    /// How often it wants to hear [`Supervisor::alive`]; twice in the time after which it gives us up.
    pub fn beat(&self) -> Option<Duration> {
        self.patience.map(|patience| patience / 2)
    }

    /// We are up.
    pub fn ready(&self) {
        self.say("READY=1");
    }

    /// We are alive.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }

    /// We end.
    pub fn stopping(&self) {
        self.say("STOPPING=1");
    }

    fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::warn!(%error, "systemd does not hear {text}");
        }
    }
}

fn is_for_us(pid: Option<String>) -> bool {
    pid.is_none_or(|pid| pid == std::process::id().to_string())
}
