//! What makes the ticks of this machine happen: a line for cron, or a unit for systemd. One of them at
//! a time: whichever is installed takes the place of the other. Nothing is installed for a world of
//! its own, which a person looks after.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::Here;
use super::observe::one_line;
use super::rivals::{self, Rival};
use crate::config::{Sources, World};
use crate::domain::crontab;
use crate::system::rivals::{Crontab, Crontabs};
use crate::system::{node, schedule};

/// The unit as it is installed where the agent is `/usr/local/bin/agent`.
const UNIT: &str = include_str!("../../bootstrap/systemd/pmpy.service");
/// What in it stands for the program.
const PROGRAM: &str = "/usr/local/bin/agent";

/// What makes ticks happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A line in a crontab.
    Cron,
    /// A service that stays up.
    Systemd,
}

/// The line that makes ticks happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronLine {
    /// Where it belongs.
    pub place: &'static str,
    /// The line itself.
    pub line: String,
}

/// The line that calls the tick of this world each minute. It names the program by its path: cron's
/// own `PATH` is short.
pub fn cron_line(here: &Here) -> CronLine {
    // Only the crontabs of the system name a user.
    let (place, user) = match here.node.user.uid {
        0 => (schedule::CRON_FILE, "root "),
        _ => ("your crontab (crontab -e)", ""),
    };
    let agent = options(here).fold(crontab::word(&node::program()), |line, (option, path)| {
        format!("{line} {option} {}", crontab::word(path))
    });
    CronLine { place, line: format!("* * * * * {user}{agent} tick --trigger cron --splay 20s") }
}

/// What a person does so that ticks happen.
pub fn advice(here: &Here) -> String {
    let CronLine { place, line } = cron_line(here);
    match here.settings.world.own {
        true => format!("let cron call it, in {place}: {line}"),
        false => "agent schedule cron; is it installed already, see whether cron runs".to_owned(),
    }
}

/// The options that name this world where it is not the usual one.
fn options(here: &Here) -> impl Iterator<Item = (&'static str, &Path)> {
    let world = &here.settings.world;
    let root = world.own.then_some(("--root", world.root.as_path()));
    let config = world.config_named.then_some(("--config", world.config_file.as_path()));
    root.into_iter().chain(config)
}

/// The file that `way` installs, as it would be here.
///
/// # Errors
/// When systemd cannot start a program of that path.
pub fn file(here: &Here, way: Way) -> Result<String> {
    match way {
        Way::Cron => Ok(crontab::with_tick("", &cron_line(here).line)),
        Way::Systemd => unit(here),
    }
}

fn unit(here: &Here) -> Result<String> {
    let mut command = in_a_unit(&node::program())?;
    for (option, path) in options(here) {
        command += &format!(" {option} {}", in_a_unit(path)?);
    }
    Ok(UNIT.replace(PROGRAM, &command))
}

/// A path as a unit's command line takes it (systemd.service(5)).
fn in_a_unit(path: &Path) -> Result<String> {
    let text = path.display().to_string();
    ensure!(
        !text.contains(['"', '\\', '\n']),
        "systemd cannot start a program at {}\nhint: install it as {PROGRAM}",
        text.escape_debug()
    );
    let text = text.replace('%', "%%").replace('$', "$$");
    Ok(if text.contains([' ', '\'']) { format!("\"{text}\"") } else { text })
}

/// Where what is installed lies; empty when nothing is.
///
/// # Errors
/// When that cannot be read.
pub fn installed(here: &Here) -> Result<Vec<(Way, String)>> {
    let mut found = Vec::new();
    if here.settings.world.own {
        return Ok(found);
    }
    if crontab_text(here)?.lines().any(crontab::ticks) {
        found.push((Way::Cron, cron_place(here)));
    }
    if is_root(here) && (schedule::unit()?.is_some() || schedule::unit_is_enabled()) {
        found.push((Way::Systemd, schedule::UNIT.to_owned()));
    }
    Ok(found)
}

/// Installs `way`, then removes the other one; tells what was done, a sentence each.
///
/// # Errors
/// When it cannot be installed; what was there before is there still.
pub fn install(here: &Here, way: Way) -> Result<Vec<String>> {
    must_be_the_machines(here)?;
    let mut told = match way {
        Way::Cron => vec![install_cron(here)?],
        Way::Systemd => vec![install_systemd(here)?],
    };
    let other = match way {
        Way::Cron => Way::Systemd,
        Way::Systemd => Way::Cron,
    };
    told.extend(remove(here, other)?);
    Ok(told)
}

