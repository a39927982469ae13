//! ssh: the system's OpenSSH is run, so that `~/.ssh/config`, agents, certificates, jump hosts and
//! hardware keys work as for the person who set them up. Its connections are shared and outlive us
//! for a while; see [`masters`]. Never asks anybody anything.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};

use super::address::Address;
use super::stream::{self, CONNECT, Conversation, Line};
use super::{Order, Progress};
use crate::domain::git::Remote;
use crate::domain::remote::{Answer, Reach, Trouble, Wanted, Way};
use crate::system::git::Git;
use crate::system::node::{self, since_boot};
use crate::system::process::Dialogue;

mod complaint;
mod masters;

use complaint::Tried;
pub(super) use masters::Masters;
use masters::{Gate, Pass, Sharing};

/// How often whoever opens the connection looks whether it stands.
const BEAT: Duration = Duration::from_millis(20);
/// How long ssh has to end by itself after the conversation.
const LEAVE: Duration = Duration::from_secs(2);
/// The most that `ssh -G` may print, in bytes.
const MOST_SETTINGS: usize = 1 << 20;
/// What a shell ends with when there is no such program.
const NO_PROGRAM: i32 = 127;
/// Nobody is there to be asked; a dead link ends after 30 s; nothing but the session is wanted.
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
/// Longer than the minute until the next tick, its splay and its fetches.
const PERSIST: &str = "ControlPersist=90";

/// See [`Wire::poll`](super::Wire::poll).
pub(super) fn poll(
    masters: &Masters,
    remote: &Remote,
    wanted: &Wanted,
    reach: &Reach,
    known: Option<&Way>,
) -> Result<Answer> {
    let route = Route::new(masters, remote, reach)?;
    stream::poll(wanted, known, &|| route.call())
}

/// See [`Wire::fetch`](super::Wire::fetch).
pub(super) fn fetch(
    masters: &Masters,
    git: &Git,
    order: &Order,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let route = Route::new(masters, order.remote, order.reach)?;
    stream::fetch(git, order, &|| route.call(), progress)
}

/// Makes sure, without asking the server, that it can be asked.
///
/// # Errors
/// When ssh is not installed, the key cannot be used, or the host is not known by the list that is
/// configured.
pub(super) fn ready(remote: &Remote, reach: &Reach) -> Result<()> {
    let address = Address::of(remote)?;
    reach.key_file.as_deref().map_or(Ok(()), must_be_private)?;
    start(&["ssh".into(), "-V".into()])?.finish(CONNECT)?;
    let Some(known) = &reach.known_hosts else { return Ok(()) };
    let name = complaint::known_name(&address);
    let argv = ["ssh-keygen", "-F", &name, "-f"].map(OsString::from);
    let argv: Vec<OsString> = argv.into_iter().chain([known.into()]).collect();
    match start(&argv)?.finish(CONNECT)?.code {
        Some(0) => Ok(()),
        _ => Err(complaint::unknown_host(&address, Some(known))),
    }
}

/// How a repository is reached.
struct Route<'a> {
    address: Address,
    reach: &'a Reach,
    gate: Arc<Gate>,
    /// What the person wants to be run in place of ssh, in the words of a shell.
    instead: Option<String>,
}

impl<'a> Route<'a> {
    fn new(masters: &Masters, remote: &Remote, reach: &'a Reach) -> Result<Self> {
        let address = Address::of(remote)?;
        if let Some(key) = &reach.key_file {
            must_be_private(key)?;
        }
        let instead = node::variable(&["GIT_SSH_COMMAND"]);
        let gate = masters.gate(&address, reach, instead.as_deref());
        Ok(Self { address, reach, gate, instead })
    }

