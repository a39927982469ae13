//! What this machine is asked to do: every setting, validated at one door. Past [`Settings`]
//! nothing is checked again and no `Option` means "default".
//!
//! Reading order: `source` (texts, places, complaints), `value` and `list` (the grammar of
//! values), `file` (the keys), `modes` (which keys go with which mode), `places` (what may lie where),
//! `layers` (from keys to [`Settings`]), `bus` and `webhook` (the same for these sections).

mod bus;
mod file;
mod layers;
mod list;
mod modes;
mod places;
mod source;
mod value;
mod webhook;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::broker::Brokers;
use crate::domain::bus::Topic;
use crate::domain::git::Remote;
use crate::domain::paths::Patterns;
use crate::domain::plan::{OnRewrite, Policy, When};
use crate::domain::publish::{Layout, Names, Refs, Rules, Target};
use crate::domain::remote::{Kinds, Reach};

pub use source::{Error, Source};
pub use value::{
    NamedAddress, address, branch, count, duration, positive_duration, repo_name, token,
};

/// The folders that the agent reads and writes on this machine (contract: "files").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// The folder of the repositories.
    pub root: PathBuf,
    /// `agent.toml`; need not exist.
    pub config_file: PathBuf,
    /// `agent.d`, whose `*.toml` are read after it unless `--config` named the file; need not exist.
    pub config_dir: PathBuf,
    /// `nodepart.txt` and friends.
    pub nodeinfo: PathBuf,
    /// `last-tick`, `status.json`, `reported.json`.
    pub state: PathBuf,
    /// One folder of logs for each repository.
    pub logs: PathBuf,
    /// Whether `--config` or `AGENT_CONFIG` named `config_file`.
    pub config_named: bool,
    /// Whether `--root` or `AGENT_ROOT` made this a world of its own.
    pub own: bool,
}

/// Where to look; from the command line and the environment.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config` or `AGENT_CONFIG`: read instead of the usual file; must exist.
    pub config: Option<PathBuf>,
    /// `--root` or `AGENT_ROOT`.
    pub root: Option<PathBuf>,
    /// The caller's home folder.
    pub home: Option<PathBuf>,
    /// Whether the caller is root.
    pub is_root: bool,
}

/// Everything that is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where things are.
    pub world: World,
    /// The files that were read, as errors call them.
    pub files: Vec<String>,
    /// `splay`: first wait a stable part of this.
    pub splay: Duration,
    /// `metrics_file`.
    pub metrics_file: Option<PathBuf>,
    /// `on_change`: a command and its arguments; empty when unset.
    pub on_change: Vec<String>,
    /// `[node] part`, which wins over `nodeinfo`.
    pub part: Option<String>,
    /// `[node] stack`, likewise.
    pub stack: Option<String>,
    /// `[repo.NAME]`, by name.
    pub repos: BTreeMap<String, RepoSettings>,
    /// What holds for a repository under the root that has no entry: `[defaults]` over our own.
    pub unlisted: RepoSettings,
    /// `[bus]`; `None`: there is none.
    pub bus: Option<Bus>,
    /// `[webhook]`; `None`: nobody is listened to.
    pub webhook: Option<Webhook>,
    /// `[listen] every`: how often an agent that stays up looks without being told.
    pub every: Duration,
}

/// The message bus.
#[derive(Clone, Debug)]
pub struct Bus {
    /// How it is reached.
    pub brokers: Brokers,
    /// What stands among the options of a `failover:` and means nothing.
    pub ignored: Vec<String>,
    /// `listen_topic`: where news of repositories comes from that name no topic of their own.
    pub listen_topics: Vec<Topic>,
    /// `report_topic`: where it is told what actions came to; `None`: nowhere.
    pub report_topic: Option<Topic>,
    /// `announce_topic`: where pushes are announced.
    pub announce_topic: Topic,
    /// `spread`: before acting upon a message, wait a random part of this.
    pub spread: Duration,
}

/// Where web hooks are heard, and metrics and health are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// `bind`: the address that is listened on, over plain HTTP.
    pub bind: SocketAddr,
    /// `secret_file`: what whoever calls has to know.
    pub secret_file: PathBuf,
    /// `announce`: whether the bus is told what was heard.
    pub announce: bool,
}

/// What happens with the repository's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Merge into the worktree and run the scripts.
    #[default]
    Work,
    /// Fetch; what `agent checkout` asks for appears at the target, if there is one.
    #[serde(alias = "normal")]
    Fetch,
    /// The branch's tree appears at the target.
    #[serde(alias = "trusting", alias = "branch")]
    Checkout,
    /// Merge into the worktree, run nothing.
    #[serde(alias = "dangerous")]
    InPlace,
    /// Every branch appears at `TARGET/BRANCH`.
    #[serde(alias = "puppetmaster")]
    Branches,
    /// Every branch appears at `TARGET_BRANCH`.
    Atomic,
    /// Every tag appears at `TARGET/TAG`.
    Tags,
}