/// Removes whatever is installed; tells what was done.
///
/// # Errors
/// When something cannot be removed.
pub fn uninstall(here: &Here) -> Result<Vec<String>> {
    must_be_the_machines(here)?;
    let mut told = Vec::new();
    for way in [Way::Systemd, Way::Cron] {
        told.extend(remove(here, way)?);
    }
    Ok(told)
}

fn must_be_the_machines(here: &Here) -> Result<()> {
    if here.settings.world.own {
        bail!(
            "{} is a world of its own: nothing is installed on the machine for it",
            here.settings.world.root.display()
        );
    }
    Ok(())
}

fn install_cron(here: &Here) -> Result<String> {
    if !schedule::has_cron() {
        bail!(
            "there is no cron on this machine\n\
             hint: apt-get install cron, and again; or: agent schedule systemd"
        );
    }
    let CronLine { line, .. } = cron_line(here);
    let before = crontab_text(here)?;
    let after = crontab::with_tick(&before, &line);
    let place = cron_place(here);
    if before == after {
        return Ok(format!("cron ticks already: {place}"));
    }
    put_crontab(here, &after)?;
    Ok(format!("cron ticks each minute: {place}"))
}

fn install_systemd(here: &Here) -> Result<String> {
    if !is_root(here) {
        bail!(
            "only root may install a unit\nhint: sudo agent schedule systemd, or for yourself: agent schedule cron"
        );
    }
    ensure!(
        schedule::has_systemd(),
        "there is no systemd on this machine\nhint: agent schedule cron"
    );
    let wanted = unit(here)?;
    let place = match schedule::packaged_unit()? {
        // What the package brought is the package's to renew.
        Some((path, text)) if text == wanted => {
            schedule::remove_unit()?;
            path
        }
        _ => {
            if schedule::unit()?.as_ref() != Some(&wanted) {
                schedule::put_unit(&wanted)?;
            }
            schedule::unit_path()
        }
    };
    let shown = place.display();
    if !schedule::systemd_runs() {
        schedule::systemctl(&["enable", schedule::UNIT])?;
        return Ok(format!(
            "systemd does not run here now; it will start {} at the next boot: {shown}",
            schedule::UNIT
        ));
    }
    schedule::systemctl(&["daemon-reload"])?;
    schedule::systemctl(&["enable", schedule::UNIT])?;
    schedule::systemctl(&["restart", schedule::UNIT])?;
    Ok(format!("systemd keeps the agent up: {shown}"))
}

fn remove(here: &Here, way: Way) -> Result<Option<String>> {
    match way {
        Way::Cron => remove_cron(here),
        Way::Systemd => remove_systemd(here),
    }
}

fn remove_cron(here: &Here) -> Result<Option<String>> {
    let before = crontab_text(here)?;
    let after = crontab::without_tick(&before);
    if before == after {
        return Ok(None);
    }
    put_crontab(here, if after.trim().is_empty() { "" } else { &after })?;
    Ok(Some(format!("cron ticks no longer: {}", cron_place(here))))
}

fn remove_systemd(here: &Here) -> Result<Option<String>> {
    let there = schedule::unit_is_enabled() || schedule::unit()?.is_some();
    if !is_root(here) || !there {
        return Ok(None);
    }
    schedule::systemctl(&["disable", schedule::UNIT])?;
    if schedule::systemd_runs() {
        schedule::systemctl(&["stop", schedule::UNIT])?;
    }
    schedule::remove_unit()?;
    if schedule::systemd_runs() {
        schedule::systemctl(&["daemon-reload"])?;
    }
    Ok(Some(format!("systemd no longer keeps the agent up: {}", schedule::UNIT)))
}

/// Whether this is what cron is installed for unless somebody says otherwise: root, with the root folder
/// that root has by default.
pub fn is_usual(here: &Here) -> bool {
    let usual = World::of(&Sources { is_root: true, ..Sources::default() });
    is_root(here) && usual.is_ok_and(|usual| usual.root == here.settings.world.root)
}

fn is_root(here: &Here) -> bool {
    here.node.user.uid == 0
}

fn cron_place(here: &Here) -> String {
    match is_root(here) {
        true => schedule::CRON_FILE.to_owned(),
        false => format!("the crontab of {}", here.node.user.name),
    }
}

/// The crontab that our line belongs into; empty when there is none.
fn crontab_text(here: &Here) -> Result<String> {
    match is_root(here) {
        true => Ok(schedule::cron_file()?.unwrap_or_default()),
        false => {
            let content = own_crontab()?;
            String::from_utf8(content).ok().context(
                "your crontab is not valid UTF-8, and is left as it is\n\
                 hint: convert it, such as with: crontab -l | iconv -f latin1 | crontab -",
            )
        }
    }
}

