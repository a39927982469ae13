//! `agent notify` where there is no broker: the push goes on, and one line says why nobody was told.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;

use crate::sandbox::{Ran, Sandbox, text, write_program};

/// The hook of a repository on the server, put into another one that notes how long it takes.
pub struct Timed {
    times: PathBuf,
}

impl Timed {
    /// The one that is installed now.
    pub fn hook(machine: &Sandbox, name: &str) -> Self {
        let times = machine.path("hook.times");
        let hook = machine.server(name).join("hooks/post-receive");
        let inner = hook.with_extension("timed");
        fs::rename(&hook, &inner).unwrap();
        let (inner, noted) = (text(&inner), text(&times));
        let script = format!(
            "#!/bin/bash\nbegan=$EPOCHREALTIME\n{inner}\necho $began $EPOCHREALTIME > {noted}\n"
        );
        write_program(&hook, script);
        Self { times }
    }

    /// Makes sure that the last push waited for it for two seconds, and some more on a busy machine.
    #[track_caller]
    pub fn took_two_seconds(&self) {
        let noted = fs::read_to_string(&self.times).unwrap();
        let times: Vec<f64> = noted.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let took = times[1] - times[0];
        assert!(took > 0.5 && took < 5.0, "{took} s");
    }
}

/// A server's repository whose hook is ours, with this configuration; what a push there says.
fn pushed_with(configuration: &str) -> (String, Timed, Sandbox) {
    let machine = Sandbox::new();
    machine.serve("ops", &[("page", "old")]);
    machine.configure(configuration);
    let line = machine.agent_line(&["notify"]).join(" ");
    let hook = machine.server("ops").join("hooks/post-receive");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    write_program(&hook, format!("#!/bin/sh\nexec {line}\n"));
    let timed = Timed::hook(&machine, "ops");
    let desk = machine.desk("ops");
    machine.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", "A change"]);
    let mut git = machine.command("git");
    let ran = Ran::of(git.current_dir(&desk).args(["push", "origin", "HEAD:main"])).ok();
    let revision = machine.git(&desk, &["rev-parse", "HEAD"]);
    assert_eq!(machine.git(&machine.server("ops"), &["rev-parse", "main"]), revision);
    let reported: Vec<_> =
        ran.stderr.lines().filter_map(|line| line.strip_prefix("remote: ")).collect();
    assert_eq!(reported.len(), 1, "{ran}");
    (reported[0].trim_end().to_owned(), timed, machine)
}

#[test]
fn a_push_continues_whatever_is_wrong_with_the_bus() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Longer than the part of a name may be: nobody is asked for it.
    let nobody = format!("[bus]\nbrokers = \"stomps://{}\"", "n".repeat(64));
    for (configuration, reason) in [
        ("", "no [bus] is configured"),
        ("[bus]\nbrokers = 7", "agent.toml:2:11: bus.brokers: expected "),
        (&nobody, "its name is not known"),
        (&format!("[bus]\nbrokers = \"stomp://127.0.0.1:{closed}\""), "Connection refused"),
        (
            "[bus]\nbrokers = \"stomp://127.0.0.1\"\nlogin_file = \"/nowhere\"",
            "login_file /nowhere cannot be used: /nowhere is not there",
        ),
    ] {
        let (reported, ..) = pushed_with(configuration);
        assert!(
            reported.starts_with("agent: not announced: ") && reported.contains(reason),
            "{reported}"
        );
        assert!(reported.ends_with("; servers will see it at their next poll"), "{reported}");
    }
}

#[test]
fn a_broker_that_never_answers_costs_two_seconds() {
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hole.local_addr().unwrap();
    let (reported, timed, _machine) =
        pushed_with(&format!("[bus]\nbrokers = \"stomp://{address}\""));
    assert!(reported.contains("it takes the connection and does not answer"), "{reported}");
    timed.took_two_seconds();
}

