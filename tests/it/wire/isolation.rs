//! Ten repositories, one of them in trouble, whatever the trouble: the other nine are done, and where
//! the trouble is that something hangs, they are done while it still does.

use std::fmt::Write;
use std::net::UdpSocket;
use std::process::Child;
use std::time::Duration;

use crate::sandbox::{Sandbox, text, wait_until};
use crate::servers::{Behaviour, Daemon, Face, HttpProxy, Https, PASSWORDS_ONLY, Proxy, Sshd};

use super::{acted, converges, mitm_proxy, news, pull_from, reason, trusting};

const NINE: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

/// What becomes of the one that is in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ill {
    /// It is told, and is where it was.
    Fails,
    /// As that, and only after the nine are done.
    Hangs,
    /// Some tick finishes it.
    Heals,
}

fn ten() -> Sandbox {
    acted(&[NINE.as_slice(), &["ill"]].concat())
}

/// A tick that goes on beside the test, and not longer.
struct Tick(Child);

impl Tick {
    fn begin(machine: &Sandbox) -> Self {
        Self(machine.agent_command(&["tick", "--trigger", "cron"]).spawn().unwrap())
    }

    /// Makes sure that it has not ended yet.
    #[track_caller]
    fn still_hangs(&mut self, beside: &str) {
        assert!(self.0.try_wait().unwrap().is_none(), "nothing hangs any longer: {beside}");
    }

    fn outlast(mut self) {
        self.0.wait().unwrap();
    }
}

impl Drop for Tick {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until each of `revisions` was acted upon.
#[track_caller]
fn all_are_done(machine: &Sandbox, revisions: &[(&str, String)], beside: &str) {
    wait_until(&format!("the others are done beside {beside}"), || {
        revisions.iter().all(|(name, revision)| machine.lastaction(name).as_ref() == Some(revision))
    });
}

/// News for all ten, of which `ill` is pulled from `url` with `settings` of its own, and the others
/// from `server`.
#[track_caller]
fn nine_are_done(machine: &Sandbox, server: &Https, settings: &str, url: &str, ill: Ill) {
    let mut toml = format!("[defaults]\n{}network_timeout = \"8s\"\n", trusting(server));
    for name in NINE {
        let _ = write!(toml, "[repo.{name}]\nurl = {:?}\n", server.url(name));
    }
    machine.configure(&format!("{toml}[repo.ill]\nurl = {url:?}\n{settings}"));
    let revisions = NINE.map(|name| (name, news(machine, name, url)));
    let good = machine.lastaction("ill");
    let revision = news(machine, "ill", url);
    let mut tick = Tick::begin(machine);
    all_are_done(machine, &revisions, url);
    if ill == Ill::Hangs {
        tick.still_hangs(url);
    }
    tick.outlast();
    if ill == Ill::Heals {
        let revision = machine.git(&machine.server("ill"), &["rev-parse", "main"]);
        let healed = (0..20).any(|_| {
            machine.tick();
            machine.lastaction("ill").as_ref() == Some(&revision)
        });
        assert!(healed, "{url}: {:#}", machine.row("ill"));
        return converges(machine, "ill", &revision);
    }
    assert_eq!(machine.lastaction("ill"), good, "{url}");
    assert_ne!(good, Some(revision), "{url}");
    assert!(!reason(machine, "ill").is_empty(), "{url}: {:#}", machine.row("ill"));
}

#[test]
fn nine_are_done_next_to_a_line_that_misbehaves() {
    let machine = ten();
    let server = Https::of(&machine);
    let line = Proxy::to(server.port(Face::Good));
    let url = line.url_of(&server.url("ill"));
    let patient = "network_timeout = \"2m\"\n";
    for (behaviour, ill) in [
        (Behaviour::BlackHole, Ill::Hangs),
        (Behaviour::ResetAfter(0), Ill::Fails),
        (Behaviour::ResetAfter(1_000), Ill::Fails),
        (Behaviour::FlipBitOf(1_000), Ill::Fails),
        (Behaviour::Flood(b"flood".repeat(1_000)), Ill::Fails),
        (Behaviour::ResetEverySecond, Ill::Heals),
    ] {
        line.behave(behaviour);
        nine_are_done(&machine, &server, patient, &url, ill);
    }
    // The pause is long enough for any number of bytes.
    line.behave(Behaviour::Drip(Duration::from_millis(200)));
    nine_are_done(&machine, &server, "", &url, Ill::Fails);
}

#[test]
fn nine_are_done_next_to_a_repository_that_hangs_on_the_same_server() {
    let machine = ten();
    let server = Https::of(&machine);
    let patient = "network_timeout = \"20s\"\n";
    for (way, settings, ill) in [
        (mitm_proxy::says_nothing(&server), patient, Ill::Hangs),
        (mitm_proxy::never_sends(&server), patient, Ill::Hangs),
        (mitm_proxy::packs_without_end(&machine, &server), "", Ill::Fails),
        (mitm_proxy::lists_without_end(&server), "", Ill::Fails),
    ] {
        nine_are_done(&machine, &server, settings, &server.url_at(&way, "ill"), ill);
    }
}

#[test]
fn nine_are_done_next_to_one_that_is_refused() {
    let machine = ten();
    let server = Https::of(&machine);
    // Not 429: with it the server asks to be left alone, by all ten.
    let ways = ["status/401/", "status/403/", "status/404/", "status/500/", "status/503/"];
    let more = ["loop/", "elsewhere/"];
    let faces = [Face::Expired, Face::SelfSigned, Face::WrongHost, Face::ClientCertificate];
    let urls = ways.iter().chain(&more).map(|way| server.url_at(way, "ill"));
    let urls = urls.chain(faces.iter().map(|face| server.url_on(*face, "ill")));
    let nowhere = ["https://git.invalid/ill.git", "https://localhost:1/ill.git"];
    for url in urls.chain(nowhere.map(str::to_owned)) {
        nine_are_done(&machine, &server, "", &url, Ill::Fails);
    }
    for url in [server.url_on(Face::Plain, "ill"), Daemon::of(&machine).url("ill")] {
        nine_are_done(&machine, &server, "", &url, Ill::Fails);
    }
    let proxy = HttpProxy::with_password();
    let settings = format!("proxy = {:?}\n", proxy.url());
    nine_are_done(&machine, &server, &settings, &server.url("ill"), Ill::Fails);
    assert!(proxy.refused() > 0);
}

#[test]
fn nine_are_done_next_to_one_that_fails_half_the_time_or_moves_meanwhile() {
    let machine = ten();
    let server = Https::of(&machine);
    nine_are_done(&machine, &server, "", &server.url_at("flaky/", "ill"), Ill::Heals);
    let move_on = format!(
        "(export GIT_DIR='{}'; commit='git -c user.name=Pat -c user.email=pat@example.org commit-tree'
          git update-ref refs/heads/main $($commit -m moved -p main 'main^{{tree}}'))",
        text(&machine.server("ill"))
    );
    let way = mitm_proxy::before_a_fetch(&machine, &server, &move_on);
    nine_are_done(&machine, &server, "", &server.url_at(&way, "ill"), Ill::Heals);
    let subject = machine.git(&machine.clone_of("ill"), &["log", "-1", "--format=%s"]);
    assert_eq!(subject, "moved");
}

