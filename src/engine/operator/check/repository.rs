//! Checks one repository: whether it can be opened, polled and written to, and which scripts would run.
//! Runs and changes nothing.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::{gates, room, target, webhook};
use crate::domain::git::{Remote, RemoteScheme};
use crate::domain::remote::{PollAnswer, PollScope, RemoteHints, WireDialect};
use crate::domain::repository::change::ChangeError;
use crate::domain::repository::gaps::ContentGaps;
use crate::domain::script_paths::{self, ScriptKind};
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::finding::{CheckFinding, CheckScope, FindingLevel};
use crate::engine::repository::observe::{self, OpenOutcome};
use crate::engine::repository::script_files::ScriptPlan;
use crate::engine::repository::tree::{self, TreeFileError};
use crate::engine::repository::{Repository, machine_id};
use crate::engine::run::{log, scripts};
use crate::system::repo_state::LastAction;
use crate::system::{permissions, scripts as door};

/// Our own files; a script made for an older loop reads or writes them itself.
const OURS: [&str; 2] = ["currentaction.txt", "lastaction.txt"];

/// All findings for `repo`.
pub fn verdicts(context: &Context, repo: &RepoEntry, scope: CheckScope) -> Vec<CheckFinding> {
    let name = &repo.name;
    if !repo.settings.policy.active {
        return Vec::new();
    }
    let mut found = Vec::new();
    if context.helper_input.is_some() {
        found.push(CheckFinding::ok(name, format!("runs as {}", context.node.user.name)));
    }
    match observe::open_whole(context, repo) {
        OpenOutcome::Broken(reason) | OpenOutcome::Damaged(reason) => {
            found.push(CheckFinding::bad(name, reason));
        }
        OpenOutcome::Missing => {
            found.push(to_be_cloned(repo));
            found.extend(room(name, &repo.path));
            found.extend(gates::verdicts(context, repo));
            found.extend(target::verdicts(context, repo));
            match (repo.wanted(context), scope) {
                (Ok(wanted), CheckScope::Remotes) => {
                    let poll = |remote: &Remote| {
                        context.wire.poll(remote, &wanted, &repo.settings.reach, None, None)
                    };
                    found.extend(remotes(repo, &repo.settings.urls, &wanted, poll));
                }
                (Ok(_), CheckScope::Machine) => {
                    found.extend(unprepared(context, repo, &repo.settings.urls))
                }
                (Err(error), _) => found.push(CheckFinding::of(FindingLevel::Bad, name, &error)),
            }
        }
        OpenOutcome::Ready(repository) => {
            found.push(place(&repository));
            found.extend(shared(&repository));
            found.extend(configured(&repository));
            found.extend(room(name, &repo.path));
            found.extend(refused(&repository));
            found.extend(gaps(&repository));
            found.extend(webhook::name_in_hooks(&repository));
            match scope {
                CheckScope::Remotes => {
                    let wanted = repository.wanted();
                    let poll = |remote: &Remote| repository.ask(remote, &wanted, None);
                    found.extend(remotes(repo, &repository.remotes, &wanted, poll));
                }
                CheckScope::Machine => found.extend(unprepared(context, repo, &repository.remotes)),
            }
            found.extend(programs(&repository));
            found.extend(gates::verdicts(context, repo));
            found.extend(target::verdicts(context, repo));
            found.extend(target::in_the_way(&repository));
            found.extend(target::left_files(&repository));
        }
    }
    found
}

fn to_be_cloned(repo: &RepoEntry) -> CheckFinding {
    match permissions::writable(&repo.path) {
        Ok(()) => CheckFinding::ok(
            &repo.name,
            format!("the next tick clones it to {}", repo.path.display()),
        ),
        Err(error) => {
            let error = error.context(format!("it cannot be cloned to {}", repo.path.display()));
            CheckFinding::of(FindingLevel::Bad, &repo.name, &error)
        }
    }
}