#[test]
fn the_name_is_what_the_git_server_calls_the_repository() {
    let machine = Sandbox::new();
    machine.serve("hashed", &[("page", "old")]);
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    machine.configure(&format!("[bus]\nbrokers = \"stomp://{}\"", broker.local_addr().unwrap()));
    let heard = std::thread::spawn(move || {
        let names = (0..4).map(|_| read_announcement(&broker));
        names.collect::<Vec<_>>()
    });
    let id = machine.git(&machine.server("hashed"), &["rev-parse", "main"]);
    let input = machine.path("input");
    fs::write(&input, format!("{} {id} refs/heads/main\n", "0".repeat(40))).unwrap();
    for variables in [
        &[("GL_REPO", "sites/a"), ("GL_USER", "pat")][..],
        &[("GL_PROJECT_PATH", "sites/b"), ("GL_REPOSITORY", "project-1"), ("GL_USERNAME", "pat")],
        &[
            ("GITEA_REPO_NAME", "c"),
            ("GITEA_REPO_USER_NAME", "sites"),
            ("GITEA_PUSHER_NAME", "pat"),
        ],
        &[("GL_USER", "pat")],
    ] {
        let mut notify = machine.agent_command(&["notify"]);
        notify.envs(variables.iter().copied()).current_dir(machine.server("hashed"));
        let stdin = Stdio::from(fs::File::open(&input).unwrap());
        assert!(notify.stdin(stdin).output().unwrap().status.success());
    }
    assert_eq!(
        heard.join().unwrap(),
        [("sites/a", "pat"), ("sites/b", "pat"), ("c", "pat"), ("hashed", "pat")]
            .map(|(repo, user)| (repo.to_owned(), user.to_owned()))
    );
}

/// The next frame of STOMP.
fn frame(client: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while bytes.last() != Some(&0) {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

/// Greets one client as a broker does; the names of repository and user in what it publishes.
fn read_announcement(broker: &TcpListener) -> (String, String) {
    let (mut client, _) = broker.accept().unwrap();
    assert!(frame(&mut client).starts_with("CONNECT"));
    client.write_all(b"CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0\n").unwrap();
    let sent = frame(&mut client);
    let after = |start: &str, end: char| {
        let rest = &sent[sent.find(start).unwrap() + start.len()..];
        rest.split(end).next().unwrap().to_owned()
    };
    (after("\nrepo: ", '\n'), after("\"user_name\":\"", '"'))
}

#[test]
fn what_git_never_writes_is_reported_and_nothing_at_all_is_no_error() {
    let machine = Sandbox::new();
    let reported = |input: &str| {
        let file = machine.path("input");
        fs::write(&file, input).unwrap();
        let mut notify = machine.agent_command(&["notify"]);
        let notify = notify.stdin(Stdio::from(fs::File::open(file).unwrap()));
        let output = notify.output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(reported(""), "");
    let nonsense = reported("hello\u{1b}[2J\n");
    assert!(nonsense.contains("\"hello\\u{1b}[2J\" is not \"OLD NEW REF\""), "{nonsense}");
    assert_eq!(nonsense.lines().count(), 1, "{nonsense}");
}

#[test]
fn a_person_who_types_it_hears_what_it_is_for() {
    let machine = Sandbox::new();
    let line = machine.agent_line(&["notify"]).join(" ");
    let mut script = machine.command("script");
    let ran = Ran::of(script.args(["-qec", &line, "/dev/null"])).exits(2);
    assert!(ran.stdout.contains("agent notify is a hook"), "{ran}");
    assert!(ran.stdout.contains("hooks/post-receive"), "{ran}");
}

#[test]
fn the_example_for_git_servers_is_understood() {
    let machine = Sandbox::new();
    let example = include_str!("../../examples/notify/notify.toml");
    let file = machine.path("notify.toml");
    fs::write(&file, example).unwrap();
    machine.agent(&["status", "--config", text(&file)]).ok();
    let hooks = [
        include_str!("../../examples/notify/post-receive"),
        include_str!("../../examples/notify/gitolite/post-receive"),
    ];
    for hook in hooks {
        assert!(
            hook.ends_with("exec /usr/local/bin/agent --config /etc/pmpy/notify.toml notify\n")
        );
    }
}
