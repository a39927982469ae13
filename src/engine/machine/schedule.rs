//! Installs what starts this machine's ticks: a cron line or a systemd unit. Installing one removes the
//! other. Nothing is installed for an agent with its own `--root`, which a person starts. Does not know
//! what a tick does.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::config::{AgentDirs, ConfigLocations};
use crate::domain::crontab;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::error::one_line;
use crate::engine::machine::conflicting_cron::{self, PullJob};
use crate::system::schedule::cron_daemon::{self, CronDaemon};
use crate::system::schedule::{CrontabScan, FoundCrontab};
use crate::system::{host, packages, schedule};

/// The unit file, for an agent at `/usr/local/bin/agent`.
const UNIT: &str = include_str!("../../../bootstrap/systemd/pmpy.service");
/// The program's path in the unit file, which is replaced by the real one.
const PROGRAM: &str = "/usr/local/bin/agent";

/// The method that starts ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleMethod {
    /// A line in a crontab.
    Cron,
    /// A service that runs permanently.
    Systemd,
}

/// The crontab line that starts ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronLine {
    /// The crontab that it belongs to.
    pub place: &'static str,
    /// The line itself.
    pub line: String,
}

/// The line that starts a tick of these directories each minute. It has the program's full path: cron's
/// own `PATH` is short.
pub fn cron_line(context: &Context) -> CronLine {
    // Only system crontabs have a user field.
    let (place, user) = match has_cron_file(context) {
        true => (schedule::CRON_FILE, "root "),
        false => ("your crontab (crontab -e)", ""),
    };
    let agent = options(context).fold(crontab::word(&host::program()), |line, (option, path)| {
        format!("{line} {option} {}", crontab::word(path))
    });
    CronLine { place, line: format!("* * * * * {user}{agent} tick --trigger cron --splay 20s") }
}

/// Advice for a person whose ticks do not happen.
pub fn advice(context: &Context) -> String {
    let CronLine { place, line } = cron_line(context);
    match context.settings.world.own {
        true => format!("let cron call it, in {place}: {line}"),
        false => "agent schedule cron; if that is installed, check that cron runs".to_owned(),
    }
}

/// The options that name these directories where they are not the default ones.
fn options(context: &Context) -> impl Iterator<Item = (&'static str, &Path)> {
    let world = &context.settings.world;
    let root = world.own.then_some(("--root", world.root.as_path()));
    let config = world.config_named.then_some(("--config", world.config_file.as_path()));
    root.into_iter().chain(config)
}

/// The content of the file that `way` installs on this machine.
///
/// # Errors
/// When systemd cannot start a program at our path.
pub fn file(context: &Context, way: ScheduleMethod) -> Result<String> {
    match way {
        ScheduleMethod::Cron => Ok(crontab::with_tick("", &cron_line(context).line)),
        ScheduleMethod::Systemd => unit(context),
    }
}

fn unit(context: &Context) -> Result<String> {
    let mut command = in_a_unit(&host::program())?;
    for (option, path) in options(context) {
        command += &format!(" {option} {}", in_a_unit(path)?);
    }
    Ok(UNIT.replace(PROGRAM, &command))
}

/// The path quoted for a unit's command line (systemd.service(5)).
fn in_a_unit(path: &Path) -> Result<String> {
    let text = path.display().to_string();
    ensure!(
        !text.contains(['"', '\\', '\n']),
        "systemd cannot start a program at {}\nhint: install it as {PROGRAM}",
        text.escape_controls()
    );
    let text = text.replace('%', "%%").replace('$', "$$");
    Ok(if text.contains([' ', '\'']) { format!("\"{text}\"") } else { text })
}