fn own_crontab() -> Result<Vec<u8>> {
    if schedule::has_cron() { schedule::crontab() } else { Ok(Vec::new()) }
}

fn put_crontab(here: &Here, text: &str) -> Result<()> {
    match (is_root(here), text.is_empty()) {
        (true, true) => schedule::remove_cron_file(),
        (true, false) => schedule::put_cron_file(text),
        (false, _) => schedule::put_crontab(None, text.as_bytes()),
    }
}

/// Loops that pull what the agent pulls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loops {
    /// Their lines.
    pub rivals: Vec<Rival>,
    /// What could not be looked into, a sentence each.
    pub unread: Vec<String>,
}

/// The loops that pull what the agent pulls: in every crontab for root, in their own for others. A
/// crontab that cannot be read hides no other.
pub fn loops(here: &Here) -> Loops {
    let (crontabs, unread) = crontabs_in_reach(here);
    let of = |crontab| rivals::of(here, Path::new("/"), crontab);
    Loops { rivals: crontabs.iter().flat_map(of).collect(), unread }
}

/// The crontabs that are ours to judge, and a sentence for each that cannot be read.
fn crontabs_in_reach(here: &Here) -> (Vec<Crontab>, Vec<String>) {
    if is_root(here) {
        let Crontabs { read, closed } = rivals::crontabs(Path::new("/"));
        let told = |path: PathBuf| format!("{} cannot be read", path.display());
        return (read, closed.into_iter().map(told).collect());
    }
    let user = Some(here.node.user.name.clone());
    match own_crontab() {
        Ok(content) => (vec![Crontab { path: cron_place(here).into(), user, content }], Vec::new()),
        Err(error) => (Vec::new(), vec![one_line(&error)]),
    }
}

/// The command that takes such loops over, beside what makes ticks happen now.
pub fn take_over_command(here: &Here) -> &'static str {
    match installed(here).unwrap_or_default().as_slice() {
        [(Way::Systemd, _), ..] => "agent schedule systemd --replace",
        _ => "agent schedule cron --replace",
    }
}

/// What became of the loops that were to be taken over, a sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// What was done, and what was left alone.
    pub told: Vec<String>,
    /// What was to be done and could not.
    pub failed: Vec<String>,
}

/// Puts the loops that pull what the agent pulls out of service: their lines become comments, and a
/// copy of each crontab as it was is kept. One that cannot be written stops no other.
pub fn take_over(here: &Here) -> TakenOver {
    let (crontabs, unread) = crontabs_in_reach(here);
    let mut taken = TakenOver { told: Vec::new(), failed: unread };
    for crontab in crontabs {
        let (ours, foreign): (Vec<Rival>, Vec<Rival>) =
            rivals::of(here, Path::new("/"), &crontab).into_iter().partition(|it| it.about_us);
        let root = here.settings.world.root.display();
        let left = |rival| format!("left alone, as it does not name {root}: {rival}");
        taken.told.extend(foreign.iter().map(left));
        if ours.is_empty() {
            continue;
        }
        match put_out(here, &crontab, &ours) {
            Ok(copy) => {
                let copy = copy.display();
                let done = |it| format!("made a comment: {it} (as it was: {copy})");
                taken.told.extend(ours.iter().map(done));
            }
            Err(error) => {
                let path = crontab.path.display();
                taken.failed.push(format!("{path} is as it was: {}", one_line(&error)));
            }
        }
    }
    taken
}

/// Makes comments of the lines `ours` of `crontab`; where the copy of it lies.
fn put_out(here: &Here, crontab: &Crontab, ours: &[Rival]) -> Result<PathBuf> {
    let note = format!("{} agent schedule took over from:", node::now().format("%Y-%m-%d"));
    let numbers: Vec<usize> = ours.iter().map(|rival| rival.number).collect();
    let after = crontab::put_out(&crontab.content, &numbers, &note);
    let from = crontab.path.display().to_string();
    let folder = here.settings.world.state.join("replaced");
    let copy = schedule::keep_copy(&folder, &from, &crontab.content)?;
    match &crontab.user {
        None => schedule::rewrite(&crontab.path, &after)?,
        Some(user) => {
            let other = is_root(here).then_some(user.as_str());
            schedule::put_crontab(other, &after)?;
        }
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_for_a_unit() {
        for (path, quoted) in [
            ("/usr/bin/agent", "/usr/bin/agent"),
            ("/srv/my repos", "\"/srv/my repos\""),
            ("/srv/50%$", "/srv/50%%$$"),
        ] {
            assert_eq!(in_a_unit(Path::new(path)).unwrap(), quoted);
        }
        assert!(in_a_unit(Path::new("/srv/a\"b")).is_err());
    }
}
