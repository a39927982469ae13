//! Counts the bytes of HTTP on the connections of this thread, without those of TLS, and how often it
//! waited for an answer. Does not know whose bytes they are.

use std::cell::Cell;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// The totals of this thread, or a difference of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByteCount {
    /// Bytes sent and received.
    pub(super) bytes: u64,
    /// Connections that were opened.
    pub(super) connections: u32,
    /// How often something was sent and then an answer awaited, without the round trips to connect.
    pub(super) turns: u32,
}

thread_local! {
    static COUNT: Cell<ByteCount> = const {
        Cell::new(ByteCount { bytes: 0, connections: 0, turns: 0 })
    };
}

impl ByteCount {
    /// The totals of this thread so far.
    pub(super) fn now() -> Self {
        COUNT.get()
    }

    /// The difference from `earlier` to now.
    pub(super) fn since(earlier: Self) -> Self {
        let now = Self::now();
        Self {
            bytes: now.bytes - earlier.bytes,
            connections: now.connections - earlier.connections,
            turns: now.turns - earlier.turns,
        }
    }
}

/// Puts a byte counter into each connection.
#[derive(Debug)]
pub(super) struct MeteringConnector;

impl<In: Transport> Connector<In> for MeteringConnector {
    type Out = MeteredTransport<In>;

    fn connect(
        &self,
        _details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| {
            let count = COUNT.get();
            COUNT.set(ByteCount { connections: count.connections + 1, ..count });
            MeteredTransport { inner, has_asked: false }
        }))
    }
}

/// A connection with a byte counter.
#[derive(Debug)]
pub(super) struct MeteredTransport<In> {
    inner: In,
    /// Whether something was sent and nothing received since.
    has_asked: bool,
}

impl<In: Transport> Transport for MeteredTransport<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.inner.transmit_output(amount, timeout)?;
        let count = COUNT.get();
        COUNT.set(ByteCount { bytes: count.bytes + amount as u64, ..count });
        self.has_asked = true;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let before = self.inner.buffers().input().len();
        let has_more = self.inner.await_input(timeout)?;
        let received = self.inner.buffers().input().len().saturating_sub(before);
        let count = COUNT.get();
        COUNT.set(ByteCount {
            bytes: count.bytes + received as u64,
            turns: count.turns + u32::from(self.has_asked),
            ..count
        });
        self.has_asked = false;
        Ok(has_more)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