/// Checks where the repository is and whether the agent can work there.
fn place(repository: &Repository) -> CheckFinding {
    let repo = repository.repo;
    let dirs = [
        repo.path.clone(),
        repository.git.git_dir().join("pmpy"),
        repo.path.join(".temp/nodeinfo"),
        log::log_dir(repository.context, &repo.name),
    ];
    for dir in dirs {
        if let Err(error) = permissions::writable(&dir) {
            let us = &repository.context.node.user.name;
            let error = error.context(format!(
                "the agent cannot work in {}\nhint: give it to {us} with chown, \
                 or see whether the disk is mounted read-only",
                dir.display()
            ));
            return CheckFinding::of(FindingLevel::Bad, &repo.name, &error);
        }
    }
    CheckFinding::ok(&repo.name, format!("a clone at {}", repo.path.display()))
}

/// A warning when other machines may write the clone too.
fn shared(repository: &Repository) -> Option<CheckFinding> {
    let name = &repository.repo.name;
    let path = repository.repo.path.display();
    match permissions::shared_with_other_machines(repository.git.git_dir()) {
        Ok(None) => None,
        Ok(Some(kind)) => Some(CheckFinding::warn(
            name,
            format!(
                "{path} is on {kind}: a lock there is lost when its server restarts, and another \
                 machine that works in the same clone is not seen to be alive\n\
                 hint: give each machine a clone on a disk of its own"
            ),
        )),
        Err(error) => Some(CheckFinding::of(FindingLevel::Warn, name, &error)),
    }
}

/// The finding for the branch that is followed without an upstream, and a warning for what the agent does
/// not use of the clone's configuration.
fn configured(repository: &Repository) -> Vec<CheckFinding> {
    let name = &repository.repo.name;
    let mut found = Vec::new();
    found.extend(repository.without_upstream().map(|branch| {
        let text = format!(
            "no upstream is set for {branch}: the branch of that name at {} is followed",
            repository.source.remote
        );
        CheckFinding::ok(name, text)
    }));
    found.extend(repository.unused_settings().map(|text| CheckFinding::warn(name, text)));
    found
}

/// The findings for the newest fetched revisions that a tick would refuse by the rules for trees.
fn refused(repository: &Repository) -> Vec<CheckFinding> {
    let name = &repository.repo.name;
    let polled = repository.polled();
    let tip = polled.tip.filter(|tip| repository.git.has(*tip)).or(repository.head_commit());
    let listing = repository.records.listing().ok().flatten().unwrap_or_default();
    let listed = listing
        .0
        .iter()
        .filter_map(|fetched| Some((fetched.tip.name.escape_controls(), fetched.commit?)));
    let all = tip.map(|tip| (tip.short(), tip)).into_iter().chain(listed);
    let mut known = BTreeSet::new();
    all.filter(|(_, commit)| known.insert(*commit))
        .filter_map(|(what, commit)| {
            match tree::whole_tree(&repository.git, &repository.git, commit) {
                Err(ChangeError::Refused(refusal) | ChangeError::TooLarge(refusal, _)) => {
                    // The deployed revision stays; only a change of it, or a new clone, would be refused.
                    let level =
                        match repository.head_commit() == Some(commit) && !repository.publishes() {
                            true => FindingLevel::Warn,
                            false => FindingLevel::Bad,
                        };
                    Some(CheckFinding::new(level, name, format!("{what} is refused: {refusal}")))
                }
                // Opening the repository has already reported what cannot be read.
                Ok(_) | Err(ChangeError::Unreadable(_)) => None,
            }
        })
        .collect()
}

/// What the deployed revision names and the agent does not fetch.
fn gaps(repository: &Repository) -> Vec<CheckFinding> {
    let acted = match repository.records.last_action().0 {
        LastAction::Revision(commit) => Some(commit),
        LastAction::Missing | LastAction::Unusable => repository.head_commit(),
    };
    let known = repository.records.memory().ok().and_then(|memory| memory.gaps);
    let gaps = acted.and_then(|acted| tree::gaps(&repository.git, known.as_ref(), acted));
    let remedy = match repository.runs_scripts() {
        true => "let work.sh fetch it, or commit the files themselves",
        false => "commit the files themselves, or work on a clone where a script fetches it",
    };
    let sentences = gaps.iter().flat_map(ContentGaps::sentences);
    sentences
        .map(|text| CheckFinding::warn(&repository.repo.name, format!("{text}\nhint: {remedy}")))
        .collect()
}

