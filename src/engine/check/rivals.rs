//! Loops that pull the same repositories: lines of crontabs that run `git pull`, themselves or by a
//! script. Two loops in one clone lock each other out and act upon revisions that the other merged.

use std::path::Path;

use super::Verdict;
use crate::engine::Here;
use crate::system::rivals::{self, Crontab, Crontabs};

const SUBJECT: &str = "crontabs";

/// The usual name of the loop that people had before.
const OLD_LOOP: &str = "cron_1m.sh";

/// The verdict on all crontabs below `base`.
pub fn verdict(here: &Here, base: &Path) -> Verdict {
    let Crontabs { read, closed } = rivals::crontabs(base);
    let found: Vec<String> =
        read.iter().flat_map(|crontab| rivals_in(here, base, crontab)).collect();
    if !found.is_empty() {
        let text = format!(
            "another loop pulls here: {}\nhint: remove it if it is about a repository under {}: \
             the agent does that work",
            found.join("; "),
            here.settings.world.root.display()
        );
        return Verdict::warn(SUBJECT, text);
    }
    let closed: Vec<String> = closed.iter().map(|path| path.display().to_string()).collect();
    match closed.as_slice() {
        [] => Verdict::ok(SUBJECT, "no other loop pulls here"),
        closed => Verdict::ok(
            SUBJECT,
            format!("no other loop in those that may be read (not {})", closed.join(", ")),
        ),
    }
}

fn rivals_in(here: &Here, base: &Path, crontab: &Crontab) -> Vec<String> {
    let lines = crontab.text.lines().zip(1..);
    lines
        .filter(|(line, _)| !is_comment(line))
        .filter(|(line, _)| pulls(line) || names_old_loop(line) || starts_puller(here, base, line))
        .map(|(line, number)| format!("{}:{number}: {}", crontab.path.display(), line.trim()))
        .collect()
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
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

/// Whether a script that `line` names pulls. Beside a world of its own the machine may have loops
/// that are none of its business.
fn starts_puller(here: &Here, base: &Path, line: &str) -> bool {
    let world = &here.settings.world;
    let root = world.root.to_string_lossy();
    words(line).filter(|word| word.starts_with('/')).any(|word| {
        rivals::script(base, Path::new(word)).is_some_and(|script| {
            let about_us = line.contains(&*root) || script.contains(&*root);
            pulls(&script) && (about_us || !world.own)
        })
    })
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
    fn the_old_loop_is_known_by_its_name() {
        assert!(names_old_loop("* * * * * root /root/gitrepo/ops/bin/cron_1m.sh"));
        assert!(names_old_loop("* * * * * cd /root && ./cron_1m.sh"));
        assert!(!names_old_loop("* * * * * root /usr/bin/not_cron_1m.sh"));
    }
}
