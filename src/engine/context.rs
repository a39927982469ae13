//! The context of every step: settings, identity of this machine, connections to remotes. Knows nothing
//! of single repositories.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::config::{AgentDirs, RepoSettings, Settings};
use crate::domain::repository::gates::canaries::CanaryMachine;
use crate::domain::repository::hold::Person;
use crate::domain::trust::Trustee;
use crate::system::host::{Host, person, runtime_dir};
use crate::system::remote::{OpenConnections, Wire};
use crate::system::signers::SignersFiles;
use crate::system::time_zone::TimeZones;

/// What a look at canaries found; the error is for people.
pub type CanaryLook = Result<Vec<CanaryMachine>, String>;

/// What was seen of canaries, by the beginnings of the refs that were asked for.
pub type CanaryLooks = BTreeMap<Vec<String>, CanaryLook>;

/// The settings that one process of ours hands to another: all that it may know of the configuration.
#[derive(Serialize, Deserialize)]
pub struct HandedSettings {
    world: AgentDirs,
    part: Option<String>,
    stack: Option<String>,
    trusted: Vec<Trustee>,
    repos: BTreeMap<String, RepoSettings>,
}

/// Settings, machine identity and connections, shared by every step. A clone shares them, for a thread
/// that may be left behind.
#[derive(Clone, Debug)]
pub struct Context {
    /// The configuration.
    pub settings: Arc<Settings>,
    /// Host name, user, machine id and boot id.
    pub node: Host,
    /// The part of this machine, for `{part}` and script names; `None`: unknown.
    pub part: Option<String>,
    /// The stack of this machine, for `{stack}` and script names; `None`: unknown.
    pub stack: Option<String>,
    /// The connections to remotes.
    pub wire: Arc<Wire>,
    /// The time zones of windows.
    pub zones: Arc<TimeZones>,
    /// The keys that may sign.
    pub signers: Arc<SignersFiles>,
    /// What this process saw of canaries.
    pub canaries: Arc<Mutex<CanaryLooks>>,
    /// In a helper process: the file with settings and secrets from root's tick; `None`: this process is
    /// no helper.
    pub helper_input: Option<Arc<File>>,
    /// In a helper process: the socket on which root's tick accepts requests to run `after`, because the
    /// helper cannot become `after_user`.
    pub requests: Option<String>,
    /// In a helper process: the person whose command root carries out; `None`: see [`Context::person`].
    pub asked_by: Option<Person>,
    /// The options by which the agent processes that this one starts log as it does; empty: they do not log, and may
    /// show a progress bar.
    pub log_args: Vec<OsString>,
}

impl Context {
    /// Takes part and stack from the settings, else from the files under `nodeinfo`.
    ///
    /// # Errors
    /// When a file under `nodeinfo` holds no valid part or stack.
    pub fn new(settings: Settings, node: Host) -> anyhow::Result<Self> {
        use crate::system::host::word;
        let nodeinfo = &settings.world.nodeinfo;
        let part = match &settings.part {
            Some(part) => Some(part.clone()),
            None => word(nodeinfo, &["nodepart.txt"])?,
        };
        let stack = match &settings.stack {
            Some(stack) => Some(stack.clone()),
            None => word(nodeinfo, &["stacktype.txt", "stackkey.txt"])?,
        };
        Ok(Self { part, stack, ..Self::bare(settings, node) })
    }

    /// The settings for another process of ours, which works on `repos`.
    pub fn hand_over(&self, repos: BTreeMap<String, RepoSettings>) -> HandedSettings {
        HandedSettings {
            world: self.settings.world.clone(),
            part: self.part.clone(),
            stack: self.stack.clone(),
            trusted: self.settings.trusted.clone(),
            repos,
        }
    }

    /// The context of a process that got its settings from another one.
    pub fn handed_over(handed: HandedSettings) -> Self {
        let HandedSettings { world, part, stack, trusted, repos } = handed;
        let settings = Settings::handed_over(world, trusted, repos);
        Self { part, stack, ..Self::bare(settings, Host::current()) }
    }

    /// Sets the path of the repository `name`.
    pub fn put_path(&mut self, name: &str, path: PathBuf) {
        if let Some(repo) = Arc::make_mut(&mut self.settings).repos.get_mut(name) {
            repo.path = Some(path);
        }
    }

    /// Builds a context without part and stack.
    pub fn bare(settings: Settings, node: Host) -> Self {
        let wire = Arc::new(wire(&settings));
        let settings = Arc::new(settings);
        let (part, stack, helper_input, requests, asked_by) = (None, None, None, None, None);
        let log_args = vec!["--quiet".into()];
        let (zones, signers, canaries) = (Arc::default(), Arc::default(), Arc::default());
        Self {
            settings,
            node,
            part,
            stack,
            wire,
            zones,
            signers,
            canaries,
            helper_input,
            requests,
            asked_by,
            log_args,
        }
    }

    /// Polls over the connections that other contexts of this process left open, and leaves them open.
    pub fn sharing(self, connections: &OpenConnections) -> Self {
        let mut wire = wire(&self.settings);
        wire.share(connections);
        Self { wire: Arc::new(wire), ..self }
    }

    /// The person behind this command.
    pub fn person(&self) -> Person {
        self.asked_by.clone().unwrap_or_else(person)
    }
}

fn wire(settings: &Settings) -> Wire {
    // With a root of its own (`--root`), sockets lie within it; else in the runtime directory, which
    // vanishes with the machine.
    let state = settings.world.state.join("ssh");
    let runtime = runtime_dir().filter(|_| !settings.world.own).map(|it| it.join("ssh"));
    Wire::new(runtime.into_iter().chain([state]).collect())
}
