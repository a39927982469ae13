//! The configuration of this machine: every setting, validated in one place. After [`Settings`] is made,
//! nothing is checked again and no `Option` means "default". Does not know how settings are used.
//!
//! Reading order: `source` (texts, positions), `faults` (errors), `overlay` (later files over earlier ones),
//! `value`, `patterns` and `list` (the grammar of values), `file` (the keys), `modes`, `credentials` and `health` (which keys fit
//! together), `path_claims` (which paths may overlap), `layers`
//! (from keys to [`Settings`]), `bus`, `webhook`, `page` and `presence` (the same for these sections).

mod bus;
mod credentials;
mod faults;
mod file;
mod followed;
mod health;
mod layers;
mod list;
mod modes;
mod overlay;
mod page;
mod path_claims;
mod patterns;
mod presence;
mod signers;
mod source;
mod value;
mod webhook;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::bus::broker::BrokerSettings;
use crate::domain::bus::message::Topic;
use crate::domain::git::{Commit, Remote};
use crate::domain::paths::PathPatterns;
use crate::domain::publish::rules::{
    NamingRule, PublishRules, PublishTarget, RefSelection, TargetLayout,
};
use crate::domain::remote::{ConnectionSettings, RefKinds};
use crate::domain::repository::health::OnFailure;
use crate::domain::repository::observed::{OnRewrite, Policy, RerunPolicy};
use crate::domain::text::EscapeControls;
use crate::domain::trust::Trustee;

pub use faults::ConfigError;
pub use health::HealthSettings;
pub use page::PageSettings;
pub use patterns::quoted;
pub use presence::{FleetReaction, PresenceSettings};
pub use source::{ConfigTexts, files_in};
pub use value::{
    NamedAddress, address, branch, count, duration, positive_duration, repo_name, revision, token,
};
pub use webhook::WebhookSettings;

/// The directories that the agent reads and writes on this machine (contract: "files").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentDirs {
    /// The directory of the repositories.
    pub root: PathBuf,
    /// `agent.toml`; need not exist.
    pub config_file: PathBuf,
    /// `agent.d`; its `*.toml` are read after `agent.toml` unless `--config` names the file; need not exist.
    pub config_dir: PathBuf,
    /// The directory of `nodepart.txt` and similar files.
    pub nodeinfo: PathBuf,
    /// The directory of `last-tick`, `status.json`, `reported.json`.
    pub state: PathBuf,
    /// The log directory, with one directory for each repository.
    pub logs: PathBuf,
    /// Whether `--config` or `AGENT_CONFIG` named `config_file`.
    pub config_named: bool,
    /// Whether `--root` or `AGENT_ROOT` set the root: then all other directories are below it.
    pub own: bool,
}

/// The locations that the command line and the environment name.
#[derive(Clone, Debug, Default)]
pub struct ConfigLocations {
    /// `--config` or `AGENT_CONFIG`: read instead of the default file; must exist.
    pub config: Option<PathBuf>,
    /// `--root` or `AGENT_ROOT`.
    pub root: Option<PathBuf>,
    /// The caller's home directory; `None`: not known.
    pub home: Option<PathBuf>,
    /// Whether the caller is root.
    pub is_root: bool,
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The agent's directories.
    pub world: AgentDirs,
    /// Whether another process of ours read and checked them: there are no repositories but these then.
    pub is_handed_over: bool,
    /// The names of the files that were read, as errors show them.
    pub files: Vec<String>,
    /// Keys that a later file replaces: a sentence each, with both places.
    pub overrides: Vec<String>,
    /// The faults of each `[repo.NAME]` that is not used because of them, see [`RepoSettings::broken`].
    pub faults: BTreeMap<String, ConfigError>,
    /// Why the configuration of now is not used, and this earlier one instead.
    pub rejected: Option<String>,
    /// `splay`: each machine waits a fixed share of this before a tick.
    pub splay: Duration,
    /// `metrics_file`; `None`: none is written.
    pub metrics_file: Option<PathBuf>,
    /// `on_change`: a command and its arguments; empty when unset.
    pub on_change: Vec<String>,
    /// `trusted`: users besides root and a repository's own user who may change its files.
    pub trusted: Vec<Trustee>,
    /// `[node] part`, which wins over `nodeinfo`.
    pub part: Option<String>,
    /// `[node] stack`, which wins over `nodeinfo`.
    pub stack: Option<String>,
    /// `[repo.NAME]` sections, by name.
    pub repos: BTreeMap<String, RepoSettings>,
    /// The settings of a repository below the root without an entry: `[defaults]` over our own defaults.
    pub unlisted: RepoSettings,
    /// `[bus]`; `None`: no message bus.
    pub bus: Option<BusSettings>,
    /// `[webhook]`; `None`: no HTTP listener.
    pub webhook: Option<WebhookSettings>,
    /// `[page]`; `None`: no page is served.
    pub page: Option<PageSettings>,
    /// `[presence]`; `None`: nothing is published.
    pub presence: Option<PresenceSettings>,
    /// `[node] name`; `None`: the host name.
    pub node_name: Option<String>,
    /// `[listen] every`: the interval of the timer of `agent listen`.
    pub every: Duration,
}

