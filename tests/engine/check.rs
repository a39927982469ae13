//! The findings of `agent check`: what a person has to mend before it fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use pmpy::config::{ConfigLocations, Settings};
use pmpy::engine::finding::{CheckFinding, CheckScope, FindingLevel};
use pmpy::engine::operator::check;
use pmpy::system::host::Host;

use crate::machine::{Machine, NAME, WORK, says};
use crate::sandbox::{set_mode, text};

tests![
    a_machine_in_order_has_no_error,
    a_remote_that_does_not_answer_is_an_error_with_its_name,
    offline_no_remote_is_asked,
    a_machine_without_ticks_is_reported_the_line_for_cron,
    a_loop_that_pulls_the_same_clones_is_found,
    strange_directories_and_second_names_are_listed,
    an_env_file_that_others_can_read_is_an_error,
    a_name_that_no_web_hook_has_is_a_warning,
    a_queue_that_several_machines_would_share_is_a_warning,
    a_broken_repository_is_an_error_with_its_remedy,
    a_wrong_configuration_is_one_finding_with_file_and_line,
];

fn findings(machine: &Machine, scope: CheckScope) -> Vec<CheckFinding> {
    // The machine's crontabs are read below an empty directory.
    let base = machine.path("base");
    fs::create_dir_all(&base).unwrap();
    check::check(machine.settings(), Host::current(), scope, &base)
}

/// The findings about `subject` that are not ok, as text.
fn trouble(findings: &[CheckFinding], subject: &str) -> String {
    let of = |it: &&CheckFinding| it.subject == subject && it.level > FindingLevel::Ok;
    let line = |it: &CheckFinding| {
        format!("{:?} {} hint: {}\n", it.level, it.text, it.remedy.as_deref().unwrap_or_default())
    };
    findings.iter().filter(of).map(line).collect()
}

fn a_machine_in_order_has_no_error() {
    let machine = Machine::deployed("", &[(WORK, "true")]);
    let found = findings(&machine, CheckScope::Remotes);
    let bad: Vec<_> = found.iter().filter(|it| it.level == FindingLevel::Bad).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(trouble(&found, NAME), "");
    for subject in ["configuration", "node", "clock", "tick", "state", "logs", "root", NAME] {
        assert!(
            found.iter().any(|it| it.subject == subject),
            "nothing about {subject}: {found:#?}"
        );
    }
}

fn a_remote_that_does_not_answer_is_an_error_with_its_name() {
    let machine = Machine::deployed("", &[(WORK, "true")]);
    fs::rename(machine.server(NAME), machine.path("away")).unwrap();
    let told = trouble(&findings(&machine, CheckScope::Remotes), NAME);
    says(&told, &["Bad", text(&machine.server(NAME))]);
}

fn offline_no_remote_is_asked() {
    let machine = Machine::deployed("", &[(WORK, "true")]);
    fs::rename(machine.server(NAME), machine.path("away")).unwrap();
    let found = findings(&machine, CheckScope::Machine);
    assert_eq!(trouble(&found, NAME), "");
    assert!(found.iter().any(|it| it.subject == "remotes"), "{found:#?}");
}

fn a_machine_without_ticks_is_reported_the_line_for_cron() {
    let machine = Machine::with(&[(WORK, "true")]);
    let told = trouble(&findings(&machine, CheckScope::Machine), "tick");
    says(&told, &["Warn", "* * * * *", "tick --trigger cron", text(&machine.root())]);
}

fn a_loop_that_pulls_the_same_clones_is_found() {
    let machine = Machine::deployed("", &[(WORK, "true")]);
    let cron = machine.path("base/etc/cron.d");
    fs::create_dir_all(&cron).unwrap();
    let line = format!("* * * * * root cd {} && git pull", text(&machine.clone_of(NAME)));
    fs::write(cron.join("pull"), format!("{line}\n")).unwrap();
    let found = findings(&machine, CheckScope::Machine);
    let told: Vec<_> = found.iter().filter(|it| it.text.contains("git pull")).collect();
    assert!(told.iter().any(|it| it.level > FindingLevel::Ok), "{found:#?}");
    says(&told[0].text, &["/etc/cron.d/pull"]);
}

