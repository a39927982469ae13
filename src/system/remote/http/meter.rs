//! Counts what goes through the connections that this thread uses: bytes of HTTP, those of TLS not
//! counted, and how often we waited for an answer.

use std::cell::Cell;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// Sent and received.
    pub(super) bytes: u64,
    /// Connections that were made.
    pub(super) connections: u32,
    /// How often something was sent and then an answer waited for; those that it takes to connect
    /// are not counted.
    pub(super) turns: u32,
}

thread_local! {
    static COUNT: Cell<Count> = const {
        Cell::new(Count { bytes: 0, connections: 0, turns: 0 })
    };
}

impl Count {
    /// Everything that this thread has counted.
    pub(super) fn now() -> Self {
        COUNT.get()
    }

    /// What was counted since `earlier`.
    pub(super) fn since(earlier: Self) -> Self {
        let now = Self::now();
        Self {
            bytes: now.bytes - earlier.bytes,
            connections: now.connections - earlier.connections,
            turns: now.turns - earlier.turns,
        }
    }
}

/// Puts a meter into each connection.
#[derive(Debug)]
pub(super) struct Meter;

impl<In: Transport> Connector<In> for Meter {
    type Out = Metered<In>;

    fn connect(
        &self,
        _details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| {
            let count = COUNT.get();
            COUNT.set(Count { connections: count.connections + 1, ..count });
            Metered { inner, has_asked: false }
        }))
    }
}

/// A connection with a meter in it.
#[derive(Debug)]
pub(super) struct Metered<In> {
    inner: In,
    /// Something was sent and nothing received since.
    has_asked: bool,
}

impl<In: Transport> Transport for Metered<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.inner.transmit_output(amount, timeout)?;
        let count = COUNT.get();
        COUNT.set(Count { bytes: count.bytes + amount as u64, ..count });
        self.has_asked = true;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let before = self.inner.buffers().input().len();
        let has_more = self.inner.await_input(timeout)?;
        let received = self.inner.buffers().input().len().saturating_sub(before);
        let count = COUNT.get();
        COUNT.set(Count {
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
