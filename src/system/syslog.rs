//! One line to the system's log for each action, over `/dev/log` (syslog(3), RFC 3164 as local
//! sockets take it). Where nobody listens there, nothing is said: the log is a courtesy.

use std::os::unix::net::UnixDatagram;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 4
    Warning,
    /// 6
    Info,
}

/// Says one line, in the facility `daemon`, as `pmpy`.
pub fn tell(level: Level, line: &str) {
    const DAEMON: u8 = 3 << 3;
    let priority = DAEMON
        | match level {
            Level::Warning => 4,
            Level::Info => 6,
        };
    let text = format!("<{priority}>pmpy[{}]: {}", std::process::id(), line.escape_debug());
    if let Ok(socket) = UnixDatagram::unbound()
        && socket.set_nonblocking(true).is_ok()
    {
        let _ = socket.send_to(text.as_bytes(), "/dev/log");
    }
}
