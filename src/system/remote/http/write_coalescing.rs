//! Sends a request in one piece. ureq passes on its head and its body separately, and each would be a
//! TLS record, a system call and a packet of its own. For a proxy that sends requests on, it puts the whole
//! address into the request line. Otherwise it does not read what it sends.

use std::fmt;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// The most bytes that are held back.
const MOST: usize = 16 << 10;

/// Makes each connection hold back what is sent until an answer is awaited.
pub(super) struct CoalescingConnector {
    /// Whether a proxy gets the requests and sends them on.
    pub(super) is_forwarded: bool,
    /// The value of the header `Proxy-Authorization`.
    pub(super) login: Option<String>,
}

impl fmt::Debug for CoalescingConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CoalescingConnector(..)")
    }
}

impl<In: Transport> Connector<In> for CoalescingConnector {
    type Out = CoalescingTransport<In>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let forward = match (self.is_forwarded, details.uri.authority()) {
            (true, Some(authority)) => {
                let login = self.login.as_ref();
                let headers = login.map(|login| format!("Proxy-Authorization: {login}\r\n"));
                let origin = format!("http://{authority}");
                Some(ForwardedHead { origin, headers: headers.unwrap_or_default() })
            }
            _ => None,
        };
        let transport =
            |inner| CoalescingTransport { inner, held: Vec::new(), is_new: true, forward };
        Ok(chained.map(transport))
    }
}

/// What a proxy that sends requests on gets in each of them.
struct ForwardedHead {
    /// The scheme and server, before the path in the request line.
    origin: String,
    /// Headers for the proxy itself.
    headers: String,
}

impl ForwardedHead {
    /// Completes the request that begins in `bytes`.
    fn complete(&self, bytes: &mut Vec<u8>) {
        let line_end = bytes.windows(2).position(|two| two == b"\r\n");
        let method_end = bytes.iter().position(|&byte| byte == b' ');
        if let (Some(line_end), Some(method_end)) = (line_end, method_end) {
            let (after, path) = (line_end + 2, method_end + 1);
            bytes.splice(after..after, self.headers.bytes());
            bytes.splice(path..path, self.origin.bytes());
        }
    }
}

/// A connection that holds back its output.
pub(super) struct CoalescingTransport<In> {
    inner: In,
    held: Vec<u8>,
    /// Whether nothing of the request has been sent yet.
    is_new: bool,
    forward: Option<ForwardedHead>,
}

impl<In: Transport> fmt::Debug for CoalescingTransport<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CoalescingTransport").field(&self.inner).finish()
    }
}

impl<In: Transport> CoalescingTransport<In> {
    fn send(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        if let (true, Some(forward)) = (self.is_new && !self.held.is_empty(), &self.forward) {
            forward.complete(&mut self.held);
            self.is_new = false;
        }
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

impl<In: Transport> Transport for CoalescingTransport<In> {
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
        self.is_new = true;
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use crate::system::remote::http::write_coalescing::*;

    #[test]
    fn a_proxy_that_sends_requests_on_gets_the_whole_address() {
        let origin = "http://git.example.org:8080".to_owned();
        let headers = "Proxy-Authorization: Basic eA==\r\n".to_owned();
        let mut request =
            b"POST /a.git/x HTTP/1.1\r\nHost: git.example.org:8080\r\n\r\nbody".to_vec();
        ForwardedHead { origin, headers }.complete(&mut request);
        assert_eq!(
            String::from_utf8(request).unwrap(),
            "POST http://git.example.org:8080/a.git/x HTTP/1.1\r\n\
             Proxy-Authorization: Basic eA==\r\nHost: git.example.org:8080\r\n\r\nbody"
        );
    }
}