/// The installed methods, each with its file or place; empty when there is none.
///
/// # Errors
/// When a crontab or unit cannot be read.
pub fn installed(context: &Context) -> Result<Vec<(ScheduleMethod, String)>> {
    let mut found = Vec::new();
    if context.settings.world.own {
        return Ok(found);
    }
    if crontab_text(context)?.lines().any(crontab::ticks) {
        found.push((ScheduleMethod::Cron, cron_place(context)));
    }
    if is_root(context)
        && (schedule::read(schedule::UNIT_FILE)?.is_some() || schedule::unit_is_enabled())
    {
        found.push((ScheduleMethod::Systemd, schedule::UNIT.to_owned()));
    }
    Ok(found)
}

/// Installs `way`, then removes the other method; returns one sentence for each change.
///
/// # Errors
/// When it cannot be installed; the earlier state remains then.
pub fn install(context: &Context, way: ScheduleMethod) -> Result<Vec<String>> {
    must_be_the_machines(context)?;
    let mut sentences = match way {
        ScheduleMethod::Cron => vec![install_cron(context)?],
        ScheduleMethod::Systemd => vec![install_systemd(context)?],
    };
    let other = match way {
        ScheduleMethod::Cron => ScheduleMethod::Systemd,
        ScheduleMethod::Systemd => ScheduleMethod::Cron,
    };
    sentences.extend(remove(context, other)?);
    Ok(sentences)
}

/// Removes every installed method; returns one sentence for each change.
///
/// # Errors
/// When one cannot be removed.
pub fn uninstall(context: &Context) -> Result<Vec<String>> {
    must_be_the_machines(context)?;
    let mut sentences = Vec::new();
    for way in [ScheduleMethod::Systemd, ScheduleMethod::Cron] {
        sentences.extend(remove(context, way)?);
    }
    Ok(sentences)
}

fn must_be_the_machines(context: &Context) -> Result<()> {
    if context.settings.world.own {
        bail!(
            "{} is a self-contained instance: nothing is installed on the machine for it",
            context.settings.world.root.display()
        );
    }
    Ok(())
}

fn install_cron(context: &Context) -> Result<String> {
    if CronDaemon::installed().is_none() {
        bail!(
            "there is no cron on this machine\n\
             hint: {}, then repeat this; or: agent schedule systemd",
            packages::install_command("cron")
        );
    }
    let CronLine { line, .. } = cron_line(context);
    let place = cron_place(context);
    let ignored = match has_cron_file(context) {
        true => cron_daemon::ignored_because(Path::new(schedule::CRON_FILE)),
        false => None,
    };
    if let Some(reason) = ignored {
        return repair_cron_file(context, &line, &reason);
    }
    let before = crontab_text(context)?;
    let after = crontab::with_tick(&before, &line);
    if before == after {
        return Ok(format!("already installed: {place}"));
    }
    put_crontab(context, &after)?;
    Ok(format!("installed {place}"))
}

/// Writes the cron file anew that cron ignored for `reason`. Other users may have written what it holds, and
/// cron would run that as root: none of it is kept there.
fn repair_cron_file(context: &Context, line: &str, reason: &str) -> Result<String> {
    let wanted = crontab::with_tick("", line);
    let place = schedule::CRON_FILE;
    // What cannot be read, such as the target of a link, stays where it is.
    let old = schedule::read(schedule::CRON_FILE).ok().flatten().filter(|old| *old != wanted);
    let copy = match old {
        Some(old) => {
            let dir = context.settings.world.state.join("replaced");
            let copy = schedule::keep_copy(&dir, place, old.as_bytes())?;
            format!(" (backup of its other lines: {})", copy.display())
        }
        None => String::new(),
    };
    schedule::put(place, &wanted)?;
    Ok(format!("repaired {place}, which cron ignored: {reason}{copy}"))
}

