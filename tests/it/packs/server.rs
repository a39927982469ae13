//! A git server over git:// in protocol version 2 that sends whatever pack it was given.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The server; its thread ends with the process.
pub struct Server {
    port: u16,
    fetches: Arc<AtomicUsize>,
}

impl Server {
    /// One that says that `main` is somewhere.
    pub fn start(pack: Vec<u8>) -> Self {
        Self::announcing(&"7".repeat(40), pack)
    }

    /// One that says that `main` is at `tip`, and sends `pack` for it.
    pub fn announcing(tip: &str, pack: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let fetches = Arc::new(AtomicUsize::new(0));
        let (tip, pack, counted) = (tip.to_owned(), Arc::new(pack), Arc::clone(&fetches));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tip, pack, counted) = (tip.clone(), Arc::clone(&pack), Arc::clone(&counted));
                // Who hangs up in the middle has seen enough.
                thread::spawn(move || drop(answer(stream, &tip, &pack, &counted)));
            }
        });
        Self { port, fetches }
    }

    /// The address of its repository.
    pub fn url(&self) -> String {
        format!("git://127.0.0.1:{}/bad.git", self.port)
    }

    /// How often the pack was asked for.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

fn packet(line: &[u8]) -> Vec<u8> {
    [format!("{:04x}", line.len() + 4).as_bytes(), line].concat()
}

/// The next packet; `None` at a flush or a delimiter.
fn read_packet(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let length = std::str::from_utf8(&head).ok().and_then(|it| usize::from_str_radix(it, 16).ok());
    let Some(length @ 4..) = length else { return Ok(None) };
    let mut line = vec![0; length - 4];
    stream.read_exact(&mut line)?;
    Ok(Some(line))
}

fn answer(
    mut stream: TcpStream,
    tip: &str,
    pack: &[u8],
    fetches: &AtomicUsize,
) -> std::io::Result<()> {
    read_packet(&mut stream)?;
    for line in ["version 2\n", "ls-refs=unborn\n", "fetch=shallow\n", "object-format=sha1\n"] {
        stream.write_all(&packet(line.as_bytes()))?;
    }
    stream.write_all(b"0000")?;
    let Some(command) = read_packet(&mut stream)? else { return Ok(()) };
    if command.starts_with(b"command=ls-refs") {
        stream
            .write_all(&packet(format!("{tip} HEAD symref-target:refs/heads/main\n").as_bytes()))?;
        stream.write_all(&packet(format!("{tip} refs/heads/main\n").as_bytes()))?;
    } else {
        while read_packet(&mut stream)?.is_none_or(|line| line != b"done\n") {}
        fetches.fetch_add(1, Ordering::SeqCst);
        stream.write_all(&packet(b"packfile\n"))?;
        for piece in pack.chunks(60_000) {
            stream.write_all(&packet(&[b"\x01", piece].concat()))?;
        }
    }
    stream.write_all(b"0000")?;
    // Whatever else is said is read, so that nothing of the answer is lost.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    Ok(())
}
