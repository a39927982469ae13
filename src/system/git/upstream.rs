//! The branch and the remote that git-pull(1) would take in a clone, by the clone's own configuration, and
//! the settings there that change what git does and that the agent does not use. Asks no remote.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use super::Git;
use crate::domain::git::{RefName, Remote, RemoteScheme};
use crate::domain::text::EscapeControls;

/// The remote that is taken where nothing names another one.
pub const ORIGIN: &str = "origin";

/// The branch and the remote that git-pull(1) would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullSource {
    /// The remote as `branch.NAME.remote` has it: a name, or an address.
    pub remote: String,
    /// The directory below `refs/remotes/` in which its branches are kept.
    pub kept_below: String,
    /// The addresses of the remote, in order.
    pub urls: Vec<Remote>,
    /// The branch at the remote.
    pub branch: PulledBranch,
}

/// The branch at a remote that git-pull(1) would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PulledBranch {
    /// The branch that the configuration names.
    Configured(RefName),
    /// The configuration names none, and git-pull(1) refuses: the branch of the same name.
    SameName(RefName),
    /// The branch of the remote's HEAD: there is no branch here yet, or the remote has no refspec.
    RemoteHead,
}

/// The directory for the branches of a remote without a usable name, of which git keeps none.
const NAMELESS: &str = "pmpy";

impl Git {
    /// The branch and the remote that git-pull(1) would take while `branch` is checked out; `None`: no
    /// branch is.
    ///
    /// # Errors
    /// What it would take cannot be followed: the reason, with the remedy.
    pub fn pull_source(&self, branch: Option<&RefName>) -> Result<PullSource, String> {
        let Some(branch) = branch else {
            return Ok(self.source_at(ORIGIN.to_owned(), PulledBranch::RemoteHead));
        };
        let refuse = |what: &str| {
            let path = self.worktree();
            Err(format!(
                "the branch {branch} follows {what}, which the agent does not do\n\
                 hint: git -C {path} branch --set-upstream-to=origin/BRANCH {branch}; or set branch"
            ))
        };
        let remote = self.remote_of(branch).unwrap_or_else(|| ORIGIN.to_owned());
        if remote == "." {
            return refuse("another branch of this same clone");
        }
        let pulled = match self.values(&format!("branch.{branch}.merge")).as_slice() {
            [] => self.pulled_without_merge(&remote, branch),
            [one] => match branch_of(one) {
                Some(merge) => PulledBranch::Configured(merge),
                None => return refuse(&format!("{}, which is no branch", one.escape_controls())),
            },
            _ => return refuse("several branches at once"),
        };
        Ok(self.source_at(remote, pulled))
    }

    /// The source of a `branch` that the agent's configuration names while `head` is checked out: its own
    /// remote, else that of `head`.
    pub fn configured_source(&self, branch: &RefName, head: Option<&RefName>) -> PullSource {
        let remote = self.remote_of(branch).or_else(|| self.remote_of(head?));
        let remote = remote.filter(|remote| remote != ".").unwrap_or_else(|| ORIGIN.to_owned());
        self.source_at(remote, PulledBranch::Configured(branch.clone()))
    }

    fn remote_of(&self, branch: &RefName) -> Option<String> {
        self.values(&format!("branch.{branch}.remote")).pop()
    }

    /// As git-fetch(1): a first refspec without a pattern is taken, and HEAD where there is no refspec.
    fn pulled_without_merge(&self, remote: &str, branch: &RefName) -> PulledBranch {
        let refspecs = self.values(&format!("remote.{remote}.fetch"));
        let source = refspecs.first().map(|first| first.trim_start_matches('+'));
        let source = source.map(|first| first.split(':').next().unwrap_or_default());
        match source {
            None if !self.values(&format!("remote.{remote}.url")).is_empty() => {
                PulledBranch::RemoteHead
            }
            Some("HEAD") => PulledBranch::RemoteHead,
            Some(source) if !source.contains('*') => match branch_of(source) {
                Some(source) => PulledBranch::Configured(source),
                None => PulledBranch::SameName(branch.clone()),
            },
            _ => PulledBranch::SameName(branch.clone()),
        }
    }

