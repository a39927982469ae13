//! Sends one line to the system log for each action, over `/dev/log` (syslog(3), RFC 3164 in the local
//! socket's form). Without a syslog daemon, nothing is sent: the log is optional. Knows nothing of
//! actions.

use std::os::unix::net::UnixDatagram;

use crate::domain::text::EscapeControls;

/// Syslog severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyslogLevel {
    /// Severity 4.
    Warning,
    /// Severity 6.
    Info,
}

/// Sends one line with facility `daemon` and tag `pmpy`.
pub fn send(level: SyslogLevel, line: &str) {
    const DAEMON: u8 = 3 << 3;
    let priority = DAEMON
        | match level {
            SyslogLevel::Warning => 4,
            SyslogLevel::Info => 6,
        };
    let text = format!("<{priority}>pmpy[{}]: {}", std::process::id(), line.escape_controls());
    if let Ok(socket) = UnixDatagram::unbound()
        && socket.set_nonblocking(true).is_ok()
    {
        let _ = socket.send_to(text.as_bytes(), "/dev/log");
    }
}
