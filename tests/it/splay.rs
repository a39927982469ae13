//! The wait before a tick that lays the machines of a fleet over a minute, seen from outside: what the
//! agent asks the kernel to sleep.

use std::fs;

use crate::sandbox::{Ran, Sandbox, text};

/// How long a tick asks to sleep, in nanoseconds; `None`: it does not.
fn sleep_of(machine: &Sandbox, arguments: &[&str]) -> Option<u64> {
    let trace = machine.path("trace");
    let mut strace = machine.command("strace");
    strace.args(["-e", "trace=clock_nanosleep,nanosleep", "-o", text(&trace)]);
    Ran::of(strace.args(machine.agent_line(arguments))).ok();
    slept(&fs::read_to_string(trace).unwrap())
}

/// The first sleep in a trace.
fn slept(trace: &str) -> Option<u64> {
    assert!(trace.contains("exited with 0"), "the agent was watched to its end: {trace}");
    let call = trace.lines().find(|line| line.contains("nanosleep("))?;
    let part = |name: &str| -> u64 {
        let digits = call.split_once(name).unwrap().1;
        digits.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    Some(part("tv_sec=") * 1_000_000_000 + part("tv_nsec="))
}

#[test]
fn a_tick_waits_the_share_of_its_machine_and_no_named_one_does() {
    let machine = Sandbox::with("ops", &[("page", "old")]);
    let whole = 400_000_000;
    let share = sleep_of(&machine, &["tick", "--splay", "400ms"]).expect("it waits");
    assert!(share < whole, "{share}");
    assert_eq!(sleep_of(&machine, &["tick", "--splay", "400ms"]), Some(share));
    let half = sleep_of(&machine, &["tick", "--splay", "200ms"]).unwrap();
    assert!(half.abs_diff(share / 2) <= 1, "{half} of {share}");
    machine.configure("splay = \"400ms\"\n");
    assert_eq!(sleep_of(&machine, &["tick"]), Some(share), "the configuration says it as well");

    // Who names a repository, and who looks on, waits for nothing.
    assert_eq!(sleep_of(&machine, &["tick", "ops"]), None);
    assert_eq!(sleep_of(&machine, &["tick", "ops", "--splay", "400ms"]), None);
    let (trace, line) = (machine.path("watched"), machine.agent_line(&["tick"]).join(" "));
    let watched = format!("strace -e trace=clock_nanosleep,nanosleep -o {} {line}", text(&trace));
    let mut terminal = machine.command("script");
    Ran::of(terminal.args(["-qec", &watched, "/dev/null"])).ok();
    assert_eq!(slept(&fs::read_to_string(trace).unwrap()), None);
}
