//! Servers of git's protocol in version 0, which say by which hash they name objects in one word or not at
//! all, and such as lie about it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;

use super::{FORMATS, by_itself, called, other, reason, serve_in};
use crate::sandbox::Sandbox;

/// Answers each connection by `answer`, which gets the path that was asked for; returns the port.
fn listen(answer: impl Fn(String, TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 4];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let length = usize::from_str_radix(std::str::from_utf8(&length).unwrap(), 16).unwrap();
            let mut greeting = vec![0; length - 4];
            stream.read_exact(&mut greeting).unwrap();
            let greeting = String::from_utf8(greeting).unwrap();
            let path = greeting.split(['\0', ' ']).nth(1).unwrap().to_owned();
            answer(path, stream);
        }
    });
    port
}

/// A git daemon that speaks version 0 alone.
fn old_daemon(machine: &Sandbox) -> u16 {
    let (home, served) = (machine.path("home"), machine.path("server"));
    listen(move |path, stream| {
        let asked: OwnedFd = stream.into();
        let answers = asked.try_clone().unwrap();
        let _ = Command::new("git")
            .arg("upload-pack")
            .arg(served.join(path.trim_start_matches('/')))
            .env_remove("GIT_PROTOCOL")
            .env("HOME", &home)
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .stdin(Stdio::from(asked))
            .stdout(Stdio::from(answers))
            .stderr(Stdio::null())
            .status();
    })
}

fn pull_over_git(machine: &Sandbox, port: u16) {
    machine.configure(&format!(
        "[repo.ops]\nurl = \"git://127.0.0.1:{port}/ops.git\"\ninsecure = true\n"
    ));
}

#[test]
fn an_old_server_of_either_hash_is_cloned_from_and_followed_and_reported_when_it_changes() {
    for format in FORMATS {
        let machine = Sandbox::new();
        let first = serve_in(&machine, format, "ops", "one");
        pull_over_git(&machine, old_daemon(&machine));
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(first), "{format}: {:#}", machine.row("ops"));
        let second = machine.push("ops", &[("page", "two")]);
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(second.clone()), "{format}");
        machine.git(&machine.clone_of("ops"), &["fsck", "--full", "--strict"]);
        serve_in(&machine, other(format), "ops", "three");
        by_itself(machine.tick()).exits(1);
        assert_eq!(machine.state("ops"), "rewritten", "{format}: {:#}", machine.row("ops"));
        assert!(reason(&machine, "ops").contains(called(other(format))), "{format}");
        assert_eq!(machine.lastaction("ops"), Some(second));
    }
}

/// A pkt-line.
fn packet(line: &str) -> String {
    format!("{:04x}{line}", line.len() + 4)
}

#[test]
fn a_server_that_lists_ids_of_a_length_that_it_did_not_announce_is_no_git_server() {
    let (short, long) = ("ab".repeat(20), "ab".repeat(32));
    let list = |id: &str, words: &str| {
        packet(&format!("{id} HEAD\0{words}\n"))
            + &packet(&format!("{id} refs/heads/main\n"))
            + "0000"
    };
    let answer_of_v2 = |id: &str, format: &str| {
        let said =
            ["version 2\n", "ls-refs\n", "fetch=shallow\n", &format!("object-format={format}\n")];
        let said: String = said.iter().map(|line| packet(line)).collect();
        said + "0000" + &packet(&format!("{id} refs/heads/main\n")) + "0000"
    };
    for answer in [
        list(&long, "side-band-64k ofs-delta"),
        list(&long, "side-band-64k object-format=sha1"),
        list(&short, "side-band-64k object-format=sha256"),
        packet(&format!("shallow {long}\n")) + &list(&short, "side-band-64k"),
        list(&short, "side-band-64k object-format=md5"),
        answer_of_v2(&long, "sha1"),
        answer_of_v2(&short, "sha256"),
        answer_of_v2(&long, "sha256"),
    ] {
        let machine = Sandbox::new();
        let good = serve_in(&machine, "sha1", "ops", "one");
        machine.clone_to_root("ops");
        machine.tick().ok();
        let said = answer.clone();
        pull_over_git(
            &machine,
            listen(move |_, mut stream| {
                let _ = stream.write_all(said.as_bytes());
                // Whatever is asked meanwhile is read, lest the answer is lost in a reset.
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            }),
        );
        for line in [&["tick", "--trigger", "cron"][..], &["tick", "ops"], &["check"], &["status"]]
        {
            by_itself(machine.agent(line));
        }
        let state = machine.state("ops");
        assert!(
            ["unreachable", "rewritten", "behind"].contains(&state.as_str()),
            "{state}: {answer:?}"
        );
        assert_eq!(machine.lastaction("ops"), Some(good), "{answer:?}");
        machine.git(&machine.clone_of("ops"), &["fsck", "--full", "--strict"]);
    }
}

#[test]
fn a_server_that_names_edges_by_the_other_hash_leaves_the_clone_as_it_is() {
    let machine = Sandbox::new();
    let good = serve_in(&machine, "sha1", "ops", "one");
    machine.clone_to_root("ops");
    machine.tick().ok();
    let tip = machine.push("ops", &[("page", "two")]);
    let said = ["version 2\n", "ls-refs\n", "fetch=shallow\n", "object-format=sha1\n"];
    let said: String = said.iter().map(|line| packet(line)).collect();
    let listed = packet(&format!("{tip} refs/heads/main\n")) + "0000";
    let edge =
        packet("shallow-info\n") + &packet(&format!("shallow {}\n", "ab".repeat(32))) + "0001";
    let port = listen(move |_, mut stream| {
        // What is asked has come before the server introduces itself.
        let mut question = vec![0; 4096];
        let read = stream.read(&mut question).unwrap_or(0);
        let question = String::from_utf8_lossy(&question[..read]).into_owned();
        let answer = if question.contains("command=fetch") {
            edge.clone() + &packet("packfile\n") + &packet("\u{1}PACK")
        } else {
            listed.clone()
        };
        let _ = stream.write_all((said.clone() + "0000" + &answer).as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    pull_over_git(&machine, port);
    by_itself(machine.tick());
    let reported = reason(&machine, "ops");
    assert!(reported.contains("which is no SHA-1 id"), "{reported}");
    assert_eq!(machine.lastaction("ops"), Some(good));
    assert!(!machine.clone_of("ops").join(".git/shallow").exists());
    machine.git(&machine.clone_of("ops"), &["fsck", "--full", "--strict"]);
}
