//! Sends a request in one piece. The library hands its head and its body over one after the other,
//! and each would be a record of TLS, a call of the kernel and a packet of its own.

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// How many bytes are held back at most.
const MOST: usize = 16 << 10;

/// Makes each connection gather what is sent until an answer is waited for.
#[derive(Debug)]
pub(super) struct Gather;

impl<In: Transport> Connector<In> for Gather {
    type Out = Gathered<In>;

    fn connect(
        &self,
        _details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| Gathered { inner, held: Vec::new() }))
    }
}

/// A connection that gathers.
#[derive(Debug)]
pub(super) struct Gathered<In> {
    inner: In,
    /// What was not sent yet.
    held: Vec<u8>,
}

impl<In: Transport> Gathered<In> {
    fn send(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        let mut rest = self.held.as_slice();
        while !rest.is_empty() {
            let output = self.inner.buffers().output();
            let (piece, behind) = rest.split_at(rest.len().min(output.len()));
            output[..piece.len()].copy_from_slice(piece);
            self.inner.transmit_output(piece.len(), timeout)?;
            rest = behind;
        }
        self.held.clear();
        Ok(())
    }
}

impl<In: Transport> Transport for Gathered<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let output = self.inner.buffers().output();
        self.held.extend_from_slice(&output[..amount]);
        if self.held.len() > MOST { self.send(timeout) } else { Ok(()) }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.send(timeout)?;
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
