//! Messages on a line between two processes of ours: a length of four bytes, then as many bytes. Does not
//! know what they mean.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest message that is read at once, in bytes.
const LARGEST: u32 = 16 << 20;

/// Sends one message.
///
/// # Errors
/// When the other process is gone, or takes nothing for as long as the line allows.
pub fn send(mut line: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| ErrorKind::InvalidInput)?;
    line.write_all(&length.to_be_bytes())?;
    line.write_all(bytes)
}

/// Sends `item` as JSON in one message.
///
/// # Errors
/// As for [`send`].
pub fn send_json(line: &UnixStream, item: &impl Serialize) -> io::Result<()> {
    send(line, &serde_json::to_vec(item)?)
}

/// Reads the length of the next message.
///
/// # Errors
/// When the other process is gone, or sends nothing for as long as the line allows.
pub fn length(mut line: &UnixStream) -> io::Result<u32> {
    let mut length = [0; size_of::<u32>()];
    line.read_exact(&mut length)?;
    Ok(u32::from_be_bytes(length))
}

/// Reads one message.
///
/// # Errors
/// As for [`length`], and when it is too large.
pub fn receive(mut line: &UnixStream) -> io::Result<Vec<u8>> {
    let length = length(line)?;
    if length > LARGEST {
        return Err(io::Error::new(ErrorKind::InvalidData, "a message that is too large"));
    }
    let mut bytes = vec![0; length as usize];
    line.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads one message with JSON.
///
/// # Errors
/// As for [`receive`], and when it is something else.
pub fn receive_json<T: DeserializeOwned>(line: &UnixStream) -> io::Result<T> {
    Ok(serde_json::from_slice(&receive(line)?)?)
}
