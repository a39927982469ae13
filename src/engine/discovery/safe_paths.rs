//! Checks each file and directory that the agent depends on before it is used: whether another user
//! could exchange it. Each discovery walks each directory once. This file decides which paths are
//! checked, what follows from an unsafe one, and its message; `system::trust` walks and judges a path.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow};

use crate::config::{self, AgentDirs, Settings};
use crate::domain::text::EscapeControls;
use crate::domain::trust::Trustee;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::system::trust::{PathWalk, Trust, UntrustedPart, WalkedPath};
use crate::system::users::User;
use crate::system::{files, scripts as script_door};

/// The paths walked during one discovery.
#[derive(Debug)]
pub struct SafePaths {
    trustees: Vec<Trustee>,
    walk: PathWalk,
    trusts: Mutex<BTreeMap<u32, Arc<Trust>>>,
}

impl SafePaths {
    /// Starts with no path walked.
    pub fn new(context: &Context) -> Self {
        Self::of(&context.settings)
    }

    fn of(settings: &Settings) -> Self {
        let trustees = settings.trusted.clone();
        Self { trustees, walk: PathWalk::default(), trusts: Mutex::default() }
    }

    /// Walks to an absolute path, part by part.
    ///
    /// # Errors
    /// When a part of it cannot be read.
    pub fn walk(&self, path: &Path) -> io::Result<WalkedPath> {
        self.walk.walk(path)
    }

    /// The users who may change the files that user `uid` depends on.
    pub fn trust(&self, uid: u32) -> Arc<Trust> {
        let mut trusts = self.trusts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(trusts.entry(uid).or_insert_with(|| Arc::new(Trust::new(uid, &self.trustees))))
    }

    /// The real path of `path`, which no user but `uid` (and those trusted) can redirect.
    ///
    /// # Errors
    /// When another user can change a part of it; says which, with the remedy.
    pub fn require(&self, path: &Path, uid: u32) -> Result<PathBuf> {
        let walked = self.walk(path);
        let walked = walked.with_context(|| format!("cannot look at {}", path.display()))?;
        walked.check(&self.trust(uid)).map_err(into_error)?;
        Ok(walked.real)
    }

    /// The first file named in the settings of `repo`, or the log directory, that another user could
    /// exchange, with the remedy; `None`: all are safe.
    pub fn settings_fault(&self, context: &Context, repo: &RepoEntry) -> Option<String> {
        let reach = &repo.settings.reach;
        let files = [
            ("key_file", &reach.key_file),
            ("known_hosts", &reach.known_hosts),
            ("password_file", &reach.password_file),
            ("ca_file", &reach.ca_file),
            ("client_cert", &reach.client_cert),
            ("env_file", &repo.settings.env_file),
            ("allowed_signers", &repo.settings.policy.gates.signers),
        ];
        for (key, path) in files {
            // Root has already checked a file whose content it handed over.
            let Some(path) = path.as_ref().filter(|path| !files::is_handed_over(path)) else {
                continue;
            };
            // A file that cannot be reached is reported by the code that reads it.
            let Ok(walked) = self.walk(path) else { continue };
            if let Err(part) = walked.check(&repo.trust) {
                return Some(format!("{key}: {}", crate::engine::error::reason(&into_error(part))));
            }
        }
        let logs = &context.settings.world.logs;
        if let Ok(walked) = self.walk(logs)
            && let Err(part) = walked.judge_log_directory(&repo.trust)
        {
            return Some(format!("logs: {}", crate::engine::error::reason(&into_error(part))));
        }
        None
    }

    /// The real path of the directory that holds a target of `repo`.
    ///
    /// # Errors
    /// When it cannot be read, or another user could exchange it.
    pub fn target(&self, repo: &RepoEntry, directory: &Path) -> Result<PathBuf> {
        let walked = self.walk(directory);
        let walked = walked.with_context(|| format!("cannot look at {}", directory.display()))?;
        match walked.check(&repo.trust) {
            Ok(()) => Ok(walked.real),
            Err(part) => Err(anyhow!("target: {}", of_repository(&part))),
        }
    }
}

/// The error for an unsafe part that several repositories depend on, with its remedies.
fn into_error(part: UntrustedPart) -> anyhow::Error {
    let hint = match part.trustee() {
        Some(trustee) => format!(
            "{}; or, if that is as good as root here, at the top of agent.toml: trusted = [\"{}\"]",
            part.remedy(),
            trustee.escape_controls()
        ),
        None => part.remedy(),
    };
    let hint = format!("{part}\nhint: {hint}");
    anyhow::Error::new(part).context(hint)
}

/// The reason for an unsafe part of the path to a repository, with its remedies.
pub fn of_repository(part: &UntrustedPart) -> String {
    let mut ways = Vec::new();
    if let Some(user) = part.other_user() {
        ways.push(format!("work there as that user: user = \"{}\"", user.escape_controls()));
    }
    ways.push(part.remedy());
    if let Some(trustee) = part.trustee() {
        ways.push(format!(
            "if that is as good as root here, at the top of agent.toml: trusted = [\"{}\"]",
            trustee.escape_controls()
        ));
    }
    format!("{part}\nhint: {}", ways.join("; or "))
}

/// Checks the configuration files of `world` for this process's own user. `trusted` does not apply:
/// users who may write these files may also write that list.
///
/// # Errors
/// When another user can change a part of their paths: nothing may run then.
pub fn configuration(world: &AgentDirs) -> Result<(), config::ConfigError> {
    let (walk, trust) = (PathWalk::default(), Trust::own());
    let mut files = vec![world.config_file.clone()];
    if !world.config_named {
        files.push(world.config_dir.clone());
        // A directory that cannot be listed is reported by the code that reads it.
        files.extend(config::files_in(&world.config_dir).unwrap_or_default());
    }
    for file in files {
        // So is a file that cannot be reached.
        let Ok(walked) = walk.walk(&file) else { continue };
        if let Err(part) = walked.check(&trust) {
            let reason = format!("{part}\nhint: {}; nothing runs until then", part.remedy());
            return Err(config::ConfigError::of_path(&file, &reason));
        }
    }
    Ok(())
}

