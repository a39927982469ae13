//! Polls and fetches over ssh. It starts the system's OpenSSH, so that `~/.ssh/config`, agents,
//! certificates, jump hosts and hardware keys work as for the user who set them up. Its connections are
//! shared and stay open for a while after the process; see [`control_master`]. It never prompts.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use control_master::{ConnectionGate, GatePermit, SharingMode};
use errors::TriedSsh;

use super::address::RemoteAddress;
use super::{FetchOrder, FetchProgress, PushOrder};
use crate::domain::git::Remote;
use crate::domain::remote::{
    ConnectionSettings, PollAnswer, PollScope, RemoteFailure, RemoteHints,
};
use crate::domain::wire::push::PushOutcome;
use crate::system::git::Git;
use crate::system::host::{self, since_boot};
use crate::system::packages;
use crate::system::process::DuplexChild;
use crate::system::remote::denied;
use crate::system::remote::duplex_stream::{self, CONNECT, DuplexStream, GitConversation};

mod control_master;
mod errors;

pub(super) use control_master::ControlMasters;

/// How often the process that opens the connection checks whether it is open.
const BEAT: Duration = Duration::from_millis(20);
/// How long ssh may take to end after the conversation.
const LEAVE: Duration = Duration::from_secs(2);
/// The most bytes that `ssh -G` may print.
const MOST_SETTINGS: usize = 1 << 20;
/// A shell's exit code when the program does not exist.
const NO_PROGRAM: i32 = 127;
/// ssh must not prompt, has to end within 30 s on a dead link, and opens nothing but the session.
const OPTIONS: [&str; 10] = [
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "SendEnv=GIT_PROTOCOL",
    "RequestTTY=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "LogLevel=ERROR",
];
/// The program that sends objects.
const UPLOAD: &str = "git-upload-pack";
/// The program that takes objects.
const RECEIVE: &str = "git-receive-pack";
/// Longer than the minute until the next tick, its splay and its fetches.
const PERSIST: &str = "ControlPersist=90";

/// As [`Wire::poll`](super::Wire::poll), over ssh.
pub(super) fn poll(
    masters: &ControlMasters,
    remote: &Remote,
    wanted: &PollScope,
    reach: &ConnectionSettings,
    known: Option<&RemoteHints>,
) -> Result<PollAnswer> {
    let route = SshRoute::new(masters, remote, reach, UPLOAD)?;
    duplex_stream::poll(wanted, known, &|| route.call())
}

/// As [`Wire::fetch`](super::Wire::fetch), over ssh.
pub(super) fn fetch(
    masters: &ControlMasters,
    git: &Git,
    order: &FetchOrder,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<()> {
    let route = SshRoute::new(masters, order.remote, order.reach, UPLOAD)?;
    duplex_stream::fetch(git, order, &|| route.call(), progress)
}

/// As [`Wire::push`](super::Wire::push), over ssh.
pub(super) fn push(masters: &ControlMasters, order: &PushOrder) -> Result<Vec<PushOutcome>> {
    let route = SshRoute::new(masters, order.remote, order.reach, RECEIVE)?;
    duplex_stream::push(order, &|| route.call())
}

/// Checks, without a connection, that the server could be asked.
///
/// # Errors
/// When ssh is not installed, the key cannot be used, or the configured list does not have the host.
pub(super) fn ready(remote: &Remote, reach: &ConnectionSettings) -> Result<()> {
    let address = RemoteAddress::of(remote)?;
    reach.key_file.as_deref().map_or(Ok(()), must_be_private)?;
    start(&["ssh".into(), "-V".into()])?.finish(CONNECT)?;
    let Some(known) = &reach.known_hosts else { return Ok(()) };
    let name = errors::known_name(&address);
    let argv = ["ssh-keygen", "-F", &name, "-f"].map(OsString::from);
    let argv: Vec<OsString> = argv.into_iter().chain([known.into()]).collect();
    match start(&argv)?.finish(CONNECT)?.code {
        Some(0) => Ok(()),
        _ => Err(errors::unknown_host(&address, Some(known))),
    }
}

/// The way to one repository: address, settings and the gate of its server.
struct SshRoute<'a> {
    address: RemoteAddress,
    reach: &'a ConnectionSettings,
    gate: Arc<ConnectionGate>,
    /// The command that the user set to run in place of ssh, as a shell command line.
    instead: Option<String>,
    /// The program of git's on the other side.
    service: &'static str,
}

