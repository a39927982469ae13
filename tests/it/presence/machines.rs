//! Two machines of one name: the first publication takes the ref over, and two that both go on are told.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::{
    STATUS, edit_record, git, machine, own_ref, path_of, pause_is_over, publication, publish,
    publish_at, published, reason, record, record_file, settles,
};
use crate::bus::gitolite::Gitolite;
use crate::sandbox::{Ran, Sandbox, text};
use crate::servers::{Https, Sshd};

/// Another machine with the same name, root and user: only its machine-id and its records are others.
struct Twin<'a> {
    machine: &'a Sandbox,
    id: PathBuf,
    record: PathBuf,
}

impl<'a> Twin<'a> {
    fn of(machine: &'a Sandbox) -> Self {
        let (id, record) = (machine.path("machine-id"), machine.path("presence-of-the-twin.json"));
        fs::write(&id, "0123456789abcdef0123456789abcdef\n").unwrap();
        Self { machine, id, record }
    }

    /// Exchanges the records of the two machines.
    fn exchange(&self) {
        let (own, other) = (record_file(self.machine), &self.record);
        let (here, there) = (fs::read(&own), fs::read(other));
        for (file, content) in [(&own, there), (other, here)] {
            match content {
                Ok(content) => fs::write(file, content).unwrap(),
                Err(_) => drop(fs::remove_file(file)),
            }
        }
    }

    /// The other machine publishes; returns its record after that.
    fn publish(&self) -> Value {
        self.exchange();
        pause_is_over(self.machine);
        let line = self.machine.agent_line(&["tick", "--trigger", "cron"]);
        let mut unshare = self.machine.command("unshare");
        let script = "mount --bind \"$1\" /etc/machine-id && shift && exec \"$@\"";
        unshare.args(["--mount", "sh", "-c", script, "sh", text(&self.id)]).args(line);
        Ran::of(&mut unshare).ok();
        settles(self.machine);
        let after = record(self.machine);
        self.exchange();
        after
    }
}

#[test]
fn a_machine_that_was_installed_anew_takes_its_ref_over() {
    let machine = machine();
    publish_at(&machine, &path_of(&machine), "");
    let first = published(&machine);
    let before = publication(&machine);
    let new = Twin::of(&machine).publish();
    assert!(new["failure"].is_null() && new["contested"].is_null(), "{new:#}");
    assert_eq!(new["replaced"], before["id"]);
    let after = publication(&machine);
    assert_ne!(after["id"], before["id"]);
    assert_eq!(after["seq"], 2, "it counts on");
    let parent = format!("{}^", own_ref(&machine));
    assert_eq!(git(&machine, &["rev-parse", &parent]), first);
}

#[test]
fn two_machines_of_one_name_both_say_so_and_stop() {
    let machine = machine();
    publish_at(&machine, &path_of(&machine), "");
    published(&machine);
    let twin = Twin::of(&machine);
    twin.publish();
    publish(&machine);
    let old = record(&machine);
    assert!(old["contested"].is_object(), "the old one finds its ref taken: {old:#}");
    let said = publication(&machine);
    assert_eq!(said["contested"]["other"], twin_id(&twin), "and says so at the ref: {said:#}");
    let count = git(&machine, &["rev-list", "--count", &own_ref(&machine)]);
    let new = twin.publish();
    assert!(new["contested"].is_object(), "the new one finds that: {new:#}");
    for _ in 0..2 {
        publish(&machine);
        twin.publish();
    }
    assert_eq!(git(&machine, &["rev-list", "--count", &own_ref(&machine)]), count, "both stopped");
    let ran = machine.tick().ok();
    let shown = machine.agent(&["-v", "status"]).ok().stdout;
    assert!(shown.contains("publishes as web01/root/root-"), "{shown}{ran}");
    // A person removes the ref: the next that looks publishes again. The command is that of the hint.
    let name = own_ref(&machine);
    let name = name.trim_start_matches("refs/heads/").trim_end_matches("/state");
    assert!(shown.contains(&format!("agent fleet forget {name}")), "{shown}");
    machine.agent(&["fleet", "forget", name]).ok();
    published(&machine);
    assert!(publication(&machine)["contested"].is_null());
}

