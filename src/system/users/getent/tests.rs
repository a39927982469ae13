//! What is asked of getent(1), and what its answers mean: a script in its place.

#![expect(clippy::disallowed_methods, reason = "a test writes the files of a machine")]

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;

/// A machine whose getent is this script; it notes in the file `asked` what it was asked.
fn machine(nsswitch: &str, script: &str) -> (TempDir, NameService) {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write(
        "passwd",
        "root:x:0:0:root:/root:/bin/bash\npat:x:1001:1001::/home/pat:\n1002:x:7:7::/:/bin/sh\n",
    );
    write("group", "root:x:0:\npat:x:1001:\ndeploy:x:27:kim,pat\n");
    write("nsswitch.conf", nsswitch);
    let asked = dir.path().join("asked");
    let getent = dir.path().join("getent");
    // Written by another process: a child that another test forks meanwhile would have a file of this one open for
    // writing, and such a file is not executed.
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(&getent).stdin(Stdio::piped());
    let mut install = install.spawn().unwrap();
    let text = format!("#!/bin/sh\necho \"$*\" >> {}\n{script}\n", asked.display());
    install.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
    let etc = dir.path().to_owned();
    (dir, NameService { etc, getent: Some(getent), answers: Mutex::default() })
}

fn asked(dir: &TempDir) -> String {
    fs::read_to_string(dir.path().join("asked")).unwrap_or_default()
}

const SSSD: &str = "# of sssd\npasswd:  files sss # both\ngroup: files [SUCCESS=merge] sss\n";
const ALICE: &str =
    "case $2 in alice | 5001) echo 'alice@example.org:*:5001:5000:Alice:/home/alice:/bin/zsh' ;;
    5000) echo 'staff:*:5000:' ;; pat) echo 'pat   27 5000' ;; *) exit 2 ;; esac";

#[test]
fn who_is_in_the_files_is_found_without_a_program() {
    let (dir, service) = machine(SSSD, ALICE);
    let pat = service.user_by_name("pat").unwrap().unwrap();
    assert_eq!((pat.uid, pat.gid, pat.shell), (1001, 1001, PathBuf::from("/bin/sh")));
    assert_eq!(service.user_by_number(0).unwrap().unwrap().home, PathBuf::from("/root"));
    let deploy = service.group_by_key(GroupKey::Name("deploy")).unwrap().unwrap();
    assert_eq!((deploy.gid, deploy.members), (27, vec!["kim".to_owned(), "pat".to_owned()]));
    assert_eq!(asked(&dir), "");
}

#[test]
fn who_is_elsewhere_is_asked_for_once_whatever_the_service_calls_them() {
    let (dir, service) = machine(SSSD, ALICE);
    for _ in 0..2 {
        let alice = service.user_by_name("alice").unwrap().unwrap();
        assert_eq!((alice.uid, alice.name.as_str()), (5001, "alice@example.org"));
        assert_eq!(service.user_by_number(5001).unwrap(), Some(alice));
        let staff = service.group_by_key(GroupKey::Number(5000)).unwrap().unwrap();
        assert_eq!(staff.name, "staff");
    }
    assert_eq!(asked(&dir), "passwd alice\npasswd 5001\ngroup 5000\n");
}

#[test]
fn the_groups_of_a_user_come_from_every_service() {
    let (dir, service) = machine(SSSD, ALICE);
    let pat = service.user_by_name("pat").unwrap().unwrap();
    assert_eq!(service.group_ids(&pat).unwrap(), [27, 5000]);
    assert_eq!(asked(&dir), "initgroups pat\n");
    let (dir, service) = machine("group: files\n", ALICE);
    assert_eq!(service.group_ids(&pat).unwrap(), [27]);
    assert_eq!(asked(&dir), "");
}

#[test]
fn a_name_that_getent_takes_for_a_number_or_an_option_is_only_in_the_files() {
    let (dir, service) = machine(SSSD, "echo 'root:x:0:0::/:/bin/sh'");
    assert_eq!(service.user_by_name("1002").unwrap().unwrap().uid, 7);
    for name in ["5001", "+5001", " -1", "", "-s", "--help", "a:b", "a\nb"] {
        assert_eq!(service.user_by_name(name).unwrap(), None, "{name:?}");
    }
    assert_eq!(asked(&dir), "");
    assert_eq!(service.user_by_number(5001).unwrap(), None, "another user's entry");
}

#[test]
fn only_services_of_the_machine_itself_prove_that_there_is_nobody() {
    for (services, certain) in
        [("files systemd", true), ("compat", true), ("files sss", false), ("ldap", false)]
    {
        let (dir, service) = machine(&format!("passwd: {services}\n"), "exit 2");
        let answer = service.user_by_name("nix-da");
        assert_eq!(answer.is_ok(), certain, "{services}");
        assert_eq!(asked(&dir), "passwd nix-da\n", "{services}");
    }
    let (dir, service) = machine("passwd: files\n", "exit 2");
    assert_eq!(service.user_by_name("nix-da").unwrap(), None);
    assert_eq!(asked(&dir), "");
    let (_dir, service) = machine("passwd: sss\n", "exit 2");
    let error = service.user_by_number(1001).unwrap_err().to_string();
    assert!(error.contains("does not answer for user 1001: getent finds none, and"), "{error}");
}

#[test]
fn a_getent_that_fails_or_is_killed_is_no_proof_of_anything() {
    for (script, said) in [
        ("echo 'no database' >&2; exit 1", "getent exited with code 1 no database"),
        ("kill -KILL $$", "signal 9 ended getent"),
    ] {
        let (_dir, service) = machine("passwd: files systemd\n", script);
        let error = service.user_by_name("alice").unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}
