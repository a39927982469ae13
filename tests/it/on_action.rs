//! `on_action`: each ended action is reported once, whichever process ran it, and a program that hangs or fails
//! costs nothing but its report.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::{self, JoinHandle};

use crate::sandbox::{Ran, Sandbox, text, wait_until, write_program};

const WORK: &str = "\
echo x >> \"$AGENT_ROOT/../begun\"
while [ -e \"$AGENT_ROOT/../wait\" ]; do sleep 0.05; done
[ ! -e \"$AGENT_ROOT/../bad\" ] || exit 3
";

/// A machine with the repository `ops`, on which `on_action` runs the `program` text.
fn machine(program: &str) -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", WORK)]);
    let file = machine.path("report");
    write_program(&file, format!("#!/bin/sh\ncd \"$(dirname \"$0\")\"\n{program}\n"));
    machine.configure(&format!("[defaults]\non_action = [{:?}, \"-x\"]\n", text(&file)));
    machine
}

const NOTES: &str = "echo \"$1 $AGENT_REPO $AGENT_REVISION ${AGENT_PREVIOUS:-none} $AGENT_OUTCOME \
                     $AGENT_TRIGGER $AGENT_SUBJECT\" >> reports";

fn reports(machine: &Sandbox) -> Vec<String> {
    let text = fs::read_to_string(machine.path("reports")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A tick in the background.
fn begin(machine: &Sandbox) -> Child {
    let mut command = machine.agent_command(&["tick", "--trigger", "cron"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn each_ended_action_is_reported_once_with_what_happened() {
    let machine = machine(&format!(
        "{NOTES}; [ -n \"$AGENT_HOST\" ] && [ -n \"$AGENT_SECONDS\" ] || echo no"
    ));
    machine.tick().ok();
    let first = machine.lastaction("ops").unwrap();
    assert_eq!(reports(&machine), [format!("-x ops {first} none succeeded cron A change")]);
    machine.tick().ok();
    machine.tick().ok();
    assert_eq!(reports(&machine).len(), 1, "nothing ran");

    fs::write(machine.path("bad"), "").unwrap();
    let second = machine.push("ops", &[("page", "two")]);
    machine.tick().exits(1);
    machine.tick().exits(1);
    assert_eq!(reports(&machine)[1..], [format!("-x ops {second} {first} failed cron A change")]);
    fs::remove_file(machine.path("bad")).unwrap();
    machine.agent(&["redo", "ops"]).ok();
    machine.agent(&["rollback", "ops"]).ok();
    let triggers: Vec<_> =
        reports(&machine)[2..].iter().map(|it| it.split(' ').nth(5).unwrap().to_owned()).collect();
    assert_eq!(triggers, ["redo", "rollback"]);
}

#[test]
fn what_ended_before_the_key_was_written_is_not_reported() {
    let machine = Sandbox::with("ops", &[("work.sh", WORK)]);
    machine.tick().ok();
    let other = self::machine(NOTES);
    machine.configure(&format!("[repo.ops]\non_action = [{:?}]\n", text(&other.path("report"))));
    machine.tick().ok();
    assert_eq!(reports(&other), [""; 0]);
    machine.push("ops", &[("page", "two")]);
    machine.tick().ok();
    assert_eq!(reports(&other).len(), 1);
}

#[test]
fn an_action_whose_tick_died_is_reported_by_the_next() {
    let machine = machine(NOTES);
    machine.tick().ok();
    fs::write(machine.path("wait"), "").unwrap();
    let second = machine.push("ops", &[("page", "two")]);
    let mut tick = begin(&machine);
    let begun = || fs::read_to_string(machine.path("begun")).unwrap_or_default().lines().count();
    wait_until("the script runs", || begun() == 2);
    tick.kill().unwrap();
    tick.wait().unwrap();
    fs::remove_file(machine.path("wait")).unwrap();
    wait_until("its worker ends", || {
        machine.lastaction("ops") == Some(second.clone()) && machine.state("ops") == "current"
    });
    assert_eq!(reports(&machine).len(), 1);
    machine.tick().ok();
    machine.tick().ok();
    let reports = reports(&machine);
    assert!(reports.len() == 2 && reports[1].contains(&second), "{reports:?}");
}

#[test]
fn a_program_that_hangs_delays_no_action_and_is_not_started_again_meanwhile() {
    let machine = machine(&format!("{NOTES}; while [ -e hang ]; do sleep 0.05; done"));
    fs::write(machine.path("hang"), "").unwrap();
    let mut tick = begin(&machine);
    wait_until("the program hangs", || reports(&machine).len() == 1);
    for page in ["two", "three"] {
        let revision = machine.push("ops", &[("page", page)]);
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(revision));
    }
    assert_eq!(reports(&machine).len(), 1);
    fs::remove_file(machine.path("hang")).unwrap();
    assert!(tick.wait().unwrap().success());
    machine.tick().ok();
    assert_eq!(
        reports(&machine).len(),
        3,
        "the next tick reports what is left: {:?}",
        reports(&machine)
    );
}

#[test]
fn a_tick_that_dies_while_it_reports_loses_no_report_of_another_repository() {
    let machine = machine(&format!("{NOTES}; while [ -e hang ]; do sleep 0.05; done"));
    machine.serve("web", &[("work.sh", WORK)]);
    machine.clone_to_root("web");
    fs::write(machine.path("hang"), "").unwrap();
    let mut tick = begin(&machine);
    wait_until("the program hangs", || reports(&machine).len() == 1);
    tick.kill().unwrap();
    tick.wait().unwrap();
    fs::remove_file(machine.path("hang")).unwrap();
    machine.tick().ok();
    let reports = reports(&machine).join("\n");
    assert!(reports.contains("-x web ") && reports.contains("-x ops "), "{reports}");
}

#[test]
fn a_program_that_fails_or_is_missing_fails_nothing_else() {
    let failing = machine("exit 4");
    let shown = failing.tick().ok().stderr;
    assert!(shown.contains("on_action failed") && shown.contains("exited 4"), "{shown}");
    assert_eq!(failing.tick().ok().stderr, "");
    let missing = machine("");
    fs::remove_file(missing.path("report")).unwrap();
    let shown = missing.tick().ok().stderr;
    assert!(
        shown.contains("on_action did not start") && shown.contains("hint: agent check"),
        "{shown}"
    );
    assert_eq!(missing.state("ops"), "current");
    let check = missing.agent(&["check", "--offline"]).stdout;
    assert!(check.contains("correct on_action"), "{check}");
}

#[test]
fn a_program_that_another_user_may_exchange_is_not_run() {
    let machine = machine(NOTES);
    chown(machine.path("report"), Some(65534), None).unwrap();
    let shown = machine.tick().ok().stderr;
    assert!(
        shown.contains("the program of on_action is not run") && shown.contains("nobody"),
        "{shown}"
    );
    assert_eq!(reports(&machine), [""; 0]);
    assert!(machine.agent(&["check", "--offline"]).stdout.contains("on_action is not run"));
}

/// Answers one request on a port of loopback: the port, and what it was sent.
fn answers(answer: fn(&mut TcpStream) -> String) -> (u16, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, thread::spawn(move || answer(&mut listener.accept().unwrap().0)))
}

fn http(stream: &mut TcpStream) -> String {
    let (mut head, mut length) = (String::new(), 0);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while !head.ends_with("\r\n\r\n") {
        let start = head.len();
        reader.read_line(&mut head).unwrap();
        if let Some(value) = head[start..].to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    head + &String::from_utf8(body).unwrap()
}

fn smtp(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut heard = String::new();
    stream.write_all(b"220 mail\r\n").unwrap();
    loop {
        let start = heard.len();
        if reader.read_line(&mut heard).unwrap() == 0 {
            return heard;
        }
        let answer: &[u8] = match &heard[start..] {
            "DATA\r\n" => {
                stream.write_all(b"354 go\r\n").unwrap();
                while !heard.ends_with("\r\n.\r\n") {
                    reader.read_line(&mut heard).unwrap();
                }
                b"250 taken\r\n"
            }
            "QUIT\r\n" => b"221 bye\r\n",
            _ => b"250 fine\r\n",
        };
        stream.write_all(answer).unwrap();
    }
}

fn chat() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/chat/tell-chat")
}

#[test]
fn the_example_tells_each_kind_of_chat() {
    const SUBJECT: &str = "Say \"hello\" \\ <!channel> & go";
    let machine = Sandbox::new();
    let send =
        |service: &str, answer: fn(&mut TcpStream) -> String, lines: &dyn Fn(u16) -> String| {
            let (port, heard) = answers(answer);
            let file = machine.path("chat");
            fs::write(&file, lines(port)).unwrap();
            let mut command = machine.command("bash");
            command.args([text(&chat()), service, text(&file)]);
            for (name, value) in [
                ("HOST", "web1"),
                ("REPO", "ops"),
                ("REVISION", "62fd60d1aa"),
                ("PREVIOUS", ""),
                ("OUTCOME", "failed"),
                ("SECONDS", "1.5"),
                ("TRIGGER", "cron"),
                ("SUBJECT", SUBJECT),
            ] {
                command.env(format!("AGENT_{name}"), value);
            }
            Ran::of(&mut command).ok();
            heard.join().unwrap()
        };
    let body = |heard: &str| -> serde_json::Value {
        serde_json::from_str(heard.split_once("\r\n\r\n").unwrap().1).expect(heard)
    };
    let told = format!("web1: ops 62fd60d failed after 1.5 s (cron): {SUBJECT}");

    let heard = send("slack", http, &|port| format!("http://127.0.0.1:{port}/services/T0\n"));
    assert!(heard.starts_with("POST /services/T0 "), "{heard}");
    let escaped = told.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    assert_eq!(body(&heard)["text"], escaped);

    let heard =
        send("matrix", http, &|port| format!("http://127.0.0.1:{port}/rooms/!r:x\ntoken-1\n"));
    assert!(heard.starts_with("PUT /rooms/!r:x/send/m.room.message/"), "{heard}");
    assert!(heard.contains("Authorization: Bearer token-1\r\n"), "{heard}");
    assert_eq!(body(&heard)["body"], told);

    let heard = send("ntfy", http, &|port| format!("http://127.0.0.1:{port}/alerts\n"));
    assert!(
        heard.starts_with("POST /alerts ") && heard.contains("Title: ops failed\r\n"),
        "{heard}"
    );
    assert!(heard.ends_with(&told) && !heard.contains("Authorization"), "{heard}");

    let heard = send("mail", smtp, &|port| {
        format!("smtp://127.0.0.1:{port}\na@example.org\nb@example.org\n")
    });
    assert!(
        heard.contains("FROM:<a@example.org>") && heard.contains("TO:<b@example.org>"),
        "{heard}"
    );
    assert!(heard.contains("Subject: ops failed\r\n") && heard.contains(&told), "{heard}");

    let mut unknown = machine.command("bash");
    let file = machine.path("chat");
    let envs = ["HOST", "REPO", "REVISION", "OUTCOME", "SECONDS", "TRIGGER", "SUBJECT"];
    unknown
        .args([text(&chat()), "irc", text(&file)])
        .envs(envs.map(|name| (format!("AGENT_{name}"), "")));
    assert!(Ran::of(&mut unknown).exits(2).stderr.contains("irc is none of"));
}

#[test]
fn the_example_is_run_by_the_agent() {
    let (port, heard) = answers(http);
    let machine = Sandbox::with("ops", &[("work.sh", "true")]);
    let (program, file) = (machine.path("tell-chat"), machine.path("chat"));
    fs::copy(chat(), &program).unwrap();
    fs::write(&file, format!("http://127.0.0.1:{port}/alerts\n")).unwrap();
    let argv = format!("{:?}, \"ntfy\", {:?}", text(&program), text(&file));
    machine.configure(&format!("[defaults]\non_action = [{argv}]\n"));
    machine.tick().ok();
    let heard = heard.join().unwrap();
    assert!(heard.contains(": ops ") && heard.ends_with(" s (cron): A change"), "{heard}");
}
