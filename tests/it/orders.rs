//! What a person orders: what a named tick reports, how long an order waits, and where it is refused.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, wait_until};

const NAME: &str = "ops";

/// A script that notes its runs, and waits in each for the file `go` as soon as there is a file `wait`.
const WAITS: &str = "echo start >> \"$AGENT_ROOT/../runs\"
while [ -e \"$AGENT_ROOT/../wait\" ] && [ ! -e \"$AGENT_ROOT/../go\" ]; do sleep 0.05; done
echo end >> \"$AGENT_ROOT/../runs\"
";

/// A machine in the middle of an action, and the tick that waits for its end.
fn in_the_middle() -> (Sandbox, Child) {
    let machine = Sandbox::with(NAME, &[("work.sh", WAITS)]);
    fs::write(machine.path("wait"), "").unwrap();
    let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]);
    let tick = tick.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("the script runs", || machine.runs() == ["start"]);
    (machine, tick)
}

fn go(machine: &Sandbox) {
    fs::write(machine.path("go"), "").unwrap();
}

/// Ends the action of [`in_the_middle`].
fn end(machine: &Sandbox, mut tick: Child) {
    go(machine);
    assert!(tick.wait().unwrap().success());
}

/// A named tick, by a person and by cron: only the report differs.
#[track_caller]
fn named_tick(machine: &Sandbox, code: i32, word: &str) {
    let ran = machine.agent(&["tick", NAME]).exits(code);
    assert!(ran.stdout.contains(word), "{word} is missing\n{ran}");
    machine.agent(&["tick", NAME, "--trigger", "cron"]).exits(code);
}

#[test]
fn a_named_tick_succeeds_only_where_the_revision_of_upstream_is() {
    let machine = Sandbox::with(NAME, &[("work.sh", NOTES_ITS_RUNS)]);
    let revision = machine.head(NAME);
    let ran = machine.agent(&["tick", NAME]).exits(0);
    assert!(ran.stdout.contains(&revision[..7]), "it names what it applied\n{ran}");
    named_tick(&machine, 0, "1 repositor");

    let away = machine.path("away");
    fs::rename(machine.server(NAME), &away).unwrap();
    named_tick(&machine, 1, "unreachable");
    machine.tick().exits(0);
    fs::rename(&away, machine.server(NAME)).unwrap();

    machine.agent(&["hold", NAME, "a restore"]).ok();
    named_tick(&machine, 1, "a restore");
    machine.tick().exits(0);
    machine.agent(&["unhold", NAME]).ok();

    machine.push(NAME, &[("work.sh", "exit 75\n")]);
    named_tick(&machine, 1, "waiting");
    machine.tick().exits(0);
    machine.push(NAME, &[("work.sh", "exit 3\n")]);
    named_tick(&machine, 1, "failing");
    machine.push(NAME, &[("work.sh", NOTES_ITS_RUNS), ("page", "another tree")]);
    named_tick(&machine, 0, "");

    machine.agent(&["rollback", NAME]).ok();
    named_tick(&machine, 1, "pinned");
    machine.agent(&["unhold", NAME]).ok();
    named_tick(&machine, 0, "");
    machine.configure("[repo.ops]\nactive = false\n");
    named_tick(&machine, 0, "");
}

#[test]
fn what_came_from_cron_is_recorded_as_such_and_what_was_named_as_a_persons() {
    let machine = Sandbox::with(NAME, &[("work.sh", NOTES_ITS_RUNS)]);
    let last = || {
        let ran = machine.agent(&["history", NAME, "-n", "1", "--json"]).ok();
        serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap().to_string()
    };
    machine.agent(&["tick"]).ok();
    assert!(last().contains("\"cron\""), "{}", last());
    machine.push(NAME, &[("page", "1\n")]);
    machine.agent(&["tick", NAME]).ok();
    assert!(last().contains("\"manual\""), "{}", last());
    machine.push(NAME, &[("page", "2\n")]);
    let ran = machine.agent(&["tick", NAME, "--trigger", "cron"]).ok();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "cron mails nothing");
    assert!(last().contains("\"cron\""), "{}", last());
}