/// Polls each remote with `poll`; one mirror that answers is enough to work.
fn remotes(
    repo: &RepoEntry,
    remotes: &[Remote],
    wanted: &PollScope,
    poll: impl Fn(&Remote) -> anyhow::Result<PollAnswer>,
) -> Vec<CheckFinding> {
    let name = &repo.name;
    if remotes.is_empty() {
        let text = "there is no remote: neither a url in the configuration nor an origin\n\
                    hint: set url, or: git remote add origin URL";
        return vec![CheckFinding::bad(name, text)];
    }
    let mut found: Vec<CheckFinding> = remotes
        .iter()
        .map(|remote| match poll(remote) {
            Ok(answer) => answered(name, remote, wanted, &answer),
            Err(error) => CheckFinding::of(FindingLevel::Bad, name, &error),
        })
        .collect();
    if found.iter().any(|verdict| verdict.level == FindingLevel::Ok) {
        for verdict in &mut found {
            verdict.level = verdict.level.min(FindingLevel::Warn);
        }
    }
    found.extend(idle_depth(repo, remotes));
    found
}

/// A warning when `depth` has no effect.
fn idle_depth(repo: &RepoEntry, remotes: &[Remote]) -> Option<CheckFinding> {
    let depth = repo.settings.reach.depth;
    let is_local = |remote: &&Remote| remote.scheme() == Some(RemoteScheme::Local);
    let remote = remotes.iter().find(is_local).filter(|_| depth > 0)?;
    Some(CheckFinding::warn(
        &repo.name,
        format!(
            "depth = {depth} does nothing for {remote}: all history is taken from this machine\n\
             hint: leave depth out, or pull over https or ssh"
        ),
    ))
}

/// The findings for what this machine lacks to poll each remote; polls none.
fn unprepared(context: &Context, repo: &RepoEntry, remotes: &[Remote]) -> Vec<CheckFinding> {
    let ready = |remote: &Remote| context.wire.ready(remote, &repo.settings.reach);
    let failures = remotes.iter().filter_map(|remote| ready(remote).err());
    failures.map(|error| CheckFinding::of(FindingLevel::Bad, &repo.name, &error)).collect()
}

fn answered(name: &str, remote: &Remote, wanted: &PollScope, answer: &PollAnswer) -> CheckFinding {
    if let Some(reason) = answer.no_ref(remote, wanted) {
        return CheckFinding::bad(name, reason);
    }
    match (answer, wanted.branch()) {
        (PollAnswer { way: way @ RemoteHints { dialect: WireDialect::Dumb, .. }, .. }, _) => {
            CheckFinding::bad(
                name,
                format!(
                    "{remote} is a plain web server ({way}), which cannot be fetched from\n\
                 hint: serve it by git http-backend, ssh or a hosting service"
                ),
            )
        }
        (PollAnswer { tag: Some(tag), way, .. }, _) => CheckFinding::ok(
            name,
            format!("{remote} has {}, the newest of {} tags: {way}", tag.escaped(), tag.matching),
        ),
        (PollAnswer { way, .. }, _) if wanted.revision().is_some() => {
            let revision = wanted.revision().map_or_else(String::new, |it| it.short());
            CheckFinding::ok(name, format!("{remote} answers; {revision} is followed: {way}"))
        }
        (PollAnswer { branch: Some(branch), tip: Some(tip), way, .. }, _) => {
            CheckFinding::ok(name, format!("{remote} has {branch} at {}: {way}", tip.short()))
        }
        _ => CheckFinding::warn(
            name,
            format!("{remote} is empty\nhint: the first tick after the first push acts"),
        ),
    }
}

