//! gitolite as Debian has it, for a user of its own: who pushes through it is announced under the names
//! that gitolite gives, and the agent, which comes in through it as well, acts.

use std::fs;
use std::path::PathBuf;

use super::listen::{applies, settles};
use super::{Listening, brokers};
use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, set_mode, text, write_program};
use crate::servers::Sshd;
use crate::servers::brokers::{Broker, HOOK, KINDS, ODD, login_file};
use crate::users::give_all;

/// A user whose home has a gitolite in it; both are gone in the end.
pub struct Gitolite<'machine> {
    machine: &'machine Sandbox,
    pub name: String,
    home: PathBuf,
}

impl<'machine> Gitolite<'machine> {
    /// Its administrator has the key `client` of `server`.
    pub fn of(machine: &'machine Sandbox, server: &Sshd) -> Self {
        assert_eq!(rustix::process::geteuid().as_raw(), 0, "only root makes users");
        // Its user goes through the directory that all of the test is in.
        set_mode(&machine.path(""), 0o755);
        let name = format!("pmpy-git-{}", server.port());
        let home = machine.path(&name);
        let gitolite = Self { machine, name, home };
        let Self { name, home, .. } = &gitolite;
        let home_text = text(home);
        gitolite.root(&["useradd", "-m", "-d", home_text, "-s", "/bin/bash", "-p", "*", name]);
        let key = home.join("pat.pub");
        fs::copy(server.client_key().with_extension("pub"), &key).unwrap();
        give_all(&key, gitolite.uid());
        gitolite.git_user(&format!("gitolite setup -pk {}", text(&key)));
        gitolite
    }

    /// Lets `server` take the keys that it knows.
    pub fn listens_on(&self, server: &mut Sshd) {
        server.restart_with(&format!(
            "ForceCommand none\nAuthorizedKeysFile {}/.ssh/authorized_keys\n",
            self.home.display()
        ));
    }

    fn root(&self, line: &[&str]) -> String {
        let mut command = self.machine.command(line[0]);
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
        Ran::of(command.env("PATH", path).args(&line[1..])).ok().stdout
    }

    fn git_user(&self, line: &str) {
        self.root(&["su", "-", &self.name, "-c", line]);
    }

    fn uid(&self) -> u32 {
        self.root(&["id", "-u", &self.name]).trim().parse().unwrap()
    }

    /// Lets the hook of the example announce to `broker`, for all repositories.
    fn announces(&self, broker: &Broker) {
        let dir = self.home.join("notify");
        fs::create_dir(&dir).unwrap();
        let (configuration, login) = (dir.join("notify.toml"), login_file(&dir, HOOK));
        let url = broker.url();
        fs::write(&configuration, format!("[bus]\nbrokers = {url:?}\nlogin_file = {login:?}\n"))
            .unwrap();
        let hook = include_str!("../../../examples/notify/gitolite/post-receive")
            .replace("/usr/local/bin/agent", env!("CARGO_BIN_EXE_agent"))
            .replace("/etc/pmpy/notify.toml", text(&configuration));
        let hooks = self.home.join(".gitolite/hooks/common");
        write_program(&hooks.join("post-receive"), hook);
        for place in [dir, hooks] {
            give_all(&place, self.uid());
        }
        self.git_user("gitolite setup --hooks-only");
    }
}

impl Drop for Gitolite<'_> {
    fn drop(&mut self) {
        let mut command = self.machine.command("/usr/sbin/userdel");
        let _ = command.args(["--force", &self.name]).output();
    }
}

#[test]
fn a_push_through_gitolite_is_applied_and_reported() {
    for kind in KINDS {
        let (broker, machine) = (Broker::shared(kind), Sandbox::new());
        let mut server = Sshd::of(&machine);
        let gitolite = Gitolite::of(&machine, &server);
        gitolite.listens_on(&mut server);
        gitolite.announces(broker);
        // The repository that gitolite begins with.
        let url = format!("ssh://{}@127.0.0.1:{}/testing", gitolite.name, server.port());
        let desk = machine.desk("testing");
        machine.git(&machine.path(""), &["init", "--quiet", "--initial-branch=main", text(&desk)]);
        machine.git(&desk, &["remote", "add", "origin", &url]);
        let push = |files: &[(&str, &str)]| {
            for (file, content) in files {
                fs::write(desk.join(file), content).unwrap();
            }
            machine.git(&desk, &["add", "--all"]);
            machine.git(&desk, &["commit", "--quiet", "--message", "A change"]);
            let mut git = machine.command("git");
            git.env("GIT_SSH_COMMAND", server.ssh_command()).current_dir(&desk);
            let ran = Ran::of(git.args(["push", "origin", "HEAD:main"])).ok();
            assert!(ran.stderr.contains("announced testing main"), "{ran}");
            machine.git(&desk, &["rev-parse", "HEAD"])
        };
        push(&[("work.sh", NOTES_ITS_RUNS)]);

        let (login, reported) =
            (login_file(&machine.path(""), ODD), format!("test.gitolite.{kind:?}"));
        machine.configure(&format!(
            "[listen]\nevery = \"1h\"\n[bus]\nbrokers = {:?}\nlogin_file = {login:?}\n\
             report_topic = {reported:?}\n\
             [repo.testing]\nurl = {url:?}\nbranch = \"main\"\nkey_file = {:?}\nknown_hosts = {:?}\n",
            broker.url(),
            server.client_key(),
            server.known_hosts(),
        ));
        machine.tick().ok();
        let listener = Listener::start(&machine);
        settles(&machine, &listener);
        let people = brokers(&[broker.url()], &machine.path(""), ODD);
        let people = Listening::to(&people, &[&reported, "future.git.commits"]);
        people.up();
        let revision = push(&[("page", "new")]);
        applies(&machine, "testing", &revision);
        let (mut announced, mut states) = (None, Vec::new());
        // They come over two subscriptions, in whatever order.
        while states.len() < 2 || announced.is_none() {
            let frame = people.message();
            let body = String::from_utf8(frame.body).unwrap();
            match serde_json::from_str::<serde_json::Value>(&body) {
                Ok(report) => states.push(report["state"].as_str().unwrap().to_owned()),
                Err(_) if body.starts_with("repo: testing\n") => announced = Some(body),
                Err(_) => {}
            }
        }
        assert_eq!(states, ["started", "succeeded"]);
        let announced = announced.unwrap();
        assert!(announced.contains("\"user_name\":\"pat\""), "{announced}");
    }
}