/// The settings of the message bus.
#[derive(Clone, Debug)]
pub struct BusSettings {
    /// The brokers and how to connect to them.
    pub brokers: BrokerSettings,
    /// Options of a `failover:` address that have no effect.
    pub ignored: Vec<String>,
    /// `listen_topic`: the topics for repositories without topics of their own.
    pub listen_topics: Vec<Topic>,
    /// `report_topic`: the topic for reports on actions; `None`: no reports.
    pub report_topic: Option<Topic>,
    /// `announce_topic`: the topic for announced pushes.
    pub announce_topic: Topic,
    /// `spread`: after a message, wait a random part of this before the tick.
    pub spread: Duration,
}

/// The mode: what a new revision of a repository causes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepoMode {
    /// Merge into the worktree and run the scripts.
    #[default]
    Work,
    /// Fetch only; `agent checkout` publishes at the target, if there is one.
    #[serde(alias = "normal")]
    Fetch,
    /// Publish the branch's tree at the target.
    #[serde(alias = "trusting", alias = "branch")]
    Checkout,
    /// Merge into the worktree, run no scripts.
    #[serde(alias = "dangerous")]
    InPlace,
    /// Publish every branch at `TARGET/BRANCH`.
    #[serde(alias = "puppetmaster")]
    Branches,
    /// Publish every branch at `TARGET_BRANCH`.
    Atomic,
    /// Publish every tag at `TARGET/TAG`.
    Tags,
}

impl RepoMode {
    /// The mode's word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Fetch => "fetch",
            Self::Checkout => "checkout",
            Self::InPlace => "in-place",
            Self::Branches => "branches",
            Self::Atomic => "atomic",
            Self::Tags => "tags",
        }
    }

    /// The layout of trees at the target; `None`: the mode has no target and works on the worktree.
    pub fn layout(self) -> Option<TargetLayout> {
        match self {
            Self::Work | Self::InPlace => None,
            Self::Fetch | Self::Checkout => Some(TargetLayout::Checkout),
            Self::Branches | Self::Tags => Some(TargetLayout::Inside),
            Self::Atomic => Some(TargetLayout::Sibling),
        }
    }

    /// The kind of refs that are each published; `None`: the mode publishes at most one.
    pub fn refs(self) -> Option<RefSelection> {
        match self {
            Self::Work | Self::Fetch | Self::Checkout | Self::InPlace => None,
            Self::Branches | Self::Atomic => Some(RefSelection::Branches),
            Self::Tags => Some(RefSelection::Tags),
        }
    }

    /// The kinds of upstream refs that are fetched; `None`: only one branch is.
    pub fn fetched(self) -> Option<RefKinds> {
        let kinds = |branches, tags| Some(RefKinds { branches, tags });
        match self {
            Self::Work | Self::InPlace | Self::Checkout => None,
            Self::Fetch => kinds(true, true),
            Self::Branches | Self::Atomic => kinds(true, false),
            Self::Tags => kinds(false, true),
        }
    }

    /// The default of `rewritten`.
    pub fn rewritten(self) -> OnRewrite {
        match self {
            Self::Work | Self::Checkout | Self::InPlace => OnRewrite::Refuse,
            Self::Fetch | Self::Branches | Self::Atomic | Self::Tags => OnRewrite::Follow,
        }
    }
}