#[test]
fn gitolite_lets_a_machine_write_its_own_branch_alone() {
    let machine = machine();
    let mut server = Sshd::of(&machine);
    let gitolite = Gitolite::of(&machine, &server);
    gitolite.listens_on(&mut server);
    let address = format!("ssh://{}@127.0.0.1:{}", gitolite.name, server.port());
    let admin = machine.path("admin");
    let git = |arguments: &[&str]| {
        let mut git = machine.command("git");
        git.env("GIT_SSH_COMMAND", server.ssh_command()).args(arguments);
        Ran::of(&mut git).ok();
    };
    git(&["clone", "--quiet", &format!("{address}/gitolite-admin"), text(&admin)]);
    let rules = "repo status\n    RW+ refs/heads/USER/ = @all\n";
    fs::write(
        admin.join("conf/gitolite.conf"),
        format!("repo gitolite-admin\n    RW+ = pat\n{rules}"),
    )
    .unwrap();
    git(&["-C", text(&admin), "commit", "--quiet", "--all", "--message", "The machines"]);
    git(&["-C", text(&admin), "push", "--quiet", "origin", "HEAD"]);
    let configure = |name: &str| {
        machine.configure(&format!(
            "[node]\nname = {name:?}\n[presence]\nurl = \"{address}/status\"\nkey_file = {:?}\n\
             known_hosts = {:?}\n",
            server.client_key(),
            server.known_hosts()
        ));
    };
    // The key's name at gitolite.
    configure("pat");
    publish(&machine);
    let own = record(&machine);
    assert!(own["failure"].is_null() && own["last"].is_object(), "{own:#}");
    configure("web02");
    publish(&machine);
    assert!(reason(&machine).contains("hook declined"), "{}", reason(&machine));
}

fn twin_id(twin: &Twin) -> Value {
    let text = fs::read_to_string(&twin.record).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["id"].clone()
}

#[test]
fn two_images_of_one_machine_id_are_noticed_at_the_second_time() {
    let machine = machine();
    publish_at(&machine, &path_of(&machine), "");
    published(&machine);
    let image = fs::read(record_file(&machine)).unwrap();
    published(&machine);
    // The other image goes on from where it was copied.
    let newest = fs::read(record_file(&machine)).unwrap();
    fs::write(record_file(&machine), &image).unwrap();
    published(&machine);
    assert!(record(&machine)["twin_seen"].is_string(), "it may have come from a backup");
    let other = fs::read(record_file(&machine)).unwrap();
    fs::write(record_file(&machine), &newest).unwrap();
    published(&machine);
    fs::write(record_file(&machine), &other).unwrap();
    publish(&machine);
    assert!(record(&machine)["contested"].is_object(), "{:#}", record(&machine));
    fs::write(record_file(&machine), &newest).unwrap();
    edit_record(&machine, |_| {});
    publish(&machine);
    let why = record(&machine);
    assert!(why["contested"].is_object(), "the other finds it at the ref: {why:#}");
}

#[test]
fn a_machine_that_lost_its_records_goes_on() {
    let machine = machine();
    let (https, ssh) = (Https::of(&machine), Sshd::of(&machine));
    let keys =
        format!("key_file = {:?}\nknown_hosts = {:?}\n", ssh.client_key(), ssh.known_hosts());
    let ways = [
        (path_of(&machine), String::new()),
        (https.url(STATUS), format!("ca_file = {:?}\n", https.ca_file())),
        (ssh.url(STATUS), keys),
    ];
    for (number, (url, more)) in ways.iter().enumerate() {
        publish_at(&machine, url, more);
        // The first of them has nothing to find; each other one finds what it published another way.
        let _ = fs::remove_file(record_file(&machine));
        machine.tick().ok();
        settles(&machine);
        fs::remove_file(record_file(&machine)).unwrap();
        machine.tick().ok();
        settles(&machine);
        let record = record(&machine);
        assert!(record["contested"].is_null() && record["replaced"].is_null(), "{record:#}");
        assert!(record["failure"].is_null(), "{url}: {record:#}");
        assert_eq!(publication(&machine)["seq"], 2 * number + 2, "{url}: it counts on");
    }
}
