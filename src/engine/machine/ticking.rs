//! Finds what makes this machine tick, and whether it really does: crontab lines, the service, an agent that
//! stays up. Installs and changes nothing.

use std::path::Path;

use crate::domain::crontab;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::error::one_line;
use crate::engine::machine::schedule;
use crate::system::packages;
use crate::system::schedule::cron_daemon::CronDaemon;
use crate::system::schedule::{self as door, cron_daemon};

/// Something that is there to make this machine tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TickSource {
    /// The file or process.
    pub place: String,
    /// Why it causes no ticks, and the remedy; `None`: it does.
    pub fault: Option<SourceFault>,
}

/// The reason why a source causes no ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFault {
    /// The sentence.
    pub text: String,
    /// The command that corrects it.
    pub remedy: String,
}

/// All sources of ticks of this user's agent, with the crontabs below `base`; `None` for an agent with its own
/// `--root`, which a person starts.
pub fn sources(context: &Context, base: &Path) -> Option<Vec<TickSource>> {
    if context.settings.world.own {
        return None;
    }
    let mut found = cron_lines(context, base);
    found.extend(service(context));
    if found.iter().all(|source| source.fault.is_some()) && cron_daemon::listener_runs() {
        found.push(TickSource { place: "agent listen".to_owned(), fault: None });
    }
    Some(found)
}

/// The sentence with a hint that says why none of `sources` makes this machine tick; `None`: one does.
pub fn trouble(sources: &[TickSource]) -> Option<String> {
    if sources.iter().any(|source| source.fault.is_none()) {
        return None;
    }
    let faults: Vec<&SourceFault> = sources.iter().filter_map(|it| it.fault.as_ref()).collect();
    if faults.is_empty() {
        return Some("nothing here makes the agent tick\nhint: agent schedule cron".to_owned());
    }
    let texts: Vec<&str> = faults.iter().map(|fault| fault.text.as_str()).collect();
    let mut remedies: Vec<&str> = faults.iter().map(|fault| fault.remedy.as_str()).collect();
    remedies.dedup();
    Some(format!(
        "nothing makes the agent tick: {}\nhint: {}",
        texts.join("; "),
        remedies.join("; ")
    ))
}

fn cron_lines(context: &Context, base: &Path) -> Vec<TickSource> {
    let us = context.node.user.name.as_str();
    let mut places = Vec::new();
    for crontab in door::crontabs(base).read {
        let text = String::from_utf8_lossy(&crontab.content);
        let is_ours = |line: &str| match crontab.user.as_deref().or_else(|| crontab::user_of(line))
        {
            Some(user) => crontab::ticks(line) && user == us,
            // dcron's lines have no user.
            None => false,
        };
        if text.lines().any(is_ours) {
            places.push((crontab.path, crontab.user.is_none()));
        }
    }
    // A link or another oddity in the place of our file is no crontab, and yet a person takes it for one.
    let file = Path::new(door::CRON_FILE);
    let is_listed = places.iter().any(|(path, _)| path == file);
    if context.node.user.uid == 0
        && !is_listed
        && cron_daemon::ignored_because(&door::below(base, file)).is_some()
    {
        places.push((file.to_owned(), true));
    }
    let own = schedule::installed(context).unwrap_or_default();
    let own = own.into_iter().filter(|(way, _)| *way == schedule::ScheduleMethod::Cron);
    let mut found: Vec<TickSource> = places
        .into_iter()
        .map(|(path, is_systems)| {
            let fault = cron_fault(base, &path, is_systems);
            TickSource { place: path.display().to_string().escape_controls(), fault }
        })
        .collect();
    if found.is_empty() {
        // The own crontab is not readable as a file.
        found.extend(own.map(|(_, place)| {
            let fault = cron_fault(base, Path::new(&place), place.starts_with('/'));
            TickSource { place, fault }
        }));
    }
    found
}

/// Why cron does not run the lines of the crontab at `path`.
fn cron_fault(base: &Path, path: &Path, is_systems: bool) -> Option<SourceFault> {
    let shown = path.display().to_string().escape_controls();
    let fault = |text: String, remedy: &str| Some(SourceFault { text, remedy: remedy.to_owned() });
    let Some(daemon) = CronDaemon::installed() else {
        let install = format!("{}, or agent schedule systemd", packages::install_command("cron"));
        return fault(format!("there is {shown}, and no cron is installed"), &install);
    };
    if is_systems && !daemon.reads_cron_d() {
        let text = format!("the cron of this machine does not read {shown}");
        return fault(text, "agent schedule cron");
    }
    if path.starts_with("/etc/cron.d")
        && let Some(reason) = cron_daemon::ignored_because(&door::below(base, path))
    {
        return fault(format!("cron ignores {shown}: {reason}"), "agent schedule cron");
    }
    match daemon.runs() {
        true => None,
        false => fault(format!("there is {shown}, and cron does not run"), daemon.start_command()),
    }
}

fn service(context: &Context) -> Option<TickSource> {
    if context.node.user.uid != 0 {
        return None;
    }
    let unit = door::UNIT;
    let is_installed =
        door::unit_is_enabled() || matches!(door::read(door::UNIT_FILE), Ok(Some(_)));
    let runs = door::systemd_runs();
    let state = if runs { door::unit_state() } else { Ok(String::new()) };
    let is_active = state.as_ref().is_ok_and(|state| state == "active" || state == "reloading");
    if !is_installed && !is_active {
        return None;
    }
    let fault = |text: String, remedy: &str| Some(SourceFault { text, remedy: remedy.to_owned() });
    let fault = match state {
        _ if is_active => None,
        _ if !runs => fault(
            format!("there is {unit}, and systemd does not run here"),
            "start systemd, or agent schedule cron",
        ),
        Ok(state) => fault(
            format!("{unit} is {}", state.escape_controls()),
            "systemctl restart pmpy; to see why it ended: journalctl -u pmpy",
        ),
        Err(error) => fault(one_line(&error), "systemctl status pmpy"),
    };
    Some(TickSource { place: unit.to_owned(), fault })
}