    /// Starts ssh, over a connection that is there already or as the one that opens it.
    fn call(&self) -> Result<Conversation<Call<'_>>> {
        let limit = self.reach.limit;
        // Its time begins when its turn has come.
        let mut pass = self.gate.enter(limit)?;
        let deadline = pass.began() + limit;
        let sharing = match pass.sharing() {
            Some(sharing) => sharing,
            None => pass.decided(self.sharing()?),
        };
        let dialogue = start(&self.argv(&sharing, &[])?)?;
        let call = Call { route: self, pass, dialogue };
        Ok(Conversation::new(call, self.address.to_string(), limit, deadline))
    }

    /// Whether connections are shared the way we do it. Whoever has a way of sharing them keeps it.
    fn sharing(&self) -> Result<Sharing> {
        let argv = self.argv(&Sharing::Theirs, &["-G"])?;
        let mut dialogue = start(&argv)?;
        let mut settings = Vec::new();
        let mut piece = [0; 4096];
        while settings.len() < MOST_SETTINGS {
            match dialogue.read(&mut piece, CONNECT).context("ssh does not tell its settings")? {
                0 => break,
                read => settings.extend_from_slice(piece.get(..read).unwrap_or_default()),
            }
        }
        let farewell = dialogue.finish(LEAVE)?;
        match (farewell.code, &self.instead) {
            (Some(0), _) => {}
            // As git does: what does not know the question is not OpenSSH.
            (Some(code), Some(_)) if code != NO_PROGRAM => return Ok(Sharing::Unknown),
            (_, instead) => {
                let words = complaint::words(&farewell.complaints);
                let what = instead.as_ref().map_or("ssh", |_| "GIT_SSH_COMMAND");
                bail!("{what} cannot be used as it is set up: {words}");
            }
        }
        let settings = String::from_utf8_lossy(&settings);
        let path = settings.lines().find_map(|line| line.strip_prefix("controlpath "));
        let own = path.is_some_and(|path| path != "none");
        Ok(self.gate.socket().filter(|_| !own).map_or(Sharing::Theirs, Sharing::Ours))
    }

    /// The command line; `first` stands before everything else.
    fn argv(&self, sharing: &Sharing, first: &[&str]) -> Result<Vec<OsString>> {
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
        let command = format!("git-upload-pack {}", quoted(&address.path));
        if let Sharing::Unknown = sharing {
            if address.port.is_some() || reach.key_file.is_some() || reach.known_hosts.is_some() {
                bail!(
                    "GIT_SSH_COMMAND is not OpenSSH, and cannot be told of a port or a key\n\
                     hint: unset GIT_SSH_COMMAND, or let it know them itself"
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
        if let Sharing::Ours(socket) = sharing {
            option("ControlMaster=auto".to_owned());
            option(format!("ControlPath=\"{}%C\"", without_placeholders(socket)));
            option(PERSIST.to_owned());
        }
        argv.extend(["--".into(), place.into(), command.into()]);
        Ok(argv)
    }
}

fn start(argv: &[OsString]) -> Result<Dialogue> {
    Dialogue::start(argv, &[("GIT_PROTOCOL", "version=2")]).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("ssh is not installed\nhint: apt-get install openssh-client")
        }
        _ => Error::new(error).context("cannot start ssh"),
    })
}

/// As one word for the shell on the other side.
fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', "'\\''"))
}

/// A path as the value of one of ssh's settings.
fn in_a_setting(path: &Path) -> String {
    format!("\"{}\"", without_placeholders(path))
}

/// A path for ssh, for which `%` begins a placeholder.
fn without_placeholders(path: &Path) -> String {
    path.display().to_string().replace('%', "%%")
}

/// ssh ignores a key that others can read, and then says only that it is not let in.
fn must_be_private(key: &Path) -> Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

    let shown = key.display();
    // No server was asked with it: it is tried again as soon as the key is as it should be. And a pipe
    // in its place is not waited for.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let open = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(key);
    let found = open.and_then(|file| file.metadata()).map_err(|error| {
        anyhow!(
            "the key {shown} cannot be read: {error}\n\
             hint: correct key_file, or let the user who runs this read it"
        )
    })?;
    match found.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => bail!("the key {shown} can be read by others\nhint: chmod 600 {shown}"),
    }
}

/// ssh, talking to `git-upload-pack`.
struct Call<'a> {
    route: &'a Route<'a>,
    pass: Pass,
    dialogue: Dialogue,
}

impl Line for Call<'_> {
    fn read(&mut self, into: &mut [u8], patience: Duration) -> io::Result<usize> {
        let until = since_boot() + patience;
        loop {
            let left = until.saturating_sub(since_boot());
            let patience = if self.pass.opens() { left.min(BEAT) } else { left };
            match self.dialogue.read(into, patience) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut && patience < left => {
                    // Others need not wait for what its repository has to say.
                    self.pass.look();
                }
                Ok(read @ 1..) => {
                    // Whoever says something has let us in.
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

    fn stands(&self) -> bool {
        !self.pass.opens()
    }

    fn leave(self) {
        // It has done its work; how it ends is of no interest.
        let _ = self.dialogue.finish(LEAVE);
    }

    fn reason(self, over: Error) -> Error {
        let Self { route, mut pass, dialogue } = self;
        let tried = Tried {
            address: &route.address,
            key_file: route.reach.key_file.as_deref(),
            known_hosts: route.reach.known_hosts.as_deref(),
        };
        let farewell = dialogue.finish(LEAVE).ok();
        let told = farewell.and_then(|it| complaint::explained(&tried, it.code, &it.complaints));
        let error = told.unwrap_or(over);
        if let Some(Trouble::Server) = error.downcast_ref() {
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
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        crate::system::files::put(folder.path(), "key", b"", 0o600).unwrap();
        assert!(must_be_private(&key).is_ok());
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = must_be_private(&key).unwrap_err();
        assert_eq!(error.downcast_ref::<Trouble>(), None, "no server has refused it");
        assert!(error.to_string().ends_with(&format!("hint: chmod 600 {}", key.display())));
    }
}