    fn source_at(&self, remote: String, branch: PulledBranch) -> PullSource {
        let mut urls = self.urls(&remote);
        // A name that stands for nothing is an address, as for git.
        let is_address = urls.is_empty() && remote != ORIGIN;
        if is_address {
            urls.push(self.address(&remote));
        }
        let kept_below = match remote.parse::<RefName>() {
            Ok(name) if !is_address => name.to_string(),
            _ => NAMELESS.to_owned(),
        };
        PullSource { remote, kept_below, urls, branch }
    }

    /// The addresses of a remote in the clone's own configuration, in order. A relative path counts from
    /// the worktree, as for git.
    pub fn urls(&self, remote: &str) -> Vec<Remote> {
        let mut urls = Vec::new();
        for url in self.values(&format!("remote.{remote}.url")) {
            match url.as_str() {
                // An empty value clears the list.
                "" => urls.clear(),
                url => urls.push(self.address(url)),
            }
        }
        urls
    }

    fn address(&self, url: &str) -> Remote {
        let remote = Remote::new(url);
        let is_relative = remote.scheme() == Some(RemoteScheme::Local)
            && !url.starts_with('/')
            && !url.contains("://");
        match self.repo.workdir().filter(|_| is_relative).map(|dir| dir.join(url)) {
            // Not resolved where nothing is there: the poll says so.
            Some(path) => match path.canonicalize().unwrap_or(path).to_str() {
                Some(path) => Remote::new(path),
                None => remote,
            },
            None => remote,
        }
    }

    /// All values of `key` in the clone's own configuration, in order.
    pub(super) fn values(&self, key: &str) -> Vec<String> {
        let named = self.settings().iter().filter(|(name, _)| name == key);
        named.filter_map(|(_, value)| value.clone()).collect()
    }

    /// The worktree, for messages.
    fn worktree(&self) -> String {
        self.repo.workdir().unwrap_or(self.repo.path()).display().to_string()
    }

    /// The settings of the clone's own configuration, and its hooks, that change what git-pull(1) does
    /// from `source` and that the agent does not use, by name and sorted.
    pub fn unused_settings(&self, source: &PullSource) -> Vec<String> {
        let mut found = BTreeSet::new();
        for (name, value) in self.settings() {
            if is_unused(name, value.as_deref().unwrap_or_default(), source) {
                // The middle of a name may be an address with a password.
                let shown = match (name.split_once('.'), name.rsplit_once('.')) {
                    (Some(("url" | "http" | "credential", rest)), Some((_, last)))
                        if rest.contains('.') =>
                    {
                        format!("{}.*.{last}", name.split('.').next().unwrap_or_default())
                    }
                    _ => name.clone(),
                };
                found.insert(shown);
            }
        }
        found.extend(self.hooks().into_iter().map(|hook| format!("the hook {hook}")));
        found.into_iter().map(|name| name.escape_controls()).collect()
    }

    /// The hooks in `.git/hooks` that git-pull(1) would run.
    fn hooks(&self) -> Vec<&'static str> {
        let dir = self.repo.path().join("hooks");
        let runs = |hook: &&str| {
            let meta = dir.join(hook).metadata();
            meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        HOOKS.into_iter().filter(runs).collect()
    }
}

/// The hooks that git-pull(1) may run.
const HOOKS: [&str; 6] = [
    "post-merge",
    "post-checkout",
    "post-rewrite",
    "pre-merge-commit",
    "pre-rebase",
    "reference-transaction",
];

/// The branch that a ref of a remote is, as `branch.NAME.merge` names it; `None` for other refs.
fn branch_of(name: &str) -> Option<RefName> {
    let short = name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("heads/"));
    match short {
        Some(short) => short.parse().ok(),
        None if name.starts_with("refs/") => None,
        None => name.parse().ok(),
    }
}

