//! Verdicts on one repository: whether it can be opened, asked for, written to, and what would run.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::{Level, Scope, Verdict, room, target};
use crate::domain::git::{RefName, Remote, Scheme};
use crate::domain::ladder::{self, Ladder};
use crate::domain::remote::{Answer, Dialect, Wanted, Way};
use crate::engine::Here;
use crate::engine::apply;
use crate::engine::observe::{self, Opened, Site};
use crate::engine::roster::Repo;
use crate::engine::scripts::{self, Agenda};
use crate::system::access;
use crate::system::scripts as door;

/// Files of ours that a script made for an older loop reads or writes itself.
const OURS: [&str; 2] = ["currentaction.txt", "lastaction.txt"];

/// Everything about `repo`.
pub fn verdicts(here: &Here, repo: &Repo, scope: Scope, now: DateTime<Utc>) -> Vec<Verdict> {
    let name = &repo.name;
    if !repo.settings.policy.active {
        return vec![Verdict::ok(name, "left alone: active = false")];
    }
    let mut found = Vec::new();
    if here.parcel.is_some() {
        found.push(Verdict::ok(name, format!("worked on as {}", here.node.user.name)));
    }
    match observe::open(here, repo) {
        Opened::Broken(reason) | Opened::Damaged(reason) => {
            found.push(Verdict::bad(name, reason));
        }
        Opened::Missing => {
            found.push(to_be_cloned(repo));
            found.extend(room(name, &repo.path));
            found.extend(target::verdicts(here, repo));
            match (repo.branch(here), scope) {
                (Ok(branch), Scope::Remotes) => {
                    let wanted = branch.map_or(Wanted::Default, Wanted::Branch);
                    found.extend(remotes(here, repo, &repo.settings.urls, &wanted));
                }
                (Ok(_), Scope::Machine) => {
                    found.extend(unprepared(here, repo, &repo.settings.urls))
                }
                (Err(error), _) => found.push(Verdict::of(Level::Bad, name, &error)),
            }
        }
        Opened::Ready(site) => {
            found.push(place(&site));
            found.extend(shared(&site));
            found.extend(room(name, &repo.path));
            found.extend(stops(&site, now));
            match scope {
                Scope::Remotes => {
                    found.extend(remotes(here, repo, &site.remotes, &site.wanted()));
                }
                Scope::Machine => found.extend(unprepared(here, repo, &site.remotes)),
            }
            found.extend(programs(&site));
            found.extend(target::verdicts(here, repo));
            found.extend(target::in_the_way(&site));
        }
    }
    found
}

fn to_be_cloned(repo: &Repo) -> Verdict {
    match access::writable(&repo.path) {
        Ok(()) => {
            Verdict::ok(&repo.name, format!("the next tick clones it to {}", repo.path.display()))
        }
        Err(error) => {
            let error = error.context(format!("it cannot be cloned to {}", repo.path.display()));
            Verdict::of(Level::Bad, &repo.name, &error)
        }
    }
}

/// Where it is, and whether the agent can work there.
fn place(site: &Site) -> Verdict {
    let repo = site.repo;
    let folders =
        [repo.path.clone(), site.git.git_dir().join("pmpy"), repo.path.join(".temp/nodeinfo")];
    for folder in folders {
        if let Err(error) = access::writable(&folder) {
            let us = &site.here.node.user.name;
            let error = error.context(format!(
                "the agent cannot work in {}\nhint: give it to {us} with chown, \
                 or see whether the disk is mounted read-only",
                folder.display()
            ));
            return Verdict::of(Level::Bad, &repo.name, &error);
        }
    }
    Verdict::ok(&repo.name, format!("a clone at {}", repo.path.display()))
}

/// That other machines may write it too, if so.
fn shared(site: &Site) -> Option<Verdict> {
    let name = &site.repo.name;
    let path = site.repo.path.display();
    match access::shared_with_other_machines(site.git.git_dir()) {
        Ok(None) => None,
        Ok(Some(kind)) => Some(Verdict::warn(
            name,
            format!(
                "{path} is on {kind}: a lock there is lost when its server restarts, and another \
                 machine that works in the same clone is not seen to be alive\n\
                 hint: give each machine a clone on a disk of its own"
            ),
        )),
        Err(error) => Some(Verdict::of(Level::Warn, name, &error)),
    }
}