#[test]
fn a_named_tick_waits_for_a_running_action_as_long_as_it_was_allowed_to() {
    let (machine, tick) = in_the_middle();
    for arguments in [&["tick", NAME][..], &["tick", NAME, "--wait", "--timeout", "1s"]] {
        let ran = machine.agent(arguments).exits(1);
        assert!(ran.stdout.contains("acting"), "{ran}");
    }
    machine.agent(&["tick", NAME, "--timeout", "1s"]).exits(2);
    let mut waiting = machine.agent_command(&["tick", NAME, "--wait"]);
    let mut waiting = waiting.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("its worker waits", || has_child(waiting.id()));
    end(&machine, tick);
    assert!(waiting.wait().unwrap().success());
    assert_eq!(machine.runs(), ["start", "end"]);
}

#[test]
fn an_order_that_was_killed_while_it_waited_is_not_carried_out_later() {
    for order in [&["redo", NAME][..], &["tick", NAME, "--wait", "--trigger", "redo"]] {
        let (machine, tick) = in_the_middle();
        let mut waiting = machine.agent_command(order);
        let mut waiting = waiting.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        wait_until("its worker waits", || has_child(waiting.id()));
        let worker = children(waiting.id());
        waiting.kill().unwrap();
        waiting.wait().unwrap();
        // An init that does not reap leaves a zombie, which does nothing.
        let lives = |pid: &&str| {
            let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        wait_until("the worker leaves", || worker.split_whitespace().filter(lives).count() == 0);
        end(&machine, tick);
        machine.tick().ok();
        assert_eq!(machine.runs(), ["start", "end"], "{order:?}");
    }
}

#[test]
fn orders_from_inside_an_action_are_refused_at_once_and_say_why() {
    let machine = Sandbox::with(NAME, &[("work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    let revision = machine.head(NAME);
    let agent = machine.agent_line(&[]).join(" ");
    let work = format!(
        "echo run >> \"$AGENT_ROOT/../inside\"
for order in 'redo ops' 'rollback ops' 'accept ops {revision}' 'checkout ops main' 'tick ops --wait' 'tick --wait'
do
    {agent} $order > \"$AGENT_ROOT/../said\" 2>&1 < /dev/null
    echo \"$? $order: $(cat \"$AGENT_ROOT/../said\")\" >> \"$AGENT_ROOT/../orders\"
done
"
    );
    machine.push(NAME, &[("work.sh", &work)]);
    machine.tick().ok();
    let orders = fs::read_to_string(machine.path("orders")).unwrap();
    let refused: Vec<_> =
        orders.lines().filter(|line| line.contains("inside an action of ops")).collect();
    assert_eq!(refused.len(), 6, "{orders}");
    assert!(refused.iter().all(|line| line.starts_with("1 ")), "{orders}");
    machine.tick().ok();
    assert_eq!(fs::read_to_string(machine.path("inside")).unwrap(), "run\n", "nothing was queued");
}

#[test]
fn a_daemon_that_a_script_left_behind_may_give_orders() {
    let machine = Sandbox::with(NAME, &[("work.sh", NOTES_ITS_RUNS)]);
    let agent = machine.agent_line(&["redo", NAME]).join(" ");
    // It has every variable of its script, and descends from no action once that has ended.
    let work = format!(
        "echo run >> \"$AGENT_ROOT/../inside\"
[ \"$AGENT_TRIGGER\" = redo ] && exit 0
setsid sh -c 'while [ ! -e \"$AGENT_ROOT/../go\" ]; do sleep 0.05; done
    {agent}; echo $? > \"$AGENT_ROOT/../ended\"' > /dev/null 2>&1 < /dev/null &
"
    );
    machine.push(NAME, &[("work.sh", &work)]);
    machine.tick().ok();
    go(&machine);
    let ended = machine.path("ended");
    wait_until("the daemon's order ends", || {
        fs::read_to_string(&ended).is_ok_and(|it| it == "0\n")
    });
    assert_eq!(fs::read_to_string(machine.path("inside")).unwrap(), "run\nrun\n");
}

#[test]
fn init_again_fails_while_what_it_was_to_bring_does_not_come() {
    let machine = Sandbox::new();
    machine.serve(NAME, &[("work.sh", NOTES_ITS_RUNS)]);
    let address = format!("{NAME}={}", machine.server(NAME).display());
    let init = || Ran::of(&mut machine.agent_command(&["init", &address, "--schedule", "none"]));
    init().ok();
    let away = machine.path("away");
    fs::rename(machine.server(NAME), &away).unwrap();
    let ran = init().exits(1);
    assert!(ran.stdout.contains("unreachable"), "{ran}");
    fs::rename(&away, machine.server(NAME)).unwrap();
    init().ok();
}

/// The numbers of the processes that `pid` started.
fn children(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect()
}

fn has_child(pid: u32) -> bool {
    !children(pid).trim().is_empty()
}