fn install_systemd(context: &Context) -> Result<String> {
    if !is_root(context) {
        bail!(
            "only root may install a unit\nhint: sudo agent schedule systemd, or for yourself: agent schedule cron"
        );
    }
    ensure!(
        schedule::has_systemd(),
        "there is no systemd on this machine\nhint: agent schedule cron"
    );
    let wanted = unit(context)?;
    let place = match schedule::packaged_unit()? {
        // A packaged unit is updated by its package, so our own copy goes.
        Some((path, text)) if text == wanted => {
            schedule::remove(schedule::UNIT_FILE)?;
            path
        }
        _ => {
            if schedule::read(schedule::UNIT_FILE)?.as_ref() != Some(&wanted) {
                schedule::put(schedule::UNIT_FILE, &wanted)?;
            }
            schedule::UNIT_FILE.to_owned()
        }
    };
    if !schedule::systemd_runs() {
        schedule::systemctl(&["enable", schedule::UNIT])?;
        return Ok(format!(
            "systemd does not run here now; it will start {} at the next boot: {place}",
            schedule::UNIT
        ));
    }
    schedule::systemctl(&["daemon-reload"])?;
    schedule::systemctl(&["enable", schedule::UNIT])?;
    schedule::systemctl(&["restart", schedule::UNIT])?;
    Ok(format!("installed and started {place}"))
}

fn remove(context: &Context, way: ScheduleMethod) -> Result<Option<String>> {
    match way {
        ScheduleMethod::Cron => remove_cron(context),
        ScheduleMethod::Systemd => remove_systemd(context),
    }
}

fn remove_cron(context: &Context) -> Result<Option<String>> {
    let before = crontab_text(context)?;
    let after = crontab::without_tick(&before);
    if before == after {
        return Ok(None);
    }
    put_crontab(context, if after.trim().is_empty() { "" } else { &after })?;
    Ok(Some(format!("removed {}", cron_place(context))))
}

fn remove_systemd(context: &Context) -> Result<Option<String>> {
    let there = schedule::unit_is_enabled() || schedule::read(schedule::UNIT_FILE)?.is_some();
    if !is_root(context) || !there {
        return Ok(None);
    }
    schedule::systemctl(&["disable", schedule::UNIT])?;
    if schedule::systemd_runs() {
        schedule::systemctl(&["stop", schedule::UNIT])?;
    }
    schedule::remove(schedule::UNIT_FILE)?;
    if schedule::systemd_runs() {
        schedule::systemctl(&["daemon-reload"])?;
    }
    Ok(Some(format!("stopped and removed {}", schedule::UNIT)))
}

/// Whether systemd is the running init of this machine.
pub fn systemd_runs() -> bool {
    schedule::systemd_runs()
}

/// Whether cron is installed for this setup unless a person says otherwise: user root, with root's default
/// directory.
pub fn is_usual(context: &Context) -> bool {
    let usual = AgentDirs::of(&ConfigLocations { is_root: true, ..ConfigLocations::default() });
    is_root(context) && usual.is_ok_and(|usual| usual.root == context.settings.world.root)
}

fn is_root(context: &Context) -> bool {
    context.node.user.uid == 0
}

/// Whether our line belongs into [`schedule::CRON_FILE`]: root's does, where cron reads it with a user in each
/// line.
fn has_cron_file(context: &Context) -> bool {
    is_root(context) && CronDaemon::installed().is_none_or(CronDaemon::reads_cron_d)
}

fn cron_place(context: &Context) -> String {
    match has_cron_file(context) {
        true => schedule::CRON_FILE.to_owned(),
        false => format!("the crontab of {}", context.node.user.name),
    }
}

/// The text of the crontab that our line belongs to; empty when there is none.
fn crontab_text(context: &Context) -> Result<String> {
    match has_cron_file(context) {
        true => Ok(schedule::read(schedule::CRON_FILE)?.unwrap_or_default()),
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
    if CronDaemon::installed().is_some() { schedule::crontab() } else { Ok(Vec::new()) }
}

fn put_crontab(context: &Context, text: &str) -> Result<()> {
    match (has_cron_file(context), text.is_empty()) {
        (true, true) => schedule::remove(schedule::CRON_FILE),
        (true, false) => schedule::put(schedule::CRON_FILE, text),
        (false, _) => schedule::put_crontab(None, text.as_bytes()),
    }
}

/// Cron jobs that pull the agent's repositories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullLoops {
    /// Their crontab lines.
    pub pull_jobs: Vec<PullJob>,
    /// The crontabs that could not be read, one sentence each.
    pub unread: Vec<String>,
}