/// What keeps it from acting by somebody's will.
fn stops(site: &Site, now: DateTime<Utc>) -> Vec<Verdict> {
    let name = &site.repo.name;
    let seen = site.observe(&site.records.polled(), now);
    let mut found = Vec::new();
    found.extend(seen.broken.iter().map(|reason| Verdict::bad(name, reason)));
    found.extend(seen.holds.iter().map(|hold| {
        let text = format!("held by {}: {}", hold.by, hold.reason);
        Verdict::warn(name, format!("{text}\nhint: when that is over: agent unhold {name}"))
    }));
    found.extend(seen.pin.iter().map(|pin| {
        let text =
            format!("rolled back to {} by {}, and stays there", pin.revision.short(), pin.by);
        Verdict::warn(name, format!("{text}\nhint: to follow upstream again: agent unhold {name}"))
    }));
    found
}

/// Asks each remote; one mirror that answers is enough to work.
fn remotes(here: &Here, repo: &Repo, remotes: &[Remote], wanted: &Wanted) -> Vec<Verdict> {
    let name = &repo.name;
    if remotes.is_empty() {
        let text = "there is no remote: neither a url in the configuration nor an origin\n\
                    hint: set url, or: git remote add origin URL";
        return vec![Verdict::bad(name, text)];
    }
    let mut found: Vec<Verdict> = remotes
        .iter()
        .map(|remote| match here.wire.poll(remote, wanted, &repo.settings.reach, None) {
            Ok(answer) => answered(name, remote, wanted, &answer),
            Err(error) => Verdict::of(Level::Bad, name, &error),
        })
        .collect();
    if found.iter().any(|verdict| verdict.level == Level::Ok) {
        for verdict in &mut found {
            verdict.level = verdict.level.min(Level::Warn);
        }
    }
    found.extend(idle_depth(repo, remotes));
    found
}

/// That `depth` does nothing, where it does nothing.
fn idle_depth(repo: &Repo, remotes: &[Remote]) -> Option<Verdict> {
    let depth = repo.settings.reach.depth;
    let is_local = |remote: &&Remote| remote.scheme() == Some(Scheme::Local);
    let remote = remotes.iter().find(is_local).filter(|_| depth > 0)?;
    Some(Verdict::warn(
        &repo.name,
        format!(
            "depth = {depth} does nothing for {remote}: all history is taken from this machine\n\
             hint: leave depth out, or pull over https or ssh"
        ),
    ))
}

/// What this machine lacks to ask each remote, which are not asked.
fn unprepared(here: &Here, repo: &Repo, remotes: &[Remote]) -> Vec<Verdict> {
    let ready = |remote: &Remote| here.wire.ready(remote, &repo.settings.reach);
    let failures = remotes.iter().filter_map(|remote| ready(remote).err());
    failures.map(|error| Verdict::of(Level::Bad, &repo.name, &error)).collect()
}

fn answered(name: &str, remote: &Remote, wanted: &Wanted, answer: &Answer) -> Verdict {
    let asked: Option<&RefName> = match wanted {
        Wanted::Branch(branch) | Wanted::Preferably(branch) => Some(branch),
        Wanted::Every { branch, .. } => branch.as_ref(),
        Wanted::Default => None,
    };
    match (answer, asked) {
        (Answer { way: way @ Way { dialect: Dialect::Dumb, .. }, .. }, _) => Verdict::bad(
            name,
            format!(
                "{remote} is a plain web server ({way}), which cannot be fetched from\n\
                 hint: serve it by git http-backend, ssh or a hosting service"
            ),
        ),
        (Answer { branch: Some(branch), tip: Some(tip), way, .. }, _) => {
            Verdict::ok(name, format!("{remote} has {branch} at {}: {way}", tip.short()))
        }
        (_, Some(branch)) => Verdict::bad(
            name,
            format!("{remote} has no branch {branch}\nhint: push it, or set branch to one it has"),
        ),
        (_, None) => Verdict::warn(
            name,
            format!("{remote} is empty\nhint: the first tick after the first push acts"),
        ),
    }
}