#[test]
fn nine_are_done_next_to_an_ssh_server_that_refuses() {
    let machine = ten();
    let server = Https::of(&machine);
    let mut sshd = Sshd::of(&machine);
    let (key, known) = (sshd.client_key(), sshd.known_hosts());
    let settings = format!("key_file = {key:?}\nknown_hosts = {known:?}\n");
    for (lines, ill) in [
        ("MaxSessions 0\n", Ill::Fails),
        ("MaxSessions 1\n", Ill::Heals),
        (PASSWORDS_ONLY, Ill::Fails),
    ] {
        sshd.restart_with(lines);
        nine_are_done(&machine, &server, &settings, &sshd.url("ill"), ill);
    }
    sshd.change_host_key();
    nine_are_done(&machine, &server, &settings, &sshd.url("ill"), Ill::Fails);
    let line = Proxy::to(sshd.port());
    line.behave(Behaviour::BlackHole);
    let url = sshd.url("ill").replace(&sshd.port().to_string(), &line.port().to_string());
    let patient = format!("{settings}network_timeout = \"2m\"\n");
    nine_are_done(&machine, &server, &patient, &url, Ill::Hangs);
}

#[test]
fn nine_are_done_next_to_one_whose_name_server_is_silent() {
    let machine = ten();
    let server = Https::of(&machine);
    let mut urls: Vec<_> = NINE.iter().map(|name| (*name, server.url(name))).collect();
    urls.push(("ill", "https://git.example.org/ill.git".to_owned()));
    pull_from(&machine, &trusting(&server), &urls);
    let revisions = NINE.map(|name| (name, news(&machine, name, "new")));
    let silent = UdpSocket::bind("127.77.0.1:53").expect("a name server of its own takes root");
    let resolver = machine.path("resolv.conf");
    std::fs::write(&resolver, "nameserver 127.77.0.1\noptions timeout:30\n").unwrap();
    let mut tick = machine.command("unshare");
    let instead = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    tick.args(["--mount", "sh", "-c", instead, text(&resolver)]);
    let mut tick =
        Tick(tick.args(machine.agent_line(&["tick", "--trigger", "cron"])).spawn().unwrap());
    all_are_done(&machine, &revisions, "a name server that is silent");
    tick.still_hangs("a name server that is silent");
    tick.outlast();
    assert!(silent.recv(&mut [0; 512]).unwrap() > 0, "it was asked");
    let why = reason(&machine, "ill");
    assert!(why.starts_with("no name server resolves git.example.org"), "{why}");
}