impl Mode {
    /// The word for it in the configuration.
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

    /// How trees lie at a target; `None` where there is none: this mode works on the worktree.
    pub fn layout(self) -> Option<Layout> {
        match self {
            Self::Work | Self::InPlace => None,
            Self::Fetch | Self::Checkout => Some(Layout::Checkout),
            Self::Branches | Self::Tags => Some(Layout::Inside),
            Self::Atomic => Some(Layout::Beside),
        }
    }

    /// Which refs are published, each for itself; `None` where it is at most one.
    pub fn refs(self) -> Option<Refs> {
        match self {
            Self::Work | Self::Fetch | Self::Checkout | Self::InPlace => None,
            Self::Branches | Self::Atomic => Some(Refs::Branches),
            Self::Tags => Some(Refs::Tags),
        }
    }

    /// Which of upstream's refs are fetched, when that is more than one branch.
    pub fn fetched(self) -> Option<Kinds> {
        let kinds = |branches, tags| Some(Kinds { branches, tags });
        match self {
            Self::Work | Self::InPlace | Self::Checkout => None,
            Self::Fetch => kinds(true, true),
            Self::Branches | Self::Atomic => kinds(true, false),
            Self::Tags => kinds(false, true),
        }
    }

    /// What holds for `rewritten` where nothing is configured.
    pub fn rewritten(self) -> OnRewrite {
        match self {
            Self::Work | Self::Checkout | Self::InPlace => OnRewrite::Refuse,
            Self::Fetch | Self::Branches | Self::Atomic | Self::Tags => OnRewrite::Follow,
        }
    }
}

/// What is published, and how. Says nothing where the mode works on the worktree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// `target`; there in each mode that cannot do without it.
    pub target: Option<PathBuf>,
    /// `names`
    pub names: Names,
    /// `rename`: a directory's name by the short one of a branch or tag.
    pub rename: BTreeMap<String, String>,
    /// `match`: patterns on short names; empty: all.
    pub matching: Vec<String>,
    /// `keep`: how many old releases stay beside the current and the last good one.
    pub keep: u32,
    /// `before`: scripts of the staged tree, which may refuse it.
    pub before: Vec<String>,
    /// `after`: a program (by its path or along `PATH`) and its arguments; empty when unset.
    pub after: Vec<String>,
    /// `after_user`: as whom; `None`: as everything else.
    pub after_user: Option<String>,
}

/// One repository's settings, complete.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RepoSettings {
    /// `url`, in order; empty: the clone's own `origin`.
    pub urls: Vec<Remote>,
    /// `path`; `None` only in [`Settings::unlisted`].
    pub path: Option<PathBuf>,
    /// `branch` with `{part}`, `{stack}`, `{host}` still in it; `None`: see the documentation.
    pub branch: Option<String>,
    /// `active`, `update`, `rewritten`, `when` (of the machine; see [`RepoSettings::with_tree`]).
    pub policy: Policy,
    /// `mode`.
    pub mode: Mode,
    /// `poll`: whether to look without being told.
    pub poll: bool,
    /// `paths`: gitignore-like patterns, later ones win; empty: everything counts.
    pub paths: Vec<String>,
    /// `scripts`: replaces the ladder; `None`: the ladder.
    pub scripts: Option<Vec<String>>,
    /// `timeout` for all scripts of an action.
    pub timeout: Duration,
    /// How its remotes may be reached.
    pub reach: Reach,
    /// `user`: as whom everything is done; `None`: as the owner of the clone.
    pub user: Option<String>,
    /// `target` and the keys about what appears there.
    pub publish: Publish,
    /// `env`.
    pub env: BTreeMap<String, String>,
    /// `env_file`.
    pub env_file: Option<PathBuf>,
    /// `topic_name`: what it is called in messages; `None`: by its name.
    pub topic_name: Option<String>,
    /// `listen_topic`: where its news comes from; empty: from where the bus's does.
    pub listen_topics: Vec<Topic>,
    /// Which of the keys that `.pmpy.toml` may set were set by `[repo.NAME]`, which wins over it.
    pub fixed: Fixed,
}

/// Keys that the machine fixes against the repository's own `.pmpy.toml`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// `when` stands in `[repo.NAME]`.
    pub when: bool,
    /// `paths` stands in `[repo.NAME]`.
    pub paths: bool,
    /// `scripts` stands in `[repo.NAME]`.
    pub scripts: bool,
}

