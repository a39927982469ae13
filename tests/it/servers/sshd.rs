//! OpenSSH's sshd as an ordinary process of the caller's: a host key of its own, one key that it
//! lets in, and git-shell as the only thing that this key may run.
//!
//! OpenSSH's client takes the home from passwd, not from `HOME`: what it shall know (the key, the
//! known hosts) must be given to it by name.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sandbox::{Ran, Sandbox, set_mode, text, write_program};

use super::{Running, free_port, has_ipv6, path_with_sbin};

/// For [`Sshd::restart_with`]: no key is good enough, only passwords are asked for (and none fits).
pub const PASSWORDS_ONLY: &str = "AuthenticationMethods password\nPasswordAuthentication yes\n";

/// The running server.
pub struct Sshd<'machine> {
    machine: &'machine Sandbox,
    port: u16,
    dir: PathBuf,
    user: String,
    running: Option<Running>,
}

impl<'machine> Sshd<'machine> {
    /// Starts it for every repository of the sandbox's server.
    pub fn of(machine: &'machine Sandbox) -> Self {
        let port = free_port();
        let directory = machine.path(&format!("sshd-{port}"));
        fs::create_dir(&directory).unwrap();
        set_mode(&directory, 0o700);
        let user = Ran::of(machine.command("id").arg("-un")).ok().stdout.trim().to_owned();
        if user == "root" {
            // It insists on this directory, which its package makes at boot.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let mut sshd = Self { machine, port, dir: directory, user, running: None };
        sshd.make_key("client");
        sshd.make_key("host");
        sshd.write_shell();
        let line = sshd.host_line();
        fs::write(sshd.known_hosts(), line.clone() + &line.replace("127.0.0.1", "::1")).unwrap();
        sshd.restart_with("");
        sshd
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the repository `name`.
    pub fn url(&self, name: &str) -> String {
        let Self { user, port, .. } = self;
        format!("ssh://{user}@127.0.0.1:{port}{}", self.machine.server(name).display())
    }

    /// The key that it lets in.
    pub fn client_key(&self) -> PathBuf {
        self.dir.join("client")
    }

    /// The file with its host key as a client wants it; the first one's, also after
    /// [`Sshd::change_host_key`].
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    /// An ssh command line that knows the key and the host and nothing of the machine's: for
    /// `GIT_SSH_COMMAND`.
    pub fn ssh_command(&self) -> String {
        format!(
            "ssh -F none -i {} -o IdentitiesOnly=yes -o BatchMode=yes -o UserKnownHostsFile={}",
            self.client_key().display(),
            self.known_hosts().display()
        )
    }

    /// Adds its host key under another name or port, as for a proxy in front of it.
    pub fn know_as(&self, port: u16) {
        let line = self.host_line().replace(&format!(":{}", self.port), &format!(":{port}"));
        let known = fs::read_to_string(self.known_hosts()).unwrap();
        fs::write(self.known_hosts(), known + &line).unwrap();
    }

    /// Ends it with all its connections and starts it again with lines of `sshd_config` that win
    /// over the usual ones.
    pub fn restart_with(&mut self, lines: &str) {
        self.running = None;
        let (port, directory) = (self.port, text(&self.dir));
        // Where bash believes that it is not the first shell, it leaves ~/.bashrc of the machine alone.
        let sixth = if has_ipv6() { "ListenAddress ::1\n" } else { "" };
        let configuration = format!(
            "{lines}SetEnv SHLVL=2\nPort {port}\nListenAddress 127.0.0.1\n{sixth}PidFile none\n\
             HostKey {directory}/host\n\
             AuthorizedKeysFile {directory}/client.pub\nStrictModes no\nUsePAM no\nUseDNS no\n\
             PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             AcceptEnv GIT_PROTOCOL\nForceCommand {directory}/shell\nMaxStartups 200\n\
             LogLevel VERBOSE\n"
        );
        let file = self.dir.join("sshd_config");
        fs::write(&file, configuration).unwrap();
        let arguments = ["-D", "-e", "-f", text(&file)];
        let log = self.dir.join("sshd.log");
        let running = Running::start(self.machine, &sshd_path(), &arguments, &log);
        self.running = Some(running.listening_on(port));
    }

    /// Ends it and starts it again with another host key, as if somebody stood in its place.
    pub fn change_host_key(&mut self) {
        for file in ["host", "host.pub"] {
            fs::remove_file(self.dir.join(file)).unwrap();
        }
        self.make_key("host");
        self.restart_with("");
    }

    /// From now on, whoever asks for the repository `name` gets no answer.
    pub fn hang_on(&self, name: &str) {
        let path = self.machine.server(name);
        fs::write(self.dir.join("hangs"), format!("git-upload-pack '{}'", path.display())).unwrap();
    }

    /// What it was asked to run so far, each with the protocol that the client wished for:
    /// `version=2<TAB>git-upload-pack '/path'`.
    pub fn commands(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("commands")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// How many connections it let in so far.
    pub fn logins(&self) -> usize {
        let log = fs::read_to_string(self.dir.join("sshd.log")).unwrap();
        log.lines().filter(|line| line.starts_with("Accepted publickey for ")).count()
    }

    /// Its processes, those of git included: for those who measure.
    pub fn processes(&self) -> Vec<rustix::process::Pid> {
        self.running.iter().flat_map(Running::processes).collect()
    }

    fn make_key(&self, name: &str) {
        let file = self.dir.join(name);
        let arguments = ["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", text(&file)];
        Ran::of(self.machine.command("ssh-keygen").args(arguments)).ok();
    }

    fn host_line(&self) -> String {
        let key = fs::read_to_string(self.dir.join("host.pub")).unwrap();
        format!("[127.0.0.1]:{} {key}", self.port)
    }

    /// What it runs in place of whatever a client asks for.
    fn write_shell(&self) {
        let (home, commands) = (self.machine.path("home"), self.dir.join("commands"));
        fs::write(&commands, "").unwrap();
        let script = format!(
            "#!/bin/sh\nexport HOME='{}' PATH='{}' GIT_CONFIG_NOSYSTEM=1\n\
             printf '%s\\t%s\\n' \"$GIT_PROTOCOL\" \"$SSH_ORIGINAL_COMMAND\" >> '{}'\n\
             [ \"$(cat '{}' 2>&-)\" != \"$SSH_ORIGINAL_COMMAND\" ] || exec sleep 600\n\
             exec git shell -c \"$SSH_ORIGINAL_COMMAND\"\n",
            home.display(),
            std::env::var("PATH").unwrap_or_default(),
            commands.display(),
            self.dir.join("hangs").display(),
        );
        let shell = self.dir.join("shell");
        write_program(&shell, script);
    }
}

/// sshd in full: it starts itself again for each connection and wants to know where it is.
fn sshd_path() -> String {
    let path = path_with_sbin();
    let found = path.split(':').map(|directory| Path::new(directory).join("sshd"));
    let sshd = found.into_iter().find(|file| file.is_file());
    text(&sshd.expect("sshd is installed (tests/run installs it)")).to_owned()
}
