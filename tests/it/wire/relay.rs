//! What is new comes over the connection that polled: the tick, which has it, fetches for its worker. And
//! a worker gets its job from its tick, and looks at nothing else.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, set_mode, text, wait_until};
use crate::servers::{Face, Https};

use super::mitm_proxy::meddle;
use super::{acted, converges, news, pull_from, trusting};

/// Each request of a tick with something new: its status, and its connection counted from the first.
fn asked_for_news(machine: &Sandbox, server: &Https) -> Vec<(u16, u64)> {
    let revision = news(machine, "ops", "new");
    server.forget_requests();
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops").as_ref(), Some(&revision), "{:#}", machine.row("ops"));
    let requests = server.requests();
    let first = requests[0].connection;
    requests.iter().map(|it| (it.status, it.connection - first)).collect()
}

#[test]
fn news_come_over_the_connection_that_polled() {
    for (face, more) in [(Face::Good, ""), (Face::Plain, "insecure = true\n")] {
        let machine = acted(&["ops"]);
        let server = Https::of(&machine);
        let settings = trusting(&server) + more;
        pull_from(&machine, &settings, &[("ops", server.url_on(face, "ops"))]);
        machine.tick().ok();
        assert_eq!(asked_for_news(&machine, &server), [(200, 0), (200, 0)], "{face:?}");
    }
}

#[test]
fn a_redirect_and_a_login_are_remembered_for_the_one_who_fetches() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let password = machine.path("password");
    fs::write(&password, format!("{}\n", crate::servers::PASSWORD)).unwrap();
    set_mode(&password, 0o600);
    for way in ["redirect/301/", "auth/"] {
        let login =
            format!("username = {:?}\npassword_file = {:?}\n", crate::servers::USER, password);
        pull_from(&machine, &(trusting(&server) + &login), &[("ops", server.url_at(way, "ops"))]);
        machine.tick().ok();
        assert_eq!(asked_for_news(&machine, &server), [(200, 0), (200, 0)], "{way}");
    }
}

#[test]
fn the_helper_of_another_user_fetches_for_its_own_workers() {
    let machine = crate::users::machine("true\n");
    let server = Https::of(&machine);
    set_mode(&server.ca_file(), 0o644);
    set_mode(server.ca_file().parent().unwrap(), 0o755);
    set_mode(server.ca_file().parent().unwrap().parent().unwrap(), 0o755);
    pull_from(&machine, &trusting(&server), &[("ops", server.url("ops"))]);
    machine.tick();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
    crate::users::push(&machine, &[("page", "new")]);
    server.forget_requests();
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
    let connections: Vec<u64> = server.requests().iter().map(|it| it.connection).collect();
    assert!(connections.len() == 2 && connections[0] == connections[1], "{connections:?}");
}

#[test]
fn a_worker_whose_tick_dies_in_the_middle_fetches_for_itself() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let dir = machine.path("fetching");
    fs::create_dir(&dir).unwrap();
    // The first fetch sends the beginning of its answer, and the rest when it may.
    let script = format!(
        "if fetching && mkdir {0}/first 2>/dev/null; then\n\
         pass_on > {0}/answer; head -c 300 {0}/answer; touch {0}/begun\n\
         while [ ! -e {0}/go ]; do sleep 0.02; done; tail -c +301 {0}/answer\n\
         else pass_on; fi\n",
        text(&dir)
    );
    let way = meddle(&server, "slow", &script);
    pull_from(&machine, &trusting(&server), &[("ops", server.url_at(&way, "ops"))]);
    machine.tick().ok();
    let revision = news(&machine, "ops", "new");
    let mut tick = machine
        .agent_command(&["tick"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the fetch has begun", || dir.join("begun").exists());
    tick.kill().unwrap();
    tick.wait().unwrap();
    wait_until("the worker is done", || machine.lastaction("ops").as_ref() == Some(&revision));
    fs::write(dir.join("go"), "").unwrap();
    converges(&machine, "ops", &revision);
    let runs = machine.runs();
    assert_eq!(runs.iter().filter(|run| **run == format!("end {revision}")).count(), 1, "{runs:?}");
}

#[test]
fn an_answer_that_breaks_off_is_no_reason_to_ask_twice() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let way =
        meddle(&server, "short", "if fetching; then pass_on | head -c 300; else pass_on; fi\n");
    pull_from(&machine, &trusting(&server), &[("ops", server.url_at(&way, "ops"))]);
    machine.tick().ok();
    news(&machine, "ops", "new");
    server.forget_requests();
    machine.tick();
    assert_eq!(machine.state("ops"), "unreachable", "{:#}", machine.row("ops"));
    assert_eq!(server.requests().len(), 2);
    let reason = machine.row("ops")["reason"].to_string();
    assert!(reason.contains("ends in the middle"), "{reason}");
}

#[test]
fn a_worker_reads_its_own_clone_and_no_other_and_no_configuration() {
    let names: Vec<String> = (0..20).map(|number| format!("app{number:02}")).collect();
    let machine = Sandbox::new();
    for name in &names {
        machine.serve(name, &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
        machine.clone_to_root(name);
    }
    machine.configure("[defaults]\ntimeout = \"1h\"\n");
    machine.tick().ok();
    news(&machine, "app07", "new");
    let trace = machine.path("trace");
    let mut strace = machine.command("strace");
    strace.args(["-ff", "-o", text(&trace), "-e", "trace=execve,open,openat"]);
    Ran::of(strace.args(machine.agent_line(&["tick"]))).ok();

    let of_the_worker = fs::read_dir(trace.parent().unwrap()).unwrap().filter_map(|file| {
        let calls = fs::read_to_string(file.unwrap().path()).ok()?;
        calls.lines().next()?.contains("\"worker\"").then_some(calls)
    });
    let of_the_worker: Vec<String> = of_the_worker.collect();
    let [calls] = of_the_worker.as_slice() else { panic!("{} workers", of_the_worker.len()) };
    let opened: Vec<&str> = calls
        .lines()
        .filter(|call| !call.contains(" = -1 "))
        .filter_map(|call| call.split('"').nth(1))
        .collect();
    let others = names.iter().filter(|name| *name != "app07");
    for other in others {
        let of_other =
            opened.iter().find(|path| Path::new(path).iter().any(|part| part == other.as_str()));
        assert_eq!(of_other, None, "a file of another repository");
    }
    assert!(!opened.iter().any(|path| path.ends_with("agent.toml")), "{opened:#?}");
    let git = machine.clone_of("app07").join(".git");
    for file in ["config", "HEAD"] {
        let count = opened.iter().filter(|path| Path::new(path) == git.join(file)).count();
        assert!(count <= 3, "{file} was opened {count} times:\n{}", opened.join("\n"));
    }
}