/// The cron jobs that pull the agent's repositories: root searches every crontab, another user its own. A
/// crontab that cannot be read hides no other.
pub fn loops(context: &Context) -> PullLoops {
    let (crontabs, unread) = crontabs_in_reach(context);
    let of = |crontab| conflicting_cron::of(context, Path::new("/"), crontab);
    PullLoops { pull_jobs: crontabs.iter().flat_map(of).collect(), unread }
}

/// The crontabs that this user may change, and a sentence for each that cannot be read.
fn crontabs_in_reach(context: &Context) -> (Vec<FoundCrontab>, Vec<String>) {
    if is_root(context) {
        let CrontabScan { read, closed } = schedule::crontabs(Path::new("/"));
        let sentences = |path: PathBuf| format!("{} cannot be read", path.display());
        return (read, closed.into_iter().map(sentences).collect());
    }
    let user = Some(context.node.user.name.clone());
    match own_crontab() {
        Ok(content) => {
            (vec![FoundCrontab { path: cron_place(context).into(), user, content }], Vec::new())
        }
        Err(error) => (Vec::new(), vec![one_line(&error)]),
    }
}

/// The command that takes such cron jobs over and keeps the installed method.
pub fn take_over_command(context: &Context) -> &'static str {
    match installed(context).unwrap_or_default().as_slice() {
        [(ScheduleMethod::Systemd, _), ..] => "agent schedule systemd --replace",
        _ => "agent schedule cron --replace",
    }
}

/// The result of a take-over, one sentence for each line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakeoverReport {
    /// The changes, and the lines that were left alone.
    pub sentences: Vec<String>,
    /// The changes that failed.
    pub failed: Vec<String>,
}

/// Turns the lines that pull the agent's repositories into comments, and keeps a copy of each crontab as
/// it was. A crontab that cannot be written does not stop the others.
pub fn take_over(context: &Context) -> TakeoverReport {
    let (crontabs, unread) = crontabs_in_reach(context);
    let mut taken = TakeoverReport { sentences: Vec::new(), failed: unread };
    for crontab in crontabs {
        let (ours, foreign): (Vec<PullJob>, Vec<PullJob>) =
            conflicting_cron::of(context, Path::new("/"), &crontab)
                .into_iter()
                .partition(|it| it.about_us);
        let root = context.settings.world.root.display();
        let left = |pull_job| format!("not changed, because it does not name {root}: {pull_job}");
        taken.sentences.extend(foreign.iter().map(left));
        if ours.is_empty() {
            continue;
        }
        match put_out(context, &crontab, &ours) {
            Ok(copy) => {
                let copy = copy.display();
                let done = |it| format!("commented out: {it} (backup: {copy})");
                taken.sentences.extend(ours.iter().map(done));
            }
            Err(error) => {
                let path = crontab.path.display();
                taken.failed.push(format!("{path} is unchanged: {}", one_line(&error)));
            }
        }
    }
    taken
}

/// Turns the lines `ours` of `crontab` into comments; returns the path of the crontab's copy.
fn put_out(context: &Context, crontab: &FoundCrontab, ours: &[PullJob]) -> Result<PathBuf> {
    let note = format!("{} agent schedule took over from:", host::now().format("%Y-%m-%d"));
    let numbers: Vec<usize> = ours.iter().map(|pull_job| pull_job.number).collect();
    let after = crontab::put_out(&crontab.content, &numbers, &note);
    let from = crontab.path.display().to_string();
    let dir = context.settings.world.state.join("replaced");
    let copy = schedule::keep_copy(&dir, &from, &crontab.content)?;
    match &crontab.user {
        None => schedule::rewrite(&crontab.path, &after)?,
        Some(user) => {
            let other = is_root(context).then_some(user.as_str());
            schedule::put_crontab(other, &after)?;
        }
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use crate::engine::machine::schedule::*;

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
