//! What is counted of the wire is what went over it.

use rustix::process::Signal;

use super::{Web, configured, put_secret};
use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, wait_until};
use crate::servers::{Behaviour, Daemon, Proxy};

#[test]
fn polls_and_bytes_are_counted_as_they_went_over_the_line() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    let daemon = Daemon::of(&machine);
    let line = Proxy::to(daemon.port());
    let url = line.url_of(&daemon.url("ops"));
    machine.git(&machine.clone_of("ops"), &["remote", "set-url", "origin", &url]);
    put_secret(&machine, "hush\n");
    let more = "[repo.ops]\ninsecure = true\n";
    machine.configure(&configured(&machine, more));
    machine.tick().ok();
    line.forget_counts();
    let listener = Listener::start(&machine);
    let web = Web::of(&listener);
    let polls = |result: &str| {
        web.metric(&format!("pmpy_polls_total{{repository=\"ops\",result=\"{result}\"}}"))
    };
    let bytes = || web.metric("pmpy_bytes_total{repository=\"ops\"}");
    let ticks_until = |what: &str, come: &dyn Fn() -> bool| {
        listener.signal(Signal::HUP);
        wait_until(what, come);
    };
    let over_the_line = || (line.counts().up + line.counts().down) as f64;

    // What it asks at its start, and twice more.
    wait_until("it has asked", || polls("answered") == 1.0);
    for count in [2.0, 3.0] {
        ticks_until("it has asked again", &|| polls("answered") == count);
    }
    assert_eq!((line.counts().connections, bytes()), (3, over_the_line()));

    let revision = machine.push("ops", &[("page", &"new ".repeat(10_000))]);
    let asked = bytes() / 3.0;
    ticks_until("it acts", &|| machine.lastaction("ops").as_ref() == Some(&revision));
    wait_until("all is counted", || bytes() > 4.0 * asked + 20.0);
    // A poll as before, and the pack of a fetch, which is not all that a fetch says.
    assert!(bytes() < over_the_line(), "{} of {}", bytes(), over_the_line());
    assert_eq!(polls("answered"), 4.0);

    assert_eq!(polls("failed"), 0.0);
    line.behave(Behaviour::CloseAfter(10));
    let before = bytes();
    ticks_until("nobody answers", &|| polls("failed") == 1.0);
    assert_eq!((polls("answered"), bytes()), (4.0, before));

    // One that is not to be asked is looked at and not asked.
    machine.configure(&configured(&machine, &format!("{more}poll = false\n")));
    let looks = || web.metric("pmpy_looks_total{repository=\"ops\"}");
    let seen = looks();
    ticks_until("it has looked", &|| looks() > seen);
    assert_eq!((polls("answered"), polls("failed")), (4.0, 1.0));
}