/// `.pmpy.toml` at the top of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeSettings {
    /// `when`.
    pub when: Option<When>,
    /// `paths`.
    pub paths: Option<Vec<String>>,
    /// `scripts`.
    pub scripts: Option<Vec<String>>,
    /// `timeout`: only ever shorter than the machine's.
    pub timeout: Option<Duration>,
    /// `hold`: why the whole fleet stops at this revision.
    pub hold: Option<String>,
}

impl World {
    /// The folders by `sources`, before any file is read: root's, the caller's own, or a world of
    /// its own.
    ///
    /// # Errors
    /// When neither a home folder nor another root is known.
    pub fn of(sources: &Sources) -> Result<Self, Error> {
        let no_home = |home: Option<&PathBuf>| match home {
            Some(home) => format!(
                "HOME is \"{}\", which is not an absolute path\n\
                 hint: set HOME to your home folder, or name a folder with --root",
                home.display().to_string().escape_debug()
            ),
            None => "your home folder is not known\nhint: set HOME, or name a folder with --root"
                .to_owned(),
        };
        let mut world = match (&sources.root, &sources.home) {
            (Some(root), _) => {
                let root = std::path::absolute(root).map_err(|error| {
                    Error::new(Some("--root".to_owned()), &format!("no such folder: {error}"))
                })?;
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
            (None, home) => return Err(Error::new(None, &no_home(home.as_ref()))),
        };
        if let Some(config) = &sources.config {
            // It goes into schedules, which run in another folder.
            world.config_file = std::path::absolute(config).map_err(|error| {
                Error::new(Some("--config".to_owned()), &format!("no such file: {error}"))
            })?;
            world.config_named = true;
        }
        Ok(world)
    }
}

impl Settings {
    /// Reads and judges the configuration of the world that `sources` name.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(sources: &Sources) -> Result<Self, Error> {
        let world = World::of(sources)?;
        if world.own && world.root.exists() && !world.root.is_dir() {
            let name = world.root.display().to_string().escape_debug().to_string();
            let reason = "the root is not a directory\nhint: name a folder with --root";
            return Err(Error::new(Some(name), reason));
        }
        let mut source = Source::default();
        let found = source.add_file(&world.config_file)?;
        if sources.config.is_none() {
            source.add_folder(&world.config_dir)?;
        } else if !found {
            let name = world.config_file.display().to_string().escape_debug().to_string();
            let reason = "there is no such file\n\
                          hint: write it, or leave out --config (and AGENT_CONFIG)";
            return Err(Error::new(Some(name), reason));
        }
        Self::parse(world, &source)
    }

    /// What another process of ours read and judged: these repositories of `world` and no others.
    pub fn handed_over(world: World, repos: BTreeMap<String, RepoSettings>) -> Self {
        Self {
            world,
            files: Vec::new(),
            splay: Duration::ZERO,
            metrics_file: None,
            on_change: Vec::new(),
            part: None,
            stack: None,
            repos,
            unlisted: layers::usual(),
            bus: None,
            webhook: None,
            every: layers::EVERY,
        }
    }

    /// Judges texts that were read already. In a world of its own, `root` stays what the command
    /// line said.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse(world: World, source: &Source) -> Result<Self, Error> {
        layers::settings(world, source)
    }

    /// Where a person may have a tree put that is in no target, see `agent checkout --to`.
    ///
    /// # Errors
    /// Says what it would be in the way of, and what to do.
    pub fn free_target(&self, to: &Path) -> Result<Target, String> {
        places::judge_free(self, to)
    }
}

impl TreeSettings {
    /// Reads a revision's `.pmpy.toml`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line and column, as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        layers::tree(text).map_err(|error| error.to_string())
    }
}

/// Every key of `agent.toml`, by section as titled in the file; the first section has no title.
pub fn known_keys() -> impl IntoIterator<Item = (&'static str, &'static [&'static str])> {
    file::sections()
}

impl RepoSettings {
    /// Where trees appear; `None` where they do not.
    pub fn target(&self) -> Option<Target> {
        Target::new(self.mode.layout()?, self.publish.target.as_deref()?)
    }

    /// Which refs appear under which names at `target`; `None` where it is at most one.
    ///
    /// # Errors
    /// Names the pattern that is none; the configuration was not judged then.
    pub fn rules(&self, target: &Target) -> Result<Option<Rules>, globset::Error> {
        let Some(refs) = self.mode.refs() else { return Ok(None) };
        Ok(Some(Rules {
            refs,
            names: self.publish.names,
            rename: self.publish.rename.clone(),
            matching: Patterns::new(&self.publish.matching)?,
            room: target.room(),
        }))
    }

    /// These settings as a revision with `tree` settings sees them.
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
        merged
    }
}