fn strange_directories_and_second_names_are_listed() {
    let machine = Machine::deployed("", &[(WORK, "true")]);
    fs::create_dir(machine.root().join("notes")).unwrap();
    symlink(machine.clone_of(NAME), machine.root().join("zz")).unwrap();
    let found = findings(&machine, CheckScope::Machine);
    let about_root: String =
        found.iter().filter(|it| it.subject == "root").map(|it| it.text.clone() + "\n").collect();
    says(&about_root, &["1 repository", "notes", "zz", NAME]);
}

fn an_env_file_that_others_can_read_is_an_error() {
    let machine = Machine::deployed("", &[(WORK, "true")]);
    let secrets = machine.path("secrets");
    fs::write(&secrets, "TOKEN=x\n").unwrap();
    set_mode(&secrets, 0o644);
    machine.set(&format!("env_file = \"{}\"", text(&secrets)));
    says(
        &trouble(&findings(&machine, CheckScope::Machine), NAME),
        &["Bad", text(&secrets), "chmod"],
    );
    set_mode(&secrets, 0o600);
    assert_eq!(trouble(&findings(&machine, CheckScope::Machine), NAME), "");
}

fn a_name_that_no_web_hook_has_is_a_warning() {
    let machine = Machine::deployed("", &[(WORK, "true")]);
    let secret = machine.path("hush");
    fs::write(&secret, "hush\n").unwrap();
    set_mode(&secret, 0o600);
    let clone = machine.clone_of(NAME);
    let called = |origin: &str, more: &str| {
        machine.git(&clone, &["remote", "set-url", "origin", origin]);
        machine.set(&format!("{more}\n[webhook]\nsecret_file = {:?}", text(&secret)));
        trouble(&findings(&machine, CheckScope::Machine), NAME)
    };
    let forge = "https://git.example.org/Org/Site.git";
    says(&called(forge, ""), &["Warn", "\"org/site\"", "topic_name = \"org/site\""]);
    for fitting in
        ["topic_name = \"Org/Site\"", "topic_name = \"site\"", &format!("url = {forge:?}")]
    {
        assert_eq!(called(forge, fitting), "", "{fitting}");
    }
    assert_eq!(called(&format!("https://git.example.org/org/{NAME}"), ""), "");
    says(&called(text(&machine.server(NAME)), "topic_name = \"org/site.git\""), &["Warn"]);
}

fn a_queue_that_several_machines_would_share_is_a_warning() {
    let machine = Machine::deployed("", &[(WORK, "true")]);
    let warned = |topics: &str| {
        machine.set(&format!("[bus]\nbrokers = \"stomp://127.0.0.1:1\"\nlisten_topic = {topics}"));
        trouble(&findings(&machine, CheckScope::Machine), "bus")
    };
    assert_eq!(warned("[\"queue\", \"/topic/queue/a\"]"), "");
    for queue in ["/queue/future.git.commits", "/amq/queue/a"] {
        says(&warned(&format!("[\"a\", {queue:?}]")), &["Warn", queue, "/topic/"]);
    }
}

fn a_broken_repository_is_an_error_with_its_remedy() {
    let machine = Machine::deployed("", &[(WORK, "true")]);
    machine.git(&machine.clone_of(NAME), &["checkout", "--quiet", "--detach"]);
    says(&trouble(&findings(&machine, CheckScope::Machine), NAME), &["Bad", "switch main"]);
}

fn a_wrong_configuration_is_one_finding_with_file_and_line() {
    let machine = Machine::with(&[(WORK, "true")]);
    let file = machine.root().join(".pmpy/agent.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "[defaults]\nmode = \"wrok\"\n").unwrap();
    let root = Some(machine.root());
    let error =
        Settings::load(&ConfigLocations { root, ..ConfigLocations::default() }).unwrap_err();
    let findings = check::misconfigured(&error);
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert_eq!(finding.level, FindingLevel::Bad);
    says(&finding.text, &[&format!("{}:2:", text(&file)), "wrok"]);
    says(finding.remedy.as_deref().unwrap(), &["work"]);
    assert!(Path::new(&file).exists());
}