/// What would run, and whether it can.
fn programs(site: &Site) -> Vec<Verdict> {
    let repo = site.repo;
    let name = &repo.name;
    if !site.runs_scripts() {
        return vec![Verdict::ok(name, "its mode runs no scripts")];
    }
    let Some(head) = site.head_commit() else {
        return vec![Verdict::ok(name, "nothing is checked out yet")];
    };
    let tree = match apply::tree_settings(&site.git, head) {
        Ok(tree) => tree,
        Err(reason) => return vec![Verdict::bad(name, reason)],
    };
    let mut found = Vec::new();
    if let Some(reason) = &tree.hold {
        let text =
            format!("its .pmpy.toml stops it: {reason}\nhint: a commit without that key lifts it");
        found.push(Verdict::warn(name, text));
    }
    let settings = repo.settings.with_tree(&tree);
    let env = match scripts::standing_environment(site.here, &settings) {
        Ok(env) => {
            found.extend(settings.env_file.iter().map(|file| {
                Verdict::ok(name, format!("env_file {} is readable and private", file.display()))
            }));
            env
        }
        Err(error) => {
            found.push(Verdict::of(Level::Bad, name, &error));
            return found;
        }
    };
    let init_due = match site.records.memory() {
        Ok(memory) => scripts::init_due(site.here, &memory),
        Err(error) => {
            found.push(Verdict::of(Level::Bad, name, &error));
            return found;
        }
    };
    let agenda = Agenda::of(site, &settings, init_due);
    if agenda.work.is_empty() {
        found.push(idle(site));
    }
    let path = env.iter().rev().find(|(key, _)| key == "PATH");
    let path = path.map_or(OsStr::new(""), |(_, value)| value);
    for script in agenda.init.iter().chain(&agenda.work) {
        found.push(runs(name, &repo.path, script, path));
        found.extend(old_loop(name, &repo.path, script));
    }
    found
}

/// That no script is there.
fn idle(site: &Site) -> Verdict {
    let here = site.here;
    let mut rungs = ladder::rungs(Ladder::Work, here.part.as_deref(), here.stack.as_deref());
    rungs.push(ladder::fallback(Ladder::Work).to_owned());
    let text = format!(
        "a new revision is merged, and nothing is run: there is no {}\n\
         hint: add one of them; if nothing is to run, say so with mode = \"in-place\"",
        rungs.join(", no ")
    );
    Verdict::warn(&site.repo.name, text)
}

/// What runs `script`, or why it cannot be run.
fn runs(name: &str, worktree: &Path, script: &str, search_path: &OsStr) -> Verdict {
    if !door::exists(worktree, script) {
        let text = format!("{script} is not there\nhint: add it, or take it out of scripts");
        return Verdict::bad(name, text);
    }
    let argv = match door::command(worktree, script) {
        Ok(argv) => argv,
        Err(error) => return Verdict::of(Level::Bad, name, &error),
    };
    let mut interpreter = PathBuf::new();
    for program in programs_of(&argv) {
        match door::find_program(&program, search_path, worktree) {
            Some(found) => interpreter = found,
            None => {
                let text = format!(
                    "{script} cannot run: there is no program {}\n\
                     hint: install it, or correct the first line of {script}",
                    program.display()
                );
                return Verdict::bad(name, text);
            }
        }
    }
    Verdict::ok(name, format!("{script} is run by {}", interpreter.display()))
}

/// The programs that have to be there to run a script: its interpreter, and behind env(1) the one
/// that this starts.
fn programs_of(argv: &[OsString]) -> Vec<OsString> {
    let Some(first) = argv.first() else { return Vec::new() };
    let mut programs = vec![first.clone()];
    if let (true, [_, argument, _]) = (Path::new(first).ends_with("env"), argv) {
        let argument = argument.to_string_lossy();
        // Only with -S is the argument more than one word.
        let second = match argument.strip_prefix("-S") {
            Some(line) => line.split_whitespace().find(|word| !word.contains('=')),
            None => Some(&*argument).filter(|word| !word.starts_with('-')),
        };
        programs.extend(second.map(OsString::from));
    }
    programs
}

/// That a script does itself what the agent does for it, if it seems so.
fn old_loop(name: &str, worktree: &Path, script: &str) -> Option<Verdict> {
    // That it can be read was told already.
    let text = door::text(worktree, script).unwrap_or_default();
    let (line, number) = text.lines().zip(1..).find(|(line, _)| {
        !line.trim_start().starts_with('#') && OURS.iter().any(|file| line.contains(file))
    })?;
    Some(Verdict::warn(
        name,
        format!(
            "{script}:{number} uses a file of the agent's own: {}\n\
             hint: lines of an older loop that test or make it have to go: it is there while the \
             script runs; only to pause the repository may a script write it",
            line.trim()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_env_the_program_that_it_starts_is_needed_too() {
        let programs = |argv: &[&str]| {
            let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
            programs_of(&argv)
        };
        assert_eq!(programs(&["bash", "work.sh"]), ["bash"]);
        assert_eq!(programs(&["/bin/sh", "-e", "work.sh"]), ["/bin/sh"]);
        let env = "/usr/bin/env";
        assert_eq!(programs(&[env, "python3", "work.sh"]), [env, "python3"]);
        assert_eq!(programs(&[env, "python3 -u", "work.sh"]), [env, "python3 -u"]);
        assert_eq!(programs(&[env, "-S A=1 python3 -u", "work.sh"]), [env, "python3"]);
    }
}