/// The settings of publishing; without effect where the mode works on the worktree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishSettings {
    /// `target`; always set in a mode that needs one.
    pub target: Option<PathBuf>,
    /// `names`: how the names of refs become directory names.
    pub names: NamingRule,
    /// `rename`: directory names by short names of branches or tags.
    pub rename: BTreeMap<String, String>,
    /// `match`: patterns for short names; empty: all match.
    pub matching: Vec<String>,
    /// `keep`: the number of old releases besides the current and the last good one.
    pub keep: u32,
    /// `before`: scripts of the new tree (relative) and programs of the machine (absolute), which may refuse it.
    pub before: Vec<String>,
    /// `after`: a program (its path, or a name in `PATH`) and its arguments; empty when unset.
    pub after: Vec<String>,
    /// `after_user`: the user who runs `after`; `None`: the same as for all else.
    pub after_user: Option<String>,
    /// `shared`: directories in the store that are linked into each release, as paths in a tree.
    #[serde(default)]
    pub shared: Vec<String>,
}

/// The complete settings of one repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RepoSettings {
    /// `url`, in order; empty: the clone's own `origin`.
    pub urls: Vec<Remote>,
    /// `path`; `None` only in [`Settings::unlisted`].
    pub path: Option<PathBuf>,
    /// `branch`, with unfilled `{part}`, `{stack}`, `{host}`; `None`: see the documentation.
    pub branch: Option<String>,
    /// `tag`, with unfilled `{part}`, `{stack}`, `{host}`: the newest tag that matches is followed.
    #[serde(default)]
    pub tag: Option<String>,
    /// `revision`: exactly this one is followed.
    #[serde(default)]
    pub revision: Option<Commit>,
    /// `active`, `update`, `rewritten`, the gates, `when` (of the machine; see [`RepoSettings::with_tree`]).
    pub policy: Policy,
    /// `mode`.
    pub mode: RepoMode,
    /// `poll`: whether ticks poll the remote without a message or an order.
    pub poll: bool,
    /// `paths`: gitignore-like patterns, later ones win; empty: every change counts.
    pub paths: Vec<String>,
    /// `scripts`: the scripts to run; `None`: those found by part and stack.
    pub scripts: Option<Vec<String>>,
    /// `timeout` for all scripts of an action.
    pub timeout: Duration,
    /// The connection settings for its remotes.
    pub reach: ConnectionSettings,
    /// `password_command`: a program and its arguments; its first line is the password for https. Empty when unset.
    /// Never handed over to another user's process.
    #[serde(skip)]
    pub password_command: Vec<String>,
    /// `password_ttl`: how long a password of `password_command` is used.
    pub password_ttl: Duration,
    /// `max_file`: the largest file that a change may write, in bytes; `None`: set by the machine's memory.
    pub max_file: Option<u64>,
    /// `user`: the user for all work; `None`: the owner of the clone.
    pub user: Option<String>,
    /// `target` and the other keys of publishing.
    pub publish: PublishSettings,
    /// `health`, `health_within`, `on_failure` (of the machine; see [`RepoSettings::with_tree`]).
    #[serde(default)]
    pub health: HealthSettings,
    /// `env`: variables for the scripts.
    pub env: BTreeMap<String, String>,
    /// `env_file`: a file with more variables.
    pub env_file: Option<PathBuf>,
    /// `on_action`: a program and its arguments, run after each ended action; empty when unset. Never handed over to
    /// another user's process.
    #[serde(skip)]
    pub on_action: Vec<String>,
    /// `topic_name`: its name in messages; `None`: its usual name.
    pub topic_name: Option<String>,
    /// `listen_topic`: the topics of its messages; empty: those of the bus.
    pub listen_topics: Vec<Topic>,
    /// Keys set by `[repo.NAME]`, which wins over `.pmpy.toml`.
    pub fixed: FixedKeys,
    /// The faults of `[repo.NAME]` as the reason of a state. The other settings are then those that could be
    /// read, and nothing may be done by them.
    #[serde(default)]
    pub broken: Option<String>,
}

/// Keys that the machine fixes against the repository's own `.pmpy.toml`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedKeys {
    /// `[repo.NAME]` contains `when`.
    pub when: bool,
    /// `[repo.NAME]` contains `paths`.
    pub paths: bool,
    /// `[repo.NAME]` contains `scripts`.
    pub scripts: bool,
}