impl<'a> SshRoute<'a> {
    fn new(
        masters: &ControlMasters,
        remote: &Remote,
        reach: &'a ConnectionSettings,
        service: &'static str,
    ) -> Result<Self> {
        let address = RemoteAddress::of(remote)?;
        if let Some(key) = &reach.key_file {
            must_be_private(key)?;
        }
        let instead = host::variable(&["GIT_SSH_COMMAND"]);
        let gate = masters.gate(&address, reach, instead.as_deref());
        Ok(Self { address, reach, gate, instead, service })
    }

    /// Starts ssh, over an open connection or as the process that opens it.
    fn call(&self) -> Result<GitConversation<SshCall<'_>>> {
        let limit = self.reach.limit;
        // The time limit begins at the process's turn.
        let mut pass = self.gate.enter(limit)?;
        let deadline = pass.began() + limit;
        let sharing = match pass.sharing() {
            Some(sharing) => sharing,
            None => pass.decided(self.sharing()?),
        };
        let dialogue = start(&self.argv(&sharing, &[])?)?;
        let call = SshCall { route: self, pass, dialogue };
        Ok(GitConversation::new(call, self.address.to_string(), limit, deadline))
    }

    /// How connections are shared. A user's own ControlPath takes precedence over the agent's.
    fn sharing(&self) -> Result<SharingMode> {
        let argv = self.argv(&SharingMode::Theirs, &["-G"])?;
        let mut dialogue = start(&argv)?;
        let mut settings = Vec::new();
        let mut piece = [0; 4096];
        while settings.len() < MOST_SETTINGS {
            match dialogue
                .read(&mut piece, CONNECT)
                .context("ssh -G does not print its settings")?
            {
                0 => break,
                read => settings.extend_from_slice(piece.get(..read).unwrap_or_default()),
            }
        }
        let farewell = dialogue.finish(LEAVE)?;
        match (farewell.code, &self.instead) {
            (Some(0), _) => {}
            // As git does: a command that fails on `-G` is not OpenSSH.
            (Some(code), Some(_)) if code != NO_PROGRAM => return Ok(SharingMode::Unknown),
            (_, instead) => {
                let words = errors::words(&farewell.complaints);
                let what = instead.as_ref().map_or("ssh", |_| "GIT_SSH_COMMAND");
                bail!("{what} cannot be used as it is set up: {words}");
            }
        }
        let settings = String::from_utf8_lossy(&settings);
        let path = settings.lines().find_map(|line| line.strip_prefix("controlpath "));
        let own = path.is_some_and(|path| path != "none");
        Ok(self.gate.socket().filter(|_| !own).map_or(SharingMode::Theirs, SharingMode::Ours))
    }

    /// The command line; `first` comes before the options.
    fn argv(&self, sharing: &SharingMode, first: &[&str]) -> Result<Vec<OsString>> {
        let Self { address, reach, .. } = self;
        let mut argv: Vec<OsString> = match &self.instead {
            Some(command) => {
                ["sh", "-c", &format!("{command} \"$@\""), command].map(Into::into).into()
            }
            None => vec!["ssh".into()],
        };
        argv.extend(first.iter().map(Into::into));
        let mut option = |text: String| argv.extend(["-o".into(), text.into()]);
        let place = match &address.user {
            Some(user) => format!("{user}@{}", address.host),
            None => address.host.clone(),
        };
        let command = format!("{} {}", self.service, quoted(&address.path));
        if let SharingMode::Unknown = sharing {
            if address.port.is_some() || reach.key_file.is_some() || reach.known_hosts.is_some() {
                bail!(
                    "GIT_SSH_COMMAND is not OpenSSH, and takes no port or key\n\
                     hint: unset GIT_SSH_COMMAND, or set them in that program"
                );
            }
            argv.extend([place.into(), command.into()]);
            return Ok(argv);
        }
        OPTIONS.iter().for_each(|text| option((*text).to_owned()));
        if let Some(port) = address.port {
            option(format!("Port={port}"));
        }
        if let Some(key) = &reach.key_file {
            option(format!("IdentityFile={}", in_a_setting(key)));
            option("IdentitiesOnly=yes".to_owned());
        }
        if let Some(known) = &reach.known_hosts {
            option(format!("UserKnownHostsFile={}", in_a_setting(known)));
            option("StrictHostKeyChecking=yes".to_owned());
        }
        if let SharingMode::Ours(socket) = sharing {
            option("ControlMaster=auto".to_owned());
            option(format!("ControlPath=\"{}%C\"", without_placeholders(socket)));
            option(PERSIST.to_owned());
        }
        argv.extend(["--".into(), place.into(), command.into()]);
        Ok(argv)
    }
}

