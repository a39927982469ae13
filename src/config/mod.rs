//! What this machine is asked to do: every setting, validated at one door. Past [`Settings`]
//! nothing is checked again and no `Option` means "default".

mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::domain::git::Remote;
use crate::domain::plan::{Policy, When};

/// The folders that the agent reads and writes on this machine (contract: "files").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// The folder of the repositories.
    pub root: PathBuf,
    /// `agent.toml`; need not exist.
    pub config_file: PathBuf,
    /// `agent.d`, whose `*.toml` are read after it; need not exist.
    pub config_dir: PathBuf,
    /// `nodepart.txt` and friends.
    pub nodeinfo: PathBuf,
    /// `last-tick`, `status.json`, `reported.json`.
    pub state: PathBuf,
    /// One folder of logs for each repository.
    pub logs: PathBuf,
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
}

/// What happens with the repository's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Merge into the worktree and run the scripts.
    #[default]
    Work,
    /// Fetch only.
    Fetch,
    /// Merge into the worktree, run nothing.
    InPlace,
}

/// One repository's settings, complete.
#[derive(Clone, Debug)]
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
    /// `network_timeout` for a whole fetch.
    pub network_timeout: Duration,
    /// `env`.
    pub env: BTreeMap<String, String>,
    /// `env_file`.
    pub env_file: Option<PathBuf>,
    /// `insecure`: whether `http://` and `git://` may be used.
    pub insecure: bool,
    /// Which of the keys that `.pmpy.toml` may set were set by `[repo.NAME]`, which wins over it.
    pub fixed: Fixed,
}

/// Keys that the machine fixes against the repository's own `.pmpy.toml`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

impl RepoSettings {
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
