//! Finds cron jobs that pull the same repositories: crontab lines that run `git pull`, themselves or by a
//! script. Two loops in one clone lock each other out and deploy revisions that the other merged. Changes
//! no crontab.

use std::path::{Path, PathBuf};

use crate::domain::crontab::{is_comment, user_of};
use crate::engine::context::Context;
use crate::system::schedule::{self, FoundCrontab};

/// The usual name of the older loop's script.
const OLD_LOOP: &str = "cron_1m.sh";

/// A crontab line that pulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullJob {
    /// The crontab's path.
    pub crontab: PathBuf,
    /// The line's number, from 1.
    pub number: usize,
    /// The line, trimmed.
    pub line: String,
    /// Whether it seems to pull repositories of ours.
    pub about_us: bool,
}

impl std::fmt::Display for PullJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.crontab.display(), self.number, self.line)
    }
}

/// The lines of `crontab` that pull; scripts that they name are read below `base`.
pub fn of(context: &Context, base: &Path, crontab: &FoundCrontab) -> Vec<PullJob> {
    let text = String::from_utf8_lossy(&crontab.content);
    let lines = text.lines().zip(1..).filter(|(line, _)| !is_comment(line));
    let pull_job = |(line, number): (&str, usize)| {
        let user = crontab.user.as_deref().or_else(|| user_of(line));
        let line = CrontabLine { line, is_our_users: user == Some(&context.node.user.name) };
        let about_us = affects_us(context, base, &line)?;
        let crontab = crontab.path.clone();
        Some(PullJob { crontab, number, line: line.line.trim().to_owned(), about_us })
    };
    lines.filter_map(pull_job).collect()
}

struct CrontabLine<'a> {
    line: &'a str,
    /// Whether cron runs it as our own user: then `~` is our home.
    is_our_users: bool,
}

/// Whether a line that pulls affects our repositories; `None` when it does not pull. For an agent with its
/// own `--root`, a script that does not name the root counts as no pull: it is the machine's business.
fn affects_us(context: &Context, base: &Path, line: &CrontabLine) -> Option<bool> {
    let about = |text: &str| names_root(context, text, line);
    let scripts = || {
        let paths = words(line.line).filter(|word| word.starts_with('/'));
        paths.filter_map(|word| schedule::script(base, Path::new(word)))
    };
    if names_old_loop(line.line) {
        return Some(line.is_our_users || scripts().any(|script| about(&script)));
    }
    if pulls(line.line) {
        return Some(about(line.line));
    }
    let script = scripts().find(|script| pulls(script))?;
    let about_us = about(line.line) || about(&script);
    (about_us || !context.settings.world.own).then_some(about_us)
}

/// Whether `text`, which `line` says or runs, contains the root's path, in full or as its user's shell
/// abbreviates it.
fn names_root(context: &Context, text: &str, line: &CrontabLine) -> bool {
    let root = &context.settings.world.root;
    let at_home = root.strip_prefix(&context.node.user.home).ok().filter(|_| line.is_our_users);
    let short = at_home.into_iter().flat_map(|rest| {
        ["~", "$HOME", "${HOME}"].map(|home| format!("{home}/{}", rest.display()))
    });
    std::iter::once(root.display().to_string()).chain(short).any(|name| names(text, &name))
}

/// Whether `text` contains `path` or a path below it, and not only another path that begins or ends the
/// same way.
fn names(text: &str, path: &str) -> bool {
    let continues = |c: char| c.is_alphanumeric() || "._-".contains(c);
    text.match_indices(path).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + path.len()..].chars().next();
        !before.is_some_and(|c| continues(c) || "/}".contains(c)) && !after.is_some_and(continues)
    })
}

/// Whether a shell would run `git pull` for a line of `text`.
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
    use crate::engine::machine::conflicting_cron::*;

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