/// The settings in `.pmpy.toml` at the top of a revision; `None`: not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeSettings {
    /// `when`: when the scripts run again.
    pub when: Option<RerunPolicy>,
    /// `paths`: gitignore-like patterns.
    pub paths: Option<Vec<String>>,
    /// `scripts`: the scripts to run.
    pub scripts: Option<Vec<String>>,
    /// `timeout`; has an effect only when shorter than the machine's.
    pub timeout: Option<Duration>,
    /// `hold`: the reason why the whole fleet stops before this revision.
    pub hold: Option<String>,
    /// `urgent`: the reason why the fleet does not wait with this revision.
    pub urgent: Option<String>,
    /// `on_failure = "stay"`: no machine goes back from this revision by itself.
    pub stays_on_failure: bool,
    /// Keys that this version does not know, and ignores.
    pub unknown: Vec<String>,
}

impl AgentDirs {
    /// The directories by `sources`, before any file is read: root's, those in the caller's home, or those
    /// below `--root`.
    ///
    /// # Errors
    /// When neither a home directory nor another root is known.
    pub fn of(sources: &ConfigLocations) -> Result<Self, ConfigError> {
        let mut world = match (&sources.root, &sources.home) {
            (Some(root), _) => {
                let root = std::path::absolute(root).map_err(|error| {
                    ConfigError::new(
                        Some("--root".to_owned()),
                        &format!("no such directory: {error}"),
                    )
                })?;
                Self::below(root)
            }
            (None, _) if sources.is_root => Self {
                root: "/root/gitrepo".into(),
                config_file: "/etc/pmpy/agent.toml".into(),
                config_dir: "/etc/pmpy/agent.d".into(),
                nodeinfo: "/root/nodeinfo".into(),
                state: "/var/lib/pmpy".into(),
                logs: "/var/log/pmpy".into(),
                config_named: false,
                own: false,
            },
            (None, Some(home)) if home.is_absolute() => Self {
                root: home.join("gitrepo"),
                config_file: home.join(".config/pmpy/agent.toml"),
                config_dir: home.join(".config/pmpy/agent.d"),
                nodeinfo: home.join("nodeinfo"),
                state: home.join(".local/state/pmpy"),
                logs: home.join(".local/state/pmpy/log"),
                config_named: false,
                own: false,
            },
            (None, home) => return Err(ConfigError::new(None, &no_home(home.as_deref()))),
        };
        if let Some(config) = &sources.config {
            // Absolute, because schedules contain it and run in another directory.
            world.config_file = std::path::absolute(config).map_err(|error| {
                ConfigError::new(Some("--config".to_owned()), &format!("no such file: {error}"))
            })?;
            world.config_named = true;
        }
        Ok(world)
    }

    /// The directories of an agent with its own `root`.
    fn below(root: PathBuf) -> Self {
        let own = root.join(".pmpy");
        Self {
            config_file: own.join("agent.toml"),
            config_dir: own.join("agent.d"),
            nodeinfo: own.join("nodeinfo"),
            logs: own.join("log"),
            state: own,
            root,
            config_named: false,
            own: true,
        }
    }
}

/// The message when `home` cannot be the caller's home directory.
fn no_home(home: Option<&Path>) -> String {
    match home {
        Some(home) => format!(
            "HOME is \"{}\", which is not an absolute path\n\
             hint: set HOME to your home directory, or name a directory with --root",
            home.display().to_string().escape_controls()
        ),
        None => "your home directory is not known\nhint: set HOME, or name a directory with --root"
            .to_owned(),
    }
}

impl Settings {
    /// Reads and checks the configuration that `sources` name.
    ///
    /// # Errors
    /// All faults with their places, if one of them is outside of `[repo.NAME]`.
    pub fn load(sources: &ConfigLocations) -> Result<Self, ConfigError> {
        let world = AgentDirs::of(sources)?;
        if world.own && world.root.exists() && !world.root.is_dir() {
            let name = world.root.display().to_string().escape_controls();
            let reason = "the root is not a directory\nhint: name a directory with --root";
            return Err(ConfigError::new(Some(name), reason));
        }
        let mut source = ConfigTexts::default();
        let found = source.add_file(&world.config_file)?;
        if sources.config.is_none() {
            source.add_dir(&world.config_dir)?;
        } else if !found {
            let name = world.config_file.display().to_string().escape_controls();
            let reason = "there is no such file\n\
                          hint: write it, or leave out --config (and AGENT_CONFIG)";
            return Err(ConfigError::new(Some(name), reason));
        }
        Self::parse(world, &source)
    }

