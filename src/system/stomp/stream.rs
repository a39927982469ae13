//! Byte stream to a broker, plain or over TLS; the caller limits each wait. The socket is non-blocking:
//! one thread reads, writes and sends heart-beats, and can be woken meanwhile. Knows no STOMP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::Timespec;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::domain::bus::broker::{Broker, BrokerSettings, BrokerTransport};
use crate::domain::text::EscapeControls;
use crate::system::host::since_boot;
use crate::system::{tcp, tls};

/// TCP or TLS connection to a broker.
pub(super) struct BrokerStream {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

/// Reason for the end of a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WakeReason {
    /// The socket is ready, or the time is over.
    Here,
    /// The caller's wake descriptor is readable.
    Outside,
}

impl BrokerStream {
    /// Connects until `deadline` (time since boot).
    ///
    /// # Errors
    /// With a message for operators.
    pub(super) fn open(
        broker: &Broker,
        brokers: &BrokerSettings,
        deadline: Duration,
    ) -> Result<Self> {
        let host = broker.host.as_str();
        let unanswered = |error: io::Error| anyhow!("it does not answer: {error}");
        let tcp = tcp::connect(host, broker.port, deadline).map_err(unanswered)?;
        tcp.set_nodelay(true)?;
        tcp.set_nonblocking(true)?;
        let mut stream = Self { tcp, tls: None };
        if broker.channel == BrokerTransport::Tls {
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_| anyhow!("{} is no name for TLS", host.escape_controls()))?;
            let config = tls::client(brokers.ca_file.as_deref())?;
            let mut connection = ClientConnection::new(config, name)?;
            stream
                .shake_hands(&mut connection, deadline)
                .map_err(|error| connection_error(error, host))?;
            stream.tls = Some(Box::new(connection));
        }
        Ok(stream)
    }

    fn shake_hands(&mut self, tls: &mut ClientConnection, deadline: Duration) -> io::Result<()> {
        while tls.is_handshaking() {
            if deadline <= since_boot() {
                return Err(ErrorKind::TimedOut.into());
            }
            match tls.complete_io(&mut self.tcp) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let flags = if tls.wants_write() { PollFlags::OUT } else { PollFlags::IN };
                    self.wait_for(flags, None, deadline)?;
                }
                done => drop(done?),
            }
        }
        Ok(())
    }

    /// Writes all `bytes` until `deadline` (time since boot).
    pub(super) fn write(&mut self, mut bytes: &[u8], deadline: Duration) -> io::Result<()> {
        loop {
            if let Some(tls) = &mut self.tls {
                let taken = tls.writer().write(bytes)?;
                bytes = bytes.get(taken..).unwrap_or_default();
            }
            let written = match &mut self.tls {
                Some(tls) if tls.wants_write() => tls.write_tls(&mut self.tcp).map(drop),
                None if !bytes.is_empty() => self.tcp.write(bytes).map(|count| {
                    bytes = bytes.get(count..).unwrap_or_default();
                }),
                _ => return Ok(()),
            };
            match written {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait_for(PollFlags::OUT, None, deadline)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => done?,
            }
        }
    }

    /// Reads received bytes without waiting; 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has arrived, or only TLS-internal data.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.tcp.read(into) };
        match plain(tls, into) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            done => return done,
        }
        tls.read_tls(&mut self.tcp)?;
        tls.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        plain(tls, into)
    }

    /// Waits until the socket or `wake` is readable, or until `until` (time since boot).
    pub(super) fn wait(
        &self,
        wake: Option<BorrowedFd<'_>>,
        until: Duration,
    ) -> io::Result<WakeReason> {
        match self.wait_for(PollFlags::IN, wake, until) {
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(WakeReason::Here),
            done => done,
        }
    }

    fn wait_for(
        &self,
        flags: PollFlags,
        wake: Option<BorrowedFd<'_>>,
        until: Duration,
    ) -> io::Result<WakeReason> {
        let left = until.saturating_sub(since_boot());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut waiting = vec![PollFd::from_borrowed_fd(self.tcp.as_fd(), flags)];
        waiting.extend(wake.map(|wake| PollFd::from_borrowed_fd(wake, PollFlags::IN)));
        match poll(&mut waiting, Some(&timeout)) {
            Ok(0) => Err(ErrorKind::TimedOut.into()),
            Ok(_) | Err(Errno::INTR) => match waiting.get(1).map(PollFd::revents) {
                Some(came) if !came.is_empty() => Ok(WakeReason::Outside),
                _ => Ok(WakeReason::Here),
            },
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads decrypted bytes; 0 at the end of the stream.
fn plain(tls: &mut ClientConnection, into: &mut [u8]) -> io::Result<usize> {
    match tls.reader().read(into) {
        // A broker that crashes sends no close_notify; an incomplete frame is detected anyway.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
        done => done,
    }
}

/// Message for an error before STOMP begins.
fn connection_error(error: io::Error, host: &str) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(refused) => Error::msg(tls::sentence(refused, host)),
        None if error.kind() == ErrorKind::TimedOut => {
            anyhow!(
                "{host} takes the connection and says nothing, not even for TLS\n\
                 hint: is this the port for TLS?"
            )
        }
        None if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
            anyhow!("{host} does not speak TLS there\nhint: is this the port for TLS?")
        }
        None => anyhow!("TLS with {host} fails: {error}"),
    }
}
