//! Verdicts on where a repository publishes: whether the user may write there, and what follows can run.

use std::ffi::OsStr;
use std::path::Path;

use super::{Level, Verdict, room};
use crate::domain::publish::{Layout, Target};
use crate::engine::Here;
use crate::engine::observe::Site;
use crate::engine::publish;
use crate::engine::roster::Repo;
use crate::engine::scripts;
use crate::system::access;
use crate::system::node::User;
use crate::system::release;
use crate::system::scripts::find_program;

/// Everything about the target of `repo`, as far as it can be told without its clone.
pub fn verdicts(here: &Here, repo: &Repo) -> Vec<Verdict> {
    let Some(target) = repo.settings.target() else { return Vec::new() };
    let name = &repo.name;
    let mut found = vec![reachable(here, repo, &target)];
    found.extend(room(name, &target.folder));
    found.extend(after(here, repo));
    found
}

/// What stands in the way there.
pub fn in_the_way(site: &Site) -> Option<Verdict> {
    let settings = &site.repo.settings;
    if settings.mode.refs().is_some() {
        // Of many, each tells its own in the status.
        return None;
    }
    let error = publish::shown(site).err()?;
    Some(Verdict::of(Level::Bad, &site.repo.name, &error))
}

/// Whether releases can be put there.
fn reachable(here: &Here, repo: &Repo, target: &Target) -> Verdict {
    let us = &here.node.user.name;
    let folder = target.folder.display();
    let shown = repo.settings.publish.target.as_deref().unwrap_or(&target.folder).display();
    let is_there = match target.layout {
        // That one is made, where the one above it is there.
        Layout::Inside => target.folder.parent().is_some_and(Path::is_dir),
        Layout::Checkout | Layout::Beside => target.folder.is_dir(),
    };
    if !is_there {
        return Verdict::bad(
            &repo.name,
            format!(
                "its target {shown} cannot be: {folder} is not there, or {us} may not look\n\
                 hint: make it: install -d -o {us} {folder}"
            ),
        );
    }
    if target.layout == Layout::Inside
        && let Err(error) = release::check_folder(&target.folder)
    {
        let error = error.context(format!("its target {shown} cannot be used"));
        return Verdict::of(Level::Bad, &repo.name, &error);
    }
    match access::writable(&target.folder) {
        Ok(()) => Verdict::ok(&repo.name, format!("publishes to {shown} as {us}")),
        Err(error) => {
            let error = error.context(format!(
                "its target {shown} cannot be written by {us}\n\
                 hint: give {folder} to {us} with chown, or choose another target"
            ));
            Verdict::of(Level::Bad, &repo.name, &error)
        }
    }
}

/// Whether `after` can run.
fn after(here: &Here, repo: &Repo) -> Option<Verdict> {
    let publish = &repo.settings.publish;
    let program = publish.after.first()?;
    let us = &here.node.user;
    if let Some(name) = &publish.after_user {
        let Some(user) = User::named(name) else {
            let text = format!(
                "after_user: there is no user \"{}\"\nhint: make it, or correct after_user",
                name.escape_debug()
            );
            return Some(Verdict::bad(&repo.name, text));
        };
        // Who works for root has it run by root's tick.
        if user.uid != us.uid && us.uid != 0 && here.parcel.is_none() {
            let text = format!(
                "after_user: {} cannot become {}\nhint: run the agent as root",
                us.name, user.name
            );
            return Some(Verdict::bad(&repo.name, text));
        }
    }
    let env = scripts::environment_of(us);
    let path = env.iter().find(|(key, _)| key == "PATH");
    let path = path.map_or(OsStr::new(""), |(_, value)| value);
    Some(match find_program(OsStr::new(program), path, Path::new("/")) {
        Some(found) => Verdict::ok(&repo.name, format!("after: {} runs", found.display())),
        None => Verdict::bad(
            &repo.name,
            format!(
                "after: there is no program \"{}\" that can be run\n\
                 hint: install it, or correct after",
                program.escape_debug()
            ),
        ),
    })
}