    /// Settings that another process of ours has read and checked: only these repositories.
    pub fn handed_over(
        world: AgentDirs,
        trusted: Vec<Trustee>,
        repos: BTreeMap<String, RepoSettings>,
    ) -> Self {
        Self {
            world,
            is_handed_over: true,
            files: Vec::new(),
            overrides: Vec::new(),
            faults: BTreeMap::new(),
            rejected: None,
            splay: Duration::ZERO,
            metrics_file: None,
            on_change: Vec::new(),
            trusted,
            part: None,
            stack: None,
            repos,
            unlisted: layers::usual(),
            bus: None,
            webhook: None,
            page: None,
            presence: None,
            node_name: None,
            every: layers::EVERY,
        }
    }

    /// Checks texts that are read already. With `--root`, the texts cannot change `root`.
    ///
    /// # Errors
    /// As for [`Settings::load`].
    pub fn parse(world: AgentDirs, source: &ConfigTexts) -> Result<Self, ConfigError> {
        layers::settings(world, source)
    }

    /// The settings of the repository `name`, which may have no entry.
    pub fn of_repo(&self, name: &str) -> &RepoSettings {
        self.repos.get(name).unwrap_or(&self.unlisted)
    }

    /// The program of `on_action` for the repository `name`; empty: none is run.
    pub fn on_action(&self, name: &str) -> &[String] {
        &self.of_repo(name).on_action
    }

    /// The different programs that the agent's own user runs, each with its key.
    pub fn programs(&self) -> Vec<(&'static str, &[String])> {
        let mut all = presence::at_changes(&self.on_change, self.presence.as_ref());
        for repo in self.repos.values().chain([&self.unlisted]) {
            all.push(("on_action", repo.on_action.as_slice()));
            all.push(("password_command", repo.password_command.as_slice()));
        }
        all.retain(|(_, argv)| !argv.is_empty());
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Checks a path that a person chose for a tree outside all targets, see `agent checkout --to`.
    ///
    /// # Errors
    /// When the path overlaps something; the error names it and has a hint.
    pub fn free_target(&self, to: &Path) -> Result<PublishTarget, String> {
        path_claims::judge_free(self, to)
    }
}

impl PresenceSettings {
    /// The same as settings of a repository, for the code that checks the files and keeps the passwords of one.
    pub fn as_repo(&self) -> RepoSettings {
        RepoSettings {
            urls: vec![self.remote.clone()],
            reach: self.reach.clone(),
            password_command: self.password_command.clone(),
            password_ttl: self.password_ttl,
            ..layers::usual()
        }
    }
}

impl TreeSettings {
    /// Reads a revision's `.pmpy.toml`.
    ///
    /// # Errors
    /// The first fault with its line and column, as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        layers::tree(text).map_err(|error| error.to_string())
    }
}

/// Every key of `agent.toml`, by section title; the first section has no title.
pub fn known_keys() -> impl IntoIterator<Item = (&'static str, &'static [&'static str])> {
    file::sections()
}

impl RepoSettings {
    /// The target for publishing; `None`: nothing is published.
    pub fn target(&self) -> Option<PublishTarget> {
        PublishTarget::new(self.mode.layout()?, self.publish.target.as_deref()?)
    }

    /// The rules for the refs and their names at `target`; `None`: at most one ref is published.
    ///
    /// # Errors
    /// When a pattern is invalid, which a checked configuration excludes.
    pub fn rules(&self, target: &PublishTarget) -> Result<Option<PublishRules>, globset::Error> {
        let Some(refs) = self.mode.refs() else { return Ok(None) };
        Ok(Some(PublishRules {
            refs,
            names: self.publish.names,
            rename: self.publish.rename.clone(),
            matching: PathPatterns::new(&self.publish.matching)?,
            room: target.room(),
        }))
    }

    /// These settings with a revision's `tree` settings applied.
    pub fn with_tree(&self, tree: &TreeSettings) -> Self {
        let mut merged = self.clone();
        if let (Some(when), false) = (tree.when, self.fixed.when) {
            merged.policy.when = when;
        }
        if let (Some(paths), false) = (&tree.paths, self.fixed.paths) {
            merged.paths.clone_from(paths);
        }
        if let (Some(scripts), false) = (&tree.scripts, self.fixed.scripts) {
            merged.scripts = Some(scripts.clone());
        }
        if let Some(timeout) = tree.timeout {
            merged.timeout = merged.timeout.min(timeout);
        }
        if tree.stays_on_failure {
            merged.health.on_failure = OnFailure::Stay;
        }
        merged
    }
}
