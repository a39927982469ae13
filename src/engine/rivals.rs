//! Loops that pull the same repositories: lines of crontabs that run `git pull`, themselves or by a
//! script. Two loops in one clone lock each other out and act upon revisions that the other merged.

use std::path::{Path, PathBuf};

use super::Here;
use crate::domain::crontab::{is_comment, user_of, without_head};
use crate::system::node::User;
use crate::system::rivals::{self, Crontab, Crontabs};

/// The usual name of the loop that people had before.
const OLD_LOOP: &str = "cron_1m.sh";

/// A line that pulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// The crontab.
    pub crontab: PathBuf,
    /// Which of its lines, from 1.
    pub number: usize,
    /// The line, without the spaces around it.
    pub line: String,
    /// Whether it is about repositories of ours, as far as can be seen.
    pub about_us: bool,
}

impl std::fmt::Display for Rival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.crontab.display(), self.number, self.line)
    }
}

/// The crontabs below `base` that cron takes notice of, as people see them. What lies in its spool by
/// another name than a user's is a temporary file, or that of somebody who is gone.
pub fn crontabs(base: &Path) -> Crontabs {
    let mut found = rivals::crontabs(base);
    let known = |user: &String| User::named(user).is_some();
    found.read.retain(|crontab| crontab.user.as_ref().is_none_or(known));
    for crontab in &mut found.read {
        if crontab.user.is_some() {
            crontab.content = without_head(&crontab.content).to_vec();
        }
    }
    found
}

/// The lines of `crontab` that pull; the scripts that they name are looked for below `base`.
pub fn of(here: &Here, base: &Path, crontab: &Crontab) -> Vec<Rival> {
    let text = String::from_utf8_lossy(&crontab.content);
    let lines = text.lines().zip(1..).filter(|(line, _)| !is_comment(line));
    let rival = |(line, number): (&str, usize)| {
        let user = crontab.user.as_deref().or_else(|| user_of(line));
        let line = Line { line, is_our_users: user == Some(&here.node.user.name) };
        let about_us = about_us(here, base, &line)?;
        let crontab = crontab.path.clone();
        Some(Rival { crontab, number, line: line.line.trim().to_owned(), about_us })
    };
    lines.filter_map(rival).collect()
}

/// A line of a crontab.
struct Line<'a> {
    line: &'a str,
    /// Whether cron runs it as the user that we are: then `~` is our home.
    is_our_users: bool,
}

/// Whether a line that pulls is about repositories of ours; `None` when it pulls nothing. Beside a
/// world of its own the machine may have loops that are none of its business.
fn about_us(here: &Here, base: &Path, line: &Line) -> Option<bool> {
    let about = |text: &str| names_root(here, text, line);
    let scripts = || {
        let paths = words(line.line).filter(|word| word.starts_with('/'));
        paths.filter_map(|word| rivals::script(base, Path::new(word)))
    };
    if names_old_loop(line.line) {
        return Some(line.is_our_users || scripts().any(|script| about(&script)));
    }
    if pulls(line.line) {
        return Some(about(line.line));
    }
    let script = scripts().find(|script| pulls(script))?;
    let about_us = about(line.line) || about(&script);
    (about_us || !here.settings.world.own).then_some(about_us)
}

/// Whether `text`, which `line` says or runs, names the root, in full or as its user's shell
/// abbreviates it.
fn names_root(here: &Here, text: &str, line: &Line) -> bool {
    let root = &here.settings.world.root;
    let at_home = root.strip_prefix(&here.node.user.home).ok().filter(|_| line.is_our_users);
    let short = at_home.into_iter().flat_map(|rest| {
        ["~", "$HOME", "${HOME}"].map(|home| format!("{home}/{}", rest.display()))
    });
    std::iter::once(root.display().to_string()).chain(short).any(|name| names(text, &name))
}

/// Whether `text` names `path` or something below it, and not only another path that begins or ends
/// in the same way.
fn names(text: &str, path: &str) -> bool {
    let goes_on = |c: char| c.is_alphanumeric() || "._-".contains(c);
    text.match_indices(path).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + path.len()..].chars().next();
        !before.is_some_and(|c| goes_on(c) || "/}".contains(c)) && !after.is_some_and(goes_on)
    })
}

/// Whether a shell would run `git pull` for some line of `text`.
fn pulls(text: &str) -> bool {
    text.lines().filter(|line| !is_comment(line)).any(|line| {
        line.split([';', '|', '&', '(', ')', '{', '}', '`']).any(|command| {
            let mut words = words(command);
            words.any(|word| word == "git" || word.ends_with("/git"))
                && words.any(|word| word == "pull")
        })
    })
}

fn names_old_loop(line: &str) -> bool {
    words(line).any(|word| word.rsplit('/').next() == Some(OLD_LOOP))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace().map(|word| word.trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_found_however_it_is_written() {
        for line in [
            "* * * * * root cd /srv/a && git pull",
            "*/5 * * * * git -C /srv/a pull --ff-only -q >/dev/null 2>&1",
            "* * * * * bash -c \"git pull\"",
            "@hourly cd /srv/a; /usr/bin/git pull",
            "(cd /srv/a && git pull)",
        ] {
            assert!(pulls(line), "{line}");
        }
        for line in [
            "# * * * * * root git pull",
            "* * * * * root git fetch; docker pull x",
            "* * * * * root agent tick --trigger cron",
            "* * * * * root git push; echo pull",
            "",
        ] {
            assert!(!pulls(line), "{line}");
        }
    }

    #[test]
    fn a_path_is_named_as_a_whole() {
        for text in ["cd /root/gitrepo", "cd '/root/gitrepo'; x", "for d in /root/gitrepo/*; do"] {
            assert!(names(text, "/root/gitrepo"), "{text}");
        }
        for text in ["cd /root/gitrepo-old/a", "cd /root/gitrepos", "cd /srv/root/gitrepo", ""] {
            assert!(!names(text, "/root/gitrepo"), "{text}");
        }
    }

    #[test]
    fn the_old_loop_is_known_by_its_name() {
        assert!(names_old_loop("* * * * * root /root/gitrepo/ops/bin/cron_1m.sh"));
        assert!(names_old_loop("* * * * * cd /root && ./cron_1m.sh"));
        assert!(!names_old_loop("* * * * * root /usr/bin/not_cron_1m.sh"));
    }
}
