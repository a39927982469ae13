//! What is killed while it publishes: one branch changes, one comes and one goes; or the one tree of a
//! site changes. What hears of it looks from the outside whether all is as promised.

use std::fs;
use std::path::{Path, PathBuf};

use super::NAME;
use crate::sandbox::{Ran, Sandbox, text, write_program};

/// How trees are published.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Every branch at its own place.
    Branches,
    /// One branch at the target itself.
    Checkout,
}

/// Looks whether all is as promised when it is told. Lines with `!` are wrong.
const SUSPICIOUS_AFTER: &str = r#"#!/bin/bash
world=$AGENT_ROOT/..
clone=$AGENT_ROOT/$AGENT_REPO
note() { echo "$* $AGENT_REVISION" >> "$world/runs"; }
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null

exec 9> "$world/one-at-a-time"
flock --nonblock 9 || note '! two at once'
[ -e "$clone/.temp/nodeinfo/currentaction.txt" ] || note '! no currentaction.txt'
if [ "$AGENT_REF" = refs/heads/main ] &&
    [ "$(cat "$clone/.temp/nodeinfo/lastaction.txt" 2> /dev/null)" = "$AGENT_REVISION" ]; then
    note '! run again after it was recorded'
fi
[ "$(basename "$(readlink "$AGENT_TARGET")")" = "$AGENT_REVISION" ] ||
    note '! another revision is shown'
if grep --quiet "^start $AGENT_REVISION" "$world/runs" && [ "${AGENT_RESUMED-}" != 1 ]; then
    note '! not told that an earlier run was cut off'
fi
export GIT_DIR=$clone/.git GIT_WORK_TREE=$AGENT_TARGET/ GIT_INDEX_FILE=$world/index.$$
git read-tree "$AGENT_REVISION" && git diff --quiet &&
    [ -z "$(git ls-files --others)" ] || note '! torn tree'
rm -f "$GIT_INDEX_FILE"

note start
note end
"#;

fn target(machine: &Sandbox) -> PathBuf {
    machine.path("targets/site")
}

/// Lets the machine publish its repository.
pub fn configure(machine: &Sandbox, layout: Layout) {
    fs::create_dir(machine.path("targets")).unwrap();
    let after = machine.path("after");
    write_program(&after, SUSPICIOUS_AFTER);
    let mode = match layout {
        Layout::Branches => "branches",
        Layout::Checkout => "checkout",
    };
    let (target, after) = (target(machine), text(&after).to_owned());
    machine.configure(&format!(
        "[repo.{NAME}]\nmode = \"{mode}\"\ntarget = \"{}\"\nkeep = 1\nafter = [\"{after}\"]\n",
        text(&target)
    ));
}

fn only(round: usize) -> String {
    format!("only/{round}")
}

/// The branch of this round comes, and that of the last one goes.
pub fn push_branches(machine: &Sandbox, round: usize) {
    let desk = machine.desk(NAME);
    fs::write(desk.join("branch"), format!("{round}\n")).unwrap();
    machine.git(&desk, &["add", "--all"]);
    machine.git(&desk, &["commit", "--quiet", "--message", "A branch"]);
    let comes = format!("HEAD:refs/heads/{}", only(round));
    let goes = format!(":refs/heads/{}", only(round - 1));
    let refs: &[&str] = if round > 1 { &[&comes, &goes] } else { &[&comes] };
    machine.git(&desk, &[&["push", "--quiet", "origin"], refs].concat());
    machine.answered_twice(NAME, &format!("refs/heads/{}", only(round - 1)));
}

/// What is not as it has to be once `revision` is published as the `round`-th.
pub fn findings(machine: &Sandbox, layout: Layout, revision: &str, round: usize) -> Vec<String> {
    let target = target(machine);
    let mut findings = Vec::new();
    match layout {
        Layout::Checkout => findings.extend(differs(machine, &target, revision)),
        Layout::Branches => {
            let only = only(round);
            let directory = only.replace('/', "%2F");
            let server = machine.server(NAME);
            let tip = machine.git(&server, &["rev-parse", &format!("refs/heads/{only}")]);
            findings.extend(differs(machine, &target.join("main"), revision));
            findings.extend(differs(machine, &target.join(&directory), &tip));
            for (dir, more) in [("", ".pmpy"), (".pmpy", ".repository")] {
                let mut expected = [more, "main", &directory];
                expected.sort_unstable();
                let found = names(&target.join(dir));
                if found != expected {
                    findings.push(format!("{dir}/ holds {found:?}"));
                }
            }
        }
    }
    let dir = machine.path("targets");
    let is_debris = |file: &PathBuf| file.ancestors().any(super::is_debris);
    let debris = machine.files_below(&dir).into_iter().filter(is_debris);
    findings.extend(debris.map(|file| format!("{} is left", file.display())));
    findings
}

/// What readers meet that is not whole while the `round`-th revision may be half published: each link
/// leads to the whole tree of its own revision, the one of `main` is always there, and there is none but
/// those of this round and the last.
pub fn torn(machine: &Sandbox, layout: Layout, round: usize) -> Vec<String> {
    let target = target(machine);
    let shown = |link: &Path| {
        let text = fs::read_link(link).unwrap_or_default();
        let revision = text.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if link.join("").is_dir() {
            differs(machine, link, &revision)
        } else {
            Some(format!("{} leads nowhere: {}", link.display(), text.display()))
        }
    };
    if layout == Layout::Checkout {
        return shown(&target).into_iter().collect();
    }
    let may_be = [only(round), only(round - 1)].map(|name| name.replace('/', "%2F"));
    let mut links = names(&target);
    links.retain(|name| name != ".pmpy");
    let strange = |name: &&String| *name != "main" && !may_be.contains(name);
    let mut torn: Vec<String> =
        links.iter().filter(strange).map(|name| format!("{name} is there")).collect();
    if !links.iter().any(|name| name == "main") {
        torn.push("main is not there".to_owned());
    }
    torn.extend(links.iter().filter_map(|name| shown(&target.join(name))));
    torn
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|it| it.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// In what the tree at `place` differs from `revision`, by its bytes.
fn differs(machine: &Sandbox, place: &Path, revision: &str) -> Option<String> {
    let index = machine.path("index");
    let git = |arguments: &[&str]| {
        let mut git = machine.command("git");
        git.env("GIT_INDEX_FILE", &index).env("GIT_DIR", machine.clone_of(NAME).join(".git"));
        git.env("GIT_WORK_TREE", place.join("")).args(arguments);
        Ran::of(&mut git).ok().stdout
    };
    let shown = fs::read_link(place).unwrap_or_default();
    if !shown.ends_with(revision) {
        return Some(format!("{} shows {}", place.display(), shown.display()));
    }
    git(&["read-tree", revision]);
    let torn = git(&["diff", "--name-only"]) + &git(&["ls-files", "--others"]);
    (!torn.is_empty()).then(|| format!("{} is torn: {torn}", place.display()))
}
