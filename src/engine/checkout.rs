//! `agent checkout`: one branch, tag or revision into a target, because a person says so. What is here
//! already is taken without asking anybody.

use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, bail, ensure};

use super::observe::{Site, one_line};
use super::roster::Repo;
use super::{Here, publish, recover, steer};
use crate::domain::action::Trigger;
use crate::domain::git::{Commit, RefName};
use crate::domain::publication::{Due, Publishing, Wishes};
use crate::domain::publish::Target;
use crate::domain::remote::{Kinds, Wanted};
use crate::system::lock::ActionLock;
use crate::system::node;
use crate::system::remote::{Goal, Order, Update};

/// What a person asks for, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The full name of the ref; of a revision its id.
    pub name: String,
    /// What it is.
    pub revision: Commit,
}

/// What is to become of a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is shown at this path now.
    Shown(PathBuf),
    /// The repository follows a branch to its target: a roll-back goes there and stays.
    Pin(Commit),
}

/// Puts what `text` names into `to`, or into the repository's own target.
///
/// # Errors
/// When there is no such thing here or at a remote, no target, or it cannot be shown.
pub fn checkout(here: &Here, repo: &Repo, text: &str, to: Option<&Path>) -> Result<(Choice, Way)> {
    let site = steer::site(here, repo)?;
    site.records.make(site.git.git_dir())?;
    let lock = ActionLock::wait(&site.records)?;
    recover::recover(here, &lock, &site)?;
    let choice = match here_already(&site, text) {
        Some(choice) => choice,
        None => fetched(&site, text)?,
    };
    let settings = &repo.settings;
    let way = match (to, settings.target()) {
        (Some(to), _) => {
            let target = free_standing(here, repo, to)?;
            publish::put(&site, target, choice.revision)?;
            Way::Shown(to.to_owned())
        }
        (None, None) => bail!(
            "{} has no target\nhint: name a folder: agent checkout {} {} --to DIR",
            repo.name,
            repo.name,
            text.escape_debug()
        ),
        (None, Some(_)) if settings.mode.fetched().is_none() => Way::Pin(choice.revision),
        (None, Some(target)) => {
            let due = due(&site, &choice)?;
            let path = target.folder.join(target.link(&due.directory));
            let name = due.name.clone();
            let journal = lock.begin(Trigger::Manual, &here.node.boot_id, node::now())?;
            let (remove, publish) = (Vec::new(), vec![due]);
            let plan = Publishing { fetch: false, remove, publish, record: None };
            publish::carry_out(&site, &lock, journal, &plan, Trigger::Manual)?;
            if let Some(reason) = publish::trouble_with(&site, &name)? {
                bail!("{} does not show {}: {reason}", path.display(), text.escape_debug());
            }
            Way::Shown(path)
        }
    };
    Ok((choice, way))
}

/// The ref or revision that `text` names, among what is here.
fn here_already(site: &Site, text: &str) -> Option<Choice> {
    let branch = text.parse::<RefName>().ok();
    let places =
        branch.iter().flat_map(|name| [(name.local(), name.tracking()), (tag(name), tag(name))]);
    for (name, kept_at) in places {
        if let Ok(Some(id)) = site.git.ref_id(&kept_at)
            && let Some(revision) = site.git.peeled(id)
        {
            return Some(Choice { name, revision });
        }
    }
    let revision = site.git.resolve(text).ok()?;
    Some(Choice { name: revision.to_string(), revision })
}

fn tag(name: &RefName) -> String {
    format!("refs/tags/{name}")
}

/// The same, of what a remote has.
fn fetched(site: &Site, text: &str) -> Result<Choice> {
    let unknown = |elsewhere: &[String]| {
        let here =
            format!("\"{}\" is no branch, tag or revision that is here", text.escape_debug());
        let all: Vec<String> = std::iter::once(here).chain(elsewhere.iter().cloned()).collect();
        anyhow!(
            "{}: {}\nhint: to see which there are: git -C {} branch --all; git -C {2} tag",
            site.repo.name,
            all.join("; "),
            site.repo.path.display()
        )
    };
    let Ok(wanted) = text.parse::<RefName>() else { return Err(unknown(&[])) };
    let reach = &site.repo.settings.reach;
    let kinds = Kinds { branches: true, tags: true };
    let mut failures = Vec::new();
    for remote in &site.remotes {
        let every = Wanted::Every { branch: None, kinds };
        let answer = match site.here.wire.poll(remote, &every, reach, None) {
            Ok(answer) => answer,
            Err(error) => {
                failures.push(one_line(&error));
                continue;
            }
        };
        let names = [(wanted.local(), wanted.tracking()), (tag(&wanted), tag(&wanted))];
        let found = names.into_iter().find_map(|(from, to)| {
            let tip = answer.refs.iter().find(|tip| tip.name == from)?;
            Some(Update { from, to, id: tip.id })
        });
        let Some(update) = found else {
            failures.push(format!("{remote} has none such either"));
            continue;
        };
        let goal = Goal::Refs(std::slice::from_ref(&update));
        let order = Order { remote, reach, goal, way: Some(&answer.way) };
        site.here.wire.fetch(&site.git, &order, &mut |_| {})?;
        let Some(revision) = site.git.peeled(update.id) else {
            bail!("{} stands for no commit", update.from)
        };
        return Ok(Choice { name: update.from, revision });
    }
    Err(unknown(&failures))
}

/// A target that no configuration names: where nothing of the agent's is, by whichever path.
///
/// # Errors
/// Says what is there.
pub fn free_place(here: &Here, to: &Path) -> Result<Target> {
    let target = here.settings.free_target(to).map_err(Error::msg)?;
    if let (Some(Ok(above)), Some(name)) = (to.parent().map(Path::canonicalize), to.file_name()) {
        here.settings.free_target(&above.join(name)).map_err(Error::msg)?;
    }
    Ok(target)
}

/// The same, of a repository that need not be configured.
fn free_standing(here: &Here, repo: &Repo, to: &Path) -> Result<Target> {
    ensure!(
        !to.starts_with(&repo.path) && !repo.path.starts_with(to),
        "{} lies in the clone, or the clone in it\nhint: choose another folder",
        to.display()
    );
    let target = free_place(here, to)?;
    ensure!(
        target.folder.is_dir(),
        "there is no folder {0} to put it in\nhint: mkdir -p {0}",
        target.folder.display()
    );
    Ok(target)
}

/// What has to be done to show `choice` where the configuration has its place.
fn due(site: &Site, choice: &Choice) -> Result<Due> {
    let (name, revision) = (choice.name.clone(), choice.revision);
    if site.repo.settings.mode.refs().is_none() {
        publish::rename_by_hand(site, &name)?;
        return Ok(Due { name, revision, directory: String::new(), attempt: 1, resumed: false });
    }
    let refs = publish::refs(site, &site.records.polled())?;
    let wishes = Wishes { accepted: Some(revision), named: true, redo: true };
    let drift = refs.drift(wishes, node::now());
    match drift.publish.into_iter().find(|due| due.name == name) {
        Some(due) => Ok(due),
        None => {
            let mut standings = drift.standings.into_iter();
            let reason = standings.find(|it| it.name == name).and_then(|it| it.reason);
            bail!(
                "{}: {} has no place at the target: {}\nhint: name a folder: --to DIR",
                site.repo.name,
                name.escape_debug(),
                reason.unwrap_or_else(|| "the configuration does not select it".to_owned())
            )
        }
    }
}