/// The real path of another program's directory into which the agent writes files of its own: no other
/// user can redirect the path. Anybody may own the directory itself.
///
/// # Errors
/// When another user can change a part of it; says which, with the remedy.
pub fn shared_directory(context: &Context, directory: &Path) -> Result<PathBuf> {
    let paths = SafePaths::new(context);
    let walked = paths.walk(directory);
    let walked = walked.with_context(|| format!("cannot look at {}", directory.display()))?;
    walked.judge_way(&paths.trust(context.node.user.uid)).map_err(into_error)?;
    Ok(walked.real)
}

/// A section of the configuration that the long-running agent uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSection {
    /// `[bus]`
    Bus,
    /// `[webhook]`
    Webhook,
}

/// The sections with a file that another user could exchange, each with the reason. Such a section is
/// not used.
pub fn section_faults(settings: &Settings) -> Vec<(ConfigSection, anyhow::Error)> {
    let paths = SafePaths::of(settings);
    let uid = User::current().uid;
    let brokers = settings.bus.iter().map(|bus| &bus.brokers);
    let brokers = brokers.flat_map(|brokers| [&brokers.login_file, &brokers.ca_file]);
    let secret = settings.webhook.iter().map(|webhook| &webhook.secret_file);
    let all = brokers.flatten().map(|file| (ConfigSection::Bus, file));
    all.chain(secret.map(|file| (ConfigSection::Webhook, file)))
        .filter(|(_, file)| file.exists())
        .filter_map(|(section, file)| Some((section, paths.require(file, uid).err()?)))
        .collect()
}

/// Removes the unsafe sections from `settings`; returns the reasons, to be reported.
pub fn leave_out_unsafe_sections(settings: &mut Settings) -> Vec<anyhow::Error> {
    let faults = section_faults(settings);
    for (section, _) in &faults {
        match section {
            ConfigSection::Bus => settings.bus = None,
            ConfigSection::Webhook => settings.webhook = None,
        }
    }
    let left_out = |section: ConfigSection| match section {
        ConfigSection::Bus => "the message bus is not used",
        ConfigSection::Webhook => "web hooks are not listened to",
    };
    faults.into_iter().map(|(section, fault)| fault.context(left_out(section))).collect()
}

/// Checks that no other user can redirect the path of a `directory` of our own.
///
/// # Errors
/// When another user can change a part of the path; says which, with the remedy.
pub fn own_directory(context: &Context, directory: &Path) -> Result<()> {
    SafePaths::new(context).require(directory, context.node.user.uid).map(drop)
}

/// Checks that no other user can redirect the path of the agent's state directory, before it is written.
///
/// # Errors
/// When another user can change a part of the path; says which, with the remedy.
pub fn state(context: &Context) -> Result<()> {
    own_directory(context, &context.settings.world.state)
}

/// The text of the secret file at `path`, for root to hand over to another user's process; `None` unless
/// root alone decides where the path leads. Reads at most `cap` bytes.
pub fn secret_of_root(context: &Context, path: &Path, cap: u64) -> Option<String> {
    let real = SafePaths::new(context).require(path, 0).ok()?;
    // A file that root cannot read either is reported by the process that needs it.
    files::read_private(&real, cap).ok()
}

/// The real path of `program`, as a process in `directory` with the variables `env` finds it. Checked
/// for user `uid`, who runs it.
///
/// # Errors
/// When no such program can be run, another user could exchange it, or it is a script that would run only
/// in part.
pub fn program(
    context: &Context,
    program: &str,
    env: &[(OsString, OsString)],
    directory: &Path,
    uid: u32,
) -> Result<PathBuf> {
    let path = env.iter().rev().find(|(key, _)| key == "PATH");
    let path = path.map_or(OsStr::new(""), |(_, value)| value);
    let found =
        script_door::find_program(OsStr::new(program), path, directory).ok_or_else(|| {
            anyhow!(
                "there is no program \"{}\" that can be run\nhint: install it, or correct its name",
                program.escape_controls()
            )
        })?;
    let real = SafePaths::new(context).require(&found, uid)?;
    script_door::check_program(&real)?;
    Ok(found)
}

/// The reason not to run the program of `key`, `argv`, as our own user: another one could exchange it; `None`: it
/// is safe, or unset. A missing program is reported by the code that starts it.
pub fn own_program_fault(context: &Context, key: &str, argv: &[String]) -> Option<anyhow::Error> {
    let program = Path::new(argv.first()?);
    let safe = SafePaths::new(context).require(program, context.node.user.uid);
    let fault = safe.and_then(|real| script_door::check_program(&real)).err()?;
    Some(fault.context(format!("the program of {key} is not run")))
}

/// Checks the scripts of a tree at `directory` for the user who runs them: every directory on the way to
/// a script, not only `directory`. Returns device and inode of `directory`, which the script's process
/// compares before it executes the script.
///
/// # Errors
/// As [`SafePaths::require`].
pub fn scripts(context: &Context, directory: &Path, scripts: &[String]) -> Result<(u64, u64)> {
    let paths = SafePaths::new(context);
    let uid = context.node.user.uid;
    for script in scripts {
        paths.require(&directory.join(script), uid)?;
    }
    let walked = paths.walk(directory).ok().and_then(|walked| walked.id());
    walked.with_context(|| format!("{} is gone", directory.display()))
}