/// Whether `setting`, one of [`Git::unused_settings`], concerns a remote of this `scheme`.
pub fn concerns(setting: &str, scheme: RemoteScheme) -> bool {
    let key = setting.rsplit('.').next().unwrap_or_default();
    let is_of_any = setting.starts_with("url.")
        || (setting.starts_with("remote.") && matches!(key, "uploadpack" | "vcs" | "proxy"));
    is_of_any
        || match scheme {
            RemoteScheme::Ssh => matches!(setting, "core.sshcommand" | "ssh.variant"),
            RemoteScheme::Http | RemoteScheme::Https => {
                setting.starts_with("http.")
                    || setting.starts_with("credential.")
                    || setting == "core.askpass"
            }
            RemoteScheme::Git => setting == "core.gitproxy",
            RemoteScheme::Local => false,
        }
}

/// Whether git-pull(1) from `source` uses the setting `name` in a way that the agent does not.
fn is_unused(name: &str, value: &str, source: &PullSource) -> bool {
    let lower = name.to_ascii_lowercase();
    if let Some(key) = name.strip_prefix(&format!("remote.{}.", source.remote)) {
        let kept = format!("refs/remotes/{}", source.remote);
        let whole = format!("+refs/heads/*:{kept}/*");
        let single = |branch: &RefName| format!("+refs/heads/{branch}:{kept}/{branch}");
        let is_plain = value == whole
            || matches!(&source.branch, PulledBranch::Configured(branch) if value == single(branch));
        return match key.to_ascii_lowercase().as_str() {
            "fetch" => !is_plain,
            "uploadpack" | "proxy" | "vcs" | "promisor" | "partialclonefilter" => true,
            _ => false,
        };
    }
    let is_false = || matches!(value.to_ascii_lowercase().as_str(), "false" | "no" | "off" | "0");
    match lower.as_str() {
        "core.sshcommand" | "core.gitproxy" | "core.askpass" | "core.hookspath" | "ssh.variant" => {
            true
        }
        "pull.rebase" => !is_false(),
        "pull.ff" | "merge.ff" => is_false(),
        "submodule.recurse" => !is_false(),
        _ => {
            lower.starts_with("credential.")
                || lower.starts_with("http.")
                || (lower.starts_with("url.") && lower.ends_with(".insteadof"))
                || (lower.starts_with("branch.") && lower.ends_with(".rebase") && !is_false())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_names_a_branch_in_full_or_in_short_and_nothing_else() {
        for (name, branch) in [
            ("refs/heads/main", Some("main")),
            ("heads/main", Some("main")),
            ("feature/x", Some("feature/x")),
            ("refs/tags/v1", None),
            ("refs/for/main", None),
            ("refs/heads/..", None),
        ] {
            assert_eq!(branch_of(name).as_ref().map(RefName::as_str), branch, "{name}");
        }
    }

    #[test]
    fn only_what_changes_a_pull_is_named() {
        let branch = PulledBranch::Configured("main".parse().unwrap());
        let (remote, kept_below) = (ORIGIN.to_owned(), ORIGIN.to_owned());
        let source = PullSource { remote, kept_below, urls: Vec::new(), branch };
        for (name, value, is_named) in [
            ("core.sshcommand", "ssh -p 2222", true),
            ("credential.helper", "store", true),
            ("credential.https://git.example.org.helper", "store", true),
            ("http.proxy", "http://proxy", true),
            ("url.git@example.org:.insteadof", "https://example.org/", true),
            ("url.git@example.org:.pushinsteadof", "https://example.org/", false),
            ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*", false),
            ("remote.origin.fetch", "+refs/heads/main:refs/remotes/origin/main", false),
            ("remote.origin.fetch", "+refs/*:refs/*", true),
            ("remote.other.fetch", "+refs/*:refs/*", false),
            ("remote.origin.pushurl", "x", false),
            ("pull.rebase", "false", false),
            ("pull.rebase", "true", true),
            ("pull.ff", "only", false),
            ("pull.ff", "false", true),
            ("branch.main.rebase", "true", true),
            ("core.autocrlf", "true", false),
        ] {
            assert_eq!(is_unused(name, value, &source), is_named, "{name} = {value}");
        }
    }
}