/// The first of ten and of three repositories on one server hangs as soon as it is asked where its
/// branch is: `first` is its address, `url` tells those of the others.
#[track_caller]
fn the_first_delays_no_other(
    machine: &Sandbox,
    settings: &str,
    url: impl Fn(&str) -> String,
    first: String,
) {
    for count in [10, 3] {
        let others = &NINE[..count - 1];
        let mut urls = vec![("0-first", first.clone())];
        urls.extend(others.iter().map(|name| (*name, url(name))));
        pull_from(machine, settings, &urls);
        let revisions: Vec<_> =
            others.iter().map(|name| (*name, news(machine, name, &count.to_string()))).collect();
        let mut tick = Tick::begin(machine);
        all_are_done(machine, &revisions, &first);
        tick.still_hangs(&first);
    }
}

#[test]
fn a_repository_whose_poll_hangs_delays_no_other_on_its_web_server() {
    let machine = acted(&[["0-first"].as_slice(), &NINE].concat());
    let server = Https::of(&machine);
    let first = server.url_at(&mitm_proxy::says_nothing(&server), "0-first");
    the_first_delays_no_other(&machine, &trusting(&server), |name| server.url(name), first);
}

#[test]
fn a_repository_whose_poll_hangs_delays_no_other_on_its_ssh_server() {
    let machine = acted(&[["0-first"].as_slice(), &NINE].concat());
    let sshd = Sshd::of(&machine);
    sshd.hang_on("0-first");
    let (key, known) = (sshd.client_key(), sshd.known_hosts());
    let settings = format!("key_file = {key:?}\nknown_hosts = {known:?}\n");
    let first = sshd.url("0-first");
    the_first_delays_no_other(&machine, &settings, |name| sshd.url(name), first);
}

#[test]
fn a_repository_on_a_disk_that_hangs_delays_no_other() {
    let machine = acted(&[["0-first", "1-second"].as_slice(), &NINE].concat());
    let server = Https::of(&machine);
    let mut urls: Vec<_> = NINE.iter().map(|name| (*name, server.url(name))).collect();
    urls.extend(["0-first", "1-second"].map(|name| (name, text(&machine.server(name)).to_owned())));
    pull_from(&machine, &trusting(&server), &urls);
    let others = NINE.iter().chain(&["1-second"]);
    let revisions: Vec<_> = others.map(|name| (*name, news(&machine, name, "new"))).collect();
    let branch = machine.server("0-first").join("refs/heads/main");
    let mut tick = machine.command("strace");
    tick.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=openat:delay_enter=600s", "-P"]);
    tick.arg(branch).args(machine.agent_line(&["tick", "--trigger", "cron"]));
    let mut tick = Tick(tick.spawn().unwrap());
    all_are_done(&machine, &revisions, "a disk that hangs");
    tick.still_hangs("a disk that hangs");
}

#[test]
fn clones_that_cannot_be_made_yet_keep_no_worker_from_others() {
    let machine = acted(&["z-ops"]);
    let server = Https::of(&machine);
    let line = Proxy::to(server.port(Face::Good));
    line.behave(Behaviour::BlackHole);
    let missing: Vec<String> = (0..20).map(|number| format!("m{number:02}")).collect();
    let mut urls = vec![("z-ops", server.url("z-ops"))];
    urls.extend(missing.iter().map(|name| (name.as_str(), line.url_of(&server.url(name)))));
    pull_from(&machine, &trusting(&server), &urls);
    let revision = news(&machine, "z-ops", "new");
    let mut tick = Tick::begin(&machine);
    all_are_done(&machine, &[("z-ops", revision)], "clones that cannot be made");
    tick.still_hangs("clones that cannot be made");
    let asked = line.counts().connections;
    assert!(asked < 16, "as many as there are workers were asked at once: {asked}");
    tick.outlast();
    assert_eq!(machine.state("m19"), "unreachable", "{:#}", machine.row("m19"));
}