fn start(argv: &[OsString]) -> Result<DuplexChild> {
    DuplexChild::start(argv, &[("GIT_PROTOCOL", "version=2")]).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("ssh is not installed\nhint: {}", packages::install_command("openssh-client"))
        }
        _ => Error::new(error).context("cannot start ssh"),
    })
}

/// Quotes a path as one word for the shell at the remote.
fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', "'\\''"))
}

/// Quotes a path for the value of an ssh option.
fn in_a_setting(path: &Path) -> String {
    format!("\"{}\"", without_placeholders(path))
}

/// Escapes a path for ssh, where `%` begins a placeholder.
fn without_placeholders(path: &Path) -> String {
    path.display().to_string().replace('%', "%%")
}

/// Fails when others can read the key: ssh ignores such a key, and then only reports a refused login.
fn must_be_private(key: &Path) -> Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    let shown = key.display();
    // No server refused, so there is no pause: the key is looked at again at each tick.
    // NONBLOCK, so that a pipe in the key's place is not waited for.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let open = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(key);
    let found = open.and_then(|file| file.metadata()).map_err(|error| {
        denied(format!(
            "the key {shown} cannot be read: {error}\n\
             hint: correct key_file, or let the user who runs this read it"
        ))
    })?;
    match found.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => Err(denied(format!("the key {shown} can be read by others\nhint: chmod 600 {shown}"))),
    }
}

/// An ssh process that runs a program of git's.
struct SshCall<'a> {
    route: &'a SshRoute<'a>,
    pass: GatePermit,
    dialogue: DuplexChild,
}

impl DuplexStream for SshCall<'_> {
    fn read(&mut self, into: &mut [u8], patience: Duration) -> io::Result<usize> {
        let until = since_boot() + patience;
        loop {
            let left = until.saturating_sub(since_boot());
            let patience = if self.pass.opens() { left.min(BEAT) } else { left };
            match self.dialogue.read(into, patience) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut && patience < left => {
                    // The other processes need not wait for this repository's answer.
                    self.pass.update_state();
                }
                Ok(read @ 1..) => {
                    // A server that sends something has accepted the login.
                    self.pass.opened();
                    return Ok(read);
                }
                read => return read,
            }
        }
    }

    fn write(&mut self, bytes: &[u8], patience: Duration) -> io::Result<usize> {
        self.dialogue.write(bytes, patience)
    }

    fn is_open(&self) -> bool {
        !self.pass.opens()
    }

    fn leave(self) {
        // The conversation is complete; ssh's exit code does not matter.
        let _ = self.dialogue.finish(LEAVE);
    }

    fn reason(self, over: Error) -> Error {
        let Self { route, mut pass, dialogue } = self;
        let tried = TriedSsh {
            address: &route.address,
            key_file: route.reach.key_file.as_deref(),
            known_hosts: route.reach.known_hosts.as_deref(),
        };
        let farewell = dialogue.finish(LEAVE).ok();
        let cause = farewell.and_then(|it| errors::explained(&tried, it.code, &it.complaints));
        let error = cause.unwrap_or(over);
        if let Some(RemoteFailure::Server) = error.downcast_ref() {
            pass.failed(&error);
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_one_word_for_the_shell_on_the_other_side() {
        assert_eq!(quoted("/srv/it's; id"), "'/srv/it'\\''s; id'");
        assert_eq!(in_a_setting(Path::new("/a b/%h")), "\"/a b/%%h\"");
    }

    #[test]
    fn a_key_that_others_can_read_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        crate::system::files::put(dir.path(), "key", b"", 0o600).unwrap();
        assert!(must_be_private(&key).is_ok());
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = must_be_private(&key).unwrap_err();
        assert_eq!(error.downcast_ref::<RemoteFailure>(), None, "no server has refused it");
        assert!(error.to_string().ends_with(&format!("hint: chmod 600 {}", key.display())));
    }
}