/// Checks the scripts that would run.
fn programs(repository: &Repository) -> Vec<CheckFinding> {
    let repo = repository.repo;
    let name = &repo.name;
    if !repository.runs_scripts() {
        return vec![CheckFinding::ok(name, "its mode runs no scripts")];
    }
    let Some(head) = repository.head_commit() else {
        return vec![CheckFinding::ok(name, "nothing is checked out yet")];
    };
    let tree = match tree::tree_settings(&repository.git, head) {
        Ok(tree) => tree,
        Err(TreeFileError::Refused(reason)) => return vec![CheckFinding::bad(name, reason)],
        Err(TreeFileError::Unreadable(error)) => {
            return vec![CheckFinding::of(FindingLevel::Bad, name, &error)];
        }
    };
    let mut found = Vec::new();
    found.extend(tree.unknown.iter().map(|key| {
        let key = key.escape_controls();
        let text = format!(
            "the key {key} in its .pmpy.toml is ignored: this version of the agent does not know it\n\
             hint: correct its name, or upgrade the agent"
        );
        CheckFinding::warn(name, text)
    }));
    if let Some(reason) = &tree.hold {
        let text =
            format!("its .pmpy.toml stops it: {reason}\nhint: a commit without that key lifts it");
        found.push(CheckFinding::warn(name, text));
    }
    let settings = repo.settings.with_tree(&tree);
    let env = match scripts::standing_environment(repository.context, &settings) {
        Ok(env) => {
            found.extend(settings.env_file.iter().map(|file| {
                CheckFinding::ok(
                    name,
                    format!("env_file {} is readable and private", file.display()),
                )
            }));
            env
        }
        Err(error) => {
            found.push(CheckFinding::of(FindingLevel::Bad, name, &error));
            return found;
        }
    };
    let init_due = match repository.records.memory() {
        Ok(memory) => machine_id::init_due(repository.context, &memory),
        Err(error) => {
            found.push(CheckFinding::of(FindingLevel::Bad, name, &error));
            return found;
        }
    };
    let agenda = match ScriptPlan::of(repository, &settings, init_due) {
        Ok(agenda) => agenda,
        Err(error) => {
            found.push(CheckFinding::of(FindingLevel::Bad, name, &error));
            return found;
        }
    };
    if agenda.work.is_empty() {
        found.push(idle(repository));
    }
    let path = env.iter().rev().find(|(key, _)| key == "PATH");
    let path = path.map_or(OsStr::new(""), |(_, value)| value);
    for script in agenda.init.iter().chain(&agenda.work) {
        found.push(runs(name, &repo.path, script, path));
        found.extend(old_loop(name, &repo.path, script));
    }
    found
}

/// The finding that no script is there.
fn idle(repository: &Repository) -> CheckFinding {
    let context = repository.context;
    let mut candidates = script_paths::candidates(
        ScriptKind::Work,
        context.part.as_deref(),
        context.stack.as_deref(),
    );
    candidates.extend(script_paths::fallback(ScriptKind::Work).map(str::to_owned));
    let text = format!(
        "a new revision is merged, and nothing is run: there is no {}\n\
         hint: add one of them; if nothing is to run, say so with mode = \"in-place\"",
        candidates.join(", no ")
    );
    CheckFinding::warn(&repository.repo.name, text)
}

/// The finding for `script`: its interpreter, or why it cannot run.
fn runs(name: &str, worktree: &Path, script: &str, search_path: &OsStr) -> CheckFinding {
    let argv = match door::command(worktree, script) {
        Ok(argv) => argv,
        Err(error) => return CheckFinding::of(FindingLevel::Bad, name, &error),
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
                return CheckFinding::bad(name, text);
            }
        }
    }
    CheckFinding::ok(name, format!("{script} is run by {}", interpreter.display()))
}

/// The programs that a script needs: its interpreter, and after env(1) the program that env starts.
fn programs_of(argv: &[OsString]) -> Vec<OsString> {
    let Some(first) = argv.first() else { return Vec::new() };
    let mut programs = vec![first.clone()];
    if let (true, [_, argument, _]) = (Path::new(first).ends_with("env"), argv) {
        let argument = argument.to_string_lossy();
        // Only with -S does the argument have more than one word.
        let second = match argument.strip_prefix("-S") {
            Some(line) => line.split_whitespace().find(|word| !word.contains('=')),
            None => Some(&*argument).filter(|word| !word.starts_with('-')),
        };
        programs.extend(second.map(OsString::from));
    }
    programs
}

/// A warning when a script seems to do the agent's own work itself.
fn old_loop(name: &str, worktree: &Path, script: &str) -> Option<CheckFinding> {
    // A script that cannot be read is reported already.
    let text = door::text(worktree, script).unwrap_or_default();
    let (line, number) = text.lines().zip(1..).find(|(line, _)| {
        !line.trim_start().starts_with('#') && OURS.iter().any(|file| line.contains(file))
    })?;
    Some(CheckFinding::warn(
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
