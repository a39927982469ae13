//! The page of `agent listen`, and that of `agent fleet --html`: what is served to whom, and what a person sees in a
//! browser. Here is what the modules share.

mod browser;
mod pictures;
mod served;
mod shown;

use std::fs;

use chrono::Duration;
use serde_json::{Value, json};

use crate::fleet::{NEW, OLD, Status, ago, presence, row};
use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, text, wait_until};
use crate::web::{Answer, Web};

/// The configuration of an agent with a page, whose timer does not call during a test.
fn configured(more: &str) -> String {
    format!("splay = \"365d\"\n[listen]\nevery = \"1h\"\n[page]\nbind = \"127.0.0.1:0\"\n{more}")
}

/// `[presence]` at `url`.
fn presence_at(url: &str) -> String {
    format!("[presence]\nurl = {url:?}\nevery = \"0s\"\n")
}

/// What the page answers to a browser that asks for `path` by the name `host`.
fn ask(web: &Web, method: &str, path: &str, host: &str) -> Answer {
    web.say(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
}

fn get(web: &Web, path: &str) -> Answer {
    ask(web, "GET", path, "localhost")
}

/// Nothing new is applied to `web` while a test lasts.
const WINDOW: &str = "[repo.web]\nmin_age = \"30d\"\n";

/// A machine with a repository in each of four states, and a history of the last day.
fn busy_machine() -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    for name in ["db", "web", "mail"] {
        machine.serve(name, &[("work.sh", NOTES_ITS_RUNS)]);
        machine.clone_to_root(name);
    }
    machine.configure("");
    machine.tick();
    machine.agent_as("ann", &["hold", "mail", "migration of the mail store"]).ok();
    machine.configure(WINDOW);
    machine.push("web", &[("page", "new")]);
    machine.push("db", &[("work.sh", "exit 3")]);
    machine.tick();
    had_a_day(&machine, "ops", &[(20 * 60, 0), (15 * 60, 0), (9 * 60, 0), (70, 0)]);
    had_a_day(&machine, "web", &[(22 * 60, 0), (14 * 60, 1), (13 * 60, 1), (12 * 60, 0)]);
    had_a_day(&machine, "db", &[(23 * 60, 0), (8 * 60, 3), (7 * 60, 3), (6 * 60, 0)]);
    machine
}

/// Puts runs so many minutes ago, with these exit codes, before what the repository's history has.
fn had_a_day(machine: &Sandbox, name: &str, runs: &[(i64, i32)]) {
    let file = machine.private(name, "history");
    let now = fs::read_to_string(&file).unwrap();
    let last: Value = serde_json::from_str(now.lines().last().unwrap()).unwrap();
    let revision = last["revision"].as_str().unwrap_or(OLD).to_owned();
    let before: String = runs
        .iter()
        .map(|(minutes, code)| {
            let outcome = match code {
                0 => json!({"kind": "succeeded"}),
                code => json!({"kind": "failed", "code": code}),
            };
            let run = json!({
                "id": format!("{name}-{minutes}"), "at": ago(Duration::minutes(*minutes)),
                "revision": revision, "subject": "Serve the new page", "previous": null,
                "trigger": "cron", "outcome": outcome, "attempt": 1, "seconds": 4.2, "log": null,
            });
            format!("{run}\n")
        })
        .collect();
    fs::write(&file, before + &now).unwrap();
}

/// A fleet of `count` machines in the middle of a rollout, some of which need somebody.
fn fleet_in_a_rollout(status: &Status, count: usize) {
    for number in 0..count {
        let host = match number % 8 {
            0 => format!("db{:02}", number / 8 + 1),
            other => format!("web{:02}", number - number / 8 - usize::from(other == 0)),
        };
        let deployed = i64::try_from(number).unwrap();
        let is_new = number * 2 < count;
        let mut ops =
            row(if is_new { "current" } else { "behind" }, if is_new { NEW } else { OLD });
        ops["acted"]["subject"] =
            json!(if is_new { "Release 42: new index" } else { "Release 41" });
        ops["acted"]["at"] =
            json!(ago(Duration::minutes(if is_new { 90 - deployed * 3 } else { 9000 })));
        if !is_new {
            let until = ago(Duration::minutes(-deployed));
            ops["gate"] = json!({"gate": "rollout", "reason": "its turn comes", "until": until});
        }
        if number == count - 2 {
            ops = row("failing", OLD);
            ops["reason"] = json!("work.sh exited with 1\nhint: agent log ops");
        }
        if number == count - 3 || number == count - 5 {
            ops = row("held", OLD);
            ops["holds"] = json!([{
                "by": "ann", "reason": "migration of the index", "since": ago(Duration::hours(2)),
                "until": if number == count - 3 { json!(ago(Duration::hours(-3))) } else { Value::Null },
            }]);
        }
        let mut site = row("current", "12ab34c000000000000000000000000000000000");
        site["name"] = json!("site");
        site["upstream"] = json!("12ab34c000000000000000000000000000000000");
        site["acted"]["subject"] = json!("Correct the imprint");
        let mut said = presence(&host, json!([ops, site]));
        said["part"] = json!(if host.starts_with("db") { "db" } else { "web" });
        if number == count - 1 {
            said["at"] = json!(ago(Duration::days(2)));
        }
        status.publish(&host, &said);
    }
}

/// An agent that serves the page of `machine` at the fleet of `status`.
fn listener(machine: &Sandbox, status: &Status) -> (Listener, Web) {
    let more = presence_at(text(&status.path)) + "[node]\nname = \"web01\"\n" + WINDOW;
    machine.configure(&configured(&more));
    let listener = Listener::start(machine);
    let web = Web::of_page(&listener);
    is_seen(&web);
    (listener, web)
}

/// Waits until the status repository has answered: on a busy machine that may take longer than a page waits.
#[track_caller]
fn is_seen(web: &Web) {
    wait_until("the fleet is seen", || !get(web, "/fleet").body.contains("has not answered yet"));
}

/// A path of a page as a URL.
fn url(web: &Web, path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", web.port())
}
